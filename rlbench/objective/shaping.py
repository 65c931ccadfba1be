"""Length shaping under rank credit: what EOS and overflow are worth (Rank-GRPO, section 2.3.3 and appendix C)."""

import torch

from rlbench.lists import UnitLayout


def special_advantages(
    n_entries: torch.Tensor, units: UnitLayout, *, early_stop: float, overflow: float
) -> torch.Tensor:
    """Advantages of the special units, in the order of `UnitLayout`: overflow, other, EOS, padding.

    Args:
        n_entries: (B,) entries of each list, overflow included.
        units: the layout.
        early_stop: for the EOS of a list with fewer than N entries (paper: -0.1).
        overflow: for entries past rank N (paper: -0.1).

    Returns:
        (B, 4) float32.
    """
    special = torch.zeros(n_entries.size(0), 4, device=n_entries.device)
    special[:, 0] = overflow
    special[:, 2] = early_stop * (n_entries < units.list_length)
    return special


def eos_into_last_rank(unit_ids: torch.Tensor, n_entries: torch.Tensor, units: UnitLayout) -> torch.Tensor:
    """Make EOS part of rank N where the list has exactly N entries (paper, section 2.1: eos is absorbed)."""
    complete = (n_entries == units.list_length).unsqueeze(1)
    return unit_ids.masked_fill(complete & (unit_ids == units.eos), units.list_length - 1)
