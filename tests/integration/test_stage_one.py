"""Stages before RL: SFT curves, SFT on several demonstrations, and no SFT."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from analysis.collection import collect
from analysis.tables.build import build_table
from rlbench.base.errors import BadInput
from rlbench.base.jsonl import read_rows
from rlbench.config.schema import Config
from rlbench.running.runner import run
from rlbench.runs.directory import DONE, locate
from tests.conftest import SMALL, composed
from tests.helpers_forked import run_py

SHORT = [*SMALL, "+debug=smoke", "evaluation.validation_contexts=null", "evaluation.test_contexts=null"]

LONGER = ["stage=sft", "trainer.sft.updates=6", "trainer.sft.save_every=2", "trainer.sft.learning_rate=1e-2"]
CURVE = [*LONGER, "trainer.sft.evaluate_every=2"]
BASE = ["trainer.rl.start=base"]


def cell(folder: Path, *overrides: str) -> Config:
    return composed(*SHORT, f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}", *overrides)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("stage_one")


def source(name: str) -> list[str]:
    return [f"dataset.demonstrations_from={name}"]


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
    assert kl[0] == pytest.approx(0, abs=1e-6)  # the reference is the starting model
    result = json.loads((target.root / "result.json").read_text())
    assert (result["label"], result["variant"]) == ("rank_grpo-relevance@base", "base")


@pytest.mark.slow
def test_rl_with_and_without_sft_are_two_rows(folder):
    runs = [run(cell(folder)), run(cell(folder, *BASE))]
    found = collect(folder / "runs" / "smoke")
    rows = found.runs[found.runs["hash"].isin([target.hash for target in runs])]
    assert not found.problems and dict(zip(rows["label"], rows["reward"], strict=True)) == {
        "rank_grpo-relevance": "relevance",
        "rank_grpo-relevance@base": "relevance @ base",
    }


def weights(target) -> dict:
    return load_file(target.final_model / "model.safetensors")


def same_weights(one, other) -> bool:
    ours, theirs = weights(one), weights(other)
    return set(ours) == set(theirs) and all((ours[name] == theirs[name]).all() for name in ours)


@pytest.fixture(scope="module")
def curve(folder):
    return run(cell(folder, *CURVE, "experiment_name=curve", "tracker.completions=2"))


def test_sft_has_a_curve_from_the_untrained_to_the_last_model(folder, curve):
    found = validation(curve, "ndcg@10")
    assert list(found) == [0, 2, 4, 6]
    zero = locate(cell(folder, "experiment_name=curve"), "zero_shot")
    assert validation(curve, "completion_tokens")[0] == validation(zero, "completion_tokens")[0]
    result = json.loads((curve.root / "result.json").read_text())
    assert found[6] == result["metrics"]["validation"]["ndcg@10"] and result["checkpoint"]["step"] == 6
    rows = read_rows(curve.root / "completions.jsonl")
    assert [(row["step"], row["split"]) for row in rows[::2]] == [(2, "validation"), (4, "validation")] + [
        (6, "validation"),
        (6, "test"),
    ]


def test_evaluations_leave_the_weights_and_are_paid_for(folder, curve, tmp_path):
    """SFT evaluations draw no random numbers; their tokens and seconds count as evaluation."""
    plain = run(cell(tmp_path, *LONGER, "experiment_name=plain"))  # in one runs_dir, the stage would be taken over
    assert same_weights(plain, curve) and plain.hash == curve.hash
    assert list(validation(plain, "ndcg@10")) == [6]
    budgets = [json.loads((target.root / "budget.json").read_text()) for target in (plain, curve)]
    table = validation(curve, "completion_tokens")  # means over samples; a context has several
    assert budgets[0]["trained_tokens"] == budgets[1]["trained_tokens"]
    more = budgets[1]["evaluation_tokens"] - budgets[0]["evaluation_tokens"]
    assert 0 < more <= 2 * 6 * 32 and table[2] > 0  # two evaluations of six lists of at most 32 tokens
    assert all(budget["seconds"]["evaluation"] > 0 for budget in budgets)


def test_a_curve_that_is_asked_for_too_late_is_refused(folder, curve, tmp_path):
    late = cell(tmp_path, *LONGER, "experiment_name=late")
    target = run(late)
    again = cell(tmp_path, *CURVE, "experiment_name=late")
    with pytest.raises(BadInput, match=r"without 3 of the evaluations .*\(updates 0, 2, 4\).*Move it away"):
        run(again)
    with pytest.raises(BadInput, match="Move it away"):  # a cell that needs the stage
        run(cell(tmp_path, *CURVE, "experiment_name=late", "stage=rl"))
    assert target.status() == DONE and run(late).root == target.root
    assert run(cell(folder, *CURVE, "experiment_name=curve")).root == curve.root


@pytest.mark.slow
def test_a_killed_sft_stage_has_the_curve_of_one_that_was_not(folder, curve, tmp_path):
    config = cell(tmp_path, *CURVE, "experiment_name=curve")
    target = locate(config, "sft")
    overrides = [*SHORT, f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}", *CURVE]
    process = run_py(tmp_path / "log.txt", *overrides, "experiment_name=curve")
    while process.poll() is None:
        if 4 in validation(target, "ndcg@10"):
            process.kill()
    process.wait()
    assert target.status() == "running"
    run(config)
    kept = [row for row in curve.read_metrics() if row["metric"] != "seconds"]
    assert target.read_metrics() == kept and same_weights(target, curve)
    counts = [json.loads((t.root / "budget.json").read_text()) for t in (target, curve)]
    for key in ("trained_tokens", "evaluation_tokens", "prompts", "updates"):
        assert counts[0][key] == counts[1][key]


def test_a_run_that_goes_on_lacks_no_point_of_its_curve(tmp_path, monkeypatch):
    """If the curve is requested when the stage is half done, its earlier points are missing."""
    config = cell(tmp_path, *LONGER)

    class Told(Exception):
        pass

    def stop(*_: object) -> None:
        raise Told

    with monkeypatch.context() as patch, pytest.raises(Told):
        patch.setattr("rlbench.training.sft.save_model", stop)
        run(config)
    with pytest.raises(BadInput, match=r"without 4 of the evaluations .*\(updates 0, 2, 4, \.\.\.\)"):
        run(cell(tmp_path, *CURVE))
    assert run(config).status() == DONE


@pytest.mark.slow
def test_sft_on_several_demonstrations_are_several_rows(folder):
    """Both start from the same untrained model; RL after one of them starts from its weights."""
    short = ["experiment_name=sources", "stage=sft"]
    sources = ["teacher", "remap_adjust"]
    runs = [run(cell(folder, *short)), *(run(cell(folder, *short, *source(name))) for name in sources)]
    after = run(cell(folder, "experiment_name=sources", *source("teacher"), "trainer.rl.learning_rate=1e-9"))
    assert len(list((folder / "runs" / "sources" / "mini-tiny" / "zero_shot").iterdir())) == 1
    assert not same_weights(runs[0], runs[1]) and not same_weights(runs[1], runs[2])
    ours, theirs = weights(after), weights(runs[1])
    assert all((ours[name] - theirs[name]).abs().max() < 1e-7 for name in theirs)
    found = collect(folder / "runs" / "sources")
    assert not found.problems
    (group,) = found.groups()
    names = {row.label: row.name for row in build_table(group, resamples=50).rows}
    assert names["sft"] == "SFT" and names["sft@teacher"] == "SFT @ teacher"
    assert names["sft@remap_adjust"] == "SFT @ remap_adjust"
    assert names["rank_grpo-relevance@teacher"] == "rank_grpo · relevance @ teacher"


def test_held_out_demonstrations_give_a_validation_loss(folder):
    target = run(cell(folder, *CURVE, "experiment_name=loss", *source("remap")))
    losses = validation(target, "loss")
    assert list(losses) == [0, 2, 4, 6] == list(validation(target, "ndcg@10"))
    assert 6 < losses[0] < 8 and losses[6] < losses[0] - 0.5  # log of 900 entries is 6.8
