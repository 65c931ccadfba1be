"""The headline of a report in words: which row leads, whether it is shown to be the best, what the design can detect.

Nothing is tested here. The leading row, its differences and the correction are those of the table (`Table.leads`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.collection import Collection
from analysis.render.numbers import Interval, at_least, bounds, chance, counted, first_words, share, signed
from analysis.tables.compare import LEVEL, TIE, detectable_text
from analysis.tables.model import UNEQUAL, Lead, Over, Table
from analysis.tables.scores import split_sizes
from rlbench.lists.metric_catalogue import metric_title

NAMED = 6
"""Maximum number of rows named in a sentence; further rows are only counted."""


@dataclass(frozen=True)
class Headline:
    """The leading row and its lead.

    Attributes:
        leader: label of the row with the highest mean on the ranking metric.
        score, seeds: its mean with the interval, and its number of seeds.
        contexts, clusters: of the test split. Intervals resample clusters: dialogues, or the contexts themselves.
        lead: lead over the other RL rows; None if there are none.
        unequal: labels of rows with a different budget.
    """

    metric: str
    leader: str
    score: Interval
    seeds: int
    contexts: int
    clusters: int
    lead: Lead | None
    unequal: tuple[str, ...] = ()

    @property
    def over(self) -> tuple[Over, ...]:
        """The other RL rows, closest mean first."""
        return self.lead.over if self.lead is not None else ()

    @property
    def tied(self) -> tuple[str, ...]:
        """Labels of the rows with the leader's mean."""
        return tuple(one.label for one in self.over if _is_tie(one.difference.mean))

    @property
    def detectable(self) -> Interval | None:
        """Detectable difference, as in `Lead`."""
        return self.lead.detectable if self.lead is not None else None

    @property
    def largest(self) -> float:
        """Size of the largest difference to the leader; 0 without other rows."""
        return max((abs(one.difference.mean) for one in self.over), default=0.0)

    @property
    def low_power(self) -> bool:
        """Whether the design cannot detect a difference as large as the largest one to the leader."""
        return bool(self.over) and self.detectable is not None and self.largest < self.detectable.mean


def ranking_metric(table: Table) -> str:
    """The metric by which rows are ranked: NDCG at the largest cut-off."""
    return f"ndcg@{table.cutoffs[-1]}"


def headline_of(table: Table, group: Collection) -> Headline | None:
    """The headline of the table of one group of runs, on its headline metric; None without an RL row."""
    trained = {row.label: row for row in table.rows if row.stage == "rl"}
    if not trained:
        return None
    metric = ranking_metric(table)
    lead = next((lead for lead in table.leads if lead.column == metric), None)
    row = next(iter(trained.values())) if lead is None else trained[lead.label]
    _, contexts, clusters = split_sizes(group.queries, str(group.runs["run"].iloc[0]))
    unequal = tuple(sorted(label for label, row in trained.items() if UNEQUAL in row.marks))
    return Headline(metric, row.label, row.metrics[metric], len(row.seeds), contexts, clusters, lead, unequal)


def sentences(headline: Headline, names: Mapping[str, str]) -> list[str]:
    """The headline in words; `names` are the displayed names of the rows by label."""
    name, metric, cell = names[headline.leader], metric_title(headline.metric), headline.score
    score = f"{share(cell.mean)} {bounds(cell, share)}"
    if headline.lead is None:
        return [f"{name} is the only trained row: {metric} on test {score}, {counted(headline.seeds, 'seed')}."]
    if headline.tied and abs(cell.mean) < TIE:
        return [f"{metric} on test is 0 in every trained row: no list has a hit, so nothing can be compared."]
    if headline.tied:
        first = _names([headline.leader, *headline.tied], names)
        told = [f"{first} have the same {metric} on test, the highest: {score}. No row leads."]
    else:
        told = [f"{name} has the highest {metric} on test: {score}, {counted(headline.seeds, 'seed')}."]
        told.append(_lead(headline.lead, names))
    if headline.unequal:
        told.append(
            f"Budgets are unequal ({_names(headline.unequal, names)} marked ‡), so no comparison between budgets is "
            "fair."
        )
    told.append(_power(headline, headline.lead))
    return told


