"""One complete cell with all real parts: data, SFT, RL, evaluation, tracking, analysis."""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file
from transformers import TrainerCallback

from analysis import report, status
from analysis.collection import collect
from analysis.commands import rescore
from rlbench import inspect
from rlbench.base.errors import BadInput
from rlbench.base.files import write_json
from rlbench.base.jsonl import read_rows
from rlbench.config.schema import Config
from rlbench.evaluation.protocols import parse_protocol
from rlbench.running.runner import _conclude, run
from rlbench.running.session import prepare
from rlbench.runs.attempts import attempts
from rlbench.runs.completions import as_table
from rlbench.runs.directory import DONE, FAILED, Run, locate, seal
from rlbench.runs.sharing import find_finished
from rlbench.training import rl
from rlbench.training.made import NotMade
from tests.conftest import SMALL, composed
from tests.helpers_forked import Forked, run_py
from tests.helpers_tensorboard import open_attempt, read_scalars
from tests.helpers_wandb import find_runs

SHORT = [*SMALL, "+debug=smoke", "evaluation.validation_contexts=null", "evaluation.test_contexts=null"]


def cell(folder: Path, *overrides: str) -> Config:
    return composed(*SHORT, f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}", *overrides)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Config, Path]:
    """A finished smoke run with an offline tracker, and its folder."""
    folder = tmp_path_factory.mktemp("finished")
    config = cell(folder, "tracker=offline")
    return config, run(config).root


def test_every_stage_leaves_a_whole_directory(finished):
    config, _ = finished
    for stage in ("oracle", "zero_shot", "sft", "rl"):
        target = locate(config, stage)
        assert target.status() == DONE
        for name in ("config.yaml", "manifest.json", "metrics.jsonl", "result.json", "budget.json"):
            assert (target.root / name).is_file(), (stage, name)
        result = json.loads((target.root / "result.json").read_text())
        assert result["stage"] == stage and {"recall@5", "ndcg@10"} <= set(result["metrics"]["test"])
        table = pd.read_parquet(target.root / f"predictions-test-{result['checkpoint']['step']}.parquet")
        assert table["ndcg@10"].mean() == pytest.approx(result["metrics"]["test"]["ndcg@10"], abs=1e-12)
        assert table["context_id"].nunique() == 6 and len(table) >= 6


def test_a_run_ends_with_its_result_and_the_next_command(tmp_path, capsys):
    """A run that is skipped says only that it is done."""
    config = cell(tmp_path, "stage=zero_shot")
    root = run(config).root
    *_, result, following = capsys.readouterr().err.splitlines()
    means = json.loads((root / "result.json").read_text())["metrics"]["test"]
    assert result.endswith(f" on test: Recall@10 {means['recall@10']:.3f}, NDCG@10 {means['ndcg@10']:.3f}")
    assert following == f"next: python -m analysis.report {config.runs_dir}/smoke"
    run(config)
    assert capsys.readouterr().err.splitlines()[-1].startswith("already done")


def test_a_trained_run_ends_beside_the_stage_it_began_with(finished, capsys):
    """The scores of SFT and the difference to it, and why a run stopped early, if it did."""
    config, root = finished
    _conclude(config, locate(config, "rl"))
    sft, difference, own, following = capsys.readouterr().err.splitlines()
    there, here = (json.loads((locate(config, stage).root / "result.json").read_text()) for stage in ("sft", "rl"))
    values = [of["metrics"]["test"]["ndcg@10"] for of in (there, here)]
    assert sft.startswith("sft on test: Recall@10 ") and sft.endswith(f"NDCG@10 {values[0]:.3f}")
    assert "minus sft: Recall@10 " in difference and f"NDCG@10 {values[1] - values[0]:+.3f}" in difference
    assert own.endswith(f"NDCG@10 {values[1]:.3f}") and following.startswith("next: ")
    locate(config, "rl").set_status(DONE, "stopped early at update 1: collapsed")
    _conclude(config, locate(config, "rl"))
    assert "stopped early at update 1: collapsed" in capsys.readouterr().err.splitlines()[0]
    locate(config, "rl").set_status(DONE)


