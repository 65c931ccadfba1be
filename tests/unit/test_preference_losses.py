"""Losses of preference optimisation against loops in float64, their identities, and the numbers that they carry."""

import json
import math

import pytest
import torch

from rlbench.objective.inputs import Course
from rlbench.preference.inputs import TupleInputs, pair_strengths
from rlbench.preference.losses import drift, losses, margin, meta, nash, posterior, softmax
from rlbench.preference.steps import as_matrix, orthogonal, updates, without

LENGTHS = [3, 5, 4, 1]
"""Tokens of each list of a tuple."""


def made(lists=2, count=6, seed=0, update=0, carried=None, gather=lambda values: values, earlier=0) -> TupleInputs:
    """Random tuples in float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mask = torch.zeros(count, lists, 5, dtype=torch.float64)
    for place in range(lists):
        mask[:, place, : LENGTHS[place]] = 1
    logps = (normal(count, lists, 5) - 2) * mask
    reference = (normal(count, lists, 5) - 2) * mask
    return TupleInputs(
        logps=logps.requires_grad_(True),
        moved=logps - reference,
        mask=mask,
        beta=0.3,
        strength=torch.rand(count, generator=generator, dtype=torch.float64),
        chance=torch.rand(count, generator=generator, dtype=torch.float64),
        earlier=3 * normal(count, earlier, lists) if earlier else None,
        course=Course(update, {} if carried is None else carried, gather),
    )


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def loop_margins(inputs: TupleInputs) -> list[float]:
    return [inputs.beta * (sum(lists[0]) - sum(lists[1])) for lists in inputs.moved.detach().tolist()]


def grad(loss, inputs):
    return torch.autograd.grad(loss.sum(), inputs.logps)[0]


def test_softmax_is_the_pair_loss_of_dpo():
    inputs = made()
    assert softmax(inputs).tolist() == pytest.approx([-math.log(sigmoid(m)) for m in loop_margins(inputs)])


def test_the_posterior_by_bayes():
    inputs = made()
    wanted = []
    for m in loop_margins(inputs):
        right, wrong = 0.8 * sigmoid(m), 0.2 * sigmoid(-m)
        p = right / (right + wrong)
        wanted.append(-p * math.log(sigmoid(m)) - (1 - p) * math.log(sigmoid(-m)))
    assert posterior(inputs, noise=0.2, rate=0.0).tolist() == pytest.approx(wanted, abs=1e-9)


def test_the_posterior_has_no_gradient():
    inputs = made()
    p = torch.sigmoid(inputs.margins + math.log(0.8 / 0.2)).detach()
    wanted = -(p * torch.sigmoid(inputs.margins).log() + (1 - p) * torch.sigmoid(-inputs.margins).log())
    torch.testing.assert_close(
        grad(posterior(inputs, noise=0.2, rate=0.0), inputs), grad(wanted, inputs), atol=1e-9, rtol=0
    )


def test_without_noise_the_posterior_is_dpo():
    inputs = made()
    torch.testing.assert_close(posterior(inputs, noise=0.0, rate=0.5), softmax(inputs))
    flipped = posterior(made(), noise=1.0, rate=0.0)
    assert flipped.tolist() == pytest.approx([-math.log(sigmoid(-m)) for m in loop_margins(inputs)])


def test_the_noise_moves_after_each_update_whatever_the_micro_batches():
    """The estimate is the running mean of 1 - p over whole updates, and it survives JSON."""
    whole, parts = {}, {}
    noise = 0.3
    for update in range(3):
        inputs = made(seed=update, count=6, update=update, carried=whole)
        posterior(inputs, noise=0.3, rate=0.25)
        halves = made(seed=update, count=6, update=update, carried=parts)
        for half in (slice(0, 2), slice(2, 6)):
            some = {name: getattr(halves, name)[half] for name in ("logps", "moved", "mask", "strength", "chance")}
            posterior(TupleInputs(beta=0.3, course=Course(update, parts), **some), noise=0.3, rate=0.25)
        parts = json.loads(json.dumps(parts))
        odds = [
            (1 - noise) * sigmoid(m) / ((1 - noise) * sigmoid(m) + noise * sigmoid(-m)) for m in loop_margins(inputs)
        ]
        if update < 2:
            noise = 0.75 * noise + 0.25 * (1 - sum(odds) / len(odds))
    assert whole["posterior.noise"] == pytest.approx(noise) == pytest.approx(parts["posterior.noise"])
    assert noise != pytest.approx(0.3, abs=1e-3)


def test_margins_by_hand_and_without_them_dpo():
    inputs = made()
    wanted = [
        -math.log(sigmoid(m - 2.0 * strength))
        for m, strength in zip(loop_margins(inputs), inputs.strength.tolist(), strict=True)
    ]
    assert margin(inputs, most=2.0).tolist() == pytest.approx(wanted)
    torch.testing.assert_close(margin(inputs, most=0.0), softmax(inputs))


def test_strengths_are_shares_of_weaker_tuples():
    found = pair_strengths([1.0, 3.0, 2.0, 2.0], [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, -1.0]])
    assert found.tolist() == [0.125, 0.875, 0.5, 0.5]
    assert len(pair_strengths([], [])) == 0


def test_nash_by_a_loop():
    inputs = made(earlier=4)
    wanted = []
    for row in range(6):
        policy = sum(inputs.logps[row, 0].tolist()) - sum(inputs.logps[row, 1].tolist())
        ratios = [of_lists[0] - of_lists[1] for of_lists in inputs.earlier[row].tolist()]
        opponents = (ratios[3] + ratios[2]) / 2
        wanted.append((policy - 0.3 * ratios[0] - 0.7 * opponents - 1 / (2 * 0.05)) ** 2)
    assert nash(inputs, eta=0.05, ratio=0.3, players=2).tolist() == pytest.approx(wanted)


def test_nash_without_earlier_rounds_is_ipo():
    """(m - 1/(2 tau))^2 of the log-ratio to the reference, as in IPO, for any ratio and number of opponents."""
    inputs = made(earlier=1)
    reference = (inputs.logps - inputs.moved).detach().sum(2)
    inputs = TupleInputs(**{**vars(inputs), "earlier": reference[:, None]})
    ipo = (inputs.ratios[:, 0] - inputs.ratios[:, 1] - 1 / (2 * 0.1)).square()
    for ratio, players in ((0.0, 1), (0.5, 3), (1.0, 2)):
        torch.testing.assert_close(nash(inputs, eta=0.1, ratio=ratio, players=players), ipo)


def test_drift_by_a_loop():
    inputs = made(lists=3)
    wanted = []
    for lists, masks in zip(inputs.moved.detach().tolist(), inputs.mask.tolist(), strict=True):
        ratios = []
        for moved, mask in zip(lists, masks, strict=True):
            kept = [value for value, counted in zip(moved, mask, strict=True) if counted]
            mean = sum(map(abs, kept)) / len(kept)
            weights = [min((abs(value) / mean) ** 0.5, 1.2) for value in kept]
            of_list = sum(weights) / len(weights)
            ratios.append(sum(w / of_list * value for w, value in zip(weights, kept, strict=True)))
        inner = sum(math.exp(inputs.beta * (other - ratios[0])) for other in ratios[1:])
        wanted.append(math.log(1 + inner))
    assert drift(inputs, sharpness=0.5, most=1.2).tolist() == pytest.approx(wanted)


def test_without_sharpness_or_drift_all_tokens_count_the_same():
    inputs = made(lists=3)
    torch.testing.assert_close(drift(inputs, sharpness=0.0), softmax(inputs))
    logps = made(lists=3).logps
    still = TupleInputs(**{**vars(inputs), "logps": logps, "moved": logps - logps.detach()})
    assert drift(still).tolist() == pytest.approx([math.log(3)] * 6)
    torch.testing.assert_close(grad(drift(still), still) * still.mask, grad(softmax(still), still) * still.mask)


def slow_network(numbers: list[float], score: float) -> float:
    hidden = [math.tanh(score * numbers[i] + numbers[100 + i]) for i in range(100)]
    return sigmoid(sum(h * numbers[200 + i] for i, h in enumerate(hidden)) + numbers[300])


def slow_objective(numbers: list[float], scores: list[tuple[float, float]]) -> float:
    total = 0.0
    for offline, online in scores:
        w = slow_network(numbers, offline)
        total += w * offline + (1 - w) * online
    return total / len(scores)


def pair_scores(inputs: TupleInputs) -> list[tuple[float, float]]:
    found = []
    for lists in inputs.moved.detach().tolist():
        r = [inputs.beta * sum(tokens) for tokens in lists]
        found.append((math.log(sigmoid(r[0] - r[1])), math.log(sigmoid(r[2] - r[3]))))
    return found


@pytest.mark.parametrize("gated", [True, False])
def test_meta_by_a_loop(gated):
    carried = {}
    inputs = made(lists=4, carried=carried)
    numbers = [0.1] * 100 + [0.0] * 100 + [0.1] * 100 + [0.0]
    wanted = []
    for (offline, online), chance in zip(pair_scores(inputs), inputs.chance.tolist(), strict=True):
        w = slow_network(numbers, offline)
        kept = chance > w or not gated
        wanted.append(-w * offline - (1 - w) * kept * online)
    assert meta(inputs, gated=gated).tolist() == pytest.approx(wanted)


def test_the_network_steps_up_the_slope_after_so_many_updates():
    """Its step is that of finite differences of the objective over all tuples since the last step, whatever the
    micro-batches; and it goes through JSON as a checkpoint does."""
    carried, scores = {}, []
    numbers = [0.1] * 100 + [0.0] * 100 + [0.1] * 100 + [0.0]
    for update in range(3):
        for part in range(2):
            inputs = made(lists=4, seed=10 * update + part, count=3 + part, update=update, carried=carried)
            meta(inputs, every=3, rate=0.5)
            scores += pair_scores(inputs)
        assert [carried[f"meta.{i}"] for i in range(301)] == numbers
        carried = json.loads(json.dumps(carried))
    meta(made(lists=4, update=3, carried=carried), every=3, rate=0.5)
    for i in (0, 7, 100, 150, 200, 299, 300):
        up, down = ([n + s * 1e-5 * (j == i) for j, n in enumerate(numbers)] for s in (1, -1))
        slope = (slow_objective(up, scores) - slow_objective(down, scores)) / 2e-5
        assert carried[f"meta.{i}"] == pytest.approx(numbers[i] + 0.5 * slope, abs=1e-8)
    assert carried["meta.tuples"] == 6 and carried["meta.since"] == 3


def test_with_weight_one_meta_is_dpo_on_the_offline_pair():
    carried = {f"meta.{i}": 0.0 for i in range(300)} | {"meta.300": 800.0, "meta.since": 0.0}
    inputs = made(lists=4, carried=carried)
    offline = TupleInputs(**{**vars(inputs), "moved": inputs.moved[:, :2]})
    torch.testing.assert_close(meta(inputs), softmax(offline))
    online = TupleInputs(**{**vars(inputs), "moved": inputs.moved[:, 2:]})
    carried = {f"meta.{i}": 0.0 for i in range(300)} | {"meta.300": -800.0, "meta.since": 0.0}
    inputs = TupleInputs(**{**vars(inputs), "course": Course(0, carried)})
    torch.testing.assert_close(meta(inputs), softmax(online))


def test_the_weight_has_no_gradient():
    inputs = made(lists=4)
    weight = torch.tensor(
        [slow_network([0.1] * 100 + [0.0] * 100 + [0.1] * 100 + [0.0], offline) for offline, _ in pair_scores(inputs)]
    ).double()
    ratios = inputs.beta * inputs.ratios
    wanted = -weight * torch.sigmoid(ratios[:, 0] - ratios[:, 1]).log()
    wanted = wanted - (1 - weight) * torch.sigmoid(ratios[:, 2] - ratios[:, 3]).log()
    torch.testing.assert_close(grad(meta(inputs, gated=False), inputs), grad(wanted, inputs), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("name", losses)
def test_each_loss_is_finite_far_away(name):
    piece = losses[name]
    inputs = made(lists=2 * piece.facts["pairs"], earlier=2)
    far = TupleInputs(**{**vars(inputs), "moved": inputs.moved * 1e3})
    loss = piece.function(far)
    assert loss.shape == (6,) and torch.isfinite(loss).all()
    assert torch.isfinite(torch.autograd.grad(loss.sum(), inputs.logps)[0]).all()


# Updates.


def test_an_update_keeps_away_from_the_largest_directions():
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(6, 3, generator=generator, dtype=torch.float64))[0]
    move = 5 * left[:, :1] @ torch.ones(1, 4).double() + 0.1 * left[:, 1:2] @ torch.tensor([[1.0, -1, 2, -2]]).double()
    step = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    one, two = (without(step, orthogonal([move], rank=rank)) for rank in (1, 2))
    assert (left[:, 0] @ one).abs().max() < 1e-12 < (left[:, 1] @ one).abs().max()
    assert (left[:, :2].T @ two).abs().max() < 1e-12
    torch.testing.assert_close(left[:, 2] @ two, left[:, 2] @ step)  # what is free stays


def test_overlapping_rounds_count_once():
    move = torch.outer(torch.tensor([1.0, 2.0, 0.0]), torch.ones(4))
    basis = orthogonal([move, 3 * move], rank=2)
    assert basis.shape == (3, 1)
    torch.testing.assert_close(basis.T @ basis, torch.eye(1, dtype=torch.float64))


def test_vectors_are_columns_and_nothing_learned_leaves_all_free():
    assert as_matrix(torch.ones(3)).shape == (3, 1) and as_matrix(torch.ones(())).shape == (1, 1)
    step = without(torch.tensor([1.0, 1.0, 1.0]), orthogonal([torch.tensor([[0.0], [2.0], [0.0]])]))
    assert step.tolist() == pytest.approx([1.0, 0.0, 1.0])
    assert orthogonal([]) is None and all(updates[name].function([]) is None for name in updates)
