"""Runs that cannot do, or did not do, the planned work."""

import logging
from pathlib import Path

import pytest

from rlbench.base.errors import BadInput
from rlbench.models.loading import load_tokenizer
from rlbench.running.session import prepare
from rlbench.runs.attempts import Once
from rlbench.training.demonstrations import Demonstrations, Kept, check_ends, demonstration_tokens, kept_of
from rlbench.training.made import NotMade, cannot_update, check_made, draws_after, planned, without_signal
from tests.conftest import SMALL, composed


def test_a_run_that_cannot_make_one_update_is_refused() -> None:
    config = composed(
        "algorithm=grpo", "trainer.rl.group_size=4", "trainer.rl.completions_per_update=244", "trainer.sft.batch_size=8"
    )
    assert cannot_update(config, 61, 8) == []
    problems = cannot_update(config, 60, 7)
    assert "needs 61 prompts" in problems[0] and "mini has only 60 training prompts" in problems[0]
    assert "use at most 240" in problems[0]
    assert "trainer.sft.batch_size = 8 is more than the 7 demonstrations" in problems[1]
    assert len(problems) == 2


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("trainer.rl.completions_per_update=4000", "needs 1000 prompts with trainer.rl.group_size = 4"),
        ("trainer.sft.max_length=8", "trainer.sft.max_length = 8 truncates all"),
    ],
)
def test_it_is_refused_before_any_compute(override: str, told: str, tmp_path: Path) -> None:
    folders = (f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}")
    config = composed(*SMALL, "+debug=smoke", "algorithm=grpo", "trainer.rl.group_size=4", *folders, override)
    with pytest.raises(BadInput, match=told):
        prepare(config)
    assert not list(tmp_path.glob("runs/*/*/*"))


def test_stages_that_a_cell_does_not_have_are_not_checked() -> None:
    large = ("trainer.rl.group_size=4", "trainer.rl.completions_per_update=244", "trainer.sft.batch_size=8")
    assert cannot_update(composed("algorithm=grpo", "stage=zero_shot", *large), 1, 0) == []
    assert cannot_update(composed("algorithm=grpo", "trainer.rl.start=base", *large), 61, 0) == []


def test_planned_work() -> None:
    config = composed(
        "algorithm=grpo",
        "trainer.rl.updates=5",
        "trainer.rl.num_iterations=2",
        "trainer.rl.completions_per_update=12",
        "trainer.rl.group_size=4",
    )
    assert planned(config) == {"updates": 5, "prompts": 9, "completions": 36}


def test_planned_work_of_rounds() -> None:
    words = ["trainer.rl.updates=9", "trainer.rl.num_iterations=1", "algorithm.rounds=3", "algorithm.prompts=30"]
    config = composed("algorithm=dpo", *words, "trainer.rl.group_size=4")
    assert planned(config) == {"updates": 9, "prompts": 30, "completions": 120}
    assert planned(config, 6) == {"updates": 6, "prompts": 20, "completions": 80}
    assert [update for update in range(1, 10) if draws_after(config, update)] == [3, 6, 9]
    of_rollouts = composed("algorithm=grpo", "trainer.rl.updates=6", "trainer.rl.num_iterations=2")
    assert [update for update in range(1, 7) if draws_after(of_rollouts, update)] == [2, 4, 6]


def test_what_was_not_made_is_named() -> None:
    check_made({"updates": 2, "completions": 8, "prompts": 2}, {"updates": 2, "completions": 8})
    with pytest.raises(NotMade, match="ended after 0 of 2 updates, 0 of 488 completions, so its numbers"):
        check_made({"updates": 0, "prompts": 1}, {"updates": 2, "prompts": 1, "completions": 488})


