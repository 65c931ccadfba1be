"""The catalogue holds exactly the metrics that runs write."""

import pandas as pd
import pytest

from rlbench.evaluation.judging import sampled_metrics
from rlbench.lists.metric_catalogue import BUDGET, EVALUATION, TRAINING, entry_of
from rlbench.runs.budget import Ledger
from rlbench.training.callbacks import RENAMED
from tests.contract.test_preference import small
from tests.helpers_safety import short, train, write_repeater
from tests.helpers_training import load, make_scorer

TWO_TERMS = "+reward.terms.tokens={weight:1.0,normaliser:24.0}"
DRAWN = ("sampler=pool", "+schedule.values.algorithm.kl.beta={shape:constant,value:0.01}", "generation.prefill=shared")
POLICY = ("algorithm=siren", "algorithm.kl.beta=0.01", "algorithm.kl.estimator=k3", TWO_TERMS, "trainer.rl.updates=2")
OF_SFT = {"loss"}
"""Metrics that the SFT stage measures on validation; this test runs no SFT."""
OF_OTHER_WAYS_TO_DRAW = {"experts_silent", "members_kept", "prompts_made", "written"}
"""Metrics of experts, successes, made prompts and beginnings by others, which have tests of their own."""


def names_of(metrics):
    """The catalogue's names of recorded metrics. A name that the catalogue lacks stays as recorded."""
    found = {name: entry_of(name) for name in metrics}
    return {name if entry is None else entry.name for name, entry in found.items()}


@pytest.fixture(scope="module")
def runs(mini, start, tmp_path_factory):
    """A short run of each family. The first run's policy writes valid lists."""
    folders = [tmp_path_factory.mktemp(name) for name in ("repeater", "policy", "preference")]
    repeater = write_repeater(folders[0], load(start)[0], mini)
    policy, _, _ = train(short(folders[1], *POLICY, *DRAWN), repeater, mini)
    preference, _, _ = train(small(folders[2], "algorithm=dpo"), start, mini)
    return policy, preference


def recorded(runs, split):
    return names_of(row["metric"] for run in runs for row in run.read_metrics() if row["split"] == split)


def test_metrics_of_training(runs):
    assert recorded(runs, "train") | set(RENAMED.values()) | OF_OTHER_WAYS_TO_DRAW == {
        metric.name for metric in TRAINING
    }


def test_metrics_of_evaluations(runs, mini, start, tmp_path):
    tokenizer, model = load(start)
    records = mini.splits["test"][:1]
    samples = pd.DataFrame([{"context_id": records[0].context_id, "list": 0, "text": "Heat (1995)"}])
    judge = make_scorer(small(tmp_path), mini, tokenizer, model).judge
    sampled = names_of(sampled_metrics(records, samples, judge, 1, [1]))
    assert recorded(runs, "validation") | sampled | OF_SFT == {metric.name for metric in EVALUATION}


def test_what_runs_spend():
    spent = Ledger().report(updates=1, attempts=1)
    del spent["peak"]["source"]  # not a number
    groups = ("peak_memory_bytes", "energy_joules", "tokens_per_second", "mfu", "operations", "peak")
    nested = {f"{name}_{of}" for name in groups for of in spent.pop(name)}
    assert set(spent) | nested == {metric.name for metric in BUDGET}
