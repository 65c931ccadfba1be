"""Preference optimisation: TRL's DPO, S-DPO against its formula, rounds, budget, resume and refusals."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from rlbench.base import preemption
from rlbench.base.errors import BadInput
from rlbench.config.schema import Config
from rlbench.preference.losses import losses
from rlbench.preference.store import Store, preferences
from rlbench.running.checks import check_config
from rlbench.runs.budget import Ledger
from rlbench.runs.directory import Run, locate
from rlbench.training.demonstrations import Kept
from rlbench.training.preference import Lists, PreferenceTrainer
from rlbench.training.rl import Trained
from tests.conftest import SMALL, composed, slow
from tests.helpers_safety import curve, totals, train
from tests.helpers_training import load, make_preference_trainer

UPDATES = 6
SHORT = [
    *SMALL,
    f"trainer.rl.updates={UPDATES}",
    "trainer.rl.num_iterations=1",
    "trainer.rl.completions_per_update=16",
    "trainer.rl.group_size=4",
    "trainer.rl.micro_batch_size=8",
    "trainer.rl.learning_rate=1e-3",
    "trainer.rl.save_every=1",
    "trainer.rl.keep_checkpoints=9",
    "generation.max_new_tokens=16",
    "evaluation.every=3",
    "evaluation.validation_contexts=2",
    "safety=off",
    # Without hits, token counts distinguish the lists; the longer list is better.
    "+reward.terms.tokens={weight:1.0,normaliser:24.0}",
]


def small(folder: Path, *overrides: str) -> Config:
    config = composed(*SHORT, *overrides, f"runs_dir={folder}")
    assert not check_config(config)
    return config


class Gradients(TrainerCallback):
    """Records the gradients before every update."""

    def __init__(self, model):
        self.model, self.found = model, []

    def on_pre_optimizer_step(self, args, state, control, **_):
        self.found.append(torch.cat([p.grad.flatten().clone() for p in self.model.parameters()]))


def watched(trainer) -> tuple[list[float], list[torch.Tensor]]:
    """Losses and gradients of all updates."""
    gradients = Gradients(trainer.model)
    trainer.add_callback(gradients)
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row], gradients.found


def tuples_in_order(trainer: PreferenceTrainer):
    """The tuples of a trained trainer in training order, for methods with one round."""
    (one,) = trainer.lists.rounds
    table, _ = trainer.lists.read(one)
    return preferences(table, trainer._rows(list(range(trainer.order.per_update * UPDATES)), one, True))


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class TRLDPO(DPOTrainer):
    """TRL's trainer on the given token ids, in their order."""

    def _prepare_dataset(self, dataset, *_):
        return dataset

    def _get_train_sampler(self, dataset=None):
        return SequentialSampler(self.train_dataset)


@pytest.mark.parametrize(("micro", "share"), [(16, "always"), (4, "always"), (4, "never")])
def test_dpo_is_trls(micro, share, float64, mini, start, tmp_path):
    """Loss and gradient equal TRL's at every update, in float64."""
    settings = [f"trainer.rl.micro_batch_size={micro}", f"trainer.share_prompts={share}"]
    config = small(tmp_path, "algorithm=dpo", *settings, "model.dtype=float32")
    tokenizer, model = load(start)
    ours = make_preference_trainer(config, mini, tokenizer, model.double(), start)
    losses, gradients = watched(ours)
    pairs = tuples_in_order(ours)
    assert len({row.context_id for row in pairs}) > 8 and (ours._shared is None) == (share == "never")
    policy, reference = (load(start)[1].double() for _ in range(2))
    rl = config.trainer.rl
    theirs = TRLDPO(
        model=policy,
        ref_model=reference,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(
            [{"prompt_ids": row.prompt, "chosen_ids": row.chosen, "rejected_ids": row.rejected[0]} for row in pairs]
        ),
        args=DPOConfig(
            output_dir=str(tmp_path / "trl"),
            beta=config.algorithm.beta,
            max_steps=UPDATES,
            per_device_train_batch_size=micro // 2,
            gradient_accumulation_steps=16 // micro,
            learning_rate=rl.learning_rate,
            lr_scheduler_type="constant",
            adam_beta2=rl.adam_beta2,
            weight_decay=0.0,
            max_grad_norm=rl.max_grad_norm,
            logging_steps=1,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
        ),
    )
    their_losses, their_gradients = watched(theirs)
    assert losses[0] == pytest.approx(0.6931471805599453, abs=1e-7) and losses[-1] < 0.6
    assert losses == pytest.approx(their_losses, abs=1e-6)
    for ours_, theirs_ in zip(gradients, their_gradients, strict=True):
        torch.testing.assert_close(ours_, theirs_, atol=1e-6, rtol=1e-6)
        assert ours_.abs().max() > 1e-3
    history = [(a, b) for a, b in zip(ours.state.log_history, theirs.state.log_history, strict=True) if "loss" in a]
    for a, b in history:
        for name, their_name in (("margin", "margins"), ("accuracy", "accuracies"), ("chosen", "chosen")):
            assert a[f"implicit_reward_{name}"] == pytest.approx(b[f"rewards/{their_name}"], abs=1e-6)
        assert a["entropy"] == pytest.approx(b["entropy"], abs=1e-3)  # TRL weights micro-batches by tokens


