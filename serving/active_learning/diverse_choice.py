"""Chooses among uncertain texts those that stand for all of them: a pool without near duplicates, and weighted k-means over it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from agent.encoding import Float32
from agent.evaluation import Progress

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
_AT_ONCE = 1_000  # texts that are compared with others together
_ROUNDS = 20  # of k-means at most
_LEAST_WEIGHT = 1e-6
_ROUNDING = 1e-5  # by which inner products of equal vectors may miss 1

Numbers = npt.NDArray[np.floating[Any]]

Vectors = Callable[[Int64], Float32]
"""Places of texts to their vectors of length 1."""


class Pool(NamedTuple):
    """Uncertain texts of which none is nearly another.

    Attributes:
        places: Of the texts, most uncertain first: int64 [texts].
        vectors: float32 [texts, dimensions].
        looked_at: How many texts were looked at for it.
        near_labelled, near_others: How many of them are nearly a labelled text, or nearly a more uncertain one.
    """

    places: Int64
    vectors: Float32
    looked_at: int
    near_labelled: int
    near_others: int


def distinct_pool(order: Int64, vectors: Vectors, labelled: Sequence[Numbers], *, size: int, similarity: float) -> Pool:
    """The first texts of an order that are nearly neither a labelled one nor one before them.

    Args:
        order: Places of texts, most uncertain first.
        vectors: Theirs.
        labelled: Vectors of labelled texts, in blocks of any number type.
        size: The most texts that the pool takes.
        similarity: Cosine from which on two texts are nearly the same.
    """
    limit, kept = similarity - _ROUNDING, list[Pool]()
    for first in range(0, len(order), _AT_ONCE):
        room = size - sum(len(pool.places) for pool in kept)
        if not room:
            break
        places = order[first : first + _AT_ONCE]
        own = vectors(places)
        nearest = _nearest(own, labelled)
        new = (_nearest(own, [pool.vectors for pool in kept]) < limit) & (nearest < limit)
        taken, end = _greedily(own @ own.T < limit, new, room)
        far = nearest[:end] < limit
        near = end - int(far.sum()), int(far.sum()) - len(taken)
        kept.append(Pool(places[taken], own[taken], end, *near))
    return _joined(kept)


def representatives(
    vectors: Float32, weights: Float64, number: int, *, seed: int, progress: Progress | None = None
) -> list[int]:
    """Chooses texts that stand for all: those nearest to the centres of weighted k-means (Zhdanov, arXiv 1901.05954).

    Args:
        vectors: Of length 1, float32 [texts, dimensions].
        weights: How much each text counts, float64 [texts].
        number: How many to choose, at most all.
        seed: Of the first centres, which k-means++ draws.
        progress: Called with (steps done, steps in all).

    Returns:
        Places of the chosen texts, ascending.
    """
    if number >= len(vectors):
        return list(range(len(vectors)))
    mass, show, found = np.maximum(weights, _LEAST_WEIGHT), progress or (lambda done, total: None), list[int]()
    for place in _first_centres(vectors, mass, number, np.random.default_rng(seed)):
        found.append(place)
        show(len(found), number + _ROUNDS)
    centres = vectors[found]
    owners, distances = _assigned(vectors, centres)
    for done in range(_ROUNDS):
        show(number + done, number + _ROUNDS)
        centres = _moved(vectors, mass, owners, centres)
        before = owners
        owners, distances = _assigned(vectors, centres)
        if (owners == before).all():
            break
    order = np.lexsort((distances, owners))
    chosen = order[np.unique(owners[order], return_index=True)[1]]
    spare = np.setdiff1d(np.arange(len(vectors)), chosen)[: number - len(chosen)]  # where centres own no text
    return sorted([*chosen.tolist(), *spare.tolist()])


def _first_centres(vectors: Float32, mass: Float64, number: int, rng: np.random.Generator) -> Iterator[int]:
    """Yields places of texts drawn by their mass times the squared distance to the nearest one drawn before: of several the best.

    Greedy k-means++ (Arthur and Vassilvitskii, 2007), with the number of trials that scikit-learn uses.
    """
    distance = np.ones(len(vectors), np.float32)
    trials = 2 + int(np.log(number))
    for _ in range(number):
        chances = np.maximum(distance, _ROUNDING**2) * mass
        drawn = rng.choice(len(vectors), trials, p=chances / chances.sum())
        distances = np.minimum(distance[:, None], 2 - 2 * (vectors @ vectors[drawn].T))
        best = int((mass @ distances).argmin())
        yield int(drawn[best])
        distance = distances[:, best]


def _assigned(vectors: Float32, centres: Float32) -> tuple[Int64, Float32]:
    """The nearest centre of each text, and the squared distance to it."""
    owners, distances = np.empty(len(vectors), np.int64), np.empty(len(vectors), np.float32)
    lengths = (centres**2).sum(axis=1)
    for first in range(0, len(vectors), _AT_ONCE):
        block = lengths - 2 * (vectors[first : first + _AT_ONCE] @ centres.T)
        owners[first : first + _AT_ONCE] = block.argmin(axis=1)
        distances[first : first + _AT_ONCE] = 1 + block.min(axis=1)
    return owners, distances


def _moved(vectors: Float32, mass: Float64, owners: Int64, centres: Float32) -> Float32:
    """The weighted means of the texts of each centre; one without texts stays."""
    order = np.argsort(owners, kind="stable")
    present, starts = np.unique(owners[order], return_index=True)
    sums = np.add.reduceat(vectors[order] * mass[order, None].astype(np.float32), starts, axis=0)
    moved = centres.copy()
    moved[present] = sums / np.add.reduceat(mass[order], starts)[:, None]
    return moved


def _nearest(vectors: Float32, others: Iterable[Numbers]) -> Float32:
    """Cosine of each to the most similar of the others, float32 [vectors]; -1 without others."""
    found = np.full(len(vectors), -1, np.float32)
    for block in others:
        if len(block):
            np.maximum(found, (vectors @ block.astype(np.float32, copy=False).T).max(axis=1), out=found)
    return found


def _greedily(differs: npt.NDArray[np.bool_], new: npt.NDArray[np.bool_], room: int) -> tuple[list[int], int]:
    """Rows that differ from all those taken before them, and how many rows were looked at."""
    free, taken = new.copy(), list[int]()
    for row in range(len(free)):
        if len(taken) == room:
            return taken, row
        if free[row]:
            taken.append(row)
            free &= differs[row]
    return taken, len(free)


def _joined(pools: Sequence[Pool]) -> Pool:
    """The empty pool is that of no text."""
    if not pools:
        return Pool(np.zeros(0, np.int64), np.zeros((0, 0), np.float32), 0, 0, 0)
    columns = list(zip(*pools, strict=True))
    arrays = [np.concatenate(column) for column in columns[:2]]
    return Pool(*arrays, *(sum(column) for column in columns[2:]))  # type: ignore[arg-type]
