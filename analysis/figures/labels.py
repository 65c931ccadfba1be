"""Labels of metrics in figures and on the page, from the metric catalogue."""

import textwrap
from collections.abc import Mapping
from typing import Any

from analysis.collection import Collection
from analysis.figures.choices import VARIANT
from rlbench.lists.metric_catalogue import inside, metric_of

Key = tuple[str, str]
"""Split and metric."""

LETTERS = 30
"""Largest number of letters in a line of an axis label."""


def metric_label(group: Collection, metric: str) -> str:
    """Title and unit of a metric. KL names the policy that the group's runs refer to."""
    label = metric_of(metric).label.replace("the reference policy", f"the {_reference(group)} policy")
    return f"{label} (own units)" if metric in ("reward", "reward@k") and several_rewards(group) else label


def axis_label(group: Collection, key: Key, letters: int = LETTERS) -> str:
    """Label of the y axis of a metric on a split, in lines of at most `letters` letters and of about equal length."""
    split, metric = key
    label = metric_label(group, metric)
    if split != "train":
        accuracy = metric_of(metric).is_accuracy
        label = f"{split.capitalize()} {label}" if accuracy else f"{split.capitalize()}, {inside(label)}"
    return in_lines(label, letters)


def letters_beside(height: float, style: Mapping[str, Any]) -> int:
    """Number of letters in a line beside a panel. Its height in inches includes ticks and label of the x axis."""
    return min(LETTERS, max(14, int((height - 0.3) * 72 / (0.45 * style["axes.labelsize"]))))


def in_lines(label: str, letters: int = LETTERS) -> str:
    """A label broken into as few lines as possible, of about equal length."""
    lines = len(textwrap.wrap(label, letters))
    return "\n".join(
        next(found for width in range(1, letters + 1) if len(found := textwrap.wrap(label, width)) <= lines)
    )


def _reference(group: Collection) -> str:
    """Name of the reference policy of the KL term: initial or previous, or "reference" if the RL rows differ."""
    runs = group.runs.loc[group.runs["stage"] == "rl", "run"]
    every = {bool(group.settings.get(run, {}).get("algorithm.reference.sync_every", 0)) for run in runs}
    return "reference" if len(every) > 1 else "previous" if every == {True} else "initial"


def several_rewards(group: Collection) -> bool:
    """Whether RL rows have different rewards, ignoring variants."""
    rewards = group.runs.loc[group.runs["stage"] == "rl", "reward"]
    return bool(rewards.str.split(VARIANT).str[0].nunique() > 1)
