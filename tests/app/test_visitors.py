"""Many visitors at once: each gets what is theirs, and nobody sees or can guess what is another's."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from gradio_client import Client, handle_file
from started import ask, send
from visitor import PATIENCE, agrees, answered, choose, expected, upload

from ssast_lab import analysis, audio, checkpoint
from ssast_lab.app.views import VIEWS
from ssast_lab.config import MaskConfig

MANY = 8


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A sound for each visitor, of another stretch and length."""
    folder = tmp_path_factory.mktemp("own")
    sounds = [soundfile.read(entry["path"])[0] for entry in audio.builtin_sounds().values()]
    paths = [folder / f"visitor-{number}.flac" for number in range(MANY)]
    for number, path in enumerate(paths):
        soundfile.write(path, np.resize(sounds[number % len(sounds)], 16000 * (2 + number % 5) + 160 * number), 16000)
    return paths


def view_of(number, further):
    return VIEWS[(number + further) % len(VIEWS)].name


def test_visitors_of_the_page_at_once_get_their_own(browser, server, models, own):
    contexts = [browser.new_context() for _ in own]
    pages, trouble = [context.new_page() for context in contexts], []
    for page in pages:
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", lambda said: said.type == "error" and trouble.append(said.text))
        page.goto(server, wait_until="commit")
    for page in pages:
        page.locator("#mse").wait_for()
        choose(page, "patch")
    for page, path in zip(pages, own, strict=True):
        upload(page, path)
    for page, path in zip(pages, own, strict=True):
        agrees(page, expected(models, path))
        assert page.locator("#caption b").inner_text() == path.name
    for page in pages:
        page.get_by_role("button", name="Another mask").click()
    for page, path in zip(pages, own, strict=True):
        agrees(page, expected(models, path, seed=1))
        assert page.locator(".toast-body").count() == 0
    for further in range(len(VIEWS)):  # all views, each visitor in another
        for number, page in enumerate(pages):
            page.locator(f"#views [role=tab][aria-controls='tab-{view_of(number, further)}']").click()
        for number, page in enumerate(pages):
            answered(page, view_of(number, further))  # of the picture that this page shows
    for page, path in zip(pages, own, strict=True):
        agrees(page, expected(models, path, seed=1))
        assert page.locator("#caption b").inner_text() == path.name
        assert page.locator(".toast-body").count() == 0
    for context in contexts:
        context.close()
    assert trouble == []


def test_programs_at_once_get_their_own(server, models, own):
    model = checkpoint.load(models / "test-patch")

    def wanted(path, seed):
        piece = analysis.excerpt(audio.load_waveform(path), model.config)
        return analysis.reconstruct(model, piece.fbank, analysis.draw_mask(piece, MaskConfig(50), seed)).mse

    def visit(number):
        client = Client(server, verbose=False, analytics_enabled=False)
        asked = dict(file=handle_file(own[number]), model="test-patch", hidden=50, api_name="/reconstruct")
        return [client.predict(**asked, seed=number + further)["mse"] for further in range(3)]

    with ThreadPoolExecutor(MANY) as visitors:
        got = list(visitors.map(visit, range(MANY)))
    for number, figures in enumerate(got):
        assert figures == pytest.approx([wanted(own[number], number + further) for further in range(3)], rel=1e-4)


def test_nobody_can_guess_anothers_file(server, own):
    content = own[0].read_bytes()
    path = Path(json.loads(send(server, content, "secret.flac")[1])[0])
    assert ask(f"{server}gradio_api/file={path}")[0] == 200  # of who knows where it is
    known = hashlib.sha256(content).hexdigest()  # by who has the same sound
    assert path.parent.name != known
    for guess in (
        path.parent,
        path.parent.parent,
        path.parent.parent / known / path.name,
        path.parent.parent / "in-use",
    ):
        status, said, _ = ask(f"{server}gradio_api/file={guess}")
        assert status == 403 or said == ""
    assert ask(f"{server}gradio_api/file={path.parent.parent.parent}")[0] == 403


def test_a_visitor_without_a_sound_is_not_shown_anothers(server, models):
    config = json.loads(ask(server + "config")[1])
    parts = {part["id"]: part["type"] for part in config["components"]}
    for event in config["dependencies"]:
        if event["inputs"] and all(parts[part] == "state" for part in event["inputs"]):
            body = {"fn_index": event["id"], "data": [None] * len(event["inputs"]), "session_hash": "another"}
            status, said, _ = ask(
                f"{server}gradio_api/run/predict", json.dumps(body).encode(), Content_Type="application/json"
            )
            assert status == 200
            assert not any(isinstance(value, str) and len(value) > 1000 for value in json.loads(said)["data"])
