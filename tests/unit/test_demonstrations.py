"""Demonstrations during RL: same tokens as TRL's SFTTrainer, drawn in rounds, and the loss term made of them."""

from collections import Counter

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from rlbench.base.errors import BadInput
from rlbench.training.demonstrations import Demonstrations
from tests.conftest import SMALL, composed
from tests.helpers_training import load, make_trainer

CPU = torch.device("cpu")
LONG = 256


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
    return load(tiny_folder)[0]


def make(mini, tokenizer, max_length=LONG, seed=0, count=None):
    return Demonstrations(mini.splits["sft"][:count], tokenizer, max_length, seed)


def sft_trainer(mini, folder, output, max_length=LONG, **settings) -> SFTTrainer:
    """Return TRL's own trainer on the records of the SFT stage."""
    tokenizer, model = load(folder)
    arguments = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False}
    rows = [{"prompt": record.prompt, "completion": record.completion} for record in mini.splits["sft"]]
    return SFTTrainer(
        model=model,
        args=SFTConfig(output_dir=str(output), max_length=max_length, **arguments, **settings),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )


@pytest.mark.parametrize("cut", ["nothing", "some completions", "some whole completions"])
def test_tokens_are_those_of_the_sft_stage(cut, mini, tokenizer, tiny_folder, tmp_path):
    prompts = sorted(len(prompt) for prompt, _ in make(mini, tokenizer).rows)
    limit = {"nothing": LONG, "some completions": prompts[-1] + 5, "some whole completions": prompts[20]}[cut]
    theirs = list(sft_trainer(mini, tiny_folder, tmp_path, limit).train_dataset)
    ours = make(mini, tokenizer, limit).rows
    assert [prompt + completion for prompt, completion in ours] == [row["input_ids"] for row in theirs]
    masked = [[-100] * len(prompt) + completion for prompt, completion in ours]
    assert masked == [row["labels"] for row in theirs]
    records = len(mini.splits["sft"])
    assert len(ours) == records if cut != "some whole completions" else 0 < len(ours) < records
    assert (max(len(row["input_ids"]) for row in theirs) == limit) == (cut != "nothing")


