"""Serves a bundle: ONNX Runtime behind our own batcher, FastAPI and Ray Serve with HAProxy. Needs no torch."""
