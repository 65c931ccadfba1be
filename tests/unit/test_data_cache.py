"""The data cache gives the same records and tokens as the files, is shared, and is made again when it is damaged."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rlbench.base.cache import MEMORY, Cache
from rlbench.base.errors import BadInput
from rlbench.config.schema import Config, DatasetConfig
from rlbench.data import cached, load_dataset
from rlbench.data.cached import open_dataset
from rlbench.data.checks import digests, fingerprint
from rlbench.data.facts import item_facts
from rlbench.data.record import RankedListDataset
from rlbench.data.stored import ROWS, StoredPlace, StoredRecords, column, write_records
from rlbench.evaluation.evaluate import eos_ids, longest_prompt
from rlbench.evaluation.judging import choose_contexts
from rlbench.evaluation.lengths import longest_of
from rlbench.models.loading import load_tokenizer
from rlbench.models.sources import texts_digest, tokenizer_texts
from rlbench.running.runner import run
from rlbench.runs import inputs
from rlbench.runs.directory import locate
from rlbench.training import tokens as tokens_module
from rlbench.training.demonstrations import Demonstrations, check_ends, kept_of
from rlbench.training.rl import prompt_dataset
from rlbench.training.tokens import tokenised
from tests.conftest import SMALL, composed
from tests.helpers_inputs import OF_REDIAL, write_redial
from tests.helpers_training import load
from tests.unit.test_data_reddit_v2 import PARTS, save
from tests.unit.test_demonstrations import sft_trainer

LONG = 256


def redial(folder: Path, **options: object) -> DatasetConfig:
    return replace(composed(*OF_REDIAL).dataset, path=str(folder), **options)


def reddit(folder: Path) -> DatasetConfig:
    for part, rows in PARTS.items():
        save(folder, part, rows)
    (folder / "gt_catalog.json").write_text(json.dumps([["Heat", 1995], ["Alien", 1979], ["Jaws", "1975"]]))
    return replace(composed("dataset=reddit_v2", "dataset.list_length=2").dataset, path=str(folder))


DATASETS: dict[str, Callable[[Path], DatasetConfig]] = {
    "mini": lambda folder: composed(*SMALL, "dataset.demonstrations_from=remap_adjust").dataset,
    "redial": lambda folder: redial(write_redial(folder / "data")),
    "reddit_v2": reddit,
}


class Told(list[str]):
    """A cache that keeps its sentences."""

    def __init__(self, folder: Path):
        self.cache = Cache(folder / "cache", self.append)


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> RankedListDataset:
    """The small `mini`, stored."""
    return open_dataset(composed(*SMALL).dataset, Told(tmp_path_factory.mktemp("stored")).cache)


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
    return load_tokenizer(tiny_folder)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of every dataset that is loaded from its files."""
    names: list[str] = []

    def noted(config: DatasetConfig) -> RankedListDataset:
        names.append(config.name)
        return load_dataset(config)

    monkeypatch.setattr(cached, "load_dataset", noted)
    return names


# Records.


@pytest.mark.parametrize("name", DATASETS)
def test_a_stored_dataset_equals_the_loaded_one(name, tmp_path, told, loads):
    config = DATASETS[name](tmp_path)
    plain = load_dataset(config)
    for _ in range(2):
        found = open_dataset(config, told.cache)
        assert found.place is not None and list(found.splits) == list(plain.splits)
        for split, records in found.splits.items():
            # repr shows the order of keys, and the fingerprint depends on it
            assert list(map(repr, records)) == list(map(repr, plain.splits[split]))
            assert [records[place] for place in range(len(records))] == records[:] == list(plain.splits[split])
            assert records[-1] == plain.splits[split][-1] and records[1:-1:2] == list(plain.splits[split][1:-1:2])
            assert column(records, "cluster_id") == column(plain.splits[split], "cluster_id")
        assert (found.name, found.oracle, found.notices) == (plain.name, plain.oracle, plain.notices)
        assert found.catalog.items == plain.catalog.items and found.fingerprint == plain.fingerprint
        assert fingerprint(found.splits, found.catalog) == plain.fingerprint
        for shown in (True, False):
            assert digests(found, shown) == digests(plain, shown) == digests(replace(found, known_digests={}), shown)
        assert list(tokenizer_texts(found)) == list(tokenizer_texts(plain)) and texts_digest(found) == texts_digest(
            plain
        )
        facts, expected = (item_facts(dataset, plain.catalog) for dataset in (found, plain))
        np.testing.assert_array_equal(facts.counts, expected.counts)
    assert loads == [name], "the second time it is read from the cache"


