"""A page with models of other sample rates: each hears an uploaded sound as far up as it can."""

import numpy as np
import pytest
import soundfile
import torch
from gradio_client import Client, handle_file
from started import started
from test_code import agree, lines
from test_other_rates import HIGH, call
from visitor import agrees, answered, figures, open_tab, shot, stage, until, upload, visit

from ssast_lab import analysis, audio, checkpoint
from ssast_lab.app.sources import Sound
from ssast_lab.app.views import VIEWS
from ssast_lab.config import MaskConfig, model_config
from ssast_lab.model import SSAST


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rates")
    torch.manual_seed(2)
    for name in ("nano-patch-birds-48k", "nano-frame-telephone-8k"):
        checkpoint.save(SSAST(model_config(name, depth=1)), folder / name, {"title": name})
    soundfile.write(folder / "calls.wav", np.concatenate([call(kind, 1, 3.0) for kind in HIGH]), 48_000)
    return folder


@pytest.fixture(scope="module")
def own_server(birds, tmp_path_factory):
    with started(tmp_path_factory.mktemp("rates-server"), "--models", birds) as app:
        yield app
    assert "Traceback" not in app.log.read_text()


@pytest.fixture
def own_page(browser, own_server):
    yield from visit(browser, own_server.address)


def case(folder, name, seed=0):
    model = checkpoint.load(folder / name)
    wave = audio.load_waveform(folder / "calls.wav", to_rate=model.config.audio.sample_rate)
    piece = analysis.excerpt(wave, model.config)
    cluster = (3, 5) if piece.grid.rows > 1 else None
    mask = analysis.draw_mask(piece, MaskConfig(round(400 / 512 * piece.grid.count), cluster), seed)
    return wave, analysis.reconstruct(model, piece.fbank, mask)


def wanted(record):
    return {"mse": f"{record.mse:.3f}\n{record.baseline:.3f} for", "nce": f"{record.nce:.2f} nats", "hidden": f"{record.hidden}\nof {record.grid.count} "}  # fmt: skip


def take_in(page, path):
    upload(page, path)
    page.locator("#caption b").get_by_text(path.name).wait_for()


def test_each_model_hears_as_far_up_as_it_can(own_page, birds):
    page = own_page
    take_in(page, birds / "calls.wav")
    assert "48 kHz, your sound" in page.locator("#caption").inner_text()
    assert "It hears 20 to 8000 Hz." in page.locator("#note").inner_text()
    page.get_by_label("nano-patch-birds-48k").check()
    page.locator("#note").get_by_text("It hears 150 to 15000 Hz.").wait_for()
    wave, record = case(birds, "nano-patch-birds-48k")
    agrees(page, wanted(record))
    assert stage(page, "s.picture.data.hertz") == [150, 15_000]
    assert stage(page, "ssast.hertzes(s.picture)")[-2:] == [8000, 15_000]
    assert page.get_by_role("button", name="Undo").is_disabled()  # nothing was painted
    assert 14_000 < stage(page, "s.picture.hertzOf(s.picture.grid.bins - 1)") < 15_000
    until(page, "s.ready")
    page.evaluate("document.querySelector('#stage .stage').parentElement.stage.choose('original')")
    heard = page.evaluate(
        "(({ rate, samples }) => [rate, Array.from(samples)])(document.querySelector('#stage .stage').parentElement.stage.sound())"
    )
    assert heard[0] == 48_000
    likeness = np.corrcoef(heard[1], wave[: len(heard[1])].numpy())[0, 1]
    assert likeness > 0.999  # what is heard is what was sent, with all that lies above 8 kHz
    page.locator("#stage .stage-save summary").click()
    with page.expect_download() as download:
        page.locator("#stage [data-save=csv]").click()
    assert download.value.suggested_filename == "calls patches.csv"
    shot(page, "birds_48k")

    page.get_by_label("nano-frame-telephone-8k").check()
    until(page, "s.picture.data.hertz[1] === 4000")
    answered(page)
    _, record = case(birds, "nano-frame-telephone-8k")
    assert float(figures(page)["mse"].split("\n")[1]) == pytest.approx(record.mse, abs=0.003)  # resampled from 48 kHz
    assert stage(page, "s.picture.grid.rows") == 1
    shot(page, "telephone_8k")


@pytest.mark.parametrize("name", ["nano-patch-birds-48k", "nano-frame-telephone-8k"])
def test_every_view_answers(own_page, birds, name):
    page = own_page
    take_in(page, birds / "calls.wav")
    page.get_by_label(name).check()
    until(page, f"s.picture.data.hertz[1] === {case(birds, name)[1].grid.band[1]:g}")
    for view in VIEWS:
        if view.name != "versus":
            open_tab(page, view.title)
            continue
        page.get_by_role("tab", name=view.title, exact=True).click()
        page.locator("#view-versus").get_by_text("hears other frequencies than this one, 20 to 8000 Hz").wait_for()
        shot(page, f"versus_{name}")
    open_tab(page, "Patches and masks")
    page.locator("#view-masks").get_by_role("button", name="Frames", exact=True).click()
    answered(page)


def test_the_lines_run(own_page, birds):
    page = own_page
    take_in(page, birds / "calls.wav")
    page.get_by_label("nano-patch-birds-48k").check()
    agrees(page, wanted(case(birds, "nano-patch-birds-48k")[1]))
    text = lines(page)
    assert 'load_waveform("calls.wav", to_rate=48000)  # (S,) float32, mono, 48 kHz' in text
    agree(page, text, birds)


def test_a_sound_above_the_chosen_model_says_so(own_page, tmp_path):
    page, time = own_page, np.arange(3 * 48_000) / 48_000
    soundfile.write(tmp_path / "insect.wav", 0.3 * np.sin(2 * np.pi * 13_000 * time), 48_000)
    take_in(page, tmp_path / "insect.wav")
    told = page.get_by_text("Nearly all of the sound in insect.wav lies above 8 kHz, where a model of 16 kHz")
    told.wait_for()
    page.get_by_label("nano-patch-birds-48k").check()
    told.wait_for(state="detached")


def test_a_program_is_answered_at_the_rate_of_its_model(own_server, birds):
    client = Client(own_server.address, verbose=False, analytics_enabled=False)
    found = client.predict(
        file=handle_file(birds / "calls.wav"), model="nano-patch-birds-48k", hidden=231, api_name="/reconstruct"
    )
    _, record = case(birds, "nano-patch-birds-48k")
    assert found["mse"] == pytest.approx(record.mse, rel=1e-5)


def test_a_sound_that_was_taken_in_before_says_so():
    rest = dict(rate=16_000, found=48_000)
    sound = Sound("calls.wav", "your sound", torch.zeros(16_000), **rest)
    assert sound.lost(48_000)
    assert not sound.lost(16_000)
    assert len(sound.at(48_000)) == 48_000
    assert not Sound("calls.wav", "your sound", torch.zeros(16_000), rate=16_000, found=16_000).lost(48_000)
