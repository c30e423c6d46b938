"""The stage in a real browser: what it says is what Python computes, what it plays is on the audio clock, and what is painted is
exactly what the model is given."""

import base64
import json

import numpy as np
import pytest
import torch
from visitor import STATE, agrees, choose, expected, layers, place, shot, stage, until, upload, visit

from ssast_lab import analysis, audio, checkpoint
from ssast_lab import stage as core
from ssast_lab.analysis import Reconstruction
from ssast_lab.config import MaskConfig
from ssast_lab.patches import PatchGrid

FOLDED = {name: number for number, name in enumerate(["C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B"])}


@pytest.fixture
def ten(page, models, sounds):
    """A visitor with ten seconds of sound on the patch model, and the record of what is shown."""
    choose(page, "patch")
    upload(page, sounds["ten.flac"])
    agrees(page, expected(models, sounds["ten.flac"]))
    return page, reconstruct(models, sounds["ten.flac"])


def reconstruct(models, path, mask=None) -> Reconstruction:
    model = checkpoint.load(models / "test-patch")
    piece = analysis.excerpt(audio.load_waveform(path), model.config)
    if mask is None:
        mask = analysis.draw_mask(piece, MaskConfig(round(400 / 512 * piece.grid.count)), 0)
    return analysis.reconstruct(model, piece.fbank, mask)


def reading(page, whose="pointer") -> dict[str, str]:
    fields = page.locator(f"#stage [data-of={whose}] output").all()
    return {field.get_attribute("data-read"): field.inner_text() for field in fields}


def hover(page, patch, **where) -> dict[str, str]:
    page.mouse.move(*place(page, patch, **where))
    page.wait_for_function(
        "patch => document.querySelector('#stage [data-of=pointer] [data-read=patch]').textContent === String(patch)",
        arg=patch,
    )
    return reading(page)


def fate(record, patch) -> str:
    if not record.mask[patch]:
        return "visible"
    rank = record.rank[patch]
    return "hidden, recognised" if rank == 0 else f"hidden, {rank} of {record.hidden - 1} looked likelier"


def show_layer(page, name):
    page.locator(f"#stage [data-layer={name}]").click()
    until(page, f"s.layer === '{name}'")


def test_what_is_read_under_the_pointer_is_what_python_computes(ten):
    page, record = ten
    config, edges = checkpoint.load("tiny-patch").config.audio, record.grid
    levels = 10 / np.log(10) * audio.denormalise(torch.from_numpy(record.original), config).numpy()
    show_layer(page, "original")
    hidden, visible = np.flatnonzero(record.mask), np.flatnonzero(~record.mask)
    for patch in map(int, (*hidden[[3, 200, -1]], *visible[[0, 50]])):
        said = hover(page, patch, along=0.4, up=0.55)
        low, high, first, end = record.grid.bounds(patch)
        (begin, until_), (least, most) = edges.seconds(patch), edges.hertz(patch)
        assert begin < float(said["seconds"].removesuffix(" s")) < until_
        assert least < float(said["hertz"].removesuffix(" Hz")) < most
        assert said["fate"] == fate(record, patch)
        assert said["mse"] == (f"{record.patch_mse[patch]:.3f}" if record.mask[patch] else "–")
        mel = int(said["bin"])
        frame = int((float(said["seconds"].removesuffix(" s")) - 0.0075) / 0.01)
        assert (low <= mel < high, first <= frame < end) == (True, True)
        near = levels[frame - 1 : frame + 2, mel]  # the time is shown to the millisecond
        decibel = float(said["decibel"].replace("−", "-").removesuffix(" dB"))
        assert near.min() - 0.8 <= decibel <= near.max() + 0.8
        hertz = float(said["hertz"].removesuffix(" Hz"))
        assert FOLDED[said["note"][:-1]] + 12 * (int(said["note"][-1]) + 1) == pytest.approx(
            69 + 12 * np.log2(hertz / 440), abs=0.6
        )
    shot(page, "stage_hover")


def test_hovering_asks_nothing_of_the_server(ten):
    page, record = ten
    until(page, "s.ready")
    asked = []
    page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
    for patch in range(0, record.grid.count, 13):
        hover(page, patch)
    assert asked == []


