"""Decodes answers of a classifier that explores: labels are drawn, unless the caller asks for the best one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from agent.decisions.exploration import ExploreConfig, SampledAnswer, sample
from agent.encoding import Document, Float32
from agent.errors import ConfigError
from agent.tasks import BaseTask, Parameters
from agent.tasks.text_classification import ClassificationParameters
from serving.inference.engine import Engine


class Explorer:
    """Draws answers.

    Args:
        config: How.
    """

    def __init__(self, config: ExploreConfig) -> None:
        self._config = config

    def answer(
        self, engine: Engine, text: str, document: Document, outputs: Sequence[Float32], parameters: Parameters
    ) -> SampledAnswer:
        """Decodes the logits of one text's windows into an answer."""
        assert isinstance(parameters, ClassificationParameters)
        if parameters.explore is False:
            return SampledAnswer(engine.decode(text, document, outputs, parameters), 1.0, "greedy")
        everything = parameters.model_copy(update={"top_k": None})
        ranked = engine.decode(text, document, outputs, everything)
        return sample(ranked, self._config, random.random(), top_k=parameters.top_k)


def check_explorable(task: BaseTask[Any], config: ExploreConfig) -> None:
    """Refuses exploration where an answer is not one of a few labels with known probabilities.

    Raises:
        ConfigError: The agent's task is another one.
    """
    if config.kind != "greedy" and not task.explores:
        raise ConfigError(
            f"explore.{config.kind} is set for an agent for {task.kind.replace('_', ' ')}",
            allowed="agents for text classification",
            remedy=f"leave explore.{config.kind} out, or serve the agents that explore by themselves",
        )
