"""One page per group of runs: a single file that loads nothing and runs only its own script.

Python writes the HTML that works without scripts (tables, warnings, settings, budgets). The scripts in `assets` draw
curves, heat maps and lists from one JSON block. A content security policy allows only the script with the given hash,
so nothing in a title or a completion can run or load anything.
"""

import base64
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from analysis.collection import Collection
from analysis.collection.origins import origins
from analysis.html.budgets import budgets
from analysis.html.cautions import caution_section, problem_lines
from analysis.html.contexts import context_data, known_contexts
from analysis.html.curve_data import curve_data
from analysis.html.experiments import Compared
from analysis.html.grid import folded, lines, scripted, section
from analysis.html.markup import Html, breakable, join, json_block, tag
from analysis.html.provenance import provenance
from analysis.html.results import every_run, results
from analysis.html.rows import Look, looks, shared_words
from analysis.html.samples import sample_data
from analysis.html.settings import config_differences
from analysis.problems import Problem
from analysis.render.numbers import counted
from analysis.render.sheet import LATEX
from analysis.tables.cautions import cautions
from analysis.tables.headline import Headline, headline_of, ranking_metric, rule_notes, sentences
from analysis.tables.model import UNEQUAL, Table
from rlbench.base.program import as_started
from rlbench.lists.metric_catalogue import metric_title

SCRIPTS = (
    *("dom.js", "nav.js", "sorting.js", "export.js", "rows.js", "chart.js", "multiples.js", "heat.js", "lists.js"),
    *("contexts.js", "main.js"),
)
STYLE = "style.css"


def group_page(group: Collection, table: Table, folder: Path, problems: Sequence[Problem] = ()) -> str:
    """The page of one group of runs (`Collection.groups`).

    Args:
        table: table of the group (`analysis.tables.build_table`).
        folder: folder that contains the runs.
    """
    rows = looks(group)
    by_label = {look.label: look for look in rows}
    names = {label: look.name for label, look in by_label.items()}
    metric, headline = ranking_metric(table), headline_of(table, group)
    scores = {row.label: row.metrics[metric].mean for row in table.rows}
    unequal = {row.label for row in table.rows if UNEQUAL in row.marks}
    found = origins(group, folder)
    curves = curve_data(group, rows)
    samples = sample_data(rows, folder)
    data = {
        "rows": [look.as_data() for look in rows],
        "headline": metric,
        "metricTitle": metric_title(metric),
        "score": [round(scores[look.label], 6) for look in rows],
        "curves": curves,
        "samples": samples,
        "contexts": context_data(group, rows, folder, metric, known_contexts(samples)) if len(rows) > 1 else None,
        "latex": LATEX,
    }
    body = {
        "summary": _summary(group, rows, headline, names),
        "warnings": caution_section(cautions(group, table, names, found, headline, problems), problems),
        "results": results(group, table, headline, by_label, found),
        "curves": scripted("curves", "Curves") if curves["series"] else None,
        "contexts": scripted("contexts", "Contexts: where does one row win?") if data["contexts"] else None,
        "ranks": scripted("ranks", "Ranks over training") if curves["heat"] else None,
        "lists": scripted("lists", "Lists") if samples["greedy"] or samples["groups"] else None,
        "settings": config_differences(group, rows),
        "budgets": budgets(group, rows, unequal),
        "runs": every_run(group, by_label, found),
        "provenance": provenance(found, rows, _command(folder)),
    }
    links = [tag("a", name.capitalize(), href=f"#{name}") for name, part in body.items() if part is not None]
    first = group.runs.iloc[0]
    title = f"{first['experiment']}: {first['dataset']}, {first['model']}"
    return document(
        title,
        tag("header", tag("h1", breakable(title))),
        tag("nav", links, aria_label="Contents"),
        tag("main", *body.values()),
        data=json_block("data", data),
    )


def _command(folder: Path) -> str:
    return as_started("python -m analysis.report") + f" {shlex.quote(folder.as_posix())}"


def _summary(group: Collection, rows: Sequence[Look], headline: Headline | None, names: Mapping[str, str]) -> Html:
    runs = group.runs
    trained = [look for look in rows if look.stage == "rl"]
    first = runs.iloc[0]
    seeds = sorted({len(look.seeds) for look in trained})
    each = "one seed" if seeds == [1] else f"{' or '.join(map(str, seeds))} seeds"
    what = (
        f"{counted(len(trained), 'trained row')}, {each}{' each' if len(trained) > 1 else ''}"
        if trained
        else f"{counted(len(runs), 'run')}, none trained by reinforcement learning"
    )
    shared = shared_words(runs)
    compared = (
        f"Compared: {what}{f' ({shared})' if shared else ''}, on {first['dataset']} with {first['model']}, "
        f"lists of {first['list_length']}, {counted(len(runs), 'run')} in all."
    )
    told = sentences(headline, names) if headline is not None else []
    return section(
        "summary",
        "Summary",
        tag("p", compared),
        tag("p", tag("strong", told[0]), " ", " ".join(told[1:]), class_="headline") if told else None,
        folded("The rule behind this paragraph", lines(rule_notes(headline.metric))) if headline is not None else None,
    )


def document(title: str, *content: Html, data: Html | None = None) -> str:
    """A complete page. It includes the scripts only if there are data for them."""
    script = Html(_assets(*SCRIPTS)) if data is not None else None
    digest = base64.b64encode(hashlib.sha256((script or "").encode()).digest()).decode()
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; script-src "
        + (f"'sha256-{digest}'" if script else "'none'")
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),
        tag("style", Html(_assets(STYLE))),
    )
    scripts = join(data, tag("script", script)) if script else None
    return f"<!doctype html>\n{tag('html', head, tag('body', *content, scripts), lang='en')}\n"


def _assets(*names: str) -> str:
    folder = resources.files("analysis.html") / "assets"
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


def index_page(
    title: str,
    groups: Sequence[tuple[str, str, int]],
    cost: Sequence[str],
    problems: Sequence[Problem] = (),
    compared: Compared | None = None,
) -> str:
    """A page of links to the pages of several groups, with what compares them.

    Args:
        groups: name, relative path of the page, and number of runs of each group.
        cost: sentences on the total cost of the runs of all groups.
        problems: problems of runs that belong to no group.
        compared: sections that compare the groups; None for links only.
    """
    entries = [
        tag("li", tag("a", name, href=quote(path)), f": {counted(count, 'run')}") for name, path, count in groups
    ]
    listed = [tag("ul", entries, class_="groups"), *(tag("p", one, class_="note") for one in cost)]
    body = {"experiments": section("experiments", counted(len(groups), "experiment").capitalize(), *listed)}
    body |= compared.sections if compared is not None else {}
    if problems:
        body["left-out"] = section("left-out", "Runs that belong to none of them", problem_lines(problems))
    links = [tag("a", name.replace("-", " ").capitalize(), href=f"#{name}") for name in body]
    return document(
        title,
        tag("header", tag("h1", breakable(title))),
        tag("nav", links, aria_label="Contents"),
        tag("main", *body.values()),
        data=json_block("data", compared.data) if compared is not None else None,
    )
