#!/usr/bin/env bash
# ctranslate2 4.8.5, Translator.translate_batch with target_prefix and callback, beside Generator.generate_batch with a prompt and callback.
#
# One would expect: the callback of both is called once for each token that was generated (its documentation: "called for each generated token when
#   beam_size is 1"), and both bound what is generated: max_length of a Generator does, and a prompt does not count.
# What happens: a Translator calls back for every token of the target_prefix as well, as if it had generated them, and max_decoding_length counts them: a
#   prefix of four tokens and max_decoding_length=6 generate two tokens. A Generator calls back for no token of its prompt, and max_length=6 generates six.
# Why it matters here: a server that ends a batch early and goes on from what is written (so that short texts need not wait for long ones) hands the
#   written part back as target_prefix. It would stream those tokens to the caller a second time, and end the text too early, for one kind of model only.
# Seen on 2026-11-30 with torch 2.13.0, transformers 5.24.0, Python 3.11, Linux x86-64. The models are a random T5 and a random GPT-2; greedy search.
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
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
PIECES = [*SPECIAL.values(), *(f"w{number}" for number in range(60))]
words = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(PIECES)}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
torch.manual_seed(0)
ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
GPT2LMHeadModel(GPT2Config(vocab_size=len(PIECES), n_positions=64, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3, **ids)).save_pretrained("gpt2")
shape = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
T5ForConditionalGeneration(T5Config(vocab_size=len(PIECES), decoder_start_token_id=1, **shape, **ids)).save_pretrained("t5")
for place in ("gpt2", "t5"):
    PreTrainedTokenizerFast(tokenizer_object=words, **SPECIAL).save_pretrained(place)
generator = ctranslate2.Generator(TransformersConverter("gpt2").convert("gpt2-ct2"), device="cpu")
translator = ctranslate2.Translator(TransformersConverter("t5").convert("t5-ct2"), device="cpu")
GIVEN = ["w5", "w9", "w2", "w7"]


def told(run):
    heard = []

    def callback(step):
        heard.append(step.token)
        return False

    return heard, run(callback)


def generate(callback):
    options = {"max_length": 6, "min_length": 6, "include_prompt_in_result": False}
    return generator.generate_batch([GIVEN], callback=callback, **options)[0].sequences[0]


def translate(callback):
    options = {"max_decoding_length": 6, "min_decoding_length": 6, "beam_size": 1}
    return translator.translate_batch([["w1", "w3", "</s>"]], target_prefix=[GIVEN], callback=callback, **options)[0].hypotheses[0]


print("transformers", transformers.__version__, "ctranslate2", ctranslate2.__version__)
heard, written = told(generate)
print("Generator, max_length=6: generated", *written, "- called back for", *heard)
if len(written) != 6 or len(heard) != 6 or heard != written:
    raise SystemExit("this finding no longer holds: the Generator does otherwise")
heard, written = told(translate)
print("Translator, max_decoding_length=6, prefix", *GIVEN, "- result", *written, "- called back for", *heard)
if written[:4] != GIVEN:
    raise SystemExit("this finding no longer holds: the result does not begin with the prefix")
if len(written) != 6:
    raise SystemExit("this finding no longer holds: the prefix does not count")
if heard[:4] != GIVEN:
    raise SystemExit("this finding no longer holds: nobody is called back for the prefix")
print("as described")
PY
