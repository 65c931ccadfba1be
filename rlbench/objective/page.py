"""Writes the tables of docs/algorithms.md from `conf/algorithm/` and from the pieces' docstrings.

python -m rlbench.objective.page
"""

import re
from pathlib import Path
from typing import Any

import yaml

from rlbench.objective.pieces import PLACES, Place

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "algorithms.md"
MARK = "<!-- {}: written by python -m rlbench.objective.page -->"


def methods_table(folder: Path = ROOT / "conf" / "algorithm") -> str:
    """One row per method: its piece in every place, and its source."""
    head = ["method", "credit", "baseline", "ratio", "surrogate", "aggregation", "KL", "else", "source", "evidence"]
    return _table(head, [_method(found) for found in _algorithms(folder) if "family" not in found])


def preferences_table(folder: Path = ROOT / "conf" / "algorithm") -> str:
    """One row per method of preference optimisation."""
    keys = ["pairs", "loss", "update", "chosen", "negatives", "beta", "rounds", "sft_share"]
    rows = [
        [f"`{found['name']}`", *(_number(found[key]) for key in keys), found["paper"], found["evidence"]]
        for found in _algorithms(folder)
        if found.get("family") == "preference"
    ]
    return _table(["method", *(f"`{key}`" for key in keys), "source", "evidence"], rows)


def differences_table(folder: Path = ROOT / "conf" / "algorithm") -> str:
    """One row per method that departs from its source."""
    rows = [[f"`{found['name']}`", " ".join(found["differs"])] for found in _algorithms(folder) if found.get("differs")]
    return _table(["method", "different from its source"], rows)


def _algorithms(folder: Path) -> list[dict[str, Any]]:
    return [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.yaml"))]


def _method(algorithm: dict[str, Any]) -> list[str]:
    options = algorithm["options"]

    def piece(name: str) -> str:
        given = ", ".join(f"{key} {_number(value)}" for key, value in options.get(name, {}).items())
        return f"{name} ({given})" if given else name

    kl = algorithm["kl"]
    more = [f"{piece(name)} × {_number(weight)}" for name, weight in algorithm["regularisers"].items()]
    more += [
        f"{key} {algorithm[key]}"
        for key, usual in (("layout", "aligned"), ("missing_rank", "zero"))
        if algorithm[key] != usual
    ]
    if algorithm["entropy_quantile"] < 1:
        more.append(f"top {algorithm['entropy_quantile']:.0%} of entropy")
    if algorithm["length_shaping"]["rule"] != "none":
        more.append(f"length shaping {algorithm['length_shaping']['rule']}")
    return [
        f"`{algorithm['name']}`",
        *(piece(algorithm[place]) for place in ("credit", "baseline", "ratio", "surrogate", "aggregation")),
        f"{kl['estimator']} × {_number(kl['beta'])}" if kl["beta"] else "",
        "; ".join(more),
        algorithm["paper"],
        algorithm["evidence"],
    ]


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def pieces_table(place: Place) -> str:
    """One row per piece: its options with their defaults, and the first paragraph of its docstring."""
    rows = []
    for name, piece in place.items():
        options = ", ".join(
            f"{option} = {_number(found.default)}" if found.default is not None else option
            for option, found in piece.options.items()
        )
        rows.append([f"`{name}`", options, _first_sentence(piece.function.__doc__ or "")])
    return _table([place.name, "options", "what it is"], rows)


def _first_sentence(docstring: str) -> str:
    text = " ".join(docstring.split("\n\n")[0].split())
    return re.sub(r"\|", r"\\|", text)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def render(page: str) -> str:
    """The page with its tables replaced by current ones."""
    pieces = "\n\n".join(pieces_table(place) for place in PLACES)
    sections = {
        "methods": methods_table(),
        "differences": differences_table(),
        "preferences": preferences_table(),
        "pieces": pieces,
    }
    for name, content in sections.items():
        begin, end = MARK.format(name), MARK.format(f"end of {name}")
        before, rest = page.split(begin)
        page = f"{before}{begin}\n\n{content}\n\n{end}{rest.split(end)[1]}"
    return page


def main() -> None:
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
