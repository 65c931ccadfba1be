"""Tables of results: rows with intervals, rows against the baseline and against the leading row, and all runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from analysis.collection import Collection
from analysis.collection.origins import Origin
from analysis.figures.series import row_series
from analysis.html.grid import MISSING, GridCell, Head, amount, folded, grid, lines, number, section, text
from analysis.html.markup import Html, breakable, join, tag
from analysis.html.provenance import command_block, row_command
from analysis.html.rows import Look, ink, name_cell, named
from analysis.render.numbers import Interval, bounds, chance, counted, share, signed
from analysis.tables.compare import detectable_text
from analysis.tables.headline import Headline, lead_note, ranking_metric
from analysis.tables.marks import PERMUTED
from analysis.tables.model import MARKS, Lead, Row, Table
from rlbench.base.durations import duration
from rlbench.lists.metric_catalogue import metric_title
from rlbench.runs.record import required_metrics

MODELS_ONLY = ": says something of these models only"
"""What a permutation of contexts cannot show."""

PLOT = (132, 16)
"""Width and height of a drawn interval, in pixels."""


def results(
    group: Collection,
    table: Table,
    headline: Headline | None,
    looks: Mapping[str, Look],
    origins: Mapping[str, Origin],
) -> Html:
    """The section of results.

    Args:
        group: the runs of the table.
        headline: None without a trained row.
        looks: rows by label.
        origins: the origin of each run.
    """
    lead = headline.lead if headline is not None else None
    return section(
        "results",
        "Results",
        _comparison(group, table, looks, origins),
        _notes(table.notes),
        _against_baseline(table, looks) if table.comparisons else None,
        _against_leader(lead, looks) if lead is not None else None,
    )


def _notes(notes: Sequence[str]) -> Html:
    """Notes below a table. Those on a mark are seen at once, the others on demand."""
    of_marks = [join(note) for note in notes if note.startswith(MARKS)]
    others = [join(note) for note in notes if not note.startswith(MARKS)]
    return join(
        lines(of_marks, class_="notes") if of_marks else None,
        folded(f"How to read this table ({counted(len(others), 'note')})", lines(others, class_="notes"))
        if others
        else None,
    )


def _comparison(group: Collection, table: Table, looks: Mapping[str, Look], origins: Mapping[str, Origin]) -> Html:
    headline, metrics = ranking_metric(table), required_metrics(table.cutoffs)
    differences = any(row.difference is not None for row in table.rows)
    commands = {label: row_command(origins, look.runs) for label, look in looks.items()}
    opened = {label: f"command-{place}" for place, (label, command) in enumerate(commands.items()) if command}
    scale = scale_of(table.rows, headline)
    heads = [
        Head("Method", number=False),
        Head(f"{metric_title(headline)}, drawn", "Mean and 95 % interval; dashed: the mean of SFT"),
    ]
    heads += [Head(metric_title(metric)) for metric in metrics[:-1]]
    if differences:
        heads.append(Head(f"Δ {metric_title(headline)} to SFT", "Paired on the same contexts"))
    heads += [
        Head(
            f"Best {metric_title(headline)} on validation",
            "Highest point of the row’s mean validation curve, and its update. It is chosen, and so optimistic. A row "
            "without a curve: its one value",
        ),
        Head(metric_title("in_catalog"), "Share of the ranks whose item is in the catalogue"),
        Head("Seeds"),
    ]
    if opened:
        heads.append(Head("Make again", "The command that makes the runs of the row again", number=False, kind="tool"))
    rows, kinds = [], []
    for row in table.rows:
        score = row.metrics[headline]
        look = looks[row.label]
        cells = [name_cell(look, "".join(row.marks)), GridCell(drawn(score, look, scale), score.mean)]
        cells += [interval_cell(row.metrics[metric], share, strong=metric in row.bold) for metric in metrics[:-1]]
        if differences:
            cells.append(interval_cell(row.difference, signed))
        cells.append(best_on_validation(group, look, headline))
        cells.append(number(row.metrics["in_catalog"].mean, share))
        cells.append(number(len(row.seeds), str) if row.stage in ("sft", "external", "rl") else MISSING)
        if opened:
            cells.append(_opener(opened[row.label]) if row.label in opened else MISSING)
        rows.append(cells)
        kinds.append(_kind(row.stage))
    caption = "Test split, means over seeds and samples, 95 % intervals"
    boxes = [_command(place, looks[label], commands[label]) for label, place in opened.items()]
    return join(grid("comparison", caption, heads, rows, kinds=kinds), boxes)


def best_on_validation(group: Collection, look: Look, metric: str) -> GridCell:
    """The highest point of a row's mean validation curve, or its validation score without a curve."""
    series = row_series(group, look.runs, "validation", metric)
    if series is None or not np.isfinite(series.mean).any():
        values = group.runs.loc[group.runs["run"].isin(look.runs)].get(f"validation.{metric}")
        return number(None if values is None else float(values.mean()), share)
    best = int(np.nanargmax(series.mean))
    return number(float(series.mean[best]), share, f"update {series.x[best]:,.0f}" if len(series.x) > 1 else "")


