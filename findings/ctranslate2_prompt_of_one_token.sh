#!/usr/bin/env bash
# ctranslate2 4.8.5, Generator.generate_batch with include_prompt_in_result=False, where one prompt of a batch is a single token.
#
# One would expect: each result holds what was generated after its prompt, whatever else is in the batch.
# What happens: where the shortest prompt of a batch has one token, the results of all others begin with the rest of their own prompt, and these tokens
#   count against max_length: with a prompt of seven tokens and max_length=6 nothing is generated at all. No error is raised. Beside a prompt of
#   two tokens, or alone, the same prompt gives what it should.
# Why it matters here: a server that batches the prompts of several callers would answer one caller with his own prompt because another one sent a single
#   token. An engine has to keep one-token prompts in batches of their own, or to put the begin-of-sequence token before every prompt.
# Seen on 2026-11-30 with torch 2.13.0, transformers 5.24.0, Python 3.11, Linux x86-64. The model is a random GPT-2; greedy search.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check setuptools torch==2.13.0 transformers==5.24.0 ctranslate2==4.8.5 2>/dev/null
HF_HUB_OFFLINE=1 venv/bin/python - 2>errors.txt <<'PY' || { code=$?; tail -n 5 errors.txt; exit "$code"; }
import ctranslate2
import torch
import transformers
from ctranslate2.converters import TransformersConverter
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
PIECES = [*SPECIAL.values(), *(f"w{number}" for number in range(60))]
words = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(PIECES)}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
torch.manual_seed(0)
ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
model = GPT2LMHeadModel(GPT2Config(vocab_size=len(PIECES), n_positions=64, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3, **ids)).eval()
model.save_pretrained("gpt2")
PreTrainedTokenizerFast(tokenizer_object=words, **SPECIAL).save_pretrained("gpt2")
generator = ctranslate2.Generator(TransformersConverter("gpt2").convert("converted"), device="cpu")
LONG = ["w5", "w9", "w2", "w7", "w1", "w4", "w8"]


def generate(*prompts):
    return [found.sequences[0] for found in generator.generate_batch(list(prompts), min_length=6, max_length=6, include_prompt_in_result=False)]


print("transformers", transformers.__version__, "ctranslate2", ctranslate2.__version__)
alone, beside_two, beside_one = generate(LONG)[0], generate(LONG, ["w5", "w9"])[0], generate(LONG, ["w5"])[0]
wanted = model.generate(torch.tensor([[PIECES.index(piece) for piece in LONG]]), do_sample=False, min_new_tokens=6, max_new_tokens=6)[0, len(LONG) :].tolist()
print("prompt:                    ", LONG)
print("torch:                     ", [PIECES[token] for token in wanted])
print("alone:                     ", alone)
print("beside a prompt of 2 tokens:", beside_two)
print("beside a prompt of 1 token: ", beside_one)
if not alone == beside_two == [PIECES[token] for token in wanted]:
    raise SystemExit("this finding no longer holds: already wrong without a prompt of one token")
if beside_one != LONG[1:]:
    raise SystemExit("this finding no longer holds: the prompt does not come back")
print("as described")
PY
