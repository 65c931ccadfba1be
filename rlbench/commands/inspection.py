"""Samples, judges and scores the group that `rlbench.inspect` shows. Loads torch."""

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from torch.nn.utils.rnn import pad_sequence
from transformers.utils import logging as hf_logging

from rlbench.base.errors import BadInput
from rlbench.config.schema import Config
from rlbench.data.record import Record
from rlbench.evaluation.evaluate import eos_ids, prompt_ids
from rlbench.evaluation.judging import make_criteria
from rlbench.lists.items import line_of
from rlbench.lists.reader import ListReader
from rlbench.lists.relevance import Verdict
from rlbench.models.completing import complete
from rlbench.models.constraint import FORBIDDEN, constraint_of
from rlbench.models.generation import generation_config, shares
from rlbench.models.loading import load_model, load_tokenizer
from rlbench.objective import Objective
from rlbench.objective.effective_rank import rank_features
from rlbench.objective.forward import square_sum
from rlbench.objective.objective import Rollout, RolloutTokens
from rlbench.rewards.scorer import ListScorer, ScoredList
from rlbench.runs.inputs import load
from rlbench.training.checkpoints import last_checkpoint

COLOURS = {
    Verdict.HIT: "bold green",
    Verdict.MISS: "",
    Verdict.OUT_OF_CATALOG: "red",
    Verdict.SEEN: "yellow",
    Verdict.DUPLICATE: "magenta",
}


@dataclass(frozen=True)
class SampledGroup:
    """The G completions of one prompt.

    Attributes:
        returns: (G, N) value of each rank, whatever the method credits (`Objective.rank_returns`).
        advantages: (G, N) advantage of the tokens of each rank.
        rewards: (G,) reward of each list.
        unit_ids: (G, T) the unit of each token.
        token_advantages: (G, T).
    """

    record: Record
    lists: list[ScoredList]
    returns: torch.Tensor
    advantages: torch.Tensor
    rewards: torch.Tensor
    tokens: list[list[str]]
    unit_ids: torch.Tensor
    token_advantages: torch.Tensor


def model_folder(run: Path) -> Path:
    """Return the folder of a run's final model, or of its last complete checkpoint.

    Raises:
        BadInput: if the run has neither.
    """
    if (run / "model").is_dir():
        return run / "model"
    checkpoint = last_checkpoint(run / "checkpoints")
    if checkpoint is None:
        raise BadInput(f"{run} has neither a final model nor a checkpoint yet")
    return checkpoint.folder


