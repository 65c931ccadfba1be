"""Re-scoring with a run's own rules gives bit-identical numbers, and the runs never change."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ir_measures
import numpy as np
import pandas as pd
import pytest
import yaml
from ir_measures import R, nDCG

from analysis import report
from analysis.collection import collect
from analysis.collection import stored as collected
from analysis.collection.costs import total_cost
from analysis.commands import rescore
from analysis.rescore import main
from rlbench.base.errors import BadInput
from rlbench.base.files import write_json
from rlbench.config.schema import Config
from rlbench.data import load_dataset
from rlbench.data.record import RankedListDataset, Record
from rlbench.evaluation.judging import Answer, judge_answers, make_criteria, sampled_metrics
from rlbench.evaluation.protocols import parse_protocol
from rlbench.evaluation.rescoring import confidence_by_line
from rlbench.lists.relevance import make_judge
from rlbench.runs.claiming import claim
from rlbench.runs.directory import locate, seal
from rlbench.runs.record import SCHEMA
from tests.conftest import SMALL, composed

ROOT = Path(__file__).parents[2]
STEP = 4
Write = Callable[[Record, np.random.Generator], str]


def messy(record: Record, rng: np.random.Generator) -> str:
    """A list with every feature that matching rules treat differently."""
    title, year = record.ground_truth[0]
    lines = [
        "Here you go:",
        f"1. {title.upper()} ({year})",
        f"{title} ({year + 1})",
        "",
        f"**{title}** ({year})",
        f"{record.seen_titles[0]} (1990)",
        f"{title}x ({year})",
        "No Such Film (1999)",
        f"Alien [{1979}]",
    ]
    return "\n".join(lines[i] for i in rng.permutation(len(lines))[: rng.integers(4, 10)]) + "\n" * rng.integers(0, 2)


def make_run(folder: Path, mini: RankedListDataset, write: Write, *overrides: str, seed: int = 0) -> Path:
    """A finished RL run on the small mini, made without a model; `write` turns a record into its list."""
    config: Config = composed(*SMALL, *overrides, f"runs_dir={folder}", f"seed={seed}", "experiment_name=lists")
    rng = np.random.default_rng(seed)
    run = locate(config, "rl")
    criteria = make_criteria(config.matching, mini, config.dataset.list_length)
    judge, metrics = criteria.judge, {}
    with claim(run, config):
        run.append_metrics(1, "train", {"reward": 0.5})
        run.append_metrics(2, "validation", {"ndcg@10": 0.1})
        for split in ("validation", "test"):
            records = mini.splits[split]
            answers = {}
            for record in records:
                if record.context_id not in answers:
                    text = write(record, rng)
                    confidence = np.full(judge.list_length, np.nan)
                    listed = min(len(judge.parse(text).items), judge.list_length)
                    confidence[:listed] = rng.random(listed)
                    answers[record.context_id] = Answer(
                        text, judge.parse(text), bool(rng.random() < 0.7), len(text), confidence
                    )
            table, means = judge_answers(records, answers, criteria, config.dataset.cutoffs)
            if split == "test" and config.evaluation.samples:
                rows = [(c, i, write(r, rng)) for c, r in {r.context_id: r for r in records}.items() for i in range(2)]
                samples = pd.DataFrame(rows, columns=["context_id", "list", "text"])
                samples.to_parquet(run.root / f"samples-test-{STEP}.parquet")
                together = sampled_metrics(records, samples, judge, 2, config.evaluation.pass_at)
                table = table.assign(**together)
                means |= {name: float(values.mean()) for name, values in together.items()}
            table.to_parquet(run.root / f"predictions-{split}-{STEP}.parquet")
            metrics[split] = means
        run.append_metrics(STEP, "test", metrics["test"])
        write_json(run.root / "manifest.json", {"data": {"name": "mini", "sha256": mini.fingerprint}})
        budget = {"prompts": 1, "completions": 2, "generated_tokens": 3, "updates": STEP, "seconds": {"total": 1.0}}
        result = {
            "schema": SCHEMA,
            "experiment": "lists",
            "dataset": "mini",
            "model": "tiny",
            "stage": "rl",
            "label": run.label,
            "algorithm": config.algorithm.name,
            "reward": config.reward.name,
            "seed": seed,
            "hash": run.hash,
            "list_length": config.dataset.list_length,
            "cutoffs": config.dataset.cutoffs,
            "checkpoint": {"rule": "last", "step": STEP},
            "metrics": metrics,
            "budget": budget,
        }
        write_json(run.root / "result.json", result)
    return run.root


@pytest.fixture
def runs(tmp_path: Path, mini: RankedListDataset) -> Path:
    for seed in (0, 1):
        make_run(tmp_path / "runs", mini, messy, seed=seed)
    return tmp_path / "runs"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def judged_by(runs: Path, *protocols: str) -> list[rescore.Rescored]:
    made, problems = rescore.rescore(runs, [parse_protocol(text) for text in protocols], runs.parent / "out")
    assert problems == []
    return made


def test_a_runs_own_protocol_gives_its_own_numbers(tmp_path: Path, mini: RankedListDataset) -> None:
    settings = [["matching=casefold"], ["matching=published"], ["matching=fuzzy", "dataset.list_length=4"]]
    settings[1] += ["evaluation.samples=2", "evaluation.pass_at=[1,2]"]
    settings[2] += ["dataset.cutoffs=[2,4]", "variant=short"]
    small = load_dataset(composed(*SMALL, *settings[2]).dataset)  # the list length is part of the prompts
    for number, own in enumerate(settings):
        make_run(tmp_path / "runs", small if number == 2 else mini, messy, *own, seed=number)
    before = contents(tmp_path / "runs")
    made = judged_by(tmp_path / "runs", "own")
    assert len(made) == 3 and contents(tmp_path / "runs") == before
    for one in made:
        for split in ("validation", "test"):
            name = f"predictions-{split}-{STEP}.parquet"
            old, new = (pd.read_parquet(folder / name) for folder in (one.source.path, one.target))
            pd.testing.assert_frame_equal(old, new, check_exact=True)
        assert one.result()["metrics"] == one.source.result["metrics"]
    comparison = rescore.compare(made)
    assert len(comparison) > 200 and (comparison["old"] == comparison["new"]).all()
    assert {"pass@2", "ece", "novelty", "published_ndcg@4"} <= set(comparison["metric"])


def spelt(record: Record, rng: np.random.Generator) -> str:
    """Four lines: a true film in capitals, an unknown film, the true film two years late, and its title misspelt."""
    title, year = next(film for film in record.ground_truth if film[0] != film[0].upper())
    return f"{title.upper()} ({year})\nNo Such Film (1901)\n{title} ({year + 2})\n{title}zz ({year})\n"


def test_rules_differ_where_they_should(tmp_path: Path, mini: RankedListDataset) -> None:
    path = make_run(tmp_path / "runs", mini, spelt)
    old = pd.read_parquet(path / f"predictions-test-{STEP}.parquet")
    made = judged_by(tmp_path / "runs", "exact", "casefold", "tolerant", "fuzzy", "casefold,year_tolerance=2")
    verdicts = {}
    for one in made:
        table = pd.read_parquet(one.target / f"predictions-test-{STEP}.parquet")
        first = table.drop_duplicates("context_id")  # the list names the first answerer's truth
        verdicts[one.protocol.name] = [tuple(row) for row in first["verdicts"]]
        assert table["text"].tolist() == old["text"].tolist()
    missing, repeat = "out_of_catalog", "duplicate"
    assert set(verdicts["exact"]) == {(missing,) * 4}
    assert set(verdicts["casefold"]) == {("hit", missing, missing, missing)}
    assert set(verdicts["tolerant"]) == {("hit", missing, repeat, missing)}
    assert verdicts["casefold,year_tolerance=2"] == verdicts["tolerant"]
    assert all(row[0] == "hit" for row in verdicts["fuzzy"])
    assert any(row[3] == repeat for row in verdicts["fuzzy"])  # long titles match with two more letters
    results = {one.protocol.name: one.result()["metrics"]["test"] for one in made}
    assert results["exact"]["recall@5"] == 0 < results["casefold"]["recall@5"]
    assert results["casefold"]["in_catalog"] == 0.25 and results["tolerant"]["in_catalog"] == 0.5


def test_ir_measures_gives_the_same_numbers(tmp_path: Path, mini: RankedListDataset) -> None:
    """Films are spelt as in the catalogue, unrepeated and unseen, so relevance does not depend on the rules."""

    def listed(record: Record, rng: np.random.Generator) -> str:
        films = [film for film in mini.catalog.items if film[0] not in record.seen_titles]
        drawn = [films[i] for i in rng.permutation(len(films))[:9]]
        drawn = [film for film in drawn if film != record.ground_truth[0]]
        drawn.insert(int(rng.integers(0, 6)), record.ground_truth[0])
        return "\n".join(f"{title} ({year})" for title, year in drawn)

    make_run(tmp_path / "runs", mini, listed)
    (one,) = judged_by(tmp_path / "runs", "exact,cutoffs=1+3+7,list_length=7")
    table = pd.read_parquet(one.target / f"predictions-test-{STEP}.parquet")
    qrels, run = [], []
    for row, record in zip(table.itertuples(), mini.splits["test"], strict=True):
        query = str(row.sample)
        qrels += [ir_measures.Qrel(query, str(film), 1) for film in set(record.ground_truth)]
        lines = row.text.split("\n")[:7]
        named = [(line[: line.rindex(" (")], int(line[-5:-1])) for line in lines]
        run += [ir_measures.ScoredDoc(query, str(film), -rank) for rank, film in enumerate(named)]
    assert table["ndcg@7"].max() > 0.3
    for measure, name in ((nDCG, "ndcg"), (R, "recall")):
        for k in (1, 3, 7):
            found = {one.query_id: one.value for one in ir_measures.iter_calc([measure @ k], qrels, run)}
            expected = [found[str(sample)] for sample in table["sample"]]
            np.testing.assert_allclose(table[f"{name}@{k}"], expected, atol=1e-12)


def test_confidence_follows_the_line(tmp_path: Path, mini: RankedListDataset) -> None:
    """Another parser and a shorter list keep known confidences; unlisted ranks have none."""
    make_run(tmp_path / "runs", mini, lambda record, rng: "\n".join(f"Film {i} (1990)" for i in range(12)))
    made = {one.protocol.name: one for one in judged_by(tmp_path / "runs", "own,list_length=12", "published")}
    longer, published = made["own,list_length=12"], made["published"]
    assert json.loads((longer.target / "manifest.json").read_text())["rescoring"]["left_out"] == ["ece", "brier"]
    assert not {"ece", "brier"} & set(longer.result()["metrics"]["test"])
    kept = pd.read_parquet(longer.target / f"predictions-test-{STEP}.parquet")["confidence"]
    assert all(np.isfinite(row[:10]).all() and np.isnan(row[10:]).all() and len(row) == 12 for row in kept)
    assert {"ece", "brier"} <= set(published.result()["metrics"]["test"])

    text, kept = "x [1990]\ny (1991)\n", np.array([0.25, 0.5, np.nan])
    ours, theirs = (
        make_judge(composed(*SMALL, f"matching={m}").matching, mini.catalog, 3) for m in ("exact", "published")
    )
    confidence, missing = confidence_by_line(kept, ours.parse(text), theirs.parse(text), ours.list_length)
    assert confidence[0] == 0.5 and np.isnan(confidence[1:]).all() and not missing
    confidence, missing = confidence_by_line(np.array([0.5]), theirs.parse(text), ours.parse(text), ours.list_length)
    assert np.isnan(confidence[0]) and confidence[1] == 0.5 and missing


def test_the_trees_are_run_directories(runs: Path, tmp_path: Path) -> None:
    judged_by(runs, "exact", "tolerant,cutoffs=1+3")
    collection = collect(tmp_path / "out")
    assert collection.problems == ()
    groups = collection.groups()
    assert [group.runs["experiment"].unique().tolist() for group in groups] == [
        ["lists@exact"],
        ["lists@tolerant,cutoffs=1+3"],
    ]
    assert groups[1].runs["cutoffs"].tolist() == [(1, 3)] * 2 and groups[0].runs["updates"].tolist() == [STEP] * 2
    curves = groups[0].curves
    assert curves[curves["split"] == "train"]["value"].tolist() == [0.5] * 2
    assert set(curves[curves["split"] == "validation"]["step"]) == {STEP}  # the texts of update 2 are not kept
    assert report.main([str(tmp_path / "out"), "--out", str(tmp_path / "report"), "--resamples", "20"]) == 0
    collected.update(tmp_path / "out", tmp_path / "collected")
    assert len(collect(tmp_path / "collected").runs) == 4
    (again, problems) = rescore.rescore(tmp_path / "out", [parse_protocol("own")], tmp_path / "twice")
    assert again == [] and all("is itself a re-scoring" in problem.reason for problem in problems)


def test_judging_again_costs_nothing(runs: Path) -> None:
    (made, _) = judged_by(runs, "own")
    result, spent = (json.loads((made.target / name).read_text()) for name in ("result.json", "budget.json"))
    assert (
        result["budget"]
        == spent
        == made.source.result["budget"] | {"adopted_from": made.source.path.relative_to(runs).as_posix()}
    )
    frames = [
        collect(folder).runs.assign(run=lambda frame, folder=folder: f"{folder.name}/" + frame["run"])
        for folder in (runs, runs.parent / "out")
    ]
    together = pd.concat(frames, ignore_index=True)
    assert len(together) == 4 and total_cost(together, runs.parent).seconds == 2.0


def test_what_is_done_is_not_done_again(runs: Path, tmp_path: Path) -> None:
    made = judged_by(runs, "exact")
    files = {path: path.stat().st_ino for path in (tmp_path / "out").rglob("*")}
    judged_by(runs, "exact")
    assert {path: path.stat().st_ino for path in (tmp_path / "out").rglob("*")} == files
    before = contents(tmp_path / "out")
    (made[0].target / "STATUS").unlink()  # as if killed
    with (made[1].source.path / "budget.jsonl").open("w") as file:
        file.write("")  # the run has changed
    seal(made[1].source.path)
    judged_by(runs, "exact")
    changed = {path for path in files if path.is_file() and path.stat().st_ino != files[path]}
    assert {path.parent for path in changed} == {one.target for one in made}
    after = contents(tmp_path / "out")
    same = [name for name in before if not name.endswith(("manifest.json", "files.json"))]
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    shutil.rmtree(made[0].target)
    made[0].target.mkdir()
    _, problems = rescore.rescore(runs, [parse_protocol("exact")], tmp_path / "out")
    assert [problem.run for problem in problems] == [made[0].source.name]
    assert "exists and is not a re-scoring" in problems[0].reason


def test_a_run_that_knows_fewer_settings_is_judged_with_their_defaults(runs: Path) -> None:
    for path in runs.rglob("config.yaml"):
        config = yaml.safe_load(path.read_text())
        del config["dataset"]["demonstrations_from"]
        path.write_text(yaml.safe_dump(config))
        seal(path.parent)
    comparison = rescore.compare(judged_by(runs, "own"))
    assert len(comparison) > 50 and (comparison["old"] == comparison["new"]).all()


def edit(path: Path, change: Callable[[dict], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_runs_that_cannot_be_judged_again_are_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = sorted(path.parent for path in runs.rglob("STATUS"))
    edit(first / "manifest.json", lambda manifest: manifest["data"].update(sha256="0" * 64))
    seal(first)
    assert main([str(runs), "--protocol", "exact"]) == 1
    out = capsys.readouterr().out
    assert (
        "evaluated on other data: its manifest.json has sha256 000000000000" in out and "--data mini.path=FOLDER" in out
    )
    assert first.name in out and runs.with_name("runs-rescored").is_dir()
    table = pd.read_parquet(second / f"predictions-validation-{STEP}.parquet")
    table.drop(columns="text").to_parquet(second / f"predictions-validation-{STEP}.parquet")
    seal(second)
    assert main([str(runs), "--protocol", "fuzzy"]) == 2
    said = capsys.readouterr()
    assert "has no column text" in said.out and "could be judged again" in said.err
    table.iloc[1:].to_parquet(second / f"predictions-validation-{STEP}.parquet")
    seal(second)
    assert main([str(runs), "--protocol", "fuzzy"]) == 2
    assert "samples that its settings select from validation" in capsys.readouterr().out


def one_run(runs: Path) -> Path:
    """The first run. The others are removed, so every message is about it."""
    run, *others = sorted(path.parent for path in runs.rglob("STATUS"))
    for other in others:
        shutil.rmtree(other)
    return run


def change(file: Path, **columns: object) -> None:
    """Replace or add columns in a parquet file; remove those that are None."""
    table = pd.read_parquet(file)
    gone = [name for name, value in columns.items() if value is None]
    table.assign(**{name: value for name, value in columns.items() if name not in gone}).drop(columns=gone).to_parquet(
        file
    )


def assert_damage_is_named(run: Path, file: Path, damage: Sequence[Mapping[str, list | None]]) -> None:
    """Assert that the refusal names the file, for other columns and for content that is no complete table."""
    content = file.read_bytes()
    for columns in damage:
        file.write_bytes(content)
        change(file, **columns)
        assert file.name in refused(run), columns
    for damaged in (b"", content[: len(content) // 2], bytes(range(256))):
        file.write_bytes(damaged)
        assert file.name in refused(run)


def test_damaged_predictions_are_named(runs: Path) -> None:
    run = one_run(runs)
    file = run / f"predictions-validation-{STEP}.parquet"
    size = len(pd.read_parquet(file))
    damage = (
        {"text": None},
        {"text": [1] * size},
        {"text": [None, *["x"] * (size - 1)]},
        {"context_id": [["a"]] * size},
        {"confidence": [0.5] * size},
        {"confidence": [["a"]] * size},
        {"finished": ["yes"] * size},
        {"completion_tokens": ["1"] * size},
        {"completion_tokens": [float("nan")] * size},
    )
    assert_damage_is_named(run, file, damage)


def test_damaged_sampled_lists_are_named(tmp_path: Path, mini: RankedListDataset) -> None:
    folder = tmp_path / "runs"
    make_run(folder, mini, messy, "evaluation.samples=2", "evaluation.pass_at=[1,2]")
    run = one_run(folder)
    file = run / f"samples-test-{STEP}.parquet"
    size = len(pd.read_parquet(file))
    damage = (
        {"text": None},
        {"text": [1] * size},
        {"context_id": [["a"]] * size},
        {"context_id": ["a"] * size},
    )
    assert_damage_is_named(run, file, damage)
    file.unlink()
    assert f"{file.name} is missing" in refused(run)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("matching", "year_tolerance", "x"),
        ("matching", "normalisers", ["no such"]),
        ("matching", "fuzzy_threshold", 10**400),
        ("evaluation", "samples", "many"),
        ("evaluation", "test_contexts", [1]),
        ("dataset", "list_length", [10]),
    ],
)
def test_odd_settings_of_a_run_are_named(runs: Path, section: str, key: str, value: object) -> None:
    run = one_run(runs)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config[section][key] = value
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    said = refused(run)
    assert "config.yaml" in said and (key in said or str(value) in said)


def test_a_manifest_without_its_data_is_named(runs: Path) -> None:
    run = one_run(runs)
    edit(run / "manifest.json", lambda manifest: manifest.update(data=[1]))
    assert "manifest.json has data [1], which is not an object" in refused(run)


def refused(run: Path) -> str:
    """The reason why the only run of a folder cannot be re-scored."""
    seal(run)
    runs = run.parents[3]
    made, (problem,) = rescore.rescore(runs, [parse_protocol("own")], runs.with_name("out"))
    assert made == []
    return problem.reason


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"rescoring": 1}', "[" * 100_000])
def test_a_damaged_manifest_of_a_re_scoring_is_named(runs: Path, content: str) -> None:
    one_run(runs)
    (made,) = judged_by(runs, "exact")
    (made.target / "manifest.json").write_text(content)
    again, (problem,) = rescore.rescore(runs, [parse_protocol("exact")], runs.with_name("out"))
    assert again == [] and str(made.target) in problem.reason and "or choose another --out" in problem.reason


def test_a_damaged_re_scoring_is_made_again(runs: Path) -> None:
    one_run(runs)
    (made,) = judged_by(runs, "exact")
    for name in ("result.json", f"predictions-test-{STEP}.parquet", "files.json"):
        good = (made.target / name).read_bytes()
        (made.target / name).write_bytes(good[:-3])
        (again,) = judged_by(runs, "exact")
        assert (again.target / name).read_bytes() == good


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--protocol", "tolerent"],
            "there is no 'tolerent'; known: casefold, exact, fuzzy, published, tolerant, own. Did",
        ),
        (["--protocol", "own,year_tolerance=1"], "'year_tolerance' is unknown; known: list_length, cutoffs"),
        (["--protocol", "exact,cutoffs=5,10"], "'10' is unknown; known:"),
        (["--protocol", "exact,cutoffs=a"], "cutoffs=a is not whole numbers joined by +"),
        (["--protocol", "exact,cutoffs=0"], "cutoffs must be distinct numbers of at least 1"),
        (["--protocol", "exact,cutoffs=5,list_length=4"], "cutoff 5 is larger than list_length = 4"),
        (["--protocol", "exact,list_length=0"], "list_length must be at least 1"),
        (["--protocol", "casefold,normalisers=casefolt"], "contains 'casefolt', which is unknown"),
        (["--protocol", "published,year_tolerance=1"], "compares titles in its own way"),
        (["--protocol", "exact", "--data", "redial=x"], "KEY one of redial.path, reddit_v2.path, reddit_v2.catalog"),
        (["--protocol", "exact", "--out", "RUNS/below"], "lies in"),
    ],
)
def test_options_that_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    (tmp_path / "runs").mkdir()
    assert main([str(tmp_path / "runs"), *(each.replace("RUNS", str(tmp_path / "runs")) for each in arguments)]) == 2
    assert says in capsys.readouterr().err


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(BadInput) as error:
        parse_protocol("exat,cutofs=1,list_length=x")
    assert len(error.value.problems) == 3


def test_the_command_shows_old_and_new_and_loads_no_torch(runs: Path, tmp_path: Path) -> None:
    code = "import sys, analysis.rescore as r; code = r.main(); sys.exit(code or 3 * ('torch' in sys.modules))"
    arguments = [str(runs), "--protocol", "own", "--protocol", "own,list_length=3,cutoffs=3"]
    command = [sys.executable, "-c", code, *arguments, "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Test, old → new: own" in done.stdout and "ndcg@3" in done.stdout
    comparison = pd.read_csv(tmp_path / "out/comparison.csv")
    own = comparison[(comparison["protocol"] == "own") & (comparison["metric"] == "ndcg@10")]
    assert len(own) == 4 and own["old"].tolist() == own["new"].tolist()
    other = comparison[(comparison["protocol"] != "own") & (comparison["metric"] == "ndcg@10")]
    assert other["new"].isna().all()
