"""What CTranslate2 writes with a converted model is what transformers writes with the original, for every family."""

from __future__ import annotations

import itertools
from pathlib import Path

import ctranslate2
import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel

from agent.errors import ModelError
from agent.generation.ctranslate2_conversion import DECODERS, ENCODER_DECODERS, check_convertible, convert
from tests.agent.generation.writer_families import FAMILIES, PIECES, make_family, texts, tokenizer_of

NEW_TOKENS = 16
OFTEN = ("t5", "t5 1.1", "bart", "gpt2", "llama")  # of each way to mend one


def generated(model: PreTrainedModel, rows: list[list[str]], pieces: tuple[str, ...], beams: int) -> list[list[str]]:
    """What transformers writes, without the token that ends a text."""
    settings = GenerationConfig(
        max_new_tokens=NEW_TOKENS, num_beams=beams, do_sample=False, early_stopping=beams > 1, pad_token_id=model.config.pad_token_id,
        bad_words_ids=[[model.config.pad_token_id]] if model.config.model_type == "marian" else None,  # as its models say
        eos_token_id=model.config.eos_token_id, decoder_start_token_id=getattr(model.config, "decoder_start_token_id", None),
    )  # fmt: skip
    found: dict[int, list[str]] = {}
    for length in {len(row) for row in rows}:  # in batches without padding
        places = [place for place, row in enumerate(rows) if len(row) == length]
        given = torch.tensor([[pieces.index(piece) for piece in rows[place]] for place in places])
        said = model.generate(given, attention_mask=torch.ones_like(given), generation_config=settings)
        new = said[:, 1:] if model.config.is_encoder_decoder else said[:, length:]
        for place, numbers in zip(places, new.tolist(), strict=True):
            found[place] = [*itertools.takewhile(lambda piece: piece != "</s>", (pieces[number] for number in numbers))]
    return [found[place] for place in range(len(rows))]


def written(directory: Path, rows: list[list[str]], beams: int, *, decodes: bool) -> list[list[str]]:
    """The same by CTranslate2, all rows in one call."""
    if decodes:
        translator = ctranslate2.Translator(str(directory), compute_type="float32", intra_threads=1)
        results = translator.translate_batch(
            rows, beam_size=beams, max_decoding_length=NEW_TOKENS, min_decoding_length=0, end_token="</s>",
        )  # fmt: skip
        return [result.hypotheses[0] for result in results]
    generator = ctranslate2.Generator(str(directory), compute_type="float32", intra_threads=1)
    told = generator.generate_batch(
        rows, beam_size=beams, sampling_topk=1, max_length=NEW_TOKENS, include_prompt_in_result=False, end_token="</s>"
    )
    return [result.sequences[0] for result in told]


def compare(name: str, directory: Path, count: int) -> None:
    model = make_family(directory / "model", name)
    convert(directory / "model", directory / "converted", tokenizer_of(name), "</s>")
    decodes, pieces = bool(model.config.is_encoder_decoder), FAMILIES[name].pieces
    rows = texts(count)
    given = [[*row, "</s>"] if decodes else row for row in rows]
    for beams in (1, 4):
        ours, theirs = (
            written(directory / "converted", given, beams, decodes=decodes),
            generated(model, given, pieces, beams),
        )
        assert len({tuple(row) for row in theirs}) > count / 8  # or else hardly anything would be compared
        assert ours == theirs


@pytest.mark.parametrize("name", OFTEN)
def test_what_is_written_is_what_transformers_writes(name: str, tmp_path: Path) -> None:
    compare(name, tmp_path, 12)


@pytest.mark.long
@pytest.mark.parametrize("name", FAMILIES)
def test_two_hundred_texts_of_every_family_are_what_transformers_writes(name: str, tmp_path: Path) -> None:
    compare(name, tmp_path, 200)


def test_every_family_is_compared() -> None:
    assert {family.config.model_type for family in FAMILIES.values()} == {*ENCODER_DECODERS, *DECODERS}


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("opt", {"vocab_size": len(PIECES)}, r"a vocabulary of 63, and .* multiple of 8"),
        ("gpt_neox", {"rope_parameters": {"rope_theta": 50_000.0, "rope_type": "default"}}, r"rope_theta=50000\.0"),
        ("marian", {"pad_token_id": 3}, r"<pad> as sub-word 3"),
        ("m2m_100", {"pad_token_id": 3}, r"<pad> as sub-word 3, from which"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused(name: str, changes: dict[str, object], told: str) -> None:
    family = FAMILIES[name]
    with pytest.raises(ModelError, match=told):
        check_convertible(family.config(**family.shape | changes).to_dict(), "a model")


def test_a_marian_that_does_not_start_from_zeros_is_refused(tmp_path: Path) -> None:
    model = make_family(tmp_path / "model", "marian")
    with torch.no_grad():
        model.get_input_embeddings().weight[-1] = 0.5
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="<pad> is not zero"):
        convert(tmp_path / "model", tmp_path / "converted", tokenizer_of("marian"), "</s>")


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    make_family(tmp_path / "model", "bart", vocab_size=70)
    with pytest.raises(ModelError, match=r"CTranslate2 cannot convert .*70.*see whether its tokenizer"):
        convert(tmp_path / "model", tmp_path / "converted", tokenizer_of("bart"), "</s>")


def test_other_families_are_refused_with_those_that_are_known() -> None:
    with pytest.raises(ModelError, match=r"is a phi3 model.*Allowed: gpt2, llama"):
        check_convertible({"model_type": "phi3"}, "a model")
