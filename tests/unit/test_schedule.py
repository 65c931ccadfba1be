"""A learning rate that falls in steps: the factor, what is refused, and the identity of runs without steps."""

import pytest

from rlbench.running.checks import check_config
from rlbench.runs.directory import locate
from rlbench.runs.identity import stage_config
from rlbench.training.arguments import rl_arguments, warmup_steps
from rlbench.training.schedule import stepped
from tests.conftest import composed


def slowly(rate: float, steps: dict[int, float], done: int) -> float:
    """Find the rate by going through all updates."""
    current = rate
    for update in range(done + 1):
        current = steps.get(update, current)
    return current


@pytest.mark.parametrize("steps", [{4: 1e-7}, {8: 1e-7, 2: 5e-7, 5: 2.5e-7}])
def test_the_rate_once_so_many_updates_are_done(steps: dict[int, float]) -> None:
    factor = stepped(1e-6, steps)
    assert factor is not None and stepped(1e-6, {}) is None
    for done in range(12):
        assert 1e-6 * factor(done) == pytest.approx(slowly(1e-6, steps, done), rel=1e-12)


def test_steps_are_part_of_a_run_only_where_there_are_any() -> None:
    without, within = composed(), composed("+trainer.rl.learning_rate_steps={40:1e-5}")
    assert "learning_rate_steps" not in stage_config(without, "rl")["rl"]
    assert stage_config(within, "rl")["rl"]["learning_rate_steps"] == {40: 1e-5}
    assert locate(without, "rl").hash != locate(within, "rl").hash
    assert locate(without, "sft").hash == locate(within, "sft").hash


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["+trainer.rl.learning_rate_steps={41:1e-5}"], "lies between the trainer.rl.num_iterations = 2"),
        (["+trainer.rl.learning_rate_steps={0:1e-5}"], "update 0; updates are counted from 1"),
        (["+trainer.rl.learning_rate_steps={40:0}"], "the rate 0.0, which must be a positive number"),
        (
            ["+trainer.rl.learning_rate_steps={40:1e-5}", "trainer.rl.schedule=cosine"],
            "needs trainer.rl.schedule=constant, not 'cosine'",
        ),
    ],
)
def test_steps_that_make_no_sense_are_refused(overrides: list[str], said: str) -> None:
    (problem,) = check_config(composed(*overrides))
    assert problem.startswith("trainer.rl.learning_rate_steps") and said in problem


def test_a_rate_that_falls_is_accepted() -> None:
    assert check_config(composed("+trainer.rl.learning_rate_steps={40:1e-5,60:1e-6}")) == []


@pytest.mark.parametrize(
    ("fraction", "updates", "steps"),
    [(0.0, 10, 0), (0.1, 10, 1), (0.05, 30, 2), (0.03, 100, 3), (0.1, 19, 2), (1.0, 7, 7)],
)
def test_warm_up_is_rounded_up(fraction: float, updates: int, steps: int) -> None:
    """As transformers rounds warmup_ratio."""
    assert warmup_steps(fraction, updates) == steps


def test_the_optimiser_gets_what_the_config_says() -> None:
    config = composed(
        "trainer.rl.adam_beta2=0.9",
        "trainer.rl.max_grad_norm=0.25",
        "trainer.rl.updates=60",
        "trainer.rl.warmup_updates=7",
        "trainer.rl.learning_rate=3e-5",
        "trainer.rl.schedule=cosine",
        "trainer.rl.save_every=4",
        "seed=11",
    )
    assert rl_arguments(config) == {
        "max_steps": 60,
        "learning_rate": 3e-5,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 7,
        "adam_beta2": 0.9,
        "weight_decay": 0.0,
        "max_grad_norm": 0.25,
        "logging_steps": 1,
        "save_steps": 4,
        "seed": 11,
    }
