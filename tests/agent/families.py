"""Small tokenizers of the three families that encoders use, and texts that are hard for them."""

from __future__ import annotations

import unicodedata
from functools import cache

from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from tests.tiny import train_wordpiece

CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "Anna Smith works in London for Acme Inc .",
    "Dr. Müller-Lüdenscheidt isn't in Zürich (yet), is she?",
    "hello world a b c unbelievable international organisations",
] * 5
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
FAMILIES = ("wordpiece", "byte_level", "metaspace", "suffix_only")
CHARACTER_FAMILIES = (*FAMILIES, "normalised_unigram")


@cache
def tokenizer_text(family: str) -> str:
    return {"wordpiece": _wordpiece, "byte_level": _byte_level, "metaspace": _metaspace, "suffix_only": _suffix_only}[
        family
    ]().to_str()


def make(family: str) -> Tokenizer:
    return Tokenizer.from_str(tokenizer_text(family))


def _wordpiece() -> Tokenizer:
    """As BERT, uncased."""
    tokenizer = train_wordpiece(CORPUS, 160, BERT, max_input_chars_per_word=100)
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
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def _suffix_only() -> Tokenizer:
    """Special tokens behind the text only, of another type than the text: as XLNet."""
    tokenizer = _wordpiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A:0 [SEP]:0 [CLS]:2",
        pair="$A:0 [SEP]:0 $B:1 [SEP]:1 [CLS]:2",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer


SCRIPTS = {
    "english": ("⟦LOC U.S.⟧ troops, ⟦PER J. Edgar Hoover⟧ and ⟦PER Jean-Claude Juncker⟧ at ⟦ORG Pirelli S.p.A.⟧ (⟦LOC London⟧); ⟦PER O'Connell⟧'s.", False),
    "signs": ("⟦ORG Acme⟧™ pays €238 to 👍🏽⟦PER Anna⟧, ⟦PER Bo⟧😀 and ⟦ORG C&A⟧ ½ 🇩🇪⟦LOC Oslo⟧", False),
    "lines": (
        "⟦PER Anna⟧\n\n⟦LOC London⟧\t⟦LOC Oslo⟧   ⟦PER Bo⟧\r\n\r\n⟦PER Cora⟧\n⟦PER Dan⟧\nthe first visitor of the new museum was ⟦PER Ann\nLee⟧",
        False,
    ),
    "german": ("⟦PER Karla⟧s Haus, ⟦LOC Berlin⟧er ⟦LOC Zürich⟧s, die ⟦ORG SPD⟧-Frau", True),
    "turkish": ("⟦LOC Ankara⟧'dan ⟦LOC İzmir⟧’e", False),
    "finnish": ("⟦LOC Helsingi⟧ssä ⟦PER Mati⟧lle", True),
    "french": ("l'⟦LOC Italie⟧ d’⟦PER Orsay⟧ et qu'⟦PER Éric⟧", False),
    "japanese": ("⟦LOC 福岡⟧と⟦PER 秋山⟧を見た。⟦ORG トヨタ⟧は", False),
    "chinese": ("我在⟦LOC 北京⟧见到⟦PER 王小明⟧。", False),
    "thai": ("⟦PER สมชาย⟧อยู่ที่⟦LOC กรุงเทพ⟧ครับ", False),
    "korean": ("⟦LOC 서울⟧에서 ⟦PER 김철수⟧가", True),
    "arabic": ("زار ⟦PER محمد علي⟧ مدينة ⟦LOC القاهرة⟧، و⟦PER سامي⟧", True),
    "hebrew": ("⟦PER דוד⟧ גר ב⟦LOC ירושלים⟧.", True),
    "hindi": ("⟦LOC दिल्ली⟧ में ⟦PER हिन्दी सिंह⟧।", False),
    "tamil": ("⟦LOC சென்னை⟧, ⟦PER இராமன்⟧", False),
    "russian": ("⟦PER Анна⟧ в ⟦LOC Москве⟧.", False),
    "compatibility": ("⟦LOC Ｏｓｌｏ⟧\u00a0⟦PER Ann ﬁn⟧ ½㎏, №4２ ⟦ORG ㍿トヨタ⟧", False),
    "combining": ("⟦PER E\u0301ric⟧ a\u0308 ⟦LOC Zu\u0308rich⟧", False),
}  # fmt: skip
"""Texts with entities as `⟦LABEL name⟧`, and whether names have endings or clitics glued on."""


@cache
def _characters_text(family: str) -> str:
    letters = sorted(
        {letter for text, _ in SCRIPTS.values() for letter in text} | {chr(code) for code in range(33, 127)}
    )
    known = [letter for letter in letters if not letter.isspace()] + [*"ไทยी่ที"]
    tokenizer = make("metaspace" if family == "normalised_unigram" else family)
    if family == "byte_level":
        tokenizer.model = models.BPE(
            {token: number for number, token in enumerate([*ROBERTA, *sorted(pre_tokenizers.ByteLevel.alphabet())])}, []
        )
    elif family in ("metaspace", "normalised_unigram"):
        if family == "normalised_unigram":  # as XLM-RoBERTa's: one character may become several, or several one
            texts_of_scripts = "".join(text for text, _ in SCRIPTS.values())
            known += [
                letter
                for letter in sorted(set(unicodedata.normalize("NFKC", texts_of_scripts)))
                if not letter.isspace()
            ]
        tokenizer.model = models.Unigram(
            [*((token, 0.0) for token in ROBERTA), ("▁", -2.0), *((letter, -2.0) for letter in dict.fromkeys(known))], 3
        )
        if family == "metaspace":
            tokenizer.normalizer = None
    else:
        pieces = [*BERT, *dict.fromkeys(known), *(f"##{letter}" for letter in dict.fromkeys(known))]
        tokenizer.model = models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]")
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    return tokenizer.to_str()


def of_characters(family: str) -> Tokenizer:
    """A tokenizer of a family whose sub-words are single characters (bytes), for one of them normalised: it can say every span of the scripts."""
    return Tokenizer.from_str(_characters_text(family))


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
