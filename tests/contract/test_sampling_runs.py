"""Samplers and rollouts in the trainer: what an update trains on, what it costs, and exact resume of what they keep."""

from dataclasses import replace
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
    "rapo": ["sampler=rapo", "sampler.options.pruned.solved=1", "sampler.successes=40"],
    "attention": ["sampler=dots_attention", "sampler.capacity=4", "sampler.options.attention.references=4"],
    "entropy_tiers": ["sampler=entropy_tiers"],
    "hint": ["sampler=hint", "sampler.options.hint.hard=1", "schedule=fading_hints"],
    "clpo": ["sampler=clpo", "algorithm=clpo_kl", "sampler.options.rewritten.easy=1"],
    "generated": ["sampler=generated", "sampler.options.generated.within=0"],
    "critique": ["sampler=critique", "sampler.options.critique.share=0.5"],
    "candidates": ["sampler=candidates"],
    "mix": ["sampler=mix", "+sampler.options.mix.shares={train-0000?:1,*:3}"],
    "planned": ["rollout=planned", "rollout.options.planned.words=plan"],
}


def of(folder: Path, choice: str) -> Config:
    return composed(*SEVERAL, *CHOICES[choice], f"runs_dir={folder}")


def remembered(run: Run, step: int) -> dict[str, np.ndarray]:
    with np.load(run.checkpoints / f"checkpoint-{step}" / COLLECTOR_FILE) as state:
        return dict(state)


