"""The page in a real Chromium: marks, scripts of the world, markup, keyboard, refusals, keys, accessibility."""

from __future__ import annotations

import concurrent.futures
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from agent.bundle import Bundle
from serving.api.http_app import create_app
from serving.inference.engine import Engine
from serving.middleware.api_keys import AuthConfig
from serving.middleware.middleware_stack import FrontConfig
from serving.scheduling.predictor import Predictor
from tests.serving.chromium import chromium, visiting
from tests.serving.explanation.planted import engine_of, topic_bundle
from tests.serving.gated import gated
from tests.serving.tiny import TEXTS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
WORLD = {
    "emoji before": "😀👩‍👩‍👧🎉 Anna flew from 🚀 Oslo to Lima 𝔘𝔫𝔦.",
    "combining": "á̂ naïve Ångström met Anna in Zürich.",
    "Hebrew": "אתמול טסה Anna Berg מ-Oslo ל-Lima.\nהיום היא נפגשת עם Initech ב-Graz.",
    "Arabic": "سافرت Anna من Oslo إلى Lima 😀 يوم الاثنين",
    "Chinese": "東京 タワー 𠮷野家 Anna",
    "white space": "  Anna\tflew\n\n  to   Lima  ",
}
HOSTILE = [
    "<img src=x onerror=\"document.title='harmed'\">",
    "<script>document.title='harmed'</script>",
    '"><svg onload=document.title="harmed">&lt;b&gt; &amp; Anna</textarea></div><b>Oslo</b>',
    "<a href=\"javascript:document.title='harmed'\">Lima</a>",
]
# What the marked text says without its tags, and the marked words, as the page has them.
READ = """() => {
  const shown = document.querySelector(".marked").cloneNode(true);
  for (const tag of shown.querySelectorAll(".tag")) tag.remove();
  return [shown.textContent, [...shown.querySelectorAll("mark .word")].map((word) => word.textContent)];
}"""
LABELS = "() => [...document.querySelectorAll('mark .tag')].map((tag) => tag.textContent.trim().split(' '))"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Browser, tagger_url: str) -> Iterator[Page]:
    with visiting(browser, tagger_url) as visited:
        yield visited


def ask(page: Page, text: str) -> None:
    """Types, presses the button, waits for the end."""
    page.get_by_label("Text", exact=True).fill(text)
    page.get_by_role("button", name="Analyse").click()
    page.get_by_role("button", name="Analyse").wait_for()  # meanwhile it says that it is working


