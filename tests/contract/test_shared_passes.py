"""A trainer that shares prompts makes the losses and gradients of the plain pass, for every algorithm."""

import contextlib

import pytest
import torch

from rlbench.config.schema import POLICY_OPTIMISATION
from rlbench.models.batches import Completions
from rlbench.objective.pieces import credits
from rlbench.rewards.scorer import ListScorer
from rlbench.running.cli import methods
from rlbench.training.scoring import Batching, even_cuts
from rlbench.training.trainer import RankedListTrainer
from tests.conftest import SMALL, composed, shares
from tests.contract.test_every_algorithm import OTHER_REWARD, DrawnHits
from tests.helpers_models import double_precision, only_float64
from tests.helpers_training import load, make_trainer

SHORT = [
    "trainer.rl.completions_per_update=12",
    "trainer.rl.group_size=4",
    "trainer.rl.micro_batch_size=12",
    "trainer.rl.num_iterations=2",
    "generation.max_new_tokens=16",
]


def trainer_of(
    config, mini, folder, output, dtype="float32", *, ends_early=True, scorer=ListScorer
) -> RankedListTrainer:
    tokenizer, model = load(folder, dtype, ends_early=ends_early)
    trainer = make_trainer(config, mini, tokenizer, model, output, scorer)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def rollout(trainer: RankedListTrainer) -> dict:
    """A rollout, after which the weights move: so log-ratios are not 0."""
    batch = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    with torch.no_grad():
        noise = torch.Generator().manual_seed(3)
        for parameter in trainer.model.parameters():
            shift = torch.randn(parameter.shape, generator=noise, dtype=torch.float64)
            parameter += 0.01 * parameter.std() * shift.to(parameter.dtype)
    return batch


def of_pass(trainer: RankedListTrainer, batch: dict, share: str) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients of a micro-batch."""
    trainer.batching = Batching(share)
    shared, trainer._shared = trainer._shared, trainer._shared_passes() if share != "never" else None
    assert (trainer._shared is None) == (share == "never")
    trainer.model.zero_grad()
    carried = dict(trainer.carried)
    loss = trainer._compute_loss(trainer.model, batch)
    loss.backward()
    trainer._shared, trainer.carried = shared, carried
    return loss.item(), [p.grad.clone() for p in trainer.model.parameters()]


def distance(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """Largest difference of a parameter's gradients, relative to the norm of the whole gradient."""
    norm = torch.stack([g.norm() for g in one]).norm()
    assert norm > 1e-4  # a comparison of zeros would prove nothing
    return max(float((a - b).norm() / norm) for a, b in zip(one, other, strict=True))


