"""Invalid numbers outside the config: in launchers, `analysis` and `benchmarks`."""

import importlib
import sys

import pytest

from analysis import convergence
from rlbench.base.errors import BadInput
from rlbench.launching.local import check_settings
from rlbench.launching.ray import RayLauncher
from rlbench.running.cli import check_overrides
from tests.conftest import composed

RAY = {"jobs": 2, "processes": 1, "address": None, "cpus": 1, "gpus": 0.5, "max_requeues": 0}
NO_COUNT = (0, -1, 1.5, 2**40, 10**400, float("nan"), float("inf"), "2", True, None, [2])


def ray_problems(**changes: object) -> list[str]:
    found = RayLauncher(**(RAY | changes)).problems()
    return [problem for problem in found if "needs ray" not in problem]


@pytest.mark.parametrize(
    ("key", "wrong", "right"),
    [
        ("jobs", NO_COUNT, (1, 64)),
        ("cpus", NO_COUNT, (1, 64)),
        ("gpus", (-1, -0.5, 2**40, 10**400, float("nan"), float("inf"), "1", True, None), (0, 0.5, 8)),
        ("max_requeues", NO_COUNT[1:], (0, 9)),
    ],
)
def test_numbers_of_ray(key: str, wrong: tuple, right: tuple) -> None:
    for value in wrong:
        (problem,) = ray_problems(**{key: value})
        assert problem.startswith(f"hydra.launcher.{key} = {value} must be "), problem
    for value in right:
        assert ray_problems(**{key: value}) == []


def test_all_wrong_numbers_of_ray_are_told_together() -> None:
    assert len(ray_problems(jobs=0, cpus=0, gpus=-1, max_requeues=-1)) == 4


@pytest.mark.parametrize("jobs", NO_COUNT)
def test_jobs_on_this_machine(jobs: object) -> None:
    (problem,) = check_settings(jobs, "auto", 1, None)
    assert problem == f"hydra.launcher.jobs = {jobs} must be a whole number from 1 to 2147483647, or auto"
    assert check_settings(2**31 - 1, "auto", 1, None) == check_settings("auto", "auto", 1, None) == []


NO_NUMBER = ("0", "-1", "1.5", "1e3", "nan", "inf", "many", "", "9" * 5000, str(2**40))
ANALYSIS = ("ablation", "report", "reproduce", "tables.__main__")
BENCHMARKS = {
    "collect": ("--runs", "--samples", "--updates", "--resamples"),
    "convergence": ("--trials",),
    "coverage": ("--trials",),
    "lists": ("--turns",),
    "objective": ("--repeats",),
    "overhead": ("--turns",),
    "overhead_of_checkpoints": ("--updates", "--repeats"),
    "step": ("--pairs", "--threads"),
    "gpu": ("--minutes",),
    "before_after": ("--pairs",),
    "report": ("--rows", "--seeds", "--updates", "--times"),
    "reproduction": ("--trials",),
}


@pytest.mark.parametrize("name", ANALYSIS)
def test_resamples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = importlib.import_module(f"analysis.{name}").main
    for value in NO_NUMBER:
        with pytest.raises(SystemExit) as stopped:
            main(["table1" if name == "reproduce" else "runs", f"--resamples={value}"])
        assert stopped.value.code == 2
        said = capsys.readouterr().err
        assert "argument --resamples: " in said and " must be " in said and len(said) < 1500


@pytest.mark.parametrize("name", BENCHMARKS)
def test_numbers_of_benchmarks(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    for option in BENCHMARKS[name]:
        for value in NO_NUMBER:
            monkeypatch.setattr(sys, "argv", [name, f"{option}={value}"])
            with pytest.raises(SystemExit) as stopped:
                importlib.import_module(f"benchmarks.{name}").main()
            assert stopped.value.code == 2
            said = capsys.readouterr().err
            assert f"argument {option}: " in said and " must be " in said and len(said) < 1500


@pytest.mark.parametrize("asked", ["nan", "inf", "-inf", "nan%", "inf%", "1e999", "%", "", "half", "0x1"])
def test_thresholds_of_convergence(asked: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert convergence.main(["runs", f"--threshold={asked}"]) == 2
    said = capsys.readouterr().err
    assert f"--threshold {asked}: give final, a share of the way like 50%, or a number like 0.13" in said


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("learning_rate=1e-4", "Did you mean 'trainer.sft.learning_rate' or 'trainer.rl.learning_rate'?"),
        ("rl.learning_rate=1e-4", "Did you mean 'trainer.rl.learning_rate'?"),
        ("list_length=5", "Did you mean 'dataset.list_length'?"),
        ("varient=x", "Did you mean 'variant'?"),
        ("trainer.rl.lerning_rate=1", "Did you mean 'trainer.rl.learning_rate'"),
        ("trainer.learning_rate=1", "Did you mean 'trainer.sft.learning_rate' or 'trainer.rl.learning_rate'?"),
        ("algorithm.surogate=clip", "Did you mean 'algorithm.surrogate'?"),
    ],
)
def test_keys_that_are_added_get_the_suggestion_of_keys_that_are_set(override: str, said: str) -> None:
    """`+learning_rate=1e-4` once suggested `variant`."""
    for prefix in ("+", "++"):
        check_overrides([f"{prefix}{override}"])  # Hydra adds it; the schema refuses it
        with pytest.raises(BadInput) as caught:
            composed(f"{prefix}{override}")
        (problem,) = caught.value.problems
        assert said in problem, problem


def test_a_value_of_the_wrong_type_suggests_no_other_key() -> None:
    with pytest.raises(BadInput) as caught:
        composed("trainer.rl.updates=many")
    assert "Did you mean" not in str(caught.value)