def predicted(url: str, text: Any, **parameters: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.post(url, json={"inputs": text, "parameters": parameters}).json()
    return found


@pytest.mark.parametrize("text", [*TEXTS, *WORLD.values()], ids=[*"0123", *WORLD])
def test_marks_are_the_words_of_the_server_in_their_order(page: Page, tagger_url: str, text: str) -> None:
    ask(page, text)
    expected = predicted(tagger_url, text)
    assert expected
    assert page.evaluate(READ) == [text, [item["word"] for item in expected]]
    shown = page.evaluate(LABELS)
    assert [label for label, _ in shown] == [item["entity_group"] for item in expected]
    assert [float(score) for _, score in shown] == pytest.approx(
        [item["score"] - 0.005 for item in expected], abs=0.006
    )


def test_the_status_tells_entities_characters_and_the_time_it_took(page: Page, tagger_url: str) -> None:
    ask(page, "😀 " + TEXTS[0])
    count = len(predicted(tagger_url, "😀 " + TEXTS[0]))
    characters = len("😀 " + TEXTS[0])
    status = page.locator("#status[role=status]")
    assert status.text_content().startswith(f"{count} entities · {characters} characters · ")
    assert status.text_content().endswith(" ms there and back")
    assert page.locator("#count").text_content() == f"{characters} characters (at most 4,000)"


@pytest.mark.parametrize("text", HOSTILE)
def test_markup_is_text(page: Page, text: str) -> None:
    title = page.title()
    ask(page, text + " Anna flew to Oslo.")
    page.get_by_text("As JSON", exact=True).click()
    assert page.evaluate(READ)[0] == text + " Anna flew to Oslo."
    assert page.locator("#answer :is(b, img, a, script, svg)").count() == 0
    time.sleep(0.1)  # what could run would have run
    assert page.title() == title


def test_labels_of_an_agent_are_text(browser: Browser, classifier_url: str) -> None:
    """A card and an answer that hold markup, as an agent trained on such labels would give them."""
    evil = HOSTILE[0]
    with visiting(browser, classifier_url) as page:
        page.evaluate(
            """async (evil) => {
              const { answered, refused } = await import(new URL("static/result.js", document.baseURI));
              const { cardOf } = await import(new URL("static/card.js", document.baseURI));
              const { Palette } = await import(new URL("static/palette.js", document.baseURI));
              const info = { labels: [evil], agent: evil, task: evil, limits: { [evil]: 1 }, versions: { [evil]: evil } };
              const item = { entity_group: evil, word: evil, score: 0.5, start: 0, end: evil.length };
              const palette = new Palette();
              document.querySelector("#answer").replaceChildren(
                ...answered(evil, [item], { palette }).nodes, ...answered(evil, [[{ label: evil, score: 1 }]], { palette, picture: "ranking" }).nodes,
                ...cardOf(info, new Palette()), ...refused({ told: { error: evil, allowed: evil, remedy: evil }, retryAfter: evil }));
            }""",
            evil,
        )
        assert page.locator("#answer img").count() == 0
        assert page.locator("#answer").get_by_text(evil).count() > 8
        assert page.title() == "bundle · bert-agent"


def test_spans_that_overlap_or_lie_outside_do_not_break_the_text(page: Page) -> None:
    spans = [(0, 4), (2, 6), (5, 9), (5, 7), (9, 9), (8, 99), (-1, 2), (99, 100)]
    cut = page.evaluate(
        """async (spans) => {
          const { cut } = await import(new URL("static/marks.js", document.baseURI));
          const { pieces, unmarked } = cut("😀bcdefghij", spans.map(([start, end]) => ({ start, end })));
          return [pieces.map(({ text, item }) => [text, Boolean(item)]), unmarked.length];
        }""",
        spans,
    )
    assert cut == [[["😀bcd", True], ["e", False], ["fghi", True], ["j", False]], 6]


def test_the_strategy_is_sent(page: Page, tagger_url: str) -> None:
    for strategy in ("none", "simple"):
        page.get_by_label("Aggregation").select_option(strategy)
        ask(page, TEXTS[1])
        expected = predicted(tagger_url, TEXTS[1], aggregation_strategy=strategy)
        assert page.evaluate(READ)[1] == [item["word"] for item in expected]
        assert page.evaluate(LABELS)[0][0] == expected[0].get("entity", expected[0].get("entity_group"))


def test_the_table_and_the_json_say_the_same(page: Page, tagger_url: str) -> None:
    ask(page, TEXTS[2])
    expected = predicted(tagger_url, TEXTS[2])
    page.get_by_text("As a table").click()
    rows = page.locator("tbody tr").all()
    assert [row.locator("td").nth(1).text_content() for row in rows] == [item["word"] for item in expected]
    page.get_by_text("As JSON", exact=True).click()
    assert json.loads(page.locator("pre").text_content()) == expected


def test_the_card_tells_what_is_served(page: Page, tagger_url: str) -> None:
    info = httpx.get(tagger_url + "/info").json()
    assert page.get_by_role("heading", level=1).text_content() == info["agent"] == "bundle"
    assert page.locator(".purpose").text_content() == "Finds LOC, ORG and PER in a text."
    card = page.locator("#card").text_content()
    told = [info["bundle"], info["precision"], info["provider"], info["base_model"], *info["labels"], *info["versions"]]
    assert [part for part in told if part not in card] == []
    for link in page.get_by_role("navigation").get_by_role("link").all():
        assert httpx.get(f"{tagger_url}/{link.get_attribute('href')}").status_code == 200


def causes(page: Page) -> list[tuple[str, float]]:
    """Words that are marked as causes, with the effects that stand beside them."""
    page.locator("#why .causes mark").first.wait_for()
    marks = page.locator("#why .causes mark").all()
    told = [(one.locator(".word").text_content(), one.locator(".tag").text_content().strip()) for one in marks]
    return [(word, float(effect.replace("−", "-"))) for word, effect in told]


def expected_causes(url: str, text: str, **parameters: Any) -> list[tuple[str, float]]:
    """The same from the server, in the order of the text."""
    answer = httpx.post(url + "/explain", json={"inputs": text, "parameters": parameters}, timeout=20).json()
    (decision,) = answer["decisions"]
    listed = sorted(decision["causes"], key=lambda cause: cause["start"])
    return [
        (cause["word"], pytest.approx(cause["effect"], abs=0.006)) for cause in listed if abs(cause["effect"]) >= 0.005
    ]


def test_a_click_on_an_entity_marks_its_causes_in_the_text(page: Page, tagger_url: str) -> None:
    text = "😀 " + TEXTS[0]
    ask(page, text)
    entity = predicted(tagger_url, text)[1]
    page.locator("#answer mark .why").nth(1).click()
    found = causes(page)
    assert found == expected_causes(tagger_url, text, labels=[entity["entity_group"]], start=entity["start"])
    assert entity["word"] in page.locator("#why-title").text_content()
    shown = page.evaluate(READ.replace('".marked"', '"#why .marked"'))
    assert shown == [text, [word for word, _ in found]]
    assert (
        "smallest set found" in page.locator(".flip").text_content() or "No set" in page.locator(".flip").text_content()
    )
    page.get_by_text("Causes as a table").click()
    assert page.locator("#why tbody tr").count() >= len(found)
    ask(page, TEXTS[1])
    assert page.locator("#why").is_hidden()  # nothing of the answer before stays beside the new one


def test_a_label_is_explained_by_the_keyboard_too(
    browser: Browser, serve_with: Callable[..., str], tmp_path: Path
) -> None:
    url, text = (
        serve_with(engine=engine_of(topic_bundle(tmp_path / "bundle"))),
        "new boats waited while a storm happened",
    )
    with visiting(browser, url) as page:
        ask(page, text)
        for label, word in (("weather", "storm"), ("other", "storm")):
            page.get_by_role("button", name=label, exact=True).focus()
            page.keyboard.press("Enter")
            page.locator("#why-title", has_text=f"Why {label}?").wait_for()
            assert causes(page) == expected_causes(url, text, labels=[label])
            assert [found for found, _ in causes(page)] == [word]
            assert "“storm” the agent" in page.locator(".flip").text_content()


def test_a_classifier_shows_its_labels_ranked(browser: Browser, classifier_url: str) -> None:
    with visiting(browser, classifier_url) as page:
        assert page.get_by_label("Aggregation").is_hidden()
        assert page.locator(".purpose").text_content() == "Judges a text: bad, fair or good."
        ask(page, TEXTS[0])
        expected = httpx.post(classifier_url, json={"inputs": TEXTS[0]}).json()[0]
        rows = [
            (row.locator(".label").text_content(), row.locator(".bar span")) for row in page.locator(".ranked li").all()
        ]
        assert [label for label, _ in rows] == [item["label"] for item in expected]
        assert page.get_by_role("button", name="Correct").count() == 0  # this server keeps no decisions
        widths = [bar.bounding_box()["width"] / bar.locator("..").bounding_box()["width"] for _, bar in rows]
        assert widths == pytest.approx([item["score"] for item in expected], abs=0.03)


def test_an_answer_is_marked_in_the_context(browser: Browser, reader_url: str) -> None:
    with visiting(browser, reader_url) as page:
        page.get_by_label("Question", exact=True).fill("Who flew?")
        ask(page, TEXTS[0])
        answers = predicted(reader_url, {"question": "Who flew?", "context": TEXTS[0]}, top_k=3)
        given = [item["answer"] or "no answer" for item in answers]
        assert page.locator(".ranked .label").all_text_contents() == given
        assert page.locator("mark .word").all_text_contents() == [answers[0]["answer"]][: bool(answers[0]["answer"])]
        assert (page.locator("#status").text_content() or "").startswith(f"{given[0]} (")


def test_words_for_each_mask_are_ranked(browser: Browser, filler_url: str) -> None:
    with visiting(browser, filler_url) as page:
        assert (page.get_by_label("Text", exact=True).input_value() or "").endswith("to [MASK].")
        text = "[MASK] flew from Oslo to [MASK]."
        ask(page, text)
        masks = predicted(filler_url, text)
        given = [item["token_str"] for items in masks for item in items]
        assert page.locator(".ranked .label").all_text_contents() == given
        assert (page.locator("#status").text_content() or "").startswith(f"{masks[0][0]['token_str']} (")


def test_the_keyboard_alone_is_enough(page: Page, tagger_url: str) -> None:
    page.keyboard.press("Tab")
    page.keyboard.insert_text(TEXTS[0])
    page.keyboard.press("Control+Enter")
    page.locator("mark").first.wait_for()
    assert page.evaluate(READ)[1] == [item["word"] for item in predicted(tagger_url, TEXTS[0])]
    stops = []
    for _ in range(16 + len(predicted(tagger_url, TEXTS[0]))):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            "() => [document.activeElement.textContent.trim().slice(0, 20), getComputedStyle(document.activeElement).outlineStyle]"
        )
        stops.append(name)
        assert outline == "solid", name
    wanted = [
        "Analyse",
        "Minutes",
        "Markup",
        "As a table",
        "As JSON",
        "Limits of a request",
        "API key",
        "API docs",
        "Metrics",
    ]
    assert [name for name in stops if name in wanted] == wanted
    page.get_by_role("button", name="Emoji").focus()
    page.keyboard.press("Enter")
    page.locator(".marked", has_text="Amélie").wait_for()


