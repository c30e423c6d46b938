"""Sound in, features out: decoding against the signal that was encoded, features against torchaudio's Kaldi."""

import io
import math
import os
import pickle
import subprocess
import sys

import av
import numpy as np
import pytest
import soundfile
import torch
from torchaudio.compliance import kaldi

from ssast_lab import audio
from ssast_lab.audio import AudioError, info, kaldi_fbank, load_waveform, log_mel
from ssast_lab.config import AudioConfig
from ssast_lab.patches import mel_edges

pytestmark = pytest.mark.filterwarnings("error")


def voice(rate: int, seconds: float = 2.0, channels: int = 1) -> np.ndarray:
    """(frames, channels): harmonics of a gliding pitch, all below 2 kHz so that any rate and codec keeps them. The
    channels differ in their loudness, whose mean is 1."""
    t = np.arange(round(rate * seconds)) / rate
    phase = 2 * np.pi * (120 * t + 15 * np.sin(3 * t))
    mono = sum(np.sin(k * phase) / k for k in range(1, 12)) * (0.12 + 0.08 * np.sin(4 * t))
    return mono[:, None] * np.linspace(0.5, 1.5, channels + 2)[1:-1]


def encode(path, sound: np.ndarray, rate: int, codec: str, container: str, options=None, quality: int = 0) -> None:
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[sound.shape[1]]
    with av.open(str(path), "w", format=container, options=options or {}) as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        if quality:  # and the bit rate follows the sound
            stream.codec_context.qscale, stream.codec_context.global_quality = True, quality * 118
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound.T, np.float32), format="fltp", layout=layout)
        frame.rate, frame.pts = rate, 0
        resampler = av.AudioResampler(format=stream.format, layout=layout, rate=rate)
        for piece in [*resampler.resample(frame), *resampler.resample(None), None]:
            out.mux(stream.encode(piece))


@pytest.fixture(scope="module")
def signals() -> dict[str, torch.Tensor]:
    t = torch.arange(32000, dtype=torch.float64) / 16000
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(32000, generator=generator)
    found = {
        "voice": torch.from_numpy(voice(16000)[:, 0]),
        "music": sum(torch.sin(2 * math.pi * f * t) for f in (220, 277.2, 329.6, 440)) * torch.exp(-2 * (t % 0.5)) / 5,
        "noise": 0.1 * noise,
        "whisper": 1e-5 * noise,
        "silence": 0 * t,
        "offset": 0.3 * torch.sin(1900 * t) + 0.5,
        "chirp": 0.5 * torch.sin(2 * math.pi * (50 * t + 1900 * t * t)),
        "clicks": (torch.arange(32000) % 3777 == 9) * 0.9,
        "sine 60": torch.sin(2 * math.pi * 60 * t),
        "sine 1k": 0.9 * torch.sin(2 * math.pi * 1000 * t),
        "sine 7k": 0.9 * torch.sin(2 * math.pi * 7000 * t),
    }
    return {name: signal.float() for name, signal in found.items()}


def reference(waveform: torch.Tensor, mel_bins: int = 128) -> torch.Tensor:
    return kaldi.fbank(
        waveform[None],
        htk_compat=True,
        sample_frequency=16000,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=mel_bins,
        dither=0.0,
        frame_shift=10,
    )


# --- features -----------------------------------------------------------------------------------------------------


def test_fbank_is_torchaudios_clip_by_clip(signals):
    batch = torch.stack(list(signals.values()))
    features = kaldi_fbank(batch)
    assert features.dtype == torch.float32
    assert features.shape == (len(batch), 198, 128)
    for name, waveform, ours in zip(signals, batch, features, strict=True):
        difference = (ours - reference(waveform)).abs()
        assert max(100 * difference.mean(), difference.max()) < 1e-4, name
    assert torch.equal(features[4], torch.full_like(features[4], math.log(torch.finfo(torch.float32).eps)))


