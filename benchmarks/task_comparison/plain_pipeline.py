"""Hugging Face's pipeline on torch in fp32, for every kind of task; question answering, which transformers 5 has no pipeline for, by a plain loop."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.common.load_generator import Inputs

Answerer = Callable[[Inputs, int], Any]
"""Inputs of one request and a batch size to what the inference API answers."""

_LONGEST_ANSWER, _STRIDE, _BEST_ENDS = 30, 64, 20


def load_pipeline(model: str, pipeline: str, kind: str, *, threads: int) -> Answerer:
    """Loads a model directory.

    Args:
        model: With its tokenizer.
        pipeline: As `transformers.pipeline` names it; empty for question answering.
        kind: Of the agent's task.
        threads: That torch computes with.
    """
    import torch

    torch.set_num_threads(threads)
    if not pipeline:
        return QuestionLoop(model).answer
    from transformers import pipeline as make

    options: dict[str, Any] = {"token_classification": {"aggregation_strategy": "first"}}.get(kind, {})
    pipe = make(pipeline, model=model, device="cpu", **options)
    several = {"multi_label_classification": {"top_k": None, "function_to_apply": "sigmoid"}}.get(kind, {})

    def answer(inputs: Inputs, batch_size: int) -> Any:
        """Classifications of a list come as one item each; the inference API has a list for each."""
        with torch.inference_mode():
            found = pipe(inputs, batch_size=batch_size, **several)
        flat = pipeline == "text-classification" and isinstance(inputs, list) and not several
        return [[item] for item in found] if flat else found

    return answer


class QuestionLoop:
    """Question answering as transformers 4 did it: windows over the context, the best pair of start and end of all.

    Args:
        model: Directory with a model and its tokenizer.
    """

    def __init__(self, model: str) -> None:
        from transformers import AutoModelForQuestionAnswering, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self._model = AutoModelForQuestionAnswering.from_pretrained(model).eval()
        self._longest = min(512, self._model.config.max_position_embeddings)

    def answer(self, inputs: Inputs, batch_size: int) -> Any:
        """An object for one question, a list of them for several."""
        asked = inputs if isinstance(inputs, list) else [inputs]
        found = [
            item
            for first in range(0, len(asked), batch_size)
            for item in self._batch(asked[first : first + batch_size])
        ]
        return found if isinstance(inputs, list) else found[0]

    def _batch(self, asked: list[Any]) -> list[dict[str, Any]]:
        import torch

        encoded = self._tokenizer(
            [one["question"] for one in asked], [one["context"] for one in asked],
            truncation="only_second", max_length=self._longest, stride=_STRIDE,
            return_overflowing_tokens=True, return_offsets_mapping=True, padding=True, return_tensors="pt",
        )  # fmt: skip
        owners = encoded.pop("overflow_to_sample_mapping").tolist()
        offsets = encoded.pop("offset_mapping").tolist()
        with torch.inference_mode():
            output = self._model(**encoded)
        starts, ends = output.start_logits.softmax(-1), output.end_logits.softmax(-1)
        best: list[dict[str, Any]] = [{"score": 0.0, "start": 0, "end": 0, "answer": ""} for _ in asked]
        for row, owner in enumerate(owners):
            context = torch.tensor([place == 1 for place in encoded.sequence_ids(row)])
            score, first, last = _best_span(starts[row] * context, ends[row] * context)
            if score > best[owner]["score"]:
                begin, end = offsets[row][first][0], offsets[row][last][1]
                answer = asked[owner]["context"][begin:end]
                best[owner] = {"score": score, "start": begin, "end": end, "answer": answer}
        return best


def _best_span(starts: Any, ends: Any) -> tuple[float, int, int]:
    """Score, first and last token of the best answer among the likeliest starts and ends."""
    likely = min(_BEST_ENDS, len(starts))
    firsts, lasts = starts.topk(likely).indices.tolist(), ends.topk(likely).indices.tolist()
    spans = [
        (float(starts[first] * ends[last]), first, last)
        for first in firsts
        for last in lasts
        if first <= last < first + _LONGEST_ANSWER
    ]
    return max(spans, default=(0.0, 0, 0))


def rates(order: dict[str, Any]) -> dict[str, float]:
    """Texts a second without HTTP, by batch size.

    Args:
        order: `model`, `pipeline` and `kind` as above, `threads`, `inputs`, `batch_sizes`, and `seconds` for each of these.
    """
    answer = load_pipeline(order["model"], order["pipeline"], order["kind"], threads=order["threads"])
    found = {}
    for size in order["batch_sizes"]:
        chunks = [order["inputs"][first : first + size] for first in range(0, len(order["inputs"]), size)]
        answer(chunks[0], size)
        begun, texts = time.perf_counter(), 0
        for chunk in itertools.cycle(chunks):
            answer(chunk, size)
            texts += len(chunk)
            if time.perf_counter() - begun > order["seconds"]:
                break
        found[str(size)] = texts / (time.perf_counter() - begun)
    return found


if __name__ == "__main__":
    print(json.dumps(rates(json.load(sys.stdin))))
