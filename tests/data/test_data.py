"""Corpora of every kind, and the law of batches: which pieces stand in a batch is a function of the seed and the step."""

import gc
import io
import json
import os
import tarfile
import weakref
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from tiny import RATE, write_clips

from ssast_lab import audio, data
from ssast_lab.config import AudioConfig

SAMPLES = audio.OFFICIAL.window + 63 * audio.OFFICIAL.hop  # 64 frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Nine clips in folders of several depths and a text; "sub/broken.flac" and "empty.wav" are no sound."""
    folder = tmp_path_factory.mktemp("corpus")
    write_clips(folder, 5)
    write_clips(folder / "sub" / "deep", 4)
    (folder / "sub" / "broken.flac").write_bytes(b"fLaC" + bytes(2000))
    (folder / "empty.wav").touch()
    (folder / "notes.txt").write_text("no sound")
    return folder


def shard(path, clips) -> None:
    with tarfile.open(path, "w") as tar:
        for clip in clips:
            tar.add(clip, arcname=f"{clip.parent.name}-{clip.name}")
        text = tarfile.TarInfo("000.json")
        text.size = 2
        tar.addfile(text, io.BytesIO(b"{}"))


def same(one: data.Batch, other: data.Batch) -> bool:
    return torch.equal(one.waveforms, other.waveforms) and torch.equal(one.lengths, other.lengths)


# --- finding ------------------------------------------------------------------------------------------------------


def test_a_folder_is_searched_at_any_depth_in_a_fixed_order(folder):
    names = [os.path.relpath(clip.path, folder) for clip in data.find_clips([folder])]
    assert names == [*(f"{i:03}.flac" for i in range(5)), "empty.wav", os.path.join("sub", "broken.flac"),
                     *(os.path.join("sub", "deep", f"{i:03}.flac") for i in range(4))]  # fmt: skip


def test_manifests_globs_and_shards_name_the_same_sounds(folder, tmp_path):
    clips = sorted(folder.glob("*.flac"))
    beside = write_clips(tmp_path / "ü b", 1)[0].relative_to(tmp_path)  # relative paths are the manifest's
    official = {"data": [{"wav": str(clip), "labels": "/m/09x0r"} for clip in clips] + [{"wav": str(beside)}]}
    (tmp_path / "a.json").write_text(json.dumps(official), encoding="utf-8")
    rows = "".join(f'x,"{clip}"\n' for clip in [*clips, beside])
    (tmp_path / "a.csv").write_text("label,path\n" + rows, encoding="utf-8-sig")
    rows = "".join(f"{clip}\t1.5\n" for clip in [*clips, beside])
    (tmp_path / "a.tsv").write_text("filename\tseconds\n" + rows, encoding="utf-8")
    found = [[clip.path for clip in data.find_clips([tmp_path / name])] for name in ("a.json", "a.csv", "a.tsv")]
    assert found[0] == found[1] == found[2] == [*map(str, clips), str(tmp_path / beside)]
    (tmp_path / "b.tsv").write_text("sentence\tpath\n" + "".join(f'"Now\t{clip}\n' for clip in [*clips, beside]))
    assert [clip.path for clip in data.find_clips([tmp_path / "b.tsv"])] == found[0]  # only a letter
    assert [clip.path for clip in data.find_clips([f"{folder}/*.flac"])] == [*map(str, clips)]

    shard(tmp_path / "a.tar", clips)
    members = data.find_clips([tmp_path / "a.tar"])
    assert [clip.member for clip in members] == [f"{clip.parent.name}-{clip.name}" for clip in clips]
    for member, clip in zip(members, clips, strict=True):
        assert torch.equal(audio.load_waveform(member.open()), audio.load_waveform(clip))


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("a.json", "{", "Line 1 of .* is no JSON"), ("a.json", "[]", "no official manifest"),
        ("a.json", '{"data": [{}]}', "Entry 1 of .* names no sound"),
        ("a.csv", "sound\nx.wav\n", "no column"), ("a.tsv", "path\n", "No sound"), ("a.csv", "", "no column"),
        ("a.tar", "no tar", "tar shard"), (None, None, "There is no sound"), ("readme.d/a.txt", "x", "No sound"),
    ],
)  # fmt: skip
def test_what_is_no_corpus_is_refused_in_one_sentence(tmp_path, name, text, word):
    source = tmp_path / (name or "missing")
    if name:
        source.parent.mkdir(exist_ok=True)
        source.write_text(text)
    with pytest.raises(data.DataError, match=word) as caught:
        data.find_clips([source.parent if name and "/" in name else source])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "x" * 5000])
