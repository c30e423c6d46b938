"""The app in a real browser: a real server process, real sounds, and every figure compared with one computed here.

Screenshots are kept in ``artefacts/`` (or the folder that the environment variable ARTEFACTS names).
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
import soxr
import torch

from ssast_lab import analysis, app, audio, checkpoint
from ssast_lab.app.reconstruction import hidden_count
from ssast_lab.config import MaskConfig, model_config
from ssast_lab.model import SSAST

ROOT = Path(__file__).parent.parent.parent
ARTEFACTS = Path(os.environ.get("ARTEFACTS", ROOT / "artefacts"))
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run", "--use-fake-device-for-media-stream",
         "--use-fake-ui-for-media-stream"]  # a microphone that beeps  # fmt: skip
PATIENCE = 30_000  # milliseconds
SHARE = 400 / 512


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Kind -> a small model of random weights, which needs no training and draws nonsense in a known way."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(1)
    for kind in ("patch", "frame"):
        about = {"title": f"Test {kind} model", "stop_gap": True, "note": f"A {kind} model of random weights."}
        checkpoint.save(SSAST(model_config(f"nano-{kind}", depth=1)), folder / f"test-{kind}", about)
    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Name -> file, made from built-in sounds: stereo at 44.1 kHz where they are FLAC, and two that are no sound."""
    folder = tmp_path_factory.mktemp("sounds")
    builtin = audio.builtin_sounds()
    tabla, frogs, water = (soundfile.read(builtin[name]["path"])[0] for name in ("tabla", "frogs", "water"))
    long = np.resize(np.concatenate([tabla, water, frogs]), 30 * audio.SAMPLE_RATE)
    cuts = ("short", frogs[: 3 * audio.SAMPLE_RATE]), ("click", frogs[: audio.SAMPLE_RATE // 10])
    for name, mono in (("ten", tabla), ("long", long), *cuts):
        wave = soxr.resample(mono, audio.SAMPLE_RATE, 44100)
        soundfile.write(folder / f"{name}.flac", np.stack([wave, 0.5 * wave], axis=1), 44100)
    for name in ("notes.txt", "renamed.wav"):
        (folder / name).write_text("Not a sound, but a line of text.\n" * 40)
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    """The address of the app in a process of its own; it must end without one traceback and leave no file behind."""
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    command = [sys.executable, "app.py", "--port", str(port), "--models", str(models)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=os.environ | {"TMPDIR": str(folder)})
    address, deadline = f"http://127.0.0.1:{port}/", time.monotonic() + 90
    try:
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
                break
            time.sleep(0.2)
        assert process.poll() is None, (folder / "log").read_text()
        yield address
    finally:
        process.terminate()
        process.wait(20)
    said = (folder / "log").read_text()
    assert "Traceback" not in said, said
    assert not list(folder.glob("ssast-lab-*"))


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    if chromium is None:
        reason = "no browser test was run: Debian's chromium is not installed"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    """A fresh visitor who has seen the first built-in sound; nothing may be asked of any other machine."""
    yield from visit(browser, server)


def visit(browser, server, **options):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
    foreign, errors = [], []

    def gate(route):
        if urlsplit(route.request.url).hostname == "127.0.0.1":
            route.continue_()
        else:
            foreign.append(route.request.url)
            route.abort()

    context.route("**/*", gate)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server)
    page.locator("#pictures .main-svg").first.wait_for()
    page.locator("#mse").wait_for()
    yield page
    context.close()
    assert foreign == []
    assert errors == []


def shot(page, name):
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(400)
    page.screenshot(path=ARTEFACTS / f"{name}.png")


def figures(page) -> dict[str, str]:
    return {key: page.locator(f"#figures #{key}").inner_text() for key in ("mse", "accuracy", "nce", "hidden")}


def expected(models, path, kind="patch", count=None, seed=0, cluster=(3, 5), start=0.0) -> dict[str, str]:
    """What the page has to say, by way of the core alone."""
    model = checkpoint.load(models / f"test-{kind}")
    piece = analysis.excerpt(audio.load_waveform(path), model.config, start)
    count = round(SHARE * piece.grid.count) if count is None else count
    mask = analysis.draw_mask(piece, MaskConfig(count, cluster if kind == "patch" else None), seed)
    record = analysis.reconstruct(model, piece.fbank, mask, start)
    return {
        "mse": f"{record.mse:.3f}\n{record.baseline:.3f} for",
        "accuracy": f"{record.accuracy:.1%}\n{round(record.accuracy * count)} of {count} recognised; "
        f"guessing: {1 / count:.2%}",
        "nce": f"{record.nce:.2f} nats",
        "hidden": f"{count}\nof {piece.grid.count} ",
    }


def agrees(page, wanted: dict[str, str]) -> None:
    """Waits until the page shows these figures."""
    deadline = time.monotonic() + PATIENCE / 1000
    while True:
        shown = figures(page)
        if all(text in shown[key] for key, text in wanted.items()):
            return
        assert time.monotonic() < deadline, f"{shown} does not show {wanted}"
        page.wait_for_timeout(50)


def images(page):
    return page.locator("#pictures .imagelayer image")


def choose(page, kind):
    page.get_by_label(f"Test {kind} model").check()


def upload(page, path):
    page.locator("#upload input[type=file]").set_input_files(path)


def drop(page, path):
    """The file as if dragged from the desktop."""
    data = page.evaluate_handle(
        """([name, text]) => { const data = new DataTransfer(); data.items.add(new File([text], name)); return data; }""",
        [path.name, path.read_text()],
    )
    page.locator("#upload button").dispatch_event("drop", {"dataTransfer": data})


def test_the_page_greets_with_a_sound_already_shown(page, models):
    choose(page, "patch")
    first = next(iter(audio.builtin_sounds().values()))
    agrees(page, expected(models, first["path"]))
    assert page.locator("#caption b").inner_text() == first["title"]
    pictures = page.locator("#pictures").inner_text()
    for title in (
        "Spectrogram",
        "Patch grid and mask",
        "Masked",
        "Reconstruction",
        "Error",
        "seconds",
        "Hz",
    ):
        assert title in pictures
    assert images(page).count() == 5
    assert "(stop-gap)" in page.locator("#model").inner_text()
    assert "random weights" in page.locator("#note").inner_text()
    shot(page, "first_visit")


def test_upload_then_slider_seed_and_cluster(page, models, sounds):
    choose(page, "patch")
    upload(page, sounds["ten.flac"])
    agrees(page, expected(models, sounds["ten.flac"]))
    assert page.locator("#caption b").inner_text() == "ten.flac"
    shot(page, "patch_model")

    slider = page.get_by_role("slider", name="Hidden patches")
    count = int(slider.input_value())
    drawn = [images(page).nth(place).get_attribute("href") for place in range(5)]
    slider.focus()
    for _ in range(20):
        slider.press("ArrowLeft")
    agrees(page, expected(models, sounds["ten.flac"], count=count - 20))
    page.wait_for_timeout(200)
    redrawn = [images(page).nth(place).get_attribute("href") for place in range(5)]
    assert redrawn[:2] == drawn[:2]  # the sound is as it was, by itself and under the grid
    assert all(after != before for after, before in zip(redrawn[2:], drawn[2:], strict=True))

    page.get_by_role("button", name="Another mask").click()
    agrees(page, expected(models, sounds["ten.flac"], count=count - 20, seed=1))
    page.get_by_label("Cluster factor C").click()
    page.get_by_role("option", name="1", exact=True).click()
    agrees(page, expected(models, sounds["ten.flac"], count=count - 20, seed=1, cluster=(1, 1)))
    shot(page, "patch_model_single_patches")

    box = page.locator("#pictures .nsewdrag").nth(1).bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 40)
    page.locator("#pictures .hovertext").wait_for()
    assert "Hz" in page.locator("#pictures .hovertext").text_content()


