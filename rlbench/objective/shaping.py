"""Length shaping under rank credit: what EOS and overflow are worth, and whose unit EOS is.

A rule gives the advantages of the special units; `SHAPINGS` names them. Sequence credit has none: the whole completion
carries the list's advantage. Published and paper rule differ in more than the numbers: see docs/published-rules.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from rlbench.config import LengthShapingConfig
from rlbench.lists import TokenUnits, UnitLayout


@dataclass(frozen=True)
class Shaping:
    """A rule.

    Attributes:
        special: (n_units (B,), units, config) -> (B, 4) advantages of overflow, other, EOS and padding.
        eos_in_last_rank: whether the EOS of a list of exactly N entries is part of rank N, and has its advantage.
    """

    special: Callable[[torch.Tensor, UnitLayout, LengthShapingConfig], torch.Tensor]
    eos_in_last_rank: bool

    def absorbed(self, tokens: TokenUnits, units: UnitLayout) -> torch.Tensor:
        """(B, T) bool, the EOS tokens that are part of rank N."""
        complete = (tokens.n_units == units.list_length).unsqueeze(1)
        return tokens.is_eos & complete & self.eos_in_last_rank


def none(n_units: torch.Tensor, units: UnitLayout, config: LengthShapingConfig) -> torch.Tensor:
    """Special units have no advantage."""
    return torch.zeros(n_units.size(0), 4, device=n_units.device)


def paper(n_units: torch.Tensor, units: UnitLayout, config: LengthShapingConfig) -> torch.Tensor:
    """An early EOS gets `early_stop`, entries past rank N get `overflow` (Rank-GRPO, section 2.3.3, appendix C)."""
    special = none(n_units, units, config)
    special[:, 0] = config.overflow
    special[:, 2] = config.early_stop * (n_units < units.list_length)
    return special


def published(n_units: torch.Tensor, units: UnitLayout, config: LengthShapingConfig) -> torch.Tensor:
    """As `paper`, and EOS has an advantage of its own: `exact` after N units, `overflow` after more."""
    special = paper(n_units, units, config)
    special[:, 2] += config.exact * (n_units == units.list_length) + config.overflow * (n_units > units.list_length)
    return special


SHAPINGS = {"none": Shaping(none, False), "paper": Shaping(paper, True), "published": Shaping(published, False)}
