"""Rate of matrix products that a device can reach: documented by its vendor, or measured."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import torch

DOCUMENTED = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A30": 165e12,
    "L40S": 362e12,
    "MI300X": 1307e12,
}
"""Dense bfloat16 operations per second in the vendors' data sheets, by a part of the name that torch gives the device.
The first part that fits counts."""


@dataclass(frozen=True)
class Peak:
    """The rate that utilisation refers to.

    Attributes:
        operations_per_second: of one device.
        source: documented, or measured.
    """

    operations_per_second: float
    source: str


@cache
def peak_of(name: str | None, threads: int) -> Peak:
    """The peak of a device. It is measured once for each process if no documented one is known.

    Args:
        name: the GPU's name; None for the CPU.
        threads: CPU threads. They decide what is measured on a CPU.
    """
    if name is None:
        return Peak(matmul_rate("cpu", torch.float32, sizes=(1024,), seconds=0.05), "measured")
    for part, rate in DOCUMENTED.items():
        if part in name:
            return Peak(rate, "documented")
    return Peak(matmul_rate("cuda", torch.bfloat16), "measured")


def current_peak(on_gpu: bool) -> Peak:
    """`peak_of` this process's GPU, or of its CPU threads."""
    return peak_of(torch.cuda.get_device_name() if on_gpu else None, torch.get_num_threads())


def matmul_rate(
    device: torch.device | str, dtype: torch.dtype, sizes: Iterable[int] = (512, 1024, 2048, 8192), seconds: float = 0.2
) -> float:
    """Operations per second of the fastest square matrix product. Draws nothing from torch's random streams.

    Args:
        device: where to multiply.
        dtype: type of the factors.
        sizes: sizes to try; above 2,048 only on a GPU.
        seconds: minimum time to spend on each size, after one product that is not counted.
    """
    where = torch.device(device)
    return max(_rate(where, dtype, size, seconds) for size in sizes if size <= 2048 or where.type == "cuda")


def _rate(device: torch.device, dtype: torch.dtype, size: int, seconds: float) -> float:
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
    best = spent = 0.0
    left @ right
    while spent < seconds:
        _wait(device)
        started = time.perf_counter()
        left @ right
        _wait(device)
        took = time.perf_counter() - started
        spent += took
        best = max(best, 2 * size**3 / took)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
