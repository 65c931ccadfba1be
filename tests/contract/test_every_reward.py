"""Every reward of conf/reward trains under credit of lists and of ranks. Terms that ask the policy get true answers."""

import math
from dataclasses import replace

import pytest
import torch
import yaml

from rlbench.models.sensitivity import PATHS
from rlbench.rewards.reward_model import ItemPairs
from rlbench.rewards.terms import TERMS
from rlbench.running.checks import check_config
from rlbench.running.cli import CONF
from tests.conftest import SMALL, composed
from tests.contract.test_every_algorithm import SHORT
from tests.helpers_training import load, make_trainer

FEW = [*SMALL, *(word for word in SHORT if "reward" not in word), "trainer.rl.updates=2"]
REWARDS = sorted(path.stem for path in (CONF / "reward").glob("*.yaml"))
OF_REWARD = {name: yaml.safe_load((CONF / "reward" / f"{name}.yaml").read_text())["terms"] for name in REWARDS}
ASKING = [name for name, terms in OF_REWARD.items() if any(TERMS[term].needs for term in terms)]
SCALED = {"alp", "spell"}  # factors of a whole group, which other baselines would cancel


def config_of(reward: str, algorithm: str):
    more = ["algorithm.baseline=group_mean"] if reward in SCALED else []
    return composed(*FEW, f"reward={reward}", f"algorithm={algorithm}", *more)


FAST_IF_ASKING = [name if name in ASKING else pytest.param(name, marks=pytest.mark.slow) for name in REWARDS]


@pytest.mark.parametrize("algorithm", ["grpo", "rank_grpo"])
@pytest.mark.parametrize("reward", FAST_IF_ASKING)
def test_is_accepted(reward, algorithm):
    assert not check_config(config_of(reward, algorithm))


@pytest.mark.parametrize("algorithm", ["grpo", "rank_grpo"])
@pytest.mark.parametrize("reward", FAST_IF_ASKING)
def test_trains(reward, algorithm, mini, tiny_folder, tmp_path):
    tokenizer, model = load(tiny_folder, ends_early=True)
    trainer = make_trainer(config_of(reward, algorithm), mini, tokenizer, model, tmp_path)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert len(rows) == 2 and all(math.isfinite(row["loss"]) for row in rows)
    terms = trainer.scorer.reward.terms
    assert len(terms) == 1 or all(math.isfinite(rows[0][f"term/{name}"]) for name in terms)


def lists_of(trainer, mini, count):
    """Prompts, and lists of films with a line that is no entry, as token ids."""
    records, films = mini.splits["train"][:count], mini.catalog.items
    tokenizer, rows = trainer.scorer.reader.tokenizer, []
    for number in range(count):
        lines = [f"{title} ({year})" for title, year in films[number : number + 2 + number % 3]]
        ids = tokenizer("\n".join(lines), add_special_tokens=False)["input_ids"]
        rows.append([*ids, trainer.scorer.reader.eos_token_ids[0]])
    return records, rows


def columns(records):
    return {
        "ground_truth": [record.truth_rows() for record in records],
        "seen_titles": [record.seen_titles for record in records],
        "prompts": [record.prompt for record in records],
    }


def alone(trainer, record, ids):
    """Log-probabilities of a list's tokens, from a pass of this list alone."""
    (asked,) = trainer.prompt_ids([{"prompt": record.prompt}])
    with torch.no_grad():
        logits = trainer.model(torch.tensor([asked + ids])).logits[0, len(asked) - 1 : -1].double()
    logs = (logits / trainer.temperature).log_softmax(-1)
    return [logs[place, token].item() for place, token in enumerate(ids)]


@pytest.mark.parametrize("shares", ["auto", "never"])
def test_confidences_are_those_of_the_policy(shares, mini, start, tmp_path):
    config = config_of("calibration", "rank_grpo")
    config = replace(config, trainer=replace(config.trainer, share_prompts=shares))
    trainer = make_trainer(config, mini, *load(start), tmp_path)
    records, rows = lists_of(trainer, mini, 5)
    trainer.scorer(completion_ids=rows, **columns(records))
    found = trainer.scorer.rewards.gains[:, list(config.reward.terms).index("calibration")]
    newline = trainer.scorer.reader.newlines_per_token
    for row, (record, ids) in enumerate(zip(records, rows, strict=True)):
        logps, rank, own = alone(trainer, record, ids), 0, {}
        for token, logp in zip(ids[:-1], logps[:-1], strict=True):
            own.setdefault(rank, []).append(logp)
            rank += int(newline[token])
        hits = trainer.scorer.rewards.hits[row]
        for k, of_rank in own.items():
            c = math.exp(sum(of_rank) / len(of_rank))
            assert found[row, k].item() == pytest.approx(1 - (c - hits[k].item()) ** 2, abs=1e-5)
        assert not found[row, len(own) :].any()
    assert trainer.ledger.counts["reference_tokens"] == 0 and trainer._unscored == sum(map(len, rows))  # it is counted


def test_sensitivities_are_asked_once_for_three_terms(mini, start, tmp_path):
    trainer = make_trainer(config_of("ce_po", "grpo"), mini, *load(start), tmp_path)
    records, rows = lists_of(trainer, mini, 3)
    asked, ask = [], trainer.scorer.policy.sensitivities

    def counted(*arguments):
        asked.append(ask(*arguments))
        return asked[-1]

    trainer.scorer.policy.sensitivities = counted
    trainer.scorer(completion_ids=rows, **columns(records))
    (found,) = asked
    scores = dict(zip(trainer.scorer.reward.terms, trainer.scorer.rewards.scores.T.tolist(), strict=True))
    for place, name in enumerate(PATHS):
        assert scores[name] == pytest.approx(found[:, place].tolist())
    assert trainer._unscored == 3 * 9 * sum(map(len, rows))  # 2 K + 1 passes with a gradient, K = 4


def test_a_reward_model_learns_from_a_rollout_after_it_was_scored(mini, start, tmp_path):
    trainer = make_trainer(config_of("rival", "grpo"), mini, *load(start), tmp_path)
    scorer, catalog = trainer.scorer, mini.catalog
    records, rows = lists_of(trainer, mini, 5)
    scorer(completion_ids=rows, **columns(records))
    place = list(scorer.reward.terms).index("reward_model")
    first = scorer.rewards.gains[:, place]
    assert set(first.unique().tolist()) <= {0.0, 0.5}  # an untrained model prefers nothing
    found = scorer.comparisons()
    for one, record, scored in zip(found, records, scorer.lists, strict=True):
        assert {catalog.items[item] for item in one.better} == set(record.ground_truth)
        misses = [item for item, v in zip(scored.parsed.items, scored.verdicts, strict=True) if v == "miss"]
        assert [catalog.items[item] for item in one.worse] == misses
    before = scorer.reward_model.accuracy(found)
    for update in range(10):
        scorer.learn(found, update)
    assert before == 0.5 and scorer.reward_model.accuracy(found) > 0.9
    scorer(completion_ids=rows, **columns(records))
    assert not torch.equal(first, scorer.rewards.gains[:, place])


def test_random_items_for_a_plain_reward_model(mini, start, tmp_path):
    trainer = make_trainer(config_of("tag_pr", "grpo"), mini, *load(start), tmp_path)
    own = [ItemPairs([0], [1, 2], [5])]
    (drawn,) = trainer.scorer._against_catalogue(own, 3)
    assert drawn.better == own[0].better and not set(drawn.worse) & {1, 2} and len(drawn.worse) > 5
    assert trainer.scorer._against_catalogue(own, 3) == [drawn] != trainer.scorer._against_catalogue(own, 4)
