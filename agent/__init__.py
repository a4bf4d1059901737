"""The shared contract of training, compression and serving. Knows no torch, no ray, no onnxruntime."""

import os

__version__ = "0.1.0"

# ONNX Runtime from 1.29 on writes a device id and a queue of events where it is imported, unless this is set before.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
