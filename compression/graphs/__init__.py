"""Checks, fuses and converts ONNX graphs."""
