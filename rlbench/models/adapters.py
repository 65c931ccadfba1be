"""LoRA adapters on a model: made, merged into the weights for a while, saved beside a note of their base, loaded.

peft replaces layers of a causal language model in place and wraps it. The model inside the wrapper (`causal`) stays
a usual model whose adapted layers add their change. A wrapped model is called from outside; its parts are asked from
the model inside.
"""

import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rlbench.base.content import SHOWN
from rlbench.base.errors import BadInput, nearest
from rlbench.base.files import write_text
from rlbench.base.user_files import read_user_json
from rlbench.config.adapters import ALL_LINEAR, NONE, AdapterConfig
from rlbench.models.sources import ADAPTER_CONFIG, listed, weights_digest

BASE_FILE = "base.json"
"""File beside a saved adapter: where its base model is (`path`, and `below` a folder that both are in), the digest of
its weights, and how they are stored."""
HEAD = "the LM head, whose weights are read without their adapter"


def lora_config(adapter: AdapterConfig) -> LoraConfig:
    """peft's form of the settings."""
    return LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=ALL_LINEAR if adapter.targets == [ALL_LINEAR] else sorted(adapter.targets),
        use_dora=adapter.use_dora,
        use_rslora=adapter.use_rslora,
        task_type="CAUSAL_LM",
    )


def quantization_config(quantization: str) -> BitsAndBytesConfig | None:
    """How weights are stored: None for as they are, or in 4 bits with quantised scales (QLoRA, arXiv 2305.14314)."""
    if quantization == NONE:
        return None
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=quantization, bnb_4bit_use_double_quant=True)


def keep_scales(model: nn.Module) -> None:
    """Keep weights in 4 bits as they are on a CPU.

    At the first pass in evaluation mode bitsandbytes 0.50 would pack them for AVX-512, and round their scales to
    bfloat16 for good. Later updates would have other weights than those of a resumed run.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def causal(model: Any) -> PreTrainedModel:
    """The causal language model inside a wrapped one; any other model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def in_float32(model: nn.Module) -> None:
    """Turn adapter weights in half precision into float32. TRL makes them bfloat16 on weights in 4 bits, where steps of
    1e-6 round to nothing."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype == torch.bfloat16 and adapted(model):
            parameter.data = parameter.data.float()


def check_targets(adapter: AdapterConfig, source: str | Path) -> list[str]:
    """Return one sentence per target that names no linear layer of the model, or its LM head; or why peft refuses them.

    Args:
        adapter: the settings.
        source: folder of the model. Only its config is read.
    """
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(source)))
    head = model.get_output_embeddings()
    linear = {name: one for name, one in model.named_modules() if isinstance(one, nn.Linear | Conv1D)}
    known = sorted({name.rpartition(".")[2] for name, one in linear.items() if one is not head})
    problems = []
    for target in adapter.targets if adapter.targets != [ALL_LINEAR] else ():
        found = [one for name, one in linear.items() if name == target or name.endswith(f".{target}")]
        if not found:
            problems.append(
                f"adapter.targets contains '{target}', which no linear layer of the model is called; known: "
                f"{', '.join(known)}.{nearest(target, known)}"
            )
        elif head in found:
            problems.append(f"adapter.targets contains '{target}', {HEAD}; leave it out")
    if problems:
        return problems
    try:
        with init_empty_weights():
            get_peft_model(model, lora_config(adapter))
    except ValueError as error:  # for example layers of Mamba whose weights its kernels read
        reason = str(error).splitlines()[0].partition("] ")
        return [
            f"adapter.targets = {adapter.targets} cannot be adapted: {reason[2] or reason[0]} Name other layers of "
            f"{', '.join(known)}, such as adapter.targets=[{known[0]}]"
        ]
    return []


@contextmanager
def merged(model: Any) -> Iterator[PreTrainedModel]:
    """The causal language model of a wrapped one, with its adapter merged into its weights in this block.

    Adding a change and subtracting it again rounds, and the weights would drift from update to update. So the weights
    are copied to host memory before and copied back afterwards.

    Where merged weights would be rounded or are in parts (bfloat16, 4 bits, sharded), nothing is merged: the layers add
    their change, and the block sees exactly the policy that is trained.

    Args:
        model: a causal language model, wrapped or not. Without an adapter it is given as it is.
    """
    layers = mergeable(model)
    with weights_put_back(layers):
        for layer in layers:
            layer.merge()
        yield causal(model)


def mergeable(model: Any) -> list[LoraLayer]:
    """The adapted layers of a model, if all can be merged without rounding to fewer bits; otherwise none."""
    layers = adapted(model)
    weights = [layer.get_base_layer().weight for layer in layers]
    whole = all(
        not isinstance(weight, DTensor) and weight.dtype in (torch.float32, torch.float64) for weight in weights
    )
    return layers if whole else []


def adapted(model: nn.Module) -> list[LoraLayer]:
    """The adapted layers of a model."""
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


@contextmanager
def weights_put_back(layers: Sequence[LoraLayer]) -> Iterator[None]:
    """Restore the weights of adapted layers afterwards, to the bit. Meanwhile a copy is in host memory."""
    weights = [layer.get_base_layer().weight for layer in layers]
    kept = [weight.detach().to("cpu", copy=True) for weight in weights]
    try:
        yield
    finally:
        for layer, weight, before in zip(layers, weights, kept, strict=True):
            weight.data.copy_(before)
            layer.merged_adapters.clear()


def absorbed(model: PeftModel, plain: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """The model with its adapter merged for good. Afterwards the wrapped model can no longer be used.

    Args:
        model: the wrapped model.
        plain: loads its base with weights that are not stored in fewer bits. Used for weights in 4 bits: each gets the
            number that its 4 bits mean, plus the adapter's change.
    """
    base = causal(model)
    if not getattr(base, "is_loaded_in_4bit", False):
        return model.merge_and_unload()
    from peft.utils.integrations import dequantize_bnb_weight

    changes = {name: layer for name, layer in base.named_modules() if isinstance(layer, LoraLayer)}
    made = plain()
    for name, module in base.named_modules():
        if not hasattr(getattr(module, "weight", None), "quant_state") or isinstance(module, LoraLayer):
            continue
        own = name.removesuffix(".base_layer")
        weight = dequantize_bnb_weight(module.weight, state=module.weight.quant_state).float()
        if own in changes:
            weight = _changed(changes[own], weight)
        made.get_submodule(own).weight.data.copy_(weight)
    return made


def _changed(layer: LoraLayer, weight: torch.Tensor) -> torch.Tensor:
    """A weight (out, in) with its layer's change."""
    (name,) = layer.active_adapters
    if name in layer.lora_variant:  # DoRA
        return layer.lora_variant[name].merge_safe(layer, name, weight)
    return weight + layer.get_delta_weight(name)


