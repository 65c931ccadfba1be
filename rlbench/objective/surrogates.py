"""Surrogates: per-token losses from ratio and advantage.

A piece takes log_ratio (B, T), the log of each token's ratio, and returns a `Surrogate`. Below, w is the ratio, A the
advantage, and sg stops gradients. Facts of a piece:

clips: it has bounds, so `at_low` and `at_high` can be true;
uses_ratio: it uses log_ratio, so the choice of `ratio` matters;
needs_reference: it compares with the reference policy;
regression: it fits log-ratios to a target instead of following a policy gradient; default false;
vanishes: loss and gradient of a completion are 0 where all its advantages are 0, and those of the others do not depend
    on its log-probabilities; default false;
corrects_sampling: it applies `LossInputs.sampling_ratio` itself, token by token, so its loss is not multiplied by it;
    default false.

Options that bound a ratio from both sides have no default, because the scale depends on the ratio (.2 for a token, 3e-4
for a sequence).
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from rlbench.base.records import Values, is_finite
from rlbench.config.options import NonNegative, Positive, Share
from rlbench.objective.inputs import LossInputs
from rlbench.objective.pieces import surrogates
from rlbench.objective.ratios import on_tokens
from rlbench.objective.units import masked_mean

AboveOne = Annotated[float, Values("a finite number above 1", lambda value: is_finite(value) and value > 1)]


@dataclass(frozen=True)
class Surrogate:
    """Per-token losses, and the tokens on which a bound acts. All tensors are (B, T).

    Attributes:
        loss: the loss to minimise.
        at_low: bool, tokens whose gradient the lower bound stops.
        at_high: bool, tokens whose gradient the upper bound stops. `cispo`, `topr` and `sage` cap a weight and
            stop no gradient; there it marks the tokens whose weight is capped.
    """

    loss: torch.Tensor
    at_low: torch.Tensor
    at_high: torch.Tensor


def clip_shares(surrogate: Surrogate, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Shares of tokens on which the lower and the upper bound act; two scalars."""
    total = mask.sum().clamp(min=1)
    return (surrogate.at_low & mask.bool()).sum() / total, (surrogate.at_high & mask.bool()).sum() / total


def _unbounded(loss: torch.Tensor) -> Surrogate:
    nowhere = torch.zeros_like(loss, dtype=torch.bool)
    return Surrogate(loss, nowhere, nowhere)


def _logps(inputs: LossInputs) -> torch.Tensor:
    return on_tokens(inputs.logps, inputs.mask)


def _chosen(condition: torch.Tensor, yes: float, no: float, like: torch.Tensor) -> torch.Tensor:
    """One of two numbers, chosen by the condition, in the precision of `like`."""
    return torch.where(condition, like.new_full((), yes), like.new_full((), no))


@surrogates.piece(clips=True, uses_ratio=True, needs_reference=False, vanishes=True)
def clip(inputs: LossInputs, log_ratio: torch.Tensor, *, low: Positive, high: Positive) -> Surrogate:
    """-min(w A, clamp(w, 1 - low, 1 + high) A) (PPO, arXiv 1707.06347; two bounds as in DAPO, arXiv 2503.14476)."""
    ratio, advantages = log_ratio.exp(), inputs.advantages
    return Surrogate(
        loss=-torch.min(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages),
        at_low=(ratio < 1 - low) & (advantages < 0),
        at_high=(ratio > 1 + high) & (advantages > 0),
    )


@surrogates.piece(clips=True, uses_ratio=True, needs_reference=False, vanishes=True)
def clip_delta(
    inputs: LossInputs, log_ratio: torch.Tensor, *, low: Positive, high: Positive, delta: AboveOne = 4.0
) -> Surrogate:
    """-min(min(w, delta) A, clamp(w, 1 - low, 1 + high) A): the ratio is also bounded where A < 0.

    Two-sided clipping of INTELLECT-2 (arXiv 2505.07291), as TRL 1.16. With delta >= 1 + high it equals `dual_clip` with
    dual = delta.
    """
    ratio, advantages = log_ratio.exp(), inputs.advantages
    smaller, larger = min(1 + high, delta), max(1 + high, delta)
    return Surrogate(
        loss=-torch.min(ratio.clamp(max=delta) * advantages, ratio.clamp(1 - low, 1 + high) * advantages),
        at_low=(ratio < 1 - low) & (advantages < 0),
        at_high=((ratio > smaller) & (advantages > 0)) | ((ratio > larger) & (advantages < 0)),
    )


