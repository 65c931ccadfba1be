"""One GPU in under ten minutes: exactness, rlbench against stock TRL, share of the matmul ceiling, memory limits.

    python -m benchmarks.gpu [--json FILE] [--minutes 9]     # one card with about 140 GB
    python -m benchmarks.gpu --cpu                           # the same on the CPU with tiny models, as a test

Shapes of Qwen2.5-0.5B and Llama-3.2-3B with random weights, float32 master weights, bfloat16 autocast, with and without
gradient checkpointing.

- Ceiling: measured rate of square matrix products.
- Exactness: log-probabilities and gradients of the pass that forwards each prompt once, against TRL's pass, in float32
  and under autocast. The float32 numbers turn TF32 off.
- Speed: whole updates of 4 prompts x 8 completions as in `benchmarks.step`, one micro-batch for each prompt. The sides
  run one after the other, because both together would not fit. The share of the ceiling counts needed operations only.
- Memory: the largest group whose forward and backward pass fits in one micro-batch, beside weights, gradients,
  reference and the state of the optimiser, with prompts that are forwarded once and with repeated ones.

Measurements that do not begin before the time is up are left out and named.
"""

import argparse
import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, PreTrainedModel, Qwen2Config
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from benchmarks.step import needed_operations, quiet_libraries
from benchmarks.step_sides import PHASES, SIDES, Setting, Shape, Side, save_start, wait
from rlbench.base.files import write_json
from rlbench.config.arguments import count
from rlbench.models.operations import BACKWARD
from rlbench.models.shared_prompt import prompt_rows, shared_scores
from rlbench.models.token_head import LogitRule
from rlbench.runs.peak import matmul_rate

