"""Random completions: lines that are entries in every decoration, lines that are not, and plain noise."""

from hypothesis import strategies as st

from rlbench.data.mini import read_films

FILMS = [(title, year) for title, year, _ in read_films()] + [
    ("Amélie", 2001),
    ("七人の侍", 1954),
    ("Birdman or (The Virtue of Ignorance)", 2014),
    ("(500) Days of Summer", 2009),
    ("2001: A Space Odyssey", 1968),
    ("1917", 2019),
    ("'71", 2014),
    ("61*", 2001),
    ("*batteries not included", 1987),
    ("Don't F**k with Cats", 2019),
]
FORMS = (
    "{title} ({year})",
    "{title} ({year})\r",
    "  {title} ({year})  ",
    "7. {title} ({year})",
    "12) {title} ({year})",
    "- {title} ({year})",
    "* **{title}** ({year}) - a classic",
    "**{title} ({year})**",
    '"{title}" ({year})',
    "{title} [{year}]",
    "{title}({year})",
)
NOISE = (
    "",
    "   ",
    "Sure, here you are:",
    "Enjoy!",
    "(1979)",
    "1979",
    "Alien",
    "Alien (79)",
    "\x00",
    "\u200f\u200e",
    "()",
)

films = st.sampled_from(FILMS)
entry_lines = st.builds(lambda film, form: form.format(title=film[0], year=film[1]), films, st.sampled_from(FORMS))
plain_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=20)
noise_lines = st.one_of(st.sampled_from(NOISE), plain_text)
texts = st.lists(st.one_of(entry_lines, entry_lines, noise_lines), max_size=14).map("\n".join)
any_text = st.one_of(texts, st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
