#!/usr/bin/env bash
# transformers reads a SentencePiece model without the package sentencepiece: what it says is missing is tiktoken.
#
# Expected: a model directory with config.json and spm.model (as microsoft/deberta-v3-base has them, no tokenizer.json) is refused with the name of
#   the package that reads it, sentencepiece.
# What happens: AutoTokenizer falls back to a reader of tiktoken's files and ends with "`tiktoken` is required to read a `tiktoken` file. Install it with
#   `pip install tiktoken`"; with tiktoken installed it ends with another error, since the file is none of tiktoken's.
# Why it matters: a person installs the wrong package. training/model/sentencepiece_file.py names the right one before transformers is asked.
# Versions: transformers 5.24.0, tokenizers 0.23.3, sentencepiece 0.2.3 (to make the file), 2026-11-29.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/maker" && python3 -m venv "$place/reader"
"$place/maker/bin/pip" install --quiet sentencepiece==0.2.3
"$place/reader/bin/pip" install --quiet transformers==5.24.0 tokenizers==0.23.3 protobuf
cd "$place"
maker/bin/python - <<'P'
from pathlib import Path
from sentencepiece import SentencePieceTrainer
Path("model").mkdir()
Path("text.txt").write_text("a b c d e f g\n" * 50)
SentencePieceTrainer.train(input="text.txt", model_prefix="model/spm", vocab_size=20, hard_vocab_limit=False, minloglevel=2)
Path("model/config.json").write_text('{"model_type": "deberta-v2", "vocab_size": 20}')
P
cat > read.py <<'P'
import transformers
from transformers import AutoTokenizer
try:
    found = type(AutoTokenizer.from_pretrained("model")).__name__
except Exception as error:
    found = f"{type(error).__name__}: {' '.join(str(error).split())}"
print("transformers", transformers.__version__, "|", found[:200])
P
without=$(reader/bin/python read.py 2>/dev/null)
reader/bin/pip install --quiet tiktoken
with=$(reader/bin/python read.py 2>/dev/null)
reader/bin/pip install --quiet sentencepiece==0.2.3
right=$(reader/bin/python read.py 2>/dev/null)
printf 'neither package:   %s\nwith tiktoken:     %s\nwith sentencepiece: %s\n' "$without" "$with" "$right"
case $without in *tiktoken*) ;; *) echo "changed: tiktoken is no longer named"; exit 1 ;; esac
case $with in *Error*) ;; *) echo "changed: tiktoken suffices"; exit 1 ;; esac
case $right in *Tokenizer) ;; *) echo "changed: sentencepiece does not suffice"; exit 1 ;; esac
echo "as described"
