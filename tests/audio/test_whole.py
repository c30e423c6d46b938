"""A sound is read whole and in its place, whatever its header says and its bytes suffered: against ffmpeg's own decoding, or
the samples that were written."""

import io
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import soundfile
import soxr
import torch

from ssast_lab import audio, data
from ssast_lab.audio import AudioError, AudioWarning, info, load_waveform

RATE = 44100


def ffmpeg(*words) -> bytes:
    run = ["ffmpeg", "-v", "error", "-y", *map(str, words)]
    return subprocess.run(run, check=True, capture_output=True, stdin=subprocess.DEVNULL).stdout


def decoded(path) -> np.ndarray:
    """(S,) at 16 kHz, what ffmpeg makes of a file with one channel at 44.1 or 48 kHz."""
    rate = 48000 if path.suffix in (".opus", ".webm") else 16000 if path.suffix == ".spx" else RATE
    run = ["ffmpeg", "-v", "quiet", "-i", str(path), "-map", "0:a:0", "-f", "f32le", "-"]
    raw = subprocess.run(run, capture_output=True, check=False, stdin=subprocess.DEVNULL).stdout
    samples = np.frombuffer(raw[: len(raw) // 4 * 4], "<f4")
    return soxr.resample(samples, rate, 16000, quality="HQ") if rate != 16000 else samples


def heard(path, *crop, **choices) -> tuple[np.ndarray, list[AudioWarning]]:
    notices: list[AudioWarning] = []
    return load_waveform(path, *crop, notices=notices, **choices).numpy(), notices


@pytest.fixture(scope="module")
def lively(tmp_path_factory):
    """14 s whose loudness and pitch change all the time, so that the bit rate of coders does, and no place is like another."""
    t = np.arange(14 * RATE) / RATE
    noise = np.random.default_rng(0).standard_normal(len(t))
    tone = np.sin(2 * np.pi * (300 * t + 90 * np.sin(2 * t))) * (np.sin(3 * t) > -0.3)
    path = tmp_path_factory.mktemp("lively") / "lively.wav"
    soundfile.write(path, 0.3 * tone + 0.15 * noise * (np.sin(1.7 * t) > 0.2), RATE)
    return path


CODED = {
    "v0.mp3": ["-q:a", 0], "v4.mp3": ["-q:a", 4], "v9.mp3": ["-q:a", 9], "cbr.mp3": ["-b:a", "96k"],
    "none.mp3": ["-q:a", 4, "-write_xing", 0],
    "a.ogg": ["-c:a", "libvorbis"], "a.opus": ["-c:a", "libopus"], "a.webm": ["-c:a", "libopus"], "a.mka": ["-c:a", "libvorbis"],
    "a.m4a": ["-c:a", "aac"], "a.aac": ["-c:a", "aac"], "a.wma": [], "a.ac3": [], "a.eac3": [], "a.mp2": [],
    "ima.wav": ["-c:a", "adpcm_ima_wav"], "ms.wav": ["-c:a", "adpcm_ms"], "mu.wav": ["-c:a", "pcm_mulaw"],
    "a.flac": [], "a.wv": [], "a.tta": [], "alac.m4a": ["-c:a", "alac"], "a.caf": [], "a.aiff": [], "a.au": [], "a.w64": [],
    "rf64.wav": ["-rf64", "always"], "a.mkv": ["-c:a", "pcm_s16le"], "a.avi": [], "a.ts": ["-c:a", "aac"],
    "a.flv": ["-c:a", "mp3"], "a.mov": [], "a.3gp": ["-c:a", "aac"],
}  # fmt: skip


@pytest.mark.parametrize("name", CODED)
def test_a_crop_at_any_place_is_the_wholes_and_the_whole_is_ffmpegs(lively, tmp_path, name, capfd):
    path = tmp_path / name
    ffmpeg("-i", lively, *CODED[name], path)
    truth = decoded(path)
    whole, notices = heard(path)
    assert not notices
    assert len(whole) in (len(truth), 14 * 16000)  # newer versions of libav leave out what AAC adds at the end
    tolerance = 0.03 if name == "ima.wav" else 1e-5  # of which versions of libav round differently
    assert np.abs(whole - truth[: len(whole)]).max() < tolerance
    assert abs(info(path).seconds - len(whole) / 16000) < 1e-4
    for offset in np.random.default_rng(1).uniform(0, 12.9, 6):
        begin = round(offset * 16000)
        crop, _ = heard(path, offset, 1)
        assert np.abs(crop - whole[begin : begin + 16000]).max() < 1e-5, offset
    piece = audio.load_piece(io.BytesIO(path.read_bytes()), 0.7, 20000)
    start = int(0.7 * (len(whole) - 20000 + 1))
    assert np.abs(piece.numpy() - whole[start : start + 20000]).max() < 1e-5
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", ["ogg", "opus", "flac", "mp3"])
def test_streams_that_are_joined_are_all_heard(lively, tmp_path, suffix, capfd):
    coder = {"ogg": ["-c:a", "libvorbis"], "opus": ["-c:a", "libopus"]}.get(suffix, [])
    parts = [tmp_path / f"{i}.{suffix}" for i in range(2)]
    for place, part in enumerate(parts):
        ffmpeg("-ss", 5 * place, "-t", 5 + place, "-i", lively, *coder, part)
    path = tmp_path / f"joined.{suffix}"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    whole, notices = heard(path)
    if suffix == "flac":  # of which ffmpeg's command line loses a little
        both = np.concatenate([soundfile.read(part, dtype="float32")[0] for part in parts])
        expected = soxr.resample(both, RATE, 16000, quality="HQ")
    else:
        expected = decoded(path)
    assert len(whole) == len(expected) >= 11 * 16000
    same = np.abs(whole - expected)
    same[79000:82000] = 0  # at the seam, versions of libav differ
    assert same.max() < 1e-5
    assert abs(info(path, notices=[]).seconds - len(whole) / 16000) < 1e-4
    crop, _ = heard(path, 8, 1)
    assert np.abs(crop - whole[128000:144000]).max() < 1e-5
    if suffix in ("flac", "mp3"):  # whose headers tell the length of the first part
        assert notices[0].promised == pytest.approx(5, abs=0.1)
        assert notices[0].found == pytest.approx(11, abs=0.1)
    assert capfd.readouterr().err == ""


def lying(path, label: bytes, length: bytes) -> None:
    """Writes another length after a label of the header."""
    content = bytearray(path.read_bytes())
    place = content.index(label) + len(label)
    content[place : place + len(length)] = length
    path.write_bytes(content)


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE", "ULAW"])
def test_a_wav_whose_length_was_never_written(lively, tmp_path, length, subtype):
    samples, _ = soundfile.read(lively)
    soundfile.write(tmp_path / "told.wav", samples, RATE, subtype=subtype, format="WAV")
    told, _ = heard(tmp_path / "told.wav")
    path = tmp_path / "untold.wav"
    path.write_bytes((tmp_path / "told.wav").read_bytes())
    lying(path, b"data", length.to_bytes(4, "little"))
    whole, notices = heard(path)
    assert np.abs(whole[: len(told)] - told).max() < 1e-6
    assert len(whole) - len(told) < 16  # what follows the samples can no longer be told from them
    assert "tells no length" in str(notices[0])
    crop, _ = heard(path, 12, 1)
    assert np.abs(crop - told[192000:208000]).max() < 1e-5
    assert abs(info(path, notices=[]).seconds - 14) < 1e-3


def test_a_wav_of_more_than_four_gigabytes(tmp_path):
    """Its length has 32 bits, of which the upper ones are lost. The file has a hole and takes no room."""
    path, extra = tmp_path / "long.wav", 80_000_000
    size = (1 << 32) + extra
    soundfile.write(path, np.zeros(16), 8000, "FLOAT")
    head = path.read_bytes()
    first = head.index(b"data") + 8
    tone = (0.5 * np.sin(np.arange(16000) / 5)).astype("<f4")
    with path.open("r+b") as file:
        file.truncate(first + size)
        file.seek(first + size - tone.nbytes)
        file.write(tone.tobytes())
    with path.open("r+b") as file:
        file.seek(first - 4)
        file.write(extra.to_bytes(4, "little"))
    notices: list[AudioWarning] = []
    assert info(path, notices).seconds == size / 4 / 8000
    crop = load_waveform(path, size / 4 / 8000 - 1.5, 1.0, notices=notices).numpy()
    truth = soxr.resample(np.concatenate((np.zeros(8000, np.float32), tone)), 8000, 16000, quality="HQ")
    assert np.abs(crop - truth[24000:40000]).max() < 1e-3


CUT = [name for name in CODED if name not in ("a.m4a", "alac.m4a", "a.mov", "a.3gp")]  # whose index lies at their end
SILENT_CUT = ("none.mp3", "a.aac", "a.ts", "a.flv", "a.avi", "a.mka")  # which promise nothing
WITHIN = ("a.mp2", "a.ac3", "a.eac3")  # of which only a last frame that is not whole tells


@pytest.mark.parametrize("name", CUT)
def test_half_a_download_is_read_and_said(lively, tmp_path, name, capfd):
    ffmpeg("-i", lively, *CODED[name], tmp_path / f"whole-{name}")
    path = tmp_path / name
    content = (tmp_path / f"whole-{name}").read_bytes()
    path.write_bytes(content[: len(content) // 2 + (100 if name in WITHIN else 0)])
    whole, _ = heard(tmp_path / f"whole-{name}")
    half, notices = heard(path)
    assert len(whole) * 0.3 < len(half) < len(whole) * 0.7
    kept = len(half) - 3200
    assert np.abs(half[:kept] - whole[:kept]).max() < 1e-4
    assert abs(info(path, notices=[]).seconds - len(half) / 16000) < 1e-4
    crop, _ = heard(path, 2.3, 1)
    assert np.abs(crop - half[36800:52800]).max() < 1e-5
    if name not in SILENT_CUT:
        assert notices, "nothing is said"
        assert notices[0].found == pytest.approx(len(half) / 16000, abs=1e-3)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("place", [0.25, 0.5, 0.8])
@pytest.mark.parametrize(
    "name",
    [
        "a.flac",
        "a.ogg",
        "a.opus",
        "v4.mp3",
        "a.mka",
        "a.webm",
        "a.wv",
        "a.tta",
        "a.m4a",
        "a.aac",
        "a.wma",
        "a.ac3",
        "a.eac3",
    ],
)
def test_what_follows_a_damaged_place_keeps_its_time(lively, tmp_path, name, place):
    ffmpeg("-i", lively, *CODED[name], tmp_path / f"whole-{name}")
    path = tmp_path / name
    content = bytearray((tmp_path / f"whole-{name}").read_bytes())
    begin = int(len(content) * place)
    for i in range(begin, begin + 60):
        content[i] ^= 0x55
    path.write_bytes(content)
    sound, _ = heard(tmp_path / f"whole-{name}")
    damaged, notices = heard(path)
    if name != "a.mka" or place < 0.8:  # where what is left of the file is lost
        assert abs(len(damaged) - len(sound)) < {"a.mka": 48, "a.webm": 48, "v4.mp3": 900}.get(name, 16)
        template = sound[-20000:-4000]
        matches = np.correlate(damaged[len(sound) - 22000 : len(sound) - 2000], template, "valid")
        assert abs(int(matches.argmax()) - 2000) < 48
        if name in ("a.flac", "a.ogg", "v4.mp3", "a.wv", "a.tta"):
            assert np.abs(damaged[len(sound) - 20000 : len(sound) - 4000] - template).max() < 1e-3
    for damage in (False, True):
        assert abs(info(path, said := [], damage).seconds - len(damaged) / 16000) < 1e-4
    assert [*map(str, said)] == [*map(str, notices)]  # what loading tells, too
    for offset in (1.0, 6.5, len(damaged) / 16000 - 1.5):
        crop, _ = heard(path, offset, 1)
        begin = round(offset * 16000)
        assert np.abs(crop - damaged[begin : begin + 16000]).max() < 1e-5
    if name in ("a.flac", "a.ogg", "a.opus", "a.wv", "a.tta", "a.ac3", "a.eac3"):  # which carry checksums
        assert "damaged" in " ".join(map(str, notices))


@pytest.mark.parametrize("junk", [b"junk!" * 300, bytes(5000), b"\xff\xe4" + b"junk" * 1000])
@pytest.mark.parametrize("name", ["v4.mp3", "cbr.mp3"])
def test_junk_around_an_mp3(lively, tmp_path, name, junk, capfd):
    """It costs no sound and no time. Libav alone would hear what the coder put before the sound as well, 1,105 samples."""
    ffmpeg("-i", lively, *CODED[name], tmp_path / "a.mp3")
    clean, content = heard(tmp_path / "a.mp3")[0], (tmp_path / "a.mp3").read_bytes()
    path = tmp_path / "junk.mp3"
    for changed in (junk + content, content + junk + b"\xff\xfb\x98\x64" * 400):
        path.write_bytes(changed)
        whole, _ = heard(path)
        more = 1 if changed.startswith(junk) else 1152  # what the coder put after the sound may be heard
        assert 0 <= len(whole) - len(clean) < more
        assert np.abs(whole[: len(clean)] - clean).max() < 1e-5
        assert abs(info(path, notices=[]).seconds - len(whole) / 16000) < 1e-4
        crop, _ = heard(path, 10, 1)
        assert np.abs(crop - whole[160000:176000]).max() < 1e-5
    assert capfd.readouterr().err == ""


def test_channels_that_cancel_each_other(lively, tmp_path):
    left, _ = soundfile.read(lively)
    soundfile.write(tmp_path / "inverted.wav", np.stack((left, -left), 1), RATE)
    soundfile.write(tmp_path / "one of eight.wav", np.stack([0 * left] * 5 + [left] + [0 * left] * 2, 1), RATE)
    soundfile.write(tmp_path / "stereo.wav", np.stack((left, 0.7 * left), 1), RATE)
    alone, _ = heard(lively)
    cancelled, notices = heard(tmp_path / "inverted.wav")
    assert not cancelled.any()
    assert "loses everything" in str(notices[0])
    _, notices = heard(tmp_path / "one of eight.wav")
    assert (
        "18.1 dB against the loudest of them, number 5: save that one alone as a file, or name it in Python by channel=5."
        in str(notices[0])
    )
    for choice in (5, "loudest"):
        chosen, notices = heard(tmp_path / "one of eight.wav", channel=choice)
        assert not notices
        assert np.abs(chosen - alone).max() < 1e-4
    assert not heard(tmp_path / "stereo.wav")[1]
    for wrong in (8, -1, True, "left"):
        with pytest.raises(AudioError, match="has no channel"):
            load_waveform(tmp_path / "one of eight.wav", channel=wrong)


def test_a_sound_beyond_the_models_band(tmp_path):
    t = np.arange(384000) / 384000
    soundfile.write(tmp_path / "bat.wav", 0.1 * np.sin(2 * np.pi * 45000 * t), 384000)
    soundfile.write(tmp_path / "both.wav", 0.1 * np.sin(2 * np.pi * 45000 * t) + 0.02 * np.sin(9000 * t), 384000)
    soundfile.write(tmp_path / "silent.wav", 0 * t + 0.1, 384000)
    assert "above 8 kHz" in str(heard(tmp_path / "bat.wav")[1][0])
    assert not heard(tmp_path / "both.wav")[1]
    assert not heard(tmp_path / "silent.wav")[1]


def test_a_warning_is_given_where_nobody_collects_and_survives_a_pickle(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.ones(32000) / 4, 16000)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:40044])
    with pytest.warns(AudioWarning, match=r"cut.wav' was cut short: .* 2.00 s .* 1.25 s") as caught:
        load_waveform(tmp_path / "cut.wav")
    said = caught[0].message
    assert (said.promised, said.found, said.file) == (2, 1.25, str(tmp_path / "cut.wav"))
    again = pickle.loads(pickle.dumps(said))
    assert (str(again), again.promised, again.found, again.about("it")) == (str(said), 2, 1.25, said.about("it"))


def test_a_long_sound_needs_no_more_than_twice_its_result(tmp_path):
    """Half an hour in six channels at 48 kHz, of which 115 MB of sound at 16 kHz are made."""
    path = tmp_path / "long.flac"
    ffmpeg("-f", "lavfi", "-i", "anoisesrc=a=0.001:r=48000", "-t", 1800, "-ac", 6, path)
    script = (
        "import resource, sys, torch\nfrom ssast_lab import audio\naudio.load_waveform(sys.argv[1], 0, 1)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nwave = audio.load_waveform(sys.argv[1], notices=[])\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / (4 * len(wave)))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 2


@pytest.mark.parametrize("name", ["a.flac", "a.mp3", "a.wav", "a.ogg"])
@pytest.mark.parametrize("rate", [16000, 44100, 11025])
def test_blocks_are_the_waveform(tmp_path, name, rate):
    t = np.arange(int(21.3 * rate)) / rate
    stereo = np.stack([0.3 * np.sin(2 * np.pi * 440 * t * (1 + t / 30)), 0.1 * np.sin(1000 * t)], 1)
    soundfile.write(tmp_path / name, stereo, rate)
    whole, said = heard(tmp_path / name)
    notices = []
    blocks = [*audio.waveform_blocks(tmp_path / name, notices=notices)]
    np.testing.assert_array_equal(torch.cat(blocks), whole)
    assert [str(one) for one in notices] == [str(one) for one in said]
    assert len(blocks) > 1


def test_an_array_is_the_file_that_it_was_read_from(tmp_path):
    path = audio.builtin_sounds()["tabla"]["path"]
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    whole = load_waveform(path)
    stereo = np.stack([samples[:, 0], 0.5 * samples[:, 0]], 1)
    for array, factor in ((samples[:, 0], 1), (samples.T, 1), (stereo, 0.75), (torch.from_numpy(stereo.T), 0.75)):
        np.testing.assert_allclose(torch.cat([*audio.waveform_blocks(array, rate)]), factor * whole, atol=1e-6)
    whole_numbers = (samples[:, 0] * 32768).round().clip(-32768, 32767).astype(np.int16)
    np.testing.assert_allclose(torch.cat([*audio.waveform_blocks(whole_numbers, rate)]), whole, atol=1e-4)


@pytest.mark.parametrize(
    ("samples", "rate", "word"),
    [
        (np.zeros(8000), None, "rate=48000"),
        (np.zeros(8000), 48, "from 1000"),
        (np.zeros((2, 3, 4)), 16000, "of the shape"),
        (np.zeros((200, 300)), 16000, "1 to 64"),
        (np.full(8000, np.nan), 16000, "not a finite number"),
        (np.zeros(80), 16000, "only 5.0 ms"),
        (np.zeros(0), 16000, "no samples"),
        (np.array(["a"]), 16000, "array of <U1"),
    ],
)
def test_an_array_that_is_no_sound_gets_a_sentence(samples, rate, word):
    with pytest.raises(audio.AudioError, match=word) as told:
        [*audio.waveform_blocks(samples, rate)]
    assert "{file}" not in str(told.value)


@pytest.mark.parametrize("corpus", [data.Files, data.Memory])
def test_a_corpus_collects_what_is_said_of_its_clips(tmp_path, corpus):
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 32000), 16000)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:40044])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clips = corpus(data.find_clips([tmp_path]), 16000)
        batch = data.Plan(clips, 2, 0)[0]
    said = batch.noticed or clips.noticed
    assert list(said) == [str(tmp_path / "cut.wav")]
    assert "promises 2.00 s" in said[str(tmp_path / "cut.wav")]
    assert isinstance(batch.waveforms, torch.Tensor)
