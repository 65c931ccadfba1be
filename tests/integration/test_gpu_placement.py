"""Cells of a sweep on configured GPUs: the environment of their processes."""

import json
from pathlib import Path

import pytest

from tests.conftest import SMALL
from tests.helpers_forked import run_py

REPORTER = """
import atexit, json, os, sys, time
from pathlib import Path

import pytest

if "hydra.mode=RUN" in sys.argv:
    here, started = Path(__file__).parent, time.time()
    keys = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "OMP_NUM_THREADS")
    told = {"environment": {key: os.environ.get(key) for key in keys}, "arguments": sys.argv, "started": started}
    atexit.register(lambda: (here / f"{os.getpid()}.json").write_text(json.dumps(told | {"ended": time.time()})))
"""


def sweep(folder: Path, *arguments: str) -> list[dict]:
    """Environment of each process in a sweep over three untrained models, in starting order."""
    plugin = folder / "reporter.py"
    plugin.write_text(REPORTER)
    command = ["-m", *SMALL, "runtime.device=auto", "runtime.threads=null"]
    command += [f"plugins=[{plugin}]", f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}"]
    command += ["+debug=smoke", "stage=zero_shot", "model.seed=0,1,2", *arguments]
    result = run_py(folder / "log.txt", *command)
    assert result.wait() == 0, result.output()
    told = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return sorted(told, key=lambda one: one["started"])


@pytest.mark.slow
def test_cells_get_a_gpu_each_and_the_next_one_that_which_is_freed(tmp_path):
    told = sweep(tmp_path, "hydra.launcher.jobs=auto", "hydra.launcher.gpus=[0,1]", "hydra.launcher.gpu_share=0.4")
    gpus = [one["environment"]["CUDA_VISIBLE_DEVICES"] for one in told]
    assert sorted(gpus[:2]) == ["0", "1"] and len(gpus) == 3
    first, second, third = told
    assert min(first["ended"], second["ended"]) < third["started"]
    freed = [one["environment"]["CUDA_VISIBLE_DEVICES"] for one in (first, second) if one["ended"] < third["started"]]
    assert third["environment"]["CUDA_VISIBLE_DEVICES"] in freed
    assert all(one["environment"]["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID" for one in told)
    assert all("runtime.gpu_share=0.4" in one["arguments"] for one in told)
