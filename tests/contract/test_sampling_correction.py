"""When another engine samples, our losses have TRL's weights for every method that TRL also has."""

import pytest
import torch

from tests.helpers_engine import noisy_engine  # noqa: F401
from tests.helpers_parity import CASES, assert_same, parity_config, settings, trained

MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
METHODS = [name for name in CASES if name not in ("gmpo", "rloo")]  # TRL does not correct these two
FAST = [("grpo", mode) for mode in MODES] + [("gspo", "sequence_mask"), ("vespo", "token_truncate")]
SLOW = (
    [(method, "token_truncate") for method in METHODS] + [("gspo", mode) for mode in MODES] + [("vespo", "token_mask")]
)
SLOW = sorted({*SLOW} - {*FAST})
BOUNDS = ["generation.vllm.ratio_max=1.3", "generation.vllm.ratio_min=0.8"]


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def corrected(mode: str, *overrides: str):
    return parity_config(
        *overrides,
        "generation=vllm_colocate",
        f"generation.vllm.correction={mode}",
        *BOUNDS,
        "generation.max_new_tokens=24",
        "trainer.rl.micro_batch_size=8",
    )


@pytest.mark.usefixtures("noisy_engine")
@pytest.mark.parametrize(("case", "mode"), [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)])
def test_reproduces_trl(case, mode, mini, tiny_folder, tmp_path):
    overrides, trl_settings = CASES[case]
    config = corrected(mode, *overrides)
    ours = trained(config, tiny_folder, mini, tmp_path / "ours")
    theirs = trained(config, tiny_folder, mini, tmp_path / "theirs", settings(config, **trl_settings))
    assert_same(ours, theirs)
    for name in ("sampling_logp_difference/mean", "importance_sampling_ratio/min", "importance_sampling_ratio/max"):
        mine, other = (
            [row[f"sampling/{name}"] for row in run.log if f"sampling/{name}" in row] for run in (ours, theirs)
        )
        assert len(mine) == 2 and mine == pytest.approx(other, abs=1e-6)


@pytest.mark.usefixtures("noisy_engine")
@pytest.mark.parametrize("mode", ["token_truncate", "sequence_mask"])
def test_the_correction_changes_the_training(mode, mini, tiny_folder, tmp_path):
    """The parity above is not vacuous: the ratio changes the losses, and its bounds act."""
    with_it = trained(corrected(mode, "algorithm=grpo"), tiny_folder, mini, tmp_path / "with")
    without = trained(corrected("none", "algorithm=grpo"), tiny_folder, mini, tmp_path / "without")
    assert (with_it.gradients[0] - without.gradients[0]).abs().max() > 1e-3
    ratios = [row for row in with_it.log if "sampling/importance_sampling_ratio/min" in row]
    low, high = (ratios[0][f"sampling/importance_sampling_ratio/{end}"] for end in ("min", "max"))
    assert (low, high) == pytest.approx((0.8, 1.3)) if mode.endswith("truncate") else (low == 0 and high <= 1.3)
    assert not any(name.startswith("sampling/") for row in without.log for name in row)