def test_a_file_has_batches_of_equal_size_except_the_last(mini, tmp_path, told):
    records = [replace(record, context_id=str(i)) for i, record in enumerate(mini.splits["train"] * 40)][: 2 * ROWS + 7]
    write_records(records, tmp_path / "x.arrow", lambda count: None)
    found = StoredRecords(tmp_path / "x.arrow", StoredPlace(told.cache, "x"))
    assert [found[place] for place in (0, ROWS - 1, ROWS, 2 * ROWS + 6, -1)] == [
        records[place] for place in (0, ROWS - 1, ROWS, 2 * ROWS + 6, -1)
    ]
    assert found[ROWS - 2 : ROWS + 2] == records[ROWS - 2 : ROWS + 2] and list(found) == records
    with pytest.raises(IndexError):
        found[2 * ROWS + 7]


def test_messages_that_arrow_would_change_are_not_stored(mini, told, monkeypatch):
    """A struct has one order of keys. Records with two would come back with another fingerprint."""
    first, *others = mini.splits["train"]
    turned = replace(first, prompt=[dict(reversed(message.items())) for message in first.prompt])
    odd = replace(mini, splits={**mini.splits, "train": [turned, *others]})
    monkeypatch.setattr(cached, "load_dataset", lambda config: odd)
    found = open_dataset(composed(*SMALL).dataset, told.cache)
    assert found is odd and len(told) == 1 and "messages have different keys" in told[0]


def test_data_with_problems_are_not_stored(tmp_path, told, loads):
    config = replace(redial(write_redial(tmp_path / "data")), list_length=500)
    with pytest.raises(BadInput, match="too few for demonstrations"):
        open_dataset(config, told.cache)
    (tmp_path / "data" / "valid.jsonl").write_text("no JSON\n")
    with pytest.raises(BadInput, match="not JSON"):
        open_dataset(replace(config, list_length=2), told.cache)
    assert not list((tmp_path / "cache").glob("redial-*/records")) and told == []


def test_problems_of_a_whole_dataset_are_told_and_nothing_is_stored(mini, told, monkeypatch):
    leaked = replace(mini, splits={**mini.splits, "test": mini.splits["train"]})
    monkeypatch.setattr(cached, "load_dataset", lambda config: leaked)
    assert open_dataset(composed(*SMALL).dataset, told.cache) is leaked and told == []


# When it is made again.


def changed(tmp_path: Path, config: DatasetConfig) -> dict[str, DatasetConfig]:
    data = tmp_path / "data"
    again = shutil.copytree(data, tmp_path / "elsewhere")
    other = shutil.copytree(data, tmp_path / "other")
    text = (other / "test.jsonl").read_text()
    (other / "test.jsonl").write_text(text.replace("I liked", "I loved"))
    return {
        "the same": config,
        "other cut-offs": replace(config, cutoffs=[1]),
        "another folder": replace(config, path=str(again)),
        "another length": replace(config, list_length=1),
        "another file": replace(config, path=str(other)),
    }


def test_the_key_covers_what_can_change_a_record(tmp_path, told, loads):
    config = redial(write_redial(tmp_path / "data"))
    first = open_dataset(config, told.cache)
    same = {
        name: open_dataset(config, told.cache).place == first.place
        for name, config in changed(tmp_path, config).items()
    }
    assert same == {
        "the same": True,
        "other cut-offs": True,
        "another folder": True,
        "another length": False,
        "another file": False,
    }
    assert len(loads) == 3


def test_the_code_that_reads_the_data_counts(tmp_path, told, monkeypatch):
    config = redial(write_redial(tmp_path / "data"))
    first = open_dataset(config, told.cache)
    monkeypatch.setattr(cached, "code_digest", lambda *parts: "other code")
    assert open_dataset(config, told.cache).place != first.place


