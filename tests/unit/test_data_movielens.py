"""MovieLens-1M: small hand-made files in the published form. The real files are not among the shared data."""

from collections.abc import Callable
from pathlib import Path

from rlbench.config.datasets import DATASETS
from rlbench.config.schema import Config, MovielensConfig
from rlbench.data import load_dataset
from rlbench.data.checks import check_dataset
from tests.helpers_inputs import loader, refuser

TITLES = ["Alien", "Jaws", "Heat", "Up", "Big", "Cars", "Ran", "M", "Babe", "Fargo", "Cube", "Pi"]
FILMS = [f"{number}::{title} ({1980 + number})::Drama" for number, title in enumerate(TITLES, 1)]


def film(number: int) -> tuple[str, int]:
    return TITLES[number - 1], 1980 + number


def ratings(user: int, *films: int, rating: int = 5) -> list[str]:
    """Ratings in the order given, a second apart."""
    return [f"{user}::{number}::{rating}::{978300000 + place}" for place, number in enumerate(films)]


LIKES = [*ratings(1, 3, 1, 2, 5, 4, 7, 6, 9), *ratings(2, 8, 2, 1, 4, 5, 6, 7, 3), *ratings(1, 11, rating=3)]


def write(folder: Path, films: list[str] = FILMS, likes: list[str] = LIKES) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "movies.dat").write_bytes("\n".join(films).encode("iso-8859-1"))
    (folder / "ratings.dat").write_text("\n".join(likes) + "\n")
    (folder / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n")
    return folder


load = loader(
    MovielensConfig,
    name="movielens",
    cutoffs=[],
    list_length=3,
    prompt_template="{n}:\n{conversation}",
    min_rating=4,
    history=3,
    min_history=2,
    truth_size=2,
    train_windows=1,
)
refusal = refuser(load)


def test_the_last_likes_are_left_out(tmp_path: Path) -> None:
    data = load(write(tmp_path))
    first = {split: data.splits[split][0] for split in ("train", "validation", "test")}
    assert first["test"].ground_truth == [film(6), film(9)]
    assert first["test"].prompt[0]["content"] == "3:\nBig (1985)\nUp (1984)\nRan (1987)"
    assert first["test"].seen_titles == ["Big", "Up", "Ran"]
    assert first["validation"].ground_truth == [film(4), film(7)]
    assert first["validation"].seen_titles == ["Alien", "Jaws", "Big"]
    assert first["train"].ground_truth == [film(2), film(5)] and first["train"].seen_titles == ["Heat", "Alien"]
    assert [record.cluster_id for record in data.splits["test"]] == ["1", "2"]
    assert check_dataset(data, 3) == []
    assert len(data.catalog) == len(FILMS)
    assert data.notices[0] == "16 of 17 ratings are at least 4; 2 people have one"


def test_windows_and_short_histories(tmp_path: Path) -> None:
    path = write(tmp_path, likes=[*LIKES, *ratings(3, 1, 2, 3)])
    assert len(load(path, min_history=1, truth_size=1, train_windows=3).splits["train"]) == 6
    assert {record.cluster_id for record in load(path).splits["test"]} == {"1", "2"}


def test_likes_of_one_second_are_in_the_order_of_ids(tmp_path: Path) -> None:
    likes = [f"1::{number}::5::978300000" for number in (9, 4, 2, 1, 3, 7, 8, 5)]
    data = load(write(tmp_path, likes=[*likes, *ratings(2, 1, 2, 3, 4, 5, 6, 7, 8)]), list_length=2)
    assert data.splits["test"][0].ground_truth == [film(8), film(9)]


def test_titles(tmp_path: Path) -> None:
    films = [
        "1::Matrix, The (1999)::Action",
        "2::City of Lost Children, The (Cité des enfants perdus, La) (1995)::Adventure",
        "3::Seven (Se7en) (1995)::Crime",
        "4::Avventura, L' (1960)::Drama",
        "5::Shanghai Triad (Yao a yao yao dao waipo qiao) (1995)::Drama",
        "6::Heat (1995)::Crime",
        "7::Heat (1986)::Crime",
        "8::Heat (1995)::Crime",
    ]
    data = load(
        write(tmp_path, films, [*ratings(1, 1, 2, 3, 4, 5, 6, 7), *ratings(2, 6, 5, 4, 3, 2, 1, 7)]), min_history=1
    )
    assert ("The City of Lost Children", 1995) in data.catalog.items and ("L'Avventura", 1960) in data.catalog.items
    assert ("The Matrix", 1999) in data.catalog.items and ("Seven", 1995) in data.catalog.items
    assert "3 titles lost another title in parentheses" in data.notices
    assert "1 films equal an earlier film" in data.notices


def test_a_remake_of_a_named_film_is_no_target(tmp_path: Path) -> None:
    films = [*FILMS, "13::Alien (2019)::Drama"]
    data = load(write(tmp_path, films, [*ratings(1, 2, 3, 4, 5, 6, 7, 1, 8, 13), *LIKES[8:16]]), history=9)
    assert data.splits["test"][0].ground_truth == [film(8)]
    assert "1 films of truths are not targets, because the prompt names their title" in data.notices


def test_the_shipped_config_loads_it(tmp_path: Path, config: Callable[..., Config]) -> None:
    options = ["dataset.list_length=3", "dataset.min_history=2", "dataset.truth_size=2"]
    settings = config("dataset=movielens", f"dataset.path={write(tmp_path)}", *options).dataset
    assert "liked these films" in load_dataset(settings).splits["test"][0].prompt[0]["content"]
    assert set(DATASETS["movielens"].sources(settings)) == {"movies.dat", "ratings.dat"}


def test_problems_are_refused_together(tmp_path: Path) -> None:
    assert "dataset.path=FOLDER" in refusal(None)[0]
    assert "movies.dat and ratings.dat is missing" in refusal(tmp_path / "none")[0]
    films = [*FILMS, "13::No year::Drama", "x::Up (2009)::Drama", "1::Up (2009)::Drama", "14::Up (2009)"]
    path = write(tmp_path, films, [*LIKES, "1::99::5::1", "1::1::9::1", "1::1::5::1", "1::1::5"])
    text = "\n".join(refusal(path, min_history=9, prompt_template="x"))
    assert "dataset.min_history = 9 is more than dataset.history = 3" in text
    assert "dataset.prompt_template has no {conversation}" in text
    for number, words in [
        (13, "the title must have the form \"Title (Year)\": 'No year'"),
        (14, "MovieID must be a whole number: 'x'"),
        (15, "MovieID is that of an earlier line: 1"),
        (16, "expected MovieID::Title (Year)::Genres"),
    ]:
        assert f"{path / 'movies.dat'}, line {number}: {words}" in text
    for number, words in [
        (18, "movies.dat has no such MovieID: 99"),
        (19, "the rating must lie between 1 and 5: 9"),
        (20, "this user has rated this film before: 1::1"),
        (21, "expected UserID::MovieID::Rating::Timestamp, four whole numbers"),
    ]:
        assert f"{path / 'ratings.dat'}, line {number}: {words}" in text


def test_nobody_with_enough_likes(tmp_path: Path) -> None:
    problems = refusal(write(tmp_path), min_history=3, truth_size=5)
    assert len(problems) == 2 and "for a record of 'train'" in problems[0]