def test_the_layers_are_the_right_pixels(ten):
    page, record = ten
    config = checkpoint.load("tiny-patch").config.audio
    data = core.picture(record, config, "key")
    palette = np.frombuffer(base64.b64decode(data["colours"]["loudness"]), np.uint8).reshape(-1, 3)
    hidden = core.hidden_values(record)

    def pixels(name):
        drawn = stage(page, f"""(canvas => Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data))
                                (s.picture.layer('{name}'))""")  # fmt: skip
        grid = record.grid
        return np.array(drawn, np.uint8).reshape(grid.mel_bins, grid.frames, 4)[::-1].transpose(1, 0, 2)  # (T, F, 4)

    def coloured(values):
        decibels = 10 / np.log(10) * audio.denormalise(torch.from_numpy(values), config).numpy()
        return palette[
            np.rint(np.clip((decibels - data["low"]) / (data["high"] - data["low"]), 0, 1) * 254).astype(int)
        ]

    for name, values in (("original", record.original), ("reconstructed", record.reconstruction)):
        apart = np.abs(pixels(name)[..., :3].astype(int) - coloured(values).astype(int))
        assert apart.mean() < 1.5  # levels come in steps of 0.4 dB
    assert (pixels("masked")[hidden][:, :3] == (0x8A, 0x90, 0x99)).all()
    assert (pixels("masked")[~hidden] == pixels("original")[~hidden]).all()
    error = pixels("error")
    assert (error[~hidden][:, 3] < 100).all()
    assert (error[hidden][:, 3] == 255).all()
    much = hidden & (record.error > 1)
    assert (error[much][:, 0] > error[much][:, 2]).mean() > 0.95  # too loud is warm
    much = hidden & (record.error < -1)
    assert (error[much][:, 2] > error[much][:, 0]).mean() > 0.95


def test_a_click_pins_and_escape_frees(ten):
    page, record = ten
    page.mouse.click(*place(page, 300))
    until(page, "s.pinned === 300")
    page.mouse.move(*place(page, 17))
    page.wait_for_function("document.querySelector('#stage [data-of=pointer] [data-read=patch]').textContent === '17'")
    said = reading(page, "pinned")
    assert (said["patch"], said["fate"]) == ("300", fate(record, 300))
    colour = stage(page, "s.pinned") and page.evaluate(
        """([x, y]) => { const canvas = document.querySelector("#stage canvas"), area = canvas.getBoundingClientRect(), ratio = devicePixelRatio;
           const found = canvas.getContext("2d").getImageData(Math.round((x - area.left) * ratio) - 3, Math.round((y - area.top) * ratio), 7, 1).data;
           return Array.from(found).some((v, i) => i % 4 === 0 && v > 230 && found[i + 1] > 190 && found[i + 2] < 120); }""",
        place(page, 300, along=0.0),
    )  # fmt: skip
    assert colour, "the pinned patch has its own colour while another is pointed at"
    page.get_by_role("button", name="Another mask").click()
    until(page, "s.picture.data.stroke === null && s.pinned === 300")
    page.locator("#stage canvas").focus()
    page.keyboard.press("Escape")
    until(page, "s.pinned === -1")
    assert reading(page, "pinned")["patch"] == "–"


def shown_mask(page) -> np.ndarray:
    return np.array(stage(page, "Array.from(s.picture.mask)"), bool)


def painted(page, models, path, mask):
    """The figures agree with the core's on this very mask."""
    until(page, "s.settled")
    assert (shown_mask(page) == mask).all()
    record = reconstruct(models, path, torch.from_numpy(mask))
    agrees(page, {
        "mse": f"{record.mse:.3f}\n{record.baseline:.3f} for",
        "accuracy": f"{record.accuracy:.1%}\n{round(record.accuracy * record.hidden)} of {record.hidden} recognised",
        "nce": f"{record.nce:.2f} nats", "hidden": f"{record.hidden}\nof {record.grid.count} ",
    })  # fmt: skip
    ranks = np.array(stage(page, "Array.from(s.picture.rank)"))
    assert (ranks == record.rank).all()
    assert page.get_by_role("slider", name="Hidden patches").input_value() == str(record.hidden)


