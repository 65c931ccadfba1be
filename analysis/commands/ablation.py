"""Effects of the settings of a factorial sweep."""

import argparse
from pathlib import Path

from analysis import command
from analysis.collection import Collection, collect
from analysis.figures.style import save
from analysis.render.sheet import to_markdown
from analysis.studies.ablation import (
    Ablation,
    build_ablation,
    effects_csv,
    effects_sheet,
    grid_csv,
    grid_sheet,
    to_rich,
)
from analysis.studies.effects_figure import draw_effects
from analysis.tables.marks import group_title
from rlbench.base.errors import BadInput
from rlbench.base.files import new_folder


def run(options: argparse.Namespace) -> int:
    """Run the command with its parsed options, and return its exit code."""
    console = command.terminal()
    collection = collect(options.runs)
    command.show_problems(console, options.runs, collection.problems)
    ablation = build_ablation(
        _only_group(collection, options.runs),
        options.metric,
        factors=options.factors,
        references=options.reference,
        resamples=options.resamples,
    )
    console.print(to_rich(ablation, console.width))
    console.print()
    command.show_written(console, write(ablation, command.out_folder(options)))
    return 0


def _only_group(collection: Collection, folder: Path) -> Collection:
    if collection.runs.empty:
        raise BadInput(f"no finished run below {folder}, so there is nothing to compare")
    groups = collection.groups()
    if len(groups) > 1:
        found = "; ".join(group_title(group) for group in groups)
        raise BadInput(f"{folder} has several experiments, datasets or models ({found}); give the folder of one")
    return groups[0]


def write(ablation: Ablation, out: Path) -> list[Path]:
    """Write tables and figure. Returns the files written."""
    new_folder(out, "--out")
    texts = {
        "grid.md": to_markdown(grid_sheet(ablation)),
        "grid.csv": grid_csv(ablation),
        "effects.md": to_markdown(effects_sheet(ablation)),
        "effects.csv": effects_csv(ablation),
    }
    written = command.write_texts(out, texts)
    figure = draw_effects(ablation)
    if figure is not None:
        written += save(figure, out / "effects")
    command.set_aside(out, ("effects.png", "effects.svg"), written)
    return written
