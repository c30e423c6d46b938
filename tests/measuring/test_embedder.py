"""The embedder: what it gives for real sounds of any length, and where and when each embedding belongs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny import ALONE

import ssast_lab
from ssast_lab import analysis, audio
from ssast_lab.measuring.embedder import Embedder
from ssast_lab.measuring.listener import seams, shares
from ssast_lab.measuring.upstreams import POOLINGS, UpstreamError, of_encoder, upstream
from ssast_lab.predictive import APC, APCConfig, Wav2Vec, Wav2VecConfig

SOUNDS = {name: sound["path"] for name, sound in audio.builtin_sounds().items()}
RATE = audio.SAMPLE_RATE


@pytest.fixture(scope="module")
def tiny():
    return Embedder("tiny-patch")


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """Half a minute: the built-in sounds one after the other, in stereo at 44.1 kHz."""
    waves = [audio.load_waveform(path).numpy() for path in SOUNDS.values()]
    wave = np.concatenate(waves)[: int(29.3 * RATE)]
    import soxr

    wave = soxr.resample(wave, RATE, 44100)
    path = tmp_path_factory.mktemp("long") / "long.wav"
    soundfile.write(path, np.stack([wave, wave], 1), 44100)
    return path


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("name", ["blackbird", "speech"])
def test_a_short_sounds_clip_is_what_a_probe_would_take(pooling, name):
    given = Embedder("tiny-patch", 5, pooling)(SOUNDS[name])
    wave = audio.load_waveform(SOUNDS[name])
    probed = upstream("tiny-patch").embed(wave[None], pooling)[0, 5].numpy()
    np.testing.assert_allclose(given.clip, probed, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(given.clip, given.windows[0])


def test_patches_and_steps_are_the_encoders_tokens_in_their_places(tiny):
    model, wave = ssast_lab.load("tiny-patch"), audio.load_waveform(SOUNDS["tabla"])
    excerpt = analysis.excerpt(wave, model.config)
    with torch.no_grad():
        tokens = model.encoder(excerpt.fbank[None]).patches[0].numpy()
    given = tiny(SOUNDS["tabla"])
    assert given.patches.shape == (excerpt.grid.columns, 8, 192)
    np.testing.assert_allclose(given.patches.transpose(1, 0, 2).reshape(-1, 192), tokens, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(given.steps, given.patches.mean(1))
    for number in (0, 100, excerpt.grid.count - 1):
        row, column = divmod(number, excerpt.grid.columns)
        begins, ends = excerpt.grid.seconds(number)
        assert given.step_seconds[column] == pytest.approx((begins, ends - 0.015))  # up to the next one's beginning
        assert given.hertz[row] == pytest.approx(excerpt.grid.hertz(number))


@pytest.mark.parametrize(("seconds", "hop"), [(None, None), (2.0, None), (2.0, 0.7), (3.2, 1.6), (10.24, 5.12)])
def test_windows_are_the_excerpts_by_themselves(long, seconds, hop):
    embedder, wave = Embedder("tiny-patch", seconds=seconds, hop=hop), audio.load_waveform(long)
    given = embedder(long)
    starts = given.window_seconds[:, 0]
    usual = hop or seconds or 10.24
    np.testing.assert_allclose(starts[:-1], usual * np.arange(len(starts) - 1), atol=1e-9)
    assert starts[-1] - starts[-2] <= usual + 1e-9
    assert 0 <= len(wave) / RATE - given.window_seconds[-1, 1] < 0.175  # but for a part of a patch
    for (start, end), row in zip(given.window_seconds, given.windows, strict=True):
        assert end - start == pytest.approx({2.0: 2.08}.get(seconds, seconds or 10.24))  # whole patches
        piece = wave[round(start * RATE) :][: embedder.window]
        np.testing.assert_allclose(row, embedder(piece, RATE).clip, rtol=1e-4, atol=1e-3)
    streamed = [*embedder.stream(long)]
    np.testing.assert_allclose([row[:2] for row in streamed], given.window_seconds)
    np.testing.assert_allclose([row.values for row in streamed], given.windows, rtol=1e-4, atol=1e-4)


def test_time_steps_follow_each_other_and_come_from_the_window_they_lie_deeper_in(long):
    embedder, wave = Embedder("tiny-frame", seconds=4.0, hop=2.0), audio.load_waveform(long)
    given = embedder(long)
    begins, ends = given.step_seconds.T
    np.testing.assert_allclose(np.diff(begins), 0.02)
    assert (begins[0], ends[-1]) == (0, pytest.approx(len(wave) / RATE, abs=0.03))
    for number in (20, 150, 151, 400, len(begins) - 3):
        middle = (begins[number] + ends[number]) / 2
        apart = np.abs(given.window_seconds.mean(1) - middle)
        start = given.window_seconds[apart.argmin(), 0]
        alone = embedder(wave[round(start * RATE) :][: embedder.window], RATE)
        at = np.abs(alone.step_seconds[:, 0] + start - begins[number]).argmin()
        np.testing.assert_allclose(given.steps[number], alone.steps[at], rtol=1e-4, atol=1e-3)


def test_every_moment_counts_once(long):
    spans = np.array([[0, 10], [5, 15], [6, 16.0]])
    np.testing.assert_allclose(seams(spans), [0, 7.5, 10.5, 16])
    np.testing.assert_allclose(shares(spans), [7.5 / 16, 3 / 16, 5.5 / 16])
    given = Embedder("tiny-patch", seconds=2.0)(long)
    np.testing.assert_allclose(given.clip, shares(given.window_seconds) @ given.windows, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(given.clip, given.windows[:-1].mean(0), atol=0.1)


def test_several_layers_are_their_mean(tiny):
    one, other, both = (Embedder("tiny-patch", layers)(SOUNDS["water"]) for layers in (4, -1, (4, 11)))
    np.testing.assert_allclose((one.clip + other.clip) / 2, both.clip, atol=1e-5)
    np.testing.assert_allclose((one.patches + other.patches) / 2, both.patches, atol=1e-4)
    np.testing.assert_allclose(other.clip, tiny(SOUNDS["water"]).clip)


def test_bfloat16_is_nearly_the_same_and_says_so(tiny, long):
    coarse = Embedder("tiny-patch", dtype="bfloat16")
    assert coarse.settings == tiny.settings | {"dtype": "bfloat16"}
    given, wanted = coarse(long), tiny(long)
    assert given.windows.dtype == np.float32
    apart = np.abs(given.windows - wanted.windows).max() / np.abs(wanted.windows).max()
    assert 1e-5 < apart < 0.03
    np.testing.assert_allclose(given.clip, coarse.many([long]).clips()[0], atol=0.02)


def test_layers_may_be_numbers_of_numpy():
    assert Embedder("scratch:nano-patch", np.int64(1)).settings["layers"] == [1]
    assert json.dumps(Embedder("scratch:nano-patch", np.arange(2)).settings["layers"]) == "[0, 1]"


def test_an_array_with_its_rate_is_its_file(tiny, long):
    samples, rate = soundfile.read(long, dtype="float32")
    wanted = tiny(long)
    for array in (samples, samples.T, torch.from_numpy(samples)):
        np.testing.assert_allclose(tiny(array, rate).clip, wanted.clip, atol=1e-4)
    with pytest.raises(audio.AudioError, match="rate=48000"):
        tiny(samples)
    with open(long, "rb") as file:
        np.testing.assert_array_equal(tiny(file).clip, wanted.clip)


def test_a_loaded_model_stays_as_it_is(nano):
    model = nano
    given = Embedder(model)(SOUNDS["speech"])
    assert all(weight.requires_grad for weight in model.parameters())
    wave = audio.load_waveform(SOUNDS["speech"])
    again = Embedder(of_encoder("nano", model.resized(64).encoder))(wave, RATE)
    np.testing.assert_array_equal(given.clip, again.clip)


@pytest.mark.parametrize(
    ("model", "rows"), [(APC(APCConfig(width=16, depth=2)), 1), (Wav2Vec(Wav2VecConfig(channels=16, depth=2)), 1)]
)
def test_models_that_predict_what_comes_next_have_time_steps_too(model, rows):
    given = Embedder(model)(SOUNDS["speech"])
    assert given.patches.shape == (len(given.steps), rows, 16)
    np.testing.assert_allclose(np.diff(given.step_seconds[:, 0]), 0.01)
    assert given.step_seconds[-1, 1] == pytest.approx(3.45, abs=0.03)


def test_many_sounds_are_each_by_itself_and_what_cannot_be_read_is_told(tiny, long, tmp_path):
    (tmp_path / "broken.flac").write_bytes(b"no sound")
    whole = long.read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    sounds = [
        SOUNDS["frogs"],
        long,
        tmp_path / "broken.flac",
        SOUNDS["water"],
        tmp_path / "nowhere.wav",
        tmp_path / "cut.wav",
    ]
    heard = []
    table = tiny.many(sounds, heard=heard.append)
    assert table.count == 6
    assert sum(heard) == pytest.approx(5.9 + 29.3 + 6.0 + 14.65, abs=0.7)
    assert sorted(table.left_out) == [2, 4]
    assert "broken.flac" in table.left_out[2]
    assert list(table.noticed) == [5]
    assert "was cut short" in table.noticed[5]
    assert table.sound.tolist() == [0, 1, 1, 1, 3, 5, 5]
    for number, sound in enumerate(sounds):
        rows = table.sound == number
        if number in table.left_out:
            assert np.isnan(table.clips()[number]).all()
            continue
        with pytest.warns(audio.AudioWarning) if number == 5 else _quiet():
            alone = tiny(sound)
        np.testing.assert_allclose(table.values[rows], alone.windows, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(table.seconds[rows], alone.window_seconds)
        np.testing.assert_allclose(table.clips()[number], alone.clip, rtol=1e-4, atol=1e-4)
    again = tiny.many(sounds)
    np.testing.assert_array_equal(again.values, table.values)


def _quiet():
    import contextlib

    return contextlib.nullcontext()


def test_nothing_to_embed_gives_an_empty_table(tiny):
    table = tiny.many([])
    assert (table.values.shape, table.clips().shape) == ((0, 192), (0, 192))


def test_batches_of_tensors_have_their_time_steps(tiny):
    waves = torch.stack([audio.load_waveform(SOUNDS[name])[: 5 * RATE] for name in ("tabla", "water")])
    tokens, seconds = tiny.tokens(waves)
    for number in range(2):
        alone = tiny(waves[number], RATE)
        np.testing.assert_allclose(tokens[number].numpy(), alone.patches, rtol=1e-4, atol=1e-3)
        np.testing.assert_array_equal(seconds, alone.step_seconds)


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"layers": 12}, "layers from 0 to 11"),
        ({"layers": ()}, "layers from 0 to 11"),
        ({"dtype": "float16"}, "dtype is float32 or bfloat16"),
        ({"layers": 9.0}, "layers from 0 to 11"),
        ({"layers": "9"}, "layers from 0 to 11"),
        ({"device": "cuda:63"}, "There is no device 'cuda:63' here"),
        ({"device": "gpu"}, "There is no device 'gpu' here"),
        ({"pooling": "median"}, "pooling is mean"),
        ({"seconds": 11}, "at most 10.24 s"),
        ({"seconds": 0}, "more than 0"),
        ({"hop": 0}, "seconds apart"),
        ({"hop": -1.0}, "seconds apart"),
        ({"model": "logmel"}, "no model with tokens"),
        ({"model": "no-such-model"}, "There is no upstream"),
        ({"model": torch.nn.Linear(2, 2)}, "A Linear gives no embeddings"),
    ],
)
def test_what_cannot_be_is_one_sentence(asked, word):
    with pytest.raises(UpstreamError, match=word):
        Embedder(**{"model": "tiny-patch"} | asked)


MEMORY = """
import re, sys
from pathlib import Path
from ssast_lab.measuring.embedder import Embedder
embedder = Embedder("scratch:nano-patch", seconds=5.0, hop=4.0)
def peak():  # ru_maxrss would begin with that of the parent
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
for _ in embedder.stream(sys.argv[1]): pass
embedder.many([sys.argv[1]])
before = peak()
rows = sum(1 for _ in embedder.stream(sys.argv[2]))
assert len(embedder.many([sys.argv[2]]).sound) == rows
print(rows, peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read as Linux tells it")
def test_a_long_file_takes_no_more_memory_than_a_short_one(tmp_path):
    """40 minutes, of which the waveform alone would be 154 MB."""
    noise = np.random.default_rng(0).integers(-3000, 3000, 60 * RATE, dtype=np.int16)
    for name, minutes in (("short.flac", 3), ("long.flac", 40)):
        with soundfile.SoundFile(tmp_path / name, "w", RATE, 1) as file:
            for _ in range(minutes):
                file.write(noise)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "short.flac"), str(tmp_path / "long.flac")],
        env=ALONE | {"MALLOC_ARENA_MAX": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows, megabytes = done.stdout.split()
    assert int(rows) == 600
    print(megabytes)
    assert float(megabytes) < 120  # of which most is what the allocator keeps
