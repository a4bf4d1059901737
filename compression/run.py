"""The command that compresses an agent: `python compression/run.py bundle=DIR output=DIR [config.yaml] [key=value ...]`."""

import os
import sys
from pathlib import Path

# Before torch is loaded: threads that spin long while they wait become far slower when a neighbour takes a core.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this directory's files must not pass for libraries

from agent.config import cli
from compression.pipeline.pipeline import compress
from compression.pipeline.pipeline_inputs import CompressionConfig
from compression.pipeline.presets import describe_presets, written_steps
from compression.reporting.report_files import terminal_table

USAGE = f"""
usage: python compression/run.py bundle=DIR output=DIR [preset=NAME] [config.yaml ...] [key.path=value ...]

Compresses a trained agent: structured pruning, export to ONNX, graph fusion, int8, and a gate on its quality. Agents that write
(sequence_to_sequence, text_generation) are converted for CTranslate2 in float32 and int8 instead: steps=[convert,verify], theirs by default;
step distill_texts before these teaches a smaller student.
Example: python compression/run.py bundle=runs/agent output=runs/agent-small data.path=data/ner

Presets are lists of steps (measured: docs/compression.md); other keys can be given beside them:
{describe_presets()}

Steps are a list, each a kind with its options; they replace those of a preset:
  steps=[prune,export,quantize,verify]
  steps='[{{kind: prune, ffn_ratio: 0.4}}, export, {{kind: quantize, embeddings: false}}, verify]'
"""


def main(config: CompressionConfig) -> None:
    """Compresses and prints the short table."""
    if config.preset:
        print(f"preset {config.preset}: {written_steps(config.steps)}", flush=True)
    report = compress(config)
    print(terminal_table(report))
    print(f"published: {config.output} (report: {config.output}/report.md)")


if __name__ == "__main__":
    sys.exit(cli.run(CompressionConfig, main, usage=USAGE))
