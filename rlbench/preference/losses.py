"""Losses of preference optimisation. Shapes: B tuples of one chosen and L rejected lists.

A log-ratio is log pi(y|x) - log pi_ref(y|x), summed over the tokens of a list. Multiplied by beta it is the implicit
reward. A loss is one pure function of `TupleInputs` that gives (B,) losses. Numbers that it keeps from update to update
are in `inputs.course.carried`, which checkpoints hold. Its facts:

- pairs: number of pairs in a tuple;
- many: whether a pair may have several rejected lists;
- earlier: whether it needs the log-probabilities under the references of earlier rounds.
"""

import torch
from torch.nn import functional

from rlbench.config.options import AtLeastOne, NonNegative, Positive, PositiveInt, Share
from rlbench.objective.inputs import Carried
from rlbench.objective.pieces import Place
from rlbench.preference.inputs import TupleInputs

losses = Place("loss", ("pairs", "many", "earlier"))


def softmax_dpo(chosen: torch.Tensor, rejected: torch.Tensor, beta: float) -> torch.Tensor:
    """-log sigma(-log sum_l exp(beta (r_l - r_w))) (S-DPO, arXiv 2406.09215; L = 1 is DPO, 2305.18290, Eq. 7).

    Args:
        chosen: (B,) log-ratios r_w.
        rejected: (B, L) log-ratios r_l.
        beta: weight of the log-ratios.

    Returns:
        (B,) losses.
    """
    return functional.softplus((beta * (rejected - chosen[:, None])).logsumexp(dim=1))