def rule_notes(metric: str) -> list[str]:
    """The rule behind the headline, in words."""
    return [
        f"Rows are ranked by their mean {metric_title(metric)} on test over seeds and samples; the highest leads.",
        "The leading row is shown to be better than the others where the largest p of its paired differences to them "
        f"is below {share(LEVEL, 2)} after the correction. Taking the largest p allows for the choice of the row by "
        "its score.",
        "What the design can detect: the true difference that is detected in 80 % of experiments at the first step of "
        "the correction. It uses the averaged variance components of the leading row’s differences to rows with the "
        "same seeds. In parentheses: its 80 % range.",
    ]


def lead_note(lead: Lead, name: str) -> str:
    """Note below the differences of the leading row, which has the given name."""
    if lead.p_holm is None:
        return "No row can be compared with the leading one."
    return (
        f"One test covers all these differences: {name} is {'' if lead.holds else 'not '}shown to be better than every "
        f"compared row (corrected p {_equals(lead.p_holm)})."
    )


def low_power_note(headline: Headline) -> str:
    """Note on a design that cannot detect differences as large as those seen."""
    metric = metric_title(headline.metric)
    if _is_tie(headline.largest):
        seen = f"All rows have the same {metric}"
    else:
        seen = f"The largest difference to the leading row in {metric} is {at_least(headline.largest)}"
    found = detectable_text(headline.detectable) if headline.detectable is not None else ""
    return (
        f"{seen}. {_design(headline)} detect a true difference of {found} in 80 % of experiments, after the "
        "correction. Rows without a shown difference need not be equal."
    )


def _is_tie(difference: float) -> bool:
    """Whether two means are equal up to rounding errors."""
    return abs(difference) < TIE


def _lead(lead: Lead, names: Mapping[str, str]) -> str:
    second = lead.over[0]
    by = f"{signed(second.difference.mean)} {bounds(second.difference, signed)}"
    over = f"Its lead over {names[second.label]}, the next, is {by}."
    if lead.p_holm is None:
        if len(lead.seeds) == 1 or all(one.reason == "1 seed" for one in lead.over):
            return f"{over} With one seed, this compares trained models and says nothing about methods."
        return f"{over} No verdict can be given{_left_out(lead, names)}."
    rivals = len(lead.over) - len(lead.left_out)
    every = "the other row" if len(lead.over) == 1 else "every other row"
    whom = f"{rivals} of {len(lead.over)} other rows" if lead.left_out else every
    after = f"p {_equals(lead.p_holm)}, corrected for {counted(lead.tests, 'test')} in this report"
    said = f"It is shown to be better than {whom}" if lead.holds else f"It is not shown to be better than {whom}"
    left_out = f" Not compared{_left_out(lead, names)}." if lead.left_out else ""
    return f"{over} {said} ({after}).{left_out}"


def _left_out(lead: Lead, names: Mapping[str, str]) -> str:
    """Rows that cannot be compared with the leading row, with the reason."""
    reasons: dict[str, list[str]] = {}
    for one in lead.left_out:
        reasons.setdefault(one.reason, []).append(one.label)
    return ": " + "; ".join(f"{_names(labels, names)} ({reason})" for reason, labels in reasons.items())


def _names(labels: Sequence[str], names: Mapping[str, str]) -> str:
    return first_words([names[label] for label in labels], NAMED)


def _equals(p: float) -> str:
    text = chance(p)
    return f"< {text[1:]}" if text.startswith("<") else f"= {text}"


def _design(headline: Headline) -> str:
    apart = f" in {counted(headline.clusters, 'cluster')}" if headline.clusters < headline.contexts else ""
    return f"{counted(headline.seeds, 'seed')} and {counted(headline.contexts, 'test context')}{apart}"


def _power(headline: Headline, lead: Lead) -> str:
    found, second = headline.detectable, lead.over[0].difference.mean
    if found is None:
        return f"What {_design(headline)} can detect is not known: this requires rows with three or more equal seeds."
    if found.mean < TIE:
        return "The compared rows do not vary over seeds or contexts, so this design’s power is not known."
    told = (
        f"With {_design(headline)} a true difference of {detectable_text(found)} between two rows is detected in 80 % "
        "of experiments, after the correction"
    )
    if _is_tie(second):
        return f"{told}."
    return f"{told}; the lead seen here is {'smaller' if abs(second) < found.mean else 'no smaller'}."
