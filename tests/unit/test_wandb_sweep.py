"""Sweeps that W&B's agents run: the file, the rows of the cells, and the agent's run."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from rlbench import wandb_sweep
from rlbench.base.errors import BadInput
from rlbench.commands.wandb_sweeps import make_sweep
from rlbench.running.cli import config_of
from rlbench.runs.directory import locate
from rlbench.tracking.wandb_agent import Agent, AgentRun, with_parameters
from tests.conftest import SMALL
from tests.unit.test_sweep_rows import console, labels, sweep  # noqa: F401  (fixtures)

SHORT = [word for word in SMALL if not word.startswith("tracker=")]
RATES = "trainer.rl.learning_rate=1e-4,1e-3"


def started(made: dict[str, Any], **chosen: Any) -> list[str]:
    """The words after `run.py` with which an agent starts a cell, made by W&B's own function."""
    macros = create_sweep_command_args({"args": {key: {"value": value} for key, value in chosen.items()}})
    words = made["command"][made["command"].index("${program}") + 1 :]
    return [word for each in words for word in (macros["args_no_hyphens"] if each == "${args_no_hyphens}" else [each])]


def test_a_grid(tmp_path: Path) -> None:
    out = tmp_path / "sweep.yaml"
    words = [*SHORT, "algorithm=grpo,rank_grpo", "reward=dcg", RATES, "seed=range(0,2)", "experiment_name=rates"]
    assert wandb_sweep.main([*words, "--out", str(out), "--runs", "6"]) == 0
    made = yaml.safe_load(out.read_text())
    command = made.pop("command")
    assert made == {
        "name": "rates",
        "project": "rlbench",
        "program": "run.py",
        "method": "grid",
        "metric": {"name": "final/validation/ndcg@10", "goal": "maximize"},
        "run_cap": 6,
        "parameters": {
            "algorithm": {"values": ["grpo", "rank_grpo"]},
            "trainer.rl.learning_rate": {"values": [0.0001, 0.001]},
            "seed": {"values": [0, 1]},
        },
    }
    assert command == [
        *("${env}", "${interpreter}", "${program}", "hydra.mode=RUN", *SHORT, "reward=dcg", "experiment_name=rates"),
        *("tracker=wandb", "variant='learning_rate=${trainer.rl.learning_rate}'", "${args_no_hyphens}"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["algorithm=grpo,rank_grpo", RATES],
        [RATES, "variant=mine", "trainer.rl.group_size=4,8"],
        [RATES, "variant='lr${trainer.rl.learning_rate}'"],
        ["reward=dcg,relevance"],
    ],
)
def test_its_cells_are_those_of_a_sweep_with_m(sweep, tmp_path: Path, words: list[str]) -> None:  # noqa: F811
    made, _ = make_sweep([f"runs_dir={tmp_path}", *SHORT, *words], "grid")
    keys = list(made["parameters"])
    cells = sweep(*words)
    roots = set()
    for cell in cells:
        texts = dict(text.split("=", 1) for text in cell.overrides)
        chosen = {
            key: next(v for v in made["parameters"][key]["values"] if str(v) == _plain(texts[key])) for key in keys
        }
        config = config_of([word for word in started(made, **chosen) if not word.startswith("hydra.")])
        roots.add(locate(config, "rl").root)
    assert roots == {cell.run.root for cell in cells} and len(roots) == len(cells)


def _plain(text: str) -> str:
    return str(OverridesParser.create().parse_override(f"key={text}").value())


@pytest.mark.slow
def test_a_search() -> None:
    words = ["trainer.rl.learning_rate=tag(log, interval(1e-5, 1e-3))", "generation.temperature=interval(0.5, 1)"]
    words += ["trainer.rl.group_size=choice(4, 8)", "trainer.rl.updates=int(interval(2, 9))"]
    made, _ = make_sweep([*SHORT, *words], "bayes", "duplicates", 20, "my search")
    assert made["parameters"] == {
        "trainer.rl.learning_rate": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3},
        "generation.temperature": {"distribution": "uniform", "min": 0.5, "max": 1.0},
        "trainer.rl.group_size": {"values": [4, 8]},
        "trainer.rl.updates": {"distribution": "int_uniform", "min": 2, "max": 9},
    }
    assert made["metric"] == {"name": "final/validation/duplicates", "goal": "minimize"}
    assert (made["method"], made["run_cap"], made["name"]) == ("bayes", 20, "my search")
    of_rl = [f"{key}=${{trainer.rl.{key}}}" for key in ("learning_rate", "group_size", "updates")]
    parts = [of_rl[0], "temperature=${generation.temperature}", *of_rl[1:]]
    assert f"variant='{','.join(parts)}'" in made["command"]


