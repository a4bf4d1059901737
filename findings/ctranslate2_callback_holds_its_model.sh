#!/usr/bin/env bash
# ctranslate2 4.8.5, a callback of generate_batch that refers to the Generator which calls it.
#
# One would expect: a function that makes a Generator, has it generate with a callback that refers to it (as a method or a closure of an object that
#   owns it does), and returns, leaves nothing behind.
# What happens: now and then the process is aborted: "terminate called after throwing an instance of 'std::system_error'. what(): Resource deadlock avoided".
#   The thread of the Generator drops the callback after the call has returned. Where it is the last to hold it, the Generator goes with it, in its own
#   thread, which then waits for its own end.
# Why it matters here: a server that makes models while it runs (a copy for a seeded text, a new version) would be killed. What it gives as callback
#   forgets what it refers to when the call returns.
# Seen on 2026-11-30 with torch 2.13.0, transformers 5.24.0, Python 3.11, Linux x86-64. The model is a random GPT-2.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check setuptools torch==2.13.0 transformers==5.24.0 ctranslate2==4.8.5 2>/dev/null
cat >model.py <<'PY'
from ctranslate2.converters import TransformersConverter
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
PIECES = [*SPECIAL.values(), *(f"w{number}" for number in range(60))]
words = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(PIECES)}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
GPT2LMHeadModel(GPT2Config(vocab_size=len(PIECES), n_positions=64, n_embd=32, n_layer=1, n_head=2, **ids)).save_pretrained("gpt2")
PreTrainedTokenizerFast(tokenizer_object=words, **SPECIAL).save_pretrained("gpt2")
TransformersConverter("gpt2").convert("converted")
PY
cat >generate.py <<'PY'
import sys

import ctranslate2


def generate(refers):
    generator = ctranslate2.Generator("converted", device="cpu", inter_threads=1, intra_threads=1)
    held = generator if refers else None
    generator.generate_batch([["w5", "w9"]], max_length=10, sampling_topk=20, callback=lambda step: held is step)


for _ in range(2000):
    generate(sys.argv[1] == "refers")
print("2000 generators came and went")
PY
HF_HUB_OFFLINE=1 venv/bin/python model.py 2>errors.txt || { code=$?; tail -n 5 errors.txt; exit "$code"; }
echo "callback that does not refer to the Generator:"
venv/bin/python generate.py alone
echo "callback that refers to it:"
if venv/bin/python generate.py refers 2>&1; then
    echo "this finding no longer holds: nothing was aborted"
    exit 1
fi
echo "as described"
