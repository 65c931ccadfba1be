"""A sheet in its three forms: Markdown, LaTeX and terminal."""

import io

import pytest
from rich.console import Console

from analysis.render.numbers import Interval, share
from analysis.render.sheet import NOTHING, Line, Sheet, Shown, estimate, sheet_of, to_latex, to_markdown, to_rich

SHEET = Sheet(
    "A_B",
    ("Factor", "Level", "NDCG", "Reading"),
    (
        Line(("rank", "a|b"), (estimate(Interval(0.5, 0.4, 0.6), share, bold=True, below=True), Shown("holds")), "Top"),
        Line(("", "<i>"), (NOTHING, Shown("not shown " * 20)), "Top", ruled=True),
    ),
    ("50 % of all.",),
    key="ab",
    words=frozenset([1]),
)


def test_markdown() -> None:
    lines = to_markdown(SHEET).splitlines()
    assert lines[0] == "## A_B" and lines[-1] == "- 50 % of all."
    assert lines[3].startswith("| :------") and lines[3].count("-: |") == 1, "only numbers are on the right"
    assert lines[4].startswith("| **Top** |")
    assert r"| rank    | a\|b  | **.500** [.400, .600] | holds" in lines[5]
    assert r"\<i>" in lines[6] and " – | not shown" in lines[6]


def test_latex() -> None:
    text = to_latex(SHEET)
    assert r"\caption{A\_B.}" in text and r"\label{tab:ab}" in text and r"\begin{tabular}{@{}llrl@{}}" in text
    assert r"rank & a$|$b & \textbf{.500} & holds \\" in text
    assert r" &  & {\scriptsize [.400, .600]} &  \\[2pt]" in text, "the interval is below its value"
    assert r"\multicolumn{4}{@{}l}{\textit{Top}} \\" in text and r"\addlinespace" in text and r"50 \% of all." in text
    assert r"\label" not in to_latex(sheet_of("t", ("a", "b"), [("x", "1")], names=1))


@pytest.mark.parametrize("width", [50, 120])
def test_terminal(width: int) -> None:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(to_rich(SHEET, width))
    text = console.export_text()
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    assert "[.400, .600]" in text and "<i>" in text
    assert text.count("not shown") + text.count("not\n") >= 1


def test_a_row_that_lacks_a_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        sheet_of("t", ("a", "b"), [("x",)], names=1)
