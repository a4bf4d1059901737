#!/usr/bin/env bash
# ctranslate2 4.8.5, its converter for transformers, on a Pegasus of transformers 5.24.0 whose byte-level tokenizer has no unknown token.
#
# One would expect: a model that is converted without an error can be loaded, or the converter says what is missing. A byte-level vocabulary
#   spells every text and needs no token for what is unknown.
# What happens: the converter writes config.json with "unk_token": null and says nothing; loading the result raises
#   RuntimeError: ... type must be string, but is null, which names neither the file nor the key. With "" in its place it loads and writes.
# Why it matters here: a tokenizer trained on the data (training/new_model.py) has none, so a run of hours would end in that error where its texts are scored.
# Seen on 2026-11-30 with torch 2.13.0, Python 3.11, Linux x86-64.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check setuptools torch==2.13.0 transformers==5.24.0 ctranslate2==4.8.5 2>/dev/null
HF_HUB_OFFLINE=1 venv/bin/python - 2>errors.txt <<'PY' || { code=$?; tail -n 5 errors.txt; exit "$code"; }
import json
from pathlib import Path

import ctranslate2
from ctranslate2.converters import TransformersConverter
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PegasusConfig, PegasusForConditionalGeneration, PreTrainedTokenizerFast


class Told(TransformersConverter):
    """Tells the converter in its own words where Pegasus has its norms: what transformers 5 no longer writes down."""

    def load_model(self, *args, **options):
        model = super().load_model(*args, **options)
        model.config.normalize_before, model.config.normalize_embedding = True, False
        return model


pieces = ["<pad>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
words = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, []))
words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")
config = PegasusConfig(
    vocab_size=len(pieces), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
    encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=32, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
)
PegasusForConditionalGeneration(config).save_pretrained("model")
tokenizer.save_pretrained("model")
Told("model").convert("converted")
file = Path("converted/config.json")
told = json.loads(file.read_text())
print(f"ctranslate2 {ctranslate2.__version__}: converted without an error, unk_token in config.json: {told['unk_token']}")
assert told["unk_token"] is None
try:
    ctranslate2.Translator("converted")
    raise SystemExit("it loads now")
except RuntimeError as error:
    print(f"loading: RuntimeError: {error}")
    assert "must be string, but is null" in str(error)
file.write_text(json.dumps(told | {"unk_token": ""}))
(result,) = ctranslate2.Translator("converted").translate_batch([["a", "b", "</s>"]], max_decoding_length=4)
print(f'with "" in its place: loads, and writes {len(result.hypotheses[0])} tokens')
PY
