"""`python -m analysis.ablation runs/mini_ablation`: effects of the settings of a factorial sweep."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.collection import Collection, collect
from analysis.command import (
    add_out,
    drop_stale,
    make_parser,
    out_folder,
    refuse,
    refusing,
    show_problems,
    show_written,
    terminal,
)
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
from rlbench.base.files import new_folder, write_text

DESCRIPTION = """\
Say which settings of a sweep help: the grid of combinations, and the main effect of each setting.

Reads every finished RL run below RUNS, finds by itself in which settings the runs differ (the seed aside),
and writes to the --out folder:
  grid.md, grid.csv           one row a combination, best first: the metric on test and its difference to SFT
  effects.md, effects.csv     one row a level: difference to the factor's reference level, averaged over all pairs
                              of runs that agree in everything else; 95 % intervals over contexts and seeds (with
                              one seed: and pairs); p-values from three seeds on, corrected by Holm
  effects.png, effects.svg    the effects as a forest plot
The grid need not be full: what is missing is named, and only pairs that are there are compared. Runs that are
not done or not sound are left out and named, as analysis.report does. Needs no model and no GPU.
"""
EPILOG = """\
example:  python -m analysis.ablation runs/mini_ablation --out reports/mini_ablation \\
              --factors credit,ratio,aggregation,baseline --reference credit=sequence,ratio=token
exit code: 0 written (whatever was left out); 2 no such folder, no two finished RL runs that differ, or a name
that the runs do not have
"""


@refusing("ablation")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    console, out = terminal(), out_folder(options)
    try:
        collection = collect(options.runs)
        show_problems(console, options.runs, collection.problems)
        ablation = build_ablation(
            _only_group(collection, options.runs),
            options.metric,
            factors=options.factors,
            references=options.reference,
            resamples=options.resamples,
        )
    except BadInput as error:
        return refuse("ablation", error)
    console.print(to_rich(ablation, console.width))
    console.print()
    show_written(console, write(ablation, out))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("ablation", DESCRIPTION, EPILOG, "folder of the sweep, run directories at any depth")
    add_out(parser)
    parser.add_argument("--metric", default="ndcg@10", help="per-query test metric (default: %(default)s)")
    parser.add_argument(
        "--factors",
        type=_names,
        default=(),
        metavar="KEY,...",
        help="settings whose effects are wanted, in this order; others that vary are held equal in every pair "
        "(default: all that vary)",
    )
    parser.add_argument(
        "--reference",
        type=_references,
        default={},
        metavar="KEY=LEVEL,...",
        help="levels that others are compared with (default: each factor's first by size or name)",
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
        raise BadInput(f"no finished run below {folder}: there is nothing to compare")
    groups = collection.groups()
    if len(groups) > 1:
        found = "; ".join(group_title(group) for group in groups)
        raise BadInput(f"{folder} holds several experiments, datasets or models ({found}): name the folder of one")
    return groups[0]


def write(ablation: Ablation, out: Path) -> list[Path]:
    """Write tables and figure. Returns the files written."""
    new_folder(out, "--out")
    written = []
    for name, text in (
        ("grid.md", to_markdown(grid_sheet(ablation))),
        ("grid.csv", grid_csv(ablation)),
        ("effects.md", to_markdown(effects_sheet(ablation))),
        ("effects.csv", effects_csv(ablation)),
    ):
        write_text(out / name, text)
        written.append(out / name)
    figure = draw_effects(ablation)
    if figure is not None:
        written += save(figure, out / "effects")
    drop_stale(out, ("effects.png", "effects.svg"), written)
    return written


if __name__ == "__main__":
    sys.exit(main())
