"""`rlbench.read` and the plots: frames of runs as they were written, figures, and errors that name the argument."""

import json
from pathlib import Path

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest

import rlbench
from analysis.collection.stored import update
from rlbench.runs.directory import seal
from tests.helpers_analysis import write_sweep

CURVES = [
    (row, step, seed, "accuracy", 1 - np.exp(-step / (20 + 10 * place)) + 0.01 * seed)
    for place, row in enumerate(("mine", "theirs"))
    for seed in range(3)
    for step in range(0, 60, 10)
]
OWN = pd.DataFrame(CURVES, columns=["row", "step", "seed", "metric", "value"])
GROUP = pd.DataFrame(
    [(c, k, f"Film {k}", 1990 + k, "hit" if c == k else "miss", 0.5, c - k) for c in (1, 2, 3) for k in (1, 2, 3, 4)],
    columns=["completion", "rank", "title", "year", "verdict", "return", "advantage"],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two methods and two seeds; one run has recorded a group of rollouts."""
    runs = tmp_path_factory.mktemp("api") / "runs"
    write_sweep(runs, {"grpo-dcg": 0.1, "rank_grpo-dcg": 0.2}, seeds=2, contexts=12, updates=20, every=10)
    (cell,) = (runs / "mini/mini-tiny/rank_grpo-dcg").glob("seed0-*")
    ranks = [[["Heat", 1995, "hit", 1.0, 0.5], ["Alien", 1979, "miss", 0.0, -0.5]], [["Up", 2009, "miss", 0.0, -0.5]]]
    lists = [{"ranks": of_list, "reward": 1.0, "hits": 1, "finished": True, "text": ""} for of_list in ranks]
    shown = {"step": 0, "context_id": "c", "prompt": "", "relevant": [["Heat", 1995]], "lists": lists}
    (cell / "rollouts.jsonl").write_text(json.dumps(shown) + "\n")
    seal(cell)
    return runs


@pytest.fixture(scope="module")
def runs(folder: Path) -> rlbench.Runs:
    return rlbench.read(folder)


def test_frames_hold_what_the_runs_wrote(runs, folder):
    assert len(runs) == 7 and "7 runs" in repr(runs) and "<table" in runs._repr_html_()
    one = runs.runs[runs.runs["label"] == "rank_grpo-dcg"].iloc[0]
    cell = folder / one["run"]
    result = json.loads((cell / "result.json").read_text())
    assert one["test.ndcg@10"] == result["metrics"]["test"]["ndcg@10"]
    written = pd.read_parquet(cell / "predictions-test-20.parquet")
    scores = runs.contexts[runs.contexts["run"] == one["run"]]
    assert scores["ndcg@10"].mean() == pytest.approx(one["test.ndcg@10"]) and len(scores) == len(written)
    lists = runs.lists[runs.lists["run"] == one["run"]]
    assert len(lists) == len(written) and lists.iloc[0][["rank", "title", "year", "verdict"]].tolist() == [
        1, "Heat", 1995, "miss",
    ]  # fmt: skip
    curve = runs.curves.query("run == @one.run and split == 'train' and metric == 'reward'")
    assert curve["step"].tolist() == list(range(1, 21))
    assert runs.problems.empty and runs.budget.empty


def test_rollouts_are_groups_rank_by_rank(runs):
    assert runs.rollouts[["completion", "rank", "title", "verdict", "return", "advantage"]].to_numpy().tolist() == [
        [1, 1, "Heat", "hit", 1.0, 0.5],
        [1, 2, "Alien", "miss", 0.0, -0.5],
        [2, 1, "Up", "miss", 0.0, -0.5],
    ]
    rlbench.plot_credit(runs.rollouts)


def test_one_run_and_several_folders(folder):
    cells = sorted((folder / "mini/mini-tiny").glob("*grpo-dcg/seed0-*"))
    one = rlbench.read(cells[0])
    assert one.runs["run"].tolist() == [f"{cells[0].parent.name}/{cells[0].name}"] and len(one.contexts)
    assert rlbench.read(*cells).runs["label"].tolist() == ["grpo-dcg", "rank_grpo-dcg"]
    assert len(rlbench.read(folder / "mini", cells[0])) == 7  # a run that is named twice counts once


def test_where_narrows_every_frame(runs):
    some = runs.where(algorithm="grpo", seed=[0, 1])
    assert set(some.runs["label"]) == {"grpo-dcg"} and set(some.contexts["run"]) == set(some.runs["run"])
    assert set(some.curves["run"]) == set(some.runs["run"])


def test_a_stored_collection_has_scores_and_no_lists(folder, tmp_path):
    update(folder, tmp_path / "collected")
    stored = rlbench.read(tmp_path / "collected")
    assert len(stored.contexts) and len(stored) == 7
    with pytest.raises(rlbench.BadInput, match="are a stored collection"):
        _ = stored.lists


def test_plots_return_figures(runs, folder):
    drawn = [
        rlbench.plot_curves(runs),
        rlbench.plot_curves(str(folder), metrics=["ndcg@5"], by="algorithm"),
        rlbench.plot_training(runs, metrics=["reward"]),
        rlbench.plot_training(runs),
        rlbench.plot_credit(GROUP),
        rlbench.plot_credit(GROUP[["completion", "rank", "advantage"]], completion=2),
        rlbench.plot_curves(OWN),
        rlbench.plot_training(OWN.assign(split="train")),
    ]
    assert all(isinstance(figure, matplotlib.figure.Figure) for figure in drawn)


def test_own_numbers_are_drawn_as_they_are():
    (ax,) = rlbench.plot_curves(OWN).axes
    (line,) = [line for line in ax.lines if len(line.get_xdata()) == 6][:1]
    mine = OWN[OWN["row"] == "mine"].groupby("step")["value"].mean()
    np.testing.assert_allclose(line.get_ydata(), mine)
    assert [text.get_text() for text in rlbench.plot_curves(OWN).legends[0].get_texts()] == ["mine", "theirs"]


def test_credit_shows_every_rank_and_the_list_with_most_hits():
    left, right, _ = rlbench.plot_credit(
        GROUP.assign(verdict=["hit" if c == 2 else "miss" for c in GROUP["completion"]])
    ).axes
    assert (
        left.images[0].get_array().tolist()
        == GROUP.pivot(index="completion", columns="rank", values="advantage").to_numpy().tolist()
    )
    assert [bar.get_width() for bar in right.patches] == [1, 0, -1, -2]
    assert [label.get_text() for label in right.get_yticklabels()][0] == "1. Film 1 (1991)"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda runs: rlbench.read(), "read needs a folder"),
        (lambda runs: rlbench.read("no-such-folder"), "there is no folder no-such-folder"),
        (lambda runs: runs.where(lable="x"), "no column 'lable'. Did you mean 'label'?"),
        (lambda runs: runs.where(seed=9), "no run has seed = 9; they have 0, 1"),
        (lambda runs: runs.config("grpo"), "run = 'grpo' is none of the 7 runs"),
        (lambda runs: runs.config(), "run is missing, and there are 7 runs"),
        (lambda runs: rlbench.plot_curves(runs, metrics=["ndgc@10"]), "'ndgc@10', which .* Did you mean 'ndcg@10'"),
        (lambda runs: rlbench.plot_curves(runs, metrics="ndcg@10"), "metrics = 'ndcg@10' must be a list"),
        (lambda runs: rlbench.plot_curves(runs, against="second"), "against = 'second' .*Did you mean 'seconds'?"),
        (lambda runs: rlbench.plot_curves(runs, by="algoritm"), "by = 'algoritm'.*Did you mean 'algorithm'?"),
        (lambda runs: rlbench.plot_curves(runs, metric=["a"]), "no argument 'metric'. Did you mean 'metrics'?"),
        (lambda runs: rlbench.plot_curves(runs, against="seconds"), "no validation curve against seconds"),
        (lambda runs: rlbench.plot_curves(3), "runs = 3 must be"),
        (lambda runs: rlbench.plot_curves(OWN.rename(columns={"row": "rows"})), "no column 'row'. .* 'rows'?"),
        (lambda runs: rlbench.plot_curves(OWN.drop(columns="seed")), "several values for one row"),
        (lambda runs: rlbench.plot_curves(OWN.assign(value="a")), "'value' must hold numbers"),
        (lambda runs: rlbench.plot_curves(OWN[:0]), "the frame has no rows"),
        (lambda runs: rlbench.plot_credit(GROUP.drop(columns="rank")), "group has no column 'rank'"),
        (lambda runs: rlbench.plot_credit(GROUP[:0]), "group has no rows"),
        (lambda runs: rlbench.plot_credit(pd.concat([GROUP, GROUP])), "holds several groups"),
        (lambda runs: rlbench.plot_credit(GROUP.assign(step=GROUP["completion"])), "holds several groups"),
        (lambda runs: rlbench.plot_credit(GROUP, completion=9), "completion = 9 is none of 1..3"),
        (lambda runs: rlbench.plot_credit([1]), "group = list must be a DataFrame"),
    ],
)  # fmt: skip
def test_errors_name_the_argument(call, said, runs):
    with pytest.raises(rlbench.BadInput, match=said):
        call(runs)


def test_runs_of_two_experiments_are_not_drawn_together(folder, tmp_path):
    write_sweep(tmp_path, {"grpo-dcg": 0.1}, seeds=1, contexts=12, updates=10, every=10, group="other/mini-tiny")
    with pytest.raises(rlbench.BadInput, match=r"mini / mini / tiny, other / mini / tiny.*where\(experiment"):
        rlbench.plot_curves(rlbench.read(folder, tmp_path))


def test_an_unusable_run_is_named(folder, tmp_path):
    (tmp_path / "STATUS").write_text("failed\nno memory\n")
    with pytest.raises(rlbench.BadInput, match="failed .no memory."):
        rlbench.read(tmp_path)
    mixed = rlbench.read(folder, tmp_path)
    assert len(mixed) == 7 and mixed.problems["left_out"].tolist() == [True] and "1 left out" in repr(mixed)
