"""Long conversations are treated the same in every dataset."""

import pytest

from rlbench.config.datasets import DATASETS
from rlbench.data import load_dataset
from rlbench.data.lengths import DROP_OLDEST_TURNS, DROP_SAMPLE, LONG_PROMPTS, LongPrompts
from rlbench.data.record import Record
from rlbench.running import checks as validation
from tests.conftest import SMALL, composed


def chat(*turns: str) -> Record:
    """A system message, then user and assistant in turns."""
    roles = ["user", "assistant"]
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    return Record([{"role": "system", "content": "be brief"}, *messages], [("Heat", 1995)], ["Alien"], "-".join(turns))


def texts(record: Record) -> list[str]:
    return [message["content"] for message in record.prompt]


def test_the_oldest_turns_go_until_the_rest_fits():
    records = [chat("aaaa", "bb", "ccc"), chat("a", "b", "c"), chat("a", "b", "cccccccc"), chat("a" * 9)]
    rule = LongPrompts(6, DROP_OLDEST_TURNS)
    kept = rule.applied({"test": records, "train": records[1:2]})
    # "bb" would fit beside "ccc", but a conversation must begin with the user.
    assert [texts(record)[1:] for record in kept["test"]] == [["ccc"], ["a", "b", "c"], ["cccccccc"], ["a" * 9]]
    assert all(texts(record)[0] == "be brief" for record in kept["test"])
    assert [r.context_id for r in kept["test"]] == [r.context_id for r in records] and kept["train"] == records[1:2]
    assert all(r.seen_titles == ["Alien"] and r.ground_truth == [("Heat", 1995)] for r in kept["test"])
    told = "conversations longer than 6 characters"
    keys = "(dataset.max_conversation_chars, dataset.long_prompts)"
    assert rule.notices() == [
        f"test: 2 {told} lost their oldest turns {keys}",
        f"test: 2 {told} are still longer, because the last turn is always kept {keys}",
    ]


def test_whole_samples_go():
    records = [chat("aaaa", "bb", "c"), chat("a", "b", "c"), chat("aaa", "bb", "c")]
    rule = LongPrompts(6, DROP_SAMPLE)
    assert rule.applied({"test": records}) == {"test": records[1:]}
    assert rule.counts == {("test", "were left out"): 1}


@pytest.mark.parametrize("rule", LONG_PROMPTS)
def test_no_limit_changes_nothing(rule):
    records = [chat("a" * 99, "b", "c")]
    free = LongPrompts(None, rule)
    assert free.applied({"test": records}) == {"test": records} and free.notices() == []


def test_a_turn_of_exactly_the_limit_stays():
    assert LongPrompts(6, DROP_OLDEST_TURNS).first_turn("test", [1, 2, 4]) == 1
    assert LongPrompts(5, DROP_OLDEST_TURNS).first_turn("test", [1, 2, 4]) == 2
    assert LongPrompts(7, DROP_SAMPLE).first_turn("test", [1, 2, 4]) == 0


def test_mini_leaves_out_long_requests_and_says_so(mini):
    short = load_dataset(
        composed(*SMALL, "dataset.max_conversation_chars=80", "dataset.long_prompts=drop_sample").dataset
    )
    for split, records in mini.splits.items():
        assert short.splits[split] == [record for record in records if len(record.prompt[0]["content"]) <= 80]
    left_out = sum(map(len, mini.splits.values())) - sum(map(len, short.splits.values()))
    assert left_out > 10 and sum(int(notice.split(": ")[1].split()[0]) for notice in short.notices) == left_out
    assert short.fingerprint != mini.fingerprint


def test_every_dataset_has_the_rule():
    assert validation.LONG_PROMPTS == LONG_PROMPTS
    for name in DATASETS:
        dataset = composed(f"dataset={name}").dataset
        assert dataset.max_conversation_chars is None and dataset.long_prompts == DROP_OLDEST_TURNS
    (problem,) = validation.check_values(composed("dataset.long_prompts=drop"))
    assert "dataset.long_prompts = 'drop' is unknown" in problem
