"""Quantises ONNX graphs to int8 and int4."""
