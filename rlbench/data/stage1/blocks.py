"""A matrix of scores in a file, read and written in blocks of rows.

The scores of 100,000 conversations and 7,400 items take 3 GB. They are read with plain reads, not through a memory map,
so that the process never holds more than a block.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlbench.base.files import naming


class ScoreFile:
    """(B, C) float32 numbers in an unnamed file, which ends with the process.

    Args:
        shape: (B, C).
        folder: where the file is; its disk needs 4 B C bytes.
    """

    def __init__(self, shape: tuple[int, int], folder: Path):
        self.shape, self.folder = shape, folder
        with naming(folder):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open as long as the object lives

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """The rows of a slice with step 1, as an array of its own."""
        start, stop, _ = rows.indices(len(self))
        block = np.empty((stop - start, self.shape[1]), dtype=np.float32)
        view = block.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(view):  # one call reads at most 2 GB
            done += os.preadv(self._file.fileno(), [view[done:]], start * self.shape[1] * 4 + done)
        return block

    def __setitem__(self, rows: slice, block: NDArray[np.floating]) -> None:
        """Write the rows of a slice with step 1.

        Raises:
            OSError: the disk is full.
        """
        start, stop, _ = rows.indices(len(self))
        if block.shape != (stop - start, self.shape[1]):
            raise ValueError(f"rows {start} to {stop} do not fit a block of shape {block.shape}")
        view = np.ascontiguousarray(block, dtype=np.float32).reshape(-1).view(np.uint8).data
        done = 0
        with naming(self.folder):
            while done < len(view):
                done += os.pwritev(self._file.fileno(), [view[done:]], start * self.shape[1] * 4 + done)


def blocks(rows: int, at_once: int) -> Iterator[slice]:
    """Slices of at most `at_once` rows, in order."""
    for start in range(0, rows, at_once):
        yield slice(start, min(start + at_once, rows))
