"""Runs on a real full disk: a small file system in memory with only a few free bytes."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from analysis.commands.status import survey
from rlbench.base.files import PARTIAL, DiskFull, free_bytes
from rlbench.config.schema import Config
from rlbench.running.cli import CONF
from rlbench.running.runner import run
from rlbench.runs.attempts import attempts
from rlbench.runs.directory import DONE, FAILED, RUNNING, Run, locate
from rlbench.training.checkpoints import damage, steps_of
from tests.conftest import SMALL, composed, slow
from tests.helpers_forked import run_py

RUN_PY = CONF.parent / "run.py"
SHORT = [*SMALL, "+debug=smoke", "trainer.rl.updates=6", "trainer.rl.save_every=2"]
STAGES = ("oracle", "zero_shot", "sft", "rl")


@pytest.fixture(scope="module")
def small_disk() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="rlbench-disk-"))  # not one of pytest's folders, which others may remove
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        folder.rmdir()
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # W&B may still be finishing
    folder.rmdir()


@pytest.fixture
def disk(small_disk) -> Path:
    """The small disk, emptied."""
    for path in small_disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return small_disk


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cache) -> Config:
    """A run with enough disk space."""
    config = cell(tmp_path_factory.mktemp("undisturbed"), cache)
    run(config)
    return config


def overrides(folder: Path, cache: Path, *more: str) -> list[str]:
    return [*SHORT, f"runs_dir={folder / 'runs'}", f"cache_dir={cache}", *more]


def cell(folder: Path, cache: Path, *more: str) -> Config:
    return composed(*overrides(folder, cache, *more))


def fill(disk: Path, but: int) -> None:
    with (disk / "ballast").open("wb") as file:
        file.write(bytes(free_bytes(disk) - but))


def assert_equal(ours: Config, theirs: Config) -> None:
    for stage in STAGES:
        a, b = locate(ours, stage), locate(theirs, stage)
        assert a.status() == DONE and a.read_metrics() == b.read_metrics()
        for path in b.root.glob("*.parquet"):
            pd.testing.assert_frame_equal(pd.read_parquet(a.root / path.name), pd.read_parquet(path))
        weights = [load_file(r.final_model / "model.safetensors") for r in (a, b) if stage in ("sft", "rl")]
        assert not weights or all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
        counts = [json.loads((r.root / "budget.json").read_text()) for r in (a, b)]
        assert all(
            counts[0][key] == counts[1][key]
            for key in counts[1]
            if isinstance(counts[1][key], int) and key != "attempts"
        )


def assert_clean(target: Run) -> None:
    """A stage on a full disk leaves no partial file under a final name."""
    left = [path for path in target.root.rglob("*") if path.name.endswith(PARTIAL) and path.is_dir()]
    assert not left
    for folder in steps_of(target.checkpoints).values():
        assert damage(folder) == ""
    for path in target.root.rglob("*.json"):
        json.loads(path.read_text())
    for path in target.root.glob("*.parquet"):
        pd.read_parquet(path)


# Bytes that are free at the start, and the file that they are too few for.
FAST = {
    60_000: "oracle/",
    700_000: "checkpoints/checkpoint-1 (",
    1_000_000: "checkpoints/checkpoint-2: it needs",
    3_000_000: "rank_grpo-relevance/seed",  # a checkpoint, or a log just before it
}
SLOW = sorted({*range(4096, 120_000, 9_000), *range(120_000, 4_500_000, 110_000)})


@pytest.mark.parametrize("free", [700_000, *slow(60_000, 1_000_000, 3_000_000)])
def test_a_full_disk_ends_a_run_cleanly_and_the_same_command_goes_on(free, disk, cache, undisturbed):
    config = cell(disk, cache)
    fill(disk, free)
    with pytest.raises(DiskFull) as error:
        run(config)
    said = str(error.value)
    assert FAST[free] in said and " MB " in said and "Free some space" in said and "keep_checkpoints" in said
    (disk / "ballast").unlink()
    before = [locate(config, stage) for stage in STAGES]
    for target in before:
        assert_clean(target)
    run(config)
    assert_equal(config, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("free", SLOW)
def test_whatever_the_moment(free, disk, cache, undisturbed):
    config = cell(disk, cache)
    fill(disk, free)
    try:
        run(config)
    except DiskFull:
        stopped = [locate(config, stage) for stage in STAGES if locate(config, stage).status() not in (DONE, None)]
        assert len(stopped) <= 1 and all(target.status() in (FAILED, RUNNING) for target in stopped)
        for target in stopped:
            assert_clean(target)
            state = {state.run: state for state in survey(Path(config.runs_dir), 0.0)}
            (mine,) = (s for name, s in state.items() if name.endswith(target.root.name) and target.label in name)
            assert mine.state in (FAILED, "interrupted")
            if target.status() == FAILED:
                assert "DiskFull" in (target.root / "STATUS").read_text()
    (disk / "ballast").unlink()
    run(config)
    assert_equal(config, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["none", "offline"])
def test_the_command_says_so_and_exits_with_1(tracker, disk, cache, undisturbed, tmp_path):
    """A tracker is on the same disk. STATUS has the reason, and the attempt's log has the traceback."""
    fill(disk, 2_500_000)
    others = [override for override in overrides(disk, cache) if not override.startswith("tracker=")]
    failed = run_py(tmp_path / "log.txt", *others, f"tracker={tracker}")
    said = failed.output()
    assert failed.returncode == 1, said
    assert "Traceback" not in said and said.splitlines()[-1].startswith("rlbench: no room to write")
    config = cell(disk, cache)
    (target,) = (r for r in (locate(config, s) for s in STAGES) if r.status() == FAILED)
    assert "DiskFull: no room to write" in (target.root / "STATUS").read_text()
    (attempt,) = attempts(target.root)
    assert "Traceback" in attempt.log_file.read_text()
    (disk / "ballast").unlink()
    run(config)
    assert_equal(config, undisturbed)
    assert [a.read()["outcome"] for a in attempts(target.root)] == [FAILED, DONE]


@pytest.mark.slow
def test_a_file_that_is_too_large_is_told_like_a_full_disk(cache, tmp_path):
    """Uses RLIMIT_FSIZE, for machines where no file system can be mounted."""
    command = [sys.executable, str(RUN_PY), *overrides(tmp_path, cache)]
    limited = ["bash", "-c", 'ulimit -f 300; exec "$@"', "bash", *command]
    failed = subprocess.run(limited, capture_output=True, text=True)
    assert failed.returncode == 1 and "no room to write" in failed.stderr and "checkpoint-1" in failed.stderr
    assert locate(cell(tmp_path, cache), "sft").status() == FAILED
