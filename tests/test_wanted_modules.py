"""Which modules a marker expression leaves out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.wanted_modules import pytest_ignore_collect

PLAIN = "def test_a(): ..."
FAULTS = "import pytest\n\n@pytest.mark.system\n@pytest.mark.faults\ndef test_a(): ..."


@pytest.mark.parametrize(
    ("text", "expression", "left_out"),
    [
        (PLAIN, "", False),
        (PLAIN, "faults and not (browser or optimum)", True),
        (PLAIN, "not (long or faults or browser or optimum)", False),
        (FAULTS, "faults and not (browser or optimum)", False),
        (FAULTS, "not (long or faults or browser or optimum)", False),  # another test of it may have no marker
        (FAULTS, "long and not (faults or browser or optimum)", True),
    ],
)
def test_a_module_is_left_out_where_none_of_its_tests_can_be_wanted(
    tmp_path: Path, text: str, expression: str, left_out: bool
) -> None:
    module = tmp_path / "test_x.py"
    module.write_text(text)
    config = SimpleNamespace(option=SimpleNamespace(markexpr=expression))
    assert bool(pytest_ignore_collect(module, config)) is left_out
    assert not pytest_ignore_collect(tmp_path / "conftest.py", config)
