"""Write table, curves and an HTML page for runs."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console

from analysis import command
from analysis.collection import Collection, collect
from analysis.figures.lines import draw_training, draw_validation
from analysis.figures.style import save
from analysis.html import group_page, index_page
from analysis.html.budgets import cost_note
from analysis.problems import Problem
from analysis.render.sheet import to_latex, to_markdown, to_rich
from analysis.tables.build import build_table
from analysis.tables.headline import headline_of, sentences
from analysis.tables.marks import group_folder, group_title
from analysis.tables.model import Table
from analysis.tables.write import short_sheet, table_sheet, to_csv
from rlbench.base.errors import BadInput
from rlbench.config.names import odd_name, odd_project
from rlbench.tracking import TrackerIdentity, make_tracker

PAGE = "report.html"
OF_A_GROUP = [f"table.{suffix}" for suffix in ("md", "csv", "tex")]
OF_A_GROUP += [f"{figure}.{suffix}" for figure in ("curves", "training") for suffix in ("png", "svg")]
"""Files of one group's report beside its page."""


def run(options: argparse.Namespace) -> int:
    """Run the command with its parsed options, and return its exit code."""
    console, out = command.terminal(), command.out_folder(options)
    collection = collect(options.runs)
    groups = command.usable_groups(collection, options.runs, console, lambda _: True, "run", "nothing to report")
    if options.short:
        for group in groups:
            show_short(group, build_table(group, resamples=options.resamples), console)
        command.show_problems(console, options.runs, collection.problems)
        return 0
    if options.tracker != "none" and (wrong := [said for group in groups for said in check_project(group)]):
        raise BadInput(*wrong)
    written = []
    for group in groups:
        folder = command.make_folder(out if len(groups) == 1 else out / group_folder(group), out)
        table = build_table(group, resamples=options.resamples)
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


def write_report(group: Collection, table: Table, out: Path, console: Console) -> list[Path]:
    """Write the table and figures of one group, print the table, and return the files written."""
    sheet = table_sheet(table)
    console.print(to_rich(sheet, console.width))
    console.print()
    texts = {"table.md": to_markdown(sheet), "table.csv": to_csv(table), "table.tex": to_latex(sheet)}
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


def show_short(group: Collection, table: Table, console: Console) -> None:
    """Print the short table of one group, and its headline in words."""
    console.print(to_rich(short_sheet(table), console.width))
    if headline := headline_of(table, group):
        console.print(" ".join(sentences(headline, {row.label: row.name for row in table.rows})), markup=False)
    console.print()


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
    links = [(group_title(group), f"{group_folder(group).as_posix()}/{PAGE}", len(group.runs)) for group in groups]
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
    folder = group_folder(group).as_posix()
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