@pytest.mark.parametrize(
    "choice",
    [one if one in ("replay", "tree") else pytest.param(one, marks=pytest.mark.slow) for one in CHOICES],
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
    visits = there["history/visits"].sum()  # made prompts do not count
    assert (visits > 0) == (choice != "candidates") and there.keys() == remembered(run, 6).keys()
    for name, values in remembered(run, 6).items():
        np.testing.assert_array_equal(values, there[name])
    if choice == "replay":
        replayed = [row["value"] for row in whole.read_metrics() if row["metric"] == "groups_replayed"]
        assert max(replayed) > 0 and len(there["buffer/prompts"])


def rollouts(config: Config, start: Path, mini, output: Path, prompts: int | None = None):
    """A trained trainer with a collector, and what it collected, from the first prompts only."""
    trainer = make_trainer(config, mini, *load(start), output)
    dataset = prompt_dataset(mini.splits["train"][:prompts], numbered=True)
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
    assert "make" not in other.identity["sampler"] and "successes" not in other.identity["sampler"]
    assert locate(composed(f"runs_dir={tmp_path}", "sampler=clpo"), "rl").identity["sampler"]["make"] == "rewritten"
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


@pytest.mark.parametrize(("words", "entries"), [([], 10), (["rollout.ranks=3"], 3)])
def test_beam_groups_are_lists_of_all_entries(words, entries, mini, start, tmp_path):
    """An untrained model would end its lists after a few tokens if it were allowed to."""
    more = ["generation.max_new_tokens=120", "trainer.rl.updates=2"]
    trainer, found, _ = rollouts(config_of("rollout=beams", *words, *more), start, mini, tmp_path)
    newlines = trainer.scorer.reader.newlines_per_token
    ends = set(trainer.scorer.reader.eos_token_ids)
    for collected in found:
        for member in collected.members:
            whole = len(member.ids) < 120
            lines = int(newlines[member.ids].sum()) + (member.ids[-1] in ends)
            assert lines == entries if whole else lines <= entries


def test_beam_groups_are_the_lists_of_a_search(mini, start, tmp_path):
    config = config_of("rollout=beams", "trainer.rl.updates=2")
    assert not check_config(config_of("rollout=beams", "generation.constraint=catalogue"))
    _, found, _ = rollouts(config, start, mini, tmp_path)
    for collected in found:
        for group in collected.groups:
            texts = {tuple(member.ids) for member in group}
            assert len(texts) == len(group)


@pytest.mark.slow
def test_a_group_that_fails_gets_the_latest_success_of_its_prompt(mini, start, tmp_path):
    """As a random member, with the log-probabilities of the policy that drew it, and at no cost."""
    words = [*CHOICES["rapo"], "reward.success.threshold=0.95"]
    config = config_of(*words, "trainer.rl.updates=20", "trainer.rl.num_iterations=1")
    trainer, found, batches = rollouts(config, start, mini, tmp_path, prompts=6)
    latest, replaced, size = {}, 0, config.trainer.rl.group_size
    for collected, batch in zip(found, batches, strict=True):
        success = (batch["score"] >= 0.95).view(-1, size).tolist()
        logps, mask = batch["old_per_token_logps"], batch["completion_mask"].bool()
        for place, (prompt, group) in enumerate(zip(collected.prompts, collected.groups, strict=True)):
            kept = [number for number, member in enumerate(group) if member.behaviour is not None]
            replaced += len(kept)
            for number in kept:
                row = place * size + number
                assert (group[number].ids, group[number].behaviour) == latest[prompt]
                assert logps[row][mask[row]].tolist() == group[number].behaviour
            assert len(kept) <= 1 and [n for n, yes in enumerate(success[place]) if yes and kept] == kept
            if not kept and prompt in latest:
                assert any(success[place])
            for number, yes in enumerate(success[place]):
                row = place * size + number
                if yes and number not in kept:
                    latest[prompt] = (group[number].ids, logps[row][mask[row]].tolist())
    assert replaced > 2 and trainer.ledger.counts["generated_tokens"] == sum(one.spent.tokens for one in found)
    drawn = sum(len(m.ids) for one in found for m in one.members if m.behaviour is None)
    assert sum(one.spent.tokens for one in found) >= drawn
    shares = [row["members_kept"] for row in trainer.state.log_history if "members_kept" in row]
    assert sum(shares) * len(found[0].members) == pytest.approx(replaced)


MADE = {"hint": "Hint: ", "critique": "Which of these fit?", "candidates": "Choose from:", "generated": "", "clpo": ""}


@pytest.mark.parametrize(
    "choice", [one if one in ("hint", "clpo") else pytest.param(one, marks=pytest.mark.slow) for one in MADE]
)
def test_made_prompts_are_those_that_train(choice, mini, start, tmp_path):
    words = CHOICES[choice] if choice != "hint" else CHOICES[choice][:2]
    config = config_of(*words, "trainer.rl.updates=2", "trainer.rl.num_iterations=1", "sampler.keep=all")
    config = replace(config, sampler=replace(config.sampler, rounds=1))
    assert not check_config(config)
    trainer, found, batches = rollouts(config, start, mini, tmp_path)
    made, said = 0, 0
    for collected, batch in zip(found, batches, strict=True):
        texts = trainer.processing_class.batch_decode(batch["prompt_ids"], skip_special_tokens=True)
        for place, (prompt, row) in enumerate(zip(collected.prompts, collected.rows, strict=True)):
            record = mini.splits["train"][prompt]
            (plain,) = (message["content"] for message in record.prompt)
            if row is not None:
                made += 1
                (content,) = (message["content"] for message in row["prompt"])
                assert content != plain and MADE[choice] in content
                assert row["context_id"] == record.context_id
            for text in texts[place * 4 : place * 4 + 4]:
                assert (MADE[choice] in text) if row is not None else (plain.split(" ")[0] in text)
        lists = sum(len(member.ids) for member in collected.members)
        said += collected.spent.tokens - lists
        assert trainer.collector.history.visits.sum() <= sum(one.spent.groups for one in found)
    assert made >= 2 and (said > 0) == (choice == "clpo")  # the policy's rewriting is paid for
    shares = [row["prompts_made"] for row in trainer.state.log_history if "prompts_made" in row]
    assert sum(shares) * len(found[0].groups) == pytest.approx(made)


def test_references_are_drawn_and_paid_for(mini, start, tmp_path):
    words = ["sampler=dots_attention", "sampler.replay=0", "sampler.capacity=0", "trainer.rl.num_iterations=1"]
    options = ["sampler.options.attention.references=5", "sampler.options.attention.every=2"]
    trainer, found, _ = rollouts(config_of(*words, *options), start, mini, tmp_path)
    assert [one.spent.groups for one in found] == [5 + 4, 4, 5 + 4, 4]
    assert trainer.ledger.counts["generated_tokens"] == sum(one.spent.tokens for one in found)
    assert len(trainer.collector.history.reference) == 5
    lists = [sum(len(member.ids) for member in one.members) for one in found]
    assert [one.spent.tokens > used for one, used in zip(found, lists, strict=True)] == [True, False, True, False]


def test_the_entropy_of_a_prompt_is_that_of_its_first_group(mini, start, tmp_path):
    config = config_of("sampler=entropy_tiers", "trainer.rl.updates=1", "trainer.rl.num_iterations=1")
    trainer, (collected,), _ = rollouts(config, start, mini, tmp_path)
    model, history = load(start)[1].eval(), trainer.collector.history
    assert np.isfinite(history.entropy).sum() == len(set(collected.prompts))
    for prompt, group in zip(collected.prompts, collected.groups, strict=True):
        ids = trainer.prompt_ids([trainer.collector.dataset[prompt]])[0]
        every = []
        for member in group:
            with torch.no_grad():
                logits = model(torch.tensor([ids + member.ids])).logits[0, len(ids) - 1 : -1].double()
            every += [-(row.softmax(0) * row.log_softmax(0)).sum().item() for row in logits]
        assert history.entropy[prompt] == pytest.approx(np.mean(every), abs=1e-3)


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
