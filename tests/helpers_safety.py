"""A policy that writes valid lists without training, and the RL stage that starts from it."""

import json
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from rlbench.base.progress import Progress
from rlbench.config.schema import Config
from rlbench.data.record import RankedListDataset
from rlbench.evaluation.evaluate import evaluate
from rlbench.evaluation.judging import choose_contexts
from rlbench.models.loading import load_model
from rlbench.running.checks import check_config
from rlbench.runs.budget import Ledger
from rlbench.runs.directory import Run, locate
from rlbench.training.rl import Trained, TrainingData, train_rl
from rlbench.training.validation import Validation
from tests.conftest import SMALL, composed
from tests.helpers_training import load, make_criteria, make_recording

RL = {
    "updates": 8,
    "completions_per_update": 8,
    "group_size": 4,
    "micro_batch_size": 8,
    "num_iterations": 1,
    "save_every": 2,
    "keep_checkpoints": 9,
    "learning_rate": 1e-4,
}
SHORT = [
    *SMALL,
    *(f"trainer.rl.{key}={value}" for key, value in RL.items()),
    "dataset.list_length=3",
    "dataset.cutoffs=[3]",
    "generation.max_new_tokens=24",
    "evaluation.every=100",
    "evaluation.validation_contexts=2",
    "safety=off",
]


def write_repeater(folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: RankedListDataset) -> Path:
    """A model that answers every prompt with one film of the catalogue, again and again.

    Its blocks do nothing. Each token of the film's line has its own embedding direction, which the LM head maps to the
    next token. Nearly all probability is there; now and then a line breaks.
    """
    lines = (tokenizer.encode(f"{title} ({year})\n", add_special_tokens=False) for title, year in dataset.catalog.items)
    line = min((ids for ids in lines if len(set(ids)) == len(ids)), key=len)
    width = 64
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    with torch.no_grad():
        for weights in (model.model.layers[0].self_attn.o_proj.weight, model.model.layers[0].mlp.down_proj.weight):
            weights.zero_()
        embedding, head = model.model.embed_tokens.weight, model.lm_head.weight
        embedding.zero_()
        head.normal_(std=0.01)
        embedding[:, 0] = 1.0
        for place, token in enumerate(line, start=1):
            embedding[token] = torch.nn.functional.one_hot(torch.tensor(place), width)
        for place, token in enumerate([*line, line[0]]):  # a norm gives its direction length sqrt(width) = 8
            head[token, place] = 1.4
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def short(root: Path, *overrides: str) -> Config:
    config = composed(*SHORT, f"runs_dir={root}", *overrides)
    assert not check_config(config)
    return config


def train(config: Config, start: Path, dataset: RankedListDataset, tracker=None) -> tuple[Run, Trained, Ledger]:
    """Run the RL stage of a config from the model in `start`, or from its checkpoint."""
    run, (tokenizer, _), ledger = locate(config, "rl"), load(start), Ledger()
    criteria = make_criteria(config, dataset)
    validation = choose_contexts(dataset.splits["validation"], config.evaluation.validation_contexts)
    initial = evaluate(load_model(start, "float32"), tokenizer, validation, criteria, config).means
    trained = train_rl(
        config,
        make_recording(config, run, tracker, ledger),
        start,
        tokenizer,
        TrainingData(dataset.splits["train"], dataset.splits["sft"]),
        Validation(validation, criteria, initial),
        Progress("", config.trainer.rl.updates, file=None, show=False),
    )
    return run, trained, ledger


def curve(run: Run, metric: str, split: str = "train") -> dict[int, float]:
    return {row["step"]: row["value"] for row in run.read_metrics() if (row["split"], row["metric"]) == (split, metric)}


def totals(run: Run, step: int) -> dict:
    """The state in the checkpoint of an update."""
    return json.loads((run.checkpoints / f"checkpoint-{step}" / "rlbench.json").read_text())
