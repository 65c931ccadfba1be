"""Names of the stages that several methods share."""

SHARED_STAGES = {"oracle": "oracle", "zero_shot": "zero-shot", "sft": "SFT"}
"""Names of the rows above the algorithms, in order."""


def shared_stage_name(stage: str, label: str) -> str:
    """Name of a shared stage's row. If the label has a variant after `@` (SFT training data), the name includes it."""
    _, at, variant = label.partition("@")
    return SHARED_STAGES[stage] + (f" @ {variant}" if at else "")