def test_s_dpo_by_its_formula(float64, mini, start, tmp_path):
    """Loss and gradient of the first update match the formula list by list, as does the loss of the second."""
    config = small(tmp_path, "algorithm=s_dpo", "trainer.rl.max_grad_norm=0.0")
    tokenizer, model = load(start)
    ours = make_preference_trainer(config, mini, tokenizer, model.double(), start)
    losses, gradients = watched(ours)
    of_update = tuples_in_order(ours)[: ours.order.per_update]
    policy, reference = (load(start)[1].double() for _ in range(2))

    def logp(network, row, ids):
        whole = torch.tensor([[*row.prompt, *ids]])
        logps = network(whole).logits[0, :-1].log_softmax(-1)
        return sum(logps[len(row.prompt) - 1 + i, token] for i, token in enumerate(ids))

    loss = 0.0
    for row in of_update:
        ratio = [logp(policy, row, ids) - logp(reference, row, ids).detach() for ids in row.lists]
        inner = sum(torch.exp(config.algorithm.beta * (other - ratio[0])) for other in ratio[1:])
        loss = loss - torch.sigmoid(-torch.log(inner)).log() / len(of_update)
        assert len(row.rejected) == 3 and row.chosen_reward > max(row.rejected_rewards)
    loss.backward()
    assert losses[0] == pytest.approx(loss.item(), abs=1e-6) == pytest.approx(1.3862943611198906, abs=1e-6)
    expected = torch.cat([p.grad.flatten() for p in policy.parameters()])
    torch.testing.assert_close(gradients[0], expected, atol=1e-6, rtol=1e-6)
    assert losses[-1] < losses[0]


def test_sprec_trains_on_demonstrations_and_then_against_its_own_lists(mini, start, tmp_path):
    """In each round, SFT raises the mean likelihood of the demonstrations, and the current policy draws the lists. The
    reference is the policy after the supervised updates, so the first comparison costs log 2."""
    config = small(tmp_path, *SPREC)
    run, trained, ledger = train(config, start, mini)
    losses, margins = curve(run, "loss"), curve(run, "implicit_reward_margin")
    assert sorted(margins) == [2, 3, 5, 6] and sorted(curve(run, "tuples")) == [1, 4]
    assert [losses[2], losses[5]] == pytest.approx([0.6931472] * 2, abs=1e-6) and min(losses[1], losses[4]) > 3
    assert losses[4] < losses[1]
    demonstrated = {record.context_id: record for record in mini.splits["sft"]}
    first, second = (Store(run.root / "preferences").read(number, 1)[0].to_pylist() for number in (0, 1))
    tokenizer = load(start)[0]
    for row in first + second:
        text = demonstrated[row["context_id"]].completion[0]["content"]
        assert tokenizer.decode(row["chosen"], skip_special_tokens=True).strip() == text
        assert row["chosen_reward"] > max(row["rejected_rewards"])
    assert {tuple(row["rejected"][0]) for row in first}.isdisjoint(tuple(row["rejected"][0]) for row in second)
    assert trained == Trained(UPDATES, UPDATES, None, Kept(40, 0, 0))


