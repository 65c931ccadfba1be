"""Adapters: their settings, their place in a run's identity, and what is computed with them."""

import json
import re
import shutil
from contextlib import nullcontext
from dataclasses import asdict, replace

import pytest
import torch
from omegaconf import OmegaConf
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback
from trl.trainer.utils import add_fused_lm_head

from rlbench.base.content import forget
from rlbench.base.errors import BadInput
from rlbench.config.resolving import resolve
from rlbench.config.schema import AlgorithmConfig
from rlbench.evaluation.evaluate import evaluate
from rlbench.models.adapters import adapted, causal, check_targets, lora_config, merged, note_base, weights_put_back
from rlbench.models.batches import Completions
from rlbench.models.constraint import constraint_of
from rlbench.models.label_head import add_label_head
from rlbench.models.loading import load_model, load_tokenizer
from rlbench.models.operations import ModelShape
from rlbench.models.sources import with_adapter_digests
from rlbench.running.checks import check_config, check_values
from rlbench.runs.directory import label_of, locate
from rlbench.runs.identity import config_hash, stage_settings
from rlbench.training.engine_checks import check_engine
from rlbench.training.scoring import SharedPasses, held_scores
from tests.conftest import SMALL, composed
from tests.helpers_models import FAMILIES, save_model, tiny_model
from tests.helpers_parity import HashedLists, HashScorer
from tests.helpers_training import load, make_criteria, make_scorer, make_trainer

SHORT = [
    *SMALL,
    "reward=dcg",
    "trainer.rl.updates=2",
    "trainer.rl.completions_per_update=8",
    "trainer.rl.group_size=4",
    "trainer.rl.micro_batch_size=8",
    "generation.max_new_tokens=24",
    "runtime.device=cpu",
]
RANK_3 = ["adapter=lora", "adapter.rank=3", "adapter.alpha=5"]


def with_change(model, *overrides: str, seed: int = 0) -> PeftModel:
    """A wrapped model whose adapter changes it: a new adapter's B is 0."""
    wrapped = get_peft_model(model, lora_config(composed(*SMALL, *(overrides or RANK_3)).adapter))
    generator = torch.Generator().manual_seed(seed)
    for name, weight in wrapped.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            weight.data.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return wrapped


# Identity


def test_without_an_adapter_hashes_are_as_before():
    """The hashes of these configs before there were adapters and optimisers."""
    found = {}
    for name, overrides in HASHES:
        config = composed(*overrides)
        found[name] = tuple(config_hash(stage_settings(config, stage)) for stage in ("zero_shot", "sft", "rl"))
    assert found == {name: BEFORE[name] for name, _ in HASHES}


HASHES = [
    ("plain", []),
    ("base", ["trainer.rl.start=base", "algorithm=dapo"]),
    ("dpo", ["algorithm=dpo", "model=qwen2.5_0.5b"]),
    ("smoke", ["+debug=smoke", "algorithm=humanline", "generation=continuous"]),
]
BEFORE = {
    "plain": ("12ee2f54", "f21461bc", "cf2feb08"),
    "base": ("12ee2f54", "f21461bc", "47ca0019"),
    "dpo": ("15b3b63e", "2de15ead", "fa81d1e3"),
    "smoke": ("f49c6c34", "f2f52ab6", "62e8c7e3"),
}


def hashes(*overrides: str) -> list[str]:
    config = composed(*overrides)
    return [config_hash(stage_settings(config, stage)) for stage in ("zero_shot", "sft", "rl")]


