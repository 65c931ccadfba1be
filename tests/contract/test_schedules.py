"""Schedules: shapes by their formulas, checks, identity, and the values that a training uses."""

import math

import pytest
import torch

from rlbench.config.names import check_names
from rlbench.config.schedules import SHAPES, Schedules, When, flat, value_of, with_values
from rlbench.running.checks import check_config
from rlbench.running.cli import groups
from rlbench.running.plan import budgets
from rlbench.running.plan import schedules as drawn
from rlbench.runs.directory import locate
from rlbench.training.scheduled import Scheduled, scheduled_rate
from tests.conftest import composed
from tests.contract.test_resume_of_state import SHORT, Stopped, StopsAt, equal, train, weights
from tests.helpers_training import load, make_trainer

T = 40


def values(name: str, **options: float) -> list[float]:
    return [SHAPES[name](When(u, T), **options) for u in range(T)]


BY_HAND = {
    "linear": ({"start": 1.0, "end": 3.0, "until": 0.5}, lambda u: 1 + 2 * min(u / 20, 1)),
    "cosine": ({"start": 1.0, "end": 0.0}, lambda u: (1 + math.cos(math.pi * u / T)) / 2),
    "sigmoid": ({"start": 1.0, "end": 0.0, "width": 0.25}, lambda u: 1 / (1 + math.exp((u - 0.9 * T) / 10))),
    "inverse": ({"start": 1.0, "least": 0.05}, lambda u: max(1 / (u + 1), 0.05)),
    "geometric": ({"start": 800.0, "factor": 0.2, "least": 1.0}, lambda u: max(1, 800 * 0.2 ** (u / T))),
    "stair": ({"high": 8.0, "low": 2.0, "period": 10}, lambda u: 8 if u % 10 < 5 else 2),
    "waves": ({"high": 8.0, "low": 2.0, "period": 16}, lambda u: 5 + 3 * math.cos(2 * math.pi * u / 16)),
    "pulse": ({"off": 0.0, "on": 1.0, "begin": 0.5, "length": 3}, lambda u: float(u in (20, 21, 22))),
    "constant": ({"value": 7.0}, lambda u: 7.0),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_shapes_by_hand(name: str) -> None:
    options, formula = BY_HAND[name]
    assert values(name, **options) == pytest.approx([formula(u) for u in range(T)])


def test_siris_stair_cosine() -> None:
    """High, half a cosine down, low, half a cosine up: a quarter of the period each, centred on its ends."""
    found = values("stair_waves", high=8.0, low=2.0, period=16)
    assert found[:2] == [8, 8] and found[15] == 8  # phi < pi/4 and phi >= 7 pi/4
    assert found[7:10] == [2, 2, 2] and found[2] == pytest.approx(8)
    down, up = found[2:6], found[10:14]
    assert down == pytest.approx([5 + 3 * math.cos(2 * (math.pi * u / 8 - math.pi / 4)) for u in range(2, 6)])
    assert up == pytest.approx([5 + 3 * math.cos(2 * (math.pi * u / 8 - 3 * math.pi / 4)) for u in range(10, 14)])
    assert sorted(down, reverse=True) == down


def test_a_statistic_within_its_bounds() -> None:
    options = {"of": "reward", "offset": 1.0, "scale": -1.0, "low": 0.2, "high": 0.9, "first": 0.5}
    shape = SHAPES["statistic"]
    assert shape(When(0, T), **options) == 0.5
    assert [shape(When(1, T, {"reward": r}), **options) for r in (0.0, 0.3, 0.95)] == pytest.approx([0.9, 0.7, 0.2])


def test_a_pulse_after_the_minimum_of_a_statistic() -> None:
    memory: dict[str, float] = {}
    options = {"of": "completion_length", "rise": 1.1, "low": 0.0, "high": 1.0, "length": 2}
    lengths = [50, 40, 41, 45, 46, 30, 60]
    found = [
        SHAPES["after_minimum"](When(u, T, {"completion_length": length}, memory), **options)
        for u, length in enumerate(lengths)
    ]
    assert found == [0, 0, 0, 1, 1, 0, 0]  # 45 is above 1.1 times 40; it acts once


def test_keys_may_be_nested() -> None:
    config = composed("+schedule.values.algorithm.kl.beta={shape:linear,start:0.01,end:0.001}")
    assert list(flat(config.schedule.values)) == ["algorithm.kl.beta"]
    other = with_values(config, {"algorithm.kl.beta": 0.5})
    assert value_of(other, "algorithm.kl.beta") == 0.5 != value_of(config, "algorithm.kl.beta")


def test_whole_numbers_are_rounded() -> None:
    config = composed("schedule=siri_cosine", "trainer.rl.updates=20")
    ranks = [Schedules(config).at(u)["rollout.ranks"] for u in range(20)]
    assert all(type(rank) is int for rank in ranks) and max(ranks) == 10 and min(ranks) == 5


def test_a_dry_run_draws_each_schedule() -> None:
    config = composed("schedule=siri_stair", "trainer.rl.updates=20", "trainer.rl.num_iterations=1")
    assert drawn([config]) == [
        "schedule of rank_grpo-relevance@siri_stair: rollout.ranks █████▁▁▁▁▁█████▁▁▁▁▁ 5 to 10",
    ]
    assert drawn([composed()]) == []


REFUSED = {
    "+schedule.values.algorithm.kl.beta={shape:linaer,start:1,end:0}": "Did you mean 'linear'?",
    "+schedule.values.algorithm.kl.beta={shape:linear,start:1}": "end is missing",
    "+schedule.values.algorithm.kl.beta={shape:linear,start:1,end:-1}": "reaches -0.9",
    "+schedule.values.algorithm.kl.beta=3": "must have a shape",
    "+schedule.values.dataset.list_length={shape:constant,value:3}": "cannot change during a run",
    "+schedule.values.algorithm.options.nothing.x={shape:constant,value:3}": "is not a number in this config",
    "+schedule.values.rollout.ranks={shape:constant,value:0}": "must be at least 1",
    "+schedule.values.trainer.rl.learning_rate={shape:statistic,of:reward,low:0,high:1,first:0}": "another shape",
    "algorithm.kl.beta=0 +schedule.values.algorithm.kl.beta={shape:constant,value:1}": "above 0",
    "algorithm=dpo schedule=siri_stair": "has no rollouts",
    "+schedule.values.algorithm.kl.beta={shape:statistic,of:rewrd,low:0,high:1,first:0}": "Did you mean 'reward'?",
    "+schedule.values.algorithm.kl.beta={shape:after_minimum,of:recall@10,rise:1.1,low:0,high:1,length:2}": "never",
    "+schedule.values.algorithm.kl.beta={shape:statistic,of:reward@11,low:0,high:1,first:0}": "no training metric",
    "+schedule.values.algorithm.kl.beta={shape:statistic,of:term/relevant,low:0,high:1,first:0}": "'term/relevance'?",
    "+schedule.values.rollout.ranks={shape:linear,start:8,end:40}": "more than dataset.list_length = 10",
}


@pytest.mark.parametrize("words", REFUSED)
def test_refusals(words: str) -> None:
    problems = check_config(composed(*words.split(" ")))
    assert problems and any(REFUSED[words] in problem for problem in problems), problems


@pytest.mark.parametrize("of", ["reward", "reward@10", "term/relevance", "schedule/algorithm.kl.beta", "kl"])
def test_metrics_of_training_may_be_read(of: str) -> None:
    shape = f"shape:statistic,of:'{of}',low:0.1,high:1,first:0.5"
    assert check_config(composed("algorithm.kl.beta=0.1", f"+schedule.values.algorithm.kl.beta={{{shape}}}")) == []


def test_a_metric_that_is_never_recorded_is_named(mini, start, tmp_path, caplog) -> None:
    shape = "low:0.1,high:1,first:0.5"
    shapes = [
        f"+schedule.values.generation.temperature={{shape:statistic,of:experts_silent,{shape}}}",
        f"+schedule.values.algorithm.kl.beta={{shape:statistic,of:reward,{shape}}}",
    ]
    once = ["trainer.rl.updates=2", "trainer.rl.num_iterations=1", "evaluation.every=2", "algorithm.kl.beta=0.1"]
    config = composed(*SHORT, *once, *shapes)
    assert not check_config(config)
    trainer = make_trainer(config, mini, *load(start), tmp_path)
    trainer.add_callback(Scheduled(config, trainer))
    trainer.train()
    said = [record.getMessage() for record in caplog.records if record.name == "rlbench.training.scheduled"]
    assert len(said) == 2 and all("generation.temperature" in one and "'experts_silent'" in one for one in said)
    assert "so far" in said[0] and "never" in said[1]


def test_a_budget_of_tokens_names_what_it_may_cut_short() -> None:
    shapes = {
        "generation.temperature": "shape:linear,start:1,end:2",
        "rollout.ranks": "shape:stair,high:8,low:2,period:4",
    }
    words = [f"+schedule.values.{key}={{{shape}}}" for key, shape in shapes.items()]
    config = composed("trainer.rl.token_budget=5000", "trainer.rl.schedule=cosine", "sampler=tiers", *words)
    (said,) = budgets([config])
    assert said.startswith("note: trainer.rl.token_budget = 5,000 may end the training before update")
    assert "schedule.values.generation.temperature and trainer.rl.schedule = cosine and sampler.weigh = tiers" in said
    assert "rollout.ranks" not in said and "cut short" in said  # a stair counts its own updates
    (plain,) = budgets([composed("trainer.rl.token_budget=5000", "trainer.rl.schedule=constant"), composed()])
    assert "cut short" not in plain


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["+schedule.values.algorithm.kl.beta={shape:constant,value:1}"], "schedule"),
        (["rollout.ranks=4"], "rollout"),
        (["+sampler.options.pruned.solved=1"], "sampler"),
    ],
)
def test_a_choice_with_the_name_of_the_default_is_refused(words, key) -> None:
    config = composed(*words)
    (problem,) = check_names(config)
    assert f"{key}.name=mine" in problem
    assert check_names(composed(*words, f"{key}.name=mine")) == []
    assert "is empty" in check_names(composed(*words, f"{key}.name=''"))[0]