@pytest.mark.parametrize(
    ("text", "status", "told"),
    [
        ("", "422", ["inputs is empty", "texts of at least one character", "leave it out"]),
        ("Anna " * 1_000, "413", ["5000 characters", "at most 4000"]),
        ("a\ud800b", "400", ["the body is no JSON", "JSON in UTF-8"]),
    ],
    ids=["empty", "overlong", "half a character"],
)
def test_a_refusal_is_shown_in_the_words_of_the_server(page: Page, text: str, status: str, told: list[str]) -> None:
    ask(page, TEXTS[0])
    page.get_by_label("Text", exact=True).evaluate(
        "(field, text) => { field.value = JSON.parse(text) }", json.dumps(text)
    )
    page.get_by_role("button", name="Analyse").click()
    alert = page.get_by_role("alert")
    alert.locator(".error").wait_for()
    assert alert.locator(".status").text_content() == status
    assert [part for part in told if part not in alert.text_content()] == []
    assert page.locator("mark").count() == 0  # nothing of the answer before stays beside it
    ask(page, TEXTS[0])
    page.locator("mark").first.wait_for()
    assert alert.is_hidden()


def test_a_running_request_says_so_and_can_be_cancelled(
    browser: Browser, serve_with: Callable[..., str], tagger_path: Path
) -> None:
    slow = gated(tagger_path)
    with visiting(browser, serve_with(warm=False, engine=slow)) as page:
        page.get_by_label("Text", exact=True).fill(TEXTS[0])
        for cancel in (
            lambda: page.get_by_role("button", name="Cancel").click(),
            lambda: page.keyboard.press("Escape"),
        ):
            page.get_by_role("button", name="Analyse").click()
            page.get_by_role("button", name="Working").wait_for()
            assert page.locator("#status[role=status]").text_content() == "Working ..."
            cancel()
            page.get_by_text("Cancelled.").wait_for()
            assert page.get_by_role("button", name="Cancel").is_hidden()
        page.get_by_role("button", name="Analyse").click()
        page.get_by_role("button", name="Chat").click()  # the latest one counts
        slow.gate.set()
        page.locator(".marked", has_text="heathrow").wait_for()
        assert page.locator(".marked").count() == 1