def test_an_adapter_is_part_of_the_identity_of_the_stages_it_affects():
    plain, lora = hashes(), hashes("adapter=lora")
    assert plain[0] == lora[0] and plain[1] != lora[1] and plain[2] != lora[2]
    assert hashes("adapter=lora", "adapter.name=mine") == lora
    assert hashes("adapter=lora", "adapter.stages=[rl,sft]") == lora
    only_rl = hashes("adapter=lora", "adapter.stages=[rl]")
    assert only_rl[:2] == plain[:2] and only_rl[2] not in (plain[2], lora[2])
    only_sft = hashes("adapter=lora", "adapter.stages=[sft]")
    assert only_sft[1] == lora[1] and only_sft[2] not in (plain[2], lora[2], only_rl[2])
    base = ["trainer.rl.start=base"]
    assert hashes(*base, "adapter=lora", "adapter.stages=[sft]")[2] == hashes(*base)[2]
    others = ["rank=8", "alpha=8", "targets=[q_proj]", "use_dora=true", "use_rslora=true", "quantization=nf4"]
    assert len({hashes("adapter=lora", f"adapter.{one}")[2] for one in others} | {lora[2]}) == len(others) + 1
    assert hashes("trainer.optimizer=adafactor")[1:] != plain[1:]
    assert hashes("trainer.optimizer=adafactor")[0] == plain[0]


def test_a_row_says_its_adapter():
    config = composed("adapter=dora")
    assert [label_of(config, stage) for stage in ("zero_shot", "sft", "rl")] == [
        "zero_shot",
        "sft@dora",
        "rank_grpo-relevance@dora",
    ]
    half = composed("adapter=lora", "adapter.stages=[rl]", "variant=x")
    assert (label_of(half, "sft"), half.label) == ("sft", "rank_grpo-relevance@x-lora")


def test_a_config_from_before_there_were_adapters_is_read():
    older = OmegaConf.create(asdict(composed(*SMALL)))
    del older["adapter"], older["trainer"]["optimizer"]
    assert resolve(older) == composed(*SMALL)


# Refusals


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["adapter.rank=8"], "adapter.rank = 8 has no effect without an adapter; use adapter=lora"),
        (["adapter=lora", "adapter.rank=0"], "adapter.rank = 0 must lie in [1, 32768]"),
        (["adapter=lora", "adapter.dropout=0.1"], "use adapter.dropout=0"),
        (["adapter=lora", "adapter.targets=[]"], "adapter.targets is empty"),
        (["adapter=lora", "adapter.targets=[all-linear,q_proj]"], "use it alone"),
        (["adapter=lora", "adapter.stages=[rl,zero]"], "adapter.stages contains 'zero'; known: sft, rl"),
        (["adapter=lora", "adapter.quantization=int3"], "'int3' is unknown; known: none, nf4"),
        (["adapter=lora", "algorithm=humanline"], "the reference is the model without it"),
        (
            ["adapter=lora", "generation.engine=vllm_colocate", "trainer.parallel.strategy=fsdp2"],
            "an adapter on sharded weights is not merged",
        ),
        (["trainer.optimizer=adam"], "trainer.optimizer = 'adam' is unknown; known: adamw, adamw_8bit"),
        (["trainer.optimizer=adafactor", "trainer.parallel.strategy=fsdp2"], "needs whole weights"),
    ],
)
def test_wrong_settings_are_refused(overrides, said):
    problems = check_values(composed(*SMALL, *overrides), 2 if "fsdp2" in overrides[-1] else 1)
    assert len(problems) == 1 and said in problems[0], problems


def test_dropout_is_for_sft_alone():
    assert check_values(composed(*SMALL, "adapter=lora", "adapter.dropout=0.1", "stage=sft")) == []
    assert check_values(composed(*SMALL, "adapter=lora", "adapter.dropout=0.1", "adapter.stages=[sft]")) == []


def test_without_bitsandbytes_the_reason_is_given(monkeypatch):
    monkeypatch.setattr("rlbench.config.adapters.has_bitsandbytes", lambda: False)
    for override in ("trainer.optimizer=adamw_8bit", "trainer.optimizer=paged_adamw", "adapter=qlora"):
        (problem,) = check_values(composed(*SMALL, override))
        assert "needs the package bitsandbytes" in problem and "requirements-bitsandbytes.txt" in problem


def test_an_unknown_name_is_one_problem_without_bitsandbytes(monkeypatch):
    monkeypatch.setattr("rlbench.config.adapters.has_bitsandbytes", lambda: False)
    for overrides in (["trainer.optimizer=adam"], ["adapter=lora", "adapter.quantization=int3"]):
        (problem,) = check_values(composed(*SMALL, *overrides))
        assert "is unknown; known: " in problem


