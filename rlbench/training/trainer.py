"""The only subclass of TRL's `GRPOTrainer`. It has few overrides, and none knows which algorithm runs.

TRL keeps the rollout, the reference model, the buffering over iterations, accumulation and distribution. This class
makes rollout engines reproducible (`rlbench.training.engines`) and adds units. It scores ranks, writes per-token
advantages and unit ids into the batch, and passes the loss to an `Objective`, with the inputs that the objective's
pieces request.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather, gather_object
from numpy.typing import NDArray
from trl import GRPOTrainer
from trl.trainer.utils import split_tensor_dict

from rlbench.base.digests import own_digest
from rlbench.config.schema import GenerationConfig, RolloutConfig, SamplerConfig
from rlbench.lists.reader import TokenUnits
from rlbench.models.adapters import causal, in_float32, merged
from rlbench.models.batches import Completions
from rlbench.models.completing import Completion, ListEnd, entropies
from rlbench.models.constraint import Allowed, Walk, constraint_of
from rlbench.models.loading import fix_positions
from rlbench.models.shared_prompt import TokenScores
from rlbench.objective import Course, LossInputs, Objective
from rlbench.objective.effective_rank import rank_features
from rlbench.objective.forward import HiddenStates
from rlbench.objective.inputs import Carried, Window
from rlbench.objective.objective import Rollout, RolloutTokens
from rlbench.rewards.batch import RewardBatch
from rlbench.rewards.scorer import ListScorer
from rlbench.runs.budget import Ledger
from rlbench.sampling.history import Moment
from rlbench.sampling.members import TreeLevel
from rlbench.training.asking import TrainerPolicy
from rlbench.training.collecting import Collected, Collector, level_of_tokens
from rlbench.training.demonstrations import Demonstrations
from rlbench.training.engines import (
    exact_sync,
    lists_of_shared_prompts,
    prepared_engine,
    repeatable_batches,
    seeded_requests,
)
from rlbench.training.measures import rollout_measures
from rlbench.training.metered import Metered
from rlbench.training.rollout_log import RolloutLog
from rlbench.training.scoring import (
    Batching,
    SharedPasses,
    agreement,
    at_least,
    cuts_by_tokens,
    even_cuts,
    held_scores,
    pad_rows,
    reasons_of_training,
    shared_passes,
    shuffled_groups,
    taken,
)

RETUNED = ("temperature", "top_p", "top_k", "min_p", "max_new_tokens")
"""Settings of decoding that may change during training."""
ZERO_VARIANCE = 1e-6  # above the residue of GDPO's z-score over the batch for units without signal


class RankedListTrainer(Metered, GRPOTrainer):
    """GRPO-family training on ranked lists.

    Args:
        objective: the algorithm.
        scorer: the reward; TRL gets its functions.
        demonstrations: source of demonstration batches, for an objective that needs them.
        batching: how completions become forward passes.
        ledger: records the run's spending; by default a new one.
        rollout_log: records sampled groups; None to record none.
        generation: how rollouts are drawn: `prefill`, `stop_after_list`, `constraint` and `exclude`.
        collector: chooses prompts and draws their groups; None takes them as TRL does.
        **kwargs: as for `GRPOTrainer`, without `reward_funcs`.

    Attributes:
        ledger: records the run's spending.
        carried: numbers that the objective's pieces carry from update to update.
        epochs_done: finished epochs of prompts before the checkpoint from which the run resumes.

    Raises:
        BadInput: the objective needs scalars of a model that changes logits after its LM head, or rollouts cannot be
            held to the catalogue.
        ValueError: the objective needs demonstrations and there are none.
    """

    _buffered_inputs: Any
    temperature: float

    def __init__(
        self,
        *,
        objective: Objective,
        scorer: ListScorer,
        demonstrations: Demonstrations | None = None,
        batching: Batching | None = None,
        ledger: Ledger | None = None,
        rollout_log: RolloutLog | None = None,
        generation: GenerationConfig,
        collector: Collector | None = None,
        **kwargs: Any,
    ):
        with prepared_engine(kwargs["args"], generation.prefill == "shared"):
            super().__init__(reward_funcs=scorer.functions, **kwargs)
        in_float32(self.model)
        if self.ref_model is not None:  # made by TRL
            fix_positions(self.accelerator.unwrap_model(self.ref_model))
        if self.use_vllm:
            unwrapped = self.accelerator.unwrap_model(self.model)
            self.vllm_generation.sync_weights = exact_sync(self.vllm_generation.sync_weights, unwrapped)
        if self.use_vllm and self.vllm_mode == "server" and self.accelerator.is_main_process:
            client = self.vllm_generation.vllm_client
            client.generate = seeded_requests(client.generate, self.args.seed, lambda: self.state.global_step)
        if "demonstrations" in objective.needs and demonstrations is None:
            raise ValueError("the objective needs demonstrations")
        self.objective = objective
        self.scorer = scorer
        scorer.policy = TrainerPolicy(self)
        scorer.make_reward_model(self.args.seed)
        self.demonstrations = demonstrations
        self.batching = batching or Batching()
        self.ledger = ledger or Ledger()
        self.rollout_log = rollout_log
        self.prefill = generation.prefill
        self.collector = collector
        reader, self.list_end = scorer.reader, None
        if generation.stop_after_list:
            self.list_end = ListEnd(reader.newlines_per_token, reader.units.list_length, scorer.has_all_ranks)
        self.constraint = constraint_of(generation, reader, scorer.judge)
        self.carried: Carried = {}
        self.epochs_done = 0
        self._gathered: RewardBatch | None = None
        # Of the latest rollout:
        self._excluded: NDArray[np.bool_] | None = None  # lines that each list may not have
        self._allowed: Allowed | None = None  # tokens that could be drawn
        self._entropies: list[list[float]] | None = None  # at its tokens, where recorded
        self._order: torch.Tensor | None = None  # in which updates forward its completions
        self._collected: Collected | None = None  # its groups, if there is a collector
        asks = "hidden_states" in objective.needs or objective.scalars or objective.scalars_at_rollout({})
        self._states = HiddenStates(causal(kwargs["model"]), self.temperature) if asks else None
        self._shared = self._shared_passes()

    def _shared_passes(self) -> SharedPasses | None:
        unwrap, args = self.accelerator.unwrap_model, self.args
        return shared_passes(
            self.batching.share_prompts,
            [unwrap(model) for model in (self.model, self.ref_model) if model is not None],
            reasons_of_training(self),
            temperature=self.temperature,
            recompute=args.gradient_checkpointing,
            autocast=self.accelerator.autocast,
            agreed=agreement(self),
        )

    def retune(
        self, objective: Objective, generation: GenerationConfig, sampler: SamplerConfig, rollout: RolloutConfig
    ) -> None:
        """Take other numbers of the same algorithm, reward, decoding, sampler and rollout, for the next rollout.

        Args:
            objective: with the algorithm and the reward.
            generation: how rollouts are drawn.
            sampler: which prompts train.
            rollout: how members of a group are drawn.
        """
        self.objective, self.scorer.reward = objective, objective.reward
        decoding = {name: getattr(generation, name) for name in RETUNED}
        self.generation_config.update(**decoding)
        self.max_completion_length = generation.max_new_tokens
        if generation.temperature != self.temperature:
            self.temperature = generation.temperature
            self._shared = self._shared_passes()
            if self._states is not None:
                self._states.temperature = generation.temperature
        if self.collector is not None:
            self.collector.choose(sampler, rollout)

    def log_number(self, name: str, value: float) -> None:
        """Log a number with the metrics of the next update."""
        self._metrics["train"][name].append(value)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        first = self.accelerator.process_index * len(prompts)
        own = self.scorer.batch(rewards[first : first + len(prompts)], completion_ids_list)
        # Gathered for the same reason as TRL gathers rewards: a group may be spread over processes.
        self._gathered = own.map(lambda tensor: gather(tensor.to(self.accelerator.device)))
        return rewards

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        # A resumed run has a new sampler. Without these draws TRL's generator would repeat the first epoch's order.
        sampler = super()._get_train_sampler(dataset)
        for _ in range(self.epochs_done):
            torch.randperm(sampler.num_samples, generator=sampler.generator)
        return sampler

    def _generate(self, prompts: list[Any]) -> Any:
        with self.ledger.phase("rollout"):
            return super()._generate(prompts)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **others: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """TRL's entry to a pass: under the rollout's policy or the reference, without gradients."""
        batch = Completions.split(input_ids, attention_mask, logits_to_keep)
        batch = replace(batch, allowed=self._allowed_tokens(batch.completion_ids, batch.completion_mask))
        scores = self._pass_of_rollout(model, batch, wants_entropy=compute_entropy)
        return scores.logps, scores.entropies, None

    def _allowed_tokens(self, ids: torch.Tensor, mask: torch.Tensor) -> Allowed | None:
        """The tokens that could be drawn at each position of the latest rollout; None for the whole vocabulary.

        Args:
            ids: (B, T) the tokens that were drawn.
            mask: (B, T) 1 at these tokens.
        """
        if self.constraint is not None and self._allowed is None:
            self._allowed = self.constraint.followed(ids, mask, self._excluded)
        return self._allowed

    def _completions(self, batch: Mapping[str, Any]) -> Completions:
        """The completions of TRL's dictionary."""
        found = Completions.of(batch)
        if self.constraint is None:
            return found
        allowed = Allowed(self.constraint.options, batch["allowed_choices"], batch["closed_tokens"])
        return replace(found, allowed=allowed)

    def _pass_of_rollout(self, model: Any, batch: Completions, **wanted: bool) -> TokenScores:
        """Run the policy or its reference over all completions of a rollout, in the micro-batches of the updates.

        Rounding depends on which completions are forwarded together. In the same micro-batches, an unchanged policy
        gets exactly the same scores again: ratios are 1, and its distance from an equal reference is 0. In others,
        bfloat16 scores would differ by more than GSPO's clipping range.

        Args:
            model: possibly wrapped.
            batch: the completions, as generated.
            **wanted: as for `_pass`.
        """
        order = self._order_of_updates(len(batch))
        ordered = batch[order]
        return self._pass(model, ordered, cuts=self._cuts(ordered), **wanted)[order.argsort()]

    def _order_of_updates(self, rows: int) -> torch.Tensor:
        """(B,) order in which updates forward the completions of the latest rollout. Drawn at the first call."""
        if self._order is None:
            first = self.accelerator.process_index * rows
            groups = self.batching.shuffle == "groups"
            self._order = shuffled_groups(rows, self.num_generations, first) if groups else torch.randperm(rows)
        return self._order

    def _cuts(self, batch: Completions) -> list[slice]:
        """Micro-batches of this process's completions, in the order of updates.

        All processes make equal numbers of them, because passes of sharded weights are collective.
        """
        if self.batching.micro_batch_tokens is None:
            return even_cuts(len(batch), self.args.per_device_train_batch_size)
        own = cuts_by_tokens(batch, self.batching.micro_batch_tokens)
        return at_least(own, int(gather(torch.tensor([len(own)], device=batch.prompt_ids.device)).max()))

    def _pass(
        self,
        model: Any,
        batch: Completions,
        *,
        cuts: Sequence[slice] | None = None,
        wants_entropy: bool = False,
        wants_hidden: bool = False,
    ) -> TokenScores:
        """Run the policy or its reference over completions.

        Args:
            model: possibly wrapped.
            batch: the completions.
            cuts: which completions to forward together; None for all.
            wants_entropy: whether to compute entropies.
            wants_hidden: whether to return hidden states.
        """
        self._count_pass(batch.prompt_ids, batch.prompt_mask, batch.completion_mask)
        timed = nullcontext() if torch.is_grad_enabled() else self.ledger.phase("reference")
        with timed:
            cuts = cuts or even_cuts(len(batch), None)
            if self._shared is None:
                return TokenScores.joined([self._plain_pass(model, batch[cut], wants_hidden) for cut in cuts])
            return self._shared.scores(model, batch, cuts, wants_entropy=wants_entropy, wants_hidden=wants_hidden)

    def own_pass(self, batch: Completions) -> TokenScores:
        """Run the policy over any completions, without gradients and on this process alone."""
        with torch.no_grad():
            return self._pass(self.accelerator.unwrap_model(self.model), batch, cuts=self.own_cuts(batch))

    def own_cuts(self, batch: Completions) -> list[slice]:
        """Micro-batches of any completions of this process alone."""
        tokens, size = self.batching.micro_batch_tokens, self.args.per_device_train_batch_size
        return even_cuts(len(batch), size) if tokens is None else cuts_by_tokens(batch, tokens)

    def count_asked(self, batch: Completions, passes: int) -> None:
        """Count passes with a backward pass that train nothing: each as three passes of a reference."""
        with torch.no_grad():
            self._count_pass(batch.prompt_ids, batch.prompt_mask, batch.completion_mask, times=3 * passes)

    def _plain_pass(self, model: Any, batch: Completions, wants_hidden: bool) -> TokenScores:
        """TRL's pass. Its head for the reference gives no entropies, and always gives them for the policy."""
        length = batch.completion_ids.size(1)
        states = self._states if wants_hidden else None
        catching: AbstractContextManager[list[torch.Tensor]] = nullcontext([]) if states is None else states.caught()
        with catching as found:
            if batch.allowed is not None:
                scores = held_scores(model, batch, self.temperature)
            else:
                is_policy = model is not self.ref_model
                logps, entropies, _ = super()._get_per_token_logps_and_entropies(
                    model, *batch.joined(), length, compute_entropy=is_policy
                )
                scores = TokenScores(logps, entropies, None)
        return scores if states is None else replace(scores, hidden=states.around_tokens(found, length))

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """TRL's, with an order that other passes know. With shuffled groups, a prompt's completions stay together."""
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        parts = self.args.steps_per_generation
        if self._step % (parts * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            order = self._order_of_updates(len(batch["completion_ids"]))
            self._buffered_inputs = split_tensor_dict(taken(batch, order), parts)
        return self._buffered_inputs[self._step % parts]

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        if self._collected is not None:
            mine = self._collected.members[self._own_rows(len(prompt_ids))]
            recorded = [member.recorded for member in mine]
            self._entropies = recorded if self.objective.skips_idle and all(recorded) else None
            return [member.ids for member in mine], None
        if self.use_vllm:
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        policy = self.accelerator.unwrap_model(self.model)
        if self.use_transformers_continuous_batching:
            with merged(policy), repeatable_batches(policy, self.prefill == "shared"):
                return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        if self.prefill == "repeated":
            with merged(policy):
                return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        walk = None
        if self.constraint is not None:
            walk = self.constraint.start(len(prompt_ids), self._excluded, self.accelerator.device)
        found = self.lists(prompt_ids, self.list_end, walk)
        self._entropies = [row.recorded for row in found] if self.objective.skips_idle else None
        return [row.ids for row in found], None

    def prompt_ids(self, rows: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        """Token ids of the prompts of rows."""
        found: list[list[int]] = self._tokenize_prompts([row["prompt"] for row in rows])[0]
        return found

    def walk(self, rows: Sequence[Mapping[str, Any]]) -> Walk | None:
        """The beginning of a list for each row, if lists are held to the catalogue."""
        if self.constraint is None:
            return None
        excluded = self.constraint.excluded([row["seen_titles"] for row in rows])
        return self.constraint.start(len(rows), excluded, self.accelerator.device)

    def lists(
        self,
        prompt_ids: Sequence[Sequence[int]],
        end: ListEnd | None,
        walk: Walk | None,
        written: Sequence[int] | None = None,
    ) -> list[Completion]:
        """Lists of prompts, under the present policy.

        Args:
            prompt_ids: token ids of the prompts.
            end: what ends a list besides EOS and the limit; None for nothing.
            walk: what each list is held to, at its beginning; None for free lists.
            written: number of tokens at the end of each prompt that begin its list; None for none.
        """
        records = self.objective.skips_idle or (self.collector is not None and self.collector.records_entropy)
        record = partial(entropies, temperature=self.temperature) if records else None
        with merged(self.accelerator.unwrap_model(self.model)):
            return lists_of_shared_prompts(self, prompt_ids, end, record, walk, written)

    def _own_rows(self, count: int) -> slice:
        """This process's rows among those of all, of which each process has `count`."""
        first = self.accelerator.process_index * count
        return slice(first, first + count)

    def _collect(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Choose prompts and draw their groups. Returns this process's rows, one per completion.

        Args:
            inputs: this process's rows in the order of the epoch.
        """
        assert self.collector is not None
        offered = [row["place"] for row in inputs[:: self.num_generations]]
        everywhere = gather_object(offered) if self.accelerator.num_processes > 1 else offered
        step = self.state.global_step
        self._collected = self.collector.collect(Moment(step, step / self.args.max_steps), everywhere, self)
        prompts = zip(self._collected.prompts, self._collected.rows, strict=True)
        rows = [made or self.collector.dataset[prompt] for prompt, made in prompts]
        return [row for row in rows for _ in range(self.num_generations)][self._own_rows(len(inputs))]

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        with self.ledger.phase("reward"):
            return self._make_batch(inputs)

    def _make_batch(self, inputs: Any) -> dict[str, Any]:
        """TRL's batch plus the objective's inputs."""
        self._allowed = self._order = self._collected = None
        if self.collector is not None:
            inputs = self._collect(inputs)
        if self.constraint is not None:
            self._excluded = self.constraint.excluded([row["seen_titles"] for row in inputs])
        output = super()._generate_and_score_completions(inputs)
        allowed = self._allowed_tokens(output["completion_ids"], output["completion_mask"])
        if allowed is not None:
            output["allowed_choices"], output["closed_tokens"] = allowed.choices, allowed.closed
        output["mode"], output["segment"] = self._parts(output["completion_mask"])
        if self._collected is not None:
            self._set_behaviour(output, self._collected)
        self._count_pass(output["prompt_ids"], output["prompt_mask"], output["completion_mask"], rollout=True)
        rewards, lists = self._gathered, self.scorer.lists
        assert rewards is not None
        tokens = self.scorer.reader.segment(
            output["completion_ids"],
            output["completion_mask"],
            [scored.parsed.lines for scored in lists],
            self.objective.algorithm.layout,
        )
        units = self.objective.token_units(tokens)
        output["unit_ids"] = units.unit_ids
        rollout = self._rollout(output, rewards, self._prompt_names(inputs))
        of_all = self.objective.unit_advantages(rollout, self.num_generations)
        n_units = gather(units.n_units.to(of_all.device))
        spread = self.objective.spread_advantages(of_all, n_units)
        mine = self._own_rows(len(lists))
        output["advantages"] = self.objective.token_advantages(spread[mine], units)
        if self.collector is not None and self.collector.levels:
            output["advantages"] = self._advantages_of_levels(rollout, units, n_units, self.collector.levels)
        output["correct"] = rewards.success[mine].float()
        output["score"] = rewards.totals[mine]
        output["correct_ranks"] = rewards.hits[mine]
        output["kl_scale"] = self.objective.kl_scales(rewards.success, self.num_generations)[mine]
        if self._entropies is not None and "old_per_token_logps" not in output:
            output["rollout_entropies"] = pad_rows(self._entropies, output["advantages"])
            self._entropies = None

        returns = self.objective.rank_returns(rewards, self.num_generations)
        self._log_rollout(of_all, spread, returns, rollout)
        step = self.state.global_step
        if self.rollout_log is not None and self.accelerator.is_main_process and self.rollout_log.is_due(step):
            group = slice(min(self.num_generations, len(lists)))
            ranks = spread[group, : returns.size(1)]
            self.rollout_log.add(step, inputs[0], lists[group], returns[group], rewards.totals[group], ranks)
        if compared := self.scorer.comparisons():
            self.scorer.learn(gather_object(compared) if self.accelerator.num_processes > 1 else compared, step)
        self.ledger.add(
            completions=len(of_all),
            prompts=len(of_all) // self.num_generations,
            generated_tokens=self._collected.spent.tokens if self._collected else int(output["num_items_in_batch"]),
        )
        return output

    def _parts(self, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B,) mode of each completion, and (B, T) segment of each token (`rlbench.sampling.members`)."""
        modes, segments = torch.zeros_like(mask[:, 0]), torch.zeros_like(mask)
        if self._collected is not None:
            mine = self._collected.members[self._own_rows(len(mask))]
            for row, member in enumerate(mine):
                modes[row] = member.mode
                segments[row, : len(member.segments)] = torch.tensor(member.segments).to(segments)
        return modes, segments

    def _set_behaviour(self, output: dict[str, Any], collected: Collected) -> None:
        """Put the log-probabilities under the policies that drew the lists into the batch, where they are needed."""
        assert self.collector is not None
        sampler = self.collector.sampler
        keeps = sampler.capacity > 0 or sampler.successes > 0
        stale = any(member.behaviour is not None for member in collected.members)
        if keeps or stale:
            mask = output["completion_mask"]
            if "old_per_token_logps" not in output:
                with torch.no_grad():
                    passed = self._pass_of_rollout(self.model, self._completions(output))
                output["old_per_token_logps"] = passed.logps
            logps = output["old_per_token_logps"]
            mine = collected.members[self._own_rows(len(mask))]
            for row, member in enumerate(mine):
                if member.behaviour is not None:
                    logps[row, : len(member.ids)] = torch.tensor(member.behaviour).to(logps)
            if keeps:
                own = [row[: len(m.ids)] for row, m in zip(logps.tolist(), mine, strict=True)]
                everywhere = gather_object(own) if self.accelerator.num_processes > 1 else own
                self.collector.remember(collected, everywhere)
        metrics, spent = self._metrics["train"], collected.spent
        metrics["groups_refused"].append(spent.refused / max(spent.groups, 1))
        metrics["groups_refused_used"].append(spent.refused_used / len(collected.groups))
        metrics["members_edited"].append(sum(m.edited for m in collected.members) / len(collected.members))
        metrics["groups_replayed"].append(collected.replayed / len(collected.groups))
        metrics["prompts_without_weight"].append(spent.without_weight / max(spent.groups, 1))
        if spent.asked:
            metrics["experts_silent"].append(spent.silent / spent.asked)
        if sampler.make != "none":
            metrics["prompts_made"].append(sum(row is not None for row in collected.rows) / len(collected.rows))
        if sampler.successes:
            fresh = collected.groups[: len(collected.groups) - collected.replayed]
            kept = sum(member.behaviour is not None for group in fresh for member in group)
            metrics["members_kept"].append(kept / len(collected.members))

    def _advantages_of_levels(
        self, rollout: Rollout, units: TokenUnits, n_units: torch.Tensor, levels: Sequence[TreeLevel]
    ) -> torch.Tensor:
        """(B, T) advantages of this process's tokens, whose beginnings are shared by members of a group."""
        mine = self._own_rows(len(units.unit_ids))
        of_levels = []
        for level in levels:
            credited = self.objective.unit_advantages(rollout, self.num_generations, level.leaves, level.compared)
            spread = self.objective.spread_advantages(credited, n_units)
            of_levels.append(self.objective.token_advantages(spread[mine], units))
        level_ids = level_of_tokens(units.unit_ids, self.objective.units.list_length, levels)
        return torch.stack(of_levels).gather(0, level_ids[None]).squeeze(0)

    def _prompt_names(self, inputs: Sequence[Mapping[str, Any]]) -> list[str]:
        """(P,) names of the prompts of all processes; empty if no piece needs them."""
        if "prompts" not in self.objective.needs:
            return []
        own = [own_digest({"prompt": row["prompt"]})[:16] for row in inputs]
        every: list[str] = gather_object(own) if self.accelerator.num_processes > 1 else own
        return every[:: self.num_generations]

    def _rollout(self, output: dict[str, Any], rewards: RewardBatch, prompts: Sequence[str]) -> Rollout:
        """The inputs of baselines, gathered over processes. Also puts the rollout's scalars into the batch."""
        mask, needs = output["completion_mask"], self.objective.needs
        logps = entropies = torch.zeros(mask.shape, device=mask.device)
        square_sums = divergences = None
        features: dict[str, torch.Tensor] = {}
        of_tokens, hidden = self.objective.scalars_at_rollout(self.carried), "hidden_states" in needs
        if {"old_logps", "divergence"} & needs or of_tokens or hidden:
            with torch.no_grad():
                scores = self._pass_of_rollout(
                    self.model, self._completions(output), wants_entropy=True, wants_hidden=hidden or bool(of_tokens)
                )
                scalars = self._scalars(scores.hidden, of_tokens)
            assert scores.entropies is not None
            logps, entropies = scores.logps, scores.entropies
            square_sums = scalars.get("square_sum")
            if "divergence" in needs:
                divergences = logps - output["ref_per_token_logps"]
            output |= {f"old_{name}": scalars[name] for name in self.objective.rollout_scalars}
            self.objective.begin(scalars, mask, self.carried, gather)
            if hidden:
                assert scores.hidden is not None
                features = rank_features(scores.hidden[:, 1:], output["unit_ids"], self.objective.units)
        features["mode"] = output["mode"].float()
        return Rollout.of_tokens(
            rewards,
            RolloutTokens(output["unit_ids"], mask, logps, entropies, square_sums, divergences),
            self.objective.units.count,
            features,
            self.state.global_step / self.args.max_steps,
            Course(self.state.global_step, self.carried, gather),
            prompts,
        )

    def _scalars(self, hidden: torch.Tensor | None, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """(B, T) each, by name, from the hidden states of a pass (B, T + 1, H)."""
        if not names:
            return {}
        assert self._states is not None and hidden is not None
        return {name: self._states.scalar(name, hidden[:, :-1]) for name in names}

    def _log_rollout(
        self, advantages: torch.Tensor, spread: torch.Tensor, returns: torch.Tensor, rollout: Rollout
    ) -> None:
        """Log a rollout, with the same metric names for every method.

        Args:
            advantages: (B, C) of the credited units.
            spread: (B, U) of all units.
            returns: (B, N) value of each rank.
            rollout: the rollout that they were computed from.
        """
        metrics = self._metrics["train"]
        groups = advantages.view(-1, self.num_generations, advantages.size(1))
        metrics["frac_zero_variance_units"].append((groups.abs().amax(1) < ZERO_VARIANCE).float().mean().item())
        metrics["effective_units"].append(effective_units(advantages).item())
        metrics["advantage_mean"].append(advantages.mean().item())
        metrics["advantage_std"].append(advantages.std().item())
        for k in range(self.objective.units.list_length):
            there = spread[rollout.unit_tokens[:, k] > 0, k]
            if len(there):
                metrics[f"advantage_mean@{k + 1}"].append(there.mean().item())
                metrics[f"advantage_std@{k + 1}"].append(there.std(correction=0).item())
        terms, mean = list(self.objective.reward.terms), partial(torch.mean, dim=0)
        for name, value in rollout_measures(rollout.rewards, returns, terms, mean).items():
            metrics[name].append(value)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        rows = len(inputs["completion_mask"])
        first = self._micro_batches_before() * rows
        if self.batching.micro_batch_tokens is None:
            return self._loss(model, inputs, first, self.current_gradient_accumulation_steps)
        # The batch holds this process's completions of the update.
        *cuts, last = self._cuts(self._completions(inputs))
        before = torch.zeros((), device=inputs["advantages"].device)
        for cut in cuts:
            with self.accelerator.no_sync(model):
                loss = self._loss(model, taken(inputs, cut), first + cut.start, rows / (cut.stop - cut.start))
                self.accelerator.backward(loss)
            before += loss.detach()
        return before + self._loss(model, taken(inputs, last), first + last.start, rows / (last.stop - last.start))

    def _micro_batches_before(self) -> int:
        """Number of earlier batches in the run over all processes, in an order that does not depend on a restart."""
        steps = self.args.gradient_accumulation_steps
        # Counted from the update number, which a resumed run knows. TRL's own count of micro-batches restarts.
        of_run = self.state.global_step * steps + self._step % steps
        return of_run * self.accelerator.num_processes + self.accelerator.process_index

    def _loss(self, model: Any, inputs: Mapping[str, Any], first: int, of_window: float) -> torch.Tensor:
        """The loss of a micro-batch.

        Args:
            model: the policy, possibly wrapped.
            inputs: its completions.
            first: number of earlier completions in the run.
            of_window: this process's completions in the accumulation window, divided by those in the micro-batch.
        """
        mask = inputs["completion_mask"]
        names = self.objective.scalars
        scores = self._scores_where_needed(model, inputs, bool(names))
        assert scores.entropies is not None
        # If no update lies between rollout and loss, TRL omits the old log-probabilities: they equal the current ones.
        old_logps = inputs["old_per_token_logps"] if "old_per_token_logps" in inputs else scores.logps.detach()
        window = Window(
            accumulation_steps=of_window,
            # TRL's count spans the whole generation batch; a window is a part of it.
            tokens=inputs["num_items_in_batch"]
            * self.current_gradient_accumulation_steps
            / self.args.steps_per_generation
            / self.accelerator.num_processes,
            max_completion_length=self.max_completion_length,
        )
        names_of_lists = ("correct", "correct_ranks", "score", "kl_scale", "mode", "segment")
        extras = {name: inputs[name] for name in names_of_lists}
        extras |= {f"old_{name}": inputs[f"old_{name}"] for name in self.objective.rollout_scalars}
        if self.demonstrations is not None:
            extras |= self._score_demonstrations(model, first, len(mask))
        loss, stats = self.objective.loss(
            LossInputs(
                logps=scores.logps,
                old_logps=old_logps,
                ref_logps=inputs.get("ref_per_token_logps"),
                advantages=inputs["advantages"],
                unit_ids=inputs["unit_ids"],
                mask=mask,
                units=self.objective.units,
                sampling_ratio=inputs.get("importance_sampling_ratio"),
                extras={"entropy": scores.entropies, **self._scalars(scores.hidden, names), **extras},
                course=Course(self.state.global_step, self.carried, self._gather_rows),
            ),
            window,
        )
        stats["entropy"] = (scores.entropies * mask).sum() / mask.sum().clamp(min=1)
        for name, value in stats.items():
            self._metrics["train"][name].append(self.accelerator.reduce(value.detach(), reduction="mean").item())
        self._account(loss, mask)
        return loss

    def _scores_where_needed(self, model: Any, inputs: Mapping[str, Any], wants_hidden: bool) -> TokenScores:
        """Scores of a micro-batch. Completions without effect on the gradient are not forwarded.

        Their log-probabilities are only compared with those of the rollout, which are equal: both are 0 here. Their
        entropies are those that the rollout recorded. One completion is always forwarded, so that all weights get a
        gradient and all processes make a pass.
        """
        batch = self._completions(inputs)
        skipped = self._metrics["train"]["skipped_completions"]
        if "rollout_entropies" not in inputs or wants_hidden:
            skipped.append(0.0)
            return self._pass(model, batch, wants_entropy=True, wants_hidden=wants_hidden)
        needed = inputs["advantages"].any(1)
        if not needed.any():
            needed[batch.completion_mask.sum(1).argmin()] = True
        rows = needed.nonzero().squeeze(1)
        skipped.append(1 - len(rows) / len(needed))
        scores = self._pass(model, batch[rows], wants_entropy=True)
        assert scores.entropies is not None
        logps = scores.logps.new_zeros(len(needed), scores.logps.size(1))
        return TokenScores(
            logps.index_copy(0, rows, scores.logps),
            inputs["rollout_entropies"].to(scores.entropies).index_copy(0, rows, scores.entropies),
            None,
        )

    def _gather_rows(self, values: torch.Tensor) -> torch.Tensor:
        """(n,) values of this process -> those of all processes; n may differ between processes."""
        counts = gather(torch.tensor([len(values)], device=values.device))
        padded = torch.nn.functional.pad(values.detach(), (0, int(counts.max()) - len(values)))
        rows = gather(padded).view(len(counts), -1)
        return torch.cat([row[:count] for row, count in zip(rows, counts.tolist(), strict=True)])

    def _not_finite(self, mask: torch.Tensor) -> str:
        return self.objective.not_finite(mask)

    def _score_demonstrations(self, model: Any, first: int, count: int) -> dict[str, torch.Tensor]:
        """Log-probabilities of demonstrations: as many as the micro-batch has completions, from place `first` on."""
        assert self.demonstrations is not None
        batch = self.demonstrations.batch(first, count, self.accelerator.device)
        scores = self._pass(model, batch)
        found = {"demonstration_logps": scores.logps, "demonstration_mask": batch.completion_mask}
        if "demonstration_reference" in self.objective.needs:
            found["demonstration_ref_logps"] = self._reference_logps(batch)
        return found

    @torch.no_grad()
    def _reference_logps(self, batch: Completions) -> torch.Tensor:
        """(B, T) log-probabilities of completions under the reference policy."""
        if self.ref_model is not None:
            return self._pass(self.ref_model, batch).logps
        with self.accelerator.unwrap_model(self.model).disable_adapter():
            return self._pass(self.model, batch).logps


def effective_units(advantages: torch.Tensor) -> torch.Tensor:
    """(sum |A|)^2 / sum A^2, a scalar: the number of units (B, C) over which the signal is spread; 0 without signal."""
    return advantages.abs().sum().square() / advantages.square().sum().clamp(min=torch.finfo(advantages.dtype).tiny)
