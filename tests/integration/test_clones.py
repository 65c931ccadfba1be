"""Clones that train: they continue and resume exactly, and never hide what their parent spent."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from analysis import report, status
from analysis.collection import collect
from analysis.collection.costs import total_cost
from rlbench.commands.cloning import clone_of
from rlbench.running.runner import run
from rlbench.runs.directory import DONE, Run, locate
from tests.conftest import SMALL, composed

pytestmark = pytest.mark.slow

SHORT = [
    *(*SMALL, "+debug=smoke", "algorithm=grpo", "reward=dcg", "trainer.rl.updates=6", "trainer.rl.save_every=2"),
    *("trainer.rl.keep_checkpoints=9", "evaluation.every=2", "trainer.rl.learning_rate=1e-3", "trainer.sft.updates=20"),
    *("trainer.sft.learning_rate=5e-3", "trainer.rl.schedule=linear"),
]


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("parent")
    return run(composed(*SHORT, f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}"))


def weights(target: Run) -> dict[str, torch.Tensor]:
    return load_file(target.final_model / "model.safetensors")


def equal(a: Run, b: Run) -> bool:
    one, other = weights(a), weights(b)
    return all(torch.equal(one[name], other[name]) for name in one)


def rates(target: Run) -> dict[int, float]:
    return {row["step"]: row["value"] for row in target.read_metrics() if row["metric"] == "learning_rate"}


def test_a_change_without_effect_gives_the_parents_weights(parent: Run) -> None:
    """A bound on gradients that is never reached. So weights, optimiser, random numbers and data order continue."""
    clone = run(clone_of(parent.root, 2, ["trainer.rl.max_grad_norm=1e6"], None))
    bounded = max(row["value"] for row in parent.read_metrics() if row["metric"] == "grad_norm")
    assert clone.root != parent.root and (bounded > 1 or equal(clone, parent))
    assert clone.root.parent.name == "grpo-dcg@from=grpo-dcg,step=2,max_grad_norm=1000000"


def test_settings_apply_from_the_checkpoint_on_and_a_resumed_clone_is_exact(parent: Run, tmp_path: Path) -> None:
    config = clone_of(parent.root, 2, ["trainer.rl.learning_rate=1e-4", "trainer.rl.updates=8"], None)
    clone = run(config)
    before, after = rates(parent), rates(clone)
    assert [after[step] for step in (1, 2)] == [before[step] for step in (1, 2)]
    for step in (3, 4, 8):  # linear to 0 over eight updates, counted from the parent's start
        assert after[step] == pytest.approx(1e-4 * (1 - (step - 1) / 8))
    kept = tmp_path / "whole"
    shutil.copytree(clone.root, kept)
    for name in ("model", "checkpoints/checkpoint-8", "checkpoints/checkpoint-6"):
        shutil.rmtree(clone.root / name)
    clone.set_status("interrupted", "SIGTERM")
    shutil.rmtree(parent.checkpoints / "checkpoint-2")  # a clone that has begun needs its parent's checkpoint no more
    again = run(clone_of(parent.root, 2, ["trainer.rl.updates=8", "trainer.rl.learning_rate=0.0001"], None))
    assert again.root == clone.root and again.status() == DONE
    assert equal(again, Run(kept, "rl", "", 0, "", {}))


def test_budget_tables_and_status_name_the_parent(
    parent: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    clone = run(clone_of(parent.root, 4, ["algorithm=rank_grpo"], None))
    result = json.loads((clone.root / "result.json").read_text())
    assert result["clone"]["parent"][:8] == parent.hash and result["clone"]["step"] == 4
    budget, whole = result["budget"], json.loads((parent.root / "budget.json").read_text())
    assert budget["updates"] == whole["updates"] == 6 and budget["completions"] == whole["completions"]
    assert budget["inherited"]["updates"] == 4 and budget["inherited"]["generated_tokens"] < budget["generated_tokens"]
    assert json.loads((clone.root / "manifest.json").read_text())["clone"] == result["clone"]
    folder = parent.root.parents[1]
    found = collect(folder)
    cost = total_cost(found.runs, folder)
    clones = found.runs[found.runs["clone_of"].notna()]
    assert cost.seconds == pytest.approx(found.runs["seconds"].sum() - clones["inherited_seconds"].sum())
    capsys.readouterr()
    assert report.main([str(folder), "--out", str(tmp_path / "out"), "--resamples", "20"]) == 0
    name = "rank_grpo · dcg ← step 4 of grpo · dcg"
    for text in ((tmp_path / "out" / page).read_text() for page in ("report.html", "table.md", "table.csv")):
        assert name in text
    assert "A clone: it continues" in (tmp_path / "out" / "table.md").read_text()
    capsys.readouterr()
    assert status.main([str(folder), "--all"]) == 0
    assert "← step 4 of" in capsys.readouterr().out


def test_a_clone_of_a_clone_and_of_an_unfinished_parent(parent: Run, tmp_path: Path) -> None:
    config = clone_of(parent.root, 4, ["trainer.rl.learning_rate=2e-4"], None)
    clone = run(config)
    clone.set_status("interrupted", "SIGTERM")
    shutil.rmtree(clone.checkpoints / "checkpoint-6")
    second = run(clone_of(clone.root, None, ["reward=relevance", "trainer.rl.updates=6"], None))
    ancestry = json.loads((second.root / "result.json").read_text())["clone"]
    assert ancestry["name"] == "grpo · dcg ← step 4 of grpo · dcg" and ancestry["step"] == 4
    assert ancestry["parent"][:8] == clone.hash
    assert locate(config, "rl").root == clone.root
