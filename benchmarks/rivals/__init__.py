"""The servers that benchmarks/serving_throughput.py compares: ours, and what a user could write in half an hour with another library.

`roster.py` lists them. Each rival is a module that runs with BUNDLE, PORT and SETTINGS (JSON, from the roster) in its
environment and answers `{"inputs": text or texts}` at `/` with entities. Those that take our code compute with the same
graph, tokenizer and decoding as ours.
"""
