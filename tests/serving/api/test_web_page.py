"""The page at / over HTTP: who gets it, and with which headers."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from serving.api.web_page import accepts_html

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
FILES = sorted(path.name for path in (Path(__file__).parents[3] / "serving" / "static").iterdir())
TYPES = {".html": "text/html", ".css": "text/css", ".js": "javascript", ".svg": "image/svg+xml"}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_browser_gets_the_page(tagger_url: str, method: str) -> None:
    answer = httpx.request(method, tagger_url, headers=BROWSER)
    assert (answer.status_code, answer.headers["vary"]) == (200, "accept")
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.text.startswith("<!doctype html>") == (method == "GET")


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/*", "text/html;q=0, application/json"])
def test_a_program_is_told_how_to_predict_instead(tagger_url: str, accept: str) -> None:
    answer = httpx.get(tagger_url, headers={"accept": accept})
    assert (answer.status_code, answer.headers["vary"]) == (406, "accept")
    assert "POST /" in answer.json()["remedy"]
    assert "/docs" in answer.json()["remedy"]
    assert httpx.head(tagger_url).status_code == 406


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        ("text/html", True),
        ("TEXT/HTML; charset=utf-8", True),
        ("application/json, text/html;q=0.1", True),
        ("text/html; q=0.0", False),
        ("text/htmlx", False),
        ("", False),
    ],
)
def test_html_is_sent_to_those_who_name_it(accept: str, html: bool) -> None:
    assert accepts_html(accept) is html


@pytest.mark.parametrize("name", FILES)
def test_files_come_with_their_type_and_are_not_sent_twice(tagger_url: str, name: str) -> None:
    answer = httpx.get(f"{tagger_url}/static/{name}")
    assert answer.status_code == 200
    assert TYPES[Path(name).suffix] in answer.headers["content-type"]
    again = httpx.get(f"{tagger_url}/static/{name}", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["/", "/static/page.js"])
def test_the_headers_let_nothing_in_from_elsewhere(tagger_url: str, path: str) -> None:
    headers = httpx.get(tagger_url + path, headers=BROWSER).headers
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", ["nothing.js", "..%2fpage.py", "%2e%2e/page.py", "../page.py", ".", ""])
def test_nothing_but_the_files_of_the_page_is_sent(tagger_url: str, path: str) -> None:
    answer = httpx.get(f"{tagger_url}/static/{path}")
    assert answer.status_code == 404
    assert answer.json()["remedy"] == "see /docs"


def test_the_page_is_no_part_of_the_api(tagger_url: str) -> None:
    paths = httpx.get(tagger_url + "/openapi.json").json()["paths"]
    assert set(paths["/"]) == {"post"}
    assert not any(path.startswith("/static") for path in paths)
