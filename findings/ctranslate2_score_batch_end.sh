#!/usr/bin/env bash
# ctranslate2 4.8.5, Translator.score_batch beside Generator.score_batch.
#
# One would expect: both score the tokens that they are given, so that the same target makes as many log-probabilities in one as in the other, but for the
#   first token of a decoder, which nothing comes before.
# What happens: Translator.score_batch appends the token that ends a text to each target and scores it too: a target of n tokens gives n + 1 values, and
#   one that ends with </s> already gives two ends, the second of which is what the model says after an end. Generator.score_batch appends nothing: n tokens give
#   n - 1 values, and the end is scored only where the caller wrote it.
# Why it matters here: perplexities and the check of a converted model against PyTorch sum these values. With one rule for both kinds of model an encoder-decoder's
#   text has one end too many, or a decoder's has none, and the perplexity is that of another text. No error is raised.
# Seen on 2026-11-30 with torch 2.13.0, transformers 5.24.0, Python 3.11, Linux x86-64. The models are a random T5 and a random GPT-2.
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
GPT2LMHeadModel(GPT2Config(vocab_size=len(PIECES), n_positions=64, n_embd=32, n_layer=1, n_head=2, **ids)).save_pretrained("gpt2")
shape = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
model = T5ForConditionalGeneration(T5Config(vocab_size=len(PIECES), decoder_start_token_id=1, **shape, **ids)).eval()
model.save_pretrained("t5")
for place in ("gpt2", "t5"):
    PreTrainedTokenizerFast(tokenizer_object=words, **SPECIAL).save_pretrained(place)
generator = ctranslate2.Generator(TransformersConverter("gpt2").convert("gpt2-ct2"), device="cpu")
translator = ctranslate2.Translator(TransformersConverter("t5").convert("t5-ct2"), device="cpu")
SOURCE, TARGET = ["w1", "w3", "</s>"], ["w5", "w9", "w2"]


def by_torch(target):
    number = PIECES.index
    labels = torch.tensor([[number(piece) for piece in target]])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[number(piece) for piece in SOURCE]]), labels=labels).logits[0]
    return [logits.log_softmax(-1)[place, token].item() for place, token in enumerate(labels[0].tolist())]


print("transformers", transformers.__version__, "ctranslate2", ctranslate2.__version__)
plain, ended = (translator.score_batch([SOURCE], [target])[0] for target in (TARGET, [*TARGET, "</s>"]))
alone, closed = (generator.score_batch([target])[0] for target in (TARGET, [*TARGET, "</s>"]))
print("Translator, target of 3:            ", len(plain.log_probs), "values, tokens", *plain.tokens)
print("Translator, the same with </s>:     ", len(ended.log_probs), "values, tokens", *ended.tokens)
print("Generator, the same target of 3:    ", len(alone.log_probs), "values, tokens", *alone.tokens)
print("Generator, the same with </s>:      ", len(closed.log_probs), "values, tokens", *closed.tokens)
wanted = by_torch([*TARGET, "</s>"])
print("torch, the target with one </s>:    ", *(f"{value:.4f}" for value in wanted))
print("Translator, target of 3:            ", *(f"{value:.4f}" for value in plain.log_probs))
if max(abs(one - other) for one, other in zip(plain.log_probs, wanted, strict=True)) > 1e-3:
    raise SystemExit("this finding no longer holds: the values are not those of the target and one end")
if len(ended.log_probs) != 5 or len(alone.log_probs) != 2 or len(closed.log_probs) != 3:
    raise SystemExit("this finding no longer holds: other counts")
print("as described")
PY
