"""Captions of figures: what a figure shows, of which runs, and how its lines and bands were made."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.collection import Collection
from analysis.collection.stages import SHARED_STAGES
from analysis.command import write_texts
from analysis.figures.choices import AXES
from analysis.figures.labels import Key
from analysis.figures.series import rl_rows
from analysis.figures.style import FORMATS, Captioned, save
from analysis.render.numbers import many, words
from analysis.render.sheet import in_latex
from analysis.render.templates import Paper
from rlbench.lists.metric_catalogue import inside, metric_title

LETTERS = 120
"""Letters in a line of a caption's text file."""

LINES = {"sft": "dashed", "oracle": "dotted"}
"""Grey reference lines in words."""


def about(group: Collection, keys: Sequence[Key], against: str, by: str | None) -> str:
    """What a figure shows, and of which runs: the first sentences of its caption."""
    first = group.runs.iloc[0]
    places = {"train": "in training", "validation": "on validation"}
    splits = list(dict.fromkeys(split for split, _ in keys))
    of_split = [words([inside(metric_title(name)) for of, name in keys if of == split]) for split in splits]
    shown = "; ".join(f"{titles} {places[split]}" for split, titles in zip(splits, of_split, strict=True))
    panels = f", one panel for each {by}" if by else ""
    text = (
        f"{shown[0].upper()}{shown[1:]}, over {inside(AXES[against])}{panels}. {first['model']} on {first['dataset']}."
    )
    return " ".join([text, *(_rollouts(group) * ("train" in splits)), *(_contexts(group) * ("validation" in splits))])


def _setting(group: Collection, key: str) -> Any:
    """The value of a setting, if it is known and the same in all RL runs, else None."""
    runs = [run for rows in rl_rows(group).values() for run in rows["run"]]
    values = {str(group.settings.get(run, {}).get(key)): group.settings.get(run, {}).get(key) for run in runs}
    return next(iter(values.values())) if len(values) == 1 else None


def _rollouts(group: Collection) -> list[str]:
    lists, size = _setting(group, "rl.completions_per_update"), _setting(group, "rl.group_size")
    return [f"An update uses {many(lists, 'list')} in groups of {size}."] if lists and size else []


def _contexts(group: Collection) -> list[str]:
    most = _setting(group, "evaluation.validation_contexts")
    return [f"Validation: {many(most, 'context') if most else 'all contexts'}, greedy lists."]


def reference_words(stages: set[str], *, reported: bool) -> str:
    """Sentences on grey lines, an oracle above the scale, and curves of the paper. Each begins with a space."""
    parts = [f"{SHARED_STAGES[stage]} ({LINES[stage]})" for stage in LINES if stage in stages]
    said = f" Grey: {words(parts)}." if parts else ""
    said += " ↑: the oracle is above the scale." if "above" in stages else ""
    return said + (" Open markers: read off the figures of arXiv 2510.20150, one seed each." if reported else "")


def save_captioned(figure: Captioned, path: Path, label: str, paper: Paper) -> list[Path]:
    """Write a figure in all formats, its caption as text, and with a template its LaTeX. Returns the files written."""
    texts = {f"{path.name}.txt": textwrap.fill(figure.caption, LETTERS) + "\n"}
    if paper.template is not None:
        texts[f"{path.name}.tex"] = figure_latex(path.name, figure.caption, label, paper)
    return [*save(figure, path, FORMATS), *write_texts(path.parent, texts)]


def figure_latex(name: str, caption: str, label: str, paper: Paper) -> str:
    """A LaTeX figure with its caption and label, for the template of the paper. Needs graphicx."""
    kind = "figure*" if paper.wide else "figure"
    described = paper.template is not None and paper.template.described
    lines = [
        "% Needs graphicx. The PDF has its final size: do not scale it, or its letters change.",
        rf"\begin{{{kind}}}[t]",
        r"\centering",
        rf"\includegraphics{{{name}.pdf}}",
        *([rf"\Description{{{in_latex(caption)}}}"] if described else []),
        rf"\caption{{{in_latex(caption)}}}",
        rf"\label{{fig:{label}}}",
        rf"\end{{{kind}}}",
    ]
    return "\n".join([*lines, ""])