def check_passes_are_equal(trainer: RankedListTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradients of a rollout, with shared prompts and by the plain pass. The trainer's weights are float64."""
    only_float64(monkeypatch)
    batch = rollout(trainer)
    loss, gradients = of_pass(trainer, batch, "never")
    shared_loss, shared = of_pass(trainer, batch, "always")
    assert shared_loss == pytest.approx(loss, rel=1e-9, abs=1e-12)
    assert distance(gradients, shared) < 1e-9


@pytest.mark.parametrize("name", shares(methods(POLICY_OPTIMISATION), parts=3, fast=1))
def test_every_algorithm_in_double_precision(name, mini, tiny_folder, tmp_path, monkeypatch):
    config, scorer = composed(*SMALL, f"algorithm={name}", *SHORT, *OTHER_REWARD), ListScorer
    if credits[config.algorithm.credit].facts["reads"] == "hits":
        config, scorer = composed(*SMALL, f"algorithm={name}", *SHORT), DrawnHits
    with double_precision():
        trainer = trainer_of(config, mini, tiny_folder, tmp_path, "float64", scorer=scorer)
        check_passes_are_equal(trainer, monkeypatch)


CASES = {"plain": [], "checkpointed": ["trainer.gradient_checkpointing=true"]}


@pytest.mark.parametrize("case", CASES)
def test_single_precision(case, mini, tiny_folder, tmp_path):
    config = composed(*SMALL, "algorithm=rank_grpo", *SHORT, *OTHER_REWARD, *CASES[case])
    trainer = trainer_of(config, mini, tiny_folder, tmp_path)
    if case == "checkpointed":
        trainer.model.gradient_checkpointing_enable()
    batch = rollout(trainer)
    loss, gradients = of_pass(trainer, batch, "never")
    shared_loss, shared = of_pass(trainer, batch, "always")
    assert shared_loss == pytest.approx(loss, rel=1e-5, abs=1e-6)
    assert distance(gradients, shared) < 1e-5
    if case == "checkpointed":
        assert trainer.model.is_gradient_checkpointing  # turned off only inside a shared pass


def test_autocast_to_bfloat16(mini, tiny_folder, tmp_path):
    """Both passes round to bfloat16, at different places; they are as near to each other as to float32."""
    config = composed(*SMALL, "algorithm=rank_grpo", *SHORT, *OTHER_REWARD)
    trainer = trainer_of(config, mini, tiny_folder, tmp_path)
    batch = rollout(trainer)
    _, exact = of_pass(trainer, batch, "never")
    trainer.accelerator.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
    _, plain = of_pass(trainer, batch, "never")
    _, shared = of_pass(trainer, batch, "always")
    assert 1e-5 < distance(exact, shared) < 2 * distance(exact, plain) + 0.02


def test_reference_and_rollout_passes(mini, tiny_folder, tmp_path):
    config = composed(*SMALL, "algorithm=unlikely", "algorithm.kl.beta=0.1", *SHORT)
    trainer = trainer_of(config, mini, tiny_folder, tmp_path)
    batch = rollout(trainer)
    completions, found = Completions.of(batch), {}
    for share in ("never", "always"):
        trainer._shared = None
        trainer.batching = Batching(share)
        trainer._shared = trainer._shared_passes()
        with torch.no_grad():
            found[share] = [
                trainer._pass(model, completions, cuts=even_cuts(12, size)).logps * batch["completion_mask"]
                for model in (trainer.ref_model, trainer.model)
                for size in (5, 12)
            ]
    for plain, shared in zip(found["never"], found["always"], strict=True):
        torch.testing.assert_close(plain, shared, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        found["always"][0], batch["ref_per_token_logps"] * batch["completion_mask"], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("shuffle", ["groups", "completions"])
@pytest.mark.parametrize("tokens", [None, 200])
@pytest.mark.parametrize("share", ["always", "never"])
def test_an_unchanged_policy_has_ratios_of_1(share, tokens, shuffle, bf16, mini, tiny_folder, tmp_path):
    """Exactly, and no distance from an equal reference: all passes forward the same completions together."""
    sizes = ["trainer.rl.completions_per_update=24", "trainer.rl.micro_batch_size=8", "generation.max_new_tokens=16"]
    if tokens:  # TRL then gets the completions as one batch
        sizes.append("trainer.rl.micro_batch_size=24")
    config = composed(*SMALL, "algorithm=gspo", *SHORT, *sizes, "algorithm.kl.beta=0.1")
    trainer = trainer_of(config, mini, tiny_folder, tmp_path)
    trainer.batching = Batching(share, shuffle, tokens)
    trainer._shared = trainer._shared_passes()
    if bf16:
        context = lambda: torch.autocast("cpu", torch.bfloat16)  # noqa: E731
        trainer.accelerator.autocast = trainer.autocast_smart_context_manager = context
        if trainer._shared is not None:
            trainer._shared.autocast = context
    with context() if bf16 and share == "never" else contextlib.nullcontext():
        loader = iter(trainer.get_train_dataloader())
        batch = next(loader)
        for trainer._step in range(1 if tokens else 3):
            trainer._compute_loss(trainer.model, trainer._prepare_inputs(batch))
    metrics = trainer._metrics["train"]
    assert len(metrics["kl"]) >= 3
    for name in ("max_abs_log_ratio", "kl", "clip_low", "clip_high"):
        assert set(metrics[name]) == {0.0}, name


@pytest.mark.parametrize("algorithm", ["rank_grpo", "dapo", "grpo", "dr_grpo"])
def test_micro_batches_by_tokens_make_the_gradient_of_the_whole(algorithm, mini, tiny_folder, tmp_path):
    config = composed(*SMALL, f"algorithm={algorithm}", *SHORT, *OTHER_REWARD)
    trainer = trainer_of(config, mini, tiny_folder, tmp_path)
    batch = rollout(trainer)
    loss, gradients = of_pass(trainer, batch, "always")
    for tokens in (1, 150, 100_000):
        trainer.model.zero_grad()
        trainer.batching = Batching("always", micro_batch_tokens=tokens)
        before = len(trainer._metrics["train"]["entropy"])
        value = trainer._compute_loss(trainer.model, batch)
        value.backward()
        parts = len(trainer._metrics["train"]["entropy"]) - before
        assert parts == 12 if tokens == 1 else parts == 1 if tokens == 100_000 else 1 < parts < 12
        assert value.item() == pytest.approx(loss, rel=1e-4, abs=1e-6)
        assert distance(gradients, [p.grad for p in trainer.model.parameters()]) < 1e-4


def test_micro_batches_by_tokens_draw_the_demonstrations_of_the_whole(mini, tiny_folder, tmp_path):
    config = composed(*SMALL, "algorithm=uniapl", *SHORT)
    trainer = trainer_of(config, mini, tiny_folder, tmp_path)
    batch, places, draw = rollout(trainer), [], trainer.demonstrations.batch
    trainer.demonstrations.batch = lambda first, size, device: places.append((first, size)) or draw(first, size, device)
    trainer.state.global_step = 3
    trainer.batching = Batching(micro_batch_tokens=150)
    trainer._compute_loss(trainer.model, batch).backward()
    assert len(places) > 1
    assert [place for first, size in places for place in range(first, first + size)] == list(range(36, 48))


def test_the_batch_keeps_groups_together(mini, tiny_folder, tmp_path):
    config = composed(*SMALL, "algorithm=rank_grpo", *SHORT, "trainer.rl.micro_batch_size=4")
    trainer = trainer_of(config, mini, tiny_folder, tmp_path)
    for shuffle, kept in (("groups", True), ("completions", False)):
        trainer.batching, trainer._buffered_inputs, trainer._step = Batching(shuffle=shuffle), None, 0
        loader = iter(trainer.get_train_dataloader())
        batch = next(loader)
        parts = []
        for trainer._step in range(3):
            with contextlib.suppress(StopIteration):
                parts.append(trainer._prepare_inputs(batch))
        prompts = [len({tuple(row) for row in part["prompt_ids"].tolist()}) for part in parts]
        assert (prompts == [1, 1, 1]) == kept


IDLE = ["algorithm.kl.beta=0", "trainer.rl.num_iterations=1"]


@pytest.mark.parametrize("algorithm", ["grpo", "dapo", "rank_grpo", "gspo"])
@pytest.mark.parametrize("idle", ["one", "group", "all"])
def test_completions_without_effect_are_not_forwarded(algorithm, idle, mini, tiny_folder, tmp_path):
    """Loss, gradient and measurements are those of a pass over all."""
    config = composed(*SMALL, f"algorithm={algorithm}", *SHORT, *OTHER_REWARD, *IDLE)
    trainer = trainer_of(config, mini, tiny_folder, tmp_path)
    batch = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    rows = {"one": slice(5, 6), "group": slice(4, 8), "all": slice(0, 12)}[idle]
    batch["advantages"][rows] = 0
    before = batch["advantages"].any(1).sum().item()
    forwarded, scores = [], trainer._shared.scores
    trainer._shared.scores = lambda model, part, *args, **named: (
        forwarded.append(len(part)) or scores(model, part, *args, **named)
    )
    found = {}
    for skips in (True, False):
        trainer.model.zero_grad()
        trainer._metrics["train"].clear()
        given = batch if skips else {name: value for name, value in batch.items() if name != "rollout_entropies"}
        loss = trainer._compute_loss(trainer.model, given)
        loss.backward()
        measured = {name: values[-1] for name, values in trainer._metrics["train"].items()}
        found[skips] = loss.item(), [p.grad.clone() for p in trainer.model.parameters()], measured
    assert forwarded == [max(before, 1), 12]
    skipped = [found[skips][2].pop("skipped_completions") for skips in (True, False)]
    assert skipped == [pytest.approx(1 - max(before, 1) / 12), 0]
    assert found[True][0] == pytest.approx(found[False][0], abs=1e-6)
    for one, other in zip(found[True][1], found[False][1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    assert (idle == "all") == (not any(gradient.any() for gradient in found[True][1]))
    assert found[True][2] == pytest.approx(found[False][2], abs=1e-5)


@pytest.mark.parametrize(
    "overrides",
    [
        ["algorithm=grpo", "algorithm.kl.beta=0.01"],
        ["algorithm=grpo", *IDLE, "+algorithm.regularisers.entropy_bonus=0.1"],
        ["algorithm=top_entropy", *IDLE],
        ["algorithm=kl_cov", *IDLE],
        ["algorithm=rover", *IDLE],
        ["algorithm=grpo", *IDLE, "generation.prefill=repeated"],
        ["algorithm=grpo", "algorithm.kl.beta=0", "trainer.rl.num_iterations=2"],
    ],
)
def test_where_every_completion_may_have_an_effect_all_are_forwarded(overrides, mini, tiny_folder, tmp_path):
    config = composed(*SMALL, *SHORT, *overrides)
    trainer = trainer_of(config, mini, tiny_folder, tmp_path)
    batch = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    assert "rollout_entropies" not in batch
    trainer._compute_loss(trainer.model, batch)
    assert trainer._metrics["train"]["skipped_completions"] == [0]
