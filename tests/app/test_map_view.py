"""The view of a map: dots of real sounds, pointed at, clicked, heard; uploads and zips; and that nobody else sees them."""

import io
import zipfile

import numpy as np
import pytest
import soundfile
from visitor import choose, open_tab, shot, stage, until

from ssast_lab import audio, checkpoint
from ssast_lab.measuring import points, windows
from ssast_lab.measuring.upstreams import of_encoder

MAP = "document.querySelector('#view-map canvas')?.map"


def measured(page, sounds):
    page.wait_for_function(f"{MAP}?.state.data?.state === 'done' && {MAP}.state.data.total === {sounds}")


def ask(page, expression):
    """Of the map's state m."""
    return page.evaluate(f"(m => {expression})({MAP}.state)")


def dot(page, at):
    canvas = page.locator("#view-map canvas")
    canvas.evaluate("canvas => canvas.scrollIntoView({ block: 'end' })")  # the stage covers what is above
    box = canvas.bounding_box()
    x, y = page.evaluate(f"{MAP}.place({at})")
    return box["x"] + x, box["y"] + y


def expected(seconds=2.0):
    """(W, L, D) of the windows of all built-in sounds, and their sound and second."""
    upstream = of_encoder("tiny", checkpoint.load("tiny-patch").encoder)
    parts, where = [], []
    for name, entry in audio.builtin_sounds().items():
        wave = audio.load_waveform(entry["path"])
        for first, part in windows.embed_windows(upstream, wave, seconds):
            parts.append(part)
            where += [(f"{entry['kind']}/{name}", float(np.float32(second))) for second in first]
    return np.concatenate(parts), where


def test_the_built_in_sounds_are_laid_out_pointed_at_and_heard(page):
    open_tab(page, "Map")
    measured(page, len(audio.builtin_sounds()))
    values, where = expected()
    assert ask(page, "m.many") == len(where)
    shown = [
        (ask(page, "m.data.names")[at], second)
        for at, second in zip(ask(page, "[...m.dots.sound]"), ask(page, "[...m.dots.second]"), strict=True)
    ]
    assert shown == where
    laid = points.lay_out(values[:, -1])
    middle, half = (laid.max(0) + laid.min(0)) / 2, (laid.max(0) - laid.min(0)) / 2
    drawn = np.stack([ask(page, "[...m.dots.x]"), ask(page, "[...m.dots.y]")], 1)
    np.testing.assert_allclose(np.abs(drawn), np.abs((laid - middle) / half), atol=0.05)

    window = where.index(("music/tabla", 4.0)) if ("music/tabla", 4.0) in where else len(where) // 2
    page.mouse.move(*dot(page, window))
    page.wait_for_function(f"{MAP}.state.hover >= 0")
    name, second = where[ask(page, "m.hover")]
    page.wait_for_function(
        f"document.querySelector('#view-map .map-line').textContent.startsWith('{name}, {second:.1f} to')"
    )
    shot(page, "map")
    page.mouse.down()
    page.mouse.up()
    page.wait_for_function(f"document.querySelector('#caption b').textContent === '{name}'")
    until(page, "s.playing")
    assert stage(page, "s.picture.data.start") <= second + 0.01
    page.locator("#view-map [data-window]").first.wait_for()
    nearest = page.locator("#view-map [data-window]").first.inner_text()  # what is most like it is of the same sound
    assert name.rpartition("/")[2] in nearest


def test_layers_colours_and_layouts(page):
    open_tab(page, "Map")
    measured(page, len(audio.builtin_sounds()))
    before = ask(page, "[...m.dots.x]")
    page.locator("#view-map [name=layer]").select_option("0")
    page.wait_for_function(f"{MAP}.state.data.layer === 0")
    assert ask(page, "[...m.dots.x]") != before
    page.locator("#view-map").get_by_role("button", name="File", exact=True).click()
    assert page.locator("#view-map [data-group]").count() == len(audio.builtin_sounds())
    page.locator("#view-map").get_by_role("button", name="Likeness", exact=True).click()
    assert "group 1" in page.locator("#view-map .map-legend").inner_text()
    page.locator("#view-map").get_by_role("button", name="t-SNE", exact=True).click()
    page.wait_for_function(f"{MAP}.state.data.method === 't-sne'")
    shot(page, "map_tsne")


