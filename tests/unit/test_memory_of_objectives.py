"""A loss keeps tensors of tokens or of units for its backward pass: never tokens x units, and no logits."""

import gc
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rlbench.config.schema import POLICY_OPTIMISATION
from rlbench.objective import Course, Objective
from rlbench.objective.pieces import scalars
from rlbench.running.cli import methods
from tests.conftest import SMALL, composed, shares
from tests.helpers_losses import B, N, T, loss_inputs, window
from tests.helpers_training import load, make_trainer

ALGORITHMS = methods(POLICY_OPTIMISATION)
WHOLE_STEP = [name for name in ("grpo", "rover", "siren") if name in ALGORITHMS]
"""Methods tested in the whole trainer: a plain one, and those that need more from the forward pass."""

VOCABULARY = 30_000
"""So large that only tensors with a row over the vocabulary reach this many elements in a micro-batch of `SHORT`."""
SHORT = [
    "trainer.rl.updates=2",
    "trainer.rl.num_iterations=2",
    "trainer.rl.completions_per_update=4",
    "trainer.rl.group_size=4",
    "trainer.rl.micro_batch_size=4",
    "trainer.rl.save_every=100",
    "generation.max_new_tokens=24",
]


def elements(tensor):
    """Number of elements that a tensor keeps in memory: all of them for a view, few for an expanded tensor."""
    return tensor.untyped_storage().nbytes() // tensor.element_size()


@contextmanager
def saved():
    """Yield a list that collects the sizes of tensors saved for a backward pass, except parameters and their views."""
    sizes = []

    def pack(tensor):
        if not any(isinstance(owner, torch.nn.Parameter) for owner in (tensor, tensor._base)):
            sizes.append(elements(tensor))
        return tensor.detach()  # saving the result itself would keep its graph alive

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


class Made(TorchDispatchMode):
    """Records every tensor created, whoever holds it."""

    def __init__(self):
        super().__init__()
        self.storages = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {storage(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and storage(leaf) not in given:
                self.storages.append((StorageWeakRef(leaf.untyped_storage()), elements(leaf)))
        return result

    def kept(self):
        """Return the sizes of tensors that still exist."""
        gc.collect()
        return [size for reference, size in self.storages if not reference.expired()]


def storage(tensor):
    return tensor.untyped_storage()._cdata


def with_all_extras(inputs):
    """Add everything that a piece can request, with gradients wherever possible."""
    names = [*scalars, *(f"old_{name}" for name in scalars), "demonstration_logps"]
    drawn = {name: -torch.rand(B, T, dtype=torch.float64) for name in names}
    extras = {"demonstration_mask": torch.ones(B, T), "kl_scale": torch.ones(B), **drawn, **inputs.extras}
    for tensor in (inputs.logps, *extras.values()):
        tensor.requires_grad_(tensor.is_floating_point())
    return replace(inputs, extras=extras)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_objective_saves_tokens_or_units(name):
    config, inputs, memory = composed(f"algorithm={name}"), with_all_extras(loss_inputs()), {}
    objective = Objective(config.algorithm, config.reward, N)
    first = {name: inputs.extras[name].detach() for name in objective.scalars_at_rollout(memory)}
    objective.begin(first, inputs.mask, memory)
    for update in (0, 1):  # the first update may only collect statistics
        with saved() as sizes:
            objective.loss(replace(inputs, course=Course(update, memory)), window(inputs))
        assert sizes and max(sizes) <= B * max(T, inputs.units.count)


def test_a_tensor_of_tokens_times_units_would_be_seen():
    inputs = loss_inputs()
    logps = inputs.logps.requires_grad_()
    of_units = torch.nn.functional.one_hot(inputs.unit_ids, inputs.units.count).to(logps)
    with saved() as sizes:
        (logps.unsqueeze(2) * of_units).sum(1).mean()
    assert max(sizes) == B * T * inputs.units.count > B * max(T, inputs.units.count)


@pytest.fixture(scope="module")
def large_folder(tiny_folder, tmp_path_factory):
    """The small `tiny` with a large vocabulary."""
    folder = tmp_path_factory.mktemp("large")
    tokenizer, model = load(tiny_folder)
    model.resize_token_embeddings(VOCABULARY, mean_resizing=False)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", shares(WHOLE_STEP, parts=3, fast=0))
def test_trainer_keeps_no_logits(name, mini, large_folder, tmp_path):
    trainer = make_trainer(composed(*SMALL, f"algorithm={name}", *SHORT), mini, *load(large_folder), tmp_path)
    compute_loss, roll_out = trainer._compute_loss, trainer._generate_and_score_completions
    watched = []

    def watched_loss(model, inputs):
        with Made() as made, saved() as sizes:
            loss = compute_loss(model, inputs)
        watched.append("loss")
        assert 0 < max(sizes) < VOCABULARY
        assert 0 < max(made.kept()) < VOCABULARY
        return loss

    def watched_rollout(inputs):
        with Made() as made:
            output = roll_out(inputs)
        watched.append("rollout")
        assert 0 < max(made.kept()) < VOCABULARY
        return output

    trainer._compute_loss, trainer._generate_and_score_completions = watched_loss, watched_rollout
    trainer.train()
    assert watched == ["rollout", "loss", "loss"]


def test_logits_would_be_seen(large_folder):
    _, model = load(large_folder)
    ids = torch.zeros(2, 5, dtype=torch.long)
    with Made() as made, saved() as sizes:
        logps = model(ids).logits.log_softmax(dim=-1)[:, :, 0]
    assert max(sizes) == max(made.kept()) == ids.numel() * VOCABULARY
    del logps
    assert not any(size >= VOCABULARY for size in made.kept())
    with Made() as made, torch.no_grad():
        held = model(ids).logits
    assert max(made.kept()) == held.numel() == ids.numel() * VOCABULARY
