"""Which GPUs a cell runs on: which there are, and for each cell a share of one, or several whole ones.

Loads no torch: a launcher starts many processes and should hold no GPU itself.
"""

import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import Literal

from rlbench.errors import BadInput

VISIBLE = "CUDA_VISIBLE_DEVICES"
_GPU = re.compile(r"^GPU (\d+):")
_MIG = re.compile(r"^\s+MIG .*\(UUID: (\S+)\)")


class Places:
    """GPUs, and how many cells each has room for. A GPU that a cell has beside others is its alone.

    Args:
        gpus: names of the GPUs, as CUDA_VISIBLE_DEVICES has them.
        per_gpu: cells that may share one.
    """

    def __init__(self, gpus: Sequence[str], per_gpu: int):
        self.gpus, self.per_gpu = tuple(gpus), per_gpu
        self.taken = dict.fromkeys(self.gpus, 0)

    def at_once(self, count: int) -> int:
        """How many cells that need `count` GPUs each have room at once; `count` is 1 or more."""
        return len(self.gpus) * self.per_gpu if count == 1 else len(self.gpus) // count

    def has_room(self, count: int) -> bool:
        """Whether a cell that needs `count` GPUs could be started."""
        return len(self._free(count)) >= count

    def take(self, count: int) -> tuple[str, ...]:
        """Give a cell `count` GPUs, the emptiest; there must be room."""
        free = self._free(count)
        assert len(free) >= count
        chosen = tuple(sorted(free, key=self.taken.__getitem__)[:count])
        for gpu in chosen:
            self.taken[gpu] += self._weight(count)
        return chosen

    def give_back(self, chosen: Sequence[str]) -> None:
        """Free what `take` gave."""
        for gpu in chosen:
            self.taken[gpu] -= self._weight(len(chosen))

    def _free(self, count: int) -> list[str]:
        return [gpu for gpu in self.gpus if self.taken[gpu] + self._weight(count) <= self.per_gpu]

    def _weight(self, count: int) -> int:
        """How many cells' room a cell takes on each of its `count` GPUs."""
        return 1 if count == 1 else self.per_gpu


def list_gpus() -> tuple[str, ...]:
    """Names of this machine's GPUs, or of its MIG instances; none where nvidia-smi is not there or finds none."""
    try:
        result = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    except FileNotFoundError:
        return ()
    return parse_list(result.stdout) if result.returncode == 0 else ()


def parse_list(text: str) -> tuple[str, ...]:
    """GPUs in what `nvidia-smi -L` prints: indices in the order of the bus; of a GPU that is cut up, its instances."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if gpu := _GPU.match(line):
            found.append((gpu[1], []))
        elif mig := _MIG.match(line):
            found[-1][1].append(mig[1])
    return tuple(name for index, parts in found for name in (parts or [index]))


def visible(environment: Mapping[str, str]) -> tuple[str, ...] | None:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves to us, as it names them; None where it is not set."""
    if VISIBLE not in environment:
        return None
    names = [name.strip() for name in environment[VISIBLE].split(",")]
    refused = [number for number, name in enumerate(names) if name in ("", "-1")]  # CUDA stops reading at these
    return tuple(names[: min(refused, default=len(names))])


def choose_gpus(
    wanted: list[int] | Literal["auto"], allowed: tuple[str, ...] | None, there: Sequence[str]
) -> tuple[str, ...]:
    """The GPUs that a launcher may use.

    Args:
        wanted: numbers of GPUs, counted among those allowed where any are named; or auto.
        allowed: what `visible` says.
        there: what `list_gpus` says; looked at under auto alone, where nothing is allowed by name.

    Raises:
        BadInput: where a number is named twice, or is outside of what is allowed.
    """
    if wanted == "auto":
        return tuple(there) if allowed is None else allowed
    problems = []
    if len(set(wanted)) < len(wanted):
        problems.append(f"hydra.launcher.gpus = {wanted} names a GPU twice; hydra.launcher.cells_per_gpu shares one")
    outside = [number for number in wanted if number < 0 or (allowed is not None and number >= len(allowed))]
    if outside:
        there_are = "GPUs are counted from 0" if allowed is None else f"{VISIBLE} leaves {len(allowed)}, counted from 0"
        problems.append(f"hydra.launcher.gpus holds {', '.join(map(str, outside))}: {there_are}")
    if problems:
        raise BadInput(*problems)
    return tuple(str(number) if allowed is None else allowed[number] for number in wanted)


def environment_of(chosen: Sequence[str]) -> dict[str, str]:
    """What the environment of a cell says of its GPUs."""
    return {VISIBLE: ",".join(chosen), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if chosen else {}