def test_painting_changes_exactly_those_patches(ten, models, sounds):
    page, record = ten
    path, mask, columns = sounds["ten.flac"], record.mask.copy(), record.grid.columns
    start, end = 3 * columns + 5, 3 * columns + 25
    before = layers(page)

    def stroke(tool, first, last):
        page.locator(f"#stage [data-tool={tool}]").click()
        page.mouse.move(*place(page, first))
        page.mouse.down()
        page.mouse.move(*place(page, last), steps=2)  # two leaps over many patches

    stroke("brush", start, end)
    wanted = mask.copy()
    wanted[start : end + 1] = True
    assert (shown_mask(page) == wanted).all()  # before the model has answered
    page.mouse.up()
    painted(page, models, path, wanted)
    shot(page, "stage_painted")

    stroke("eraser", 5 * columns + 2, 5 * columns + 40)
    page.mouse.up()
    wanted[5 * columns + 2 : 5 * columns + 41] = False
    painted(page, models, path, wanted)

    first = int(np.flatnonzero(~wanted)[0])
    row, column = divmod(first, columns)
    rows = slice(min(row, row + 2), row + 3)
    stroke("box", first, (row + 2) * columns + column + 3)
    page.mouse.up()
    wanted.reshape(-1, columns)[rows, column : column + 4] = True
    painted(page, models, path, wanted)

    for _ in range(3):
        page.keyboard.press("Control+z")
    painted(page, models, path, mask)
    until(page, "s.settled")
    assert layers(page) == before


def test_the_rest_is_hidden_and_all_is_shown(ten, models, sounds):
    page, record = ten
    page.get_by_role("button", name="Hide the rest").click()
    painted(page, models, sounds["ten.flac"], ~record.mask)
    page.get_by_role("button", name="Clear", exact=True).click()
    page.get_by_text("Nothing is hidden").wait_for()
    until(page, "s.settled && s.picture.hiddenCount() === 0")
    shown = layers(page)
    assert shown["reconstructed"] == shown["original"] == shown["masked"]
    page.get_by_role("button", name="Another mask").click()  # the controls take over again
    agrees(page, expected(models, sounds["ten.flac"], count=int((~record.mask).sum()), seed=1))


def test_a_painted_mask_stays_for_another_window(page, models, sounds):
    choose(page, "patch")
    upload(page, sounds["long.flac"])
    agrees(page, expected(models, sounds["long.flac"]))
    page.get_by_role("button", name="Hide the rest").click()
    until(page, "s.settled && s.picture.hiddenCount() === 112")
    mask = shown_mask(page)
    page.locator("#window input[type=number]").fill("12.5")
    until(page, "s.picture.data.start === 12.5")
    assert (shown_mask(page) == mask).all()


def test_the_keyboard_reaches_every_patch(ten, models, sounds):
    page, record = ten
    canvas, columns = page.locator("#stage canvas"), record.grid.columns
    assert "Arrows move the pinned patch" in canvas.get_attribute("aria-description")
    assert f"of {record.grid.count} patches, {record.hidden} of them hidden" in canvas.get_attribute("aria-label")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    start = stage(page, "s.pinned")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    patch = start + 1 + columns
    assert stage(page, "s.pinned") == patch
    spoken = page.locator("#stage .stage-spoken")
    assert spoken.inner_text().startswith(f"patch {patch}, ")
    assert fate(record, patch) in spoken.inner_text()
    page.keyboard.press("Enter")
    wanted = record.mask.copy()
    wanted[patch] = not wanted[patch]
    painted(page, models, sounds["ten.flac"], wanted)

    page.keyboard.press("+")
    page.keyboard.press("+")
    narrow = stage(page, "[s.from, s.to]")
    assert narrow[1] - narrow[0] < 0.5 * record.grid.frames
    page.keyboard.press("Shift+ArrowRight")
    assert stage(page, "s.from") > narrow[0]
    for _ in range(columns):
        page.keyboard.press("ArrowLeft")
    assert stage(page, "s.pinned % s.picture.grid.columns") == 0
    assert stage(page, "s.from") == 0  # the view went along
    page.keyboard.press("0")
    assert stage(page, "[s.from, s.to]") == [0, record.grid.frames]


