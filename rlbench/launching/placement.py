"""Assigns GPUs to cells: a share of one GPU, or several whole ones.

Loads no torch: a launcher starts many processes and should not use a GPU itself.
"""

import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import Literal

from rlbench.base.errors import BadInput

VISIBLE = "CUDA_VISIBLE_DEVICES"
_GPU = re.compile(r"^GPU (\d+):")
_MIG = re.compile(r"^\s+MIG .*\(UUID: (\S+)\)")


class Places:
    """GPUs and the free room on each. A multi-GPU cell does not share its GPUs.

    Args:
        gpus: names of the GPUs, as in CUDA_VISIBLE_DEVICES.
        per_gpu: number of cells that may share a GPU.
    """

    def __init__(self, gpus: Sequence[str], per_gpu: int):
        self.gpus, self.per_gpu = tuple(gpus), per_gpu
        self.taken = dict.fromkeys(self.gpus, 0)

    def at_once(self, count: int) -> int:
        """Return how many cells with `count` GPUs each fit at once; `count` is at least 1."""
        return len(self.gpus) * self.per_gpu if count == 1 else len(self.gpus) // count

    def has_room(self, count: int) -> bool:
        """Whether a cell that needs `count` GPUs fits now."""
        return len(self._free(count)) >= count

    def take(self, count: int) -> tuple[str, ...]:
        """Assign the `count` least used GPUs to a cell. There must be room."""
        free = self._free(count)
        assert len(free) >= count
        chosen = tuple(sorted(free, key=self.taken.__getitem__)[:count])
        for gpu in chosen:
            self.taken[gpu] += self._weight(count)
        return chosen

    def give_back(self, chosen: Sequence[str]) -> None:
        """Release GPUs assigned by `take`."""
        for gpu in chosen:
            self.taken[gpu] -= self._weight(len(chosen))

    def _free(self, count: int) -> list[str]:
        return [gpu for gpu in self.gpus if self.taken[gpu] + self._weight(count) <= self.per_gpu]

    def _weight(self, count: int) -> int:
        """Return the number of places that a cell takes on each of its `count` GPUs."""
        return 1 if count == 1 else self.per_gpu


def list_gpus() -> tuple[str, ...]:
    """Return the names of this machine's GPUs or MIG instances; empty if nvidia-smi is missing or finds none."""
    try:
        result = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    except FileNotFoundError:
        return ()
    return parse_list(result.stdout) if result.returncode == 0 else ()


def parse_list(text: str) -> tuple[str, ...]:
    """Parse `nvidia-smi -L`: GPU indices in bus order; for a partitioned GPU, its MIG instances."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if gpu := _GPU.match(line):
            found.append((gpu[1], []))
        elif mig := _MIG.match(line):
            found[-1][1].append(mig[1])
    return tuple(name for index, parts in found for name in (parts or [index]))


def visible(environment: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the GPUs in CUDA_VISIBLE_DEVICES by name, or None if it is not set."""
    if VISIBLE not in environment:
        return None
    names = [name.strip() for name in environment[VISIBLE].split(",")]
    refused = [number for number, name in enumerate(names) if name in ("", "-1")]  # CUDA ignores everything after these
    return tuple(names[: min(refused, default=len(names))])


def choose_gpus(
    wanted: list[int] | Literal["auto"], allowed: tuple[str, ...] | None, there: Sequence[str]
) -> tuple[str, ...]:
    """Return the GPUs that a launcher may use.

    Args:
        wanted: GPU numbers, or auto. If `allowed` is given, the numbers index into it.
        allowed: result of `visible`.
        there: result of `list_gpus`; used only with auto and if `allowed` is None.

    Raises:
        BadInput: if a number occurs twice or is out of range.
    """
    if wanted == "auto":
        return tuple(there) if allowed is None else allowed
    problems = []
    if len(set(wanted)) < len(wanted):
        problems.append(
            f"hydra.launcher.gpus = {wanted} lists a GPU twice; to share a GPU, use hydra.launcher.cells_per_gpu"
        )
    outside = [number for number in wanted if number < 0 or (allowed is not None and number >= len(allowed))]
    if outside:
        there_are = (
            "GPUs are counted from 0" if allowed is None else (f"{VISIBLE} allows {len(allowed)} GPUs, counted from 0")
        )
        problems.append(f"hydra.launcher.gpus contains {', '.join(map(str, outside))}, but {there_are}")
    if problems:
        raise BadInput(*problems)
    return tuple(str(number) if allowed is None else allowed[number] for number in wanted)


def environment_of(chosen: Sequence[str]) -> dict[str, str]:
    """Return the environment variables that assign GPUs to a cell."""
    return {VISIBLE: ",".join(chosen), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if chosen else {}
