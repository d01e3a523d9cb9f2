"""The documentation site in Chromium, opened from its folder: what people search for is found, and all can read it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page
from tools.build_site import build, stage

from .chromium import browser, marks

__all__ = ["browser"]
pytestmark = marks
SEARCHES = {  # what one types, and the page that answers
    "resume an interrupted run": "reliability",
    "out of memory": "out-of-memory",
    "distil your own images": "tutorial",
    "image folder": "data/index",
    "temperature": "distillers/kd",
    "which distiller": "which-distiller",
    "own distiller": "own-distiller",
    "export onnx": "deploy",
    "several gpus": "several-devices",
    "pretrained weights": "training",
    "own network": "training",
    "early stopping": "training",
    "mixed precision": "training",
    "hugging face": "data/index",
    "common errors": "common-errors",
    "security": "security",
    "attention transfer": "distillers/at",
    "repeat the paper": "recipes",
    "compare methods": "experiments",
    "timm": "families",
}
READ = (
    "index",
    "tutorial",
    "which-distiller",
    "distillers/at",
    "reference/options",
    "reference/SpotKD",
    "results",
    "families",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "docs"
    stage(folder)
    done = build(folder)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A wide page; whatever it complains of or asks the network for fails the test."""
    trouble: list[str] = []
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.on("console", lambda message: trouble.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda request: trouble.append(request.url) if request.url.startswith("http") else None)
    yield page
    page.close()
    assert trouble == []


def found(page: Page, words: str) -> list[str]:
    """The pages that the site's own search finds, best first."""
    box, said = page.get_by_role("textbox", name="Search"), page.locator(".md-search-result__meta")
    box.click()
    box.fill("")
    box.press("Backspace")  # the box listens to keys alone
    said.filter(has_text="Type to start searching").wait_for()
    box.press_sequentially(words)
    said.filter(has_text="matching").wait_for()
    page.wait_for_timeout(250)  # results follow the keys
    links = page.locator(".md-search-result__item > .md-search-result__link")
    hits: list[str] = links.evaluate_all("links => links.map(link => link.href)")
    return list(dict.fromkeys(hit.partition("/site/")[2].partition(".html")[0] for hit in hits))


def test_what_people_search_for_is_among_the_first_three(site: Path, page: Page) -> None:
    page.goto((site / "index.html").as_uri())
    results = {words: found(page, words) for words in SEARCHES}
    assert len(results) == 20
    assert {words: pages[:3] for words, pages in results.items() if SEARCHES[words] not in pages[:3]} == {}


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_keeps_anyone_from_reading(site: Path, page: Page, name: str, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.goto((site / f"{name}.html").as_uri())
    assert serious(page) == []


def serious(page: Page) -> list[tuple[str, str]]:
    """What axe-core finds that keeps people from reading the page."""
    violations = Axe().run(page, options={"preload": False}).response["violations"]  # preloading wants a server
    bad = [one for one in violations if one["impact"] in ("serious", "critical")]
    return [(one["id"], node["html"]) for one in bad for node in one["nodes"]]
