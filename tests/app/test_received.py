"""What becomes of what visitors send: too much of it, half of it, very little of it, and a change of mind while it is looked at."""

import socket
import time
from urllib.parse import urlsplit

import gradio as gr
import numpy as np
import pytest
import soundfile
from started import multipart, send, started
from visitor import PATIENCE, agrees, choose, expected, shot, upload

from ssast_lab.app import received
from ssast_lab.app.received import LARGEST


@pytest.fixture(scope="module")
def app(models, tmp_path_factory):
    """An app whose folder is looked into."""
    folder = tmp_path_factory.mktemp("app") / "here"
    with started(folder, "--models", models) as here:
        yield here, folder
    assert "Traceback" not in here.log.read_text()


def stored(folder) -> int:
    """Bytes of what was sent."""
    return sum(path.stat().st_size for path in folder.glob("ssast-lab-*/**/*") if path.is_file())


def waits_until(condition):
    deadline = time.monotonic() + PATIENCE / 1000
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_upload_that_is_broken_off_is_removed(app):
    here, folder = app
    before = stored(folder)
    data, kind = multipart(b"\0" * 4_000_000)
    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", urlsplit(here.address).port)) as visitor:
        visitor.sendall(head.encode() + data[:2_000_000])
        waits_until(lambda: stored(folder) > before + 1_000_000)
    waits_until(lambda: stored(folder) == before)


def test_too_large_a_file_gets_a_sentence_and_is_removed(app):
    here, folder = app
    before = stored(folder)
    status, said, _ = send(here.address, b"\0" * (LARGEST * 2**20 + 1))
    assert (status, said) == (413, f"The file is larger than the maximum allowed size of {LARGEST} MB.")
    waits_until(lambda: stored(folder) == before)


@pytest.mark.skipif(
    not hasattr(__import__("resource"), "prlimit"), reason="no limits can be set for another process here"
)
def test_a_full_disk_gets_a_sentence(app, browser, tmp_path):
    """A limit on the size of files stands for it: what does not fit is refused by the system in the same way."""
    import resource

    here, folder = app
    before = stored(folder)
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 80_000)
    soundfile.write(tmp_path / "large.wav", sound, 16000)
    limits = resource.prlimit(here.process.pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    try:
        status, said, _ = send(here.address, (tmp_path / "large.wav").read_bytes())
        assert status == 400
        assert "there is no room for it on the disk" in said
        assert "/" not in said
        page = browser.new_page()
        page.goto(here.address)
        page.locator("#mse").wait_for()
        upload(page, tmp_path / "large.wav")
        page.get_by_text("there is no room for it").first.wait_for()
        shot(page, "no_room")
        page.close()
    finally:
        resource.prlimit(here.process.pid, resource.RLIMIT_FSIZE, limits)
    waits_until(lambda: stored(folder) == before)
    assert send(here.address, (tmp_path / "large.wav").read_bytes())[0] == 200


def test_too_large_a_file_gets_a_sentence_on_the_page(page, tmp_path):
    with (tmp_path / "large.wav").open("wb") as file:
        file.truncate(LARGEST * 2**20 + 1)
    upload(page, tmp_path / "large.wav")
    page.locator(".toast-body", has_text="maximum allowed size of 50").wait_for()
    page.locator("#upload").get_by_text("Error").wait_for(state="hidden")
    shot(page, "too_large")


def test_a_sound_of_one_patch_is_shown(page, models, tmp_path):
    choose(page, "frame")
    soundfile.write(tmp_path / "click.wav", 0.3 * np.sin(np.arange(560) ** 2 / 500), 16000)
    upload(page, tmp_path / "click.wav")
    agrees(page, expected(models, tmp_path / "click.wav", kind="frame", count=1))
    page.get_by_role("button", name="Another mask").click()
    page.wait_for_function("document.querySelector('#seed input').value === '1'")
    agrees(page, expected(models, tmp_path / "click.wav", kind="frame", count=1, seed=1))
    assert page.locator(".toast-body.error").count() == 0
    shot(page, "one_patch")


def test_the_count_of_a_longer_sound_is_cut_to_that_of_the_shorter_one():
    """As another mask is asked for while the shorter sound loads: the count that is sent is still that of the longer one."""
    slider, within = gr.Slider(1, 144, 112, step=1), received._within(gr.Slider.preprocess)
    assert [within(slider, count) for count in (388, 100, 0)] == [144, 100, 1]