def test_it_plays_on_the_audio_clock_and_switches_without_losing_the_place(ten):
    page, record = ten
    until(page, "s.ready")
    assert stage(page, "s.length") == pytest.approx(audio.OFFICIAL.samples_of(record.grid.frames) / 16000)
    page.mouse.click(*place(page, 10))
    begun = stage(page, "s.time")
    assert begun == pytest.approx((record.grid.bounds(10)[2] + 8) * 0.01 + 0.0075, abs=0.02)
    page.keyboard.press(" ")
    until(page, f"s.playing && s.time > {begun} + 0.3")
    first = stage(page, "[s.time, s.clock]")
    until(page, f"s.time > {first[0]} + 0.3")
    second = stage(page, "[s.time, s.clock]")
    assert second[0] - first[0] == pytest.approx(second[1] - first[1], abs=0.06)
    shown = float(page.locator("#stage .stage-clock").inner_text().removesuffix(" s"))
    assert first[0] < shown < second[0] + 2
    for key, version, layer in (("1", "original", "original"), ("2", "masked", "masked"), ("3", "reconstructed", "reconstructed"),
                                ("4", "ceiling", "original")):  # fmt: skip
        before = stage(page, "[s.time, s.clock]")
        page.keyboard.press(key)
        after = stage(page, "[s.time, s.clock, s.version, s.layer, s.playing]")
        assert after[2:] == [version, layer, True]
        assert after[0] - before[0] == pytest.approx(after[1] - before[1], abs=0.06)
    until(page, f"s.time > {second[0]} + 0.3")
    page.keyboard.press(" ")
    until(page, "!s.playing")
    assert stage(page, "s.time") > second[0] + 0.3


def test_a_box_and_a_patch_are_heard_alone(ten):
    page, record = ten
    until(page, "s.ready")
    (left, bottom), (right, top) = place(page, 2 * record.grid.columns + 20), place(page, 4 * record.grid.columns + 30)
    page.mouse.move(left, bottom)
    page.mouse.down()
    page.mouse.move(right, top, steps=4)
    page.mouse.up()
    until(page, "s.playing && s.box")
    begin, end = stage(page, "[s.picture.timeOf(s.box.from), s.picture.timeOf(s.box.until)]")
    assert begin <= stage(page, "s.time") <= end
    assert end - begin == pytest.approx(1.6, abs=0.1)
    until(page, "!s.playing")
    assert stage(page, "s.time") == pytest.approx(begin)
    page.mouse.dblclick(*place(page, 100))
    until(page, "s.playing")
    begin, end = record.grid.seconds(100)
    assert begin - 0.001 <= stage(page, "s.time") <= end + 0.001
    until(page, "!s.playing")
    page.keyboard.press("p")
    until(page, "s.playing")


def test_the_band_filter_has_no_phase(page):
    """Tones inside the band stay as they are, sample for sample; tones outside it go."""
    inside, outside = page.evaluate(
        """() => { const tone = hertz => Float32Array.from({ length: 8000 }, (_, i) => Math.sin(2 * Math.PI * hertz * i / 16000));
           const kept = tone(1000), gone = tone(3000), both = kept.map((value, i) => value + gone[i]);
           const heard = ssast.bandOf(both, 16000, [800, 1300]).slice(1000, 7000);
           return [Math.max(...heard.map((value, i) => Math.abs(value - kept[i + 1000]))), 0]; }"""
    )
    assert inside < 0.02
    assert outside == 0


def test_sounds_have_one_gain_and_belong_to_the_mask(ten, sounds):
    page, record = ten
    until(page, "s.ready")
    config = checkpoint.load("tiny-patch").config.audio
    wave = audio.load_waveform(sounds["ten.flac"])
    sent = core.sounds(record, wave, core.inverted(record, config), "key")
    heard = {
        name: np.frombuffer(base64.b64decode(sent[name]), "<i2")
        for name in ("original", "masked", "reconstructed", "ceiling")
    }
    length = audio.OFFICIAL.samples_of(record.grid.frames)
    assert {len(samples) for samples in heard.values()} == {length}
    gain = heard["original"].astype(float) @ wave[:length].numpy() / float(wave[:length].square().sum())
    assert gain == pytest.approx(32767, rel=0.05)
    again = audio.log_mel(torch.from_numpy(heard["ceiling"] / gain).float())
    assert float((again - torch.from_numpy(record.original)).abs().mean()) < 0.1
    masked = audio.log_mel(torch.from_numpy(heard["masked"] / gain).float()).numpy()
    hidden = core.hidden_values(record)
    assert masked[hidden].mean() < record.original[hidden].mean() - 0.5  # silent where it was hidden