def test_paging_needs_a_gpu():
    (problem,) = check_engine(composed(*SMALL, "trainer.optimizer=paged_adamw_8bit", "runtime.device=cpu"))
    assert problem.endswith("use trainer.optimizer=adamw_8bit")


def test_targets_are_layers_of_the_model(tiny_folder):
    def problems(targets: str) -> list[str]:
        return check_targets(composed(*SMALL, "adapter=lora", f"adapter.targets={targets}").adapter, tiny_folder)

    assert problems("[q_proj,mlp.up_proj]") == [] and problems("[all-linear]") == []
    (wrong,) = problems("[q_prj]")
    assert "'q_prj', which no linear layer of the model is called; known: down_proj" in wrong and "q_proj" in wrong
    (head,) = problems("[lm_head]")
    assert "the LM head" in head


def test_layers_that_peft_cannot_adapt_are_refused(tiny_folder, tmp_path):
    folder = save_model(tmp_path, "mamba", load_tokenizer(tiny_folder))
    (problem,) = check_targets(composed(*SMALL, "adapter=lora").adapter, folder)
    assert "'out_proj' is incompatible with Mamba-based models" in problem and "dt_proj, in_proj" in problem
    assert check_targets(composed(*SMALL, "adapter=lora", "adapter.targets=[in_proj,x_proj]").adapter, folder) == []


# Numbers


@pytest.fixture(scope="module")
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def gradients(config, mini, folder, adapts: bool, tmp_path) -> tuple[dict[str, torch.Tensor], float]:
    """Gradients of a whole loss by parameter, and the loss, on completions that are made of the prompts' texts."""
    tokenizer, model = load(folder, "float64")
    model = with_change(model) if adapts else with_change(model).merge_and_unload().requires_grad_()
    trainer = make_trainer(
        replace(config, adapter=composed(*SMALL).adapter), mini, tokenizer, model, tmp_path, HashScorer, HashedLists
    )
    watch = Watch(causal(trainer.model))
    trainer.add_callback(watch)
    trainer.train()
    return watch.gradients, trainer.state.log_history[0]["loss"]


class Watch(TrainerCallback):
    """Records the gradients of the first update by parameter."""

    def __init__(self, model: torch.nn.Module):
        self.model, self.gradients = model, {}

    def on_pre_optimizer_step(self, args, state, control, **_):
        self.gradients = {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("algorithm", "share"),
    [
        ("grpo", "always"),
        ("rank_grpo", "never"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [("grpo", "never"), ("rank_grpo", "always")]),
    ],
)
def test_the_gradient_is_the_chain_rule_on_that_of_all_weights(algorithm, share, mini, tiny_folder, tmp_path, double):
    """dA = scale B' dW and dB = scale dW A', for the whole loss, at weights that are the same."""
    config = composed(
        *SHORT,
        f"algorithm={algorithm}",
        "algorithm.kl.beta=0",
        "trainer.rl.updates=1",
        "trainer.rl.max_grad_norm=1e6",
        f"trainer.share_prompts={share}",
    )
    whole, loss_of_whole = gradients(config, mini, tiny_folder, False, tmp_path)
    own, loss = gradients(config, mini, tiny_folder, True, tmp_path)
    assert loss == pytest.approx(loss_of_whole, abs=1e-12)
    model, compared = with_change(load(tiny_folder, "float64")[1]), 0
    for name, layer in causal(model).named_modules():
        if layer in adapted(model):
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            of_weight = whole[f"{name}.weight"]
            for part, expected in (("A", b.T @ of_weight), ("B", of_weight @ a.T)):
                found = own[f"{name}.lora_{part}.default.weight"]
                torch.testing.assert_close(found, 5 / 3 * expected, atol=1e-12, rtol=1e-9)
                compared += found.abs().max() > 1e-6
    assert compared > 10 and not any(name.endswith("base_layer.weight") for name in own)


