"""The report's page, in a real browser without a network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from reproduction.conftest import HOSTILE

from helpers import wait_until
from mmpvt.reproduction.page import render


@pytest.fixture
def page(browser, tmp_path: Path, make_records) -> Iterator:
    """The page of five records, opened from the disk; what goes wrong in it fails the test."""
    path = tmp_path / "index.html"
    path.write_text(render(make_records()))
    context = browser.new_context(offline=True, viewport=dict(width=1280, height=900))
    page = context.new_page()
    page.set_default_timeout(20_000)
    wrong, asked = [], []
    page.on("console", lambda said: wrong.append(said.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    yield page
    assert not wrong
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert page.title() == "Measured against published"  # nothing of what was written ran
    context.close()


def names(page) -> list[str]:
    rows = page.locator("#table tbody tr:visible td:first-child").all()
    return [row.inner_text() for row in rows]


def test_rows_and_what_was_not_tested(page, make_records):
    tested = [record["name"] for record in make_records() if record["status"] == "tested"]
    assert names(page) == tested
    assert "3 of 5 checkpoints tested · 1 failed · 1 skipped" in page.inner_text("#summary")
    assert "can't be read </script><img" in page.inner_text("#untested")
    cells = page.locator("#table tbody tr").first.inner_text()
    assert re.search(r"36\.6\s+36\.7\s+\u22120\.1", cells)


def test_filters(page):
    page.get_by_label("Family").select_option("RetinaNet")
    wait_until(page, lambda: names(page) == ["b_first_0", "a_second_0"])
    page.get_by_label("Name contains").fill("SECOND")
    wait_until(page, lambda: names(page) == ["a_second_0"])
    wait_until(page, lambda: page.locator("#filters output").inner_text() == "1 of 3 models")
    page.get_by_label("Family").select_option("")
    page.get_by_label("Name contains").fill("")
    page.get_by_label("Data set").select_option("ADE20K val")
    wait_until(page, lambda: len(names(page)) == 1)


def test_sorting(page):
    page.get_by_role("button", name="model", exact=True).click()
    wait_until(page, lambda: names(page)[1:] == ["a_second_0", "b_first_0"])
    page.get_by_role("button", name="box AP", exact=True).focus()
    page.keyboard.press("Enter")
    wait_until(page, lambda: names(page)[:2] == ["a_second_0", "b_first_0"])
    assert page.locator("th[aria-sort=descending]").inner_text() == "box AP"
    page.keyboard.press("Enter")
    wait_until(page, lambda: names(page)[:2] == ["b_first_0", "a_second_0"])  # none stays last


def test_a_model(page):
    page.get_by_role("link", name="a_second_0").click()
    wait_until(page, lambda: page.locator("#model h2").inner_text() == "a_second_0")
    assert page.locator("#model .chart").count() == 2
    chart = page.locator("#model .chart").first
    chart.hover(position=dict(x=200, y=100))
    readout = page.locator("#model figure:has(.chart) output").first
    said = re.compile(r"recall 0\.\d\d: IoU 0\.50 0\.\d{3} · mean of .*")
    wait_until(page, lambda: said.fullmatch(readout.inner_text()))
    before = readout.inner_text()
    chart.focus()
    page.keyboard.press("ArrowRight")
    wait_until(page, lambda: readout.inner_text() != before)
    classes = page.locator("#model figure", has_text="AP by class").locator("tbody th")
    assert classes.all_inner_texts()[-1] == "cat"


def test_gallery(page):
    assert page.locator(".gallery .card").count() == 12
    page.get_by_role("button", name="Show 2 more").click()
    wait_until(page, lambda: page.locator(".gallery .card").count() == 14)
    images = page.locator(".gallery img")
    widths = "all => all.map((one) => one.naturalWidth)"
    wait_until(page, lambda: images.evaluate_all(widths) == [32] * 28)
    assert page.locator(".gallery .mark.missed").count() == 14
    page.get_by_label("Show", exact=True).select_option("false_positive")
    wait_until(page, lambda: page.locator(".gallery .card").count() == 0)
    page.get_by_label("Show", exact=True).select_option("false_negative")
    page.locator(".card button").first.click()
    wait_until(page, lambda: page.locator("dialog[open] .shot").count() == 2)
    page.keyboard.press("Escape")
    wait_until(page, lambda: page.locator("dialog[open]").count() == 0)


def test_gallery_of_label_maps(page, make_records):
    page.get_by_label("Model", exact=True).select_option(make_records()[2]["name"])
    wait_until(page, lambda: page.locator("img.map").count() == 6)
    assert "wall 50.0" in page.locator(".card p").first.inner_text()


def test_nothing_is_cut_off_on_a_phone(page):
    page.set_viewport_size(dict(width=360, height=740))
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_no_column_is_hidden(page):
    """At any width all values are within the window, beside or below one another."""
    cells = "all => all.map(one => one.getBoundingClientRect().right)"
    row = page.locator("#table tbody tr").first
    for width, is_stacked in ((600, True), (1000, None), (1300, False), (600, True)):
        page.set_viewport_size(dict(width=width, height=760))
        if is_stacked is not None:
            page.locator("#table.stacked" if is_stacked else "#table:not(.stacked)").wait_for()
        values = row.locator("td:visible")
        assert values.count() == page.locator("#table thead th").count() == 15
        assert max(values.evaluate_all(cells)) <= width
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    shown = "one => getComputedStyle(one, '::before').content"
    assert row.locator("td").nth(6).evaluate(shown) == '"Δ box AP"'
    page.get_by_role("button", name="Δ box AP", exact=True).click()
    wait_until(page, lambda: names(page)[:2] == ["a_second_0", "b_first_0"])
    page.get_by_label("Name contains").fill("second")
    wait_until(page, lambda: names(page) == ["a_second_0"])


def test_the_report_of_one_run(browser, tmp_path: Path, make_run):
    """Of a detector, a segmenter, a classifier: every section is there, names are text, and nothing
    is cut off."""
    for kind, unit, sections in (
        ("detector", "objects", ["Precision, recall and F1", "Worst false neg", "Worst false pos"]),
        ("segmenter", "pixels", ["Worst images"]),
        ("classifier", "images", ["Worst images"]),
    ):
        path = tmp_path / f"{kind}.html"
        path.write_text(render([make_run(kind)], title=f"Report: {HOSTILE}"))
        page = browser.new_context(offline=True).new_page()
        wrong: list[str] = []
        page.on("console", lambda said, wrong=wrong: wrong.append(said.text))
        page.on("pageerror", lambda error, wrong=wrong: wrong.append(str(error)))
        page.goto(path.as_uri())
        assert page.title() == page.inner_text("h1") == f"Report: {HOSTILE}"
        titles = page.locator("section h2").all_inner_texts()
        for title in ["Results", "Training", "Confusions", "Data", *sections]:
            assert any(one.startswith(title) for one in titles), (title, titles)
        assert page.locator("#results, #model").count() == 0
        page.locator(".matrix").focus()
        for key in ("ArrowDown", "ArrowRight"):
            page.keyboard.press(key)
        said = page.locator("figure:has(.matrix) output")
        assert said.inner_text() == f"cat \u2192 cat: 3 of 4 {unit} (75.0%)"
        assert f"{HOSTILE} \u2192 cat" in page.inner_text(".matrix-and-pairs, .charts:has(.matrix)")
        if kind == "classifier":
            assert f"{HOSTILE}, taken for cat 0.70" in page.inner_text(".gallery")
            assert "25.0\t50.0\t70.0" in page.inner_text("figure:has-text('Recall by')")
        for width in (360, 600, 1000, 1400):
            page.set_viewport_size(dict(width=width, height=800))
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not wrong
        page.context.close()


def test_numbers_stand_beside_long_names(browser, tmp_path: Path, make_run):
    run = make_run("detector")
    run["by_score"]["classes"][0]["name"] = run["confusion"]["names"][0] = "long_name_" * 12
    path = tmp_path / "index.html"
    path.write_text(render([run]))
    page = browser.new_page(viewport=dict(width=1280, height=900))
    page.goto(path.as_uri())
    hidden = "all => all.filter(one => one.scrollWidth > one.clientWidth).length"
    for title in ("Precision, recall and F1 over the score", "Confusions"):
        tables = page.locator(f"section[aria-label='{title}'] .tall")
        assert tables.count() and not tables.evaluate_all(hidden)
    page.close()


def test_a_curve_of_one_point_is_seen(browser, tmp_path: Path, make_run):
    """Of an epoch of few iterations."""
    path = tmp_path / "index.html"
    training = dict(file="x", loss=[[3, 0.5]], val_loss=[], scores={})
    path.write_text(render([dict(make_run("detector"), training=training)]))
    page = browser.new_page()
    page.goto(path.as_uri())
    assert page.locator("section[aria-label=Training] circle:visible").count() == 1
    page.close()


def test_what_is_missing_is_explained(browser, tmp_path: Path, make_run):
    path = tmp_path / "index.html"
    page = browser.new_page()
    path.write_text(render([dict(make_run("detector"), training=None)]))
    page.goto(path.as_uri())
    assert "no log of this checkpoint" in page.inner_text("section[aria-label=Training]")
    rows = page.locator("section[aria-label='Worst false negatives'] .card.row")
    assert rows.count() == 8 and "cat, missed (IoU 0.10)\nb_first.jpg" in rows.first.inner_text()
    assert rows.first.locator(".chosen .mark.missed").count() == 1

    missing = {name: f"No {name}." for name in ("curves", "by_score", "confusion", "gallery")}
    for kind, sections in (
        ("detector", ("Precision, recall and F1 over the score", "Worst false negatives")),
        ("segmenter", ("Worst images",)),
    ):
        none = dict(by_score=None, confusion=None, gallery=[], missing=missing, curves=None)
        none.update(scores={}, metrics={"pascal_voc/mAP": 0.25})
        path.write_text(render([dict(make_run(kind), **none)]))
        page.goto(path.as_uri())
        results = page.inner_text("section[aria-label=Results]")
        assert "pascal_voc/mAP\n0.250" in results and "No curves." in results
        assert "no curve of them" in page.inner_text("section[aria-label=Training]")
        notes = [page.inner_text(f"section[aria-label='{s}']") for s in ("Confusions", *sections)]
        assert all(f"No {name}." in "".join(notes) for name in ("confusion", "gallery"))
        assert all(len(note.splitlines()) > 1 for note in notes)
    page.close()


def test_many_models_in_a_file_of_bounded_size(make_records):
    budget = 400_000
    page = render(make_records(copies=17), budget=budget)
    pictures = re.findall(r"data:image/\w+;base64,[^\"]+", page)
    assert budget / 2 < sum(map(len, pictures)) < budget + 30 * len(pictures)
    assert page.count("a_second.jpg") >= 17  # every model has some
