"""Effective rank of hidden states along a list, and how it moves (VERL, arXiv 2509.23808).

The published code measures every 40 tokens; lists are short, so here it is measured after each entry.
"""

import torch

from rlbench.lists import UnitLayout

SMALLEST = 1e-12
"""Shares of the spectrum below this count as none; so does a spectrum that is all zero."""


def effective_ranks(hidden: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """(B, K) exp(entropy of the normalised singular values) of the centred states of each prefix; 1 for one token.

    Args:
        hidden: (B, T, H).
        ends: (B, K) how many tokens each prefix has, at least 0; 0 gives 0.
    """
    states = hidden.double()
    gram = states @ states.transpose(1, 2)  # (B, T, T): with its eigenvalues come the squared singular values
    inside = torch.arange(hidden.size(1), device=hidden.device) < ends.unsqueeze(2)  # (B, K, T)
    found = torch.zeros(ends.shape, dtype=torch.double, device=hidden.device)
    for k in range(ends.size(1)):  # one prefix a list at a time: (B, T, T) is all that is kept
        kept = inside[:, k].double()
        n = kept.sum(dim=1).clamp(min=1)[:, None, None]
        masked = gram * kept[:, :, None] * kept[:, None, :]
        of_row = masked.sum(dim=2, keepdim=True) / n
        centred = masked - of_row - of_row.transpose(1, 2) + masked.sum(dim=(1, 2), keepdim=True) / n.square()
        centred = centred * kept[:, :, None] * kept[:, None, :]
        singular = torch.linalg.eigvalsh(centred).clamp(min=0).sqrt()
        shares = singular / singular.sum(dim=1, keepdim=True).clamp(min=SMALLEST)
        entropy = -(shares * shares.clamp(min=SMALLEST).log()).sum(dim=1)
        found[:, k] = entropy.exp() * (ends[:, k] > 0)
    return found


def rank_features(hidden: torch.Tensor, unit_ids: torch.Tensor, units: UnitLayout) -> dict[str, torch.Tensor]:
    """Three numbers a list (B,), from the effective ranks m_1 .. m_J after each of its J entries.

    effective_rank: m_J. velocity: mean over j > 1 of delta_j = m_j - mean(m_1 .. m_{j-1}). acceleration: mean over
    j > 2 of delta_j - delta_{j-1}. 0 where a list is too short for them.

    Args:
        hidden: (B, T, H) last hidden states of the completion's tokens.
        unit_ids: (B, T).
        units: the layout.
    """
    ranks = torch.arange(units.list_length, device=unit_ids.device)
    positions = torch.arange(1, unit_ids.size(1) + 1, device=unit_ids.device)
    of_rank = unit_ids.unsqueeze(1) == ranks[:, None]  # (B, N, T)
    ends = (of_rank * positions).amax(dim=2)  # 0 for a rank that the list has not
    measured = effective_ranks(hidden, ends)
    entries = (ends > 0).sum(dim=1)
    order = torch.arange(1, units.list_length + 1, device=unit_ids.device)
    earlier = (measured.cumsum(dim=1) - measured) / (order - 1).clamp(min=1)
    delta = measured - earlier
    velocity = _mean_of(delta, (order > 1) & (order <= entries[:, None]))
    steps = torch.nn.functional.pad(delta[:, 1:] - delta[:, :-1], (1, 0))
    acceleration = _mean_of(steps, (order > 2) & (order <= entries[:, None]))
    last = measured.gather(1, (entries - 1).clamp(min=0)[:, None]).squeeze(1) * (entries > 0)
    return {"effective_rank": last, "rank_velocity": velocity, "rank_acceleration": acceleration}


def _mean_of(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    return (values * where).sum(dim=1) / where.sum(dim=1).clamp(min=1)
