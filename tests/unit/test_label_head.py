"""The LM head of SFT gives the scores and gradients of TRL's, and is the one that SFT uses."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel
from trl import SFTConfig
from trl.trainer import utils as trl_utils
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

from rlbench.data.record import RankedListDataset
from rlbench.models.label_head import IGNORED, add_label_head
from rlbench.runs.budget import Ledger
from rlbench.training.parallel import SpreadSFTTrainer
from rlbench.training.sft import texts_of
from tests.helpers_models import FAMILIES, VOCABULARY, only_float64, tiny_model
from tests.helpers_training import load

OUTPUTS = ("log_probs", "entropy", "is_top1")


def batch(labelled: bool = True) -> dict[str, Any]:
    """Four demonstrations of different lengths. The prompt of each has no labels; with `labelled` false, none has."""
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(2, VOCABULARY, (4, 12), generator=random)
    mask = (torch.arange(12) < torch.tensor([[12], [9], [7], [12]])).long()
    labels = ids.masked_fill((mask == 0) | (torch.arange(12) < torch.tensor([[3], [5], [6], [1]])), IGNORED)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels if labelled else torch.full_like(ids, IGNORED),
    }


def scored(model: PreTrainedModel, inputs: dict[str, Any]) -> tuple[FusedCausalLMOutput, list[torch.Tensor]]:
    output = model(**inputs, fused_lm_head=True)
    model.zero_grad()
    (-output.log_probs.sum() / 7).backward()
    return output, [torch.zeros(()) if p.grad is None else p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_as_trls(family: str, labelled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = tiny_model(family), batch(labelled)
    if labelled:  # by chance no label is the most likely token
        inputs["labels"][0, 6] = model(**inputs).logits[0, 5].argmax()
    only_float64(monkeypatch)
    add_fused_lm_head(model, outputs=OUTPUTS)
    expected, its_gradients = scored(model, inputs)
    add_label_head(model)
    found, gradients = scored(model, inputs)
    for name in (*OUTPUTS, "label_mask"):
        assert torch.allclose(found[name].double(), expected[name].double(), atol=1e-9, rtol=1e-9), name
    assert found.is_top1.any() or not labelled
    norm = torch.stack([g.norm() for g in its_gradients]).norm()
    assert all((a - b).norm() <= 1e-9 * norm for a, b in zip(gradients, its_gradients, strict=True))
    assert labelled == bool(norm > 0)


def test_other_calls_are_the_models_own() -> None:
    model, inputs = tiny_model("llama"), batch()
    expected = model(**inputs)
    add_fused_lm_head(model, outputs=OUTPUTS)
    add_label_head(model)
    found = model(**inputs)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.loss, expected.loss)


@pytest.mark.parametrize("plain", [False, True])
def test_the_sft_stage_uses_it(
    plain: bool, mini: RankedListDataset, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its losses are those with TRL's head, which it does not call unless asked to."""
    calls: list[str] = []

    def losses(**settings: bool) -> list[float]:
        tokenizer, model = load(tiny_folder)
        args = SFTConfig(
            output_dir=str(tmp_path),
            max_steps=3,
            per_device_train_batch_size=4,
            learning_rate=1.0,
            optim="sgd",  # Adam magnifies rounding where a gradient is almost 0
            logging_steps=1,
            use_cpu=True,
            bf16=False,
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            save_strategy="no",
        )
        trainer = SpreadSFTTrainer(
            model=model,
            args=args,
            train_dataset=texts_of(mini.splits["sft"]),
            processing_class=tokenizer,
            **settings,
        )
        trainer.ledger = Ledger()
        trainer.train()
        return [row["loss"] for row in trainer.state.log_history if "loss" in row]

    original = trl_utils._ChunkedLogProbFunction.apply
    monkeypatch.setattr(
        trl_utils._ChunkedLogProbFunction, "apply", lambda *args: calls.append("TRL's head") or original(*args)
    )
    found = losses(plain=plain)
    assert bool(calls) == plain
    assert found == pytest.approx(losses(plain=True), rel=1e-5)
    assert len(set(found)) == 3
