"""Compresses a fine-tuned agent: prunes, distils, exports to ONNX and quantises it, and checks how much quality it keeps."""
