"""Names and order of the rows that are no RL rows."""

from rlbench.config.baselines import BASELINES
from rlbench.runs.record import STAGES

SHARED_STAGES = {"oracle": "oracle", "zero_shot": "zero-shot", "sft": "SFT"}
"""Names of the stages with one row each."""


def shared_stage_name(stage: str, label: str) -> str:
    """Name of a shared stage's row. If the label has a variant after `@` (SFT training data), the name includes it."""
    own, at, variant = label.partition("@")
    titles = {name: one.title for name, one in BASELINES.items()} if stage == "baseline" else {}
    return (titles.get(own) or SHARED_STAGES.get(stage, own)) + (f" @ {variant}" if at else "")


def stage_place(stage: str, label: str) -> tuple[int, int]:
    """Sort key of a row: by stage, and baselines in the order of `BASELINES`."""
    own, known = label.partition("@")[0], list(BASELINES)
    return STAGES.index(stage), known.index(own) if stage == "baseline" and own in known else len(known)
