"""Makes docs/page.png: serves a bundle, types a text into the page and photographs it. `python docs/page_screenshot.py bundle=DIR`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from agent import command
from serving.run import running
from serving.settings import ServingConfig
from tests.serving.chromium import chromium, visiting

_TEXT = """Minutes: Tomás Echeverría moved that Greenbank Cycling Club lease the old depot in Leeds. 🚲

Ingrid Halvorsen flew from Oslo to Rotterdam; Initech will call her before Friday.
אתמול טסה Anna Berg מ-Oslo ל-Lima."""


def main(config: ServingConfig) -> None:
    """Serves, asks, photographs, stops."""
    with running(config) as url, chromium() as browser:
        with visiting(browser, url, viewport={"width": 1200, "height": 820}, color_scheme="light") as page:
            page.get_by_label("Text", exact=True).fill(_TEXT)
            page.get_by_role("button", name="Analyse").click()
            page.locator(".marked").wait_for()
            page.screenshot(path=ROOT / "docs" / "page.png", full_page=True)


if __name__ == "__main__":
    sys.exit(command.run(ServingConfig, main, usage=str(__doc__)))
