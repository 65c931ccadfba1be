"""What a run spends: counts, seconds by phase, peak memory, energy; all attempts of a run together.

Phases nest, and a moment belongs to the innermost one alone, so that they never sum to more than the total. Times are
taken where the program is, without waiting for a GPU: work that a phase has queued there and that nobody has asked for
yet counts for the phase that asks.
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
from typing import Any

import torch

COUNTS = ("prompts", "completions", "generated_tokens", "trained_tokens", "evaluation_tokens")
PHASES = ("rollout", "reward", "reference", "update", "evaluation", "checkpoint")
POWERCAP = Path("/sys/class/powercap")
SAMPLE_SECONDS = 1.0
"""Energy counters are read where a phase begins or ends, at most this often: RAPL's wrap within the hour."""


class EnergyCounter:
    """Joules since it was made, of one counter of the machine that only grows, and may wrap.

    Args:
        read: the counter; None, or an OSError, where it cannot be read.
        joules: what one step of it is worth.
        wraps: where it begins again at 0; infinite where it never does.
    """

    def __init__(self, read: Callable[[], float | None], joules: float, wraps: float = math.inf):
        self._read, self._joules, self._wraps = read, joules, wraps
        self._last, self._sum = self._value(), 0.0

    def _value(self) -> float | None:
        try:
            return self._read()
        except OSError:  # RAPL may be read by root alone
            return None

    def sample(self) -> None:
        """Read the counter; it must be done at least once in the time that it takes to wrap."""
        value = self._value()
        if value is not None and self._last is not None:
            self._sum += value - self._last if value >= self._last else value - self._last + self._wraps
        self._last = value

    @property
    def spent(self) -> float | None:
        return None if self._last is None else self._sum * self._joules


def cpu_counters(powercap: Path = POWERCAP) -> list[EnergyCounter]:
    """Intel's RAPL (AMD's has the same form): one counter a package, over everything that runs on it."""
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
    """NVML's energy counters of the first `devices` visible GPUs; empty where NVML or a counter is not there."""
    if not devices:
        return []
    import pynvml  # only here: not every machine has a GPU

    def reader(handle: Any) -> Callable[[], float]:
        return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))

    try:
        pynvml.nvmlInit()
        uuids = [f"GPU-{torch.cuda.get_device_properties(device).uuid}" for device in range(devices)]
        readers = [reader(pynvml.nvmlDeviceGetHandleByUUID(uuid)) for uuid in uuids]
        return [EnergyCounter(read, joules=1e-3) for read in readers if read() >= 0]
    except pynvml.NVMLError:  # another maker's GPU, a part of a GPU, or one older than the counter
        return []


def gpu_driver() -> str | None:
    """Version of NVIDIA's driver; None where there is none."""
    import pynvml  # only here: not every machine has a GPU

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None


class Energy:
    """Joules by kind of device since it was made; None for a kind without a readable counter."""

    def __init__(self, counters: Mapping[str, list[EnergyCounter]]):
        self._counters = counters
        self._sampled = time.monotonic()

    def sample(self) -> None:
        """Read all counters, unless that was done a moment ago."""
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
    """None where there are no parts, or one is unknown."""
    known = [part for part in parts if part is not None]
    return sum(known) if parts and len(known) == len(parts) else None


def peak_memory(on_gpu: bool) -> dict[str, int | None]:
    """Bytes: the largest resident set of this process, and the most that torch held on its GPU, since the reset."""
    return {"process": _peak_resident(), "gpu": torch.cuda.max_memory_allocated() if on_gpu else None}


def reset_peak_memory(on_gpu: bool) -> None:
    """Begin the peaks anew. Where the system cannot, that of the process stays what it was since it began."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()


def _peak_resident() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the process was before exec, which may be a larger parent
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Ledger:
    """What one stage has spent, this attempt and those before it.

    Args:
        on_gpu: whether the stage computes on GPUs. Their energy is that of all GPUs that the run uses on this machine.

    Attributes:
        counts: `COUNTS`, exact.
    """

    def __init__(self, on_gpu: bool = False):
        gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if on_gpu else 0
        self.counts: dict[str, int] = dict.fromkeys(COUNTS, 0)
        self._on_gpu = on_gpu
        self._energy = Energy({"cpu": cpu_counters(), "gpu": gpu_counters(gpus)})
        self._earlier: Mapping[str, Any] = {}
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._open: list[str] = []
        self._failure: tuple[BaseException, str] | None = None
        self._started = self._mark = time.perf_counter()
        reset_peak_memory(on_gpu)

    def resume(self, totals: Mapping[str, Any]) -> None:
        """Go on from the `totals` of an earlier attempt; empty where there was none."""
        self._earlier = totals
        for name, count in totals.get("counts", {}).items():
            self.counts[name] += count

    def add(self, **counts: int) -> None:
        """Add to `counts`."""
        for name, count in counts.items():
            self.counts[name] += count

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time within belongs to this phase, and not to one around it."""
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
        """The innermost phase that an error came out of; None where it came out of none."""
        return self._failure[1] if self._failure is not None and self._failure[0] is error else None

    def so_far(self) -> dict[str, float]:
        """Counts without those of evaluations, and seconds in all, of all attempts: a point of `budget.jsonl`."""
        self._settle()
        seconds = self._mark - self._started + self._earlier.get("seconds", {}).get("total", 0.0)
        trained = {name: count for name, count in self.counts.items() if name != "evaluation_tokens"}
        return {**trained, "seconds": round(seconds, 3)}

    def totals(self) -> dict[str, Any]:
        """Everything so far, as JSON, for `resume`."""
        self._settle()
        seconds = {"total": self._mark - self._started, **self._seconds}
        earlier = self._earlier
        return {
            "counts": dict(self.counts),
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

    def report(self, updates: int, attempts: int) -> dict[str, Any]:
        """budget.json (docs/results-schema.md).

        Args:
            updates: optimiser updates that are in the weights.
            attempts: how often the stage has been started.
        """
        totals = self.totals()
        return {**totals.pop("counts"), "updates": updates, "attempts": attempts, **totals}