def test_a_zoom_stays_for_another_mask_and_goes_with_the_sound(page, sounds):
    def seen():
        return page.evaluate("document.querySelector('#pictures .js-plotly-plot').layout.xaxis.range")

    def wait_for(unlike):
        page.wait_for_function("was => document.querySelectorAll('#pictures .imagelayer image')[2]?.href.baseVal != was",
                               arg=unlike)  # fmt: skip
        page.wait_for_timeout(500)

    whole, box = seen(), page.locator("#pictures .nsewdrag").first.bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + 400, box["y"] + 30, steps=5)
    page.mouse.up()
    page.wait_for_timeout(300)
    part, before = seen(), images(page).nth(2).get_attribute("href")
    assert part[1] - part[0] < 0.4 * (whole[1] - whole[0])
    page.get_by_role("button", name="Another mask").click()
    wait_for(unlike=before)
    assert seen() == part
    shot(page, "zoomed")
    before = images(page).nth(2).get_attribute("href")
    upload(page, sounds["ten.flac"])
    wait_for(unlike=before)
    assert seen() == pytest.approx([0.0075, 10.0], abs=0.3)


def test_frame_model_gives_its_own(page, models, sounds):
    choose(page, "patch")
    upload(page, sounds["ten.flac"])
    agrees(page, expected(models, sounds["ten.flac"]))
    choose(page, "frame")
    agrees(page, expected(models, sounds["ten.flac"], kind="frame"))
    assert page.get_by_label("Cluster factor C").is_disabled()
    assert "single frames at random" in page.locator("#cluster").inner_text()
    assert "Hidden frames" in page.locator("#count").inner_text()
    shot(page, "frame_model")


