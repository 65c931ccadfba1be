"""The parts of a table: plain numbers with their meaning. `write` and the reports format them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from analysis.render.numbers import Interval

BUDGET = ("updates", "prompts", "completions")
"""Budget that RL rows must share to be compared."""

SPENT = (*BUDGET, "generated_tokens", "seconds")

ONE_SEED, UNEQUAL, MISSING, STOPPED = "†", "‡", "§", "¶"
MARKS = (ONE_SEED, UNEQUAL, MISSING, STOPPED)

Value = Interval | float | str | None
"""Content of a table cell: an estimate, the mean of a count or setting over runs, text, or nothing."""


@dataclass(frozen=True)
class Column:
    """A column after the row's name.

    Attributes:
        key: name in `Row.cells` and CSV: ndcg@10, ndcg@10_iqm, ndcg@10_minus_sft, ndcg@10_beats_sft, updates.
        kind: mean, iqm, difference, improvement or value.
        of: per-query metric; for a value: column of the run table, or a setting.
        to: label of the baseline of a difference or an improvement, else "".
        digits, interval, p: number of decimals, style of the interval, whether to show p (`ColumnSpec`).
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
    """A run behind a cell; `run` is its directory, relative to the searched `folder`."""

    run: str
    folder: str
    seed: int
    hash: str

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.run}" if self.folder else self.run


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        name, label: as shown, and as in the run directory.
        group: heading above the row; "" in a table without groups.
        stage: oracle, zero_shot, sft or rl.
        algorithm, reward: of an RL row, else "".
        made: its runs, by seed.
        cells: column key to content.
        metrics: per-query metric to its mean over seeds and samples, for every column of means.
        difference: this row minus the baseline on the table's headline metric; None if not compared.
        spent: quantities of SPENT, each as the mean per run of the row's own stage.
        missing: seeds that the spec or other RL rows of its group have, but this row lacks.
        stops: (seed, update) of the runs whose training stopped early.
        bold: keys of the columns in which this row is shown to be the best RL row.
        against: key of a comparing column to the runs of the baseline row.
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
    metrics: Mapping[str, Interval]
    difference: Interval | None
    spent: Mapping[str, float]
    missing: tuple[int, ...] = ()
    stops: tuple[tuple[int, int], ...] = ()
    marks: tuple[str, ...] = ()
    bold: frozenset[str] = frozenset()
    against: Mapping[str, tuple[Made, ...]] = field(default_factory=dict)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.made)

    @property
    def stopped(self) -> tuple[int, ...]:
        """Seeds whose training stopped early."""
        return tuple(seed for seed, _ in self.stops)

    @property
    def runs(self) -> tuple[str, ...]:
        """Run directories, in the order of `seeds`."""
        return tuple(run.run for run in self.made)


@dataclass(frozen=True)
class Versus:
    """A row against the baseline of its group, on one metric.

    Attributes:
        group, row, label: heading, name and label of the row.
        seeds, baseline_seeds: seeds of the compared runs (`statistics.compared_seeds`).
        difference: row minus baseline; its `p` belongs to the interval and is not corrected.
        p_holm: `difference.p`, Holm-corrected over all tests of the table; None if seeds or budgets allow no verdict.
        permutation_p, permutation_holm: p of the permutation test that the seeds allow, uncorrected and corrected.
        permuted: what that test permutes: "labels" of runs, "seeds" in pairs, or "contexts" of two models.
        smallest_p: smallest p that the test can reach; None if it permutes contexts or draws its permutations.
        improvement: probability that a run of the row scores higher than one of the baseline; None with one seed each.
        detectable: true difference that this design detects with power 0.8 after the correction, with its 80 % range;
            None if nothing is tested or no seeds pair.
        holds: whether a difference is shown, by `p_holm`.
        reading: the verdict in words.
        marks: those of the row, and those of the baseline except ONE_SEED.
    """

    group: str
    row: str
    label: str
    baseline: str
    metric: str
    seeds: tuple[int, ...]
    baseline_seeds: tuple[int, ...]
    difference: Interval
    p_holm: float | None
    permutation_p: float
    permutation_holm: float | None
    permuted: str
    smallest_p: float | None
    improvement: Interval | None
    detectable: Interval | None
    holds: bool
    reading: str
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Over:
    """The leading row of a column minus another row.

    Attributes:
        difference: with its interval and uncorrected p.
        wins: probability that a run of the leading row scores higher than one of the other row; None if they cannot
            be compared.
        reason: why the two cannot be compared (seeds, budgets), or "".
        holds: whether the leading row is shown to be better than this one.
    """

    row: str
    label: str
    difference: Interval
    wins: float | None
    reason: str
    holds: bool


@dataclass(frozen=True)
class Lead:
    """The RL row with the highest mean in a column of its group.

    Attributes:
        column: key of the column.
        row, label, seeds: of the leading row.
        over: its differences to the other RL rows, closest mean first.
        p: largest p of its differences to comparable rows; None if no row is comparable.
        p_holm: the same p, Holm-corrected over all tests of the table.
        holds: whether it is shown to be the best of the comparable rows.
        tests: number of tests in the correction of `p_holm`.
        detectable: as in `Versus`, averaged over the comparable rows.
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
    detectable: Interval | None

    @property
    def left_out(self) -> tuple[Over, ...]:
        """Rows that cannot be compared with the leading row."""
        return tuple(one for one in self.over if one.reason)


@dataclass(frozen=True)
class Table:
    """Rows in display order, with notes and comparisons.

    Attributes:
        key: one word for a LaTeX label, from experiment, dataset and model.
        cutoffs: cut-offs of all runs, ascending.
        rows: ordered by group.
        notes: sentences below the table; a note on marked rows starts with its mark.
        headline: metric of `Row.difference`; "" if nothing is compared.
        baseline: name of the baseline, or "".
        comparisons: every trained row against its baseline, ordered by metric; empty without a baseline.
        comparison_notes: sentences below the comparisons.
        leads: leading row of each column tested for a best row, ordered by group.
        family: sentences on what is tested and how it is corrected.
        method: header of the column of row names.
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
