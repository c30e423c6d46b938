"""A sound is the same however it is given: a path, bytes, an open file, an array; and what was done to it is reported."""

import io
import shutil
import subprocess

import av
import numpy as np
import pytest
import soundfile
import torch

from ssast_lab import audio
from ssast_lab.audio import AudioError, AudioWarning

RATE = 44_100


@pytest.fixture(scope="module")
def stereo():
    """(N, 2) float32"""
    t = np.arange(2 * RATE) / RATE
    left, right = 0.3 * np.sin(2 * np.pi * 440 * t), 0.2 * np.sin(2 * np.pi * 660 * t + 1)
    return np.stack((left, right), axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def path(stereo, tmp_path_factory):
    path = tmp_path_factory.mktemp("sounds") / "stereo.wav"
    soundfile.write(path, stereo, RATE, subtype="FLOAT")
    return path


def test_every_way_to_give_a_sound_gives_the_same(stereo, path):
    content = path.read_bytes()
    expected = audio.load_waveform(path)
    ways = [
        (str(path), None), (content, None), (bytearray(content), None), (memoryview(content), None), (io.BytesIO(content), None),
        (stereo, RATE), (stereo.T, RATE), (torch.from_numpy(stereo), RATE), (torch.from_numpy(stereo.T.copy()), RATE),
        (stereo.astype(np.float64), RATE), (torch.from_numpy(stereo).requires_grad_(), RATE), (stereo[:, :], np.int64(RATE)),
    ]  # fmt: skip
    for sound, rate in ways:
        torch.testing.assert_close(audio.load_waveform(sound, rate=rate), expected, rtol=0, atol=1e-6)
    with path.open("rb") as file:
        torch.testing.assert_close(audio.load_waveform(file), expected, rtol=0, atol=0)
    for channel, number in (("left", 0), ("right", 1)):
        assert torch.equal(audio.load_waveform(path, channel=channel), audio.load_waveform(path, channel=number))
    for channel in (0, 1, "loudest"):
        torch.testing.assert_close(
            audio.load_waveform(stereo.T, channel=channel, rate=RATE), audio.load_waveform(path, channel=channel), rtol=0, atol=1e-6
        )  # fmt: skip
    crop = dict(offset=0.4, duration=0.7)
    torch.testing.assert_close(
        audio.load_waveform(stereo, **crop, rate=RATE), audio.load_waveform(path, **crop), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("kind", ["uint8", "int8", "int16", "int32", "float16"])
def test_numbers_of_every_kind(kind, stereo):
    mono = stereo[:, 0]
    scale = {"uint8": 127, "int8": 127, "int16": 2**15 - 1, "int32": 2**31 - 1, "float16": 1}[kind]
    given = (mono.astype(np.float64) * scale + (128 if kind == "uint8" else 0)).astype(kind)
    heard = audio.load_waveform(given, rate=RATE)
    expected = audio.load_waveform(mono, rate=RATE)
    assert float((heard - expected).abs().max()) < (0.02 if "8" in kind else 1e-3)
    torch.testing.assert_close(audio.load_waveform(torch.from_numpy(given), rate=RATE), heard, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("array", "rate", "word"),
    [
        (np.zeros(8000, np.float32), None, "rate=48000"),
        (np.zeros(8000, np.float32), 16_000.5, "whole number"),
        (np.zeros(8000, np.float32), 0, "whole number"),
        (np.zeros(8000, np.int64), 16_000, "int64"),
        (np.zeros(8000, bool), 16_000, "bool"),
        (np.zeros(8000, np.complex64), 16_000, "complex64"),
        (np.zeros((3, 2, 8000), np.float32), 16_000, r"\(3, 2, 8000\)"),
        (np.zeros((1000, 1000), np.float32), 16_000, "which axis has the channels"),
        (np.zeros((20, 30), np.float32), 16_000, "which axis has the channels"),
        (np.zeros((0, 8000), np.float32), 16_000, "which axis has the channels"),
        (np.float32(3), 16_000, "."),
        (np.zeros(100, np.float32), 16_000, "analysis window"),
        (np.zeros(0, np.float32), 16_000, "no samples"),
        (np.full(8000, np.nan, np.float32), 16_000, "not a finite number"),
        (b"", None, "empty"),
        (b"dear reader\n" * 100, None, "."),
        (b"RIFF", 16_000, "Only an array needs its rate"),
        (3, None, "is no sound; give the path"),
        (None, None, "is no sound; give the path"),
        ({"array": [0.0] * 9}, None, "^Something of type dict is no sound; give the path"),
    ],
    ids=lambda value: str(getattr(value, "shape", value))[:20],
)
def test_what_is_no_sound_is_refused_in_a_sentence(array, rate, word):
    with pytest.raises(AudioError, match=word) as caught:
        audio.load_waveform(array, rate=rate)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_the_report_says_what_was_done(path, stereo, tmp_path):
    wave, report = audio.load_with_report(path, offset=0.5, duration=1.0)
    assert torch.equal(wave, audio.load_waveform(path, offset=0.5, duration=1.0))
    assert (report.sample_rate, report.channels, report.bits, report.channel) == (RATE, 2, 32, "the mean of 2")
    assert (report.seconds, report.used) == (2.0, (0.5, 1.5))
    for part in (
        "44100 Hz, 2 channels, 32 bits",
        "the mean of 2",
        "0.50 to 1.50 of 2.00 s",
        "1.00 s left out",
        "resampled from 44100",
    ):
        assert part in str(report)
    _, whole = audio.load_with_report(stereo[:, 0], rate=16_000)
    assert (whole.channels, whole.channel, whole.bits, whole.format) == (1, "as it is", 32, "array, float32")
    assert "resampled" not in str(whole)
    for subtype, bits in (("PCM_16", 16), ("PCM_24", 24), ("PCM_U8", 8), ("ALAW", 8)):
        soundfile.write(tmp_path / "x.wav", stereo, RATE, subtype=subtype)
        assert audio.load_with_report(tmp_path / "x.wav")[1].bits == bits
    soundfile.write(tmp_path / "x.ogg", stereo, RATE)
    assert audio.load_with_report(tmp_path / "x.ogg")[1].bits is None
    soundfile.write(tmp_path / "x.flac", stereo, RATE, subtype="PCM_24")
    assert audio.load_with_report(tmp_path / "x.flac")[1].bits == 24


def test_what_should_be_known_stands_in_the_report(stereo):
    cancelling = np.stack((stereo[:, 0], -stereo[:, 0]))
    _, report = audio.load_with_report(cancelling, rate=RATE)
    (notice,) = report.notices
    assert "loses everything" in str(notice)
    with pytest.warns(AudioWarning, match="loses everything"):
        audio.load_waveform(cancelling, rate=RATE)


def test_features_of_a_file(path):
    expected = audio.log_mel(audio.load_waveform(path))
    for sound in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        assert torch.equal(audio.log_mel(sound), expected)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg writes the file")
def test_a_title_in_another_encoding_is_no_obstacle(path, tmp_path):
    for coder, name in (("libvorbis", "old.ogg"), ("flac", "old.mka")):
        title = b"title=L\xe4rche"  # Latin-1, which is no UTF-8
        arguments = ["-i", path, "-metadata", title, "-metadata:s:a:0", title, "-c:a", coder, tmp_path / name]
        subprocess.run(["ffmpeg", "-v", "error", *arguments], check=True)
        assert b"L\xe4rche" in (tmp_path / name).read_bytes()
        assert len(audio.load_waveform(tmp_path / name)) == len(audio.load_waveform(path))


def test_an_ogg_whose_headers_come_twice_is_read(path, tmp_path):
    """Libav refuses such a file, which some old programs have written; libsndfile reads it."""
    wave, file = audio.load_waveform(path).numpy(), tmp_path / "twice.ogg"
    soundfile.write(file, wave, 16_000, format="OGG", subtype="VORBIS")
    expected = torch.from_numpy(soundfile.read(file, dtype="float32")[0])
    pages = [*_pages(file.read_bytes())]
    first = next(number for number, (_, granule, _) in enumerate(pages) if granule > 0)  # the first with sound
    assert [granule for _, granule, _ in pages[:first]] == [0] * first
    again = [(0, granule, packets) for _, granule, packets in pages[:first]]
    file.write_bytes(
        b"".join(_page(*page, number) for number, page in enumerate([*pages[:first], *again, *pages[first:]]))
    )
    with pytest.raises(av.error.InvalidDataError), av.open(str(file)):
        pass
    found = audio.load_waveform(file)
    assert len(found) == len(expected) == round(16_000 * audio.info(file).seconds)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(audio.load_waveform(file, 1.0, 1.0), found[16_000:32_000], rtol=0, atol=1e-4)


def _pages(content):
    """(flags, granule, lengths and bytes of its packets) of each page of an Ogg stream (RFC 3533)."""
    place = 0
    while place < len(content):
        flags, granule, segments = content[place + 5], content[place + 6 : place + 14], content[place + 26]
        begin = place + 27 + segments
        end = begin + sum(content[place + 27 : begin])
        yield flags, int.from_bytes(granule, "little", signed=True), content[place + 26 : end]
        place = end


def _page(flags, granule, packets, number):
    head = (
        b"OggS\0" + bytes([flags]) + granule.to_bytes(8, "little", signed=True) + b"LARK" + number.to_bytes(4, "little")
    )
    checksum = 0
    for byte in head + bytes(4) + packets:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1 ^ 0x04C11DB7 * (checksum >> 31)) & 0xFFFFFFFF
    return head + checksum.to_bytes(4, "little") + packets
