#!/usr/bin/env bash
# transformers 5.24.0, AutoTokenizer, on a DeBERTa-v2 or -v3 directory whose SentencePiece model has the usual map of characters (nmt_nfkc).
#
# One would expect: AutoTokenizer reads the directory's tokenizer.json and gives the ids that tokenizers.Tokenizer.from_file gives for it, which are those
#   of SentencePiece and of transformers 4.57.6, with which the model was trained.
# What happens: for a class that it knows, transformers 5 takes vocabulary and post-processor from tokenizer.json and builds the rest anew. The class for
#   DeBERTa is given the map (_spm_precompiled_charsmap) and drops it: its own normalizer is NFC, where the model's is NFKC. A no-break space, the ligature
#   fi or a full-width digit, all of which SentencePiece maps to plain characters, become [UNK]. No warning is given, and a directory that is saved again
#   has lost the map for good. PreTrainedTokenizerFast.from_pretrained of the same directory keeps it.
# Why it matters here: a fine-tuned DeBERTa reads other ids than it was trained on where text comes from web pages, PDF files or East Asian keyboards, and
#   no-break spaces stand exactly where entities are (5 km, Mr. Smith). bert-agent trains and serves the tokenizer that AutoTokenizer gives it.
# Seen on 2026-11-29 with sentencepiece 0.2.1, tokenizers 0.23.3 (and 0.22.2 under 4.57.6), Python 3.11, Linux x86-64.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
for version in 4.57.6 5.24.0; do
  python3 -m venv "$version"
  "$version/bin/pip" install --quiet --disable-pip-version-check "transformers==$version" sentencepiece==0.2.1 protobuf==7.36.2 2>/dev/null
done
export TRANSFORMERS_VERBOSITY=error
4.57.6/bin/python - 2>errors.txt <<'PY' || { cat errors.txt; exit 1; }
import json
from pathlib import Path

import sentencepiece
from transformers import AutoTokenizer

SENTENCES = ["the office is 5 km from the river", "an official file of 2024 is in the office", "he left the firm in 2013", "it is 6879 m to the coast"]
Path("corpus.txt").write_text("\n".join(SENTENCES * 40))
special = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
directory = Path("deberta")
directory.mkdir()
sentencepiece.SentencePieceTrainer.train(
    input="corpus.txt", model_prefix="deberta/spm", vocab_size=80, hard_vocab_limit=False, minloglevel=2, **special
)
(directory / "config.json").write_text(json.dumps({"model_type": "deberta-v2"}))
(directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "DebertaV2Tokenizer"}))
AutoTokenizer.from_pretrained(directory).save_pretrained(directory)  # writes tokenizer.json, as a fine-tuning with 4.57.6 does
PY
cat > read.py <<'PY'
import sys

import sentencepiece
import transformers
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

TEXT = "the of\ufb01ce is 5\u00a0km from \uff12\uff10\uff12\uff14"
keeps = sys.argv[1] == "keeps"
fast = AutoTokenizer.from_pretrained("deberta")
fast.save_pretrained("again")
read = {
    "spm.model by sentencepiece": sentencepiece.SentencePieceProcessor(model_file="deberta/spm.model").encode(TEXT),
    "tokenizer.json by tokenizers": Tokenizer.from_file("deberta/tokenizer.json").encode(TEXT, add_special_tokens=False).ids,
    "PreTrainedTokenizerFast": PreTrainedTokenizerFast.from_pretrained("deberta")(TEXT, add_special_tokens=False)["input_ids"],
    "AutoTokenizer": fast(TEXT, add_special_tokens=False)["input_ids"],
    "tokenizer.json that AutoTokenizer saved": Tokenizer.from_file("again/tokenizer.json").encode(TEXT, add_special_tokens=False).ids,
}
print(f"transformers {transformers.__version__}, {ascii(TEXT)}")
for name, ids in read.items():
    print(f"  {name}: {ids.count(fast.unk_token_id)} of {len(ids)} pieces unknown: {ascii(' '.join(fast.convert_ids_to_tokens(ids)))}")
right = read["spm.model by sentencepiece"]
for name, ids in read.items():
    lost = not keeps and "AutoTokenizer" in name
    unknown = fast.unk_token_id in ids
    if (ids != right, unknown) != (lost, lost):
        raise SystemExit(f"this finding no longer holds: {name}")
PY
4.57.6/bin/python read.py keeps
5.24.0/bin/python read.py loses
