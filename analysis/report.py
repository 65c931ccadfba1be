"""`python -m analysis.report runs/mini --out reports/mini`: table and curves from run directories."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from analysis import curves, tables
from analysis.collect import Collection, collect
from analysis.command import add_out, make_parser, out_folder, refuse, show_problems, show_written, terminal
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    console, out = terminal(), out_folder(options)
    try:
        collection = collect(options.runs)
        if collection.runs.empty:
            show_problems(console, options.runs, collection.problems)
            raise BadInput(f"no finished run below {options.runs}: there is nothing to report")
    except BadInput as error:
        return refuse("report", error)
    written = []
    groups = collection.groups()
    for group in groups:
        written += write_report(group, out if len(groups) == 1 else out / _folder(group), options.resamples, console)
    show_problems(console, options.runs, collection.problems)
    show_written(console, written)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("report", DESCRIPTION, EPILOG, "folder with run directories at any depth")
    add_out(parser)
    return parser


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


if __name__ == "__main__":
    sys.exit(main())
