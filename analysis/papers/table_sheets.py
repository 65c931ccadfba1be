"""The comparison with a table of the paper as sheets, sentences and CSV."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.papers.page import Page, metric_name, number, signed
from analysis.papers.reported import BESIDE, REPORTED, TITLES
from analysis.papers.runs import missing_sheets
from analysis.papers.table import METRICS, TableComparison, compare
from analysis.papers.verdicts import DIFFERS, MARGIN, NO_RUN, REPRODUCED, UNDECIDED, tally
from analysis.render.numbers import chance, signed_percent
from analysis.render.sheet import NOTHING, Cells, Sheet, estimate, sheet_of
from analysis.render.spreadsheet import csv_interval, csv_number, csv_text


def reported_sheet(comparison: TableComparison) -> Sheet:
    """The table as in the paper."""
    own = set(BESIDE)
    rows: list[tuple[str, str, Mapping[str, float]]] = [("", row.title, row.values) for row in comparison.elsewhere]
    rows += [(entry.backbone, entry.title, entry.reported) for entry in comparison.entries if entry.method not in own]
    lines = [(backbone, title, *(number(values[m]) for m in METRICS)) for backbone, title, values in rows]
    notes = ["One training each; standard errors over samples: docs/reproduction.md."]
    return sheet_of("Reported", ("Backbone", "Method", *map(metric_name, METRICS)), lines, notes, names=2)


def level_sheet(comparison: TableComparison, metrics: Sequence[str]) -> Sheet:
    """Our numbers next to the reported ones, one line per row and metric."""
    lines: list[Cells] = []
    for index, entry in enumerate(comparison.entries):
        for metric in metrics:
            if metric not in entry.reported:
                continue
            ours: Cells = [*[NOTHING] * 3, NO_RUN]
            if found := comparison.levels.get((index, metric)):
                score = estimate(comparison.score(entry, metric), number)
                ours = (score, str(entry.seeds), estimate(found.difference, signed), found.verdict)
            reported = number(entry.reported[metric])
            lines.append((entry.backbone, entry.title, metric_name(metric), reported, *ours))
    header = ("Backbone", "Method", "Metric", "Reported", "Ours", "Seeds", "Ours − reported", "Verdict")
    notes = (
        f"reproduced: the 95 % interval of ours − reported contains 0 and lies within {MARGIN:.0%} of the reported "
        "number. differs: it excludes 0. undecided: neither. The interval includes the variation of the one reported "
        "training and of its test samples.",
    )
    return sheet_of("Ours beside reported", header, lines, notes, names=3)


def own_sheet(comparison: TableComparison, count: int) -> Sheet:
    """Scores of a twin's runs on the first `count` metrics."""
    lines: list[Cells] = []
    metrics = comparison.metrics[:count]
    for entry in comparison.entries:
        ours = [estimate(comparison.score(entry, metric), number) for metric in metrics]
        lines.append((entry.title, str(entry.seeds), *ours))
    header = ("Method", "Seeds", *map(metric_name, metrics))
    notes = ("Dataset, model and training differ from the paper's, so these numbers cannot be compared with it.",)
    return sheet_of(f"Ours, twin {comparison.twin}", header, lines, notes, names=1)


def gain_sheet(comparison: TableComparison, *, absolute: bool) -> Sheet:
    """Gains over SFT, relative to SFT; with `absolute` also as differences."""
    lines: list[Cells] = []
    for one in comparison.gains:
        reported, ours = one.relative
        shown = [estimate(ours, signed_percent), *([estimate(one.ours, signed)] if absolute else [])]
        metric = metric_name(one.metric)
        if one.metric != one.reported_metric:
            metric = f"{metric_name(one.reported_metric)} / {metric}"
        lines.append((one.better.backbone, one.better.title, metric, signed_percent(reported), *shown, one.verdict))
    difference = ("Ours − our SFT",) if absolute else ()
    header = ("Backbone", "Method", "Metric", "Reported gain", "Our gain", *difference, "Verdict")
    no_share = any(one.ours and one.relative[1] is None for one in comparison.gains)
    notes = (SIGN_NOTE, *([NO_SHARE] if no_share else []))
    return sheet_of("Gain over SFT", header, lines, notes, names=3)


def order_sheet(comparison: TableComparison) -> Sheet:
    """Differences between methods."""
    lines: list[Cells] = []
    for one in comparison.orderings:
        reported = signed(one.reported) + ("" if one.clear else " ~")
        shown = estimate(one.ours, signed)
        pair = f"{one.better.title} > {one.worse.title}"
        lines.append((one.better.backbone, pair, metric_name(one.metric), reported, shown, chance(one.p), one.verdict))
    header = ("Backbone", "Reported order", "Metric", "Reported difference", "Our difference", "p", "Verdict")
    notes = (
        "~: the reported difference is within 1.96 of its own standard errors (two numbers, independent samples), so "
        "the reported order itself is uncertain.",
    )
    return sheet_of("Order of methods", header, lines, notes, names=3)


NO_SHARE = "Our gain is – where our SFT scores 0: there is nothing that it could be a share of."

