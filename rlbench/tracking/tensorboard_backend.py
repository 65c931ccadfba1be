"""TensorBoard: one event file per attempt, in `<run directory>/tensorboard/attempt<k>/`.

Only the package `tensorboard` is needed, neither torch nor TensorFlow. Curves are scalars over updates, tables are
Markdown under "Text", figures are images. The "HParams" page compares runs by config and final values. `tensorboard
--logdir runs/<experiment>` shows a sweep.
"""

import json
import os
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlbench.base.nested import flatten
from rlbench.tracking.identity import Scalar, TrackerIdentity

FOLDER = "tensorboard"
FLUSH_SECONDS = 5.0
PNG_HEADER = struct.Struct(">8s4x4sII")
PNG_RGBA = 4
"""TensorBoard's code for RGBA images."""


class TensorBoardBackend:
    """One event file. `make_tracker` documents the arguments."""

    name = "TensorBoard"
    remedy = ""

    def __init__(self, directory: Path, identity: TrackerIdentity, config: Mapping[str, Any]):
        self._folder = directory / FOLDER / f"attempt{identity.attempt}"
        self._identity, self._config = identity, config

    def prepare(self) -> None:
        pass

    def start(self) -> None:
        from tensorboard.compat.proto import summary_pb2
        from tensorboard.plugins.hparams import metadata, plugin_data_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in name order, so names start with the time.
        path = self._folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
        self._file = path.open("wb")
        self._writer = RecordWriter(self._file)
        self._flushed = time.monotonic()
        self._event(file_version="brain.Event:2")
        begun = plugin_data_pb2.SessionStartInfo(group_name=self._identity.group, start_time_secs=time.time())
        for key, value in flatten(self._config).items():
            setattr(begun.hparams[key], *_hparam(value))
        self._summary(
            summary_pb2.Summary.Value(
                tag=metadata.SESSION_START_INFO_TAG,
                metadata=metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_start_info=begun)),
                tensor=metadata.NULL_TENSOR,
            )
        )
        whole = {**self._config, "identity": asdict(self._identity)}
        self._text("config", "```\n" + json.dumps(whole, indent=2) + "\n```", 0)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        from tensorboard.compat.proto import summary_pb2

        values = [summary_pb2.Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._summary(*values, step=step)

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Scalar]], step: int) -> None:
        self._text(name, markdown(columns, rows), step)

    def log_image(self, name: str, file: Path, step: int) -> None:
        from tensorboard.compat.proto import summary_pb2

        content = file.read_bytes()
        signature, kind, width, height = PNG_HEADER.unpack_from(content)
        if (signature, kind) != (b"\x89PNG\r\n\x1a\n", b"IHDR"):
            raise ValueError(f"{file} is not a PNG file")
        image = summary_pb2.Summary.Image(width=width, height=height, colorspace=PNG_RGBA, encoded_image_string=content)
        self._summary(summary_pb2.Summary.Value(tag=name, image=image), step=step)

    def summary(self, values: Mapping[str, float]) -> None:
        self.log(values, 0)

    def finish(self, failed: bool) -> None:
        from tensorboard.compat.proto import summary_pb2
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        status = api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS
        ended = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
        self._summary(
            summary_pb2.Summary.Value(
                tag=metadata.SESSION_END_INFO_TAG,
                metadata=metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=ended)),
                tensor=metadata.NULL_TENSOR,
            )
        )
        self._flush()
        self._file.close()

    def abandon(self) -> None:
        pass  # the file closes with the process; closing it here would write again

    def _text(self, name: str, text: str, step: int) -> None:
        from tensorboard.compat.proto import summary_pb2, tensor_pb2, types_pb2
        from tensorboard.plugins.text import metadata

        tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[text.encode()])
        described = metadata.create_summary_metadata(display_name=name, description="")
        self._summary(summary_pb2.Summary.Value(tag=name, metadata=described, tensor=tensor), step=step)

    def _summary(self, *values: Any, step: int = 0) -> None:
        from tensorboard.compat.proto import summary_pb2

        self._event(step=step, summary=summary_pb2.Summary(value=values))

    def _event(self, **content: Any) -> None:
        from tensorboard.compat.proto import event_pb2

        self._writer.write(event_pb2.Event(wall_time=time.time(), **content).SerializeToString())
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flush()

    def _flush(self) -> None:
        self._file.flush()
        self._flushed = time.monotonic()
        if not os.fstat(self._file.fileno()).st_nlink:
            raise FileNotFoundError(f"{self._file.name} has been removed")


def _hparam(value: Any) -> tuple[str, Any]:
    """Return the field of protobuf's Value for a setting, and its content."""
    if isinstance(value, bool):
        return "bool_value", value
    if isinstance(value, int | float):
        return "number_value", value
    return "string_value", value if isinstance(value, str) else json.dumps(value)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Scalar]]) -> str:
    """Return a Markdown table. Line breaks in cells become <br>."""

    def line(cells: Sequence[Scalar]) -> str:
        return "| " + " | ".join(_cell(cell) for cell in cells) + " |"

    return "\n".join([line(columns), "|" + "---|" * len(columns), *map(line, rows)])


def _cell(value: Scalar) -> str:
    text = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", "<br>")
