"""Draw curves from run directories."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from analysis import command
from analysis.collection import Collection, collect
from analysis.figures.captions import save_captioned
from analysis.figures.choices import MANY, METRIC, SHOWN, TRAINING, VARIANT
from analysis.figures.lines import Key, draw_training, draw_validation
from analysis.figures.ranks import RANK_METRICS, draw_ranks, rank_metrics
from analysis.figures.reported import Reported, beside
from analysis.figures.series import measured, rl_rows, without_spending
from analysis.figures.style import FORMATS, Captioned
from analysis.render.templates import PAGE, Paper, make_paper
from analysis.tables.marks import group_folder
from rlbench.base.errors import BadInput, nearest

TEXTS = ("txt", "tex")
"""Suffixes of a figure's caption and of its LaTeX."""

TALLEST = 8.5
"""Height of a figure that fills the page of a template, in inches."""

SHORT = 5
"""Number of metrics in a training figure with --by, so that it fits on a page."""


def run(options: argparse.Namespace) -> int:
    """Run the command with its parsed options, and return its exit code."""
    console, out = command.terminal(), command.out_folder(options, "figures")
    collection = collect(options.runs)
    groups = command.usable_groups(collection, options.runs, console, rl_rows, "RL run", "no curve to draw")
    names = _check(groups, options)
    paper = make_paper(options.template, options.width, names)
    written: list[Path] = []
    for group in groups:
        folder = command.make_folder(out if len(groups) == 1 else out / group_folder(group), out)
        written += write_figures(group, folder, options, paper, console)
    command.show_problems(console, options.runs, collection.problems)
    files = [
        f"{figure}.{suffix}" for figure in ("validation*", "training*", "ranks-*") for suffix in (*FORMATS, *TEXTS)
    ]
    command.show_older(console, out, [*files, *(f"*/*/{name}" for name in files)], written)
    command.show_written(console, written)
    return 0


def _check(groups: Sequence[Collection], options: argparse.Namespace) -> dict[str, str]:
    """Check the options against the groups. Returns the displayed names of --names.

    Raises:
        BadInput: lists all options that no group supports.
    """
    problems = []
    if options.metrics is not None:
        known = {name for group in groups for name in _known_metrics(group)}
        for name in options.metrics:
            if name not in known:
                problems.append(
                    f"--metrics {name}: no RL run measured it (training metrics are train.NAME, maps of ranks "
                    f"NAME@k).{nearest(name, sorted(known))}"
                )
    if options.by is not None:
        settings = {key for group in groups for of_run in group.settings.values() for key in of_run}
        known = {"algorithm", "reward", "variant"} | settings
        if options.by not in known:
            problems.append(f"--by {options.by}: rows have no such setting.{nearest(options.by, sorted(known))}")
    if options.against != "updates" and all(len(without_spending(g)) == len(rl_rows(g)) for g in groups):
        problems.append(
            f"--against {options.against}: no row has budget.jsonl in all of its runs, so the cost at each update is "
            "unknown; draw against updates"
        )
    used = {str(value).partition(VARIANT)[0] for group in groups for value in _shown_names(group)}
    for entry in options.names:
        name, given, shown = entry.partition("=")
        if not given or not shown.strip():
            problems.append(f"--names {entry}: write NAME=WORDS, such as rank_grpo=Rank-GRPO")
        elif name not in used:
            problems.append(f"--names {entry}: no row has such an algorithm or reward.{nearest(name, sorted(used))}")
    if options.against != "updates" and options.reference is not None:
        problems.append(f"--reference {options.reference}: reported curves count updates; remove --against")
    if problems:
        raise BadInput(*problems)
    return dict(entry.split("=", 1) for entry in options.names)


def _shown_names(group: Collection) -> list[str]:
    return [str(rows.iloc[0][column]) for rows in rl_rows(group).values() for column in ("algorithm", "reward")]


