"""The comparison table: one row a method, with intervals, cost, and marks where a comparison would be unfair.

`build_table` makes the numbers; the writers only lay them out, and write the same bytes for the same runs.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from analysis import statistics
from analysis.collect import Collection, required_metrics
from analysis.statistics import Estimate, Scores

SHARED_STAGES = {"oracle": "oracle", "zero_shot": "zero-shot", "sft": "SFT"}
"""Names of the rows above the algorithms, in their order."""

BUDGET = ("updates", "prompts", "completions")
"""What RL rows must have spent alike to be compared."""

SPENT = (*BUDGET, "generated_tokens", "seconds")

ONE_SEED, UNEQUAL = "†", "‡"


@dataclass(frozen=True)
class Cell:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        label: as in the run directory.
        stage: oracle, zero_shot, sft or rl.
        algorithm, reward: of an RL row, else "".
        seeds: seeds of the runs that made the row.
        runs: their directories, in the order of `seeds`.
        metrics: per-query metric to its mean over seeds and samples.
        difference: this row minus SFT on the table's `headline`; None outside RL rows or without an SFT row.
        spent: SPENT to its mean per run of the row's own stage.
        marks: of ONE_SEED and UNEQUAL.
        bold: metrics in which this row is shown to be the best RL row.
    """

    label: str
    stage: str
    algorithm: str
    reward: str
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    metrics: Mapping[str, Cell]
    difference: Cell | None
    spent: Mapping[str, float]
    marks: tuple[str, ...] = ()
    bold: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The row's name in words."""
        if self.stage == "rl":
            return f"{self.algorithm} · {self.reward}"
        _, at, demonstrations = self.label.partition("@")
        return SHARED_STAGES[self.stage] + (f" @ {demonstrations}" if at else "")


