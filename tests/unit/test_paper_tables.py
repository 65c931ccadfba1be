"""Tables for papers: they fit the width of a template, and compile."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.render.latex import inches, paper_latex, plan_table
from analysis.render.numbers import Interval, share
from analysis.render.sheet import Line, Sheet, Shown, estimate, to_latex
from analysis.render.templates import TEMPLATES, Paper, make_paper
from analysis.tables.__main__ import main
from tests.helpers_analysis import write_sweep
from tests.helpers_latex import compile_latex, needs_pdflatex

CELL = estimate(Interval(0.5, 0.4, 0.6), share, bold=True, below=True)
DOCUMENT = r"""\documentclass[%s,%s]{article}
\usepackage[paperwidth=8.5in,paperheight=11in,textwidth=%sin,textheight=9in]{geometry}
\setlength{\columnsep}{%sin}
\usepackage{times,booktabs,graphicx}
%s
\begin{document}
Text.
%s
\end{document}
"""
"""A page with the widths and letters of a template; the classes themselves are not needed."""


def wide(columns: int, *, words: bool = False) -> Sheet:
    """A sheet with intervals, and a long column of words at the end."""
    cells = (CELL,) * columns + ((Shown("higher: holds by both tests and 100 % of the seeds " * 2),) if words else ())
    header = ("Method", *(f"Long_header {i} & more" for i in range(columns)), *(["Reading"] if words else []))
    lines = (Line((r"rank_grpo · log_decay † {a} \b ↑",), cells, "Top"), Line(("SFT ←",), cells, "Top", ruled=True))
    return Sheet("A < B & 50 %", header, lines, ("Δ: 95 % of #1.",), "wide", frozenset([columns] if words else []))


def test_the_largest_letters_that_fit_are_taken() -> None:
    column = make_paper("icml", "column")
    assert [plan_table(wide(n), column).size for n in (1, 2)] == ["small", "footnotesize"]
    assert plan_table(wide(4), make_paper("icml", "full")).size == "small"
    crowded = plan_table(wide(9), column)
    assert crowded.size == "scriptsize" and len(crowded.blocks) > 1
    assert [place for block in crowded.blocks for place in block] == list(range(9)), "no column is lost"
    assert len(plan_table(wide(8), make_paper("icml", "full")).blocks) == 1
    words = plan_table(wide(2, words=True), make_paper("icml", "full"))
    assert list(words.words) == [2] and words.words[2] > 1.1
    assert inches("0", 10) == pytest.approx(5 / 72, rel=0.02), "a digit of Times is half as wide as its size"


def test_caption_label_and_environment() -> None:
    text = paper_latex(wide(2), make_paper("acl", "column"))
    assert text.startswith(
        "% Needs booktabs.\n\\begin{table}[t]\n\\caption{A $<$ B \\& 50 \\%. $\\Delta$: 95 \\% of \\#1.}"
    )
    assert r"\label{tab:wide}" in text and r"\shortstack[r]{Long\_header\\0 \& more}" in text
    assert text.isascii() and text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert r"\begin{table*}" in paper_latex(wide(2), make_paper("acl", "full"))
    assert r"\begin{table}" in paper_latex(wide(2), make_paper("iclr", None))


def compiled(texts: list[str], paper: Paper, folder: Path) -> str:
    """The log of LaTeX for a document with these texts, with the paper's widths."""
    template = paper.template
    assert template is not None
    gap = template.full - 2 * template.column
    columns = ("twocolumn", f"{gap:.3f}") if gap > 0 else ("onecolumn", "0.1")
    size = "11pt" if template.tables["small"] == 10 else "10pt"
    letters = [
        rf"\renewcommand{{\{name}}}{{\fontsize{{{points}}}{{{1.15 * points}}}\selectfont}}"
        for name, points in template.tables.items()
    ]
    document = DOCUMENT % (size, columns[0], template.full, columns[1], "\n".join(letters), "\n".join(texts))
    return compile_latex(folder, document)


@needs_pdflatex
@pytest.mark.parametrize("name", TEMPLATES)
def test_tables_compile_and_no_line_is_too_long(name: str, tmp_path: Path) -> None:
    for width in ("column", "full"):
        paper = make_paper(name, width)
        sheets = [wide(1), wide(4), wide(9), wide(2, words=True), wide(6, words=True)]
        texts = [paper_latex(replace(sheet, key=f"t{i}"), paper) for i, sheet in enumerate(sheets)]
        log = compiled([*texts, to_latex(wide(14))] if width == "full" else texts, paper, tmp_path)
        assert not re.findall(r"Overfull \\hbox \((?:[2-9]|\d\d+)\.\d+pt", log), log[-3000:]


def test_the_command_writes_the_paper_form_and_all_notes(tmp_path: Path) -> None:
    write_sweep(tmp_path / "runs", {"grpo-relevance": 0.03}, seeds=2, contexts=20, updates=4, every=2)
    out = tmp_path / "out"
    options = [str(tmp_path / "runs"), "--out", str(out), "--resamples", "50"]
    assert main([*options, "--template", "icml", "--width", "column"]) == 0
    table, notes = (out / "table.tex").read_text(), (out / "table.txt").read_text()
    assert r"\begin{table}[t]" in table and "Test split: " in table and "One seed: " in table
    assert "Updates, time and tokens" in notes and "Updates, time and tokens" not in table
    assert r"\label{fig:mini-mini-tiny-profiles}" in (out / "profiles.tex").read_text()
    assert "95 % interval" in (out / "profiles.txt").read_text()
    assert main(options) == 0
    assert r"\resizebox{" in (out / "table.tex").read_text() and not (out / "table.txt").exists()
