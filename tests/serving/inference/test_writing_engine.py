"""The engine of agents that write: the texts of `generate`, alone and together, and nothing that CTranslate2 fails on."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.bundle import Bundle
from agent.errors import BundleError, ConfigError, RequestError
from agent.generation.growing_text import GrowingText, Limits
from agent.generation.text_writer import TextWriter
from serving.inference.engine import Engine, EngineConfig
from serving.inference.engine_choice import open_engine
from serving.inference.session_plan import SessionPlan
from serving.inference.triple_engine import open_graph_engine
from serving.inference.writer import WritingConfig
from serving.inference.writing_engine import WritingEngine
from tests.tiny_writers import END, WORDS, make_word_tokenizer, publish_converted, publish_writer, written_records

TEXTS = ["anna met bruno", "oslo to lima in pune", "dewi", "chidi went to graz", "in oslo met dewi anna to"]


@pytest.fixture(scope="module")
def translator(translator_path: Path) -> WritingEngine:
    return open_engine(Bundle.load(translator_path), precision="fp32", num_cpus=1)


@pytest.fixture(scope="module")
def talker(talker_path: Path) -> WritingEngine:
    return open_engine(Bundle.load(talker_path), precision="fp32", num_cpus=1)


def torch_texts(path: Path, given: list[list[int]], **how: object) -> list[list[int]]:
    """What transformers' own generation writes for each, one by one."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(path)
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    model = kind.from_pretrained(path).eval()
    found = []
    for ids in given:
        with torch.no_grad():
            (row,) = model.generate(
                torch.tensor([ids]), do_sample=False, pad_token_id=0, eos_token_id=1, **how
            ).tolist()
        row = row[1:] if config.is_encoder_decoder else row[len(ids) :]
        found.append(row[: row.index(1) + 1] if 1 in row else row)
    return found


@pytest.mark.parametrize("beams", [1, 4])
def test_it_writes_what_transformers_generates(translator: WritingEngine, translator_path: Path, beams: int) -> None:
    parameters = translator.task.parameters(num_beams=beams, max_new_tokens=12)
    jobs = translator.encode(TEXTS, parameters)
    wanted = torch_texts(
        translator_path, [job.given for job in jobs], num_beams=beams, max_new_tokens=12, early_stopping=beams > 1
    )
    tokenizer = translator.bundle.encoder.tokenizer
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in wanted]
    assert len(set(texts)) > 1
    assert [answer[0]["translation_text"] for answer in translator.predict(TEXTS, parameters)] == texts
    writer = TextWriter(translator_path / "ctranslate2-fp32", tokenizer, END)
    documents = translator.task.encode_request(translator.bundle.encoder, TEXTS, parameters)
    assert writer.write([each.given for each in documents], num_beams=beams, max_new_tokens=12) == texts


def test_a_penalty_of_length_is_that_of_transformers(tmp_path: Path) -> None:
    path = publish_converted(tmp_path / "bundle", "sequence_to_sequence", "pegasus", init_std=0.5)
    engine = open_engine(Bundle.load(path), precision="fp32", num_cpus=1)
    texts = [row["text"] for row in written_records(40, lengths=(1, 9))]
    found, how = dict[float, list[GrowingText]](), {"num_beams": 4, "max_new_tokens": 12}
    for penalty in (0.25, 1.0, 2.0):
        jobs = engine.encode(texts, engine.task.parameters(**how, length_penalty=penalty))
        for job in jobs:
            engine.write([job])
        found[penalty] = [job.written for job in jobs]
        wanted = torch_texts(path, [job.given for job in jobs], **how, length_penalty=penalty, early_stopping=True)
        assert [written.numbers for written in found[penalty]] == wanted
    lengths = [sum(len(written.numbers) for written in found[penalty]) for penalty in found]
    assert lengths == sorted(set(lengths))
    for penalty in (0.25, 2.0):  # the probability of a text is the same, whatever its length was preferred by
        pairs = [pair for pair in zip(found[penalty], found[1.0], strict=True) if pair[0].numbers == pair[1].numbers]
        assert len(pairs) > 10
        assert [one.log_probability for one, _ in pairs] == pytest.approx(
            [usual.log_probability for _, usual in pairs], rel=1e-4
        )


