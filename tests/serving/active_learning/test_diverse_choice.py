"""Vectors of texts, pools without near duplicates, and the texts that stand for a pool."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from serving.active_learning.diverse_choice import distinct_pool, representatives
from serving.active_learning.text_vectors import WIDTH, TextVectors, comparable, key_of
from tests.serving.explanation.planted import FILLER

TEXT = "The minutes of the meeting were sent to Chidi, Dewi and the office in Pune on the evening of that day."


def unit(*rows: list[float]) -> np.ndarray:
    found = np.array(rows, np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize(
    "other", ["anna  berg , flew.", "Anna Berg, flew.\n", "ANNA BERG ,FLEW .", "\uff21nna Berg, flew."]
)
def test_texts_are_equal_whatever_their_case_and_white_space(other: str) -> None:
    assert comparable(other) == comparable("Anna Berg, flew.") == "anna berg,flew."
    assert key_of(other) == key_of("Anna Berg, flew.") != key_of("Annaberg, flew.")


def test_vectors_tell_near_texts_from_others() -> None:
    rng = random.Random(0)
    others = [" ".join(rng.choices(FILLER, k=12)) for _ in range(300)]
    vectors = TextVectors([(text,) for text in [TEXT, *others]])
    near = [TEXT.upper(), TEXT.replace("evening", "evenings"), TEXT + "!"]
    found = vectors([(text,) for text in [TEXT, *near, *others, "a", "😀", "\u200b"]])
    assert found.shape == (len(near) + len(others) + 4, WIDTH)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
    similar = found @ found[0]
    assert similar[[1, 3]] == pytest.approx(1, abs=1e-5)
    assert similar[2 : len(near) + 1].min() > 0.95
    assert similar[len(near) + 1 :].max() < 0.6
    one_by_one = np.vstack([vectors([(text,)]) for text in [TEXT, *others[:3]]])
    assert np.allclose(one_by_one, found[[0, 4, 5, 6]], atol=1e-6)


def exact_tf_idf(texts: list[str]) -> np.ndarray:
    """Cosines of all n-grams without hashing, weighed as scikit-learn's TfidfTransformer does by default."""
    counts = [Counter(f" {t} "[i : i + n] for n in (3, 4, 5) for i in range(len(t) + 3 - n)) for t in texts]
    grams = {gram: place for place, gram in enumerate(sorted(set().union(*counts)))}
    rows = np.zeros((len(texts), len(grams)))
    for row, count in zip(rows, counts, strict=True):
        row[[grams[gram] for gram in count]] = list(count.values())
    rows *= np.log((1 + len(texts)) / (1 + (rows > 0).sum(axis=0))) + 1
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


def test_hashed_products_are_those_of_exact_tf_idf() -> None:
    rng = random.Random(1)
    texts = [" ".join(rng.choices(FILLER, k=20)) for _ in range(60)]
    found = TextVectors([(text,) for text in texts])([(text,) for text in texts])
    errors = np.abs(exact_tf_idf(texts) - found @ found.T)
    assert errors.mean() < 1 / WIDTH**0.5
    assert errors.max() < 5 / WIDTH**0.5


def test_a_question_about_the_same_context_is_another_input() -> None:
    asked = "to which offices were these minutes sent in the evening"
    inputs = [(asked, TEXT), ("who leads the meeting", TEXT), (f"{asked}?", TEXT)]
    found = TextVectors(inputs)(inputs)
    assert found[0] @ found[1] < 0.8
    assert found[0] @ found[2] > 0.95


def test_a_pool_takes_no_text_that_is_nearly_a_labelled_or_an_earlier_one() -> None:
    vectors = unit([1, 0, 0], [1, 0.1, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0.1], [1, 1, 0])
    order = np.array([5, 1, 0, 3, 4, 2])
    labelled = [unit([0, 0.05, 1]).astype(np.float16), np.zeros((0, 3), np.float16)]
    pool = distinct_pool(order, lambda places: vectors[places], labelled, size=10, similarity=0.95)
    assert pool.places.tolist() == [5, 1, 4]
    assert (pool.looked_at, pool.near_labelled, pool.near_others) == (6, 1, 2)
    pool = distinct_pool(order, lambda places: vectors[places], [], size=2, similarity=0.95)
    assert (pool.places.tolist(), pool.looked_at) == ([5, 1], 2)
    same = distinct_pool(np.arange(3), lambda places: unit([1, 1])[[0] * len(places)], [], size=3, similarity=1)
    assert same.places.tolist() == [0]


def test_pools_go_on_beyond_a_block_of_duplicates() -> None:
    angles = np.linspace(0, 1.5, 40)
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    vectors = np.concatenate([np.repeat(rows[:1], 2_500, axis=0), rows])
    pool = distinct_pool(np.arange(len(vectors)), lambda places: vectors[places], [], size=4, similarity=0.999)
    cosines = pool.vectors @ pool.vectors.T
    assert len(pool.places) == 4
    assert pool.places[0] == 0
    assert (cosines[np.triu_indices(4, 1)] < 0.999).all()
    assert pool.near_others == pool.looked_at - 4 >= 2_500 - 1


def test_one_text_of_each_cluster_is_chosen_that_is_nearest_to_its_middle() -> None:
    rng = np.random.default_rng(0)
    middles = np.eye(8)[:5]
    vectors = unit(*(middles.repeat(40, axis=0) + 0.1 * rng.normal(size=(200, 8))).tolist())
    for seed in range(5):
        chosen = representatives(vectors, np.ones(200), 5, seed=seed)
        assert [place // 40 for place in chosen] == [0, 1, 2, 3, 4]
        for number, place in enumerate(chosen):
            group = vectors[40 * number : 40 * number + 40]
            distances = np.linalg.norm(group - group.mean(axis=0), axis=1)
            assert place == 40 * number + distances.argmin()


def test_uncertain_texts_draw_the_middle_to_them() -> None:
    angles = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 2.0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert representatives(vectors, np.array([1, 1, 1, 1, 1, 1.0]), 2, seed=0) == [2, 5]
    assert representatives(vectors, np.array([9, 0, 0, 0, 0.1, 1.0]), 2, seed=0) == [0, 5]
    assert representatives(vectors, np.array([0, 0, 0, 0, 9, 1.0]), 2, seed=0) == [4, 5]
    assert 5 not in representatives(vectors, np.array([9, 0, 0, 0, 9, 0]), 2, seed=0)


def test_as_many_are_chosen_as_were_asked_for_and_the_same_by_the_same_seed() -> None:
    vectors = unit(*([[1, 0]] * 6 + [[0, 1]]))
    assert len(set(representatives(vectors, np.zeros(7), 4, seed=0))) == 4
    assert representatives(vectors, np.ones(7), 9, seed=0) == list(range(7))
    rng = np.random.default_rng(1)
    many = unit(*rng.normal(size=(2_300, 6)).tolist())  # several blocks
    weights = rng.random(2_300)
    shown = list[tuple[int, int]]()
    chosen = representatives(many, weights, 50, seed=3, progress=lambda *step: shown.append(step))
    assert shown == sorted(shown)
    assert shown[0][0] == 1
    assert {total for done, total in shown if done <= total} == {shown[-1][1]}
    assert chosen == representatives(many, weights, 50, seed=3) != representatives(many, weights, 50, seed=4)
    assert len(set(chosen)) == 50

    def error(places: list[int]) -> float:
        distances = 2 - 2 * (many @ many[places].T).max(axis=1)
        return float((distances * weights).sum())

    assert error(chosen) < 0.85 * error(rng.choice(2_300, 50, replace=False).tolist())
