#!/usr/bin/env bash
# tokenizers 0.23.3: a WordPiece vocabulary trained twice on the same texts.
#
# One would expect: the same texts and the same options give the same vocabulary; nothing of the training is random.
# What happens: WordPieceTrainer gives another vocabulary in every process, not only in another order, but with other pieces in it. The initial alphabet is sorted, but
#   the same letters with the prefix ## are numbered as a hash table gives them, which is seeded anew in each process, and pairs that are equally frequent are
#   merged by these numbers. BpeTrainer with continuing_subword_prefix="##", which it uses inside, does the same; without the prefix it is the same in every process.
#   Given the prefixed letters in a fixed order as special tokens, it is the same too (they have to be taken out of the special tokens afterwards).
# Why it matters here: a model whose tokenizer is trained on the data (model.init=random) is another model in every run, whatever is seeded, and so was every tiny
#   model of our tests: a test that learned, or that compared int8 scores, met another vocabulary each time. tests/tiny.py trains with the letters in order.
# Seen on 2026-11-30 with Python 3.11, Linux x86-64.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check tokenizers==0.23.3 2>/dev/null
cat > train.py <<'PY'
import hashlib
import sys

import tokenizers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

texts = [f"the agent number {n} of {n * 7 % 13} reads and writes the report of berlin and lima" for n in range(300)]
letters = sorted({f"##{letter}" for text in texts for word in text.split() for letter in word[1:]})
common = {"vocab_size": 150, "show_progress": False}
cases = {
    "WordPiece": (models.WordPiece(), trainers.WordPieceTrainer(special_tokens=["[UNK]"], **common)),
    "WordPiece, letters given": (models.WordPiece(), trainers.WordPieceTrainer(special_tokens=["[UNK]", *letters], **common)),
    "BPE with ##": (models.BPE(), trainers.BpeTrainer(special_tokens=["[UNK]"], continuing_subword_prefix="##", **common)),
    "BPE": (models.BPE(), trainers.BpeTrainer(special_tokens=["[UNK]"], **common)),
}
model, trainer = cases[sys.argv[1]]
tokenizer = Tokenizer(model)
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.train_from_iterator(texts, trainer)
print(tokenizers.__version__, hashlib.sha256("\n".join(sorted(tokenizer.get_vocab())).encode()).hexdigest()[:8])
PY
for case in "WordPiece" "BPE with ##" "WordPiece, letters given" "BPE"; do
  seen=$(for process in $(seq 12); do venv/bin/python train.py "$case"; done | sort -u | wc -l)
  echo "tokenizers $(venv/bin/python -c 'import tokenizers; print(tokenizers.__version__)'), $case: $seen different vocabularies in twelve processes"
  case "$case" in "WordPiece" | "BPE with ##") expected="more" ;; *) expected="one" ;; esac
  if [ "$expected" = one ] && [ "$seen" -ne 1 ] || [ "$expected" = more ] && [ "$seen" -lt 2 ]; then echo "this finding no longer holds"; exit 1; fi
done
