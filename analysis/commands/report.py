"""Write table, curves and an HTML page for runs."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from rich.console import Console

from analysis import command
from analysis.collection import Collection, collect
from analysis.figures.lines import draw_training, draw_validation
from analysis.figures.style import save
from analysis.html import ComparedGroup, compare, group_page, index_page
from analysis.html.budgets import cost_note
from analysis.problems import Problem
from analysis.render.numbers import words
from analysis.render.sheet import to_latex, to_markdown, to_rich
from analysis.tables.build import build_table
from analysis.tables.headline import headline_of, sentences
from analysis.tables.marks import group_folder, group_title
from analysis.tables.model import Table
from analysis.tables.write import short_sheet, table_sheet, to_csv
from rlbench.base.errors import BadInput
from rlbench.base.records import PUT_BACK
from rlbench.config.names import odd_name, odd_project
from rlbench.runs.record import COMPLETIONS
from rlbench.tracking import TrackerIdentity, make_tracker

PAGE = "report.html"
OF_A_GROUP = [f"table.{suffix}" for suffix in ("md", "csv", "tex")]
OF_A_GROUP += [f"{figure}.{suffix}" for figure in ("curves", "training") for suffix in ("png", "svg")]
"""Files of one group's report beside its page."""


@dataclass(frozen=True)
class PageGroup:
    """One group of runs, with the collection and the folder that contain it.

    Attributes:
        name: as shown beside other groups; no other group has it.
        folder: its folder below --out.
    """

    name: str
    folder: Path
    group: Collection
    collection: Collection

    @property
    def runs(self) -> Path:
        return self.collection.source.folder


def run(options: argparse.Namespace) -> int:
    """Run the command with its parsed options, and return its exit code."""
    console = command.terminal()
    parts = []
    for runs in options.runs:
        collection = collect(runs)
        groups = command.usable_groups(collection, runs, console, lambda _: True, "run", "nothing to report")
        parts += [PageGroup("", Path(), group, collection) for group in groups]
    if options.short:
        for part in parts:
            show_short(part.group, build_table(part.group, resamples=options.resamples), console)
        show_all_problems(parts, console)
        return 0
    if options.tracker != "none" and (wrong := [said for part in parts for said in check_project(part.group)]):
        raise BadInput(*wrong)
    out = options.out if options.out is not None else command.default_folder_of_several(options.runs)
    written: list[Path] = []
    experiments = []
    for part in placed(parts):
        folder = command.make_folder(out / part.folder, out)
        table = build_table(part.group, resamples=options.resamples)
        written += write_report(part.group, table, folder, console)
        page = group_page(part.group, table, part.runs, of_group(part.group, part.collection))
        written += command.write_texts(folder, {PAGE: page})
        if options.tracker != "none":
            track_report(options.tracker, part.group, part.runs, folder)
        experiments.append(ComparedGroup(part.name, f"{part.folder.as_posix()}/{PAGE}", part.group, table))
    if len(parts) > 1:
        if (out / PAGE).exists():  # of an earlier report, maybe of one group
            command.set_aside(out, OF_A_GROUP)
        index = make_index(parts, experiments, resamples=options.resamples)
        written += command.write_texts(out, {PAGE: index})
    show_all_problems(parts, console)
    command.show_older(console, out, [f"*/*/{PAGE}"], written)
    command.show_written(console, written)
    return 0


def placed(parts: Sequence[PageGroup]) -> list[PageGroup]:
    """The groups with their names and folders: by experiment, and by all that is needed to tell them apart."""
    if len(parts) == 1:
        return [replace(parts[0], name=str(parts[0].group.runs.iloc[0]["experiment"]))]
    firsts = [part.group.runs.iloc[0] for part in parts]
    schemes = [
        [str(first["experiment"]) for first in firsts],
        [f"{first['experiment']} ({first['dataset']}, {first['model']})" for first in firsts],
        [f"{part.runs.as_posix()}: {group_title(part.group)}" for part in parts],
    ]
    names = next(scheme for scheme in schemes if len(set(scheme)) == len(parts))
    folders = [group_folder(part.group) for part in parts]
    if len(set(folders)) < len(parts):
        order = list(dict.fromkeys(part.runs for part in parts))
        folders = [Path(f"{order.index(part.runs) + 1}") / group_folder(part.group) for part in parts]
    return [replace(part, name=name, folder=folder) for part, name, folder in zip(parts, names, folders, strict=True)]


def show_all_problems(parts: Sequence[PageGroup], console: Console) -> None:
    """Print the excluded and unusual runs of each folder."""
    for runs, collection in {part.runs: part.collection for part in parts}.items():
        command.show_problems(console, runs, collection.problems)


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


def make_index(parts: Sequence[PageGroup], experiments: Sequence[ComparedGroup], *, resamples: int) -> str:
    """report.html for several groups, with links to their pages and what compares them."""
    collections = {part.runs: part.collection for part in parts}
    several = len(collections) > 1
    links = []
    for one, part in zip(experiments, parts, strict=True):
        where = f", in {part.runs.as_posix()}" if several else ""
        links.append((f"{group_title(part.group)}{where}", one.path, len(part.group.runs)))
    rest, cost = [], []
    for runs, collection in collections.items():
        told = {problem for part in parts if part.runs == runs for problem in of_group(part.group, collection)}
        left = [problem for problem in collection.problems if problem not in told]
        rest += [replace(problem, run=f"{runs.as_posix()}/{problem.run}") for problem in left] if several else left
        where = f"{runs.as_posix()}: " if several else ""
        cost.append(f"{where}{cost_note(collection.runs, runs)} A stage shared by experiments counts once.")
    title = f"Reports of {words([runs.resolve().name for runs in collections])}"
    return index_page(title, links, cost, rest, compare(experiments, resamples=resamples))


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


def final_lists(group: Collection, runs: Path) -> tuple[list[str], list[list[str | float]]]:
    """Return the kept lists on test at the end of each run, as a table in which one context's lists are together.

    Args:
        runs: the folder that was searched; a stored collection has no lists.
    """
    from rlbench.runs.completions import as_table

    columns: list[str] = []
    rows: list[list[str | float]] = []
    for run, label, seed in group.runs[["run", "label", "seed"]].itertuples(index=False):
        kept = [row for row in COMPLETIONS.read(runs / run, PUT_BACK) if row["split"] == "test"]
        last = max((row["step"] for row in kept), default=0)
        names, found = as_table([row for row in kept if row["step"] == last])
        columns = columns or (["row", "seed", *names] if names else [])
        rows += [[label, int(seed), *cells] for cells in found]
    rows.sort(key=lambda cells: (cells[columns.index("context_id")], cells[:2]))
    return columns, rows


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
    columns, lists = final_lists(group, runs)
    if lists:
        tracker.log_table("lists", columns, lists)
    for figure in ("curves", "training"):
        if (file := out / f"{figure}.png").exists():
            tracker.log_image(f"report/{figure}", file)
    tracker.finish()
