"""Read what TensorBoard would show of a run, with TensorBoard's own reader."""

from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def open_attempt(directory: Path, attempt: int = 1) -> Any:
    """The reader of one attempt, with everything loaded."""
    sizes = {"scalars": 0, "tensors": 0, "images": 0}  # 0: all
    reader = EventAccumulator(str(directory / "tensorboard" / f"attempt{attempt}"), sizes)
    reader.Reload()
    return reader


def read_scalars(directory: Path, attempt: int = 1) -> dict[str, list[tuple[int, float]]]:
    """The (update, value) points of each curve; values have 32 bits."""
    reader = open_attempt(directory, attempt)
    return {tag: [(point.step, point.value) for point in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def read_text(directory: Path, tag: str, attempt: int = 1) -> list[tuple[int, str]]:
    """The (update, Markdown) of a text."""
    points = open_attempt(directory, attempt).Tensors(tag)
    return [(point.step, point.tensor_proto.string_val[0].decode()) for point in points]