@pytest.mark.slow
def test_a_recorded_sweep_with_a_variant_of_its_own() -> None:
    made, _ = make_sweep(["experiment=mini_ablation", "algorithm.ratio=token,rank"], "grid")
    assert list(made["parameters"]) == [f"algorithm.{key}" for key in ("credit", "aggregation", "baseline", "ratio")]
    words = started(made, **{key: of["values"][0] for key, of in made["parameters"].items()})
    assert {"experiment=mini_ablation", "algorithm=rank_grpo", "seed=0", "tracker=wandb"} < set(words)
    assert not [word for word in words if word.startswith("variant=")]


@pytest.mark.parametrize("text", ["1e-05", "3", "true", "null", "'a, b'", "[1,2]", "{a:1}", "inf", "007x", "grpo"])
def test_a_value_arrives_as_it_was_written(text: str) -> None:
    """W&B keeps values as YAML and JSON and writes them with Python's `str`."""
    from rlbench.commands.wandb_sweeps import _value

    kept = yaml.safe_load(yaml.safe_dump(_value(text)))
    (word,) = create_sweep_command_args({"args": {"key": {"value": kept}}})["args_no_hyphens"]
    parse = OverridesParser.create().parse_override
    assert parse(word).value() == parse(f"key={text}").value()


def test_all_problems_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sweep.yaml"
    words = ["trainer.rl.learning_rate=interval(1e-5,1e-3)", "hydra.launcher.jobs=2", "tracker=offline", RATES]
    assert wandb_sweep.main([*SHORT, *words[:3], "--metric", "ndcg@11", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "--metric ndcg@11 is no validation metric with a direction; known: recall@" in said
    assert "Did you mean 'ndcg@10'?" in said
    assert "interval(1e-5,1e-3): a grid has no intervals; use --method random or bayes, or give a list" in said
    assert "hydra.launcher.jobs=2: W&B's agents run the cells" in said
    assert "tracker=offline: a sweep of W&B reads the results there; use tracker=wandb" in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("method", "words", "message"),
    [
        ("bayes", [RATES, "seed=0,1"], "seed=0,1: a search for a good seed finds luck"),
        ("random", [RATES, "seed=interval(0, 9)"], "a search for a good seed finds luck"),
        ("random", ["trainer.rl.updates=tag(log, int(interval(1, 9)))"], "no whole numbers on the log scale"),
        ("random", ["trainer.rl.learning_rate=interval(1, 0)"], "the lower end must come first"),
        ("grid", ["seed=0"], "a sweep needs a key with several values"),
        ("grid", ["runtime.threads=1,2"], "runtime.threads is swept, but it does not affect"),
        ("grid", ["trainer.rl.group_size=4,7"], "trainer.rl.group_size"),
        ("grid", [RATES, "variant=a,b"], "variant: rows need trainer.rl.learning_rate in their names too"),
    ],
)
def test_what_no_sweep_can_have(method: str, words: list[str], message: str) -> None:
    keys = [word.split("=")[0] for word in words]
    with pytest.raises(BadInput) as refused:
        make_sweep([*(word for word in SHORT if word.split("=")[0] not in keys), *words], method)
    assert message in "\n".join(refused.value.problems)


@pytest.mark.slow
def test_the_command_of_an_installed_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["rlbench wandb-sweep"])
    made, _ = make_sweep([*SHORT, "seed=0,1"], "grid")
    assert made["program"] == "rlbench" and made["command"][:4] == ["${env}", "${program}", "run", "hydra.mode=RUN"]


def test_one_stage_takes_the_agents_run(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent()
    agent.notice()
    assert not agent.is_here and agent.take() is None
    for name, value in (("SWEEP_ID", "s"), ("RUN_ID", "r"), ("SWEEP_PARAM_PATH", "file")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    agent.notice()
    agent.notice()  # by a later stage
    assert agent.is_here and agent.take() == AgentRun("r", "s", "file") and agent.take() is None


def test_a_run_id_of_the_user_is_no_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    agent = Agent()
    agent.notice()
    assert not agent.is_here and agent.take() is None


def test_parameters_beside_the_settings_of_their_groups() -> None:
    config = {"algorithm": {"name": "grpo"}, "seed": 0, "trainer": {"rl": {"learning_rate": 1e-4}}}
    parameters = {"algorithm": "grpo", "seed": 0, "trainer.rl.learning_rate": 1e-4}
    assert with_parameters(config, parameters) == {
        **parameters,
        "algorithm_settings": {"name": "grpo"},
        "trainer": {"rl": {"learning_rate": 1e-4}},
    }
