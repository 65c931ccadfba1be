"""The two sides of `benchmarks.step`: whole updates of stock TRL and of rlbench, on the same made-up task.

The task has no natural language. Every second token is a film, so sampled completions are lists that are parsed, judged
and rewarded as in a run. EOS is outside the model's vocabulary, so every completion has the full length.
"""

from argparse import ArgumentTypeError
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from hydra import compose, initialize_config_dir
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOTrainer

from rlbench.config.resolving import resolve
from rlbench.config.schema import Config
from rlbench.data.record import RankedListDataset, Record
from rlbench.evaluation.evaluate import eos_ids
from rlbench.evaluation.judging import make_criteria
from rlbench.lists.catalog import Catalog
from rlbench.lists.reader import ListReader
from rlbench.models.loading import load_model, load_tokenizer
from rlbench.rewards.scorer import ListScorer
from rlbench.running.cli import CONF
from rlbench.runs.budget import Ledger
from rlbench.runs.directory import locate
from rlbench.training.arguments import quiet
from rlbench.training.checkpoints import train
from rlbench.training.metered import Metered
from rlbench.training.rl import TrainingData, policy_trainer, prompt_dataset, trl_arguments

SIDES = ("trl", "ours")
PHASES = ("rollout", "reference", "reward", "update")
PROMPTS = 4
"""Number of prompts of an update."""
FILMS = 1000
"""Maximum number of films."""
TOKENIZER = "tokenizer"
"""Folder of the tokenizer, below that of the model."""
PAD, END, UNKNOWN = "<|pad|>", "<|end|>", "<|unknown|>"


@dataclass(frozen=True)
class Shape:
    """The shape of an update.

    Attributes:
        prompt: tokens of a prompt.
        completion: tokens of a completion.
        group: completions of a prompt.
        vocabulary: size of the model's vocabulary.
    """

    prompt: int
    completion: int
    group: int
    vocabulary: int

    @classmethod
    def read(cls, text: str) -> "Shape":
        """The shape of PROMPT/COMPLETION/G/VOCABULARY, as an argparse type.

        Raises:
            ArgumentTypeError: it is no such text, or a number is too small.
        """
        parts = text.split("/")
        least = (2, 1, 2, 100)
        if len(parts) == 4 and all(p.isdecimal() and int(p) >= low for p, low in zip(parts, least, strict=True)):
            return cls(*map(int, parts))
        raise ArgumentTypeError(
            f"{text!r} must be PROMPT/COMPLETION/G/VOCABULARY, as 300/120/8/4096, with at least "
            f"{'/'.join(map(str, least))}"
        )

    def __str__(self) -> str:
        return f"{self.prompt}/{self.completion}/{self.group}/{self.vocabulary}"


def llama(vocabulary: int) -> LlamaConfig:
    """The small model of a vocabulary: 6 layers of width 256; from 32,768 entries on 4 layers of width 192."""
    wide = vocabulary < 32768
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=256 if wide else 192,
        intermediate_size=704 if wide else 512,
        num_hidden_layers=6 if wide else 4,
        num_attention_heads=8 if wide else 6,
        num_key_value_heads=4 if wide else 3,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )


def film(token: int) -> tuple[str, int]:
    """The film that an even token names. There are at most `FILMS`, so long vocabularies name each several times."""
    return f"Film {token // 2 % FILMS}", 1990


def text_of(token: int) -> str:
    """The text of a token: a line with a film, whose number in the list tells equal films apart, or a word."""
    if token % 2:
        return f"w{token} "
    title, year = film(token)
    return f"{token // 2 // FILMS + 1}. {title} ({year})\n"


@cache
def tokenizer_of(vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose even ids are films, one to a line, and whose odd ids are words. EOS follows the last id."""
    texts = [PAD, UNKNOWN, *map(text_of, range(2, vocabulary)), END]
    ids = {text: i for i, text in enumerate(texts)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"w\d+ "), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}",
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def make_dataset(shape: Shape, updates: int, seed: int = 0) -> RankedListDataset:
    """Prompts of random words for a number of updates. A tenth of all films is relevant to each."""
    draw = Random(seed)
    films = sorted({film(token) for token in range(2, shape.vocabulary, 2)})
    words = [text_of(token) for token in range(3, shape.vocabulary, 2)]
    records = [
        Record(
            prompt=[{"role": "user", "content": "".join(draw.choices(words, k=shape.prompt))}],
            ground_truth=draw.sample(films, max(len(films) // 10, 1)),
            seen_titles=[],
            context_id=str(number),
        )
        for number in range(PROMPTS * updates)
    ]
    return RankedListDataset("made-up", Catalog(films), {"train": records})


def save_start(config: PretrainedConfig, folder: Path, device: str = "cpu") -> Path:
    """Save a model with random weights made on a device, and its tokenizer. Both sides load policy and reference from
    there."""
    tokenizer = tokenizer_of(config.vocab_size)
    config.pad_token_id, config.eos_token_id, config.bos_token_id = 0, tokenizer.eos_token_id, None
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    # transformers would take the tokenizer beside a Qwen2 model for a byte-level one.
    tokenizer.save_pretrained(folder / TOKENIZER)
    return folder


class PhaseClock(Ledger):
    """A ledger that waits for the GPU at each change of phase, so that no phase waits for another one's work."""

    def _settle(self) -> None:
        wait()
        super()._settle()


def wait() -> None:
    """Wait for queued work of the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Stock(GRPOTrainer):
    """TRL's own trainer. The overrides measure time and nothing else."""

    ledger: Ledger

    def _generate(self, prompts: list[Any]) -> Any:
        with self.ledger.phase("rollout"):
            return super()._generate(prompts)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)
        with self.ledger.phase("reference"):
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        with self.ledger.phase("reward"):
            return super()._generate_and_score_completions(inputs)


