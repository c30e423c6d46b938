"""What is said of a folder of recordings before anything is trained on it."""

import shutil

import numpy as np
import pytest
import soundfile
from tiny import write_clips

from ssast_lab.__main__ import main
from ssast_lab.data import DataError
from ssast_lab.data.look import look


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four tones, one of them in three files; silence, a clipped stereo sound, a file that is no sound, and a note."""
    folder = tmp_path_factory.mktemp("recordings")
    first, *_ = write_clips(folder, 4, (0.5, 2))
    shutil.copy(first, folder / "copy.flac")
    samples, rate = soundfile.read(first)
    soundfile.write(folder / "other.wav", samples, rate, subtype="PCM_16")
    soundfile.write(folder / "silence.wav", np.zeros(48000), 48000)
    loud = np.clip(3 * np.sin(np.arange(44100) / 20), -1, 1)
    soundfile.write(folder / "clipped.wav", np.stack([loud, loud], 1), 44100)
    (folder / "broken.wav").write_bytes(b"RIFF" + bytes(50))
    (folder / "note.txt").write_text("a note")
    return folder


def test_everything_that_is_to_be_known_is_found(folder):
    done = []
    found = look([folder], done.append)
    path = lambda name: str(folder / name)  # noqa: E731
    lengths = {path.name: soundfile.info(path).duration for path in folder.glob("*") if path.suffix in (".flac", ".wav") and path.stem != "broken"}  # fmt: skip
    assert found.hours == pytest.approx(sum(lengths.values()) / 3600)
    assert sum(done) == pytest.approx(3600 * found.hours)
    assert found.rates == {16000: 6, 48000: 1, 44100: 1}
    assert found.channels == {1: 7, 2: 1}
    assert [*found.unreadable] == [path("broken.wav")]
    assert found.silent == (path("silence.wav"),)
    assert found.clipped == (path("clipped.wav"),)
    assert found.same == ((path("000.flac"), path("copy.flac"), path("other.wav")),)
    assert sum(found.passed.counts.values()) == 1


def test_it_is_said_in_lines(folder):
    lines = look([folder]).lines()
    assert lines[0] == f"{folder}: 9 sounds, {60 * look([folder]).hours:.1f} minutes"
    said = "\n".join(lines)
    for part in (
        "16000 Hz (6)",
        "  channels    1 (7), 2 (1)",
        "silence.wav",
        "000.flac = ",
        "note.txt",
        "'broken.wav'",
    ):
        assert part.strip("'") in said
    assert (
        "\n              Training stops at so many: take them out of the folder, or add --run.unreadable 0.12.\n"
        in said
    )
    one = "\n".join(look([folder / "001.flac"]).lines())
    assert ": 1 sound, " in one
    for missing in ("silent", "half are longer", "--run.unreadable"):
        assert missing not in one


def test_a_place_without_sound_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match="No sound was found in"):
        look([tmp_path])


def test_what_16_khz_cannot_hold_is_looked_at_too(tmp_path, capsys):
    time = np.arange(48_000) / 48_000
    for name, high in (("nine", 9_500), ("thirteen", 13_000)):
        soundfile.write(tmp_path / f"{name}.wav", 0.3 * np.sin(2 * np.pi * high * time), 48_000)
    found = look([tmp_path])
    assert (found.silent, found.same, found.noticed) == ((), (), {})
    main(["data", "look", str(tmp_path)])
    assert "--features birds-48k" in capsys.readouterr().out.partition("Next: ")[2]