def _known_metrics(group: Collection) -> list[str]:
    """All names that --metrics accepts for a group."""
    train = [f"train.{name}" for name in measured(group, "train")]
    validation = measured(group, "validation")
    return [*validation, *(f"validation.{name}" for name in validation), *train, *rank_metrics(group)]


def figures(
    group: Collection,
    *,
    metrics: Sequence[str] | None = None,
    against: str = "updates",
    by: str | None = None,
    reported: Sequence[Reported] = (),
    paper: Paper = PAGE,
) -> dict[str, Captioned]:
    """The figures of one group, by file name. Figures without measurements are omitted.

    Args:
        metrics: as --metrics; None for the default figures.
        against, by, reported, paper: as in `lines.draw_validation`.
    """
    lines, ranks = _lines_and_ranks(group, metrics)
    found: dict[str, Captioned | None] = {}
    validation = None if lines is None else [name for split, name in lines if split == "validation"]
    if validation and by is None and len(rl_rows(group)) > MANY:
        for name in validation:
            found[f"validation-{name}"] = draw_validation(group, metrics=[name], against=against, paper=paper)
    else:
        found["validation"] = draw_validation(
            group, metrics=validation, against=against, by=by, reported=reported, paper=paper
        )
    train = list(TRAINING) if lines is None else [key for key in lines if key[0] == "train"]
    page = SHORT if by else max(len(train), 1)
    for start in range(0, len(train), page):
        suffix = f"-{start // page + 1}" if start else ""
        keys = train[start : start + page]
        found[f"training{suffix}"] = draw_training(group, keys=keys, against=against, by=by, paper=paper)
    for name in ranks:
        found[f"ranks-{name.removesuffix('@k')}"] = draw_ranks(group, name, against=against, paper=paper)
    return {name: figure for name, figure in found.items() if figure is not None}


def _lines_and_ranks(group: Collection, metrics: Sequence[str] | None) -> tuple[list[Key] | None, list[str]]:
    """Split and metric of the curves to draw (None for the default curves), and the heat maps to draw."""
    if metrics is None:
        return None, list(SHOWN)
    known = [name for name in metrics if name in _known_metrics(group)]
    ranks = [name for name in known if name in RANK_METRICS]
    lines = [name if "." in name else f"validation.{name}" for name in known if name not in ranks]
    parts = [name.partition(".") for name in lines]
    return [(split, name) for split, _, name in parts], ranks


def write_figures(
    group: Collection, out: Path, options: argparse.Namespace, paper: Paper, console: Console
) -> list[Path]:
    """Write the figures of one group with their captions, print what they omit, and return the files written."""
    if options.against != "updates" and (without := without_spending(group)):
        console.print(
            f"[yellow]Not drawn against {options.against}:[/] {', '.join(without)} (runs without budget.jsonl)"
        )
    reported: list[Reported] = []
    if options.reference is not None:
        reported = beside(group)
        if not reported:
            first = group.runs.iloc[0]
            console.print(
                f"[yellow]No curve of the paper for {first['dataset']} with {first['model']}:[/] it reports only "
                f"{METRIC} on validation of reddit_v2 with Qwen2.5-0.5B, Llama-3.2-1B and Llama-3.2-3B."
            )
    written = []
    drawn = figures(
        group, metrics=options.metrics, against=options.against, by=options.by, reported=reported, paper=paper
    )
    first = group.runs.iloc[0]
    for name, figure in drawn.items():
        if paper.template is not None and figure.get_figheight() > TALLEST:
            console.print(
                f"[yellow]{name} is {figure.get_figheight():.1f} inches high,[/] and a page of a paper has about "
                f"{TALLEST:g}; draw it with --width full, or name fewer metrics"
            )
        label = f"{first['experiment']}-{first['dataset']}-{first['model']}-{name}"
        written += save_captioned(figure, out / name, label, paper)
        command.set_aside(out, [f"{name}.tex"], written)
    return written
