"""Peak memory of one update of one side of `benchmarks.step`, in a process of its own.

    python -m benchmarks.step_memory trl 300/120/8/4096

prints the bytes. Peak: what the training holds between updates (weights, reference, state of the optimiser), and the
largest growth during the second update. On a CPU that is the growth of the resident memory, so it includes the scratch
memory of matrix products. The process must be started with `ENVIRONMENT`: then the C library maps each tensor by itself
and returns it to the system when it is freed, so freed memory is never counted. On a GPU it is the maximum of torch's
allocator.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.step_sides import SIDES, Setting, Shape, Side, llama, save_start
from rlbench.config.arguments import count
from rlbench.runs.budget import peak_memory, reset_peak_memory

ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def peak_of_update(side: Side) -> int:
    """Peak memory of the second update of a training, in bytes."""
    on_gpu = torch.cuda.is_available()
    side.update()
    if on_gpu:
        reset_peak_memory(on_gpu)
        side.update()
        return torch.cuda.max_memory_allocated()
    held, before = side.tensor_bytes, resident()
    reset_peak_memory(on_gpu)
    side.update()
    peak = peak_memory(on_gpu)["process"]
    assert peak is not None
    return held + peak - before


def resident() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measured(name: str, shape: Shape, threads: int) -> int:
    """`peak_of_update` in a new process.

    Raises:
        RuntimeError: the process fails.
    """
    command = [sys.executable, "-m", "benchmarks.step_memory", name, str(shape), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **ENVIRONMENT})
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return int(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_memory", description=__doc__)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("shape", type=Shape.read, help="PROMPT/COMPLETION/G/VOCABULARY")
    parser.add_argument("--threads", type=count, default=os.cpu_count())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        start = save_start(llama(given.shape.vocabulary), Path(folder) / "start")
        side = Side(given.side, Setting(given.shape, start, Path(folder), updates=4))
        print(peak_of_update(side))
        side.close()


if __name__ == "__main__":
    main()
