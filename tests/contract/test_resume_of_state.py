"""State besides the weights survives a resume: values kept by pieces, and a reference that follows the policy."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from rlbench.base import digests
from rlbench.base.progress import Progress
from rlbench.config.schema import Config
from rlbench.running.checks import check_config
from rlbench.runs.directory import Run, locate
from rlbench.training.callbacks import REFERENCE_FILE
from rlbench.training.checkpoints import RESUME_FILE
from rlbench.training.rl import TrainingData, reference_sync, train_rl
from rlbench.training.validation import Validation
from tests.conftest import SMALL, composed
from tests.helpers_training import load, make_criteria, make_recording, make_trainer

RL = {
    "completions_per_update": 8,
    "group_size": 4,
    "micro_batch_size": 4,
    "num_iterations": 2,
    "learning_rate": 1e-3,
    "save_every": 2,
    "keep_checkpoints": 9,
}
SHORT = [*SMALL, "generation.max_new_tokens=16", *(f"trainer.rl.{key}={value}" for key, value in RL.items())]
UPDATES, STOP = 6, 5
"""The run stops during update 5, after the checkpoint of update 4."""
EVERYTHING = [
    f"trainer.rl.updates={UPDATES}",
    f"evaluation.every={UPDATES}",
    "evaluation.validation_contexts=2",
    "algorithm=humanline",
    "algorithm.layout=published",  # so that an untrained model's lists have ranks
    "algorithm.baseline=effective_rank",
    "+algorithm.regularisers={siren:20.0,sft:0.1}",
    "algorithm.reference.mixup=0.5",
    "algorithm.kl.beta=0.1",
    # Without hits, token counts distinguish the lists.
    "+reward.terms.tokens={weight:1.0,normaliser:16.0}",
]


class Stopped(RuntimeError):
    """Raised in place of a kill."""


class StopsAt:
    """A tracker that stops the run at an update."""

    def __init__(self, update: int):
        self.update = update

    def log(self, metrics, step):
        if step == self.update:
            raise Stopped

    def log_table(self, *_):
        pass


def train(config: Config, start: Path, mini, tracker=None) -> Run:
    """Run the RL stage of a config from its start or its checkpoint."""
    run, (tokenizer, _) = locate(config, "rl"), load(start)
    train_rl(
        config,
        make_recording(config, run, tracker),
        start,
        tokenizer,
        TrainingData(mini.splits["train"], mini.splits["sft"]),
        Validation(mini.splits["validation"][:2], make_criteria(config, mini), {}),
        Progress("", UPDATES, file=None, show=False),
    )
    return run


def of_folder(folder: Path) -> Config:
    return composed(*SHORT, *EVERYTHING, f"runs_dir={folder}")


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.final_model / "model.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def whole(mini, start, tmp_path_factory) -> Run:
    """An uninterrupted run."""
    config = of_folder(tmp_path_factory.mktemp("whole"))
    assert not check_config(config)
    return train(config, start, mini)


@pytest.fixture(scope="module")
def stopped(mini, start, tmp_path_factory) -> Path:
    """The folder of a stopped run."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(Stopped):
        train(of_folder(folder), start, mini, StopsAt(STOP))
    return folder


@pytest.fixture
def resumed(mini, start, stopped, tmp_path):
    """The stopped run, resumed after its last checkpoint was changed."""

    def go_on(change=lambda checkpoint: None) -> Run:
        shutil.copytree(stopped, tmp_path / "runs")
        config = of_folder(tmp_path / "runs")
        checkpoint = locate(config, "rl").checkpoints / "checkpoint-4"
        assert not (checkpoint.parent / "checkpoint-6").exists()
        change(checkpoint)
        for path in checkpoint.iterdir():
            if path.name != digests.LIST_FILE:
                digests.add(checkpoint, path)
        return train(config, start, mini)

    return go_on


