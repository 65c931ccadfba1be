"""`python -m analysis.ablation runs/mini_ablation`: effects of the settings of a factorial sweep."""

import argparse
import sys
from collections.abc import Sequence
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
from analysis.tables import group_title
from rlbench.base.errors import BadInput
from rlbench.base.files import new_folder

DESCRIPTION = """\
Show which settings of a sweep help: a grid of all combinations, and the main effect of each setting.

Reads every finished RL run below RUNS, detects the settings in which the runs differ (except the seed),
and writes to the --out folder:
  grid.md, grid.csv           one row per combination, best first: the metric on test and its difference from SFT
  effects.md, effects.csv     one row per level: difference from the factor's reference level, averaged over all pairs
                              of runs that differ in nothing else; 95 % intervals over contexts and seeds (with
                              one seed: and pairs); p-values from three seeds on, corrected by Holm
  effects.png, effects.svg    the effects as a forest plot
The grid need not be complete: missing cells are named, and only existing pairs are compared. Runs that are
not done or not sound are left out and named, as analysis.report does. Needs no model and no GPU.
"""
EPILOG = """\
example:  python -m analysis.ablation runs/mini_ablation --out reports/mini_ablation \\
              --factors credit,ratio,aggregation,baseline --reference credit=sequence,ratio=token
exit code: 0 written (even if runs were left out); 2 no such folder, no two finished RL runs that differ, or a name
that the runs do not have
"""


@command.refusing("ablation")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
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


def _parser() -> argparse.ArgumentParser:
    parser = command.make_parser("ablation", DESCRIPTION, EPILOG, "folder of the sweep, run directories at any depth")
    command.add_out(parser)
    parser.add_argument("--metric", default="ndcg@10", help="per-query test metric (default: %(default)s)")
    parser.add_argument(
        "--factors",
        type=_names,
        default=(),
        metavar="KEY,...",
        help="settings whose effects to show, in this order; other varied settings are held equal in every pair "
        "(default: all that vary)",
    )
    parser.add_argument(
        "--reference",
        type=_references,
        default={},
        metavar="KEY=LEVEL,...",
        help="reference levels for the comparisons (default: each factor's first level by size or name)",
    )
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _references(text: str) -> dict[str, str]:
    pairs = [name.partition("=") for name in _names(text)]
    if not all(level for _, _, level in pairs):
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form KEY=LEVEL,KEY=LEVEL")
    return {key: level for key, _, level in pairs}


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


if __name__ == "__main__":
    sys.exit(main())
