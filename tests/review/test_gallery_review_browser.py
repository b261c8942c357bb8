"""A review by the keyboard in a headless Chromium: decided, kept, and saved as a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from browser import chromium, uri_of
from cambox.review.corrections.formats import read_review
from cambox.review.gallery.page import render_page
from galleries import BAD_CLASS, made_gallery

COUNT = 8


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures: 0 is unreadable, 7 rightly has no box, the others have one each."""
    gallery = made_gallery(COUNT)
    gallery.items[7] = replace(gallery.items[7], row={**gallery.items[7].row, "objects": []})
    path = tmp_path_factory.mktemp("page") / "gallery.html"
    path.write_text(render_page(gallery))
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with chromium() as page:
        yield page


@pytest.fixture
def page(browser: webdriver.Chrome, page_file: Path) -> webdriver.Chrome:
    """The page without a memory of an earlier test."""
    browser.get(uri_of(page_file))
    browser.execute_script("localStorage.clear()")
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(uri_of(page_file))
    return browser


def press(page: webdriver.Chrome, keys: str) -> None:
    page.switch_to.active_element.send_keys(keys)


def text_of(page: webdriver.Chrome, identifier: str) -> str:
    return page.find_element(By.ID, identifier).text


def saved(page: webdriver.Chrome, folder: Path) -> dict[str, Any]:
    """The file that the page's own key writes."""
    place = {"behavior": "allow", "downloadPath": str(folder)}
    page.execute_cdp_cmd("Browser.setDownloadBehavior", place)
    press(page, "s")
    WebDriverWait(page, 20).until(lambda _: list(folder.glob("review-*.json")))
    (path,) = folder.glob("review-*.json")
    assert path.name == f"review-{'0' * 16}.json"
    return json.loads(path.read_text())


def test_boxes_are_decided_by_keys_and_saved_as_a_file(
    page: webdriver.Chrome, tmp_path: Path
) -> None:
    page.find_element(By.ID, "start").send_keys(Keys.ENTER)
    assert text_of(page, "detail-key") == "key-0001"
    press(page, "a")
    assert text_of(page, "said") == "key-0001: dotted 0.13 accepted."
    # What follows comes by itself.
    assert text_of(page, "detail-key") == "key-0002"
    press(page, "r")
    press(page, "c")
    assert page.switch_to.active_element.get_attribute("id") == "to-class"
    press(page, "no such" + Keys.ENTER)
    assert "No class" in text_of(page, "said")
    # The keys of the review are letters there, and Escape leaves the name and not the picture.
    press(page, Keys.ESCAPE)
    assert page.find_element(By.ID, "detail").is_displayed()
    press(page, "c")
    press(page, BAD_CLASS + Keys.ENTER)
    assert text_of(page, "said") == f"key-0003: dotted 0.38 is {BAD_CLASS}."
    press(page, "ar")
    press(page, "u")
    assert text_of(page, "said") == "key-0005: dotted 0.63 is open again."
    # Past one that stays open, to the picture without a box.
    press(page, Keys.ARROW_RIGHT * 2)
    press(page, "r")
    assert "There is no box to reject" in text_of(page, "said")
    press(page, "a")
    file = saved(page, tmp_path)
    press(page, Keys.ESCAPE)
    assert text_of(page, "progress-text") == "5 of 7 decided"

    assert set(file) == {"format", "recipe", "made_at", "rows"}
    assert (file["format"], file["recipe"]) == ("cambox-review-1", "0" * 64)
    assert datetime.fromisoformat(file["made_at"]).utcoffset() is not None
    rows = {row.pop("key"): row for row in file["rows"]}
    assert list(rows) == ["key-0001", "key-0002", "key-0003", "key-0004", "key-0007"]
    assert rows.pop("key-0007")["verdict"] == "accept"
    for number, row in enumerate(rows.values(), 1):
        assert set(row) == {"shard", "width", "height", "boxes"}
        assert (row["shard"], row["width"], row["height"]) == ("s3://bucket/shard.tar", 400, 300)
        (box,) = row["boxes"]
        assert box["class_id"] == number % 2
        assert box["class_name"] == (BAD_CLASS, "dotted")[number % 2]
        assert (box["x_min"], box["y_min"], box["x_max"], box["y_max"]) == (0, 0, 50 * number, 300)
        assert box["box_score"] == number / COUNT
        assert (box["verdict"] == "wrong_class") == (box["to_class"] is not None)
    decided = [(row["boxes"][0]["verdict"], row["boxes"][0]["to_class"]) for row in rows.values()]
    assert decided == [
        *(("accept", None), ("reject", None)),
        *(("wrong_class", BAD_CLASS), ("accept", None)),
    ]
    assert page.get_log("browser") == []
    # The command that takes it reads what was decided; a rejected box is gone.
    read = read_review(str(next(tmp_path.glob("review-*.json"))))
    assert {image.key: [box.class_name for box in image.boxes] for image in read.images} == {
        "key-0001": ["dotted"],
        "key-0002": [],
        "key-0003": [BAD_CLASS],
        "key-0004": [BAD_CLASS],
        "key-0007": [],
    }


def test_decisions_are_there_when_the_page_is_opened_again(page: webdriver.Chrome) -> None:
    page.find_element(By.XPATH, "//button[@data-at='2']").send_keys(Keys.ENTER)
    press(page, "r")
    assert text_of(page, "kept") == "Decisions stay in this browser."
    page.refresh()
    assert text_of(page, "progress-text") == "1 of 7 decided"
    card = page.find_element(By.XPATH, "//button[@data-at='2']")
    WebDriverWait(page, 20).until(lambda _: "rejected" in card.text)
    # Seen beside what is open alone, it is gone.
    page.find_element(By.ID, "decided").send_keys("open")
    WebDriverWait(page, 20).until(lambda _: text_of(page, "count") == "6 of 8 shown")


def test_a_narrow_screen_folds_the_filters_and_has_two_columns(page: webdriver.Chrome) -> None:
    screen = {"width": 400, "height": 860, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        page.refresh()
        assert not page.find_element(By.ID, "text").is_displayed()
        lefts = {card.rect["x"] for card in page.find_elements(By.CSS_SELECTOR, ".card")}
        assert len(lefts) == 2
        assert page.execute_script("return document.documentElement.scrollWidth") <= 400
        page.find_element(By.ID, "start").send_keys(Keys.ENTER)
        # A key stays on one line.
        assert page.find_element(By.ID, "detail-key").rect["height"] < 40
        press(page, Keys.ESCAPE)
        page.find_element(By.CSS_SELECTOR, "#fold summary").click()
        assert page.find_element(By.ID, "text").is_displayed()
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_names_stand_on_the_boxes_and_are_not_cut(page: webdriver.Chrome) -> None:
    card = page.find_element(By.XPATH, "//button[@data-at='5']")
    WebDriverWait(page, 20).until(lambda _: card.find_elements(By.CSS_SELECTOR, ".tag"))
    frame, tag = (card.find_element(By.CSS_SELECTOR, name) for name in (".frame", ".tag"))
    assert tag.text == "dotted"
    assert frame.rect["x"] <= tag.rect["x"]
    assert tag.rect["x"] + tag.rect["width"] <= frame.rect["x"] + frame.rect["width"]
    cut = "return arguments[0].scrollWidth > arguments[0].clientWidth"
    assert not page.execute_script(cut, tag)
    # On the second class's colour, as on the contact sheet.
    assert tag.value_of_css_property("background-color") == "rgba(255, 176, 0, 1)"
