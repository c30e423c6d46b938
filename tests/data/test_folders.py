"""One list of what a sound is, and one walk: the same sounds for training, for labels and for measuring."""

import io
import os
import shutil
import subprocess
import sys
import tarfile

import av
import numpy as np
import pytest
import soundfile
from tiny import PATIENCE, RATE, write_clips

from ssast_lab import audio, data
from ssast_lab.data import Passed, folders
from ssast_lab.data.labelled import read_labelled

TONE = 0.4 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
CODED = {  # name's end -> codec and container that PyAV writes, and how many Hz
    "mkv": ("aac", "matroska"), "mka": ("flac", "matroska"), "weba": ("libopus", "webm", 48000), "webm": ("libopus", "webm", 48000),
    "mov": ("aac", "mov"), "mp4": ("aac", "mp4"), "m4a": ("aac", "ipod"), "m4b": ("aac", "ipod"), "m4r": ("aac", "ipod"),
    "m4v": ("aac", "mp4"), "3gp": ("aac", "3gp"), "3g2": ("aac", "3g2"), "f4a": ("aac", "mp4"), "f4v": ("aac", "f4v"),
    "avi": ("mp2", "avi"), "flv": ("aac", "flv", 44100), "ts": ("mp2", "mpegts"), "mts": ("mp2", "mpegts"), "m2ts": ("mp2", "mpegts"),
    "mpg": ("mp2", "mpeg"), "mpeg": ("mp2", "mpeg"), "vob": ("mp2", "vob"), "mp2": ("mp2", "mp2"), "mpga": ("mp2", "mp2"),
    "aac": ("aac", "adts"), "adts": ("aac", "adts"), "ac3": ("ac3", "ac3", 48000), "eac3": ("eac3", "eac3", 48000),
    "wma": ("wmav2", "asf", 44100), "asf": ("wmav2", "asf", 44100), "wmv": ("wmav2", "asf", 44100), "wv": ("wavpack", "wv"),
    "tta": ("tta", "tta"), "ra": ("ac3", "rm", 48000), "rm": ("ac3", "rm", 48000), "ogv": ("flac", "ogg"), "oga": ("flac", "ogg"),
    "spx": ("flac", "ogg"),
}  # fmt: skip
PLAIN = {  # name's end -> format of libsndfile
    "wav": "WAV", "wave": "WAV", "rf64": "RF64", "w64": "W64", "flac": "FLAC", "aif": "AIFF", "aiff": "AIFF", "aifc": "AIFF", "au": "AU",
    "snd": "AU", "caf": "CAF", "sph": "NIST", "nist": "NIST", "voc": "VOC", "paf": "PAF", "svx": "SVX", "8svx": "SVX", "avr": "AVR",
    "ircam": "IRCAM", "sf": "IRCAM", "ogg": "OGG", "mp3": "MP3",
}  # fmt: skip


def coded(path, codec, container, rate=RATE):
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono", bit_rate=64000)
        wave = 0.4 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
        resampler = av.AudioResampler(
            stream.format.name, "mono", rate, frame_size=stream.codec_context.frame_size or None
        )
        frame = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), format="fltp", layout="mono")
        frame.rate, frame.pts = rate, 0
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))


def write(path):
    """A second of 440 Hz, as whatever the name says."""
    end = path.suffix[1:]
    path.parent.mkdir(parents=True, exist_ok=True)
    if end in PLAIN:
        soundfile.write(path, TONE, RATE, format=PLAIN[end])
    elif end == "opus":
        soundfile.write(path, TONE, RATE, format="OGG", subtype="OPUS")
    elif end in (
        "amr",
        "awb",
    ):  # for which there is no coder here: frames of the highest rate, which sound like something
        head, first, rest = (b"#!AMR\n", 0x3C, 31) if end == "amr" else (b"#!AMR-WB\n", 0x44, 60)
        random = np.random.default_rng(0)
        path.write_bytes(head + b"".join(bytes([first]) + random.bytes(rest) for _ in range(50)))
    else:
        coded(path, *CODED[end])
    return path


