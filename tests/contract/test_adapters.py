"""Trainings with adapters: exact resume, what is saved, and the same updates by every path."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlbench.config.adapters import has_bitsandbytes
from rlbench.config.schema import Config
from rlbench.data.record import RankedListDataset
from rlbench.models.adapters import adapted
from rlbench.models.loading import load_model
from rlbench.runs.directory import Run, locate
from rlbench.training.checkpoints import RESUME_FILE
from tests.conftest import SMALL, composed
from tests.contract.test_resume_of_state import RL, Stopped, StopsAt, train

SHORT = [
    *SMALL,
    *(f"trainer.rl.{key}={value}" for key, value in RL.items()),
    "trainer.rl.updates=4",
    "generation.max_new_tokens=16",
    "evaluation.every=4",
    "evaluation.validation_contexts=2",
    "algorithm.kl.beta=0.1",
    "algorithm.layout=published",  # so that an untrained model's lists have ranks
    "+reward.terms.tokens={weight:1.0,normaliser:16.0}",  # without hits, token counts distinguish the lists
]
LORA = ["adapter=lora", "adapter.rank=4"]


def resumed_and_whole(
    mini: RankedListDataset, start: Path, folder: Path, *overrides: str, adapts: bool = True
) -> tuple[Run, Run]:
    """A run that is stopped at update 3 and resumed from update 2, and one that is never stopped."""

    def config(name: str) -> Config:
        return composed(*SHORT, *(LORA if adapts else []), *overrides, f"runs_dir={folder}/{name}")

    with suppress(Stopped):
        train(config("stopped"), start, mini, StopsAt(3))
    assert not locate(config("stopped"), "rl").final_model.exists()
    return train(config("stopped"), start, mini), train(config("whole"), start, mini)


def assert_same(one: Run, other: Run) -> None:
    mine, theirs = (load_file(run.final_model / "adapter_model.safetensors") for run in (one, other))
    assert mine.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in mine.items())
    rows = [[row for row in run.read_metrics() if row["metric"] != "step_time"] for run in (one, other)]
    assert rows[0] == rows[1]
    assert any("lora_B" in name and value.abs().max() > 1e-4 for name, value in mine.items())


def test_a_resumed_run_is_never_stopped(mini, tiny_folder, tmp_path):
    stopped, whole = resumed_and_whole(mini, tiny_folder, tmp_path)
    assert_same(stopped, whole)
    for folder in (whole.final_model, whole.checkpoints / "checkpoint-4"):
        assert not (folder / "model.safetensors").exists() and (folder / "base.json").is_file()
        assert not adapted(load_model(folder, "float32"))
    state = torch.load(whole.checkpoints / "checkpoint-4/optimizer.pt", weights_only=False)["state"]
    saved = load_file(whole.final_model / "adapter_model.safetensors")
    assert len(state) == len(saved)
    assert json.loads((whole.checkpoints / f"checkpoint-4/{RESUME_FILE}").read_text())["budget"]
    kl = [row["value"] for row in whole.read_metrics() if row["metric"] == "kl"]
    assert kl[0] == 0 and kl[-1] > 1e-6  # the reference is the start, without a second model


LONGER = ["generation.max_new_tokens=60"]
"""So that some lists end, and their lengths differ."""
CASES = {
    "dora": ["adapter.use_dora=true"],
    "rslora": ["adapter.use_rslora=true", "trainer.optimizer=adafactor"],
    "q_proj": ["adapter.targets=[q_proj,v_proj]", "trainer.gradient_checkpointing=true"],
    "repeated": [*LONGER, "generation.prefill=repeated", "trainer.share_prompts=never"],
    "continuous": ["generation.max_new_tokens=200", "generation.engine=continuous"],  # none ends within 60
    "bf16": ["trainer.bf16=true", "trainer.gradient_checkpointing=true"],
    "half": ["model.dtype=bfloat16", "trainer.bf16=true"],
    "held": [*LONGER, "generation.constraint=catalogue", "generation.exclude=[repeats]"],
    "best": [*LONGER, "evaluation.checkpoint=best", "evaluation.every=2"],
    "tokens": ["trainer.rl.micro_batch_tokens=400"],
    "8bit": ["trainer.optimizer=adamw_8bit"],
    "8bit_of_all": ["trainer.optimizer=adamw_8bit"],
    "qlora": ["adapter.quantization=nf4"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_way_resumes_exactly(name, mini, tiny_folder, tmp_path):
    if name in ("8bit", "8bit_of_all", "qlora") and not has_bitsandbytes():
        pytest.skip("pip install -r requirements-bitsandbytes.txt")
    adapts = name != "8bit_of_all"
    stopped, whole = resumed_and_whole(mini, tiny_folder, tmp_path, *CASES[name], adapts=adapts)
    if not adapts:
        weights = [load_file(run.final_model / "model.safetensors") for run in (stopped, whole)]
        assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
        return
    assert_same(stopped, whole)
    loaded = load_model(whole.final_model, "float32")
    assert bool(adapted(loaded)) == (name == "qlora")


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["dpo", "sprec"])
def test_preferences_resume_exactly(algorithm, mini, tiny_folder, tmp_path):
    size = ["trainer.rl.num_iterations=1", "algorithm.beta=0.1"]
    left_out = ("algorithm.kl", "algorithm.layout")
    short = [text for text in SHORT if not text.startswith(left_out)]
    short = [*short, *LORA, *LONGER]
    config = composed(*short, f"algorithm={algorithm}", *size, f"runs_dir={tmp_path}/whole")
    whole = train(config, tiny_folder, mini)
    stopped = composed(*short, f"algorithm={algorithm}", *size, f"runs_dir={tmp_path}/stopped")
    with suppress(Stopped):
        train(stopped, tiny_folder, mini, StopsAt(3))
    assert_same(train(stopped, tiny_folder, mini), whole)
