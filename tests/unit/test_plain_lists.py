"""Both implementations that the benchmark compares agree, and a disagreement stops it."""

import numpy as np
import pytest

from benchmarks import lists as benchmark


def test_both_sides_agree_and_are_timed():
    results = [benchmark.segmentation(6, 195, 1), *benchmark.rewards(40, 1), benchmark.metrics(100, 1)]
    assert all(result.plain > 0 and result.fast > 0 and result.promised for result in results)


def test_a_disagreement_stops_the_benchmark(monkeypatch):
    monkeypatch.setattr(benchmark.plain, "VERDICT_COSTS", benchmark.plain.VERDICT_COSTS | {"miss": 0.5})
    with pytest.raises(AssertionError, match="verdict_cost"):
        benchmark.rewards(40, 1)


def test_memory_grows_with_the_batch_and_no_faster():
    for what, small, large in benchmark.memory(150):
        assert small < large < 4.4 * small, what


def test_lists_of_the_benchmark_are_of_many_kinds():
    world = benchmark.make_world(200, np.random.default_rng(0))
    judge = benchmark.Judge(world.catalog, benchmark.N)
    judged = judge(judge.read(world.texts), world.truths, world.seen)
    for verdict in ("hit", "miss", "out_of_catalog", "seen", "duplicate"):
        assert judged.of_verdict(verdict).sum() > 10, verdict
    assert (judged.n_lines > judged.n_entries).any() and (judged.n_entries > benchmark.N).any()
