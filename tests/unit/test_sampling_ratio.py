"""Every surrogate on rollouts of another engine: each token's loss is weighted by its ratio."""

from dataclasses import replace
from functools import cache

import pytest
import torch
import yaml

from rlbench.config.schema import POLICY_OPTIMISATION
from rlbench.objective import Objective
from rlbench.objective.pieces import surrogates
from rlbench.running.cli import CONF, methods
from tests.conftest import composed
from tests.helpers_losses import B, N, T, gradient, loss_inputs, window

WITH = {  # one algorithm for each surrogate
    yaml.safe_load((CONF / "algorithm" / f"{name}.yaml").read_text()).get("surrogate", "clip"): name
    for name in reversed(methods(POLICY_OPTIMISATION))
}
ALGORITHMS = list(WITH.values())
WEIGHED = [name for surrogate, name in WITH.items() if surrogate != "vespo"]


@cache
def objective(name: str, beta: float = 0.0) -> Objective:
    """The algorithm's surrogate with a KL term of weight `beta` and without regularisers."""
    config = composed(f"algorithm={name}")
    algorithm = replace(config.algorithm, kl=replace(config.algorithm.kl, beta=beta), regularisers={})
    return Objective(algorithm, config.reward, N)


def loss_of(method: Objective, inputs) -> torch.Tensor:
    return method.loss(inputs, window(inputs))[0]


@pytest.fixture
def inputs():
    return loss_inputs()


@pytest.fixture
def ratios():
    """Two sets of ratios (B, T) in [0, 2]."""
    return 2 * torch.rand(2, B, T, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_every_surrogate_is_here():
    assert WITH.keys() | {"clip_delta", "dual_clip"} >= set(surrogates)  # these two are `clip` with one more bound


@pytest.mark.parametrize("name", WEIGHED)
def test_the_loss_is_linear_in_the_ratios(name, inputs, ratios):
    method = objective(name)

    def weighed(ratio):
        return loss_of(method, replace(inputs, sampling_ratio=ratio))

    plain = loss_of(method, inputs)
    torch.testing.assert_close(weighed(torch.ones(B, T)), plain)
    assert weighed(torch.zeros(B, 1)) == 0
    first, second = ratios
    torch.testing.assert_close(weighed(first) + weighed(second), weighed(first + second))
    assert (weighed(first) - plain).abs() > 1e-4


@pytest.mark.parametrize("name", WEIGHED)
def test_a_ratio_of_a_list_is_that_of_its_tokens(name, inputs, ratios):
    method, of_lists = objective(name), ratios[0, :, :1]
    together = replace(inputs, sampling_ratio=of_lists)
    apart = replace(inputs, sampling_ratio=of_lists.expand(B, T))
    loss = lambda given: loss_of(method, given)  # noqa: E731
    torch.testing.assert_close(gradient(loss, together), gradient(loss, apart))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_ratios_of_padding_do_not_matter(name, inputs, ratios):
    method, padding = objective(name), inputs.mask == 0
    clean = loss_of(method, replace(inputs, sampling_ratio=ratios[0].masked_fill(padding, 1.0)))
    for value in (0.0, torch.inf, torch.nan):
        assert loss_of(method, replace(inputs, sampling_ratio=ratios[0].masked_fill(padding, value))) == clean


@pytest.mark.parametrize("name", ["grpo", "rank_grpo", "gspo"])
def test_the_kl_term_is_not_weighed(name, inputs):
    """Only the surrogate is weighted, as in TRL."""
    none = replace(inputs, sampling_ratio=torch.zeros(B, 1))
    whole, surrogate = loss_of(objective(name, beta=0.3), inputs), loss_of(objective(name), inputs)
    torch.testing.assert_close(loss_of(objective(name, beta=0.3), none), whole - surrogate)


def test_vespo_takes_the_ratio_into_its_own_weight(inputs, ratios):
    """Its W is pi / pi_old times pi_old / engine, as if the engine were the rollout policy."""
    method = objective("vespo")
    assert surrogates["vespo"].facts["corrects_sampling"]
    near = replace(inputs, old_logps=inputs.logps + 0.1 * (inputs.old_logps - inputs.logps))  # prevents clamping
    ratio = 0.9 + 0.1 * ratios[0]
    as_policy = replace(near, old_logps=near.old_logps - ratio.log())
    with_ratio = replace(near, sampling_ratio=ratio)
    torch.testing.assert_close(loss_of(method, with_ratio), loss_of(method, as_policy))
    assert (loss_of(method, with_ratio) - loss_of(method, near)).abs() > 1e-4