@pytest.mark.parametrize("how", ["a flipped byte", "cut", "missing", "no list", "unfinished"])
def test_a_damaged_cache_is_made_again_with_a_message(how, tmp_path, told, loads):
    config = redial(write_redial(tmp_path / "data"))
    first = open_dataset(config, told.cache)
    folder = told.cache.root / first.place.name / "records"
    file, whole = folder / "test.arrow", (folder / "test.arrow").read_bytes()
    if how == "a flipped byte":
        file.write_bytes(whole.replace(b"says test 1", b"says text 1"))
    elif how == "cut":
        file.write_bytes(whole[:-100])
    elif how == "missing":
        file.unlink()
    elif how == "no list":
        (folder / "files.json").write_text("{")
    else:
        folder.rename(folder.with_name(".records.partial"))
    again = open_dataset(config, told.cache)
    assert [list(again.splits[split]) for split in again.splits] == [
        list(load_dataset(config).splits[s]) for s in again.splits
    ]
    assert len(told) == 1 and "making it again" in told[0] and str(folder) in told[0]
    assert loads == ["redial"] * 2 and not list(folder.parent.glob(".*.partial"))
    assert open_dataset(config, told.cache).fingerprint == first.fingerprint and len(told) == 1


def test_damaged_facts_are_computed_again(stored, tmp_path, told):
    values = iter(range(9))
    assert [told.cache.fact("a/b.json", lambda: next(values)) for _ in range(2)] == [0, 0]
    (told.cache.root / "a/b.json").write_text('{"value": 7, "sha256": "0"}')
    assert told.cache.fact("a/b.json", lambda: next(values)) == 1
    (told.cache.root / "a/b.json").write_text("{")
    assert told.cache.fact("a/b.json", lambda: next(values)) == 2
    assert [sentence.split("; ")[1] for sentence in told] == ["making it again"] * 2


def test_a_digest_is_remembered_until_the_file_changes(tmp_path, told, monkeypatch):
    file = tmp_path / "x"
    file.write_text("one")
    first = told.cache.digest(file)
    assert not (told.cache.root / MEMORY).exists(), "a file that has just been written may still change"
    monkeypatch.setattr("rlbench.base.cache.SETTLED", -1)
    assert told.cache.digest(file) == first
    monkeypatch.setattr("rlbench.base.cache.file_digest", lambda path: "read again")
    assert told.cache.digest(file) == first
    (told.cache.root / MEMORY).write_text((told.cache.root / MEMORY).read_text().replace(first, "0" * 64))
    assert told.cache.digest(file) == "read again", "the memory itself is checked"
    file.write_text("two")
    assert told.cache.digest(file) == "read again"


def test_data_that_change_while_they_are_read_are_not_stored(tmp_path, told, monkeypatch):
    config = redial(write_redial(tmp_path / "data"))

    def edited(config: DatasetConfig) -> RankedListDataset:
        dataset = load_dataset(config)
        file = tmp_path / "data" / "test.jsonl"
        file.write_text(file.read_text().replace("I liked", "I loved"))
        return dataset

    monkeypatch.setattr(cached, "load_dataset", edited)
    assert open_dataset(config, told.cache).place is None
    assert len(told) == 1 and "have changed while they were read" in told[0]


def test_processes_that_need_the_same_dataset_make_it_once(tmp_path, told, loads):
    config = redial(write_redial(tmp_path / "data"))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: open_dataset(config, told.cache), range(4)))
    assert loads == ["redial"] and told == []
    assert len({dataset.place.name for dataset in found}) == 1


def test_a_full_disk_stops_nothing(tmp_path, told, monkeypatch):
    config = redial(write_redial(tmp_path / "data"))

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cached, "write_records", full)
    found = open_dataset(config, told.cache)
    assert found.place is None and found.fingerprint == load_dataset(config).fingerprint
    assert len(told) == 1 and "No space left on device" in told[0]
    assert not list((tmp_path / "cache").glob("redial-*/.*.partial"))