@surrogates.piece(clips=True, uses_ratio=True, needs_reference=False, vanishes=True)
def dual_clip(
    inputs: LossInputs, log_ratio: torch.Tensor, *, low: Positive, high: Positive, dual: AboveOne = 3.0
) -> Surrogate:
    """`clip`, with loss at most -dual A where A < 0 (dual-clip PPO, arXiv 1912.09729; dual = 3 there and in verl)."""
    clipped = clip(inputs, log_ratio, low=low, high=high)
    ratio, advantages = log_ratio.exp(), inputs.advantages
    return Surrogate(
        loss=torch.where(advantages < 0, torch.min(clipped.loss, -dual * advantages), clipped.loss),
        at_low=clipped.at_low,
        at_high=clipped.at_high | ((ratio > dual) & (advantages < 0)),
    )


@surrogates.piece(clips=True, uses_ratio=True, needs_reference=False, vanishes=True)
def cispo(inputs: LossInputs, log_ratio: torch.Tensor, *, high: Positive = 5.0) -> Surrogate:
    """-sg(min(w, high)) A log pi: caps weights and stops no gradient (CISPO, arXiv 2506.13585, as TRL 1.16).

    high is the bound itself, not its distance from 1. ScaleRL (arXiv 2510.13786) recommends 5.
    """
    ratio = log_ratio.exp().detach()
    loss = -ratio.clamp(max=high) * inputs.advantages * _logps(inputs)
    return Surrogate(loss, torch.zeros_like(ratio, dtype=torch.bool), (ratio > high) & (inputs.advantages != 0))


@surrogates.piece(clips=False, uses_ratio=True, needs_reference=False, vanishes=True)
def sapo(
    inputs: LossInputs, log_ratio: torch.Tensor, *, temperature_pos: Positive = 1.0, temperature_neg: Positive = 1.05
) -> Surrogate:
    """-4 / tau sigmoid(tau (w - 1)) A, a soft gate; tau depends on A's sign (SAPO, arXiv 2511.20347, as TRL 1.16)."""
    advantages = inputs.advantages
    tau = _chosen(advantages > 0, temperature_pos, temperature_neg, log_ratio)
    return _unbounded(-torch.sigmoid(tau * (log_ratio.exp() - 1)) * 4 / tau * advantages)


@surrogates.piece(clips=True, uses_ratio=True, needs_reference=False, vanishes=True)
def gmpo(inputs: LossInputs, log_ratio: torch.Tensor, *, low: Positive = 0.4, high: Positive = 0.4) -> Surrogate:
    """-A times the geometric mean over the completion of token ratios, each clipped in log space.

    GMPO (arXiv 2507.20673). With `sequence_mean` and one advantage per completion it is the loss of TRL 1.16's
    GMPOTrainer. If tokens have different advantages, each is clipped by the sign of its own advantage; that is ours.
    """
    advantages = inputs.advantages
    clipped = torch.where(advantages > 0, log_ratio.clamp(max=high), log_ratio.clamp(min=-low))
    return Surrogate(
        loss=-masked_mean(clipped, inputs.mask).exp().unsqueeze(1) * advantages,
        at_low=(log_ratio < -low) & (advantages < 0),
        at_high=(log_ratio > high) & (advantages > 0),
    )


@surrogates.piece(clips=False, uses_ratio=False, needs_reference=False, corrects_sampling=True, vanishes=True)
def vespo(
    inputs: LossInputs,
    log_ratio: torch.Tensor,
    *,
    k_pos: NonNegative = 2.0,
    lambda_pos: Positive = 3.0,
    k_neg: NonNegative = 3.0,
    lambda_neg: Positive = 2.0,
) -> Surrogate:
    """-sg(phi) A log pi, phi = e^lambda W^k e^(-lambda W), W the product of the completion's token ratios.

    VESPO (arXiv 2602.10693), as TRL 1.16: k and lambda depend on the sign of A, and log W is clamped. It uses token
    ratios whatever `ratio` is. If a separate engine sampled, W is relative to that engine's probabilities.
    """
    token_log_ratio = on_tokens(inputs.log_ratio.detach(), inputs.mask).clamp(-20.0, 20.0)
    log_weight = token_log_ratio.sum(1, keepdim=True)
    if inputs.sampling_ratio is not None:  # from the rollout policy to the engine that sampled
        from_engine = inputs.sampling_ratio.log().clamp(math.log(1e-8), 20.0)
        log_weight = log_weight + on_tokens(from_engine, inputs.mask).sum(1, keepdim=True)
    log_weight = log_weight.clamp(math.log(1e-8), 20.0)
    positive = inputs.advantages >= 0
    k, decay = _chosen(positive, k_pos, k_neg, log_weight), _chosen(positive, lambda_pos, lambda_neg, log_weight)
    phi = (decay + k * log_weight - decay * log_weight.exp()).exp()
    return _unbounded(-phi * inputs.advantages * _logps(inputs))


