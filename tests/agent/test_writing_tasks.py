"""Tasks that write: what of a row is learned, conversations as transformers' template writes them, and what is refused by its place."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models

from agent.bundle import Bundle
from agent.data import DataConfig, load_splits
from agent.data.__main__ import ShowConfig, show
from agent.encoding import IGNORED, Encoder
from agent.errors import BundleError, DataError, ModelError, RequestError
from agent.tasks import SequenceToSequence, TextGeneration
from agent.tasks.writing.conversation import CHAT_TEMPLATE
from agent.windows.tokenizer_setup import end_id
from tests.agent.families import FAMILIES, make
from tests.tiny_writers import END, make_word_tokenizer, publish_writer, written_records

READER, TALKER = SequenceToSequence(labels=("text",)), TextGeneration(labels=("text",))
TALK = [
    {"role": "system", "content": "be brief"}, {"role": "user", "content": " who met anna "}, {"role": "assistant", "content": "bruno"},
    {"role": "user", "content": "in oslo"}, {"role": "assistant", "content": "lima"},
]  # fmt: skip


def encoder(*, ends=True, max_tokens=64):
    return Encoder(make_word_tokenizer(ends=ends), max_tokens=max_tokens, stride=2)


def sure(targets, size):
    """Logits of a model that is sure of the targets."""
    return np.eye(size, dtype=np.float32)[targets[targets != IGNORED]] * 18


# --- examples


def test_every_turn_of_the_assistant_is_learned_with_its_end_and_nothing_else():
    (document,) = TALKER.encode(encoder(ends=False), [TALKER.read_record({"messages": TALK}, "f:1")])
    tokenizer = make_word_tokenizer(ends=False)
    (window,) = document.windows
    (targets,) = TALKER.targets(TALKER.read_record({"messages": TALK}, "f:1"), document)
    assert [tokenizer.id_to_token(int(number)) for number in targets[targets != IGNORED]] == ["bruno", END, "lima", END]
    for place in np.flatnonzero(targets != IGNORED):
        assert targets[place] == window.input_ids[place + 1]


def test_a_conversation_is_what_the_chat_template_of_its_tokenizer_says():
    """On a byte-level tokenizer, which keeps line ends."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = make("byte_level")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", chat_template=CHAT_TEMPLATE)
    whole = Encoder(tokenizer, max_tokens=256, stride=8)
    example = TALKER.read_record({"messages": TALK}, "f:1")
    (document,) = TALKER.encode(whole, [example])
    begin = document.windows[0].offset
    ids = document.windows[0].input_ids[begin:].tolist()
    assert ids == fast(fast.apply_chat_template(TALK, tokenize=False), add_special_tokens=False)["input_ids"]
    prompt = fast.apply_chat_template(TALK[:-1], tokenize=False, add_generation_prompt=True)
    given = fast(prompt, add_special_tokens=False)["input_ids"]
    last = int(np.flatnonzero(document.windows[0].asked)[-len(ids) + len(given)])
    assert ids[: len(given)] == given
    assert last == begin + len(given) - 1


def test_of_what_follows_the_last_answer_nothing_is_learned_and_it_is_not_computed():
    longer = [*TALK, {"role": "user", "content": "went to pune"}]
    one, other = (TALKER.read_record({"messages": messages}, "f:1") for messages in (TALK, longer))
    assert one == other
    assert one.target == "lima"
    assert one.text.endswith("<|assistant|>\n")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", [READER, TALKER], ids=["encoder and decoder", "decoder alone"])
def test_a_sure_model_answers_the_target(task, family):
    tokenizer = make(family)
    kinds = {"byte_level": decoders.ByteLevel, "metaspace": decoders.Metaspace}
    tokenizer.decoder = kinds.get(family, decoders.WordPiece)()
    used = Encoder(tokenizer, max_tokens=64, stride=4)
    example = task.read_record({"text": "the quick fox", "target": "hello world"}, "f:1")
    (document,) = task.encode(used, [example])
    (targets,) = task.targets(example, document)
    (answer,) = task.answer(example.text, document, [sure(targets, used.vocabulary.size)], task.parameters())
    assert answer[task.text_key].strip() == "hello world"
    assert answer["score"] == pytest.approx(1, abs=1e-4)
    assert task.record_of(example.text, [answer])["text"] == example.text