@pytest.mark.parametrize("samples", [400, 559, 560, 16000, 100_000])
def test_batch_equals_single_clips_at_every_length(samples):
    batch = torch.randn(7, samples, generator=torch.Generator().manual_seed(samples))
    features = kaldi_fbank(batch)
    assert features.shape[1] == audio.OFFICIAL.frames_of(samples) == len(reference(batch[0]))
    torch.testing.assert_close(features, torch.stack([kaldi_fbank(clip) for clip in batch]), rtol=0, atol=5e-6)
    torch.testing.assert_close(features[6], reference(batch[6]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("mel_bins", [40, 64])
def test_other_numbers_of_mel_bins(signals, mel_bins):
    torch.testing.assert_close(
        kaldi_fbank(signals["voice"], AudioConfig(mel_bins)), reference(signals["voice"], mel_bins), rtol=0, atol=1e-4
    )


def test_filters_peak_where_the_patch_grid_says():
    filters = audio.features.mel_filters(audio.OFFICIAL, torch.device("cpu"), torch.float32)
    edges, hertz = mel_edges(128), torch.arange(257) * 16000 / 512
    for m in range(128):
        support = hertz[filters[:, m] > 0]
        assert ((edges[m] - 0.1 < support) & (support < edges[m + 2] + 0.1)).all()
    assert (filters[256] == 0).all()
    assert (filters >= 0).all()


def test_training_settings_do_not_reach_the_features(signals):
    exact = kaldi_fbank(signals["music"])
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            torch.testing.assert_close(kaldi_fbank(signals["music"]), exact, rtol=0, atol=1e-5)
    finally:
        torch.set_float32_matmul_precision(before)
    assert not kaldi_fbank(signals["music"].clone().requires_grad_()).requires_grad


def test_log_mel_is_the_official_loaders(signals):
    waveform = signals["voice"] + 0.2
    features = reference(waveform - waveform.mean())
    padded = torch.nn.functional.pad(features, (0, 0, 0, 1024 - len(features)))
    official = (padded + 4.2677393) / (2 * 4.5689974)
    torch.testing.assert_close(log_mel(waveform, frames=1024), official, rtol=0, atol=1e-5)
    assert log_mel(waveform, frames=1024)[-1, 0].item() == pytest.approx(0.467, abs=1e-3)
    config = AudioConfig(mean=-6.6, std=5.4)
    torch.testing.assert_close(log_mel(waveform, config, frames=100), (features[:100] + 6.6) / 10.8, rtol=0, atol=1e-5)
    torch.testing.assert_close(audio.denormalise(log_mel(waveform, config), config), features, rtol=0, atol=1e-4)


def test_a_padded_batch_equals_its_clips(signals):
    lengths = [32000, 400, 12345]
    clips = [signals[name][:n] + 0.1 for name, n in zip(("voice", "music", "noise"), lengths, strict=True)]
    batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    for frames in (None, 50, 198, 512):
        together = log_mel(batch, frames=frames, lengths=lengths)
        for clip, ours in zip(clips, together, strict=True):
            torch.testing.assert_close(ours, log_mel(clip, frames=frames or 198), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "call",
    [
        lambda: kaldi_fbank(torch.zeros(399)),
        lambda: kaldi_fbank(torch.zeros(2, 1, 800)),
        lambda: log_mel(torch.zeros(2, 800), lengths=[800, 399]),
        lambda: log_mel(torch.zeros(2, 800), lengths=[801, 800]),
        lambda: log_mel(torch.zeros(800), lengths=[800]),
    ],
)
def test_what_has_no_features_is_refused(call):
    with pytest.raises(AudioError):
        call()


# --- decoding -----------------------------------------------------------------------------------------------------

SOUNDFILE = [("wav", "WAV", width) for width in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")] + [
    ("flac", "FLAC", "PCM_24"),
    ("ogg", "OGG", "VORBIS"),
    ("aiff", "AIFF", "PCM_16"),
]
FILES = [
    (rate, channels, *kind)
    for rate, channels in ((44100, 2), (8000, 1), (48000, 6), (96000, 1), (16000, 2))
    for kind in SOUNDFILE
]
FILES += [(44100, 2, "mp3", "MP3", "MPEG_LAYER_III"), (48000, 1, "opus", "OGG", "OPUS")]
FILES += [
    (44100, 2, "m4a", "mp4", "aac"),
    (48000, 6, "m4a", "mp4", "aac"),
    (16000, 1, "aac", "adts", "aac"),
    (48000, 2, "webm", "webm", "libopus"),
    (48000, 1, "mkv", "matroska", "flac"),
    (44100, 1, "mp4", "mp4", "alac"),
]


@pytest.mark.parametrize(("rate", "channels", "suffix", "container", "codec"), FILES)
def test_every_format_gives_the_sound_that_was_written(tmp_path, rate, channels, suffix, container, codec):
    path, sound = tmp_path / f"sound.{suffix}", voice(rate, 2.0, channels)
    if container.isupper():
        soundfile.write(path, sound, rate, codec, format=container)
    else:
        encode(path, sound, rate, codec, container)
    waveform, header = load_waveform(path), info(path)
    assert waveform.dtype == torch.float32
    assert waveform.ndim == 1
    assert (header.sample_rate, header.channels) == (rate, channels)
    lossless = codec.startswith(("PCM", "FLOAT", "DOUBLE", "flac", "alac"))
    slack = 0 if lossless else 3072 / rate  # coders with frames may add the rest of one, and a start
    assert 0 <= header.seconds - 2 <= slack
    assert 32000 <= len(waveform) <= 32000 + slack * 16000
    original = torch.from_numpy(voice(16000)[:, 0]).float()
    delay = 0  # a bare ADTS stream cannot say how late its encoder starts
    if container == "adts":
        delay = int(np.correlate(waveform[:17000].numpy(), original[:15000].numpy(), "valid").argmax())
    error = (waveform[delay:][1000:31000] - original[1000 : len(waveform) - delay][:30000]).abs()
    assert error.max() < (0.1 if not lossless else 0.02 if codec == "PCM_U8" else 2e-3)
    for offset, duration in ((0.0, 0.5), (0.7, 0.6), (1.23456, 0.5), (1.5, None)):
        begin = round(offset * 16000)
        expected = waveform[begin:] if duration is None else waveform[begin : begin + round(duration * 16000)]
        torch.testing.assert_close(load_waveform(path, offset, duration), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44099, 96000])
def test_length_is_that_of_the_file_at_16_khz(tmp_path, rate):
    for frames in (rate // 3, 12345, 12347):
        soundfile.write(tmp_path / "a.wav", voice(rate)[:frames], rate)
        assert len(load_waveform(tmp_path / "a.wav")) == round(frames * 16000 / rate)
    soundfile.write(tmp_path / "a.wav", voice(rate), rate)
    assert len(load_waveform(tmp_path / "a.wav", 0.111, 1.2345)) == round(1.2345 * 16000)
    assert len(load_waveform(tmp_path / "a.wav", 1.5, 9.0)) == 8000


def test_a_long_file_is_read_only_as_far_as_asked(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "long.wav", np.tile(voice(8000), (30, 1)), 8000)
    read, frames = soundfile.SoundFile.read, []
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda self, n, **k: frames.append(n) or read(self, n, **k))
    load_waveform(tmp_path / "long.wav", 40.0, 1.0)
    assert sum(frames) < 8000 * 1.5
    for codec, tolerance in (("alac", 1e-5), ("aac", 2e-3)):  # AAC decoders fill in noise, at random
        path = tmp_path / f"{codec}.m4a"
        encode(path, np.tile(voice(44100), (12, 1)), 44100, codec, "mp4")
        crop, whole = load_waveform(path, 19.1, 1.0), load_waveform(path)
        torch.testing.assert_close(crop, whole[305600:321600], rtol=0, atol=tolerance)
        with pytest.raises(AudioError, match=r"ends before the offset"):
            load_waveform(path, 100.0)


@pytest.mark.parametrize("seconds", [3.0, 19.01])
def test_a_crop_from_the_last_page_of_vorbis(tmp_path, seconds):
    tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(round(48000 * seconds)) / 48000)
    soundfile.write(tmp_path / "a.ogg", tone, 48000, "VORBIS", format="OGG")
    whole = load_waveform(tmp_path / "a.ogg")
    for offset in (seconds - 0.8, seconds - 0.1, seconds - 0.05):
        crop = load_waveform(tmp_path / "a.ogg", offset)
        torch.testing.assert_close(crop, whole[round(offset * 16000) :], rtol=0, atol=1e-5)


