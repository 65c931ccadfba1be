"""Cautions about a comparison, each raised by a stated threshold."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from analysis.collection import Collection
from analysis.collection.measurements import Measurements
from analysis.collection.origins import Origin, by_versions, files, short
from analysis.problems import Problem
from analysis.render.numbers import counted, first_words, percent, share, words
from analysis.tables.compare import FEWEST_SEEDS
from analysis.tables.headline import Headline, low_power_note
from analysis.tables.marks import PAIRING, checkpoint_rules, missing_seeds, stopped_runs, unequal_note
from analysis.tables.model import UNEQUAL, Row, Table
from rlbench.lists.metric_catalogue import metric_title

DEGENERATE = 0.5
"""Rows are named above this share of units without signal, on average over training."""

SILENT = 0.1
"""Rows are named above this share of experts without an answer, on average over training."""

FEW_SEEDS = 5

COLLAPSED_ENTROPY = 0.1
"""Entropy has collapsed if its mean over the last tenth of training is below this share of that over the first."""

SHORT_LISTS = 0.8
"""Test lists are short if their mean number of entries is below this share of N."""

MANY_DUPLICATES = 0.2
OUT_OF_CATALOGUE = 0.1
CUT_OFF = 0.1
"""Shares on test above which lists are repetitive, invented, or cut off before the model ends them."""

END = 0.1
"""Share of training that counts as its start, and as its end."""

NAMED = 4
"""Maximum number of rows or runs named in one caution; further ones are only counted."""

THRESHOLDS = (
    f"Units without signal (frac_zero_variance_units), mean over training: above {percent(DEGENERATE)}",
    f"Experts without an answer (experts_silent), mean over training: above {percent(SILENT)}",
    f"Seeds: one; fewer than {FEWEST_SEEDS}; fewer than {FEW_SEEDS}",
    f"Entropy of the last {percent(END)} of training against the first: below {percent(COLLAPSED_ENTROPY)}",
    f"Entries per list on test: below {percent(SHORT_LISTS)} of N; duplicates: above {percent(MANY_DUPLICATES)}; "
    f"out of catalogue: above {percent(OUT_OF_CATALOGUE)}; not ended by the model: above {percent(CUT_OFF)}",
    "Classical baselines: the row's NDCG on test is below that of one, by means",
    "Power: no difference to the leading row reaches the minimum detectable difference",
)
"""The checks in words."""


@dataclass(frozen=True)
class Caution:
    """One warning.

    Attributes:
        title: short title.
        told: the text: which rows, by how much, and what follows.
        serious: whether it can invalidate a comparison; otherwise it is a note.
    """

    title: str
    told: str
    serious: bool


def cautions(
    group: Collection,
    table: Table,
    names: Mapping[str, str],
    origins: Mapping[str, Origin],
    headline: Headline | None,
    problems: Sequence[Problem],
) -> list[Caution]:
    """All cautions that apply, serious ones first.

    Args:
        table: table of the group.
        names: displayed names of the rows by label, in their order.
        origins: origin of each run.
        headline: headline of the table.
    """
    by_label = {row.label: row for row in table.rows}
    rows = [replace(by_label[label], name=name) for label, name in names.items()]
    trained = [row for row in rows if row.stage == "rl"]
    found = [
        *_seeds(trained),
        *_comparability(group, trained),
        *_demonstrations(group, rows),
        *_power(headline),
        *_below_baseline(rows, trained, table.cutoffs[-1]),
        *_degenerate(group.measurements, trained),
        *_entropy(group.measurements, trained),
        *_silent_experts(group.measurements, trained),
        *_lists(group, trained),
        *_gaps(problems),
        *_origin(origins, {run for row in trained for run in row.runs}),
        *_checkpoints(group),
    ]
    return sorted(found, key=lambda caution: not caution.serious)


def _named(bad: Sequence[tuple[Row, str]]) -> str:
    """The names of the first rows, with their values."""
    return first_words([f"{row.name} ({value})" for row, value in bad], NAMED)


def _worst(bad: Sequence[tuple[Row, str]], trained: Sequence[Row]) -> str:
    """The number of affected trained rows, then the names and values of the first ones."""
    share = f"{len(bad)} of {len(trained)} trained rows: " if len(trained) > 1 else ""
    return share + _named(bad)


def _seeds(trained: Sequence[Row]) -> list[Caution]:
    few = [row for row in trained if FEWEST_SEEDS <= len(row.seeds) < FEW_SEEDS]
    counts = words([str(count) for count in sorted({len(row.seeds) for row in few})], "or")
    kinds = (
        (
            "One seed",
            [row for row in trained if len(row.seeds) == 1],
            "Intervals are over contexts only, and say nothing of how much trainings differ. No verdict is given.",
        ),
        (
            "Two seeds",
            [row for row in trained if 1 < len(row.seeds) < FEWEST_SEEDS],
            "That is too few for a verdict on methods, so none is given; intervals are wide.",
        ),
        ("Few seeds", few, f"{counts} seeds: intervals hold, but power is low."),
    )
    found = []
    for title, rows, told in kinds:
        every = len(rows) == len(trained) > 1
        whose = "Every trained row" if every else first_words([row.name for row in rows], NAMED)
        found += [Caution(title, f"{whose}. {told}", rows is not few)] if rows else []
    return found


def _comparability(group: Collection, trained: Sequence[Row]) -> list[Caution]:
    """Cautions on the marks of rows: missing seeds, unequal budgets, early stops."""
    found = []
    if missing := missing_seeds(trained):
        found.append(Caution("Missing seeds", f"{missing}. {PAIRING}", True))
    if any(UNEQUAL in row.marks for row in trained):
        found.append(Caution("Unequal budgets", unequal_note(group.runs), True))
    if stopped := stopped_runs(trained):
        found.append(Caution("Stopped early", f"{stopped}.", True))
    return found


def _demonstrations(group: Collection, rows: Sequence[Row]) -> list[Caution]:
    """Caution on rows trained on demonstrations that lost their end; each row shows its worst run."""
    cut = group.runs[group.runs["demonstrations_without_end"] > 0]
    bad = []
    for row in rows:
        for _, run in cut[cut["run"].isin(row.runs)].nlargest(1, "demonstrations_without_end").iterrows():
            bad.append((row, f"{run['demonstrations_without_end']:,.0f} of {run['demonstrations_count']:,.0f}"))
    told = "Demonstrations that lost their end to trainer.sft.max_length:"
    why = "A model does not learn to stop from them, and a preference method never chooses them."
    return [Caution("Cut demonstrations", f"{told} {_named(bad)}. {why}", True)] if bad else []


def _power(headline: Headline | None) -> list[Caution]:
    if headline is None or not headline.low_power:
        return []
    return [Caution("Low power", low_power_note(headline), True)]


def _below_baseline(rows: Sequence[Row], trained: Sequence[Row], cutoff: int) -> list[Caution]:
    """Caution on trained rows whose mean is below that of the best classical baseline."""
    metric = f"ndcg@{cutoff}"
    known = [row for row in rows if row.stage == "baseline" and metric in row.metrics]
    if not known:
        return []
    best = max(known, key=lambda row: row.metrics[metric].mean)
    bad = [row for row in trained if metric in row.metrics and row.metrics[metric].mean < best.metrics[metric].mean]
    bad.sort(key=lambda row: -row.metrics[metric].mean)
    told = (
        f"{metric_title(metric)} on test is below that of {best.name} ({share(best.metrics[metric].mean)}), which "
        f"needs no language model: {_worst([(row, share(row.metrics[metric].mean)) for row in bad], trained)}."
    )
    return [Caution("Below a classical baseline", told, False)] if bad else []


def _means(measured: Measurements, row: Row, metric: str) -> list[tuple[float, float, float]]:
    """Mean over training, over its first tenth and over its last tenth, for each run with finite values."""
    found = []
    for run in row.runs:
        _, values = measured.series.get((run, "train", metric), (np.empty(0), np.empty(0)))
        values = values[np.isfinite(values)]
        if len(values):
            part = max(1, round(END * len(values)))
            found.append((float(values.mean()), float(values[:part].mean()), float(values[-part:].mean())))
    return found


def _above(measured: Measurements, trained: Sequence[Row], metric: str, limit: float) -> list[tuple[Row, float]]:
    """Rows whose mean of a metric over training is above a limit, the highest first."""
    found = [(row, _means(measured, row, metric)) for row in trained]
    shares = [(row, float(np.mean([mean for mean, _, _ in means]))) for row, means in found if means]
    return sorted(((row, value) for row, value in shares if value > limit), key=lambda one: -one[1])


def _silent_experts(measured: Measurements, trained: Sequence[Row]) -> list[Caution]:
    bad = _above(measured, trained, "experts_silent", SILENT)
    told = (
        f"More than {percent(SILENT)} of the asked experts gave no list, on average over training: "
        f"{_worst([(row, percent(value)) for row, value in bad], trained)}. Those groups are as without an expert."
    )
    return [Caution("Silent experts", told, True)] if bad else []


def _degenerate(measured: Measurements, trained: Sequence[Row]) -> list[Caution]:
    bad = _above(measured, trained, "frac_zero_variance_units", DEGENERATE)
    told = (
        f"More than {percent(DEGENERATE)} of the credited units had no signal, on average over training: "
        f"{_worst([(row, percent(value)) for row, value in bad], trained)}. All lists of a prompt had "
        "the same return there, so these samples were spent without effect."
    )
    return [Caution("Degenerate groups", told, False)] if bad else []


def _entropy(measured: Measurements, trained: Sequence[Row]) -> list[Caution]:
    bad = []
    for row in trained:
        ratios = [last / first for _, first, last in _means(measured, row, "entropy") if first > 0]
        if collapsed := [ratio for ratio in ratios if ratio < COLLAPSED_ENTROPY]:
            of_runs = f"{len(collapsed)} of {counted(len(ratios), 'run')}"
            bad.append((row, f"{of_runs}, down to {percent(min(collapsed))}"))
    told = f"Entropy at the end is below {percent(COLLAPSED_ENTROPY)} of that at the start:"
    return [Caution("Collapsed entropy", f"{told} {_worst(bad, trained)}.", True)] if bad else []


@dataclass(frozen=True)
class ListCheck:
    """A bound on a metric of lists on test.

    Attributes:
        metric: its name in result.json.
        limit: the bound.
        below: whether values below the limit are bad; otherwise values above it are.
        title: title of the caution.
        told: beginning of the sentence that states the problem.
        shown: formats a run's value to match `told`.
    """

    metric: str
    limit: float
    below: bool
    title: str
    told: str
    shown: Callable[[float], str]


def _missing_share(value: float) -> str:
    return percent(1 - value)


def _list_checks(length: int) -> tuple[ListCheck, ...]:
    short = f"Fewer than {percent(SHORT_LISTS)} of {length} entries"
    repeated = f"More than {percent(MANY_DUPLICATES)} duplicates"
    invented = f"More than {percent(OUT_OF_CATALOGUE)} of the ranks out of the catalogue"
    cut = f"More than {percent(CUT_OFF)} not ended by the model"
    return (
        ListCheck("list_length", SHORT_LISTS * length, True, "Short lists", short, "{:.1f}".format),
        ListCheck("duplicates", MANY_DUPLICATES, False, "Repetitive lists", repeated, percent),
        ListCheck("in_catalog", 1 - OUT_OF_CATALOGUE, True, "Invented items", invented, _missing_share),
        ListCheck("eos", 1 - CUT_OFF, True, "Lists cut off", cut, _missing_share),
    )


def _lists(group: Collection, trained: Sequence[Row]) -> list[Caution]:
    """Cautions on bad test lists, worst row first."""
    found = []
    runs = group.runs.set_index("run")
    for check in _list_checks(int(group.runs.iloc[0]["list_length"])):
        column = f"test.{check.metric}"
        if column not in runs:
            continue
        values = runs[column].dropna()
        if check.metric == "in_catalog" and "test.list_length" in runs:
            # Lists without entries have a catalogue share of 0, but invent no item.
            values = values[runs["test.list_length"].loc[values.index] != 0]
        bad = []
        for row in trained:
            own = values[values.index.isin(row.runs)]
            wrong = own[own < check.limit if check.below else own > check.limit]
            if len(wrong):
                worst = float(wrong.min() if check.below else wrong.max())
                of_runs = f"{len(wrong)} of {counted(len(own), 'run')}, " if len(own) > 1 else ""
                bad.append((worst, row, f"{of_runs}{check.shown(worst)}"))
        if bad:
            bad.sort(key=lambda one: one[0] if check.below else -one[0])
            named = _worst([(row, shown) for _, row, shown in bad], trained)
            found.append(Caution(check.title, f"{check.told} on test: {named}.", False))
    return found


def _gaps(problems: Sequence[Problem]) -> list[Caution]:
    gaps = {problem.run for problem in problems if not problem.left_out and "NaN" in problem.reason}
    told = f"{counted(len(gaps), 'run')} wrote NaN or infinity; their curves have gaps, named below."
    return [Caution("Gaps in curves", told, False)] if gaps else []


def _origin(origins: Mapping[str, Origin], trained: Set[str]) -> list[Caution]:
    """Cautions on code, versions and hardware. Hardware counts for `trained` only: shared stages use more threads."""
    known = [one for one in origins.values() if one.commit or one.copy]
    found = []
    commits = Counter(one.commit[:12] or one.copy for one in known)
    if len(commits) > 1:
        told = ", ".join(f"{commit} ({counted(count, 'run')})" for commit, count in commits.most_common())
        found.append(Caution("Different code", f"Runs of this comparison were made at {told}.", True))
    if dirty := [one for one in known if one.dirty]:
        changed = {name for one in dirty for name in one.changed}
        named = f": {files(changed)}" if changed else ""
        told = f"{counted(len(dirty), 'run')} of {len(origins)} made with code that was not committed{named}."
        found.append(Caution("Uncommitted code", told, False))
    hardware = {one.hardware for run, one in origins.items() if one.hardware and run in trained}
    data = {one.data for one in origins.values() if one.data}
    for title, values, serious in (("Different hardware", hardware, False), ("Different data", data, True)):
        if len(values) > 1:
            found.append(Caution(title, f"{'; '.join(sorted(values))}.", serious))
    if parts := by_versions(origins):
        told = "; ".join(
            f"{versions}: {_runs(runs, last=place == len(parts) - 1)}" for place, (versions, runs) in enumerate(parts)
        )
        found.append(Caution("Different versions", f"{told}. All are named under Provenance.", False))
    if resumed := [f"{short(run)} ({', '.join(one.changes)})" for run, one in origins.items() if one.changes]:
        more = f"; and {counted(len(resumed) - NAMED, 'more run')}" if len(resumed) > NAMED else ""
        told = f"An attempt went on with others: {'; '.join(resumed[:NAMED])}{more}."
        found.append(Caution("Versions changed during a run", told, False))
    return found


def _runs(runs: Sequence[str], *, last: bool) -> str:
    """The names of the first runs. If `last` and there are many, only their number."""
    if last and len(runs) > NAMED:
        return f"the other {counted(len(runs), 'run')}"
    return first_words([short(run) for run in runs], NAMED, "run")


def _checkpoints(group: Collection) -> list[Caution]:
    rules = checkpoint_rules(group.runs)
    told = f"Rows are judged by different rules: {words(rules)}."
    return [Caution("Different checkpoint rules", told, True)] if len(rules) > 1 else []
