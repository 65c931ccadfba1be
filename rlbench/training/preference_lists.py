"""Lists drawn from the policy for preference optimisation, and the tuples formed from them."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import pyarrow as pa
import torch
from transformers import PreTrainedModel

from rlbench.base import preemption
from rlbench.base.seeding import evaluation_stream, order, stream_seed
from rlbench.config.schema import Config, PreferenceConfig
from rlbench.data.record import Record
from rlbench.evaluation.evaluate import BatchLimit, generate, prompt_ids, spent
from rlbench.preference.rounds import LISTS, PROMPTS, Round, make_rounds
from rlbench.preference.store import Drawn, Preference, Store
from rlbench.preference.tuples import below, best_and_worst
from rlbench.rewards.combine import weighted_sum
from rlbench.rewards.returns import tail_returns
from rlbench.rewards.scorer import ListScorer, score
from rlbench.runs import processes
from rlbench.runs.budget import Ledger
from rlbench.runs.directory import Run
from rlbench.training.demonstrations import demonstration_tokens
from rlbench.training.measures import rollout_measures

LISTS_OF_A_PART = 1024
"""Approximate number of lists drawn between two points at which a run can stop and resume."""


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
                raise preemption.Preempted(f"asked to stop while lists were being sampled; {preemption.GOES_ON}")

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
        seed = stream_seed(self.config.seed, LISTS, one.number, part, processes.index())
        with ledger.phase("rollout"), evaluation_stream(seed):
            completions = generate(
                policy,
                self.scorer.reader,
                [record.prompt for record in mine for _ in range(group)],
                self.config.generation,
                BatchLimit(self.config.trainer.rl.completions_per_update // processes.count()),
                sampled=True,
                progress=tell,
            )
        with ledger.phase("reward"):
            found = self._make(mine, [completion.ids for completion in completions])
            _, found[1].operations = spent(policy, completions, group)
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
        truths = [record.truth_rows() for record in records]
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
        measured = rollout_measures(rewards, returns, list(reward.terms), partial(torch.sum, dim=0))
        return {
            "reward": float(sum(totals)),
            "completion_length": float(sum(map(len, ids))),
            "truncated": float(sum(not scored.finished for scored in self.scorer.lists)),
            **{name: value for name, value in measured.items() if name.startswith("term/")},  # first in metrics.jsonl
            **measured,
        }