def test_a_busy_server_says_when_to_come_back(
    browser: Browser, serve_with: Callable[..., str], tagger_path: Path
) -> None:
    slow = gated(tagger_path)
    url = serve_with(warm=False, engine=slow, max_concurrent_requests=1)
    with visiting(browser, url) as page, concurrent.futures.ThreadPoolExecutor(1) as caller:
        first = caller.submit(httpx.post, url, json={"inputs": TEXTS[0]}, timeout=20)
        while slow.free >= 0:  # until it is computed
            time.sleep(0.01)
        ask(page, TEXTS[0])
        slow.gate.set()
        assert page.get_by_role("alert").locator(".status").text_content() == "429"
        assert re.search(r"Come backin \d+ second", page.get_by_role("alert").text_content())
        assert first.result().status_code == 200


def test_a_server_that_is_gone_is_said_to_be(browser: Browser, tagger_path: Path) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        with _served(tagger_path) as url:
            page.goto(url)
            page.locator("#card dl").first.wait_for()
        ask(page, "Anna")
        assert "the server cannot be reached" in page.get_by_role("alert").text_content()


def test_a_key_is_sent_once_it_is_given_and_kept_nowhere(
    browser: Browser, serve_with: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("open-sesame-0123\n")
    url = serve_with(front=FrontConfig(auth=AuthConfig(keys_file=str(tmp_path / "keys"))))
    with visiting(browser, url) as page:
        assert "401" in page.locator("#card .refusal").text_content()
        for key, status in (("wrong", "403"), ("clé", "cannot be sent")):
            page.get_by_label("Key", exact=True).fill(key)
            page.keyboard.press("Enter")
            page.locator("#card .refusal", has_text=status).wait_for()
        page.get_by_label("Key", exact=True).fill("open-sesame-0123")
        page.get_by_role("button", name="Use").click()
        page.locator("#key-status", has_text="In use.").wait_for()
        assert "token classification" in page.locator("#card").text_content()
        ask(page, TEXTS[0])
        assert page.locator("mark").count() > 0
        kept = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie, location.href]")
        assert kept == [0, 0, "", url + "/"]
        page.reload()
        page.locator("#card .refusal", has_text="401").wait_for()