def test_another_experiment_takes_the_finished_stages(finished, capsys):
    """Nothing is retrained, the weights are stored once, and the folder names their source."""
    config, _ = finished
    again = replace(config, experiment_name="another", stage="sft")
    with edited(locate(config, "sft"), "manifest.json", versions={"torch": "2.0.0", "python": "3.9.1"}) as before:
        made = run(again)
    assert made.status() == DONE and made.root != before.root and made.hash == before.hash
    said = capsys.readouterr().err
    assert said.count("taken from") == 3
    (note,) = (line for line in said.splitlines() if "other package versions" in line)
    assert f"sft/{before.root.name} (torch was 2.0.0, is now " in note and "python was 3.9.1" in note
    for name in ("model.safetensors", "tokenizer.json"):
        assert (made.final_model / name).samefile(before.final_model / name)
    assert made.metrics_file.read_bytes() == before.metrics_file.read_bytes()
    assert not made.metrics_file.samefile(before.metrics_file)  # appending to one does not change the other
    there, here = (json.loads((of.root / "result.json").read_text()) for of in (before, made))
    place = here["budget"].pop("adopted_from")
    assert json.loads((made.root / "manifest.json").read_text())["versions"]["torch"] == "2.0.0"  # of its maker
    assert Path(config.runs_dir, place) == before.root and here == there | {"experiment": "another"}
    for name in ("budget.json", "manifest.json"):
        assert json.loads((made.root / name).read_text())["adopted_from"] == place
    found = collect(Path(config.runs_dir) / "another")
    assert sorted(found.runs["label"]) == ["oracle", "sft", "zero_shot"] and found.problems == ()
    shutil.rmtree(Path(config.runs_dir) / "another")


@contextmanager
def edited(stage: Run, name: str, **changes: object) -> Iterator[Run]:
    """Edit one JSON file of a finished stage, and update its file list to agree."""
    kept = {file: (stage.root / file).read_bytes() for file in (name, "files.json")}
    write_json(stage.root / name, json.loads(kept[name]) | changes)
    seal(stage.root)
    yield stage
    for file, content in kept.items():
        (stage.root / file).write_bytes(content)


def test_a_damaged_stage_of_another_experiment_is_told_before_anything_is_computed(finished):
    config, _ = finished
    file = locate(config, "sft").root / "budget.json"
    kept = file.read_bytes()
    file.write_bytes(kept + b" ")
    with pytest.raises(BadInput, match=f"{file.parent} has the status done, but budget.json has"):
        run(replace(config, experiment_name="another"))
    file.write_bytes(kept)
    assert not (Path(config.runs_dir) / "another").exists()


def test_stages_that_differ_are_not_taken(finished):
    """Another identity, an edited one, an unfinished one, one without the curve, or one of other model files."""
    config, _ = finished
    there = locate(config, "sft")
    files = json.loads((there.root / "manifest.json").read_text())["model"]["files"]
    other = replace(config, experiment_name="another")
    target = locate(other, "sft")
    assert find_finished(target, other, lambda: files) == there.root
    assert find_finished(there, config, lambda: files) is None  # the run itself
    assert find_finished(locate(other, "rl"), other, lambda: files) is None
    assert find_finished(target, other, lambda: files | {"model.safetensors": "0"}) is None
    curve = replace(other, trainer=replace(other.trainer, sft=replace(other.trainer.sft, evaluate_every=1)))
    assert find_finished(target, curve, lambda: files) is None
    for name, text in (("identity.json", "{}"), ("STATUS", "running\n"), ("identity.json", "damaged")):
        kept = (there.root / name).read_text()
        (there.root / name).write_text(text)
        assert find_finished(target, other, lambda: files) is None
        (there.root / name).write_text(kept)


def test_its_own_rules_judge_every_stage_alike_again(finished, tmp_path):
    config, _ = finished
    made, problems = rescore.rescore(Path(config.runs_dir), [parse_protocol("own")], tmp_path / "again")
    assert problems == [] and len(made) == 4
    for one in made:
        assert one.result()["metrics"] == one.source.result["metrics"]
        for file in one.source.path.glob("predictions-*.parquet"):
            if (one.target / file.name).exists():  # the identity in the result
                pd.testing.assert_frame_equal(pd.read_parquet(file), pd.read_parquet(one.target / file.name))


def test_budget_counts_what_was_generated(finished):
    _, root = finished
    budget = json.loads((root / "budget.json").read_text())
    assert (budget["updates"], budget["completions"], budget["prompts"]) == (2, 16, 4)
    assert 16 <= budget["generated_tokens"] <= 16 * 32
    assert budget["trained_tokens"] == budget["generated_tokens"]  # one update per rollout
    seconds = dict(budget["seconds"])
    total = seconds.pop("total")
    assert all(value > 0 for value in seconds.values()) and 0.5 * total < sum(seconds.values()) <= total
    assert budget["attempts"] == 1 and budget["peak_memory_bytes"]["gpu"] is None
    assert 100e6 < budget["peak_memory_bytes"]["process"] < 100e9
    assert set(budget["energy_joules"]) == {"cpu", "gpu"}


