"""The headline in words: which row leads, whether it is shown to be the best, and what the design can detect.

Nothing is tested here. The leading row, its differences and the correction come from the table (`Table.leads`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.html.grid import many, p_value, words
from analysis.html.rows import Look
from analysis.tables import Cell, Lead, Over, Table, detectable_text, metric_title, share, signed

NAMED = 6
"""Maximum number of rows named in a sentence; further rows are only counted."""
TIE = 1e-9
"""Means that differ by less than this count as equal: they differ by rounding errors of sums."""


@dataclass(frozen=True)
class Verdict:
    """The leading row and its lead.

    Attributes:
        metric: the ranking metric.
        leader: label of the row with the highest mean.
        score: its mean, with the interval.
        seeds: number of seeds of the leader.
        contexts, clusters: of the test split. Intervals resample clusters: dialogues, or the contexts themselves.
        lead: lead over the other RL rows; None if there are none.
    """

    metric: str
    leader: str
    score: Cell
    seeds: int
    contexts: int
    clusters: int
    lead: Lead | None

    @property
    def over(self) -> tuple[Over, ...]:
        """The other RL rows, closest mean first."""
        return self.lead.over if self.lead is not None else ()

    @property
    def detectable(self) -> Cell | None:
        """Detectable difference, as in `Lead`."""
        return self.lead.detectable if self.lead is not None else None


def verdict_of(table: Table, metric: str, contexts: int, clusters: int) -> Verdict | None:
    """The verdict on one metric of a table with one group; None without an RL row.

    Args:
        metric: metric of a column of means.
        contexts, clusters: of the test split. Intervals resample clusters: dialogues, or the contexts themselves.
    """
    trained = {row.label: row for row in table.rows if row.stage == "rl"}
    if not trained:
        return None
    lead = next((lead for lead in table.leads if lead.column == metric), None)
    row = next(iter(trained.values())) if lead is None else trained[lead.label]
    return Verdict(metric, row.label, row.metrics[metric], len(row.seeds), contexts, clusters, lead)


def sentences(verdict: Verdict, looks: Mapping[str, Look], unequal: Sequence[str]) -> list[str]:
    """The headline in words.

    Args:
        looks: rows by label.
        unequal: labels of rows with a different budget.
    """
    name, metric, cell = looks[verdict.leader].name, metric_title(verdict.metric), verdict.score
    score = f"{share(cell.mean)} [{share(cell.low)}, {share(cell.high)}]"
    if verdict.lead is None:
        return [f"{name} is the only trained row: {metric} on test {score}, {many(verdict.seeds, 'seed')}."]
    tied = [one.label for one in verdict.over if is_tie(one.difference.mean)]
    if tied and abs(cell.mean) < TIE:
        return [f"{metric} on test is 0 in every trained row: no list has a hit, so nothing can be compared."]
    if tied:
        first = _names([verdict.leader, *tied], looks)
        told = [f"{first} have the same {metric} on test, the highest: {score}. No row leads."]
    else:
        told = [f"{name} has the highest {metric} on test: {score}, {many(verdict.seeds, 'seed')}."]
        told.append(_lead(verdict.lead, looks))
    if unequal:
        told.append(
            f"Budgets are unequal ({_names(unequal, looks)} marked ‡), so no comparison between budgets is fair."
        )
    told.append(_power(verdict, verdict.lead))
    return told


def is_tie(difference: float) -> bool:
    """Whether two means are equal up to rounding errors."""
    return abs(difference) < TIE


def _lead(lead: Lead, looks: Mapping[str, Look]) -> str:
    second = lead.over[0]
    by = f"{signed(second.difference.mean)} [{signed(second.difference.low)}, {signed(second.difference.high)}]"
    over = f"Its lead over {looks[second.label].name}, the next, is {by}."
    if lead.p_holm is None:
        if len(lead.seeds) == 1 or all(one.reason == "1 seed" for one in lead.over):
            return f"{over} With one seed this compares trained models and says nothing of methods."
        return f"{over} No verdict can be given{_left_out(lead, looks)}."
    rivals = len(lead.over) - len(lead.left_out)
    every = "the other row" if len(lead.over) == 1 else "every other row"
    whom = f"{rivals} of {len(lead.over)} other rows" if lead.left_out else every
    after = f"p {_equals(lead.p_holm)}, corrected for {many(lead.tests, 'test')} in this report"
    said = f"It is shown to be better than {whom}" if lead.holds else f"It is not shown to be better than {whom}"
    left_out = f" Not compared{_left_out(lead, looks)}." if lead.left_out else ""
    return f"{over} {said} ({after}).{left_out}"


def _left_out(lead: Lead, looks: Mapping[str, Look]) -> str:
    """Rows that cannot be compared with the leading row, with the reason."""
    reasons: dict[str, list[str]] = {}
    for one in lead.left_out:
        reasons.setdefault(one.reason, []).append(one.label)
    return ": " + "; ".join(f"{_names(labels, looks)} ({reason})" for reason, labels in reasons.items())


def _names(labels: Sequence[str], looks: Mapping[str, Look]) -> str:
    names = [looks[label].name for label in labels]
    return words(names) if len(names) <= NAMED else f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"


def _equals(p: float) -> str:
    text = p_value(p)
    return text if text.startswith("<") else f"= {text}"


def _power(verdict: Verdict, lead: Lead) -> str:
    design = f"{many(verdict.seeds, 'seed')} and {many(verdict.contexts, 'test context')}"
    if verdict.clusters < verdict.contexts:
        design += f" in {many(verdict.clusters, 'cluster')}"
    found, second = verdict.detectable, lead.over[0].difference.mean
    if found is None:
        return f"What {design} can detect is not known: it takes rows with the same three seeds or more."
    if found.mean < TIE:
        return "The rows compared here do not vary over seeds or contexts, so this design’s power is not known."
    told = (
        f"With {design} a true difference of {detectable_text(found)} between two rows is found in 80 % of the cases, "
        "after the correction"
    )
    if is_tie(second):
        return f"{told}."
    return f"{told}; the lead seen here is {'smaller' if abs(second) < found.mean else 'no smaller'}."
