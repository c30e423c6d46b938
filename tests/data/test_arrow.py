"""What datasets of Hugging Face saves, and Parquet: the same sounds and labels as the files that went in."""

import builtins
import re
import tomllib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny import here, tiny, train, write_clips

from ssast_lab import audio, data
from ssast_lab.data import arrow
from ssast_lab.data.labelled import LabelError, check, read_labelled, splits

KINDS = ["wren", "robin", "jay"]  # in another order than that of the alphabet


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"), 12, (0.7, 0.9))


@pytest.fixture(scope="module")
def saved(tmp_path_factory, clips):
    """A dataset of two splits as ``datasets`` saves it."""
    import datasets

    folder = tmp_path_factory.mktemp("saved")
    features = datasets.Features(
        {"audio": datasets.Audio(), "label": datasets.ClassLabel(names=KINDS), "speaker": datasets.Value("string")}
    )
    parts = {}
    for name, some in (("train", clips[:9]), ("test", clips[9:])):
        rows = {
            "audio": [{"bytes": path.read_bytes(), "path": path.name} for path in some],
            "label": [int(path.stem) % 3 for path in some],
            "speaker": [path.stem for path in some],
        }
        parts[name] = datasets.Dataset(pa.table(rows)).cast(features)
    whole = datasets.DatasetDict(parts)
    whole.save_to_disk(folder / "disk", num_shards={"train": 2, "test": 1})
    for name, part in whole.items():
        part.to_parquet(folder / "hub" / "data" / f"{name}-00000-of-00001.parquet", batch_size=4)
    (folder / "disk" / "train" / "cache-1a2b.arrow").write_bytes(b"what datasets has computed")
    return folder


def sounds(found):
    return [audio.load_waveform(clip.open()) for clip in found]


def assert_same(found, paths):
    assert [clip.sha256() for clip in found] == [data.Clip(str(path)).sha256() for path in paths]
    assert all(torch.equal(one, audio.load_waveform(path)) for one, path in zip(sounds(found), paths, strict=True))


@pytest.mark.parametrize("kind", ["disk", "hub"])
def test_a_saved_dataset_holds_the_sounds_and_labels_that_went_in(saved, clips, kind):
    passed = data.Passed()
    found = data.find_clips([saved / kind], passed)
    assert_same(found, [*clips[9:], *clips[:9]])  # test comes before train
    assert len({clip.name for clip in found}) == 12
    read = read_labelled(saved / kind, passed=data.Passed())
    assert [*read.clips] == found
    assert read.labels == tuple(KINDS), "in the order of the dataset"
    assert read.targets.argmax(1).tolist() == [int(path.stem) % 3 for path in (*clips[9:], *clips[:9])]
    assert read.folds == ("test",) * 3 + ("train",) * 9
    assert read.sources == tuple(path.stem for path in (*clips[9:], *clips[:9]))
    (split,) = splits(read)
    check(split.train, split.test)
    assert clips[3].read_bytes()[100:150] == data.find_clips([saved / kind])[6].read(100, 50)


def test_a_model_learns_from_it(saved, tmp_path):
    steps = train(tiny(saved / "hub", saved / "disk" / "train", steps=2), here(tmp_path / "run", workers=1))
    assert len(steps) == 2
    again = train(tiny(saved / "hub", saved / "disk" / "train", steps=2), here(tmp_path / "memory", in_memory=True))
    assert [step.losses for step in steps] == [step.losses for step in again]


def table(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_plain_columns_of_bytes_and_of_paths(tmp_path, clips):
    content = [path.read_bytes() for path in clips]
    labels = [["a", "b"] if number % 2 else ["a"] for number in range(12)]
    held = table(tmp_path / "bytes.parquet", {"wav": content, "Labels": labels}, row_group_size=5)
    named = table(tmp_path / "paths.parquet", {"path": [*map(str, clips)], "label": ["a;b", "a"] * 6})
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "x.flac").write_bytes(content[0])
    near = table(tmp_path / "near.parquet", {"audio": [{"bytes": None, "path": "near/x.flac"}], "label": [7]})
    assert_same(data.find_clips([held]), clips)
    assert_same(data.find_clips([named]), clips)
    assert_same(data.find_clips([near]), clips[:1])
    assert read_labelled(held).targets.tolist() == [[1, n % 2] for n in range(12)]
    assert read_labelled(named).targets.tolist() == [[1, 1], [1, 0]] * 6
    assert read_labelled(near).labels == ("7",)


def test_what_holds_no_sound_is_said(tmp_path, clips):
    empty = {"bytes": None, "path": None}
    some = [{"bytes": clips[0].read_bytes(), "path": None}, empty]
    passed = data.Passed()
    assert len(data.find_clips([table(tmp_path / "a.parquet", {"audio": some})], passed)) == 1
    assert passed.counts == {"rows without a sound": 1}
    other = table(tmp_path / "other.parquet", {"number": [1, 2]})
    for read in (data.find_clips, lambda sources: read_labelled(sources[0])):
        with pytest.raises((data.DataError, LabelError)):
            read([other])
    with pytest.raises(data.DataError, match="has no column of sounds"):
        data.find_clips([other])
    with pytest.raises(LabelError, match=r"a.parquet has no column label, labels"):
        read_labelled(tmp_path / "a.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(data.DataError, match=r"bad.parquet cannot be read as Parquet"):
        data.find_clips([tmp_path / "bad.parquet"])
    within = data.Passed()
    assert len(data.find_clips([tmp_path], within)) == 1
    assert within.counts == {"rows without a sound": 1, "tables without sounds": 2}


@pytest.mark.parametrize("file", [True, False])
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_arrow_files_of_both_kinds(tmp_path, clips, file, compression):
    columns = pa.table({"audio": [{"bytes": path.read_bytes(), "path": path.name} for path in clips]})
    path = tmp_path / "a.arrow"
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (pa.ipc.new_file if file else pa.ipc.new_stream)(str(path), columns.schema, options=options) as out:
        out.write_table(columns, max_chunksize=5)
    if compression:
        with pytest.raises(data.DataError, match="is compressed: save it without compression"):
            data.find_clips([path])
    else:
        assert_same(data.find_clips([path]), clips)


def test_without_pyarrow_one_sentence_says_how_to_get_it(saved, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.split(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        data.DataError, match=f"can be read with pyarrow, which is not installed: {re.escape(arrow.EXTRA)}"
    ):
        data.find_clips([saved / "hub" / "data" / "test-00000-of-00001.parquet"])
    with pytest.raises(data.DataError, match=r"No sound was found .* pip install"):
        data.find_clips([saved / "disk"])
    with pytest.raises(LabelError, match="pip install"):
        read_labelled(saved / "disk")
    extra = re.fullmatch(r"pip install 'ssast-lab\[(\w+)\]'", arrow.EXTRA)[1]
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert any(line.startswith("pyarrow") for line in project["optional-dependencies"][extra])