@pytest.mark.parametrize("name", ["notes.txt", "renamed.wav"])
def test_what_is_no_sound_gets_a_sentence_and_the_earlier_sound_stays(page, models, sounds, name):
    choose(page, "patch")
    upload(page, sounds["short.flac"])
    agrees(page, expected(models, sounds["short.flac"]))
    drop(page, sounds[name])
    trouble = page.locator("#status [role=alert]")
    trouble.wait_for()
    assert name in trouble.inner_text()
    assert "cannot be decoded as sound" in trouble.inner_text()
    text = page.locator("body").inner_text()
    assert not any(inner in text for inner in ("Traceback", 'File "', "ssast-lab-"))
    shot(page, f"no_sound_{name.partition('.')[0]}")

    assert page.locator("#caption b").inner_text() == "short.flac"
    agrees(page, expected(models, sounds["short.flac"]))
    page.get_by_role("button", name="Another mask").click()
    agrees(page, expected(models, sounds["short.flac"], seed=1))
    upload(page, sounds["ten.flac"])
    agrees(page, expected(models, sounds["ten.flac"], seed=1))
    assert trouble.count() == 0


def test_a_long_sound_offers_a_window(page, models, sounds):
    choose(page, "patch")
    assert page.locator("#window").count() == 0
    upload(page, sounds["long.flac"])
    agrees(page, expected(models, sounds["long.flac"]))
    number = page.locator("#window input[type=number]")
    number.fill("12.5")
    agrees(page, expected(models, sounds["long.flac"], start=12.5))
    shot(page, "long_sound_later_window")
    upload(page, sounds["short.flac"])
    agrees(page, expected(models, sounds["short.flac"]))
    assert page.locator("#window").count() == 0


