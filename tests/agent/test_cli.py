"""--dry-run: there where a command has one, and only there."""

from __future__ import annotations

import pytest

from agent.config import cli
from agent.config.base import Config
from agent.errors import DataError


class Run(Config):
    """A small configuration."""

    epochs: int = 3


def ran(*arguments, main=lambda config: pytest.fail("ran"), dry_run=None):
    return cli.run(Run, main, usage="usage: program", dry_run=dry_run, arguments=arguments)


def test_a_dry_run_gets_the_configuration_and_nothing_else_runs():
    seen = []
    assert ran("--dry-run", "epochs=4", dry_run=seen.append) == 0
    assert seen == [Run(epochs=4)]


def test_without_the_option_the_run_is_real():
    seen = []
    assert ran("epochs=4", main=seen.append, dry_run=lambda config: pytest.fail("ran dry")) == 0
    assert seen == [Run(epochs=4)]


def test_an_error_of_a_dry_run_has_the_status_that_it_has_in_a_run(capsys):
    def fail(config):
        raise DataError("train.conll:3 has no tag")

    assert ran("--dry-run", dry_run=fail) == ran(main=fail) == cli.EXIT_USAGE
    first, second = capsys.readouterr().err.splitlines()
    assert first == second == "error: train.conll:3 has no tag."


def test_a_mistaken_key_is_refused_before_the_dry_run(capsys):
    assert ran("--dry-run", "epoch=4", dry_run=lambda config: pytest.fail("ran dry")) == cli.EXIT_USAGE
    assert "did you mean epochs" in capsys.readouterr().err


def test_print_config_comes_before_a_dry_run(capsys):
    assert ran("--dry-run", "--print-config", dry_run=lambda config: pytest.fail("ran dry")) == 0
    assert capsys.readouterr().out == "epochs: 3\n"


def test_a_command_without_a_dry_run_refuses_the_option_and_does_not_list_it(capsys):
    assert ran("--dry-run") == cli.EXIT_USAGE
    assert "unknown option '--dry-run'. Allowed: --print-config, --help." in capsys.readouterr().err
    ran("--help")
    assert "--dry-run" not in capsys.readouterr().out


def test_a_command_with_a_dry_run_lists_the_option(capsys):
    ran("--help", dry_run=print)
    assert "  --dry-run        check everything" in capsys.readouterr().out
    assert ran("--dry-rum", dry_run=print) == cli.EXIT_USAGE
    assert "Allowed: --print-config, --dry-run, --help." in capsys.readouterr().err
