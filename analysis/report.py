"""`python -m analysis.report runs/mini --out reports/mini`: table and curves from run directories."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from analysis import curves, statistics, tables
from analysis.collect import Collection, Problem, collect
from rlbench.errors import BadInput

DESCRIPTION = """\
Make the comparison table and the curves of an experiment from its run directories.

Reads every run below RUNS (any folder that holds STATUS) and writes to the --out folder:
  table.md, table.csv, table.tex   the comparison: Recall and NDCG on test with 95 % intervals, cost
  curves.png, curves.svg           Recall and NDCG on validation against updates
  training.png, training.svg       reward, entropy, KL, list length, ... of training against updates
Where RUNS holds several experiments, datasets or models, each has a folder of its own below --out.

Runs that are not done, half-written, of another schema version, duplicate or with NaN metrics are left
out and named; the report is made from the others. Needs no model and no GPU.
"""
EPILOG = """\
example:  python -m analysis.report runs/mini --out reports/mini
exit code: 0 written (whatever was left out); 2 no such folder, or no finished run in it
"""
TERMINAL_WIDTH = 120
"""Columns assumed where output goes to a file."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    console = Console() if sys.stdout.isatty() else Console(width=TERMINAL_WIDTH)
    out = options.out if options.out is not None else Path("reports") / options.runs.resolve().name
    try:
        collection = collect(options.runs)
        if collection.runs.empty:
            show_problems(console, options.runs, collection.problems)
            raise BadInput(f"no finished run below {options.runs}: there is nothing to report")
    except BadInput as error:
        print(f"analysis.report: {error}", file=sys.stderr)
        return 2
    written = []
    groups = collection.groups()
    for group in groups:
        written += write_report(group, out if len(groups) == 1 else out / _folder(group), options.resamples, console)
    show_problems(console, options.runs, collection.problems)
    console.print("Wrote")
    for path in written:
        console.print(f"  {path}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=Path, metavar="RUNS", help="folder with run directories at any depth")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write (default: reports/<name of RUNS>)")
    parser.add_argument(
        "--resamples",
        type=positive,
        default=statistics.RESAMPLES,
        metavar="N",
        help="bootstrap resamples behind each interval (default: %(default)s)",
    )
    return parser


def positive(text: str) -> int:
    """An option's whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def _folder(group: Collection) -> Path:
    first = group.runs.iloc[0]
    return Path(first["experiment"]) / f"{first['dataset']}-{first['model']}"


def write_report(group: Collection, out: Path, resamples: int, console: Console) -> list[Path]:
    """Write the table and the figures of one group, show the table, and return the files written."""
    out.mkdir(parents=True, exist_ok=True)
    table = tables.build_table(group, resamples=resamples)
    console.print(tables.to_rich(table, console.width))
    console.print()
    written = []
    for suffix, text in (
        ("md", tables.to_markdown(table)),
        ("csv", tables.to_csv(table)),
        ("tex", tables.to_latex(table)),
    ):
        path = out / f"table.{suffix}"
        path.write_text(text, encoding="utf-8", newline="\n")
        written.append(path)
    for name, figure, lacking in (
        ("curves", curves.draw_validation(group), "no RL run has validation metrics"),
        ("training", curves.draw_training(group), "no RL run has training metrics"),
    ):
        if figure is None:
            console.print(f"[yellow]No {name}.png:[/] {lacking}.")
            for suffix in ("png", "svg"):  # of an earlier report, which would pass for this one's
                (out / f"{name}.{suffix}").unlink(missing_ok=True)
        else:
            written += curves.save(figure, out / name)
    return written


def show_problems(console: Console, folder: Path, problems: Sequence[Problem]) -> None:
    """Name the runs that are left out, then those that are used but odd."""
    for left_out, heading in ((True, "Left out"), (False, "Used, but note")):
        concerned = [problem for problem in problems if problem.left_out == left_out]
        if concerned:
            console.print(f"[bold yellow]{heading}[/] (paths below {escape(str(folder))}):")
            for problem in concerned:
                console.print(f"  {problem}", markup=False, highlight=False, soft_wrap=True)
            console.print()


if __name__ == "__main__":
    sys.exit(main())
