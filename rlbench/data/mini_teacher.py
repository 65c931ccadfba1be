"""Demonstrations of `mini` from a simulated teacher, unchanged or after steps of Stage 1 (`rlbench.data.stage1`).

The teacher stands for a large model that knows films but not the catalogue. It sees a request's genre and era, and the
popularity of films, but not the taste that decides which of them the person likes. It draws its list without
replacement in proportion to

    exp(g [genre matches] + e [era matches] + p popularity)

in the order drawn. It gives a share of its ranks to films outside the catalogue: with a wrong year, or a sequel that
was never made. Its rating of a film is 2 points for the genre, 1 for the era, 1 for the more popular half, minus 2.

The content of a film is its genre and its year: two films have the similarity ([genre same] + cos(2π Δyear / 100)) / 2.
The content of a conversation is the requested genre and the mean year of the era's films.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlbench.data.record import Film
from rlbench.data.stage1.scores import (
    RATED,
    STEPS,
    AdjustmentLoss,
    fit_adjustment,
    membership,
    rank_weights,
    reflect,
    remap,
    top_films,
)

OUTSIDE = 0.3
"""Share of the teacher's ranks with films outside the catalogue."""
PERIOD = 100.0
"""Period of the similarity in years; the films span 98."""

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class World:
    """The teacher's knowledge of C films: title and year, genre, era and popularity, and the weights of these."""

    films: Sequence[Film]
    genre: Indices
    era: Indices
    popularity: Array
    weights: Mapping[str, float]

    @property
    def years(self) -> Array:
        return np.array([year for _, year in self.films], dtype=float)


@dataclass(frozen=True)
class Request:
    """The content of a conversation: genre and era, and the films it names, as positions in the catalogue."""

    genre: int
    era: int
    liked: Indices


@dataclass(frozen=True)
class Named:
    """A film that the teacher names: its position in the catalogue, or -1, and its genre."""

    film: Film
    place: int
    genre: int


class Teacher:
    """The simulated teacher.

    Args:
        world: its knowledge.
        rng: its source of randomness.
    """

    def __init__(self, world: World, rng: np.random.Generator):
        self.world, self.rng = world, rng
        self._known = set(world.films)

    def list_of(self, request: Request, count: int) -> list[Named]:
        """`count` different films in rank order, without those that the request names."""
        world, scale = self.world, self.world.weights
        w = np.exp(
            scale["genre"] * (world.genre == request.genre)
            + scale["era"] * (world.era == request.era)
            + scale["popularity"] * world.popularity
        )
        w[request.liked] = 0.0
        drawn = self.rng.choice(len(w), size=count, replace=False, p=w / w.sum())
        return [self._outside(i) if self.rng.uniform() < OUTSIDE else self._inside(i) for i in drawn.tolist()]

    def _inside(self, place: int) -> Named:
        return Named(self.world.films[place], place, int(self.world.genre[place]))

    def _outside(self, place: int) -> Named:
        """The film with another year, or a sequel of it."""
        title, year = self.world.films[place]
        if self.rng.uniform() < 0.5:
            film = (title, year + int(self.rng.choice([-2, -1, 1, 2])))
        else:
            film = (f"{title} II", year + int(self.rng.integers(2, 6)))
        return self._inside(place) if film in self._known else Named(film, -1, int(self.world.genre[place]))

    def ratings(self, request: Request, places: Indices) -> Indices:
        """Ratings of films of the catalogue, in -2..2."""
        world = self.world
        popular = world.popularity > np.median(world.popularity)
        points = 2 * (world.genre == request.genre) + 1 * (world.era == request.era) + 1 * popular - 2
        return np.asarray(points[places], dtype=np.int64)


def similarity(genres: Indices, years: Array, others: Indices, other_years: Array) -> Array:
    """([genre same] + cos(2π Δyear / `PERIOD`)) / 2 between each of the first films and each of the others."""
    apart = years[:, None] - other_years[None, :]
    return ((genres[:, None] == others[None, :]) + np.cos(2 * np.pi * apart / PERIOD)) / 2


def demonstrate(
    source: str,
    world: World,
    requests: Sequence[Request],
    truths: Sequence[Indices],
    count: int,
    rng: np.random.Generator,
) -> list[list[Film]]:
    """A list of `count` films for each request.

    Args:
        source: a name in `scores.STEPS`.
        world: the teacher's knowledge of the films.
        requests: B conversations.
        truths: films of the truth, as positions in the catalogue, for the first len(truths) conversations. These are
            the train conversations.
        count: N.
        rng: the teacher's source of randomness.
    """
    teacher = Teacher(world, rng)
    lists = [teacher.list_of(request, count) for request in requests]
    steps = STEPS[source]
    if not steps:
        return [[named.film for named in ranked] for ranked in lists]
    excluded = np.zeros((len(requests), len(world.films)), dtype=np.bool_)
    for row, request in enumerate(requests):
        excluded[row, request.liked] = True
    scores = _remapped(world, requests, lists)
    if "reflect" in steps:
        ratings = np.zeros(scores.shape, dtype=np.int64)
        most = len(world.films) - int(excluded.sum(axis=1).max())
        for row, places in enumerate(top_films(scores, min(RATED, most), excluded)):
            ratings[row, places] = teacher.ratings(requests[row], places)
        scores = reflect(scores, ratings)
    if "adjust" in steps:
        rows = np.repeat(np.arange(len(truths)), [len(truth) for truth in truths])
        scores = fit_adjustment(AdjustmentLoss(scores[: len(truths)], rows, np.concatenate(truths)))(scores)
    return [[world.films[place] for place in ranked] for ranked in top_films(scores, count, excluded).tolist()]


def _remapped(world: World, requests: Sequence[Request], lists: Sequence[Sequence[Named]]) -> Array:
    """(B, C) scores of Eq. 10 on genres and years."""
    items = list(dict.fromkeys(named for ranked in lists for named in ranked))
    places = {named: place for place, named in enumerate(items)}
    like = similarity(
        np.array([named.genre for named in items]),
        np.array([named.film[1] for named in items], dtype=float),
        world.genre,
        world.years,
    )
    means = np.array([world.years[world.era == era].mean() for era in range(int(world.era.max()) + 1)])
    conversation = similarity(
        np.array([request.genre for request in requests]),
        means[[request.era for request in requests]],
        world.genre,
        world.years,
    )
    weights = rank_weights([[places[named] for named in ranked] for ranked in lists], len(items))
    return remap(weights, like, membership([named.place for named in items], len(world.films)), conversation)
