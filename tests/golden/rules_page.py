"""Writes docs/published-rules.md, which compares the published rules with ours on small lists. All figures are
computed.

python -m tests.golden.rules_page
"""

import textwrap
from typing import NamedTuple

import numpy as np
import torch

from rlbench.config.schema import LengthShapingConfig
from rlbench.lists import published
from rlbench.lists.catalog import Catalog
from rlbench.lists.metrics import ranking_metrics
from rlbench.lists.reader import TokenUnits, UnitLayout
from rlbench.lists.relevance import Judge
from rlbench.objective.shaping import SHAPINGS
from tests.golden import oracles
from tests.golden.figures import COMMITTED, MEMBERSHIP, Film, read_cases, read_membership
from tests.helpers import ROOT

PAGE = ROOT / "docs" / "published-rules.md"
N = 3
K = 5
FILMS = [("Alien", 1979), ("Brazil", 1985), ("Fargo", 1996), ("Heat", 1995), ("Ronin", 1998)]
TRUTHS = [("Alien", 1979), ("Heat", 1995)]
PUBLISHED = LengthShapingConfig(rule="published", early_stop=-0.1, overflow=-0.1, exact=0.1)
PAPER = LengthShapingConfig(rule="paper", early_stop=-0.1, overflow=-0.1, exact=0.0)


class Example(NamedTuple):
    """One completion; `remark` says what it shows."""

    name: str
    text: str
    remark: str
    truths: list[Film] = TRUTHS


EXAMPLES = [
    Example("A clean list", "Alien (1979)\nRonin (1998)\nHeat (1995)", "All rules agree, except on EOS."),
    Example(
        "A preamble",
        "My picks:\nAlien (1979)\nRonin (1998)\nHeat (1995)",
        "Each reward goes to the previous line. The last hit is penalised as overflow.",
    ),
    Example(
        "A blank line",
        "Alien (1979)\n\nRonin (1998)\nHeat (1995)",
        "The same from the blank line on. If a tokenizer joins the two newlines, no token gets the reward of rank 2.",
    ),
    Example(
        "A trailing newline",
        "Alien (1979)\nRonin (1998)\nHeat (1995)\n",
        "EOS after a complete list is penalised, because it is in a fourth segment.",
    ),
    Example(
        "One film short, with a trailing newline",
        "Alien (1979)\nRonin (1998)\n",
        "EOS is in segment 3, so the short list is rewarded for its length.",
    ),
    Example(
        "Films outside the catalogue",
        "Star Quest (1990)\nMoon Race (2001)\nAlien (1979)",
        "In training they keep their ranks. The evaluation removes them, and a hit at rank 3 becomes a perfect list.",
    ),
    Example(
        "Fewer films than truths",
        "Alien (1979)",
        "The ideal list is as short as the remaining list: NDCG 1 for one film of four.",
        [("Alien", 1979), ("Brazil", 1985), ("Fargo", 1996), ("Heat", 1995)],
    ),
    Example(
        "Numbers, bold, quotes",
        '1. **Alien** (1979)\n2) "Ronin" (1998)\n- Heat (1995) - a must',
        "Both parsers read these.",
    ),
    Example(
        "A duplicate",
        "Alien (1979)\nAlien (1979)\nHeat (1995)",
        "A truth counts once under both rules, so no film is rewarded twice.",
    ),
    Example(
        "A year off by one",
        "Alien (1980)\nRonin (1998)\nHeat (1995)",
        "The year in the list must be the catalogue's, so the tolerance of two years only applies to the truth (here "
        "Heat, 1996). `matching=tolerant` applies it to both.",
        [("Alien", 1979), ("Heat", 1996)],
    ),
    Example(
        "Years in square brackets, other case",
        "Alien [1979]\nRonin (1998)\nHEAT (1995)",
        "The bracketed line is dropped, so Ronin is rank 1 of the rewards but line 2 of the tokens. HEAT is not in the "
        "catalogue.",
    ),
]

HEAD = """# The published rules and ours

The published Rank-GRPO code treats lists differently from the paper, and its training reward differs from its own
evaluation. `rlbench/lists/published.py` reproduces both exactly on 300 completions (`tests/golden`). Our rules are the
default. Use the published rules for comparisons with the published code. `python -m tests.golden.rules_page` writes
this page, and a test keeps it current.
"""