GROUP = 8
UPDATES = 2
"""Updates of a side that count, after one that does not."""
LARGEST = 1024
"""Largest group to try."""
plain_pass = getattr(
    GRPOTrainer._get_per_token_logps_and_entropies, "__wrapped__", GRPOTrainer._get_per_token_logps_and_entropies
)
"""TRL's own forward pass, without its profiling."""


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        device: cuda or cpu.
        models: configurations by name.
        prompt: tokens of a prompt.
        completion: tokens of a completion.
        largest: largest group to try.
    """

    device: str
    models: dict[str, PretrainedConfig]
    prompt: int
    completion: int
    largest: int


def of_gpu() -> Plan:
    """The plan of a card with about 140 GB."""
    qwen = Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    llama = LlamaConfig(
        vocab_size=128256,
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=28,
        num_attention_heads=24,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    return Plan("cuda", {"Qwen2.5-0.5B": qwen, "Llama-3.2-3B": llama}, prompt=1000, completion=120, largest=LARGEST)


def of_cpu() -> Plan:
    """The plan of the CPU mode: the same kinds of models, tiny."""
    sizes = {
        "vocab_size": 512,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
    }
    return Plan("cpu", {"tiny Qwen2": Qwen2Config(**sizes), "tiny Llama": LlamaConfig(**sizes)}, 24, 8, largest=4)


@dataclass(frozen=True)
class Batch:
    """Completions of several prompts, without padding.

    Attributes:
        prompts: (B, P) token ids; the rows of a group are equal.
        completions: (B, T) token ids.
        weights: (B, T) weights of the log-probabilities in the loss.
    """

    prompts: torch.Tensor
    completions: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def of(cls, plan: Plan, vocabulary: int, prompts: int, group: int) -> "Batch":
        """A random batch of `group` completions for each of `prompts` prompts."""
        draw = torch.Generator(plan.device).manual_seed(0)
        shape = (prompts * group, plan.completion)
        ids = torch.randint(3, vocabulary, (prompts, plan.prompt), generator=draw, device=plan.device)
        return cls(
            ids.repeat_interleave(group, dim=0),
            torch.randint(3, vocabulary, shape, generator=draw, device=plan.device),
            torch.randn(shape, generator=draw, device=plan.device) / shape[0],
        )


def shared_logps(model: PreTrainedModel, batch: Batch, recompute: bool) -> torch.Tensor:
    """(B, T) log-probabilities; each prompt is forwarded once."""
    masks = torch.ones_like(batch.prompts), torch.ones_like(batch.completions)
    rows = prompt_rows(batch.prompts, masks[0], batch.completions, masks[1])
    return shared_scores(model, rows, LogitRule(), wants_entropy=True, recompute=recompute).logps


def plain_logps(model: PreTrainedModel, batch: Batch, recompute: bool) -> torch.Tensor:
    """(B, T) log-probabilities of TRL's pass. Recomputing is the model's own setting."""
    assert recompute == model.is_gradient_checkpointing
    trainer = SimpleNamespace(accelerator=SimpleNamespace(autocast=nullcontext), args=SimpleNamespace())
    ids = torch.cat([batch.prompts, batch.completions], dim=1)
    logps: torch.Tensor = plain_pass(
        trainer, model, ids, torch.ones_like(ids), batch.completions.size(1), compute_entropy=True
    )[0]
    return logps


PASSES: dict[str, Callable[[PreTrainedModel, Batch, bool], torch.Tensor]] = {
    "once": shared_logps,
    "repeated": plain_logps,
}
"""Passes by how often they forward a prompt of a group."""


def make_model(plan: Plan, config: PretrainedConfig) -> PreTrainedModel:
    """A model with random float32 weights and TRL's head."""
    torch.manual_seed(0)
    with torch.device(plan.device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    return model.train()


@contextmanager
def checkpointing(model: PreTrainedModel, on: bool) -> Iterator[None]:
    """In this block the model recomputes activations, if asked."""
    if on:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    yield
    model.gradient_checkpointing_disable()


def autocast(plan: Plan, on: bool = True) -> Any:
    """bfloat16 autocast, if asked."""
    return torch.autocast(plan.device, torch.bfloat16) if on else nullcontext()


def exactness(plan: Plan, model: PreTrainedModel) -> dict[str, dict[str, float]]:
    """Largest differences between the two passes: of log-probabilities in nats, and of gradients relative to the norm
    of the plain gradient. By precision."""
    batch, found = Batch.of(plan, model.config.vocab_size, prompts=2, group=2), {}
    for name, half in (("float32", False), ("bfloat16", True)):
        results = {}
        for passes, logps_of in PASSES.items():
            model.zero_grad()
            with autocast(plan, half):
                logps = logps_of(model, batch, False)
            (logps * batch.weights).sum().backward()
            results[passes] = logps.detach(), [p.grad for p in model.parameters()]
        (logps, gradients), (plain, plain_gradients) = results["once"], results["repeated"]
        norm = torch.stack([g.norm() for g in plain_gradients]).norm()
        difference = torch.stack([(a - b).norm() for a, b in zip(gradients, plain_gradients, strict=True)]).norm()
        found[name] = {
            "logps": float((logps - plain).abs().max()),
            "gradient": float(difference / norm),
        }
    model.zero_grad()
    return found


def memory_limits(plan: Plan, model: PreTrainedModel, recompute: bool) -> dict[str, int]:
    """The largest group of powers of 2 that fits in one micro-batch, by pass; `plan.largest` if all fit.

    Gradients, reference and two moments are allocated as in a training: 4 x the weights beside the weights.
    """
    weights = sum(parameter.numel() for parameter in model.parameters())
    held = torch.empty(3 * weights, device=plan.device)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    limits = dict.fromkeys(PASSES, 0)
    for name, logps_of in PASSES.items():
        group = 2
        while group <= plan.largest:
            try:
                with checkpointing(model, recompute and name == "repeated"), autocast(plan):
                    batch = Batch.of(plan, model.config.vocab_size, prompts=1, group=group)
                    loss = (logps_of(model, batch, recompute) * batch.weights).sum()
                loss.backward()
            except torch.OutOfMemoryError:
                break
            limits[name], group = group, group * 2
            del loss, batch
        release()
    del held
    model.zero_grad()
    return limits


def release() -> None:
    """Return unused memory to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class SideSpeed:
    """Updates of one side.

    Attributes:
        seconds: by phase, and `total`; medians.
        ceiling_share: needed operations over seconds and the measured matmul rate: of the whole update, and of `update`
            alone.
        peak_bytes: peak of torch's allocator; None on a CPU.
    """

    seconds: dict[str, float]
    ceiling_share: dict[str, float]
    peak_bytes: int | None


def speed(plan: Plan, name: str, config: PretrainedConfig, start: Path, recompute: bool, ceiling: float) -> SideSpeed:
    """Measure the updates of a side.

    Args:
        plan: what is measured.
        name: the side.
        config: the model.
        start: folder of the model.
        recompute: gradient checkpointing.
        ceiling: measured operations per second.
    """
    shape = Shape(plan.prompt, plan.completion, GROUP if plan.device == "cuda" else 2, config.vocab_size)
    overrides = (
        f"trainer.rl.micro_batch_size={shape.group}",
        "trainer.bf16=true",
        f"trainer.gradient_checkpointing={str(recompute).lower()}",
        f"runtime.device={plan.device}",
    )
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(shape, start, Path(folder), UPDATES + 2, overrides)
        side = Side(name, setting)
        try:
            side.update()
            if plan.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            rows = [side.update() for _ in range(UPDATES)]
        finally:
            side.close()
    peak = torch.cuda.max_memory_allocated() if plan.device == "cuda" else None
    seconds = {key: median(row[key] for row in rows) for key in (*PHASES, "total")}
    whole = needed_operations(config, shape)
    of_update = whole * (1 + BACKWARD) / (3 + BACKWARD)
    shares = {"total": whole / seconds["total"] / ceiling, "update": of_update / seconds["update"] / ceiling}
    del side
    release()
    return SideSpeed(seconds, shares, peak)


class Clock:
    """Time that is left for the script.

    Args:
        minutes: after this time no measurement begins.
    """

    def __init__(self, minutes: float):
        self.ends = perf_counter() + 60 * minutes
        self.left_out: list[str] = []

    def allows(self, what: str) -> bool:
        """Whether a measurement may begin. Otherwise it is noted as left out."""
        if perf_counter() < self.ends:
            return True
        self.left_out.append(what)
        return False


def measure(plan: Plan, clock: Clock, console: Console) -> dict[str, Any]:
    """All measurements, as JSON. Each is printed when it is done."""
    rates = {str(kind)[6:]: matmul_rate(plan.device, kind) for kind in (torch.float32, torch.bfloat16)}
    ceiling = rates["bfloat16"]
    device = torch.cuda.get_device_name() if plan.device == "cuda" else "CPU"
    console.print(", ".join([device, *(f"{kind} {rate / 1e12:.3g} TFLOP/s" for kind, rate in rates.items())]))
    found: dict[str, Any] = {"device": device, "matmul_rate": rates, "models": {}}
    for name, config in plan.models.items():
        result: dict[str, Any] = {"speed": {}, "limits": {}}
        found["models"][name] = result
        with tempfile.TemporaryDirectory() as folder:
            if clock.allows(f"{name}: exactness"):
                model = make_model(plan, config)
                result["exactness"] = exactness(plan, model)
                console.print(f"{name}: differences {_short(result['exactness'])}")
                for recompute in (False, True):
                    if clock.allows(f"{name}: memory, {_words(recompute)}"):
                        limits = result["limits"][_words(recompute)] = memory_limits(plan, model, recompute)
                        console.print(f"{name}, {_words(recompute)}: largest group {limits}")
                del model
                release()
            if not clock.allows(f"{name}: speed"):
                continue
            start = save_start(config, Path(folder) / "start", device=plan.device)
            release()
            for recompute in (False, True):
                for side in SIDES:
                    if clock.allows(f"{name}: speed, {_words(recompute)}, {side}"):
                        measured = speed(plan, side, config, start, recompute, ceiling)
                        result["speed"].setdefault(_words(recompute), {})[side] = asdict(measured)
            console.print(table_of(name, result["speed"]))
    return found | {"left_out": clock.left_out}


def _words(recompute: bool) -> str:
    return "checkpointing" if recompute else "no checkpointing"


def _short(values: dict[str, dict[str, float]]) -> str:
    return "; ".join(
        f"{kind}: " + ", ".join(f"{what} {value:.1e}" for what, value in of_kind.items())
        for kind, of_kind in values.items()
    )


def table_of(name: str, results: dict[str, dict[str, dict[str, Any]]]) -> Table:
    """The speeds of a model."""
    table = Table(name, "side", *PHASES, "total, s", "ratio", "share", "share, update", "GB")
    for words, sides in results.items():
        for side, found in sides.items():
            seconds, peak = found["seconds"], found["peak_bytes"]
            ratio = sides["trl"]["seconds"]["total"] / seconds["total"] if "trl" in sides else float("nan")
            table.add_row(
                words,
                side,
                *(f"{seconds[phase]:.2f}" for phase in PHASES),
                f"{seconds['total']:.2f}",
                f"{ratio:.2f}",
                *(f"{found['ceiling_share'][part]:.1%}" for part in ("total", "update")),
                "" if peak is None else f"{peak / 1e9:.1f}",
            )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cpu", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--minutes", type=count, default=9, help="no measurement begins after this time (default 9)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file")
    given = parser.parse_args()
    if not given.cpu and not torch.cuda.is_available():
        parser.error("torch finds no GPU; --cpu runs the script on the CPU with tiny models")
    clock, console = Clock(given.minutes), Console(width=120)
    quiet_libraries()
    torch.backends.cuda.matmul.allow_tf32 = False
    started = perf_counter()
    found = measure(of_cpu() if given.cpu else of_gpu(), clock, console)
    wait()
    console.print(f"{perf_counter() - started:.0f} s; left out: {', '.join(clock.left_out) or 'nothing'}")
    console.print(f"load of the machine: {os.getloadavg()[0]:.1f}")
    if given.json:
        write_json(given.json, found)


if __name__ == "__main__":
    main()