@surrogates.piece(clips=True, uses_ratio=True, needs_reference=False, vanishes=True)
def dppo_tv(
    inputs: LossInputs, log_ratio: torch.Tensor, *, threshold: Positive = 0.15, cap: Positive = 10_000.0
) -> Surrogate:
    """-sg(min(w, cap)) A log pi, but 0 for tokens with |p - p_old| > threshold that A would push further.

    DPPO (arXiv 2602.04879), binary total variation, as verl's `dppo_tv`. p is the probability of the sampled token.
    The numbers are from verl's example script, whose cap is meant never to be reached; verl's own default is 20.
    Ours: one threshold where verl has one for each side, and the weight uses the chosen `ratio`.
    """
    moved = _logps(inputs).detach().exp() - on_tokens(inputs.old_logps, inputs.mask).exp()
    return _masked_weight(inputs, log_ratio, moved, moved.abs() > threshold, cap)


@surrogates.piece(clips=True, uses_ratio=True, needs_reference=False, vanishes=True)
def dppo_kl(
    inputs: LossInputs, log_ratio: torch.Tensor, *, threshold: Positive = 0.05, cap: Positive = 10_000.0
) -> Surrogate:
    """As `dppo_tv`, for tokens whose Bernoulli distributions have KL(old || new) > threshold.

    DPPO (arXiv 2602.04879), binary KL, as verl's `dppo_kl`. For the numbers and for what is ours see `dppo_tv`.
    """
    logps, old_logps = _logps(inputs).detach(), on_tokens(inputs.old_logps, inputs.mask)
    p, old_p = logps.exp(), old_logps.exp()
    others = ((1 - old_p + 1e-8) / (1 - p + 1e-8)).log()  # 1e-8 as verl, for a token of probability 1
    divergence = old_p * (old_logps - logps) + (1 - old_p) * others
    return _masked_weight(inputs, log_ratio, p - old_p, divergence > threshold, cap)


def _masked_weight(
    inputs: LossInputs, log_ratio: torch.Tensor, moved: torch.Tensor, too_far: torch.Tensor, cap: float
) -> Surrogate:
    """-sg(min(w, cap)) A log pi, but 0 where `too_far` (B, T, bool) and A pushes further along `moved` (B, T)."""
    advantages = inputs.advantages
    at_low = too_far & (moved < 0) & (advantages < 0)
    at_high = too_far & (moved > 0) & (advantages > 0)
    weight = log_ratio.detach().exp().clamp(max=cap).masked_fill(at_low | at_high, 0.0)
    return Surrogate(-weight * advantages * _logps(inputs), at_low, at_high)


@surrogates.piece(clips=True, uses_ratio=True, needs_reference=False)
def clip_cov(
    inputs: LossInputs,
    log_ratio: torch.Tensor,
    *,
    low: Positive,
    high: Positive,
    share: Share = 2e-4,
    cov_low: float = 1.0,
    cov_high: float = 5.0,
) -> Surrogate:
    """`clip`, with loss 0 for a share of the unclipped tokens whose covariance lies between cov_low and cov_high.

    Clip-Cov (arXiv 2505.22617). The numbers and the minimum of one token are verl's. verl draws the tokens at random;
    here those with the largest covariance are taken, so that a run can be repeated. They count as `at_high`.
    """
    clipped = clip(inputs, log_ratio, low=low, high=high)
    covariance = _covariance(inputs)
    eligible = (covariance > cov_low) & (covariance < cov_high) & ~clipped.at_low & ~clipped.at_high
    chosen = _largest(covariance, eligible & inputs.mask.bool(), share, inputs.mask)
    return Surrogate(clipped.loss.masked_fill(chosen, 0.0), clipped.at_low, clipped.at_high | chosen)


