"""Answers that are corrected on the page in a real Chromium: what a person selects, chooses and types is what the store of decisions holds."""

from __future__ import annotations

import itertools
import json
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from agent.bundle import Bundle
from agent.decisions.decision import Feedback
from agent.decisions.store import DecisionStore
from serving.api.http_app import create_app
from serving.feedback.decision_log import DecisionLog, FeedbackConfig
from serving.inference.engine import Engine
from serving.metrics import Metrics
from serving.middleware.api_keys import AuthConfig
from serving.middleware.middleware_stack import FrontConfig, MiddlewareStack
from serving.scheduling.predictor import Predictor
from tests.serving.chromium import chromium, visiting
from tests.serving.tiny import TEXTS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.browser
KEY = "anna-0123456789abcdef"
TEXT = "😀 " + TEXTS[0]
HEBREW = "אתמול טסה Anna Berg מ-Oslo ל-Lima 😀."
HOSTILE = "<img src=x onerror=\"document.title='harmed'\">"
# Where some UTF-16 units of the selectable text stand on the screen.
PLACE = """(node, [start, end]) => {
  const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
  const at = (units) => {
    walker.currentNode = node;
    while (walker.nextNode() && units > walker.currentNode.length) units -= walker.currentNode.length;
    return [walker.currentNode, units];
  };
  const range = document.createRange();
  range.setStart(...at(start));
  range.setEnd(...at(end));
  const { left, right, top, bottom } = range.getBoundingClientRect();
  return { left, right, middle: (top + bottom) / 2 };
}"""
SELECT = """(node, [start, end]) => {
  node.focus();
  document.getSelection().setBaseAndExtent(node.firstChild, start, node.firstChild, end);
}"""


class Site:
    """Agents that keep their decisions in one store, each below a path of its own."""

    def __init__(self, bundles: dict[str, Path], place: Path) -> None:
        self.file = place / "decisions.db"
        self.store_url = f"sqlite:///{self.file}"
        (place / "keys").write_text(f"anna: {KEY}\n")
        keys = FrontConfig(auth=AuthConfig(keys_file=str(place / "keys"), texts_per_s=0.01, burst_texts=3))
        self.predictors = {name: self._predictor(name, bundle) for name, bundle in bundles.items()}
        self.app = Starlette(
            routes=[
                Mount(
                    f"/models/{name}",
                    create_app(one, name=name, front=MiddlewareStack(keys if name == "guarded" else None)),
                )
                for name, one in self.predictors.items()
            ]
        )
        self.url = ""

    def _predictor(self, name: str, bundle: Path) -> Predictor:
        metrics = Metrics()
        log = DecisionLog(FeedbackConfig(store=self.store_url, flush_s=0.02), metrics, name)
        return Predictor(Engine(Bundle.load(bundle)), metrics=metrics, decisions=log)

    def of(self, name: str) -> str:
        return f"{self.url}/models/{name}/"

    def stored(self, request_id: str) -> Feedback | None:
        """What was given on the decision with an id."""
        store = DecisionStore(self.store_url)
        try:
            (found,) = [one.feedback for one in store.read() if one.decision.id == request_id]
        finally:
            store.close()
        return found

    def correction(self, request_id: str) -> Any:
        feedback = self.stored(request_id)
        assert feedback is not None
        assert feedback.correction is not None
        return json.loads(feedback.correction)

    def change(self, statement: str, *values: Any) -> None:
        with sqlite3.connect(self.file) as connection:
            connection.execute(statement, values)

    @contextmanager
    def gone(self) -> Iterator[None]:
        """While no store answers."""
        self._close_stores()
        kept = self.file.rename(self.file.with_suffix(".kept"))
        self.file.mkdir()
        yield
        self._close_stores()
        self.file.rmdir()
        kept.rename(self.file)

    def _close_stores(self) -> None:
        for predictor in self.predictors.values():
            assert predictor.decisions is not None
            predictor.decisions.store.close()

    @contextmanager
    def open(self) -> Iterator[Site]:
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(self.app, log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            yield self
        finally:
            server.should_exit = True
            thread.join()
            for predictor in self.predictors.values():
                predictor.close()
            self._close_stores()


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    bundles = {
        name: request.getfixturevalue(f"{name}_path")
        for name in ("tagger", "classifier", "labeller", "judge", "reader")
    }
    bundles["guarded"] = bundles["classifier"]  # by a key
    with Site(bundles, tmp_path_factory.mktemp("site")).open() as opened:
        yield opened


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def visit(browser: Browser, site: Site) -> Iterator[Callable[..., Page]]:
    with ExitStack() as stack:
        yield lambda name, **look: stack.enter_context(visiting(browser, site.of(name), **look))


def ask(page: Page, text: str = TEXT) -> str:
    """Asks about a text; the id of the answer."""
    page.get_by_label("Text", exact=True).fill(text)
    with page.expect_response(lambda response: response.request.method == "POST") as answered:
        press(page, "Analyse")
    page.get_by_role("group", name="Feedback on this answer").wait_for()
    return answered.value.headers["x-request-id"]


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name).click()


