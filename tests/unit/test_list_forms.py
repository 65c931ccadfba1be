"""Forms in which language models write lists of films, each with its correct reading.

The forms come from public transcripts, from papers on recommendation with language models, and from bug reports about
parsers of such lists. The films are examples. `None` means that a line is no entry.
"""

import pytest
import torch

from rlbench.lists.entries import forget_lines, parse_line, parse_text, read_line
from rlbench.lists.items import Item
from rlbench.lists.reader import ListReader, UnitLayout
from rlbench.models.tiny import train_tokenizer

MATRIX = ("The Matrix", 1999)

OF_THE_MATRIX = [
    "The Matrix (1999)",
    # numbering
    "1. The Matrix (1999)",
    "1.The Matrix (1999)",
    "1) The Matrix (1999)",
    "1)The Matrix (1999)",
    "1 - The Matrix (1999)",
    "1 – The Matrix (1999)",
    "1 — The Matrix (1999)",
    "01. The Matrix (1999)",
    "10. The Matrix (1999)",
    "100. The Matrix (1999)",
    "1 . The Matrix (1999)",
    "(1) The Matrix (1999)",
    "[1] The Matrix (1999)",
    "#1 The Matrix (1999)",
    "#1: The Matrix (1999)",
    "#1. The Matrix (1999)",
    "#1 - The Matrix (1999)",
    "No. 1: The Matrix (1999)",
    "Rank 1: The Matrix (1999)",
    "Movie 1: The Matrix (1999)",
    "a) The Matrix (1999)",
    "1、The Matrix (1999)",
    "1．The Matrix (1999)",
    "1️⃣ The Matrix (1999)",
    "1\\. The Matrix (1999)",
    # bullets and headings
    "- The Matrix (1999)",
    "-The Matrix (1999)",
    "* The Matrix (1999)",
    "+ The Matrix (1999)",
    "• The Matrix (1999)",
    "•The Matrix (1999)",
    "◦ The Matrix (1999)",
    "– The Matrix (1999)",
    "→ The Matrix (1999)",
    "- [ ] The Matrix (1999)",
    "- [x] The Matrix (1999)",
    "- 1. The Matrix (1999)",
    "1. - The Matrix (1999)",
    "### The Matrix (1999)",
    "### 1. The Matrix (1999)",
    "> The Matrix (1999)",
    "> 1. The Matrix (1999)",
    "   1. The Matrix (1999)  ",
    "\t- The Matrix (1999)\r",
    # emphasis
    "**The Matrix (1999)**",
    "**The Matrix** (1999)",
    "***The Matrix*** (1999)",
    "*The Matrix* (1999)",
    "*The Matrix (1999)*",
    "_The Matrix_ (1999)",
    "_The Matrix (1999)_",
    "__The Matrix__ (1999)",
    "1. **The Matrix** (1999)",
    "1.**The Matrix** (1999)",
    "**1. The Matrix (1999)**",
    "**1.** The Matrix (1999)",
    "1. **The Matrix (1999)**: A hacker learns the truth.",
    "**The Matrix** *(1999)*",
    "**The Matrix** **(1999)**",
    "- **The Matrix (1999)** - Keanu Reeves",
    # quotes
    '"The Matrix" (1999)',
    '"The Matrix (1999)"',
    "“The Matrix” (1999)",
    "'The Matrix' (1999)",
    "‘The Matrix’ (1999)",
    "«The Matrix» (1999)",
    "`The Matrix (1999)`",
    "《The Matrix》(1999)",
    "「The Matrix」（1999）",
    '1. "The Matrix" (1999)',
    '1."The Matrix" (1999)',
    '"The Matrix (1999)",',
    # links, tags and entities
    "[The Matrix (1999)](url)",
    "[The Matrix (1999)](https://www.imdb.com/title/tt0133093/)",
    "[The Matrix](https://www.imdb.com/title/tt0133093/) (1999)",
    "1. [The Matrix](https://en.wikipedia.org/wiki/The_Matrix_(film)) (1999)",
    "- [**The Matrix** (1999)](url) - a classic",
    "<b>The Matrix</b> (1999)",
    "<li>The Matrix (1999)</li>",
    '<a href="https://example.org">The Matrix</a> (1999)<br>',
    # brackets
    "The Matrix [1999]",
    "The Matrix（1999）",
    "The Matrix （1999）",
    "The Matrix【1999】",
    "The Matrix［1999］",
    "The Matrix (１９９９)",
    "The Matrix ( 1999 )",
    "The Matrix(1999)",
    "[The Matrix (1999)]",
    "<The Matrix (1999)>",
    "(The Matrix (1999))",
    # next to the year
    "The Matrix (1999 film)",
    "The Matrix (1999 Film)",
    "The Matrix (1999, dir. Lana Wachowski)",
    "The Matrix (1999; USA)",
    "The Matrix (1999 - Sci-Fi)",
    "The Matrix (1999–2003)",
    "The Matrix (dir. The Wachowskis, 1999)",
    "The Matrix (film, 1999)",
    "The Matrix (1999 film) (1999)",
    # after the year
    "The Matrix (1999) - A hacker learns the truth",
    "The Matrix (1999) – A hacker learns the truth",
    "The Matrix (1999) — like Dark City (1998)",
    "The Matrix (1999): a hacker, a choice, a pill.",
    "The Matrix (1999), directed by the Wachowskis",
    "The Matrix (1999).",
    "The Matrix (1999),",
    "The Matrix (1999);",
    "The Matrix (1999)####2",
    "The Matrix (1999) ⭐ 8.7/10",
    "The Matrix (1999) - If you liked Inception, you might enjoy this.",
    "The Matrix – (1999)",
    "The Matrix, (1999)",
    # tables and JSON
    "| 1 | The Matrix (1999) | Sci-Fi |",
    "| 1 | The Matrix | 1999 |",
    "| 1. | **The Matrix** | 1999 | Sci-Fi |",
    "| The Matrix | 1999 |",
    "|The Matrix|(1999)|",
    '{"title": "The Matrix", "year": 1999},',
    '{"rank": 1, "title": "The Matrix", "year": "1999", "genre": "Sci-Fi"}',
    '  "title": "The Matrix (1999)",',
    '["The Matrix (1999)"]',
    '["The Matrix (1999)", "Heat (1995)"]',
    "Title: The Matrix (1999)",
    "Movie: The Matrix (1999)",
]

