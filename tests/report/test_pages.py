"""The pages in a browser: what moves, what is said, what would leave the page, and how wide it is."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kit.commands import write_images
from kit.hostile import HOSTILE
from kit.results import result, write_results
from kit.verdicts import write_audit, write_choice

from eclipse.data.source import open_source
from eclipse.diffusion.checkpoint import load_denoiser
from eclipse.jobs.explain import explain_job
from eclipse.jobs.job import carry_out
from eclipse.jobs.preview import LEVELS, preview
from eclipse.jobs.purify import purify_job
from eclipse.report import write_report
from eclipse.report.preview import write_page

WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 400, "height": 800}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, denoiser_folder: Path) -> dict[str, Path]:
    """A page of each kind, of data with hostile names."""
    place = tmp_path_factory.mktemp("pages")
    write_images(place / "set" / HOSTILE, 6)
    write_images(place / "set", 4, side=100)
    carry_out(purify_job(str(place / "set"), place / "purified", denoiser=denoiser_folder))
    poisons = {"clean": 0.8, "em": 0.2, HOSTILE: 0.3, **{f"poison-{i}": 0.4 for i in range(6)}}
    cells = [
        result(attack, defense, 0, accuracy + gain, arch=HOSTILE)
        for attack, accuracy in poisons.items()
        for defense, gain in {"none": 0.0, "iss-j": 0.1, HOSTILE: 0.15}.items()
    ]
    grid = write_results(place / "results", cells).path
    found = preview(open_source(place / "set"), load_denoiser(denoiser_folder), "cpu")
    write_page(found, str(place / "set"), denoiser_folder, place / "preview.html")
    write_audit(place / "audit")
    write_choice(place / "choice")
    before, after = place / HOSTILE / "before", place / HOSTILE / "after"
    write_images(before, 6, side=20), write_images(after, 6, side=20, seed=1)
    carry_out(explain_job(str(after), str(before), place / "explanation"))
    return {
        "explanation": write_report(place / "explanation")[0],
        "audit": write_report(place / "audit")[0],
        "choice": write_report(place / "choice")[0],
        "preview": place / "preview.html",
        "purification": write_report(place / "purified")[0],
        "grid": next(path for path in write_report(grid) if path.suffix == ".html"),
    }


@dataclass(frozen=True)
class Opened:
    """A page in the browser, what it has written to the console, and what it has asked for."""

    page: Any
    told: list[str]
    asked: list[str]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright, of the extra dev, is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium is installed (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        # Without a sandbox, which containers do not allow: the pages are our own.
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser: Any, path: Path, **options: Any) -> Opened:
    page = browser.new_context(**{"viewport": WIDE, **options}).new_page()
    told, asked = list[str](), list[str]()
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    return Opened(page, told, [url for url in asked if not url.startswith("data:")])


@pytest.mark.parametrize("kind", ["audit", "choice", "purification", "preview", "grid", "explanation"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_is_quiet_and_keeps_to_itself_and_names_in_it_are_text(
    kind: str, scheme: str, pages: dict[str, Path], browser: Any
) -> None:
    found = opened(browser, pages[kind], color_scheme=scheme)
    assert found.told == []
    assert found.asked == [pages[kind].as_uri()]
    assert HOSTILE in found.page.inner_text("body")
    assert found.page.locator("img[src=x], [onerror]").count() == 0
    light = found.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")


@pytest.mark.parametrize("kind", ["audit", "choice", "purification", "preview", "grid", "explanation"])
def test_a_phone_need_not_scroll_sideways(kind: str, pages: dict[str, Path], browser: Any) -> None:
    page = opened(browser, pages[kind], viewport=PHONE).page
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_on_a_phone_the_mean_recovery_is_in_sight_and_a_hint_says_that_there_is_more(
    pages: dict[str, Path], browser: Any
) -> None:
    narrow, wide = (opened(browser, pages["grid"], viewport=size).page for size in (PHONE, WIDE))
    box = narrow.locator("td.recovered .track").first.bounding_box()
    assert box["x"] > 0 and box["x"] + box["width"] < PHONE["width"]
    assert narrow.locator(".hint").is_visible() and not wide.locator(".hint").is_visible()
    for swatch in narrow.locator(".legend i.key").all():
        key, words = swatch.bounding_box(), swatch.evaluate("e => e.parentElement.getBoundingClientRect().height")
        assert words < 2 * key["height"]  # a swatch and its words stand in one line


def shown(page: Any, slider: Any) -> float:
    """Where the line across the image of a slider is, from 0 to 1, as it is seen: before and after differ there."""
    place = slider.evaluate("e => getComputedStyle(e.parentElement.querySelector('img + img')).clipPath")
    assert place.startswith("inset("), place
    return float(place.rstrip(")%").rpartition(" ")[2]) / 100


def test_mouse_and_keys_move_the_line_across_an_image(pages: dict[str, Path], browser: Any) -> None:
    page = opened(browser, pages["purification"]).page
    slider = page.locator(".compare input").first
    assert shown(page, slider) == 0.5
    box = slider.bounding_box()
    before = page.screenshot(clip=box)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 2, box["y"] + box["height"] / 2, steps=3)
    page.mouse.up()
    assert shown(page, slider) < 0.1 and page.screenshot(clip=box) != before
    slider.press("End")
    assert shown(page, slider) == 1
    slider.press("ArrowLeft")
    assert shown(page, slider) == 0.99
    other = page.locator(".compare input").nth(1)
    assert shown(page, other) == 0.5


def test_a_slider_goes_up_the_ladder_of_an_image_and_one_that_of_all(pages: dict[str, Path], browser: Any) -> None:
    page = opened(browser, pages["preview"]).page
    seen = page.locator(".ladder figure.on figcaption")
    highest = f"{LEVELS[-1]:g}/255"
    assert set(seen.all_inner_texts()) == {highest} and page.locator(".ladder img:visible").count() == seen.count()
    page.locator(".ladder input").first.press("Home")
    assert seen.all_inner_texts()[:2] == ["as it is", highest]
    page.locator("#all").press("Home")
    page.locator("#all").press("ArrowRight")
    assert set(seen.all_inner_texts()) == {f"{LEVELS[0]:g}/255"}
    image = page.locator(".ladder img:visible").first
    assert image.evaluate("e => getComputedStyle(e).filter") == "none"
    page.locator("#gray").check()
    assert image.evaluate("e => getComputedStyle(e).filter") == "grayscale(1)"
    still = opened(browser, pages["preview"], java_script_enabled=False).page
    assert still.locator(".ladder").first.locator("img:visible").count() == 1 + len(LEVELS)


def test_without_scripts_and_on_paper_images_stand_side_by_side(pages: dict[str, Path], browser: Any) -> None:
    still = opened(browser, pages["purification"], java_script_enabled=False).page
    printed = opened(browser, pages["purification"]).page
    printed.emulate_media(media="print")
    for page in (still, printed):
        first, second = (page.locator(".compare").first.locator("img").nth(i).bounding_box() for i in (0, 1))
        assert first["x"] + first["width"] <= second["x"]
        assert not page.locator(".compare input").first.is_visible()


def test_a_tile_of_a_grid_opens_its_details_by_key_and_closes(pages: dict[str, Path], browser: Any) -> None:
    page = opened(browser, pages["grid"]).page
    tile = page.locator(".heat button").first
    details = page.locator(f"#{tile.get_attribute('popovertarget')}")
    assert not details.is_visible()
    tile.press("Enter")
    assert details.is_visible()
    page.keyboard.press("Escape")
    assert not details.is_visible()