def test_a_decoder_goes_on_as_transformers_does_whatever_else_is_in_its_batch(
    talker: WritingEngine, talker_path: Path
) -> None:
    parameters = talker.task.parameters(
        max_new_tokens=12
    )  # "dewi" is a prompt of one token, which no other may share a batch with
    jobs = talker.encode(TEXTS, parameters)
    rows = torch_texts(talker_path, [job.given for job in jobs], max_new_tokens=12)
    tokenizer = talker.bundle.encoder.tokenizer
    wanted = [
        tokenizer.decode([*job.given, *row], skip_special_tokens=True)[len(text) :]
        for text, job, row in zip(TEXTS, jobs, rows, strict=True)
    ]
    assert talker.labels(TEXTS[:1])[0].startswith(" ")
    assert [answer[0]["generated_text"] for answer in talker.predict(TEXTS, parameters)] == wanted


def test_what_was_written_in_slices_is_what_is_written_at_once(
    translator: WritingEngine, talker: WritingEngine
) -> None:
    for engine in (translator, talker):
        parameters = engine.task.parameters(num_beams=1, max_new_tokens=20)
        config = EngineConfig(writing=WritingConfig(slice_steps=3))
        sliced = open_engine(engine.bundle, config, precision="fp32", num_cpus=1)
        jobs = sliced.encode(TEXTS[:2], parameters)
        calls = 0
        while unfinished := [job for job in jobs if not job.over]:
            sliced.write(unfinished, lambda: True)
            calls += 1
            assert all(len(job.written.numbers) <= 3 * calls for job in jobs)
        assert calls > 2
        whole = [answer[0][engine.task.text_key] for answer in engine.predict(TEXTS[:2], parameters)]
        assert [job.written.text for job in jobs] == whole


def test_of_details_the_tokens_make_the_text(talker: WritingEngine) -> None:
    parameters = talker.task.parameters(details=True, max_new_tokens=6, return_full_text=True)
    ((answer,),) = talker.predict(TEXTS[:1], parameters)
    details = answer["details"]
    assert TEXTS[0] + "".join(token["text"] for token in details["tokens"]) == answer["generated_text"]
    assert details["finish_reason"] == ("eos_token" if details["tokens"][-1]["special"] else "length")
    assert details["generated_tokens"] == len(details["tokens"]) <= 6
    assert all(token["logprob"] < 0 for token in details["tokens"])


@pytest.mark.parametrize("how", [{}, {"num_beams": 2}, {"temperature": 2.0, "seed": 3}])
def test_of_the_prompt_each_token_is_as_likely_as_transformers_says(
    talker: WritingEngine, talker_path: Path, how: dict[str, float]
) -> None:
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(talker_path).eval()
    parameters = talker.task.parameters(details=True, decoder_input_details=True, max_new_tokens=2, **how)
    for text, (answer,) in zip(TEXTS, talker.predict(TEXTS, parameters), strict=True):
        prefill, ids = answer["details"]["prefill"], talker.encode([text])[0].given
        assert [token["id"] for token in prefill] == ids
        assert [token["text"] for token in prefill] == text.split()
        with torch.no_grad():
            likely = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        assert prefill[0]["logprob"] is None
        wanted = [float(likely[place, number]) for place, number in enumerate(ids[1:])]
        assert [token["logprob"] for token in prefill[1:]] == pytest.approx(wanted, abs=1e-4)
    plain = talker.predict(TEXTS[:1], talker.task.parameters(details=True, max_new_tokens=2))
    assert plain[0][0]["details"]["prefill"] == []


def test_drawn_texts_differ_and_their_tokens_are_as_likely_as_asked_for(talker: WritingEngine) -> None:
    drawn = talker.task.parameters(temperature=5.0, max_new_tokens=20)
    assert len({talker.predict(TEXTS[:1], drawn)[0][0]["generated_text"] for _ in range(8)}) > 4
    sure = talker.task.parameters(top_k=1, max_new_tokens=20)
    greedy = talker.task.parameters(max_new_tokens=20)
    assert talker.predict(TEXTS, sure) == talker.predict(TEXTS, greedy)
    assert talker.predict(
        TEXTS[:1], talker.task.parameters(top_k=10_000, max_new_tokens=2)
    )  # more than there are tokens


