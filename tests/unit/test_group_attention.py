"""Attention over prompts that are held once equals attention over copies of them, with its gradients."""

from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import DynamicCache

from rlbench.models import shared_prompt
from rlbench.models.group_attention import attend, attending, can_attend
from rlbench.models.shared_prompt import prompt_rows, shared_scores
from rlbench.models.token_head import LogitRule
from tests.helpers_models import FAMILIES, tiny_model
from tests.unit.test_shared_prompt import batch

P, T, WIDTH = 9, 5, 8


def copied(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, prompts: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Attention over a copy of its prompt for each row. `prompts` holds keys and values, `bias` their padding."""
    earlier = torch.full((T, T), -torch.inf).triu(1).to(bias)
    whole = torch.cat([bias[:, None, None].expand(-1, 1, T, P), earlier.expand(len(query), 1, T, T)], -1)
    return scaled_dot_product_attention(
        query,
        torch.cat([prompts[0], key], 2),
        torch.cat([prompts[1], value], 2),
        attn_mask=whole,
        scale=0.3,
        enable_gqa=True,
    )


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("of", [[0, 0, 1, 1], [1, 0, 1, 1, 2]])
@pytest.mark.parametrize(("heads", "shared"), [(4, 4), (6, 2), (3, 1)])
def test_as_attention_over_copies(heads: int, shared: int, of: list[int], padded: bool) -> None:
    random = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64).requires_grad_()

    prompt_of, n = torch.tensor(of), max(of) + 1
    query, key, value = drawn(len(of), heads, T, WIDTH), *(drawn(len(of), shared, T, WIDTH) for _ in range(2))
    prompts = [drawn(n, shared, P, WIDTH) for _ in range(2)]
    mask = torch.ones(n, P, dtype=torch.long)
    if padded:
        mask[0, :3], mask[1, : P - 1] = 0, 0
    bias = torch.zeros(n, P, dtype=torch.float64).masked_fill(mask == 0, -torch.inf)
    model, cache = tiny_model("llama"), DynamicCache()
    cache.update(*prompts, 0)
    assert can_attend(model, cache, mask, 100)
    with attending(model, cache, prompt_of, mask) as held:
        ours = attend(torch.nn.Module(), query, *held.update(key, value, 0), None, scaling=0.3)[0].transpose(1, 2)
    wanted = copied(query, key, value, torch.stack([one[prompt_of] for one in prompts]), bias[prompt_of])
    torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-12)
    weights, leaves = torch.randn(wanted.shape, generator=random, dtype=torch.float64), [query, key, value, *prompts]
    of_ours = torch.autograd.grad((ours * weights).sum(), leaves)
    for got, expected in zip(of_ours, torch.autograd.grad((wanted * weights).sum(), leaves), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


COPIES = {"qwen2_sliding", "mistral_sliding", "gemma2", "gemma3", "bloom", "falcon", "falcon_alibi", "falcon_groups"}
"""Families whose layers see a window of tokens, or whose attention is not transformers' `sdpa` function."""


@pytest.mark.parametrize("family", FAMILIES)
def test_where_it_is_used(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[bool] = []

    def asked(*arguments: Any) -> bool:
        used.append(can_attend(*arguments))
        return used[-1]

    monkeypatch.setattr(shared_prompt, "can_attend", asked)
    shared_scores(tiny_model(family), prompt_rows(*batch()), LogitRule(), wants_entropy=False)
    assert used == [family not in COPIES]


def test_a_window_that_holds_all_tokens_is_no_window() -> None:
    model, cache, mask = tiny_model("mistral_sliding", sliding_window=20), DynamicCache(), torch.ones(1, 9)
    cache.update(torch.zeros(1, 2, 9, 8), torch.zeros(1, 2, 9, 8), 0)
    assert can_attend(model, cache, mask, 20) and not can_attend(model, cache, mask, 21)
    assert not can_attend(model, cache, mask * 0, 20)


def test_an_argument_that_it_does_not_know_is_refused() -> None:
    model, cache = tiny_model("llama"), DynamicCache()
    cache.update(torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 3, 8), 0)
    rows = torch.zeros(1, 2, 4, 8)
    with attending(model, cache, torch.zeros(1, dtype=torch.long), torch.ones(1, 3)) as held:
        held.update(rows, rows, 0)
        with pytest.raises(ValueError, match=r"attends with position_bias.*use trainer.share_prompts=never"):
            attend(torch.nn.Linear(1, 1), rows, rows, rows, None, position_bias=rows)
    assert model.config._attn_implementation == "sdpa"
