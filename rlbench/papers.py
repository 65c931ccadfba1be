"""The index of papers: what each contributes, the command that runs it, and what was adapted to ranked lists."""

import argparse
from collections.abc import Sequence

from rich.console import Console

from rlbench.base.command import command_parser, exit_code
from rlbench.base.errors import BadInput
from rlbench.base.program import as_started
from rlbench.config.paper_index import EVIDENCE, PaperEntry, matching, read_papers

EPILOG = """examples:
  every paper:
    python -m rlbench.papers
  papers whose entry contains both words:
    python -m rlbench.papers tree rollouts
  one paper, by its number:
    python -m rlbench.papers 2510.20150

exit codes: 0 done, 2 no paper matches"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("rlbench.papers", __doc__, EPILOG)
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="words that an entry must contain, whatever their case"
    )
    options = parser.parse_args(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    papers = read_papers()
    found = matching(papers, options.words)
    if not found:
        raise BadInput(
            as_started(f"no paper contains {' and '.join(options.words)}; python -m rlbench.papers lists all")
        )
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for paper in found:
        console.print(as_started(_said(paper)))
    return 0


def _said(paper: PaperEntry) -> str:
    head = f"{paper.name} (arXiv {paper.arxiv})\n  {paper.contribution}"
    if paper.out:
        return f"{head}\n  out of scope: {paper.out}"
    if not paper.command:
        return f"{head}\n  not there yet"
    return f"{head}\n  {paper.command}\n  adapted: {paper.adapted}\n  evidence: {EVIDENCE[paper.evidence]}"


if __name__ == "__main__":
    raise SystemExit(main())
