"""What programs get from the app, by way of gradio_client: what the core finds, and a sentence for whatever it cannot."""

import json
import math

import numpy as np
import pytest
import soundfile
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from started import ask
from test_safe import call

from ssast_lab import analysis, audio, checkpoint
from ssast_lab.config import MaskConfig

ENDPOINTS = ["reconstruct", "masks", "attention", "recognition"]
COMMON = ["file", "builtin", "model", "start", "hidden", "cluster", "seed"]


@pytest.fixture(scope="module")
def client(server):
    return Client(server, verbose=False, analytics_enabled=False)


def case(models, path, kind="patch", start=0.0, count=100, cluster=(5, 5), seed=3):
    """(model, excerpt, mask) by way of the core alone."""
    model = checkpoint.load(models / f"test-{kind}")
    piece = analysis.excerpt(audio.load_waveform(path), model.config, start)
    return model, piece, analysis.draw_mask(piece, MaskConfig(count, cluster), seed)


def test_every_endpoint_says_what_it_takes(client):
    told = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert sorted(told) == sorted(f"/{name}" for name in ENDPOINTS)
    for endpoint in told.values():
        parameters = endpoint["parameters"]
        assert [each["parameter_name"] for each in parameters][:7] == COMMON
        assert all(each["parameter_has_default"] for each in parameters)
        types = {each["parameter_name"]: each["python_type"]["type"] for each in parameters}
        assert types["start"] == "float"
        assert types["seed"] == "int"
        assert "'test-frame'" in types["model"]
        assert "'frogs'" in types["builtin"]
        for name in types:
            assert f" {name}: " in endpoint["description"], name


def test_reconstruct_gives_the_figures_of_the_core(client, models, sounds):
    got = client.predict(
        file=handle_file(sounds["long.flac"]),
        model="test-patch",
        start=12.5,
        hidden=100,
        cluster="5",
        seed=3,
        api_name="/reconstruct",
    )
    model, piece, mask = case(models, sounds["long.flac"], start=12.5)
    record = analysis.reconstruct(model, piece.fbank, mask, 12.5)
    assert got["mse"] == pytest.approx(record.mse, rel=1e-5)
    assert got["info_nce"] == pytest.approx(record.nce, rel=1e-5)
    assert got["accuracy"] == record.accuracy
    assert got["seconds"] == pytest.approx([12.5, 12.5 + record.grid.frames * 0.01])


def test_what_is_left_out_is_as_on_the_page(client):
    got = client.predict(api_name="/masks")
    assert len(got["masks"]) == 1
    assert len(got["masks"][0]) == round(400 / 512 * got["patches"])


def test_masks_are_those_of_the_seeds(client, models):
    path = audio.builtin_sounds()["frogs"]["path"]
    got = client.predict(
        builtin="frogs", model="test-patch", hidden=100, cluster="5", seed=3, draws=4, api_name="/masks"
    )
    drawn = [case(models, path, seed=3 + further)[2].numpy() for further in range(4)]
    assert got["masks"] == [np.flatnonzero(mask).tolist() for mask in drawn]
    assert got["often"] == pytest.approx(np.mean(drawn, axis=0).tolist())
    assert got["rows"] * got["columns"] == got["patches"] == drawn[0].size


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("head", [None, 1])
def test_attention_is_that_of_the_core(client, models, masked, head):
    path = audio.builtin_sounds()["frogs"]["path"]
    got = client.predict(
        builtin="frogs", model="test-patch", hidden=100, cluster="5", seed=3, layer=0, head=head, patch=17, masked=masked,
        api_name="/attention",
    )  # fmt: skip
    model, piece, mask = case(models, path)
    record = analysis.attend(model, piece.fbank, mask if masked else None)
    weights = record.among_patches(0, head)
    assert got["looks_at"] == pytest.approx(weights[17].tolist(), abs=1e-6)
    assert got["is_looked_at_by"] == pytest.approx(weights[:, 17].tolist(), abs=1e-6)
    assert got["rollout"] == pytest.approx(record.rollout()[2 + 17, 2:].tolist(), abs=1e-6)
    seconds, bins = record.distances()
    np.testing.assert_allclose(got["seconds_away"], seconds, atol=1e-5)
    np.testing.assert_allclose(got["bins_away"], bins, atol=1e-4)
    assert [got["layers"], got["heads"]] == list(record.weights.shape[:2])


def test_recognition_is_that_of_the_core(client, models):
    path = audio.builtin_sounds()["frogs"]["path"]
    asked = dict(builtin="frogs", model="test-frame", hidden=50, seed=3)
    got = client.predict(**asked, scores=True, api_name="/recognition")
    model, piece, mask = case(models, path, "frame", count=50, cluster=None)
    record = analysis.match(model, piece.fbank, mask)
    for name in ("patches", "rank", "rank_among_predictions", "taken_for"):
        assert got[name] == getattr(record, name).tolist()
    np.testing.assert_allclose(got["scores"], record.scores, rtol=1e-4, atol=1e-4)
    assert got["accuracy"] == float((record.rank == 0).mean())
    assert "scores" not in client.predict(**asked, api_name="/recognition")


