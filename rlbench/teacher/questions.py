"""What a teacher is asked: one question per conversation or item, from a dataset and files of Stage 1."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlbench.base.errors import BadInput
from rlbench.config.schema import DatasetConfig
from rlbench.data.checks import EXAMPLES
from rlbench.data.record import Messages, RankedListDataset
from rlbench.data.stage1.files import named, read_rows
from rlbench.data.stage1.pipeline import without_instructions
from rlbench.lists.items import plural
from rlbench.teacher.asking import Question
from rlbench.teacher.prompts import Prompt
from rlbench.teacher.reading import Form

TRAIN = ("train", "sft")
"""Splits whose contexts become demonstrations for training; validation gives the validation loss."""


@dataclass(frozen=True)
class AskedConversation:
    """A context that may be asked about: its id, prompt, and the prompt's text without the shared instructions."""

    context_id: str
    prompt: Messages
    text: str


def conversations(dataset: RankedListDataset) -> dict[str, list[AskedConversation]]:
    """The conversations of `train` and of `validation`, each once, in the dataset's order.

    The shared instructions are those of all prompts of both. So a text does not depend on which contexts are asked.
    """
    found: dict[str, dict[str, Messages]] = {"train": {}, "validation": {}}
    for split in (*TRAIN, "validation"):
        prompts = found["validation" if split == "validation" else "train"]
        for record in dataset.splits.get(split, ()):
            if record.context_id not in found["train"]:
                prompts.setdefault(record.context_id, record.prompt)
    pairs = [(split, context) for split, prompts in found.items() for context in prompts]
    asked = ["\n".join(m["content"] for m in found[split][context] if m["role"] == "user") for split, context in pairs]
    made: dict[str, list[AskedConversation]] = {"train": [], "validation": []}
    for (split, context), text in zip(pairs, without_instructions(asked), strict=True):
        made[split].append(AskedConversation(context, found[split][context], text))
    return made


def some(conversations: Sequence[AskedConversation], count: int | None) -> list[AskedConversation]:
    """At most `count` of them, in their order. A larger number adds to those of a smaller one."""
    if count is None or count >= len(conversations):
        return list(conversations)
    order = sorted(range(len(conversations)), key=lambda i: _draw(conversations[i].context_id))
    return [conversations[i] for i in sorted(order[:count])]


def _draw(context: str) -> bytes:
    return hashlib.sha256(context.encode()).digest()


def common_values(config: DatasetConfig, form: Form) -> dict[str, str]:
    """Values of the names that every prompt may contain."""
    return {"item": config.item, "items": plural(config.item), "n": str(config.list_length), "form": form.words}


def list_questions(
    asked: Sequence[AskedConversation], prompt: Prompt | None, values: Mapping[str, str]
) -> Iterator[Question]:
    """One question per conversation: its own prompt, or a given one."""
    for conversation in asked:
        messages = conversation.prompt
        if prompt is not None:
            messages = [_user(prompt.fill({**values, "conversation": conversation.text}))]
        yield Question(conversation.context_id, messages)


def rating_questions(
    file: Path, known: Mapping[str, Sequence[AskedConversation]], form: Form, prompt: Prompt, values: Mapping[str, str]
) -> list[Question]:
    """One question per line of a file of candidates.

    Raises:
        BadInput: problems of the file, a candidate that is no item, or a context of neither train nor validation.
    """
    rows = read_rows(file, {"context_id": str, "candidates": list})
    texts = {c.context_id: c.text for part in known.values() for c in part}
    problems, questions = [], []
    for row in rows:
        context, names = row["context_id"], row["candidates"]
        items = [form.line(name) if isinstance(name, str) else None for name in names]
        unread = [repr(name) for name, item in zip(names, items, strict=True) if item is None]
        if context not in texts:
            problems.append(f"{context} is in neither train nor validation")
        elif unread or not items:
            problems.append(
                f"{context} has {'no candidates' if not items else f'{unread[0]}, which is not {form.words}'}"
            )
        else:
            candidates = [item for item in items if item is not None]
            listed = "\n".join(named(candidates))
            content = prompt.fill({**values, "conversation": texts[context], "candidates": listed})
            questions.append(Question(context, [_user(content)], candidates))
    if len({row["context_id"] for row in rows}) < len(rows):
        problems.append("some contexts have more than one line; keep one line per context")
    if problems:
        raise BadInput(f"{file}: {len(problems)} problems: {'; '.join(problems[:EXAMPLES])}")
    return questions


def metadata_questions(
    lists: Path | None, dataset: RankedListDataset, form: Form, prompt: Prompt, values: Mapping[str, str]
) -> list[Question]:
    """One question per item of the catalogue, then per other item that the lists of a file name.

    Raises:
        BadInput: problems of the file.
    """
    items = dict.fromkeys(dataset.catalog.items)
    for row in read_rows(lists, {"context_id": str, "response": str}) if lists else []:
        items.update(dict.fromkeys(form.text(row["response"]).items))
    return [
        Question(name, [_user(prompt.fill({**values, "name": name}))], item)
        for item, name in zip(items, named(items), strict=True)
    ]


def _user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}