@pytest.mark.parametrize("kind", ["lora", "dora", "rslora"])
def test_merged_weights_give_the_same_numbers_and_are_put_back(kind, tiny_folder):
    model = with_change(load(tiny_folder, "float32")[1], f"adapter={kind}", "adapter.rank=4").eval()
    ids = torch.arange(40).view(2, 20)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with torch.no_grad():
        plain = model(ids).logits.log_softmax(-1)
        with merged(model) as inside:
            assert all(layer.merged for layer in adapted(model))
            torch.testing.assert_close(inside(ids).logits.log_softmax(-1), plain, atol=2e-5, rtol=0)
        with model.disable_adapter():
            assert (model(ids).logits.log_softmax(-1) - plain).abs().max() > 1e-3
        assert torch.equal(model(ids).logits.log_softmax(-1), plain)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("family", [*FAMILIES, "mamba"])
def test_every_family_can_be_adapted(family, double):
    targets = ["adapter.targets=[in_proj,x_proj]"] if family == "mamba" else []
    model, ids = with_change(tiny_model(family), *RANK_3, *targets).eval(), torch.arange(5, 41).view(4, 9)
    with torch.no_grad():
        plain = model(ids).logits
        with merged(model) as inside:
            torch.testing.assert_close(inside(ids).logits, plain, atol=1e-4, rtol=0)
        assert torch.equal(model(ids).logits, plain)
        with model.disable_adapter():
            assert (model(ids).logits - plain).abs().max() > 1e-3
    assert ModelShape.of(model).forward([0], [3], 1, trains=True) > 0
    if family == "mamba":
        return
    prompts = ids[:, :4][[0, 0, 0, 0]]
    batch = Completions(prompts, torch.ones_like(prompts), ids[:, 4:], torch.ones_like(ids[:, 4:]))
    shared = SharedPasses([causal(model)], 1.0, always=True, recompute=False, autocast=nullcontext)
    found, apart = (
        shared.scores(model, batch, cuts, wants_entropy=False).logps
        for cuts in ([slice(0, 4)], [slice(i, i + 1) for i in range(4)])
    )
    torch.testing.assert_close(found, apart, atol=1e-4, rtol=0)
    found.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("held", [False, True])
def test_every_pass_of_a_wrapped_model_is_that_of_the_merged_one(held, mini, tiny_folder, double):
    """Shared prompts, each completion with its own prompt, and the head of SFT, called through peft's wrapper."""
    tokenizer, plain = load(tiny_folder, "float64")
    wrapped, plain = with_change(plain), with_change(load(tiny_folder, "float64")[1]).merge_and_unload()
    prompts = torch.arange(5, 14).repeat(8, 1)
    prompts[4:] += 3
    ids = torch.randint(20, 300, (8, 12), generator=torch.Generator().manual_seed(1))
    batch = Completions(prompts, torch.ones_like(prompts), ids, torch.ones_like(ids))
    if held:
        scorer = make_scorer(composed(*SMALL), mini, tokenizer, plain)
        made = constraint_of(
            composed(*SMALL, "generation.constraint=catalogue").generation, scorer.reader, scorer.judge
        )
        walk_ids, walk_mask = lines_of(scorer, 8)
        batch = Completions(prompts, torch.ones_like(prompts), walk_ids, walk_mask)
        batch = replace(batch, allowed=made.followed(walk_ids, walk_mask, None))
    scores, gradients = [], []
    for model in (wrapped, plain.requires_grad_()):
        shared = SharedPasses([causal(model)], 0.7, always=True, recompute=False, autocast=nullcontext)
        found = shared.scores(model, batch, [slice(0, 8)], wants_entropy=True)
        apart = shared.scores(model, batch, [slice(i, i + 1) for i in range(8)], wants_entropy=True)
        torch.testing.assert_close(found.logps, apart.logps)
        scores.append(torch.stack([found.logps, found.entropies]))
        if held:
            torch.testing.assert_close(held_scores(model, batch, 0.7).logps, found.logps)
        found.logps.square().sum().backward()
        weights = model.get_input_embeddings().weight
        gradients.append(weights.grad is not None)
    torch.testing.assert_close(*scores)
    assert gradients == [False, True]
    labels = torch.cat([prompts.masked_fill(prompts > 0, -100), batch.completion_ids], 1)
    outputs = []
    for model in (wrapped, plain):
        add_fused_lm_head(causal(model))
        add_label_head(causal(model))
        outputs.append(model(input_ids=labels.clamp(min=1), labels=labels, fused_lm_head=True).log_probs)
    torch.testing.assert_close(*outputs)