SIGN_NOTE = (
    "Verdicts on signs: a sign is shown if the paired difference over seeds and contexts has p ≤ .05 after Holm's "
    "correction for all gains and orders of this table together. Rows of fewer than three seeds have no p and show "
    "nothing. An SFT row that is one checkpoint is held fixed: a gain is over that checkpoint."
)


def replication_sheet(name: str) -> Sheet | None:
    """Published independent runs for this table; None if there are none."""
    path = REPORTED / "replications.csv"
    with path.open(encoding="utf-8", newline="") as file:
        found = [line for line in csv.DictReader(file) if line["table"] == name]
    if not found:
        return None
    lines = []
    for line in found:
        numbers = [number(float(line[metric])) for metric in METRICS]
        lines.append((line["backbone"], TITLES.get(line["method"], line["method"]), line["source"], *numbers))
    notes = tuple(dict.fromkeys(f"{line['source']}: {line['note']}" for line in found))
    header = ("Backbone", "Method", "By", *map(metric_name, METRICS))
    return sheet_of("Independent runs", header, lines, notes, names=3)


def sheets(comparison: TableComparison, *, all_metrics: bool) -> list[Sheet]:
    """All tables. Levels cover every cut-off with `all_metrics`, otherwise only the largest."""
    shown: list[Sheet | None] = []
    if comparison.twin is None:
        top = [metric for metric in METRICS if metric.endswith("@20")]
        shown.append(reported_sheet(comparison))
        if comparison.any_runs:
            shown.append(level_sheet(comparison, METRICS if all_metrics else top))
        shown.append(replication_sheet(comparison.name))
    elif comparison.any_runs:
        shown.append(own_sheet(comparison, len(comparison.metrics) if all_metrics else 2))
    if comparison.any_runs:
        shown += [gain_sheet(comparison, absolute=all_metrics), order_sheet(comparison)]
    missing = [
        ("" if comparison.twin else entry.backbone, entry.title, entry.cell)
        for entry in comparison.entries
        if entry.ours is None
    ]
    shown += missing_sheets(missing, comparison.name, [comparison.twin or "sweep"])
    return [sheet for sheet in shown if sheet is not None and sheet.lines]


def tallies(comparison: TableComparison) -> list[str]:
    """Sentences with the number of each verdict."""
    levels = [found.verdict for found in comparison.levels.values()]
    expected = by_chance(levels)
    return [
        *tally("numbers", levels),
        *tally("gains over SFT", [one.verdict for one in comparison.gains if one.ours]),
        *tally("orders of methods", [one.verdict for one in comparison.orderings if one.ours]),
        *([expected] if expected else []),
    ]


def by_chance(verdicts: Sequence[str]) -> str:
    """Sentence on the expected number of false "differs". Each number is judged at 5 % without correction."""
    judged = sum(verdict in (REPRODUCED, DIFFERS, UNDECIDED) for verdict in verdicts)
    if not judged:
        return ""
    return (
        f"by chance: each number is judged at 5 % by itself. If all {judged} were truly as reported, up to "
        f"{0.05 * judged:.1f} would still be said to differ, on average; there are "
        f"{sum(verdict == DIFFERS for verdict in verdicts)}. Metrics of one row are related, so several may have one "
        "cause"
    )


CSV_HEADER = [
    *("kind", "backbone", "method", "other", "metric", "reported", "ours", "ours_lo", "ours_hi"),
    *("difference", "difference_lo", "difference_hi", "p", "seeds", "verdict"),
]


def to_csv(comparison: TableComparison) -> str:
    """The comparison as CSV. A `level` has our and the reported value, a `gain` or `order` differences to `other`."""
    lines: list[list[str]] = []
    for index, entry in enumerate(comparison.entries):
        for metric in METRICS if comparison.twin is None else comparison.metrics:
            found = comparison.levels.get((index, metric))
            reported = entry.reported.get(metric) if comparison.twin is None else None
            ours, difference = comparison.score(entry, metric), found.difference if found else None
            verdict = found.verdict if found else ("" if entry.ours else NO_RUN)
            lines.append(
                ["level", entry.backbone, entry.method, "", metric, csv_number(reported)]
                + [*csv_interval(ours), *csv_interval(difference), "", str(entry.seeds), verdict]
            )
    for kind, contrasts in (("gain", comparison.gains), ("order", comparison.orderings)):
        for one in contrasts:
            lines.append(
                [kind, one.better.backbone, one.better.method, one.worse.method, one.metric, csv_number(one.reported)]
                + ["", "", "", *csv_interval(one.ours), csv_number(one.p), str(one.better.seeds), one.verdict]
            )
    return csv_text(CSV_HEADER, lines)


def make_page(name: str, twin: str | None, runs: Path | None, resamples: int) -> Page:
    """Compare a table with our runs.

    Raises:
        BadInput: as `compare`.
    """
    comparison = compare(name, twin, runs, resamples=resamples)
    return Page(
        sheets(comparison, all_metrics=False),
        sheets(comparison, all_metrics=True),
        to_csv(comparison),
        [*tallies(comparison), *comparison.notes],
        list(comparison.problems),
    )