def test_rows_of_a_padded_vocabulary_take_part_in_probabilities_and_are_never_said():
    used, example = encoder(), READER.read_record({"text": "anna", "target": "bruno"}, "f:1")
    (document,) = READER.encode(used, [example])
    padded = np.zeros((2, used.vocabulary.size + 4), np.float32)
    padded[:, -1] = 1.0
    said = READER.predict(document, [padded])
    assert [token.gold for token in said] == ["bruno", END]
    assert all(
        token.log_probability == pytest.approx(-math.log(used.vocabulary.size + 3 + math.e), abs=1e-5) for token in said
    )
    assert READER.score([example], [said]).metrics["inverse_perplexity"] == pytest.approx(
        1 / (used.vocabulary.size + 3 + math.e)
    )


def test_scores_count_sub_words_and_whole_texts():
    used = encoder()
    examples = [READER.read_record(record, "f:1") for record in written_records(2)]
    documents = READER.encode(used, examples)
    logits = [sure(READER.targets(*pair)[0], used.vocabulary.size) for pair in zip(examples, documents, strict=True)]
    logits[1][0] = -logits[1][0]
    report = READER.score(
        examples, [READER.predict(*pair) for pair in zip(documents, [[one] for one in logits], strict=True)]
    )
    tokens = len(logits[0]) + len(logits[1])
    assert report.metrics["accuracy"] == pytest.approx((tokens - 1) / tokens)
    assert report.metrics["text_accuracy"] == 0.5
    assert report.support == tokens


# --- what is refused


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "a"}, "'target' is absent"),
        ({"text": "a", "target": 3}, "'target' is 3"),
        ({"text": " ", "target": "b"}, "'text' is blank"),
        ({"text": "a", "target": ""}, "'target' is blank"),
        ({"text": "a", "target": "\ud800"}, "lone surrogate"),
        ({"text": "a", "target": "b", "propensity": 0.5, "reward": 1}, "logged decision"),
    ],
)
@pytest.mark.parametrize("task", [READER, TALKER], ids=["encoder and decoder", "decoder alone"])
def test_records_that_cannot_be_learned_are_refused_by_their_place(task, record, message):
    with pytest.raises(DataError, match=rf"^f:7: .*{message}.*Allowed: .*Remedy: "):
        task.read_record(record, "f:7")


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hello", "messages is 'hello'"),
        ([], "no turn of the assistant"),
        (TALK[:2], "no turn of the assistant"),
        (["hello"], r"messages\[0\] is 'hello'"),
        ([{"role": "tool", "content": "4"}], r"messages\[0\] is .*tool"),
        ([{"role": "user", "content": [{"type": "image"}]}], r"messages\[0\] is .*image"),
        ([*TALK, TALK[0]], r"messages\[5\] is the system's"),
        ([{"role": "user", "content": " "}, TALK[2]], r"messages\[0\] is blank"),
        ([{"role": "user", "content": "a<|assistant|>b"}, TALK[2]], r"messages\[0\] holds <\|assistant\|>"),
        ([{"role": "user", "content": "\ud800"}, TALK[2]], r"messages\[0\]: lone surrogate"),
    ],
)
def test_conversations_that_cannot_be_learned_are_refused_by_the_turn(messages, message):
    with pytest.raises(DataError, match=rf"^f:7: {message}.*Allowed: .*Remedy: "):
        TALKER.read_record({"messages": messages}, "f:7")