def test_a_name_that_can_be_no_place_is_none(name):
    """No name at all, such as that of a variable that is not set, is not the folder that one stands in."""
    with pytest.raises(data.DataError, match="There is no sound at"):
        data.find_clips([name])


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "m4a", "aac"])
def test_an_open_file_sounds_like_the_file(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    t = np.arange(2 * RATE) / RATE
    if suffix in ("m4a", "aac"):
        import av

        with av.open(str(path), "w") as out:
            stream = out.add_stream("aac", rate=RATE, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.sin(900 * t)[None].astype(np.float32), format="fltp", layout="mono")
            frame.rate = RATE
            for part in (frame, None):
                out.mux(stream.encode(part))
    else:
        soundfile.write(path, 0.5 * np.sin(900 * t), RATE)
    opened = io.BytesIO(path.read_bytes())
    assert audio.info(opened) == audio.info(path)
    assert torch.equal(audio.load_waveform(opened), audio.load_waveform(path))
    assert torch.equal(audio.load_waveform(opened, 0.5, 0.25), audio.load_waveform(path, 0.5, 0.25))


@pytest.mark.parametrize("content", [b"", b"fLaC" + bytes(999), b"RIFF", bytes(99)])
def test_an_open_file_that_is_no_sound(content):
    for read in (audio.load_waveform, audio.info):
        with pytest.raises(audio.AudioError, match=r"^The sound .*\.$"):
            read(io.BytesIO(content))


# --- batches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 4, 7, 32])  # the last is more than the corpus has
def test_each_clip_stands_once_in_every_epoch(folder, batch):
    clips = data.find_clips([f"{folder}/**/0*.flac"])
    plan = data.Plan(data.Files(clips, SAMPLES), batch, seed=3)
    epochs = 4
    names = [name for step in range(-(-epochs * len(clips) // batch)) for name in plan[step].names]
    per_epoch = [names[i * len(clips) : (i + 1) * len(clips)] for i in range(epochs)]
    assert all(Counter(names) == Counter(clip.name for clip in clips) for names in per_epoch)
    assert len({tuple(names) for names in per_epoch}) > 1


def test_files_memory_shards_and_workers_make_the_same_batches(folder, tmp_path):
    clips = data.find_clips([folder])
    files, memory = data.Files(clips, SAMPLES), data.Memory(clips, SAMPLES)
    assert {os.path.basename(name) for name in memory.unreadable} == {"broken.flac", "empty.wav"}
    shard(tmp_path / "a.tar", [folder / os.path.relpath(clip.path, folder) for clip in clips])
    shards = data.Files(data.find_clips([tmp_path / "a.tar"]), SAMPLES)
    steps, seen = range(2, 12), set()
    ahead = data.batches(data.Plan(files, 6, seed=5), steps, workers=2)
    for step, read_ahead in zip(steps, ahead, strict=True):
        one, held = (data.Plan(corpus, 6, seed=5)[step] for corpus in (files, memory))
        assert one.waveforms.dtype == held.waveforms.dtype == torch.float32
        assert same(one, read_ahead)
        assert one.unreadable == read_ahead.unreadable
        assert same(one, data.Plan(shards, 6, seed=5)[step])
        assert same(one, held)
        assert one.names == held.names
        seen |= one.unreadable.keys()
    assert seen == memory.unreadable.keys()


def test_workers_inherit_nothing_to_free(folder):
    """A filter of libav that a worker freed would wait for ever for its threads, which are not forked."""

    class Left:
        def __init__(self):
            self.itself = self

    plan = data.Plan(data.Files(data.find_clips([f"{folder}/*.flac"]), SAMPLES), 2, seed=0)
    gc.disable()
    try:
        left = weakref.ref(Left())
        assert left() is not None
        assert len(next(data.batches(plan, range(1), workers=1)).names) == 2
        assert left() is None
    finally:
        gc.enable()


def test_batches_differ_by_step_and_seed_and_repeat(folder):
    corpus = data.Files(data.find_clips([f"{folder}/*.flac"]), SAMPLES)
    drawn = [data.Plan(corpus, 5, seed)[step].waveforms for seed in (0, 1) for step in range(3)]
    assert all(not torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])
    plan = data.Plan(corpus, 5, 1)
    assert [torch.equal(plan[step].waveforms, drawn[3 + step]) for step in (2, 0, 1)] == [True] * 3


def test_the_rows_of_several_processes_are_the_whole_batch(folder):
    corpus = data.Files(data.find_clips([folder]), SAMPLES)
    whole = data.Plan(corpus, 8, seed=2)[5]
    parts = [data.Plan(corpus, 8, 2, slice(2 * i, 2 * i + 2))[5] for i in range(4)]
    assert torch.equal(whole.waveforms, torch.cat([part.waveforms for part in parts]))
    assert whole.names == [name for part in parts for name in part.names]


def test_a_crop_is_a_stretch_of_its_clip_and_only_it_is_read(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "long.wav", np.random.default_rng(0).uniform(-0.9, 0.9, 60 * RATE), RATE)
    clip = data.Clip(str(tmp_path / "long.wav"))
    whole = audio.load_waveform(clip.path)
    read = []
    original = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda self, frames, **kw: read.append(frames) or original(self, frames, **kw))  # fmt: skip
    for fraction in (0.0, 0.123456, 0.5, 1 - 2**-53):
        piece = data.read_piece(clip, fraction, SAMPLES)
        start = int(fraction * (len(whole) - SAMPLES + 1))
        assert torch.equal(piece, whole[start : start + SAMPLES]), fraction
    assert max(read) < SAMPLES + RATE // 2


def test_shorter_clips_are_padded_and_say_so(tmp_path):
    soundfile.write(tmp_path / "short.wav", np.full(RATE // 4, 0.5), RATE, subtype="PCM_16")
    batch = data.Plan(data.Files(data.find_clips([tmp_path]), SAMPLES), 2, 0)[0]
    assert batch.lengths.tolist() == [RATE // 4] * 2
    assert batch.waveforms[0].tolist() == [0.5] * (RATE // 4) + [0] * (SAMPLES - RATE // 4)
    fbank = batch.features(AudioConfig(), 64)
    alone = audio.log_mel(audio.load_waveform(tmp_path / "short.wav"), frames=64)
    assert torch.allclose(fbank[0], alone, atol=1e-5)


@pytest.mark.parametrize("corpus", [data.Files, data.Memory])
def test_nothing_that_can_be_read_is_an_error(tmp_path, corpus):
    for name in "abc":
        (tmp_path / f"{name}.wav").write_bytes(b"RIFF")
    with pytest.raises(data.DataError, match=r"can be read was found|None of the 3 clips"):
        data.Plan(corpus(data.find_clips([tmp_path]), SAMPLES), 4, 0)[0]


def test_an_error_in_a_worker_is_the_same_sentence(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    plan = data.Plan(data.Files(data.find_clips([tmp_path]), SAMPLES), 2, 0)
    with pytest.raises(data.DataError) as caught:
        next(data.batches(plan, range(3), workers=1))
    with pytest.raises(data.DataError) as direct:
        next(data.batches(plan, range(3)))
    assert str(caught.value) == str(direct.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_goes_away_is_skipped(folder, tmp_path):
    paths = write_clips(tmp_path, 3)
    corpus = data.Files(data.find_clips([tmp_path]), SAMPLES)
    paths[1].unlink()
    batch = data.Plan(corpus, 3, 0)[0]
    assert [*batch.unreadable] == [str(paths[1])]
    assert str(paths[1]) not in batch.names


def test_split_is_a_partition_that_the_seed_decides():
    clips = [data.Clip(str(i)) for i in range(50)]
    train, held_out = data.split(clips, 8, seed=1)
    assert len(held_out) == 8
    assert {*train} | {*held_out} == {*clips}
    assert not {*train} & {*held_out}
    assert data.split(clips, 8, seed=1)[1] == held_out != data.split(clips, 8, seed=2)[1]
    with pytest.raises(data.DataError, match="held out"):
        data.split(clips[:1], 1)


def test_a_recording_that_has_most_of_the_time_is_not_held_out(tmp_path):
    short = write_clips(tmp_path, 20, (0.3, 0.5))
    soundfile.write(tmp_path / "hour.flac", np.zeros(60 * RATE), RATE)
    clips = data.find_clips([tmp_path])
    for seed in range(20):
        train, held_out = data.split(clips, 2, seed)
        assert len(held_out) == 2
        assert str(tmp_path / "hour.flac") in [clip.name for clip in train]
    two = [data.Clip(str(path)) for path in (tmp_path / "hour.flac", short[0])]
    assert [data.split(two, 1, seed)[1] for seed in range(5)] == [two[1:]] * 5


def test_what_cannot_be_read_is_not_held_out_where_there_is_other_sound(folder):
    clips = data.find_clips([folder])
    for seed in range(20):
        _, held_out = data.split(clips, 3, seed)
        assert not {"broken.flac", "empty.wav"} & {os.path.basename(clip.path) for clip in held_out}


def test_recordings_of_about_one_length_are_held_out_as_the_seed_draws_them(tmp_path):
    for count in (2, 7, 25):
        write_clips(tmp_path / str(count), count, (0.3, 0.55))
        clips = data.find_clips([tmp_path / str(count)])
        drawn = [{*data.split(clips, 1, seed)[1]} for seed in range(8)]
        assert len({clip for one in drawn for clip in one}) > 1
        order = [np.random.default_rng([seed, data.Stream.SPLIT]).permutation(count) for seed in range(8)]
        assert drawn == [{clips[places[0]]} for places in order]


def test_a_sound_that_is_listed_twice_is_not_on_both_sides(folder, monkeypatch):
    monkeypatch.chdir(folder)
    clips = data.find_clips([folder, "."])  # each by two names
    clips += [data.Clip("a.tar", (512, 9), "a.ogg"), data.Clip("a.tar", (9512, 9), "b.ogg")] * 2
    for seed in range(5):
        train, held_out = data.split(clips, 4, seed)
        sides = [{(os.path.realpath(clip.path), clip.member) for clip in side} for side in (train, held_out)]
        assert not sides[0] & sides[1]
        assert len(sides[0]) + len(sides[1]) == 13
        assert len(held_out) == len(sides[1])
    with pytest.raises(data.DataError, match="same sound"):
        data.split(clips[:1] * 3, 1)


def test_statistics_are_those_of_all_features_together(folder):
    clips = data.find_clips([folder])
    mean, deviation, used = data.statistics(clips)
    everything = torch.cat([audio.kaldi_fbank(audio.load_waveform(clip.path)).flatten() for clip in clips
                            if os.path.basename(clip.path) not in ("broken.flac", "empty.wav")]).double()  # fmt: skip
    assert used == 9
    assert mean == pytest.approx(everything.mean().item(), rel=1e-9)
    assert deviation == pytest.approx(everything.std(correction=0).item(), rel=1e-9)
    assert data.statistics(clips, limit=3)[2] <= 3


def test_a_clip_that_is_listed_several_times_is_held_once(tmp_path):
    paths = write_clips(tmp_path, 3, seconds=(0.5, 0.9))
    clips = [data.Clip(str(path)) for path in (paths[0], paths[1], paths[0], paths[2], paths[0])]
    once, often = data.Memory([data.Clip(str(path)) for path in paths], 6000), data.Memory(clips, 6000)
    assert torch.equal(once.store, often.store)
    indices, keys = np.arange(5), [(0, 0)] * 5
    files = data.Files(clips, 6000).crop(indices, np.full(5, 0.5), keys)
    held = often.crop(indices, np.full(5, 0.5), keys)
    assert torch.equal(files.waveforms, held.waveforms)
    assert files.names == held.names


def test_a_corpus_in_memory_keeps_16_bits_only_where_they_are_exact(tmp_path):
    """Loud, quiet, resampled: every sample is the file's, whatever it is kept as."""
    random = np.random.default_rng(0)
    kinds = {
        "exact": (0.1, "PCM_16", RATE),
        "loud": (3.0, "FLOAT", RATE),
        "quiet": (1e-4, "PCM_24", RATE),
        "rate": (0.1, "PCM_16", 44_100),
    }
    for name, (level, subtype, rate) in kinds.items():
        soundfile.write(tmp_path / f"{name}.wav", level * random.standard_normal(rate), rate, subtype=subtype)
    soundfile.write(tmp_path / "ends.wav", np.array([-32768, 32767] * 4000, np.int16), RATE)
    for names, kept in (
        (["exact", "ends"], torch.int16),
        (["exact", "loud"], torch.float32),
        (["quiet"], torch.float32),
        (["rate"], torch.float32),
    ):
        clips = [data.Clip(str(tmp_path / f"{name}.wav")) for name in names]
        memory = data.Memory(clips, 8000)
        assert memory.store.dtype == kept
        batch = memory.crop(np.arange(len(clips)), np.zeros(len(clips)), [(0, 0)] * len(clips))
        for clip, waveform in zip(clips, batch.waveforms, strict=True):
            assert torch.equal(waveform, audio.load_waveform(clip.path)[:8000])


def test_of_a_single_recording_the_end_is_held_out(tmp_path):
    (path,) = write_clips(tmp_path, 1, (60, 60))
    (clip,) = data.find_clips([tmp_path])
    train, held_out = data.split_in_time(clip, 64)
    assert [one.part for one in train] == [(0.0, 54.0)]
    assert [one.part for one in held_out] == [(54.0, 60.0)]
    whole = audio.load_waveform(path)
    assert torch.equal(data.read_whole(train[0]), whole[: 54 * 16000])
    for fraction in (0.0, 0.37, 0.999):
        start = int(fraction * (53 * 16000 + 1))
        assert torch.equal(data.read_piece(train[0], fraction, 16000), whole[start : start + 16000])
    assert torch.equal(data.read_piece(held_out[0], 0.5, 16 * 16000), whole[54 * 16000 :])
    assert data.estimated(held_out[0]) == 6
    long = replace(clip, path=str(write_clips(tmp_path / "long", 1, (1200, 1200))[0]))
    pieces = [one.part for one in data.split_in_time(long, 5)[1]]
    assert pieces[0] == (1080, 1090)
    assert pieces[-1] == (1190, 1200)
    assert len(pieces) == 5
    with pytest.raises(data.DataError, match="take one of at least 5 s"):
        data.split_in_time(replace(clip, path=str(write_clips(tmp_path / "short", 1, (2, 2))[0])), 64)
