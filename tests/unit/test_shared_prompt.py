"""Shared prompts give the numbers of a plain pass: log-probabilities, entropies, hidden states and gradients."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from rlbench.models.loading import fix_positions
from rlbench.models.shared_prompt import has_relative_positions, prompt_rows, reason_against, shared_scores
from rlbench.models.token_head import LogitRule
from tests.helpers_models import FAMILIES, HIDDEN, RECURRENT, VOCABULARY, only_float64, tiny_model

TEMPERATURE = 0.7


def batch(groups: int = 3, size: int = 4, prompt: int = 11, completion: int = 7) -> tuple[torch.Tensor, ...]:
    """Prompts of different lengths, completions of different lengths, in a shuffled order."""
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(2, VOCABULARY, (groups, prompt), generator=random)
    mask = torch.ones_like(ids)
    for row in range(1, groups):
        mask[row, : row * (prompt - 2) // groups] = 0
    order = torch.randperm(groups * size, generator=random)
    ids, mask = ids.repeat_interleave(size, 0)[order], mask.repeat_interleave(size, 0)[order]
    tokens = torch.randint(2, VOCABULARY, (groups * size, completion), generator=random)
    there = torch.arange(completion) < torch.randint(1, completion + 1, (groups * size, 1), generator=random)
    return ids * mask, mask, tokens * there, there.long()


def plain(
    model: PreTrainedModel, prompt: torch.Tensor, prompt_mask: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same numbers from all logits, with a copy of the prompt for each completion."""
    output = model(
        input_ids=torch.cat([prompt, tokens], 1),
        attention_mask=torch.cat([prompt_mask, mask], 1),
        output_hidden_states=True,
        use_cache=False,
    )
    length = tokens.size(1)
    logs = (output.logits[:, -length - 1 : -1] / TEMPERATURE).log_softmax(-1)
    logps = logs.gather(2, tokens[:, :, None]).squeeze(2)
    return logps * mask, -(logs.exp() * logs).sum(2) * mask, output.hidden_states[-1][:, -length - 1 :]


def gradients(model: PreTrainedModel, loss: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return [torch.zeros(()) if p.grad is None else p.grad.clone() for p in model.parameters()]


def worst(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """Largest difference of two gradients, relative to the norm of the whole."""
    norm = torch.stack([g.norm() for g in one]).norm()
    return max(float((a - b).norm() / norm) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_as_a_plain_pass(family: str, recompute: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    only_float64(monkeypatch)
    model, (prompt, prompt_mask, tokens, mask) = tiny_model(family), batch()
    assert reason_against(model) is None
    weights = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    logps, entropies, hidden = plain(model, prompt, prompt_mask, tokens, mask)
    wanted = gradients(model, (weights * logps + weights.flip(0) * entropies).sum())
    rows = prompt_rows(prompt, prompt_mask, tokens, mask)
    found = shared_scores(
        model, rows, LogitRule.of(model, TEMPERATURE), wants_entropy=True, wants_hidden=True, recompute=recompute
    )
    length = rows.completion_ids.size(1)
    cut = weights[:, :length]
    got = gradients(model, (cut * found.logps + cut.flip(0) * found.entropies).sum())
    torch.testing.assert_close(found.logps, logps[:, :length], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.entropies, entropies[:, :length], rtol=1e-9, atol=1e-9)
    assert worst(wanted, got) < 1e-9


@pytest.mark.parametrize("family", FAMILIES | RECURRENT)
def test_padding_before_a_prompt_has_no_effect(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In plain passes, each completion alone and all together, and with shared prompts."""
    only_float64(monkeypatch)
    model, (prompt, prompt_mask, tokens, mask) = tiny_model(family), batch()
    fix_positions(model)
    with torch.no_grad():
        alone = torch.zeros(tokens.shape, dtype=torch.float64)
        for row in range(len(prompt)):
            before, own = prompt[row, prompt_mask[row] == 1][None], tokens[row, mask[row] == 1][None]
            logps, *_ = plain(model, before, torch.ones_like(before), own, torch.ones_like(own))
            alone[row, : own.size(1)] = logps[0]
        torch.testing.assert_close(plain(model, prompt, prompt_mask, tokens, mask)[0], alone, rtol=1e-9, atol=1e-9)
        if family in FAMILIES:
            rows = prompt_rows(prompt, prompt_mask, tokens, mask, trims_prompts=has_relative_positions(model))
            found = shared_scores(model, rows, LogitRule.of(model, TEMPERATURE), wants_entropy=False).logps
            torch.testing.assert_close(found, alone[:, : found.size(1)], rtol=1e-9, atol=1e-9)


def test_a_prompt_is_found_once_and_padding_is_cut() -> None:
    prompt, prompt_mask, tokens, mask = batch()
    wide = torch.nn.functional.pad
    rows = prompt_rows(wide(prompt, (4, 0)), wide(prompt_mask, (4, 0)), wide(tokens, (0, 5)), wide(mask, (0, 5)))
    assert rows.prompt_ids.shape == (3, 11) and rows.completion_ids.size(1) == mask.sum(1).max()
    assert torch.equal(rows.prompt_ids[rows.prompt_of] * prompt_mask, prompt)
    assert rows.saving == pytest.approx(12 * (11 + 7) / (3 * 11 + 12 * 7))


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("mamba", {"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_hidden_layers": 2}, "recurrent state"),
        ("gpt2", {"vocab_size": VOCABULARY, "n_embd": HIDDEN, "n_layer": 1, "n_head": 4}, "dropout (p = 0.1)"),
        ("llama", {"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "attention_dropout": 0.2}, "dropout (p = 0.2)"),
    ],
)
def test_models_that_cannot_share_say_why(kind: str, settings: dict[str, Any], words: str) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
    assert words in str(reason_against(model))


def test_a_batch_without_tokens_has_gradients_of_zero() -> None:
    model, (prompt, prompt_mask, tokens, mask) = tiny_model("llama"), batch()
    rows = prompt_rows(prompt, prompt_mask, tokens, mask * 0)
    found = shared_scores(model, rows, LogitRule(), wants_entropy=False)
    assert found.entropies is None and not found.logps.any()
    assert not any(g.any() for g in gradients(model, found.logps.sum()))