SPREC = ["algorithm=sprec", "algorithm.rounds=2", "algorithm.sft_share=0.34", "trainer.sft.max_length=400"]


# Budget.


@pytest.mark.parametrize("method", [*slow("dpo"), "sprec"])
def test_the_budget_is_grpos(method, mini, start, tmp_path):
    spent = {}
    for name in (method, "grpo"):
        _, _, ledger = train(small(tmp_path, f"algorithm={name}", *EVEN), start, mini)
        spent[name] = ledger.counts
    assert spent[method]["prompts"] == spent["grpo"]["prompts"] == 3 * 4
    assert spent[method]["completions"] == spent["grpo"]["completions"] == 3 * 16
    assert spent[method]["generated_tokens"] > 3 * 16 and spent[method]["trained_tokens"] > 100


def test_a_budget_of_tokens_ends_a_training_after_a_round(mini, start, tmp_path):
    words = ["algorithm=dpo", "algorithm.rounds=3", "trainer.rl.token_budget=1", "evaluation.every=6"]
    run, trained, ledger = train(small(tmp_path, *words), start, mini)
    assert trained == Trained(2, 2, None)
    assert ledger.counts["prompts"] == 8 and ledger.counts["completions"] == 32  # a third of 6 updates of 4 prompts
    assert {row["step"] for row in run.read_metrics() if row["split"] == "validation"} == {0, 2}


EVEN = ["trainer.rl.num_iterations=2", "trainer.rl.save_every=2", "evaluation.every=2"]


# Resume.


class Stopped(RuntimeError):
    """Raised in place of a kill."""


class StopsAt:
    """A tracker that stops the run at an update."""

    def __init__(self, update: int):
        self.update = update

    def log(self, metrics, step):
        if step == self.update and "train/loss" in metrics:
            raise Stopped

    def log_table(self, *_):
        pass


