"""completions.jsonl: which lists are kept, their form, and the effect of resuming."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rlbench.base.jsonl import read_rows
from rlbench.config.schema import Config
from rlbench.data.record import Record
from rlbench.runs.completions import CompletionLog, as_table, evenly_spread, sample_completions
from rlbench.runs.directory import Run
from rlbench.runs.record import COMPLETIONS
from rlbench.tracking import NoTracker
from tests.conftest import SMALL


def records(contexts: int) -> list[Record]:
    """Context k has 1 + k % 3 samples."""
    made = []
    for k in range(contexts):
        prompt = [{"role": "system", "content": "Recommend films."}, {"role": "user", "content": f"dialogue {k} é"}]
        made += [Record(prompt, [("Heat", 1995), ("Up", 2009)], [], f"c{k}") for _ in range(1 + k % 3)]
    return made


def predictions(of: list[Record], level: float = 0.5) -> pd.DataFrame:
    """Predictions as an evaluation makes them; a parquet file returns arrays in place of lists."""
    n = len(of)
    return pd.DataFrame(
        {
            "context_id": [record.context_id for record in of],
            "text": [f"Heat (1995)\nJaws (1975)\n{level}" for _ in of],
            "titles": [np.array(["Heat", "Jaws"])] * n,
            "years": [np.array([1995, 1975])] * n,
            "verdicts": [np.array(["hit", "out_of_catalog"])] * n,
            "ndcg@10": np.linspace(level, 1, n),
        }
    )


class Noted(NoTracker):
    """Record the given tables."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[tuple] = []

    def log_table(self, name, columns, rows, step=None) -> None:
        self.tables.append((name, columns, rows, step))


@pytest.fixture
def log(tmp_path: Path) -> CompletionLog:
    return CompletionLog(Run(tmp_path, "rl", "grpo-relevance", 0, "0" * 8, {}), Noted(), 3, 10)


@pytest.mark.parametrize(("contexts", "count", "chosen"), [(9, 3, [0, 3, 6]), (10, 4, [0, 2, 5, 7]), (2, 8, [0, 1])])
def test_contexts_are_spread_evenly_and_shown_once(contexts: int, count: int, chosen: list[int]) -> None:
    of = records(contexts)
    positions = evenly_spread(of, count)
    assert [of[position].context_id for position in positions] == [f"c{k}" for k in chosen]
    assert all(position == 0 or of[position - 1].context_id != of[position].context_id for position in positions)
    assert positions == evenly_spread(of, count)


def test_a_row_is_the_list_rank_by_rank() -> None:
    of = records(4)
    first, *_ = sample_completions(of, predictions(of), 2, 10, "validation", 25)
    assert first == {
        "step": 25,
        "split": "validation",
        "context_id": "c0",
        "prompt": "Recommend films.\ndialogue 0 é",
        "relevant": [["Heat", 1995], ["Up", 2009]],
        "ranks": [["Heat", 1995, "hit"], ["Jaws", 1975, "out_of_catalog"]],
        "text": "Heat (1995)\nJaws (1975)\n0.5",
        "ndcg@10": 0.5,
    }
    assert json.loads(json.dumps(first)) == first
    columns, ((update, context, prompt, relevant, ranks, hits, text, ndcg),) = as_table([first])
    assert columns == ["update", "context_id", "prompt", "relevant", "list", "hits", "text", "ndcg@10"]
    assert (update, context, relevant, hits, ndcg) == (25, "c0", "Heat (1995)\nUp (2009)", 1, 0.5)
    assert ranks == "1. Heat (1995): hit\n2. Jaws (1975): out_of_catalog"


def test_of_a_long_prompt_the_end_is_shown() -> None:
    prompt = [{"role": "user", "content": "a" * 1000 + "b" * 500}]
    of = [Record(prompt, [("Heat", 1995)], [], "c")]
    (row,) = sample_completions(of, predictions(of), 1, 10, "test", 0)
    assert row["prompt"] == "…" + "a" * 100 + "b" * 500


def test_the_file_grows_by_evaluations_and_the_tracker_has_the_same(log: CompletionLog) -> None:
    of = records(6)
    for step in (5, 10):
        log.add(step, "validation", of, predictions(of, level=step / 100))
    log.add(10, "test", of, predictions(of))
    rows = read_rows(log.root / COMPLETIONS.name)
    assert [(row["step"], row["split"]) for row in rows] == [(5, "validation")] * 3 + [(10, "validation")] * 3 + [
        (10, "test")
    ] * 3
    assert isinstance(log.tracker, Noted)
    assert [(name, step) for name, _, _, step in log.tracker.tables] == [
        ("completions/validation", 5),
        ("completions/validation", 10),
        ("completions/test", 10),
    ]
    assert log.tracker.tables[1][1:3] == as_table(rows[3:6])
    assert {row["context_id"] for row in rows} == {"c0", "c2", "c4"}


def test_an_evaluation_that_is_made_again_takes_the_place_of_the_first(log: CompletionLog) -> None:
    of = records(3)
    for level in (0.1, 0.2):
        log.add(5, "test", of, predictions(of, level))
    assert [row["text"].split("\n")[-1] for row in read_rows(log.root / COMPLETIONS.name)] == ["0.2"] * 3


def test_a_line_that_was_cut_is_dropped(log: CompletionLog) -> None:
    of = records(3)
    for step in (5, 10, 15):
        log.add(step, "validation", of, predictions(of))
    whole = (log.root / COMPLETIONS.name).read_bytes()
    (log.root / COMPLETIONS.name).write_bytes(whole[: whole.rindex("é".encode()) + 1])  # inside a character
    assert len(read_rows(log.root / COMPLETIONS.name)) == 8
    (log.root / COMPLETIONS.name).write_bytes(whole[:-20])
    log.add(20, "validation", of, predictions(of))
    assert [row["step"] for row in read_rows(log.root / COMPLETIONS.name)] == [5] * 3 + [10] * 3 + [15] * 2 + [20] * 3


def test_none_are_kept_where_none_are_asked_for(tmp_path: Path) -> None:
    log = CompletionLog(Run(tmp_path, "rl", "grpo-relevance", 0, "0" * 8, {}), Noted(), 0, 10)
    log.add(5, "test", records(3), predictions(records(3)))
    assert list(tmp_path.iterdir()) == []


def test_they_are_no_part_of_a_run(config: Callable[..., Config], tmp_path: Path) -> None:
    """Another tracker or number of stored lists gives the same directory."""
    from rlbench.runs.directory import locate

    base = locate(config(*SMALL), "rl")
    assert (
        locate(config(*SMALL, "tracker=offline", "tracker.also=[tensorboard]", "tracker.completions=2"), "rl") == base
    )
    assert COMPLETIONS.name == "completions.jsonl"
