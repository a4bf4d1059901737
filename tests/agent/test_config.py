"""Configurations: layers, refusals, dumps, help."""

import subprocess
import sys
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from agent.config import cli
from agent.config.base import Config, describe, dump, from_mapping, load
from agent.config.config_keys import keys_of
from agent.errors import BundleError, ConfigError, GateError
from agent.tasks import Task, TokenClassification


class Adam(Config):
    kind: Literal["adam"] = "adam"
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate")


class Lion(Config):
    kind: Literal["lion"] = "lion"
    learning_rate: float = Field(1e-4, gt=0, description="peak learning rate")
    momentum: float = Field(0.9, description="decay of the average")


Optimizer = Annotated[Adam | Lion, Field(discriminator="kind")]


class Source(Config):
    path: str = Field("demo", description="where the data lies")
    limit: int | None = Field(None, ge=1, description="how much of it")


class Run(Config):
    output: str = Field(description="where the result goes")
    epochs: int = Field(3, ge=1, description="passes over the data")
    precision: Literal["auto", "fp32"] = Field("auto", description="of the weights")
    source: Source = Source(limit=7)
    extra: Source | None = Field(None, description="more data")
    optimizer: Optimizer = Field(Adam(learning_rate=5e-5), description="the update rule")
    steps: tuple[Optimizer, ...] = (Lion(),)
    task: Task = TokenClassification()


def refusal(*arguments):
    with pytest.raises(ConfigError) as caught:
        load(Run, arguments)
    return str(caught.value)


def yaml_file(tmp_path, text, name="config.yaml"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path / name)


def test_assignments_win_over_files_and_files_over_defaults(tmp_path):
    file = yaml_file(tmp_path, "output: here\nepochs: 5\nsource: {path: a, limit: 2}\n")
    config = load(Run, [file, "epochs=9", "source.limit=4"])
    assert (config.output, config.epochs, config.precision, config.source) == (
        "here",
        9,
        "auto",
        Source(path="a", limit=4),
    )


def test_a_later_file_is_merged_over_an_earlier_one(tmp_path):
    first = yaml_file(tmp_path, "output: here\nsource: {path: a, limit: 2}\n", "a.yaml")
    second = yaml_file(tmp_path, "source: {limit: 3}\n", "b.yaml")
    assert load(Run, [first, second]).source == Source(path="a", limit=3)
    assert load(Run, [first, "source={limit: 3}"]).source == Source(path="a", limit=3)


def test_the_order_of_arguments_decides(tmp_path):
    file = yaml_file(tmp_path, "epochs: 5\n")
    assert load(Run, ["output=x", "epochs=9", file]).epochs == 5


def test_a_nested_key_leaves_the_other_defaults_of_its_parent():
    config = load(Run, ["output=x", "source.path=b"])
    assert config.source == Source(path="b", limit=7)


def test_a_variant_keeps_its_kind_when_one_key_of_it_is_given():
    assert load(Run, ["output=x", "task.labels=[PER, LOC]"]).task.labels == ("PER", "LOC")
    assert load(Run, ["output=x", "optimizer.learning_rate=1"]).optimizer == Adam(learning_rate=1)


def test_another_variant_starts_from_its_own_defaults():
    assert load(Run, ["output=x", "optimizer.kind=lion"]).optimizer == Lion()


def test_values_are_yaml():
    config = load(
        Run, ["output=", "source.limit=null", "optimizer={kind: lion, momentum: 0.5}", "steps=[{kind: adam}]"]
    )
    assert (config.output, config.source.limit, config.optimizer.momentum, config.steps) == ("", None, 0.5, (Adam(),))


def test_a_value_may_contain_an_equals_sign():
    assert load(Run, ["output=a=b"]).output == "a=b"