def test_a_zip_is_measured_and_belongs_to_its_sender(page, browser, server, sounds, tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in ("ten.flac", "short.flac"):
            archive.write(sounds[name], f"mine/{name}")
        archive.writestr("mine/broken.flac", b"no sound")
        archive.writestr("mine/._ten.flac", b"what another system leaves beside a sound")
    (tmp_path / "mine.zip").write_bytes(content.getvalue())
    open_tab(page, "Map")
    view = page.locator("#view-map")
    view.locator("[name=source]").select_option("files")
    view.locator("input[name=files]").set_input_files(tmp_path / "mine.zip")
    view.locator("[name=seconds]").select_option("1")
    view.get_by_role("button", name="Measure").click()
    measured(page, 3)
    assert ask(page, "m.many") == 13
    assert ask(page, "m.data.names") == ["mine/ten.flac", "mine/short.flac", "mine/broken.flac"]
    assert "mine/broken.flac (it " in view.locator(".map-left").inner_text()
    assert view.locator(".map-passed").inner_text() == "Passed over: 1 hidden (mine/._ten.flac)."
    page.mouse.click(*dot(page, 4))
    page.wait_for_function("document.querySelector('#caption b').textContent.startsWith('mine/')")
    kept = page.evaluate("sessionStorage.getItem('ssast-lab-map')")
    assert len(kept) == 32
    shot(page, "map_zip")


def test_a_folder_of_thousands_of_windows_is_stopped_goes_on_and_stays_quick(page, tmp_path):
    folder, sounds = tmp_path / "field", 5
    wave, minutes = audio.load_waveform(audio.builtin_sounds()["frogs"]["path"]).numpy(), 10
    for number in range(sounds):
        (folder / f"day {number}").mkdir(parents=True)
        long = np.resize(np.roll(wave, 1000 * number), minutes * 60 * audio.SAMPLE_RATE)
        soundfile.write(folder / f"day {number}" / "birds.flac", long, audio.SAMPLE_RATE)
    choose(page, "frame")
    open_tab(page, "Map")
    measured(page, len(audio.builtin_sounds()))
    view = page.locator("#view-map")
    view.locator("[name=source]").select_option("folder")
    view.locator("input[name=folder]").set_input_files(folder)
    view.locator("[name=seconds]").select_option("1")
    view.get_by_role("button", name="Measure").click()
    page.wait_for_function(f"{MAP}?.state.data?.total === {sounds} && {MAP}.state.many > 0")
    view.get_by_role("button", name="Stop").click()
    view.get_by_role("button", name="Go on").wait_for()
    page.wait_for_function(
        f"""async () => {{ const before = {MAP}.state.many;
              await new Promise(later => setTimeout(later, 2000)); return {MAP}.state.many === before }}"""
    )
    assert ask(page, "m.data.state") == "measuring"
    assert ask(page, "m.many") < sounds * minutes * 60
    view.get_by_role("button", name="Go on").click()
    measured(page, sounds)
    assert ask(page, "m.many") == sounds * minutes * 60
    assert ask(page, "m.data.names") == [f"field/day {number}/birds.flac" for number in range(sounds)]
    page.mouse.move(*dot(page, 1234))
    page.wait_for_function(f"{MAP}.state.hover >= 0")
    shot(page, "map_thousands")


@pytest.mark.parametrize("asked", [{"map": "0" * 32, "window": 0}, {"map": None}, {"window": -1}, {}])
def test_a_map_that_is_not_ones_own_is_not_there(asked):
    from ssast_lab.app.state import Common
    from ssast_lab.app.views import map as view
    from ssast_lab.app.views.view import Refusal

    with pytest.raises(Refusal, match="no longer here"):
        view.act(asked, Common({}))
