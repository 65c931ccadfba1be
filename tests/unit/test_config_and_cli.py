"""Refusals when a config is composed, and their messages."""

import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from rlbench.base.errors import BadInput
from rlbench.lists.reader import LAYOUTS
from rlbench.objective.shaping import SHAPINGS
from rlbench.rewards.combine import COMBINERS
from rlbench.running import checks as schema
from rlbench.running.checks import check_config
from rlbench.running.cli import CONF, check_overrides, groups
from tests.conftest import composed, slow

RUN_PY = CONF.parent / "run.py"


def test_schema_knows_every_registered_piece():
    assert set(schema.LAYOUTS) == set(LAYOUTS)
    assert set(schema.SHAPINGS) == set(SHAPINGS)
    assert set(schema.COMBINERS) == set(COMBINERS)


@cache
def chosen(group, option):
    return composed(f"{group}={option}")


NEEDED = {
    ("model", "hf"): ["model.path=some/model"],
    ("reward", "spell"): ["algorithm=dr_grpo"],  # its factor of the whole group would cancel
}
"""What an option needs beside the defaults."""


@pytest.mark.parametrize("group", [*slow("algorithm", "reward"), "matching", "dataset", "model", "tracker"])
def test_every_option_composes(group):
    for option in groups()[group]:
        config = composed(f"{group}={option}", *NEEDED.get((group, option), []))
        if option == "trackio" and find_spec("trackio") is None:
            continue  # refused with its own message: tests/unit/test_tracking.py
        assert not check_config(config), (group, option)


@pytest.mark.slow
def test_every_algorithm_sets_its_own_namespace_only():
    plain = chosen("algorithm", "grpo")
    for name in groups()["algorithm"]:
        other = chosen("algorithm", name)
        assert other.trainer.sft == plain.trainer.sft and other.generation == plain.generation
        assert other.reward == plain.reward and other.evaluation == plain.evaluation


def test_smoke_and_experiments_compose():
    for option in groups()["debug"]:
        assert not check_config(composed(f"+debug={option}"))
    for option in groups()["experiment"]:
        assert not check_config(composed(f"experiment={option}"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["algorithm=grop"], "Did you mean 'grpo'?"),
        (["-m", "algorithm=grpo,gsppo"], "Did you mean 'gspo'?"),
        (["dataset=redail"], "Did you mean 'redial'?"),
        (["trainer.rl.lerning_rate=1"], "Did you mean 'learning_rate'?"),
        (["algoritm=grpo"], "Did you mean 'algorithm'?"),
        (["algorithm.surogate=clip"], "Did you mean 'surrogate'?"),
        (["learning_rate=1e-4"], "Did you mean 'trainer.sft.learning_rate' or 'trainer.rl.learning_rate'?"),
        (["rl.learning_rate=1e-4"], "Did you mean 'trainer.rl.learning_rate'?"),
        (["lerning_rates=1e-4"], "Did you mean 'trainer.sft.learning_rate' or 'trainer.rl.learning_rate'?"),
        (["list_length=5"], "Did you mean 'dataset.list_length'?"),
        (["trainer.learning_rate=1"], "Did you mean 'trainer.sft.learning_rate' or 'trainer.rl.learning_rate'?"),
        (["trainer.rl.temperature=1"], "Did you mean 'generation.temperature'?"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(arguments, said):
    with pytest.raises(BadInput, match=said.replace("?", r"\?")):
        check_overrides(arguments)


@pytest.mark.parametrize(
    ("overrides", "cutoffs", "metric"),
    [
        (["dataset=mini"], [5, 10], "ndcg@10"),
        (["dataset=redial", "dataset.path=x"], [5, 10, 15, 20], "ndcg@20"),
        (["dataset=reddit_v2", "dataset.path=x"], [5, 10, 15, 20], "ndcg@20"),
        (["dataset.list_length=20"], [5, 10, 15, 20], "ndcg@20"),
        (["dataset.list_length=12"], [5, 10, 12], "ndcg@12"),
        (["dataset.list_length=3"], [3], "ndcg@3"),
        (["dataset.list_length=20", "dataset.cutoffs=[1,20]"], [1, 20], "ndcg@20"),
        (["dataset.list_length=20", "evaluation.metric=recall@5"], [5, 10, 15, 20], "recall@5"),
    ],
)
def test_cutoffs_and_the_metric_follow_the_list_length_unless_they_are_set(overrides, cutoffs, metric):
    config = composed(*overrides)
    assert config.dataset.cutoffs == cutoffs and config.evaluation.metric == metric
    assert not [problem for problem in check_config(config) if "cutoffs" in problem or "evaluation.metric" in problem]


def test_good_command_lines_pass():
    check_overrides(["-m", "algorithm=grpo,gspo,rank_grpo", "seed=0,1,2", "hydra.launcher.jobs=2", "runs_dir=/x/y"])
    check_overrides(["+debug=smoke", "model=qwen2.5_0.5b", "dataset=redial", "dataset.path=a"])
    check_overrides(["experiment=mini", "seed=0,1,2,3,4", "trainer.rl.learning_rate=1e-4,2e-4"])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["+trainer.rl.updats=3"], "trainer has no key 'rl.updats'. Did you mean 'trainer.rl.updates'?"),
        (["variant=${foo}"], "variant: there is no key 'foo' to refer to"),
        (["seed=${oc.env:RLBENCH_NO_SUCH}"], "RLBENCH_NO_SUCH' not found"),
        (["trainer.rl.updates=many"], "trainer.rl.updates = 'many' must be an integer"),
        (["dataset.cutoffs=[1,x]"], "dataset.cutoffs[1] = 'x' must be an integer"),
        (["trainer.rl.learning_rate=x"], "trainer.rl.learning_rate = 'x' must be a number"),
        (["trainer.bf16=maybe"], "trainer.bf16 = 'maybe' must be true or false"),
        (["trainer.rl.schedule={a:1}"], "trainer.rl.schedule = {'a': 1} must be a text"),
        (["dataset.contexts.test=null"], "dataset.contexts.test = null: it needs a value"),
    ],
)
def test_values_of_a_wrong_type_are_named(overrides: list[str], said: str) -> None:
    with pytest.raises(BadInput) as error:
        composed(*overrides)
    assert len(error.value.problems) == 1 and said in error.value.problems[0]


