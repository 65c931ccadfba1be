"""What a table is made of: plain numbers with what they stand for, laid out by `write` and by reports."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

SHARED_STAGES = {"oracle": "oracle", "zero_shot": "zero-shot", "sft": "SFT"}
"""Names of the rows above the algorithms, in their order."""


def shared_stage_name(stage: str, label: str) -> str:
    """What a row of a shared stage is called; an SFT row that says in its label what it learnt from, with that."""
    _, at, variant = label.partition("@")
    return SHARED_STAGES[stage] + (f" @ {variant}" if at else "")


BUDGET = ("updates", "prompts", "completions")
"""What RL rows must have spent alike to be compared."""

SPENT = (*BUDGET, "generated_tokens", "seconds")

ONE_SEED, UNEQUAL, MISSING, STOPPED = "†", "‡", "§", "¶"
MARKS = (ONE_SEED, UNEQUAL, MISSING, STOPPED)


@dataclass(frozen=True)
class Cell:
    """A number with its 95 % interval.

    Attributes:
        mean: the number: a mean, an interquartile mean, a difference or a probability.
        low, high: its interval; NaN where there is none.
        p: of a difference of 0, corrected as the table's notes say; None where nothing was tested.
    """

    mean: float
    low: float = math.nan
    high: float = math.nan
    p: float | None = None

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    @property
    def has_interval(self) -> bool:
        return not math.isnan(self.low)


Value = Cell | float | str | None
"""What a cell of a table holds: an estimate, a mean of a count or a setting over runs, words, or nothing."""


@dataclass(frozen=True)
class Column:
    """A column after the row's name.

    Attributes:
        key: names it in `Row.cells` and in CSV: ndcg@10, ndcg@10_iqm, ndcg@10_minus_sft, ndcg@10_beats_sft, updates.
        header: as shown.
        kind: mean, iqm, difference, improvement or value.
        of: per-query metric; for a value: column of the run table, or a setting.
        to: label of the baseline that a difference or an improvement is to, else "".
        digits: after the point.
        interval: how an interval shows: brackets, plus_minus or none.
        p: whether p of a difference shows.
    """

    key: str
    header: str
    kind: str
    of: str
    to: str = ""
    digits: int = 3
    interval: str = "brackets"
    p: bool = False


@dataclass(frozen=True)
class Made:
    """A run behind a cell.

    Attributes:
        run: its directory, below the folder that was searched.
        folder: that folder.
        seed, hash: of the run.
    """

    run: str
    folder: str
    seed: int
    hash: str


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        name: as shown.
        label: as in the run directory.
        group: heading that the row stands under; "" in a table without groups.
        stage: oracle, zero_shot, sft or rl.
        algorithm, reward: of an RL row, else "".
        experiment, dataset, model: of its runs.
        made: its runs, by seed.
        cells: column's key to what it holds.
        metrics: per-query metric to its mean over seeds and samples, for every column of means.
        difference: this row minus the table's baseline on the table's headline; None where that was not compared.
        spent: SPENT to its mean per run of the row's own stage.
        missing: seeds that other RL rows of its group, or the spec, have and this row has not.
        stopped: seeds whose training stopped early.
        marks: of MARKS.
        bold: keys of the columns in which this row is shown to be the best RL row.
        against: key of a column that compares to the runs of the row that it compares with.
    """

    name: str
    label: str
    group: str
    stage: str
    algorithm: str
    reward: str
    experiment: str
    dataset: str
    model: str
    made: tuple[Made, ...]
    cells: Mapping[str, Value]
    metrics: Mapping[str, Cell]
    difference: Cell | None
    spent: Mapping[str, float]
    missing: tuple[int, ...] = ()
    stopped: tuple[int, ...] = ()
    marks: tuple[str, ...] = ()
    bold: frozenset[str] = frozenset()
    against: Mapping[str, tuple[Made, ...]] = field(default_factory=dict)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.made)

    @property
    def runs(self) -> tuple[str, ...]:
        """Directories of the runs, in the order of `seeds`."""
        return tuple(run.run for run in self.made)


