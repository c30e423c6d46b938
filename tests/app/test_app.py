"""The page in a real browser: a real server process, real sounds, and every figure compared with one computed here."""

import json
import time
import urllib.request

import numpy as np
import pytest
import soundfile
import torch
from visitor import SHARE, agrees, choose, drop, expected, figures, layers, shot, stage, until, upload, visit

from ssast_lab import analysis, app, audio, checkpoint
from ssast_lab.app.reconstruction import analyse, hidden_count, silent
from ssast_lab.app.sources import load_model
from ssast_lab.config import MaskConfig, model_config
from ssast_lab.model import SSAST


def test_the_page_greets_with_a_sound_already_shown(page, models):
    choose(page, "patch")
    first = next(iter(audio.builtin_sounds().values()))
    agrees(page, expected(models, first["path"]))
    assert page.locator("#caption b").inner_text() == first["title"]
    assert stage(page, "s.layer") == "reconstructed"
    assert stage(page, "s.panels.length") == 1
    page.get_by_role("button", name="All", exact=True).click()
    assert stage(page, "s.panels.map(one => one.title[0])") == [
        "Original",
        "Masked",
        "Reconstructed",
        "Error",
        "Recognised",
    ]
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
    drawn = layers(page)
    slider.focus()
    for _ in range(20):
        slider.press("ArrowLeft")
    agrees(page, expected(models, sounds["ten.flac"], count=count - 20))
    until(page, f"s.picture.hiddenCount() === {count - 20}")
    redrawn = layers(page)
    assert redrawn.pop("original") == drawn["original"]  # the sound is as it was
    assert all(picture != drawn[name] for name, picture in redrawn.items())

    page.get_by_role("button", name="Another mask").click()
    agrees(page, expected(models, sounds["ten.flac"], count=count - 20, seed=1))
    page.get_by_label("Cluster factor C").click()
    page.get_by_role("option", name="1", exact=True).click()
    agrees(page, expected(models, sounds["ten.flac"], count=count - 20, seed=1, cluster=(1, 1)))
    shot(page, "patch_model_single_patches")


def test_a_zoom_stays_for_another_mask_and_goes_with_the_sound(page, models, sounds):
    choose(page, "patch")
    upload(page, sounds["ten.flac"])
    agrees(page, expected(models, sounds["ten.flac"]))
    box = page.locator("#stage canvas").bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 100)
    page.mouse.wheel(0, -500)
    until(page, "s.to - s.from < 0.5 * s.picture.grid.frames")
    part = stage(page, "[s.from, s.to]")
    page.get_by_role("button", name="Another mask").click()
    agrees(page, expected(models, sounds["ten.flac"], seed=1))
    assert stage(page, "[s.from, s.to]") == part
    shot(page, "zoomed")
    upload(page, sounds["long.flac"])
    agrees(page, expected(models, sounds["long.flac"], seed=1))
    until(page, "s.from === 0 && s.to === s.picture.grid.frames")


def test_frame_model_gives_its_own(page, models, sounds):
    choose(page, "patch")
    upload(page, sounds["ten.flac"])
    agrees(page, expected(models, sounds["ten.flac"]))
    choose(page, "frame")
    agrees(page, expected(models, sounds["ten.flac"], kind="frame"))
    assert page.get_by_label("Cluster factor C").is_disabled()
    assert page.get_by_label("Cluster factor C").input_value() == "single frames, at random"
    assert "Hidden frames" in page.locator("#count").inner_text()
    assert page.locator("#stage [data-of=pointer] .of-patch i").inner_text() == "Frame"
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
    assert "Hidden patches (100%)" in page.locator("#count").inner_text()
    number.fill(str(own // 4))
    number.press("Tab")
    agrees(page, expected(models, sounds["short.flac"], count=own // 4))
    assert "Hidden patches (25%)" in page.locator("#count").inner_text()
    shot(page, "short_sound_a_quarter_hidden")


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
    stop = page.get_by_role("button", name="Stop", exact=True).first
    stop.wait_for()  # the microphone is open
    page.wait_for_timeout(1500)
    stop.click()
    page.locator("#caption b", has_text="Recording").wait_for()
    seconds = float(page.locator("#caption span").inner_text().split(" s,")[0])
    assert 0.1 < seconds < time.monotonic() - began  # a busy machine opens the microphone late
    page.get_by_role("button", name="Record", exact=True).wait_for()  # and it is ready for another one
    shot(page, "recording")


def test_dark_page(browser, server, models):
    for page in visit(browser, server, color_scheme="dark"):
        shot(page, "dark")
        shade = page.evaluate("getComputedStyle(document.body).backgroundColor")
        text = page.evaluate("getComputedStyle(document.querySelector('#stage .stage')).color")
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
    assert "choose a password" in capsys.readouterr().err


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


def test_silence_and_what_is_nearly_silent_are_said_to_be(models):
    """And no built-in sound is, however soft its window."""
    model = app.find_models([models])["test-patch"]
    config = load_model(model.path).config

    def silence_in(wave):
        piece = analysis.excerpt(wave, config)
        return silent(analyse(piece, model, analysis.draw_mask(piece)), config.audio)

    chance = torch.Generator().manual_seed(0)
    assert silence_in(torch.zeros(32_000))
    assert silence_in(torch.randint(-1, 2, (32_000,), generator=chance) / 32768)  # the noise of 16 bits
    assert not silence_in(torch.randn(32_000, generator=chance) * 1e-3)
    for entry in audio.builtin_sounds().values():
        assert not silence_in(audio.load_waveform(entry["path"]))


def test_a_silent_sound_is_said_to_be_one(page, tmp_path):
    soundfile.write(tmp_path / "nothing.wav", np.zeros(48_000), 16_000)
    upload(page, tmp_path / "nothing.wav")
    page.locator("#figures #silent").wait_for()
    shot(page, "silence")
    page.get_by_label("Built-in sound").click()
    page.get_by_role("option", name="frogs").click()
    page.locator("#figures #silent").wait_for(state="detached")
