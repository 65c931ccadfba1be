"""Completions by shared prompts are those of transformers' generate: the same greedy lists, the same distribution."""

from collections import Counter

import pytest
import torch
from scipy.stats import chisquare
from transformers import GenerationConfig, PreTrainedModel

from rlbench.models.completing import ListEnd, complete, most_likely_logps, processors_of
from tests.helpers_models import FAMILIES, RECURRENT, VOCABULARY, tiny_model

END, PADDING = 1, 0


def settings(most: int = 12, **changes: object) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=most, eos_token_id=[END, 5], pad_token_id=PADDING, **changes)


def some_prompts(count: int = 3) -> list[list[int]]:
    random = torch.Generator().manual_seed(2)
    return [torch.randint(6, VOCABULARY, (4 + 3 * i,), generator=random).tolist() for i in range(count)]


def repeated(prompts: list[list[int]], copies: int) -> list[list[int]]:
    return [prompt for prompt in prompts for _ in range(copies)]


def generated(
    model: PreTrainedModel, prompts: list[list[int]], config: GenerationConfig, copies: int
) -> list[list[int]]:
    """What transformers generates, EOS included."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[PADDING] * (longest - len(p)) + p for p in prompts for _ in range(copies)])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts for _ in range(copies)])
    rows = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, longest:].tolist()
    ends = [next((i + 1 for i, token in enumerate(row) if token in config.eos_token_id), len(row)) for row in rows]
    return [row[:end] for row, end in zip(rows, ends, strict=True)]


@pytest.mark.parametrize("changes", [{"repetition_penalty": 1.5}, {"no_repeat_ngram_size": 2}], ids=str)
def test_penalties_change_greedy_lists_as_in_generate(changes: dict[str, float]) -> None:
    model, prompts = tiny_model("llama").eval(), some_prompts()
    config = settings(do_sample=False, **changes)
    found = [row.ids for row in complete(model, prompts, config)]
    assert found == generated(model, prompts, config, 1)
    assert found != generated(model, prompts, settings(do_sample=False), 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_lists_are_those_of_generate(family: str) -> None:
    model, prompts = tiny_model(family, torch.float32).eval(), some_prompts()
    config = settings(do_sample=False)
    found = [row.ids for row in complete(model, repeated(prompts, 2), config)]
    assert found == generated(model, prompts, config, 2)
    assert found[::2] == found[1::2]


@pytest.mark.parametrize("family", FAMILIES | RECURRENT)
def test_lists_do_not_depend_on_the_other_prompts(family: str) -> None:
    """Neither with shared prompts nor by generate, whatever positions or state a model has."""
    model, prompts, config = tiny_model(family, torch.float32).eval(), some_prompts(), settings(6, do_sample=False)
    alone = [complete(model, [prompt], config, record=most_likely_logps, shared=False)[0] for prompt in prompts]
    for shared in (False, True):
        found = complete(model, prompts, config, record=most_likely_logps, shared=shared)
        for row, own in zip(found, alone, strict=True):
            assert row.ids == own.ids and row.recorded == pytest.approx(own.recorded, rel=1e-4, abs=1e-5)


def test_rows_end_at_different_steps() -> None:
    """The case of the test above in which finished rows are dropped while others go on."""
    model = tiny_model("llama").eval()
    config = settings(40, do_sample=True, temperature=2.0)
    torch.manual_seed(3)
    lengths = Counter(len(row.ids) for row in complete(model, repeated(some_prompts(), 40), config))
    assert len(lengths) > 10
    longest = [row for row in complete(model, repeated(some_prompts(), 40), config) if len(row.ids) == 40]
    assert all(END not in row.ids[:-1] and 5 not in row.ids[:-1] for row in longest)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.6},
        {"top_k": 9},
        {"top_p": 0.7},
        {"min_p": 0.05},
        {"temperature": 1.3, "repetition_penalty": 1.4},
    ],
    ids=str,
)
def test_sampled_tokens_have_the_distribution_of_the_settings(changes: dict[str, float]) -> None:
    """Chi-square of second tokens, given the first, against the processed probabilities of a plain forward pass."""
    model, (prompt,) = tiny_model("qwen2").eval(), some_prompts(1)
    config = settings(2, do_sample=True, **{"top_k": 0, "top_p": 1.0} | changes)
    torch.manual_seed(0)
    drawn = complete(model, repeated([prompt], 12_000), config)
    first, count = Counter(row.ids[0] for row in drawn if row.ids[0] not in (END, 5)).most_common(1)[0]
    seconds = Counter(row.ids[1] for row in drawn if row.ids[0] == first)
    so_far = torch.tensor([[*prompt, first]])
    with torch.no_grad():
        logits = processors_of(config)(so_far, model(input_ids=so_far).logits[:, -1])
    expected = logits.softmax(1)[0] * count
    assert set(seconds) <= {token for token in range(VOCABULARY) if expected[token] > 0}
    common = [token for token in range(VOCABULARY) if expected[token] >= 5]
    rest = count - float(expected[common].sum())
    observed = [seconds[token] for token in common] + [count - sum(seconds[token] for token in common)] * (rest > 5)
    wanted = [float(expected[token]) for token in common] + [rest] * (rest > 5)
    if rest <= 5:
        observed, wanted = observed, [w * sum(observed) / sum(wanted) for w in wanted]
    assert chisquare(observed, wanted).pvalue > 1e-3


def test_log_probabilities_of_greedy_tokens() -> None:
    model, prompts = tiny_model("llama").eval(), some_prompts(2)
    found = complete(model, prompts, settings(do_sample=False), record=most_likely_logps)
    for prompt, row in zip(prompts, found, strict=True):
        whole = torch.tensor([[*prompt, *row.ids]])
        with torch.no_grad():
            logs = model(input_ids=whole).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
        torch.testing.assert_close(torch.tensor(row.recorded), logs.amax(1).float(), rtol=1e-5, atol=1e-5)


def test_a_prompt_of_one_token() -> None:
    model, config = tiny_model("llama").eval(), settings(do_sample=False)
    assert [row.ids for row in complete(model, [[9], [7]], config)] == generated(model, [[9], [7]], config, 1)


def test_a_list_ends_where_it_is_over() -> None:
    """Token 7 is the newline. Rows are cut after their second one, and are otherwise those without this end."""
    model, prompts = tiny_model("llama").eval(), repeated(some_prompts(), 30)
    newlines = torch.zeros(VOCABULARY - 2, dtype=torch.long)
    newlines[7] = 1
    asked: list[list[int]] = []

    def is_over(rows: list[list[int]]) -> list[bool]:
        asked.extend(rows)
        return [row.count(7) == 2 for row in rows]

    config = settings(30, do_sample=False, repetition_penalty=1.3)
    free = [row.ids for row in complete(model, prompts, config)]
    newlines[free[0][2]] = 1
    seventh = free[0][2]
    ended = complete(model, prompts, config, end=ListEnd(newlines, 1, lambda rows: [seventh in row for row in rows]))
    wanted = [row[: row.index(seventh) + 1] if seventh in row else row for row in free]
    assert [row.ids for row in ended] == wanted and len(wanted[0]) == 3
    torch.manual_seed(0)
    drawn = complete(model, prompts, settings(60, do_sample=True, temperature=3.0), end=ListEnd(newlines, 2, is_over))
    stopped = [row.ids for row in drawn if row.ids[-1] not in (END, 5) and len(row.ids) < 60]
    assert stopped and all(row[-1] == 7 and row.count(7) == 2 for row in stopped)
    assert all(row[-1] in (7, seventh) for row in asked)
    with pytest.raises(ValueError, match="BloomForCausalLM does not use"):
        complete(tiny_model("bloom"), prompts, config, end=ListEnd(newlines, 1, is_over))
