"""Identity and lifecycle of run directories."""

import json

import pytest

from rlbench.base.errors import BadInput
from rlbench.running import runner
from rlbench.runs.claiming import claim
from rlbench.runs.directory import DONE, FAILED, locate
from rlbench.runs.existing import check_curve, check_recorded
from rlbench.runs.identity import config_hash, stage_config
from tests.conftest import composed


def at(tmp_path, *overrides):
    return composed(f"runs_dir={tmp_path}", *overrides)


def test_the_hash_forgets_where_and_how_but_not_what(tmp_path):
    run = locate(at(tmp_path), "rl")
    same = ["tracker=none", "runtime.threads=1", f"cache_dir={tmp_path}/elsewhere", "runtime.progress=false"]
    same += ["trainer.rl.keep_checkpoints=5", "tracker.completions=3"]
    assert locate(at(tmp_path, *same), "rl").root == run.root
    for other in (
        "seed=1",
        "trainer.rl.learning_rate=1e-5",
        "algorithm.ratio=token",
        "dataset.prompt_template='{conversation}!'",
    ):
        assert locate(at(tmp_path, other), "rl").root != run.root


def test_shared_stages_know_neither_algorithm_nor_seed(tmp_path):
    sft = locate(at(tmp_path), "sft")
    others = ["algorithm=grpo", "seed=5", "reward=dcg", "trainer.rl.updates=3"]
    assert locate(at(tmp_path, *others), "sft").root == sft.root
    assert locate(at(tmp_path, "trainer.sft.updates=3"), "sft").root != sft.root


def test_directory_reads_as_the_design_says(tmp_path):
    run = locate(at(tmp_path, "experiment_name=e", "seed=3"), "rl")
    assert run.root == tmp_path / "e" / "mini-tiny" / "rank_grpo-relevance" / f"seed3-{run.hash}"
    assert run.hash == config_hash(stage_config(at(tmp_path, "seed=3"), "rl"))


def test_done_is_skipped_and_failed_is_tried_again(tmp_path):
    config = at(tmp_path)
    run = locate(config, "rl")
    with pytest.raises(RuntimeError, match="boom"), claim(run, config) as mine:
        assert mine
        raise RuntimeError("boom")
    assert run.status() == FAILED and "boom" in (run.root / "STATUS").read_text()
    with claim(run, config) as mine:
        assert mine
    assert run.status() == DONE and run.attempts() == 2
    with claim(run, config) as mine:
        assert not mine


def test_another_configuration_in_the_directory_is_refused(tmp_path):
    config = at(tmp_path)
    run = locate(config, "rl")
    with claim(run, config):
        pass
    recorded = json.loads((run.root / "identity.json").read_text())
    recorded["rl"]["learning_rate"] = 7.0
    (run.root / "identity.json").write_text(json.dumps(recorded))
    with pytest.raises(BadInput, match=r"rl.learning_rate: was 7.0, is now 5e-05"), claim(run, config):
        pass


def test_an_edited_identity_of_a_finished_run_is_refused_before_it_is_skipped(tmp_path):
    config = at(tmp_path, "runtime.device=cpu")
    run = locate(config, "rl")
    with claim(run, config):
        pass
    assert check_recorded(run) == [] and run.status() == DONE
    (run.root / "identity.json").write_text(json.dumps({**run.identity, "seed": 9}))
    with pytest.raises(BadInput, match="contains another run: seed: was 9, is now 0"):
        runner.run(config)


def test_metrics_cut_short_by_a_kill_are_read(tmp_path):
    run = locate(at(tmp_path), "rl")
    for step in (1, 2, 3):
        run.append_metrics(step, "train", {"loss": step / 10})
    with run.metrics_file.open("a") as file:
        file.write('{"step": 4, "spl')
    assert [row["step"] for row in run.read_metrics()] == [1, 2, 3]


def test_an_evaluation_measured_again_replaces_the_first(tmp_path):
    run = locate(at(tmp_path), "rl")
    run.append_metrics(3, "train", {"loss": 0.5})
    for value in (0.1, 0.2):
        run.replace_metrics(3, "test", {"ndcg@10": value})
    assert [(row["split"], row["value"]) for row in run.read_metrics()] == [("train", 0.5), ("test", 0.2)]


def test_rl_without_sft_is_a_run_and_a_row_of_its_own(tmp_path):
    """Its identity has no SFT settings, and the identity of RL after SFT does not mention where it starts."""
    base = at(tmp_path, "trainer.rl.start=base")
    assert base.label == "rank_grpo-relevance@base"
    assert at(tmp_path, "trainer.rl.start=base", "variant=slow").label == "rank_grpo-relevance@slow-base"
    run = locate(base, "rl")
    assert run.identity["rl"]["start"] == "base" and "start" not in locate(at(tmp_path), "rl").identity["rl"]
    assert locate(at(tmp_path, "trainer.rl.start=base", "trainer.sft.updates=3"), "rl").root == run.root
    longer = at(tmp_path, "trainer.rl.start=base", "trainer.sft.max_length=64")  # cuts demonstrations in RL
    assert locate(longer, "rl").root != run.root
    assert locate(base, "sft").root == locate(at(tmp_path), "sft").root


@pytest.mark.parametrize(
    ("overrides", "stages"),
    [
        ([], ("zero_shot", "sft", "rl")),
        (["trainer.rl.start=base"], ("zero_shot", "rl")),
        (["stage=sft", "trainer.rl.start=base"], ("zero_shot", "sft")),
        (["stage=zero_shot"], ("zero_shot",)),
    ],
)
def test_stages_of_a_cell(tmp_path, overrides, stages):
    assert at(tmp_path, *overrides).stages == stages


def test_how_often_sft_is_evaluated_is_no_part_of_what_it_is(tmp_path):
    updates = "trainer.sft.updates=360"
    plain, curve = at(tmp_path, updates), at(tmp_path, updates, "trainer.sft.evaluate_every=40")
    for stage in ("sft", "rl"):
        assert locate(plain, stage).root == locate(curve, stage).root
    assert curve.trainer.sft.evaluated == [*range(0, 360, 40), 360] and plain.trainer.sft.evaluated == []


def test_a_curve_that_a_finished_sft_stage_lacks_is_refused(tmp_path):
    updates = "trainer.sft.updates=360"
    curve = at(tmp_path, updates, "trainer.sft.evaluate_every=120")
    run = locate(curve, "sft")
    assert check_curve(curve) == []  # not trained yet
    for step in (0, 240, 360):
        run.append_metrics(step, "validation", {"ndcg@10": 0.1})
    run.set_status(DONE)
    (problem,) = check_curve(curve)
    assert "without 1 of the evaluations" in problem and "(updates 120)" in problem and str(run.root) in problem
    assert check_curve(at(tmp_path)) == [] == check_curve(at(tmp_path, updates, "trainer.sft.evaluate_every=240"))
    assert check_curve(at(tmp_path, updates, "trainer.sft.evaluate_every=120", "trainer.rl.start=base")) == []


def test_an_evaluation_replaces_what_it_measures_and_nothing_else(tmp_path):
    run = locate(at(tmp_path), "sft")
    run.append_metrics(3, "validation", {"loss": 0.5, "ndcg@10": 0.1})
    run.replace_metrics(3, "validation", {"ndcg@10": 0.2})
    assert {row["metric"]: row["value"] for row in run.read_metrics()} == {"loss": 0.5, "ndcg@10": 0.2}