def test_a_short_sound_hides_only_its_own_patches(page, models, sounds):
    choose(page, "patch")
    upload(page, sounds["short.flac"])
    own = 8 * ((3 * 16000 - 400) // 160 + 1) // 16 // 8 * 8  # whole columns of eight patches in 3 s
    agrees(page, expected(models, sounds["short.flac"]))
    number = page.get_by_role("spinbutton", name="Hidden patches")
    slider = page.get_by_role("slider", name="Hidden patches")
    assert int(slider.get_attribute("max")) == own
    number.fill("9999")  # more than there are
    number.press("Tab")
    assert number.input_value() == str(own)
    agrees(page, expected(models, sounds["short.flac"], count=own))
    assert f"of {own} (100%)" in figures(page)["hidden"]
    shot(page, "short_sound_all_hidden")


def test_a_sound_too_short_for_the_other_model_gets_a_sentence(page, models, sounds):
    choose(page, "frame")
    upload(page, sounds["click.flac"])
    agrees(page, expected(models, sounds["click.flac"], kind="frame"))
    choose(page, "patch")  # one patch spans more than this sound
    trouble = page.locator("#status [role=alert]")
    trouble.wait_for()
    assert "one patch of this model spans 0.175 s" in trouble.inner_text()
    page.get_by_role("button", name="Another mask").click()
    page.get_by_text("too short for this model").wait_for()
    choose(page, "frame")
    agrees(page, expected(models, sounds["click.flac"], kind="frame"))


def test_a_recording_is_shown(page, models):
    choose(page, "patch")
    began = time.monotonic()
    page.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(1500)
    page.get_by_role("button", name="Stop", exact=True).first.click()
    page.locator("#caption b", has_text="Recording").wait_for()
    seconds = float(page.locator("#caption span").inner_text().split(" s,")[0])
    assert 0.1 < seconds < time.monotonic() - began  # a busy machine opens the microphone late
    page.get_by_role("button", name="Record", exact=True).wait_for()  # and it is ready for another one
    shot(page, "recording")


def test_dark_page(browser, server, models):
    for page in visit(browser, server, color_scheme="dark"):
        shot(page, "dark")
        shade = page.evaluate("getComputedStyle(document.body).backgroundColor")
        text = page.evaluate("getComputedStyle(document.querySelector('#pictures text')).fill")
        light = [sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) for colour in (shade, text)]
        assert light[1] - light[0] > 400


def test_scripts_get_the_same_figures(server, models):
    """The one public endpoint, as gradio_client would call it."""
    call = server + "gradio_api/call/reconstruct"
    body = json.dumps({"data": [None, "frogs", "test-patch", 0.0, 100, "5", 3]}).encode()
    request = urllib.request.Request(call, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{call}/{event}", timeout=30) as answer:
        said = answer.read().decode()
    assert "event: complete" in said, said
    values = json.loads(said.split("data: ")[-1])[0]
    wanted = expected(models, audio.builtin_sounds()["frogs"]["path"], count=100, seed=3, cluster=(5, 5))
    assert f"{values['mse']:.3f}\n{values['mse_of_visible_mean']:.3f} for" == wanted["mse"]
    assert values["hidden"] == 100


def test_strangers_need_a_password(capsys):
    with pytest.raises(SystemExit):
        app.main(["--host", "0.0.0.0"])
    assert "choose a --password" in capsys.readouterr().err


def test_built_in_stop_gap_weights_say_that_they_are():
    for name, model in app.find_models().items():
        if checkpoint.describe(name)["about"].get("stop_gap"):
            assert "(stop-gap)" in model.label
            assert model.note


def test_the_share_of_hidden_patches_follows_the_sound():
    config = model_config("nano-patch")
    wave = torch.randn(12 * 16000, generator=torch.Generator().manual_seed(0))
    whole, part = analysis.excerpt(wave, config), analysis.excerpt(wave[:48000], config)
    assert hidden_count(SHARE, whole) == 400
    assert hidden_count(SHARE, part) == round(SHARE * 8 * 18)
    assert [hidden_count(asked / 512, part) for asked in (1, 256, 512)] == [1, 72, 144]


def test_the_baseline_is_the_error_of_the_visible_mean():
    config = model_config("nano-patch", depth=1)
    piece = analysis.excerpt(torch.randn(40000, generator=torch.Generator().manual_seed(0)), config)
    mask = analysis.draw_mask(piece, MaskConfig(90), 4)
    record = analysis.reconstruct(SSAST(config).eval(), piece.fbank, mask, 0.0)
    hidden = np.zeros(record.original.shape, bool)
    for patch in np.flatnonzero(record.mask):
        low, high, first, last = record.grid.bounds(patch)
        hidden[first:last, low:high] = True
    errors = []
    for mel in range(128):
        sound, away = record.original[:, mel], hidden[:, mel]
        errors.extend(np.square(sound[away] - sound[~away].mean()))
    assert record.baseline == pytest.approx(np.mean(errors), rel=1e-4)
