"""The prompts for which preference optimisation samples lists, and their order."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from rlbench.base.seeding import order
from rlbench.data.facts import item_facts
from rlbench.evaluation.evaluate import prompt_ids
from rlbench.lists.reader import ListReader
from rlbench.lists.relevance import make_judge
from rlbench.models.loading import load_tokenizer
from rlbench.preference.rounds import Round, TupleOrder, make_rounds
from rlbench.rewards.scorer import ListScorer
from rlbench.runs.directory import locate
from rlbench.training.demonstrations import demonstration_tokens
from rlbench.training.preference import PreferenceTrainer
from rlbench.training.preference_lists import Lists
from tests.conftest import SMALL, composed
from tests.helpers_training import load, make_preference_trainer

ROUND = Round(number=1, first=4, preference=6, end=10, prompts=range(5))


def lists_of(mini, tiny_folder, *overrides):
    config = composed(*SMALL, "algorithm=sprec", *overrides)
    tokenizer = load_tokenizer(tiny_folder)
    n = config.dataset.list_length
    judge = make_judge(config.matching, mini.catalog, n)
    scorer = ListScorer(ListReader(tokenizer, n), judge, item_facts(mini, mini.catalog), config.reward)
    return Lists(config, locate(config, "rl"), mini.splits["sft"], scorer), tokenizer


def test_every_pass_over_prompts_has_an_order_of_its_own(mini, tiny_folder):
    lists, _ = lists_of(mini, tiny_folder)
    count = len(lists.records)
    first, second = lists._places(range(count)), lists._places(range(count, 2 * count))
    assert sorted(first) == sorted(second) == list(range(count)) and first != second
    assert lists._places(range(count - 2, count + 2)) == first[-2:] + second[:2]


def test_every_pass_over_tuples_has_an_order_of_its_own():
    count, per_update = 7, 3
    using = TupleOrder(per_update, of_tuple=2, seed=0, order=order)
    start = ROUND.preference * per_update
    first = using.at(range(start, start + count), ROUND, True, count)
    second = using.at(range(start + count, start + 2 * count), ROUND, True, count)
    assert sorted(first) == sorted(second) == list(range(count)) and first != second
    other_round = Round(number=2, first=4, preference=6, end=10, prompts=range(5))
    assert using.at(range(start, start + count), other_round, True, count) != first
    assert replace(using, seed=1).at(range(start, start + count), ROUND, True, count) != first


def test_a_supervised_update_has_as_many_lists_as_one_that_compares():
    count, per_update, of_tuple = 12, 2, 3
    using = TupleOrder(per_update, of_tuple, seed=0, order=order)
    start = ROUND.first * per_update
    rows = using.at(range(start, start + per_update), ROUND, False, count)
    assert len(rows) == per_update * of_tuple == len(set(rows))
    everything = using.at(range(start, start + 4), ROUND, False, count)
    assert sorted(everything) == list(range(count)) and everything[: len(rows)] == rows


def test_rounds_are_at_most_one_a_prompt():
    config = composed("algorithm=sprec", "algorithm.prompts=2", "algorithm.rounds=5", "trainer.rl.updates=8")
    rounds = make_rounds(config.algorithm, config.trainer.rl)
    assert [len(one.prompts) for one in rounds] == [1, 1] and [one.end for one in rounds] == [4, 8]


def test_a_demonstration_that_sft_cuts_is_never_chosen(mini, tiny_folder):
    records = mini.splits["sft"][:8]
    _, tokenizer = lists_of(mini, tiny_folder)
    lengths = [sum(map(len, demonstration_tokens(record, tokenizer, 10_000))) for record in records]
    longest = sorted(lengths)[4]
    lists, _ = lists_of(mini, tiny_folder, f"trainer.sft.max_length={longest}")
    found = lists._demonstrations(records)
    assert [one.reward == -math.inf for one in found] == [length > longest for length in lengths]
    assert any(length == longest for length in lengths) and any(length > longest for length in lengths)


def test_what_is_measured_of_drawn_lists(mini, tiny_folder):
    lists, tokenizer = lists_of(mini, tiny_folder)
    (title, year), truth = mini.catalog.items[0], mini.catalog.items[0]
    text = tokenizer(f"{title} ({year})", add_special_tokens=False)["input_ids"]
    ids = [[*text, tokenizer.eos_token_id], text, text]
    films = [[{"title": truth[0], "year": truth[1]}]] * 3
    totals = lists.scorer(completion_ids=ids, ground_truth=films, seen_titles=[[]] * 3)
    sums = lists._measured(ids, totals)
    assert sums["truncated"] == 2 and sums["list_length"] == 3 and sums["hits"] == 3 == sums["hits@1"]
    assert sums["completion_length"] == 3 * len(text) + 1 and sums["success"] == 3 and sums["hits@2"] == 0


def test_implicit_rewards_by_hand():
    """A tuple is ranked correctly if its chosen list is above every rejected one."""
    trainer = SimpleNamespace(method=SimpleNamespace(beta=0.5))
    ratios = torch.tensor([[1.0, 3.0, -5.0], [2.0, 1.0, 0.0]])
    found = {name: value.item() for name, value in PreferenceTrainer._compared(trainer, ratios).items()}
    assert found == {
        "implicit_reward_chosen": 0.75,
        "implicit_reward_rejected": pytest.approx(0.5 * (3 - 5 + 1 + 0) / 4),
        "implicit_reward_margin": pytest.approx(0.5 * ((1 - 3) + (1 + 5) + (2 - 1) + (2 - 0)) / 4),
        "implicit_reward_accuracy": 0.5,
    }


@pytest.mark.parametrize("algorithm", ["sprec", "dpo"])
def test_the_kl_is_measured_on_lists_that_the_policy_drew(algorithm, mini, tiny_folder, tmp_path):
    config = composed(*SMALL, f"algorithm={algorithm}", "algorithm.negatives=1", f"runs_dir={tmp_path}")
    tokenizer, model = load(tiny_folder)
    trainer = make_preference_trainer(config, mini, tokenizer, model, tiny_folder)
    prompt = prompt_ids(tokenizer, mini.splits["train"][0].prompt)
    lists = [[10, 11, 12], [13, 14], [15], [16, 17, 18, 19]]
    batch = trainer._batch([(prompt, ids) for ids in lists])
    with torch.no_grad():
        logps, counted, _ = trainer._scores(trainer.model, batch)
        reference = (logps - torch.rand(logps.shape, generator=torch.Generator().manual_seed(0))) * counted
        drawn = [1, 3] if algorithm == "sprec" else [0, 1, 2, 3]  # 0 and 2 are demonstrations
        of_tuples = {"strength": torch.zeros(2), "chance": torch.zeros(2)}
        of_tuples["drawn"] = torch.tensor([place in drawn for place in range(4)])
        trainer.compute_loss(trainer.model, batch | {"reference": reference} | of_tuples)
    squares = (logps - reference).square() / 2
    wanted = squares[drawn].sum() / counted[drawn].sum()
    assert trainer._metrics["train"]["kl"] == [pytest.approx(wanted.item(), rel=1e-5)]