def _opener(place: str) -> GridCell:
    """The button that opens the command of a row, whose box has this id."""
    return GridCell(tag("button", "command", type="button", popovertarget=place, class_="small"))


def _command(place: str, look: Look, command: str) -> Html:
    """The command of a row, in a box that its button opens. Browsers without such boxes show it below the table."""
    told = tag("p", "Runs that are done are skipped.", class_="note")
    return tag("div", tag("p", named(look)), command_block(command), told, id=place, popover=True)


def _kind(stage: str) -> str:
    return "" if stage == "rl" else "reference"


def interval_cell(cell: Interval | None, reads: Callable[[float], str], *, strong: bool = False) -> GridCell:
    """A number with its interval below."""
    if cell is None:
        return MISSING
    shown = number(cell.mean, reads, bounds(cell, reads), strong=strong)
    return replace(shown, ends=(cell.low, cell.high)) if cell.has_interval else shown


@dataclass(frozen=True)
class Scale:
    """Scale of the drawn intervals: its ends, and the value of SFT as a mark, if there is one."""

    low: float
    high: float
    mark: float | None


def scale_of(rows: Sequence[Row], metric: str) -> Scale:
    """A scale over SFT, RL and external rows, or over all rows if there are none."""
    shown = [row for row in rows if row.stage in ("sft", "external", "rl")] or rows
    cells = [row.metrics[metric] for row in shown]
    sft = [row.metrics[metric].mean for row in rows if row.stage == "sft"]
    return Scale(min(cell.low for cell in cells), max(cell.high for cell in cells), sft[0] if sft else None)


def drawn(cell: Interval, look: Look, scale: Scale) -> Html:
    """Mean and interval on the scale that all rows share, or an arrow if the mean is off the scale."""
    width, height = PLOT
    span = (scale.high - scale.low) or 1.0

    def place(value: float) -> float:
        return round(4 + (width - 8) * min(max((value - scale.low) / span, 0.0), 1.0), 1)

    colour, middle = ink(look.colour), height / 2
    mark = place(scale.mark) if scale.mark is not None else None
    parts = [tag("line", x1=mark, x2=mark, y1=0, y2=height, class_="mark")] if mark is not None else []
    if scale.low <= cell.mean <= scale.high:
        ends = (place(cell.low), place(cell.high))
        parts.append(tag("line", x1=ends[0], x2=ends[1], y1=middle, y2=middle, stroke=colour, stroke_width=1.6))
        parts += [tag("line", x1=x, x2=x, y1=4.5, y2=height - 4.5, stroke=colour, stroke_width=1.2) for x in ends]
        parts.append(tag("circle", cx=place(cell.mean), cy=middle, r=3.4, fill=colour))
    else:
        tip, back = (width - 3, width - 11) if cell.mean > scale.high else (3, 11)
        parts.append(tag("path", d=f"M{back} 4 L{tip} {middle:g} L{back} {height - 4}", fill="none", stroke=colour))
    return tag("svg", parts, width=width, height=height, aria_hidden="true", class_="plot")