NONSENSE = [None, math.nan, math.inf, -math.inf, 10**30, -1, 1e308, "3", [], {}, True, 2.5]


@pytest.mark.parametrize("value", NONSENSE, ids=repr)
@pytest.mark.parametrize("place", [3, 4, 6], ids=["start", "hidden", "seed"])
def test_a_number_that_is_none_gets_a_sentence(server, place, value):
    data = [None, "frogs", "test-patch", 0.0, 100, "5", 3]
    data[place] = value
    event, said = call(server, "reconstruct", *data)
    if (place, value) in ((4, None), (3, 2.5)):  # which are the default, and seconds
        assert event == "complete", said
    else:
        assert event == "error"
        assert said["error"].startswith(f"{COMMON[place]} is a ")
        assert said["error"].endswith(".")
        assert len(said["error"]) < 200


@pytest.mark.parametrize("value", [None, "", "nobody", 3, [], {}, "../" * 40], ids=repr)
@pytest.mark.parametrize("place", [1, 2, 5], ids=["builtin", "model", "cluster"])
def test_a_choice_that_is_none_gets_a_sentence(server, place, value):
    data = [None, "frogs", "test-patch", 0.0, 100, "5", 3]
    data[place] = value
    event, said = call(server, "reconstruct", *data)
    assert (event, said["error"].startswith(f"{COMMON[place]} is one of ")) == ("error", True)


@pytest.mark.parametrize(
    ("name", "own", "about"),
    [
        ("masks", [0], "draws"), ("masks", [1001], "draws"), ("masks", [None], "draws"), ("masks", [math.nan], "draws"),
        ("attention", [99], "layer"), ("attention", [-1], "layer"), ("attention", [0, 99], "head"), ("attention", [0, None, 512], "patch"),
        ("attention", [0, None, math.inf], "patch"),
    ],
)  # fmt: skip
def test_so_do_those_of_one_endpoint(server, name, own, about):
    usual = {"masks": [1], "attention": [0, None, 0, False]}[name]
    event, said = call(server, name, None, "frogs", "test-patch", 0.0, 100, "5", 3, *own, *usual[len(own) :])
    assert (event, said["error"].split(" is a ")[0]) == ("error", about)


def test_a_sentence_reaches_the_program(client):
    with pytest.raises(AppError, match=r"^hidden is a whole number from 1 to \d+, not 99999\.$"):
        client.predict(hidden=99999, api_name="/reconstruct")


@pytest.mark.parametrize("name", ["zero\u200bwidth.wav", "hard\u00a0space.wav", "it's “both” 'marks'.wav", "plain.wav"])
def test_a_sentence_names_the_file_as_its_owner_does_and_no_path(client, tmp_path, name):
    path = tmp_path / name
    path.write_text("Not a sound, but a line of text.\n" * 40)
    with pytest.raises(AppError) as caught:
        client.predict(file=handle_file(path), api_name="/reconstruct")
    said = str(caught.value)
    assert said.startswith(f"{name} cannot be decoded as sound")
    assert "/" not in said.replace(name, "")
    assert "ssast-lab-" not in said


def test_a_sound_of_one_patch_is_answered(client, models, tmp_path):
    wave = 0.3 * np.sin(np.arange(560) ** 2 / 500)
    soundfile.write(tmp_path / "click.wav", wave, 16000)
    got = client.predict(file=handle_file(tmp_path / "click.wav"), model="test-frame", api_name="/reconstruct")
    assert (got["patches"], got["hidden"], got["chance"]) == (1, 1, 1.0)
    with pytest.raises(AppError, match=r"one patch of this model spans 0\.175 s"):
        client.predict(file=handle_file(tmp_path / "click.wav"), model="test-patch", api_name="/reconstruct")


def test_values_of_the_pages_own_events_get_a_sentence_too(server):
    """Those are not offered, but nothing keeps a program from calling them."""
    config = json.loads(ask(server + "config")[1])
    kinds = {part["id"]: part["type"] for part in config["components"]}
    tried = 0
    for event in config["dependencies"]:
        for place, part in enumerate(event["inputs"]):
            if kinds[part] in ("slider", "number"):
                for value in (math.nan, math.inf, "x", [], {}):
                    data = [None] * len(event["inputs"])
                    data[place] = value
                    body = json.dumps({"fn_index": event["id"], "data": data, "session_hash": "nonsense"}).encode()
                    status, text, _ = ask(f"{server}gradio_api/run/predict", body, Content_Type="application/json")
                    assert status == 500
                    assert json.loads(text)["error"].startswith(
                        ("Hidden patches is a number", "Seed is a", "Window from")
                    )
                    tried += 1
    assert tried
