"""The embedded dataset: Reddit-like requests for films, generated from a seed by a known preference model.

A context is a person who wants a genre of an era and has liked one to three films. Every film has a hidden taste
coordinate and a popularity. The weight of film f for context c is

    w_f = exp(g [genre matches] + e [era matches] + t (1 - |taste_c - taste_f|) + p popularity_f)

where taste_c is the mean taste of the liked films. Several answerers reply to a context. Each draws some films,
without the liked ones, without replacement and in proportion to w. The number of films does not depend on which films
they are. So among all lists, the one sorted by w has the highest expected Recall and NDCG at every cut-off. It is the
oracle, the ceiling in every table.

Contexts are in time order; train, validation and test are consecutive stretches. Demonstrations for the SFT stage are
noisy: each film is drawn from w with probability 1 - noise and from the whole catalogue otherwise, where popular films
may be preferred. They are ordered by popularity, not by fit. A share is careful: without noise, ordered by w. So they
teach the form and some of the content, and leave RL room to improve both content and order. Other demonstrations
come from a simulated teacher, by all or some steps of Stage 1 of the Rank-GRPO paper (`rlbench.data.mini_teacher`).
Everything else is the same.
"""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np

from rlbench.base.errors import BadInput, nearest
from rlbench.config.schema import MiniConfig
from rlbench.data.checks import fingerprint
from rlbench.data.lengths import LongPrompts
from rlbench.data.mini_teacher import Request, World, demonstrate
from rlbench.data.record import SPLITS, Film, Messages, RankedListDataset, Record
from rlbench.data.stage1.scores import STEPS
from rlbench.lists.catalog import Catalog
from rlbench.lists.items import Item

ERAS = (("before 1980", 0, 1979), ("1980s", 1980, 1989), ("1990s", 1990, 1999), ("after 2000", 2000, 9999))

_REQUESTS = (
    "any good {genre} films from {era}? i liked {liked}",
    "looking for {genre}, {era}. loved {liked}",
    "{genre} {era}, something like {liked}?",
    "i enjoyed {liked}. what {genre} films of {era} come next",
    "suggest {era} {genre} please, big fan of {liked}",
)
_ERA_WORDS = {"before 1980": "the old days", "1980s": "the 80s", "1990s": "the 90s", "after 2000": "this century"}
_ANSWERERS = np.array([0.35, 0.25, 0.18, 0.12, 0.1])
"""Shares of contexts with 1, 2, ..., 5 answerers."""
MOST_LIKED = 3
"""Largest number of liked films in a request."""
NOBODY = np.array([], dtype=np.int64)
"""No liked films."""


def read_films() -> list[tuple[str, int, str]]:
    """(title, year, genre) of the embedded catalogue, in the order of the file."""
    text = files("rlbench.data").joinpath("films.csv").read_text(encoding="utf-8")
    return [(row["title"], int(row["year"]), row["genre"]) for row in csv.DictReader(text.splitlines())]


class _World:
    """The films as arrays, and the preference model over them."""

    def __init__(self, rng: np.random.Generator, config: MiniConfig):
        rows = read_films()
        self.films: list[Film] = [(title, year) for title, year, _ in rows]
        self.genres = sorted({genre for _, _, genre in rows})
        self.genre = np.array([self.genres.index(genre) for _, _, genre in rows])
        self.era = np.array([next(i for i, (_, a, b) in enumerate(ERAS) if a <= year <= b) for _, year, _ in rows])
        self.taste = rng.uniform(0, 1, len(rows))
        self.popularity = rng.uniform(0, 1, len(rows))
        self.weights = {
            "genre": config.genre_weight,
            "era": config.era_weight,
            "taste": config.taste_weight,
            "popularity": config.popularity_weight,
        }

    def films_at(self, indices: np.ndarray) -> list[Film]:
        """(title, year) of each index."""
        return [self.films[i] for i in indices]

    def preference(self, genre: int, era: int, liked: np.ndarray) -> np.ndarray:
        """(films,) w of a context, 0 for the liked films. Without liked films, taste has no effect."""
        scale = self.weights
        score = (
            scale["genre"] * (self.genre == genre)
            + scale["era"] * (self.era == era)
            + scale["popularity"] * self.popularity
        )
        if len(liked):
            score = score + scale["taste"] * (1 - np.abs(self.taste[liked].mean() - self.taste))
        w = np.exp(score)
        w[liked] = 0.0
        return w


def _draw(rng: np.random.Generator, w: np.ndarray, size: int) -> np.ndarray:
    return rng.choice(len(w), size=size, replace=False, p=w / w.sum())


def load(config: MiniConfig) -> RankedListDataset:
    """The dataset, generated from its seed.

    Raises:
        BadInput: as `generated`.
    """
    return generated(config)[0]


def train_oracle(config: MiniConfig) -> dict[str, list[Film]]:
    """The best list of each train context, by the preference model. Not part of the dataset: only experts know it."""
    return generated(config)[1]