def test_every_choice_of_conf_has_a_name_of_its_own() -> None:
    for group, options in groups().items():
        if group in ("sampler", "rollout", "schedule"):
            for option in options:
                assert check_names(composed(f"{group}={option}", "algorithm=uniapl")) == []


def test_a_schedule_is_part_of_the_identity(tmp_path) -> None:
    plain, other = (locate(composed(f"runs_dir={tmp_path}", *words), "rl") for words in ([], ["schedule=siri_stair"]))
    assert "schedule" not in plain.identity
    assert other.identity["schedule"]["rollout.ranks"]["shape"] == "stair" and plain.hash != other.hash


WORDS = [
    *SHORT,
    "trainer.rl.updates=6",
    "evaluation.every=6",
    "evaluation.validation_contexts=2",
    "algorithm=rank_grpo",
    "algorithm.kl.beta=0.1",
    "algorithm.layout=published",
    "+reward.terms.tokens={weight:1.0,normaliser:16.0}",
    "+schedule.values.algorithm.kl.beta={shape:linear,start:1,end:0}",
    "+schedule.values.generation.temperature={shape:cosine,start:1.0,end:2.0}",
    "+schedule.values.generation.max_new_tokens={shape:stair,high:16,low:8,period:4}",
    "+schedule.values.reward.terms.tokens.weight={shape:statistic,of:completion_length,scale:0.1,low:0.1,high:9,first:1}",
    "+schedule.values.trainer.rl.learning_rate={shape:pulse,off:1e-3,on:2e-3,begin:0.5,length:2}",
]


