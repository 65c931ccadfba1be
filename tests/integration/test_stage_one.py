"""What comes before RL, by the real parts: no SFT at all."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from analysis.collect import collect
from rlbench.config import Config
from rlbench.runner import run
from rlbench.runs import DONE, locate
from tests.conftest import SMALL, composed

SHORT = [*SMALL, "+debug=smoke", "evaluation.validation_contexts=null", "evaluation.test_contexts=null"]

BASE = ["trainer.rl.start=base"]


def cell(folder: Path, *overrides: str) -> Config:
    return composed(*SHORT, f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}", *overrides)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("stage_one")


def validation(target, metric: str) -> dict[int, float]:
    rows = [row for row in target.read_metrics() if (row["split"], row["metric"]) == ("validation", metric)]
    assert len({row["step"] for row in rows}) == len(rows)
    return {row["step"]: row["value"] for row in rows}


def test_rl_without_sft_begins_at_the_untrained_model(folder):
    config = cell(folder, "experiment_name=alone", *BASE, "algorithm.kl.beta=0.1", "trainer.rl.learning_rate=1e-9")
    target = run(config)
    assert target.status() == DONE and not locate(config, "sft").root.exists()
    zero = locate(config, "zero_shot")
    for metric in ("ndcg@10", "list_length", "completion_tokens"):
        assert validation(target, metric)[0] == validation(zero, metric)[0]
    (tiny,) = (folder / "cache").glob("tiny-*")
    ours, theirs = load_file(target.final_model / "model.safetensors"), load_file(tiny / "model.safetensors")
    assert all((ours[name] - theirs[name]).abs().max() < 1e-7 for name in theirs)
    kl = [row["value"] for row in target.read_metrics() if row["metric"] == "kl"]
    assert kl[0] == pytest.approx(0, abs=1e-6)  # the reference is where it began
    result = json.loads((target.root / "result.json").read_text())
    assert (result["label"], result["variant"]) == ("rank_grpo-relevance@base", "base")


def test_rl_with_and_without_sft_are_two_rows(folder):
    runs = [run(cell(folder)), run(cell(folder, *BASE))]
    found = collect(folder / "runs" / "smoke")
    rows = found.runs[found.runs["hash"].isin([target.hash for target in runs])]
    assert not found.problems and dict(zip(rows["label"], rows["reward"], strict=True)) == {
        "rank_grpo-relevance": "relevance",
        "rank_grpo-relevance@base": "relevance @ base",
    }