def _against_baseline(table: Table, looks: Mapping[str, Look]) -> Html:
    """Trained rows against the table's baseline, with the table's own comparisons."""
    metric = metric_title(table.comparisons[0].metric)
    heads = [
        Head("Method", number=False),
        Head(f"Δ {metric}", "Row minus baseline, paired on the same contexts, with its 95 % interval"),
        Head("p", "Two-sided, of the interval, corrected by Holm. It decides. None where no verdict can be given"),
        Head("p permuted", "Of a permutation test: exact, or 10,000 arrangements; corrected likewise", kind="more"),
        Head("Rearranged", "What the permutation test deals out anew", number=False, kind="more"),
        Head("Better", "Probability that a run of the row scores higher than one of the baseline"),
        Head("Detectable", "True difference that this design finds in 80 % of the cases, with its 80 % range"),
        Head("Reading", number=False),
    ]
    rows = [
        [
            name_cell(looks[one.label], "".join(one.marks)),
            interval_cell(one.difference, signed, strong=one.holds),
            number(one.p_holm, chance),
            number(one.permutation_holm, chance),
            text(PERMUTED[one.permuted] + (MODELS_ONLY if one.permuted == "contexts" else "")),
            interval_cell(one.improvement, partial(share, digits=2)),
            MISSING if one.detectable is None else GridCell(detectable_text(one.detectable), one.detectable.mean),
            text(one.reading, kind="reading"),
        ]
        for one in table.comparisons
    ]
    caption = f"{metric} against {table.baseline} on test; bold where the difference holds"
    notes = [note for note in table.comparison_notes if note not in table.notes]
    return join(grid("against-baseline", caption, heads, rows, more="other p values"), _notes(notes))


def _against_leader(lead: Lead, looks: Mapping[str, Look]) -> Html:
    metric, name = metric_title(lead.metric), looks[lead.label].name
    heads = [
        Head("Method", number=False),
        Head(f"Lead in {metric}", "Of the leading row over this one, with its 95 % interval"),
        Head("P(run wins)", "Probability that a run of the leading row scores higher than a run of this one"),
        Head("Compared", "Whether seeds and budgets allow it", number=False),
    ]
    rows = [
        [
            name_cell(looks[one.label]),
            interval_cell(one.difference, signed, strong=one.holds),
            number(one.wins, share),
            text(f"no: {one.reason}" if one.reason else "yes"),
        ]
        for one in lead.over
    ]
    caption = f"Lead of {name} in {metric} on test; bold where it holds"
    return join(grid("against-leader", caption, heads, rows), lines([lead_note(lead, name)], class_="notes"))


def every_run(group: Collection, looks: Mapping[str, Look], origins: Mapping[str, Origin]) -> Html:
    """The section with one line per run, which readers can filter."""
    cutoffs = sorted(group.runs.iloc[0]["cutoffs"])
    tests = [f"test.{metric}" for metric in required_metrics(cutoffs)]
    top = f"validation.ndcg@{cutoffs[-1]}"
    heads = [Head("Row", number=False), Head("Seed")]
    heads += [Head(metric_title(name[5:])) for name in tests]
    heads.append(Head(f"{metric_title(top[11:])}, validation"))
    heads += [Head("Checkpoint", "Update whose weights are judged"), Head(metric_title("updates"))]
    heads += [Head(metric_title(name)) for name in ("completions", "generated_tokens", "seconds")]
    heads += [Head("Stopped", "Update at which it stopped early")]
    heads += [Head("Commit", number=False), Head("Hash", number=False), Head("Directory", number=False)]
    order = {label: i for i, label in enumerate(looks)}
    runs = group.runs.assign(order=group.runs["label"].map(order)).sort_values(["order", "seed"], kind="stable")
    rows, kinds = [], []
    for _, run in runs.iterrows():
        found = origins[str(run["run"])]
        commit = found.commit[:8] + ("+" if found.dirty else "")
        cells = [name_cell(looks[run["label"]]), number(run["seed"], str)]
        cells += [number(float(run.get(name, np.nan)), share) for name in [*tests, top]]
        cells.append(number(run["checkpoint_step"], "{:,}".format) if run["updates"] > 0 else MISSING)
        cells += [amount(run["updates"], "{:,.0f}".format), amount(run["completions"])]
        cells += [amount(run["generated_tokens"]), amount(run["seconds"], duration)]
        cells.append(number(run["stopped_update"], "{:.0f}".format))
        cells += [text(tag("code", commit), commit) if commit else MISSING, text(tag("code", run["hash"]), run["hash"])]
        cells.append(text(tag("code", breakable(run["run"])), run["run"], kind="path"))
        rows.append(cells)
        kinds.append(_kind(run["stage"]))
    caption = "Every run that is used; + after a commit: with changes that are not committed"
    wanted = tag("input", type="search", id="filter", autocomplete="off", spellcheck="false")
    label = tag("label", "Show only runs with ", wanted, class_="needs-script")
    told = tag("span", id="filtered", role="status")
    return section(
        "runs",
        "Runs",
        tag("p", label, " ", told),
        grid("every-run", caption, heads, rows, kinds=kinds),
    )
