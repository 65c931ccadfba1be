"""Text cannot break out of markup, and tables carry their sort keys."""

import json
import math
import re

import pytest

from analysis.html.grid import MISSING, GridCell, Head, grid, number, text
from analysis.html.markup import Html, breakable, join, json_block, tag
from analysis.render.numbers import counted, percent, share, words

HURT = "<script>alert('\"&')</script>"


def test_text_is_escaped_wherever_it_stands() -> None:
    made = tag("p", HURT, tag("b", HURT), title=HURT)
    escaped = "&lt;script&gt;alert(&#x27;&quot;&amp;&#x27;)&lt;/script&gt;"
    assert made == f'<p title="{escaped}">{escaped}<b>{escaped}</b></p>'
    assert breakable("a/" + HURT).count("<script") == 0
    assert join(HURT, Html("<b></b>")) == f"{escaped}<b></b>"


def test_attributes() -> None:
    made = tag("th", class_="n", data_v=1.5, hidden=True, title=None, tabindex=False)
    assert made == '<th class="n" data-v="1.5" hidden></th>'
    assert tag("br") == "<br>"


def test_json_says_nothing_that_a_page_would_read_as_markup() -> None:
    content = {"title": "</script><!-- \u2028\u2029 & ]]>", "n": [1, None, 0.5]}
    block = json_block("data", content)
    inner = re.fullmatch(r'<script type="application/json" id="data">(.*)</script>', block)
    assert inner is not None
    assert not set("<>&\u2028\u2029") & set(inner[1])
    assert json.loads(inner[1]) == content
    with pytest.raises(ValueError):
        json_block("data", [math.nan])


def test_a_grid_keeps_what_it_is_sorted_by() -> None:
    made = grid("t", "Caption", [Head("Row", number=False), Head("Value", "about it")],
                [[text("a", "b"), number(0.5, share, "[.4, .6]")], [text("c"), number(math.nan, share)]])  # fmt: skip
    assert '<th scope="row" data-v="b">a</th>' in made
    assert '<td class="n" data-v="0.5">.500<span class="below">[.4, .6]</span></td>' in made
    assert f'<td class="n">{MISSING.shown}</td>' in made
    assert '<th scope="col" class="n" title="about it">Value</th>' in made


def test_words() -> None:
    assert [words(["a"]), words(["a", "b"]), words(["a", "b", "c"]), words([])] == ["a", "a and b", "a, b and c", ""]
    assert [counted(1, "run"), counted(1200, "run")] == ["one run", "1,200 runs"]
    assert percent(0.125) == "12\u00a0%"
    assert GridCell("x").key is None