@dataclass(frozen=True)
class Versus:
    """A row against the baseline of its group, on one metric.

    Attributes:
        group, row, label: of the row; its heading, its name and its label.
        baseline: name of the baseline's row.
        metric: per-query metric.
        seeds, baseline_seeds: of the runs compared (`statistics.compared_seeds`).
        difference: row minus baseline; its `p` is that of the interval, not corrected.
        p_holm: `difference.p`, corrected for all tests of the table; None where seeds or budgets allow no verdict.
        permutation_p, permutation_holm: of the permutation test that the seeds allow, by itself and corrected.
        permuted: what that test rearranges: "labels" of runs, "seeds" in pairs, or "contexts" of two models.
        smallest_p: the smallest p that it could have had; None where it looks at a sample of the arrangements.
        improvement: probability that a run of the row scores higher than one of the baseline; None with one seed each.
        detectable: true difference that this design finds in 8 of 10 cases after the correction, with its 80 % range;
            None where nothing is tested, or no seeds pair.
        holds: whether a difference is shown, by `p_holm`.
        reading: the same in words.
        marks: of the row, and of the baseline all but ONE_SEED.
    """

    group: str
    row: str
    label: str
    baseline: str
    metric: str
    seeds: tuple[int, ...]
    baseline_seeds: tuple[int, ...]
    difference: Cell
    p_holm: float | None
    permutation_p: float
    permutation_holm: float | None
    permuted: str
    smallest_p: float | None
    improvement: Cell | None
    detectable: Cell | None
    holds: bool
    reading: str
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Over:
    """The leading row of a column minus another row.

    Attributes:
        row, label: of the other row.
        difference: with its interval and p, not corrected.
        wins: probability that a run of the leading row scores higher than one of the other; None where they are not
            compared.
        reason: why the two cannot be compared (seeds, budgets); "" where they can.
    """

    row: str
    label: str
    difference: Cell
    wins: float | None
    reason: str


@dataclass(frozen=True)
class Lead:
    """The RL row with the highest mean in a column of its group.

    Attributes:
        group, column: where; the heading, and the column's key.
        metric: of the column.
        row, label, seeds: of the leading row.
        over: its differences to the other RL rows, the nearest first.
        p: largest p of the differences to the rows that it can be compared with; None where there is none.
        p_holm: the same, corrected for all tests of the table.
        holds: whether it is shown to be the best of the rows that can be compared.
        tests: how many tests `p_holm` is corrected for.
        detectable: as of `Versus`, averaged over those rows.
    """

    group: str
    column: str
    metric: str
    row: str
    label: str
    seeds: tuple[int, ...]
    over: tuple[Over, ...]
    p: float | None
    p_holm: float | None
    holds: bool
    tests: int
    detectable: Cell | None

    @property
    def left_out(self) -> tuple[Over, ...]:
        """Rows that the leading row cannot be compared with."""
        return tuple(one for one in self.over if one.reason)


@dataclass(frozen=True)
class Table:
    """Rows in the order to be shown, and what a reader must know beside them.

    Attributes:
        title: as shown.
        key: the same as one word, for a LaTeX label.
        cutoffs: of all runs, ascending.
        columns: after the row's name.
        rows: group after group.
        notes: sentences below the table; a note on marked rows starts with its mark.
        headline: metric that `Row.difference` is of; "" where nothing is compared.
        baseline: what rows are compared with, in words; "" for nothing.
        comparisons: every trained row against its baseline, metric by metric; empty without a baseline.
        comparison_notes: sentences below them.
        leads: the leading row of each column that is tested for one, group after group.
        family: what is tested, and how it is corrected: one sentence or more.
        method: header of the rows' names.
    """

    title: str
    key: str
    cutoffs: tuple[int, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    headline: str = ""
    baseline: str = ""
    comparisons: tuple[Versus, ...] = ()
    comparison_notes: tuple[str, ...] = ()
    leads: tuple[Lead, ...] = ()
    family: str = ""
    method: str = "Method"
