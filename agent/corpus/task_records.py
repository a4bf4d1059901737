"""The demonstration corpus as records for each task: entities, genres, sets of what a sentence mentions, hypotheses, questions, relations, texts to write."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from agent.corpus import GENRES, Sentence
from agent.corpus.relation_records import relation_records

Record = dict[str, object]

_MENTIONED = {"PER": "person", "ORG": "organisation", "LOC": "place"}
_ONE = {"person": "a person", "organisation": "an organisation", "place": "a place"}
_MANY = ("two", "three", "four", "many")


def spans_record(sentence: Sentence) -> Record:
    """The record of a sentence for entity tagging."""
    spans = [{"start": start, "end": end, "label": label} for start, end, label in sentence.spans]
    return {"text": sentence.text, "spans": spans}


def genre_record(sentence: Sentence) -> Record:
    """The record of a sentence for classification by genre."""
    return {"text": sentence.text, "label": sentence.genre}


def mentions_record(sentence: Sentence) -> Record:
    """The record of a sentence for sets of labels: what it mentions, and whether it asks; of many it is nothing."""
    labels = {_MENTIONED[label] for _, _, label in sentence.spans} | ({"question"} if "?" in sentence.text else set())
    return {"text": sentence.text, "labels": sorted(labels)}


def text_record(sentence: Sentence) -> Record:
    """The record of a sentence for masked language modelling."""
    return {"text": sentence.text}


def inference_records(sentences: Sequence[Sentence]) -> Iterator[Record]:
    """Two pairs of a sentence and a hypothesis each: what it is from and what it mentions; half of them follow from it."""
    rng = random.Random(f"agent.corpus:{len(sentences)}")
    names = sorted({sentence.text[start:end] for sentence in sentences for start, end, _ in sentence.spans})
    for sentence in sentences:
        own = [sentence.text[start:end] for start, end, _ in sentence.spans]
        others = [name for name in rng.sample(names, 3) if name.casefold() not in sentence.text.casefold()]
        genres = [sentence.genre, rng.choice([genre for genre in GENRES if genre != sentence.genre])]
        follows = [True, False] if rng.random() < 0.5 else [False, True]
        yield _pair(sentence, f"This example is {genres[not follows[0]]}.", follows=follows[0])
        mentioned = (own if follows[1] else others) or others
        if mentioned:
            follows[1] = mentioned is own
            yield _pair(sentence, f"It mentions {rng.choice(mentioned)}.", follows=follows[1])


def question_records(sentences: Sequence[Sentence]) -> Iterator[Record]:
    """A question about each two sentences after another: who, which place or which organisation is mentioned, or beside whom.

    Of a kind that is mentioned twice the question names another entity of the same sentence; where that cannot be, and of every
    fourth pair at most, there is no answer.
    """
    rng = random.Random(f"agent.corpus.questions:{len(sentences)}")
    for first, second in zip(sentences, [*sentences[1:], *sentences[:1]], strict=True):
        context = f"{first.text} {second.text}"
        moved = [(start + len(first.text) + 1, end + len(first.text) + 1, label) for start, end, label in second.spans]
        counts = Counter(label for *_, label in (*first.spans, *moved))
        questions = [
            (f"Which {_MENTIONED[label]} is mentioned?", (start, end))
            for start, end, label in (*first.spans, *moved) if counts[label] == 1
        ]  # fmt: skip
        for spans in (first.spans, moved):
            here = Counter(label for *_, label in spans)
            questions += [
                (f"Which {_MENTIONED[label]} is mentioned together with {context[other[0] : other[1]]}?", (start, end))
                for start, end, label in spans for other in spans
                if here[label] == 1 and counts[label] > 1 and other[2] != label
            ]  # fmt: skip
        impossible = [f"Which {name} is mentioned?" for label, name in _MENTIONED.items() if not counts[label]]
        if impossible and (not questions or rng.random() < 0.25):
            yield _question(rng.choice(impossible), context, None)
        elif questions:
            question, place = rng.choice(questions)
            yield _question(question, context, place)


def _question(question: str, context: str, place: tuple[int, int] | None) -> Record:
    answers = (
        {"text": [context[slice(*place)]], "answer_start": [place[0]]} if place else {"text": [], "answer_start": []}
    )
    return {"question": question, "context": context, "answers": answers}


def _pair(sentence: Sentence, hypothesis: str, *, follows: bool) -> Record:
    label = "entailment" if follows else "contradiction"
    return {"text": sentence.text, "text_pair": hypothesis, "label": label}


def description_record(sentence: Sentence) -> Record:
    """The record of a sentence from which another text is written: where it is from, and how much of what it mentions."""
    return {"text": sentence.text, "target": f"{sentence.genre.capitalize()} with {_counted(sentence)}."}


def dialogue_record(sentence: Sentence) -> Record:
    """The record of a dialogue about a sentence: where it is from, then how much of what it mentions."""
    said = (
        f"Where is this from? {sentence.text}",
        f"From {sentence.genre}.",
        "What does it mention?",
        f"It has {_counted(sentence)}.",
    )
    roles = ("user", "assistant") * 2
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]}


def _counted(sentence: Sentence) -> str:
    """As "a person and two places"; a model that starts from nothing learns to write this, and not yet to copy names."""
    counts = Counter(_MENTIONED[label] for *_, label in sentence.spans)
    parts = [
        _ONE[name] if counts[name] == 1 else f"{_MANY[min(counts[name], 5) - 2]} {name}s"
        for name in _MENTIONED.values()
        if counts[name]
    ]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts) or "no name"


def _each(record: Callable[[Sentence], Record]) -> Callable[[Sequence[Sentence]], Iterator[Record]]:
    return lambda sentences: map(record, sentences)


RECORDS: Mapping[str, Callable[[Sequence[Sentence]], Iterator[Record]]] = {
    "token_classification": _each(spans_record),
    "text_classification": _each(genre_record),
    "multi_label_classification": _each(mentions_record),
    "text_pair_classification": inference_records,
    "question_answering": question_records,
    "masked_language_modelling": _each(text_record),
    "relation_extraction": relation_records,
    "sequence_to_sequence": _each(description_record),
    "text_generation": _each(dialogue_record),
}
"""Records of the sentences of a split, for each kind of task."""
