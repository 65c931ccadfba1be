"""`sweep.json` of an experiment: the cells of its sweeps, so that `analysis.status` finds cells that never started."""

from collections.abc import Mapping
from pathlib import Path

from rlbench.base import digests
from rlbench.base.errors import BadInput
from rlbench.runs.record import SWEEP, Sweep, SweepCell


def read_cells(folder: Path) -> dict[str, SweepCell]:
    """Return the cells of an experiment's sweeps by directory below its folder.

    Raises:
        BadInput: if the file is damaged.
    """
    path, remedy = folder / SWEEP.name, "move it away; the commands of its sweeps will write a new one"
    content = SWEEP.read(folder, remedy)
    if content.pop("sha256", None) != digests.own_digest(content):
        raise BadInput(f"{path} is damaged: it has changed since it was written; {remedy}")
    for name in content["cells"]:
        below = Path(name)
        if below.is_absolute() or ".." in below.parts:
            raise BadInput(f"{path} is damaged: its entry '{name}' is not a cell; {remedy}")
    return content["cells"]


def write_cells(folder: Path, cells: Mapping[str, SweepCell]) -> None:
    """Write the cells of an experiment's sweeps, with their digest."""
    content = Sweep(cells=dict(cells))
    SWEEP.write(folder, {**content, "sha256": digests.own_digest(content)})
