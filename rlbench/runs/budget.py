"""Records what a run spends over all its attempts: counts, seconds per phase, peak memory and energy.

Phases nest. Time counts only for the innermost phase, so phases never sum to more than the total. Times are taken on
the CPU without waiting for the GPU: queued GPU work counts for the phase that waits for its result.
"""

import math
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import torch

from rlbench.runs import processes
from rlbench.runs.peak import current_peak
from rlbench.runs.record import COMPUTING, PHASES, Budget, Spent

TOKENS = {
    "rollout": "generated_tokens",
    "reference": "reference_tokens",
    "update": "trained_tokens",
    "evaluation": "evaluation_tokens",
}
"""For each phase that runs the model, the count of the completion tokens that it is for."""
COUNTS = ("prompts", "completions", *TOKENS.values())
POWERCAP = Path("/sys/class/powercap")
SAMPLE_SECONDS = 1.0
"""Minimum seconds between readings of the energy counters at phase changes. RAPL counters wrap within an hour."""


class EnergyCounter:
    """Joules since creation, from a hardware counter that only increases and may wrap.

    Args:
        read: returns the counter; None or an OSError means unreadable.
        joules: joules per counter step.
        wraps: value at which the counter restarts at 0; infinite if it never wraps.
    """

    def __init__(self, read: Callable[[], float | None], joules: float, wraps: float = math.inf):
        self._read, self._joules, self._wraps = read, joules, wraps
        self._last, self._sum = self._value(), 0.0

    def _value(self) -> float | None:
        try:
            return self._read()
        except OSError:  # only root may read RAPL
            return None

    def sample(self) -> None:
        """Read the counter. Must be called at least once per wrap period."""
        value = self._value()
        if value is not None and self._last is not None:
            self._sum += value - self._last if value >= self._last else value - self._last + self._wraps
        self._last = value

    @property
    def spent(self) -> float | None:
        return None if self._last is None else self._sum * self._joules


def cpu_counters(powercap: Path = POWERCAP) -> list[EnergyCounter]:
    """Return Intel RAPL counters, one per package, covering everything that runs on it. AMD uses the same format."""
    packages = [
        folder
        for folder in sorted(powercap.glob("intel-rapl:*"))
        if re.fullmatch(r"intel-rapl:\d+", folder.name) and (folder / "name").read_text().startswith("package")
    ]
    return [
        EnergyCounter(
            lambda file=folder / "energy_uj": float(file.read_text()),  # type: ignore[misc]
            joules=1e-6,
            wraps=float((folder / "max_energy_range_uj").read_text()),
        )
        for folder in packages
    ]


def gpu_counters(devices: int) -> list[EnergyCounter]:
    """Return NVML energy counters of the first `devices` visible GPUs, or an empty list if NVML or a counter is
    missing.
    """
    if not devices:
        return []
    import pynvml  # not every machine has a GPU

    def reader(handle: Any) -> Callable[[], float]:
        return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))

    try:
        pynvml.nvmlInit()
        uuids = [f"GPU-{torch.cuda.get_device_properties(device).uuid}" for device in range(devices)]
        readers = [reader(pynvml.nvmlDeviceGetHandleByUUID(uuid)) for uuid in uuids]
        return [EnergyCounter(read, joules=1e-3) for read in readers if read() >= 0]
    except pynvml.NVMLError:  # another vendor's GPU, a partition of a GPU, or a GPU older than the counter
        return []


def gpu_driver() -> str | None:
    """Return the version of the NVIDIA driver, or None."""
    import pynvml  # not every machine has a GPU

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None


class Energy:
    """Joules per kind of device since creation; None for a kind without a readable counter."""

    def __init__(self, counters: Mapping[str, list[EnergyCounter]]):
        self._counters = counters
        self._sampled = time.monotonic()

    def sample(self) -> None:
        """Read all counters, unless they were read less than `SAMPLE_SECONDS` ago."""
        if time.monotonic() - self._sampled >= SAMPLE_SECONDS:
            self._read()

    def _read(self) -> None:
        self._sampled = time.monotonic()
        for counter in (counter for group in self._counters.values() for counter in group):
            counter.sample()

    def joules(self) -> dict[str, float | None]:
        self._read()
        return {kind: _sum([counter.spent for counter in group]) for kind, group in self._counters.items()}


def _sum(parts: list[float | None]) -> float | None:
    """Return the sum, or None if there are no parts or any part is unknown."""
    known = [part for part in parts if part is not None]
    return sum(known) if parts and len(known) == len(parts) else None


def peak_memory(on_gpu: bool) -> dict[str, int | None]:
    """Return the peaks since the last reset, in bytes: resident memory of this process, torch memory on its GPU."""
    return {"process": _peak_resident(), "gpu": torch.cuda.max_memory_allocated() if on_gpu else None}


