"""Lists held to a catalogue of four items: their distribution, by trying all token sequences."""

import argparse
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import GenerationConfig, PreTrainedModel

from rlbench.commands.evaluating import unsupported
from rlbench.config.decoding import evaluation_identity
from rlbench.config.schema import MatchingConfig
from rlbench.lists.catalog import Catalog
from rlbench.lists.held import HeldLines
from rlbench.lists.relevance import make_judge
from rlbench.models.batches import Completions
from rlbench.models.beams import beam_search
from rlbench.models.completing import complete, entropies, most_likely_logps
from rlbench.models.constraint import Allowed, Constraint, options_of
from rlbench.models.shared_prompt import prompt_rows, shared_scores
from rlbench.models.token_bytes import TokenBytes
from rlbench.models.token_head import LogitRule, token_scores
from rlbench.training.scoring import held_scores
from tests.conftest import composed, slow
from tests.helpers_models import VOCABULARY, tiny_model

END, PADDING, N = 1, 0, 2
TITLES = ["a", "ab", "b", "ba"]
TEXTS = [None, None, b"a", b"b", b"ab", b"\n", b"b\n", b"\na", b"a\nb", b"a\nb\n", b"c"]
PROMPTS = [[7, 12, 9], [13, 8, 10, 11, 12]]


def constraint(exclude: list[str]) -> Constraint:
    judge = make_judge(MatchingConfig("ours", "ours", [], 0, None), Catalog([(title, None) for title in TITLES]), N)
    of_token = TEXTS + [None] * (VOCABULARY - len(TEXTS))
    return Constraint(
        held := HeldLines.of(judge),
        options_of(held, TokenBytes(of_token, False), [END]),
        N,
        exclude,
    )


