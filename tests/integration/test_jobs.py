"""The pages of the tutorial work as written: each job runs its commands, at most five, with short runs."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest

from tests.helpers import ROOT, shared_data
from tests.helpers_preemption import wait_for
from tests.helpers_tutorial import Shell, commands, page, section

pytestmark = pytest.mark.slow
MOST = 5


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """One folder for all pages, so that runs share stages as a user's do."""
    return Shell.at(tmp_path_factory.mktemp("tutorial"))


def job(heading: str) -> list[str]:
    found = commands(section(page("tutorial/6-jobs.md"), f"## {heading}"))
    assert 1 <= len(found) <= MOST
    return found


def test_every_job_of_the_page_is_run_here() -> None:
    text, tests = page("tutorial/6-jobs.md"), Path(__file__).read_text(encoding="utf-8")
    assert all(f'job("{heading}")' in tests for heading in re.findall(r"^## (.*)$", text, re.MULTILINE))


def test_a_learning_rate_and_its_choice(shell: Shell) -> None:
    sweep, select, again, report = job("Choose a learning rate")
    shell.run(sweep)
    said = shell.run(select)
    assert [rate for rate in ("5e-05", "0.0001", "0.0002") if f"learning_rate={rate}" in said] and "chosen" in said
    shell.run(again)
    (result,) = shell.folder.glob("runs/chosen/mini-tiny/sft/*/result.json")
    assert json.loads(result.read_text())["budget"]["adopted_from"].startswith("rates/")
    shell.run(report)
    assert (shell.folder / "reports" / "chosen" / "report.html").is_file()
    assert len(list(shell.folder.glob("runs/chosen/mini-tiny/rank_grpo-relevance/seed*/STATUS"))) == 3


def test_two_rewards_and_a_latex_table(shell: Shell) -> None:
    sweep, tables = job("Compare two rewards in a LaTeX table")
    shell.run(sweep)
    shell.run(tables)
    for name in ("table.tex", "comparisons.tex"):
        text = (shell.folder / "reports" / "rewards" / name).read_text(encoding="utf-8")
        assert r"\toprule" in text and "relevance" in text and "log\\_decay" in text, text


def test_an_own_model_with_its_own_template(shell: Shell) -> None:
    run, inspect, report = job("Use your own model with its own chat template")
    if not (trained := list(shell.folder.glob("runs/*/mini-tiny/sft/*/model"))):
        shell.run("rlbench run experiment_name=trained stage=sft")
        trained = list(shell.folder.glob("runs/*/mini-tiny/sft/*/model"))
    shutil.copytree(trained[0], shell.folder / "my_model", ignore=shutil.ignore_patterns("*.jinja", "files.json"))
    assert shell.write_files(page("tutorial/6-jobs.md")) == ["my_template.jinja"]
    shell.run(run)
    assert "prompt of context train-00000" in shell.run(inspect)
    shell.run(report)
    saved = list(shell.folder.glob("runs/own/mini-my_model/*/*/model/chat_template.jinja"))
    assert len(saved) == 2, "of SFT and of RL"
    assert {file.read_text().strip() for file in saved} == {(shell.folder / "my_template.jinja").read_text().strip()}


def test_another_prompt_and_another_length(shell: Shell) -> None:
    run, inspect, report = job("Use another prompt and another list length")
    shell.run(run)
    said = shell.run(inspect)
    assert "Name five films." in said.replace("\n", " ")
    shell.run(report)
    (result,) = shell.folder.glob("runs/five/mini-tiny/rank_grpo-relevance/*/result.json")
    found = json.loads(result.read_text())
    assert (found["list_length"], found["cutoffs"]) == (5, [5])


