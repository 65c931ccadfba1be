"""Names of rows, and the order of those that are no RL rows."""

from collections.abc import Callable

import pandas as pd

from rlbench.config.baselines import BASELINES
from rlbench.runs.record import STAGES

SHARED_STAGES = {"oracle": "oracle", "zero_shot": "zero-shot", "sft": "SFT"}
"""Names of the stages with one row each."""


BETWEEN = " · "
"""Text between the algorithm and the reward in a row's name."""


def row_name(run: pd.Series, word: Callable[[str, str], str] = lambda column, value: value) -> str:
    """Name of the row of a run, in every table, figure and page: "grpo · relevance", "SFT".

    Curves from elsewhere (`analysis.api.plots`) have no reward. A clone names what it continues: "rank_grpo · relevance
    ← step 20 of grpo · relevance".

    Args:
        run: a line of `Collection.runs`.
        word: display name of a value in a column (algorithm or reward).
    """
    if run["stage"] != "rl":
        return shared_stage_name(str(run["stage"]), str(run["label"]))
    if isinstance(ancestor := run.get("clone_of"), str):
        own = BETWEEN.join(word(column, str(run[column]).partition(" @ ")[0]) for column in ("algorithm", "reward"))
        return f"{own}{f' ({changed})' if (changed := run['clone_changed']) else ''} ← {ancestor}"
    return BETWEEN.join(word(column, str(run[column])) for column in ("algorithm", "reward") if run[column])


def shared_stage_name(stage: str, label: str) -> str:
    """Name of a shared stage's row. If the label has a variant after `@` (SFT training data), the name includes it."""
    own, at, variant = label.partition("@")
    titles = {name: one.title for name, one in BASELINES.items()} if stage == "baseline" else {}
    return (titles.get(own) or SHARED_STAGES.get(stage, own)) + (f" @ {variant}" if at else "")


def stage_place(stage: str, label: str) -> tuple[int, int]:
    """Sort key of a row: by stage, and baselines in the order of `BASELINES`."""
    own, known = label.partition("@")[0], list(BASELINES)
    return STAGES.index(stage), known.index(own) if stage == "baseline" and own in known else len(known)
