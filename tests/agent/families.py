"""Small tokenizers of the three families that encoders use, and texts that are hard for them."""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "Anna Smith works in London for Acme Inc .",
    "Dr. Müller-Lüdenscheidt isn't in Zürich (yet), is she?",
    "hello world a b c unbelievable international organisations",
] * 5
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
FAMILIES = ("wordpiece", "byte_level", "metaspace", "suffix_only")


@cache
def tokenizer_text(family: str) -> str:
    return {"wordpiece": _wordpiece, "byte_level": _byte_level, "metaspace": _metaspace, "suffix_only": _suffix_only}[
        family
    ]().to_str()


def make(family: str) -> Tokenizer:
    return Tokenizer.from_str(tokenizer_text(family))


def _wordpiece() -> Tokenizer:
    """As BERT, uncased."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=160, special_tokens=BERT, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def _byte_level() -> Tokenizer:
    """As RoBERTa: add_prefix_space is off, as in its published tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=360, special_tokens=ROBERTA, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    return tokenizer


def _metaspace() -> Tokenizer:
    """As XLM-RoBERTa and DeBERTa-v3: SentencePiece."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=120, special_tokens=ROBERTA, unk_token="<unk>", show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def _suffix_only() -> Tokenizer:
    """Special tokens behind the text only, of another type than the text: as XLNet."""
    tokenizer = _wordpiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A:0 [SEP]:0 [CLS]:2", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


ODDITIES = (
    "", " ", "\t", "\n", "\u00a0", "\u200b", "\u200d", "\ufeff", "\u00ad", "\x00", "\x07", "\x1c", "\u2028", "\ufffd", "\u0301", "e\u0301",
    "n\u0303o", "Z\u0351\u036b\u0343a", "👩‍👩‍👧‍👦", "👍🏽", "🇩🇪", "北京大学", "東京", "서울", "שָׁלוֹם", "مُحَمَّد", "हिन्दी", "ไทย", "\u202eabc\u202c", "İstanbul", "ﬁn", "㎏",
    "½", "ß", "ſ", "Ǆ", "𝔘𝔫𝔦", "\U000e0001", "x" * 130, "don't", "U.N.", "a--b", "[SEP]", "</s>", "<pad>", "▁", "Ġ", "##ing",
)  # fmt: skip

characters = st.characters(exclude_categories=("Cs",))
words = st.one_of(st.sampled_from(ODDITIES), st.text(characters, max_size=8), st.sampled_from(CORPUS[1].split()))
texts = st.one_of(
    st.lists(words, max_size=12).map(" ".join),
    st.lists(words, max_size=8).map("".join),
    st.text(characters, max_size=40),
)