@pytest.mark.parametrize(
    ("argument", "near"),
    [
        ("epoch=3", "epochs"), ("source.pth=x", "source.path"), ("path=x", "source.path"), ("optimiser=lion", "optimizer.kind"),
        ("optimizer.learning_rat=1", "optimizer.learning_rate"), ("task.label=[A]", "task.labels"), ("extra.limt=2", "extra.limit"),
        ("steps=[{kind: lion, momentun: 1}]", "steps[].momentum"),
    ],
)  # fmt: skip
def test_an_unknown_key_names_the_nearest_ones(argument, near):
    message = refusal("output=x", argument)
    assert f"unknown key '{argument.split('=')[0]}" in message
    assert near in message.split("did you mean ")[1].split("?)")[0].split(" or ")
    assert "Allowed: output, epochs" in message


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("epochs=0", ["epochs=0", "greater than or equal to 1"]),
        ("epochs=many", ["epochs='many'", "integer"]),
        ("precision=int8", ["precision='int8'", "'auto' or 'fp32'"]),
        ("optimizer.kind=sgd", ["optimizer", "'sgd'", "'adam', 'lion'"]),
        ("optimizer.learning_rate=-1", ["optimizer.learning_rate=-1", "greater than 0"]),
        ("steps=[{kind: adam, learning_rate: 0}]", ["steps.0.learning_rate=0", "greater than 0"]),
        ("output=2024", ["output=2024", "int", "quotes"]),
        ("output=no", ["output=False", "bool", "quotes"]),
        ("output=2024-01-02", ["date", "quotes"]),
        ("source=3", ["source=3"]),
        ("task.labels=[O, B-PER]", ["task.labels", "without 'O'"]),
        ("task.labels=[PER, PER]", ["task.labels", "distinct"]),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_what_is_allowed(argument, parts):
    message = refusal("output=x", argument)
    assert all(part in message for part in parts), message
    assert "Remedy: --help" in message


def test_all_mistakes_are_told_at_once():
    message = refusal("epochs=0", "source.pth=1")
    assert all(part in message for part in ("'output' is required", "epochs=0", "'source.pth'"))


def test_quotes_make_a_text_of_a_number():
    assert load(Run, ['output="2024"']).output == "2024"


def test_an_assignment_below_a_value_is_refused(tmp_path):
    assert "set either epochs or epochs.inner" in refusal("epochs=3", "epochs.inner=1")
    assert "set either source or source.path" in refusal(yaml_file(tmp_path, "source: demo\n"), "source.path=1")


@pytest.mark.parametrize("value", ["[1, 2", "{a: ", "'open", "2024-13-45", "!!int x", "@x"])
def test_a_value_that_is_no_yaml_is_refused(value):
    message = refusal("output=x", f"epochs={value}")
    assert f"epochs={value}" in message
    assert "quote" in message


@pytest.mark.parametrize("text", ["a: [1", "\tx: 1", "when: 2024-13-45\n", "a: *missing"])
def test_a_file_that_is_no_yaml_is_named(tmp_path, text):
    file = yaml_file(tmp_path, text)
    assert f"file {file} is not YAML" in refusal(file)


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"output: \xff\xfe\n")
    assert "is not YAML" in refusal(str(tmp_path / "config.yaml"))


@pytest.mark.parametrize(("text", "kind"), [("[1, 2]", "list"), ("word", "str"), ("3", "int")])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text, kind):
    assert f"holds a {kind}. Allowed: a mapping" in refusal(yaml_file(tmp_path, text))


def test_an_empty_file_changes_nothing(tmp_path):
    assert load(Run, [yaml_file(tmp_path, "# nothing\n"), "output=x"]) == load(Run, ["output=x"])


def test_an_argument_that_is_neither_file_nor_assignment_is_refused(tmp_path):
    assert "no assignment and no readable file (No such file or directory)" in refusal("epochs")
    assert "Is a directory" in refusal(str(tmp_path))


def test_configurations_are_frozen():
    config = load(Run, ["output=x"])
    with pytest.raises(ValidationError):
        config.epochs = 4


@given(
    epochs=st.integers(1, 10**9),
    output=st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=20),
    rate=st.floats(1e-300, 1e300),
    steps=st.lists(st.sampled_from([Adam(), Lion(momentum=0.1)]), max_size=3),
)
def test_a_dump_loads_again(epochs, output, rate, steps):
    config = Run(epochs=epochs, output=output, optimizer=Lion(learning_rate=rate), steps=tuple(steps))
    assert from_mapping(Run, yaml.safe_load(dump(config))) == config