@pytest.mark.parametrize("suffix", sorted(data.EXTENSIONS))
def test_every_sound_that_is_found_can_be_read(tmp_path, suffix):
    path = write(tmp_path / "class" / f"a{suffix}")
    write(tmp_path / "class" / "b.wav"), write(tmp_path / "other" / "c.wav")
    assert next(clip.path for clip in data.find_clips([tmp_path])) == str(path)
    assert read_labelled(tmp_path).clips[0].path == str(path)
    wave = audio.load_waveform(path, notices=[])
    assert abs(len(wave) / 16000 - 1) < 0.2
    if suffix not in (".amr", ".awb"):
        power = np.abs(np.fft.rfft(wave[4000:12000].numpy() * np.hanning(8000)))
        assert abs(power.argmax() * 2 - 440) <= 2, "the tone, in Hz"


@pytest.mark.parametrize("end", ["g722", "gsm"])
def test_what_says_nothing_of_itself_is_no_sound(tmp_path, end):
    """Raw G.722 and GSM, as ffmpeg writes them: nothing in them tells what they are, so that no reader can be sure."""
    rate = {"g722": RATE, "gsm": 8000}[end]
    path = tmp_path / f"a.{end}"
    coder = {"g722": "g722", "gsm": "libgsm"}[end]
    words = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", f"sine=d=1:r={rate}", "-c:a", coder, "-f", end, str(path)]
    subprocess.run(words, check=True)
    with pytest.raises(audio.AudioError, match="cannot be decoded"):
        audio.load_waveform(path)
    passed = Passed()
    write_clips(tmp_path, 1)
    assert len(data.find_clips([tmp_path], passed)) == 1
    assert passed.counts == {folders.NO_SOUND: 1}


def test_hidden_files_are_no_sounds_for_anybody(tmp_path):
    for name in ("a", "b"):
        for path in write_clips(tmp_path / name, 4):
            (path.parent / f"._{path.name}").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X        " + bytes(200))
    write_clips(tmp_path / ".Trash" / "a", 3)
    passed, also = Passed(), Passed()
    found = data.find_clips([tmp_path], passed)
    assert len(found) == 8
    assert [*read_labelled(tmp_path, passed=also).clips] == found
    assert passed.counts == also.counts == {folders.HIDDEN: 9}
    with tarfile.open(tmp_path / "a.tar", "w") as shard:
        shard.add(tmp_path / "a", "./a")
    packed = Passed()
    assert [clip.member for clip in data.find_clips([tmp_path / "a.tar"], packed)] == [
        f"./a/{i:03}.flac" for i in range(4)
    ]
    assert packed.counts == {folders.HIDDEN: 4}
    assert len(data.find_clips([tmp_path / ".Trash"])) == 3, "what is named itself is not hidden"


