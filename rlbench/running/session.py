"""What all stages of a cell share: checked before any compute is spent, loaded once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rlbench.base.errors import BadInput
from rlbench.config.engines import readable
from rlbench.config.places import check_places
from rlbench.config.schema import Config
from rlbench.data.checks import check_dataset
from rlbench.data.record import RankedListDataset, Record
from rlbench.evaluation.judging import Criteria, choose_contexts, make_criteria
from rlbench.evaluation.lengths import longest_demonstration_of, longest_of
from rlbench.evaluation.prompts import check_prompts, form_notice
from rlbench.models.adapters import check_targets
from rlbench.models.generation import notices
from rlbench.models.loading import check_model, check_weights, load_tokenizer, locate_model, max_positions
from rlbench.models.token_bytes import special_lines, special_words
from rlbench.objective.guards import caveats
from rlbench.running import memory, shortage
from rlbench.running.checks import check_config
from rlbench.running.classical import check_on_data, left_out
from rlbench.runs import inputs, processes
from rlbench.runs.attempts import RunConsole
from rlbench.runs.provenance import model_origin
from rlbench.runs.record import ModelOrigin
from rlbench.sampling.checks import check_prompts as check_samplers_prompts
from rlbench.training.demonstrations import check_ends, check_special
from rlbench.training.engine_checks import check_abilities, check_engine, check_server
from rlbench.training.made import cannot_update
from rlbench.training.rl import needs_demonstrations

console = RunConsole(stderr=True, highlight=False, quiet=not processes.is_main())


@dataclass(frozen=True)
class Session:
    """What all stages of a cell share after the checks.

    Attributes:
        config: the cell's configuration.
        dataset: its data.
        model_source: folder or hub id of the untrained model.
        model_files: facts about the model's files, for the manifest.
        tokenizer: the model's tokenizer.
        criteria: what lists are judged by.
        validation: records of the validation split that evaluations use.
        test: the same of the test split.
        memory: bytes that the cell is expected to need.
    """

    config: Config
    dataset: RankedListDataset
    model_source: str
    model_files: ModelOrigin
    tokenizer: PreTrainedTokenizerBase
    criteria: Criteria
    validation: Sequence[Record]
    test: Sequence[Record]
    memory: memory.MemoryEstimate | memory.NoEstimate


def prepare(config: Config) -> Session:
    """Check the config, and load data and tokenizer. Spends no compute.

    Raises:
        BadInput: all problems found, in one report.
    """
    dataset = _checked_data(config)
    for notice in dataset.notices:
        console.print(f"{config.dataset.name}: {notice}", style="dim", markup=False, soft_wrap=True)
    for notice in left_out(config, dataset):
        console.print(f"note: {notice}", style="dim", markup=False, soft_wrap=True)
    for caveat in caveats([config]):
        console.print(f"note: {caveat}", style="yellow", markup=False, soft_wrap=True)
    source = locate_model(config.model, dataset, Path(config.cache_dir))
    tokenizer = load_tokenizer(source, config.generation.template_date, config.model)
    for notice in [*form_notice(config.model, source), *notices(source, config.generation)]:
        console.print(f"note: {notice}", style="yellow", markup=False, soft_wrap=True)
    special = special_lines(dataset.catalog.lines(), tokenizer)
    if special:
        console.print(f"note: {special_words(special, dataset.item)}", style="yellow", markup=False, soft_wrap=True)
    own_positions = max_positions(source)
    check_weights(source)
    positions = readable(config.generation, own_positions)
    if problems := check_prompts(dataset, tokenizer, config.model, source):
        raise BadInput(*problems)
    problems = check_lengths(dataset, tokenizer, config.generation.max_new_tokens, positions)
    problems += check_abilities(config, source) + check_server(config, source)
    problems += check_targets(config.adapter, source) if any(map(config.adapter.trains, config.stages)) else []
    if "sft" in config.stages or needs_demonstrations(config):
        problems += check_ends(dataset.splits["sft"], tokenizer, config.trainer.sft.max_length, source)
        problems += check_special(dataset.splits["sft"], special)
        problems += check_demonstrations(dataset.splits["sft"], tokenizer, config.trainer.sft.max_length, own_positions)
    if problems:
        raise BadInput(*problems)
    criteria = make_criteria(config.matching, dataset, config.dataset.list_length)
    if criteria.judge.catalog is not dataset.catalog:
        for notice in criteria.judge.catalog.report():
            console.print(f"matching={config.matching.name}: {notice}", style="dim", markup=False, soft_wrap=True)
    expected = memory.estimate_or_reason(config, dataset, source, tokenizer, processes.count())
    if not config.runtime.dry_run:
        shortage.tell(config, expected, console)
    return Session(
        config,
        dataset,
        source,
        model_origin(config.model, source),
        tokenizer,
        criteria,
        choose_contexts(dataset.splits["validation"], config.evaluation.validation_contexts),
        choose_contexts(dataset.splits["test"], config.evaluation.test_contexts),
        expected,
    )


def _checked_data(config: Config) -> RankedListDataset:
    """Check the config and its data.

    Raises:
        BadInput: all problems found, in one report.
    """
    problems = check_config(config, processes.count()) + check_places(config, to_write=True)
    problems += check_model(config.model) + check_engine(config)
    dataset: RankedListDataset | None = None
    notices: list[str] = []
    try:
        dataset = inputs.load(config)
        notices = dataset.notices
        if dataset.place is None:  # a stored dataset has passed
            problems += check_dataset(dataset, config.dataset.list_length)
        if not dataset.splits.get("sft") and ("sft" in config.stages or not problems and needs_demonstrations(config)):
            problems.append(
                f"{config.dataset.name} has no demonstrations (split sft), but stage={config.stage} needs them"
            )
        elif not problems:
            problems += check_on_data(config, dataset)
            problems += cannot_update(config, len(dataset.splits["train"]), len(dataset.splits.get("sft", [])))
            problems += check_samplers_prompts(config, dataset.splits["train"], dataset.splits.get("sft", ()))
    except BadInput as error:
        problems += error.problems
        notices = [*notices, *error.notices]
    if dataset is None or problems:
        raise BadInput(*problems, notices=notices)
    return dataset


def check_lengths(
    dataset: RankedListDataset, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int, positions: int | None
) -> list[str]:
    """Check that the longest prompt of each split leaves room for a completion."""
    problems: list[str] = []
    if positions is None:
        return problems
    for split, records in dataset.splits.items():
        longest = longest_of(records, tokenizer)
        if longest and longest + max_new_tokens > positions:
            problems.append(
                f"{split}: the longest prompt has {longest} tokens; with generation.max_new_tokens = "
                f"{max_new_tokens} this is more than the model's {positions} positions; limit prompts with "
                "dataset.max_conversation_chars (dataset.long_prompts sets what happens to longer ones), or lower "
                "generation.max_new_tokens"
            )
    return problems


def check_demonstrations(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, max_length: int, positions: int | None
) -> list[str]:
    """Check that the longest demonstration, as it is trained on, fits the model."""
    if positions is None or max_length <= positions:
        return []
    longest = min(longest_demonstration_of(records, tokenizer), max_length)
    if longest <= positions:
        return []
    return [
        f"sft: a demonstration with its prompt has {longest} tokens, which is more than the model's {positions} "
        f"positions; use trainer.sft.max_length={positions}, which truncates such demonstrations"
    ]
