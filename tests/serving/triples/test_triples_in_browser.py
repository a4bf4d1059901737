"""The page of an agent of relations beside a tagger: related entities in their places, how they are related, and marked texts as ever."""

from __future__ import annotations

import pytest

from agent.bundle import Bundle
from serving.inference.engine_choice import open_engine
from serving.scheduling.predictor import Predictor
from tests.serving.chromium import chromium, visiting
from tests.serving.conftest import listening
from tests.serving.triples.gold import TOLD

pytestmark = pytest.mark.browser


def test_the_page_marks_what_is_related_and_says_how(pair: Bundle) -> None:
    with listening(Predictor(open_engine(pair))) as url, chromium() as browser, visiting(browser, url) as page:
        area, submit = page.get_by_label("Text", exact=True), page.get_by_role("button", name="Analyse")
        area.fill(TOLD[0].text)
        submit.click()
        page.get_by_role("region", name="Relations").wait_for()
        assert page.locator("mark .word").all_text_contents() == ["Anna Berg", "Acme", "Oslo"]
        rows = page.get_by_role("region", name="Relations").locator("tbody tr").all()
        shown = {tuple(row.locator("td").all_text_contents()[:3]) for row in rows}
        assert shown == {("Anna Berg", "Employment", "Acme"), ("Acme", "Location", "Oslo")}
        area.fill(TOLD[2].text)
        submit.click()
        page.get_by_text("no relation").first.wait_for()
        area.fill("<e1>Anna Berg</e1> works for <e2>Acme</e2> in Oslo.")
        submit.click()
        page.locator(".ranked li").first.wait_for()
        assert page.locator(".ranked .label").first.text_content() == "Employment(e1,e2)"
