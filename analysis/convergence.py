"""`python -m analysis.convergence runs/mini`: which method learns faster, with intervals."""

import argparse
import sys
from collections.abc import Sequence

from analysis import command
from analysis.collection import Collection, collect
from analysis.figures.series import AXES, measured, own_curves, rl_rows
from analysis.render.sheet import to_latex, to_markdown
from analysis.studies.convergence import FINAL, Convergence, compare, threshold_value
from analysis.studies.convergence_text import convergence_sheet, sentences, to_csv
from analysis.tables import group_folder
from rlbench.base.errors import BadInput, nearest

DESCRIPTION = """\
Show which method learns faster: time to a threshold of a validation metric, and area under its curve, against a
baseline, with 95 % intervals over seeds.

Writes to the --out folder:
  convergence.md    table, one sentence per row, notes
  convergence.csv   plain numbers, with the time of each seed
  convergence.tex   the table for a paper

The time to a threshold is where the isotonic regression of a seed's curve crosses it, so a single lucky evaluation does
not count. Seeds that never cross it count as the whole range (restricted mean) and are reported.
"""
EPILOG = """\
example:  python -m analysis.convergence runs/mini
          python -m analysis.convergence runs/mini --threshold final 50% 0.12 --against generated_tokens
          python -m analysis.convergence runs/mini --baseline gspo-relevance --metric recall@10
exit code: 0 written; 2 no such folder, no RL run in it, or an option that does not fit the runs
"""
NAMES = ("convergence.md", "convergence.csv", "convergence.tex")


@command.refusing("convergence")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    console, out = command.terminal(), command.out_folder(options)
    for asked in options.threshold:
        threshold_value(asked, 0.0, 1.0)
    collection = collect(options.runs)
    groups = command.usable_groups(collection, options.runs, console, rl_rows, "RL run", "nothing to compare")
    found = [_compare(group, options) for group in groups]
    written = []
    for group, one in zip(groups, found, strict=True):
        folder = command.make_folder(out if len(groups) == 1 else out / group_folder(group), out)
        for sentence in sentences(one):
            command.say(console, sentence)
        console.print()
        sheet = convergence_sheet(one)
        texts = to_markdown(sheet), to_csv(one), to_latex(sheet)
        written += command.write_texts(folder, dict(zip(NAMES, texts, strict=True)))
    if len(groups) > 1:
        command.set_aside(out, NAMES)
    command.show_problems(console, options.runs, collection.problems)
    command.show_older(console, out, [f"*/*/{name}" for name in NAMES], written)
    command.show_written(console, written)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command.make_parser("convergence", DESCRIPTION, EPILOG, "folder with run directories at any depth")
    command.add_folder(parser)
    parser.add_argument("--baseline", metavar="LABEL", help="an RL row (default: the first of algorithm grpo)")
    parser.add_argument("--metric", help="on validation (default: NDCG at the largest cut-off)")
    parser.add_argument(
        "--threshold",
        nargs="+",
        default=[FINAL],
        metavar="VALUE",
        help="final: the baseline's value at the end of the range that all rows cover, mean over seeds (default); "
        "50%%: that share of the way from its start to this value; or a number",
    )
    parser.add_argument("--against", choices=list(AXES), default="updates", help="(default: %(default)s)")
    return parser


def _compare(group: Collection, options: argparse.Namespace) -> Convergence:
    """Compare the rows of a group. Raises BadInput if it lacks the metric, baseline or axis."""
    metric = options.metric or f"ndcg@{max(group.runs.iloc[0]['cutoffs'])}"
    known = measured(group, "validation")
    if not known:
        raise BadInput("no RL run has validation metrics, so there is no curve to compare")
    if metric not in known:
        raise BadInput(f"--metric {metric}: no RL run measured it on validation.{nearest(metric, known)}")
    curves = own_curves(group, "validation", metric, against=options.against)
    if single := [label for label, own in curves.items() if any(len(x) < 2 for x, _ in own)]:
        raise BadInput(
            f"{metric} was measured on validation only once in a run of {', '.join(single)}, but a curve needs two "
            "points; train with a smaller evaluation.every"
        )
    if not curves:
        raise BadInput(
            f"--against {options.against}: no row has budget.jsonl in all of its runs, so the cost at each update is "
            "unknown; compare over updates"
        )
    rows, runs = list(curves), rl_rows(group)
    grpo = [label for label in rows if runs[label].iloc[0]["algorithm"] == "grpo"]
    baseline = options.baseline or (grpo[0] if grpo else None)
    if baseline not in rows:
        asked = f"--baseline {baseline}: no such row" if baseline else "no row has the algorithm grpo; give --baseline"
        raise BadInput(f"{asked} (rows: {', '.join(rows)}).{nearest(baseline or '', rows)}")
    return compare(group, metric, baseline=baseline, thresholds=options.threshold, against=options.against)


if __name__ == "__main__":
    sys.exit(main())