MATCHING, METRICS = "`matching=published`", "metrics `published_*`"
RULES = [
    ("", "published", "ours", "to get theirs"),
    ("---", "---", "---", "---"),
    (
        "parse",
        "Title (YYYY); removes parentheses inside the title; [YYYY] is not a year",
        "keeps parentheses; [YYYY] is a year",
        MATCHING,
    ),
    ("rank of an entry", "its position among the entries", "the same", ""),
    (
        "rank of a token",
        "number of newlines before it",
        "rank of its entry; other lines have none",
        "`algorithm.layout=published`",
    ),
    ("in the catalogue", "same title, same year", "same up to case, spacing, Unicode form; same year", MATCHING),
    ("seen", "same title", "same up to case, spacing, Unicode form", MATCHING),
    (
        "hit, training",
        "same title up to case and spacing, year within 2; uses up the nearest truth",
        "the catalogue film of a truth, not named before",
        MATCHING,
    ),
    ("hit, evaluation", "same title, year within 2; two truths may share a film", "as in training", METRICS),
    (
        "not in the catalogue, or seen",
        "training: keeps its rank, no hit; evaluation: removed, later films move up",
        "keeps its rank, no hit",
        METRICS,
    ),
    ("ideal list of NDCG@k", "min(truths, k, remaining films)", "min(truths, k)", METRICS),
    (
        "cut at k",
        "after removing (a metric missing in the code can also be read as: before)",
        "nothing is removed",
        "`published_truncate_first_*`",
    ),
    (
        "EOS",
        "+0.1 after N segments, -0.1 after fewer or more; has the ratio of its segment",
        "part of rank N after N entries, -0.1 after fewer",
        "`algorithm.length_shaping.rule=published`, `.exact=0.1`",
    ),
]


def rules_table() -> str:
    """The differences in words."""
    return "\n".join(f"| {' | '.join(row)} |" for row in RULES)


def rank_of_lines(text: str) -> tuple[list[int], int]:
    """Published segment of each line's tokens, and of EOS."""
    lines = text.splitlines(keepends=True)
    *segments, eos = oracles.segment_of_tokens([line.count("\n") for line in lines] + [0])
    return segments, eos


def eos_advantage(n_units: int, config: LengthShapingConfig) -> float:
    """Advantage of an EOS outside any rank, after this many units."""
    return float(SHAPINGS[config.rule].special(torch.tensor([n_units]), UnitLayout(N), config)[0, 2])


def eos_is_absorbed(n_units: int) -> bool:
    """Whether EOS is part of rank N under our rule."""
    tokens = TokenUnits(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), torch.tensor([n_units]))
    return bool(SHAPINGS[PAPER.rule].absorbed(tokens, UnitLayout(N)).any())


def credit(rank: int | None, rewards: list[float], overflow: float) -> str:
    """The cells "rank | reward" of a line; ranks past N show an advantage instead."""
    if rank is None:
        return "none | "
    return f"{rank + 1} | {rewards[rank]:.0f}" if rank < N else f"past {N} | {overflow:+.1f}"


def line_table(example: Example) -> list[str]:
    """The rank and reward (exp_inf) of each line's tokens."""
    entries = published.parse_list(example.text)
    theirs = oracles.reward_exp_inf(oracles.training_hits(entries, example.truths, [], set(FILMS), N))
    judge = Judge(Catalog(FILMS), N)
    (read,) = judge.read([example.text])
    judged = judge([read], [example.truths], [[]])
    ours = judged.hits[0].tolist()
    rank_of_line = {entry.line: rank for rank, entry in enumerate(read.entries)}
    segments, eos = rank_of_lines(example.text)
    rows = ["| line | published: rank | reward | ours: rank | reward |", "|---|---|---|---|---|"]
    for line, (text, segment) in enumerate(zip(example.text.splitlines(), segments, strict=True)):
        cells = credit(segment, theirs, PUBLISHED.overflow), credit(rank_of_line.get(line), ours, PAPER.overflow)
        rows.append(f"| {f'`{text}`' if text else '(blank)'} | {' | '.join(cells)} |")
    n_ours = len(read.items)
    alone = f"EOS | {eos_advantage(n_ours, PAPER):+.1f}"
    our_eos = credit(N - 1, ours, PAPER.overflow) if eos_is_absorbed(n_ours) else alone
    return [*rows, f"| EOS | segment {eos + 1} | {eos_advantage(eos + 1, PUBLISHED):+.1f} | {our_eos} |"]