@dataclass(frozen=True)
class Table:
    """Rows in the order to be shown, and what a reader must know beside them.

    Attributes:
        title: experiment, dataset and model.
        key: the same as one word, for a LaTeX label.
        cutoffs: ascending.
        rows: oracle, zero-shot, SFT, then RL rows by algorithm and reward.
        notes: sentences below the table; a note on marked rows starts with its mark.
    """

    title: str
    key: str
    cutoffs: tuple[int, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def headline(self) -> str:
        """The metric that differences to SFT are of."""
        return f"ndcg@{self.cutoffs[-1]}"


def build_table(group: Collection, *, resamples: int = statistics.RESAMPLES) -> Table:
    """The comparison table of one group of runs (`Collection.groups`), which holds at least one run."""
    runs = group.runs.sort_values(["label", "seed"], kind="stable")
    first = runs.iloc[0]
    cutoffs = tuple(sorted(first["cutoffs"]))
    metrics = required_metrics(cutoffs)
    headline = metrics.index(f"ndcg@{cutoffs[-1]}")
    labels = sorted(dict.fromkeys(runs["label"]), key=lambda label: _order(runs[runs["label"] == label].iloc[0]))
    parts = {label: runs[runs["label"] == label] for label in labels}
    scores = {label: row_scores(group.queries, part, metrics) for label, part in parts.items()}
    means = {label: statistics.mean_interval(scores[label], resamples=resamples) for label in labels}
    trained = [label for label in labels if parts[label].iloc[0]["stage"] == "rl"]
    sft = next((label for label in labels if parts[label].iloc[0]["stage"] == "sft"), None)
    unequal = unequal_budgets(runs[runs["stage"] == "rl"])
    bold: dict[str, set[str]] = {label: set() for label in labels}
    for column, metric in enumerate(metrics[:-1]):  # in_catalog, the last, is no score to win
        winner = _clear_winner(trained, scores, means, parts, column, resamples)
        if winner is not None:
            bold[winner].add(metric)

    rows = []
    for label, part in parts.items():
        stage = str(part.iloc[0]["stage"])
        one_seed = len(part) == 1 and stage in ("sft", "rl")
        rl = stage == "rl"
        rows.append(
            Row(
                label=label,
                stage=stage,
                algorithm=str(part.iloc[0]["algorithm"]) if rl else "",
                reward=str(part.iloc[0]["reward"]) if rl else "",
                seeds=scores[label].seeds,
                runs=tuple(part["run"]),
                metrics={metric: share_of(means[label], i) for i, metric in enumerate(metrics)},
                difference=(
                    cell_of(statistics.paired_difference(scores[label], scores[sft], resamples=resamples), headline)
                    if rl and sft is not None
                    else None
                ),
                spent={key: float(part[key].mean()) for key in SPENT},
                marks=(ONE_SEED,) * one_seed + (UNEQUAL,) * (label in unequal),
                bold=frozenset(bold[label]),
            )
        )
    return Table(
        title=group_title(group),
        key=f"{first['experiment']}-{first['dataset']}-{first['model']}",
        cutoffs=cutoffs,
        rows=tuple(rows),
        notes=tuple(_notes(group, rows, cutoffs, resamples)),
    )


def group_title(group: Collection) -> str:
    """Dataset, model and experiment of a group of runs."""
    first = group.runs.iloc[0]
    return f"{first['dataset']}, {first['model']} (experiment {first['experiment']})"


def _order(run: pd.Series) -> tuple[int, str, str]:
    stages = [*SHARED_STAGES, "rl"]
    rl = run["stage"] == "rl"
    return stages.index(run["stage"]), str(run["algorithm"]) if rl else "", str(run["reward"]) if rl else ""


def row_scores(queries: pd.DataFrame, runs: pd.DataFrame, metrics: Sequence[str]) -> Scores:
    """Scores of the runs of one row, in their order; queries in the order of (context_id, sample), as read."""
    of_run = {name: part for name, part in queries.groupby("run", sort=False)}
    parts = [of_run[name] for name in runs["run"]]
    contexts, _ = pd.factorize(parts[0]["context_id"], sort=True)
    values = np.stack([part[list(metrics)].to_numpy(float) for part in parts])
    return Scores(values, contexts, tuple(int(seed) for seed in runs["seed"]))


def cell_of(estimate: Estimate, column: int) -> Cell:
    """One metric of an estimate."""
    return Cell(float(estimate.mean[column]), float(estimate.low[column]), float(estimate.high[column]))


def share_of(estimate: Estimate, column: int) -> Cell:
    """A cell of a metric that lies in 0..1, and so does its interval."""
    found = cell_of(estimate, column)
    return Cell(found.mean, max(found.low, 0.0), min(found.high, 1.0))


def _budgets(runs: pd.DataFrame) -> dict[tuple[int, ...], list[str]]:
    """Budget to the labels of the RL rows with a run of it, most runs first."""
    counts = Counter(tuple(int(value) for value in budget) for budget in runs[list(BUDGET)].to_numpy())
    budgets = sorted(counts, key=lambda budget: (-counts[budget], budget))
    same = [(runs[list(BUDGET)] == list(budget)).all(axis=1) for budget in budgets]
    return {budget: sorted(set(runs["label"][rows])) for budget, rows in zip(budgets, same, strict=True)}


def unequal_budgets(runs: pd.DataFrame) -> set[str]:
    """RL rows with another budget than most RL runs; all of them where no budget has a majority."""
    budgets = _budgets(runs)
    if len(budgets) < 2:
        return set()
    usual = next(iter(budgets))
    spent = (runs[list(BUDGET)] == list(usual)).all(axis=1)
    return set(runs["label"][~spent]) if spent.mean() > 0.5 else set(runs["label"])


def _clear_winner(
    labels: Sequence[str],
    scores: Mapping[str, Scores],
    means: Mapping[str, Estimate],
    runs: Mapping[str, pd.DataFrame],
    column: int,
    resamples: int,
) -> str | None:
    """The best of the rows, where it is shown to be: budgets equal, two seeds or more, difference beyond doubt."""
    if len(labels) < 2:
        return None
    best, second = sorted(labels, key=lambda label: (-means[label].mean[column], label))[:2]
    if min(len(scores[best].seeds), len(scores[second].seeds)) < 2:
        return None
    if len(_budgets(pd.concat([runs[best], runs[second]]))) > 1:
        return None
    a, b = (Scores(s.values[:, :, [column]], s.contexts, s.seeds) for s in (scores[best], scores[second]))
    return best if cell_of(statistics.paired_difference(a, b, resamples=resamples), 0).low > 0 else None


def _notes(group: Collection, rows: Sequence[Row], cutoffs: Sequence[int], resamples: int) -> list[str]:
    runs, stages = group.runs, {row.stage for row in rows}
    top = f"NDCG@{cutoffs[-1]}"
    notes = [test_note(group, resamples)]
    if "oracle" in stages:
        notes.append("oracle: the best possible list under the preferences that made the data, hence the ceiling.")
    if "rl" in stages:
        notes += [sft_note(runs, top), checkpoint_note(runs)]
        notes.append(
            "Bold: the best RL row of a column, only where its paired 95 % interval over the second best excludes 0 "
            "(not corrected for the number of columns), both have two seeds or more and equal budgets"
            + ("." if any(row.bold for row in rows) else "; that holds in no column.")
        )
    notes.append("Updates, time and generated tokens are means per run of the row's own stage.")
    if any(ONE_SEED in row.marks for row in rows):
        notes.append(ONE_SEED_NOTE)
    if any(UNEQUAL in row.marks for row in rows):
        notes.append(unequal_note(runs))
    return notes


def test_note(group: Collection, resamples: int) -> str:
    """What was judged, and what brackets are."""
    runs = group.runs
    one = group.queries[group.queries["run"] == runs.iloc[0]["run"]]
    return (
        f"Test split: {_many(len(one), 'sample')} of {_many(one['context_id'].nunique(), 'context')}, "
        f"lists of {runs.iloc[0]['list_length']}, greedy decoding. Brackets: 95 % interval, "
        f"{resamples:,} bootstrap resamples of seeds and of contexts, all samples of a context together."
    )


def sft_note(runs: pd.DataFrame, metric: str) -> str:
    """What a difference to SFT is."""
    sft = runs[runs["stage"] == "sft"]
    if sft.empty:
        return "There is no finished SFT run, so no difference to it can be given."
    return f"Δ {metric} to SFT: paired difference on the same contexts. " + (
        "SFT is the one checkpoint that RL starts from, so the interval leaves out its own training."
        if len(sft) == 1
        else "Seeds pair where both rows have the same ones."
    )


def checkpoint_note(runs: pd.DataFrame) -> str:
    """Which weights RL rows are judged at."""
    rules = sorted({str(rule) for rule in runs[runs["stage"] == "rl"]["checkpoint_rule"]})
    return f"RL rows are judged at the {' or '.join(rules)} checkpoint{_of_validation(rules)}."


ONE_SEED_NOTE = f"{ONE_SEED} One seed: the interval is over contexts only and leaves out how much trainings differ."


def unequal_note(runs: pd.DataFrame) -> str:
    """The budgets of RL rows, which are not the same."""
    spent = "; ".join(
        f"{', '.join(labels)}: {' / '.join(f'{value:,}' for value in budget)}"
        for budget, labels in _budgets(runs[runs["stage"] == "rl"]).items()
    )
    return f"{UNEQUAL} Unequal budgets ({' / '.join(BUDGET)}), not a fair comparison: {spent}."


def _of_validation(rules: Sequence[str]) -> str:
    return " on validation" if list(rules) == ["best"] else ""


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


# How numbers read.


def share(value: float) -> str:
    """.183 for 0.1834; 1.000 for 1."""
    text = f"{value:.3f}"
    return text[1:] if text.startswith("0.") else text


def signed(value: float) -> str:
    """+.035, −.035, .000."""
    text = share(abs(round(value, 3)))
    return text if text == ".000" else f"{'+' if value > 0 else '−'}{text}"


def duration(seconds: float) -> str:
    """mm:ss, h:mm:ss from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def count(value: float) -> str:
    """812, 12.3 k, 4.56 M: three digits, or all of them below 1,000."""
    units = iter(("", " k", " M", " G"))
    unit = next(units)
    while value >= 999.5 and unit != " G":
        value, unit = value / 1_000, next(units)
    digits = 0 if not unit or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}{unit}"


@dataclass(frozen=True)
class Shown:
    """A cell as text: value, interval ("" where it has none), whether bold."""

    value: str
    interval: str = ""
    bold: bool = False


NOTHING = Shown("–")


@dataclass(frozen=True)
class Column:
    """A column as shown: its header, and how it reads in a row."""

    header: str
    show: Callable[[Row], Shown]


def columns(table: Table) -> list[Column]:
    """Columns after the method's name."""
    shown = [Column(metric_title(metric), _metric(metric)) for metric in required_metrics(table.cutoffs)[:-1]]
    if any(row.difference is not None for row in table.rows):
        shown.append(Column(f"Δ {metric_title(table.headline)} to SFT", _difference))
    return shown + [
        Column("In catalogue", lambda row: Shown(share(row.metrics["in_catalog"].mean))),
        Column("Seeds", lambda row: Shown(str(len(row.seeds))) if row.stage in ("sft", "rl") else NOTHING),
        Column("Updates", lambda row: _spent(row, "updates", lambda updates: f"{updates:,.0f}")),
        Column("Time", lambda row: _spent(row, "seconds", duration)),
        Column("Tokens", lambda row: _spent(row, "generated_tokens", count)),
    ]


TITLES = {"recall": "Recall", "ndcg": "NDCG", "mrr": "MRR", "map": "MAP"}


def metric_title(metric: str) -> str:
    """NDCG@10 for ndcg@10; a metric without a title of its own has its name."""
    name, at, k = metric.partition("@")
    return f"{TITLES.get(name, name)}{at}{k}"


def _metric(metric: str) -> Callable[[Row], Shown]:
    def show(row: Row) -> Shown:
        cell = row.metrics[metric]
        return Shown(share(cell.mean), f"[{share(cell.low)}, {share(cell.high)}]", metric in row.bold)

    return show


def _difference(row: Row) -> Shown:
    cell = row.difference
    if cell is None:
        return NOTHING
    return Shown(signed(cell.mean), f"[{signed(cell.low)}, {signed(cell.high)}]")


def _spent(row: Row, key: str, reads: Callable[[float], str]) -> Shown:
    return Shown(reads(row.spent[key])) if row.spent[key] else NOTHING


# Writers.


def to_markdown(table: Table) -> str:
    """A GitHub table with the notes below it; columns line up in the source, too."""
    shown = columns(table)
    lines = [["Method", *(column.header for column in shown)]]
    lines += [[_marked(row), *(in_markdown(column.show(row)) for column in shown)] for row in table.rows]
    return markdown_page(table.title, lines, 1, table.notes)


def markdown_page(title: str, lines: Sequence[Sequence[str]], names: int, notes: Sequence[str]) -> str:
    """A heading, a table whose first line is its header, and notes; the first `names` columns are left-aligned."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rules = [f":{'-' * (w - 1)}" if i < names else f"{'-' * (w - 1)}:" for i, w in enumerate(widths)]
    text = [f"## {title}", ""]
    for line in (lines[0], rules, *lines[1:]):
        cells = [
            content.ljust(width) if i < names else content.rjust(width)
            for i, (content, width) in enumerate(zip(line, widths, strict=True))
        ]
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join([*text, "", *(f"- {note}" for note in notes), ""])


def _marked(row: Row) -> str:
    return " ".join([row.name, "".join(row.marks)]).strip()


def in_markdown(cell: Shown) -> str:
    """Value and interval on one line."""
    value = f"**{cell.value}**" if cell.bold else cell.value
    return f"{value} {cell.interval}".strip()


def to_csv(table: Table) -> str:
    """Plain numbers: a metric has the columns <metric>, <metric>_lo and <metric>_hi; an absent number is empty."""
    metrics = required_metrics(table.cutoffs)
    header = ["label", "stage", "algorithm", "reward", "seeds"]
    for name in (*metrics, f"{table.headline}_minus_sft"):
        header += [name, f"{name}_lo", f"{name}_hi"]
    header += [*SPENT, "one_seed", "unequal_budget", "bold", "runs"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in table.rows:
        line = [row.label, row.stage, row.algorithm, row.reward, str(len(row.seeds))]
        for cell in (*(row.metrics[name] for name in metrics), row.difference):
            line += ["", "", ""] if cell is None else [f"{value:.6f}" for value in (cell.mean, cell.low, cell.high)]
        line += [f"{row.spent[key]:.12g}" for key in SPENT]
        line += [str(int(mark in row.marks)) for mark in (ONE_SEED, UNEQUAL)]
        writer.writerow([*line, " ".join(sorted(row.bold)), " ".join(row.runs)])
    return text.getvalue()


LATEX = {
    "\\": r"\textbackslash{}",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "Δ": r"$\Delta$",
    "·": r"$\cdot$",
    "−": r"$-$",
    "–": "--",
    ONE_SEED: r"$^{\dagger}$",
    UNEQUAL: r"$^{\ddagger}$",
}


def to_latex(table: Table) -> str:
    """A booktabs table; the interval stands below its value. Needs the packages booktabs and graphicx."""
    shown = columns(table)
    lines = [
        "% Needs booktabs and graphicx.",
        r"\begin{table*}[t]",
        r"\centering",
        rf"\caption{{{_in_latex(table.title)}.}}",
        rf"\label{{tab:{table.key}}}",
        r"\resizebox{\textwidth}{!}{%",
        rf"\begin{{tabular}}{{@{{}}l{'r' * len(shown)}@{{}}}}",
        r"\toprule",
        _latex_row(["Method", *(_in_latex(column.header) for column in shown)]),
        r"\midrule",
    ]
    previous = table.rows[0].stage
    for row in table.rows:
        if row.stage == "rl" and previous != "rl":
            lines.append(r"\midrule")
        previous = row.stage
        cells = [column.show(row) for column in shown]
        lines.append(_latex_row([_in_latex(_marked(row)), *(_latex_value(cell) for cell in cells)]))
        lines.append(_latex_row(["", *(_latex_interval(cell) for cell in cells)]))
    lines += [r"\bottomrule", r"\end{tabular}}", r"\par\smallskip", r"\begin{minipage}{\textwidth}\footnotesize"]
    lines += [_in_latex(note) for note in table.notes]
    return "\n".join([*lines, r"\end{minipage}", r"\end{table*}", ""])


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _in_latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def _latex_value(cell: Shown) -> str:
    return rf"\textbf{{{cell.value}}}" if cell.bold else _in_latex(cell.value)


def _latex_interval(cell: Shown) -> str:
    return rf"{{\scriptsize {_in_latex(cell.interval)}}}" if cell.interval else ""


GAP = 2
"""Spaces between columns of the terminal's table: the padding of 1 and the box's own divider."""


def to_rich(table: Table, width: int) -> RenderableType:
    """The table for a terminal of `width` characters: as many tables below each other as it takes to fit."""
    names = [_marked(row) for row in table.rows]
    blocks: list[list[tuple[Column, list[Shown]]]] = [[]]
    used = first = max(map(len, ["Method", *names]))
    for column in columns(table):
        cells = [column.show(row) for row in table.rows]
        needs = GAP + max(len(text) for cell in cells for text in (column.header, cell.value, cell.interval))
        if blocks[-1] and used + needs > width:
            blocks.append([])
            used = first
        blocks[-1].append((column, cells))
        used += needs
    parts: list[RenderableType] = [Text(table.title, style="bold")]
    for block in blocks:
        parts.append(_rich_block(table.rows, names, block))
    return Group(*parts, *(Text(note, style="dim") for note in table.notes))


def _rich_block(rows: Sequence[Row], names: Sequence[str], block: Sequence[tuple[Column, list[Shown]]]) -> RichTable:
    drawn = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    drawn.add_column("Method", no_wrap=True)
    for column, _ in block:
        drawn.add_column(column.header, justify="right", no_wrap=True)
    for i, (row, name) in enumerate(zip(rows, names, strict=True)):
        last_shared = row.stage != "rl" and i + 1 < len(rows) and rows[i + 1].stage == "rl"
        drawn.add_row(name, *(_rich_cell(cells[i]) for _, cells in block), end_section=last_shared)
    return drawn


def _rich_cell(cell: Shown) -> Text:
    text = Text(cell.value, style="bold" if cell.bold else "")
    return text.append(f"\n{cell.interval}", style="dim not bold") if cell.interval else text
