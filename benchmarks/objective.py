"""Cost of the objective as a share of a training step of `tiny`, for every method in `conf/algorithm`.

    python -m benchmarks.objective [--algorithm NAME] [--repeats 5]

Objective: forward and backward pass of the loss of 384 x 195 tokens, given log-probabilities and all other inputs.
Step: the model of dataset=mini model=tiny on the same completions after prompts of mini, with log-probabilities and
entropies as in TRL, backward pass and update, in the configured micro-batches. Generation, reference model and rewards
are left out, so the share is an upper bound.

Runs in one process and one thread, alternating, and reports medians. Losses and gradients are checked before timing.
Exit code 1 if a share exceeds the promised one.
"""

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table
from transformers.utils.logging import disable_progress_bar
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from rlbench.base.progress import Progress
from rlbench.config.arguments import count
from rlbench.config.resolving import resolve
from rlbench.config.schema import POLICY_OPTIMISATION, Config
from rlbench.data import load_dataset
from rlbench.lists.reader import UnitLayout
from rlbench.models.loading import load_model, load_tokenizer, locate_model
from rlbench.objective import Course, LossInputs, Objective, Window
from rlbench.objective.pieces import scalars
from rlbench.running.cli import CONF, methods

B, T, N = 384, 195, 20
PROMISED = 0.03
OBJECTIVES_A_STEP = 3
"""Number of times to time an objective between two steps. It takes milliseconds, a step seconds."""


log_probabilities = getattr(
    GRPOTrainer._get_per_token_logps_and_entropies, "__wrapped__", GRPOTrainer._get_per_token_logps_and_entropies
)
"""TRL's own forward pass, without its profiling."""


def composed(*overrides: str) -> Config:
    """Return the config of a command line."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return resolve(compose("config", overrides=list(overrides)))


def make_units(generator: torch.Generator) -> torch.Tensor:
    """Return (B, T) units of lists as a policy in training writes them.

    Most have N ranks of about 9 tokens and EOS. One list in four stops early, one in four continues past rank N or to
    the token limit, and one in ten has a preamble.
    """
    units = UnitLayout(N)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    rows = torch.full((B, T), units.padding)
    for row in rows:
        kind = draw(0, 3)
        entries = draw(5, N - 1) if kind == 0 else draw(N + 1, N + 5) if kind == 1 else N
        codes = [units.other] * draw(5, 15) if draw(0, 9) == 0 else []
        for rank in range(entries):
            codes += [min(rank, units.overflow)] * draw(6, 12)
        codes = [*codes, units.eos][:T]
        row[: len(codes)] = torch.tensor(codes)
    return rows


def make_inputs(generator: torch.Generator) -> LossInputs:
    """Return all inputs that any piece can request, slightly off-policy. Inputs with gradients are leaves."""
    units, unit_ids = UnitLayout(N), make_units(generator)
    mask = (unit_ids != units.padding).long()

    def normal(scale: float, *shape: int) -> torch.Tensor:
        return scale * torch.randn(*(shape or (B, T)), generator=generator)

    def leaf(values: torch.Tensor) -> torch.Tensor:
        return (values * mask if values.shape == mask.shape else values).requires_grad_()

    logps = normal(1.0).abs().neg() * mask
    lengths = torch.randint(20, T, (B, 1), generator=generator)
    return LossInputs(
        logps=leaf(logps),
        old_logps=logps + normal(0.05) * mask,
        ref_logps=logps + normal(0.2) * mask,
        advantages=normal(1.0, B, units.count).gather(1, unit_ids) * mask,
        unit_ids=unit_ids,
        mask=mask,
        units=units,
        extras={
            "entropy": leaf(normal(1.0).abs()),
            **{name: leaf(normal(1.0).abs()) for name in scalars},
            **{f"old_{name}": normal(1.0).abs() * mask for name in scalars},
            "demonstration_logps": leaf(normal(1.0, B, T).abs().neg()),
            "demonstration_mask": (torch.arange(T) < lengths).long(),
            "correct": (normal(1.0, B) > 1).float(),
            "correct_ranks": (normal(1.0, B, N) > 1).float(),
            "kl_scale": torch.ones(B),
        },
    )


def objective_update(name: str, inputs: LossInputs) -> Callable[[], torch.Tensor]:
    """Return a function that computes an algorithm's loss and gradient, and returns the loss."""
    config = composed(f"algorithm={name}")
    objective = Objective(config.algorithm, config.reward, N)
    window = Window(accumulation_steps=1, tokens=inputs.mask.sum(), max_completion_length=T)
    memory: dict[str, float] = {}
    objective.loss(replace(inputs, course=Course(0, memory)), window)  # the first update may only collect statistics
    inputs = replace(inputs, course=Course(1, memory))
    leaves = [inputs.logps, *(values for values in inputs.extras.values() if values.requires_grad)]

    def update() -> torch.Tensor:
        for tensor in leaves:
            tensor.grad = None
        loss, _ = objective.loss(inputs, window)
        loss.backward()
        return loss.detach()

    return update


def check(name: str, update: Callable[[], torch.Tensor], inputs: LossInputs) -> None:
    """Check that the loss is finite and its gradient nonzero, finite, and zero on padding.

    Raises:
        ValueError: if it is not so.
    """
    loss, gradient = update(), inputs.logps.grad
    if not (loss.isfinite() and gradient.isfinite().all() and gradient.any() and not gradient[inputs.mask == 0].any()):
        raise ValueError(f"{name}: no sound gradient")


