"""Regularisers: terms of the loss other than the surrogate.

`estimators` estimate a KL divergence token by token, for tokens sampled from pi: (logps, ref_logps) -> (B, T). Their
value and their gradient estimate different things: the expected gradient of k1 is 0, and that of k3 belongs to the
other divergence. Multiplied by the ratio (`kl.importance_weighted`), each has the gradient of its value on policy.

`kl_scales` give a factor on a completion's KL, from the success rate of its prompt's lists: (P,) -> (P,).

`regularisers` are scalar terms of a micro-batch, to be minimised. Their weights are applied outside. Facts of one:

leaves_out: it covers the tokens that `entropy_quantile` leaves out of the surrogate;
start: a number from the run's first rollout (`rlbench.objective.pieces.Start`).
"""

import math
from collections.abc import Callable, Mapping

import torch

from rlbench.config.options import NonNegative, Positive, Share
from rlbench.objective.inputs import Course, LossInputs
from rlbench.objective.pieces import Start, estimators, kl_scales, regularisers
from rlbench.objective.ratios import on_tokens
from rlbench.objective.units import masked_mean, scatter_mean, unit_sizes


@estimators.piece
def k1(logps: torch.Tensor, ref_logps: torch.Tensor) -> torch.Tensor:
    """log pi - log pi_ref (Schulman 2020).

    Expectation: KL(pi || pi_ref). Expected gradient: 0.
    """
    return logps - ref_logps


@estimators.piece
def k2(logps: torch.Tensor, ref_logps: torch.Tensor) -> torch.Tensor:
    """(log pi - log pi_ref)^2 / 2 (Schulman 2020).

    Expectation: KL(pi || pi_ref) to second order. Expected gradient: that of KL(pi || pi_ref).
    """
    return (logps - ref_logps).square() / 2


@estimators.piece
def k3(logps: torch.Tensor, ref_logps: torch.Tensor) -> torch.Tensor:
    """exp(d) - d - 1 with d = log pi_ref - log pi, never negative (Schulman 2020).

    Expectation: KL(pi || pi_ref). Expected gradient: that of KL(pi_ref || pi).
    """
    d = ref_logps - logps
    return d.exp() - d - 1


@estimators.piece
def forward(logps: torch.Tensor, ref_logps: torch.Tensor) -> torch.Tensor:
    """d exp(d) - exp(d) + 1 with d = log pi_ref - log pi, never negative: k3 with the two policies exchanged.

    Expectation: KL(pi_ref || pi). Expected gradient: that of E_ref[d^2] / 2, which equals KL(pi_ref || pi) to second
    order.
    """
    d = ref_logps - logps
    return d * d.exp() - d.exp() + 1


@kl_scales.piece
def constant(solve_rate: torch.Tensor) -> torch.Tensor:
    """1 for every prompt: the coefficient is beta."""
    return torch.ones_like(solve_rate)


@kl_scales.piece
def by_difficulty(
    solve_rate: torch.Tensor,
    *,
    hard: NonNegative = 0.5,
    medium: NonNegative = 1.0,
    easy: NonNegative = 1.0,
    hard_to: Share = 0.3,
    medium_to: Share = 0.7,
) -> torch.Tensor:
    """A factor by the share of a prompt's lists that succeed: `hard` up to .3, `medium` up to .7, then `easy`.

    CLPO (arXiv 2509.25004) has these bounds, and halves the coefficient where it has rewritten a hard prompt. Adapted
    to lists: prompts are not rewritten, and every hard prompt gets half the coefficient.
    """
    levels = solve_rate.new_tensor([hard, medium, easy])
    return levels[(solve_rate > hard_to).long() + (solve_rate > medium_to).long()]


def entropy_mask(inputs: LossInputs, quantile: float) -> torch.Tensor:
    """(B, T) bool mask of the share `quantile` of tokens with the highest entropy in this micro-batch.

    Micro-batches of all processes count together. The 80/20 rule (arXiv 2506.01939, quantile .2), as TRL 1.16's
    top_entropy_quantile.
    """
    entropy, tokens = inputs.extras["entropy"].detach().float(), inputs.mask.bool()
    everywhere = inputs.course.gather(entropy[tokens])
    if not len(everywhere):
        return tokens
    return (entropy >= torch.quantile(everywhere, 1 - quantile)) & tokens


