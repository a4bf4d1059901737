"""Batches waiting windows of like length under a budget of padded tokens.

Determinism: while one request is all there is, its batches depend on its windows only, the same that
`agent.batching.cut_by_length` cuts: an idle server answers exactly as `Engine.predict` does, even where a result depends on
its batch (dynamic int8 quantization scales activations by batch).
"""

from __future__ import annotations

import logging
from functools import partial

from serving.inference.passes import SecondPass, WindowWork
from serving.metrics import Metrics
from serving.scheduling.batch_scheduler import BatchScheduler, Bounds, Submission
from serving.scheduling.executors import Executor, Outputs
from serving.scheduling.request_queue import Item, RequestQueue

_log = logging.getLogger(__name__)


class TokenBatcher(BatchScheduler[WindowWork]):
    """Batches windows for an executor; to be used on one event loop.

    Args:
        executor: Computes batches.
        bounds: What to keep to.
        metrics: Where batches and the queue are observed.
    """

    def __init__(self, executor: Executor, bounds: Bounds, metrics: Metrics | None = None) -> None:
        super().__init__(RequestQueue(bounds.max_batch_tokens), executor.num_workers, bounds, metrics)
        self._executor = executor

    def close(self) -> None:
        """Lets running batches finish and takes no more."""
        self._closed = True
        self._executor.close()

    def _length(self, work: WindowWork) -> int:
        return len(work.input_ids)

    def _group(self, work: WindowWork) -> int:
        return int(isinstance(work, SecondPass))

    def _start(self, batch: list[Item[WindowWork, Submission]]) -> None:
        self._executor.start([item.work for item in batch], partial(self._done, batch))

    def _done(self, batch: list[Item[WindowWork, Submission]], outputs: Outputs, seconds: float) -> None:
        self._ended()
        if isinstance(outputs, Exception):
            self.failures_in_a_row += 1
            for submission in {id(item.owner): item.owner for item in batch}.values():
                submission.caller.fail(outputs)
            return
        self.failures_in_a_row = 0
        tokens, padded = sum(item.length for item in batch), batch[-1].length * len(batch)
        self._learn(len(batch), tokens, padded, seconds)
        for item, output in zip(batch, outputs, strict=True):
            try:
                item.owner.caller.deliver(item.place, output)
            except Exception:  # noqa: BLE001 - the others in the batch are not to blame
                _log.exception("an answer could not be delivered")
