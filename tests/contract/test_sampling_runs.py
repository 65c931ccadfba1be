"""Samplers and rollouts in the trainer: what an update trains on, what it costs, and exact resume of what they keep."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rlbench.config.schema import Config
from rlbench.running.checks import check_config
from rlbench.runs.directory import Run, locate
from rlbench.sampling.members import MODE, PLAN
from rlbench.training.callbacks import COLLECTOR_FILE
from rlbench.training.rl import make_collector, prompt_dataset
from tests.conftest import composed
from tests.contract.test_resume_of_state import SHORT, Stopped, StopsAt, equal, train, weights
from tests.helpers_training import load, make_trainer

SEVERAL = [
    *SHORT,
    "trainer.rl.updates=6",
    "trainer.rl.completions_per_update=16",
    "evaluation.every=6",
    "evaluation.validation_contexts=2",
    "algorithm=rank_grpo",
    "algorithm.layout=published",  # so that an untrained model's lists have ranks
    "+reward.terms.tokens={weight:1.0,normaliser:16.0}",  # without hits, token counts distinguish the lists
    "reward.success={rule:total_at_least,threshold:0.6}",
]
CHOICES = {
    "replay": ["sampler=dots_replay", "sampler.capacity=4"],
    "dynamic": ["sampler=dynamic", "sampler.keep=mixed", "sampler.rounds=3"],
    "tree": ["rollout=tree", "rollout.options.tree.every=1", "sampler=pool"],
    "edited": ["rollout=edited"],
    "expert": ["rollout=expert", "schedule=fading_expert"],
    "modes": ["rollout=modes", "rollout.options.modes.thinks=plan", "rollout.options.modes.answers=list"],
    "planned": ["rollout=planned", "rollout.options.planned.words=plan"],
}


def of(folder: Path, choice: str) -> Config:
    return composed(*SEVERAL, *CHOICES[choice], f"runs_dir={folder}")


def remembered(run: Run, step: int) -> dict[str, np.ndarray]:
    with np.load(run.checkpoints / f"checkpoint-{step}" / COLLECTOR_FILE) as state:
        return dict(state)


@pytest.mark.parametrize(
    "choice", [one if one in ("replay", "tree") else pytest.param(one, marks=pytest.mark.slow) for one in CHOICES]
)
def test_resumed_is_never_stopped(choice, mini, start, tmp_path):
    assert not check_config(of(tmp_path, choice))
    whole = train(of(tmp_path / "whole", choice), start, mini)
    with pytest.raises(Stopped):
        train(of(tmp_path / "stopped", choice), start, mini, StopsAt(5))
    run = train(of(tmp_path / "stopped", choice), start, mini)
    assert run.read_metrics() == whole.read_metrics()
    assert equal(weights(run), weights(whole))
    there = remembered(whole, 6)
    assert (there["history/visits"].sum() > 0) and there.keys() == remembered(run, 6).keys()
    for name, values in remembered(run, 6).items():
        np.testing.assert_array_equal(values, there[name])
    if choice == "replay":
        replayed = [row["value"] for row in whole.read_metrics() if row["metric"] == "groups_replayed"]
        assert max(replayed) > 0 and len(there["buffer/prompts"])


def rollouts(config: Config, start: Path, mini, output: Path):
    """A trained trainer with a collector, and what it collected."""
    trainer = make_trainer(config, mini, *load(start), output)
    dataset = prompt_dataset(mini.splits["train"], numbered=True)
    trainer.train_dataset, trainer.collector = dataset, make_collector(config, dataset)
    found, batches, make = [], [], trainer._make_batch

    def noted(inputs):
        batches.append(make(inputs))
        found.append(trainer._collected)
        return batches[-1]

    trainer._make_batch = noted
    trainer.train()
    return trainer, found, batches


def config_of(*words: str) -> Config:
    return composed(*SEVERAL, "trainer.rl.updates=4", *words)


def test_a_tree_costs_its_edges(mini, start, tmp_path):
    """The tokens that leaves share are drawn and counted once, and leaves really share them."""
    config = config_of("rollout=tree", "rollout.options.tree.every=1", "algorithm.layout=aligned")
    trainer, found, _ = rollouts(config, start, mini, tmp_path)
    for collected in found:
        whole = sum(len(member.ids) for member in collected.members)
        assert 0 < collected.spent.tokens <= whole
        assert all(len(member.ids) <= config.generation.max_new_tokens for member in collected.members)
    assert trainer.ledger.counts["generated_tokens"] == sum(collected.spent.tokens for collected in found)


def test_replayed_groups_have_the_ratios_of_the_policy_that_drew_them(mini, start, tmp_path):
    config = config_of(*CHOICES["replay"], "trainer.rl.num_iterations=1", "trainer.rl.learning_rate=0.01")
    trainer, found, batches = rollouts(config, start, mini, tmp_path)
    ids_of = {}
    for collected, batch in zip(found, batches, strict=True):
        size = len(collected.groups[0])
        old, mask = batch["old_per_token_logps"], batch["completion_mask"].bool()
        order = range(len(mask))
        for place in order:
            row = tuple(batch["completion_ids"][place][mask[place]].tolist())
            prompt = collected.prompts[place // size]
            fresh = place // size < len(collected.groups) - collected.replayed
            logps = old[place][mask[place]]
            if fresh:
                ids_of[prompt, row] = logps
            else:
                torch.testing.assert_close(logps, ids_of[prompt, row], atol=0, rtol=0)
    assert any(collected.replayed for collected in found)
    counts = trainer.ledger.counts
    drawn = sum(len(m.ids) for c in found for g in c.groups[: len(c.groups) - c.replayed] for m in g)
    assert counts["generated_tokens"] == drawn  # a replayed group costs nothing again


def test_refused_groups_are_paid_for(mini, start, tmp_path):
    config = config_of(*CHOICES["dynamic"])
    trainer, found, _ = rollouts(config, start, mini, tmp_path)
    used = sum(len(member.ids) for collected in found for member in collected.members)
    assert any(collected.spent.refused for collected in found)
    assert trainer.ledger.counts["generated_tokens"] == sum(collected.spent.tokens for collected in found) > used
    for collected in found:
        assert len(set(collected.prompts)) == len(collected.prompts)


def test_the_default_draws_what_trl_draws(mini, start, tmp_path):
    """A collector with the sampler uniform and the rollout flat makes the run that has none."""
    config = config_of()
    plain = make_trainer(config, mini, *load(start), tmp_path / "plain")
    plain.train()
    trainer, _, _ = rollouts(config, start, mini, tmp_path / "collected")
    for (name, a), (_, b) in zip(plain.model.named_parameters(), trainer.model.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    assert plain.ledger.counts == trainer.ledger.counts


def test_hashes_of_the_defaults_have_not_changed(tmp_path):
    plain = locate(composed(f"runs_dir={tmp_path}"), "rl")
    other = locate(composed(f"runs_dir={tmp_path}", "sampler=pool"), "rl")
    assert "sampler" not in plain.identity and "rollout" not in plain.identity
    assert other.identity["sampler"]["weigh"] == "difficulty_pool" and other.hash != plain.hash
    assert other.label == "rank_grpo-relevance@pool"


def test_edited_lists_are_counted_and_start_with_ratios_of_1(mini, start, tmp_path):
    config = config_of(*CHOICES["edited"], "trainer.rl.num_iterations=1", "algorithm.layout=aligned")
    trainer, found, batches = rollouts(config, start, mini, tmp_path)
    log = [row for row in trainer.state.log_history if "members_edited" in row]
    assert [row["members_edited"] for row in log] == [0.5] * 4  # an untrained list can always be improved
    size = config.trainer.rl.group_size
    for collected, batch in zip(found, batches, strict=True):
        correct = batch["correct_ranks"].sum(1).view(-1, size)
        for group, hits in zip(collected.groups, correct, strict=True):
            assert [member.edited for member in group] == [False, False, True, True]
            assert (hits[2:] > 0).any()
        assert "old_per_token_logps" not in batch


def test_the_experts_list_has_all_relevant_items(mini, start, tmp_path):
    config = config_of("rollout=expert", "algorithm.layout=aligned")
    _, found, batches = rollouts(config, start, mini, tmp_path)
    size = config.trainer.rl.group_size
    for collected, batch in zip(found, batches, strict=True):
        hits = batch["correct_ranks"].sum(1).view(-1, size)[:, -1]
        for prompt, count in zip(collected.prompts, hits.tolist(), strict=True):
            record = mini.splits["train"][prompt]
            # The budget of 16 tokens may cut the list; its first entry is always a hit.
            assert 0 < count <= len(record.ground_truth)


def test_modes_and_their_segments_are_in_the_batch(mini, start, tmp_path):
    """Half of each group thinks. Thoughts end with the first newline, and cost what is drawn of them."""
    words = ["rollout.options.modes.thinks=plan", "rollout.options.modes.answers=list", "rollout.options.modes.most=3"]
    config = config_of("rollout=modes", *words, "trainer.rl.updates=2", "trainer.rl.num_iterations=1")
    trainer, found, batches = rollouts(config, start, mini, tmp_path)
    newlines = trainer.scorer.reader.newlines_per_token
    forced = len(trainer.processing_class("plan", add_special_tokens=False)["input_ids"])
    for collected, batch in zip(found, batches, strict=True):
        assert batch["mode"].tolist() == [1, 1, 0, 0] * len(collected.groups)
        for place, row in enumerate(batch["segment"].tolist()):
            ids, member = batch["completion_ids"][place], collected.members[place]
            said = sum(code == PLAN for code in row)
            assert row[: len(member.segments)] == list(member.segments) and not any(row[len(member.segments) :])
            if batch["mode"][place]:
                assert row[:forced] == [MODE] * forced and 0 < said <= 4
                assert newlines[ids[forced + said - 1]] and not newlines[ids[: forced + said - 1]].any()
            else:
                assert said == 0 and set(row[: len(member.segments)]) == {MODE}
        # The words are not drawn, and thoughts are cut after they have been drawn.
        assert collected.spent.tokens > sum(len(m.ids) - sum(c == MODE for c in m.segments) for m in collected.members)


def test_beam_groups_are_the_lists_of_a_search(mini, start, tmp_path):
    config = config_of("rollout=beams", "trainer.rl.updates=2")
    assert not check_config(config_of("rollout=beams", "generation.constraint=catalogue"))
    _, found, _ = rollouts(config, start, mini, tmp_path)
    for collected in found:
        for group in collected.groups:
            texts = {tuple(member.ids) for member in group}
            assert len(texts) == len(group)


def test_a_budget_of_tokens_ends_a_run_and_its_resume(mini, start, tmp_path):
    words = [*SEVERAL, "trainer.rl.updates=40", "trainer.rl.token_budget=600", "evaluation.every=40"]
    configs = [composed(*words, f"runs_dir={tmp_path / name}") for name in ("whole", "stopped")]
    whole = train(configs[0], start, mini)
    updates = max(row["step"] for row in whole.read_metrics())
    assert 2 < updates < 40 and updates % 2 == 0
    validated = [row["step"] for row in whole.read_metrics() if row["split"] == "validation"]
    assert set(validated) == {updates}
    with pytest.raises(Stopped):  # behind its last checkpoint, and then at it
        train(configs[1], start, mini, StopsAt(updates))
    again = train(configs[1], start, mini)
    assert again.read_metrics() == whole.read_metrics() and equal(weights(again), weights(whole))
    once_more = train(configs[1], start, mini)
    assert equal(weights(once_more), weights(whole))
