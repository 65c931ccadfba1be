"""Methods that TRL also has equal TRL's own trainer: same losses and same gradients at every step."""

import pytest
import torch

from tests.conftest import shares
from tests.helpers_parity import CASES, SEQUENCE, UPDATES, assert_same, parity_config, settings, trained


@pytest.fixture(autouse=True)
def double_precision():
    """Rounding in float32 alone comes near 1e-6, and Adam carries it from step to step."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("num_iterations", [pytest.param(1, marks=pytest.mark.slow), 2])  # of 2 the first is on-policy
@pytest.mark.parametrize("case", shares(CASES, parts=4, fast=0))
def test_reproduces_trl(case, num_iterations, accumulation, mini, tiny_folder, tmp_path):
    overrides, trl_settings = CASES[case]
    config = parity_config(
        *overrides,
        f"trainer.rl.micro_batch_size={16 // accumulation}",
        f"trainer.rl.num_iterations={num_iterations}",
    )
    ours = trained(config, tiny_folder, mini, tmp_path / "ours")
    theirs = trained(config, tiny_folder, mini, tmp_path / "theirs", settings(config, **trl_settings))
    assert len(ours.losses) == UPDATES
    assert_same(ours, theirs)


def test_the_comparison_can_fail(mini, tiny_folder, tmp_path):
    """Another clip range changes the gradient at mu = 2, so the parity above can fail."""
    config = parity_config("algorithm=gspo", "trainer.rl.micro_batch_size=8")
    ours = trained(config, tiny_folder, mini, tmp_path / "ours")
    wide = settings(config, **SEQUENCE) | {"epsilon": 0.5, "epsilon_high": 0.5}
    theirs = trained(config, tiny_folder, mini, tmp_path / "theirs", wide)
    assert (ours.gradients[1] - theirs.gradients[1]).abs().max() > 1e-4