def test_help_lists_every_key_with_default_choice_and_meaning():
    text = "\n".join(describe(Run))
    lines = dict(
        line.strip().split(None, 1) if " " in line.strip() else (line.strip(), "") for line in text.splitlines()
    )
    assert lines["output=..."] == "where the result goes (required)"
    assert lines["epochs=3"] == "passes over the data"
    assert lines["precision=auto"] == "of the weights: auto | fp32"
    assert lines["source.limit=7"] == "how much of it"
    assert lines["extra=null"] == "more data"
    assert lines["extra.path=demo"] == "where the data lies"
    assert lines["optimizer.kind=adam"] == "the update rule: adam | lion"
    assert lines["optimizer.learning_rate=5.0e-05"] == "peak learning rate"
    assert lines["optimizer.momentum=0.9"] == "decay of the average [lion]"
    assert lines["steps[].kind=..."] == "adam | lion (required)"
    assert lines["task.kind=token_classification"].startswith("token_classification | text_classification")
    assert max(map(len, text.splitlines())) <= 120


def test_every_key_of_the_help_can_be_assigned_as_it_is_printed():
    shown = [
        line.split()[0] for line in describe(Run) if "[]" not in line and "extra" not in line and "steps" not in line
    ]
    of_others = [key.path for key in keys_of(Run) if key.needs and "token_classification" not in key.needs]
    arguments = [line for line in shown if not line.endswith("=...") and line.partition("=")[0] not in of_others]
    assert load(Run, ["output=x", *arguments]) == load(Run, ["output=x"])


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("task.mask_fraction=0.2", "key 'task.mask_fraction' needs task.kind=masked_language_modelling"),
        ("optimizer.momentum=0.5", "key 'optimizer.momentum' needs optimizer.kind=lion"),
        ("steps=[{kind: adam, momentum: 0.5}]", r"key 'steps.0.momentum' needs steps\[\].kind=lion"),
    ],
)
def test_a_key_of_another_kind_is_told_with_the_kind_that_has_it(argument, told):
    with pytest.raises(ConfigError, match=f"^{told}"):
        load(Run, ["output=x", argument])


def ran(*arguments, main=lambda config: None):
    return cli.run(Run, main, usage="usage: program\n\nDoes it.", arguments=arguments)


def test_help_is_printed_whatever_else_is_given(capsys):
    assert ran("nonsense", "--help") == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: program")
    assert "epochs=3" in out
    assert "--print-config" in out


def test_print_config_prints_the_resolved_configuration_and_stops(capsys):
    assert ran("--print-config", "output=x", "epochs=4", main=lambda config: pytest.fail("ran")) == 0
    assert from_mapping(Run, yaml.safe_load(capsys.readouterr().out)) == load(Run, ["output=x", "epochs=4"])


@pytest.mark.parametrize("option", ["--print-confg", "-v", "--epochs=3"])
def test_an_unknown_option_is_refused(capsys, option):
    assert ran("output=x", option) == cli.EXIT_USAGE
    assert f"unknown option {option!r}. Allowed: --print-config, --help" in capsys.readouterr().err


def test_a_mistake_in_the_configuration_is_one_message_and_status_2(capsys):
    assert ran("output=x", "epoch=3") == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: unknown key 'epoch' (did you mean epochs")
    assert captured.out == ""


@pytest.mark.parametrize(("error", "status"), [(BundleError("b"), 2), (GateError("g"), 1), (KeyboardInterrupt(), 130)])
def test_the_exit_status_tells_the_kind_of_failure(error, status):
    def main(config):
        raise error

    assert ran("output=x", main=main) == status


def test_mistakes_of_the_program_keep_their_trace():
    def main(config):
        raise KeyError("ours")

    with pytest.raises(KeyError):
        ran("output=x", main=main)


def test_the_main_function_gets_the_configuration():
    seen = []
    assert ran("output=x", main=seen.append) == 0
    assert seen == [load(Run, ["output=x"])]


def test_arguments_come_from_the_command_line():
    program = (
        "from agent.config.cli import run; from agent.data import DataConfig; "
        "raise SystemExit(run(DataConfig, lambda c: print(c.path), usage='u'))"
    )
    done = subprocess.run([sys.executable, "-c", program, "path=somewhere"], capture_output=True, text=True, check=True)
    assert done.stdout == "somewhere\n"
