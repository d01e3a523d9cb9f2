"""The page in Chromium: nothing goes wrong, charts are drawn, toggles work, it fits a phone, and words stay words.

The screenshots are kept where the environment variable SPOTKD_ARTEFACTS says, as CI does.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from spotkd.cli import main

from ..chromium import browser, marks
from ..hostile_runs import CLASSES, copied

__all__ = ["browser"]
pytestmark = marks


@pytest.fixture(scope="module")
def report(hostile_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser") / "runs"
    with copied(hostile_runs, folder):
        assert main(["report", str(folder), "--trust"]) == 0
    return folder / "report.html"


@pytest.fixture
def page(report: Path, browser: Browser) -> Iterator[Page]:
    """The page, wide and light; whatever it complains of or asks the network for fails the test."""
    trouble: list[str] = []
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.on("console", lambda message: trouble.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("dialog", lambda dialog: trouble.append(f"dialog: {dialog.message}"))
    page.on("request", lambda request: trouble.append(request.url) if request.url.startswith("http") else None)
    page.goto(report.as_uri())
    page.evaluate("document.querySelectorAll('details.run').forEach(run => { run.open = true; })")
    yield page
    page.close()
    assert trouble == []


def test_every_chart_is_drawn(page: Page) -> None:
    charts = page.locator("figure.chart > svg")
    assert charts.count() == 1 + 3 + 3 + 5
    for chart in charts.all():
        lines = chart.locator(".line").all()
        assert lines
        for line in lines:
            box = line.bounding_box()
            assert box is not None
            assert box["width"] > 50
        assert chart.locator(".mark").count() >= 3 * len(lines)
    assert page.locator("td.heat").count() == 1 + 4 + 4 * 3 + 4 * len(CLASSES)
    for image in page.locator(".gallery img").all():
        assert image.evaluate("image => image.naturalWidth") == 16


def test_lines_are_toggled_by_mouse_and_keyboard(page: Page) -> None:
    figure = page.locator('figure[data-key="sakd-shares"]')
    button, line = figure.locator(".legend button").first, figure.locator('.series[data-series="0"]')
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert not line.is_visible()
    assert figure.locator('.series[data-series="1"]').is_visible()
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    assert line.is_visible()


def test_values_are_read_by_mouse_and_keyboard(page: Page) -> None:
    figure = page.locator('figure[data-key="sakd-shares"]')
    row = figure.locator("tbody tr").nth(2).locator("td").all_text_contents()
    svg, reading = figure.locator("> svg"), figure.locator(".reading")
    svg.hover(position={"x": 330, "y": 90})
    assert (reading.text_content() or "").startswith("epoch 3: layer1 ")
    page.mouse.move(0, 0)
    assert reading.text_content() == ""
    svg.focus()
    page.keyboard.press("End")
    read = re.findall(r"[\d.]+(?=  ·|$)", reading.text_content() or "")
    assert [float(value) for value in read] == pytest.approx([float(value) for value in row], abs=5e-4)
    page.keyboard.press("Home")
    assert (reading.text_content() or "").startswith("epoch 1: ")
    figure.locator("summary").click()
    assert figure.locator("details table").is_visible()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_is_kept_as_a_picture(page: Page, width: int, scheme: str, tmp_path: Path) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    folder = Path(os.environ.get("SPOTKD_ARTEFACTS", tmp_path)) / "report"
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / f"{width}-{scheme}.png"
    page.screenshot(path=picture, full_page=True)
    assert picture.stat().st_size > 20_000


def test_words_from_outside_stay_words(page: Page) -> None:
    assert page.locator("script").count() == 1
    assert page.locator("[onerror], [onload], [onclick]").count() == 0
    text = page.locator("body").inner_text()
    assert all(name in text for name in CLASSES)


def test_names_and_tables_for_those_who_do_not_see(page: Page) -> None:
    """Every picture has a name, every chart its table, every control a label; headings skip no level."""
    assert page.locator("img:not([alt]), img[alt='']").count() == 0
    assert page.locator("figure.chart > svg:not([aria-label])").count() == 0
    assert page.locator("figure.chart > svg").count() == page.locator("figure.chart details table").count()
    assert all((button.text_content() or "").strip() for button in page.locator("button").all())
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(heading => Number(heading.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))


def test_the_answer_comes_first_and_the_table_is_sorted_by_a_click(page: Page) -> None:
    assert page.locator("main h2").first.inner_text() == "Did it help?"
    rows, head = page.locator("table.results tbody tr"), page.locator("table.results thead th")
    assert [row.split()[0] for row in rows.all_inner_texts()] == ["sakd", "kd", "teacher"], "by role"
    head.nth(1).get_by_role("button").click()
    found = [float(cell.get_attribute("data-sort") or "nan") for cell in rows.locator("td:nth-child(2)").all()]
    assert found == sorted(found, reverse=True)
    assert head.nth(1).get_attribute("aria-sort") == "descending"
    head.nth(1).get_by_role("button").click()
    again = [float(cell.get_attribute("data-sort") or "nan") for cell in rows.locator("td:nth-child(2)").all()]
    assert again == sorted(found)


def test_on_a_telephone_what_matters_comes_first(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 900})
    for column in (0, 1, 2):
        box = page.locator("table.results thead th").nth(column).bounding_box()
        assert box is not None
        assert box["x"] + 40 < 390


def test_runs_are_closed_and_links_open_them(report: Path, browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(report.as_uri())
    first = page.locator("details.run").first
    assert not first.locator(".card").is_visible()
    page.locator("table.results a", has_text="sakd").click()
    assert first.locator(".card").is_visible()
    link = first.locator(".gallery a").first
    row = page.locator(link.get_attribute("href") or "")
    assert not row.is_visible()
    link.click()
    row.wait_for(state="visible")
    first.locator(".copy").first.click()
    assert first.locator(".copy").first.inner_text() in ("Copy", "Copied", "Selected")
    page.close()


def test_five_runs_are_printed_on_six_pages(hostile_runs: Path, browser: Browser, tmp_path: Path) -> None:
    with copied(hostile_runs, tmp_path / "runs"):
        for name in ("kd", "sakd"):
            shutil.copytree(tmp_path / "runs" / name, tmp_path / "runs" / f"{name}-again")
        assert main(["report", str(tmp_path / "runs"), "--trust"]) == 0
    page = browser.new_page()
    page.goto((tmp_path / "runs" / "report.html").as_uri())
    pdf = page.pdf(prefer_css_page_size=True)
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf)) <= 6
    page.emulate_media(media="print")
    assert not any(one.is_visible() for one in page.locator(".numbers-of").all()), "files and tables of numbers"
    page.close()