@pytest.mark.parametrize(
    ("means", "told"),
    [
        ({"in_catalog": 0.004, "ndcg@10": 0.0}, "0.4 % of the listed entries on validation are in the catalogue"),
        ({"in_catalog": 0.5, "ndcg@10": 0.0}, "ndcg@10 is 0 on validation"),
        ({"in_catalog": 0.5, "ndcg@10": 0.1}, ""),
    ],
)
def test_a_policy_without_a_signal_is_named(means: dict[str, float], told: str) -> None:
    found = without_signal(means, "ndcg@10")
    assert found.startswith(told) and bool(found) == bool(told)


def test_demonstrations_that_keep_no_end_are_refused(mini, tiny_folder) -> None:
    tokenizer = load_tokenizer(tiny_folder, "2026-01-01")
    records = mini.splits["sft"]
    lengths = [sum(map(len, demonstration_tokens(record, tokenizer, 10_000))) for record in records]
    assert check_ends(records, tokenizer, max(lengths), "tiny") == []
    assert check_ends(records, tokenizer, min(lengths), "tiny") == []
    for limit in (8, min(lengths) - 1):
        (problem,) = check_ends(records, tokenizer, limit, "tiny")
        assert f"trainer.sft.max_length = {limit} truncates all {len(records)} demonstrations" in problem


def test_a_template_that_writes_no_end_is_refused(mini, tiny_folder) -> None:
    tokenizer = load_tokenizer(tiny_folder, "2026-01-01")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    (problem,) = check_ends(mini.splits["sft"], tokenizer, 10_000, "tiny")
    assert "the chat template of 'tiny' never writes the EOS token" in problem


def test_a_tokenizer_without_an_end_is_refused(tiny_folder, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_folder, "2026-01-01")
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="has no EOS token"):
        load_tokenizer(tmp_path, "2026-01-01")


def test_cut_demonstrations_are_counted() -> None:
    end, line = 9, 8
    kept = Kept.of_rows([[1, 2, end], [1, 2, end, line], [1, 2, 3, 4], [1, 2, 3]], 4, [end])
    assert kept.result == {"count": 4, "at_limit": 2, "without_end": 2}
    dropped = Kept.of_rows([[1, 2, end]], 4, [end], dropped=3)
    assert dropped.result == {"count": 4, "at_limit": 3, "without_end": 3}
    assert kept.words(4).startswith("2 of 4 demonstrations are truncated by trainer.sft.max_length = 4")


def test_demonstrations_that_rl_cuts_are_counted(mini, tiny_folder) -> None:
    tokenizer = load_tokenizer(tiny_folder, "2026-01-01")
    records = mini.splits["sft"]
    tokens = [demonstration_tokens(record, tokenizer, 10_000) for record in records]
    lengths = sorted(len(prompt) + len(completion) for prompt, completion in tokens)
    ends = [tokenizer.eos_token_id]
    assert kept_of(records, tokenizer, lengths[-1] + 1, ends) == Kept(len(records), 0, 0)
    limit = lengths[len(lengths) // 2] - 4  # low enough that EOS is cut too
    longer = sum(length >= limit for length in lengths)
    kept = kept_of(records, tokenizer, limit, ends)
    assert 0 < kept.without_end <= kept.at_limit == longer and kept.count == len(records)
    shortest = min(len(prompt) for prompt, _ in tokens) + 1  # cuts most completions entirely
    kept = kept_of(records, tokenizer, shortest, ends)
    assert kept.without_end == kept.count == len(records)
    assert len(Demonstrations(records, tokenizer, shortest, 0).rows) < len(records)
    assert "never used as the better list" in kept.words_of_pairs(shortest)


def test_warnings_of_trainers_are_said_once_and_ours_each_time() -> None:
    once = Once()

    def said(name: str, text: str) -> bool:
        return once.filter(logging.LogRecord(name, logging.WARNING, "", 0, text, None, None))

    assert [said("transformers.trainer", "a"), said("transformers.trainer", "a"), said("trl", "a")] == [
        True, False, True,
    ]  # fmt: skip
    assert [said("rlbench.stages", "a"), said("rlbench.stages", "a")] == [True, True]
