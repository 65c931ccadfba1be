"""A variant is chosen on validation, and the shipped settings are the chosen ones."""

from pathlib import Path

import pandas as pd
import pytest

from analysis.commands.select import check_comparable, scores
from rlbench.base.errors import BadInput
from tests.conftest import composed

RESULTS = Path(__file__).parents[2] / "experiments" / "mini_learning_rates" / "results.csv"


def runs():
    rows = [
        ("grpo", "lr1", 0, 0.2),
        ("grpo", "lr1", 1, 0.4),
        ("grpo", "lr2", 0, 0.5),
        ("grpo", "lr2", 1, 0.0),
        ("gspo", "lr1", 0, 0.1),
    ]
    frame = pd.DataFrame(rows, columns=["algorithm", "variant", "seed", "validation.ndcg@10"])
    return frame.assign(stage="rl", reward="relevance @ " + frame["variant"])


def test_the_best_mean_over_seeds_is_chosen():
    table = scores(runs(), "ndcg@10")
    chosen = table[table["chosen"]]
    assert list(zip(chosen["algorithm"], chosen["variant"], chosen["seeds"], strict=True)) == [
        ("grpo", "lr1", 2),
        ("gspo", "lr1", 1),
    ]
    assert chosen["mean"].tolist() == pytest.approx([0.3, 0.1])


def test_each_reward_of_an_algorithm_has_its_own_choice():
    one = runs()
    other = one.assign(**{"reward": "dcg @ " + one["variant"], "validation.ndcg@10": 1 - one["validation.ndcg@10"]})
    table = scores(pd.concat([one, other]), "ndcg@10")
    chosen = table[table["chosen"]]
    assert list(zip(chosen["algorithm"], chosen["reward"], chosen["variant"], strict=True)) == [
        ("grpo", "dcg", "lr2"),
        ("grpo", "relevance", "lr1"),
        ("gspo", "dcg", "lr1"),
        ("gspo", "relevance", "lr1"),
    ]


def test_no_such_metric_and_no_variants_are_said():
    with pytest.raises(BadInput, match="known: ndcg@10"):
        scores(runs(), "recall@3")
    with pytest.raises(BadInput, match="no run has a variant"):
        scores(runs().assign(variant=None), "ndcg@10")


def test_runs_of_several_datasets_or_models_are_not_averaged():
    one = runs().assign(experiment="e", dataset="mini", model="tiny")
    check_comparable(one)
    for what in ("experiment", "dataset", "model"):
        both = pd.concat([one, one.assign(**{what: "other"})])
        with pytest.raises(BadInput, match=f"more than one {what} "):
            check_comparable(both)


def test_shipped_learning_rates_are_those_of_the_recorded_sweep():
    table = pd.read_csv(RESULTS)
    for row in table[table["chosen"]].itertuples():
        shipped = composed(f"algorithm={row.algorithm}", f"reward={row.reward}").trainer.rl.learning_rate
        assert float(row.variant.removeprefix("lr")) == shipped, (row.algorithm, row.reward)
    cells = set(zip(table["algorithm"], table["reward"], strict=True))
    assert cells == {(a, r) for a in ("grpo", "gspo", "rank_grpo") for r in ("relevance", "log_decay")}


@pytest.mark.parametrize(("algorithm", "rate"), [("rank_grpo", 5e-5), ("dapo", 5e-5), ("sprec", 5e-5)])
def test_rates_of_what_was_not_tuned(algorithm, rate):
    assert composed(f"algorithm={algorithm}", "reward=dcg").trainer.rl.learning_rate == rate
