"""What the logits of a window decide: one output, one for each token, yes or no for every output, or a token for every output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agent.encoding import IGNORED, Float32, Int64


@dataclass(frozen=True)
class Decision:
    """How logits become probabilities.

    Attributes:
        per_token: Whether logits have a row for each token, float [tokens, outputs], or one for the window, float [outputs].
        binary: Whether every output is decided by itself (sigmoid), or one of them is chosen (softmax). Targets are int64: of a
            choice its number, [tokens] or []; of binary outputs 1 or 0 for each, [outputs].
        of_tokens: Whether every output chooses one of the window's tokens: logits are float [outputs, tokens], with `OUT_OF_REACH`
            at padding, and targets the places of the tokens, int64 [outputs].
        of_vocabulary: Whether each asked token (`Window.asked`) is one of the tokenizer's sub-words: logits have a row for these tokens
            only, float [asked, sub-words], and targets, int64 [tokens], are -100 at all others.
    """

    per_token: bool = False
    binary: bool = False
    of_tokens: bool = False
    of_vocabulary: bool = False

    def targets_per_window(self, num_outputs: int) -> int:
        """Targets of a window, where it has a fixed number of them."""
        return num_outputs if self.binary or self.of_tokens else 1

    def probabilities(self, logits: Float32) -> Float32:
        """Of each output, along the last axis."""
        return sigmoid(logits) if self.binary else softmax(logits)

    def document_probabilities(self, outputs: Sequence[Float32]) -> Float32:
        """Means over the windows of a document, of a task with one row of logits for each: float32 [outputs]."""
        return np.asarray(self.probabilities(np.stack(outputs)).mean(axis=0), dtype=np.float32)

    def items(self, targets: Sequence[Int64], outputs: Sequence[Float32]) -> tuple[Float32, Int64]:
        """What was decided beside what is right, over the windows of a document.

        Returns:
            Probabilities, float32 [items, choices], and the right choices, int64 [items]. Items are labelled tokens, or the document
            itself, or each of its outputs with the choices no and yes, or each output of each window with its tokens.
        """
        if self.of_tokens:
            widest = max(logits.shape[-1] for logits in outputs)
            padded = [np.pad(logits, ((0, 0), (0, widest - logits.shape[-1])), constant_values=OUT_OF_REACH)
                      for logits in outputs]  # fmt: skip
            return self.probabilities(np.concatenate(padded)), np.concatenate(targets)
        if self.of_vocabulary:
            return self.probabilities(np.concatenate(outputs)), np.concatenate([t[t != IGNORED] for t in targets])
        if self.per_token:
            labelled = [target != IGNORED for target in targets]
            rows = [
                self.probabilities(logits[: len(mask)])[mask] for logits, mask in zip(outputs, labelled, strict=True)
            ]
            return np.concatenate(rows), np.concatenate([t[mask] for t, mask in zip(targets, labelled, strict=True)])
        found = self.document_probabilities(outputs)
        if self.binary:
            return np.stack([1 - found, found], axis=-1), targets[0]
        return found[None], targets[0][None]


PER_TOKEN = Decision(per_token=True)
PER_WINDOW = Decision()
EACH_OUTPUT = Decision(binary=True)
TOKENS = Decision(of_tokens=True)
OF_VOCABULARY = Decision(per_token=True, of_vocabulary=True)
OUT_OF_REACH = -1e4  # a logit that no softmax sees, within the range of float16


def softmax(logits: Float32) -> Float32:
    """Probabilities along the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=np.float32)


def sigmoid(logits: Float32) -> Float32:
    """The probability of each logit by itself."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * np.asarray(logits, np.float32))), dtype=np.float32)