@dataclass(frozen=True)
class Setting:
    """What both sides have in common.

    Attributes:
        shape: the shape of an update.
        start: folder of the model.
        folder: folder for what a trainer writes.
        updates: maximum number of updates.
        overrides: further settings, as on a command line.
    """

    shape: Shape
    start: Path
    folder: Path
    updates: int
    overrides: tuple[str, ...] = ()

    @property
    def config(self) -> Config:
        """The configuration: GRPO at beta = .001, one micro-batch of all completions of an update."""
        rows = PROMPTS * self.shape.group
        given = [
            "algorithm=grpo",
            "reward=dcg",
            f"runs_dir={self.folder}",
            "dataset.list_length=20",
            f"trainer.rl.completions_per_update={rows}",
            f"trainer.rl.micro_batch_size={rows}",
            f"trainer.rl.group_size={self.shape.group}",
            f"trainer.rl.updates={self.updates}",
            "trainer.rl.num_iterations=1",
            "trainer.rl.learning_rate=1e-6",
            f"trainer.rl.save_every={self.updates}",
            f"generation.max_new_tokens={self.shape.completion}",
            "tracker=none",
            "tracker.completions=0",
        ]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return resolve(compose("config", overrides=[*given, *self.overrides]))


def make_side(name: str, setting: Setting) -> Metered | Stock:
    """The trainer of a side.

    Args:
        name: a name in `SIDES`.
        setting: what both sides have in common.
    """
    config = setting.config
    dataset = make_dataset(setting.shape, setting.updates)
    tokenizer, policy = load_tokenizer(setting.start / TOKENIZER), load_model(setting.start, config.model.dtype)
    criteria = make_criteria(config.matching, dataset, config.dataset.list_length)
    reader = ListReader(tokenizer, config.dataset.list_length, eos_ids(policy, tokenizer))
    scorer = ListScorer(reader, criteria.judge, criteria.facts, config.reward)
    run, records = locate(config, "rl"), dataset.splits["train"]
    trainer: Metered | Stock
    if name == "ours":
        trainer = policy_trainer(config, run, policy, TrainingData(records, []), scorer, PhaseClock(), None)
    else:
        args = trl_arguments(config, setting.folder / name, 1, reader.eos_token_ids)
        args.beta, args.loss_type = config.policy_optimisation.kl.beta, "grpo"
        args.epsilon, args.epsilon_high = (config.policy_optimisation.options["clip"][end] for end in ("low", "high"))
        trainer = Stock(
            model=policy,
            reward_funcs=[scorer],
            args=args,
            train_dataset=prompt_dataset(records),
            processing_class=tokenizer,
        )
        trainer.ledger = PhaseClock()
        quiet(trainer)
    trainer.args.save_strategy = "no"
    return trainer


class Turns(TrainerCallback):
    """Lets a training make one update at each turn. It waits before its first update and after each one."""

    def __init__(self, ledger: Ledger):
        self.ends = False
        self.ledger = ledger
        self.seconds: dict[str, float] = {}
        self._begun: tuple[float, dict[str, float]] = (0.0, {})

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._wait()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        wait()
        started, earlier = self._begun
        total, spent = perf_counter() - started, self.ledger.totals()["seconds"]
        self.seconds = {name: spent[name] - earlier[name] for name in PHASES}
        self.seconds["total"] = total
        self.seconds["update"] = total - sum(self.seconds[name] for name in PHASES if name != "update")
        self._wait()
        control.should_training_stop = self.ends

    def _wait(self) -> None:
        getcurrent().parent.switch()
        wait()
        self._begun = perf_counter(), self.ledger.totals()["seconds"]


class Side:
    """A training that makes one update at each call.

    It is a greenlet, not a thread. A second thread would have its own pool of OpenMP threads. With more of these than
    cores, OpenMP lets idle ones sleep at once, and every small operation waits for them to wake up.

    Args:
        name: a name in `SIDES`.
        setting: what both sides have in common.
    """

    def __init__(self, name: str, setting: Setting):
        self.trainer = make_side(name, setting)
        self._turns = Turns(self.trainer.ledger)
        self.trainer.add_callback(self._turns)
        self._loop = greenlet(lambda: train(self.trainer, None))
        self._loop.switch()

    def update(self) -> dict[str, float]:
        """Make one update. Returns its seconds: `total`, and by phase."""
        self._loop.switch()
        return self._turns.seconds

    def close(self) -> None:
        """End the training."""
        self._turns.ends = True
        self._loop.switch()

    @property
    def tensor_bytes(self) -> int:
        """Bytes that the training holds between two updates: weights, reference, gradients, state of the optimiser."""
        trainer = self.trainer
        held = [*trainer.model.parameters(), *(trainer.ref_model.parameters() if trainer.ref_model else [])]
        held += [weight.grad for weight in held if weight.grad is not None]
        held += [
            value for state in trainer.optimizer.state.values() for value in state.values() if torch.is_tensor(value)
        ]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)