def generated(config: MiniConfig) -> tuple[RankedListDataset, dict[str, list[Film]]]:
    """Generate the dataset, and the best list of each train context.

    Requests are single turns. The seed is the only source of randomness.

    With demonstrations of the teacher the first record of each validation context has a demonstration too.

    Raises:
        BadInput: the list length does not fit the catalogue, or `demonstrations_from` is unknown.
    """
    sources = ["noisy", *STEPS]
    if config.demonstrations_from not in sources:
        raise BadInput(
            f"dataset.demonstrations_from = '{config.demonstrations_from}' is unknown; known: {', '.join(sources)}."
            f"{nearest(config.demonstrations_from, sources)}"
        )
    rng = np.random.default_rng(config.seed)
    world = _World(rng, config)
    most = len(world.films) - MOST_LIKED
    if not 1 <= config.list_length <= most:
        raise BadInput(
            f"dataset.list_length = {config.list_length} must lie in 1..{most} for the mini dataset: its catalogue "
            f"has {len(world.films)} films, and up to {MOST_LIKED} of them are already mentioned in a conversation"
        )
    splits: dict[str, list[Record]] = {name: [] for name in SPLITS}
    oracle: dict[str, list[Film]] = {}
    best_of_train: dict[str, list[Film]] = {}
    requests: dict[str, Request] = {}
    sizes = np.array(config.truth_sizes) / np.sum(config.truth_sizes)
    shows = -(-config.demonstrations // config.contexts["train"])  # demonstrations per train context, rounded up
    for split in ("train", "validation", "test"):
        for index in range(config.contexts[split]):
            genre, era = int(rng.integers(len(world.genres))), int(rng.integers(len(ERAS)))
            liked = _draw(rng, world.preference(genre, era, NOBODY), 1 + int(rng.integers(MOST_LIKED)))
            request, w = Request(genre, era, liked), world.preference(genre, era, liked)
            context = Record(
                prompt=_prompt(rng, world, request, config),
                ground_truth=[],
                seen_titles=[title for title, _ in world.films_at(liked)],
                context_id=f"{split}-{index:05d}",
            )
            requests[context.context_id] = request
            for _ in range(1 + int(rng.choice(len(_ANSWERERS), p=_ANSWERERS))):
                truth = world.films_at(_draw(rng, w, 1 + int(rng.choice(len(sizes), p=sizes))))
                splits[split].append(replace(context, ground_truth=truth))
            best = world.films_at(np.argsort(-w, kind="stable")[: config.list_length])
            (best_of_train if split == "train" else oracle)[context.context_id] = best
            if split == "train":
                for _ in range(min(shows, config.demonstrations - len(splits["sft"]))):
                    shown = _demonstration(rng, world, w, config)
                    splits["sft"].append(replace(splits[split][-1], completion=shown))
    if config.demonstrations_from != "noisy":
        _by_teacher(config, world, requests, splits)
    catalog, long = Catalog(world.films), LongPrompts(config.max_conversation_chars, config.long_prompts)
    splits = long.applied(splits)
    made = RankedListDataset("mini", catalog, splits, oracle, long.notices(), fingerprint(splits, catalog))
    return made, best_of_train


def sources(config: MiniConfig) -> dict[str, Path]:
    """No files of the user."""
    return {}


def _prompt(rng: np.random.Generator, world: _World, request: Request, config: MiniConfig) -> list[dict[str, str]]:
    titles = " and ".join(f"{title} ({year})" for title, year in world.films_at(request.liked))
    text = _REQUESTS[rng.integers(len(_REQUESTS))].format(
        genre=world.genres[request.genre], era=_ERA_WORDS[ERAS[request.era][0]], liked=titles
    )
    template = config.prompt_template.replace("{n}", str(config.list_length))
    return [{"role": "user", "content": template.replace("{conversation}", text)}]


def _demonstration(rng: np.random.Generator, world: _World, w: np.ndarray, config: MiniConfig) -> Messages:
    any_film = (w > 0) * np.exp(config.noise_popularity * world.popularity)
    careful = config.careful_share > 0 and rng.uniform() < config.careful_share
    noise = 0.0 if careful else config.demonstration_noise
    drawn = _draw(rng, (1 - noise) * w / w.sum() + noise * any_film / any_film.sum(), config.list_length)
    if careful:
        return _completion(world.films_at(drawn[np.argsort(-w[drawn])]))
    return _completion(world.films_at(drawn[np.argsort(-world.popularity[drawn])]))


def _completion(films: Sequence[Film]) -> Messages:
    return [{"role": "assistant", "content": "\n".join(f"{title} ({year})" for title, year in films)}]


def _by_teacher(
    config: MiniConfig, world: _World, requests: Mapping[str, Request], splits: dict[str, list[Record]]
) -> None:
    """Replace the demonstrations of `sft` with the teacher's, and give one to each validation context.

    Stage 1 is fitted to the truth of the demonstrated train contexts.
    """
    place: dict[Item, int] = {film: index for index, film in enumerate(world.films)}
    truths: defaultdict[str, list[int]] = defaultdict(list)
    for record in splits["train"]:
        truths[record.context_id] += [place[film] for film in record.ground_truth]
    shown, held_out = splits["sft"], splits["validation"]
    first = list({record.context_id: index for index, record in reversed(list(enumerate(held_out)))}.values())
    contexts = [record.context_id for record in [*shown, *(held_out[index] for index in first)]]
    lists = demonstrate(
        config.demonstrations_from,
        World(world.films, world.genre, world.era, world.popularity, world.weights),
        [requests[context] for context in contexts],
        [np.array(truths[record.context_id], dtype=np.int64) for record in shown],
        config.list_length,
        np.random.default_rng([config.seed, 1]),
    )
    splits["sft"] = [
        replace(record, completion=_completion(films)) for record, films in zip(shown, lists, strict=False)
    ]
    for index, films in zip(first, lists[len(shown) :], strict=True):
        held_out[index] = replace(held_out[index], completion=_completion(films))