def test_all_unknown_names_are_reported_at_once():
    with pytest.raises(BadInput) as error:
        check_overrides(["algorithm=x", "dataset=y"])
    assert len(error.value.problems) == 2


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["trainer.rl.completions_per_update=60"], "not a multiple of trainer.rl.group_size = 8"),
        (["trainer.rl.micro_batch_size=48"], "trainer.rl.micro_batch_size = 48"),
        (["trainer.rl.num_iterations=2", "trainer.rl.save_every=5"], "lies between two rollouts"),
        (["trainer.rl.group_size=1"], "trainer.rl.group_size = 1 must be at least 2"),
        (["trainer.rl.learning_rate=-1"], "must be a positive number"),
        (["trainer.rl.learning_rate=nan"], "must be a finite number above 0"),
        (["algorithm.ratio=tokn"], "Did you mean 'token'?"),
        (["dataset.cutoffs=[5,50]"], "dataset.cutoffs contains 50"),
        (["reward.gamma=2"], "reward.gamma = 2.0 must lie in"),
        (["evaluation.metric=ndcg@7"], "evaluation.metric"),
        (["generation.temperature=0"], "generation.temperature"),
        (["dataset.list_length=-3"], "dataset.list_length = -3 must be at least 1"),
    ],
)
def test_bad_numbers_are_refused(overrides, said):
    problems = check_config(composed(*overrides))
    assert any(said in problem for problem in problems), problems


def test_wrong_types_and_unknown_sections_are_refused_together():
    with pytest.raises(BadInput) as error:
        composed("trainer.rl.updates=many", "reward.gamma=much")
    assert len(error.value.problems) == 2
    with pytest.raises(BadInput, match="config key 'evalution' is unknown. Did you mean 'evaluation'"):
        composed("+evalution.every=3")


def test_config_imports_no_torch():
    modules = "sys, rlbench.running.checks, rlbench.running.cli"
    code = f"import {modules}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=RUN_PY.parent).returncode == 0


