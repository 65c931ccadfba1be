"""Real trainings that collapse in each way that `safety` detects, and one that does not."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rlbench.base.progress import Progress
from rlbench.objective.pieces import PLACES
from rlbench.runs.directory import locate
from rlbench.training.safety import NotFinite
from rlbench.training.sft import train_sft
from tests.helpers_safety import curve, short, totals, train, write_repeater
from tests.helpers_training import load, make_recording

DESTROYED = "trainer.rl.learning_rate=0.3"
POISON = """
import torch

from rlbench.objective.inputs import Group, LossInputs
from rlbench.objective.pieces import baselines, regularisers


@baselines.piece(shift="invariant", scale="equivariant")
def poisoned(group: Group, *, at: int = 3) -> torch.Tensor:
    group.carried["poisoned"] = group.carried.get("poisoned", 0.0) + 1
    advantages = group.returns - group.returns.mean(dim=1, keepdim=True)
    return advantages * (torch.inf if group.carried["poisoned"] == at else 1.0) + 0.1


@regularisers.piece()
def edge(inputs: LossInputs, *, at: int = 3) -> torch.Tensor:
    # 0 with a gradient that is NaN, at one update; 0 with gradient 0 at all others.
    zero = (inputs.logps * 0).sum()
    return zero.square().sqrt() if inputs.course.update == at - 1 else zero


@regularisers.piece(needs=("entropy",))
def certainty(inputs: LossInputs) -> torch.Tensor:
    return (inputs.extras["entropy"] * inputs.mask).sum() / inputs.mask.sum()