def test_resumed_is_never_stopped(whole, resumed):
    """Weights and curves are equal, bit for bit."""
    run = resumed()
    assert run.read_metrics() == whole.read_metrics()
    assert equal(weights(run), weights(whole))
    for name in (REFERENCE_FILE, "model.safetensors"):
        ours, theirs = (load_file(r.checkpoints / "checkpoint-6" / name) for r in (run, whole))
        assert equal(ours, theirs)
    kept = [json.loads((r.checkpoints / "checkpoint-6" / RESUME_FILE).read_text()) for r in (run, whole)]
    assert kept[0]["memory"] == kept[1]["memory"]
    assert kept[0]["budget"]["counts"] == kept[1]["budget"]["counts"]


def test_what_a_checkpoint_keeps(whole):
    folders = [whole.checkpoints / f"checkpoint-{step}" for step in (2, 4, 6)]
    memories = [json.loads((folder / RESUME_FILE).read_text())["memory"] for folder in folders]
    of_hidden = [f"effective_rank/{name}" for name in ("effective_rank", "rank_velocity", "rank_acceleration")]
    of_last = [name.replace("/", "/last/") for name in of_hidden]
    for memory in memories:
        assert memory.keys() == {*of_hidden, *of_last, "siren/anchor"}
        assert memory["siren/anchor"] == memories[0]["siren/anchor"] > 0
    assert len({memory[of_hidden[0]] for memory in memories}) == 3
    values = {row["metric"] for row in whole.read_metrics()}
    assert {"regulariser/siren", "regulariser/sft", "kl"} <= values
    # The anchor comes from the first rollout, so the term acts in the first update: micro-batches differ.
    of_siren = [row for row in whole.read_metrics() if row["metric"] == "regulariser/siren"]
    assert min(of_siren, key=lambda row: row["step"])["value"] > 0
    references = [load_file(folder / REFERENCE_FILE) for folder in folders]
    assert not equal(references[0], references[1]) and not equal(references[1], references[2])


def remembered(name, by):
    def change(checkpoint):
        path = checkpoint / RESUME_FILE
        totals = json.loads(path.read_text())
        totals["memory"][name] += by
        path.write_text(json.dumps(totals))

    return change


def another_reference(checkpoint):
    there = load_file(checkpoint / REFERENCE_FILE)
    save_file({name: 1.5 * weight for name, weight in there.items()}, checkpoint / REFERENCE_FILE)


CHANGES = {
    "anchor": remembered("siren/anchor", 0.5),
    "running mean": remembered("effective_rank/effective_rank", -4.0),
    "reference": another_reference,
}


@pytest.mark.parametrize("change", CHANGES)
def test_all_of_it_matters(change, whole, resumed):
    """The test above is sensitive: another value in the checkpoint gives another policy."""
    assert not equal(weights(resumed(CHANGES[change])), weights(whole))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["spo", "uniapl_adversarial"])
def test_what_else_pieces_remember_is_never_lost(name, mini, start, tmp_path):
    """Values of prompts that are drawn again, and a discriminator."""
    two_prompts = replace(mini, splits={**mini.splits, "train": mini.splits["train"][:2]})
    length = "+reward.terms.tokens={weight:1.0,normaliser:16.0}"
    few = [f"trainer.rl.updates={UPDATES}", f"evaluation.every={UPDATES}", "evaluation.validation_contexts=2", length]

    def config(folder: str) -> Config:
        return composed(*SHORT, *few, f"algorithm={name}", f"runs_dir={tmp_path / folder}")

    assert not check_config(config("whole"))
    whole = train(config("whole"), start, two_prompts)
    with pytest.raises(Stopped):
        train(config("stopped"), start, two_prompts, StopsAt(STOP))
    resumed = train(config("stopped"), start, two_prompts)
    assert equal(weights(resumed), weights(whole))
    assert resumed.read_metrics() == whole.read_metrics()
    memories = [
        json.loads((run.checkpoints / f"checkpoint-{step}" / RESUME_FILE).read_text())["memory"]
        for run, step in ((whole, 4), (whole, 6), (resumed, 6))
    ]
    assert memories[0] != memories[1] == memories[2]
    assert all(value != 0 for key, value in memories[1].items() if key.startswith("value_tracker"))


# A reference that follows the policy.