def area(page: Page) -> Locator:
    return page.locator(".selectable")


def sent(page: Page, name: str = "Send correction") -> str:
    """What the page says when something was taken."""
    press(page, name)
    page.locator(".correctable [role=status]", has_text=".").get_by_text("ecorded").wait_for()
    return page.locator(".correctable [role=status]").text_content() or ""


def complaint(page: Page) -> str:
    alert = page.locator(".correctable [role=alert]")
    alert.wait_for()
    return alert.text_content() or ""


def spans_of(site: Site, text: str) -> list[dict[str, Any]]:
    """What the tagger finds, as a correction has it."""
    items = httpx.post(site.of("tagger"), json={"inputs": text}).json()
    return [{"start": item["start"], "end": item["end"], "label": item["entity_group"]} for item in items]


def span(text: str, word: str, label: str) -> dict[str, Any]:
    return {"start": text.index(word), "end": text.index(word) + len(word), "label": label}


def empty(page: Page) -> None:
    """Removes all entities."""
    while page.get_by_role("button", name="Remove").count():
        page.get_by_role("button", name="Remove").first.click()


def units(text: str, word: str) -> list[int]:
    """Where a word stands, as JavaScript counts."""
    start = len(text[: text.index(word)].encode("utf-16-le")) // 2
    return [start, start + len(word.encode("utf-16-le")) // 2]


def drag(page: Page, text: str, word: str) -> None:
    """Selects a word with the mouse."""
    place = area(page).evaluate(PLACE, units(text, word))
    page.mouse.move(place["left"], place["middle"])
    page.mouse.down()
    page.mouse.move(place["right"], place["middle"], steps=4)
    page.mouse.up()


def test_entities_are_labelled_otherwise_and_removed(visit: Callable[..., Page], site: Site) -> None:
    page, expected = visit("tagger"), spans_of(site, TEXT)
    request_id, title = ask(page), page.title()
    press(page, "Correct")
    rows = page.get_by_role("list", name="Entities").get_by_role("listitem")
    assert [row.get_by_role("combobox").input_value() for row in rows.all()] == [one["label"] for one in expected]
    assert area(page).text_content() == TEXT  # labels are no part of what can be selected
    first, second = ([TEXT[one["start"] : one["end"]], one["start"], one["end"]] for one in expected[1:3])
    page.get_by_label("Label of “{}”, characters {} to {}".format(*first), exact=True).select_option("ORG")
    rows.nth(2).get_by_role("combobox").select_option("another label ...")
    rows.nth(2).get_by_role("textbox").fill(HOSTILE)
    # At once: what moves only when the field is left would move the button away from the mouse that presses it.
    assert area(page).locator("mark").nth(2).get_attribute("data-label") == HOSTILE
    page.get_by_role("button", name="Remove “{}”".format(TEXT[expected[0]["start"] : expected[0]["end"]])).first.click()
    assert rows.count() == len(expected) - 1
    assert sent(page) == "Recorded."
    changed = [{**expected[1], "label": "ORG"}, {**expected[2], "label": HOSTILE}, *expected[3:]]
    assert (second[1], second[2]) == (changed[1]["start"], changed[1]["end"])
    assert site.correction(request_id) == {"spans": changed}
    assert page.get_by_role("button", name="Send correction").is_disabled()
    assert area(page).get_attribute("contenteditable") == "false"
    assert (page.locator(".correctable img").count(), page.title()) == (0, title)


@pytest.mark.parametrize("text", [TEXT, HEBREW], ids=["emoji", "Hebrew"])
def test_a_span_is_added_by_selecting_it_with_the_mouse(visit: Callable[..., Page], site: Site, text: str) -> None:
    page = visit("tagger")
    request_id = ask(page, text)
    press(page, "Correct")
    empty(page)
    page.get_by_label("Label of the entity to add", exact=True).select_option("PER")
    for word in ("Lima", "Anna"):
        drag(page, text, word)
        press(page, "Add entity")
    assert area(page).locator("mark").all_text_contents() == ["Anna", "Lima"]
    assert sent(page) == "Recorded."
    assert site.correction(request_id) == {"spans": [span(text, "Anna", "PER"), span(text, "Lima", "PER")]}


def test_the_keyboard_alone_corrects(visit: Callable[..., Page], site: Site) -> None:
    page = visit("tagger")
    request_id = ask(page)
    page.get_by_role("button", name="Correct").focus()
    page.keyboard.press("Enter")
    assert area(page).evaluate("node => node === document.activeElement")
    empty(page)
    for key in ("a", "Delete", "Backspace", "Control+b", "Control+a", "Control+x", "Control+v", "Home"):
        page.keyboard.press(key)
    assert area(page).text_content() == TEXT
    for key in ("ArrowRight", "ArrowRight", *["Shift+ArrowRight"] * 4, "Enter"):
        page.keyboard.press(key)
    for key in ("ArrowRight", *["Shift+ArrowRight"] * 4, "Enter"):  # on from the end of the one before
        page.keyboard.press(key)
    assert area(page).locator("mark").all_text_contents() == ["Anna", "flew"]
    for _ in range(7):  # label, button, and label and button of both rows
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Send correction"
    page.keyboard.press("Enter")
    page.get_by_text("Recorded.", exact=True).wait_for()
    assert site.correction(request_id) == {"spans": [span(TEXT, "Anna", "LOC"), span(TEXT, "flew", "LOC")]}


def test_half_of_a_surrogate_pair_counts_as_the_whole_character(visit: Callable[..., Page], site: Site) -> None:
    text = "a 😀𝔘 b"
    page = visit("tagger")
    request_id = ask(page, text)
    press(page, "Correct")
    empty(page)
    area(page).evaluate(SELECT, [3, 5])  # the second half of one, the first half of the other
    press(page, "Add entity")
    sent(page)
    assert site.correction(request_id) == {"spans": [{"start": 2, "end": 4, "label": "LOC"}]}


def test_what_cannot_be_added_is_refused_in_a_sentence(visit: Callable[..., Page], site: Site) -> None:
    page = visit("tagger")
    request_id = ask(page)
    press(page, "Correct")
    empty(page)
    drag(page, TEXT, "Anna flew")
    press(page, "Add entity")
    drag(page, TEXT, "flew from")
    press(page, "Add entity")
    assert complaint(page) == (
        "“flew from” overlaps the entity “Anna flew” (LOC). Remove that one first, or select other characters."
    )
    drag(page, TEXT, " ")
    press(page, "Add entity")
    assert complaint(page).startswith("Nothing is selected. Select characters with the mouse, or with Shift")
    drag(page, TEXT, "Oslo ")  # white space at its ends is left out
    page.get_by_label("Label of the entity to add", exact=True).select_option("another label ...")
    press(page, "Add entity")
    assert complaint(page) == "Type the label of the entity that is to be added, or choose one."
    page.get_by_label("Label of the entity to add: another label").fill(" CITY ")
    press(page, "Add entity")
    assert page.locator(".correctable [role=alert]").is_hidden()
    page.get_by_label("Label of “Anna flew”, characters 2 to 11", exact=True).select_option("another label ...")
    press(page, "Send correction")
    assert complaint(page) == "Type the label of “Anna flew”, or choose one."
    page.get_by_label("Label of “Anna flew”, characters 2 to 11", exact=True).select_option("PER")
    sent(page)
    assert site.correction(request_id) == {"spans": [span(TEXT, "Anna flew", "PER"), span(TEXT, "Oslo", "CITY")]}


def test_a_cancelled_correction_leaves_the_answer_as_it_was(visit: Callable[..., Page], site: Site) -> None:
    page = visit("tagger")
    request_id = ask(page)
    before = page.locator("#answer .marked").text_content()
    for _ in range(2):  # the second begins with the answer again
        press(page, "Correct")
        assert page.get_by_role("button", name="Remove").count() == len(spans_of(site, TEXT))
        assert page.locator("#answer .tag").first.is_hidden()
        page.get_by_role("button", name="Remove").first.click()
        press(page, "Cancel correction")
    assert area(page).count() == 0
    assert page.locator("#answer .marked").text_content() == before
    assert page.evaluate("document.activeElement.textContent") == "Correct"
    assert sent(page, "Answer is right") == "Recorded."
    feedback = site.stored(request_id)
    assert feedback is not None
    assert (feedback.reward, feedback.correction) == (1, None)
    assert page.get_by_role("button", name="Correct").is_disabled()


def test_tags_of_sub_words_are_corrected_as_entities(visit: Callable[..., Page], site: Site) -> None:
    page = visit("tagger")
    page.get_by_label("Aggregation").select_option("none")
    request_id = ask(page, TEXTS[2])  # three of its sub-words go on with the entity before them
    asked = {"inputs": TEXTS[2], "parameters": {"aggregation_strategy": "none"}}
    parts = httpx.post(site.of("tagger"), json=asked).json()
    press(page, "Correct")
    sent(page)
    spans = site.correction(request_id)["spans"]
    joined = [(one, two) for one, two in itertools.pairwise(parts)
              if two["entity"] == f"I-{one['entity'][2:]}" and two["index"] == one["index"] + 1]  # fmt: skip
    assert joined
    assert len(spans) == len(parts) - len(joined)
    assert {one["label"] for one in spans} <= {"LOC", "ORG", "PER"}
    for one, two in joined:
        assert [s for s in spans if s["start"] <= one["start"] and two["end"] <= s["end"]]


@pytest.mark.parametrize(("chosen", "typed"), [("bad", ""), ("another label ...", "a new one")])
def test_a_class_is_chosen_or_typed(visit: Callable[..., Page], site: Site, chosen: str, typed: str) -> None:
    page = visit("classifier")
    request_id = ask(page)
    best = page.locator(".ranked .label").first.text_content()
    press(page, "Correct")
    field = page.get_by_label("Right label", exact=True)
    assert field.input_value() == best
    field.select_option(chosen)
    if typed:
        press(page, "Send correction")
        assert complaint(page) == "Type the label, or choose one."
        page.get_by_label("Right label: another label").fill(typed)
    assert sent(page) == "Recorded."
    assert site.correction(request_id) == {"label": typed or chosen}


def test_labels_are_ticked_and_added(visit: Callable[..., Page], site: Site) -> None:
    page = visit("labeller")
    request_id = ask(page)
    reached = {one["label"] for one in httpx.post(site.of("labeller"), json={"inputs": TEXT}).json()[0]}
    press(page, "Correct")
    boxes = page.get_by_role("group", name="Right labels").get_by_role("checkbox")
    assert {box.get_attribute("value") for box in boxes.all() if box.is_checked()} == reached
    page.get_by_label("calm", exact=True).uncheck()
    page.get_by_label("loud", exact=True).check()
    page.get_by_label("long", exact=True).uncheck()
    press(page, "Add label")
    assert complaint(page) == "Type the label that is to be added."
    for label in ("new one", "long"):
        page.get_by_label("Another label", exact=True).fill(label)
        page.keyboard.press("Enter")
    assert boxes.count() == 4
    sent(page)
    assert site.correction(request_id) == {"labels": ["long", "loud", "new one"]}


def test_a_pair_is_corrected_and_classes_of_the_request_can_only_be_right(
    visit: Callable[..., Page], site: Site
) -> None:
    page = visit("judge")
    page.locator("#text-pair").fill("Somebody flew.")
    request_id = ask(page)
    press(page, "Correct")
    page.get_by_label("Right label", exact=True).select_option("entailment")
    sent(page)
    assert site.correction(request_id) == {"text": TEXT, "text_pair": "Somebody flew.", "label": "entailment"}
    page.locator("#candidate-labels").fill("travel\nfood")
    request_id = ask(page)
    assert page.get_by_role("button", name="Correct").count() == 0
    assert sent(page, "Answer is right") == "Recorded."
    feedback = site.stored(request_id)
    assert feedback is not None
    assert feedback.reward == 1


def test_an_answer_is_selected_in_the_context_or_said_to_be_none(visit: Callable[..., Page], site: Site) -> None:
    page = visit("reader")
    asked = {"question": "Who flew?", "context": TEXT}
    page.get_by_label("Question", exact=True).fill(asked["question"])
    for none in (False, True):
        request_id = ask(page)
        press(page, "Correct")
        page.get_by_label("No answer in the text").check()
        assert area(page).locator("mark").count() == 0
        if not none:
            drag(page, TEXT, "Anna")
            press(page, "Take as the answer")
            assert area(page).locator("mark").all_text_contents() == ["Anna"]
            assert not page.get_by_label("No answer in the text").is_checked()
        sent(page)
        answers: dict[str, Any] = {"text": [], "answer_start": []} if none else {"text": ["Anna"], "answer_start": [2]}
        assert site.correction(request_id) == {**asked, "answers": answers}


GONE = "DELETE FROM bert_agent_decisions WHERE id = ?"
OLD = "UPDATE bert_agent_decisions SET time = time - 8 * 86400 WHERE id = ?"


@pytest.mark.parametrize(
    ("status", "told"),
    [(404, "does not know this answer"), (409, "the first counts"), (410, "too old"), (503, "cannot record it now")],
)
def test_what_the_server_refuses_is_told_and_what_was_corrected_stays(
    visit: Callable[..., Page], site: Site, status: int, told: str
) -> None:
    page = visit("classifier")
    request_id = ask(page)
    httpx.post(
        site.of("classifier") + "feedback", json={"id": request_id, "index": 1, "reward": 1}
    )  # writes what waits
    press(page, "Correct")
    page.get_by_label("Right label", exact=True).select_option("bad")
    with ExitStack() as stack:
        if status == 409:
            httpx.post(site.of("classifier") + "feedback", json={"id": request_id, "reward": 0}).raise_for_status()
        elif status == 503:
            stack.enter_context(site.gone())
        else:
            site.change(GONE if status == 404 else OLD, request_id)
        press(page, "Send correction")
        said = complaint(page)
    assert told in said
    assert "What you corrected is still here." in said
    assert page.locator(".correctable .status").text_content() == str(status)
    assert "What to do" in said  # and the server's own words
    assert page.get_by_label("Right label", exact=True).input_value() == "bad"
    assert page.evaluate("document.activeElement.textContent") == "Send correction"
    if status == 503:
        assert sent(page) == "Recorded."
        assert site.correction(request_id) == {"label": "bad"}


def test_a_correction_that_the_server_does_not_take_can_be_mended(visit: Callable[..., Page], site: Site) -> None:
    page = visit("tagger")
    request_id = ask(page)
    press(page, "Correct")
    empty(page)
    drag(page, TEXT, "Anna")
    page.get_by_label("Label of the entity to add", exact=True).select_option("another label ...")
    page.get_by_label("Label of the entity to add: another label").fill("O")
    press(page, "Add entity")
    press(page, "Send correction")
    said = complaint(page)
    assert "The server does not take this correction." in said
    assert "label 'O'" in said
    page.get_by_label("Label of “Anna”, characters 2 to 6", exact=True).select_option("PER")
    assert sent(page) == "Recorded."
    assert site.correction(request_id) == {"spans": [span(TEXT, "Anna", "PER")]}


def test_the_same_again_is_said_to_be_recorded_before(visit: Callable[..., Page], site: Site) -> None:
    page = visit("classifier")
    request_id = ask(page)
    body = {"id": request_id, "correction": {"label": "bad"}}
    httpx.post(site.of("classifier") + "feedback", json=body).raise_for_status()
    press(page, "Correct")
    page.get_by_label("Right label", exact=True).select_option("bad")
    assert sent(page) == "The same was recorded before."


def test_feedback_goes_with_the_key_and_counts_against_its_limit(visit: Callable[..., Page], site: Site) -> None:
    page = visit("guarded")
    page.get_by_label("Key", exact=True).fill(KEY)
    press(page, "Use")
    page.locator("#key-status", has_text="In use.").wait_for()
    request_id = ask(page)
    assert sent(page, "Answer is right") == "Recorded."
    feedback = site.stored(request_id)
    assert feedback is not None
    assert feedback.key_id == "anna"
    ask(page)
    press(page, "Answer is right")
    said = complaint(page)
    assert "send it again then" in said
    assert "Come back" in said
    assert page.locator(".correctable .status").text_content() == "429"
    assert page.get_by_role("button", name="Correct").is_enabled()


@pytest.mark.parametrize(
    ("name", "width"), [("tagger", 320), ("labeller", 1280), ("reader", 320), ("classifier", 1280)]
)
def test_axe_finds_nothing_while_an_answer_is_corrected(visit: Callable[..., Page], name: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe (extra dev)").Axe()
    page = visit(name, viewport={"width": width, "height": 800}, color_scheme="dark" if width == 320 else "light")
    ask(page, HEBREW)
    press(page, "Correct")
    for select in page.get_by_role("combobox").all():
        if select.is_visible() and "abel" in (select.get_attribute("aria-label") or ""):
            select.select_option("another label ...")
    press(page, "Send correction")  # which lacks a label, or is recorded
    page.locator(".correctable :is([role=alert], [role=status]):visible", has_text=".").wait_for()
    assert [f"{rule['id']}: {rule['nodes'][0]['html']}" for rule in axe.run(page).response["violations"]] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
