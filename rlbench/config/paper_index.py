"""The index of papers, `conf/papers.yaml`, and its page docs/papers.md.

python -m rlbench.config.paper_index writes the page.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from rlbench.base.errors import BadInput
from rlbench.base.program import CONF, ROOT

INDEX = CONF / "papers.yaml"
PAGE = ROOT / "docs" / "papers.md"
EVIDENCE = {
    "code": "official code was read",
    "descendant": "code of a descendant was read",
    "text": "the full paper was read",
    "notes": "notes or reviews were read",
    "abstract": "inspired by: only the abstract is known",
    "memory": "inspired by: recalled, not checked",
}
"""How sure a formula is, from most to least."""
STARTS = ("python run.py ", "python -m rlbench.", "python -m analysis.")
ARXIV = re.compile(r"\d{4}\.\d{5}")


@dataclass(frozen=True)
class PaperEntry:
    """One entry of the index.

    Attributes:
        arxiv: its number.
        name: short name of the method.
        title: title of the paper.
        contribution: what it contributes, in one sentence.
        command: what runs it; "" where nothing does yet, or where it is out of scope.
        adapted: what was adapted to ranked lists.
        evidence: a key of `EVIDENCE`; "" where it is out of scope.
        out: why it is out of scope, or "".
    """

    arxiv: str
    name: str
    title: str
    contribution: str
    command: str = ""
    adapted: str = ""
    evidence: str = ""
    out: str = ""

    @property
    def arguments(self) -> list[str]:
        """The words of the command after `python`."""
        return shlex.split(self.command)[1:]


def read_papers(path: Path = INDEX) -> list[PaperEntry]:
    """Read and check the index, newest first.

    Raises:
        BadInput: names every problem.
    """
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    problems = [
        said for number, entry in enumerate(entries, 1) for said in _problems(f"{path.name}, entry {number}", entry)
    ]
    numbers = [entry.get("arxiv") for entry in entries]
    problems += [f"{path.name}: {one} is there twice" for one in sorted({n for n in numbers if numbers.count(n) > 1})]
    if problems:
        raise BadInput("\n".join(problems))
    return [PaperEntry(**{key: value or "" for key, value in entry.items()}) for entry in entries]


def _problems(where: str, entry: dict[str, Any]) -> list[str]:
    known = [one.name for one in fields(PaperEntry)]
    found = [f"{where}: unknown key '{key}'; known: {', '.join(known)}" for key in entry if key not in known]
    found += [f"{where}: {key} is missing" for key in ("arxiv", "name", "title", "contribution") if not entry.get(key)]
    where = f"{where} ({entry.get('name')})"
    if not ARXIV.fullmatch(str(entry.get("arxiv"))):
        found.append(f"{where}: arxiv = {entry.get('arxiv')} is not a number such as 2510.20150, in quotes")
    if entry.get("out"):
        found += [f"{where}: {key} beside out; leave one out" for key in ("command", "evidence") if entry.get(key)]
        return found
    if entry.get("evidence") not in EVIDENCE:
        found.append(f"{where}: evidence = {entry.get('evidence')} is unknown; known: {', '.join(EVIDENCE)}")
    command = entry.get("command") or ""
    if command and not command.startswith(STARTS):
        found.append(f"{where}: command = {command} must start with one of: {', '.join(STARTS)}")
    if command and not entry.get("adapted"):
        found.append(f"{where}: adapted is missing; say what was adapted, or 'Nothing.'")
    return found


def matching(papers: Sequence[PaperEntry], words: Sequence[str]) -> list[PaperEntry]:
    """Papers in whose text every word occurs, whatever its case."""
    return [paper for paper in papers if all(word.lower() in _text(paper) for word in words)]


def _text(paper: PaperEntry) -> str:
    return " ".join([getattr(paper, one.name) for one in fields(PaperEntry)]).lower()


def render(papers: Sequence[PaperEntry]) -> str:
    """The text of docs/papers.md."""
    run = [paper for paper in papers if paper.command]
    missing = [paper for paper in papers if not paper.command and not paper.out]
    out = [paper for paper in papers if paper.out]
    parts = [
        HEAD.format(
            run=len(run),
            carried=len(run) + len(missing),
            all=len(papers),
            levels="\n".join(f"- **{level}**: {meaning}" for level, meaning in EVIDENCE.items()),
        ),
        *(_entry(paper) for paper in run),
    ]
    if missing:
        parts.append("## Not there yet\n")
        parts += [f"- **{paper.name}** ({_link(paper)}). {paper.contribution}" for paper in missing]
        parts.append("")
    parts.append("## Out of scope\n\n| paper | contribution | reason |\n|---|---|---|")
    parts += [f"| {paper.name}, {_link(paper)} | {paper.contribution} | {paper.out} |" for paper in out]
    return "\n".join(parts) + "\n"


HEAD = """<!-- Written by python -m rlbench.config.paper_index from conf/papers.yaml. -->
# Papers

For each paper: what it contributes, the command that runs it, and what was adapted to ranked lists. {run} of the
{carried} systems in scope have a command, out of {all} papers. A test runs every command on a small model.

    python -m rlbench.papers tree            # entries that contain a word

The evidence says how sure a formula is:

{levels}

Wherever the evidence is an abstract or memory, call the result "inspired by" the paper.
"""


def _entry(paper: PaperEntry) -> str:
    return (
        f"## {paper.name}\n\n{paper.title}, {_link(paper)}. {paper.contribution}\n\n    {paper.command}\n\n"
        f"Adapted: {paper.adapted} Evidence: {paper.evidence}.\n"
    )


def _link(paper: PaperEntry) -> str:
    return f"[{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})"


if __name__ == "__main__":
    PAGE.write_text(render(read_papers()), encoding="utf-8")
