"""Which texts are kept from training is told by the text alone."""

from __future__ import annotations

import pytest

from agent.decisions.held_out import is_held_out

TEXTS = [f"text {number}" for number in range(2_000)]


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_the_share_is_held_and_a_larger_one_holds_the_same_and_more(share: float) -> None:
    held = {text for text in TEXTS if is_held_out(text, share)}
    assert len(held) / len(TEXTS) == pytest.approx(share, abs=0.04)
    assert held <= {text for text in TEXTS if is_held_out(text, share + 0.1)}


def test_none_and_all() -> None:
    assert not any(is_held_out(text, 0) for text in TEXTS)
    assert all(is_held_out(text, 1) for text in [*TEXTS, "", "lone \ud800"])