def test_stop_and_resume(shell: Shell) -> None:
    first, status, again = job("Stop a run and resume it")
    assert first == again
    longer = ["trainer.sft.updates=400", "trainer.sft.save_every=20"]
    started = shell.start(first, longer)
    found = shell.folder.glob
    wait_for(lambda: bool(list(found("runs/stopped/*/sft/*/checkpoints/checkpoint-*"))), started, 180)
    os.killpg(started.pid, signal.SIGINT)
    said, _ = started.communicate(timeout=180)
    assert started.returncode == 130 and "run the same command again to continue" in said
    assert not list(found("runs/stopped/*/sft/*/result.json"))
    (state,) = found("runs/stopped/*/sft/*/STATUS")
    assert state.read_text().startswith("interrupted\nCtrl-C; ")
    said = shell.run(status, code=1)
    assert "interrupted" in said and f"This completes it:\n  {first} " in said
    shell.run(again, *longer)
    attempts = [json.loads(file.read_text()) for file in sorted(found("runs/stopped/*/sft/*/attempts/*/attempt.json"))]
    assert [one["outcome"] for one in attempts] == ["interrupted", "done"] and attempts[1]["from_update"] >= 20
    assert {file.read_text() for file in found("runs/stopped/*/*/*/STATUS")} == {"done\n"}


def test_lists_of_other_systems(shell: Shell) -> None:
    run, score, report = job("Score lists of other systems beside a run")
    shell.run(run)
    (file,) = shell.folder.glob("runs/beside/mini-tiny/rank_grpo-relevance/*/predictions-test-*.parquet")
    contexts = pd.read_parquet(file)["context_id"].unique()
    for name, text in (("gpt", "Heat (1995)\nAlien (1979)"), ("mine", "Alien (1979)")):
        rows = [{"context_id": context, "text": text} for context in contexts]
        (shell.folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    shell.run(score)
    shell.run(report)
    table = (shell.folder / "reports" / "beside" / "table.md").read_text(encoding="utf-8")
    assert re.search(r"^\| gpt ", table, re.MULTILINE) and re.search(r"^\| mine ", table, re.MULTILINE)


def test_the_first_five_pages(shell: Shell) -> None:
    """Every command of the pages in their order, with the files that they tell to save."""
    written = []
    for path in sorted((ROOT / "docs" / "tutorial").glob("[1-5]-*.md")):
        text = path.read_text(encoding="utf-8")
        written += shell.write_files(text)
        for command in commands(text):
            shell.run(command)
    assert written == ["mine/reciprocal_rank.py", "mine/conf/reward/reciprocal.yaml", "make_data.py"]
    for row in ("rank_grpo-reciprocal", "median_grpo-relevance", "ordinal_rank_grpo-relevance"):
        assert list(shell.folder.glob(f"runs/smoke/mini-tiny/{row}/*/result.json")), row
    assert list(shell.folder.glob("runs/smoke/mini-my_model/rank_grpo-relevance/*/result.json"))
    assert list(shell.folder.glob("runs/smoke/redial-tiny/rank_grpo-relevance/*/result.json"))


def test_redial_from_its_folder_to_a_table(shell: Shell) -> None:
    """docs/redial.md, with the published files."""
    train, test = shared_data("redial_official", "train_data.jsonl"), shared_data("redial", "test.jsonl")
    run, report, *_ = commands(page("redial.md"))
    few = ["evaluation.test_contexts=8", "evaluation.validation_contexts=4", "experiment_name=redial_small", "seed=0",
           "baselines=[popularity,bm25]"]  # fmt: skip
    place = run.replace("FOLDER", str(train.parent)).replace("crslab/test.jsonl", str(test))
    assert place != run and "redial_official" in (ROOT / "conf/experiment/redial_small.yaml").read_text()
    shell.run(place, *few)
    shell.run(report)
    table = (shell.folder / "reports" / "redial_small" / "table.md").read_text(encoding="utf-8")
    assert all(re.search(rf"^\| {row}", table, re.MULTILINE) for row in ("popularity", "BM25", "SFT", "rank_grpo"))
