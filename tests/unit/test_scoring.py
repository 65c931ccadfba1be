"""How completions become forward passes: cuts by tokens, the order of groups, and the choice of the pass."""

import logging
from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from transformers import Trainer

from rlbench.base.errors import BadInput
from rlbench.models.batches import Completions
from rlbench.training.scoring import (
    LEAST_SAVING,
    SharedPasses,
    agreement,
    at_least,
    cuts_by_tokens,
    even_cuts,
    shared_passes,
    shuffled_groups,
    taken,
)
from tests.helpers_models import FAMILIES, only_float64, tiny_model


def completions(prompts: list[int], lengths: list[int], group: int) -> Completions:
    """Completions of these lengths; each group of rows has one prompt of the given length."""
    width, longest = max(prompts), max(lengths)
    ids, mask = torch.zeros(len(lengths), width, dtype=torch.long), torch.zeros(len(lengths), width, dtype=torch.long)
    tokens, there = (torch.zeros(len(lengths), longest, dtype=torch.long) for _ in range(2))
    for row, length in enumerate(lengths):
        size = prompts[row // group]
        ids[row, width - size :], mask[row, width - size :] = row // group + 2, 1
        tokens[row, :length], there[row, :length] = row + 2, 1
    return Completions(ids, mask, tokens, there)


def size_of(batch: Completions, cut: slice) -> int:
    """Tokens of a forward pass of these rows, counted one by one."""
    rows = range(cut.start, cut.stop)
    prompts = {tuple(batch.prompt_ids[row].tolist()): int(batch.prompt_mask[row].sum()) for row in rows}
    longest = max(int(batch.completion_mask[row].sum()) for row in rows)
    return len(prompts) * max(prompts.values()) + len(rows) * longest


@pytest.mark.parametrize("most", [1, 30, 47, 100, 10_000])
def test_cuts_hold_at_most_this_many_tokens_and_no_fewer_rows_than_needed(most: int) -> None:
    batch = completions([20, 9, 14], [5, 8, 3, 7, 1, 9, 2, 2, 6, 4, 5, 3], group=4)
    cuts = cuts_by_tokens(batch, most)
    assert [row for cut in cuts for row in range(cut.start, cut.stop)] == list(range(12))
    for cut in cuts:
        assert cut.stop - cut.start == 1 or size_of(batch, cut) <= most
    for cut, following in zip(cuts, cuts[1:], strict=False):
        assert size_of(batch, slice(cut.start, following.start + 1)) > most
    assert (len(cuts) == 12) == (most == 1) and (len(cuts) == 1) == (most == 10_000)


@pytest.mark.parametrize("parts", [1, 2, 5, 12, 20])
def test_processes_can_ask_for_more_cuts(parts: int) -> None:
    batch = completions([20, 9, 14], [5] * 12, group=4)
    cuts = at_least(cuts_by_tokens(batch, 10_000), parts)
    assert len(cuts) == min(parts, 12) and all(cut.start < cut.stop for cut in cuts)
    assert [row for cut in cuts for row in range(cut.start, cut.stop)] == list(range(12))


def test_even_cuts() -> None:
    assert even_cuts(7, 3) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert even_cuts(7, None) == [slice(0, 7)]


def test_groups_are_shuffled_and_stay_whole() -> None:
    torch.manual_seed(0)
    seen = Counter()
    for _ in range(600):
        order = shuffled_groups(12, 4, first=0).tolist()
        groups = [order[start : start + 4] for start in (0, 4, 8)]
        assert sorted(order) == list(range(12)) and all(group == sorted(group) for group in groups)
        seen[tuple(group[0] // 4 for group in groups)] += 1
    assert len(seen) == 6 and all(60 < count < 140 for count in seen.values())  # 100 each; 140 is over four deviations


def test_a_group_may_be_spread_over_processes() -> None:
    """The second of two processes has rows 6 to 11 of groups of 4: the end of one group and another."""
    orders = {tuple(shuffled_groups(6, 4, first=6).tolist()) for _ in range(50)}
    assert orders == {(0, 1, 2, 3, 4, 5), (2, 3, 4, 5, 0, 1)}


def test_rows_of_every_tensor_are_taken_and_scalars_stay() -> None:
    batch = {"x": torch.arange(4), "count": torch.tensor(7), "name": "a"}
    found = taken(batch, torch.tensor([2, 0]))
    assert found["x"].tolist() == [2, 0] and found["count"] == 7 and found["name"] == "a"
    assert taken(batch, slice(1, 3))["x"].tolist() == [1, 2]


def passes(share: str, family: str = "llama", *against: str, **changes: float) -> SharedPasses | None:
    model = tiny_model(family, **changes)
    return shared_passes(
        share,
        [model],
        [against],
        temperature=1.0,
        recompute=False,
        autocast=nullcontext,
    )


def test_auto_shares_only_where_it_saves_tokens() -> None:
    batch = completions([40, 40], [5] * 8, group=4)
    alone = completions([2] * 8, [60] * 8, group=1)
    auto, always = passes("auto"), passes("always")
    assert auto and always
    assert len(auto.rows(batch).prompt_ids) == 2 and auto.rows(batch).saving > LEAST_SAVING
    short = completions([2, 2], [60] * 8, group=4)
    assert 1 < always.rows(short).saving < LEAST_SAVING
    assert len(always.rows(short).prompt_ids) == 2 and len(auto.rows(short).prompt_ids) == 8
    assert len(auto.rows(alone).prompt_ids) == 8


@pytest.mark.parametrize("share", ["auto", "always"])
def test_processes_take_the_same_kind_of_pass(share: str) -> None:
    """Which decides how often the backbone is called, and calls of sharded weights are collective."""
    shared = passes(share)
    assert shared
    asked: list[bool] = []
    shared.agreed = lambda own: asked.append(own) or False  # type: ignore[func-returns-value]
    many, alone = completions([40, 40], [5] * 8, group=4), completions([2] * 8, [60] * 8, group=1)
    one_token = completions([1, 1], [5] * 8, group=4)
    assert [len(shared.rows(batch).prompt_ids) for batch in (many, alone, one_token)] == [8, 8, 8]
    assert asked == [True, False, False]


@pytest.mark.parametrize(
    ("sharded", "others", "agreed"), [(True, False, False), (True, True, True), (False, False, True)]
)
def test_sharded_weights_ask_all_processes(
    sharded: bool, others: bool, agreed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlbench.runs.processes.gather", lambda own: [own, others])
    trainer = cast(Trainer, SimpleNamespace(is_fsdp_enabled=sharded))
    assert agreement(trainer)(True) == agreed and not agreement(trainer)(False)


def test_never_is_the_pass_of_trl() -> None:
    assert passes("never") is None


def test_a_model_that_cannot_share_takes_the_plain_pass_with_a_notice(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="rlbench"):
        assert passes("auto", "gpt2", attn_pdrop=0.1) is None
        assert passes("auto", "llama", "DeepSpeed ZeRO-3 shards the LM head") is None
    assert "dropout (p = 0.1)" in caplog.text and "ZeRO-3 shards the LM head" in caplog.text
    with pytest.raises(BadInput, match=r"trainer\.share_prompts = always.*dropout.*Use auto or never"):
        passes("always", "gpt2", attn_pdrop=0.1)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_do_not_depend_on_the_pass_or_on_the_cuts(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding that only the whole batch needs is cut in parts of it."""
    only_float64(monkeypatch)
    batch = completions([11, 4, 7], [5, 8, 3, 7, 1, 6, 2, 2, 6, 4, 5, 3], group=4)
    model = tiny_model(family)
    found = {}
    for share, cuts in (("auto", [slice(0, 12)]), ("always", [slice(0, 12)]), ("always", even_cuts(12, 3))):
        shared = shared_passes(share, [model], [], temperature=0.7, recompute=False, autocast=nullcontext)
        assert shared
        scores = shared.scores(model, batch, cuts, wants_entropy=True, wants_hidden=True)
        assert scores.logps.shape == (12, 8) and scores.hidden is not None and scores.hidden.shape[1] == 9
        assert scores.entropies is not None
        found[share, len(cuts)] = [scores.logps, scores.entropies]
        none = shared.scores(model, batch, cuts, wants_entropy=False)
        assert none.entropies is None and none.hidden is None
    first, *others = found.values()
    for other in others:
        for one, two in zip(first, other, strict=True):
            torch.testing.assert_close(one, two, atol=1e-9, rtol=1e-9)