class Watch(TrainerCallback):
    """Copies of policy and reference at the end of every update; index 0 is the start."""

    def __init__(self, trainer):
        self.trainer, self.policies, self.references = trainer, [], []
        self.note()

    def note(self):
        self.policies.append({name: p.detach().clone() for name, p in self.trainer.model.named_parameters()})
        self.references.append({name: p.detach().clone() for name, p in self.trainer.ref_model.named_parameters()})

    def on_step_end(self, args, state, control, **_):
        self.note()


def following(mini, start, output, every, mixup, *overrides):
    """A trainer of 6 updates, its recorded values, and the batches of its losses with their updates."""
    settings = [f"algorithm.reference.sync_every={every}", f"algorithm.reference.mixup={mixup}"]
    config = composed(*SHORT, *EVERYTHING[:1], "algorithm=humanline", EVERYTHING[-1], *settings, *overrides)
    trainer = make_trainer(config, mini, *load(start), output)
    trainer.add_callback(reference_sync(trainer, config, None))
    watch, seen, compute_loss = Watch(trainer), [], trainer._compute_loss
    trainer.add_callback(watch)

    def noted(model, inputs):
        seen.append((trainer.state.global_step + 1, inputs))
        return compute_loss(model, inputs)

    trainer._compute_loss = noted
    trainer.train()
    assert len(watch.policies) == UPDATES + 1 and not equal(watch.policies[-1], watch.policies[-2])
    return trainer, watch, seen


def close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    for name, weight in b.items():
        torch.testing.assert_close(a[name], weight, atol=1e-6, rtol=0)


def test_at_every_update_the_reference_is_the_policy_before_it(mini, start, tmp_path):
    """After update k the reference is the policy from before update k; update k + 1 is compared with it."""
    trainer, watch, seen = following(mini, start, tmp_path, 1, 1.0, "trainer.rl.num_iterations=1")
    assert equal(watch.references[0], watch.policies[0])
    for k in range(1, UPDATES + 1):
        close(watch.references[k], watch.policies[k - 1])
        assert not equal(watch.references[k], watch.policies[k])
    for k, inputs in seen:
        compared_with = watch.policies[max(k - 2, 0)]
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        length, counted = inputs["completion_ids"].size(1), inputs["completion_mask"].bool()
        with torch.no_grad():
            given = {"input_ids": ids, "attention_mask": mask}
            logits = torch.func.functional_call(trainer.model, compared_with, kwargs=given).logits
        logps = logits[:, -length - 1 : -1].log_softmax(-1).gather(-1, inputs["completion_ids"][..., None]).squeeze(-1)
        torch.testing.assert_close(inputs["ref_per_token_logps"][counted], logps[counted], atol=1e-5, rtol=0)
    assert {k for k, _ in seen} == set(range(1, UPDATES + 1))


@pytest.mark.parametrize(("every", "mixup"), [(2, 0.5), (3, 1.0), (1, 0.25)])
def test_reference_by_the_formula(every, mixup, mini, start, tmp_path):
    """Before update k > 1, the reference becomes (1 - mixup) times itself plus mixup times the policy."""
    _, watch, _ = following(mini, start, tmp_path, every, mixup)
    reference = {name: weight.double() for name, weight in watch.references[0].items()}
    synced = 0
    for k in range(1, UPDATES + 1):
        done = k - 1
        if done and done % every == 0:
            synced += 1
            policy = watch.policies[done]
            reference = {name: (1 - mixup) * w + mixup * policy[name].double() for name, w in reference.items()}
        close(watch.references[k], {name: weight.float() for name, weight in reference.items()})
    assert synced == (UPDATES - 1) // every


def test_a_reference_that_stays(mini, start, tmp_path):
    config = composed(*SHORT, *EVERYTHING[:1], "algorithm=grpo", EVERYTHING[-1], "trainer.rl.updates=2")
    trainer = make_trainer(config, mini, *load(start), tmp_path)
    watch = Watch(trainer)
    trainer.add_callback(watch)
    trainer.train()
    assert equal(watch.references[-1], watch.policies[0]) and not equal(watch.policies[-1], watch.policies[0])
