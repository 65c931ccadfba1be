"""Helpers shared by several tests."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def shared_data(*parts: str) -> Path:
    """Path of a real data file in the folder RLBENCH_DATA, or else in ../shared/data beside the repository.

    Skips the calling test, with that reason, if neither has the file.
    """
    places = [Path(os.environ["RLBENCH_DATA"])] if "RLBENCH_DATA" in os.environ else []
    places.append(ROOT.parent / "shared" / "data")
    for place in places:
        if place.joinpath(*parts).exists():
            return place.joinpath(*parts)
    pytest.skip(f"real data {'/'.join(parts)} is neither in RLBENCH_DATA nor in ../shared/data")
