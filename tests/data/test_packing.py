"""Windows that several short clips fill: every frame is that of one clip alone, and which clips is a function of the key."""

import numpy as np
import pytest
import soundfile
import torch
from tiny import RATE

from ssast_lab import audio, data
from ssast_lab.config import AudioConfig, TrainingConfig
from ssast_lab.learning import augment

AUDIO, WINDOW = AudioConfig(), data.Window(64, 16)
SAMPLES = audio.OFFICIAL.samples_of(64)


@pytest.fixture(scope="module")
def noises(tmp_path_factory):
    """Twelve clips of noise from 0.2 to 0.5 s, in a window of 0.655 s, and two that fill it."""
    folder, random = tmp_path_factory.mktemp("noises"), np.random.default_rng(0)
    for number in range(14):
        samples = 12_000 if number > 11 else int(random.uniform(0.2, 0.5) * RATE)
        loud = 10 ** random.uniform(-3, 0.5)  # some are above full scale
        soundfile.write(folder / f"{number:02}.wav", loud * random.standard_normal(samples), RATE, subtype="FLOAT")
    return data.find_clips([folder])


def plan(corpus, batch=6, seed=3, rows=None, **settings):
    return augment.AugmentingPlan(
        corpus, batch, seed, slice(None) if rows is None else rows, TrainingConfig(**settings), WINDOW
    )


def pieces(batch: data.Batch, row: int, hop: int = audio.OFFICIAL.hop):
    """(name, first frame of the window, its end, waveform) of what a row is made of."""
    frames = batch.frames[row]
    seams = [0, *((frames.diff() != 1).nonzero()[:, 0] + 1).tolist(), len(frames)]
    names = batch.names[row].split(" + ")
    assert len(names) == len(seams) - 1
    for name, begin, end in zip(names, seams, seams[1:], strict=False):
        first = int(frames[begin]) * hop
        yield name, begin, end, batch.waveforms[row, first : first + audio.OFFICIAL.samples_of(end - begin, hop)]


def is_a_stretch(piece: torch.Tensor, name: str) -> bool:
    sound = torch.from_numpy(soundfile.read(name, dtype="float32")[0])
    return any(torch.equal(sound[at : at + len(piece)], piece) for at in (sound == piece[0]).nonzero()[:, 0].tolist())


def test_every_frame_of_a_window_is_that_of_one_clip_alone(noises):
    packed = plan(data.Files(noises, SAMPLES))
    counts = []
    for step in range(4):
        batch = packed[step]
        features = batch.features(AUDIO, 64)
        assert features.shape == (6, 64, 128)
        for row in range(6):
            found = list(pieces(batch, row))
            counts.append(len(found))
            assert len({name for name, *_ in found}) == len(found)  # from different files
            for name, begin, end, waveform in found:
                assert begin % 16 == end % 16 == 0  # no patch lies across a seam
                assert is_a_stretch(waveform, name)
                alone = audio.log_mel(waveform, AUDIO)
                assert len(alone) == end - begin
                torch.testing.assert_close(features[row, begin:end], alone, rtol=0, atol=1e-4)
    assert {1, 2, 3} <= {*counts}


def test_each_clip_still_begins_a_row_once_in_every_epoch(noises):
    packed, plain = plan(data.Files(noises, SAMPLES), 7), data.Plan(data.Files(noises, SAMPLES), 7, 3)
    for step in range(4):
        assert [name.split(" + ")[0] for name in packed[step].names] == plain[step].names
        assert torch.equal(packed[step].indices, plain[step].indices)


def test_files_memory_workers_rows_and_repetition_make_the_same_windows(noises):
    files = plan(data.Files(noises, SAMPLES))
    ahead = data.batches(files, range(1, 5), workers=2)
    for step, read_ahead in zip(range(1, 5), ahead, strict=True):
        one = plan(data.Files(noises, SAMPLES))[step]
        for other in (read_ahead, plan(data.Memory(noises, SAMPLES))[step], files[step]):
            assert other.names == one.names
            assert torch.equal(other.waveforms, one.waveforms)
            assert torch.equal(other.frames, one.frames)
        halves = [plan(data.Files(noises, SAMPLES), rows=slice(3 * half, 3 * half + 3))[step] for half in range(2)]
        assert one.names == [name for half in halves for name in half.names]
        together = torch.cat([half.features(AUDIO, 64) for half in halves])
        torch.testing.assert_close(together, one.features(AUDIO, 64), rtol=0, atol=1e-4)
        part = one.part(slice(2, 4))
        torch.testing.assert_close(part.features(AUDIO, 64), together[2:4], rtol=0, atol=1e-4)
    assert files[1].names != files[2].names
    assert plan(data.Files(noises, SAMPLES), seed=4)[1].names != files[1].names


def test_at_another_pace_a_window_is_all_sound_as_well(noises):
    """With all that varies the sounds, of which only the pace is undone here."""
    packed = plan(data.Files(noises, audio.OFFICIAL.samples_of(64, 200)), stretch=0.25, mix=0.5)
    paces = set()
    for step in range(3):
        batch = packed[step]
        hops = batch.changes.hop
        features = batch.features(AUDIO, 64, hops)
        assert augment.features(batch, AUDIO, 64).isfinite().all()
        for row, hop in enumerate(hops.tolist()):
            for name, begin, end, waveform in pieces(batch, row, hop):
                paces.add(hop)
                assert is_a_stretch(waveform, name)
                lengths, pace = torch.tensor([len(waveform)]), torch.tensor([hop])
                alone = audio.log_mel(waveform[None], AUDIO, end - begin, lengths, pace)[0]
                torch.testing.assert_close(features[row, begin:end], alone, rtol=0, atol=1e-3)
    assert len(paces) > 4


def test_clips_that_fill_the_window_are_left_as_they_are(noises):
    corpus = data.Files(noises[12:], SAMPLES)
    batch = data.Plan(corpus, 4, 0)[0]
    assert data.fill(batch, corpus, WINDOW, [(0, row) for row in range(4)], torch.full((4,), 160)) is batch


def test_clips_without_a_patch_are_left_out_and_said(noises, tmp_path):
    soundfile.write(tmp_path / "short.wav", np.random.default_rng(1).normal(0, 0.1, 1000), RATE)  # 4 frames
    (short,) = data.find_clips([tmp_path])
    for corpus in (data.Files([short, *noises[:5]], SAMPLES), data.Memory([short, *noises[:5]], SAMPLES)):
        batch = plan(corpus)[0]
        assert short.name in batch.noticed
        assert "too short for a patch" in batch.noticed[short.name]
        assert not any("short.wav" in name for name in batch.names)
        assert batch.frames.shape == (6, 64)
    with pytest.raises(data.DataError, match=r"hardly a clip is as long as a patch of 16 frames"):
        plan(data.Memory([short], SAMPLES))[0]


def test_where_there_are_few_clips_they_come_again(noises):
    batch = plan(data.Files(noises[:1], SAMPLES), batch=2)[0]
    assert {name for row in batch.names for name in row.split(" + ")} == {noises[0].name}
    assert batch.features(AUDIO, 64).shape == (2, 64, 128)
