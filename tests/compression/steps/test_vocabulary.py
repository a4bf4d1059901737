"""Fewer sub-words: known texts are spelled as before, none becomes unknown, answers stay, and all of Hugging Face's loaders agree."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from agent.batching import pad
from agent.bundle import Bundle
from agent.config.base import from_mapping
from agent.data import DataConfig, load_splits
from agent.encoding import Encoder
from agent.errors import ConfigError
from compression.encoder.torch_model import load_directory, torch_forward
from compression.encoder.wordpiece import WordPiece
from compression.pipeline.pipeline_inputs import CompressionConfig
from compression.steps import VocabularyStep
from tests.compression.agents import SHAPES, tiny_bundle, tiny_model
from tests.compression.pipeline.test_pipeline import check, run
from tests.tiny import make_tokenizer

EXPORT = {"kind": "export", "exporter": "torchscript"}
STRANGE = "annabel's 2nd trip: graz-lima, Oslo & Zürich?"  # no word of it is in the data; & and ü are in no piece


def state_of(directory: Path, step: VocabularyStep, family: str = "bert") -> Any:
    """A random network with the toy tokenizer, before and after the step."""
    directory.mkdir(exist_ok=True)
    tokenizer = make_tokenizer()
    tokenizer.save(str(directory / "tokenizer.json"))
    bundle = Bundle.load(tiny_bundle(directory / "agent", steps=0))
    model = tiny_model(family, bundle.task, vocabulary=tokenizer.get_vocab_size())
    encoder = Encoder.load(directory, max_tokens=48, stride=8)
    splits = load_splits(DataConfig(path=str(directory / "agent/data")), bundle.task)
    notes: list[str] = []
    state = SimpleNamespace(
        bundle=bundle, splits=splits, directory=directory, model=model, encoder=encoder, note=notes.append, notes=notes,
        changed=False, reload_encoder=lambda: setattr(state, "encoder", Encoder.load(directory, max_tokens=48, stride=8)),
    )  # fmt: skip
    state.before, state.said = encoder, answers(model, encoder, splits.train[:20])
    step.run(state)
    return state


def answers(model: Any, encoder: Encoder, examples: Any) -> list[Any]:
    forward = torch_forward(model)
    documents = encoder.encode_texts([example.text for example in examples])
    return [forward(pad(document.windows, encoder.pad_id)) for document in documents]


@pytest.fixture(scope="module", params=SHAPES)
def reduced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return state_of(tmp_path_factory.mktemp("vocabulary") / "out", VocabularyStep(), request.param)


def test_known_texts_get_the_same_answers_from_a_smaller_table(reduced: Any) -> None:
    rows = reduced.model.get_input_embeddings().num_embeddings
    assert rows == reduced.model.config.vocab_size == reduced.encoder.tokenizer.get_vocab_size()
    assert rows < reduced.before.tokenizer.get_vocab_size()
    for before, after in zip(
        reduced.said, answers(reduced.model, reduced.encoder, reduced.splits.train[:20]), strict=True
    ):
        assert np.abs(before - after).max() < 1e-6
    assert "120 of 120 texts are spelled as before" in reduced.notes[0]


@given(st.one_of(st.text(max_size=60), st.text(alphabet="abcdefgnorstuz '-.,2ü", max_size=60), st.just(STRANGE)))
def test_no_text_becomes_unknown_and_pieces_reproduce_it(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    state = _shared(tmp_path_factory)
    before, after = (encoder.tokenizer.encode(text) for encoder in (state.before, state.encoder))
    assert before.tokens.count("[UNK]") == after.tokens.count("[UNK]")
    normal = state.encoder.tokenizer.normalizer.normalize_str
    for piece, (start, end) in zip(after.tokens[1:-1], after.offsets[1:-1], strict=True):
        if piece != "[UNK]":
            assert normal(text[start:end]).strip() == piece.removeprefix("##")
    assert set(before.word_ids) == set(after.word_ids)


_SHARED: list[Any] = []


def _shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if not _SHARED:
        _SHARED.append(state_of(tmp_path_factory.mktemp("shared") / "out", VocabularyStep()))
    return _SHARED[0]


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_any_size_keeps_special_tokens_characters_and_the_most_frequent(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("size")
    tokenizer = make_tokenizer()
    tokenizer.save(str(directory / "tokenizer.json"))
    pieces = WordPiece.read(directory)
    must = pieces.characters() | set(pieces.special.values())
    size = data.draw(st.integers(len(must), len(pieces.ids)))
    state = state_of(directory / "out", VocabularyStep(size=size))
    vocabulary = state.encoder.tokenizer.get_vocab()
    assert len(vocabulary) == size
    assert {piece for piece, index in pieces.ids.items() if index in must} <= set(vocabulary)
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert state.encoder.tokenizer.encode(STRANGE).tokens.count("[UNK]") == tokenizer.encode(STRANGE).tokens.count(
        "[UNK]"
    )


def test_a_corpus_keeps_its_sub_words(tmp_path: Path) -> None:
    (tmp_path / "texts/inner").mkdir(parents=True)
    (tmp_path / "texts/inner/one.txt").write_text("hired today\nwent\n")
    data = tmp_path / "few"
    data.mkdir()
    for name in ("train", "dev", "test"):
        (data / f"{name}.conll").write_text("oslo B-LOC\nanna B-PER\nacme B-ORG\n")
    bundle = tiny_bundle(tmp_path / "agent", steps=0)
    for corpus, found in ((None, False), (str(tmp_path / "texts"), True)):
        step = {"kind": "vocabulary", "corpus": corpus}
        run(bundle, tmp_path / f"out{found}", [step], data={"path": str(data)})
        tokens = Tokenizer.from_file(str(tmp_path / f"out{found}/tokenizer.json")).encode("hired today oslo").tokens
        assert ("hired" in tokens) is found
        assert "oslo" in tokens


def test_what_is_rare_goes_and_the_report_says_how_many_texts_change(tmp_path: Path) -> None:
    state = state_of(tmp_path / "out", VocabularyStep(min_count=60))
    same, texts = state.notes[0].split("; ")[1].split(" texts")[0].split(" of ")
    assert 0 <= int(same) < int(texts)


def test_a_bundle_with_fewer_sub_words_is_a_plain_directory_with_graphs_that_agree(
    tagger: Path, tmp_path: Path
) -> None:
    report = run(tagger, tmp_path / "out", ["prune", "vocabulary", EXPORT, "quantize"])
    bundle = check(tmp_path / "out", report, tagger)
    config = json.loads((tmp_path / "out/config.json").read_text())
    stock = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "out/tokenizer.json"))
    assert config["vocab_size"] == len(stock) < Bundle.load(tagger).encoder.tokenizer.get_vocab_size()
    text = "in oslo , acme hired anna ."
    assert stock(text)["input_ids"] == bundle.encoder.tokenizer.encode(text).ids
    model = load_directory(tmp_path / "out", bundle.task.architecture)
    assert model.get_input_embeddings().num_embeddings == config["vocab_size"]
    original, compressed, *_ = report.model_rows
    assert compressed.parameters < original.parameters


def test_files_beside_the_tokenizer_are_renumbered(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "vocab.txt").write_text(
        "".join(f"{p}\n" for p in sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id))
    )
    listed = {"added_tokens_decoder": {"4": {"content": "[MASK]"}}, "model_max_length": 48}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(listed))
    pieces = WordPiece.read(tmp_path)
    kept = sorted(set(pieces.characters() | set(pieces.special.values())) - {1})
    pieces.write(tmp_path, sorted({1, *kept}))
    lines = (tmp_path / "vocab.txt").read_text().splitlines()
    assert lines == sorted(lines, key=Tokenizer.from_file(str(tmp_path / "tokenizer.json")).token_to_id)
    decoder = json.loads((tmp_path / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert lines[int(next(iter(decoder)))] == "[MASK]"


def _save(directory: Path, tokenizer: Tokenizer) -> Path:
    directory.mkdir()
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


def test_other_tokenizers_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the agent's tokenizer is a BPE"):
        WordPiece.read(_save(tmp_path / "bpe", Tokenizer(models.BPE({"a": 0}, []))))
    odd = Tokenizer(models.WordPiece({"[UNK]": 0, "n": 1, "né": 2}, unk_token="[UNK]"))
    with pytest.raises(ConfigError, match="'##é', a character of the piece 'né', is no piece"):
        WordPiece.read(_save(tmp_path / "odd", odd)).characters()


@pytest.mark.parametrize(
    ("option", "told"),
    [({"corpus": "/nowhere"}, "corpus=/nowhere holds no text"), ({"size": 3}, "size=3 is less than the")],
)
def test_wrong_options_are_refused(tagger: Path, tmp_path: Path, option: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        run(tagger, tmp_path / "out", [{"kind": "vocabulary", **option}])
    assert not list(tmp_path.iterdir())


def test_a_corpus_that_is_no_text_is_named(tagger: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match=r"bad\.txt is no UTF-8 text"):
        run(tagger, tmp_path / "out", [{"kind": "vocabulary", "corpus": str(tmp_path / "bad.txt")}])


def test_it_stands_behind_the_steps_whose_teacher_has_the_old_vocabulary() -> None:
    with pytest.raises(ConfigError, match="in the order"):
        from_mapping(CompressionConfig, {"bundle": "a", "output": "b", "steps": ["vocabulary", "distill", "verify"]})
