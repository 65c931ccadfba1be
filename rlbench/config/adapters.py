"""Adapters: small trained matrices beside frozen weights (LoRA, arXiv 2106.09685). Their settings and checks.

Importing this module loads neither torch nor transformers.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from rlbench.base.program import install

NONE = "none"
ALL_LINEAR = "all-linear"
STAGES = ("sft", "rl")
QUANTIZATIONS = (NONE, "nf4")
OPTIMIZERS = {
    "adamw": "",
    "adamw_8bit": "adamw_8bit",
    "paged_adamw": "paged_adamw_32bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "adafactor": "adafactor",
}
"""Names of `trainer.optimizer`, with transformers' name for each; "" is its default, torch's AdamW."""
OPTIMIZERS_OF_BITSANDBYTES = ("adamw_8bit", "paged_adamw", "paged_adamw_8bit")


@dataclass
class AdapterConfig:
    """An adapter on a frozen model. `name: none` trains all weights.

    All keys have defaults so that the config.yaml of an older run directory can still be read.

    Attributes:
        name: name in labels; none for no adapter.
        rank: r, inner size of the two matrices A (r, in) and B (out, r) of a layer.
        alpha: the layer's change is B A times alpha / rank, or alpha / sqrt(rank) under rsLoRA.
        dropout: dropout before A, in the SFT stage only: RL refuses it, because its updates would train another policy
            than the one that drew the lists.
        targets: endings of the names of adapted layers; [all-linear] adapts every linear layer except the LM head.
        use_dora: also train the length of each output's weights (DoRA, arXiv 2402.09353).
        use_rslora: scale with the square root of the rank (rsLoRA, arXiv 2312.03732).
        quantization: how the frozen weights are stored: none, or nf4 in 4 bits (QLoRA, arXiv 2305.14314).
        stages: stages that train an adapter. The others train all weights.
    """

    name: str = NONE
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: list[str] = field(default_factory=lambda: [ALL_LINEAR])
    use_dora: bool = False
    use_rslora: bool = False
    quantization: str = NONE
    stages: list[str] = field(default_factory=lambda: list(STAGES))

    @property
    def is_used(self) -> bool:
        return self.name != NONE

    def trains(self, stage: str) -> bool:
        """Whether a stage trains an adapter instead of all weights."""
        return self.is_used and stage in self.stages

    def quantization_of(self, stage: str) -> str:
        """How a stage stores the weights that it does not train."""
        return self.quantization if self.trains(stage) else NONE


def adapter_identity(adapter: AdapterConfig, stage: str, starts_from_sft: bool) -> dict[str, Any]:
    """Return the adapter's part of a stage's identity; empty for a stage that no adapter affects.

    Args:
        adapter: the settings.
        stage: the stage.
        starts_from_sft: whether the RL stage starts from the SFT stage.
    """
    before = ("sft",) if stage == "rl" and starts_from_sft else ()
    used = [name for name in (*before, stage) if adapter.trains(name)]
    if not used:
        return {}
    settings = {key: value for key, value in asdict(adapter).items() if key not in ("name", "stages", "targets")}
    settings["targets"] = sorted(adapter.targets)
    return {"adapter": settings | ({"stages": used} if stage == "rl" else {})}


def check_adapter(adapter: AdapterConfig, stages: Sequence[str]) -> list[str]:
    """Return one sentence per problem of an adapter's own settings.

    Args:
        adapter: the settings.
        stages: stages of the run.
    """
    if not adapter.is_used:
        usual = AdapterConfig()
        return [
            f"adapter.{key.name} = {getattr(adapter, key.name)} has no effect without an adapter; use adapter=lora, or "
            "leave it out"
            for key in fields(adapter)
            if key.name != "name" and getattr(adapter, key.name) != getattr(usual, key.name)
        ]
    problems = [f"adapter.stages contains '{one}'; known: {', '.join(STAGES)}" for one in adapter.stages
                if one not in STAGES]  # fmt: skip
    for key, values in (("stages", adapter.stages), ("targets", adapter.targets)):
        if not values:
            problems.append(f"adapter.{key} is empty; use adapter=none to train all weights")
        if len(set(values)) < len(values):
            problems.append(f"adapter.{key} = {values} names one twice; list it once")
    if ALL_LINEAR in adapter.targets and len(adapter.targets) > 1:
        problems.append(f"adapter.targets = {adapter.targets}: {ALL_LINEAR} already has every layer; use it alone")
    if adapter.quantization not in QUANTIZATIONS:
        problems.append(
            f"adapter.quantization = '{adapter.quantization}' is unknown; known: {', '.join(QUANTIZATIONS)}"
        )
    elif adapter.quantization != NONE and not has_bitsandbytes():
        problems.append(_without_bitsandbytes(f"adapter.quantization = '{adapter.quantization}'", NONE))
    if adapter.dropout and "rl" in stages and adapter.trains("rl"):
        problems.append(
            f"adapter.dropout = {adapter.dropout}: RL compares an update's probabilities with those of the rollout, "
            "which dropout would change; use adapter.dropout=0"
        )
    return problems


def check_optimizer(optimizer: str) -> list[str]:
    """Return the problem of an optimiser whose package is missing, if any."""
    if optimizer not in OPTIMIZERS_OF_BITSANDBYTES or has_bitsandbytes():
        return []
    return [_without_bitsandbytes(f"trainer.optimizer = '{optimizer}'", "adamw")]


def has_bitsandbytes() -> bool:
    return importlib.util.find_spec("bitsandbytes") is not None


def _without_bitsandbytes(key: str, instead: str) -> str:
    return (
        f"{key} needs the package bitsandbytes, which is not installed; run {install('bitsandbytes')}, or use {instead}"
    )
