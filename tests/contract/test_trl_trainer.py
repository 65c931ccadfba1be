"""`rlbench.trl_trainer`: TRL's own loss and gradients where TRL has the method, and rewards of ranks."""

import math
import shutil

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from trl import GRPOConfig, GRPOTrainer

import rlbench
from rlbench.config.schema import POLICY_OPTIMISATION
from rlbench.objective.pieces import credits, regularisers
from rlbench.running.cli import methods
from tests.conftest import composed
from tests.helpers_parity import Watch, hashed_gains
from tests.helpers_training import load

N = 4


@pytest.fixture
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def prompts() -> Dataset:
    return Dataset.from_list([{"prompt": f"films like {word}", "wanted": word} for word in "abcdefgh"])


def arguments(folder, **changes) -> GRPOConfig:
    values = {
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 16,
        "max_steps": 2,
        "learning_rate": 1e-3,
        "max_grad_norm": 1e6,  # gradient clipping would hide a loss with a wrong scale
        "adam_epsilon": 1e-4,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1,
        "use_cpu": True,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "bf16": False,
    }
    return GRPOConfig(str(folder), **values | changes)


def of_list(completion_ids, wanted, **_):
    """One number per completion, from a hash of its tokens: an untrained model has no better reward."""
    assert len(wanted) == len(completion_ids)
    return hashed_gains(completion_ids, "list", N).sum(1).tolist()


def of_ranks(completion_ids, **_):
    return [row[:3] for row in hashed_gains(completion_ids, "ranks", N).tolist()]


def of_both(completion_ids, **_):
    """A number, a list, or nothing."""
    rows = hashed_gains(completion_ids, "both", N).tolist()
    return [row if place % 3 == 0 else row[0] if place % 3 == 1 else None for place, row in enumerate(rows)]


def trained(trainer, model):
    watch = Watch(model)
    trainer.add_callback(watch)
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row], watch.gradients


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("grpo", {"loss_type": "grpo"}),
        ("dr_grpo", {"loss_type": "dr_grpo", "scale_rewards": "none"}),
    ],
)
@pytest.mark.parametrize("rewards", [[of_list], [of_list, of_ranks]], ids=["one", "two"])
def test_it_is_stock_trl_where_trl_has_the_method(name, theirs, rewards, tiny_folder, tmp_path, double_precision):
    changes = {"num_iterations": 2, "reward_weights": [0.3, 1.5][: len(rewards)]}
    tokenizer, model = load(tiny_folder, "float64", ends_early=True)
    ours = rlbench.trl_trainer(
        name,
        model=model,
        train_dataset=prompts(),
        reward_funcs=rewards,
        args=arguments(tmp_path / "ours", **changes),
        processing_class=tokenizer,
        n=N,
    )
    assert isinstance(ours, GRPOTrainer)
    losses, gradients = trained(ours, model)

    def total(completion_ids, **columns):
        return [sum(row) for row in of_ranks(completion_ids, **columns)]

    stock_tokenizer, stock_model = load(tiny_folder, "float64", ends_early=True)
    algorithm = composed(f"algorithm={name}").algorithm
    clip, kl = algorithm.options["clip"], algorithm.kl
    settings = {"epsilon": clip["low"], "epsilon_high": clip["high"], "beta": kl.beta}
    settings |= {"use_bias_correction_kl": kl.importance_weighted}
    stock = GRPOTrainer(
        model=stock_model,
        train_dataset=prompts(),
        reward_funcs=[of_list, total][: len(rewards)],
        args=arguments(tmp_path / "theirs", **changes | settings | theirs),
        processing_class=stock_tokenizer,
    )
    expected, their_gradients = trained(stock, stock_model)
    assert len(losses) == 2 and losses == pytest.approx(expected, abs=1e-6)
    assert max(gradient.abs().max() for gradient in their_gradients) > 1e-3
    for mine, other in zip(gradients, their_gradients, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)
    for key, weight in stock_model.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], weight, atol=1e-6, rtol=1e-5)