def test_a_completion_ends_as_the_policy_has_to_end(mini, tokenizer):
    for prompt, completion in make(mini, tokenizer).rows:
        assert completion[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id not in prompt
        assert tokenizer.decode(prompt).endswith("<|assistant|>")


def test_nothing_left_is_refused(mini, tokenizer):
    with pytest.raises(BadInput, match="trainer.sft.max_length = 3 .* of 40 demonstrations"):
        make(mini, tokenizer, 3)


def read(batch) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return (prompt, completion) of each row without padding."""
    rows = []
    for prompt, p, completion, c in zip(
        batch.prompt_ids, batch.prompt_mask, batch.completion_ids, batch.completion_mask, strict=True
    ):
        assert p.tolist() == sorted(p.tolist()) and c.tolist() == sorted(c.tolist(), reverse=True)  # left, right
        rows.append((tuple(prompt[p == 1].tolist()), tuple(completion[c == 1].tolist())))
    return rows


def test_padding(mini, tokenizer):
    demonstrations = make(mini, tokenizer)
    batch = demonstrations.batch(0, 8, CPU)
    whole = {(tuple(prompt), tuple(completion)) for prompt, completion in demonstrations.rows}
    assert set(read(batch)) <= whole and len(batch.prompt_ids) == 8
    for ids, mask in ((batch.prompt_ids, batch.prompt_mask), (batch.completion_ids, batch.completion_mask)):
        assert ids.shape == mask.shape and mask.sum(1).max() == mask.size(1) and not mask.bool().all()
        assert (ids[mask == 0] == tokenizer.pad_token_id).all()


@pytest.mark.parametrize("size", [1, 3, 40, 64])
def test_each_once_a_round(size, mini, tokenizer):
    """With any batch size, three rounds contain each of 40 demonstrations three times, in three orders."""
    demonstrations = make(mini, tokenizer)
    count = 40
    drawn = [row for first in range(0, 3 * count, size) for row in read(demonstrations.batch(first, size, CPU))]
    rounds = [drawn[start : start + count] for start in (0, count, 2 * count)]
    everything = Counter((tuple(prompt), tuple(completion)) for prompt, completion in demonstrations.rows)
    assert all(Counter(of_round) == everything for of_round in rounds)
    assert rounds[0] != rounds[1] != rounds[2] != rounds[0]


def test_a_number_names_a_batch(mini, tokenizer):
    demonstrations, again = make(mini, tokenizer), make(mini, tokenizer)
    later = read(demonstrations.batch(56, 8, CPU))
    read(demonstrations.batch(16, 8, CPU))
    assert later == read(demonstrations.batch(56, 8, CPU)) == read(again.batch(56, 8, CPU))
    assert later != read(demonstrations.batch(64, 8, CPU))
    assert later != read(make(mini, tokenizer, seed=1).batch(56, 8, CPU))


SHORT = [
    "algorithm=uniapl",
    "trainer.rl.updates=3",
    "trainer.rl.completions_per_update=8",
    "trainer.rl.group_size=4",
    "trainer.rl.micro_batch_size=2",
    "trainer.rl.num_iterations=1",
    "trainer.rl.learning_rate=1e-2",
    "trainer.rl.save_every=100",
    f"trainer.sft.max_length={LONG}",
    "generation.max_new_tokens=8",
]


def watched(trainer) -> list[tuple[int, int]]:
    """Return a list that collects (first place, size) of each drawn batch."""
    places, batch = [], trainer.demonstrations.batch

    def noted(first, size, device):
        places.append((first, size))
        return batch(first, size, device)

    trainer.demonstrations.batch = noted
    return places


def test_every_micro_batch_draws_another(mini, tiny_folder, tmp_path):
    trainer = make_trainer(composed(*SMALL, *SHORT), mini, *load(tiny_folder), tmp_path)
    places = watched(trainer)
    trainer.train()
    assert places == [(2 * number, 2) for number in range(3 * 4)]


def test_processes_draw_different_ones(mini, tiny_folder, tmp_path, monkeypatch):
    """Each of two processes, as reported by accelerate, draws its own batches."""
    trainer = make_trainer(composed(*SMALL, *SHORT), mini, *load(tiny_folder), tmp_path)
    places, steps = watched(trainer), trainer.args.gradient_accumulation_steps
    assert steps == 4
    monkeypatch.setattr(type(trainer.accelerator), "num_processes", 2)
    for index in (0, 1):
        monkeypatch.setattr(type(trainer.accelerator), "process_index", index)
        for trainer.state.global_step in (0, 1):
            for trainer._step in range(steps):
                trainer._score_demonstrations(trainer.model, 2 * trainer._micro_batches_before(), 2)
    of_process = [set(places[:8]), set(places[8:])]
    assert of_process[0] | of_process[1] == {(2 * number, 2) for number in range(16)}
    assert not of_process[0] & of_process[1]


class Gradients(TrainerCallback):
    """Stores the gradient of the first update."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        self.found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("micro_batch", [8, 4])
def test_the_term_is_the_loss_of_the_sft_stage(micro_batch, mini, tiny_folder, tmp_path):
    """Without hits and with policy equal to reference, only this term contributes to loss and gradient."""
    more = ["algorithm.regularisers.sft=1", "trainer.rl.updates=1", f"trainer.rl.micro_batch_size={micro_batch}"]
    config = composed(*SMALL, *SHORT, *more, "trainer.rl.max_grad_norm=1e6")
    trainer = make_trainer(config, mini, *load(tiny_folder), tmp_path / "rl")
    places, values, compute_loss, gradients = watched(trainer), [], trainer._compute_loss, Gradients()

    def noted(model, inputs):
        loss = compute_loss(model, inputs)
        values.append(trainer._metrics["train"]["regulariser/sft"][-1])
        assert not inputs["advantages"].any()
        return loss

    trainer._compute_loss = noted
    trainer.add_callback(gradients)
    trainer.train()
    assert places == [(first, micro_batch) for first in range(0, 8, micro_batch)]
    assert len(set(values)) == len(values) == len(places)

    sft = sft_trainer(mini, tiny_folder, tmp_path / "sft")
    rows = {tuple(row["input_ids"]): row for row in sft.train_dataset}
    fresh = make(mini, trainer.processing_class, seed=config.seed)
    for (first, size), value in zip(places, values, strict=True):
        drawn = [rows[prompt + completion] for prompt, completion in read(fresh.batch(first, size, CPU))]
        theirs = sft.compute_loss(sft.model, sft.data_collator(drawn))
        (theirs / len(places)).backward()
        assert value == pytest.approx(theirs.item(), abs=1e-5)
    for name, parameter in sft.model.named_parameters():
        torch.testing.assert_close(gradients.found[name], parameter.grad, atol=1e-6, rtol=1e-4)
    assert max(gradient.abs().max() for gradient in gradients.found.values()) > 1e-2


def slow_loss(demonstrations: Demonstrations, model) -> float:
    """Loss computed one demonstration and one token at a time."""
    total, tokens = 0.0, 0
    for prompt, completion in demonstrations.rows:
        with torch.no_grad():
            logps = model(torch.tensor([prompt + completion])).logits[0].double().log_softmax(-1)
        for place, token in enumerate(completion, start=len(prompt)):
            total -= float(logps[place - 1, token])
            tokens += 1
    return total / tokens


def test_the_loss_is_that_of_each_token_in_turn_whatever_the_batches(mini, tokenizer, tiny_folder):
    _, model = load(tiny_folder)
    demonstrations = make(mini, tokenizer, count=11)
    expected = slow_loss(demonstrations, model.eval())
    model.train()
    for size in (1, 4, 100):
        assert demonstrations.loss(model, size) == pytest.approx(expected, rel=1e-6)
    assert model.training


def test_the_loss_is_that_of_trl_where_all_is_one_batch(mini, tokenizer, tiny_folder, tmp_path):
    trainer = sft_trainer(mini, tiny_folder, tmp_path, per_device_eval_batch_size=100)
    theirs = trainer.evaluate(trainer.train_dataset)["eval_loss"]
    assert make(mini, tokenizer).loss(trainer.model, 7) == pytest.approx(theirs, rel=1e-5)
