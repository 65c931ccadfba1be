"""The search for a benchmark with power: its record belongs to its settings, and its numbers to the runs."""

import csv

import numpy as np
import pytest
from omegaconf import OmegaConf

from analysis.collection import collect
from analysis.statistics import Scores, difference, minimum_detectable_difference, variance_components
from analysis.tables.scores import row_scores
from benchmarks.power import RESULTS, SEEDS, SETTINGS, Cost, measure, overrides_of
from rlbench.base.program import CONF
from rlbench.running.checks import check_values
from tests.conftest import composed
from tests.helpers_analysis import GROUP, write_sweep

ROOT = CONF.parent
FILES = {SETTINGS: RESULTS, SETTINGS.with_stem("power_finalists"): RESULTS.with_stem("finalists")}
"""Files of settings and of their results."""
CHOSEN = "careful_more_60"
"""The setting that became the benchmark."""


def settings_of(path):
    return OmegaConf.to_container(OmegaConf.load(ROOT / path))


@pytest.mark.parametrize(("path", "name"), [(path, name) for path in FILES for name in settings_of(path)["settings"]])
def test_every_setting_can_run(path, name):
    overrides = overrides_of(settings_of(path), name)
    assert check_values(composed(*overrides, "algorithm=grpo", "reward=relevance")) == []
    assert len({override.split("=")[0] for override in overrides}) == len(overrides)


@pytest.mark.parametrize(("path", "results"), FILES.items())
def test_every_recorded_row_is_of_a_setting_as_it_is_written(path, results):
    listed = settings_of(path)
    with (ROOT / results).open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        assert row["overrides"] == " ".join(listed["settings"][row["setting"]]), row["setting"]
        assert int(row["seeds"]) >= len(listed["seeds"])


def test_the_benchmark_is_the_chosen_setting():
    """Its rate is chosen later, for each algorithm and reward, and it evaluates more often."""
    overrides = overrides_of(settings_of(SETTINGS.with_stem("power_finalists")), CHOSEN)
    later = ("trainer.rl.learning_rate", "evaluation.every")
    of_setting = composed(*(one for one in overrides if not one.startswith(later)))
    assert of_setting == composed()


def test_the_row_of_a_setting(tmp_path):
    write_sweep(tmp_path, {"grpo-relevance": 0.06}, seeds=4, contexts=60)
    found = collect(tmp_path / GROUP.split("/")[0])
    row = measure("here", ["a=1", "b=2"], found, Cost(shared=60.0, cell=30.0))
    means = found.runs.groupby("stage")["test.ndcg@10"].mean()
    assert (row.overrides, row.seeds, row.contexts) == ("a=1 b=2", 4, 60)
    assert row.gain == pytest.approx(means["rl"] - means["sft"])
    assert row.closed == pytest.approx(row.gain / (means["oracle"] - means["sft"]))
    assert row.bench_minutes == pytest.approx((60 + 3 * SEEDS * 30 / 2) / 60)
    assert row.power == pytest.approx((row.gain / row.detectable) ** 2 / 0.5)


def test_the_detectable_difference_is_that_of_two_methods_with_the_spread_of_one(tmp_path):
    """Differences of independent runs of the same method: as many as the pairs of its runs."""
    write_sweep(tmp_path, {"grpo-relevance": 0.06}, seeds=40, contexts=60)
    found = collect(tmp_path / GROUP.split("/")[0])
    runs = found.runs[found.runs["stage"] == "rl"]
    scores = row_scores(found.queries, runs, ["ndcg@10"])
    halves = [Scores(scores.values[half::2], scores.contexts, tuple(range(20))) for half in (0, 1)]
    paired = variance_components(difference(*halves))
    expected = float(minimum_detectable_difference(paired, SEEDS, 60)[0])
    row = measure("here", [], found, Cost(60.0, 30.0))
    assert np.isclose(row.detectable, expected, rtol=0.3)
