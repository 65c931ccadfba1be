"""Words of `run.py` that Hydra would refuse in its own way, and what the command says instead."""

import subprocess
import sys

import pytest

from rlbench.base.errors import BadInput
from rlbench.running.cli import CONF, check_overrides, groups, in_config, is_one_run
from rlbench.running.help import help_text
from rlbench.running.words import last_of_each

RUN_PY = CONF.parent / "run.py"


def problems(*arguments: str) -> list[str]:
    with pytest.raises(BadInput) as refused:
        check_overrides(arguments)
    return refused.value.problems


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("algorithm=grpo,gspo", "add -m to run one cell for each: python run.py -m algorithm=grpo,gspo"),
        ("seed=0,1", "add -m to run one cell for each: python run.py -m seed=0,1 ... (a list is written [0,1]"),
        ("seed=range(3)", "add -m to run one cell for each: python run.py -m seed=range(3)"),
        ("trainer.rl.learning_rate=interval(1,2)", "add -m hydra/sweeper=optuna to search it"),
        ("debug=smoke", "the config has no option of debug unless the command adds one; write +debug=smoke"),
        ("table1=mini", "write +table1=mini"),
        ("++debug=smoke", "write +debug=smoke"),
        ("+experiment=mini", "every config has an option of experiment; write experiment=mini"),
        ("++algorithm=grpo", "write algorithm=grpo"),
        ("algorithm@there=grpo", "a group cannot get another place (@); write algorithm=grpo"),
        ("experiment=null", "there is no such experiment; known: demo, mini,"),
        ("~debug", "the config has no option of debug; leave it out"),
        ("+seed=1", "the config has seed already; write seed=1"),
        ("~foo", "the config has no key 'foo'. python run.py --cfg job shows all keys"),
        ("foo=1", "the config has no key 'foo'. python run.py --cfg job shows all keys"),
        ("hydra.launcher.jobz=2", "hydra.launcher has no key 'jobz'. Did you mean 'jobs'?"),
        ("foo", "neither a setting nor an option of a group; write foo=VALUE"),
        ("smoke", "write +debug=smoke"),
        ("tiny", "write model=tiny"),
        ("dataset", "a group needs an option; write dataset=OPTION, with one of hf,"),
        ("=3", "a setting needs a key; write KEY=VALUE, without spaces"),
        ("seed=[1", "in seed=[1; put a text with spaces, quotes"),
        ("--multirum", "there is no such option. Did you mean '--multirun'?"),
    ],
)
def test_each_misuse_of_the_grammar_is_one_error_with_the_word_and_a_remedy(word: str, said: str) -> None:
    (problem,) = problems(word)
    assert word in problem and said in problem


@pytest.mark.parametrize(
    "words",
    [("seed=0", "seed=1"), ("+table1=mini", "+table1=sweep"), ("++seed=0", "seed=0"), ("-m", "seed=0", "seed=1,2")],
)
def test_a_key_that_is_set_twice_is_refused(words: tuple[str, ...]) -> None:
    (problem,) = problems(*words)
    assert "is set 2 times" in problem and all(word in problem for word in words if word != "-m")


def test_all_misuses_are_reported_together() -> None:
    assert len(problems("foo", "smoke", "--multirum")) == 3
    assert len(problems("seed=0", "seed=1", "debug=smoke", "algorithm=grop")) == 3
    assert len(problems("sed=0", "+seed=1")) == 2
    assert len(problems("seed=0,1", "algorithm=grpo,gspo")) == 2


def test_a_setting_may_be_removed_and_added_again() -> None:
    composed = check_overrides(["~reward.terms", "+reward.terms={ndcg:{weight:1.0}}"])
    assert list(composed.reward.terms) == ["ndcg"]


@pytest.mark.parametrize(
    ("words", "one_run"),
    [
        (["seed=1"], True),
        (["seed=1", "hydra.mode=RUN", "hydra.launcher.jobs=2"], True),
        (["experiment=mini", "hydra.mode=RUN"], True),
        (["experiment=mini"], False),
        (["-m", "seed=1"], False),
        (["hydra.mode=MULTIRUN"], False),
        (["hydra.verbose=true"], False),
        (["seed=1", "--cfg", "job"], False),
        (["seed=1", "--info"], False),
    ],
)
def test_only_one_plain_run_goes_past_hydra(words: list[str], one_run: bool) -> None:
    assert is_one_run(words, check_overrides(words)) == one_run


def test_a_choice_by_pattern_stands_for_the_options_of_its_group() -> None:
    assert check_overrides(["-m", "algorithm=glob(gsp*)"]).algorithm.name == "gspo"
    (problem,) = problems("algorithm=glob(gsp*)")
    assert "add -m" in problem


def test_the_last_override_of_a_key_stays() -> None:
    line = ["--config-dir", "x", "seed=0", "+a=1", "runtime.threads=4", "a=2", "runtime.threads=1"]
    assert last_of_each(line) == ["--config-dir", "x", "seed=0", "a=2", "runtime.threads=1"]


def test_the_help_shows_which_groups_need_a_plus() -> None:
    text = help_text(groups(), in_config())
    assert (
        "\nalgorithm: best_of_group, bnpo," in text
        and "\n+debug=smoke\n" in text
        and "\n+table1=mini, redial, sweep\n" in text
    )
    assert "\ndebug" not in text and "\nexperiment: demo, mini," in text and "hydra/launcher: local, ray, slurm" in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_help_has_the_groups_of_the_users_own_folder(tmp_path) -> None:
    (tmp_path / "algorithm").mkdir()
    (tmp_path / "algorithm" / "mine.yaml").write_text("name: mine\n", encoding="utf-8")
    command = [sys.executable, str(RUN_PY), "--help", "--config-dir", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and "mine" in result.stdout and not result.stderr