@regularisers.piece(needs=("entropy",))
def entropy_bonus(inputs: LossInputs) -> torch.Tensor:
    """Minus the mean entropy of the micro-batch's tokens (TRL 1.16's entropy_coef)."""
    entropy = on_tokens(inputs.extras["entropy"], inputs.mask)
    return -entropy.sum() / inputs.mask.sum().clamp(min=1)


def _peak_entropies(entropy: torch.Tensor, mask: torch.Tensor, quantile: float) -> torch.Tensor:
    """(B,) mean top-p entropy of each completion's tokens above its quantile; 0 if none is above."""
    entropy = on_tokens(entropy, mask)
    seen = entropy.detach().float().masked_fill(mask == 0, torch.nan)
    bound = torch.nanquantile(seen, quantile, dim=1, keepdim=True)
    return masked_mean(entropy, seen > bound)  # padding is NaN, which is never above the bound


def siren_anchor(
    values: Mapping[str, torch.Tensor],
    mask: torch.Tensor,
    gather: Callable[[torch.Tensor], torch.Tensor],
    *,
    quantile: Share = 0.8,
) -> float:
    """The entropy H of `siren` at the first rollout, over its completions on all processes."""
    return gather(_peak_entropies(values["top_p_entropy"].detach(), mask, quantile)).mean().item()


@regularisers.piece(needs=("top_p_entropy",), start=Start("siren/anchor", ("top_p_entropy",), siren_anchor))
def siren(inputs: LossInputs, *, quantile: Share = 0.8) -> torch.Tensor:
    """(H - anchor)^2, H the mean over completions of the mean top-p entropy of the tokens above its quantile.

    SIREN (arXiv 2509.25133), weight .005 there. The anchor is H over the whole first rollout, under the policy that
    wrote it. So the term acts from the first update: it pulls each micro-batch towards the batch. A completion whose
    tokens all have equal entropy has none above its quantile. It counts as 0; the published code divides 0 by 0.
    """
    h = _peak_entropies(inputs.extras["top_p_entropy"], inputs.mask, quantile).mean()
    return (h - inputs.course.carried["siren/anchor"]).square()


@regularisers.piece(needs=("demonstrations",))
def sft(inputs: LossInputs) -> torch.Tensor:
    """Minus the mean log-probability of demonstration tokens; each micro-batch draws as many demonstrations as it has
    completions (UniAPL, arXiv 2509.25148, whose weights are not published; inspired by).

    It uses the rollout's temperature. With temperature 1 it is the loss of the SFT stage.
    """
    mask = inputs.extras["demonstration_mask"]
    logps = on_tokens(inputs.extras["demonstration_logps"], mask)
    return -logps.sum() / mask.sum().clamp(min=1)


@regularisers.piece(needs=("demonstrations", "demonstration_reference"))
def unlearn(inputs: LossInputs) -> torch.Tensor:
    """Mean of -log sigmoid(log pi_ref - log pi) over demonstration tokens (FARL, arXiv 2509.24156, published code,
    weight .01 there): negative preference optimisation of what is memorised.

    FARL unlearns the right answer written at once, without reasoning, so that reward cannot come from memory. Adapted
    to lists: what is memorised are the demonstrations of the SFT stage. The reference is the policy after that stage.
    The term is log 2 at the start, and falls as the policy forgets. The published code alternates it with GRPO's
    update; here both are in one loss.
    """
    mask = inputs.extras["demonstration_mask"]
    moved = on_tokens(inputs.extras["demonstration_logps"], mask) - on_tokens(
        inputs.extras["demonstration_ref_logps"], mask
    )
    losses = torch.nn.functional.softplus(moved)
    return on_tokens(losses, mask).sum() / mask.sum().clamp(min=1)


