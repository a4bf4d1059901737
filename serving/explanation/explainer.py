"""Explains the decisions on one text, step by step: says which texts are to be computed next, and judges what comes back.

Who drives it computes: a server through its queue (scheduled.py), the command in this process (`explain_text`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

from agent.encoding import Document, Float32
from agent.errors import ConfigError, RequestError
from agent.tasks import BaseTask
from agent.tasks.base import Claim, Verdict
from serving.explanation.explanation_models import (
    Cause,
    ExplainedDecision,
    Explanation,
    FlipFound,
    Place,
)
from serving.explanation.hidden_words import HiddenWords
from serving.explanation.interventions import Explained, Study, Verdicts, most_claims, num_sampled
from serving.explanation.shapley_values import most_words
from serving.inference.engine import Engine
from serving.scheduling.limits import LEAST_INTERVENTIONS, ExplainLimits


class Computation(NamedTuple):
    """Texts that are to be computed.

    Attributes:
        num_texts: How many.
        text: The text of a number.
        judge: Takes the number of a text, the encoded text and the logits of its windows; what it returns is sent back.
    """

    num_texts: int
    text: Callable[[int], str]
    judge: Callable[[int, Document, Sequence[Float32]], Any]


EXPLAINABLE = "agents that tag or classify texts, or judge pairs of texts"
Steps = Generator[Computation, list[Any], Explanation]


def check_explainable(task: BaseTask[Any]) -> None:
    """Refuses a task whose decisions are not explained.

    Raises:
        ConfigError: Names it.
    """
    if not task.explains:
        raise ConfigError(
            f"an agent for {task.kind.replace('_', ' ')} cannot be explained",
            allowed=EXPLAINABLE,
            remedy="explain another agent",
        )


def explanation(engine: Engine, text: str, parameters: Any, limits: ExplainLimits) -> Steps:
    """Explains one text; `parameters` are of the model that `explain_parameters` made.

    Raises:
        RequestError: The text is too long, or there is no such decision.
    """
    task = engine.bundle.task

    def read(_: int, document: Document, outputs: Sequence[Float32]) -> tuple[Any, ...]:
        answer = task.answer(text, document, outputs, parameters)
        claims = _claims(task, answer, parameters)
        return claims, task.verdicts(claims, text, document, outputs, parameters), document.num_tokens

    ((claims, verdicts, num_tokens),) = yield Computation(1, lambda _: text, read)
    most = _affordable(num_tokens, parameters.interventions, limits)
    claims, verdicts = _within(claims, verdicts, most_claims(most), parameters)
    words = HiddenWords(
        task,
        engine.bundle.encoder,
        text,
        most=most_words(num_sampled(most, len(claims) or 1)),
        replacement=parameters.replacement,
    )
    study = Study(len(words.words), len(claims), num_interventions=most, seed=parameters.seed, sendable=words.sendable)
    study.verdicts[0] = verdicts
    explained = list[Explained]()
    if claims and words.words:
        explained = yield from _computed(task, words, claims, study, parameters)
    told = [_told(words, claim, found) for claim, found in zip(claims, explained, strict=False)]
    return Explanation(
        bundle=engine.bundle.digest,
        replacement=words.token,
        words=words.num_words,
        words_at_once=max((len(word.edges) for word in words.words), default=1),
        interventions=study.num_computed - 1,
        exact=study.exact,
        seed=parameters.seed,
        decisions=told,
    )


def explain_text(engine: Engine, text: str, parameters: Any, limits: ExplainLimits) -> Explanation:
    """Explains one text in this process.

    Raises:
        RequestError: As `explanation` says.
    """
    steps = explanation(engine, text, parameters, limits)
    wanted = next(steps)
    while True:
        documents = engine.encode([wanted.text(number) for number in range(wanted.num_texts)], parameters)
        said = [
            wanted.judge(number, *one) for number, one in enumerate(zip(documents, engine.run(documents), strict=True))
        ]
        try:
            wanted = steps.send(said)
        except StopIteration as end:
            found: Explanation = end.value
            return found


def _computed(
    task: BaseTask[Any], words: HiddenWords, claims: Sequence[Claim], study: Study, parameters: Any
) -> Generator[Computation, list[Any], list[Explained]]:
    """Has the sets of hidden words computed that a study asks for."""
    asking = study.explain()
    wanted = next(asking)
    while True:
        sets = wanted

        def judge(number: int, document: Document, outputs: Sequence[Float32], sets: list[int] = sets) -> Verdicts:
            moved = [words.moved(claim, sets[number]) for claim in claims]
            return task.verdicts(moved, document.text, document, outputs, parameters)

        said = yield Computation(len(sets), lambda number, sets=sets: words.without(sets[number]), judge)  # type: ignore[misc]
        try:
            wanted = asking.send(dict(zip(sets, said, strict=True)))
        except StopIteration as end:
            found: list[Explained] = end.value
            return found


def _claims(task: BaseTask[Any], answer: Sequence[Any], parameters: Any) -> list[Claim]:
    """What is to be explained.

    Raises:
        RequestError: There is no such label or entity.
    """
    labels = parameters.labels
    known = getattr(parameters, "candidate_labels", None) or (*task.labels, *task.outputs)
    for place, label in enumerate(labels):
        if label not in known:
            raise RequestError(
                f"parameters.labels[{place}] is {label[:80]!r}",
                allowed=", ".join(dict.fromkeys(known)),
                remedy="name labels of this agent",
                field=f"parameters.labels[{place}]",
            )
    if not labels and getattr(parameters, "top_k", None):
        labels = [item["label"] for item in answer]
    claims = task.claims(answer, list(dict.fromkeys(labels)))
    if parameters.start is None:
        return claims
    found = [claim for claim in claims if claim.span and claim.span[0] == parameters.start]
    if not found:
        starts = ", ".join(str(claim.span[0]) for claim in claims[:20] if claim.span)
        raise RequestError(
            f"no entity of the answer begins at parameters.start {parameters.start}",
            allowed=starts or "nothing: the answer holds no entity of these labels",
            remedy="take `start` from an item of the answer, or leave it out",
            field="parameters.start",
        )
    return found


def _affordable(num_tokens: int, wanted: int | None, limits: ExplainLimits) -> int:
    """How many interventions a text of so many tokens gets.

    Raises:
        RequestError: 413, they are too few to say anything.
    """
    most = min(wanted or limits.max_interventions, limits.max_tokens // max(1, num_tokens))
    if most < LEAST_INTERVENTIONS:
        raise RequestError(
            f"inputs holds {num_tokens} tokens",
            allowed=f"at most {limits.max_tokens // LEAST_INTERVENTIONS} tokens in a text that is explained",
            remedy="send the part of the text that the decision is about",
            status=413,
            field="inputs",
        )
    return most


def _within(
    claims: list[Claim], verdicts: list[Verdict], most: int, parameters: Any
) -> tuple[list[Claim], list[Verdict]]:
    """As many claims as the interventions explain: of labels that nobody asked for the most probable ones.

    Raises:
        RequestError: More entities were found, or more labels asked for.
    """
    if len(claims) <= most:
        return claims, verdicts
    if parameters.labels or getattr(parameters, "top_k", None) or any(claim.span for claim in claims):
        raise RequestError(
            f"{len(claims)} decisions are to be explained",
            allowed=f"at most {most} in one explanation of so many interventions",
            remedy="choose by parameters.labels or parameters.start, or allow more by parameters.interventions",
            field="parameters.labels",
        )
    best = sorted(range(len(claims)), key=lambda place: -verdicts[place].probability)[:most]
    return [claims[place] for place in best], [verdicts[place] for place in best]


def _told(words: HiddenWords, claim: Claim, found: Explained) -> ExplainedDecision:
    """An explanation as a caller reads it."""
    causes = [
        Cause(**words.told(word), effect=effect, low=effect - margin, high=effect + margin, alone=alone)
        for word, effect, margin, alone in zip(
            words.words, found.effects.tolist(), found.margins.tolist(), found.alone.tolist(), strict=True
        )
    ]
    causes.sort(key=lambda cause: -abs(cause.effect))
    start, end = claim.span or (None, None)
    flip = None
    if found.flip:
        hidden = found.flip.hidden
        gone = [Place(**words.told(word)) for place, word in enumerate(words.words) if hidden >> place & 1]
        flip = FlipFound(words=gone, inputs=words.as_inputs(hidden), probability=found.flip.probability)
    return ExplainedDecision(
        label=claim.label,
        word=None if claim.span is None else words.text[start:end],
        start=start,
        end=end,
        probability=found.stands.probability,
        holds=found.stands.holds,
        baseline=found.baseline,
        comprehensiveness=found.comprehensiveness,
        sufficiency=found.sufficiency,
        causes=causes,
        flip=flip,
    )