@surrogates.piece(clips=False, uses_ratio=True, needs_reference=False)
def kl_cov(
    inputs: LossInputs, log_ratio: torch.Tensor, *, share: Share = 0.002, coefficient: NonNegative = 1.0
) -> Surrogate:
    """-w A, plus coefficient |log w| on the share of tokens with the largest covariance, at least one.

    KL-Cov (arXiv 2505.22617), with verl's penalty |log w|. The numbers are from the authors' recipe for 7B. Their
    recipe for 32B has share 2e-4, and verl's default configuration has share 2e-4 and coefficient .1.
    """
    chosen = _largest(_covariance(inputs), inputs.mask.bool(), share, inputs.mask)
    penalty = (coefficient * log_ratio.abs()).masked_fill(~chosen, 0.0)
    return _unbounded(penalty - log_ratio.exp() * inputs.advantages)


def _covariance(inputs: LossInputs) -> torch.Tensor:
    """(B, T) (A - mean A)(log pi - mean log pi), means over the micro-batch's tokens; 0 on padding, no gradient."""
    total = inputs.mask.sum().clamp(min=1)
    advantages, logps = on_tokens(inputs.advantages, inputs.mask), _logps(inputs).detach()
    covariance = (advantages - advantages.sum() / total) * (logps - logps.sum() / total)
    return on_tokens(covariance, inputs.mask)


def _largest(scores: torch.Tensor, eligible: torch.Tensor, share: float, mask: torch.Tensor) -> torch.Tensor:
    """(B, T) bool mask of the eligible tokens with the largest scores: `share` of all tokens, at least one. Ties go to
    earlier tokens."""
    count = (share * mask.sum()).floor().clamp(min=1)
    order = scores.masked_fill(~eligible, -torch.inf).flatten().argsort(descending=True, stable=True)
    return (order.argsort().view_as(scores) < count) & eligible


@surrogates.piece(clips=True, uses_ratio=True, needs_reference=False, vanishes=True)
def topr(inputs: LossInputs, log_ratio: torch.Tensor, *, split: Literal["score", "advantage"] = "score") -> Surrogate:
    """-A log pi for good lists, -sg(min(w, 1)) A log pi for bad ones (TOPR, arXiv 2503.14286).

    w is the product over the completion in the paper, and the token's ratio in ROLL (`ratio: token`).

    Args:
        split: which lists are good. score: those with a reward above 0 (ROLL), whatever the advantage. advantage: those
            with an advantage of at least 0.
    """
    ratio, advantages = log_ratio.exp().detach(), inputs.advantages
    bad = advantages < 0 if split == "advantage" else (inputs.extras["score"] <= 0)[:, None].expand_as(ratio)
    weight = torch.where(bad, ratio.clamp(max=1.0), 1.0)
    nowhere = torch.zeros_like(ratio, dtype=torch.bool)
    return Surrogate(-weight * advantages * _logps(inputs), nowhere, (ratio > 1) & bad & (advantages != 0))


@surrogates.piece(clips=True, uses_ratio=False, needs_reference=True)
def humanline(
    inputs: LossInputs,
    log_ratio: torch.Tensor,
    *,
    log_epsilon_p: float = -1.0,
    log_epsilon_r: float = 1.5,
    low: Positive = 0.15,
    high: Positive = 0.15,
) -> Surrogate:
    """`clip` of w = exp(clamp(log pi - log pi_ref, log_epsilon_p, log_epsilon_r)) (Humanline, arXiv 2509.24207).

    There is no gradient outside the clamp, whatever the sign of A. The numbers are from the published code, which clips
    at .15 when lists are sampled during training. Its default of .01 is for lists sampled beforehand. Intended for a
    reference that follows the policy.
    """
    assert inputs.ref_logps is not None
    distance = on_tokens(inputs.logps - inputs.ref_logps, inputs.mask)
    clipped = clip(inputs, distance.clamp(log_epsilon_p, log_epsilon_r), low=low, high=high)
    pushed = inputs.advantages != 0
    return Surrogate(
        loss=clipped.loss,
        at_low=clipped.at_low | ((distance < log_epsilon_p) & pushed),
        at_high=clipped.at_high | ((distance > log_epsilon_r) & pushed),
    )


