"""Lists drawn from the policy for preference optimisation, and the tuples formed from them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedModel

from rlbench.base import preemption
from rlbench.base.seeding import evaluation_stream, order, stream_seed
from rlbench.config.options import with_defaults
from rlbench.config.schema import Config, PreferenceConfig
from rlbench.data.record import Record
from rlbench.evaluation.evaluate import BatchLimit, generate, prompt_ids, spent
from rlbench.lists.items import line_of
from rlbench.lists.relevance import Verdict
from rlbench.models.batches import Completions
from rlbench.preference.inputs import Listed, PromptLists, Tuple
from rlbench.preference.places import chooses_demonstrations, recipe_of
from rlbench.preference.recipes import recipes
from rlbench.preference.rounds import LISTS, PROMPTS, Round, make_rounds
from rlbench.preference.store import Drawn, Preference, Store
from rlbench.rewards.combine import weighted_sum
from rlbench.rewards.returns import tail_returns
from rlbench.rewards.scorer import ListScorer, score
from rlbench.runs import processes
from rlbench.runs.budget import Ledger
from rlbench.runs.directory import Run
from rlbench.training.demonstrations import demonstration_tokens
from rlbench.training.measures import rollout_measures

WRITTEN = 19
"""Separates the random numbers of recipes from others with the same seed."""
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
        with ledger.phase("reference"):
            said = self._judged(policy, mine, [drawn.ids for drawn in completions], first=one.number == part == 0)
        with ledger.phase("reward"):
            numbers = list(prompts)[processes.index() :: processes.count()]
            found = self._make(mine, [completion.ids for completion in completions], one.number, numbers, said)
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

    def _make(
        self,
        records: Sequence[Record],
        ids: list[list[int]],
        number: int = 0,
        prompts: Sequence[int] = (),
        said: Sequence[float] = (),
    ) -> tuple[list[list[Preference]], Drawn]:
        """The tuples of each record from its adjacent lists, and sums of what was measured.

        Args:
            records: one per prompt.
            ids: tokens of the lists.
            number: the round.
            prompts: numbers of the prompts, counted over all rounds, for random numbers.
            said: the judge's scores of the lists; empty without a judge.
        """
        group, tokenizer = self.config.trainer.rl.group_size, self.scorer.reader.tokenizer
        if not records:
            return [], Drawn()
        listed = self._listed(ids, [record for record in records for _ in range(group)])
        if said:
            listed = [replace(one, score=value) for one, value in zip(listed, said, strict=True)]
        totals = [one.reward for one in listed]
        drawn = Drawn(len(records), len(ids), sum(map(len, ids)), sums=self._measured(ids, totals))
        demonstrated: Sequence[Listed | None] = [None] * len(records)
        if chooses_demonstrations(self.method):
            demonstrated = self._demonstrations(records)
        relevant, recipe = self._relevant(records), recipe_of(self.method)
        made = [
            recipe(
                PromptLists(
                    drawn=listed[row * group : (row + 1) * group],
                    demonstration=demonstrated[row],
                    relevant=relevant[row],
                    seen=self._seen(record),
                    catalogue=self._lines,
                    popularity=self.scorer.facts.counts,
                    chosen=self.method.chosen,
                    length=self.scorer.reader.units.list_length,
                    negatives=self.method.negatives,
                    most=self.method.tuples_per_prompt,
                    round=number,
                    random=np.random.default_rng([self.config.seed, WRITTEN, *prompts[row : row + 1]]),
                )
            )
            for row, record in enumerate(records)
        ]
        tuples = self._stored(records, made, [prompt_ids(tokenizer, record.prompt) for record in records], demonstrated)
        drawn.without_tuple = sum(not of_prompt for of_prompt in tuples)
        drawn.written = sum(not isinstance(one, Listed) for of_prompt in made for lists in of_prompt for one in lists)
        return tuples, drawn

    def _judged(
        self, policy: PreTrainedModel, records: Sequence[Record], ids: Sequence[list[int]], *, first: bool
    ) -> list[float]:
        """What the recipe's judge says of each list; empty without a judge. `first`: of the run's first lists."""
        piece, group = recipes[self.method.pairs], self.config.trainer.rl.group_size
        if piece.facts["judge"] == "policy":
            return self._confidences(policy, records, ids)
        if piece.facts["judge"] == "none" or not records:
            return []
        from rlbench.training.teacher_judge import ask_for_scores  # loads what asks a teacher

        texts = self.scorer.reader.decode(ids)
        scores = ask_for_scores(
            records,
            [texts[row * group : (row + 1) * group] for row in range(len(records))],
            with_defaults(piece.options, self.method.options.get(self.method.pairs, {})),
            Path(self.config.cache_dir) / "teacher.sqlite",
            self.config.runtime.device,
            first=first,
        )
        return [value for of_record in scores for value in of_record]

    @torch.no_grad()
    def _confidences(self, policy: PreTrainedModel, records: Sequence[Record], ids: Sequence[list[int]]) -> list[float]:
        """Mean log-probability per token of each record's lists under the policy that drew them."""
        tokenizer, group = self.scorer.reader.tokenizer, self.config.trainer.rl.group_size
        found: list[float] = []
        for row, record in enumerate(records):
            prompt = prompt_ids(tokenizer, record.prompt)
            lists = [(prompt, of_list) for of_list in ids[row * group : (row + 1) * group]]
            tokens, mask, own = Completions.of_rows(lists, tokenizer.pad_token_id, policy.device).padded_right()
            logps = policy(input_ids=tokens, attention_mask=mask).logits[:, :-1].float().log_softmax(-1)
            of_tokens = logps.gather(2, tokens[:, 1:, None])[..., 0] * own[:, 1:]
            found += (of_tokens.sum(1) / own.sum(1).clamp(min=1)).tolist()
        return found

    def _listed(self, ids: Sequence[list[int]], records: Sequence[Record]) -> list[Listed]:
        """Lists of tokens, read and judged; one record for each."""
        scorer, n = self.scorer, self.scorer.reader.units.list_length
        totals = scorer(
            completion_ids=ids,
            ground_truth=[record.truth_rows() for record in records],
            seen_titles=[record.seen_titles for record in records],
        )
        assert scorer.rewards is not None
        terms = (scorer.rewards.gains.sum(2) + scorer.rewards.scores).tolist()
        weights = [float(term["weight"]) for term in scorer.reward.terms.values()]
        return [
            Listed(
                ids=tokens,
                lines=[line_of(*item) for item in scored.parsed.items[:n]],
                items=scorer.judge.catalog.find_all(scored.parsed.items[:n]).tolist(),
                hits=[verdict == Verdict.HIT for verdict in scored.verdicts],
                reward=total,
                terms=tuple(value * weight for value, weight in zip(of_terms, weights, strict=True)),
            )
            for tokens, scored, total, of_terms in zip(ids, scorer.lists, totals, terms, strict=True)
        ]

    def _stored(
        self,
        records: Sequence[Record],
        made: Sequence[Sequence[Tuple]],
        prompts: Sequence[list[int]],
        demonstrated: Sequence[Listed | None],
    ) -> list[list[Preference]]:
        """Tuples with the tokens and rewards of what the recipe has written; prompts as tokens."""
        reader, longest = self.scorer.reader, self.config.generation.max_new_tokens - 1
        texts = [
            (record, one)
            for record, of_prompt in zip(records, made, strict=True)
            for lists in of_prompt
            for one in lists
            if not isinstance(one, Listed)
        ]
        ids = [reader.tokenizer("\n".join(lines), add_special_tokens=False)["input_ids"] for _, lines in texts]
        written = iter(
            self._listed([[*row[:longest], reader.eos_token_ids[0]] for row in ids], [record for record, _ in texts])
            if texts
            else []
        )
        stored = []
        for row, of_prompt in enumerate(made):
            tuples = []
            for lists in of_prompt:
                first, *others = [one if isinstance(one, Listed) else next(written) for one in lists]
                tuples.append(
                    Preference(
                        context_id=records[row].context_id,
                        prompt=prompts[row],
                        chosen=first.ids,
                        rejected=[one.ids for one in others],
                        chosen_reward=first.reward,
                        rejected_rewards=[one.reward for one in others],
                        drawn=[isinstance(one, Listed) and one is not demonstrated[row] for one in lists],
                    )
                )
            stored.append(tuples)
        return stored

    @cached_property
    def _lines(self) -> list[str]:
        return self.scorer.judge.catalog.lines()

    def _seen(self, record: Record) -> frozenset[int]:
        """Items of the catalogue that a dialogue has named."""
        catalog = self.scorer.judge.catalog
        titles = set(catalog.find_titles(record.seen_titles).tolist()) - {-1}
        return frozenset(index for title in titles for index in self._of_title.get(title, ()))

    @cached_property
    def _of_title(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for index, title in enumerate(self.scorer.judge.catalog.title_ids.tolist()):
            found.setdefault(title, []).append(index)
        return found

    def _relevant(self, records: Sequence[Record]) -> list[dict[int, float]]:
        """Gain of each record's relevant items that a list can hit, by their indices in the catalogue."""
        judge, possible = self.scorer.judge, []
        for row, record in enumerate(records):
            found = judge.catalog.find_all(record.ground_truth).tolist()
            gains = record.gains or (1.0,) * len(found)
            of_item = {index: gain for index, gain in zip(found[::-1], gains[::-1], strict=True) if index >= 0}
            possible += [(row, index, of_item[index]) for index in dict.fromkeys(found) if index >= 0]
        if not possible:
            return [{} for _ in records]
        of_rows = [records[row] for row, _, _ in possible]
        hits = judge(
            judge.read([self._lines[index] for _, index, _ in possible]),
            [record.ground_truth for record in of_rows],
            [record.seen_titles for record in of_rows],
        ).hits
        relevant: list[dict[int, float]] = [{} for _ in records]
        for (row, index, gain), hit in zip(possible, hits.max(axis=1).tolist(), strict=True):
            if hit:
                relevant[row][index] = gain
        return relevant

    def _demonstrations(self, records: Sequence[Record]) -> list[Listed]:
        """Each record's demonstration. Those that the SFT stage cuts have reward minus infinity, so they are never
        chosen."""
        tokenizer, longest = self.scorer.reader.tokenizer, self.config.trainer.sft.max_length
        tokens = [demonstration_tokens(record, tokenizer, longest + 1) for record in records]
        texts = [record.completion[-1]["content"] for record in records if record.completion]
        parsed, n = self.scorer.judge.read(texts), self.scorer.reader.units.list_length
        judged = self.scorer.judge(
            parsed,
            [record.ground_truth for record in records],
            [record.seen_titles for record in records],
            [len(completion) for _, completion in tokens],
            [True] * len(records),
        )
        rewards = score(judged, self.scorer.facts, self.scorer.reward, texts).totals.tolist()
        return [
            Listed(
                ids=completion,
                lines=[line_of(*item) for item in read.items[:n]],
                items=self.scorer.judge.catalog.find_all(read.items[:n]).tolist(),
                hits=[verdict == Verdict.HIT for verdict in judged.names(row)],
                reward=reward if len(prompt) + len(completion) <= longest else -math.inf,
            )
            for row, ((prompt, completion), read, reward) in enumerate(zip(tokens, parsed, rewards, strict=True))
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
