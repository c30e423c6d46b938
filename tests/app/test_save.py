"""What is shown is taken home: every file holds what the page shows and plays, and the page in one file works by itself."""

import csv
import io
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import soundfile
from PIL import Image
from visitor import STATE, shot, stage, until


def saved(page, kind, folder):
    """The file that the menu gives."""
    page.locator("#stage .stage-save summary").click()
    with page.expect_download() as download:
        page.locator(f"#stage [data-save={kind}]").click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


@pytest.fixture
def ready(page):
    until(page, "s.ready")
    return page


def test_the_picture_and_its_drawing(ready, tmp_path):
    image = Image.open(saved(ready, "png", tmp_path))
    assert image.width == ready.evaluate("document.querySelector('#stage canvas').width")
    assert len(image.convert("RGB").getcolors(1 << 24)) > 100
    drawing = ET.parse(saved(ready, "svg", tmp_path)).getroot()
    words = [text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert {"Hz", "seconds", "1k", "4k"} <= set(words)
    (picture,) = drawing.iter("{http://www.w3.org/2000/svg}image")
    assert picture.attrib["href"].startswith("data:image/png")


def test_the_sound_is_the_one_that_plays(ready, tmp_path):
    ready.locator("#stage [data-version=masked]").click()
    path = saved(ready, "wav", tmp_path)
    samples, rate = soundfile.read(path)
    assert (path.name, rate) == ("English speech masked.wav", 16_000)
    played = np.array(
        ready.evaluate("Array.from(document.querySelector('#stage .stage').parentElement.stage.sound().samples)")
    )
    np.testing.assert_allclose(samples, played, atol=1 / 32767)
    assert np.abs(samples).max() > 0.01


def test_the_figures_are_those_of_the_page(ready, tmp_path):
    rows = list(csv.DictReader(io.StringIO(saved(ready, "csv", tmp_path).read_text())))
    hidden = [row for row in rows if row["hidden"] == "true"]
    assert (len(rows), len(hidden)) == (168, 131)
    assert all(row["mse"] and row["rank"] for row in hidden)
    figures = json.loads(saved(ready, "json", tmp_path).read_text())
    shown = ready.locator("#figures #mse dd").first.inner_text()
    assert f"{figures['mse']:.3f}" == shown
    assert figures["accuracy"] == pytest.approx(np.mean([row["rank"] == "0" for row in hidden]))
    assert figures["mse"] == pytest.approx(np.mean([float(row["mse"]) for row in hidden]), rel=1e-4)


def test_the_page_in_one_file_works_without_the_server(ready, browser, tmp_path):
    ready.get_by_role("tab", name="Recognition", exact=True).click()
    ready.wait_for_function(
        f"document.querySelector('#view-recognition .view')?.dataset.shows === {STATE}.picture.data.key"
    )
    before = stage(ready, "s.picture.layer('reconstructed').toDataURL()")
    path = saved(ready, "html", tmp_path)
    context = browser.new_context(offline=True)
    alone, asked, errors = context.new_page(), [], []
    alone.on("request", lambda request: asked.append(request.url))
    alone.on("pageerror", lambda error: errors.append(str(error)))
    alone.goto(path.as_uri())
    until(alone, "s.ready")
    assert stage(alone, "s.picture.layer('reconstructed').toDataURL()") == before
    alone.locator("#stage [data-layer=error]").click()
    until(alone, "s.layer === 'error'")
    alone.locator("#stage [data-do=play]").click()
    until(alone, "s.playing && s.time > 0.1")
    alone.keyboard.press("Escape")
    mask = stage(alone, "Array.from(s.picture.mask)")
    alone.locator("#stage canvas").click(position={"x": 300, "y": 100})
    alone.keyboard.press("Enter")
    assert stage(alone, "Array.from(s.picture.mask)") == mask  # nobody could answer
    assert not alone.locator(".view button, .stage-tools, .stage-save, a").count()
    assert alone.locator(".view img").count() > 1
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert errors == []
    shot(alone, "alone")
    context.close()
