"""What a view's script sends: only uploads are read, zips keep to their limits, and nothing is written anywhere."""

import io
import re
import zipfile
from pathlib import Path

import pytest
import soundfile
from visitor import upload

from ssast_lab import audio
from ssast_lab.app import uploads
from ssast_lab.app.uploads import UploadError
from ssast_lab.data import EXTENSIONS, Passed


@pytest.fixture
def send(tmp_path, monkeypatch):
    """Stores a file as gradio does, and gives what the script says of it."""
    folder = tmp_path / "uploads"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))

    def store(name, content, said=None):
        path = folder / ("a" * 64) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return {"path": str(path), "name": said or name}

    return store


def flac(name="tabla"):
    with open(audio.builtin_sounds()[name]["path"], "rb") as file:
        return file.read()


def packed(members, compression=zipfile.ZIP_STORED):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, value in members.items():
            archive.writestr(name, value)
    return content.getvalue()


def test_files_folders_and_zips(send, tmp_path):
    sent = [
        send("one.flac", flac(), "music/one.flac"),
        send("notes.txt", b"no sound"),
        send("_one.flac", flac(), "music/._one.flac"),  # what another system leaves beside a sound
        send("many.zip", packed({"b/two.flac": flac("water"), "b/readme.md": b"-", "__MACOSX/b/._two.flac": b"-", "b/c.tar.xz": b"-", "../../up.flac": flac("water"), "/etc/root.flac": flac()})),
    ]  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    passed = Passed()
    items = uploads.items(sent, passed)
    assert passed.counts == {"with no sound's name": 2, "hidden": 2, "packed": 1}
    assert str(passed).startswith(
        "2 with no sound's name (such as notes.txt), 2 hidden (such as music/._one.flac), 1 packed (b/c.tar"
    )
    assert [item.name for item in items] == ["music/one.flac", "b/two.flac", "up.flac", "etc/root.flac"]
    for item, name in zip(items, ("tabla", "water", "water", "tabla"), strict=True):
        assert item.waveform().equal(audio.load_waveform(audio.builtin_sounds()[name]["path"]))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("path", ["/etc/passwd", "", None, 5, "..", "a\0b", "http://127.0.0.1/x.flac"])
def test_what_is_no_upload_is_not_read(send, tmp_path, path):
    secret = tmp_path / "secret.flac"
    secret.write_bytes(flac())
    good = send("one.flac", flac())
    outside = good["path"].rpartition("/")[0] + "/../../../secret.flac"
    run = tmp_path / "uploads" / "training-1" / "train"
    run.mkdir(parents=True)
    (run / "0.flac").write_bytes(flac())
    for bad in (path, str(secret), outside, str(run / "0.flac")):
        assert uploads.items([{"path": bad, "name": "x.flac"}]) == []
    for nonsense in (None, {}, "x", [1, None, []]):
        assert uploads.items(nonsense) == []


def test_bombs_and_crowds_are_refused(send, monkeypatch):
    bomb = send("bomb.zip", packed({"zeros.wav": bytes(20_000_000)}, zipfile.ZIP_DEFLATED))
    with pytest.raises(UploadError, match="packed as no sound"):
        uploads.items([bomb])
    monkeypatch.setattr(uploads, "UNPACKED", 1000)
    with pytest.raises(UploadError, match="unpack to more"):
        uploads.items([send("large.zip", packed({"a.flac": flac()}))])
    monkeypatch.setattr(uploads, "MEMBERS", 2)
    with pytest.raises(UploadError, match="3 files"):
        uploads.items([send("many.zip", packed(dict.fromkeys(("a", "b", "c"), b"-")))])
    with pytest.raises(UploadError, match="no zip"):
        uploads.items([send("broken.zip", b"PK not a zip")])


def test_a_member_that_lies_about_its_size_is_read_no_further(send, monkeypatch):
    (item,) = uploads.items([send("liar.zip", packed({"a.flac": flac()}))])
    monkeypatch.setattr(uploads, "LARGEST", 1000)
    with pytest.raises(audio.AudioError, match=r"a\.flac has more than"):
        item.waveform()


def test_what_cannot_be_decoded_is_named_as_the_visitor_does(send):
    sent = [send("x.flac", b"not a sound", "mine/x.flac")]
    (item,) = uploads.items(sent)
    with pytest.raises(audio.AudioError) as caught:
        item.waveform()
    assert "mine/x.flac" in str(caught.value)
    assert "a" * 64 not in str(caught.value)
    with pytest.raises(UploadError, match=r"mine/x\.flac"):
        uploads.sounds(sent)
    assert uploads.sounds(None) == []


def test_what_should_be_known_of_a_sound_stands_beside_its_name(page, sounds, tmp_path):
    whole = tmp_path / "half.wav"
    soundfile.write(whole, soundfile.read(sounds["ten.flac"])[0], 44100)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    upload(page, whole)
    notice = page.locator("#caption .notice")
    notice.wait_for()
    said = notice.inner_text()
    assert said.startswith("half.wav was cut short: its header promises 10.00 s of sound, and 5.00 s are found"), said
    assert str(tmp_path) not in said
    page.get_by_label("Built-in sound").click()
    page.get_by_role("option", name="frogs").click()
    notice.wait_for(state="detached")


@pytest.mark.parametrize("view", ["map", "train"])
def test_the_dialog_for_files_offers_every_sound(view):
    script = (Path(uploads.__file__).parent / "static" / f"{view}.js").read_text(encoding="utf-8")
    (offered,) = re.findall(r'type="file"[^>]* accept="([^"]*)"', script)
    assert EXTENSIONS | {".zip"} == {name for name in offered.split(",") if name[0] == "."}
