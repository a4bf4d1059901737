"""Conversations as data and as text: turns of a system, a user and an assistant, each behind its marker, ended by the tokenizer's own token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self, cast, get_args

from pydantic import BaseModel, ConfigDict

from agent.errors import DataError
from agent.tasks.record_fields import check_unicode
from agent.tasks.writing.teacher_forcing import Piece

Role = Literal["system", "user", "assistant"]
SHAPE = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
_ROLES: tuple[Role, ...] = get_args(Role)
MARKERS: dict[Role, str] = {role: f"<|{role}|>\n" for role in _ROLES}
"""What stands before a turn, as Zephyr writes it: text, so that every tokenizer can say it."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] | trim }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""The same for `apply_chat_template` of transformers."""


class Turn(BaseModel):
    """What one side says; blanks around it are left out."""

    model_config = ConfigDict(frozen=True)

    role: Role
    content: str


class ChatPrompt(str):
    """A conversation that the assistant is to go on with, as text for people; `turns` holds what it is made of."""

    turns: tuple[Turn, ...]

    def __new__(cls, turns: Sequence[Turn]) -> Self:
        """Of turns, in order."""
        shown = "".join(f"{MARKERS[turn.role]}{turn.content}\n" for turn in turns)
        made = super().__new__(cls, shown + MARKERS["assistant"])
        made.turns = tuple(turns)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.turns,)


def read_prompt(messages: Sequence[Any], where: str) -> ChatPrompt:
    """Reads the turns of a conversation, of which the last is not the assistant's.

    Raises:
        DataError: A turn has no text, or the assistant had the last word.
    """
    turns = [_read_turn(message, number, f"{where}[{number}]") for number, message in enumerate(messages)]
    if not turns or turns[-1].role == "assistant":
        raise DataError(
            f"{where} {'ends with a turn of the assistant' if turns else 'is empty'}",
            allowed='turns of which the last is the user\'s, such as [{"role": "user", "content": "..."}]',
            remedy="add what it is to answer",
        )
    return ChatPrompt(turns)


def read_turns(messages: Any, where: str) -> tuple[Turn, ...]:
    """Reads the turns of a conversation, up to the last one of the assistant: of what comes behind it nothing is learned.

    Raises:
        DataError: They are no list of turns with text, or none is the assistant's.
    """
    if not isinstance(messages, list):
        raise DataError(f"{where}: messages is {messages!r:.80}", allowed=SHAPE, remedy="mend the record")
    turns = [_read_turn(message, number, f"{where}: messages[{number}]") for number, message in enumerate(messages)]
    last = max((number for number, turn in enumerate(turns) if turn.role == "assistant"), default=None)
    if last is None:
        raise DataError(
            f"{where}: no turn of the assistant", allowed=SHAPE, remedy="leave the conversation out, or add the answer"
        )
    return tuple(turns[: last + 1])


def _read_turn(message: Any, number: int, place: str) -> Turn:
    role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
    if role not in _ROLES or not isinstance(content, str):
        raise DataError(f"{place} is {message!r:.120}", allowed=f"a role ({', '.join(_ROLES)}) with a text as content",
                        remedy="mend the turn; calls of tools and pictures cannot be learned")  # fmt: skip
    check_unicode(content, place)
    if role == "system" and number:
        raise DataError(f"{place} is the system's", allowed="a turn of the system at the beginning", remedy="move it")
    if not content.strip():
        raise DataError(f"{place} is blank", allowed="turns with text", remedy="mend the turn or leave it out")
    if held := next((marker.strip() for marker in MARKERS.values() if marker.strip() in content), None):
        raise DataError(f"{place} holds {held}, the marker of a turn", allowed="texts without it", remedy="take it out")
    return Turn(role=cast(Role, role), content=content.strip())


def pieces_of(turns: Sequence[Turn]) -> list[Piece]:
    """A conversation as a row of a decoder: what the assistant says is to be written, and that it ends there."""
    return [
        piece
        for turn in turns
        for piece in (Piece(MARKERS[turn.role]), Piece(turn.content, written=turn.role == "assistant", ends=True))
    ]


def prompt_of(turns: Sequence[Turn]) -> str:
    """The turns before the last as text for people, and the marker of the one that follows."""
    shown = "".join(f"{MARKERS[turn.role]}{turn.content}\n" for turn in turns[:-1])
    return shown + MARKERS[turns[-1].role]