def note_base(folder: Path, model: Any) -> None:
    """Write the base's file into the folder of a saved adapter. Without an adapter nothing is written.

    Args:
        folder: where the adapter is. It may be renamed later.
        model: the wrapped model.
    """
    if not isinstance(model, PeftModel):
        return
    source = Path(causal(model).config.name_or_path)
    base = {
        "path": str(source.resolve()),
        "below": str(source.resolve().relative_to(os.path.commonpath([source.resolve(), folder.resolve()]))),
        "weights": weights_digest(source),
        "quantization": "nf4" if getattr(causal(model), "is_loaded_in_4bit", False) else NONE,
    }
    causal(model).config.save_pretrained(folder)  # its sizes, for readers that do not load the base
    write_text(folder / BASE_FILE, json.dumps(base, indent=2) + "\n")


def base_of(folder: Path) -> tuple[Path, str]:
    """The folder of a saved adapter's base, and how its weights are stored.

    Raises:
        BadInput: the base is missing, or is another model.
    """
    file = folder / BASE_FILE
    if not file.is_file():
        named = read_user_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
        raise BadInput(
            f"{folder} has an adapter of '{named}' without {BASE_FILE}, so its base cannot be checked; merge the two, "
            "and give the folder of the merged model"
        )
    noted = read_user_json(file)
    # Below any of the folders above: runs may have been moved together.
    places = [*(above / noted["below"] for above in folder.resolve().parents), Path(noted["path"])]
    there = [place for place in places if (place / "config.json").is_file()]
    found = next((place for place in there if weights_digest(place) == noted["weights"]), None)
    if found is None:
        wrong = "is another model now" if there else "is missing"
        raise BadInput(
            f"{folder} has an adapter of the model in {noted['path']}, which {wrong} (wanted weights with sha256 "
            f"{noted['weights'][:SHOWN]}); put that model back, or use a run of the model you have"
        )
    return found.resolve(), noted["quantization"]


def with_adapter(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """A base with a saved adapter: merged, or added by its layers where merging would round (`merged`).

    Raises:
        BadInput: the adapter lacks a tensor that its config says it has, or has another one.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found missing adapter keys")  # refused below
        model = PeftModel.from_pretrained(base, str(folder))
    wanted = get_peft_model_state_dict(model).keys()
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        stored = set(file.keys())
    wrong = [f"lacks {name}" for name in sorted(wanted - stored)]
    wrong += [f"has {name}, which its adapter_config.json does not name" for name in sorted(stored - wanted)]
    if wrong:
        raise BadInput(
            f"the adapter in {folder} {listed(wrong)}; save it again, or give the folder of a model into which it was "
            "merged"
        )
    return model.merge_and_unload().requires_grad_() if mergeable(model) else causal(model)
