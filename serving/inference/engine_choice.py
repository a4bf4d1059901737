"""The engine for a bundle: by whether its agent writes, or stands beside a tagger."""

from __future__ import annotations

from agent.bundle import Bundle
from serving.inference.engine import Engine, EngineConfig
from serving.inference.session_plan import SessionPlan
from serving.inference.triple_engine import open_graph_engine
from serving.inference.writing_engine import WritingEngine


def open_engine(
    bundle: Bundle,
    config: EngineConfig | None = None,
    *,
    precision: str = "auto",
    num_cpus: int | None = None,
    plan: SessionPlan | None = None,
) -> Engine | WritingEngine:
    """An engine for a bundle; arguments and errors as those of `Engine` and `WritingEngine`."""
    opened = WritingEngine if bundle.task.writes else open_graph_engine
    return opened(bundle, config, precision=precision, num_cpus=num_cpus, plan=plan)
