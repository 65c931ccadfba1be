"""`rlbench.Experiment`: settings in Python become the words of a command line."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

import rlbench
from rlbench.api.overrides import words
from tests.conftest import composed

VALUES = [
    None,
    True,
    False,
    3,
    -2.5,
    1e-6,
    "mini",
    "a/b.c",
    "true",
    "1e3",
    "null",
    "",
    "two words",
    "a, b",
    "{x}",
    'with "quotes"',
    "back\\slash",
    "ends with \\",
    'both \\"',
    "it's",
    [1, 2],
    ["a b", "c"],
    {"low": 0.1, "high": [1, None]},
    [],
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_hydra_reads_back_every_value(value):
    (word,) = words({"key": [value]})
    assert OverridesParser.create().parse_override(word).value() == [value]


def test_numbers_of_numpy_and_paths():
    assert words({"a": np.float64(0.5), "b": np.int64(3), "c": Path("x/y"), "d": (1, 2)}) == [
        "a=0.5",
        "b=3",
        "c=x/y",
        "d=[1,2]",
    ]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"seed": [0, 1]},
            r"seed = \[0, 1\] must be of type int; a sweep has one cell .*-m seed=0,1, or sweep={'seed': \[0, 1\]}",
        ),
        (
            {"algorithm": ["grpo", "dapo"]},
            r"algorithm=.*: a run has one algorithm; .*{'algorithm': \['grpo', 'dapo'\]}",
        ),
        ({"trainer": {"rl": {"updates": [1, 2]}}}, r"trainer.rl.updates = \[1, 2\] must be an integer; a sweep has"),
        ({"model": "hf"}, "model.path is not set"),
    ],
)
def test_several_values_are_a_sweep(settings, said):
    (problem,) = rlbench.Experiment(**settings).check()
    assert re.match(said, problem)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"sweep": {"seed": []}}, "sweep['seed'] is empty: give at least one value, or leave it out"),
        ({"sweep": {"seed": iter([])}}, "sweep['seed'] is empty: give at least one value, or leave it out"),
        ({"sweep": {"seed": {1, 2}}}, "sweep['seed'] = {1, 2} is a set, and its order counts; give a list"),
        ({"sweep": {"seed": {1: 2}}}, "sweep['seed'] = {1: 2} is a dict, and its order counts; give a list"),
        ({"dataset.cutoffs": {5}}, "dataset.cutoffs = {5} is a set, and its order counts; give a list"),
    ],
)
def test_values_need_an_order(arguments, said):
    with pytest.raises(rlbench.BadInput) as caught:
        rlbench.Experiment(**arguments)
    assert caught.value.problems == [said]
    several = rlbench.Experiment(sweep={"seed": range(2), "algorithm": (one for one in ("grpo", "dapo"))})
    assert several.overrides == ["seed=0,1", "algorithm=grpo,dapo"]


def test_the_command_is_what_a_user_would_type():
    experiment = rlbench.Experiment(
        "algorithm=rank_grpo", {"reward": "dcg"}, ["seed=3"], debug="smoke", trainer={"rl": {"updates": 5}}
    )
    assert experiment.command() == (
        "rlbench run algorithm=rank_grpo reward=dcg seed=3 +debug=smoke trainer.rl.updates=5"
    )
    assert experiment.command() in repr(experiment)
    config = composed("algorithm=rank_grpo", "reward=dcg", "seed=3", "+debug=smoke", "trainer.rl.updates=5")
    assert experiment.config == config


def test_options_of_pieces_may_be_new():
    experiment = rlbench.Experiment(algorithm="grpo", **{"algorithm.options": {"clip_delta": {"delta": 1.1}}})
    assert "++algorithm.options.clip_delta.delta=1.1" in experiment.overrides
    assert experiment.config.algorithm.options["clip_delta"] == {"delta": 1.1}


def test_a_sweep_runs_with_m():
    experiment = rlbench.Experiment("algorithm=grpo", sweep={"seed": [0, 1], "reward": ["dcg", "relevance"]})
    assert shlex.split(experiment.command())[2:] == ["-m", "algorithm=grpo", "seed=0,1", "reward=dcg,relevance"]
    assert experiment.is_sweep and rlbench.Experiment("seed=0,1").is_sweep
    assert not rlbench.Experiment("seed=0", plugins=["a", "b"]).is_sweep


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: rlbench.Experiment(algorthm="grpo"), "no key 'algorthm'. Did you mean 'algorithm'?"),
        (lambda: rlbench.Experiment(algorithm="gropo"), "algorithm=gropo: .* Did you mean 'grpo'?"),
        (lambda: rlbench.Experiment(trainer={"rl": {"update": 1}}), "no key 'update'. Did you mean 'updates'?"),
        (lambda: rlbench.Experiment("seed"), "seed: neither a setting"),
        (lambda: rlbench.Experiment(seed="x"), "seed = 'x'"),
    ],
)
def test_check_names_the_setting(make, said):
    (problem,) = make().check()
    assert re.search(said, problem)
    with pytest.raises(rlbench.BadInput, match=said):
        make().run()


def test_check_has_all_problems_of_a_kind():
    assert len(rlbench.Experiment(algorithm="gropo", dataset="mni", reward="x").check()) == 3


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: rlbench.Experiment(seed=object()), "seed = .* has the type object"),
        (lambda: rlbench.Experiment({"a": {1: 2}}), "a.1: a key must be a text"),
        (lambda: rlbench.Experiment(3), "overrides = 3 must be texts"),
        (lambda: rlbench.Experiment(sweep={"seed": 3}), r"sweep\['seed'\] = 3 must be a list of values"),
    ],
)
def test_values_that_no_setting_has(call, said):
    with pytest.raises(rlbench.BadInput, match=said):
        call()
