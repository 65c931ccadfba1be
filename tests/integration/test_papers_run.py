"""Every command of the index of papers runs at debug size: half of them in the fast suite, half in the slow one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlbench.config.paper_index import PaperEntry, read_papers
from rlbench.running.checks import check_values
from rlbench.running.cli import CONF
from rlbench.running.runner import run
from tests.conftest import SMALL, composed, shares

# Two groups of eight, because the defaults of some structures do not divide smaller ones.
GROUPS = ["trainer.rl.completions_per_update=16", "trainer.rl.group_size=8", "trainer.rl.micro_batch_size=16"]
DEBUG = [*SMALL, "+debug=smoke", "trainer.rl.num_iterations=2", *GROUPS]
COMMANDS = {paper.arxiv: paper for paper in read_papers() if paper.command}
RUNS = {arxiv: paper.arguments[1:] for arxiv, paper in COMMANDS.items() if paper.arguments[0] == "run.py"}
OTHERS = {arxiv: paper for arxiv, paper in COMMANDS.items() if arxiv not in RUNS}


def debug(overrides: list[str]) -> list[str]:
    """The overrides of a command at debug size."""
    # Buffers of samplers must not be larger than the data.
    larger = ["dataset.contexts={train:300,validation:6,test:6}"] * any(word[:8] == "sampler=" for word in overrides)
    return [*DEBUG, *larger, *(word for word in overrides if word != "-m")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which the runs share their first stages."""
    return tmp_path_factory.mktemp("papers")


@pytest.mark.parametrize("arxiv", shares(RUNS, fast=1))  # the others run
def test_a_command_passes_all_checks(arxiv: str) -> None:
    assert check_values(composed(*debug(RUNS[arxiv])), 1) == []


@pytest.mark.parametrize("arxiv", shares(RUNS, fast=0))
def test_a_command_trains(folder: Path, arxiv: str) -> None:
    places = [f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}"]
    config = composed(*debug(RUNS[arxiv]), *places)
    result = json.loads((run(config).root / "result.json").read_text())
    assert (result["stage"], result["algorithm"]) == (config.stage, config.algorithm.name)
    assert 0 <= result["metrics"]["test"]["ndcg@10"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("arxiv", OTHERS)
def test_a_command_reads_runs(folder: Path, arxiv: str, tmp_path: Path) -> None:
    """A command of `analysis` or `rlbench` runs in a folder with a small experiment `runs/mini`."""
    runs = folder / "runs_of_two"
    if not runs.exists():
        # Sampled lists of an untrained model may all score 0, and then make no pair.
        for words in (
            ["algorithm=grpo"],
            ["algorithm=rank_grpo"],
            ["algorithm=dpo", "algorithm.chosen=demonstration"],
        ):
            places = [f"runs_dir={runs}", f"cache_dir={folder / 'cache'}", "experiment_name=mini"]
            run(composed(*DEBUG, *words, *places))
    shutil.copytree(runs, tmp_path / "runs")
    started = subprocess.run(
        [sys.executable, *_without_stars(COMMANDS[arxiv], tmp_path)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(CONF.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert started.returncode == 0, started.stdout + started.stderr


def _without_stars(paper: PaperEntry, folder: Path) -> list[str]:
    """The words of a command, with names of files expanded as a shell does."""
    expanded: list[str] = []
    for word in paper.arguments:
        found = sorted(str(path.relative_to(folder)) for path in folder.glob(word)) if "*" in word else []
        expanded += found or [word]
    return expanded