def mean_negative_log_likelihood(logps: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """-log pi(y|x) / |y|. Every list has the same weight, however an update is split into micro-batches.

    Args:
        logps: (B,) log-probabilities of lists.
        tokens: (B,) their numbers of tokens.

    Returns:
        (B,) losses.
    """
    return -logps / tokens.clamp(min=1)


@losses.piece(pairs=1, many=True, earlier=False)
def softmax(inputs: TupleInputs) -> torch.Tensor:
    """−log σ(−log Σ_l exp(β (r(l) − r(w)))) (S-DPO; DPO with one rejected list)."""
    ratios = inputs.ratios
    return softmax_dpo(ratios[:, 0], ratios[:, 1:], inputs.beta)


@losses.piece(pairs=1, many=False, earlier=False)
def posterior(inputs: TupleInputs, *, noise: Share = 0.1, rate: Share = 0.1) -> torch.Tensor:
    """DPO on both orders of a pair, weighted by the posterior that its label is right (RPO, arXiv 2509.24159).

    With margin m = β (r(w) − r(l)) and a share e of wrong labels, the label is right with probability
    p = (1 − e) σ(m) / ((1 − e) σ(m) + e σ(−m)), from the current margin and without a gradient. The loss is
    −p log σ(m) − (1 − p) log σ(−m). After each update, e moves towards the mean of 1 − p over the update. Inspired by
    the abstract; this is the EM form of robust DPO. With e = 0 it is DPO.

    Args:
        noise: share of wrong labels at the start.
        rate: how far e moves; 0 leaves it.
    """
    carried, margins = inputs.course.carried, inputs.margins
    share = torch.tensor(_moved_noise(inputs, noise, rate), dtype=margins.dtype, device=margins.device)
    with torch.no_grad():
        # log of e / (1 - e) added to -m: exact at both ends, where a quotient of probabilities would be 0 / 0.
        right = torch.sigmoid(margins + torch.log1p(-share) - share.log())
        wrong = inputs.course.gather(1 - right).double()
    carried["posterior.wrong"] = carried.get("posterior.wrong", 0.0) + wrong.sum().item()
    carried["posterior.pairs"] = carried.get("posterior.pairs", 0.0) + len(wrong)
    return right * functional.softplus(-margins) + (1 - right) * functional.softplus(margins)


def _moved_noise(inputs: TupleInputs, noise: float, rate: float) -> float:
    """The present share of wrong labels. At the first call of an update, it moves by what the last update found."""
    carried, update = inputs.course.carried, float(inputs.course.update)
    if carried.setdefault("posterior.update", update) != update:
        found = carried.pop("posterior.wrong") / carried.pop("posterior.pairs")
        carried["posterior.noise"] = (1 - rate) * carried.get("posterior.noise", noise) + rate * found
        carried["posterior.update"] = update
    return carried.get("posterior.noise", noise)


@losses.piece(pairs=1, many=False, earlier=False)
def margin(inputs: TupleInputs, *, most: NonNegative = 1.0) -> torch.Tensor:
    """−log σ(β (r(w) − r(l)) − m), with a margin m for each pair (DPO-PoP, arXiv 2509.22851).

    The paper infers margins from answers to which of two pairs has the stronger preference. Here the reward answers: of
    two pairs of a round, the one with the larger difference of rewards is the stronger. m is `most` times the share of
    the round's pairs that are weaker. It uses their order only. Inspired by the abstract. With most = 0 it is DPO.

    Args:
        most: margin of a pair that is stronger than all others.
    """
    return functional.softplus(most * inputs.strength - inputs.margins)


@losses.piece(pairs=1, many=False, earlier=True)
def nash(
    inputs: TupleInputs, *, eta: Positive = 0.0075, ratio: Share = 0.3333, players: PositiveInt = 2
) -> torch.Tensor:
    """(h(π) − c h(π_ref) − (1 − c) Σ_j λ_j h(π_j) − 1/(2η))², h(π) = log π(w) − log π(l) (MNPO, arXiv 2509.23102).

    The opponents π_j are the references of the latest rounds, this one's included, with equal weights λ_j. π_ref is the
    run's first reference. After the published code, whose two weights are 1 and 0: `players: 1`. β has no effect on the
    loss. In the first round all of them are π_ref, and the loss is IPO's with τ = η.

    Args:
        eta: step of the Nash update; a wide margin 1/(2η) is aimed for.
        ratio: the weight c of the run's first reference.
        players: largest number of opponents.
    """
    assert inputs.earlier is not None
    lists = inputs.logps.sum(dim=2)
    ratios = inputs.earlier[:, :, 0] - inputs.earlier[:, :, 1]
    opponents = ratios[:, -players:].mean(dim=1)
    wanted = ratio * ratios[:, 0] + (1 - ratio) * opponents + 1 / (2 * eta)
    return (lists[:, 0] - lists[:, 1] - wanted).square()


@losses.piece(pairs=1, many=True, earlier=False)
def drift(inputs: TupleInputs, *, sharpness: NonNegative = 1.0, most: AtLeastOne = 5.0) -> torch.Tensor:
    """S-DPO (DPO) with a weight for each token (SAIL, arXiv 2509.23188).

    The paper weighs tokens by the attention of the heads that drift from an instruction, and trains these layers only.
    Here a token's weight grows with its own drift d = |log π − log π_ref|: it is (d / mean d)^sharpness, at most
    `most`, divided by the list's mean weight. Weights have no gradient. CRAS, which measures an agent's drift, is left
    out. Inspired by the abstract. With sharpness = 0 it is S-DPO. At a round's first update all weights are 1.

    Args:
        sharpness: power of the drift.
        most: largest weight before the division.
    """
    with torch.no_grad():
        counted = inputs.mask.to(inputs.moved.dtype)
        tokens = counted.sum(dim=2, keepdim=True).clamp(min=1)
        size = inputs.moved.abs() * counted
        mean = size.sum(dim=2, keepdim=True) / tokens
        relative = torch.where(mean > 0, size / mean.clamp(min=torch.finfo(size.dtype).tiny), torch.ones_like(size))
        weights = relative.pow(sharpness).clamp(max=most) * counted
        of_list = weights.sum(dim=2, keepdim=True) / tokens
        weights = weights / of_list.clamp(min=torch.finfo(size.dtype).tiny)
    ratios = (weights * inputs.moved).sum(dim=2)
    return softmax_dpo(ratios[:, 0], ratios[:, 1:], inputs.beta)


HIDDEN = 100
"""Hidden units of the meta-learner, as in the published code."""
FIRST_WEIGHT = 0.1
"""Its weights at the start, as in the published code. Its biases start at 0."""


@losses.piece(pairs=2, many=False, earlier=False)
def meta(inputs: TupleInputs, *, every: PositiveInt = 8, rate: NonNegative = 0.005, gated: bool = True) -> torch.Tensor:
    """w ℓ_offline + (1 − w) ℓ_online, ℓ = −log σ of a pair's margin (MetaAPO, arXiv 2509.23371).

    A tuple is an offline pair and an online pair of one prompt. The weight w is what a small network (1-100-1, tanh,
    sigmoid) gives for −ℓ_offline, without a gradient to the policy. Network and policy learn in turn: after every
    `every` updates the network makes one step that raises w (−ℓ_offline) + (1 − w) (−ℓ_online) of these updates. The
    online pair counts only where a number drawn for the tuple is above w, because the paper draws online samples there.
    After paper and code; lists are drawn for every prompt, so that all methods draw equally many, and the network makes
    plain gradient steps.

    Args:
        every: updates between two steps of the network.
        rate: size of its step; 0 leaves it.
        gated: whether a weight above the tuple's number drops the online pair.
    """
    ratios = inputs.beta * inputs.ratios
    offline, online = (functional.softplus(ratios[:, i + 1] - ratios[:, i]) for i in (0, 2))
    network = _network(inputs.course.carried, inputs.course.update, every, rate)
    scores = torch.stack([-offline, -online], dim=1).detach()
    weight = _meta_weights(network, scores[:, 0].double().cpu()).to(ratios)
    _collect(inputs.course.carried, network, inputs.course.gather(scores).double().cpu())
    kept = (inputs.chance > weight).to(ratios) if gated else torch.ones_like(weight)
    return weight * offline + (1 - weight) * kept * online


def _meta_weights(network: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """(n,) outputs in (0, 1) of the network (301,) for (n,) inputs."""
    hidden = torch.tanh(scores[:, None] * network[:HIDDEN] + network[HIDDEN : 2 * HIDDEN])
    return torch.sigmoid(hidden @ network[2 * HIDDEN : 3 * HIDDEN] + network[3 * HIDDEN])


def _network(carried: Carried, update: int, every: int, rate: float) -> torch.Tensor:
    """The network's 301 numbers in float64, after the step that is due at this update."""
    size = 3 * HIDDEN + 1
    if "meta.0" not in carried:
        first = [FIRST_WEIGHT] * HIDDEN + [0.0] * HIDDEN + [FIRST_WEIGHT] * HIDDEN + [0.0]
        carried.update({f"meta.{i}": value for i, value in enumerate(first)} | {"meta.since": float(update)})
    network = torch.tensor([carried[f"meta.{i}"] for i in range(size)], dtype=torch.float64)
    if update - carried["meta.since"] >= every:
        slope = torch.tensor([carried.pop(f"meta.slope.{i}") for i in range(size)], dtype=torch.float64)
        network = network + rate * slope / carried.pop("meta.tuples")
        carried.update({f"meta.{i}": value for i, value in enumerate(network.tolist())})
        carried["meta.since"] = float(update)
    return network


def _collect(carried: Carried, network: torch.Tensor, scores: torch.Tensor) -> None:
    """Add the slopes of (n, 2) scores, offline and online, to those of earlier micro-batches. The network stays until
    its step, so their sum is the slope of all."""
    with torch.enable_grad():
        network = network.clone().requires_grad_(True)
        weight = _meta_weights(network, scores[:, 0])
        (slope,) = torch.autograd.grad((weight * scores[:, 0] + (1 - weight) * scores[:, 1]).sum(), network)
    for i, value in enumerate(slope.tolist()):
        carried[f"meta.slope.{i}"] = carried.get(f"meta.slope.{i}", 0.0) + value
    carried["meta.tuples"] = carried.get("meta.tuples", 0.0) + len(scores)