OF_OTHER_FILMS: list[tuple[str, Item]] = [
    # titles that start with numbers
    ("12 Angry Men (1957)", ("12 Angry Men", 1957)),
    ("1. 12 Angry Men (1957)", ("12 Angry Men", 1957)),
    ("1.12 Angry Men (1957)", ("1.12 Angry Men", 1957)),
    ("- 12 Angry Men (1957)", ("12 Angry Men", 1957)),
    ("1917 (2019)", ("1917", 2019)),
    ("3. 1917 (2019)", ("1917", 2019)),
    ("| 3 | 1917 | 2019 |", ("1917", 2019)),
    ("300 (2006)", ("300", 2006)),
    ("300: Rise of an Empire (2014)", ("300: Rise of an Empire", 2014)),
    ("2001: A Space Odyssey (1968)", ("2001: A Space Odyssey", 1968)),
    ("(500) Days of Summer (2009)", ("(500) Days of Summer", 2009)),
    ("4. (500) Days of Summer (2009)", ("(500) Days of Summer", 2009)),
    ("10 Things I Hate About You (1999)", ("10 Things I Hate About You", 1999)),
    ("21. 21 Grams (2003)", ("21 Grams", 2003)),
    ("21 Grams (2003)", ("21 Grams", 2003)),
    ("9 (2009)", ("9", 2009)),
    ("9. 9 (2009)", ("9", 2009)),
    ("8½ (1963)", ("8½", 1963)),
    ("3:10 to Yuma (2007)", ("3:10 to Yuma", 2007)),
    ("50/50 (2011)", ("50/50", 2011)),
    ("2.0 (2018)", ("2.0", 2018)),
    ("'71 (2014)", ("'71", 2014)),
    ("61* (2001)", ("61*", 2001)),
    ("Blade Runner 2049 (2017)", ("Blade Runner 2049", 2017)),
    ("Wonder Woman 1984 (2020)", ("Wonder Woman 1984", 2020)),
    ("1. Nineteen Eighty-Four (1984)", ("Nineteen Eighty-Four", 1984)),
    # short and odd titles
    ("M (1931)", ("M", 1931)),
    ("1. M (1931)", ("M", 1931)),
    ("M. Butterfly (1993)", ("M. Butterfly", 1993)),
    ("I, Robot (2004)", ("I, Robot", 2004)),
    ("E.T. the Extra-Terrestrial (1982)", ("E.T. the Extra-Terrestrial", 1982)),
    ("*batteries not included (1987)", ("*batteries not included", 1987)),
    ("1. *batteries not included (1987)", ("*batteries not included", 1987)),
    ("Don't F**k with Cats (2019)", ("Don't F**k with Cats", 2019)),
    ("M*A*S*H (1970)", ("M*A*S*H", 1970)),
    ("[REC] (2007)", ("[REC]", 2007)),
    ("[REC](2007)", ("[REC]", 2007)),
    ("-30- (1959)", ("-30-", 1959)),
    ("Birdman or (The Virtue of Ignorance) (2014)", ("Birdman or (The Virtue of Ignorance)", 2014)),
    ("Blade Runner (The Final Cut) (1982)", ("Blade Runner (The Final Cut)", 1982)),
    ("Fast &amp; Furious (2009)", ("Fast & Furious", 2009)),
    ("7. Fast & Furious (2009)", ("Fast & Furious", 2009)),
    ("Amélie（2001）", ("Amélie", 2001)),
    ("《七人の侍》（1954）", ("七人の侍", 1954)),
    ("the matrix (1999)", ("the matrix", 1999)),
    ("Y tu mamá también (2001)", ("Y tu mamá también", 2001)),
    # titles that are sentences
    ("I Know What You Did Last Summer (1997)", ("I Know What You Did Last Summer", 1997)),
    ("Here Comes the Boom (2012)", ("Here Comes the Boom", 2012)),
    ("Here Is Your Life (1966)", ("Here Is Your Life", 1966)),
    ("Since You Went Away (1944)", ("Since You Went Away", 1944)),
    ("Because You're Mine (1952)", ("Because You're Mine", 1952)),
    ("Based on a True Story (2017)", ("Based on a True Story", 2017)),
    ("If You Could Only Cook (1935)", ("If You Could Only Cook", 1935)),
    ("You Will Meet a Tall Dark Stranger (2010)", ("You Will Meet a Tall Dark Stranger", 2010)),
    ("You've Got Mail (1998)", ("You've Got Mail", 1998)),
    ("Hello, Dolly! (1969)", ("Hello, Dolly!", 1969)),
    ("Yes, Giorgio (1982)", ("Yes, Giorgio", 1982)),
    ("Hi, Mom! (1970)", ("Hi, Mom!", 1970)),
    ("Let's Go to Prison (2006)", ("Let's Go to Prison", 2006)),
    ("Hello, I'm Your Aunt! (1975)", ("Hello, I'm Your Aunt!", 1975)),
    ("I'm a Cyborg, But That's OK (2006)", ("I'm a Cyborg, But That's OK", 2006)),
    ("Let Me In (2010)", ("Let Me In", 2010)),
    ("Thanks for Sharing (2012)", ("Thanks for Sharing", 2012)),
    ("Thank You for Smoking (2005)", ("Thank You for Smoking", 2005)),
    ("Looking for Mr. Goodbar (1977)", ("Looking for Mr. Goodbar", 1977)),
    ("Like Water for Chocolate (1992)", ("Like Water for Chocolate", 1992)),
    ("Sure Thing, The (1985)", ("Sure Thing, The", 1985)),
    ("Where the Wild Things Are (2009)", ("Where the Wild Things Are", 2009)),
    ("Movie 43 (2013)", ("Movie 43", 2013)),
    ("No Country for Old Men (2007)", ("No Country for Old Men", 2007)),
    ("Rank (1999)", ("Rank", 1999)),
    ("1. You should have left (2020)", ("You should have left", 2020)),
]

