"""The page in a real browser: everything that a person does with mouse and keys."""

import shutil
import threading
from contextlib import contextmanager

import pytest

from pipelines.explore.app import app_of
from pipelines.explore.explore import listen

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")


@contextmanager
def served(opened):
    import uvicorn

    with listen("127.0.0.1", 0) as listening:
        server = uvicorn.Server(uvicorn.Config(app_of(opened), log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def address(opened):
    with served(opened) as address:
        yield address


@pytest.fixture(scope="module")
def gated_address(gated):
    with served(gated) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    yield from opened_page(browser, address)


@pytest.fixture
def gated_page(browser, gated_address):
    yield from opened_page(browser, gated_address)


def opened_page(browser, address):
    page = browser.new_page(viewport={"width": 1300, "height": 900}, bypass_csp=True)  # its own scripts need that
    page.faults = []
    page.on("pageerror", lambda fault: page.faults.append(str(fault)))
    page.on("console", lambda said: page.faults.append(said.text) if said.type == "error" else None)
    page.goto(address)
    page.wait_for_function(SHOWN)
    yield page
    assert page.faults == []
    page.close()


SHOWN = """() => {
  const pictures = [...document.querySelectorAll('#tiles img')];
  return pictures.length > 2 && pictures.every((picture) => picture.naturalWidth);
}"""
FILLED = """() => {
  const picture = document.querySelector('#tile-model-0 img');
  return picture.src.includes('mask_ratio=0.25') && picture.naturalWidth;
}"""
RANKED = """() => {
  const scores = [...document.querySelectorAll('#list small')].map((each) => +each.textContent);
  return scores.length === 12 && scores.every((score, place) => !place || score <= scores[place - 1]);
}"""
IMPORTANT = (
    "(said) => new RegExp(`important, ${said} are hidden`).test(document.querySelector('#mask-facts').textContent)"
)
CHOSEN = "(row) => document.querySelector('#list button[aria-current=true]')?.dataset.row === row"
RECOVERED = "() => document.querySelector('#result-0 img')?.naturalWidth === 48"
COLOURS = """() => [['#caption', 'color'], ['#key', 'color'], ['body', 'backgroundColor']].map(
  ([place, kind]) => getComputedStyle(document.querySelector(place))[kind])"""


def text(page, place):
    return page.locator(place).text_content()


def until(page, place, said):
    page.wait_for_function(
        "([place, said]) => document.querySelector(place).textContent.includes(said)", arg=[place, said]
    )


def test_sliders_move_mask_and_filled_picture(page):
    until(page, "#mask-facts", "12 of 16 patches are hidden, 4 of them because they are salient.")
    page.locator("#salient_ratio").fill("0.5")
    until(page, "#mask-facts", "8 of them because")
    assert text(page, "#salient_ratio-value") == "50 %"
    page.locator("#mask_ratio").fill("0.25")
    until(page, "#error", "salient")  # more would be salient than are hidden
    page.faults.clear()  # the browser notes refusals
    page.locator("#salient_ratio").fill("0.25")
    until(page, "#mask-facts", "4 of 16 patches are hidden, 4 of them")
    assert not page.locator("#error").is_visible()
    page.wait_for_function(FILLED)
    page.select_option("#strategy", "random")
    until(page, "#mask-facts", "4 of 16 patches are hidden.")
    assert not page.locator("#salient_ratio").is_visible()


def test_the_masks_of_a_gate(gated_page):
    page = gated_page
    until(page, "#mask-facts", "8 of 16 patches are hidden. Of the patches that the gate finds important,")
    assert (page.locator("#strategy").input_value(), text(page, "#gate_ratio-value")) == ("gate", "60 %")
    assert "scores of the gate" in text(page, "#tiles")
    page.locator("#gate_ratio").fill("1")
    page.wait_for_function(IMPORTANT, arg=r"(\d+) of \1")
    page.select_option("#gate_sign", "keep")
    page.wait_for_function(IMPORTANT, arg=r"0 of \d+")
    page.select_option("#strategy", "salient")  # by the only map there is, the gate's scores
    until(page, "#mask-facts", "4 of them because they are salient")
    assert not page.locator("#gate_ratio").is_visible()
    page.select_option("#strategy", "random")
    until(page, "#mask-facts", "8 of 16 patches are hidden.")


def test_keys_search_and_sorting(page):
    for key, row in (("j", "1"), ("k", "0")):
        page.keyboard.press(key)
        page.wait_for_function(CHOSEN, arg=row)
        assert page.locator("#list button[aria-current=true]").count() == 1
    page.keyboard.press("/")
    page.keyboard.type("zebra j")  # letters are text there, and no keys
    until(page, "#found", "No pair has these words.")
    page.fill("#text", "")
    until(page, "#found", "1 to 12 of 12")
    assert page.locator("#list button").count() == 12
    page.select_option("#order", "score")
    page.wait_for_function(RANKED)
    scores = [float(score) for score in page.locator("#list small").all_text_contents()]
    assert scores == sorted(scores, reverse=True)


def test_another_caption(page):
    page.fill("#typed-caption", "a green square")
    page.keyboard.press("Enter")
    until(page, "#typed-facts", "“a green square” has the CLIP score")
    page.wait_for_function(SHOWN)
    assert "map of “a green square”" in text(page, "#tiles")
    assert page.locator("#map").input_value() == "typed caption"


def test_painting_is_filled_in(page):
    page.keyboard.press("o")
    page.wait_for_selector("#view-occlude:not([inert])")
    place = page.locator("#canvas").bounding_box()
    for shape in ("brush", "box"):
        page.select_option("#shape", shape)
        page.mouse.move(place["x"] + 100, place["y"] + 100)
        page.mouse.down()
        page.mouse.move(place["x"] + 200, place["y"] + 220, steps=4)
        page.mouse.up()
        page.wait_for_function(RECOVERED)
        page.click("#clear")
        assert page.locator("#result-0").count() == 0
    page.click("#middle")
    page.wait_for_function(RECOVERED)


def test_what_is_cleared_while_it_is_filled_in_does_not_come_back(page):
    page.keyboard.press("o")
    page.wait_for_selector("#view-occlude:not([inert])")
    page.route("**/recovered?*", lambda held: None)
    with page.expect_request("**/recovered?*"):
        page.click("#middle")
    with page.expect_event("requestfailed"):
        page.click("#clear")
    assert text(page, "#paint-facts") == ""
    assert not page.locator("#error").is_visible()
    page.unroute("**/recovered?*")
    page.click("#middle")
    page.wait_for_function(RECOVERED)
    assert page.locator("figure.result").count() == 1


def test_an_own_image(page, tmp_path):
    from PIL import Image

    Image.new("RGB", (40, 30), "teal").save(tmp_path / "own.png")
    page.set_input_files("#own", tmp_path / "own.png")
    until(page, "#caption", "your image")
    until(page, "#mask-facts", "12 of 16 patches are hidden.")
    assert not page.locator("#salient_ratio").is_visible()
    page.fill("#typed-caption", "teal")  # with a map the mask follows it again
    page.keyboard.press("Enter")
    until(page, "#mask-facts", "because they are salient")


def test_dark_and_narrow(browser, address):
    """Text stands out from its ground by 4.5 to 1 (WCAG AA) in both modes, and nothing sticks out of a telephone."""
    for mode in ("light", "dark"):
        page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme=mode, bypass_csp=True)
        page.goto(address)
        page.wait_for_function(SHOWN)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        text, quiet, ground = page.evaluate(COLOURS)
        for colour in (text, quiet):
            light, dark = sorted((luminance(colour), luminance(ground)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5
        page.close()


def luminance(colour):
    parts = [int(part) / 255 for part in colour[4:-1].split(",")]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
