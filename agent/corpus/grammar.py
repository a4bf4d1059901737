"""Parses context-free grammars and draws strings from them.

A grammar file holds rules. `== name` opens one; every line after it is an alternative, with a weight if it starts with
`3* `; an indented line continues the one before. Within an alternative:

    {a|b|c}     one of these            [a]         a, or nothing
    <rule>      another rule            <3-40>      a whole number, both ends included
    <@group>    a name of the gazetteer <PER:rule>  another rule, marked as an entity
    backslash   takes the next character as it is
"""

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

ENTITY_MARKS = {"PER": "\ue000", "ORG": "\ue001", "LOC": "\ue002"}
END_MARK = "\ue003"
_TOKEN = re.compile(r"\\.|[{}|\[\]]|<[^<>]+>|[^\\{}|\[\]<]+")
_NUM_REDRAWS = 8
_CULTURE_MIX = 0.12


@dataclass(frozen=True, slots=True)
class Ref:
    """A rule, optionally marked as an entity."""

    rule: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Name:
    """A draw from a group of the gazetteer."""

    group: str


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number in [low, high]."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several sequences; one of weight n stands n times in `options`."""

    options: tuple[tuple["Node", ...], ...]


Node = str | Ref | Name | Number | Choice
Rules = dict[str, Choice]


def read_rules(text: str) -> Rules:
    """Parses a grammar file.

    Raises:
        ValueError: A line is malformed; the message quotes it.
    """
    rules: dict[str, list[tuple[Node, ...]]] = {}
    name = ""
    for line in re.sub(r"\n\s+", " ", text).splitlines():
        if line.startswith("== "):
            name = line[3:]
            rules[name] = []
        elif line and not line.startswith("#"):
            weight, _, body = line.rpartition("* ") if re.match(r"\d+\* ", line) else ("1", "", line)
            rules[name].extend([parse(body)] * int(weight))
    return {rule: Choice(tuple(options)) for rule, options in rules.items()}


def parse(line: str) -> tuple[Node, ...]:
    """Parses one alternative.

    Raises:
        ValueError: Brackets do not match; the message quotes the line.
    """
    tokens = _TOKEN.findall(line)
    if "".join(tokens) != line:
        raise ValueError(f"grammar line {line!r}: stray '<' or backslash; write it with a backslash before it")
    nodes, rest = _sequence(tokens)
    if rest:
        raise ValueError(f"grammar line {line!r}: unexpected {rest[0]!r}; brackets must match")
    return nodes


def _sequence(tokens: list[str]) -> tuple[tuple[Node, ...], list[str]]:
    nodes: list[Node] = []
    while tokens and tokens[0] not in ("}", "]", "|"):
        token, tokens = tokens[0], tokens[1:]
        if token in ("{", "["):
            node, tokens = _choice(token, tokens)
            nodes.append(node)
        else:
            nodes.append(_leaf(token))
    return tuple(nodes), tokens


def _choice(bracket: str, tokens: list[str]) -> tuple[Choice, list[str]]:
    options: list[tuple[Node, ...]] = []
    separator = "|"
    while separator == "|":
        option, tokens = _sequence(tokens)
        options.append(option)
        separator, tokens = (tokens[0], tokens[1:]) if tokens else ("", [])
    if separator != {"{": "}", "[": "]"}[bracket]:
        raise ValueError(f"grammar: {bracket!r} is not closed before {separator or 'the end of the line'!r}")
    nothing: list[tuple[Node, ...]] = [()] * len(options) if bracket == "[" else []
    return Choice(tuple(options + nothing)), tokens


def _leaf(token: str) -> Node:
    if token.startswith("\\"):
        return token[1:]
    if not token.startswith("<"):
        return token
    body = token[1:-1]
    if body.startswith("@"):
        return Name(body[1:])
    if number := re.fullmatch(r"(\d+)-(\d+)", body):
        return Number(int(number[1]), int(number[2]))
    label, _, rule = body.rpartition(":")
    return Ref(rule, label)


def undefined(rules: Rules) -> list[str]:
    """Returns the rules that are referred to and nowhere defined, in order of first use."""
    used = [rule for choice in rules.values() for option in choice.options for rule in _references(option)]
    return [rule for rule in dict.fromkeys(used) if rule not in rules]


def _references(nodes: Iterable[Node]) -> list[str]:
    found: list[str] = []
    for node in nodes:
        if isinstance(node, Ref):
            found.append(node.rule)
        elif isinstance(node, Choice):
            found.extend(rule for option in node.options for rule in _references(option))
    return found


class Expander:
    """Draws strings from rules with the names of one split.

    Args:
        rules: The grammar.
        names: Gazetteer group -> names. Groups `given.CULTURE` and `surname.CULTURE` are drawn as `<@given>`, `<@surname>`.
        rng: Only `rng.random()` is called, the one method whose sequence Python guarantees across versions.
    """

    def __init__(self, rules: Rules, names: Mapping[str, Sequence[str]], rng: random.Random) -> None:
        self._rules = rules
        self._names = names
        self._rng = rng
        self._cultures = [group.removeprefix("surname.") for group in names if group.startswith("surname.")]
        self._culture = ""
        self._used: list[str] = []

    def pick(self, options: Sequence[str]) -> str:
        """Returns one of the options, all equally likely."""
        return options[int(self._rng.random() * len(options))]

    def draw(self, nodes: Iterable[Node]) -> str:
        """Expands one alternative to text with entity marks; no name is drawn twice within it if there is another."""
        self._used = []
        return self._expand(nodes)

    def _expand(self, nodes: Iterable[Node]) -> str:
        return "".join([node if isinstance(node, str) else self._node(node) for node in nodes])

    def _node(self, node: Ref | Name | Number | Choice) -> str:
        if isinstance(node, Choice):
            return self._expand(node.options[int(self._rng.random() * len(node.options))])
        if isinstance(node, Number):
            return str(node.low + int(self._rng.random() * (node.high - node.low + 1)))
        if isinstance(node, Name):
            return self._name(node.group)
        return self._entity(node) if node.label else self._node(self._rules[node.rule])

    def _entity(self, ref: Ref) -> str:
        self._culture = self.pick(self._cultures)
        text = self._node(self._rules[ref.rule])
        article, name = ("the ", text[4:]) if text.startswith("the ") else ("", text)
        return f"{article}{ENTITY_MARKS[ref.label]}{name}{END_MARK}"

    def _name(self, group: str) -> str:
        if self._rng.random() < _CULTURE_MIX:
            self._culture = self.pick(self._cultures)
        options = self._names.get(group) or self._names.get(f"{group}.{self._culture}")
        if not options:
            raise ValueError(f"grammar: gazetteer has no group {group!r}; groups: {', '.join(sorted(self._names))}")
        name = self.pick(options)
        for _ in range(_NUM_REDRAWS):
            if name not in self._used:
                break
            name = self.pick(options)
        self._used.append(name)
        return name
