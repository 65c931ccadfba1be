"""Registries of the algebra's pieces: one pure function a choice, its options its keyword-only parameters.

A piece is entered by a decorator, so that a package outside rlbench adds one in the same way:

    @surrogates.piece
    def mine(inputs: LossInputs, log_ratio: torch.Tensor, *, strength: Positive = 1.0) -> Surrogate: ...

Its options are given in the algorithm's YAML under `options.mine`, whichever place it stands in.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from rlbench.config import AlgorithmConfig
from rlbench.errors import nearest
from rlbench.options import Option, filled, options_of

Function = TypeVar("Function", bound=Callable[..., Any])

NEEDS = {
    "old_logps": "log-probabilities of the rollout policy at the rollout, even where no update lies between it and the "
    "loss",
    "entropy": "of every token position, differentiable",
    "hidden_states": "of the completions' tokens at the rollout, for the rank features of `Group.features`",
    "demonstrations": "log-probabilities of a batch of demonstrations, differentiable",
}
"""What a piece may ask for beyond what every update has; beside these, every name in `scalars`, and that name after
"old_" for its values at the rollout."""


@dataclass(frozen=True)
class Piece:
    """A choice in one place.

    Attributes:
        function: what it computes.
        options: its options by name.
        needs: names in `known_needs()`.
        facts: what else a place wants to know of its pieces, e.g. whether a surrogate clips.
    """

    function: Callable[..., Any]
    options: dict[str, Option]
    needs: tuple[str, ...]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Start:
    """What a piece takes from the run's first rollout, before any update; a fact of a piece, under `start`.

    Attributes:
        keeps: the name in `Memory` that holds it. While that is missing, the next rollout gives it.
        scalars: names of the forward pass's scalars that it is made of.
        function: ({name: (B, T)}, mask (B, T), gather, with the piece's options that it has) -> a number. gather takes
            (B,) values of this process to those of all processes; the number must be the same on all.
    """

    keeps: str
    scalars: tuple[str, ...]
    function: Callable[..., float]


class Place(Mapping[str, Piece]):
    """The choices in one place of the algebra.

    Args:
        name: the key of the algorithm's YAML that chooses.
        facts: what each of its pieces has to say of itself; the place's module says what they mean.
    """

    def __init__(self, name: str, facts: tuple[str, ...] = ()):
        self.name = name
        self.facts = facts
        self._pieces: dict[str, Piece] = {}

    def __getitem__(self, name: str) -> Piece:
        return self._pieces[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)

    @overload
    def piece(self, function: Function) -> Function: ...
    @overload
    def piece(self, *, needs: Iterable[str] = (), **facts: Any) -> Callable[[Function], Function]: ...
    def piece(self, function: Any = None, *, needs: Iterable[str] = (), **facts: Any) -> Any:
        """Enter a function under its name.

        Raises:
            ValueError: where the place has a piece of this name, a need is unknown, or a fact is left out.
        """

        def enter(function: Function) -> Function:
            if function.__name__ in self._pieces:
                raise ValueError(f"{self.name}: two pieces are called '{function.__name__}'")
            unknown = set(needs) - known_needs()
            if unknown:
                known = ", ".join(sorted(known_needs()))
                raise ValueError(f"{self.name} '{function.__name__}' needs {sorted(unknown)}; known: {known}")
            lacking = [fact for fact in self.facts if fact not in facts]
            if lacking:
                raise ValueError(
                    f"{self.name} '{function.__name__}' leaves out {', '.join(lacking)}; see `Place.facts`"
                )
            self._pieces[function.__name__] = Piece(function, options_of(function), tuple(needs), facts)
            return function

        return enter if function is None else enter(function)

    def chosen(self, name: str, options: Mapping[str, Mapping[str, Any]]) -> Callable[..., Any]:
        """The function of a piece with its options filled in from an algorithm's `options`.

        Pieces of two places may have one name, and then share what is given under it.
        """
        piece = self[name]
        return filled(piece.function, options.get(name, {}))

    def check(self, name: str) -> list[str]:
        """What is wrong with a choice: a sentence that begins with the key, or nothing."""
        if name in self:
            return []
        return [f"algorithm.{self.name} = '{name}' is unknown; known: {', '.join(self)}.{nearest(name, list(self))}"]


scalars = Place("scalars", ("differentiable",))
"""Numbers that the forward pass gives at every position; no algorithm chooses one, pieces ask for them."""
credits = Place("credit", ("columns", "spread", "within", "reads"))
baselines = Place("baseline", ("shift", "scale"))
ratios = Place("ratio")
surrogates = Place("surrogate", ("clips", "uses_ratio", "needs_reference"))
aggregations = Place("aggregation")
estimators = Place("kl.estimator")
kl_scales = Place("kl.scale")
regularisers = Place("regularisers")
PLACES = (credits, baselines, ratios, surrogates, aggregations, estimators, kl_scales, regularisers)
"""Where an algorithm chooses, in the order of the loss."""


def choices(algorithm: AlgorithmConfig) -> list[tuple[Place, str]]:
    """What an algorithm chooses, place by place; every regulariser that it names, whatever its weight."""
    return [
        (credits, algorithm.credit),
        (baselines, algorithm.baseline),
        (ratios, algorithm.ratio),
        (surrogates, algorithm.surrogate),
        (aggregations, algorithm.aggregation),
        (estimators, algorithm.kl.estimator),
        (kl_scales, algorithm.kl.scale),
        *((regularisers, name) for name in algorithm.regularisers),
    ]


def known_needs() -> set[str]:
    """What a piece may ask for."""
    return {*NEEDS, *scalars, *(f"old_{name}" for name in scalars)}


def pieces_by_name() -> set[str]:
    """Names of all pieces of all places."""
    return {name for place in PLACES for name in place}
