"""Records in a new bundle what its texts and its answers to them are like, so that serving recognises drift."""

from __future__ import annotations

from agent.drift.drift_reference import FILE, DriftReference
from agent.drift.observer import Observation, Observer
from agent.errors import RequestError
from agent.evaluation import run_documents
from cluster.progress import timed_bar
from compression.measurement.candidates import forward_of
from compression.measurement.speed import evenly_spaced
from compression.state.pipeline_state import Graph, PipelineState

_MAX_TEXTS = 5_000
_TEXTS_AT_ONCE = 100  # whose logits are in memory


def record_distributions(state: PipelineState) -> None:
    """Answers the texts of the dev split with the graph that is served on a CPU, and writes the distributions; without a graph nothing.

    The agent learned nothing from that split; epochs and thresholds were chosen on it. A text that it holds several times counts once, as in
    serving. A split whose texts are no requests, as those without masks for a masked language model, is left out with a note.
    """
    graphs = [graph for graph in state.graphs if graph.published]
    if not graphs:
        return
    graph = next((one for one in reversed(graphs) if "cpu" in one.variant.hardware), graphs[-1])
    try:
        observed = _observe(state, graph)
    except RequestError as error:
        state.note(
            f"no distributions are recorded to recognise drift: texts of the dev split are no requests ({error.what})"
        )
        return
    reference = DriftReference.of(observed, "dev")
    (state.directory / FILE).write_text(reference.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _observe(state: PipelineState, graph: Graph) -> list[Observation]:
    """Raises RequestError where a text cannot be answered."""
    task, encoder = state.bundle.task, state.encoder
    texts = list(dict.fromkeys(task.text_of(example) for example in evenly_spaced(state.splits.dev, _MAX_TEXTS)))
    forward = forward_of(state, graph)
    observer, observed = Observer(task, encoder), list[Observation]()
    with timed_bar("distributions of the dev split") as progress:
        for first in range(0, len(texts), _TEXTS_AT_ONCE):
            some = texts[first : first + _TEXTS_AT_ONCE]
            documents = task.encode_request(encoder, some, task.parameters())
            outputs = run_documents(documents, forward, pad_id=encoder.pad_id)
            observed += [observer.observe(*one) for one in zip(some, documents, outputs, strict=True)]
            progress(len(observed), len(texts))
    return observed
