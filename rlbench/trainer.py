"""The only subclass of TRL's `GRPOTrainer`: three overrides, none of which knows which algorithm runs.

TRL keeps the rollout, the reference model, the buffering over iterations, accumulation and distribution. This class
adds units: it scores ranks, writes per-token advantages and unit ids into the batch, and hands the loss to an
`Objective`.
"""

import time
from collections import defaultdict
from typing import Any

import torch
from accelerate.utils import gather
from trl import GRPOTrainer

from rlbench.objective import LossInputs, Objective
from rlbench.objective.inputs import Window
from rlbench.objective.objective import Rollout
from rlbench.rewards.batch import RewardBatch
from rlbench.rewards.scorer import ListScorer

ZERO_VARIANCE = 1e-6  # above what GDPO's z-score over the batch leaves of units without signal


class RankedListTrainer(GRPOTrainer):
    """GRPO-family training on ranked lists.

    Args:
        objective: the algorithm.
        scorer: the reward function; also passed to TRL as its only one.
        **kwargs: as for `GRPOTrainer`, without `reward_funcs`.

    Attributes:
        spent: running totals of the budget: prompts, completions, generated_tokens, and seconds by phase.
    """

    def __init__(self, *, objective: Objective, scorer: ListScorer, **kwargs: Any):
        super().__init__(reward_funcs=[scorer], **kwargs)
        self.objective = objective
        self.scorer = scorer
        self.spent: dict[str, float] = defaultdict(float)
        self._gathered: RewardBatch | None = None

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        assert self.scorer.rewards is not None
        # Gathered for the same reason as TRL gathers rewards: a group may be spread over processes.
        self._gathered = self.scorer.rewards.map(lambda tensor: gather(tensor.to(self.accelerator.device)))
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        started = time.perf_counter()
        output = super()._generate_and_score_completions(inputs)
        rewards, lists = self._gathered, self.scorer.lists
        assert rewards is not None
        tokens = self.scorer.reader.segment(
            output["completion_ids"],
            output["completion_mask"],
            [scored.parsed.lines for scored in lists],
            self.objective.algorithm.layout,
        )
        output["unit_ids"] = self.objective.token_units(tokens)
        rollout = self._rollout(output, rewards)
        of_all = self.objective.unit_advantages(rollout, self.num_generations)
        first = self.accelerator.process_index * len(lists)
        mine = slice(first, first + len(lists))
        output["advantages"] = self.objective.token_advantages(of_all[mine], tokens)
        output["correct"] = rewards.success[mine].float()
        output["correct_ranks"] = rewards.hits[mine]

        self._log_rollout(of_all, rewards, torch.tensor([len(scored.parsed.films) for scored in lists]))
        self.spent["completions"] += len(of_all)
        self.spent["prompts"] += len(of_all) // self.num_generations
        self.spent["generated_tokens"] += output["num_items_in_batch"].item()
        self.spent["seconds_rollout"] += time.perf_counter() - started
        return output

    def _rollout(self, output: dict[str, Any], rewards: RewardBatch) -> Rollout:
        """What baselines may look at, gathered over processes."""
        mask = output["completion_mask"]
        logps = entropies = torch.zeros(mask.shape, device=mask.device)
        if "old_logps" in self.objective.needs:
            logps, entropies = self._score_rollout(output)
        return Rollout.of_tokens(
            rewards,
            output["unit_ids"],
            mask,
            logps,
            entropies,
            self.objective.units.count,
            self.state.global_step / self.args.max_steps,
            gather,
        )

    @torch.no_grad()
    def _score_rollout(self, output: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T) log-probabilities and entropies of the completions under the policy that wrote them."""
        logps, entropies, _ = self._get_per_token_logps_and_entropies(
            self.model,
            torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1),
            torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1),
            output["completion_ids"].size(1),
            batch_size=self.args.per_device_train_batch_size,
            compute_entropy=True,
        )
        return logps, entropies

    def _log_rollout(self, advantages: torch.Tensor, rewards: RewardBatch, n_entries: torch.Tensor) -> None:
        metrics = self._metrics["train"]
        groups = advantages.view(-1, self.num_generations, advantages.size(1))
        metrics["frac_zero_variance_units"].append((groups.abs().amax(1) < ZERO_VARIANCE).float().mean().item())
        metrics["advantage_std"].append(advantages.std().item())
        metrics["hits"].append(rewards.hits.sum(1).mean().item())
        metrics["success"].append(rewards.success.float().mean().item())
        metrics["list_length"].append(gather(n_entries.float().to(self.accelerator.device)).mean().item())
        if len(self.objective.reward.terms) > 1:
            totals = (rewards.gains.sum(2) + rewards.scores).mean(0).tolist()
            for name, value in zip(self.objective.reward.terms, totals, strict=True):
                metrics[f"term/{name}"].append(value)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        completion_ids, mask = inputs["completion_ids"], inputs["completion_mask"]
        logps, entropies, _ = self._get_per_token_logps_and_entropies(
            model,
            torch.cat([inputs["prompt_ids"], completion_ids], dim=1),
            torch.cat([inputs["prompt_mask"], mask], dim=1),
            completion_ids.size(1),
            compute_entropy=True,
        )
        # TRL leaves the old log-probabilities out where no update lies between rollout and loss; they are the current.
        old_logps = inputs["old_per_token_logps"] if "old_per_token_logps" in inputs else logps.detach()
        accumulation = self.current_gradient_accumulation_steps
        window = Window(
            accumulation_steps=accumulation,
            # TRL's count spans the whole generation batch; a window is `accumulation` of its micro-batches.
            tokens=inputs["num_items_in_batch"]
            * accumulation
            / self.args.steps_per_generation
            / self.accelerator.num_processes,
            max_completion_length=self.max_completion_length,
        )
        loss, stats = self.objective.loss(
            LossInputs(
                logps=logps,
                old_logps=old_logps,
                ref_logps=inputs.get("ref_per_token_logps"),
                advantages=inputs["advantages"],
                unit_ids=inputs["unit_ids"],
                mask=mask,
                units=self.objective.units,
                extras={
                    "entropy": entropies,
                    "correct": inputs["correct"],
                    "correct_ranks": inputs["correct_ranks"],
                },
            ),
            window,
        )
        stats["entropy"] = (entropies * mask).sum() / mask.sum().clamp(min=1)
        for name, value in stats.items():
            self._metrics["train"][name].append(self.accelerator.reduce(value.detach(), reduction="mean").item())
        return loss