def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nothing can be written to the cache, as on a read-only file system."""

    def refuse(*arguments: object, **others: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for module in ("rlbench.base.cache", "rlbench.base.files"):
        monkeypatch.setattr(f"{module}.write_text", refuse)
    monkeypatch.setattr("rlbench.base.files.new_folder", refuse)
    monkeypatch.setattr("rlbench.base.cache.SETTLED", -1)  # otherwise nothing tries to remember a digest


def test_a_cache_that_cannot_be_written_gives_what_it_holds(tmp_path, told, loads, monkeypatch):
    config = redial(write_redial(tmp_path / "data"))
    first = open_dataset(config, told.cache)
    read_only(monkeypatch)
    found = open_dataset(config, told.cache)
    assert found.place == first.place and loads == ["redial"] and told == []
    assert found.place.fact("new", lambda: 3) == 3
    assert len(told) == 1 and "cannot be written (read-only file system)" in told[0]
    other = open_dataset(redial(write_redial(tmp_path / "other", swap="test")), told.cache)
    assert other.place is None and other.fingerprint != first.fingerprint
    assert told[1].startswith("data cache: redial is not stored, because ") and "read-only file system" in told[1]


@pytest.mark.parametrize("what", ["a file", "a dangling link"])
@pytest.mark.parametrize("where", ["", "/records", "/facts"])
def test_what_is_no_folder_makes_way(where, what, tmp_path, told):
    config = redial(write_redial(tmp_path / "data"))
    first = open_dataset(config, told.cache)
    first.place.fact("new", lambda: 3)
    place = Path(f"{told.cache.root / first.place.name}{where}")
    shutil.rmtree(place)
    told.clear()
    place.write_text("x") if what == "a file" else place.symlink_to("nowhere")
    again = open_dataset(config, told.cache)
    assert again.fingerprint == first.fingerprint and again.place == first.place
    assert again.place.fact("new", lambda: 4) == (3 if where == "/records" else 4)
    assert place.is_dir() and any(f"{place} is no folder; making it again" in sentence for sentence in told)


def test_a_folder_in_the_place_of_a_fact_makes_way(stored, told):
    path = told.cache.root / "a/b.json"
    path.mkdir(parents=True)
    assert [told.cache.fact("a/b.json", lambda: 5) for _ in range(2)] == [5, 5]
    assert path.is_file() and len(told) == 1 and "cannot be read; making it again" in told[0]


# What is computed from the records.


@pytest.mark.parametrize("limit", [None, 1, 4, 6, 99])
def test_the_same_contexts_are_chosen(limit, mini, stored):
    assert list(choose_contexts(stored.splits["test"], limit)) == list(choose_contexts(mini.splits["test"], limit))


def test_the_longest_prompts_are_the_same_and_measured_once(mini, stored, tokenizer, monkeypatch):
    monkeypatch.setattr("rlbench.evaluation.lengths.AT_ONCE", 7)
    expected = {split: longest_prompt(records, tokenizer) for split, records in mini.splits.items()}
    assert {split: longest_of(records, tokenizer) for split, records in stored.splits.items()} == expected
    monkeypatch.setattr("rlbench.evaluation.lengths.longest_prompt", None)
    assert {split: longest_of(records, tokenizer) for split, records in stored.splits.items()} == expected


def test_the_trainer_reads_the_same_prompts(mini, stored):
    ours, plain = (prompt_dataset(dataset.splits["train"]) for dataset in (stored, mini))
    assert ours.column_names == plain.column_names and ours.features == plain.features
    assert list(map(repr, ours)) == list(map(repr, plain))


# Tokens.


@pytest.mark.parametrize("cut", ["nothing", "some completions", "some whole completions"])
def test_tokens_are_those_of_trl(cut, mini, stored, tokenizer, tiny_folder, tmp_path):
    prompts = sorted(len(prompt) for prompt, _ in Demonstrations(mini.splits["sft"], tokenizer, LONG, 0).rows)
    limit = {"nothing": LONG, "some completions": prompts[-1] + 5, "some whole completions": prompts[20]}[cut]
    ours = tokenised(stored.splits["sft"], tokenizer, limit)
    theirs = sft_trainer(mini, tiny_folder, tmp_path, limit).train_dataset
    assert list(ours.dataset()) == [{"input_ids": r["input_ids"], "labels": r["labels"]} for r in theirs]
    plain = Demonstrations(mini.splits["sft"], tokenizer, limit, 0)
    assert list(ours) == plain.rows == ours[:] and ours[-1] == plain.rows[-1]
    ends = eos_ids(load(tiny_folder)[1], tokenizer)
    assert ours.kept(ends) == kept_of(mini.splits["sft"], tokenizer, limit, ends) and ours.cut_prompts == 0


def test_the_policy_sees_the_same_batches_of_demonstrations(mini, stored, tokenizer):
    rows = tokenised(stored.splits["sft"], tokenizer, LONG)
    ours = Demonstrations(stored.splits["sft"], tokenizer, LONG, 3, rows)
    plain = Demonstrations(mini.splits["sft"], tokenizer, LONG, 3)
    for number in (0, 7):
        one, other = (each.batch(number, 8, "cpu") for each in (ours, plain))
        for name, ours_is in vars(one).items():
            theirs = getattr(other, name)
            assert torch.equal(ours_is, theirs) if isinstance(ours_is, torch.Tensor) else ours_is == theirs, name


def test_tokens_are_made_once_and_again_when_damaged(mini, tokenizer, told, monkeypatch):
    records = open_dataset(composed(*SMALL).dataset, told.cache).splits["sft"]
    first = tokenised(records, tokenizer, LONG)
    rows = list(first)
    first.file.write_bytes(first.file.read_bytes()[:-8])
    assert list(tokenised(records, tokenizer, LONG)) == rows
    assert len(told) == 1 and "making it again" in told[0]
    monkeypatch.setattr(tokens_module, "write_tokens", None)
    assert list(tokenised(records, tokenizer, LONG)) == rows
    assert tokenised(mini.splits["sft"], tokenizer, LONG) is None


def test_other_templates_and_lengths_have_tokens_of_their_own(stored, tokenizer, tiny_folder):
    other = load_tokenizer(tiny_folder)
    other.chat_template = other.chat_template.replace("<|user|>", "<|user|> ").replace(
        "m['content']", "m['content'] + ' '"
    )
    made = [tokenised(stored.splits["sft"], *how) for how in ((tokenizer, LONG), (other, LONG), (tokenizer, 100))]
    assert len({each.file for each in made}) == 3
    assert made[1][0] == Demonstrations(stored.splits["sft"], other, LONG, 0).rows[0] != made[0][0]


def test_prompts_that_a_completion_changes_are_counted(stored, tiny_folder):
    """TRL warns about them while it tokenises."""
    odd = load_tokenizer(tiny_folder)
    odd.chat_template = odd.chat_template.replace("{{ '<|assistant|>' }}", "{{ 'Answer:' }}")
    found = tokenised(stored.splits["sft"], odd, LONG)
    assert found.cut_prompts == found.records and "tokenised differently" in found.words()


def test_ends_are_checked_on_the_shortest_demonstrations(mini, stored, tokenizer):
    for limit in (LONG, 10):
        ours, plain = (check_ends(d.splits["sft"], tokenizer, limit, "tiny") for d in (stored, mini))
        assert ours == plain and bool(ours) == (limit == 10)


# Runs.


def cell(folder: Path, cache: str, *overrides: str) -> Config:
    places = [f"runs_dir={folder / cache}", f"cache_dir={folder / 'cache'}"]
    return composed(
        *SMALL, "+debug=smoke", *places, *([] if cache == "cached" else ["runtime.data_cache=null"]), *overrides
    )


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["uniapl", "sprec"])
def test_a_run_from_the_cache_is_the_same_run(algorithm, tmp_path):
    made = {}
    for cache in ("cached", "plain"):
        inputs.forget()
        config = cell(tmp_path, cache, f"algorithm={algorithm}", "trainer.sft.evaluate_every=1")
        made[cache] = run(config)
        assert (inputs.load(config).place is not None) == (cache == "cached")
    ours, plain = made.values()
    assert ours.root.relative_to(tmp_path / "cached") == plain.root.relative_to(tmp_path / "plain")
    for stage in ("oracle", "zero_shot", "sft", "rl"):
        pair = [locate(cell(tmp_path, cache, f"algorithm={algorithm}"), stage) for cache in made]
        one, other = (json.loads((each.root / "result.json").read_text()) for each in pair)
        for result in (one, other):
            result.pop("budget")
        assert one == other
        if stage in ("sft", "rl"):
            assert len({(each.final_model / "model.safetensors").read_bytes() for each in pair}) == 1
    assert list((tmp_path / "cache" / "data").glob("mini-*/tokens-*"))
