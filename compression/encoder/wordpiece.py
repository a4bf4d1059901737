"""Removes pieces from a WordPiece tokenizer: from tokenizer.json and the files beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.errors import ConfigError

_FILE = "tokenizer.json"
_REMEDY = "leave the step vocabulary out"


@dataclass(frozen=True)
class WordPiece:
    """A WordPiece tokenizer.

    Attributes:
        tree: Content of tokenizer.json.
        ids: Id of every piece.
        prefix: Prefix of a piece that continues a word (`##`).
    """

    tree: dict[str, Any]
    ids: dict[str, int]
    prefix: str

    @classmethod
    def read(cls, directory: Path) -> WordPiece:
        """Reads tokenizer.json.

        Raises:
            ConfigError: It is no WordPiece tokenizer, or has parts that cannot be renumbered.
        """
        tree = json.loads((directory / _FILE).read_text(encoding="utf-8"))
        model = tree["model"]
        if model.get("type") != "WordPiece":
            raise ConfigError(
                f"step vocabulary: the agent's tokenizer is a {model.get('type')}", allowed="WordPiece", remedy=_REMEDY
            )
        part = (tree.get("post_processor") or {}).get("type")
        if part not in (None, "TemplateProcessing", "BertProcessing"):
            raise ConfigError(
                f"step vocabulary: the agent's tokenizer has the post-processor {part}",
                allowed="TemplateProcessing, BertProcessing",
                remedy=_REMEDY,
            )
        return cls(tree, model["vocab"], model["continuing_subword_prefix"])

    @property
    def special(self) -> dict[str, int]:
        """Special and other added tokens, and the token for unknown words."""
        found = {one["content"]: one["id"] for one in self.tree["added_tokens"]}
        unknown = self.tree["model"]["unk_token"]
        return found | ({unknown: self.ids[unknown]} if unknown in self.ids else {})

    def characters(self) -> set[int]:
        """Pieces of a single character, at a word's beginning and within it.

        While these stay, no word becomes unknown that was not before: one of them matches wherever a longer piece is gone.

        Raises:
            ConfigError: A character of a piece is no piece by itself.
        """
        single: set[int] = set()
        for piece, index in self.ids.items():
            if piece in self.special:
                continue
            forms = self._forms(piece)
            if absent := [form for form in forms if form not in self.ids]:
                raise ConfigError(
                    f"step vocabulary: {absent[0]!r}, a character of the piece {piece!r}, is no piece of the agent's tokenizer, so "
                    "that words with it could become unknown",
                    allowed="tokenizers in which every character is a piece, at a word's beginning and within it",
                    remedy=_REMEDY,
                )
            if piece == forms[0]:
                single.add(index)
        return single

    def _forms(self, piece: str) -> list[str]:
        """The single-character pieces that spell a piece."""
        body = piece.removeprefix(self.prefix)
        if body and body != piece:
            return [self.prefix + letter for letter in body]
        return [piece[0], *(self.prefix + letter for letter in piece[1:])]

    def write(self, directory: Path, kept: Sequence[int]) -> None:
        """Writes the tokenizer with these pieces only, renumbered in order.

        Args:
            directory: Holds tokenizer.json and other files with ids (tokenizer_config.json, vocab.txt).
            kept: Old ids, ascending; all of `special` are among them.
        """
        new = {old: index for index, old in enumerate(kept)}
        vocabulary = {piece: new[old] for piece, old in self.ids.items() if old in new}
        tree = self.tree | {
            "model": self.tree["model"] | {"vocab": vocabulary},
            "added_tokens": [one | {"id": new[one["id"]]} for one in self.tree["added_tokens"]],
            "post_processor": _renumbered(self.tree.get("post_processor"), new),
        }
        if tree.get("padding"):
            tree["padding"] = tree["padding"] | {"pad_id": new[tree["padding"]["pad_id"]]}
        _write_json(directory / _FILE, tree)
        _renumber_config(directory / "tokenizer_config.json", new)
        if (directory / "vocab.txt").is_file():
            lines = sorted(vocabulary, key=vocabulary.__getitem__)
            (directory / "vocab.txt").write_text("".join(f"{piece}\n" for piece in lines), encoding="utf-8")


def _renumbered(processor: dict[str, Any] | None, new: Mapping[int, int]) -> dict[str, Any] | None:
    if processor is None:
        return None
    if processor["type"] == "BertProcessing":
        return processor | {name: [processor[name][0], new[processor[name][1]]] for name in ("sep", "cls")}
    tokens = {
        name: one | {"ids": [new[old] for old in one["ids"]]} for name, one in processor["special_tokens"].items()
    }
    return processor | {"special_tokens": tokens}


def _renumber_config(file: Path, new: Mapping[int, int]) -> None:
    """Renumbers the added tokens in tokenizer_config.json."""
    if not file.is_file():
        return
    tree = json.loads(file.read_text(encoding="utf-8"))
    if listed := tree.get("added_tokens_decoder"):
        tree["added_tokens_decoder"] = {str(new[int(old)]): token for old, token in listed.items()}
        _write_json(file, tree)


def _write_json(file: Path, tree: Any) -> None:
    file.write_text(json.dumps(tree, ensure_ascii=False), encoding="utf-8")