def test_lengths_are_checked_before_anything_is_computed(translator: WritingEngine, talker: WritingEngine) -> None:
    long = " ".join(WORDS * 6)
    for engine in (translator, talker):
        with pytest.raises(RequestError, match=r"^inputs\[1\]: .*tokens") as caught:
            engine.encode(["anna", long])
        assert caught.value.field == "inputs[1]"
        most = 64 if engine is translator else 63
        assert engine.predict(["anna"], engine.task.parameters(max_new_tokens=most, num_beams=1))
        with pytest.raises(RequestError, match=r"max_new_tokens is .* Allowed: at most 6\d .*Remedy: ") as caught:
            engine.encode(["anna"], engine.task.parameters(max_new_tokens=most + 1))
        assert caught.value.field == "parameters.max_new_tokens"


def test_batches_are_computed_at_once_on_each_core(talker: WritingEngine) -> None:
    two = open_engine(talker.bundle, num_cpus=2)
    assert (two.plan, two.best_plan()) == (SessionPlan(2, 1), SessionPlan(2, 1))
    two.use(SessionPlan(1, 1))
    assert two.plan == SessionPlan(1, 1)
    assert (two.provider, two.variant.precision) == ("cpu", "int8")


def test_what_cannot_be_opened_is_refused_by_name(tmp_path: Path, talker: WritingEngine) -> None:
    bare = Bundle.load(publish_writer(tmp_path / "bare", "text_generation"))
    with pytest.raises(BundleError, match=r"has no converted model of precision 'auto'.*Remedy: "):
        open_engine(bare)
    with pytest.raises(ConfigError, match=r"tensorrt: .*no TensorRT.*Allowed: auto, cpu, cuda"):
        open_engine(talker.bundle, EngineConfig(provider="tensorrt"))


def test_stations_that_want_logits_refuse_it_by_name(talker_path: Path) -> None:
    bundle = Bundle.load(talker_path)
    for opened in (Engine, open_graph_engine):
        with pytest.raises(BundleError, match=r"of text_generation, which writes texts, .*judge or explain"):
            opened(bundle)


# --- a text while it grows


def grow(words: str, *, before: str = "", stop: tuple[str, ...] = (), most: int = 20) -> GrowingText:
    tokenizer = make_word_tokenizer(ends=False)
    ids, given = tokenizer.encode(words).ids, tokenizer.encode(before).ids
    text = GrowingText(tokenizer, Limits(1, most, stop), before=given, by_token=True)
    for number in ids:
        if text.add(number, -0.5):
            break
    return text


@pytest.mark.parametrize(
    ("words", "stop", "most", "text", "finish"),
    [
        ("anna met bruno", (), 20, "anna met bruno", None),
        (f"anna met {END} oslo", (), 20, "anna met", "eos_token"),
        ("anna met bruno", (), 2, "anna met", "length"),
        ("anna met bruno", ("met",), 20, "anna ", "stop_sequence"),
        ("anna met bruno oslo", ("et br",), 20, "anna m", "stop_sequence"),
        ("anna met bruno", ("bruno", "met"), 20, "anna ", "stop_sequence"),
        ("anna met bruno", ("anna",), 20, "", "stop_sequence"),
    ],
)
def test_a_text_ends_where_it_should(
    words: str, stop: tuple[str, ...], most: int, text: str, finish: str | None
) -> None:
    for before in ("", "went to"):
        grown = grow(words, before=before, stop=stop, most=most)
        assert (grown.text.lstrip(), grown.finish) == (text.lstrip(), finish)
        assert bool(before) == grown.text.startswith(" ") or not text
        if finish:
            assert "".join(token.text for token in grown.tokens) == grown.text
    taken = GrowingText(make_word_tokenizer(ends=False), Limits(1, most, stop))
    taken.take(grow(words, stop=(), most=most).numbers, -1.0)
    assert (taken.text, taken.finish) == (text, finish or "length")


def test_what_may_become_a_stop_string_is_held_back() -> None:
    grown = grow("anna met bruno oslo", stop=("met br x",))
    assert [token.text for token in grown.tokens] == ["anna", " ", "met bruno", " oslo"]