def test_a_phone_shows_the_picture_first_and_leaves_room_for_the_views(browser, server):
    for page in visit(browser, server, screen=(390, 844), has_touch=True, is_mobile=True):
        until(page, "s.ready")
        page.touchscreen.tap(*place(page, 40))
        until(page, "s.pinned === 40")
        places = [
            page.locator(f"#stage {part}").bounding_box()["y"]
            for part in ("canvas", "[data-layer=all]", "[data-tool=listen]")
        ]
        assert places == sorted(places)
        shot(page, "phone")
        titles = json.loads(page.locator("#header header").get_attribute("data-tabs"))
        for name, title in titles.items():
            entry = page.locator("#views :is([role=tab], .overflow-dropdown button)", has_text=title).first
            entry.evaluate("(entry) => entry.click()")  # the menu of those that find no room opens first
            page.wait_for_function(
                f"document.querySelector('#view-{name} .view')?.dataset.shows === {STATE}.picture.data.key"
            )
            assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.evaluate("scrollTo(0, 1200)")
        page.wait_for_function("document.querySelector('#stage').classList.contains('is-cut')")
        shot(page, "phone_scrolled")
        shown = page.evaluate("""[0.1, 0.3, 0.35, 0.55, 0.7, 0.9].map((share) =>
            Boolean(document.elementFromPoint(195, share * innerHeight)?.closest("#stage")))""")
        assert shown == [True, True, True, False, False, False]  # of the stage the picture and what plays it


def test_two_fingers_zoom(browser, server):
    for page in visit(browser, server, screen=(390, 844), has_touch=True, is_mobile=True):
        until(page, "s.ready")
        touch = page.context.new_cdp_session(page)
        y, fingers = place(page, 40)[1], [(150, 240), (110, 290)]

        def put(kind, xs, y=y, touch=touch):
            points = [{"x": x, "y": y, "id": number} for number, x in enumerate(xs)]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        put("touchStart", fingers[0][:1])
        put("touchStart", fingers[0])
        for along in (0.25, 0.5, 0.75, 1):
            put("touchMove", [one + along * (other - one) for one, other in zip(*fingers, strict=True)])
        put("touchEnd", [])
        until(page, "Math.abs((s.to - s.from) / s.picture.grid.frames - 0.5) < 0.05")
        assert stage(page, "[s.pinned, s.box, s.playing]") == [
            -1,
            None,
            False,
        ]  # two fingers are no click, and draw no box
        put("touchStart", [200])
        put("touchEnd", [])
        until(page, "s.pinned >= 0")


def test_the_other_kind_of_model_shows_the_same_part_of_the_sound(page):
    until(page, "s.ready")
    choose(page, "patch")
    page.locator("#stage canvas").focus()
    page.keyboard.press("+")
    page.keyboard.press("Shift+ArrowRight")
    choose(page, "patch")
    until(page, "s.picture.grid.rows === 8 && s.to - s.from < 250")
    part = stage(page, "[s.from, s.to]")
    choose(page, "frame")
    until(page, "s.picture.grid.rows === 1")
    assert stage(page, "[s.from, s.to]") == part
    page.get_by_label("Built-in sound").click()
    page.get_by_role("option", name="frogs").click()
    until(page, "s.picture.grid.frames > 500 && s.from === 0 && s.to === s.picture.grid.frames")


def test_painted_masks_are_checked():
    grid = PatchGrid(frames=64)
    assert core.painted_mask([0, 31], grid).nonzero().flatten().tolist() == [0, 31]
    for nonsense in (None, "all", {"0": 1}, [-1, 32, 1.5, True, None, "3", [4]]):
        assert not core.painted_mask(nonsense, grid).any()
