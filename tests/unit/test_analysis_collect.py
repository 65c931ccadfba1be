"""Reading run directories: numbers arrive as written, and unsound runs are left out and named."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.collection import Collection, collect, find_runs
from analysis.collection.stored import update
from rlbench.base.errors import BadInput
from rlbench.runs.identity import config_hash
from tests.helpers_analysis import budget, edit_result, queries, reseal, write_identity, write_run

ROOT = Path(__file__).parents[2]
CONTEXTS = ["b", "a", "a"]
SCORES = {
    "recall@5": [0.1, 0.2, 0.3],
    "recall@10": [0.2, 0.4, 0.6],
    "ndcg@5": [0.1, 0.1, 0.4],
    "ndcg@10": [0.3, 0.0, 0.6],
    "in_catalog": [1.0, 0.9, 0.8],
    "list_length": [10.0, 9.0, 10.0],
}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """One sound run of each stage, two seeds of RL."""
    folder = tmp_path / "runs"
    for label, seed in (("oracle", 0), ("sft", 0), ("grpo-dcg", 0), ("grpo-dcg", 1)):
        write_run(
            folder,
            label,
            seed,
            queries(SCORES, CONTEXTS),
            spent=budget(100, 800, 6_400, 12_345, 61.5),
            curves=[(25, "validation", "ndcg@10", 0.2), (1, "train", "reward", 0.5)],
            validation={"ndcg@10": 0.25},
            step=100,
            rule="best",
        )
    return folder


Gather = Callable[[Path], Collection]


@pytest.fixture(params=["folders", "collection"])
def gather(request: pytest.FixtureRequest, tmp_path: Path) -> Gather:
    """Read runs either from their folders or through a collection that is updated each time.

    A test's change to a run counts as written by the run, so that the content is checked.
    """

    def from_folders(runs: Path) -> Collection:
        reseal(runs)
        return collect(runs)

    def through_a_collection(runs: Path) -> Collection:
        reseal(runs)
        update(runs, tmp_path / "collected")
        return collect(tmp_path / "collected")

    return from_folders if request.param == "folders" else through_a_collection


def run_of(runs: Path, label: str, seed: int = 0) -> Path:
    return next((runs / "mini/mini-tiny" / label).glob(f"seed{seed}-*"))


def only_problem(collection: Collection, path: Path, runs: Path) -> str:
    """The reason for leaving out this run, which must be the only one left out."""
    assert [problem.run for problem in collection.problems] == [path.relative_to(runs).as_posix()]
    assert collection.problems[0].left_out
    assert path.relative_to(runs).as_posix() not in set(collection.runs["run"])
    assert len(collection.runs) == 3
    return collection.problems[0].reason


def test_numbers_arrive_as_written(runs: Path, gather: Gather) -> None:
    collection = gather(runs)
    assert collection.problems == ()
    assert list(collection.runs["label"]) == ["grpo-dcg", "grpo-dcg", "oracle", "sft"]
    row = collection.runs.iloc[1]
    assert row["run"] == run_of(runs, "grpo-dcg", 1).relative_to(runs).as_posix()
    assert (row["algorithm"], row["reward"], row["stage"], row["seed"]) == ("grpo", "dcg", "rl", 1)
    assert (row["checkpoint_rule"], row["checkpoint_step"], row["cutoffs"]) == ("best", 100, (5, 10))
    assert (row["updates"], row["prompts"], row["completions"], row["generated_tokens"]) == (100, 800, 6_400, 12_345)
    assert (row["seconds"], row["seconds_rollout"]) == (61.5, 30.75)
    assert row["validation.ndcg@10"] == 0.25
    assert row["test.ndcg@10"] == pytest.approx(0.3)
    of_run = collection.queries.read(row["run"], ["ndcg@10"])
    assert list(of_run["context_id"]) == ["a", "a", "b"]  # sorted by query
    assert list(of_run["ndcg@10"]) == [0.0, 0.6, 0.3]
    curve = collection.curves[collection.curves["run"] == row["run"]]
    assert curve[["step", "split", "metric", "value"]].to_numpy().tolist() == [
        [1, "train", "reward", 0.5],
        [25, "validation", "ndcg@10", 0.2],
    ]


def test_of_a_step_measured_twice_the_later_value_counts(runs: Path, gather: Gather) -> None:
    path = run_of(runs, "sft")
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 1, "split": "train", "metric": "reward", "value": 0.7}) + "\n")
    curves = gather(runs).curves
    of_run = curves[curves["run"].str.contains("sft") & (curves["metric"] == "reward")]
    assert of_run["value"].tolist() == [0.7]


def test_a_run_without_curves_is_fine(runs: Path, gather: Gather) -> None:
    (run_of(runs, "oracle") / "metrics.jsonl").unlink()
    assert gather(runs).problems == ()


def test_runs_are_found_by_status_and_not_searched_inside(tmp_path: Path) -> None:
    for folder in ("b/c", "a", "a/checkpoints/copy"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "STATUS").write_text("done\n")
    assert find_runs(tmp_path) == [tmp_path / "a", tmp_path / "b/c"]


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no folder"):
        collect(tmp_path / "nowhere")


def test_an_empty_folder_has_no_runs(tmp_path: Path, gather: Gather) -> None:
    (tmp_path / "runs").mkdir()
    collection = gather(tmp_path / "runs")
    assert collection.runs.empty and collection.groups() == [] and collection.problems == ()


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ("running\n", "not finished"),
        ("failed\nOutOfMemoryError: no memory\n", "failed (OutOfMemoryError: no memory)"),
        ("failed\n", "failed; the command"),
        ("pruned\npruned at update 40 by the search: validation ndcg@10 0.01\n", "pruned at update 40 by the search"),
        ("", "STATUS says ''"),
        ("Done\n", "STATUS says 'Done'"),
    ],
)
def test_a_run_that_is_not_done_is_left_out(runs: Path, status: str, says: str, gather: Gather) -> None:
    path = run_of(runs, "grpo-dcg", 1)
    (path / "STATUS").write_text(status)
    assert says in only_problem(gather(runs), path, runs)


def drop(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda path: (path / name).write_text(text) and None


def edit(**changes: object) -> Callable[[Path], None]:
    return lambda path: edit_result(path, **changes)


def rewrite(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        file = path / "predictions-test-100.parquet"
        change(pd.read_parquet(file)).to_parquet(file)

    return apply


GOOD_TEST = {"recall@5": 0.2, "recall@10": 0.4, "ndcg@5": 0.2, "ndcg@10": 0.3, "in_catalog": 0.9}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (drop("result.json"), "half-written: says done but has no result.json"),
        (write("result.json", '{"schema": 1, "exp'), "result.json is not JSON"),
        (write("result.json", "[1]"), "is not a JSON object"),
        (edit(schema=1), "schema version 1 and this reader knows 2: read it with the version of rlbench that made it"),
        (edit(schema=None), "schema version None"),
        (edit(seed=None, label=None), "result.json lacks label, seed"),
        (edit(stage="dpo"), "stage 'dpo', which is none of oracle, baseline, zero_shot, sft, external, rl"),
        (edit(cutoffs=[]), "no cut-offs"),
        (edit(algorithm=None), "result.json lacks algorithm"),
        (edit(budget={"updates": 1}), "budget.prompts, budget.completions, budget.generated_tokens, budget.seconds"),
        (edit(checkpoint={"rule": "best"}), "checkpoint.step"),
        (edit(metrics={"test": {}}), "metrics.test.recall@5"),
        (edit(metrics={"test": GOOD_TEST | {"ndcg@10": math.nan}}), "test metrics that are NaN or infinite"),
        (edit(metrics={"test": GOOD_TEST, "validation": {"eos": math.inf}}), "validation metrics that are NaN"),
        (edit(metrics={"test": GOOD_TEST | {"ndcg@10": 0.31}}), "says ndcg@10 = 0.310000 on test, but predictions"),
        (drop("predictions-test-100.parquet"), "has no predictions-test-100.parquet"),
        (edit(checkpoint={"rule": "best", "step": 75}), "has no predictions-test-75.parquet"),
        (write("predictions-test-100.parquet", "PAR1 cut short"), "predictions-test-100.parquet is not parquet"),
        (rewrite(lambda frame: frame.drop(columns="ndcg@5")), "has no column ndcg@5"),
        (rewrite(lambda frame: frame.iloc[:0]), "holds no sample"),
        (rewrite(lambda frame: frame.assign(sample=0)), "the same (context_id, sample) twice"),
        (rewrite(lambda frame: frame.drop(columns="cluster_id")), "has no column cluster_id"),
        (rewrite(lambda frame: frame.assign(cluster_id=["x", "y", None])), "has no cluster_id in some rows"),
        (rewrite(lambda frame: frame.assign(cluster_id=["x", "x", "y"])), "one context_id into several cluster_id"),
        (rewrite(lambda frame: frame.assign(eos=[1.0, math.nan, 1.0])), "eos NaN or infinite in 1 of 3 samples"),
        (write("metrics.jsonl", '{"step": 1, "split": "train", "met'), "metrics.jsonl is damaged: line 1"),
        (
            write("metrics.jsonl", '{"step": 1, "split": "train", "metric": "kl", "value": null}\n'),
            "metrics.jsonl is damaged: line 1",
        ),
    ],
)
def test_a_damaged_run_is_left_out_by_name(
    runs: Path, damage: Callable[[Path], None], says: str, gather: Gather
) -> None:
    path = run_of(runs, "grpo-dcg", 1)
    damage(path)
    assert says in only_problem(gather(runs), path, runs)


def test_nan_in_a_curve_is_kept_and_told(runs: Path, gather: Gather) -> None:
    path = run_of(runs, "grpo-dcg", 1)
    lines = [
        {"step": step, "split": "train", "metric": "kl", "value": value} for step, value in ((1, 0.1), (2, math.nan))
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    collection = gather(runs)
    assert len(collection.runs) == 4
    (problem,) = collection.problems
    assert not problem.left_out
    assert problem.run.startswith("mini/mini-tiny/grpo-dcg/seed1-")
    assert "train kl is NaN or infinite at 1 of 2 points, first at update 2" in problem.reason
    assert collection.curves.query("metric == 'kl'")["value"].isna().sum() == 1


def test_duplicate_cells_are_all_left_out_and_say_what_differs(runs: Path, gather: Gather) -> None:
    settings = {"seed": 1, "rl": {"learning_rate": 1e-4, "updates": 100}}
    first = run_of(runs, "grpo-dcg", 1)
    first = write_identity(first, settings)
    settings["rl"] = {"learning_rate": 3e-4, "updates": 100}
    second = write_run(runs, "grpo-dcg", 1, queries(SCORES, CONTEXTS), identity=settings)
    collection = gather(runs)
    assert list(collection.runs["label"]) == ["grpo-dcg", "oracle", "sft"]
    names = [path.relative_to(runs).as_posix() for path in (first, second)]
    assert [problem.run for problem in collection.problems] == sorted(names)
    for problem in collection.problems:
        assert "duplicate cell: grpo-dcg seed 1 is also in" in problem.reason
        assert "rl.learning_rate: " in problem.reason and "updates" not in problem.reason
    assert names[0] in str(collection.problems[0]) and names[1] in collection.problems[0].reason


def test_runs_on_other_data_are_told_apart_by_what_differs(runs: Path, gather: Gather) -> None:
    """Runs made before and after an edit of a file are both left out, and the differing part is named."""
    digests = [{"split train": "a" * 64, "split test": letter * 64} for letter in "bc"]
    first, second = ({"seed": 1, "inputs": {"data": data, "model": "d" * 64}} for data in digests)
    write_identity(run_of(runs, "grpo-dcg", 1), first)
    write_run(runs, "grpo-dcg", 1, queries(SCORES, CONTEXTS), identity=second)
    problems = gather(runs).problems
    assert len(problems) == 2
    shown = ("(they differ in inputs.data.split test: bbbbbbbbbbbb, cccccccccccc)", "cccccccccccc, bbbbbbbbbbbb)")
    assert any(words in problems[0].reason for words in shown) and "split train" not in problems[0].reason


def test_an_edited_identity_is_noticed(runs: Path, gather: Gather) -> None:
    path = write_identity(run_of(runs, "grpo-dcg", 1), {"seed": 1, "rl": {"learning_rate": 1e-4}})
    assert gather(runs).problems == ()
    (path / "identity.json").write_text(json.dumps({"seed": 1, "rl": {"learning_rate": 3e-4}}))
    assert "identity.json has been edited" in only_problem(gather(runs), path, runs)
    edit_result(path, hash=config_hash({"seed": 1, "rl": {"learning_rate": 3e-4}}))  # the folder's name still shows it
    assert "its folder's name says" in only_problem(gather(runs), path, runs)


def test_seeds_of_other_settings_are_not_averaged(runs: Path, gather: Gather) -> None:
    for seed, rate in ((0, 1e-4), (1, 3e-4)):
        settings = {"seed": seed, "sft": {"seed": seed, "updates": 5}, "rl": {"learning_rate": rate}}
        write_identity(run_of(runs, "grpo-dcg", seed), settings)
    collection = gather(runs)
    rows = ["grpo-dcg@learning_rate=0.0001", "grpo-dcg@learning_rate=0.0003"]
    assert list(collection.runs["label"]) == [*rows, "oracle", "sft"]
    assert list(collection.runs["reward"])[:2] == ["dcg @ learning_rate=0.0001", "dcg @ learning_rate=0.0003"]
    (notice,) = collection.problems
    assert not notice.left_out
    assert "differ in more than the seed (they differ in rl.learning_rate: 0.0001, 0.0003)" in notice.reason
    assert f"shown as 2 rows: {', '.join(rows)}" in notice.reason


def test_commands_that_differ_in_a_setting_are_rows_of_their_own(runs: Path, gather: Gather) -> None:
    """Rows differ by setting even with the same seeds and no variant; so do untrained models."""

    def add(label: str, seed: int, settings: dict[str, Any]) -> None:
        identity = {"seed": seed, "inputs": {"data": "0" * 64}} | settings
        scores = queries(SCORES, CONTEXTS)
        write_run(runs, label, seed, scores, digest=config_hash(identity), identity=identity)

    for rate in (1e-4, 3e-4):
        for seed in (0, 1):
            add("gspo-dcg", seed, {"rl": {"learning_rate": rate}})
    for digit in "01":
        add("zero_shot", 0, {"inputs": {"data": digit * 64}})
    found = gather(runs).runs
    assert found[found["algorithm"] == "gspo"].groupby("label")["seed"].apply(list).to_dict() == {
        "gspo-dcg@learning_rate=0.0001": [0, 1],
        "gspo-dcg@learning_rate=0.0003": [0, 1],
    }
    rows = [f"zero_shot@data={digit * 12}" for digit in "01"]
    assert sorted(found[found["stage"] == "zero_shot"]["label"]) == rows


def test_runs_whose_settings_are_of_another_form_are_left_out(runs: Path, gather: Gather) -> None:
    for seed in (0, 1):
        settings = {"seed": seed, "schema": 1 + seed, "rl": {"learning_rate": 1e-4 + seed}}
        (run_of(runs, "grpo-dcg", seed) / "identity.json").write_text(json.dumps(settings))
    collection = gather(runs)
    assert list(collection.runs["label"]) == ["oracle", "sft"] and len(collection.problems) == 2


def test_settings_that_differ_in_seeds_alone_are_one_row(runs: Path, gather: Gather) -> None:
    for seed in (0, 1):
        settings = {"seed": seed, "sft": {"seed": seed, "updates": 5}, "rl": {"learning_rate": 1e-4}}
        write_identity(run_of(runs, "grpo-dcg", seed), settings)
    assert gather(runs).problems == ()


@pytest.mark.parametrize(
    ("contexts", "n_truth", "says"),
    [
        (["a", "a", "b", "c"], 3, "judged on 4 samples, lists of 10, cut-offs 5, 10, but most runs beside it on 3"),
        (["a", "a", "c"], 3, "on 3 samples, lists of 10, cut-offs 5, 10 that are not the same"),
        (CONTEXTS, 4, "that are not the same"),
    ],
)
def test_runs_judged_on_other_queries_are_left_out(
    runs: Path, contexts: list[str], n_truth: int, says: str, gather: Gather
) -> None:
    scores = {name: [values[0]] * len(contexts) for name, values in SCORES.items()}
    path = write_run(runs, "gspo-dcg", 0, queries(scores, contexts, n_truth=n_truth))
    collection = gather(runs)
    assert len(collection.runs) == 4
    (problem,) = collection.problems
    assert problem.run == path.relative_to(runs).as_posix()
    assert says in problem.reason


def test_groups_are_experiment_dataset_and_model(runs: Path, gather: Gather) -> None:
    write_run(runs, "sft", 0, queries(SCORES, CONTEXTS), group="mini/mini-other")
    write_run(runs, "sft", 0, queries(SCORES, ["x", "y", "z"]), group="early/mini-tiny")
    groups = gather(runs).groups()
    names = [tuple(group.runs.iloc[0][["experiment", "dataset", "model"]]) for group in groups]
    assert names == [("early", "mini", "tiny"), ("mini", "mini", "other"), ("mini", "mini", "tiny")]
    assert [len(group.runs) for group in groups] == [1, 1, 4]
    (only,) = groups[0].runs["run"]
    assert set(groups[0].queries.read(only, [])["context_id"]) == {"x", "y", "z"}
    with pytest.raises(KeyError):
        groups[1].queries.read(only, [])


def test_texts_and_titles_are_not_loaded(runs: Path, gather: Gather) -> None:
    """Texts are most of a predictions file, and no number depends on them."""
    collection = gather(runs)
    names = list(collection.runs["run"])
    assert collection.queries.metrics(names) == list(SCORES)
    assert list(collection.queries.read(names[0], ["ndcg@5"])) == ["context_id", "sample", "cluster_id", "ndcg@5"]


def test_integer_columns_are_no_metrics(runs: Path, gather: Gather) -> None:
    path = run_of(runs, "sft") / "predictions-test-100.parquet"
    table = pq.read_table(path)
    pq.write_table(table.append_column("attempts", pa.array([1, 2, 3])), path)
    queries = gather(runs).queries
    assert "attempts" not in queries.metrics([run_of(runs, "sft").relative_to(runs).as_posix()])


def test_analysis_imports_no_torch() -> None:
    code = (
        "import sys, analysis.report; "
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'wandb', 'hydra'}; "
        "loaded = {name.split('.')[0] for name in sys.modules} & heavy; "
        "sys.exit(', '.join(sorted(loaded)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_only_some_budgets_have_is_a_number_or_nan(runs: Path, gather: Gather) -> None:
    later = {
        "trained_tokens": 24_690,
        "evaluation_tokens": 77,
        "attempts": 3,
        "peak_memory_bytes": {"process": 5_000, "gpu": None},
        "energy_joules": {"cpu": 1.5, "gpu": None},
    }
    path = run_of(runs, "grpo-dcg")
    stopped = {"update": 37, "reason": "entropy 0.01, below 0.02 of 3 at the start, 3 measurements in a row"}
    edit_result(path, budget=budget(100, 800, 6_400, 12_345, 61.5) | later, stopped=stopped)
    collection = gather(runs)
    new, old = (
        collection.runs.set_index("run").loc[run_of(runs, "grpo-dcg", s).relative_to(runs).as_posix()] for s in (0, 1)
    )
    assert (new["trained_tokens"], new["evaluation_tokens"], new["attempts"]) == (24_690, 77, 3)
    assert (new["peak_memory_bytes_process"], new["energy_joules_cpu"], new["stopped_update"]) == (5_000, 1.5, 37)
    for name in ("trained_tokens", "peak_memory_bytes_process", "energy_joules_gpu", "attempts", "stopped_update"):
        assert math.isnan(old[name]), name
    assert math.isnan(new["peak_memory_bytes_gpu"]) and math.isnan(new["energy_joules_gpu"])
    assert [(p.left_out, p.reason) for p in collection.problems] == [
        (False, f"stopped early at update 37: {stopped['reason']}")
    ]
    assert len(collection.runs) == 4


def test_what_updates_had_spent_is_read_and_the_later_line_counts(runs: Path, gather: Gather) -> None:
    lines = [(1, 8.0), (2, 16.0), (1, 9.0)]
    keys = ("completions", "prompts", "generated_tokens", "trained_tokens", "seconds")
    text = "".join(json.dumps({"update": update, **dict.fromkeys(keys, value)}) + "\n" for update, value in lines)
    path = run_of(runs, "grpo-dcg")
    (path / "budget.jsonl").write_text(text)
    (group,) = gather(runs).groups()
    name = path.relative_to(runs).as_posix()
    assert group.spending.astype({"run": str}).to_numpy().tolist() == [
        [name, 1, 9.0, 9.0, 9.0, 9.0, 9.0],
        [name, 2, 16.0, 16.0, 16.0, 16.0, 16.0],
    ]
    (path / "budget.jsonl").write_text(text + '{"update": 3, "compl')
    assert "budget.jsonl is damaged: line 4" in only_problem(gather(runs), path, runs)


def test_frames_are_read_when_asked_for_and_once(runs: Path) -> None:
    collection = collect(runs)
    for label, seed in (("oracle", 0), ("sft", 0), ("grpo-dcg", 0), ("grpo-dcg", 1)):
        (run_of(runs, label, seed) / "metrics.jsonl").write_text(
            '{"step": 3, "split": "train", "metric": "kl", "value": 0.5}\n'
        )
    assert set(collection.curves["step"]) == {3}
    assert collection.curves is collection.curves
    assert set(collection.queries.read(collection.runs["run"].iloc[0], ["n_truth"])["n_truth"]) == {3}