def test_links_are_followed_and_loops_are_not(tmp_path):
    store = [write_clips(tmp_path / "store" / name, 4) for name in ("a", "b")]
    links = tmp_path / "links"
    links.mkdir()
    for name in ("a", "b"):
        (links / name).symlink_to(tmp_path / "store" / name)
    (tmp_path / "store" / "b" / "up").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "a" / "again").symlink_to(tmp_path / "store" / "a")
    (links / "a" / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    (links / "a" / "round.wav").symlink_to(links / "a" / "round.wav")
    passed = Passed()
    found = data.find_clips([links], passed)
    own = [clip.path for clip in found if "up" not in clip.path.split(os.sep)]
    assert own == [str(links / path.parent.name / path.name) for paths in store for path in paths]
    assert passed.counts[folders.NO_FILE] >= 2
    assert passed.counts[folders.LOOP] == 3
    assert read_labelled(links).labels == ("a", "b")
    train, held_out = data.split(found, 3)
    assert not {os.path.realpath(clip.path) for clip in train} & {os.path.realpath(clip.path) for clip in held_out}


def test_a_pipe_named_like_a_sound_or_an_archive_holds_nobody_up(tmp_path):
    write_clips(tmp_path / "a", 2)
    for name in ("a/x.wav", "a/x.tar", "a/x.parquet", "a/x.csv"):
        os.mkfifo(tmp_path / name)
    script = (
        "import sys\nfrom ssast_lab import data\npassed = data.Passed()\n"
        "print(len(data.find_clips([sys.argv[1]], passed)), passed.counts)\n"
        "for name in ('x.tar', 'x.parquet', 'x.csv'):\n"
        "    try: data.find_clips([f'{sys.argv[1]}/a/{name}'])\n"
        "    except data.DataError as error: print(error)\n"
    )
    words = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=True)
    first, *others = done.stdout.splitlines()
    assert first == f"2 {{{folders.NO_FILE!r}: 4}}"
    assert len(others) == 3
    assert all("is no regular file" in line for line in others)


def test_what_is_passed_over_is_counted_and_said_once(tmp_path):
    (first, *_) = write_clips(tmp_path / "a", 3)
    for name in ("notes.txt", "b.tar.xz", "c.zip", "a/license"):
        (tmp_path / name).write_bytes(b"x")
    with tarfile.open(tmp_path / "s.tar", "w") as shard:
        shard.add(first, "one.flac")
        linked = tarfile.TarInfo("two.flac")
        linked.type, linked.linkname = tarfile.LNKTYPE, "one.flac"
        shard.addfile(linked)
        shard.addfile(tarfile.TarInfo("one.json"), io.BytesIO())
    passed = Passed()
    assert len(data.find_clips([tmp_path], passed)) == 4
    assert passed.counts == {folders.IS_PACKED: 2, folders.NO_SOUND: 3, "hard-linked in a shard": 1}
    script = "import sys\nfrom ssast_lab import data\nfor _ in range(2): print(len(data.find_clips(sys.argv[1:])))"
    words = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout == "4\n4\n"
    assert done.stderr == f"Passed over in {tmp_path}: {passed}.\n"
    with pytest.raises(data.DataError, match=r"b.tar.xz is packed: unpack it"):
        data.find_clips([tmp_path / "b.tar.xz"])
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "s.tar").unlink()
    with pytest.raises(
        data.DataError, match=r"No sound was found in .*: there were 2 packed \(such as .*tar.xz: unpack it"
    ):
        data.find_clips([tmp_path])


def test_a_folder_that_cannot_be_opened_is_said(tmp_path):
    write_clips(tmp_path / "open", 2)
    write_clips(tmp_path / "closed", 2)
    (tmp_path / "closed").chmod(0)
    script = (
        "import os, sys\nfrom ssast_lab.data import folders, Passed\nif os.geteuid() == 0: os.setuid(65534)\n"
        "passed = Passed()\nos.chdir(sys.argv[1])\nprint(len([*folders.walk('.', passed)]), passed)"
    )
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o055)  # for the one who is not the owner
    words = [sys.executable, "-c", script, str(tmp_path)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=True)
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert done.stdout == f"2 1 {folders.CLOSED} (./closed: Permission denied)\n"


def test_a_name_that_is_no_utf_8_is_found_and_printed_escaped(tmp_path):
    (path,) = write_clips(tmp_path / "a", 1)
    os.rename(path, os.path.join(os.fsencode(tmp_path), b"caf\xe9.flac"))
    (tmp_path / "new\nline.txt").touch()
    (tmp_path / os.fsdecode(b"\xff.txt")).touch()
    passed = Passed()
    (clip,) = data.find_clips([tmp_path], passed)
    assert len(audio.load_waveform(clip.open())) > 1000
    assert str(passed).isprintable()
    assert r"new\nline.txt" in str(passed)