NO_ENTRY = [
    "Based on your love of The Matrix (1999), here are…",
    "Based on your love of The Matrix (1999), here are some films you might enjoy:",
    "Based on your love of The Matrix (1999)",
    "Since you liked The Matrix (1999), you might enjoy:",
    "Since you enjoyed *The Matrix* (1999), I recommend the following films:",
    "If you liked The Matrix (1999), try these:",
    "**Because you watched The Matrix (1999):**",
    "Here are 10 movies like The Matrix (1999):",
    "Here's a list of films similar to “The Matrix” (1999):",
    "Sure! Here are some films like The Matrix (1999):",
    "Certainly! Based on The Matrix (1999), I suggest:",
    "Movies like The Matrix (1999):",
    "Similar to The Matrix (1999):",
    "For fans of The Matrix (1999), here are twenty films:",
    "As a fan of The Matrix (1999), you will love these:",
    "I see that you liked The Matrix (1999) and Heat (1995).",
    "I'd recommend these after The Matrix (1999).",
    "Great choice! The Matrix (1999) is a classic.",
    "The Matrix (1999) is great, so here are some more films:",
    "Enjoy these films as much as The Matrix (1999)!",
    "Let me know if you have already seen The Matrix (1999).",
    "Note: The Matrix (1999) was left out, since you have seen it.",
    "All of these share themes with The Matrix (1999).",
    "These films are all similar to The Matrix (1999).",
    "I hope you enjoy them as much as The Matrix (1999)!",
    "Here are some recommendations:",
    "Enjoy!",
    "",
    "---",
    "***",
    "```json",
    "[",
    "{",
    "| # | Title | Year |",
    "|---|---|---|",
    "| :-- | --: |",
    "1.",
    "1. (1999)",
    "- ",
    "The Matrix",
    "The Matrix, 1999",
    "The Matrix (99)",
    "The Matrix (19990)",
    "The Matrix (١٩٩٩)",
    # the year comes first: nothing marks the end of the title
    "(1999) The Matrix",
    "1. (1999) The Matrix",
    "1. (1999) The Matrix - a hacker learns the truth",
    "- **[1999]** The Matrix",
    "1999 - The Matrix",
    "1999: The Matrix",
]


