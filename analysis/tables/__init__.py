"""Tables from run directories: which rows and columns, their numbers, and what a reader must know beside them.

A spec (`spec`, YAML) says what is shown; `select` finds the runs, `build` makes the numbers, `compare` tests rows
against a baseline, `marks` says where a comparison would be unfair, and `write` lays it out, in the same bytes for the
same runs. docs/tables.md is the reference.
"""

from analysis.tables.build import ACCURACY, build, build_table
from analysis.tables.marks import (
    ONE_SEED_NOTE,
    checkpoint_note,
    group_title,
    intervals_text,
    sft_note,
    test_note,
    unequal_budgets,
    unequal_note,
)
from analysis.tables.model import (
    BUDGET,
    MARKS,
    MISSING,
    ONE_SEED,
    SHARED_STAGES,
    SPENT,
    STOPPED,
    UNEQUAL,
    Cell,
    Column,
    Made,
    Row,
    Table,
    Versus,
)
from analysis.tables.numbers import chance, count, metric_title, share, signed
from analysis.tables.scores import cell_of, row_scores, share_of
from analysis.tables.select import Source
from analysis.tables.spec import TableSpec, parse_spec, read_spec
from analysis.tables.write import (
    NOTHING,
    Shown,
    comparisons_csv,
    comparisons_sheet,
    in_markdown,
    markdown_page,
    runs_json,
    sheet_to_latex,
    sheet_to_markdown,
    sheet_to_rich,
    to_csv,
    to_latex,
    to_markdown,
    to_rich,
)
from rlbench.durations import duration

__all__ = [
    "ACCURACY",
    "BUDGET",
    "Cell",
    "Column",
    "MARKS",
    "MISSING",
    "Made",
    "NOTHING",
    "ONE_SEED",
    "ONE_SEED_NOTE",
    "Row",
    "SHARED_STAGES",
    "SPENT",
    "STOPPED",
    "Shown",
    "Source",
    "Table",
    "TableSpec",
    "UNEQUAL",
    "Versus",
    "build",
    "build_table",
    "cell_of",
    "chance",
    "checkpoint_note",
    "comparisons_csv",
    "comparisons_sheet",
    "count",
    "duration",
    "group_title",
    "in_markdown",
    "intervals_text",
    "markdown_page",
    "metric_title",
    "parse_spec",
    "read_spec",
    "row_scores",
    "runs_json",
    "sft_note",
    "share",
    "share_of",
    "sheet_to_latex",
    "sheet_to_markdown",
    "sheet_to_rich",
    "signed",
    "test_note",
    "to_csv",
    "to_latex",
    "to_markdown",
    "to_rich",
    "unequal_budgets",
    "unequal_note",
]
