"""Checks that a chat template can write the prompts of a dataset, before any compute."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rlbench.config.schema import FileModelConfig, ModelConfig
from rlbench.data.record import Messages, RankedListDataset, Record
from rlbench.data.stored import StoredRecords
from rlbench.models.prompt_form import MERGE, has_template

Roles = tuple[str, ...]


def check_prompts(
    dataset: RankedListDataset, tokenizer: PreTrainedTokenizerBase, config: ModelConfig, source: str | Path
) -> list[str]:
    """One sentence for each sequence of roles that a model's chat template refuses, or whose text it leaves out.

    Args:
        dataset: the data. One record of each sequence of roles is tried.
        tokenizer: with the template.
        config: the model's settings, for the remedy.
        source: the model's source, for the message.
    """
    problems: dict[str, None] = {}
    for records in dataset.splits.values():
        for record in _one_of_each(records):
            for messages, is_open in [(record.prompt, True), ([*record.prompt, *(record.completion or [])], False)]:
                if wrong := _wrong(messages, tokenizer, is_open):
                    remedy = _remedy([message["role"] for message in messages], config)
                    problems[f"the chat template of '{source}' {wrong}; {remedy}"] = None
                    break
    return list(problems)


def form_notice(config: ModelConfig, source: str | Path) -> list[str]:
    """A sentence if the model has no chat template and the settings name none."""
    if not isinstance(config, FileModelConfig) or config.chat_template is not None or has_template(Path(source)):
        return []
    return [
        f"{config.name} has no chat template, so prompts have the plain form (docs/models.md); "
        "model.chat_template=FILE gives another, and model.chat_template=none says that this one is meant"
    ]


def _one_of_each(records: Sequence[Record]) -> Iterator[Record]:
    """The first record of each sequence of roles."""
    if isinstance(records, StoredRecords):
        places = records.place.fact(f"roles-{records.file.stem}", lambda: [i for i, _ in _first(records)])
        return (records[place] for place in places)
    return (record for _, record in _first(records))


def _first(records: Sequence[Record]) -> Iterator[tuple[int, Record]]:
    seen: set[tuple[Roles, Roles]] = set()
    for place, record in enumerate(records):
        roles = _roles(record.prompt), _roles(record.completion or [])
        if roles not in seen:
            seen.add(roles)
            yield place, record


def _roles(messages: Messages) -> Roles:
    return tuple(message["role"] for message in messages)


def _wrong(messages: Messages, tokenizer: PreTrainedTokenizerBase, is_open: bool) -> str:
    """What is wrong with the text that a template writes; "" if nothing is.

    Args:
        is_open: whether the answer is still to be written.
    """
    roles = ", ".join(_roles(messages))
    try:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=is_open, tokenize=False)
    except Exception as error:  # a template is code, which may raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"refuses messages of the roles {roles}: {reason}"
    missing = [message["role"] for message in messages if message["content"].strip() not in text]
    if not missing:
        return ""
    return f"leaves out the text of the role {missing[0]} in messages of the roles {roles}"


def _remedy(roles: Sequence[str], config: ModelConfig) -> str:
    if not isinstance(config, FileModelConfig):
        return "use another model"
    other = "give another with model.chat_template=FILE, or model.chat_template=none for the plain form"
    if "system" in roles and config.system_role != MERGE:
        return f"use model.system_role=merge, or {other}"
    return other