def reset_peak_memory(on_gpu: bool) -> None:
    """Reset the peaks. Where the system does not support it, the process keeps its peak since it started."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()


def _peak_resident() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would include the process before exec, which may be a larger parent
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Ledger:
    """What one stage has spent, in this attempt and all earlier ones.

    Args:
        on_gpu: whether the stage computes on GPUs. The energy covers all GPUs that the run uses on this machine.

    Attributes:
        counts: exact counts for each name in `COUNTS`.
        operations: floating-point operations that each phase of `COMPUTING` needed, over all processes.
    """

    def __init__(self, on_gpu: bool = False):
        gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if on_gpu else 0
        self.counts: dict[str, int] = dict.fromkeys(COUNTS, 0)
        self.operations: dict[str, int] = dict.fromkeys(COMPUTING, 0)
        self._on_gpu = on_gpu
        self._energy = Energy({"cpu": cpu_counters(), "gpu": gpu_counters(gpus)})
        self._earlier: Mapping[str, Any] = {}
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._open: list[str] = []
        self._failure: tuple[BaseException, str] | None = None
        self._started = self._mark = time.perf_counter()
        reset_peak_memory(on_gpu)

    def resume(self, totals: Mapping[str, Any]) -> None:
        """Continue from the `totals` of an earlier attempt; an empty mapping means there was none."""
        self._earlier = totals
        for name, count in totals.get("counts", {}).items():
            self.counts[name] += count
        for phase, operations in totals.get("operations", {}).items():
            self.operations[phase] += operations

    def add(self, **counts: int) -> None:
        for name, count in counts.items():
            self.counts[name] += count

    def needed(self, **operations: int) -> None:
        """Count operations that phases needed."""
        for phase, number in operations.items():
            self.operations[phase] += number

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside the block for this phase and not for an enclosing one."""
        self._settle()
        self._open.append(name)
        try:
            yield
        except BaseException as error:
            if self._failure is None or self._failure[0] is not error:
                self._failure = (error, name)
            raise
        finally:
            self._settle()
            self._open.pop()

    def _settle(self) -> None:
        now = time.perf_counter()
        if self._open:
            self._seconds[self._open[-1]] += now - self._mark
        self._mark = now
        self._energy.sample()

    def failed_in(self, error: BaseException) -> str | None:
        """Return the innermost phase that raised the error, or None."""
        return self._failure[1] if self._failure is not None and self._failure[0] is error else None

    def so_far(self, update: int) -> Spent:
        """Return what training has spent by an update, over all attempts: one line of `budget.jsonl`."""
        self._settle()
        seconds = self._mark - self._started + self._earlier.get("seconds", {}).get("total", 0.0)
        return {
            "update": update,
            "prompts": self.counts["prompts"],
            "completions": self.counts["completions"],
            "generated_tokens": self.counts["generated_tokens"],
            "trained_tokens": self.counts["trained_tokens"],
            "seconds": round(seconds, 3),
        }

    def totals(self) -> dict[str, Any]:
        """Return everything so far as JSON, in the form that `resume` takes."""
        self._settle()
        seconds = {"total": self._mark - self._started, **self._seconds}
        earlier = self._earlier
        return {
            "counts": dict(self.counts),
            "operations": dict(self.operations),
            "seconds": {name: value + earlier.get("seconds", {}).get(name, 0.0) for name, value in seconds.items()},
            "peak_memory_bytes": {
                name: None if value is None else max(value, earlier.get("peak_memory_bytes", {}).get(name) or 0)
                for name, value in peak_memory(self._on_gpu).items()
            },
            "energy_joules": {
                name: _sum([value, earlier.get("energy_joules", {}).get(name, 0.0)])
                for name, value in self._energy.joules().items()
            },
        }

    def report(self, updates: int, attempts: int) -> Budget:
        """Return the content of budget.json.

        Args:
            updates: number of optimiser updates in the weights.
            attempts: number of times the stage was started.
        """
        totals = self.totals()
        speed = self.speed(totals)
        return cast(Budget, {**totals.pop("counts"), "updates": updates, "attempts": attempts, **totals, **speed})

    def speed(self, totals: Mapping[str, Any]) -> dict[str, Any]:
        """Return tokens per second, model FLOPs utilisation, and the peak that it refers to.

        Args:
            totals: counts, operations and seconds, as `totals` returns them, or differences of two of them.
        """
        counts, operations, seconds = totals["counts"], totals["operations"], totals["seconds"]
        peak, devices = current_peak(self._on_gpu), processes.count()
        reachable = peak.operations_per_second * devices
        known = not self._earlier or "operations" in self._earlier  # a checkpoint of an earlier version has none
        used = {phase: _rate(operations[phase], seconds[phase] * reachable) for phase in COMPUTING}
        used["total"] = _rate(sum(operations.values()), seconds["total"] * reachable)
        return {
            "tokens_per_second": {phase: _rate(counts[name], seconds[phase]) for phase, name in TOKENS.items()},
            "mfu": used if known else dict.fromkeys(used),
            "peak": {
                "operations_per_second": peak.operations_per_second,
                "source": peak.source,
                "devices": devices,
            },
        }


def _rate(amount: float, per: float) -> float | None:
    """Return the quotient, or None if nothing was done or nothing measured."""
    return amount / per if amount > 0 and per > 0 else None


def since(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Counts, operations and seconds between two results of `Ledger.totals`."""
    return {
        group: {name: value - before[group][name] for name, value in now[group].items()}
        for group in ("counts", "operations", "seconds")
    }


def named_speed(speed: Mapping[str, Any], section: str) -> dict[str, float]:
    """The known numbers of `Ledger.speed`, or of a budget, by their names in the metric catalogue, below a section."""
    return {
        f"{section}/{group}_{phase}": value
        for group in ("tokens_per_second", "mfu")
        for phase, value in speed.get(group, {}).items()
        if value is not None
    }