def metric_line(example: Example) -> str:
    """Recall@N / NDCG@N under the three protocols."""
    entries, truths, judge = [published.parse_list(example.text)], [example.truths], Judge(Catalog(FILMS), N)
    seen: list[list[str]] = [[]]
    judged = judge(judge.read([example.text]), truths, seen)
    tables = [published.ranking_metrics(entries, truths, seen, set(FILMS), [N], cut) for cut in (False, True)]
    tables.append(ranking_metrics(judged.hits, judged.n_truth, [N]))
    shown = [f"{table[f'recall@{N}'][0]:.2f} / {table[f'ndcg@{N}'][0]:.2f}" for table in tables]
    return f"Recall@{N} / NDCG@{N}: published {shown[0]}, truncated first {shown[1]}, ours {shown[2]}."


def example_section(example: Example) -> str:
    lead = wrapped(f"**{example.name}.** {example.remark}")
    return "\n".join([lead, "", *line_table(example), "", metric_line(example)])


def measured() -> str:
    """The size of the differences on the committed completions."""
    cases = read_cases(COMMITTED)
    films = read_membership(cases, COMMITTED / MEMBERSHIP)
    lists = [published.parse_list(case.completion) for case in cases]
    astray = [
        [entry.line != rank for rank, entry in enumerate(entries[: case.list_length])]
        for entries, case in zip(lists, cases, strict=True)
    ]
    n_hits = sum(sum(case.hits) for case in cases)
    n_astray = sum(
        case.hits[rank]
        for of_case, case in zip(astray, cases, strict=True)
        for rank, wrong in enumerate(of_case)
        if wrong
    )
    cut_after, cut_before = (
        np.mean(
            [
                oracles.recall_ndcg(entries, case.ground_truth, case.seen_titles, inside, K, truncate_first)[1]
                for entries, case, inside in zip(lists, cases, films, strict=True)
            ]
        )
        for truncate_first in (False, True)
    )
    kept = np.array([case.hits[:K] for case in cases], dtype=np.float64)
    textbook = ranking_metrics(kept, np.array([len(case.ground_truth) for case in cases]), [K])[f"ndcg@{K}"].mean()
    intro = (
        f"On the {len(cases)} completions of `tests/golden`, which are random and far messier than those of a trained "
        "model:\n\n"
    )
    findings = [
        f"- {sum(map(any, astray))} lists have an entry whose reward goes to the tokens of another line. This affects "
        f"{n_astray} of {n_hits} hits.",
        f"- Mean NDCG@{K} is {cut_after:.3f} as published, {cut_before:.3f} if truncated first, and {textbook:.3f} "
        "from the training hits with kept ranks and the textbook ideal list.",
        "- In a run, `misaligned` is the share of ranks that `layout=published` credits to another line.",
    ]
    return intro + "\n".join(map(wrapped, findings))


def wrapped(paragraph: str) -> str:
    """The paragraph wrapped to at most 120 characters."""
    indent = "  " * paragraph.startswith("- ")
    return textwrap.fill(paragraph, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def render() -> str:
    """The page."""
    films, truths = (", ".join(f"{title} ({year})" for title, year in some) for some in (FILMS, TRUTHS))
    setting = (
        f"N = {N}. The catalogue holds {films}. Relevant films are {truths}, unless stated otherwise. The reward of a "
        "rank is its hit (exp∞). Signed numbers are advantages from length shaping, not rewards."
    )
    parts = [
        HEAD + "\n" + rules_table(),
        "Every evaluation reports all three protocols, whichever rules a run trains with.",
        "## Measured effect",
        measured(),
        "## Case by case",
        wrapped(setting),
        *map(example_section, EXAMPLES),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
