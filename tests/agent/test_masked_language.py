"""Hidden words: drawn alike everywhere, whole, in the right parts; named and scored; put into texts of every tokenizer family."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError

from agent.data import DataConfig, load_splits
from agent.encoding import IGNORED, Encoder
from agent.errors import DataError, ModelError, RequestError
from agent.tasks import MaskedLanguageModelling, TokenClassification
from agent.tasks.masked_language.mask_scores import NamedToken, score_tokens
from agent.tasks.masked_language.masked_document import words_of
from agent.tasks.masked_language.word_masking import WordMasking, keys_of
from agent.windows.token_vocabulary import Vocabulary
from tests.agent.families import CORPUS, FAMILIES, make

TASK = MaskedLanguageModelling(labels=("word",))
TEXT = " ".join(CORPUS[:4])


def encoder(family="wordpiece", max_tokens=64, stride=8):
    return Encoder(make(family), max_tokens=max_tokens, stride=stride)


def examples(*texts):
    return [TASK.read_record({"text": text}, f"f:{number}") for number, text in enumerate(texts, start=1)]


def many_words(rows=400, tokens=50):
    """Words of one to three sub-words each."""
    words = np.cumsum(np.random.default_rng(0).random((rows, tokens)) < 0.6, axis=1).astype(np.int64)
    words[:, 0] = IGNORED
    return words


def masking(**changes):
    return WordMasking(
        **{"fraction": 0.15, "random": 0.1, "kept": 0.1, "mask_id": 4, "ordinary": np.arange(10, 1000)} | changes
    )


# --- which words


def test_words_are_hidden_whole_in_their_fraction_and_anew_in_each_epoch():
    words = many_words()
    first, second = (masking().choose(words, keys_of(np.arange(400), seed=0, epoch=epoch)) for epoch in (0, 1))
    assert not first[words == IGNORED].any()
    numbers = words * 1000 + np.arange(400)[:, None]
    by_word = {number: first[numbers == number] for number in np.unique(numbers[words != IGNORED])[:2000]}
    assert all(len(set(chosen.tolist())) == 1 for chosen in by_word.values())
    assert first[words != IGNORED].mean() == pytest.approx(0.15, abs=0.01)
    both = (first & second).sum() / first.sum()
    assert both == pytest.approx(0.15, abs=0.04)
    assert (masking().choose(words, keys_of(np.arange(400), seed=0, epoch=0)) == first).all()
    assert (masking().choose(words, keys_of(np.arange(400), seed=1, epoch=0)) != first).any()


def test_a_row_is_drawn_alike_in_any_batch():
    words, keys = many_words(), keys_of(np.arange(400), seed=3, epoch=2)
    ids = np.random.default_rng(1).integers(10, 1000, words.shape)
    shown, hidden = masking().hide(ids, words, keys)
    order = np.random.default_rng(2).permutation(400)[:37]
    alone = masking().hide(
        np.pad(ids[order], ((0, 0), (0, 5))),
        np.pad(words[order], ((0, 0), (0, 5)), constant_values=IGNORED),
        keys[order],
    )
    assert (alone[0][:, :50] == shown[order]).all()
    assert (alone[1][:, :50] == hidden[order]).all()


def test_eight_of_ten_hidden_sub_words_are_masked_one_is_another_and_one_stays():
    words = many_words(2000)
    ids = np.random.default_rng(1).integers(10, 1000, words.shape)
    shown, hidden = masking().hide(ids, words, keys_of(np.arange(2000), seed=0, epoch=0))
    assert (shown[~hidden] == ids[~hidden]).all()
    masks, kept = (shown[hidden] == 4).mean(), (shown[hidden] == ids[hidden]).mean()
    assert masks == pytest.approx(0.8, abs=0.01)
    assert kept == pytest.approx(0.1, abs=0.01)
    others = shown[hidden & (shown != 4) & (shown != ids)]
    assert len(np.unique(others)) > 700
    assert set(others.tolist()) <= set(range(10, 1000))


def test_of_a_few_words_one_is_hidden():
    words = np.array([[IGNORED, 1, 2, 2, IGNORED], [IGNORED] * 5])
    for epoch in range(30):
        chosen = masking(fraction=1e-9).choose(words, keys_of(np.arange(2), seed=0, epoch=epoch))
        assert chosen[0].tolist() in ([False, True, False, False, False], [False, False, True, True, False])
        assert not chosen[1].any()


def test_each_turn_hides_other_words_until_none_is_left():
    words, (key,) = many_words()[0], [keys_of(np.arange(1), seed=0, epoch=0)]
    turns = masking().choose_in_turns(words, key, 100)
    assert (np.sum(turns, axis=0) == (words != IGNORED)).all(), "every word once"
    assert all(
        len({turn[words == number].all() for turn in turns}) == 2 for number in np.unique(words[words != IGNORED])
    )
    assert all(turn.any() for turn in turns)
    first = masking().choose(words[None], key)[0]
    assert (turns[0] == first).all(), "the first turn is that of one alone"
    assert [turn.tolist() for turn in masking().choose_in_turns(words, key, 3)] == [turn.tolist() for turn in turns[:3]]
    none = masking().choose_in_turns(np.full(4, IGNORED), key, 4)
    assert [turn.tolist() for turn in none] == [[False] * 4]


def test_four_turns_hide_four_times_as_many_words():
    words = np.arange(20_000, dtype=np.int64)
    turns = masking().choose_in_turns(words, keys_of(np.arange(1), seed=0, epoch=0), 4)
    assert [turn.mean() for turn in turns] == pytest.approx([0.15] * 4, abs=0.01)
    assert np.sum(turns) == pytest.approx(0.6 * 20_000, rel=0.03)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_is_computed_once_for_each_turn_and_asked_about_each_word_once_at_most(family):
    used, every = encoder(family, 16, 4), MaskedLanguageModelling(labels=("word",), evaluation_turns=100)
    one = MaskedLanguageModelling(labels=("word",), evaluation_turns=1)
    (alone,), (four,), (whole,) = (task.encode(used, examples(TEXT)) for task in (one, TASK, every))
    assert len(four.windows) == 4 * len(alone.windows)
    assert [w.input_ids.tolist() for w in four.windows[: len(alone.windows)]] == [
        w.input_ids.tolist() for w in alone.windows
    ]
    for document in (alone, four, whole):
        asked = np.concatenate([document.asked(index) for index in range(len(document.windows))])
        assert len(asked) == len(set(asked.tolist()))
        for index, window in enumerate(document.windows):
            hidden = np.flatnonzero(window.input_ids == used.vocabulary.mask_id) - window.offset + window.first
            assert hidden.tolist() == document.asked(index).tolist()
    places = np.flatnonzero(words_of(whole, used.vocabulary) != IGNORED)
    assert sorted(np.concatenate([whole.asked(n) for n in range(len(whole.windows))]).tolist()) == places.tolist()
    gold = [
        np.eye(used.vocabulary.size, dtype=np.float32)[target[target != IGNORED]] * 99
        for target in every.targets(None, whole)
    ]
    assert score_tokens([every.predict(whole, gold)]).metrics == pytest.approx(
        {"accuracy": 1, "word_accuracy": 1, "inverse_perplexity": 1}
    )
    assert len({token.word for token in every.predict(whole, gold)}) == len(
        np.unique(words_of(whole, used.vocabulary)[places])
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_dev_has_the_same_words_hidden_whatever_stands_beside_them(family):
    used = encoder(family, 16, 4)
    together, alone = TASK.encode(used, examples(TEXT, "hello world", TEXT)), TASK.encode(used, examples(TEXT))
    for one, other in ((together[0], alone[0]), (together[2], alone[0])):
        assert [window.input_ids.tolist() for window in one.windows] == [
            window.input_ids.tolist() for window in other.windows
        ]
    document, vocabulary = alone[0], used.vocabulary
    words, places = (
        words_of(document, vocabulary),
        np.concatenate([document.asked(index) for index in range(len(document.windows))]),
    )
    assert (
        sorted(places.tolist())
        == sorted(set(places.tolist()))
        == np.flatnonzero(np.isin(words, words[places])).tolist()
    )
    for index, window in enumerate(document.windows):
        assert (window.input_ids[window.asked == 1] == vocabulary.mask_id).all()
        wanted = TASK.targets(examples(TEXT)[0], document)[index]
        assert wanted[wanted != IGNORED].tolist() == document.token_ids[document.asked(index)].tolist()


def test_training_learns_every_word_in_one_window_and_no_special_one():
    used = encoder(max_tokens=16, stride=4)
    ((document, words),) = TASK.training_windows(used, examples(TEXT + " 東京 [SEP] end"))
    seen = Counter(number for window in words for number in window[window != IGNORED].tolist())
    pieces = len(document.pieces.firsts)
    assert len(document.windows) > 3
    assert sum(seen.values()) == sum(int((window != IGNORED).sum()) for window in words) < len(document.token_ids)
    assert 0 < pieces - len(seen) <= 6  # of unknown characters, and what the tokenizer takes for [SEP]
    for window, numbers in zip(document.windows, words, strict=True):
        assert used.vocabulary.is_ordinary(window.input_ids[numbers != IGNORED]).all()


# --- what is said of them


def test_scores_are_those_worked_out_by_hand():
    tokens = [
        NamedToken("a", "a", True, 1, math.log(0.5)),
        NamedToken("b", "c", False, 1, math.log(0.25)),
        NamedToken("d", "d", True, 2, 0.0),
    ]
    report = score_tokens([tokens[:2], tokens[2:], ()])
    assert report.metrics == pytest.approx(
        {"accuracy": 2 / 3, "word_accuracy": 1 / 2, "inverse_perplexity": 0.125 ** (1 / 3)}
    )
    assert (report.support, report.primary) == (3, "accuracy")
    assert "pseudo-perplexity             2.00" in report.text


def test_the_probability_of_the_hidden_sub_word_is_what_is_scored():
    used = encoder()
    (document,) = TASK.encode(used, examples("hello world"))
    rng = np.random.default_rng(0)
    outputs = [
        rng.normal(size=(int(window.asked.sum()), used.vocabulary.size)).astype(np.float32)
        for window in document.windows
    ]
    asked = sorted(
        (int(document.asked(n)[row]), row_of.tolist())
        for n, rows in enumerate(outputs)
        for row, row_of in enumerate(rows)
    )
    assert len(asked) == len(document.token_ids), "of two words each is hidden in a turn of its own"
    for token, (place, logits) in zip(TASK.predict(document, outputs), asked, strict=True):
        row = np.array(logits)
        share = np.exp(row) / np.exp(row).sum()
        assert math.exp(token.log_probability) == pytest.approx(share[document.token_ids[place]], rel=1e-4)
        assert token.said == used.vocabulary.written(int(row.argmax()))


@pytest.mark.parametrize(("family", "mask", "word"), [("wordpiece", "[MASK]", "fox"), ("byte_level", "<mask>", "Ġfox"), ("metaspace", "<mask>", "▁London")])  # fmt: skip
def test_masks_are_filled_in_the_text_as_it_was_sent(family, mask, word):
    used = encoder(family)
    vocabulary = used.vocabulary
    assert vocabulary.mask_token == mask
    text, parameters = f"The quick {mask} jumps.\nNo {mask}!", TASK.parameters(top_k=1)
    (document,) = TASK.encode_request(used, [text], parameters)
    token = vocabulary.tokenizer.token_to_id(word) or vocabulary.find(word)
    if token is None:  # a small vocabulary: any ordinary sub-word serves
        token = int(vocabulary.ordinary[-1])
    outputs = [np.eye(vocabulary.size, dtype=np.float32)[[token] * 2] * 20]
    first, last = TASK.answer(text, document, outputs, parameters)
    assert text[first["start"] : first["end"]].strip() == text[last["start"] : last["end"]].strip() == mask
    filled = vocabulary.written(token).strip().removeprefix("##")
    assert filled in first["sequence"].split("jumps")[0]
    assert first["sequence"].endswith(f" jumps.\nNo {mask}!")
    assert TASK.record_of(text, [first, last])["text"].count(mask) == 0
    assert TASK.envelope([[first, last]], single=True, parameters=parameters) == [[first], [last]]


def test_targets_are_the_only_sub_words_and_keep_their_share_of_all():
    used = encoder()
    targets = ["hello", "world"]
    parameters = TASK.parameters(targets=targets)
    (document,) = TASK.encode_request(used, ["hello [MASK]"], parameters)
    found = TASK.answer("hello [MASK]", document, [np.zeros((1, used.vocabulary.size), np.float32)], parameters)
    assert {item["token_str"] for item in found} == set(targets)
    assert [item["score"] for item in found] == pytest.approx([1 / used.vocabulary.size] * 2)


@pytest.mark.parametrize(
    ("text", "targets", "field"),
    [("no mask", None, r"inputs\[0\]"), ("[MASK]", ["hello world"], r"parameters.targets\[0\]")],
)
def test_a_request_that_cannot_be_filled_is_refused_by_name(text, targets, field):
    with pytest.raises(RequestError, match=field):
        TASK.encode_request(encoder(), [text], TASK.parameters(targets=targets))


def test_a_tokenizer_without_a_mask_is_refused():
    from tokenizers import Tokenizer, models

    vocabulary = Vocabulary.of(Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]")))
    with pytest.raises(ModelError, match="no mask token"):
        vocabulary.put("a", 0, 1, vocabulary.mask_id)


def test_the_parts_of_what_is_hidden_are_at_most_all_of_it():
    with pytest.raises(ValidationError, match="together at most 1"):
        MaskedLanguageModelling(random_fraction=0.6, kept_fraction=0.5)


# --- data


def test_plain_text_is_a_text_a_line_and_dev_is_parted_where_there_is_no_test(tmp_path):
    (tmp_path / "train.txt").write_text("A title\n\nOne paragraph of O\nAnother one, at length.\n", encoding="utf-8")
    (tmp_path / "dev.txt").write_text("one\ntwo\n\nthree\n", encoding="utf-8")
    splits = load_splits(DataConfig(path=str(tmp_path)), MaskedLanguageModelling())
    assert [example.text for example in splits.train] == ["A title", "One paragraph of O", "Another one, at length."]
    assert [[example.text for example in part] for part in (splits.dev, splits.test)] == [["one", "two"], ["three"]]
    assert splits.train[1].where == f"{tmp_path / 'train.txt'}:3"
    assert any("second half of dev" in note for note in splits.notes)
    with pytest.raises(DataError, match="no column holds entity tags"):
        load_splits(DataConfig(path=str(tmp_path)), TokenClassification())


def test_data_of_other_tasks_is_text_too_and_packed_files_are_read(tmp_path):
    import lzma

    (tmp_path / "train.txt.xz").write_bytes(lzma.compress(b"ein Satz\n"))
    (tmp_path / "dev.conll").write_text("Anna B-PER\nleft O\n\nBo B-PER\n", encoding="utf-8")
    (tmp_path / "test.jsonl").write_text('{"text": "Anna", "label": "x"}\n', encoding="utf-8")
    splits = load_splits(DataConfig(path=str(tmp_path)), MaskedLanguageModelling())
    assert [example.text for part in (splits.train, splits.dev, splits.test) for example in part] == [
        "ein Satz",
        "Anna left",
        "Bo",
        "Anna",
    ]