def test_it_works_below_a_prefix(browser: Browser, tagger_path: Path) -> None:
    def below(app: ASGIApp) -> ASGIApp:
        return Starlette(routes=[Mount("/models/tagger", app)])

    with _served(tagger_path, below) as url, visiting(browser, f"{url}/models/tagger") as page:
        assert page.url == f"{url}/models/tagger/"
        ask(page, TEXTS[0])
        assert page.evaluate(READ)[1] == [item["word"] for item in predicted(f"{url}/models/tagger/", TEXTS[0])]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("fixture", ["tagger_url", "classifier_url"])
def test_axe_finds_nothing_and_nothing_is_cut_off(
    browser: Browser, fixture: str, scheme: Any, width: int, request: pytest.FixtureRequest
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe (extra dev)").Axe()
    url = request.getfixturevalue(fixture)
    with visiting(browser, url, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
        for text in ("", WORLD["Hebrew"], TEXTS[2]):
            ask(page, text)
            page.evaluate("for (const folded of document.querySelectorAll('details')) folded.open = true")
            assert [f"{rule['id']}: {rule['nodes'][0]['html']}" for rule in axe.run(page).response["violations"]] == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width


@contextmanager
def _served(bundle: Path, around: Callable[[ASGIApp], ASGIApp] = lambda app: app) -> Iterator[str]:
    """The surface on a socket, with something around it."""
    predictor = Predictor(Engine(Bundle.load(bundle)))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(around(create_app(predictor)), log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        predictor.close()


def test_selections_are_marked_as_entities_and_asked_about(browser: Browser, relater_url: str) -> None:
    with visiting(browser, relater_url) as page:
        area = page.get_by_label("Text", exact=True)
        area.fill("Anna flew to Oslo.")
        for place, number in (((13, 17), 2), ((0, 2), 1), ((11, 13), 1)):  # the third corrects the second
            area.evaluate("(area, [start, end]) => area.setSelectionRange(start, end)", list(place))
            page.get_by_role("button", name=f"Mark selection as entity {number}").click()
        assert area.input_value() == "An<e1>na</e1> flew to <e2>Oslo</e2>."
        page.get_by_role("button", name="Analyse").click()
        page.locator(".ranked li").first.wait_for()
        best = predicted(relater_url, "An<e1>na</e1> flew to <e2>Oslo</e2>.")[0][0]["label"]
        assert page.locator(".ranked .label").first.text_content() == best


def test_only_an_agent_of_relations_has_entities_to_mark(page: Page) -> None:
    assert page.locator("#marking").is_hidden()
