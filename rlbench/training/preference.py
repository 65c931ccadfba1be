"""The trainer of preference optimisation in the RL stage.

TRL's `DPOTrainer` compares two lists of a dataset that exists at the start. Here a tuple has any number of rejected
lists, and each round draws its lists from the policy of that moment. So the trainer is transformers' own. The lists of
a tuple share their prompt. The data loader yields only positions. The tuples at these positions are looked up when they
are needed: only then has the policy that draws their lists been trained. No reference model is kept: the reference is
the policy at the start of a round's comparisons. Its log-probabilities are computed once at that point and stored on
disk.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Sampler, SequentialSampler
from transformers import TrainingArguments
from trl.trainer.utils import add_fused_lm_head

from rlbench.base.errors import BadInput
from rlbench.base.seeding import order
from rlbench.config.schema import Config, PreferenceConfig
from rlbench.models.adapters import causal, in_float32
from rlbench.models.batches import Completions
from rlbench.objective.inputs import Course
from rlbench.preference.inputs import TupleInputs, pair_strengths
from rlbench.preference.losses import mean_negative_log_likelihood
from rlbench.preference.places import lists_of_tuple, loss_of, of_earlier
from rlbench.preference.rounds import Round, TupleOrder
from rlbench.preference.store import preferences
from rlbench.runs import processes
from rlbench.runs.budget import Ledger
from rlbench.training.arguments import rl_arguments, shared_arguments
from rlbench.training.metered import Metered
from rlbench.training.parallel import on_each, parallel_arguments, whole_policy
from rlbench.training.preference_lists import Lists
from rlbench.training.safety import NoTuples
from rlbench.training.scoring import agreement, even_cuts, reasons_of_training, shared_passes

TIE = 1e-4
"""Nats by which two log-ratios must differ to count as different. At a round's first update all are 0 but for rounding.
"""
CHANCES = 20
"""Separates the random numbers of tuples from others with the same seed."""
TUPLES_OF_A_PART = 1024
"""Number of tuples whose reference log-probabilities share one file."""


class PreferenceTrainer(Metered):
    """Training on tuples of lists.

    Args:
        lists: source of the lists.
        config: the run's configuration.
        start: folder of the policy's initial model.
        updates_done: updates of the checkpoint to resume from; 0 at the start.
        ledger: records the run's spending.
        tell: called with the progress of drawing lists.
        **kwargs: as for transformers' `Trainer`, without data.

    Attributes:
        ledger: records the run's spending.
        scorer: the reward.
        carried: numbers that a loss carries from update to update.
    """

    def __init__(
        self,
        *,
        lists: Lists,
        config: Config,
        start: Path,
        updates_done: int,
        ledger: Ledger,
        tell: Callable[[str], None] = lambda note: None,
        **kwargs: Any,
    ):
        args: TrainingArguments = kwargs["args"]
        self.lists, self.config, self.start, self.ledger, self.tell = lists, config, start, ledger, tell
        self.method = lists.method
        self.of_tuple = lists_of_tuple(self.method)
        self.loss, self.of_earlier = loss_of(self.method), of_earlier(self.method)
        per_update = config.trainer.rl.completions_per_update // self.of_tuple
        self.order = TupleOrder(per_update, self.of_tuple, config.seed, lru_cache(maxsize=2)(order))
        self.scorer = lists.scorer
        self.carried: dict[str, float] = {}
        places = args.max_steps * per_update
        super().__init__(data_collator=_places, train_dataset=range(places), **kwargs)
        in_float32(self.model)
        add_fused_lm_head(causal(self.model), outputs=("log_probs", "entropy"))
        self._shared = shared_passes(
            config.trainer.share_prompts,
            [self.model],
            reasons_of_training(self),
            temperature=1.0,
            recompute=args.gradient_checkpointing,
            autocast=self.accelerator.autocast,
            agreed=agreement(self),
            counts_padding=False,
        )
        self.model_accepts_loss_kwargs = False  # all micro-batches have one size, and each loss is a mean over it
        self._metrics: dict[str, dict[str, list[float]]] = {"train": defaultdict(list)}
        self._round: Round | None = None
        self._tuples: pa.Table | None = None
        self._reference: pa.Table | None = None
        self._earlier: pa.Table | None = None
        self._strengths, self._chances = np.zeros(0), np.zeros(0)
        if processes.is_main():
            lists.store.rewind(lists.rounds, updates_done)
        processes.barrier()

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return SequentialSampler(self.train_dataset)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Positions in the run -> the tuples at these positions, as tensors."""
        update = self.state.global_step
        if self._round is None or update >= self._round.end:
            self._begin(next(one for one in self.lists.rounds if update < one.end))
        assert self._round is not None
        compares = update >= self._round.preference
        if compares and self._reference is None:
            self._begin_comparing(self._round)
        rows = self._rows(inputs["places"].tolist(), self._round, compares)
        tuples = preferences(self._tuples, rows)
        if not compares:
            return self._batch([(row.prompt, row.chosen) for row in tuples])
        assert self._reference is not None
        batch = self._batch([(row.prompt, ids) for row in tuples for ids in row.lists])
        logps = self._reference.take(rows)["logps"].to_pylist()
        of_lists = [torch.tensor(of_list) for of_tuple in logps for of_list in of_tuple]
        reference = torch.zeros(batch["completion_mask"].shape)
        reference[batch["completion_mask"].bool().cpu()] = torch.cat(of_lists)
        device = batch["completion_mask"].device
        drawn = [list_ for row in tuples for list_ in (row.drawn or [True] * self.of_tuple)]
        found = {
            "reference": reference,
            "drawn": torch.tensor(drawn),
            "strength": torch.from_numpy(self._strengths[rows]),
            "chance": torch.from_numpy(self._chances[rows]),
        }
        if self.of_earlier:
            own = torch.tensor([[sum(of_list) for of_list in of_tuple] for of_tuple in logps], dtype=torch.float64)
            found["earlier"] = own[:, None]
            if self._earlier is not None:
                sums = torch.tensor(self._earlier.take(rows)["sums"].to_pylist(), dtype=torch.float64)
                found["earlier"] = torch.cat([sums, own[:, None]], dim=1)
        return batch | {name: value.to(device) for name, value in found.items()}

    def _begin(self, one: Round) -> None:
        update = self.state.global_step
        if update == one.first:
            if not processes.on_main(lambda: self.lists.drawn_before(one)):
                with self.ledger.phase("rollout"), whole_policy(self, self.config, self.start) as policy:
                    self.lists.draw(one, policy, self.ledger, self.tell)
        elif not processes.on_main(lambda: self.lists.drawn_before(one)):
            raise self._gone(one, "lists")
        self._tuples, drawn = self.lists.read(one)
        self._round, self._reference, self._earlier = one, None, None
        if len(self._tuples):
            rewards = self._tuples.select(["chosen_reward", "rejected_rewards"]).to_pydict()
            self._strengths = pair_strengths(rewards["chosen_reward"], rewards["rejected_rewards"])
            numbers = [self.config.seed, CHANCES, one.number]
            self._chances = np.random.default_rng(numbers).random(len(self._tuples))
        if update == one.first:
            self.ledger.add(
                prompts=drawn.prompts, completions=drawn.completions, generated_tokens=drawn.generated_tokens
            )
            self.ledger.needed(rollout=drawn.operations)
            metrics = self._metrics["train"]
            for name, value in drawn.means().items():
                metrics[name].append(value)
            metrics["tuples"].append(len(self._tuples))
            metrics["without_tuple"].append(drawn.without_tuple / drawn.prompts)
            if drawn.written:
                metrics["written"].append(drawn.written / (len(self._tuples) * self.of_tuple))
        if not len(self._tuples):
            raise NoTuples(one.number, update, drawn.prompts)

    def _begin_comparing(self, one: Round) -> None:
        """Load the reference's log-probabilities of the round's lists, computing missing ones."""
        store, number = self.lists.store, one.number
        assert self._tuples is not None
        parts = math.ceil(len(self._tuples) / TUPLES_OF_A_PART)
        missing = processes.on_main(lambda: [i for i in range(parts) if not store.has(store.reference(number, i))])
        unknown = processes.on_main(lambda: self._unknown(one.number, parts))
        if (missing or unknown) and self.state.global_step != one.preference:
            raise self._gone(one, "log-probabilities of the reference")
        if self.of_earlier:
            self._score_earlier(one, unknown, parts)
        for part in missing:
            rows = self._rows_of(part)
            with self.ledger.phase("reference"):
                logps = self._logps_of(rows)
            if processes.is_main():
                store.write_reference(number, part, logps)
            processes.barrier()
        self._reference = store.read_reference(number, parts)
        if self.state.global_step == one.preference:
            # Of all tuples: an attempt that continues another one finds their log-probabilities stored.
            tuples = preferences(self._tuples, range(len(self._tuples)))
            policies = 1 + (one.number if self._earlier is not None else 0)
            self.ledger.add(reference_tokens=policies * sum(len(ids) for row in tuples for ids in row.lists))
            self._unscored = 0

    def _rows_of(self, part: int) -> range:
        """Rows of the tuples whose log-probabilities are in a part."""
        assert self._tuples is not None
        first = part * TUPLES_OF_A_PART
        return range(first, min(first + TUPLES_OF_A_PART, len(self._tuples)))

    def _unknown(self, number: int, parts: int) -> list[int]:
        """Parts that lack log-probabilities under earlier references; all, if this round's weights are not stored."""
        store = self.lists.store
        if not self.of_earlier:
            return []
        if not store.has(store.weights(number)):
            return list(range(parts))
        return [part for part in range(parts) if number and not store.has(store.earlier(number, part))]

    def _score_earlier(self, one: Round, missing: Sequence[int], parts: int) -> None:
        """Store this round's weights, and the lists' log-probabilities under the references of earlier rounds."""
        store, number, weights = self.lists.store, one.number, self.trained_weights()
        if missing and processes.is_main() and not store.has(store.weights(number)):
            store.write_weights(number, weights)
        processes.barrier()
        if not number:
            return
        if missing:
            now = {name: value.detach().clone() for name, value in weights.items()}
            sums: dict[int, list[list[list[float]]]] = {part: [[] for _ in self._rows_of(part)] for part in missing}
            for earlier in range(number):
                self._set_weights(store.read_weights(earlier))
                for part in missing:
                    with self.ledger.phase("reference"):
                        logps = self._logps_of(self._rows_of(part))
                    for row, of_tuple in zip(sums[part], logps, strict=True):
                        row.append([sum(of_list) for of_list in of_tuple])
            self._set_weights(now)
            if processes.is_main():
                for part in missing:
                    store.write_earlier(number, part, sums[part])
            processes.barrier()
        self._earlier = store.read_earlier(number, parts)

    def trained_weights(self) -> dict[str, torch.Tensor]:
        """The weights that training changes, by name."""
        model = self.accelerator.unwrap_model(self.model)
        return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}

    @torch.no_grad()
    def _set_weights(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, weight in self.trained_weights().items():
            weight.copy_(values[name])

    def round_at(self, update: int) -> int:
        """Number of the round to which the next update belongs, after this number of updates."""
        return next(one.number for one in self.lists.rounds if update < one.end)

    def _gone(self, one: Round, what: str) -> BadInput:
        return BadInput(
            f"{what} of round {one.number + 1} are missing in {self.lists.store.round(one.number)}: they belong to "
            f"an earlier update and cannot be made again. Remove {self.lists.run.checkpoints} and run the same "
            "command again to train from the start"
        )

    @torch.no_grad()
    def _logps_of(self, rows: range) -> list[list[list[float]]]:
        """The policy's log-probabilities of each token of the tuples' lists. Processes take turns with equal numbers of
        steps, as sharded weights require."""
        assert self._tuples is not None
        size, index, count = self.args.per_device_train_batch_size, processes.index(), processes.count()
        mine: dict[int, list[list[float]]] = {}
        for step in range(math.ceil(len(rows) / (size * count))):
            first = (step * count + index) * size
            places = [rows[min(first + i, len(rows) - 1)] for i in range(size)]
            found = preferences(self._tuples, places)
            batch = self._batch([(row.prompt, ids) for row in found for ids in row.lists])
            with self.accelerator.autocast():
                logps, counted, _ = self._scores(self.model_wrapped, batch)
            of_lists = [row[kept.bool()].tolist() for row, kept in zip(logps, counted, strict=True)]
            for i, place in enumerate(places):
                mine[place] = of_lists[i * self.of_tuple : (i + 1) * self.of_tuple]
        of_all = {place: logps for of_process in processes.gather(mine) for place, logps in of_process.items()}
        return [of_all[place] for place in rows]

    def _rows(self, places: list[int], one: Round, compares: bool) -> list[int]:
        """Indices of the tuples at some positions of the run."""
        assert self._tuples is not None
        return self.order.at(places, one, compares, len(self._tuples))

    def _batch(self, lists: Sequence[tuple[list[int], list[int]]]) -> dict[str, Any]:
        """Lists with their prompts, as the fields of `Completions`."""
        return dict(vars(Completions.of_rows(lists, self.scorer.reader.tokenizer.pad_token_id, self.args.device)))

    def _scores(self, model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(S, T) log-probabilities of the lists' tokens, 0 at padding; their mask; and the mean entropy there."""
        lists = Completions.of(batch)
        counted = lists.completion_mask
        self._count_pass(lists.prompt_ids, lists.prompt_mask, counted)
        if self._shared is None:
            logps, entropies = self._plain_scores(model, lists)
        else:
            found = self._shared.scores(model, lists, even_cuts(len(lists), None), wants_entropy=True)
            assert found.entropies is not None
            logps, entropies = found.logps, found.entropies
        entropy = (entropies.detach() * counted).sum() / counted.sum().clamp(min=1)
        return logps * counted, counted, entropy

    @staticmethod
    def _plain_scores(model: Any, lists: Completions) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropies, (S, T) each, by TRL's LM head. Each list has its own prompt."""
        ids, mask, own = lists.padded_right()
        outputs = model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(own == 0, -100), fused_lm_head=True)
        kept, of_lists = own[:, 1:].bool(), lists.completion_mask.bool()

        def placed(values: torch.Tensor) -> torch.Tensor:
            return values.new_zeros(of_lists.shape).masked_scatter(of_lists, values[kept])

        return placed(outputs.log_probs), placed(outputs.entropy)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        logps, counted, entropy = self._scores(model, inputs)
        stats = {"entropy": entropy}
        if "reference" in inputs:
            moved = logps - inputs["reference"]
            loss = self.loss(self._tuple_inputs(logps, moved, counted, inputs)).mean()
            stats |= self._compared(moved.detach().sum(dim=1).view(-1, 1 + self.method.negatives))
            drawn = counted * inputs["drawn"][:, None]
            # k2 (Schulman 2020): an unbiased estimate would need lists drawn from the current policy.
            of_tokens = moved.detach().square() / 2 * drawn
            stats["kl"] = of_tokens.sum() / drawn.sum().clamp(min=1)
        else:
            loss = mean_negative_log_likelihood(logps.sum(dim=1), counted.sum(dim=1)).mean()
        for name, value in stats.items():
            self._metrics["train"][name].append(self.accelerator.reduce(value.detach(), reduction="mean").item())
        self._account(loss, counted)
        return loss

    def _tuple_inputs(
        self, logps: torch.Tensor, moved: torch.Tensor, counted: torch.Tensor, inputs: Mapping[str, torch.Tensor]
    ) -> TupleInputs:
        """Tensors of lists (S, T) as those of tuples (B, K, T)."""
        shape = (-1, self.of_tuple, logps.size(1))
        return TupleInputs(
            logps=logps.view(shape),
            moved=moved.view(shape),
            mask=counted.view(shape),
            beta=self.method.beta,
            strength=inputs["strength"].to(logps.dtype),
            chance=inputs["chance"].to(logps.dtype),
            earlier=inputs["earlier"].to(logps.dtype) if "earlier" in inputs else None,
            course=Course(self.state.global_step, self.carried, self.accelerator.gather),
        )

    def _compared(self, ratios: torch.Tensor) -> dict[str, torch.Tensor]:
        """Statistics of (B, 1 + L) log-ratios. An implicit reward is beta times a log-ratio (arXiv 2305.18290)."""
        chosen, rejected = self.method.beta * ratios[:, 0], self.method.beta * ratios[:, 1:]
        return {
            "implicit_reward_chosen": chosen.mean(),
            "implicit_reward_rejected": rejected.mean(),
            "implicit_reward_margin": (chosen[:, None] - rejected).mean(),
            "implicit_reward_accuracy": (ratios[:, 0] - ratios[:, 1:].amax(dim=1) > TIE).float().mean(),
        }

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of everything measured since the last line."""
        metrics = self._metrics["train"]
        logs |= {name: sum(values) / len(values) for name, values in metrics.items()}
        metrics.clear()
        super().log(logs, start_time)


def _places(rows: list[int]) -> dict[str, torch.Tensor]:
    return {"places": torch.tensor(rows)}


def preference_arguments(config: Config, output_dir: Path) -> TrainingArguments:
    """transformers' arguments for this config."""
    rl = config.trainer.rl
    assert isinstance(config.algorithm, PreferenceConfig)
    of_tuple = lists_of_tuple(config.algorithm)
    at_once, accumulation = on_each(
        rl.completions_per_update // of_tuple, rl.micro_batch_size // of_tuple, processes.count()
    )
    return TrainingArguments(
        output_dir=str(output_dir),
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=accumulation,
        remove_unused_columns=False,
        **rl_arguments(config) | shared_arguments(config) | parallel_arguments(config),
    )
