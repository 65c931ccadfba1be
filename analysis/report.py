"""`python -m analysis.report runs/mini --out reports/mini`: write table, curves and an HTML page for runs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console

from analysis import command, tables
from analysis.collection import Collection, Problem, collect
from analysis.figures.lines import draw_training, draw_validation
from analysis.figures.style import save
from analysis.html import group_page, index_page
from analysis.html.budgets import cost_note
from analysis.render.sheet import to_latex, to_markdown, to_rich
from rlbench.base.errors import BadInput
from rlbench.config.names import odd_name, odd_project
from rlbench.tracking import TrackerIdentity, check_modes, make_tracker

DESCRIPTION = """\
Make the comparison table and the curves of an experiment from its run directories.

Reads every run below RUNS (any folder with a file STATUS) and writes to the --out folder:
  table.md, table.csv, table.tex   the comparison: Recall and NDCG on test with 95 % intervals, cost
  curves.png, curves.svg           Recall and NDCG on validation against updates
  training.png, training.svg       reward, entropy, KL, list length, ... of training against updates
  report.html                      everything and more on one page: sortable tables, curves with values on hover,
                                   settings, budgets, sample lists, warnings; needs no network
If RUNS has several experiments, datasets or models, each gets its own folder below --out, and
report.html in --out links to their pages.

Runs that are not done, half-written, of another schema version, duplicate or with NaN metrics are left
out and named; the report uses the others. Needs no model and no GPU.
"""
PAGE = "report.html"
OF_A_GROUP = [f"table.{suffix}" for suffix in ("md", "csv", "tex")]
OF_A_GROUP += [f"{figure}.{suffix}" for figure in ("curves", "training") for suffix in ("png", "svg")]
"""Files of one group's report beside its page."""

EPILOG = """\
example:  python -m analysis.report runs/mini --out reports/mini
          python -m analysis.report runs/mini --out reports/mini --tracker wandb
exit code: 0 written (even if runs were left out); 2 no such folder, or no finished run in it
"""


@command.refusing("report")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    console, out = command.terminal(), command.out_folder(options)
    if wrong := check_modes(options.tracker, []):
        raise BadInput(*wrong)
    collection = collect(options.runs)
    groups = command.usable_groups(collection, options.runs, console, lambda _: True, "run", "nothing to report")
    if options.tracker != "none" and (wrong := [said for group in groups for said in check_project(group)]):
        raise BadInput(*wrong)
    written = []
    for group in groups:
        folder = command.make_folder(out if len(groups) == 1 else out / tables.group_folder(group), out)
        table = tables.build_table(group, resamples=options.resamples)
        written += write_report(group, table, folder, console)
        page = group_page(group, table, collection.source.folder, of_group(group, collection))
        written += command.write_texts(folder, {PAGE: page})
        if options.tracker != "none":
            track_report(options.tracker, group, collection.source.folder, folder)
    if len(groups) > 1:
        if (out / PAGE).exists():  # of an earlier report, maybe of one group
            command.set_aside(out, OF_A_GROUP)
        written += command.write_texts(out, {PAGE: make_index(groups, collection)})
    command.show_problems(console, options.runs, collection.problems)
    command.show_older(console, out, [f"*/*/{PAGE}"], written)
    command.show_written(console, written)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command.make_parser("report", DESCRIPTION, EPILOG, "folder with run directories at any depth")
    command.add_out(parser)
    parser.add_argument(
        "--tracker",
        default="none",
        metavar="MODE",
        help="also log table and figures to a tracker, as a run of job type report: wandb, offline, tensorboard or "
        "trackio",
    )
    return parser


def write_report(group: Collection, table: tables.Table, out: Path, console: Console) -> list[Path]:
    """Write the table and figures of one group, print the table, and return the files written."""
    sheet = tables.table_sheet(table)
    console.print(to_rich(sheet, console.width))
    console.print()
    texts = {"table.md": to_markdown(sheet), "table.csv": tables.to_csv(table), "table.tex": to_latex(sheet)}
    written = command.write_texts(out, texts)
    for name, figure, split in (
        ("curves", draw_validation(group), "validation"),
        ("training", draw_training(group), "training"),
    ):
        if figure is None:
            console.print(f"[yellow]No {name}.png:[/] no RL run has {split} metrics.")
        else:
            written += save(figure, out / name)
    command.set_aside(out, OF_A_GROUP, written)
    return written


def of_group(group: Collection, collection: Collection) -> list[Problem]:
    """Problems of runs in the same folders as a group's runs; all problems if there is no other group."""
    if len(collection.runs) == len(group.runs):
        return list(collection.problems)
    beside = {cell_folder(run) for run in group.runs["run"]}
    return [problem for problem in collection.problems if cell_folder(problem.run) in beside]


def cell_folder(run: str) -> str:
    """The folder of a run's dataset and model, which contains all rows of one table."""
    return (Path(run).parent.parent).as_posix()


def make_index(groups: Sequence[Collection], collection: Collection) -> str:
    """report.html for all groups of a collection, with links to their pages."""
    runs = collection.source.folder
    told = {problem for group in groups for problem in of_group(group, collection)}
    links = [
        (tables.group_title(group), f"{tables.group_folder(group).as_posix()}/{PAGE}", len(group.runs))
        for group in groups
    ]
    rest = [problem for problem in collection.problems if problem not in told]
    cost = f"{cost_note(collection.runs, runs)} A stage shared by experiments counts once."
    return index_page(f"Reports of {runs.resolve().name}", links, cost, rest)


def check_project(group: Collection) -> list[str]:
    """Problems of the tracker project and entity in the config of a group's first run, one sentence each."""
    run = group.runs.iloc[0]["run"]
    config = group.config(run)
    problems = []
    for key, odd_of in (("tracker.project", odd_project), ("tracker.entity", odd_name)):
        name = config.get(key)
        odd = odd_of(name) if isinstance(name, str) else "is not a name"
        if odd and not (key == "tracker.entity" and name is None):
            problems.append(f"config.yaml of {run}: {key} = {ascii(name)} {odd}; report without --tracker")
    return problems


def track_report(mode: str, group: Collection, runs: Path, out: Path) -> None:
    """Upload a written report to a tracker, in the project of the runs, whose name is valid (`check_project`).

    Args:
        mode: mode of the tracker.
        runs: the folder that was searched.
        out: folder of the report, and of the tracker's files.
    """
    first = group.runs.iloc[0]
    config = group.config(first["run"])
    folder = tables.group_folder(group).as_posix()
    identity = TrackerIdentity(
        experiment=first["experiment"],
        group=f"{folder}/report",
        job_type="report",
        name=f"{folder} report",
        tags=(first["dataset"], first["model"], "report"),
        project=config["tracker.project"],
        entity=config.get("tracker.entity"),
    )
    made_of = {"runs": sorted(group.runs["run"]), "folder": str(runs)}
    for views in ("wandb", "tensorboard"):
        if (out / views).exists():
            command.make_folder(out / views, out)
    tracker = make_tracker([mode], directory=out, identity=identity, config=made_of)
    table = pd.read_csv(out / "table.csv")
    rows = table.astype(object).where(table.notna(), None).to_numpy().tolist()
    tracker.log_table("comparison", list(table.columns), rows)
    for figure in ("curves", "training"):
        if (file := out / f"{figure}.png").exists():
            tracker.log_image(f"report/{figure}", file)
    tracker.finish()


if __name__ == "__main__":
    sys.exit(main())