@surrogates.piece(
    needs=("old_logps", "mean_logps", "old_mean_logps"),
    clips=False,
    uses_ratio=False,
    needs_reference=False,
    regression=True,
)
def rover(inputs: LossInputs, log_ratio: torch.Tensor, *, rho: Positive = 1.0) -> Surrogate:
    """(Q_t - sg(target_t))^2, Q_t = rho (log pi - log pi_old), target_t = A_t + V_{t+1} (ROVER, arXiv 2509.24981).

    V is the value of the next state under the uniform policy: rho times the mean over the vocabulary of
    log pi - log pi_old at the next position, and 0 after the last token. Intended for centred returns that are not
    divided by a standard deviation.
    """
    q = rho * on_tokens(inputs.log_ratio, inputs.mask)
    means = inputs.extras["mean_logps"] - inputs.extras["old_mean_logps"]
    value = rho * on_tokens(means, inputs.mask)
    following = torch.nn.functional.pad(value[:, 1:], (0, 1))
    return _unbounded((q - (inputs.advantages + following).detach()).square())


@surrogates.piece(needs=("entropy",), clips=True, uses_ratio=True, needs_reference=False, vanishes=True)
def sage(
    inputs: LossInputs, log_ratio: torch.Tensor, *, boost: NonNegative = 0.5, penalty: NonNegative = 0.5
) -> Surrogate:
    """-sg(v) A log pi with bounds that differ by the sign of A (SAGE, arXiv 2601.21452; inspired by: abstract only).

    A >= 0: v = min(w, 1) (1 + boost (1 - c)), c = exp(mean log pi) the completion's confidence. Unlikely good lists
    are learned faster; the abstract says that rare positive signals get a boost. A < 0: v = min(w, c / (1 - c))
    (1 + penalty exp(-H)), H the mean entropy of the completion's tokens. Failures of low diversity are pushed away
    more. With boost = penalty = 0 these are the bounds of GBPO (OneRec-V2, from memory) for whole lists. The forms of
    both factors are ours. Intended for a sequence ratio, and for rewards whose terms are normalised one by one.
    """
    weight, advantages = log_ratio.exp().detach(), inputs.advantages
    confidence = masked_mean(_logps(inputs).detach(), inputs.mask).exp().clamp(max=1 - 1e-6)[:, None]
    entropy = masked_mean(on_tokens(inputs.extras["entropy"].detach(), inputs.mask), inputs.mask)[:, None]
    bound = torch.where(advantages < 0, confidence / (1 - confidence), 1.0)
    factor = torch.where(advantages < 0, 1 + penalty * (-entropy).exp(), 1 + boost * (1 - confidence))
    loss = -torch.minimum(weight, bound) * factor * advantages * _logps(inputs)
    return Surrogate(loss, torch.zeros_like(weight, dtype=torch.bool), (weight > bound) & (advantages != 0))


@surrogates.piece(clips=False, uses_ratio=True, needs_reference=False, regression=True)
def dro(inputs: LossInputs, log_ratio: torch.Tensor, *, beta: Positive = 0.1) -> Surrogate:
    """-(A log pi - beta / 2 (log w)^2), a quadratic penalty in place of a bound (DRO, arXiv 2405.19107, as verl's
    `dro`).

    Its gradient is that of beta / 2 (log w - A / beta)^2, so it fits log-ratios to advantages. The paper compares with
    the reference, verl with the rollout policy. Intended for centred returns that are not divided by a standard
    deviation: the paper's A is R minus a learned value.

    Args:
        beta: the paper's tau. .1 is the default of a loss that follows verl's; verl requires a choice.
    """
    return _unbounded(beta / 2 * log_ratio.square() - inputs.advantages * _logps(inputs))


@surrogates.piece(clips=False, uses_ratio=False, needs_reference=False, vanishes=True)
def reinforce(inputs: LossInputs, log_ratio: torch.Tensor) -> Surrogate:
    """-A log pi (Williams 1992)."""
    return _unbounded(-inputs.advantages * _logps(inputs))


@surrogates.piece(clips=False, uses_ratio=False, needs_reference=False, vanishes=True)
def log_confidence(inputs: LossInputs, log_ratio: torch.Tensor) -> Surrogate:
    """-A log c, c = exp(mean log pi) the completion's confidence (C2GSPG, arXiv 2509.23129).

    Per token it equals `reinforce`; `sequence_mean` turns it into the mean log-probability.
    """
    return reinforce(inputs, log_ratio)
