# ruff: noqa: F401 (the names that other rooms use)
"""Tables from run directories: rows, columns, numbers and the notes below them.

A YAML spec (`spec`) defines what is shown. `select` and `prepare` find the runs, `build` computes the numbers,
`compare` tests rows against a baseline, `marks` and `cautions` judge whether a comparison is fair, `headline` says what
leads, and `write` formats the table. The same runs give the same bytes. Reference: docs/tables.md.
"""

from analysis.tables.build import build, build_table
from analysis.tables.compare import FEWEST_SEEDS, detectable_text
from analysis.tables.marks import (
    ONE_SEED_NOTE,
    checkpoint_note,
    group_folder,
    group_title,
    marked,
    sft_note,
    test_note,
    unequal_budgets,
    unequal_note,
)
from analysis.tables.model import BUDGET, MISSING, ONE_SEED, STOPPED, UNEQUAL, Lead, Row, Table, Versus
from analysis.tables.profiles import Profile, profile_scores
from analysis.tables.scores import cell_of, row_scores, share_of
from analysis.tables.select import Folder
from analysis.tables.spec import TableSpec, parse_spec, read_spec
from analysis.tables.write import cell_runs, comparisons_csv, comparisons_sheet, runs_json, table_sheet, to_csv