def same(a: Run, b: Run) -> None:
    assert a.read_metrics() == b.read_metrics()
    weights = [load_file(run.final_model / "model.safetensors") for run in (a, b)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    counts = [totals(run, UPDATES)["budget"]["counts"] for run in (a, b)]
    assert counts[0] == counts[1]


METHODS = {"dpo": ["algorithm=dpo"], "sprec": SPREC}
STOPS = [("dpo", 1), ("sprec", 5)]
MORE_STOPS = [("dpo", 4), *(("sprec", stop) for stop in range(1, UPDATES + 1) if stop != 5)]
STOPS += [pytest.param(*stop, marks=pytest.mark.slow) for stop in MORE_STOPS]


@pytest.fixture(scope="module", params=METHODS)
def method(request, mini, start, tmp_path_factory):
    """The overrides of a method, and its uninterrupted run."""
    overrides = METHODS[request.param]
    return overrides, train(small(tmp_path_factory.mktemp("whole"), *overrides), start, mini)[0]


@pytest.mark.parametrize(("method", "stop"), STOPS, indirect=["method"])
def test_resumed_is_never_stopped(stop, method, mini, start, tmp_path):
    """The run stops before any checkpoint: before and after lists are drawn, in both phases of a round."""
    overrides, whole = method
    config = small(tmp_path, *overrides)
    with pytest.raises(Stopped):
        train(config, start, mini, StopsAt(stop))
    run, _, _ = train(config, start, mini)
    same(run, whole)


@pytest.mark.slow
def test_what_was_drawn_is_not_drawn_again(method, mini, start, tmp_path, monkeypatch):
    overrides, whole = method
    config = small(tmp_path, *overrides)
    with pytest.raises(Stopped):
        train(config, start, mini, StopsAt(3))
    monkeypatch.setattr(Lists, "_draw_part", None if len(overrides) == 1 else Lists._draw_part)
    files = {path: path.read_bytes() for path in (locate(config, "rl").root / "preferences").rglob("*.parquet")}
    same(train(config, start, mini)[0], whole)
    assert {path: path.read_bytes() for path in files} == files


@pytest.mark.slow
def test_stopped_while_lists_are_drawn(method, mini, start, tmp_path, monkeypatch):
    """A run stopped after the first part of two prompts continues with the second part."""
    overrides, _ = method
    monkeypatch.setattr("rlbench.training.preference_lists.LISTS_OF_A_PART", 8)
    whole = train(small(tmp_path / "whole", *overrides), start, mini)[0]
    config = small(tmp_path / "stopped", *overrides)
    asked = []
    monkeypatch.setattr(preemption, "requested", lambda: asked.append(1) or len(asked) == 1)
    with pytest.raises(preemption.Preempted, match="while lists were being sampled"):
        train(config, start, mini)
    parts = list((locate(config, "rl").root / "preferences").rglob("part-*.parquet"))
    assert len(parts) == 1
    monkeypatch.setattr(preemption, "requested", lambda: False)
    same(train(config, start, mini)[0], whole)
    assert len(list((whole.root / "preferences" / "round-0").glob("part-*.parquet"))) > 3


def test_lists_that_are_gone_are_told(method, mini, start, tmp_path):
    overrides, whole = method
    shutil.copytree(whole.root.parents[3], tmp_path, dirs_exist_ok=True)
    config = small(tmp_path, *overrides)
    run = locate(config, "rl")
    for step in (4, 6):
        shutil.rmtree(run.checkpoints / f"checkpoint-{step}")
    shutil.rmtree(run.root / "preferences")
    with pytest.raises(BadInput, match=r"lists of round \d are missing in .*Remove .*checkpoints"):
        train(config, start, mini)


# Runs that cannot continue.


def test_nothing_to_prefer(mini, start, tmp_path):
    """An untrained model has no hits, so all lists score the same."""
    config = composed(*SHORT[:-1], "algorithm=dpo", f"runs_dir={tmp_path}")
    run, trained, ledger = train(config, start, mini)
    assert trained.stop.update == trained.updates == 0
    assert (
        "in round 1 no list scores higher than another list of its prompt, for any of 24 prompts" in trained.stop.reason
    )
    assert ledger.counts["completions"] == 96 and (run.final_model / "model.safetensors").is_file()


def test_a_destroyed_policy_is_stopped(mini, start, tmp_path):
    bounds = ["safety=default", "safety.warmup=1", "safety.patience=1", "safety.min_entropy_share=0.9"]
    rest = [override for override in SHORT if not override.startswith("safety")]
    config = composed(*rest, *bounds, "algorithm=dpo", "trainer.rl.learning_rate=0.3", f"runs_dir={tmp_path}")
    _, trained, _ = train(config, start, mini)
    assert trained.stop is not None and trained.updates < UPDATES


def test_what_is_not_finite_is_never_applied(mini, start, tmp_path, monkeypatch):
    seen = []

    def broken(inputs):
        seen.append(1)
        return inputs.ratios.sum(1) * (torch.nan if len(seen) == 5 else 1.0)

    monkeypatch.setitem(losses._pieces, "softmax", replace(losses["softmax"], function=broken))
    run, trained, _ = train(small(tmp_path, "algorithm=dpo"), start, mini)
    assert trained.stop.update == trained.step == 2 and "the loss of update 3 is nan" in trained.stop.reason
    assert sorted(curve(run, "loss")) == [1, 2]


def test_the_ledger_is_told_once(mini, start, tmp_path):
    """Lists are counted once even if their attempt was killed before its first checkpoint."""
    config = small(tmp_path, "algorithm=dpo", "trainer.rl.save_every=6")
    with pytest.raises(Stopped):
        train(config, start, mini, StopsAt(2))
    _, _, ledger = train(config, start, mini)
    assert isinstance(ledger, Ledger) and ledger.counts["completions"] == 96
    kept = json.loads((locate(config, "rl").checkpoints / "checkpoint-6" / "rlbench.json").read_text())
    assert kept["budget"]["counts"]["prompts"] == 24
