"""The shared contract of training, compression and serving. Knows no torch, no ray, no onnxruntime."""

__version__ = "0.1.0"
