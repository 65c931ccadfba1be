"""Prompts to a teacher. A prompt is a template with names in braces; docs/stage1.md lists them."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlbench.base.errors import BadInput
from rlbench.base.user_files import read_user_text

RATINGS = """\
Here is a conversation of a user who is looking for {items}:

{conversation}

Rate how well each of the {items} below fits what the user asks for. The levels are 2 (fits very well), 1 (fits), 0 \
(neither), -1 (does not fit) and -2 (does not fit at all). Write one line for each of them, in the same order, as \
"{form}####level", for example "{form}####-1". Write nothing else.

{candidates}"""
"""Default prompt for ratings."""

METADATA = """\
Describe the {item} "{name}" for a search by meaning. Write two lines and nothing else:
Keywords: eight to twelve key words, separated by commas (genre, mood, themes, setting, people behind it)
Plot: what it is about, in one paragraph of about eighty words
If you do not know this {item}, write only UNKNOWN."""
"""Default prompt for descriptions."""

NEEDED = {"lists": ("conversation",), "ratings": ("conversation", "candidates"), "metadata": ("name",)}
"""Names that a prompt must contain, by what is asked for."""
DEFAULTS = {"lists": None, "ratings": RATINGS, "metadata": METADATA}
"""Default prompts. The dataset's own prompts ask for lists."""

_NAME = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Prompt:
    """A template, and where it comes from: a file's path, or `default`."""

    text: str
    origin: str

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with the values in place of their names. Braces around other words stay."""
        return _NAME.sub(lambda found: values.get(found[1], found[0]), self.text)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def load_prompt(task: str, file: Path | None) -> Prompt | None:
    """The prompt of a task; None for the dataset's own prompts.

    Raises:
        BadInput: the file cannot be read, or lacks a name that it needs.
    """
    if file is None:
        default = DEFAULTS[task]
        return None if default is None else Prompt(default, "default")
    text = read_user_text(file)
    missing = [f"{{{name}}}" for name in NEEDED[task] if f"{{{name}}}" not in text]
    if missing:
        raise BadInput(f"{file} lacks {' and '.join(missing)}, so the teacher would not see it; add it to the prompt")
    return Prompt(text, str(file))