def test_every_stage_says_what_it_spent(finished):
    """Evaluation is counted separately: six contexts per split, and validation contexts also during training."""
    config, root = finished
    spent = {
        s: json.loads((locate(config, s).root / "budget.json").read_text()) for s in ("oracle", "zero_shot", "sft")
    }
    assert all(budget["generated_tokens"] == 0 and budget["seconds"]["evaluation"] > 0 for budget in spent.values())
    assert spent["oracle"]["evaluation_tokens"] == 0
    lists = pd.concat(pd.read_parquet(path) for path in locate(config, "zero_shot").root.glob("predictions-*"))
    once = lists.drop_duplicates("context_id")["completion_tokens"].sum()
    assert spent["zero_shot"]["evaluation_tokens"] == once > 12
    assert spent["sft"]["updates"] == 2 and spent["sft"]["trained_tokens"] > 100 and spent["sft"]["completions"] == 0


def test_a_manifest_tells_where_a_result_came_from(finished):
    _, root = finished
    manifest = json.loads((root / "manifest.json").read_text())
    assert manifest["packages"]["trl"] == manifest["versions"]["trl"] and len(manifest["packages"]) > 50
    assert manifest["hardware"]["cpu"] and manifest["hardware"]["memory_bytes"] > 1e9
    assert (manifest["git"]["diff_sha256"] is None) == (not manifest["git"]["dirty"])


def test_metrics_are_curves_from_update_0(finished):
    _, root = finished
    rows = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if row["split"] == "validation" and row["metric"] == "ndcg@10"]
    assert steps == [0, 2]
    for metric in ("loss", "reward", "hits", "kl", "entropy", "grad_norm", "clip_low", "frac_zero_variance_units"):
        assert [row["step"] for row in rows if row["split"] == "train" and row["metric"] == metric] == [1, 2], metric


def test_what_was_spent_by_each_update(finished):
    _, root = finished
    budget = json.loads((root / "budget.json").read_text())
    rows = read_rows(root / "budget.jsonl")
    assert [row["update"] for row in rows] == [1, 2]
    for name in ("prompts", "completions", "generated_tokens", "trained_tokens"):
        assert 0 < rows[0][name] < rows[1][name] == budget[name], name
    assert 0 < rows[0]["seconds"] < rows[1]["seconds"] < budget["seconds"]["total"]


def test_the_offline_tracker_holds_the_curves(finished):
    config, root = finished
    (tracked,) = find_runs(root)
    rows = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    for split, metric in (("validation", "ndcg@10"), ("validation", "recall@5"), ("train", "reward")):
        local = [(row["step"], row["value"]) for row in rows if row["split"] == split and row["metric"] == metric]
        assert dict(tracked.curve(f"{split}/{metric}")) == pytest.approx(dict(local))
    assert tracked.config["algorithm"]["name"] == "rank_grpo"
    assert tracked.group.endswith(root.name) and "mini" in tracked.tags
    result = json.loads((root / "result.json").read_text())
    assert tracked.summary["final/test/ndcg@10"] == pytest.approx(result["metrics"]["test"]["ndcg@10"])


def test_the_log_of_an_attempt(finished):
    """The log holds the run's lines, earlier lines from before its directory was known, and the tracker's logging."""
    config, root = finished
    (attempt,) = attempts(root)
    facts = attempt.read()
    assert (facts["outcome"], facts["from_update"], facts["reached_update"]) == (DONE, 0, 2)
    assert f"rl {root}" in attempt.log_file.read_text() and facts["hardware"]["threads"] == 1
    assert not (root / "checkpoints" / "README.md").exists()


def test_run_again_does_nothing(finished):
    config, root = finished
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    run(config)
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def test_the_report_reads_it(finished, tmp_path, capsys):
    config, _ = finished
    assert report.main([str(Path(config.runs_dir) / "smoke"), "--out", str(tmp_path)]) == 0
    table = (tmp_path / "table.md").read_text()
    for row in ("oracle", "zero-shot", "SFT", "rank_grpo · relevance"):
        assert row.lower() in table.lower()
    for name in ("table.csv", "table.tex", "curves.png", "curves.svg"):
        assert (tmp_path / name).stat().st_size > 0