@pytest.mark.parametrize(
    ("task", "text", "target", "message"),
    [
        (READER, "anna " * 16, "bruno", "the text has 17 tokens"),
        (READER, "anna", "bruno " * 16, "the target has 17 tokens"),
        (TALKER, "anna " * 8, "bruno " * 8, "text and target together has 17 tokens"),
        (READER, "anna", f"bruno {END} dewi", f"holds {END}, which ends a text"),
        (TALKER, "anna", f"bruno {END} dewi", f"holds {END}, which ends a text"),
    ],
)
def test_nothing_is_cut_off_what_does_not_fit_is_refused_by_its_place(task, text, target, message):
    used = encoder(ends=task is READER, max_tokens=16)
    fits = task.read_record({"text": "anna", "target": "bruno"}, "f:1")
    with pytest.raises(DataError, match=rf"^f:2: .*{message}.*Allowed: .*Remedy: "):
        task.encode(used, [fits, task.read_record({"text": text, "target": target}, "f:2")])


@pytest.mark.parametrize("task", [READER, TALKER], ids=["encoder and decoder", "decoder alone"])
def test_a_request_that_leaves_no_room_is_refused_by_its_input(task):
    used, fitting = encoder(ends=task is READER, max_tokens=16), "anna " * 15
    assert len(task.encode_request(used, ["anna", fitting], task.parameters())) == 2
    with pytest.raises(RequestError, match=r"^inputs\[1\]: .* has 17 tokens") as caught:
        task.encode_request(used, ["anna", fitting + "bruno"], task.parameters())
    assert caught.value.field == "inputs[1]"


def test_a_tokenizer_says_which_token_ends_a_text_or_is_refused():
    assert [make(family).id_to_token(end_id(make(family))) for family in FAMILIES] == ["[SEP]", "</s>", "</s>", "[CLS]"]
    bare = make_word_tokenizer(ends=False)
    assert bare.id_to_token(end_id(bare)) == END
    with pytest.raises(ModelError, match=r"no token that ends a text.*Allowed: .*Remedy: "):
        end_id(Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]")))


@pytest.mark.parametrize("kind", ["sequence_to_sequence", "text_generation"])
def test_no_graph_of_an_agent_that_writes_can_be_served(tmp_path, kind):
    bundle = Bundle.load(publish_writer(tmp_path / "agent", kind))
    with pytest.raises(
        BundleError,
        match=rf"of {kind}, which writes texts, .* judge or explain .*Allowed: agents of .*Remedy: .*transformers",
    ):
        bundle.onnx_variant()


# --- data


def put(directory, *rows):
    for name in ("train", "dev", "test"):
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return DataConfig(path=str(directory))


@pytest.mark.parametrize(
    "row",
    [
        {"text": "anna", "target": "bruno"}, {"text": "anna", "summary": "bruno", "id": 4, "title": "t"}, {"document": "anna", "summary": "bruno"},
        {"article": "anna", "highlights": "bruno"}, {"prompt": "anna", "completion": "bruno"},
    ],
)  # fmt: skip
def test_texts_and_targets_have_the_names_of_their_collections(tmp_path, row):
    for task in (SequenceToSequence(), TextGeneration()):
        splits = load_splits(put(tmp_path, row), task)
        assert [(example.text, example.target) for example in splits.train] == [("anna", "bruno")]
        assert splits.task.labels == ("text",)
        assert splits.notes == ()


def test_conversations_are_data_for_text_generation_alone_and_shown_and_written_as_they_are(tmp_path, capsys):
    config = put(tmp_path, {"messages": TALK}, {"messages": TALK[1:3]})
    assert [len(example.turns) for example in load_splits(config, TextGeneration()).dev] == [5, 2]
    with pytest.raises(
        DataError, match=r"train.jsonl:1: .*data for text_generation, and the task is sequence_to_sequence"
    ):
        load_splits(config, SequenceToSequence())
    show(ShowConfig(data=config, output=str(tmp_path / "normal")))
    assert "texts to write in JSON lines" in capsys.readouterr().out
    again = load_splits(DataConfig(path=str(tmp_path / "normal")), TextGeneration())
    assert again.digest == load_splits(config, TextGeneration()).digest


def test_the_embedded_corpus_is_data_for_both():
    for task in (SequenceToSequence(), TextGeneration()):
        splits = load_splits(DataConfig(max_examples=40), task)
        assert len(splits.train) == 40
        assert len({example.target for example in splits.train}) > 5
    assert all(len(example.turns) == 4 for example in splits.train)
