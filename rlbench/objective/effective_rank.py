"""Effective rank of hidden states along a list, with its velocity and acceleration (VERL, arXiv 2509.23808).

The published code measures every 40 tokens. Lists are short, so here it is measured after each entry.
"""

import torch

from rlbench.lists.reader import UnitLayout

SMALLEST = 1e-12
"""Shares of the spectrum below this count as zero, and so does a spectrum of zeros."""


def effective_ranks(hidden: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """(B, K) exp(entropy of the normalised singular values) of the centred states of each prefix; 1 for one token.

    Args:
        hidden: (B, T, H).
        ends: (B, K) number of tokens in each prefix, possibly 0. The result for 0 is 0.
    """
    states = hidden.double()
    # The origin does not affect the result. A near origin loses less precision when a prefix's mean is subtracted.
    states = states - states.mean(dim=1, keepdim=True)
    gram = states @ states.transpose(1, 2)  # (B, T, T); its eigenvalues are the squared singular values
    positions = torch.arange(hidden.size(1), device=hidden.device)
    found = torch.zeros(ends.shape, dtype=torch.double, device=hidden.device)
    for k in range(ends.size(1)):  # one prefix of each list at a time, to keep only (B, T, T) in memory
        length = int(ends[:, k].max())
        if not length:
            continue
        kept = (positions[:length] < ends[:, k, None]).double()
        inside = kept[:, :, None] * kept[:, None, :]
        n = kept.sum(dim=1).clamp(min=1)[:, None, None]
        masked = gram[:, :length, :length] * inside
        of_row = masked.sum(dim=2, keepdim=True) / n
        centred = masked - of_row - of_row.transpose(1, 2) + masked.sum(dim=(1, 2), keepdim=True) / n.square()
        squares = torch.linalg.eigvalsh(centred * inside)
        # A zero eigenvalue comes out as rounding noise of the largest. Its root would be too large to ignore.
        noise = masked.diagonal(dim1=1, dim2=2).sum(dim=1, keepdim=True) * torch.finfo(torch.double).eps * length
        singular = squares.masked_fill(squares <= noise, 0.0).sqrt()
        found[:, k] = exp_entropy(singular) * (ends[:, k] > 0)
    return found


def exp_entropy(values: torch.Tensor) -> torch.Tensor:
    """exp of the entropy of values of at least 0, normalised to sum to 1 over the last dimension."""
    shares = values / values.sum(dim=-1, keepdim=True).clamp(min=SMALLEST)
    return (-(shares * shares.clamp(min=SMALLEST).log()).sum(dim=-1)).exp()


def rank_features(hidden: torch.Tensor, unit_ids: torch.Tensor, units: UnitLayout) -> dict[str, torch.Tensor]:
    """Three numbers per list, each (B,), from the effective ranks m_1 .. m_J after each of its J entries with tokens.

    effective_rank: m_J. rank_velocity: mean over j > 1 of delta_j = m_j - mean(m_1 .. m_{j-1}). rank_acceleration: mean
    over j > 2 of delta_j - delta_{j-1}. 0 if a list is too short for them.

    Args:
        hidden: (B, T, H) last hidden states of the completion's tokens.
        unit_ids: (B, T).
        units: the layout.
    """
    ranks = torch.arange(units.list_length, device=unit_ids.device)
    positions = torch.arange(1, unit_ids.size(1) + 1, device=unit_ids.device)
    of_rank = unit_ids.unsqueeze(1) == ranks[:, None]  # (B, N, T)
    ends = (of_rank * positions).amax(dim=2)  # 0 for a rank without tokens
    # Later ranks end later. Ranks without tokens may lie between others; sorting moves them to the end.
    entries, beyond = (ends > 0).sum(dim=1), unit_ids.size(1) + 1
    ends = ends.masked_fill(ends == 0, beyond).sort(dim=1).values
    measured = effective_ranks(hidden, ends.masked_fill(ends == beyond, 0))
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