class Step:
    """A training step of `tiny` without rollout, with a minimal loss.

    Args:
        inputs: provides completions and advantages.
        generator: draws token ids, which do not affect the time.
    """

    def __init__(self, inputs: LossInputs, generator: torch.Generator):
        config = composed("dataset=mini", "model=tiny")
        dataset, rl = load_dataset(config.dataset), config.trainer.rl
        with tempfile.TemporaryDirectory() as folder:
            source = locate_model(config.model, dataset, Path(folder))
            tokenizer = load_tokenizer(source, config.generation.template_date)
            self.model = load_model(source, config.model.dtype)
        prompts = [record.prompt for record in dataset.splits["train"][: B // rl.group_size]]
        tokens = tokenizer.apply_chat_template(
            prompts, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        prompt_ids, prompt_mask = (
            tokens[key].repeat_interleave(rl.group_size, dim=0) for key in ("input_ids", "attention_mask")
        )
        vocabulary = len(tokenizer)
        completion_ids = torch.randint(4, vocabulary, (B, T), generator=generator)
        completion_ids = completion_ids.masked_fill(inputs.mask == 0, tokenizer.pad_token_id)
        self.ids = torch.cat([prompt_ids, completion_ids], dim=1)
        self.mask = torch.cat([prompt_mask, inputs.mask], dim=1)
        self.prompt_length = prompt_ids.size(1)
        self.weights = inputs.advantages / inputs.mask.sum()
        self.micro_batch_size, self.max_norm = rl.micro_batch_size, rl.max_grad_norm
        add_fused_lm_head(self.model, outputs=("log_probs", "entropy"))  # as GRPOTrainer does
        self.model.train()
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=rl.learning_rate, betas=(0.9, rl.adam_beta2), weight_decay=0.0
        )
        self.trainer = SimpleNamespace(accelerator=SimpleNamespace(autocast=nullcontext), args=SimpleNamespace())

    def __str__(self) -> str:
        size = sum(parameter.numel() for parameter in self.model.parameters())
        return f"{size:,} parameters, prompts of {self.prompt_length} tokens, micro-batches of {self.micro_batch_size}"

    def micro_batch(self, first: int) -> None:
        """Forward and backward pass of one micro-batch."""
        rows = slice(first, first + self.micro_batch_size)
        logps, _, _ = log_probabilities(
            self.trainer, self.model, self.ids[rows], self.mask[rows], T, compute_entropy=True
        )
        (-logps * self.weights[rows]).sum().backward()

    def __call__(self) -> None:
        for first in range(0, B, self.micro_batch_size):
            self.micro_batch(first)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)
        self.optimiser.step()
        self.optimiser.zero_grad()


def timed(function: Callable[[], object]) -> float:
    """Return the wall time in seconds, without garbage collection, as in timeit."""
    gc.disable()
    started = time.perf_counter()
    function()
    elapsed = time.perf_counter() - started
    gc.enable()
    return elapsed


def main() -> None:
    known = methods(POLICY_OPTIMISATION)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.objective", description=__doc__)
    parser.add_argument("--algorithm", choices=known, metavar="NAME", help="only this one; default: all")
    parser.add_argument("--repeats", type=count, default=5, help="steps timed, and turns of each method (default 5)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()

    generator = torch.Generator().manual_seed(0)
    inputs = make_inputs(generator)
    names = [arguments.algorithm] if arguments.algorithm else known
    updates = {name: objective_update(name, inputs) for name in names}
    for name, update in updates.items():
        check(name, update, inputs)
    step = Step(inputs, generator)
    step.micro_batch(0)  # the first one is slower
    gc.collect()
    gc.freeze()  # exclude loaded objects from later collections

    steps: list[float] = []
    objectives: dict[str, list[float]] = {name: [] for name in names}
    progress = Progress("benchmark", arguments.repeats, file=None, show=True, unit="step")
    for turn in range(arguments.repeats):
        progress.to(turn, "a training step")
        steps.append(timed(step))
        progress.to(turn, f"{len(names)} objectives")
        for name, update in updates.items():
            objectives[name].append(median(timed(update) for _ in range(OBJECTIVES_A_STEP)))
    progress.to(arguments.repeats)
    progress.close()

    shares = {name: median(o / s for o, s in zip(objectives[name], steps, strict=True)) for name in names}
    console = Console()
    table = Table("method", title=f"{B} x {T} tokens, {int(inputs.mask.sum()):,} of them no padding")
    for column in ("objective, ms", "step, ms", "share"):
        table.add_column(column, justify="right")
    for name in sorted(names, key=shares.__getitem__, reverse=True):
        table.add_row(
            name, f"{median(objectives[name]) * 1e3:.1f}", f"{median(steps) * 1e3:.0f}", f"{shares[name]:.3%}"
        )
    console.print(table)
    console.print(f"step: {step}; medians of {arguments.repeats} turns, one process, one thread")
    worst = max(names, key=shares.__getitem__)
    holds = shares[worst] < PROMISED
    console.print(
        f"promised: below {PROMISED:.0%}; the most is {shares[worst]:.3%} ({worst}): "
        + ("the promise holds" if holds else "the promise does not hold"),
        style=None if holds else "red",
    )
    if not holds:
        sys.exit(1)


if __name__ == "__main__":
    main()
