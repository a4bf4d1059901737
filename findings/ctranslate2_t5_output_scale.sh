#!/usr/bin/env bash
# ctranslate2 4.8.5, its converter for transformers, on T5 1.1 and mT5 as transformers 5.24.0 builds and saves them.
#
# One would expect: the converted model scores a target as the original does. transformers tells the two kinds of T5 apart by
#   config.scale_decoder_outputs: the first T5 multiplies the decoder's output by d_model ** -0.5, T5 1.1 does not, and mT5 never does.
# What happens: the converter goes by config.tie_word_embeddings, which transformers 5 sets to true for all of them, also where config.json said false.
#   T5 1.1 and mT5 are converted without an error into models whose logits are divided by the root of d_model. Greedy search gives the same
#   tokens, so a test of greedy output passes; scores, beam search and sampling are those of a far too flat distribution. The first T5 is right.
# Why it matters here: translation with beams, log probabilities in answers and sampling would be silently wrong for agents made from
#   google/t5-v1_1-*, google/flan-t5-* or google/mt5-*. Told what scale_decoder_outputs says (below), it is right.
# Seen on 2026-11-30 with torch 2.13.0, Python 3.11, Linux x86-64.
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
from transformers import MT5Config, MT5ForConditionalGeneration, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
PIECES = [*SPECIAL.values(), *(f"w{number}" for number in range(60))]
SOURCE, TARGET = ["w3", "w7", "w1", "</s>"], ["w8", "w2", "w5", "</s>"]
words = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(PIECES)}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
SIZES = {"vocab_size": len(PIECES), "d_model": 64, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 4}
IDS = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
NEWER = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}  # as the config.json of google/t5-v1_1-small has it


class ScaleTold(TransformersConverter):
    """Tells the converter in its own words what transformers does."""

    def load_model(self, *args, **options):
        model = super().load_model(*args, **options)
        model.config.tie_word_embeddings = getattr(model.config, "scale_decoder_outputs", False)
        return model


def numbers(pieces):
    return torch.tensor([[PIECES.index(piece) for piece in pieces]])


def score(converter, name):
    translator = ctranslate2.Translator(converter(name).convert(f"{name}-converted", force=True), device="cpu")
    return sum(translator.score_batch([SOURCE], [TARGET[:-1]])[0].log_probs)


def compare(name, model):
    torch.manual_seed(0)
    model = model.eval()
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim == 2:
                weights.normal_(0, 0.3)
    model.save_pretrained(name)
    PreTrainedTokenizerFast(tokenizer_object=words, **SPECIAL).save_pretrained(name)
    with torch.no_grad():
        logits = model(input_ids=numbers(SOURCE), labels=numbers(TARGET)).logits
    wanted = float(logits.log_softmax(-1).gather(-1, numbers(TARGET)[..., None]).sum())
    given, mended = score(TransformersConverter, name), score(ScaleTold, name)
    print(f"{name}: log probability of a target: torch {wanted:.3f}, converted {given:.3f}, converted with the scale told {mended:.3f}")
    if abs(mended - wanted) > 1e-3:
        raise SystemExit(f"this finding no longer holds: {name} with the scale told differs")
    return abs(given - wanted) < 1e-3


print("transformers", transformers.__version__, "ctranslate2", ctranslate2.__version__)
first = compare("t5", T5ForConditionalGeneration(T5Config(**SIZES, **IDS)))
newer = compare("t5-1.1", T5ForConditionalGeneration(T5Config(**SIZES, **IDS, **NEWER)))
multilingual = compare("mt5", MT5ForConditionalGeneration(MT5Config(**SIZES, **IDS, tie_word_embeddings=False)))
if not first or newer or multilingual:
    raise SystemExit("this finding no longer holds: T5 should be right, and T5 1.1 and mT5 wrong")
print("as described")
PY
