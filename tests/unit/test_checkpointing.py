"""The benchmark of packed rows against the shared pass: both compute the same numbers."""

import pytest

from benchmarks import checkpointing
from tests.helpers_models import only_float64


def test_packed_rows_equal_the_shared_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    only_float64(monkeypatch)
    found = checkpointing.differences()
    assert set(found) == set(checkpointing.PASSES) and max(found.values()) < 1e-9
