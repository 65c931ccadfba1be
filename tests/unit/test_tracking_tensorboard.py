"""TensorBoard's view of a run, read back with TensorBoard."""

from pathlib import Path

from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from rlbench.base.nested import flatten
from rlbench.tracking import TrackerIdentity, make_tracker
from rlbench.tracking.tensorboard_backend import markdown
from tests.helpers_tensorboard import open_attempt, read_scalars, read_text

CONFIG = {
    "algorithm": {"name": "grpo", "options": {"clip": 0.2}},
    "seed": 3,
    "bf16": False,
    "plugins": [],
    "path": None,
}


def track(directory: Path, attempt: int = 1, failed: bool = False) -> None:
    identity = TrackerIdentity("mini", "mini-tiny/grpo-relevance/seed3-1a2b3c4d", "rl", "grpo seed3", attempt=attempt)
    tracker = make_tracker(["tensorboard"], directory=directory, identity=identity, config=CONFIG)
    for update in range(3):
        tracker.log({"train/reward": update / 4, "train/kl": float("nan")}, update)
        tracker.log({"validation/ndcg@10": update / 8}, update)
    rows = [["Heat (1995)\nUp | (2009)", 0.125, None], ["", 1, True]]
    tracker.log_table("completions/validation", ["text", "ndcg", "x"], rows, 2)
    tracker.summary({"final/test/ndcg@10": 0.25})
    tracker.finish(failed=failed)


def test_curves_over_updates(tmp_path: Path) -> None:
    track(tmp_path)
    curves = read_scalars(tmp_path)
    assert curves["train/reward"] == [(0, 0.0), (1, 0.25), (2, 0.5)]
    assert curves["validation/ndcg@10"] == [(0, 0.0), (1, 0.125), (2, 0.25)]
    assert curves["final/test/ndcg@10"] == [(0, 0.25)]
    assert len(curves["train/kl"]) == 3


def test_a_table_is_markdown(tmp_path: Path) -> None:
    track(tmp_path)
    ((step, text),) = read_text(tmp_path, "completions/validation")
    assert step == 2
    lines = ["| text | ndcg | x |", "|---|---|---|", "| Heat (1995)<br>Up \\| (2009) | 0.125 |  |", "|  | 1 | True |"]
    assert text == "\n".join(lines)
    assert text == markdown(["text", "ndcg", "x"], [["Heat (1995)\nUp | (2009)", 0.125, None], ["", 1, True]])


def test_config_and_end_are_what_the_hparams_page_reads(tmp_path: Path) -> None:
    track(tmp_path, failed=True)
    contents = open_attempt(tmp_path).summary_metadata
    begun, ended = (
        plugin_data_pb2.HParamsPluginData.FromString(contents[tag].plugin_data.content)
        for tag in (metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG)
    )
    of_run = begun.session_start_info
    assert of_run.group_name == "mini-tiny/grpo-relevance/seed3-1a2b3c4d"
    assert of_run.hparams["algorithm.name"].string_value == "grpo"
    assert of_run.hparams["algorithm.options.clip"].number_value == 0.2
    assert of_run.hparams["bf16"].WhichOneof("kind") == "bool_value"
    assert set(of_run.hparams) == set(flatten(CONFIG))
    assert ended.session_end_info.status == 2  # STATUS_FAILURE
    ((_, text),) = read_text(tmp_path, "config")
    assert '"attempt": 1' in text and '"experiment": "mini"' in text


def test_attempts_are_folders_of_their_own(tmp_path: Path) -> None:
    track(tmp_path, attempt=1)
    track(tmp_path, attempt=2)
    assert sorted(path.name for path in (tmp_path / "tensorboard").iterdir()) == ["attempt1", "attempt2"]
    assert len(read_scalars(tmp_path, 2)["train/reward"]) == 3