def test_an_mp3_that_does_not_tell_its_length_is_read_to_its_end(tmp_path):
    path = tmp_path / "a.mp3"
    sound = np.concatenate((np.random.default_rng(0).normal(0, 0.1, 3 * 44100), np.zeros(6 * 44100)))[:, None]
    encode(path, sound, 44100, "libmp3lame", "mp3", {"write_xing": "0"}, quality=4)
    assert soundfile.info(path).duration < 2  # a guess from the loud beginning, which takes up more bytes
    whole = load_waveform(path)
    for source in (path, io.BytesIO(path.read_bytes())):
        assert 9 <= info(source).seconds < 9.1
        assert 9 * 16000 <= len(load_waveform(source)) < 9.1 * 16000
        for offset in (0.5, 2.5):
            crop = load_waveform(source, offset, 0.5)
            torch.testing.assert_close(crop, whole[round(offset * 16000) :][:8000], rtol=0, atol=1e-5)


def test_a_flac_that_does_not_tell_its_length(tmp_path):
    soundfile.write(tmp_path / "a.flac", voice(16000), 16000)
    told = bytearray((tmp_path / "a.flac").read_bytes())
    told[21] &= 0xF0  # 36 bits hold the number of samples, and 0 means that it is not known
    told[22:26] = bytes(4)
    (tmp_path / "pipe.flac").write_bytes(told)
    assert info(tmp_path / "pipe.flac").seconds == 2
    assert torch.equal(load_waveform(tmp_path / "pipe.flac", 0.5, 1.0), load_waveform(tmp_path / "a.flac", 0.5, 1.0))
    torch.testing.assert_close(load_waveform(tmp_path / "pipe.flac"), load_waveform(tmp_path / "a.flac"))


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> dict:
    """A file for every way of being no usable sound, and a word of the sentence that says so."""
    folder = tmp_path_factory.mktemp("broken")
    found = {
        folder / "missing.wav": "no file",
        folder: "folder",
        "a\0b.wav": "no path",
        None: "is no sound",
        folder / "no" / "thing": "no file",
    }
    sound = voice(16000)

    def put(name: str, content: bytes, word: str):
        (folder / name).write_bytes(content)
        found[folder / name] = word

    def wav(name: str, samples: np.ndarray, word: str, **kinds):
        soundfile.write(folder / name, samples, 16000, **kinds)
        found[folder / name] = word

    put("empty.wav", b"", "empty")
    put("text.wav", b"This is a shopping list.\n" * 200, "decoded")
    put("-", b"a dash", "decoded")
    put("playlist.m3u8", b"#EXTM3U\n#EXTINF:2,\ntext.wav\n", "decoded")
    for suffix in ("wav", "vox", "gsm", "flac", "aac", "raw", "bin"):
        put(f"random.{suffix}", np.random.default_rng(5).bytes(20000), "")
    wav("none.wav", sound[:0], "no samples")
    wav("short.wav", sound[:399], "25 ms")
    wav("nan.wav", np.where(np.arange(32000) == 16000, np.nan, sound[:, 0]), "1.000 s", subtype="FLOAT")
    wav("inf.wav", np.where(np.arange(32000) == 16000, np.inf, sound[:, 0]), "1.000 s", subtype="DOUBLE")
    wav("huge.wav", np.where(np.arange(32000) == 16000, 1e20, sound[:, 0]), "1.000 s", subtype="FLOAT")
    put("page.mp3", b"<!DOCTYPE html><html><body>404</body></html>", "not a sound (it looks like HTML)")
    encode(folder / "a.m4a", sound, 16000, "aac", "mp4")
    wav_bytes = (folder / "short.wav").read_bytes()
    put("header.wav", wav_bytes[:30], "decoded")
    put("no\ndata \xe9 % {}.wav", wav_bytes[:44], "no samples")
    put("half.m4a", (folder / "a.m4a").read_bytes()[:9000], "decoded")
    put("slow.wav", wav_bytes[:24] + (10).to_bytes(4, "little") + wav_bytes[28:], "rate of 10 Hz")
    with av.open(str(folder / "silent film.mp4"), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(5):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        out.mux(stream.encode(None))
    found[folder / "silent film.mp4"] = "no audio stream"
    return found


def test_everything_unusable_gets_one_sentence(broken, capfd):
    for path, word in broken.items():
        with pytest.raises(AudioError) as caught:
            load_waveform(path)
        message = str(caught.value)
        assert word in message, message
        assert message.endswith("."), message
        assert not {"\n", ". "} & {message[i : i + n] for i in range(len(message)) for n in (1, 2)}, message
        assert repr(path and str(path)) in message
        if not str(path).endswith(("nan.wav", "inf.wav", "huge.wav")):  # beyond the header
            with pytest.raises(AudioError):
                info(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "name", ["zero\u200bwidth.wav", "hard\u00a0space.wav", 'it\'s "both".wav', "{file}.wav", "back\\slash.wav"]
)
def test_an_error_carries_its_file_and_can_speak_of_it_by_another_name(tmp_path, name):
    path = tmp_path / name
    path.write_text("Not a sound, but a line of text.\n" * 40)
    with pytest.raises(AudioError) as caught:
        load_waveform(path)
    assert caught.value.file == str(path)
    assert repr(str(path)) in str(caught.value)
    said = caught.value.about("the upload")
    assert said.startswith("the upload cannot be decoded as sound: it is not a sound (it looks like text)")
    assert str(tmp_path) not in said
    again = pickle.loads(pickle.dumps(caught.value))  # as from a worker of a data loader
    assert (str(again), again.file, again.about("it")) == (str(caught.value), str(path), caught.value.about("it"))


def test_an_error_of_an_open_file_says_so():
    with pytest.raises(AudioError, match=r"^The sound is empty") as caught:
        load_waveform(io.BytesIO())
    assert caught.value.file is None


@pytest.mark.parametrize(
    ("offset", "duration"),
    [
        (-1, None),
        (math.nan, None),
        ("1", 1),
        (0, 0),
        (0, 0.02),
        (0, -1),
        (0, math.inf),
        (2.0, None),
        (5.0, 1.0),
        (1.99, 1),
    ],
)
def test_impossible_crops_are_refused(tmp_path, offset, duration):
    soundfile.write(tmp_path / "a.wav", voice(44100), 44100)
    with pytest.raises(AudioError):
        load_waveform(tmp_path / "a.wav", offset, duration)


def test_digital_silence_and_odd_names_are_sound(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("-", "a:b.wav", "file:x", "ü\n%d.flac", "no suffix", "wrong.mp3", "wrong.vox", "wrong.raw"):
        soundfile.write(tmp_path / "silence.wav", np.zeros(16000), 16000)
        os.replace(tmp_path / "silence.wav", tmp_path / name)
        assert torch.equal(load_waveform(name), torch.zeros(16000)), name


def test_builtin_sounds_are_sounds():
    sounds = audio.builtin_sounds()
    for name, sound in sounds.items():
        assert info(sound["path"]).seconds == pytest.approx(sound["seconds"], abs=0.1), name
    waveform = load_waveform(next(iter(sounds.values()))["path"])
    difference = (kaldi_fbank(waveform) - reference(waveform)).abs()
    assert difference.mean() < 1e-6
    assert difference.max() < 1e-4


def test_import_is_lazy():
    code = (
        "import sys, ssast_lab.audio\n"
        "sys.exit(any(name in sys.modules for name in ('av', 'torchaudio', 'librosa', 'soxr', 'soundfile')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
