"""Makes docs/page.png: serves a bundle, types a text into the page and photographs it. `python docs/page_screenshot.py bundle=DIR`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # Python puts docs/ there
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from agent.config import cli
from serving.run import ServingConfig, running
from tests.serving.chromium import chromium, visiting

_TEXT = """Minutes: Tomás Echeverría moved that Greenbank Cycling Club lease the old depot in Leeds. 🚲

Ingrid Halvorsen flew from Oslo to Rotterdam; Initech will call her before Friday.
אתמול טסה Anna Berg מ-Oslo ל-Lima."""


def main(config: ServingConfig) -> None:
    """Serves, asks, photographs, stops."""
    look: dict[str, Any] = {"viewport": {"width": 1200, "height": 800}, "color_scheme": "light"}
    with running(config) as url, chromium() as browser, visiting(browser, url, **look) as page:
        page.get_by_label("Text", exact=True).fill(_TEXT)
        page.get_by_role("button", name="Analyse").click()
        page.locator(".marked").wait_for()
        page.screenshot(path=Path(__file__).with_name("page.png"), full_page=True)


if __name__ == "__main__":
    sys.exit(cli.run(ServingConfig, main, usage=str(__doc__)))
