"""Registries of the algebra's pieces. A choice is one pure function; its keyword-only parameters are its options.

A decorator registers a piece. Packages outside rlbench register theirs in the same way:

    @surrogates.piece
    def mine(inputs: LossInputs, log_ratio: torch.Tensor, *, strength: Positive = 1.0) -> Surrogate: ...

The algorithm's YAML sets its options under `options.mine`, for every place.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from rlbench.base.errors import nearest
from rlbench.config.options import Option, filled, options_of
from rlbench.config.plugins import HINT
from rlbench.config.schema import AlgorithmConfig

Function = TypeVar("Function", bound=Callable[..., Any])

NEEDS = {
    "old_logps": "log-probabilities of the rollout policy at the rollout, even where no update lies between it and the "
    "loss",
    "entropy": "of every token position, differentiable",
    "hidden_states": "of the completions' tokens at the rollout, for the rank features of `Group.features`",
    "divergence": "log-ratio of the rollout policy to the reference policy at the completions' tokens, at the rollout",
    "prompts": "names of the prompts",
    "demonstrations": "log-probabilities of a batch of demonstrations, differentiable",
    "demonstration_reference": "log-probabilities of these demonstrations under the reference policy",
}
"""Inputs that a piece may request beyond those of every update. It may also request every name in `scalars`, and that
name with the prefix "old_" for its values at the rollout."""
OF_REFERENCE = frozenset({"divergence", "demonstration_reference"})
"""Those of `NEEDS` for which a reference policy must be there."""


@dataclass(frozen=True)
class Piece:
    """One choice for one place.

    Attributes:
        function: the pure function.
        options: its options by name.
        needs: inputs that it requests, each in `known_needs()`.
        facts: other properties that its place requires, e.g. whether a surrogate clips.
    """

    function: Callable[..., Any]
    options: dict[str, Option]
    needs: tuple[str, ...]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Start:
    """A number that a piece computes from the run's first rollout, before any update. It is the piece's fact `start`.

    Attributes:
        keeps: the key in `Carried` that holds it. While the key is missing, the next rollout computes it.
        scalars: names of the forward pass's scalars that it is computed from.
        function: ({name: (B, T)}, mask (B, T), gather, options of the piece that it declares) -> a number. gather takes
            (B,) values of this process and returns those of all processes. The number must be the same on all.
    """

    keeps: str
    scalars: tuple[str, ...]
    function: Callable[..., float]


class Place(Mapping[str, Piece]):
    """The choices for one place of the algebra.

    Args:
        name: the key in the section's YAML that selects a piece.
        facts: facts that every piece must declare. The place's module defines them.
        section: the section of the config.
    """

    def __init__(self, name: str, facts: tuple[str, ...] = (), section: str = "algorithm"):
        self.name = name
        self.facts = facts
        self.section = section
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
        """Register a function under its own name.

        Raises:
            ValueError: the place already has a piece of this name, a need is unknown, or a fact is missing.
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
                raise ValueError(f"{self.name} '{function.__name__}' lacks {', '.join(lacking)}; see `Place.facts`")
            self._pieces[function.__name__] = Piece(function, options_of(function), tuple(needs), facts)
            return function

        return enter if function is None else enter(function)

    def chosen(self, name: str, options: Mapping[str, Mapping[str, Any]]) -> Callable[..., Any]:
        """The function of a piece with its options filled in from an algorithm's `options`.

        Pieces of two places may share a name. They then share the options given under it.
        """
        piece = self[name]
        return filled(piece.function, options.get(name, {}))

    def check(self, name: str) -> list[str]:
        """Problems with a choice: one sentence that begins with the key, or an empty list."""
        if name in self:
            return []
        near, key = nearest(name, list(self)), f"{self.section}.{self.name}"
        return [f"{key} = '{name}' is unknown; known: {', '.join(self)}.{near}{HINT}"]


scalars = Place("scalars", ("differentiable",))
"""Numbers that the forward pass gives at every position. Pieces request them; algorithms do not choose them."""
credits = Place("credit", ("columns", "spread", "within", "reads"))
baselines = Place("baseline", ("shift", "scale"))
ratios = Place("ratio")
surrogates = Place("surrogate", ("clips", "uses_ratio", "needs_reference"))
aggregations = Place("aggregation")
estimators = Place("kl.estimator")
kl_scales = Place("kl.scale")
regularisers = Place("regularisers")
PLACES = (credits, baselines, ratios, surrogates, aggregations, estimators, kl_scales, regularisers)
"""The places where an algorithm makes a choice, in the order of the loss."""


def choices(algorithm: AlgorithmConfig) -> list[tuple[Place, str]]:
    """An algorithm's choices, place by place. Includes every regulariser that it names, even with weight 0."""
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
    """Every input that a piece may request."""
    return {*NEEDS, *scalars, *(f"old_{name}" for name in scalars)}


def pieces_by_name() -> set[str]:
    """Names of all pieces in all places."""
    return {name for place in PLACES for name in place}
