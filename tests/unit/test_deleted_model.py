"""A finished SFT stage whose model was deleted."""

import shutil

from rlbench.base.digests import seal
from rlbench.runs.directory import DONE, locate
from rlbench.runs.existing import check_start
from tests.conftest import SMALL, composed


def test_rl_is_refused_before_anything_is_computed(tmp_path):
    config = composed(*SMALL, f"runs_dir={tmp_path}/runs", f"cache_dir={tmp_path}/cache")
    run = locate(config, "sft")
    assert check_start(config) == []  # not trained yet
    run.final_model.mkdir(parents=True)
    (run.final_model / "config.json").write_text("{}")
    (run.final_model / "model.safetensors").write_bytes(b"weights")
    run.set_status(DONE)
    assert check_start(config) == []
    model = run.final_model
    (model / "model.safetensors").unlink()
    assert f"{model} has no weights (*.safetensors), but RL starts from it" in said(config, run)
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "tokenizer.json").write_text("{}")
    seal(model)
    for name in ("tokenizer.json", "model.safetensors", "config.json"):
        (model / name).rename(tmp_path / name)
        assert f"{model / name} is missing, but RL starts from it" in said(config, run)
        (tmp_path / name).rename(model / name)
    assert check_start(config) == []
    shutil.rmtree(model)
    assert f"{model} is missing, but RL starts from it" in said(config, run)
    base = composed(*SMALL, f"runs_dir={tmp_path}/runs", f"cache_dir={tmp_path}/cache", "trainer.rl.start=base")
    assert check_start(base) == []


def said(config, run):
    (problem,) = check_start(config)
    assert f"move {run.root} away" in problem
    return problem