def all_lists(exclude: list[str], closed: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """All token sequences of valid lists, EOS included: all ways to write all valid texts."""
    left = [title for i, title in enumerate(TITLES) if i not in closed]
    texts = {
        "\n".join(pair).encode()
        for pair in itertools.product(left, repeat=N)
        if "repeats" not in exclude or pair[0] != pair[1]
    }

    def ways(text: bytes) -> list[tuple[int, ...]]:
        if not text:
            return [(END,)]
        first = [i for i, piece in enumerate(TEXTS) if piece and piece.count(b"\n") < 2 and text.startswith(piece)]
        return [(i, *rest) for i in first for rest in ways(text[len(TEXTS[i]) :])]  # type: ignore[arg-type]

    return sorted(way for text in texts for way in ways(text))


def slow_logps(
    model: PreTrainedModel,
    prompt: list[int],
    ids: tuple[int, ...],
    every: list[tuple[int, ...]],
    temperature: float = 1.0,
) -> list[tuple[float, float]]:
    """The reference: log-probability and entropy at each token, among the tokens with which a valid list goes on."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + list(ids)])).logits[0, len(prompt) - 1 : -1].double() / temperature
    found = []
    for step, token in enumerate(ids):
        allowed = {other[step] for other in every if other[:step] == ids[:step]}
        mask = torch.full((logits.size(1),), -math.inf, dtype=torch.float64)
        mask[sorted(allowed)] = 0.0
        logs = (logits[step] + mask).log_softmax(0)
        kept = logs[sorted(allowed)]
        found.append((logs[token].item(), -(kept.exp() * kept).sum().item()))
    return found


def batch(
    prompts: list[list[int]], lists: list[tuple[int, ...]], held: Constraint, excluded: np.ndarray | None
) -> Completions:
    found = Completions.of_rows(
        [(p, list(ids)) for p, ids in zip(prompts, lists, strict=True)], PADDING, torch.device("cpu")
    )
    allowed = held.followed(found.completion_ids, found.completion_mask, excluded)
    return Completions(*list(vars(found).values())[:4], allowed)


@pytest.mark.parametrize("exclude", [[], ["repeats"]], ids=["repeats", "no repeats"])
def test_probabilities_of_all_lists_sum_to_1(exclude: list[str]) -> None:
    """By the shared pass, which is also that of training; by the plain pass; and by the slow reference."""
    model, every, held = tiny_model("llama"), all_lists(exclude), constraint(exclude)
    made = batch([PROMPTS[0]] * len(every), every, held, None)
    with torch.no_grad():
        rows = prompt_rows(*vars(made).values(), counts_padding=False)
        shared = shared_scores(model, rows, LogitRule(temperature=1.7), wants_entropy=True)
        plain = held_scores(model, made, 1.7)
    assert shared.entropies is not None and plain.entropies is not None
    assert shared.logps.sum(1).exp().sum().item() == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(shared.logps, plain.logps, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(shared.entropies, plain.entropies, rtol=1e-11, atol=1e-12)
    for row, ids in enumerate(every):
        slow = torch.tensor(slow_logps(model, PROMPTS[0], ids, every, 1.7), dtype=torch.float64)
        torch.testing.assert_close(shared.logps[row, : len(ids)], slow[:, 0], rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(shared.entropies[row, : len(ids)], slow[:, 1], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "generate"])
@pytest.mark.parametrize("exclude", [*slow([], ["repeats"]), ["repeats", "seen"]], ids=str)
def test_sampled_lists_have_these_probabilities(exclude: list[str], shared: bool) -> None:
    model, held = tiny_model("llama").eval(), constraint(exclude)
    copies = 3000
    config = GenerationConfig(max_new_tokens=12, eos_token_id=[END], pad_token_id=PADDING, do_sample=True)
    torch.manual_seed(1)
    excluded = held.excluded([["b"]] * copies + [[]] * copies)
    walk = held.start(2 * copies, excluded, "cpu")
    drawn = complete(model, [PROMPTS[0]] * copies + [PROMPTS[1]] * copies, config, shared=shared, walk=walk)
    for prompt, rows, closed in zip(PROMPTS, (drawn[:copies], drawn[copies:]), ((2,), ()), strict=True):
        every = all_lists(exclude, closed if "seen" in exclude else ())
        expected = [copies * math.exp(sum(logp for logp, _ in slow_logps(model, prompt, ids, every))) for ids in every]
        counts = [sum(tuple(row.ids) == ids for row in rows) for ids in every]
        assert sum(counts) == copies == pytest.approx(sum(expected))
        frequent = [i for i, number in enumerate(expected) if number > 5]
        rest = copies - sum(counts[i] for i in frequent), copies - sum(expected[i] for i in frequent)
        observed, means = [counts[i] for i in frequent], [expected[i] for i in frequent]
        if rest[1] > 1:
            observed, means = [*observed, rest[0]], [*means, rest[1]]
        means = [number * sum(observed) / sum(means) for number in means]
        assert chisquare(observed, means).pvalue > 1e-3


def test_greedy_lists_and_what_is_recorded() -> None:
    model, held = tiny_model("llama").eval(), constraint(["repeats"])
    config = GenerationConfig(max_new_tokens=12, eos_token_id=[END], pad_token_id=PADDING, do_sample=False)
    every = all_lists(["repeats"])
    for record, place in ((most_likely_logps, 0), (lambda logits: entropies(logits, 1.0), 1)):
        walk = held.start(2, None, "cpu")
        for prompt, row in zip(PROMPTS, complete(model, PROMPTS, config, record=record, walk=walk), strict=True):
            slow = slow_logps(model, prompt, tuple(row.ids), every)
            assert row.recorded == pytest.approx([numbers[place] for numbers in slow], rel=1e-5, abs=1e-6)
            assert tuple(row.ids) in every


@pytest.mark.parametrize("exclude", [[], ["repeats"]], ids=str)
@pytest.mark.parametrize("beams", [2, *slow(3), 200])
def test_beam_search(beams: int, exclude: list[str]) -> None:
    """With as many beams as texts, the result is the most likely list. With fewer, it is that of a plain search."""
    model, held, every = tiny_model("llama").eval(), constraint(exclude), all_lists(exclude)
    config = GenerationConfig(max_new_tokens=12, eos_token_id=[END], pad_token_id=PADDING, do_sample=False)
    random = torch.Generator().manual_seed(4)
    prompts = [*PROMPTS, *torch.randint(2, VOCABULARY, (10, 6), generator=random).tolist()]
    found = beam_search(model, prompts, config, beams, held.start(len(prompts), None, "cpu"))
    for prompt, row in zip(prompts, found, strict=True):
        steps = {ids: [logp for logp, _ in slow_logps(model, prompt, ids, every)] for ids in every}
        totals = {ids: sum(of_tokens) for ids, of_tokens in steps.items()}
        best = max(totals, key=lambda ids: totals[ids])
        if beams < 200:
            best = slow_beams(steps, beams)
        assert tuple(row.ids) == best
        assert row.recorded == pytest.approx(steps[best], rel=1e-6)
        assert row.prompt_tokens == len(prompt)


def slow_beams(steps: dict[tuple[int, ...], list[float]], beams: int) -> tuple[int, ...]:
    """Beam search over known texts."""
    running: dict[tuple[int, ...], float] = {(): 0.0}
    ended: dict[tuple[int, ...], float] = {}
    while running:
        length = len(next(iter(running))) + 1
        longer = {ids[:length]: sum(logps[:length]) for ids, logps in steps.items() if ids[: length - 1] in running}
        ended |= {ids: score for ids, score in longer.items() if ids[-1] == END}
        left = sorted((ids for ids in longer if ids[-1] != END), key=lambda ids: -longer[ids])[:beams]
        running = {ids: longer[ids] for ids in left}
    return max(ended, key=lambda ids: ended[ids])


def test_beam_search_of_free_lists_that_are_cut_off() -> None:
    model = tiny_model("llama").eval()
    config = GenerationConfig(max_new_tokens=2, eos_token_id=[END], pad_token_id=PADDING, do_sample=False)
    (found,) = beam_search(model, PROMPTS[:1], config, VOCABULARY)
    with torch.no_grad():
        first = model(torch.tensor(PROMPTS[:1])).logits[0, -1].double().log_softmax(0)
        second = torch.stack(
            [
                model(torch.tensor([[*PROMPTS[0], token]])).logits[0, -1].double().log_softmax(0)
                for token in range(VOCABULARY)
            ]
        )
    totals = first[:, None] + second
    totals[END] = -torch.inf  # a complete text, which is preferred to one that is cut off
    complete_texts = {(END,): first[END].item()} | {(t, END): totals[t, END].item() for t in range(VOCABULARY)}
    assert tuple(found.ids) == max(complete_texts, key=lambda ids: complete_texts[ids])


@pytest.mark.parametrize("cap", [*slow(None), 3.0])
@pytest.mark.parametrize("wants_entropy", [False, True])
def test_gradients_are_those_of_finite_differences(cap: float | None, wants_entropy: bool) -> None:
    held, every = constraint(["repeats"]), all_lists(["repeats"])
    made = batch([PROMPTS[0]] * len(every), every, held, None)
    kept = made.completion_mask.bool()
    targets = made.completion_ids[kept]
    assert made.allowed is not None
    random = torch.Generator().manual_seed(2)
    hidden = torch.randn(len(targets), 6, generator=random, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(VOCABULARY, 6, generator=random, dtype=torch.float64, requires_grad=True)
    factors = torch.randn(2, len(targets), generator=random, dtype=torch.float64)
    allowed: Allowed = made.allowed[kept]
    rule = LogitRule(temperature=0.8, scale=1.3, cap=cap)

    def total(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        found = token_scores(hidden, weight, None, targets, rule, wants_entropy=wants_entropy, allowed=allowed)
        part = (found.logps * factors[0]).sum()
        return part if found.entropies is None else part + (found.entropies * factors[1]).sum()

    assert torch.autograd.gradcheck(total, (hidden, weight), atol=1e-6, check_undefined_grad=False)
    never = [token for token in range(VOCABULARY) if token >= len(TEXTS) or token in (PADDING, 9, 10)]
    assert not torch.autograd.grad(total(hidden, weight), weight)[0][never].any()


def test_the_same_seed_gives_the_same_lists_whatever_was_drawn_before() -> None:
    """A resumed run, or another process, starts with an empty table of options. Its order has no effect."""
    model, used = tiny_model("llama").eval(), constraint(["repeats"])
    config = GenerationConfig(max_new_tokens=12, eos_token_id=[END], pad_token_id=PADDING, do_sample=True)
    prompts = PROMPTS * 8

    def lists(held: Constraint, seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        return [row.ids for row in complete(model, prompts, config, walk=held.start(len(prompts), None, "cpu"))]

    for seed in range(3):
        lists(used, seed)
    assert lists(used, 7) == lists(constraint(["repeats"]), 7)


@pytest.mark.parametrize(
    "backend", [{"endpoint": "http://127.0.0.1:1", "backend": None}, {"endpoint": None, "backend": "vllm"}]
)
def test_backends_that_know_no_constraint_refuse_it(backend: dict[str, str | None]) -> None:
    """`rlbench eval` would otherwise record a constraint that its lists do not follow."""
    options = argparse.Namespace(**backend)
    held = composed("evaluation.constraint=catalogue", "evaluation.exclude=[seen]", "evaluation.beams=3").evaluation
    first, second = unsupported(options, evaluation_identity(held))
    assert first.startswith("evaluation.constraint = catalogue is not supported by --") and "=none" in first
    assert second.startswith("evaluation.beams = 3 is not supported by --") and "evaluation.beams=1" in second
    assert not unsupported(options, evaluation_identity(composed().evaluation))
    assert not unsupported(argparse.Namespace(endpoint=None, backend=None), evaluation_identity(held))
