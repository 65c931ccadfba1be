"""Preference optimisation in the RL stage: lists drawn from the policy, tuples formed from them, and a trainer.

TRL's `DPOTrainer` compares two lists of a dataset that exists at the start. Here a tuple has any number of rejected
lists, and each round draws its lists from the policy of that moment. So the trainer is transformers' own, with TRL's
fused LM head. The data loader yields only positions. The tuples at these positions are looked up when they are
needed: only then has the policy that draws their lists been trained. No reference model is kept: the reference is the
policy at the start of a round's comparisons. Its log-probabilities are computed once at that point and stored on disk.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch.utils.data import Sampler, SequentialSampler
from transformers import PreTrainedModel, TrainingArguments
from trl.trainer.utils import add_fused_lm_head, disable_dropout_in_model

from rlbench.base import preemption
from rlbench.base.errors import BadInput
from rlbench.base.seeding import evaluation_stream, order, stream_seed
from rlbench.config.schema import Config, PreferenceConfig
from rlbench.data.record import Record
from rlbench.evaluation.evaluate import generate, prompt_ids
from rlbench.preference.losses import mean_negative_log_likelihood, softmax_dpo
from rlbench.preference.rounds import Round, make_rounds
from rlbench.preference.store import Drawn, Preference, Store, preferences
from rlbench.preference.tuples import below, best_and_worst
from rlbench.rewards.combine import weighted_sum
from rlbench.rewards.returns import tail_returns
from rlbench.rewards.scorer import ListScorer, score
from rlbench.runs import processes
from rlbench.runs.budget import Ledger
from rlbench.runs.directory import Run
from rlbench.training.arguments import rl_arguments, shared_arguments
from rlbench.training.demonstrations import demonstration_tokens
from rlbench.training.measures import rollout_measures
from rlbench.training.metered import Metered
from rlbench.training.parallel import on_each, parallel_arguments, whole_policy
from rlbench.training.safety import NoTuples

LISTS_OF_A_PART = 1024
"""Approximate number of lists drawn between two points at which a run can stop and resume."""
TUPLES_OF_A_PART = 1024
"""Number of tuples whose reference log-probabilities share one file."""
PROMPTS, LISTS, TUPLES = range(3)
"""Streams of random numbers of a seed."""


class Lists:
    """Draws the lists of a round and forms tuples from them.

    Args:
        config: how to draw and judge them.
        run: the run that stores them.
        records: source of the prompts. Each has a demonstration if demonstrations are the chosen lists.
        scorer: the reward.
    """

    def __init__(self, config: Config, run: Run, records: Sequence[Record], scorer: ListScorer):
        assert isinstance(config.algorithm, PreferenceConfig)
        self.config, self.method, self.run = config, config.algorithm, run
        self.records, self.scorer = records, scorer
        self.store = Store(run.root / "preferences")
        self.rounds = make_rounds(self.method, config.trainer.rl)

    def parts(self, one: Round) -> list[range]:
        """The prompts of each part of a round, as numbers counted over all rounds."""
        size = max(LISTS_OF_A_PART // self.config.trainer.rl.group_size, 1)
        return [one.prompts[start : start + size] for start in range(0, len(one.prompts), size)]

    def drawn_before(self, one: Round) -> bool:
        """Whether all parts of a round exist."""
        return all(self.store.has(self.store.part(one.number, part)) for part in range(len(self.parts(one))))

    def read(self, one: Round) -> tuple[pa.Table, Drawn]:
        """The tuples of a round whose lists have been drawn, and the counts of what was drawn."""
        return self.store.read(one.number, len(self.parts(one)))

    def draw(self, one: Round, policy: PreTrainedModel, ledger: Ledger, tell: Callable[[str], None]) -> None:
        """Draw the missing lists of a round. All processes call it together.

        Args:
            policy: with all its weights on every process.
            ledger: records the time spent.
            tell: called with the progress.

        Raises:
            Preempted: between two parts, if a process was told to stop.
        """
        group, parts = self.config.trainer.rl.group_size, self.parts(one)
        for part, prompts in enumerate(parts):
            before = (prompts.start - one.prompts.start) * group

            def lists(done: int, before: int = before) -> None:
                tell(f"lists {before + done * processes.count()}/{len(one.prompts) * group}")

            if not processes.on_main(partial(self.store.has, self.store.part(one.number, part))):
                self._draw_part(one, part, prompts, policy, ledger, lists)
            if any(processes.gather(preemption.requested())):
                raise preemption.Preempted(f"told to stop while lists were drawn; {preemption.GOES_ON}")

    def _draw_part(
        self,
        one: Round,
        part: int,
        prompts: range,
        policy: PreTrainedModel,
        ledger: Ledger,
        tell: Callable[[int], None],
    ) -> None:
        records = [self.records[place] for place in self._places(prompts)]
        mine, group = records[processes.index() :: processes.count()], self.config.trainer.rl.group_size
        generation, seed = self.config.generation, self.config.seed
        with (
            ledger.phase("rollout"),
            evaluation_stream(stream_seed(seed, LISTS, one.number, part, processes.index())),
        ):
            completions = generate(
                policy,
                self.scorer.reader.tokenizer,
                [record.prompt for record in mine for _ in range(group)],
                generation=generation,
                batch_size=self.config.trainer.rl.completions_per_update // processes.count(),
                eos_token_ids=self.scorer.reader.eos_token_ids,
                sampled=True,
                progress=tell,
            )
        with ledger.phase("reward"):
            found = self._make(mine, [completion.ids for completion in completions])
        gathered = processes.gather(found)
        # In the order of the prompts, whatever the number of processes.
        rows = [gathered[i % len(gathered)][0][i // len(gathered)] for i in range(len(records))]
        drawn = sum((of_process for _, of_process in gathered), Drawn())
        processes.on_main(
            lambda: self.store.write(one.number, part, [row for of_prompt in rows for row in of_prompt], drawn)
        )

    def _places(self, prompts: range) -> list[int]:
        """Records of the prompts: all records once in random order, then all again in another order."""
        turns = [divmod(number, len(self.records)) for number in prompts]
        orders = {turn: order(len(self.records), self.config.seed, PROMPTS, turn) for turn in {t for t, _ in turns}}
        return [orders[turn][place] for turn, place in turns]

    def _make(self, records: Sequence[Record], ids: list[list[int]]) -> tuple[list[list[Preference]], Drawn]:
        """The tuples of each record from its adjacent lists, and sums of what was measured."""
        group, tokenizer = self.config.trainer.rl.group_size, self.scorer.reader.tokenizer
        if not records:
            return [], Drawn()
        truths = [[{"title": t, "year": y} for t, y in record.ground_truth] for record in records]
        totals = self.scorer(
            completion_ids=ids,
            ground_truth=[truth for truth in truths for _ in range(group)],
            seen_titles=[record.seen_titles for record in records for _ in range(group)],
        )
        drawn = Drawn(len(records), len(ids), sum(map(len, ids)), sums=self._measured(ids, totals))
        demonstrated = self._demonstrations(records) if self.method.chosen == "demonstration" else None
        tuples: list[list[Preference]] = []
        for row, record in enumerate(records):
            lists, rewards = ids[row * group : (row + 1) * group], totals[row * group : (row + 1) * group]
            prompt = prompt_ids(tokenizer, record.prompt)
            chosen: list[tuple[list[int], float, list[int]]]
            if demonstrated is None:
                pairs = best_and_worst(rewards, self.method.negatives, self.method.tuples_per_prompt)
                chosen = [(lists[best], rewards[best], worst) for best, worst in pairs]
            else:
                demonstration, reward = demonstrated[row]
                worse = below(reward, rewards, self.method.negatives, self.method.tuples_per_prompt)
                chosen = [(demonstration, reward, places) for places in worse]
            tuples.append(
                [
                    Preference(
                        context_id=record.context_id,
                        prompt=prompt,
                        chosen=best,
                        rejected=[lists[place] for place in places],
                        chosen_reward=reward,
                        rejected_rewards=[rewards[place] for place in places],
                    )
                    for best, reward, places in chosen
                ]
            )
        drawn.without_tuple = sum(not of_prompt for of_prompt in tuples)
        return tuples, drawn

    def _demonstrations(self, records: Sequence[Record]) -> list[tuple[list[int], float]]:
        """Tokens and reward of each record's demonstration. Demonstrations that the SFT stage cuts have reward minus
        infinity, so they are never chosen."""
        tokenizer, longest = self.scorer.reader.tokenizer, self.config.trainer.sft.max_length
        tokens = [demonstration_tokens(record, tokenizer, longest + 1) for record in records]
        texts = [record.completion[-1]["content"] for record in records if record.completion]
        judged = self.scorer.judge(
            self.scorer.judge.read(texts),
            [record.ground_truth for record in records],
            [record.seen_titles for record in records],
            [len(completion) for _, completion in tokens],
            [True] * len(records),
        )
        rewards = score(judged, self.scorer.facts, self.scorer.reward, texts).totals.tolist()
        return [
            (completion, reward if len(prompt) + len(completion) <= longest else -math.inf)
            for (prompt, completion), reward in zip(tokens, rewards, strict=True)
        ]

    def _measured(self, ids: Sequence[Sequence[int]], totals: Sequence[float]) -> dict[str, float]:
        """Sums over lists of the rollout measures, by their names in `metrics.jsonl`."""
        rewards, reward = self.scorer.rewards, self.scorer.reward
        assert rewards is not None
        weights = torch.tensor([term["weight"] for term in reward.terms.values()], dtype=torch.float64)
        of_terms = torch.stack([tail_returns(gains, reward.gamma) for gains in rewards.gains.unbind(1)], 1)
        returns = weighted_sum(of_terms, weights)
        return {
            "reward": float(sum(totals)),
            "completion_length": float(sum(map(len, ids))),
            "truncated": float(sum(not scored.finished for scored in self.scorer.lists)),
            **rollout_measures(rewards, returns, list(reward.terms), partial(torch.sum, dim=0)),
        }


def tuples_at(
    places: Sequence[int],
    one: Round,
    compares: bool,
    per_update: int,
    of_tuple: int,
    count: int,
    seed: int,
    order: Callable[..., list[int]] = order,
) -> list[int]:
    """Indices of the tuples at some positions of the run.

    Each phase of a round uses all tuples once in random order, then all again in another order. Both phases have the
    same number of lists per update. In the phase that compares lists, a position is one tuple. In the other phase, it
    is as many chosen lists as a tuple has lists, each from a different tuple.

    Args:
        places: positions counted over the whole run, `per_update` for each update.
        one: the round.
        compares: whether the positions lie in the phase that compares lists.
        per_update: tuples per update.
        of_tuple: lists per tuple.
        count: tuples of the round.
        seed: the run's seed.
        order: makes an order of `count` items from numbers.
    """
    first = one.preference if compares else one.first
    offset, width = first * per_update, 1 if compares else of_tuple
    numbers = [(place - offset) * width + i for place in places for i in range(width)]
    turns = [divmod(number, count) for number in numbers]
    return [order(count, seed, TUPLES, one.number, int(compares), turn)[place] for turn, place in turns]


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
        carried: empty; in policy optimisation, pieces carry numbers from update to update here.
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
        self.of_tuple = 1 + self.method.negatives
        self.per_update = config.trainer.rl.completions_per_update // self.of_tuple
        self.scorer = lists.scorer
        self.carried: dict[str, float] = {}
        places = args.max_steps * self.per_update
        super().__init__(data_collator=_places, train_dataset=range(places), **kwargs)
        disable_dropout_in_model(self.model)
        add_fused_lm_head(self.model, outputs=("log_probs", "entropy"))
        self.model_accepts_loss_kwargs = False  # all micro-batches have one size, and each loss is a mean over it
        self._metrics: dict[str, dict[str, list[float]]] = {"train": defaultdict(list)}
        self._round: Round | None = None
        self._tuples: pa.Table | None = None
        self._reference: pa.Table | None = None
        self._order = lru_cache(maxsize=2)(order)
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
        return batch | {"reference": reference[:, 1:].to(batch["input_ids"].device)}

    def _begin(self, one: Round) -> None:
        update = self.state.global_step
        if update == one.first:
            if not processes.on_main(lambda: self.lists.drawn_before(one)):
                with self.ledger.phase("rollout"), whole_policy(self, self.config, self.start) as policy:
                    self.lists.draw(one, policy, self.ledger, self.tell)
        elif not processes.on_main(lambda: self.lists.drawn_before(one)):
            raise self._gone(one, "lists")
        self._tuples, drawn = self.lists.read(one)
        self._round, self._reference = one, None
        if update == one.first:
            self.ledger.add(
                prompts=drawn.prompts, completions=drawn.completions, generated_tokens=drawn.generated_tokens
            )
            metrics = self._metrics["train"]
            for name, value in drawn.means().items():
                metrics[name].append(value)
            metrics["tuples"].append(len(self._tuples))
            metrics["without_tuple"].append(drawn.without_tuple / drawn.prompts)
        if not len(self._tuples):
            raise NoTuples(one.number, update, drawn.prompts)

    def _begin_comparing(self, one: Round) -> None:
        """Load the reference's log-probabilities of the round's lists, computing missing ones."""
        store, number = self.lists.store, one.number
        assert self._tuples is not None
        parts = math.ceil(len(self._tuples) / TUPLES_OF_A_PART)
        missing = processes.on_main(lambda: [i for i in range(parts) if not store.has(store.reference(number, i))])
        if missing and self.state.global_step != one.preference:
            raise self._gone(one, "log-probabilities of the reference")
        for part in missing:
            first = part * TUPLES_OF_A_PART
            rows = range(first, min(first + TUPLES_OF_A_PART, len(self._tuples)))
            with self.ledger.phase("reference"):
                logps = self._logps_of(rows)
            if processes.is_main():
                store.write_reference(number, part, logps)
            processes.barrier()
        self._reference = store.read_reference(number, parts)

    def _gone(self, one: Round, what: str) -> BadInput:
        return BadInput(
            f"{what} of round {one.number + 1} are missing in {self.lists.store.round(one.number)}: they were made at "
            f"an update that lies behind. Remove {self.lists.run.checkpoints}, and the same command trains from the "
            "start"
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
        return tuples_at(
            places, one, compares, self.per_update, self.of_tuple, len(self._tuples), self.config.seed, self._order
        )

    def _batch(self, lists: Sequence[tuple[list[int], list[int]]]) -> dict[str, Any]:
        """(S, T) ids, mask, and mask of completions, padded on the right."""
        longest = max(len(prompt) + len(ids) for prompt, ids in lists)
        padding = self.scorer.reader.tokenizer.pad_token_id
        shape = (len(lists), longest)
        input_ids, mask = torch.full(shape, padding), torch.zeros(shape, dtype=torch.long)
        completion = torch.zeros(shape, dtype=torch.long)
        for row, (prompt, ids) in enumerate(lists):
            start, end = len(prompt), len(prompt) + len(ids)
            input_ids[row, :end] = torch.tensor([*prompt, *ids])
            mask[row, :end] = completion[row, start:end] = 1
            completion[row, :start] = 0
        device = self.args.device
        return {
            "input_ids": input_ids.to(device),
            "attention_mask": mask.to(device),
            "completion_mask": completion.to(device),
        }

    def _scores(self, model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(S, T - 1) log-probabilities of tokens, 0 outside completions; their mask; and the mean entropy there."""
        mask = batch["completion_mask"]
        outputs = model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            labels=batch["input_ids"].masked_fill(mask == 0, -100),
            fused_lm_head=True,
        )
        counted = mask[:, 1:]
        entropy = (outputs.entropy.detach() * counted).sum() / counted.sum().clamp(min=1)
        return outputs.log_probs * counted, counted, entropy

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        logps, counted, entropy = self._scores(model, inputs)
        stats = {"entropy": entropy}
        if "reference" in inputs:
            moved = logps - inputs["reference"]
            ratios = moved.sum(dim=1).view(-1, self.of_tuple)
            loss = softmax_dpo(ratios[:, 0], ratios[:, 1:], self.method.beta).mean()
            stats |= self._compared(ratios.detach())
            drawn = counted.clone().view(-1, self.of_tuple, counted.size(1))
            if self.method.chosen == "demonstration":
                drawn[:, 0] = 0
            # k2 (Schulman 2020): an unbiased estimate would need lists drawn from the current policy.
            of_tokens = moved.detach().square() / 2 * drawn.view_as(counted)
            stats["kl"] = of_tokens.sum() / drawn.sum().clamp(min=1)
        else:
            loss = mean_negative_log_likelihood(logps.sum(dim=1), counted.sum(dim=1)).mean()
        for name, value in stats.items():
            self._metrics["train"][name].append(self.accelerator.reduce(value.detach(), reduction="mean").item())
        self._account(loss, counted)
        return loss

    def _compared(self, ratios: torch.Tensor) -> dict[str, torch.Tensor]:
        """Statistics of (B, 1 + L) log-ratios. An implicit reward is beta times a log-ratio (arXiv 2305.18290)."""
        chosen, rejected = self.method.beta * ratios[:, 0], self.method.beta * ratios[:, 1:]
        return {
            "implicit_reward_chosen": chosen.mean(),
            "implicit_reward_rejected": rejected.mean(),
            "implicit_reward_margin": (chosen[:, None] - rejected).mean(),
            "implicit_reward_accuracy": (chosen > rejected.amax(dim=1)).float().mean(),
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
    of_tuple = 1 + config.algorithm.negatives
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
