"""`python -m analysis.ablation runs/mini_ablation`: effects of the settings of a factorial sweep."""

import argparse
import sys

from analysis import command

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


@command.parsing("ablation", _parser)
def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from analysis.commands.ablation import run  # loads pandas and matplotlib

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
