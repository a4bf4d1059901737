"""The page of agents that write: the text as it comes, the whole of it at the end, and what is refused."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.bundle import Bundle
from serving.inference.engine_choice import open_engine
from serving.inference.writer import WritingJob
from serving.scheduling.predictor import Predictor
from tests.serving.chromium import chromium, visiting
from tests.serving.conftest import listening
from tests.serving.gated_writer import GatedWriter, gated_writer

pytestmark = pytest.mark.browser
TEXT = "oslo to lima in pune"


class Held(GatedWriter):
    """Stops at the fifth token until it is told to go on."""

    on: threading.Event

    def at_step(self, jobs: Sequence[WritingJob]) -> None:
        if len(jobs[0].written.numbers) == 5:
            assert self.on.wait(60)


def test_the_page_shows_a_text_as_it_comes(talker_path: Path) -> None:
    engine = gated_writer(talker_path, kind=Held, closed=False, slice_steps=1)
    engine.on = threading.Event()
    engine.on.set()
    whole = engine.predict([TEXT])[0][0]["generated_text"]
    engine.on.clear()
    with listening(Predictor(engine), warm=False) as url, chromium() as browser, visiting(browser, url) as page:
        page.get_by_label("Text", exact=True).fill(TEXT)
        page.get_by_role("button", name="Analyse").click()
        shown = page.locator("#answer .marked")
        page.wait_for_function(
            "() => document.querySelector('#answer .marked')?.textContent.trim().split(' ').length >= 5"
        )
        assert shown.text_content() == " " + " ".join(whole.split()[:5])
        assert page.locator("#status").text_content() == "Working ..."
        engine.on.set()
        page.get_by_text("characters written").wait_for()
        assert shown.text_content() == whole
        page.get_by_label("Text", exact=True).fill("anna " * 70)
        page.get_by_role("button", name="Analyse").click()
        page.get_by_text("and nothing is cut off").wait_for()


def test_the_page_shows_a_translation(translator_path: Path) -> None:
    engine = open_engine(Bundle.load(translator_path))
    with listening(Predictor(engine)) as url, chromium() as browser, visiting(browser, url) as page:
        page.get_by_label("Text", exact=True).fill(TEXT)
        page.get_by_role("button", name="Analyse").click()
        page.get_by_text("characters written").wait_for()
        assert page.locator("#answer .marked").text_content() == engine.predict([TEXT])[0][0]["translation_text"]
