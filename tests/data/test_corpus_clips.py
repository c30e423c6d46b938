"""From sound files to clips: nothing is lost when they are cut, joined and encoded."""

import shutil
from types import SimpleNamespace

import av
import numpy as np
import pytest
from packages import RATE, hertz, sound, tone

from ssast_lab.data.corpus import CorpusError, clips
from ssast_lab.data.corpus.clips import GAP, WINDOW

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("apt-get", "dpkg-deb")), reason="the corpus is made on Debian or Ubuntu"
)


def test_cutting_and_joining_lose_nothing():
    rng = np.random.default_rng(0)
    lengths = [400, 5000, 3 * WINDOW - 1, 60_000, 60_000, 60_000, WINDOW, 100_000, 90_000, 20_000]
    waves = [rng.normal(size=n).astype(np.float32) for n in lengths]
    every = list(clips.cut_and_join((dict(path=str(i)), wave) for i, wave in enumerate(waves)))
    back = {str(i): [] for i in range(len(waves))}
    for files, wave in every:
        position = 0
        for file in files:
            whole = waves[int(file["path"])]
            length = len(wave) if len(files) == 1 and len(whole) >= WINDOW else len(whole)
            back[file["path"]].append(wave[position : position + length])
            position += length + GAP
    for i, wave in enumerate(waves):
        np.testing.assert_array_equal(np.concatenate(back[str(i)]), wave)
    assert all(WINDOW <= len(wave) < 2 * WINDOW for _, wave in every[:-1])
    assert len(every[-1][1]) < WINDOW


@pytest.mark.parametrize("name", ["a.wav", "a.g722"])
def test_a_long_track_gives_its_middle(tmp_path, name):
    sound(tmp_path / name, np.concatenate([tone(200, 3), tone(1000, 4), tone(3000, 3)]))
    wave = clips.decode(tmp_path / name, "music", {"music": 4})
    assert len(wave) == pytest.approx(4 * RATE, abs=1)
    assert hertz(wave) == pytest.approx(1000, abs=1)
    assert len(clips.decode(tmp_path / name, "speech", {"music": 4})) == pytest.approx(10 * RATE, abs=1)


def test_a_voice_without_a_header(tmp_path):
    (tmp_path / "L1.als").write_bytes((128 + 100 * tone(440, 3, 11025)).round().astype(np.uint8).tobytes())
    wave = clips.decode(tmp_path / "L1.als", "speech")
    assert len(wave) == pytest.approx(3 * RATE, abs=1)
    assert hertz(wave) == pytest.approx(440, abs=1)


def test_reading_back_notices_a_bad_encoder(monkeypatch):
    real = av.AudioFrame.from_ndarray
    quiet = SimpleNamespace(from_ndarray=lambda array, **kind: real(array // 10, **kind))
    monkeypatch.setattr(av, "AudioFrame", quiet)
    with pytest.raises(CorpusError, match="came back"):
        clips.encode(tone(440, 2))