def lines_of(scorer, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Lists of a catalogue's lines, and their masks."""
    tokenizer = scorer.reader.tokenizer
    items = scorer.judge.catalog.items
    texts = ["".join(f"{title} ({year})\n" for title, year in items[3 * i : 3 * i + 2]) for i in range(rows)]
    ids = [torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    mask = [torch.ones_like(row) for row in ids]
    return pad_sequence(ids, batch_first=True), pad_sequence(mask, batch_first=True)


def test_subtracting_what_was_added_would_drift(tiny_folder):
    """As TRL sends weights to vLLM. `exact_sync` puts them back."""
    model = with_change(load(tiny_folder, "float32")[1])
    before = {name: weight.clone() for name, weight in model.state_dict().items()}

    def drifted() -> bool:
        return any(not torch.equal(weight, before[name]) for name, weight in model.state_dict().items())

    with weights_put_back(adapted(model)):
        model.merge_adapter()
        model.unmerge_adapter()
        assert drifted()
    assert not drifted()


def test_in_half_precision_nothing_is_merged(tiny_folder):
    model = with_change(load(tiny_folder, "bfloat16")[1])
    assert {layer.lora_A["default"].weight.dtype for layer in adapted(model)} == {torch.float32}
    with merged(model):
        assert not any(layer.merged for layer in adapted(model))


def test_operations_of_frozen_weights_need_no_gradient(tiny_folder):
    plain = load(tiny_folder, "float32")[1]
    usual = ModelShape.of(plain)
    wrapped = with_change(plain)
    shape = ModelShape.of(wrapped)
    extra = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
    assert shape.linear == usual.linear + extra and shape.frozen == usual.linear and shape.is_head_frozen
    whole, own = (one.forward([0], [7], 3, trains=True) for one in (usual, shape))
    assert whole == 3 * usual.forward([0], [7], 3)
    assert own == 3 * shape.forward([0], [7], 3) - 2 * 7 * usual.linear - 2 * 3 * usual.head
    with merged(wrapped) as inside:
        assert ModelShape.of(inside).linear == usual.linear


# Saved adapters


@pytest.fixture
def saved(tiny_folder, tmp_path):
    """The folder of an adapter beside its base, and the wrapped model."""
    base = tmp_path / "runs/sft/model"
    shutil.copytree(tiny_folder, base)
    model, folder = with_change(load_model(base, "float32")), tmp_path / "runs/rl/seed0/model"
    model.save_pretrained(folder)
    load(base)[0].save_pretrained(folder)
    note_base(folder, model)
    return folder, model


def test_a_saved_adapter_is_loaded_with_its_base(saved, mini):
    folder, model = saved
    loaded, ids = load_model(folder, "float32"), torch.arange(20)[None]
    assert not isinstance(loaded, PeftModel) and not adapted(loaded)
    with merged(model) as inside, torch.no_grad():
        assert torch.equal(loaded.eval()(ids).logits, inside.eval()(ids).logits)
        config = composed(*SHORT, "evaluation.validation_contexts=2")
        criteria, records = make_criteria(config, mini), mini.splits["validation"][:2]
        tokenizer = load(folder)[0]
        lists = [evaluate(one, tokenizer, records, criteria, config).predictions["text"] for one in (loaded, inside)]
    assert list(lists[0]) == list(lists[1])
    assert {"adapter_model.safetensors", "base.json"} <= with_adapter_digests(folder, "x").keys()
    assert load_file(folder / "adapter_model.safetensors").keys()
    assert not (folder / "model.safetensors").exists()
    half = load_model(folder, "bfloat16")
    assert len(adapted(half)) == len(adapted(model))  # its layers add their change


def test_an_adapter_without_some_of_its_tensors_is_refused(saved):
    """peft would leave a missing A random, and only warn."""
    folder, _ = saved
    file = folder / "adapter_model.safetensors"
    whole, weights = file.read_bytes(), load_file(file)
    lost = [name for name in sorted(weights) if "layers.1" in name]
    save_file({name: value for name, value in weights.items() if name not in lost}, file)
    said = f"the adapter in {folder} lacks {lost[0]}, lacks {lost[1]}, lacks {lost[2]} and {len(lost) - 3} more; save"
    with pytest.raises(BadInput, match=re.escape(said)):
        load_model(folder, "float32")
    save_file(weights | {"base_model.other": torch.zeros(2)}, file)
    with pytest.raises(BadInput, match=r"has base_model\.other, which its adapter_config\.json does not name"):
        load_model(folder, "float32")
    save_file(weights | {lost[0]: torch.zeros(2, 2)}, file)
    with pytest.raises(BadInput, match=rf"the weights of '{folder}': .*{re.escape(lost[0].removesuffix('.weight'))}"):
        load_model(folder, "float32")
    file.write_bytes(whole[:-1])
    with pytest.raises(BadInput, match=f"{file} is damaged: it has {len(whole) - 1} bytes instead of {len(whole)}"):
        load_model(folder, "float32")


def test_runs_can_be_moved_together(saved, tmp_path):
    folder, _ = saved
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    assert load_model(tmp_path / "elsewhere" / folder.relative_to(tmp_path / "runs"), "float32") is not None


def test_an_adapter_of_another_base_is_refused(saved, tmp_path):
    folder, _ = saved
    base, noted = tmp_path / "runs/sft/model", json.loads((folder / "base.json").read_text())
    shutil.move(base, tmp_path / "moved")
    with pytest.raises(BadInput, match="which is missing"):
        load_model(folder, "float32")
    small = LlamaConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=99)
    LlamaForCausalLM(small).save_pretrained(base)
    forget()  # a process keeps the digests it has computed
    with pytest.raises(BadInput) as error:
        load_model(folder, "float32")
    assert "is another model now" in str(error.value) and noted["weights"][:12] in str(error.value)
    (folder / "base.json").unlink()
    with pytest.raises(BadInput, match=r"without base.json.*merge the two"):
        load_model(folder, "float32")


def test_a_policy_with_an_adapter_has_no_second_model(mini, tiny_folder, tmp_path):
    """The reference is the model without the adapter, and its log-probabilities are those of the start."""
    config = composed(*SHORT, *RANK_3, "algorithm=grpo", "algorithm.kl.beta=0.1")
    assert isinstance(config.algorithm, AlgorithmConfig) and check_config(config) == []
    tokenizer, model = load(tiny_folder)
    trainer = make_trainer(config, mini, tokenizer, model, tmp_path, HashScorer, HashedLists)
    assert trainer.ref_model is None and isinstance(trainer.model, PeftModel)
    assert {name.split(".")[-3] for name, p in trainer.model.named_parameters() if p.requires_grad} <= {
        "lora_A",
        "lora_B",
    }
    for layer in adapted(trainer.model):
        layer.lora_B["default"].weight.data.fill_(0.05)
    trainer.model.train()
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    reference = inputs["ref_per_token_logps"]
    start = make_trainer(replace(config, adapter=composed().adapter), mini, *load(tiny_folder), tmp_path, HashScorer,
                         HashedLists)  # fmt: skip
    start.model.train()
    same = start._prepare_inputs(next(iter(start.get_train_dataloader())))
    torch.testing.assert_close(reference, same["ref_per_token_logps"], atol=1e-6, rtol=0)
    with torch.no_grad():
        own = trainer._pass(trainer.model, trainer._completions(inputs), wants_entropy=True).logps
    assert (own - reference).abs().max() > 1e-3
    without = make_trainer(
        composed(*SHORT, *RANK_3, "algorithm=grpo", "algorithm.kl.beta=0"), mini, *load(tiny_folder), tmp_path
    )
    assert without.beta == 0 and without.ref_model is None


def test_runs_of_adapters_are_apart(tmp_path):
    runs = [locate(composed(*SHORT, f"runs_dir={tmp_path}", f"adapter={one}"), "rl").root for one in ("none", "lora")]
    assert runs[0] != runs[1]
