"""What every task answers: how a record is read, what the model must output, how outputs become predictions and answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import to_json

from agent.config.base import Config
from agent.encoding import Document, Encoder, Float32, Int64
from agent.errors import DataError
from agent.tasks.masked_language.word_masking import WordMasking
from agent.tasks.output_decision import Decision
from agent.tasks.pairs import Pair
from agent.tasks.record_fields import AnnotatedRecords, LoggedReward
from agent.tasks.requests.request_parameters import Parameters
from agent.windows.text_pairs import SEPARATOR, TextPair

ExampleT = TypeVar("ExampleT", bound="Example")
Join = Callable[[Sequence[str]], str]
"""Makes a text of the words that data holds."""


class Example(BaseModel):
    """One labelled example, or a decision that was `logged`. `where` names its file and line, for messages."""

    model_config = ConfigDict(frozen=True)

    where: str = ""
    logged: LoggedReward | None = None


class Report(Config):
    """How good predictions were on one split.

    Attributes:
        metrics: Name to value, fractions between 0 and 1.
        primary: The metric by which agents are compared.
        support: Number of gold items that were scored.
        text: The same as a table for people.
        mode: How it was scored.
    """

    metrics: Mapping[str, float]
    primary: str
    support: int
    text: str
    mode: str

    @property
    def value(self) -> float:
        """The primary metric."""
        return self.metrics[self.primary]

    @property
    def score_name(self) -> str:
        """What people call the primary metric."""
        known = {"bleu": "BLEU", "rougeL": "ROUGE-L"}
        return known.get(self.primary) or self.primary.replace("f1", "F1").replace("_", " ")


class Column(NamedTuple):
    """One value of each answer, for callers that take tensors instead of objects; a task's last one is the whole answer.

    Attributes:
        name: Of the tensor.
        datatype: As the Open Inference Protocol names it; BYTES holds UTF-8 strings.
        value: Takes it out of an answer.
    """

    name: str
    datatype: Literal["BYTES", "FP32", "BOOL"]
    value: Callable[[Sequence[Mapping[str, Any]]], str | float]


class Claim(NamedTuple):
    """One decision about a text, which can be explained.

    Attributes:
        label: What it says.
        span: Characters of the text that it is about; None for the whole.
    """

    label: str
    span: tuple[int, int] | None = None


class Verdict(NamedTuple):
    """What an agent says of a claim.

    Attributes:
        probability: 0 to 1.
        holds: Whether the agent's answer makes the claim.
    """

    probability: float
    holds: bool


def as_json(answer: Sequence[Mapping[str, Any]]) -> str:
    """The whole answer as JSON."""
    return to_json(answer).decode()


class BaseTask(AnnotatedRecords, Config, ABC, Generic[ExampleT]):
    """A task with its labels. Without labels it is a template, completed by `with_labels`."""

    architecture: ClassVar[str]  # the class of transformers that has the right head
    head: ClassVar[Mapping[str, str]] = {}  # what its config.json says beside the names of outputs
    decision: ClassVar[Decision]
    record_keys: ClassVar[tuple[frozenset[str], ...]]  # of records that are data for it, in each of their shapes
    record_shape: ClassVar[str]  # the same for people
    purpose: ClassVar[str]  # one sentence for people, with {and} or {or} where its labels stand
    # How a page shows an answer: places in the text, labels with scores, places in the last text of an input, words for masks, triples, or a text.
    picture: ClassVar[Literal["marks", "ranking", "answers", "fillings", "triples", "written"]]
    item_name: ClassVar[str] = "label"  # what a text may lack
    tunes: ClassVar[bool] = False  # whether `tuned` chooses anything
    parameters: ClassVar[type[Parameters]]
    bare_answers: ClassVar[bool] = False  # whether the answer to an input may be a single item instead of a list
    columns: ClassVar[tuple[Column, ...]]
    input_fields: ClassVar[tuple[str, ...]] = ("text",)  # the texts of one input, as data and requests name them
    takes_single: ClassVar[bool] = False  # whether one text may be asked about where an input is several
    explores: ClassVar[bool] = False  # whether an answer is one of `labels`, which a server may draw to learn from
    takes_words: ClassVar[bool] = False  # whether a request may bring the words of a text
    explains: ClassVar[bool] = False  # whether answers are claims with probabilities, which interventions can explain
    learns_from_text: ClassVar[bool] = False  # whether it needs no labels: data is any text, also plain files of it
    writes: ClassVar[bool] = False  # whether answers are texts, said sub-word by sub-word
    streams: ClassVar[bool] = False  # whether a caller may be told a text token by token, as it is written
    encoding_refuses: ClassVar[bool] = False  # whether `encode_request` refuses texts for what they hold
    nests: ClassVar[bool] = False  # whether the answer to one input may be a list of lists of items

    kind: str
    labels: tuple[str, ...] = Field((), description="labels of the agent; empty takes them from the training data")

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if "" in labels or len(set(labels)) < len(labels):
            raise ValueError("labels are distinct and not empty")
        return labels

    @property
    def correction_key(self) -> str:
        """What a labelled record holds beside the texts of an input, and so a correction of an answer."""
        texts = set(self.input_fields)
        ((key,),) = (keys - texts for keys in self.record_keys if texts <= keys)
        return key

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """Names of the model's outputs, in the order of its logits; none where they are the sub-words of its tokenizer."""

    def num_outputs(self, encoder: Encoder) -> int:
        """How many outputs the model has at least."""
        return len(self.outputs)

    @abstractmethod
    def read_record(self, record: Mapping[str, Any], where: str, *, join: Join = " ".join) -> ExampleT:
        """Reads one record of a data file.

        Args:
            record: Its fields.
            where: Its file and line.
            join: Makes a text of words, where the record holds some.

        Raises:
            DataError: Names `where`, what is wrong and how to mend it.
        """

    @abstractmethod
    def read_unlabelled(self, record: Mapping[str, Any], where: str) -> ExampleT:
        """A record with `input_fields` whose labels nobody knows, as an example of a task with labels. Those that it carries say nothing.

        Raises:
            DataError: Names `where`, what is wrong and how to mend it.
        """

    def as_input(self, texts: Sequence[str]) -> str:
        """The texts of one input, in the order of `input_fields`, as one string that stands for all of them."""
        return texts[0] if len(texts) == 1 else TextPair(*texts)

    def trial_input(self, encoder: Encoder) -> str:
        """A short input that every agent of the task takes: what servers compute before the first request."""
        return self.as_input(["warm"] * len(self.input_fields))

    def refusal_of(self, text: str) -> str:
        """Why no agent of the task takes an input; empty where each does that has room for it."""
        return ""

    @abstractmethod
    def labels_of(self, example: ExampleT) -> set[str]:
        """The labels that occur in an example."""

    @abstractmethod
    def text_of(self, example: ExampleT) -> str:
        """The example as a text, as a user of the served agent would send it."""

    @abstractmethod
    def encode(self, encoder: Encoder, examples: Sequence[ExampleT]) -> list[Document]:
        """Encodes examples for the model."""

    def fields_of(self, text: str) -> dict[str, str]:
        """The texts that `as_input` joined, by name, also where only the characters were kept."""
        return dict(zip(self.input_fields, text.split(SEPARATOR, len(self.input_fields) - 1), strict=False))

    def asks_single(self, parameters: Any) -> bool:
        """Whether a request with these parameters is about one text where an input is several."""
        return False

    def encode_request(self, encoder: Encoder, texts: Sequence[str], parameters: Any) -> list[Document]:
        """Encodes the inputs of a request; `parameters` are of the task's own kind.

        Raises:
            RequestError: An input does not fit the parameters, or one of them the agent.
        """
        return encoder.encode_texts(texts, stride=parameters.stride)

    @abstractmethod
    def targets(self, example: ExampleT, document: Document) -> list[Int64]:
        """Training targets for each window, as `decision` says."""

    def training_windows(
        self, encoder: Encoder, examples: Sequence[ExampleT]
    ) -> Iterator[tuple[Document, list[Int64]]]:
        """What training keeps of examples; where words are hidden anew in each epoch (`masking`), the numbers of their words as targets."""
        for example, document in zip(examples, self.encode(encoder, examples), strict=True):
            yield document, self.targets(example, document)

    def masking(self, encoder: Encoder) -> WordMasking | None:
        """How words are hidden in training; None where none are."""
        return None

    def remarks(self, encoder: Encoder, examples: Sequence[ExampleT]) -> list[str]:
        """What people should know of how examples are encoded."""
        return []

    def edges_of(self, example: ExampleT) -> Sequence[int]:
        """The places of the text at which labelled spans begin or end; none for a task without spans."""
        return ()

    def reachable(self, example: ExampleT, document: Document) -> tuple[Sequence[Any], Sequence[Any]] | None:
        """The gold items of an example beside those that a perfect model would answer; None if every item can be answered."""
        return None

    @abstractmethod
    def predict(self, document: Document, outputs: Sequence[Float32]) -> Any:
        """Turns the logits of a document's windows into the kind of prediction that `score` takes."""

    def tuned(self, examples: Sequence[ExampleT], predictions: Sequence[Any]) -> Self:
        """The task with what it chooses by predictions of labelled examples it was not trained on, such as thresholds; by default as it is."""
        return self

    @abstractmethod
    def score(self, examples: Sequence[ExampleT], predictions: Sequence[Any]) -> Report:
        """Compares predictions with gold labels."""

    @abstractmethod
    def pairs(self, example: ExampleT, prediction: Any) -> list[Pair]:
        """Gold items of an example beside the predicted ones, in the order of the text: what a report shows of mistakes."""

    @abstractmethod
    def answer(
        self, text: str, document: Document, outputs: Sequence[Float32], parameters: Any
    ) -> list[dict[str, Any]]:
        """Turns the logits of a text's windows into what a caller gets."""

    @abstractmethod
    def record_of(self, text: str, answer: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The labelled record that an answer (by default parameters) makes of a text, in the form that `read_record` reads."""

    @abstractmethod
    def choices(self, document: Document, outputs: Sequence[Float32]) -> Float32:
        """Probabilities of the options of each decision that an answer rests on: float32 [decisions, options], rows sum to 1.

        Where a threshold decides, the odds are divided by those of the threshold, so that options are equal where the answer turns.
        """

    @abstractmethod
    def counted(self, answer: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
        """The labels that an answer speaks for, each with its score (0 to 1), as metrics count them."""

    def claims(self, answer: Sequence[Mapping[str, Any]], labels: Sequence[str] = ()) -> list[Claim]:
        """The decisions of an answer, or those about some labels, where the task explains.

        Args:
            answer: Of one text.
            labels: What is asked about; by default what the answer says.
        """
        raise NotImplementedError(self.kind)

    def verdicts(
        self, claims: Sequence[Claim], text: str, document: Document, outputs: Sequence[Float32], parameters: Any
    ) -> list[Verdict]:
        """What the logits of a text's windows say of each claim, where the task explains; arguments as those of `answer`."""
        raise NotImplementedError(self.kind)

    def envelope(self, answers: list[list[dict[str, Any]]], *, single: bool, parameters: Any) -> list[Any]:
        """Shapes the answers of one request as Hugging Face's inference API does for this task."""
        return answers[0] if single else answers

    def with_labels(self, examples: Sequence[ExampleT]) -> Self:
        """Completes a template from training examples; a task that has labels is returned as it is.

        Raises:
            DataError: The examples hold no label at all.
        """
        if self.labels:
            return self
        found = sorted(set().union(*map(self.labels_of, examples)))
        if not found:
            raise DataError("the training split holds no label", remedy="give labelled data or task.labels=[...]")
        return self.model_copy(update={"labels": tuple(found)})

    def check_labels(self, examples: Sequence[ExampleT]) -> None:
        """Refuses examples with labels that this task lacks.

        Raises:
            DataError: Names the first such example.
        """
        known = set(self.labels)
        for example in examples:
            if unknown := sorted(self.labels_of(example) - known):
                raise DataError(
                    f"{example.where}: unknown label {unknown[0]!r}",
                    allowed=", ".join(self.labels),
                    remedy="mend the line, add it to the training split, or list every label in task.labels",
                )
