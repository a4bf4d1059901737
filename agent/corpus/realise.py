"""Turns drawn text into written English (articles, capitals, spaces, quotes), and entity marks into spans.

Text keeps its entity marks until all changes of length are done; the offsets are taken last.
"""

import re

from agent.corpus.grammar import END_MARK, ENTITY_MARKS

Span = tuple[int, int, str]

_LABELS = {mark: label for label, mark in ENTITY_MARKS.items()}
_OPEN = "".join(ENTITY_MARKS.values())
_ARTICLE = re.compile(rf"\b([aA])\(n\) (?=[{_OPEN}“]*(\w[\w-]*))")
_CAPITAL = re.compile(r"\^([\W_]*)(\w)")
_DOUBLE_STOP = re.compile(rf"(?<!\.)\.({END_MARK}?)\.(?!\.)")
_SPELT_OUT = re.compile(r"[AEFHILMNORSX][A-Z]+$|8|11$|18$")
_SOUNDS_CONSONANT = re.compile(r"(uni(?!n)|us[ae]|ur[aiu]|eu|one\b|once)", re.IGNORECASE)
_SILENT_H = re.compile(r"(hour|honest|honour|heir)", re.IGNORECASE)


def realise(marked: str, *, case: str = "sentence", curly: bool = False) -> str:
    """Returns the marked text as written English, marks kept.

    Args:
        marked: Drawn text; `a(n)` stands for the article, `^` asks for a capital.
        case: "sentence" (first letter capital), "lower" or "upper".
        curly: Typographic quotes and apostrophes instead of straight ones.
    """
    text = _ARTICLE.sub(_article, _spaces(marked))
    if case == "sentence":
        text = _CAPITAL.sub(lambda match: match[1] + match[2].upper(), "^" + text)
    text = text.replace("^", "")
    if case != "sentence":
        text = text.lower() if case == "lower" else text.upper()
    return _quotes(text, curly)


def take_spans(marked: str) -> tuple[str, tuple[Span, ...]]:
    """Removes the marks and returns the text with its (start, end, label) spans in characters."""
    spans: list[Span] = []
    pieces: list[str] = []
    length, start, label = 0, 0, ""
    for piece in re.split(f"([{_OPEN}{END_MARK}])", marked):
        if piece in _LABELS:
            start, label = length, _LABELS[piece]
        elif piece == END_MARK:
            spans.append((start, length, label))
        else:
            pieces.append(piece)
            length += len(piece)
    return "".join(pieces), tuple(spans)


def _spaces(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r" +(?=[,;:?!.](?:\s|$))", "", text)
    return _DOUBLE_STOP.sub(r".\1", text)


def _article(match: re.Match[str]) -> str:
    article, word = match[1], match[2]
    if _SPELT_OUT.match(word) or _SILENT_H.match(word):
        vowel = True
    else:
        vowel = word[0].casefold() in "aeiouáéíóúåäöøæ" and not _SOUNDS_CONSONANT.match(word)
    return f"{article}n " if vowel else f"{article} "


def _quotes(text: str, curly: bool) -> str:
    if curly:
        return re.sub(rf"(?<=[\w{END_MARK}])'", "’", text)
    return text.replace("“", '"').replace("”", '"')
