"""Checks of an algorithm's configuration that need neither data nor a model."""

from rlbench.base.errors import nearest
from rlbench.config.options import Option, check_options
from rlbench.config.schema import AlgorithmConfig
from rlbench.objective.pieces import choices, pieces_by_name


def check_algorithm(algorithm: AlgorithmConfig) -> list[str]:
    """Every unknown piece and wrong option, one sentence each."""
    chosen = choices(algorithm)
    problems = [problem for place, name in chosen for problem in place.check(name)]
    options: dict[str, dict[str, Option]] = {}  # pieces of two places may share a name and its options
    for place, name in chosen:
        if name in place:
            options.setdefault(name, {}).update(place[name].options)
    for name, known_options in options.items():
        found = check_options(known_options, algorithm.options.get(name, {}))
        problems += [f"algorithm.options.{name}.{problem}" for problem in found]
    known = pieces_by_name()
    for name in algorithm.options:
        if name not in known:
            problems.append(f"algorithm.options.{name}: no piece has this name.{nearest(name, list(known))}")
    return problems
