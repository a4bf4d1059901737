"""Work that was started with other settings is not resumed, and the error names what differs."""

from __future__ import annotations

import pytest

from agent.config.resume_check import check_unchanged
from agent.errors import ConfigError

STARTED = {"seed": 1, "engine": {"zero_stage": 0, "precision": "fp32"}, "num_workers": 2}


def test_the_same_settings_and_those_that_may_differ_are_accepted() -> None:
    check_unchanged("a run", STARTED, dict(STARTED))
    now = {**STARTED, "num_workers": 4, "engine": {"zero_stage": 3, "precision": "fp32"}}
    check_unchanged("a run", STARTED, now, changeable=("num_workers", "engine.zero_stage"))


def test_every_change_is_named_with_both_values_and_the_remedy() -> None:
    now = {**STARTED, "seed": 2, "engine": {"zero_stage": 3, "precision": "fp32"}}
    with pytest.raises(ConfigError) as raised:
        check_unchanged("an unfinished run in /runs", STARTED, now, content=["the content of the data"])
    assert raised.value.what == (
        "an unfinished run in /runs was started with other settings: engine.zero_stage=3 (was 0); seed=2 (was 1); "
        "the content of the data"
    )
    assert "resume=false" in raised.value.remedy