def sample_group(config: Config, folder: Path, prompt: int, group_size: int, seed: int) -> SampledGroup:
    """Sample completions for one training prompt and compute their advantages.

    Args:
        config: config of a policy-optimisation run.
        folder: folder of the model.
        prompt: index of the training prompt.
        group_size: G, at least 2.
        seed: sampling seed.
    """
    hf_logging.disable_progress_bar()
    dataset = load(config)
    record = dataset.splits["train"][prompt]
    tokenizer, model = load_tokenizer(folder, config.generation.template_date), load_model(folder, config.model.dtype)
    ends = eos_ids(model, tokenizer)
    reader = ListReader(tokenizer, config.dataset.list_length, ends)
    criteria = make_criteria(config.matching, dataset, config.dataset.list_length)
    scorer = ListScorer(reader, criteria.judge, criteria.facts, config.reward)
    torch.manual_seed(seed)
    decoding = generation_config(config.generation, tokenizer, ends, sampled=True)
    asked = prompt_ids(tokenizer, record.prompt)
    constraint, walk = constraint_of(config.generation, reader, criteria.judge), None
    if constraint is not None:
        excluded = constraint.excluded([record.seen_titles] * group_size)
        walk = constraint.start(group_size, excluded, model.device)
    made = complete(model, [asked] * group_size, decoding, shared=shares(config.generation), walk=walk)
    ids = [row.ids for row in made]
    output = pad_sequence(list(map(torch.tensor, ids)), batch_first=True, padding_value=tokenizer.pad_token_id)
    mask = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in ids], batch_first=True)
    whole = torch.cat([torch.tensor([asked] * group_size), output], dim=1)
    scorer(
        completion_ids=ids,
        ground_truth=[record.truth_rows()] * group_size,
        seen_titles=[record.seen_titles] * group_size,
    )
    assert scorer.rewards is not None
    objective = Objective(config.policy_optimisation, config.reward, config.dataset.list_length)
    if "divergence" in objective.needs:
        raise BadInput(
            f"algorithm.baseline = '{config.policy_optimisation.baseline}' compares with the reference policy, which "
            "this command does not load; inspect a run of another algorithm"
        )
    tokens = reader.segment(
        output, mask, [scored.parsed.lines for scored in scorer.lists], config.policy_optimisation.layout
    )
    with torch.no_grad():
        seen = model(whole, output_hidden_states=True)
        logits = seen.logits[:, len(asked) - 1 : -1].float() / config.generation.temperature
        if constraint is not None:
            allowed = constraint.followed(output, mask, excluded).flat().mask(logits.size(2))
            logits.masked_fill_(~allowed.view_as(logits), FORBIDDEN)
    all_logps = logits.log_softmax(-1)
    units = objective.token_units(tokens)
    logps, entropies = all_logps.gather(2, output[:, :, None]).squeeze(2), -(all_logps.exp() * all_logps).sum(2)
    rollout = Rollout.of_tokens(
        scorer.rewards,
        RolloutTokens(units.unit_ids, mask, logps, entropies, square_sum(all_logps.flatten(0, 1)).view_as(logps)),
        objective.units.count,
        rank_features(seen.hidden_states[-1][:, -output.size(1) :], units.unit_ids, objective.units),
        prompts=[record.context_id],
    )
    spread = objective.spread_advantages(objective.unit_advantages(rollout, group_size), units.n_units)
    return SampledGroup(
        record,
        scorer.lists,
        objective.rank_returns(scorer.rewards, group_size),
        spread[:, : objective.units.list_length],
        scorer.rewards.totals,
        [tokenizer.convert_ids_to_tokens(row) for row in ids],
        units.unit_ids,
        objective.token_advantages(spread, units),
    )


def best(group: SampledGroup) -> int:
    """Return the index of the completion with the most hits; ties go to the first."""
    hits = [sum(verdict is Verdict.HIT for verdict in scored.verdicts) for scored in group.lists]
    return hits.index(max(hits))


def show(group: SampledGroup, config: Config, which: int, console: Console) -> None:
    """Print the prompt and the completion with index `which`."""
    prompt = "\n".join(f"[{message['role']}] {message['content']}" for message in group.record.prompt)
    console.print(Panel(Text(prompt), title=f"prompt of context {group.record.context_id}", title_align="left"))
    truth = ", ".join(line_of(title, year) for title, year in group.record.ground_truth)
    console.print(f"relevant: {truth}", markup=False)
    scored = group.lists[which]
    ended = "ends with EOS" if scored.finished else "cut off at the token limit"
    title = f"completion {which + 1} of {len(group.lists)}, {ended}"
    console.print(Panel(Text(scored.text), title=title, title_align="left"))
    table = Table("rank", "entry", "verdict", "tokens", "return", "advantage", title=f"{config.label}: credit by rank")
    for rank, (entry, verdict) in enumerate(zip(scored.parsed.entries, scored.verdicts, strict=False)):
        table.add_row(
            str(rank + 1),
            line_of(entry.title, entry.year),
            Text(str(verdict), style=COLOURS[verdict]),
            str(int((group.unit_ids[which] == rank).sum())),
            f"{group.returns[which, rank]:.3f}",
            f"{group.advantages[which, rank]:+.3f}",
        )
    console.print(table)
    spread = [
        f"{token}/{unit}/{advantage:+.2f}"
        for token, unit, advantage in zip(
            group.tokens[which],
            group.unit_ids[which].tolist(),
            group.token_advantages[which].tolist(),
            strict=False,
        )
    ]
    n = config.dataset.list_length
    legend = f"token/unit/advantage (units 0..{n - 1} ranks, {n} overflow, {n + 1} other, {n + 2} EOS)"
    console.print(Panel(Text(" ".join(spread)), title=legend, title_align="left"))
    hits = [sum(verdict is Verdict.HIT for verdict in other.verdicts) for other in group.lists]
    console.print(f"hits of the group's lists: {hits}", markup=False)