def test_rank_rewards_credit_ranks(tiny_folder, tmp_path):
    tokenizer, model = load(tiny_folder, ends_early=True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer = rlbench.trl_trainer(
        "rank_grpo",
        model=model,
        train_dataset=prompts(),
        reward_funcs=[of_ranks, of_both],
        args=arguments(tmp_path),
        processing_class=tokenizer,
        n=N,
    )
    losses, _ = trained(trainer, model)
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    assert any(not torch.equal(value, before[key]) for key, value in model.state_dict().items())
    rewards, lists = trainer._gathered, trainer.scorer.lists
    assert rewards.gains.shape == (8, 2, N) and (rewards.gains[:, 0, :3] > 0).all() and not rewards.gains[:, 0, 3].any()
    expected = [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert [bool(score) for score in rewards.scores[:3, 1]] == [bool(row[0]) for row in expected]
    for scored in lists:  # every line with content is a rank
        lines = scored.text.split("\n")
        assert [lines[line].strip() for line in scored.parsed.lines] != [] or not scored.text.strip()
    assert {"reward@1", "hits@1", "term/of_ranks", "term/of_both"} <= set(trainer.state.log_history[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", methods(POLICY_OPTIMISATION))
def test_every_method_trains_or_says_why_not(name, tiny_folder, tmp_path):
    algorithm = composed(f"algorithm={name}").algorithm
    learns = any("demonstrations" in regularisers[term].needs for term in algorithm.regularisers)
    impossible = learns or credits[algorithm.credit].facts["reads"] == "hits"

    def build():
        return rlbench.trl_trainer(
            name,
            model=str(tiny_folder),
            train_dataset=prompts(),
            reward_funcs=of_ranks,
            args=arguments(tmp_path, num_iterations=2),
            n=N,
        )

    if impossible:
        with pytest.raises(rlbench.BadInput, match="only rlbench.Experiment"):
            build()
        return
    trainer = build()
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert len(rows) == 2 and all(math.isfinite(row["loss"]) for row in rows)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "rank_gpro"}, "Did you mean 'rank_grpo'?"),
        ({"method": "dpo"}, "method of preference optimisation"),
        ({"method": "swap_rank"}, "computes credit from relevance"),
        ({"method": "uniapl"}, "learns from demonstrations"),
        ({"n": None}, "n is missing: rank_grpo"),
        ({"n": 0}, "n = 0 must be"),
        ({"line_format": "{titel}"}, "line_format = .*Did you mean '{title}'?"),
        ({"reward_funcs": []}, "reward_funcs is empty"),
        ({"reward_function": of_list}, "no argument 'reward_function'. Did you mean 'reward_funcs'?"),
        ({"args": {"epsilon": 0.3, "loss_type": "bnpo"}}, r"args.epsilon = 0.3 has no effect(.|\n)*args.loss_type"),
        ({"args": {"reward_weights": [1.0, 2.0]}}, "reward_weights has 2 weights for 1 reward_funcs"),
        ({"args": {"eval_strategy": "steps", "eval_steps": 1}}, "does not evaluate while it trains"),
    ],
)
def test_wrong_arguments_are_named(changes, said, tmp_path):
    given = {"method": "rank_grpo", "model": "none", "train_dataset": None, "reward_funcs": of_ranks, "n": N}
    args = arguments(tmp_path, **changes.get("args", {}))
    with pytest.raises(rlbench.BadInput, match=said):
        rlbench.trl_trainer(**given | changes | {"args": args})


def test_a_model_without_some_of_its_weights_is_refused(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / "files.json").unlink()
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(rlbench.BadInput, match=r"the weights lack model\.norm\.weight"):
        rlbench.trl_trainer(
            "rank_grpo", model=str(folder), train_dataset=None, reward_funcs=of_ranks, args=arguments(tmp_path), n=N
        )


@pytest.mark.parametrize(
    ("rewards", "said"),
    [
        (of_list, "rank_grpo credits ranks, but every function returned one number"),
        (lambda completions, **_: ["good"] * len(completions), "returned 'good' for completion 0"),
        (
            lambda completions, **_: [[1.0] * 9] * len(completions),
            "returned 9 rewards for completion 0, but lists have n = 4",
        ),
        (lambda completions, **_: [None] * len(completions), "every function returned None for a completion"),
        (lambda completions, **_: [[math.nan]] * len(completions), r"returned \[nan\] for completion 0"),
    ],
)
def test_wrong_rewards_are_named(rewards, said, tiny_folder, tmp_path):
    tokenizer, model = load(tiny_folder)
    trainer = rlbench.trl_trainer(
        "rank_grpo",
        model=model,
        train_dataset=prompts(),
        reward_funcs=rewards,
        args=arguments(tmp_path),
        processing_class=tokenizer,
        n=N,
    )
    with pytest.raises(rlbench.BadInput, match=said):
        trainer.train()