"""


@pytest.fixture(scope="module")
def repeater(mini, tiny_folder, tmp_path_factory) -> Path:
    return write_repeater(tmp_path_factory.mktemp("repeater"), load(tiny_folder)[0], mini)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory) -> Iterator[str]:
    """Temporary pieces, removed afterwards because other tests loop over all pieces."""
    path = tmp_path_factory.mktemp("plugin") / "poison.py"
    path.write_text(POISON)
    there = {place.name: dict(place) for place in PLACES}
    yield f"plugins=[{path}]"
    for place in PLACES:
        for name in place.keys() - there[place.name].keys():
            del place._pieces[name]


def weights(run):
    return load_file(run.final_model / "model.safetensors")


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


@pytest.fixture(scope="module")
def sound(mini, repeater, plugin, tmp_path_factory):
    """Two sound updates, with the pieces that break the third."""
    config = short(tmp_path_factory.mktemp("sound"), plugin, "trainer.rl.updates=2", "algorithm.baseline=poisoned")
    return train(config, repeater, mini)[0]


@pytest.mark.parametrize(
    ("what", "piece"), [("loss", "algorithm.baseline=poisoned"), ("gradient", "+algorithm.regularisers.edge=1.0")]
)
def test_what_is_not_finite_is_never_applied(what, piece, sound, mini, repeater, plugin, tmp_path):
    """The third update is broken: with all bounds off, the weights stay those of two sound updates, bit for bit."""
    pieces = ["algorithm.baseline=poisoned", "++algorithm.options.poisoned.at=99"] if what == "gradient" else []
    run, trained, ledger = train(short(tmp_path, plugin, *pieces, piece), repeater, mini)
    assert trained.stop is not None and trained.stop.update == trained.updates == trained.step == 2
    assert f"the {what} of update 3 is " in trained.stop.reason and "not applied" in trained.stop.reason
    assert ("baseline 'poisoned', which returned nan at" in trained.stop.reason) == (what == "loss")
    assert equal(weights(run), weights(sound))
    assert sorted(curve(run, "loss")) == [1, 2]
    assert sorted(curve(run, "in_catalog", "validation")) == [0, 2]
    assert ledger.counts["completions"] == 24  # the lists of the broken update were made too


def stopped(mini, start, folder, *overrides):
    config = short(folder, DESTROYED, "safety.patience=2", "safety.warmup=1", *overrides)
    run, trained, _ = train(config, start, mini)
    assert trained.stop is not None and trained.step == trained.stop.update < config.trainer.rl.updates
    assert not (run.checkpoints / f"checkpoint-{trained.stop.update}").exists()
    return run, trained.stop


def first_of_two(values: dict[int, float], broken) -> int:
    """The update at which a value has been broken twice in a row."""
    steps = sorted(step for step in values if step > 1)
    return next(b for a, b in zip(steps, steps[1:], strict=False) if broken(values[a]) and broken(values[b]))


def test_kl_over_its_bound(mini, repeater, tmp_path):
    run, stop = stopped(mini, repeater, tmp_path, "safety.max_kl=1.5")
    assert stop.reason.startswith("KL to the reference policy") and "above 1.5" in stop.reason
    assert stop.update == first_of_two(curve(run, "kl"), lambda kl: kl > 1.5) == max(curve(run, "kl"))


def test_entropy_off_a_cliff(mini, tiny_folder, plugin, tmp_path):
    certain = [plugin, "+algorithm.regularisers.certainty=1.0", "safety.min_entropy_share=0.1"]
    run, stop = stopped(mini, tiny_folder, tmp_path, *certain)
    values = curve(run, "entropy")
    assert stop.reason.startswith("entropy") and "below 0.1 of" in stop.reason
    assert stop.update == first_of_two(values, lambda entropy: entropy < 0.1 * values[1])


def test_list_length_off_a_cliff(mini, repeater, tmp_path):
    run, stop = stopped(mini, repeater, tmp_path, "safety.min_list_length_share=0.5")
    values = curve(run, "list_length")
    assert values[1] > 1 and stop.reason.startswith("entries per list")
    assert stop.update == first_of_two(values, lambda length: length < 0.5 * values[1])


def test_catalogue_rate_falling(mini, repeater, tmp_path):
    run, stop = stopped(mini, repeater, tmp_path, "safety.min_catalogue_rate_share=0.5", "evaluation.every=1")
    values = curve(run, "in_catalog", "validation")
    assert values[0] == 1.0 and stop.reason.startswith("in catalogue")
    assert stop.update == first_of_two(values, lambda rate: rate < 0.5 * values[0])


def test_a_sound_run_is_not_touched(mini, repeater, tmp_path):
    """Measurements and weights are the same with bounds on and off, bit for bit."""
    on = train(short(tmp_path / "on", "safety=default", "safety.patience=1", "safety.warmup=1"), repeater, mini)
    off = train(short(tmp_path / "off"), repeater, mini)
    assert on[1].stop is None and on[1] == off[1] and on[1].updates == 8
    assert on[0].read_metrics() == off[0].read_metrics() and equal(weights(on[0]), weights(off[0]))
    assert on[2].counts == off[2].counts


class Broken(RuntimeError):
    """Raised in place of a kill."""


class BreaksAt:
    """A tracker that stops the run at an update."""

    def __init__(self, update: int):
        self.update = update

    def log(self, metrics, step):
        if step == self.update:
            raise Broken


FAR = ["trainer.rl.learning_rate=1.0", "safety.patience=4", "safety.warmup=1", "safety.max_kl=0.2"]


@pytest.fixture(scope="module")
def never_killed(mini, repeater, tmp_path_factory):
    return train(short(tmp_path_factory.mktemp("whole"), *FAR), repeater, mini)


@pytest.mark.parametrize("update", [3, 5])
def test_a_killed_run_comes_to_the_same_stop(update, never_killed, mini, repeater, tmp_path):
    """The run is killed in the middle of a streak, and at the stop itself."""
    whole, trained, ledger = never_killed
    assert trained.stop is not None and trained.stop.update == 5
    config = short(tmp_path, *FAR)
    with pytest.raises(Broken):
        train(config, repeater, mini, BreaksAt(update))
    again, same, counted = train(config, repeater, mini)
    assert totals(again, 2)["safety"]["kl"]["streak"] == 1
    assert same == trained and again.read_metrics() == whole.read_metrics()
    assert equal(weights(again), weights(whole)) and counted.counts == ledger.counts


def test_a_run_killed_after_its_last_update_makes_no_further_one(mini, repeater, tmp_path):
    config = short(tmp_path, "trainer.rl.updates=2", "trainer.rl.learning_rate=0.01")
    run, first, counted = train(config, repeater, mini)
    before, metrics = weights(run), run.read_metrics()
    _, second, again = train(config, repeater, mini)
    assert second == first and equal(weights(run), before) and run.read_metrics() == metrics
    assert again.counts == counted.counts
    assert all(math.isfinite(value) for value in curve(run, "loss").values())


def test_sft_fails_where_every_run_would_start_from_nothing(mini, repeater, tmp_path):
    config = short(
        tmp_path,
        "trainer.sft.updates=4",
        "trainer.sft.batch_size=8",
        "trainer.sft.micro_batch_size=8",
        "trainer.sft.learning_rate=1e9",
        "trainer.sft.warmup_fraction=0",
    )
    run, tokenizer = locate(config, "sft"), load(repeater)[0]
    progress = Progress("", 4, file=None, show=False)
    with pytest.raises(NotFinite, match="the gradient of update 3 is nan"):
        train_sft(config, make_recording(config, run), repeater, tokenizer, mini.splits["sft"][:8], progress)
    assert not run.final_model.exists()
