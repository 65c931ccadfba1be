"""Warnings about a comparison, each raised by a stated threshold."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.collection import Collection, Problem
from analysis.collection.measurements import Measurements
from analysis.html.grid import folded, lines, section
from analysis.html.markup import Html, breakable, join, tag
from analysis.html.provenance import Origin, by_versions, files, short
from analysis.html.rows import Look
from analysis.render.numbers import counted, percent, words
from analysis.tables import FEWEST_SEEDS, UNEQUAL, Row, Table, pairing_note, unequal_note
from analysis.tables.headline import Headline, low_power_note
from analysis.tables.marks import missing_seeds, stopped_runs

DEGENERATE = 0.5
"""Rows are named above this share of units without signal, on average over training."""

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
"""Maximum number of rows named in one caution; further rows are only counted."""


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
    looks: Sequence[Look],
    origins: Mapping[str, Origin],
    headline: Headline | None,
    problems: Sequence[Problem],
) -> list[Caution]:
    """All cautions that apply, serious ones first.

    Args:
        table: table of the group.
        headline: headline of that table.
    """
    rows = {row.label: row for row in table.rows}
    trained = [look for look in looks if look.stage == "rl"]
    found = [
        *_seeds(trained),
        *_missing_seeds(trained, rows),
        *_budgets(group, table),
        *_stopped(trained, rows),
        *_demonstrations(group, looks),
        *_power(headline),
        *_degenerate(group.measurements, trained),
        *_entropy(group.measurements, trained),
        *_lists(group, trained),
        *_gaps(problems),
        *_origin(origins, {run for look in trained for run in look.runs}),
        *_checkpoints(group),
    ]
    return sorted(found, key=lambda caution: not caution.serious)


def _named(rows: Sequence[Look], values: Sequence[str] = ()) -> str:
    """The names of the first rows, with their values if given."""
    shown = [f" ({value})" for value in values] or [""] * len(rows)
    names = [look.name + value for look, value in zip(rows, shown, strict=True)]
    return words(names) if len(names) <= NAMED else f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"


def _worst(rows: Sequence[Look], values: Sequence[str], trained: Sequence[Look]) -> str:
    """The number of affected trained rows, then the names of the first ones."""
    share = f"{len(rows)} of {len(trained)} trained rows: " if len(trained) > 1 else ""
    return share + _named(rows, values)


def _every(rows: Sequence[Look], trained: Sequence[Look]) -> str:
    return "every trained row" if len(rows) == len(trained) > 1 else _named(rows)


def _seeds(trained: Sequence[Look]) -> list[Caution]:
    single = [look for look in trained if len(look.seeds) == 1]
    fewer = [look for look in trained if 1 < len(look.seeds) < FEWEST_SEEDS]
    few = [look for look in trained if FEWEST_SEEDS <= len(look.seeds) < FEW_SEEDS]
    found = []
    if single:
        told = "Intervals are over contexts only, and say nothing of how much trainings differ. No verdict is given."
        found.append(Caution("One seed", f"{_capital(_every(single, trained))}. {told}", True))
    if fewer:
        told = "That is too few for a verdict on methods, so none is given; intervals are wide."
        found.append(Caution("Two seeds", f"{_capital(_every(fewer, trained))}. {told}", True))
    if few:
        counts = sorted({len(look.seeds) for look in few})
        told = f"{words([str(count) for count in counts], 'or')} seeds: intervals hold, but power is low."
        found.append(Caution("Few seeds", f"{_capital(_every(few, trained))}. {told}", False))
    return found


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:] if text.startswith("every") else text


def _missing_seeds(trained: Sequence[Look], rows: Mapping[str, Row]) -> list[Caution]:
    lacking = [(look.name, rows[look.label].missing) for look in trained if rows[look.label].missing]
    told = f"{missing_seeds(lacking)}. {pairing_note()}"
    return [Caution("Missing seeds", told, True)] if lacking else []


def _budgets(group: Collection, table: Table) -> list[Caution]:
    unequal = any(UNEQUAL in row.marks for row in table.rows)
    return [Caution("Unequal budgets", unequal_note(group.runs), True)] if unequal else []


def _stopped(trained: Sequence[Look], rows: Mapping[str, Row]) -> list[Caution]:
    stops = [(look.name, rows[look.label].stops) for look in trained if rows[look.label].stops]
    return [Caution("Stopped early", f"{stopped_runs(stops)}.", True)] if stops else []


def _demonstrations(group: Collection, looks: Sequence[Look]) -> list[Caution]:
    """Caution on rows trained on demonstrations that lost their end."""
    cut = group.runs[group.runs["demonstrations_without_end"] > 0].set_index("run")
    rows = [look for look in looks if any(run in cut.index for run in look.runs)]
    shown = []
    for look in rows:
        worst = (
            cut.loc[[run for run in look.runs if run in cut.index]].nlargest(1, "demonstrations_without_end").iloc[0]
        )
        shown.append(f"{worst['demonstrations_without_end']:,.0f} of {worst['demonstrations_count']:,.0f}")
    told = "Demonstrations that lost their end to trainer.sft.max_length:"
    why = "A model does not learn to stop from them, and a preference method never chooses them."
    return [Caution("Cut demonstrations", f"{told} {_named(rows, shown)}. {why}", True)] if rows else []


def _power(headline: Headline | None) -> list[Caution]:
    if headline is None or not headline.low_power:
        return []
    return [Caution("Low power", low_power_note(headline), True)]


def _means(measured: Measurements, look: Look, metric: str) -> list[tuple[float, float, float]]:
    """Mean over training, over its first tenth and over its last tenth, for each run with finite values."""
    found = []
    for run in look.runs:
        _, values = measured.series.get((run, "train", metric), (np.empty(0), np.empty(0)))
        values = values[np.isfinite(values)]
        if len(values):
            part = max(1, round(END * len(values)))
            found.append((float(values.mean()), float(values[:part].mean()), float(values[-part:].mean())))
    return found


def _degenerate(measured: Measurements, trained: Sequence[Look]) -> list[Caution]:
    found = [(look, _means(measured, look, "frac_zero_variance_units")) for look in trained]
    shares = [(look, float(np.mean([mean for mean, _, _ in means]))) for look, means in found if means]
    bad = sorted(((look, value) for look, value in shares if value > DEGENERATE), key=lambda one: -one[1])
    if not bad:
        return []
    rows, shown = [look for look, _ in bad], [percent(value) for _, value in bad]
    told = (
        f"More than {percent(DEGENERATE)} of the credited units had no signal, on average over training: "
        f"{_worst(rows, shown, trained)}. All lists of a prompt had "
        "the same return there, so these samples were spent without effect."
    )
    return [Caution("Degenerate groups", told, False)]


def _entropy(measured: Measurements, trained: Sequence[Look]) -> list[Caution]:
    bad, shares = [], []
    for look in trained:
        ratios = [last / first for _, first, last in _means(measured, look, "entropy") if first > 0]
        collapsed = [ratio for ratio in ratios if ratio < COLLAPSED_ENTROPY]
        if collapsed:
            bad.append(look)
            shares.append(f"{len(collapsed)} of {counted(len(ratios), 'run')}, down to {percent(min(collapsed))}")
    told = f"Entropy at the end is below {percent(COLLAPSED_ENTROPY)} of that at the start:"
    return [Caution("Collapsed entropy", f"{told} {_worst(bad, shares, trained)}.", True)] if bad else []


@dataclass(frozen=True)
class ListCheck:
    """A bound on a metric of lists on test.

    Attributes:
        metric: its name in result.json.
        limit: the bound.
        below: whether values below the limit are bad; otherwise values above it are.
        title: title of the caution.
        told: beginning of the sentence that states the problem.
        shown: formats a run's value to match `told`; it may show 1 minus the value.
    """

    metric: str
    limit: float
    below: bool
    title: str
    told: str
    shown: Callable[[float], str]

    def is_bad(self, values: pd.Series) -> pd.Series:
        return values < self.limit if self.below else values > self.limit


def _missing_share(value: float) -> str:
    return percent(1 - value)


def _list_checks(length: int) -> tuple[ListCheck, ...]:
    short = f"Fewer than {percent(SHORT_LISTS)} of {length} entries"
    invented = f"More than {percent(OUT_OF_CATALOGUE)} of the ranks out of the catalogue"
    return (
        ListCheck("list_length", SHORT_LISTS * length, True, "Short lists", short, lambda value: f"{value:.1f}"),
        ListCheck(
            "duplicates",
            MANY_DUPLICATES,
            False,
            "Repetitive lists",
            f"More than {percent(MANY_DUPLICATES)} duplicates",
            percent,
        ),
        ListCheck("in_catalog", 1 - OUT_OF_CATALOGUE, True, "Invented films", invented, _missing_share),
        ListCheck(
            "eos",
            1 - CUT_OFF,
            True,
            "Lists cut off",
            f"More than {percent(CUT_OFF)} not ended by the model",
            _missing_share,
        ),
    )


def _lists(group: Collection, trained: Sequence[Look]) -> list[Caution]:
    """Cautions on bad test lists, worst row first."""
    found = []
    runs = group.runs.set_index("run")
    has_lengths = "test.list_length" in runs
    for check in _list_checks(int(group.runs.iloc[0]["list_length"])):
        column = f"test.{check.metric}"
        if column not in runs:
            continue
        # Lists without entries have a catalogue share of 0, but invent no film.
        empty = (
            set(runs.index[runs["test.list_length"] == 0]) if check.metric == "in_catalog" and has_lengths else set()
        )
        bad = []
        for look in trained:
            own = runs.loc[[run for run in look.runs if run not in empty], column].dropna()
            wrong = own[check.is_bad(own)]
            if len(wrong):
                worst = float(wrong.min() if check.below else wrong.max())
                of_runs = f"{len(wrong)} of {counted(len(own), 'run')}, " if len(own) > 1 else ""
                bad.append((worst if check.below else -worst, look, f"{of_runs}{check.shown(worst)}"))
        if bad:
            bad.sort(key=lambda one: one[0])
            named = _worst([look for _, look, _ in bad], [shown for _, _, shown in bad], trained)
            found.append(Caution(check.title, f"{check.told} on test: {named}.", False))
    return found


def _gaps(problems: Sequence[Problem]) -> list[Caution]:
    gaps = [problem for problem in problems if not problem.left_out and "NaN" in problem.reason]
    told = (
        f"{counted(len({gap.run for gap in gaps}), 'run')} wrote NaN or infinity; their curves have gaps, named below."
    )
    return [Caution("Gaps in curves", told, False)] if gaps else []


def _origin(origins: Mapping[str, Origin], trained: Set[str]) -> list[Caution]:
    """Cautions on code, versions and hardware. Hardware counts for `trained` only: shared stages use more threads."""
    known = [one for one in origins.values() if one.commit or one.copy]
    found = []
    commits = Counter(one.commit[:12] or one.copy for one in known)
    if len(commits) > 1:
        told = ", ".join(f"{commit} ({counted(count, 'run')})" for commit, count in commits.most_common())
        found.append(Caution("Different code", f"Runs of this comparison were made at {told}.", True))
    dirty = [one for one in known if one.dirty]
    if dirty:
        changed = {name for one in dirty for name in one.changed}
        named = f": {files(changed)}" if changed else ""
        told = f"{counted(len(dirty), 'run')} of {len(origins)} made with code that was not committed{named}."
        found.append(Caution("Uncommitted code", told, False))
    for title, values in (
        ("Different hardware", {one.hardware for run, one in origins.items() if one.hardware and run in trained}),
        ("Different data", {one.data for one in origins.values() if one.data}),
    ):
        if len(values) > 1:
            found.append(Caution(title, f"{'; '.join(sorted(values))}.", title == "Different data"))
    parts = by_versions(origins)
    if parts:
        told = "; ".join(
            f"{versions}: {_runs(runs, last=place == len(parts) - 1)}" for place, (versions, runs) in enumerate(parts)
        )
        found.append(Caution("Different versions", f"{told}. All are named under Provenance.", False))
    resumed = {run: one.changes for run, one in origins.items() if one.changes}
    if resumed:
        told = "; ".join(f"{short(run)} ({', '.join(changes)})" for run, changes in list(resumed.items())[:NAMED])
        more = f"; and {counted(len(resumed) - NAMED, 'more run')}" if len(resumed) > NAMED else ""
        found.append(Caution("Versions changed during a run", f"An attempt went on with others: {told}{more}.", False))
    return found


def _runs(runs: Sequence[str], *, last: bool) -> str:
    """The names of the first runs. If `last` and there are many, only their number."""
    if last and len(runs) > NAMED:
        return f"the other {counted(len(runs), 'run')}"
    more = [f"{counted(len(runs) - NAMED, 'more run')}"] if len(runs) > NAMED else []
    return words([*map(short, runs[:NAMED]), *more])


def _checkpoints(group: Collection) -> list[Caution]:
    rules = sorted({str(rule) for rule in group.runs[group.runs["stage"] == "rl"]["checkpoint_rule"]})
    told = f"Rows are judged by different rules: {words(rules)}."
    return [Caution("Different checkpoint rules", told, True)] if len(rules) > 1 else []


def caution_section(found: Sequence[Caution], problems: Sequence[Problem]) -> Html:
    """The section of warnings: cautions, excluded or unusual runs, and the thresholds."""
    left_out = [problem for problem in problems if problem.left_out]
    odd = [problem for problem in problems if not problem.left_out]
    shown = [
        join(
            tag(
                "strong",
                ("▲ " if caution.serious else "△ ") + caution.title + ". ",
                class_="serious" if caution.serious else "mild",
            ),
            caution.told,
        )
        for caution in found
    ]
    thresholds = [
        f"Units without signal (frac_zero_variance_units), mean over training: above {percent(DEGENERATE)}",
        f"Seeds: one; fewer than {FEWEST_SEEDS}; fewer than {FEW_SEEDS}",
        f"Entropy of the last {percent(END)} of training against the first: below {percent(COLLAPSED_ENTROPY)}",
        f"Entries per list on test: below {percent(SHORT_LISTS)} of N; duplicates: above {percent(MANY_DUPLICATES)}; "
        f"out of catalogue: above {percent(OUT_OF_CATALOGUE)}; not ended by the model: above {percent(CUT_OFF)}",
        "Power: no difference to the leading row reaches the minimum detectable difference",
    ]
    return section(
        "warnings",
        "Warnings",
        lines(shown, class_="cautions") if shown else tag("p", "None of the checks below found anything."),
        folded(f"Left out of every number here ({len(left_out)})", _problems(left_out)) if left_out else None,
        folded(f"Used, but note ({len(odd)})", _problems(odd)) if odd else None,
        folded("What is checked, and the thresholds", lines(thresholds)),
    )


def _problems(problems: Sequence[Problem]) -> Html:
    return lines([join(tag("code", breakable(problem.run)), ": ", problem.reason) for problem in problems])