def test_a_training_has_the_values_of_its_schedules(mini, start, tmp_path) -> None:
    config = composed(*WORDS)
    assert not check_config(config)
    trainer = make_trainer(config, mini, *load(start), tmp_path)
    trainer.rate = scheduled_rate(config)
    trainer.add_callback(Scheduled(config, trainer))
    seen, compute = [], trainer._compute_loss

    def noted(model, inputs):
        seen.append(
            (
                trainer.state.global_step,
                trainer.objective.algorithm.kl.beta,
                trainer.temperature,
                inputs["completion_ids"].size(1),
                trainer.objective.reward.terms["tokens"]["weight"],
                trainer.optimizer.param_groups[0]["lr"],
            )
        )
        return compute(model, inputs)

    trainer._compute_loss = noted
    trainer.train()
    log = {row["step"]: row for row in trainer.state.log_history if "loss" in row}
    for step, beta, temperature, length, weight, rate in seen:
        rollout = step // 2 * 2
        assert beta == pytest.approx(1 - rollout / 6)
        assert temperature == pytest.approx(2 - (1 + math.cos(math.pi * rollout / 6)) / 2)
        assert length == (16 if rollout % 4 < 2 else 8)
        expected = 1 if rollout == 0 else log[rollout - 1]["completions/mean_length"] / 10
        assert weight == pytest.approx(min(max(expected, 0.1), 9))
        assert rate == pytest.approx(2e-3 if step in (3, 4) else 1e-3)
        assert log[step + 1]["schedule/algorithm.kl.beta"] == pytest.approx(beta)
    assert len({beta for _, beta, *_ in seen}) == 3


