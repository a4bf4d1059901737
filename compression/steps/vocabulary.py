"""The step vocabulary: removes sub-words that neither the training data nor a given corpus uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from agent.errors import ConfigError, ExportError
from agent.tasks import BaseTask
from cluster.progress import timed_bar
from compression.state.pipeline_state import PipelineState
from compression.steps.base import BaseStep

if TYPE_CHECKING:
    from agent.encoding import Document, Encoder
    from compression.encoder.wordpiece import WordPiece

_CHUNK = 1000  # texts that are encoded at once
_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id")


class VocabularyStep(BaseStep):
    """Removes sub-words from tokenizer and embeddings. Words that used one are split into others, so that none becomes unknown.

    Special tokens and single characters always stay. Predictions for texts without removed sub-words do not change.
    """

    position: ClassVar[int] = 12
    kind: Literal["vocabulary"] = "vocabulary"
    corpus: Path | None = Field(
        None, description="text whose sub-words stay as well: a file, or a directory of *.txt; one text a line"
    )
    min_count: int = Field(1, ge=1, description="how often training data and corpus must use a sub-word for it to stay")
    size: int | None = Field(
        None, ge=1,
        description="sub-words that stay: the most frequent here, then the first of the vocabulary; default: those that are used",
    )  # fmt: skip

    def check(self) -> None:
        """Refuses, before work starts, a corpus that is not there.

        Raises:
            ConfigError: Names the path.
        """
        if self.corpus is not None and not _corpus_files(self.corpus):
            raise ConfigError(
                f"vocabulary.corpus={self.corpus} holds no text",
                allowed="a text file, or a directory with *.txt files",
                remedy="correct the path",
            )

    def check_task(self, task: BaseTask[Any]) -> None:
        """Refuses tasks whose outputs are the vocabulary itself.

        Raises:
            ConfigError: The task is such a one.
        """
        super().check_task(task)
        if task.decision.of_vocabulary:
            raise ConfigError(
                f"step vocabulary would take away outputs of {task.kind}, which are the vocabulary itself",
                allowed="prune, export, quantize, verify",
                remedy="leave the step out",
            )

    def run(self, state: PipelineState) -> None:
        """Counts and removes sub-words, and checks the tokens of the counted texts.

        Raises:
            ConfigError: The tokenizer is no WordPiece, or `size` is less than what must stay.
            ExportError: A text is tokenised differently although all its sub-words stayed.
        """
        from compression.encoder.wordpiece import WordPiece

        before = state.encoder
        pieces = WordPiece.read(state.directory)
        with timed_bar("vocabulary: counting"):
            counts = Counter(int(one) for document in self._documents(state, before) for one in document.token_ids)
        kept = self._kept(pieces, counts, _ids_of(state.model.config))
        pieces.write(state.directory, kept)
        _keep_embeddings(state.model, kept)
        state.reload_encoder()
        state.weights_changed = True
        with timed_bar("vocabulary: comparing"):
            changed, texts = self._compare(state, before, set(kept))
        used = sum(index in counts for index in kept)
        state.note(
            f"vocabulary: {len(kept)} of {before.tokenizer.get_vocab_size()} sub-words stay, {used} of them used by the training "
            f"data{f' and {self.corpus.name}' if self.corpus else ''}; {texts - changed} of {texts} texts are spelled as before"
        )

    def _kept(self, pieces: WordPiece, counts: Counter[int], needed: set[int]) -> list[int]:
        must = pieces.characters() | set(pieces.special.values()) | needed
        wanted = {index for index, count in counts.items() if count >= self.min_count} - must
        if self.size is None:
            return sorted(must | wanted)
        if self.size < len(must):
            raise ConfigError(
                f"vocabulary.size={self.size} is less than the {len(must)} special tokens and single characters that must stay",
                allowed=f"{len(must)} to {len(pieces.ids)}",
                remedy="raise size",
            )
        # What the data leaves room for is filled in the vocabulary's own order, which in BERT's is that of frequency.
        ranked = sorted(set(pieces.ids.values()) - must, key=lambda index: (index not in wanted, -counts[index], index))
        return sorted(must.union(ranked[: self.size - len(must)]))

    def _documents(self, state: PipelineState, encoder: Encoder) -> Iterator[Document]:
        """The training data and the corpus, encoded."""
        train, texts = state.splits.train, self._texts()
        for first in range(0, len(train), _CHUNK):
            yield from state.bundle.task.encode(encoder, train[first : first + _CHUNK])
        while chunk := list(islice(texts, _CHUNK)):
            yield from encoder.encode_texts(chunk)

    def _texts(self) -> Iterator[str]:
        for file in _corpus_files(self.corpus) if self.corpus else ():
            try:
                with file.open(encoding="utf-8") as lines:
                    yield from (line.rstrip("\n") for line in lines)
            except UnicodeDecodeError as error:
                raise ConfigError(
                    f"vocabulary.corpus: {file} is no UTF-8 text ({error})", remedy="convert it"
                ) from None

    def _compare(self, state: PipelineState, before: Encoder, kept: set[int]) -> tuple[int, int]:
        """How many texts are tokenised differently than before, and of how many.

        Raises:
            ExportError: One of them lost no sub-word.
        """
        changed = texts = 0
        for old, new in zip(self._documents(state, before), self._documents(state, state.encoder), strict=True):
            texts += 1
            if _tokens(before, old) == _tokens(state.encoder, new):
                continue
            if kept.issuperset(old.token_ids.tolist()):
                tokens = " ".join(str(piece) for piece, _, _ in _tokens(before, old))
                raise ExportError(
                    f"vocabulary: a text is spelled otherwise than before: {tokens[:200]}", remedy="leave the step out"
                )
            changed += 1
        return changed, texts


def _tokens(encoder: Encoder, document: Document) -> Sequence[tuple[str | None, int, int]]:
    """Tokens with their character ranges."""
    words = map(encoder.tokenizer.id_to_token, document.token_ids.tolist())
    return list(zip(words, document.starts.tolist(), document.ends.tolist(), strict=True))


def _corpus_files(corpus: Path) -> list[Path]:
    return [corpus] if corpus.is_file() else sorted(corpus.rglob("*.txt"))


def _ids_of(config: Any) -> set[int]:
    """Token ids in the network's configuration."""
    return {
        value for name in _IDS if isinstance(value := getattr(config, name, None), int) and value < config.vocab_size
    }


def _keep_embeddings(model: Any, kept: Sequence[int]) -> None:
    """Keeps these rows of the word embeddings, and renumbers the token ids in the network's configuration."""
    import torch

    old = model.get_input_embeddings()
    new = {index: number for number, index in enumerate(kept)}
    embedding = torch.nn.Embedding(len(kept), old.embedding_dim, padding_idx=new.get(old.padding_idx))
    embedding.weight = torch.nn.Parameter(old.weight.detach()[list(kept)].clone())
    model.set_input_embeddings(embedding)
    model.config.vocab_size = len(kept)
    for name in _IDS:
        if (value := getattr(model.config, name, None)) in new:
            setattr(model.config, name, new[value])