def test_command_line_reports_and_exits_with_2(tmp_path: Path):
    command = [sys.executable, str(RUN_PY), "algorithm=grop", f"runs_dir={tmp_path}"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert "Did you mean 'grpo'?" in result.stderr and "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_help_names_the_groups():
    result = subprocess.run([sys.executable, str(RUN_PY), "--help"], capture_output=True, text=True)
    assert result.returncode == 0
    for word in (
        "algorithm: best_of_group, bnpo, c2gspg",
        "dataset: hf, inspired, jsonl, mini",
        "+debug=smoke",
        "runs_dir=PATH",
    ):
        assert word in result.stdout, result.stdout


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["algorithm=grpo", "algorithm.length_shaping.overflow=-0.1"],
            "has no effect with algorithm.length_shaping.rule = 'none'",
        ),
        (["algorithm.length_shaping.exact=0.1"], "has no effect with algorithm.length_shaping.rule = 'paper'"),
        (["algorithm.length_shaping.overflow=nan"], "must be a finite number"),
        (["algorithm.ratio=rnak"], "Did you mean 'rank'?"),
        (["algorithm.surrogate=cli"], "Did you mean 'clip'?"),
        (["algorithm.surrogate=dual_clip"], "algorithm.options.dual_clip.low is missing"),
        (["+algorithm.options.clip.hihg=1"], "Did you mean 'high'?"),
        (["algorithm.options.clip.low=-1"], "algorithm.options.clip.low = -1 must be"),
        (["+algorithm.options.clipp.low=1"], "no piece has this name"),
        (["+algorithm.regularisers.entropy=1"], "algorithm.regularisers = 'entropy' is unknown"),
        (["algorithm.entropy_quantile=0"], "must lie in (0, 1]"),
        (["algorithm.layout=alined"], "Did you mean 'aligned'?"),
        (["algorithm.missing_rank=none"], "known: zero, excluded"),
        (["reward.gamma=nan"], "reward.gamma = nan must lie in"),
        (["reward.terms.relevance.weight=nan"], "reward.terms.relevance.weight = nan must be a finite number"),
        (["+reward.terms.relevence.weight=1"], "Did you mean 'relevance'?"),
        (["+reward.terms.value={weight:1.0,alpha:-1}"], "reward.terms.value.alpha = -1 must be"),
        (["reward.power=2"], "has no effect with reward.combine=sum_then_normalise"),
        (["reward=power_mean", "+reward.terms.length.weight=1"], "reward.terms.length can be negative"),
        (["reward.terms.relevance.weight=0"], "reward.terms: every weight is 0, so every reward is 0"),
        (["reward=power_mean", "reward.terms.ndcg.weight=-1"], "must not be negative with reward.combine=power_mean"),
        (["reward=power_mean", "reward.power=nan"], "reward.power = nan must be a finite number"),
        (["reward.success.rule=any_hits"], "Did you mean 'any_hit'?"),
        (["reward.success={rule:ndcg_at_least,threshold:nan}"], "reward.success.threshold = nan"),
        (["matching.normalisers=[nfkd]"], "Did you mean 'nfkc'?"),
        (["matching.year_tolerance=-1"], "must be at least 0"),
        (["matching.fuzzy_threshold=101"], "must lie in (0, 100]"),
        (["matching.fuzzy_threshold=nan"], "must lie in (0, 100]"),
        (["matching=published", "matching.year_tolerance=2"], "compares titles in its own way"),
        (["reward=power_mean", "reward.power=inf"], "reward.power = inf must be a finite number"),
        (["algorithm.kl.beta=nan"], "algorithm.kl.beta = nan must be a finite number"),
        (["generation.temperature=inf"], "generation.temperature = inf must be a finite number"),
        (["generation.top_p=0"], "leaves no token"),
        (["generation.top_p=2"], "must lie in [0, 1]"),
        (["generation.top_k=-3"], "generation.top_k = -3 must be at least 0"),
        (["trainer.rl.max_grad_norm=-1"], "must be at least 0"),
        (["trainer.sft.warmup_fraction=3"], "must lie in [0, 1]"),
        (["evaluation.samples=-1"], "evaluation.samples = -1 must be at least 0"),
        (["evaluation.samples=2", "evaluation.pass_at=[1,3]"], "evaluation.pass_at contains 3"),
        (["evaluation.metric=ndgc@10"], "known: recall@5"),
        (["dataset.list_length=-3"], "dataset.list_length = -3 must be at least 1"),
    ],
)
def test_bad_values_of_lists_rewards_and_metrics_are_named(overrides, said):
    problems = check_config(composed(*overrides))
    assert any(said in problem for problem in problems), problems


def test_every_protocol_can_choose_the_checkpoint():
    for metric in ("ndcg@5", "map@10", "published_ndcg@10", "published_truncate_first_recall@5"):
        assert check_config(composed(f"evaluation.metric={metric}")) == []