def test_supervised_updates_are_inserted_once_lists_have_become_longer(mini, start, tmp_path) -> None:
    """As in schedule=annealed_sft: the term is there only in its updates, which begin when the length has risen."""
    shape = "shape:after_minimum,of:completion_length,rise:0.5,low:0.0,high:1.0,length:2"
    words = ["algorithm=uniapl", f"+schedule.values.algorithm.regularisers.sft={{{shape}}}"]
    once = ["trainer.rl.updates=6", "trainer.rl.num_iterations=1", "evaluation.every=6"]
    config = composed(*SHORT, *words, *once)
    assert not check_config(config)
    trainer = make_trainer(config, mini, *load(start), tmp_path)
    trainer.add_callback(Scheduled(config, trainer))
    trainer.train()
    log = [row for row in trainer.state.log_history if "loss" in row]
    weights = [row["schedule/algorithm.regularisers.sft"] for row in log]
    assert weights == [0, 1, 1, 0, 0, 0]  # the first length is known after one update, and is above half of itself
    assert [row.get("regulariser/sft", 0) > 0 for row in log] == [weight > 0 for weight in weights]


@pytest.mark.slow
def test_a_budget_of_tokens_falls_over_the_run(mini, start, tmp_path) -> None:
    """schedule=rmt_budget: max(1, 16 * .2^(u / T)) tokens at most."""
    config = composed(*SHORT, "schedule=rmt_budget", "trainer.rl.updates=4", "trainer.rl.num_iterations=1")
    assert not check_config(config)
    trainer = make_trainer(config, mini, *load(start), tmp_path)
    trainer.add_callback(Scheduled(config, trainer))
    trainer.train()
    longest = [row["completions/max_length"] for row in trainer.state.log_history if "loss" in row]
    assert longest == [round(16 * 0.2 ** (u / 4)) for u in range(4)]


def test_ranks_end_a_rollout(mini, start, tmp_path) -> None:
    """With rollout.ranks, lists end at the newline after that entry, and the rest of the group is scored as it is."""
    from rlbench.training.rl import make_collector, prompt_dataset

    config = composed(*SHORT, "rollout.ranks=1", "trainer.rl.updates=2", "trainer.rl.num_iterations=1")
    trainer = make_trainer(config, mini, *load(start), tmp_path)
    trainer.collector = make_collector(config, prompt_dataset(mini.splits["train"], numbered=True))
    trainer.train_dataset = trainer.collector.dataset
    stopped = []

    def first_newline(rows, ranks=None):
        stopped.append(ranks)
        return [True] * len(rows)

    trainer.scorer.has_all_ranks = first_newline  # an untrained model writes no entries
    trainer.train()
    assert stopped and set(stopped) == {1}


def test_resumed_is_never_stopped(mini, start, tmp_path) -> None:
    of = [composed(*WORDS, f"runs_dir={tmp_path / name}") for name in ("whole", "stopped")]
    whole = train(of[0], start, mini)
    with pytest.raises(Stopped):
        train(of[1], start, mini, StopsAt(5))
    run = train(of[1], start, mini)
    assert run.read_metrics() == whole.read_metrics() and equal(weights(run), weights(whole))
    of_beta = {row["step"]: row["value"] for row in run.read_metrics() if row["metric"] == "schedule/algorithm.kl.beta"}
    assert of_beta == pytest.approx({step: 1 - (step - 1) // 2 * 2 / 6 for step in range(1, 7)})
    assert torch.isfinite(next(iter(weights(run).values()))).all()
