#!/usr/bin/env bash
# ctranslate2 4.8.5, its converter for transformers, on a BART that transformers 5.24.0 made from its own BartConfig.
#
# One would expect: BART is among the converter's models, so what transformers saves as a BART is converted, or refused with a reason.
# What happens: the converter reads config.normalize_before, a field that BartConfig does not have: AttributeError. The BART models on the hub were saved
#   with the field years ago, and transformers keeps fields that it does not know, so they convert, and so does what is fine-tuned from them; only a BART
#   with a configuration of its own fails. A T5 made in the same way converts. BartConfig(normalize_before=False), which says what BART does, is enough, and
#   the greedy output is then that of torch.
# Why it matters here: CTranslate2 is the engine meant for agents that write. One trained from nothing, with a configuration of its own, would fail at its
#   first conversion, after the training, while every test with a model of the hub passes.
# Seen on 2026-11-29 with torch 2.13.0, Python 3.11, Linux x86-64.
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
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
PIECES = [*SPECIAL.values(), *(f"w{number}" for number in range(40))]
SOURCE = ["w3", "w7", "w1", "</s>"]
words = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(PIECES)}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **SPECIAL)


def bart(**fields):
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": None}
    widths = {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 32}
    return BartForConditionalGeneration(BartConfig(vocab_size=len(PIECES), init_std=0.5, **sizes, **ids, **widths, **fields)).eval()


def t5():
    ids = {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    return T5ForConditionalGeneration(T5Config(vocab_size=len(PIECES), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, **ids)).eval()


def convert(model, name):
    model.save_pretrained(name)
    tokenizer.save_pretrained(name)
    return TransformersConverter(name).convert(f"{name}-converted")


torch.manual_seed(0)
print("transformers", transformers.__version__, "ctranslate2", ctranslate2.__version__)
convert(t5(), "t5")
print("T5: converted")
try:
    convert(bart(), "bart")
except AttributeError as error:
    print("BART:", error)
    if "normalize_before" not in str(error):
        raise SystemExit("this finding no longer holds: another error") from None
else:
    raise SystemExit("this finding no longer holds: BART is converted")
model = bart(normalize_before=False)
translator = ctranslate2.Translator(convert(model, "bart-with-field"), device="cpu")
ids = torch.tensor([tokenizer.convert_tokens_to_ids(SOURCE)])
wanted = model.generate(ids, do_sample=False, num_beams=1, max_new_tokens=8)[0, 1:].tolist()
given = translator.translate_batch([SOURCE], beam_size=1, max_decoding_length=8)[0].hypotheses[0]
print("BART with normalize_before=False: converted; torch", tokenizer.convert_ids_to_tokens(wanted), "ctranslate2", given)
if given != tokenizer.convert_ids_to_tokens([token for token in wanted if token != 2]):
    raise SystemExit("this finding no longer holds: the outputs differ")
PY
