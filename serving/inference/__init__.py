"""ONNX Runtime: sessions, how many of them, and the engine that tokenizes, computes and decodes."""