@pytest.mark.slow
def test_the_report_goes_to_trackers(finished, tmp_path, monkeypatch):
    """Table and figures are one run of job type report, in the project of the runs."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    config, _ = finished
    runs, out = Path(config.runs_dir) / "smoke", tmp_path / "report"
    for mode in ("offline", "tensorboard"):
        assert report.main([str(runs), "--out", str(out), "--resamples", "50", "--tracker", mode]) == 0
    (tracked,) = find_runs(out)
    assert (tracked.job_type, tracked.project, tracked.group) == ("report", "rlbench", "smoke/mini-tiny/report")
    assert tracked.config["identity"]["experiment"] == "smoke" and "report" in tracked.tags
    expected = pd.read_csv(out / "table.csv")
    (entry,) = [row["comparison"] for row in tracked.history if "comparison" in row]
    (folder,) = out.glob("wandb/offline-run-*/files")
    table = json.loads((folder / entry["path"]).read_text())
    assert table["columns"] == list(expected.columns) and len(table["data"]) == len(expected)
    assert [row[0] for row in table["data"]] == list(expected["label"])
    assert [row[table["columns"].index("ndcg@10")] for row in table["data"]] == list(expected["ndcg@10"])
    (entry,) = [row["lists"] for row in tracked.history if "lists" in row]
    table = json.loads((folder / entry["path"]).read_text())
    assert table["columns"][:4] == ["row", "seed", "update", "context_id"] and "list" in table["columns"]
    for label in expected["label"]:
        (root,) = runs.glob(f"*/{label}/seed0-*")
        rows = read_rows(root / "completions.jsonl")
        last = max(row["step"] for row in rows if row["split"] == "test")
        wanted = as_table([row for row in rows if (row["step"], row["split"]) == (last, "test")])[1]
        assert sorted(row[2:] for row in table["data"] if row[0] == label) == sorted(wanted) != []
    contexts = [row[3] for row in table["data"]]
    assert contexts == sorted(contexts)  # one context's lists are together
    for name in ("curves", "training"):
        (image,) = folder.glob(f"media/images/report/{name}_*.png")
        assert image.read_bytes() == (out / f"{name}.png").read_bytes()
        (shown,) = open_attempt(out).Images(f"report/{name}")
        assert shown.encoded_image_string == image.read_bytes()
    assert report.main([str(runs), "--out", str(out), "--tracker", "wandbb"]) == 2


def test_inspect_shows_a_group(finished, capsys, monkeypatch):
    _, root = finished
    monkeypatch.setattr(sys, "argv", ["inspect", str(root), "--group-size", "3"])
    inspect.main()
    out = capsys.readouterr().out
    for word in ("prompt of context train-00000", "relevant:", "completion", "hits of the group's lists"):
        assert word in out


def test_best_checkpoint_is_the_best_on_validation(finished):
    config, _ = finished
    other = cell(
        Path(config.runs_dir).parent,
        "evaluation.checkpoint=best",
        "evaluation.every=1",
        "trainer.rl.updates=3",
        "trainer.rl.learning_rate=1e-3",
    )
    target = run(other)
    result = json.loads((target.root / "result.json").read_text())
    curve = {
        row["step"]: row["value"]
        for row in target.read_metrics()
        if row["split"] == "validation" and row["metric"] == "ndcg@10" and row["step"] > 0
    }
    step = result["checkpoint"]["step"]
    assert result["checkpoint"]["rule"] == "best" and curve[step] == max(curve.values())
    assert result["metrics"]["validation"]["ndcg@10"] == pytest.approx(curve[step])


def test_all_problems_come_in_one_report():
    files = ["dataset=redial", "dataset.path=/nowhere/at/all", "model=qwen2.5_0.5b", "model.path=./no/model/here"]
    config = composed(*files, "trainer.rl.completions_per_update=60")
    with pytest.raises(BadInput) as error:
        prepare(config)
    text = "\n".join(error.value.problems)
    assert "/nowhere/at/all" in text and "completions_per_update = 60" in text and "./no/model/here" in text


def test_lists_longer_than_the_catalogue_are_refused():
    config = composed("dataset.list_length=201", "dataset.cutoffs=[5]", "evaluation.metric=ndcg@5", *SMALL[:2])
    with pytest.raises(BadInput, match="201"):
        prepare(config)


def test_prompts_that_leave_no_room_are_refused(tmp_path):
    with pytest.raises(BadInput, match="more than the model's 64 positions"):
        prepare(cell(tmp_path, "model.max_positions=64", "generation.max_new_tokens=60"))


def command(folder: Path, *overrides: str) -> Forked:
    places = [f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}"]
    return run_py(folder / "log.txt", *SHORT, *places, *overrides)


LONGER = ["trainer.rl.updates=8", "trainer.rl.save_every=2", "trainer.rl.learning_rate=1e-3"]


def test_killed_and_resumed_is_never_killed(finished):
    """After kill -9 during RL, the same command gives the same curves and weights, bit for bit."""
    config, _ = finished
    folder = Path(config.runs_dir).parent
    whole = run(cell(folder, *LONGER))

    def rows(target):
        return [row for row in target.read_metrics() if row["metric"] not in ("seconds",)]

    other = [*LONGER, "experiment_name=killed"]
    target = locate(cell(folder, *other), "rl")
    process = command(folder, *other)
    while process.poll() is None:
        done = [row["step"] for row in target.read_metrics() if row["metric"] == "loss"]
        if max(done, default=0) >= 5:
            process.kill()
            break
    process.wait()
    assert target.status() == "running"
    assert (target.checkpoints / "checkpoint-4" / "rlbench.json").exists()
    run(cell(folder, *other))
    assert target.status() == DONE and target.attempts() == 2
    first, second = (attempt.read() for attempt in attempts(target.root))
    assert (first["outcome"], first["ended"], first["from_update"]) == ("unknown", None, 0)
    assert first["reached_update"] >= 5
    assert (second["outcome"], second["from_update"], second["reached_update"]) == (DONE, 4, 8)
    assert second["changed"] == [] and second["device"] == "cpu"
    assert rows(target) == rows(whole) and target.reason() == ""
    ours, theirs = (load_file(t.final_model / "model.safetensors") for t in (target, whole))
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    budgets = [json.loads((t.root / "budget.json").read_text()) for t in (target, whole)]
    counts = [key for key in budgets[0] if isinstance(budgets[0][key], int) and key != "attempts"]
    counts.append("operations")
    assert len(counts) == 8 and all(budgets[0][key] == budgets[1][key] for key in counts)
    assert [budget["attempts"] for budget in budgets] == [2, 1]
    assert (target.root / "rollouts.jsonl").read_text() == (whole.root / "rollouts.jsonl").read_text()
    assert [row["step"] for row in read_rows(target.root / "rollouts.jsonl")] == [0, 2, 4, 6]
    spent = [read_rows(t.root / "budget.jsonl") for t in (target, whole)]
    assert [[{**row, "seconds": 0} for row in rows] for rows in spent] == [[{**r, "seconds": 0} for r in spent[1]]] * 2
    assert [row["update"] for row in spent[0]] == list(range(1, 9))
    assert all(a["seconds"] < b["seconds"] for a, b in pairwise(spent[0]))


@pytest.mark.slow
def test_a_training_that_stops_early_is_done_and_named(finished, capsys):
    """The early stop is shown in STATUS, the result, the report, the status and the sweep."""
    config, _ = finished
    folder = Path(config.runs_dir).parent
    bound = ["safety.max_kl=1e-9", "safety.warmup=1", "safety.patience=1", "experiment_name=stops"]
    sweep = [*LONGER, *bound, "hydra.launcher.jobs=1", "-m"]
    run(cell(folder, "experiment_name=stops", "stage=sft"))  # otherwise the sweep starts a process for it
    swept = command(folder, *sweep)
    assert swept.wait() == 0, swept.output()
    target = locate(cell(folder, *LONGER, *bound), "rl")
    result = json.loads((target.root / "result.json").read_text())
    update = result["stopped"]["update"]
    assert target.status() == DONE and 1 < update < 8
    assert target.reason() == f"stopped early at update {update}: {result['stopped']['reason']}"
    assert result["budget"]["updates"] == result["checkpoint"]["step"] == update
    assert (target.root / f"predictions-test-{update}.parquet").exists()
    assert [row["step"] for row in target.read_metrics() if row["metric"] == "loss"][-1] == update
    assert "1 of 1 cells stopped early" in swept.output() and target.reason() in swept.output()
    (problem,) = [found for found in collect(folder / "runs" / "stops").problems if "rank_grpo" in found.run]
    assert not problem.left_out and problem.reason == target.reason()
    assert status.main([str(folder / "runs" / "stops")]) == 0
    assert f"stopped early at update {update}" in capsys.readouterr().out


class EndsEarly(TrainerCallback):
    """End training after its first update without a message."""

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = True


def test_a_training_that_ends_short_of_its_plan_fails(finished, tmp_path, monkeypatch, capsys):
    """If the trainer stops by itself, the run fails with both counts, and the report leaves it out."""
    config, _ = finished
    real = rl.quiet

    def quiet_and_short(trainer):
        real(trainer)
        trainer.add_callback(EndsEarly())

    monkeypatch.setattr(rl, "quiet", quiet_and_short)
    short = replace(config, experiment_name="short")
    with pytest.raises(NotMade, match="ended after 1 of 2 updates, 2 of 4 prompts, 8 of 16 completions"):
        run(short)
    target = locate(short, "rl")
    assert target.status() == FAILED and not (target.root / "result.json").exists()
    assert "ended after 1 of 2 updates" in target.reason()
    (attempt,) = attempts(target.root)
    assert attempt.read()["outcome"] == FAILED
    capsys.readouterr()
    folder = Path(config.runs_dir) / "short"
    assert report.main([str(folder), "--out", str(tmp_path / "report"), "--resamples", "20"]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "ended after 1 of 2 updates" in page and "Left out of every number here (1)" in page
    assert not set(collect(folder).runs["stage"]) & {"rl"}


@pytest.mark.slow
def test_a_failing_cell_never_stops_the_others(finished):
    """In a sweep with one broken cell, the other cell finishes, the failure is named, and the exit code is 1."""
    config, _ = finished
    folder = Path(config.runs_dir).parent
    own = "experiment_name=failing"
    sweep = [own, "algorithm=grpo,rank_grpo", "hydra.launcher.jobs=2", "-m"]
    run(cell(folder, own, "stage=sft"))  # otherwise the sweep starts a process for it
    bad = locate(cell(folder, own, "algorithm=grpo"), "rl")
    bad.root.mkdir(parents=True)
    (bad.root / "result.json").mkdir()  # noticed when the directory is claimed, not before the sweep starts
    result = command(folder, *sweep)
    assert result.wait() == 1, result.output()
    assert "next: python -m analysis.status" in result.output() and "Δ NDCG@10 to SFT" not in result.output()
    assert "1 of 2 cells failed" in result.output() and "is a folder, but a file is needed there" in result.output()
    assert locate(cell(folder, own, "algorithm=rank_grpo"), "rl").status() == DONE
    (attempt,) = attempts(bad.root)
    assert "a file is needed there" in attempt.output_file.read_text() and "Traceback" in attempt.log_file.read_text()
    assert attempt.read()["outcome"] == FAILED and bad.status() == FAILED
    (bad.root / "result.json").rmdir()
    again = command(folder, *sweep)
    assert again.wait() == 0, again.output()
    assert "1 already done, 1 to run" in again.output() and bad.status() == DONE
    assert "next: python -m analysis.report" in again.output() and "Δ NDCG@10 to SFT" in again.output()
    assert [a.read()["outcome"] for a in attempts(bad.root)] == [FAILED, DONE]


def test_tracking_changes_nothing(finished, tmp_path, monkeypatch):
    """Weights and metrics do not depend on the tracker or on the number of stored lists."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    config, root = finished
    modes = ["tracker=tensorboard", "tracker.also=[offline]", "tracker.completions=2", "experiment_name=tracked"]
    other = run(cell(Path(config.runs_dir).parent, *modes))
    assert (root / "metrics.jsonl").read_text() == (other.root / "metrics.jsonl").read_text()
    assert (root / "model/model.safetensors").read_bytes() == (other.final_model / "model.safetensors").read_bytes()
    local = {row["step"]: row["value"] for row in other.read_metrics() if row["metric"] == "ndcg@10"}
    curves = read_scalars(other.root)
    assert {step for step, _ in curves["validation/ndcg@10"]} == {0, 2} and local.keys() == {0, 2}
    rows = [row for row in read_rows(other.root / "completions.jsonl") if row["split"] == "validation"]
    assert [row["step"] for row in rows] == [2, 2]
    predicted = pd.read_parquet(other.root / "predictions-validation-2.parquet")
    assert {row["text"] for row in rows} <= set(predicted["text"])
