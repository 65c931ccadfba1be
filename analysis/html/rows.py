"""Names and line styles of a report's rows, shared by the page's tables, curves and lists."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.collection import Collection
from analysis.collection.stages import row_name, stage_place
from analysis.figures.style import styles
from analysis.html.grid import GridCell, text
from analysis.html.markup import Html, breakable, tag


@dataclass(frozen=True)
class Look:
    """One row.

    Attributes:
        name: as in every table and figure (`collection.stages.row_name`).
        colour: as #rrggbb; grey if it is not an RL row.
        dashes: alternating dash and gap lengths, in line widths; empty for a solid line.
        runs: run directories, in the order of `seeds`.
    """

    label: str
    stage: str
    name: str
    colour: str
    dashes: tuple[float, ...]
    runs: tuple[str, ...]
    seeds: tuple[int, ...]

    def as_data(self) -> dict[str, Any]:
        """The row as data for the page's scripts."""
        return {
            "name": self.name,
            "stage": self.stage,
            "colour": self.colour,
            "dashes": list(self.dashes),
            "seeds": len(self.seeds),
        }


GREY = "#767676"
REFERENCE_DASHES = {
    "oracle": (1.5, 2.0),
    "baseline": (1.0, 3.0),
    "zero_shot": (6.0, 2.0, 1.5, 2.0),
    "sft": (4.0, 3.0),
    "external": (8.0, 2.0),
}


def looks(group: Collection) -> list[Look]:
    """All rows: oracle, baselines, zero-shot, SFT, lists from elsewhere, then RL rows by algorithm and reward."""
    looked = styles(group.runs)
    runs = group.runs.sort_values(["label", "seed"], kind="stable")
    found = []
    for label, part in runs.groupby("label", sort=True):
        first = part.iloc[0]
        stage = str(first["stage"])
        style = looked.get(str(label))
        found.append(
            Look(
                label=str(label),
                stage=stage,
                name=row_name(first),
                colour=style["color"] if style else GREY,
                dashes=dash_lengths(style["linestyle"]) if style else REFERENCE_DASHES[stage],
                runs=tuple(part["run"]),
                seeds=tuple(int(seed) for seed in part["seed"]),
            )
        )
    return sorted(found, key=lambda look: (stage_place(look.stage, look.label), look.name))


def dash_lengths(linestyle: Any) -> tuple[float, ...]:
    """Dash lengths from matplotlib's "-" or (offset, lengths)."""
    return () if linestyle == "-" else tuple(float(length) for length in linestyle[1])


PARTS = ("algorithm", "reward", "variant")


def _parts(runs: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """PARTS of each RL row by label. The column `reward` contains the variant too; it is removed here."""
    found: dict[str, tuple[str, ...]] = {}
    for label, part in runs[runs["stage"] == "rl"].groupby("label"):
        run = part.iloc[0]
        variant = run["variant"] if isinstance(run["variant"], str) else ""
        reward = str(run["reward"]).removesuffix(f" @ {variant}") if variant else str(run["reward"])
        found[str(label)] = (str(run["algorithm"]), reward, variant)
    return found


def shared_words(runs: pd.DataFrame) -> str:
    """Parts that all RL rows share: "algorithm grpo, reward relevance"; "" for fewer than two rows."""
    parts = _parts(runs)
    if len(parts) < 2:
        return ""
    shared = zip(PARTS, zip(*parts.values(), strict=True), strict=True)
    return ", ".join(f"{kind} {values[0]}" for kind, values in shared if len(set(values)) == 1 and values[0])


def swatch(look: Look) -> Html:
    """A sample of the row's line, as in the curves."""
    dashes = " ".join(f"{2 * length:g}" for length in look.dashes)
    line = tag(
        "line", x1=0, y1=5, x2=26, y2=5, stroke=ink(look.colour), stroke_width=2.5, stroke_dasharray=dashes or None
    )
    return tag("svg", line, class_="swatch", width=26, height=10, aria_hidden="true")


def ink(colour: str) -> str:
    """The colour, with black replaced by the page's text colour so that it shows on a dark page."""
    return "currentColor" if colour.lower() == "#000000" else colour


def named(look: Look, marks: str = "") -> Html:
    """Swatch and name."""
    name = tag("span", breakable(look.name), f" {marks}" if marks else None)
    return tag("span", swatch(look), name, class_="named")


def name_cell(look: Look, marks: str = "") -> GridCell:
    """The first cell of a table row."""
    return text(named(look, marks), look.name)