def test_a_numbered_line_is_an_entry_whatever_its_title_begins_with() -> None:
    """Models number their entries, but not their sentences."""
    line = "If you only knew Maria (1946)"
    assert read_line(line) is None
    for marker in ("1. ", "- ", "#3 ", "12) "):
        assert read_line(marker + line) == ("If you only knew Maria", 1946)


@pytest.mark.parametrize("line", OF_THE_MATRIX)
def test_a_form_of_an_entry(line: str) -> None:
    assert read_line(line) == MATRIX


@pytest.mark.parametrize(("line", "film"), OF_OTHER_FILMS)
def test_titles_that_look_like_something_else(line: str, film: Item) -> None:
    assert read_line(line) == film


@pytest.mark.parametrize("line", NO_ENTRY)
def test_lines_that_are_no_entry(line: str) -> None:
    assert read_line(line) is None


def test_lines_that_are_remembered_read_the_same() -> None:
    forget_lines()
    for line in [*OF_THE_MATRIX, *(line for line, _ in OF_OTHER_FILMS), *NO_ENTRY]:
        assert parse_line(line) == parse_line(line) == read_line(line), line


ANSWER = """\
Based on your love of The Matrix (1999), here are five films:

1.**Heat** (1995) - a crime saga
2. [Alien (1979)](url)
•Jaws（1975）
| 4 | 1917 | 2019 |
Up (2009 film)

Let me know if you have seen Alien (1979)!"""


def test_entries_and_token_units_of_a_whole_answer_agree() -> None:
    tokenizer = train_tokenizer([ANSWER], 400, "words")
    reader = ListReader(tokenizer, 4)
    read = parse_text(ANSWER)
    assert read.items == [("Heat", 1995), ("Alien", 1979), ("Jaws", 1975), ("1917", 2019), ("Up", 2009)]
    assert list(read.lines) == [2, 3, 4, 5, 6]
    assert read.n_lines == 7
    ids = tokenizer(ANSWER, add_special_tokens=False)["input_ids"]
    units = reader.segment(torch.tensor([ids]), torch.ones(1, len(ids)), [read.lines]).unit_ids[0].tolist()
    layout = UnitLayout(4)
    texts = {unit: tokenizer.decode([i for i, u in zip(ids, units, strict=True) if u == unit]) for unit in set(units)}
    lines = ANSWER.split("\n")
    assert [texts[rank] for rank in range(4)] == [line + "\n" for line in lines[2:6]]
    assert texts[layout.overflow] == lines[6] + "\n"
    assert texts[layout.other] == lines[0] + "\n\n\n" + lines[8]
