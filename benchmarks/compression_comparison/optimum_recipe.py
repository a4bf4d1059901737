"""Quantises a model directory to int8 by optimum-cli, in the environment of `make test-optimum`.

python benchmarks/compression_comparison/optimum_recipe.py MODEL OUTPUT
"""

import subprocess
import sys
from pathlib import Path


def main(model: str, output: str) -> None:
    """Exports, then quantises to dynamic int8 for AVX-512 VNNI, with optimum's defaults.

    Without --optimize O2: what that writes, optimum's own quantiser refuses ("Unable to find data type", optimum-onnx 0.1.0);
    ONNX Runtime fuses on loading anyway.
    """
    cli = str(Path(sys.executable).with_name("optimum-cli"))
    exported = f"{output}/exported"
    subprocess.run(
        [cli, "export", "onnx", "--model", model, "--task", "token-classification", exported],
        check=True,
    )
    subprocess.run(
        [cli, "onnxruntime", "quantize", "--onnx_model", exported, "--avx512_vnni", "-o", f"{output}/int8"], check=True
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
