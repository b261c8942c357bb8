"""The gallery's page as a person meets it, in a headless Chromium."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from browser import chromium, uri_of
from cambox.review.gallery.collect import Gallery
from cambox.review.gallery.page import render_page
from cambox.review.gallery.suspects import Doubt, Suspects
from galleries import BAD_CLASS, BAD_KEY, made_gallery

COUNT = 1000


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    return made_gallery(COUNT)


@pytest.fixture(scope="module")
def page_file(gallery: Gallery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "gallery.html"
    path.write_text(render_page(gallery))
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with chromium() as page:
        yield page


@pytest.fixture
def page(browser: webdriver.Chrome, page_file: Path) -> webdriver.Chrome:
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(uri_of(page_file))
    WebDriverWait(browser, 20).until(lambda _: browser.find_elements(By.CSS_SELECTOR, ".card img"))
    return browser


def shown(page: webdriver.Chrome) -> str:
    return page.find_element(By.ID, "count").text


def wait_for(page: webdriver.Chrome, expected: str) -> None:
    WebDriverWait(page, 10).until(lambda _: shown(page) == expected, f"{expected}")


def first_keys(page: webdriver.Chrome, count: int) -> list[str]:
    return page.execute_script(
        "return [...document.querySelectorAll('.card')].slice(0, arguments[0])"
        ".map((card) => card.dataset.at)",
        count,
    )


def enter(page: webdriver.Chrome, identifier: str, text: str) -> None:
    field = page.find_element(By.ID, identifier)
    field.clear()
    field.send_keys(text)


def test_a_thousand_pictures_are_one_small_file_and_few_are_decoded(
    page: webdriver.Chrome, page_file: Path
) -> None:
    assert 10e6 < page_file.stat().st_size < 15e6
    wait_for(page, "1,000 of 1,000 shown")
    assert len(page.find_elements(By.CSS_SELECTOR, ".card")) == COUNT
    assert 5 < len(page.find_elements(By.CSS_SELECTOR, ".card img")) < 100
    # Pictures come when they come into sight, and go when they are far away.
    page.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    last = f"//button[@data-at='{COUNT - 1}']//img"
    WebDriverWait(page, 20).until(lambda _: page.find_elements(By.XPATH, last))
    WebDriverWait(page, 20).until(
        lambda _: len(page.find_elements(By.CSS_SELECTOR, ".card img")) < 100
    )


def test_filters_show_what_they_say(page: webdriver.Chrome) -> None:
    # At first no filter is set; the unreadable row is there.
    Select(page.find_element(By.ID, "status")).select_by_value("unreadable")
    wait_for(page, "1 of 1,000 shown")
    page.find_element(By.CSS_SELECTOR, "button[type=reset]").click()
    wait_for(page, "1,000 of 1,000 shown")
    Select(page.find_element(By.ID, "class")).select_by_value("1")
    wait_for(page, "500 of 1,000 shown")
    enter(page, "score-from", "0.9")
    # Odd numbers from 901 to 999.
    wait_for(page, "50 of 1,000 shown")
    Select(page.find_element(By.ID, "sort")).select_by_value("high")
    assert first_keys(page, 2) == ["999", "997"]
    enter(page, "area-to", "95")
    assert first_keys(page, 2) == ["949", "947"]
    enter(page, "text", "0911")
    assert first_keys(page, 2) == ["911"]
    assert "area-to=95" in page.current_url
    # The address alone brings the view back.
    page.refresh()
    WebDriverWait(page, 20).until(lambda _: first_keys(page, 2) == ["911"])


def test_doubted_labels_come_first_and_say_why(
    gallery: Gallery, browser: webdriver.Chrome, tmp_path: Path
) -> None:
    of_picture = {
        ("s3://bucket/shard.tar", "key-0007"): [Doubt("wrong label", 1, "dotted", "<b>wavy", 0.91)],
        ("s3://bucket/shard.tar", "key-0003"): [Doubt("missing label", 2, None, "dotted", 0.52)],
    }
    some = replace(gallery, items=gallery.items[:9], suspects=Suspects(of_picture), suspected=2)
    path = tmp_path / "gallery.html"
    path.write_text(render_page(some))
    browser.get(uri_of(path))
    WebDriverWait(browser, 20).until(lambda page: page.find_elements(By.CSS_SELECTOR, ".doubted"))
    assert first_keys(browser, 3) == ["7", "3", "0"]
    assert [one.text for one in browser.find_elements(By.CSS_SELECTOR, ".card .doubted")] == [
        "wrong label (doubt 0.91): given dotted, likelier <b>wavy",
        "missing label (doubt 0.52): likelier dotted",
    ]
    Select(browser.find_element(By.ID, "sort")).select_by_value("place")
    assert first_keys(browser, 2) == ["0", "1"]
    browser.find_element(By.CSS_SELECTOR, "button[type=reset]").click()
    WebDriverWait(browser, 20).until(lambda page: first_keys(page, 2) == ["7", "3"])


def test_the_heat_fades_over_the_picture_in_colours_of_the_map(page: webdriver.Chrome) -> None:
    assert not page.find_elements(By.CSS_SELECTOR, ".card canvas")
    slider = page.find_element(By.ID, "heat")
    slider.send_keys(Keys.END)
    canvases = page.find_elements(By.CSS_SELECTOR, ".card canvas")
    assert len(canvases) > 5
    heat = page.find_element(By.CSS_SELECTOR, ".card .heat")
    assert heat.value_of_css_property("opacity") == "1"
    first, last = page.execute_script(
        "const context = arguments[0].getContext('2d');"
        "return [0, 9].map((at) => [...context.getImageData(at, at, 1, 1).data].slice(0, 3))",
        canvases[0],
    )
    # OpenCV's inferno, the map's lowest and highest value: 0 and 252 of 255.
    ramp = cv2.applyColorMap(np.array([[0, 252]], np.uint8), cv2.COLORMAP_INFERNO)[0, :, ::-1]
    assert np.abs(np.array([first, last]) - ramp).max() < 25
    slider.send_keys(Keys.ARROW_LEFT * 40)
    assert float(heat.value_of_css_property("opacity")) == pytest.approx(0.6)
    slider.send_keys(Keys.HOME)
    assert not page.find_elements(By.CSS_SELECTOR, ".card canvas")


def test_the_heat_lies_where_the_cells_look(browser: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "gallery.html"
    path.write_text(render_page(made_gallery(20, offset=0.25)))
    browser.get(uri_of(path))
    WebDriverWait(browser, 20).until(lambda page: page.find_elements(By.CSS_SELECTOR, ".card img"))
    browser.find_element(By.ID, "heat").send_keys(Keys.END)
    heat = browser.find_element(By.CSS_SELECTOR, ".card .heat")
    picture = heat.find_element(By.XPATH, "..").rect
    assert heat.rect == picture
    assert heat.value_of_css_property("overflow") == "hidden"
    # Eight cells each way, and one more on each side.
    canvas = heat.find_element(By.TAG_NAME, "canvas").rect
    for place, length in (("x", "width"), ("y", "height")):
        cell = picture[length] / 8
        assert canvas[length] == pytest.approx(10 * cell, abs=1)
        assert canvas[place] - picture[place] == pytest.approx(-0.75 * cell, abs=1)


def test_boxes_lie_where_the_rows_say_and_can_be_hidden(page: webdriver.Chrome) -> None:
    enter(page, "text", "0500")
    card = page.find_element(By.CSS_SELECTOR, ".card")
    picture = card.find_element(By.CSS_SELECTOR, ".picture").rect
    frame = card.find_element(By.CSS_SELECTOR, "rect:not(.under)").rect
    assert picture["width"] / picture["height"] == pytest.approx(4 / 3, rel=0.02)
    assert frame["width"] / picture["width"] == pytest.approx(0.5, abs=0.03)
    assert frame["x"] == pytest.approx(picture["x"], abs=3)
    page.find_element(By.ID, "show-boxes").click()
    assert not page.find_elements(By.CSS_SELECTOR, ".card rect")


def test_one_picture_opens_and_steps_by_the_keyboard(page: webdriver.Chrome) -> None:
    page.find_element(By.TAG_NAME, "body").send_keys("/")
    assert page.switch_to.active_element.get_attribute("id") == "text"
    page.find_element(By.XPATH, "//button[@data-at='2']").send_keys(Keys.ENTER)
    detail = page.find_element(By.ID, "detail")
    assert detail.find_element(By.TAG_NAME, "h2").text == "key-0002"
    assert "s3://bucket/shard.tar, sample 2" in detail.text
    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert detail.find_element(By.TAG_NAME, "h2").text == "key-0003"
    detail.find_element(By.CSS_SELECTOR, ".chips button").click()
    assert detail.find_elements(By.TAG_NAME, "canvas")
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not detail.is_displayed()
    WebDriverWait(page, 10).until(
        lambda _: page.switch_to.active_element.get_attribute("data-at") == "3"
    )


def test_what_has_no_picture_says_why(page: webdriver.Chrome) -> None:
    reasons = [entry.text for entry in page.find_elements(By.CSS_SELECTOR, ".card .why")]
    assert reasons == ["cut <b>short</b>", "the shard cannot be read: gone"]
    # A box on a frame without its picture is still a box.
    assert page.find_elements(By.XPATH, "//button[@data-at='1']//*[name()='rect']")


def test_nothing_is_run_asked_for_or_complained_of(page: webdriver.Chrome) -> None:
    assert BAD_KEY in page.find_element(By.CSS_SELECTOR, ".card").text
    options = Select(page.find_element(By.ID, "class")).options
    assert BAD_CLASS in "".join(option.text for option in options)
    page.find_element(By.XPATH, "//button[@data-at='0']").click()
    time.sleep(0.3)
    assert page.execute_script("return window.hacked") is None
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert page.get_log("browser") == []
    # The policy is in force: not even a script of the page's own making runs.
    page.execute_script(
        "const made = document.createElement('script'); made.textContent = 'window.hacked = 1';"
        "document.body.append(made)"
    )
    assert page.execute_script("return window.hacked") is None
    page.get_log("browser")