@regularisers.piece(needs=("demonstrations",))
def adversarial(inputs: LossInputs, *, rate: Positive = 0.1) -> torch.Tensor:
    """Minus the mean over completions of log(2 D) mean log pi, D a discriminator's chance that a text is a
    demonstration (UniAPL's adversarial term, arXiv 2509.25148; inspired by: its form and weight are not published).

    The paper's discriminator is a large fixed model. Ours is a logistic regression on two numbers of a text: the mean
    log-probability of its tokens, and the logarithm of their number. It starts at D = 1/2, where the term has no
    gradient. After each update it makes one step with the texts of that update, of all processes.

    Args:
        rate: size of the discriminator's step.
    """
    course, mask = inputs.course, inputs.extras["demonstration_mask"]
    weights = _discriminator(course, rate).to(inputs.logps)
    mean_logps = masked_mean(on_tokens(inputs.logps, inputs.mask), inputs.mask)
    of_lists = _of_texts(mean_logps, inputs.mask)
    demonstrations = masked_mean(on_tokens(inputs.extras["demonstration_logps"], mask), mask)
    of_demonstrations = _of_texts(demonstrations, mask)
    chances = torch.nn.functional.logsigmoid(of_lists @ weights)
    wrong = [torch.sigmoid(of_lists @ weights), torch.sigmoid(of_demonstrations @ weights) - 1]
    slopes = torch.cat([wrong[0][:, None] * of_lists, wrong[1][:, None] * of_demonstrations])
    for k, column in enumerate(slopes.unbind(dim=1)):
        found = course.gather(column)
        course.carried[f"adversarial/slope/{k}"] += found.double().sum().item()
    course.carried["adversarial/texts"] += len(found)
    return -((chances + math.log(2)) * mean_logps).mean()


def _discriminator(course: Course, rate: float) -> torch.Tensor:
    """(3,) weights of the discriminator, after a step if an update has ended since the last call."""
    carried, of_texts = course.carried, range(3)
    if "adversarial/update" not in carried:
        carried |= {f"adversarial/{part}/{k}": 0.0 for part in ("weight", "slope") for k in of_texts}
        carried |= {"adversarial/texts": 0.0, "adversarial/update": float(course.update)}
    if carried["adversarial/update"] < course.update:
        step = rate / max(carried["adversarial/texts"], 1.0)
        for k in of_texts:
            carried[f"adversarial/weight/{k}"] -= step * carried[f"adversarial/slope/{k}"]
            carried[f"adversarial/slope/{k}"] = 0.0
        carried |= {"adversarial/texts": 0.0, "adversarial/update": float(course.update)}
    return torch.tensor([carried[f"adversarial/weight/{k}"] for k in of_texts], dtype=torch.float64)


def _of_texts(mean_logps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B, 3) what the discriminator reads: 1, the mean log-probability of the tokens, the logarithm of their number."""
    means = mean_logps.detach()
    return torch.stack([torch.ones_like(means), means, mask.sum(1).clamp(min=1).to(means).log()], dim=1)


@regularisers.piece(leaves_out=True)
def ntp(inputs: LossInputs) -> torch.Tensor:
    """Minus the mean log-probability of the completions' tokens that `entropy_quantile` leaves out of the surrogate
    (RMT, arXiv 2509.24375, weight .1; inspired by: read in notes)."""
    unused = inputs.extras["unused"]
    return -on_tokens(inputs.logps, unused).sum() / unused.sum().clamp(min=1)


@regularisers.piece
def calibration(inputs: LossInputs) -> torch.Tensor:
    """Binary cross-entropy between a completion's confidence c = exp(mean log pi) and whether it is correct.

    C2GSPG (arXiv 2509.23129), weight .01 there; read in the code of a descendant. extras: correct (B,) in [0, 1].
    """
    log_confidence = masked_mean(on_tokens(inputs.logps, inputs.mask), inputs.mask)
    return _cross_entropy(log_confidence, inputs.extras["correct"], inputs.mask.bool().any(1))


@regularisers.piece
def rank_calibration(inputs: LossInputs) -> torch.Tensor:
    """`calibration` for each rank: the confidence of an entry's tokens against its relevance; adapted to lists.

    The mean is over all ranks with tokens. extras: correct_ranks (B, N) in [0, 1].
    """
    logps, n, count = on_tokens(inputs.logps, inputs.mask), inputs.units.list_length, inputs.units.count
    log_confidence = scatter_mean(logps, inputs.unit_ids, inputs.mask, count)[:, :n]
    has_tokens = unit_sizes(inputs.unit_ids, inputs.mask, count)[:, :n] > 0
    return _cross_entropy(log_confidence, inputs.extras["correct_ranks"], has_tokens)


def _cross_entropy(log_confidence: torch.Tensor, correct: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Mean of -(y log c + (1 - y) log(1 - c)) over the counted; c is clamped to [1e-8, 1 - 1e-8], as in C2GSPG."""
    log_c = log_confidence.clamp(math.log(1e-8), -1e-8)
    log_not_c = torch.log(-torch.expm1(log_c))  # 1 - 1e-8 is 1 in float32
    correct = correct.to(log_c)
    losses = -(correct * log_c + (1 - correct) * log_not_c)
    return losses.masked_fill(~counted, 0.0).sum() / counted.sum().clamp(min=1)
