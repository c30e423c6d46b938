"""The built-in sounds: whole, loud enough, unclipped, and each with its author and licence."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import ssast_lab

SOUNDS = Path(ssast_lab.__file__).parent / "sounds"
ENTRIES = json.loads((SOUNDS / "sounds.json").read_text(encoding="utf-8"))


def test_list_and_files_agree():
    assert len(ENTRIES) == 9
    assert sorted(e["file"] for e in ENTRIES) == sorted(p.name for p in SOUNDS.glob("*.flac"))
    assert len({e["name"] for e in ENTRIES}) == len(ENTRIES)
    assert sum(p.stat().st_size for p in SOUNDS.iterdir()) < 3e6


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e["name"])
def test_sound(entry):
    assert set(entry) == {"name", "title", "kind", "file", "author", "licence", "source", "seconds"}
    assert all(isinstance(v, str) and v.strip() for k, v in entry.items() if k != "seconds")
    assert entry["kind"] in ("speech", "music", "effect")
    assert f"`{entry['file']}`" in (SOUNDS / "LICENCES.md").read_text(encoding="utf-8")
    info = soundfile.info(SOUNDS / entry["file"])
    assert (info.format, info.subtype, info.samplerate, info.channels) == ("FLAC", "PCM_16", 16000, 1)
    wave, _ = soundfile.read(SOUNDS / entry["file"])
    assert 2 <= len(wave) / 16000 <= 10
    assert entry["seconds"] == pytest.approx(len(wave) / 16000, abs=0.01)
    assert 0.1 < np.abs(wave).max() < 0.9
    assert -35 < 20 * np.log10(wave.std()) < -6
    assert abs(wave.mean()) < 0.005
    level = np.square(wave[: len(wave) // 1600 * 1600].reshape(-1, 1600)).mean(1) ** 0.5  # level of every 0.1 s
    assert (level > 1e-3).mean() > 0.4, "mostly silence"


def test_sweep_is_the_stated_chirp():
    wave, rate = soundfile.read(SOUNDS / "sweep.flac")
    for at in (1.0, 4.0, 7.0):
        piece = wave[int(at * rate) - 400 : int(at * rate) + 400] * np.hanning(800)
        peak = np.abs(np.fft.rfft(piece, 16384)).argmax() * rate / 16384
        assert peak == pytest.approx(100 * 75 ** (at / 8), rel=0.02)
