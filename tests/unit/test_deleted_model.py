"""A finished SFT stage whose model was deleted."""

import shutil

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
    (run.final_model / "model.safetensors").unlink()
    (problem,) = check_start(config)
    assert f"{run.final_model} is missing" in problem and f"move {run.root} away" in problem
    shutil.rmtree(run.final_model)
    assert check_start(config) == [problem]
    base = composed(*SMALL, f"runs_dir={tmp_path}/runs", f"cache_dir={tmp_path}/cache", "trainer.rl.start=base")
    assert check_start(base) == []
