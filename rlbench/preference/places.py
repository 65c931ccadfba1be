"""What a method's choices need. Plugins must have been loaded."""

from collections.abc import Callable, Sequence

import torch

from rlbench.config.schema import PreferenceConfig
from rlbench.objective.pieces import Piece, Place
from rlbench.preference.inputs import PromptLists, Tuple, TupleInputs
from rlbench.preference.losses import losses
from rlbench.preference.recipes import recipes
from rlbench.preference.steps import updates

PLACES = (recipes, losses, updates)
"""The places where a method of preference optimisation makes a choice."""


def choices(method: PreferenceConfig) -> list[tuple[Place, str]]:
    """Each place with the name that the method chooses."""
    return list(zip(PLACES, (method.pairs, method.loss, method.update), strict=True))


def pieces_by_name() -> dict[str, Piece]:
    """All pieces of all places."""
    return {name: piece for place in PLACES for name, piece in place.items()}


def lists_of_tuple(method: PreferenceConfig) -> int:
    """Number of lists of a tuple."""
    return int(recipes[method.pairs].facts["pairs"]) * (1 + method.negatives)


def chooses_demonstrations(method: PreferenceConfig) -> bool:
    """Whether a prompt's demonstration may be a chosen list."""
    facts = recipes[method.pairs].facts
    return bool(facts["demonstrations"]) or (bool(facts["follows"]) and method.chosen == "demonstration")


def of_earlier(method: PreferenceConfig) -> bool:
    """Whether the method needs the references of earlier rounds."""
    return bool(losses[method.loss].facts["earlier"]) or bool(updates[method.update].facts["earlier"])


def recipe_of(method: PreferenceConfig) -> Callable[[PromptLists], list[Tuple]]:
    """The recipe with its options."""
    return recipes.chosen(method.pairs, method.options)


def loss_of(method: PreferenceConfig) -> Callable[[TupleInputs], torch.Tensor]:
    """The loss with its options."""
    return losses.chosen(method.loss, method.options)


def update_of(method: PreferenceConfig) -> Callable[[Sequence[torch.Tensor]], torch.Tensor | None]:
    """The rule for updates with its options."""
    return updates.chosen(method.update, method.options)
