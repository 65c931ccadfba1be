"""Chat templates that write the same prompt on every day.

transformers renders templates with a function `strftime_now`, which reads the clock (5.23, `chat_template_utils`).
Llama 3's templates put its result into the system message. `pin_date` prepends a macro of that name to a template; the
macro returns one fixed date. The macro is part of the template, so every renderer gets the same text: our own code,
TRL's trainers, and a later program that loads the saved tokenizer.
"""

from datetime import datetime

import jinja2
import jinja2.ext
import jinja2.nodes

CLOCK = "strftime_now"
_BEGIN, _END = "{#- rlbench: the date is fixed -#}", "{#- rlbench: end #}\n"
_DIRECTIVES = "aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyYzZ"
"""Directives of strftime in glibc."""
_FLAGS = ("-", "_", "0", "^", "#")
_PERCENT = "\\u0001"
RANDOM_FILTER, RANDOM_FUNCTION = "random", "lipsum"
"""Jinja's own features that give a different text every time."""


def pin_date(template: str, date: str) -> str:
    """The template with `strftime_now` fixed to `date` (YYYY-MM-DD, with an optional time), whatever the clock.

    A template that never asks for the date is returned unchanged. A previously pinned date is replaced.
    """
    if template.startswith(_BEGIN):
        template = template.split(_END, 1)[1]
    if CLOCK not in template:
        return template
    when = datetime.fromisoformat(date)
    asked = list(_DIRECTIVES)
    asked += [flag + letter for flag in _FLAGS for letter in _DIRECTIVES if f"%{flag}{letter}" in template]
    answers = "".join(f".replace('%{name}', {_quoted(when.strftime('%' + name))})" for name in asked)
    macro = (
        f"{{%- macro {CLOCK}(format) -%}}"
        f"{{{{- format.replace('%%', '{_PERCENT}'){answers}.replace('{_PERCENT}', '%') -}}}}"
        "{%- endmacro -%}"
    )
    # transformers' trim_blocks removes the newline after the last comment.
    return f"{_BEGIN}{macro}{_END}{template}"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\t", "\\t") + "'"


def random_parts(template: str) -> list[str]:
    """Names of the parts of a template that give a different text at every rendering; empty if there are none.

    Raises:
        jinja2.TemplateSyntaxError: the template cannot be read.
    """

    class Generation(jinja2.ext.Extension):
        """transformers' own tag, which marks the assistant's text."""

        tags = {"generation"}

        def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    tree = jinja2.Environment(extensions=[Generation, jinja2.ext.loopcontrols]).parse(template)
    found = {f"the filter {node.name}" for node in tree.find_all(jinja2.nodes.Filter) if node.name == RANDOM_FILTER}
    found |= {f"the function {node.name}" for node in tree.find_all(jinja2.nodes.Name) if node.name == RANDOM_FUNCTION}
    return sorted(found)
