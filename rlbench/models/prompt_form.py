"""Which chat template a model gets: the tokenizer's own, a file, or the plain prompt form. Loads no torch.

The plain form is for base models, which have no template. A blank line follows a system message. A user's message is
"User: TEXT" and a newline. The answer follows "Assistant:" and a newline, and EOS ends it.
"""

import hashlib
from pathlib import Path

from rlbench.base.errors import BadInput
from rlbench.base.user_files import read_user_json, read_user_text
from rlbench.config.schema import FileModelConfig, ModelConfig

NONE = "none"
"""`model.chat_template` for the plain form."""
MERGE = "merge"
"""`model.system_role` for system messages in the first user message."""
PLAIN = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ message['content'] + '\\n\\n' }}"
    "{%- elif message['role'] == 'assistant' -%}{{ 'Assistant:\\n' + message['content'] + eos_token }}"
    "{%- else -%}{{ 'User: ' + message['content'] + '\\n' }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'Assistant:\\n' }}{%- endif -%}"
)
BEGIN = "{{- bos_token -}}"
"""Before `PLAIN`, if the tokenizer begins its texts with BOS."""
_MERGED = "{#- rlbench: system messages are part of the first user message -#}"
_MERGING = (
    f"{_MERGED}"
    "{%- set rlbench_system = messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | list -%}"
    "{%- if rlbench_system -%}"
    "{%- set rlbench_text = rlbench_system | join('\\n\\n') -%}"
    "{%- set messages = messages | rejectattr('role', 'equalto', 'system') | list -%}"
    "{%- if messages and messages[0]['role'] == 'user' -%}"
    "{%- set rlbench_text = rlbench_text + '\\n\\n' + messages[0]['content'] -%}"
    "{%- set messages = messages[1:] -%}"
    "{%- endif -%}"
    "{%- set messages = [{'role': 'user', 'content': rlbench_text}] + messages -%}"
    "{%- endif -%}"
)


def merged_system(template: str) -> str:
    """The template, which now gets the text of system messages at the beginning of the first user message."""
    return template if _MERGED in template else f"{_MERGING}{template}"


def given_template(config: ModelConfig) -> str | None:
    """The template that the settings ask for; None for the tokenizer's own.

    Raises:
        BadInput: its file cannot be read, or is empty.
    """
    if not isinstance(config, FileModelConfig) or config.chat_template is None:
        return None
    if config.chat_template == NONE:
        return PLAIN
    return read_template(Path(config.chat_template))


def read_template(file: Path) -> str:
    """A chat template from a file.

    Raises:
        BadInput: the file cannot be read, or is empty.
    """
    if not file.is_file():
        raise BadInput(
            f"model.chat_template = '{file}' is not a file; give a file with a Jinja template, or none for the plain "
            "prompt form"
        )
    text = read_user_text(file)
    if not text.strip():
        raise BadInput(f"model.chat_template = '{file}' is empty; use none for the plain prompt form")
    return text


def has_template(folder: Path) -> bool:
    """Whether a tokenizer's folder has a chat template."""
    if (folder / "chat_template.jinja").is_file() or any((folder / "additional_chat_templates").glob("*.jinja")):
        return True
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return False
    try:
        settings = read_user_json(file)
    except BadInput:
        return True  # the tokenizer's loader reports the file
    return isinstance(settings, dict) and bool(settings.get("chat_template"))


def form_digest(config: FileModelConfig, folder: Path | None) -> dict[str, str]:
    """What identifies a prompt form beside the model's files: sha256 (hex) of its template; empty for their own.

    Args:
        config: the model.
        folder: the model's files; None for files that have a template.

    Raises:
        BadInput: as `given_template`.
    """
    template = given_template(config)
    if template is None and folder is not None and not has_template(folder):
        template = PLAIN
    return {} if template is None else {"chat_template": hashlib.sha256(template.encode()).hexdigest()}
