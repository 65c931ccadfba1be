"""Length shaping under rank credit: the advantages of EOS and overflow, and the unit that EOS belongs to.

A rule gives the advantages of the special units. `SHAPINGS` lists the rules. Sequence credit needs none, because the
whole completion carries the list's advantage. The published rule and the paper's differ in more than numbers: see
docs/published-rules.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from rlbench.config.schema import LengthShapingConfig
from rlbench.lists.reader import TokenUnits, UnitLayout


@dataclass(frozen=True)
class Shaping:
    """A length-shaping rule.

    Attributes:
        special: (n_units (B,), units, config) -> (B, 4) advantages of overflow, other, EOS and padding.
        eos_in_last_rank: whether the EOS of a list of exactly N entries belongs to rank N and gets its advantage.
    """

    special: Callable[[torch.Tensor, UnitLayout, LengthShapingConfig], torch.Tensor]
    eos_in_last_rank: bool

    def absorbed(self, tokens: TokenUnits, units: UnitLayout) -> torch.Tensor:
        """(B, T) bool mask of the EOS tokens that belong to rank N."""
        complete = (tokens.n_units == units.list_length).unsqueeze(1)
        return tokens.is_eos & complete & self.eos_in_last_rank


def none(n_units: torch.Tensor, units: UnitLayout, config: LengthShapingConfig) -> torch.Tensor:
    """Special units have no advantage."""
    return torch.zeros(n_units.size(0), 4, device=n_units.device)


def paper(n_units: torch.Tensor, units: UnitLayout, config: LengthShapingConfig) -> torch.Tensor:
    """An early EOS gets `early_stop`. Entries past rank N get `overflow` (Rank-GRPO, section 2.3.3, appendix C)."""
    special = none(n_units, units, config)
    special[:, 0] = config.overflow
    special[:, 2] = config.early_stop * (n_units < units.list_length)
    return special


def published(n_units: torch.Tensor, units: UnitLayout, config: LengthShapingConfig) -> torch.Tensor:
    """As `paper`, but EOS has its own advantage: `exact` after N units, `overflow` after more."""
    special = paper(n_units, units, config)
    special[:, 2] += config.exact * (n_units == units.list_length) + config.overflow * (n_units > units.list_length)
    return special


SHAPINGS = {"none": Shaping(none, False), "paper": Shaping(paper, True), "published": Shaping(published, False)}
