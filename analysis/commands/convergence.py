"""Which method learns faster, with intervals."""

import argparse

from analysis import command
from analysis.collection import Collection, collect
from analysis.figures.series import measured, own_curves, rl_rows
from analysis.render.sheet import to_latex, to_markdown
from analysis.studies.convergence import Convergence, compare
from analysis.studies.convergence_text import convergence_sheet, sentences, to_csv
from analysis.tables.marks import group_folder
from rlbench.base.errors import BadInput, nearest

NAMES = ("convergence.md", "convergence.csv", "convergence.tex")


def run(options: argparse.Namespace) -> int:
    """Run the command with its parsed options, and return its exit code."""
    console, out = command.terminal(), command.out_folder(options)
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
