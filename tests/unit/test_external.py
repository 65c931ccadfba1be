"""Lists from elsewhere: read as a whole, judged like runs, and shown beside them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.collection import collect
from analysis.commands.rescore import rescore
from analysis.tables.build import build_table
from rlbench import evaluate, score
from rlbench.base.errors import BadInput
from rlbench.config.schema import Config
from rlbench.data.record import RankedListDataset
from rlbench.evaluation.external_lists import read_lists
from rlbench.evaluation.protocols import parse_protocol
from rlbench.lists.items import line_of
from rlbench.lists.metrics import pass_at_k
from rlbench.running.runner import run
from tests.conftest import SMALL, composed
from tests.helpers_teacher import Reply, teacher

SPLITS = {"test": ["a", "b"], "validation": ["v"]}
OTHERS = {"t": "train", "c": "test"}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(*rows: Any, name: str = "lists.jsonl") -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), "utf-8")
        return file

    return written


def read(*files: Path, **options: Any) -> Any:
    found = read_lists(files, SPLITS, OTHERS, **({"with_years": True} | options))
    if found.problems:
        raise BadInput(*found.problems)
    return found.systems


def problems(*files: Path, **options: Any) -> list[str]:
    with pytest.raises(BadInput) as error:
        read(*files, **options)
    return error.value.problems


def test_texts_and_lists_are_read(write: Write) -> None:
    film = {"title": "Alien", "year": 1979}
    file = write({"context_id": "a", "text": "x\ny"}, {"context_id": "b", "list": ["Heat (1995)", film]})
    (one,) = read(file)
    assert (one.name, one.seed, one.samples) == ("lists", 0, {})
    assert one.texts == {"a": "x\ny", "b": "Heat (1995)\nAlien (1979)"}
    (titles,) = read(write({"context_id": "a", "list": ["Emma"]}, {"context_id": "b", "list": [{"title": "It"}]}),
                     with_years=False)  # fmt: skip
    assert titles.texts == {"a": "Emma", "b": "It"}


def test_systems_seeds_and_samples_are_told_apart(write: Write) -> None:
    rows = [
        {"context_id": context, "text": f"{system}{seed}{context}{sample}", "system": system, "seed": seed}
        | ({"sample": sample} if sample is not None else {})
        for context in ("a", "b", "c")
        for system, seed, samples in (("x", 0, (None, 0, 1)), ("x", 1, (None,)), ("y", 0, (5, 3)))
        for sample in samples
    ]
    first, again, only = read(write(*rows))
    assert (first.name, first.seed, first.n_samples) == ("x", 0, 2) and (again.name, again.seed) == ("x", 1)
    assert first.samples["a"] == ["x0a0", "x0a1"] and first.texts == {"a": "x0aNone", "b": "x0bNone"}
    assert only.texts == {"a": "y0a3", "b": "y0b3"}, "without a main list, the first sample is judged"
    assert only.samples["b"] == ["y0b3", "y0b5"]
    shuffled = read(write(*reversed(rows)))
    assert {(one.name, one.seed, one.sha256) for one in shuffled} == {
        (one.name, one.seed, one.sha256) for one in (first, again, only)
    }


def test_all_problems_are_told_at_once(write: Write) -> None:
    file = write(
        "{",
        "[1]",
        {"context_id": "a", "text": ["Heat (1995)"]},
        {"context_id": "a", "list": "Heat (1995)"},
        {"context_id": "a"},
        {"context_id": 3, "text": "x"},
        {"context_id": "a", "text": "x", "sytem": "y"},
        {"context_id": "a", "text": "x", "system": "y/z"},
        {"context_id": "a", "text": "x", "seed": True},
        {"context_id": "a", "text": "x", "sample": -1},
        {"context_id": "a", "list": [{"title": "Heat"}, 3, "two\nlines"]},
        {"context_id": "zz", "text": "x"},
        {"context_id": "t", "text": "x"},
        {"context_id": "a", "text": "x"},
        {"context_id": "a", "text": "y"},
        '{"context_id": "a", "text": "\\ud800"}',
    )
    said = problems(file)
    at = [int(problem.split("line ")[1].split(":")[0]) for problem in said if ", line " in problem.split(":")[0]]
    assert sorted(set(at)) == [*range(1, 14), 15, 16]
    joined = "\n".join(said)
    for words in (
        "text must be a text; give a JSON list as list",
        "list must be a JSON list; give a text as text",
        "needs either text or list: context_id",
        "unknown key 'sytem'. Did you mean 'system'?",
        "system contains a path separator",
        "seed must be a whole number",
        "sample must be a whole number",
        'an entry of list is not "Title (Year)" or',
        "an entry of list has a line break",
        "unknown context_id: 'zz'",
        "not evaluated: it belongs to the split train: 't'",
        f"the same system, seed, context and sample as {file}, line 14",
        "contains half a character",
        "system lists: 1 of 2 contexts of test have no list: b; give an empty text for a context without an answer",
    ):
        assert words in joined, words


def test_validation_may_lack_but_not_in_part(write: Write) -> None:
    rows = [{"context_id": context, "text": ""} for context in ("a", "b", "v")]
    assert set(read(write(*rows))[0].texts) == {"a", "b", "v"}
    file = write(*rows, name="more.jsonl")
    found = read_lists([file], {**SPLITS, "validation": ["v", "w"]}, OTHERS, with_years=True)
    assert "1 of 2 contexts of validation have no list: w" in found.problems[0] and found.names == ["more"]


def test_unequal_numbers_of_samples_are_refused(write: Write) -> None:
    rows = [{"context_id": c, "text": "", "sample": k} for c, n in (("a", 2), ("b", 3)) for k in range(n)]
    assert problems(write(*rows)) == [
        "system lists: contexts of test have from 2 to 3 samples; give all the same number"
    ]


def logged(context: str, texts: Sequence[str], doc_id: int, filter_: str = "none") -> dict[str, Any]:
    """A line of lm-evaluation-harness with --log_samples."""
    return {
        "doc_id": doc_id, "doc": {"context_id": context, "prompt": "..."}, "target": "", "filter": filter_,
        "arguments": {"gen_args_0": {"arg_0": "..."}}, "resps": [list(texts)], "filtered_resps": [texts[0]],
        "metrics": ["exact_match"], "doc_hash": "0", "prompt_hash": "0", "target_hash": "0", "exact_match": 0.0,
    }  # fmt: skip


def test_logged_samples_of_lm_evaluation_harness_are_read(write: Write) -> None:
    lines = [logged(context, [f"{context}0", f"{context}1"], i, f) for f in ("x", "y")
             for i, context in enumerate(("a", "b"))]  # fmt: skip
    file = write(*lines, name="pretrained__llama/samples_films_2026-01-01.jsonl")
    (one,) = read(file, doc_field="context_id")
    assert (one.name, one.n_samples, one.texts) == ("pretrained__llama", 2, {"a": "a0", "b": "b0"})
    (named,) = read(write(*(logged(c, [c], 0) for c in "ab")), doc_field="context_id", system="llama")
    assert (named.name, named.samples, named.texts) == ("llama", {}, {"a": "a", "b": "b"})
    said = problems(file, doc_field="id")
    assert "doc has no field 'id' with a text: its fields: context_id, prompt" in said[0]
    choices = logged("a", ["x"], 0) | {"resps": [[["-1.0", "False"]], [["-2.0", "False"]]]}
    assert "resps is not one request with generated texts" in problems(write(choices), doc_field="context_id")[0]


# Whole commands.


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("beside")
    places = [f"runs_dir={folder}", f"cache_dir={folder}/cache", "experiment_name=small"]
    return composed(*SMALL, *places, "stage=zero_shot", "tracker.completions=2")


@pytest.fixture(scope="module")
def ran(config: Config) -> Path:
    """Runs of an experiment."""
    run(config)
    return Path(config.runs_dir) / "small"


def best(dataset: RankedListDataset, split: str, shift: int = 0) -> dict[str, str]:
    assert dataset.oracle is not None
    contexts = dict.fromkeys(record.context_id for record in dataset.splits[split])
    lists = {context: dataset.oracle[context] for context in contexts}
    return {c: "\n".join(line_of(*item) for item in [*items[shift:], *items[:shift]]) for c, items in lists.items()}


def test_two_foreign_systems_next_to_a_run(ran: Path, mini: RankedListDataset, write: Write, tmp_path: Path) -> None:
    """docs/scoring.md: the lists of two systems stand in the table of an experiment."""
    rows = [{"context_id": c, "system": "mirror", "list": text.split("\n")} for c, text in best(mini, "test").items()]
    for shift in range(3):
        rows += [{"context_id": c, "system": "turned", "sample": shift, "text": text}
                 for c, text in best(mini, "test", shift).items()]  # fmt: skip
    file = write(*rows)
    assert score.main([str(file), "--beside", str(ran)]) == 0
    assert score.main([str(file), "--beside", str(ran)]) == 0, "what is done is not made again"
    collection = collect(ran)
    assert collection.problems == ()
    table = build_table(collection.groups()[0], resamples=50)
    by_name = {row.name: row for row in table.rows}
    assert list(by_name) == ["oracle", "zero-shot", "mirror", "turned"]
    assert by_name["mirror"].metrics == by_name["oracle"].metrics == by_name["turned"].metrics
    (made,) = (ran / "mini-tiny" / "turned").iterdir()
    predictions = pd.read_parquet(made / "predictions-test-0.parquet")
    correct = np.zeros(len(predictions), dtype=np.int64)
    for shift in range(3):
        kept = {c: text.split("\n")[:10] for c, text in best(mini, "test", shift).items()}
        correct += [
            any(line_of(*item) in kept[record.context_id] for item in record.ground_truth)
            for record in mini.splits["test"]
        ]
    np.testing.assert_allclose(predictions["pass@2"], pass_at_k(correct, 3, 2))
    manifest = json.loads((made / "manifest.json").read_text())
    assert manifest["lists"]["files"][0]["name"] == "lists.jsonl" and len(manifest["lists"]["sha256"]) == 64
    again, told = rescore(ran, [parse_protocol("casefold,list_length=5,cutoffs=5")], tmp_path / "rescored")
    assert told == [] and {one.source.result["label"] for one in again} >= {"mirror", "turned"}


def test_other_lists_of_the_same_system_are_not_overwritten(
    ran: Path, mini: RankedListDataset, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = best(mini, "test")
    file = write(*({"context_id": c, "text": text} for c, text in lists.items()), name="kept.jsonl")
    assert score.main([str(file), "--beside", str(ran)]) == 0
    file = write(*({"context_id": c, "text": ""} for c in lists), name="kept.jsonl")
    capsys.readouterr()
    assert score.main([str(file), "--beside", str(ran)]) == 2
    assert "holds other lists of the system kept, seed 0" in capsys.readouterr().err
    assert score.main([str(file), "--beside", str(ran), "--system", "zero_shot"]) == 2
    assert "system zero_shot: the name belongs to another row" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["grpo-relevance", "GRPO-mine", "mine-relevance@lr", "sft@gold", "BM25", ".hidden"])
def test_a_name_that_a_row_of_runs_could_have_is_refused(
    ran: Path, mini: RankedListDataset, write: Write, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    file = write(*({"context_id": c, "text": "", "system": name} for c in best(mini, "test")))
    assert score.main([str(file), "--beside", str(ran)]) == 2
    said = capsys.readouterr().err
    assert f"system {name}: the name" in said and "give the system another one" in said.lower()
    assert not (ran / "mini-tiny" / name).exists()
    assert evaluate.main(["--model", "./x", "--name", name, "--beside", str(ran)]) == 2
    assert f"system {name}: the name" in capsys.readouterr().err


def test_names_and_all_other_problems_are_told_together(
    ran: Path, mini: RankedListDataset, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    contexts = list(best(mini, "test"))
    rows = [{"context_id": c, "text": "", "system": name} for name in ("zero_shot", "sft") for c in contexts]
    file = write(*rows, {"context_id": contexts[0], "text": "", "system": "part"}, "{")
    assert score.main([str(file), "nowhere.jsonl", "--beside", str(ran)]) == 2
    said = capsys.readouterr().err
    for words in ("system zero_shot: the name belongs", "system sft: the name belongs", "system part: 5 of 6 contexts",
                  "not JSON", "nowhere.jsonl: there is no such file"):  # fmt: skip
        assert words in said, words
    assert "holds other lists" not in said and "move it away" not in said, "a run of rlbench must stay where it is"


def test_a_run_does_not_take_the_row_of_lists_from_elsewhere(
    ran: Path, config: Config, mini: RankedListDataset, write: Write
) -> None:
    file = write(*({"context_id": c, "text": "", "system": "own-mine"} for c in best(mini, "test")))
    assert score.main([str(file), "--beside", str(ran)]) == 0
    named = replace(config, stage="rl", algorithm=replace(config.algorithm, name="own"))
    named = replace(named, reward=replace(named.reward, name="mine"))
    with pytest.raises(BadInput, match="own-mine holds lists from elsewhere under the name of this row"):
        run(named)


def test_seeds_of_a_system_share_a_row(ran: Path, mini: RankedListDataset, write: Write) -> None:
    rows = [
        {"context_id": c, "text": text, "system": "seeded", "seed": seed}
        for seed in range(3)
        for c, text in best(mini, "test", seed).items()
    ]
    assert score.main([str(write(*rows)), "--beside", str(ran)]) == 0
    runs = collect(ran).runs
    assert runs[runs["label"] == "seeded"]["seed"].tolist() == [0, 1, 2]


def test_lists_without_runs_stand_beside_the_baselines(mini: RankedListDataset, write: Write, tmp_path: Path) -> None:
    rows = [{"context_id": c, "text": t} for split in ("test", "validation") for c, t in best(mini, split).items()]
    settings = [*SMALL[:2], "baselines=[popularity,bm25]", f"runs_dir={tmp_path / 'runs'}"]
    assert score.main([str(write(*rows, name="mine.jsonl")), "--dataset", "mini", *settings]) == 0
    (group,) = collect(tmp_path / "runs").groups()
    table = build_table(group, resamples=50)
    assert [row.name for row in table.rows] == ["popularity", "BM25", "mine"]
    assert set(group.runs["experiment"]) == {"scores"} and set(group.runs["model"]) == {"external"}
    assert "validation.ndcg@10" in group.runs


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lists.jsonl"], "say what the lists are judged on"),
        (["dataset=mini"], "no file of lists was given"),
        (["lists.jsonl", "--beside", "nowhere"], "there is no folder nowhere"),
        (["lists.jsonl", "--beside", ".", "--dataset", "mini"], "--beside takes data and settings from the runs"),
        (["lists.jsonl", "--dataset", "minni"], "minni"),
        (["nowhere.jsonl", "--dataset", "mini", *SMALL[:2]], "nowhere.jsonl: there is no such file"),
    ],
)
def test_wrong_words_are_told(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert score.main(words) == 2
    assert said in capsys.readouterr().err


# Models.


def rows_of(folder: Path) -> pd.DataFrame:
    (made,) = folder.iterdir()
    return pd.read_parquet(made / "predictions-test-0.parquet")


def test_a_model_folder_gets_the_lists_that_a_run_of_it_has(ran: Path, tiny_folder: Path) -> None:
    """tiny, untrained, is also the zero-shot row of the runs."""
    words = ["--model", str(tiny_folder), "--beside", str(ran), "--name", "copy", "--samples", "2"]
    assert evaluate.main(words) == 0
    assert evaluate.main(words) == 0, "it is not evaluated again"
    group = ran / "mini-tiny"
    copy, run_of_it = rows_of(group / "copy"), rows_of(group / "zero_shot")
    assert copy["text"].tolist() == run_of_it["text"].tolist()
    same = [name for name in run_of_it.select_dtypes("float") if not name.startswith(("pass@", "union"))]
    pd.testing.assert_frame_equal(copy[same], run_of_it[same])
    assert {"pass@1", "pass@2"} <= set(copy)
    assert "copy" in set(collect(ran).runs["label"])


def test_a_server_is_asked_once_for_each_list(
    ran: Path, mini: RankedListDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = best(mini, "test")
    of_prompt = {record.prompt[-1]["content"]: lists[record.context_id] for record in mini.splits["test"]}
    lost = next(iter(of_prompt))
    fails = [True]

    def replies(request: dict[str, Any], before: int) -> Reply:
        asked = request["messages"][-1]["content"]
        if asked == lost and fails[0]:
            return Reply(raw="not today", status=400)
        return Reply(of_prompt[asked])

    with teacher(replies) as server:
        words = ["--model", "org/big-model", "--endpoint", server.url, "--beside", str(ran), "--samples", "2"]
        assert evaluate.main(words) == 1
        assert "1 of 6 contexts got no answer" in capsys.readouterr().err
        assert not (ran / "mini-tiny" / "big-model").exists()
        fails[0], before = False, len(server.requests)
        assert evaluate.main(words) == 0
        assert len(server.requests) - before == 1 + 2 * 6, "what was answered is in the cache"
        greedy, *_, last = [body for body, _ in server.requests]
        assert greedy["temperature"] == 0 and last["temperature"] > 0 and "seed" in last
    made, oracle = rows_of(ran / "mini-tiny" / "big-model"), rows_of(ran / "mini-tiny" / "oracle")
    assert made["ndcg@10"].tolist() == oracle["ndcg@10"].tolist()
    assert (made["pass@1"] == (made["recall@10"] > 0)).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "x", "--samples", "-1", "--dataset", "mini"], "--samples -1 must lie in"),
        (["--model", "x", "--endpoint", "ftp://y", "--dataset", "mini"], "--endpoint ftp://y must be a URL"),
        (["--model", "x", "--endpoint", "http://y", "--backend", "vllm"], "--backend has no effect"),
        (["--model", "./nowhere", "--dataset", "mini", *SMALL[:2]], "nowhere"),
    ],
)
def test_wrong_words_of_an_evaluation_are_told(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(words) == 2
    assert said in capsys.readouterr().err
