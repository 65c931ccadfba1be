"""Scalars of the next-token distribution against plain numpy, and against the full logits of a real model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from rlbench.base.errors import BadInput
from rlbench.models.batches import Completions
from rlbench.models.token_head import ADJUSTS_LOGITS
from rlbench.objective import forward
from rlbench.objective.forward import HiddenStates, mean_logps, top_p_entropy
from rlbench.objective.pieces import scalars, surrogates
from rlbench.training.scoring import even_cuts
from tests.conftest import SMALL, composed
from tests.helpers_losses import loss_inputs
from tests.helpers_training import load, make_trainer

TEMPERATURE = 0.7
T = 5
"""Number of completion tokens measured."""


def slow_mean_logps(logits: np.ndarray) -> float:
    return float(logits.mean() - np.log(np.exp(logits).sum()))


def slow_top_p_entropy(logits: np.ndarray, share: float = 0.8, at_most: int = 10_000) -> float:
    """Take tokens in order of probability while their total mass stays below the share; exclude the one that reaches
    it.
    """
    p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    kept: list[float] = []
    for value in sorted(p.tolist(), reverse=True)[:at_most]:
        if sum(kept) + value >= share:
            break
        kept.append(value)
    return -sum(value / sum(kept) * np.log(value / sum(kept)) for value in kept)


def slow_square_sum(logits: np.ndarray) -> float:
    p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    return sum(value * value for value in p.tolist())


SLOW = {"mean_logps": slow_mean_logps, "top_p_entropy": slow_top_p_entropy, "square_sum": slow_square_sum}


def logits_of(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


DISTRIBUTIONS = {
    "one token has it all": torch.tensor([0.0, -800.0, -800.0], dtype=torch.float64),
    "one token is enough": logits_of(0.9, 0.05, 0.03, 0.02),
    "uniform": torch.zeros(7, dtype=torch.float64),
    "one token": torch.zeros(1, dtype=torch.float64),
    "ties at the boundary": logits_of(0.52, 0.12, 0.12, 0.12, 0.12),
    "ties before the boundary": logits_of(0.3, 0.3, 0.25, 0.1, 0.05),
    "ties of the likeliest": logits_of(0.45, 0.45, 0.06, 0.04),
    "random": torch.randn(900, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
    "flat, more than are looked at first": torch.randn(900, generator=torch.Generator().manual_seed(1)).double() / 9,
    "steep": 6 * torch.randn(900, generator=torch.Generator().manual_seed(2), dtype=torch.float64),
    "more tokens than may be kept": torch.randn(20_000, generator=torch.Generator().manual_seed(3)).double() / 99,
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_scalar_of_a_distribution(name):
    logits = DISTRIBUTIONS[name]
    logps = logits.log_softmax(0)[None]
    for scalar, slow in SLOW.items():
        assert scalars[scalar].function(logps).tolist() == pytest.approx([slow(logits.numpy())], abs=1e-9)


def test_values_that_are_known_by_hand():
    # Five of seven equal tokens stay below .8; a sixth would exceed it.
    assert top_p_entropy(torch.zeros(1, 7).log_softmax(1)).item() == pytest.approx(np.log(5), abs=1e-6)
    three = logits_of(0.5, 0.2, 0.15, 0.1, 0.05)[None]  # .15 exceeds .8 and is excluded
    shares = [0.5 / 0.7, 0.2 / 0.7]
    assert top_p_entropy(three).item() == pytest.approx(-sum(q * np.log(q) for q in shares))
    assert top_p_entropy(logits_of(0.79, 0.11, 0.1)[None]).item() == 0  # one token is kept
    assert top_p_entropy(logits_of(0.81, 0.19)[None]).item() == 0  # no token is kept
    assert mean_logps(torch.zeros(1, 8).log_softmax(1)).item() == pytest.approx(-np.log(8))


def test_positions_have_nothing_to_do_with_each_other():
    """Rows that need many tokens do not affect rows that need few."""
    rows = [values for values in DISTRIBUTIONS.values() if len(values) == 900]
    together = torch.stack([*rows, *rows[::-1]]).log_softmax(1)
    alone = torch.cat([top_p_entropy(row[None]) for row in together])
    torch.testing.assert_close(top_p_entropy(together), alone, atol=1e-12, rtol=0)


def test_no_more_tokens_than_the_limit(monkeypatch):
    logits = DISTRIBUTIONS["random"]
    without = top_p_entropy(logits.log_softmax(0)[None]).item()
    monkeypatch.setattr(forward, "TOP_TOKENS", 3)
    limited = top_p_entropy(logits.log_softmax(0)[None]).item()
    assert limited == pytest.approx(slow_top_p_entropy(logits.numpy(), at_most=3), abs=1e-12)
    assert limited < np.log(3) < without


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_gradient_of_the_entropy_of_a_distribution(name):
    """For a fixed set, dH / dlogit_v = -q_v (log q_v + H), and 0 outside it.

    Tokens tied at the set's boundary share the gradient equally.
    """
    logits = DISTRIBUTIONS[name].clone().requires_grad_()
    h = top_p_entropy(logits.log_softmax(0)[None]).sum()
    h.backward()
    p = logits.detach().softmax(0)
    ordered = p.sort(descending=True).values[:10_000]
    count = int((ordered.cumsum(0) < 0.8).sum())
    expected = torch.zeros_like(p)
    if count:
        last = ordered[count - 1]
        weights = (p > last).double()
        weights[p == last] = (count - int((p > last).sum())) / int((p == last).sum())
        q = p / (weights * p).sum()
        expected = -weights * q * (q.clamp(min=1e-300).log() + h.detach())
    torch.testing.assert_close(logits.grad, expected, atol=1e-12, rtol=0)


@pytest.fixture(scope="module")
def model(tiny_folder):
    """The small `tiny` in float64, far enough from uniform that scalars differ between positions."""
    _, found = load(tiny_folder, "float64")
    generator = torch.Generator().manual_seed(0)
    for parameter in found.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return found


def batch(vocabulary: int) -> dict[str, torch.Tensor]:
    """Three left-padded prompts with completions of T tokens; the last completion is padded on the right."""
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(4, vocabulary, (3, 6 + T), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, :4] = mask[2, :1] = mask[2, -2:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def logps_of(model, given) -> torch.Tensor:
    """Return (B, T, V) log-probabilities from the full logits."""
    return (model(**given).logits[:, -T - 1 : -1] / TEMPERATURE).log_softmax(-1)


@pytest.mark.parametrize("positions", [None, 4, 1], ids=["one tile", "tiles of 4", "tiles of 1"])
@pytest.mark.parametrize("name", SLOW)
def test_scalars_of_a_forward_pass(name, positions, model, monkeypatch):
    given = batch(model.config.vocab_size)
    if positions is not None:
        monkeypatch.setattr(forward, "TILE_ELEMENTS", positions * model.config.vocab_size)
    states = HiddenStates(model, TEMPERATURE)
    with torch.no_grad(), states.caught() as found:
        model(**{key: value[:2] for key, value in given.items()})
        model(**{key: value[2:] for key, value in given.items()})
        whole = logps_of(model, given)
    assert len(found) == 3  # two micro-batches, and the reference
    value = states.scalar(name, states.around_tokens(found[:2], T)[:, :-1])
    assert value.shape == (3, T)
    expected = [[SLOW[name](position) for position in row] for row in whole.numpy()]
    torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64), atol=1e-9, rtol=0)
    assert value.std() > 1e-2


def gradients(model, of_model) -> dict[str, torch.Tensor]:
    model.zero_grad()
    of_model().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("positions", [None, 4], ids=["one tile", "tiles of 4"])
def test_gradients_of_a_forward_pass(positions, model, monkeypatch):
    given = batch(model.config.vocab_size)
    weights = torch.rand(3, T, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    if positions is not None:
        monkeypatch.setattr(forward, "TILE_ELEMENTS", positions * model.config.vocab_size)
    states = HiddenStates(model, TEMPERATURE)

    def ours():
        with states.caught() as found:
            model(**given)
        return (weights * states.scalar("top_p_entropy", states.around_tokens(found, T)[:, :-1])).sum()

    def direct():
        logps = logps_of(model, given)
        ordered = logps.detach().sort(dim=-1, descending=True).values
        size = (ordered.exp().cumsum(-1) < 0.8).sum(-1, keepdim=True)
        kept = logps > ordered.gather(-1, size)
        p = torch.where(kept, logps.exp(), 0.0)
        q = p / p.sum(-1, keepdim=True).clamp(min=1e-300)
        return -(weights * torch.where(kept, q * q.clamp(min=1e-300).log(), 0.0).sum(-1)).sum()

    found, expected = gradients(model, ours), gradients(model, direct)
    assert found.keys() == expected.keys() and len(found) > 10
    assert all(gradient.abs().max() > 1e-6 for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-9, rtol=0, msg=lambda text, name=name: name + text)


def test_what_has_no_gradient_has_none(model):
    states = HiddenStates(model, TEMPERATURE)
    with states.caught() as found:
        model(**batch(model.config.vocab_size))
    before = states.around_tokens(found, T)[:, :-1]
    assert before.requires_grad and not states.scalar("mean_logps", before).requires_grad
    assert states.scalar("top_p_entropy", before).requires_grad
    with torch.no_grad():
        assert not states.scalar("top_p_entropy", before).requires_grad


def test_states_before_and_at_tokens(model):
    given = batch(model.config.vocab_size)
    states = HiddenStates(model, TEMPERATURE)
    with torch.no_grad(), states.caught() as found:
        last = model(**given, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(states.around_tokens(found, T)[:, 1:], last[:, -T:], atol=0, rtol=0)
    torch.testing.assert_close(states.around_tokens(found, T)[:, :-1][:, 1:], last[:, -T:-1], atol=0, rtol=0)
    torch.testing.assert_close(states.around_tokens(found, T)[:, :-1][:, 0], last[:, -T - 1], atol=0, rtol=0)


def test_no_hook_is_left_behind(model):
    states, given = HiddenStates(model, TEMPERATURE), batch(model.config.vocab_size)
    with torch.no_grad(), states.caught() as found:
        assert len(model.base_model._forward_hooks) == 1
        model(**given)
    assert len(found) == 1 and not model.base_model._forward_hooks
    with pytest.raises(RuntimeError, match="in the middle"), states.caught():
        raise RuntimeError("in the middle")
    assert not model.base_model._forward_hooks
    with torch.no_grad():
        model(**given)
    assert len(found) == 1


def test_mean_logps_of_two_policies_is_the_uniform_value_of_rover(model, tiny_folder):
    """V(s) = rho times the mean of log pi - log pi_old over the vocabulary; the loss uses a table Q(s, a) of all
    tokens.
    """
    _, old = load(tiny_folder, "float64")
    given, rho = batch(model.config.vocab_size), 0.5
    tokens, mask = given["input_ids"][:, -T:], given["attention_mask"][:, -T:]
    means, logps = {}, {}
    with torch.no_grad():
        for name, policy in (("", model), ("old_", old)):
            states = HiddenStates(policy, TEMPERATURE)
            with states.caught() as found:
                logps[name] = logps_of(policy, given)
            means[name] = states.scalar("mean_logps", states.around_tokens(found, T)[:, :-1])
    q = rho * (logps[""] - logps["old_"])
    torch.testing.assert_close(rho * (means[""] - means["old_"]), q.mean(-1), atol=1e-9, rtol=0)

    advantages = torch.randn(3, T, generator=torch.Generator().manual_seed(8), dtype=torch.float64) * mask
    expected = torch.zeros(3, T, dtype=torch.float64)
    for i in range(3):
        length = int(mask[i].sum())
        for t in range(length):
            following = q[i, t + 1].mean() if t + 1 < length else 0.0
            expected[i, t] = (q[i, t, tokens[i, t]] - advantages[i, t] - following) ** 2
    chosen = {name: table.gather(-1, tokens[..., None]).squeeze(-1) for name, table in logps.items()}
    inputs = replace(
        loss_inputs(),
        logps=chosen[""],
        old_logps=chosen["old_"],
        advantages=advantages,
        mask=mask,
        extras={"mean_logps": means[""], "old_mean_logps": means["old_"]},
    )
    found = surrogates["rover"].function(inputs, torch.zeros(3, T), rho=rho)
    torch.testing.assert_close(found.loss * mask, expected, atol=1e-9, rtol=0)
    assert expected.max() > 1e-2


@pytest.mark.parametrize("name", ["final_logit_softcapping", "logits_scaling"])
def test_a_model_that_changes_its_logits_is_refused(name, tiny_folder):
    assert name in ADJUSTS_LOGITS
    _, model = load(tiny_folder)
    setattr(model.config, name, 30.0)
    with pytest.raises(BadInput, match=name):
        HiddenStates(model, 1.0)
    setattr(model.config, name, None)
    HiddenStates(model, 1.0)


def test_gemma_2_is_refused():
    sizes = {"vocab_size": 40, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "head_dim": 4}
    config = Gemma2Config(**sizes, num_attention_heads=2, num_key_value_heads=2, pad_token_id=0)
    with pytest.raises(BadInput, match="final_logit_softcapping"):
        HiddenStates(Gemma2ForCausalLM(config), 1.0)


SHORT = [
    "trainer.rl.completions_per_update=4",
    "trainer.rl.group_size=4",
    "trainer.rl.micro_batch_size=4",
    "trainer.rl.num_iterations=2",
    "trainer.rl.save_every=100",
    "generation.max_new_tokens=12",
    f"generation.temperature={TEMPERATURE}",
]


def test_the_trainer_refuses_such_a_model_only_where_scalars_are_asked_for(mini, tiny_folder, tmp_path):
    tokenizer, model = load(tiny_folder)
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(BadInput, match="final_logit_softcapping"):
        make_trainer(composed(*SMALL, "algorithm=rover", *SHORT), mini, tokenizer, model, tmp_path)
    make_trainer(composed(*SMALL, "algorithm=grpo", *SHORT), mini, tokenizer, model, tmp_path)


@pytest.mark.parametrize("algorithm", ["rover", "siren", "verl_erank"])
def test_what_the_trainer_puts_into_its_batch(algorithm, mini, tiny_folder, tmp_path):
    """One forward pass with TRL's fused head yields the log-probabilities and the scalars of rollout and loss."""
    tokenizer, model = load(tiny_folder, ends_early=True)
    config = composed(*SMALL, f"algorithm={algorithm}", *SHORT)
    trainer = make_trainer(config, mini, tokenizer, model, tmp_path)
    trainer.model.train()
    output = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
    length, counted = output["completion_ids"].size(1), output["completion_mask"].bool()
    assert not counted.all()
    with torch.no_grad():
        asked, hidden = trainer.objective.scalars, "hidden_states" in trainer.objective.needs
        batch = Completions.of(output)
        scores = trainer._pass(
            trainer.model, batch, cuts=even_cuts(len(batch), 2), wants_entropy=True, wants_hidden=hidden or bool(asked)
        )
        scalars = trainer._scalars(scores.hidden, asked)
        logits = trainer.model(input_ids=ids, attention_mask=mask).logits[:, -length - 1 : -1]
    logps = (logits / TEMPERATURE).log_softmax(-1)
    of_tokens = logps.gather(-1, output["completion_ids"][..., None]).squeeze(-1)
    torch.testing.assert_close(scores.logps[counted], of_tokens[counted], atol=1e-5, rtol=0)
    entropy = -(logps.exp() * logps).sum(-1)
    torch.testing.assert_close(scores.entropies[counted], entropy[counted], atol=1e-5, rtol=0)
    wanted = {"rover": {"mean_logps"}, "siren": {"top_p_entropy"}, "verl_erank": set()}[algorithm]
    assert scalars.keys() == wanted
    for name in wanted:
        expected = [SLOW[name](position) for position in logps[counted].double().numpy()]
        assert scalars[name][counted].tolist() == pytest.approx(expected, abs=1e-5)
    assert ("old_mean_logps" in output) == (algorithm == "rover")
    if algorithm == "rover":
        torch.testing.assert_close(output["old_mean_logps"], scalars["mean_logps"], atol=1e-5, rtol=0)
    assert hidden == (algorithm == "verl_erank")
    assert not trainer.model.base_model._forward_hooks
