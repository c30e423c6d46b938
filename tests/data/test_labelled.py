"""Labelled sets of every kind that say the same, splits that share nothing, and sentences for sets that cannot be used."""

import json
import os
import shutil

import numpy as np
import pytest
from tiny import write_clips

from ssast_lab import audio, data
from ssast_lab.data.labelled import LabelError, LabelledSet, check, divide, read_labelled, splits

KINDS = ("bird", "drum", "voice")
LABEL_FILE = 'index,mid,display_name\n1,/m/2,drum\n0,/m/1,"bird, small bird"\n2,/m/3,voice\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve clips, in class folders under train, valid and test, some of them nested; among them what is no sound."""
    folder = tmp_path_factory.mktemp("labelled")
    clips = write_clips(folder / "flat", 12, (0.1, 0.3))
    for number, clip in enumerate(clips):
        fold = ("train", "train", "valid", "test")[number // 3]
        target = folder / fold / KINDS[number % 3] / ("deep" if number % 2 else "") / clip.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, target)
    (folder / "train" / "bird" / "notes.txt").write_text("no sound")
    (folder / "train" / "bird" / "._000.flac").write_text("what other systems leave behind")
    (folder / "train" / ".git" / "x").mkdir(parents=True)
    for kind in KINDS:
        (folder / "train" / kind / ".backup").mkdir()
        shutil.copy(clips[0], folder / "train" / kind / ".backup" / "backup.flac")
    for fold in ("train", "valid", "test"):
        shutil.move(folder / fold, folder / "classes" / fold)
    write(folder / "classes" / "notes" / "read me.txt", "what lies beside the folds and holds no sound is no class")
    return folder


def listed(folder):
    """(path from the manifest, kind, fold) of the twelve."""
    names = sorted(path.name for path in (folder / "flat").iterdir())
    return [(f"flat/{name}", KINDS[i % 3], ("train", "train", "valid", "test")[i // 3]) for i, name in enumerate(names)]


def facts(one: LabelledSet):
    """name -> (labels, fold), whatever the order of clips and labels."""
    return {
        os.path.basename(clip.path): ({one.labels[i] for i in np.flatnonzero(row)}, fold)
        for clip, row, fold in zip(one.clips, one.targets, one.folds, strict=True)
    }


def write(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def table(folder):
    """Writes lines of a table beside the clips, and removes them after the test."""
    made = []

    def make(text, name="made.csv"):
        made.append(write(folder / name, text))
        return made[-1]

    yield make
    for path in made:
        path.unlink(missing_ok=True)


# --- readers ------------------------------------------------------------------------------------------------------


def test_folders_tables_and_the_official_json_say_the_same(folder, table):
    rows = listed(folder)
    expected = {os.path.basename(path): ({kind}, fold) for path, kind, fold in rows}
    folders = read_labelled(folder / "classes")
    comma = read_labelled(table("\ufeffSource,fold,label,path\n" + "".join(f",{f},{k},{p}\n" for p, k, f in rows)))
    lines = "".join(f'"Said\t{p}\t{f}\t{k}\n' for p, k, f in rows)  # in a TSV a quotation mark is a letter
    tabs = read_labelled(table(f"sentence\twav\tsplit\tcategory\n{lines}", "a.tsv"))
    table("path,label,fold\n" + "".join(f"{p},{k},{f}\n" for p, k, f in rows), "task.csv")
    whole = read_labelled(folder)
    for one in (folders, comma, tabs, whole):
        assert facts(one) == expected
        assert one.labels == KINDS
        assert one.targets.dtype == np.float32
        assert not one.multi
        assert all(len(audio.load_waveform(clip.open())) > 1000 for clip in one.clips)

    codes = {"bird": "/m/1", "drum": "/m/2", "voice": "/m/3"}
    official = {"data": [{"wav": str(folder / p), "labels": codes[k]} for p, k, _ in rows]}
    manifest = table(json.dumps(official), "a.json")
    read = read_labelled(manifest, table(LABEL_FILE, "labels.csv"))
    assert read.labels == ("bird, small bird", "drum", "voice"), "in the order of the index"
    assert np.array_equal(read.targets, whole.targets)
    assert [c.path for c in read.clips] == [c.path for c in whole.clips]


def test_labels_are_found_by_code_and_by_name_even_with_commas(table):
    labels = table(LABEL_FILE, "labels.csv")
    entries = ["/m/1,/m/3", "/m/3,bird, small bird", "voice, bird, small bird", ["/m/1", "voice"], "/m/1,/m/3,/m/3"]
    official = {"data": [{"wav": f"{i}.wav", "labels": entry} for i, entry in enumerate(entries)]}
    read = read_labelled(table(json.dumps(official), "a.json"), labels)
    assert read.multi
    assert (read.targets == [1, 0, 1]).all()
    joined = table("file,labels\na.wav,/m/1;voice\nb.wav,bird\n", "b.csv")
    with pytest.raises(LabelError, match=r"'bird' of the clip .*b.wav"):
        read_labelled(joined, labels)
    joined = table('file,labels\na.wav,/m/1; voice\nb.wav,"bird, small bird"\n', "b.csv")
    assert read_labelled(joined, labels).targets.tolist() == [[1, 0, 1], [1, 0, 0]]


def test_given_labels_keep_their_order(table):
    path = table("path,label,source\nx.wav,b,one\ny.wav,a,\n")
    assert read_labelled(path).labels == ("a", "b")
    read = read_labelled(path, ("c", "b", "a"))
    assert read.labels == ("c", "b", "a")
    assert read.targets.tolist() == [[0, 1, 0], [0, 0, 1]]
    assert read.sources == ("one", "")
    numbers = table("path,label\n" + "".join(f"{i}.wav,{i}\n" for i in (10, 9, 1)))
    assert read_labelled(numbers).labels == ("1", "9", "10"), "numbers are not words"


def test_where_keeps_labels_and_order(folder):
    read = read_labelled(folder / "classes")
    part = read.where("valid", "test")
    assert len(part) == 6
    assert part.labels == read.labels
    assert set(part.folds) == {"valid", "test"}
    assert facts(part).items() <= facts(read).items()
    assert len(read.where("nothing")) == 0
    assert not read.where("nothing").multi


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "sound,label\nx.wav,a\n", "has no column path, wav, file.* which holds: sound, label"),
        ("a.csv", "path,kind\nx.wav,a\n", "has no column label"),
        ("a.csv", "path,label\n", "No labelled sound"),
        ("a.csv", "", "has no column path.* which holds: nothing"),
        ("a.csv", "path,label\nx.wav,\n", "x.wav in line 2 of .*a.csv has no label"),
        ("a.csv", "path,label\nx.wav,a\n\nx.wav,b\n", "other labels in line 4 of .*a.csv than in line 2 of .*joined"),
        ("a.csv", "path,label,fold\nx.wav,a,later\n", "fold 'later' of the clip .*x.wav in line 2 of .*a.csv"),
        ("a.csv", b"path,label\nx\xff.wav,a\n", "Line 2 of .* is no UTF-8: save"),
        ("a.json", '{"data": [{"wav": "x.wav", "labels": "/m/1"}]}', "therefore needs the label file"),
        ("a.txt", "x", "expected a folder, .csv"),
        ("nothing.csv", None, "no such file or folder"),
    ],
)  # fmt: skip
def test_what_is_no_labelled_set_says_why(tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(LabelError, match=words):
        read_labelled(tmp_path / name)


@pytest.mark.parametrize(
    ("manifest", "labels", "words"),
    [
        ('{"data": [{"wav": "x.wav", "labels": "/m/1,/m/9"}]}', LABEL_FILE, "'/m/9' of the clip .*x.wav in .*not in the label file .*l.csv"),
        ('{"data": [{"wav": "x.wav", "labels": ""}]}', LABEL_FILE, "x.wav in .* has no label"),
        ('{"data": [{"wav": "x.wav"}]}', LABEL_FILE, "Entry 1 of .* has no labels: an official manifest"),
        ('{"data": [{"wav": "x.wav", "labels": 3}]}', LABEL_FILE, "Entry 1 of .* has no labels"),
        ("[1", LABEL_FILE, "Line 1 of .* is no JSON"),
        ('{"data": []}', LABEL_FILE, "No labelled sound"),
        ('{"data": []}', None, "There is no label file .*l.csv: a CSV"),
        ('{"data": []}', "index,name\n0,a\n", "no column mid"),
        ('{"data": []}', "index,mid,display_name\n0,/m/1,a\n2,/m/2,b\n", "must number its lines"),
        ('{"data": []}', "index,mid,display_name\nx,/m/1,a\n", "must number its lines"),
        ('{"data": []}', "index,mid,display_name\n0,/m/1,a\n1,/m/2,a\n", "'a' occurs twice"),
    ],
)  # fmt: skip
def test_json_and_label_file_that_do_not_fit_say_why(tmp_path, manifest, labels, words):
    write(tmp_path / "a.json", manifest)
    if labels is not None:
        write(tmp_path / "l.csv", labels)
    with pytest.raises(LabelError, match=words):
        read_labelled(tmp_path / "a.json", tmp_path / "l.csv")


def test_folders_without_classes_say_why(tmp_path, folder):
    with pytest.raises(LabelError, match="No labelled sound"):
        read_labelled(tmp_path)
    with pytest.raises(LabelError, match=r"000.flac lies in no class"):
        read_labelled(folder / "flat")


# --- splits -------------------------------------------------------------------------------------------------------


def made(labels, sources=None, folds=None):
    """A set of single labels whose files do not matter."""
    names = tuple(sorted(set(labels)))
    targets = np.array([[label == name for name in names] for label in labels], dtype=np.float32)
    count = len(labels)
    clips = tuple(data.Clip(f"{i}.wav") for i in range(count))
    return LabelledSet(names, clips, targets, tuple(sources or [""] * count), tuple(folds or [""] * count))


def test_named_and_numbered_folds_are_split_as_they_say():
    named = made("abababab", folds=["train"] * 4 + ["valid"] * 2 + ["test"] * 2)
    (only,) = splits(named)
    assert [len(part) for part in only.parts] == [4, 2, 2]
    numbered = made("abababab", folds=list("11223310"))
    found = splits(numbered)
    assert [split.name for split in found] == ["0", "1", "2", "3"]
    for split in found:
        assert set(split.test.folds) == {split.name}
        assert len(split.train) + len(split.test) == 8
        assert split.name not in split.train.folds
        assert len(split.valid) == 0
    with pytest.raises(LabelError, match="folds of the clips are 1, train"):
        splits(made("ab", folds=["1", "train"]))
    with pytest.raises(LabelError, match="none, train"):
        splits(made("ab", folds=["", "train"]))
    for folds in (["train", "valid"], ["train", "train"], ["test", "test"], ["1", "1"], ["train", "other"]):
        with pytest.raises(LabelError, match="use train and test, with valid if you like, or several numbers"):
            splits(made("ab", folds=folds))
    with pytest.raises(LabelError, match="No test set can be drawn from 4 clips of 2 sources"):
        splits(made("abab", sources="xyxy"))


def test_a_drawn_split_shares_no_source_and_keeps_the_shares():
    random = np.random.default_rng(0)
    labels = random.choice(list("abcd"), size=1000, p=[0.4, 0.3, 0.2, 0.1])
    sources = [f"s{i}" if i % 10 else "" for i in random.integers(150, size=1000)]
    drawn = divide(made(labels, sources), seed=1)
    sides = {}
    for source, fold in zip(drawn.sources, drawn.folds, strict=True):
        if source:
            sides.setdefault(source, set()).add(fold)
    assert all(len(folds) == 1 for folds in sides.values())
    for fold, share in (("train", 0.7), ("valid", 0.1), ("test", 0.2)):
        assert np.allclose(drawn.where(fold).targets.sum(0) / drawn.targets.sum(0), share, atol=0.02)
    assert divide(made(labels, sources), seed=1).folds == drawn.folds
    assert divide(made(labels, sources), seed=2).folds != drawn.folds
    assert [part.folds for part in splits(made(labels, sources), seed=1)[0].parts] == [
        drawn.where(fold).folds for fold in ("train", "valid", "test")
    ]


def test_a_rare_class_is_trained_before_it_is_tested():
    drawn = divide(made("aaaaaaaaaabbb"))
    counts = {fold: drawn.where(fold).targets.sum(0).tolist() for fold in ("train", "valid", "test")}
    assert counts == {"train": [7, 2], "valid": [1, 0], "test": [2, 1]}


# --- what a split must be -----------------------------------------------------------------------------------------


@pytest.fixture
def parts(folder):
    read = read_labelled(folder / "classes")
    return [read.where(fold) for fold in ("train", "valid", "test")]


def test_a_split_that_shares_nothing_passes(parts):
    check(*parts)
    check(parts[0])


def with_first(one: LabelledSet, path) -> LabelledSet:
    clips = (data.Clip(str(path)), *one.clips[1:])
    return LabelledSet(one.labels, clips, one.targets, one.sources, one.folds)


def test_the_same_file_under_any_name_is_a_leak(parts, tmp_path):
    train, valid, test = parts
    copy, link = tmp_path / "copy.flac", tmp_path / "link.flac"
    shutil.copy(train.clips[0].path, copy)
    link.symlink_to(train.clips[1].path)
    for path, what in ((train.clips[2].path, "the file"), (link, "the file"), (copy, "the content of")):
        with pytest.raises(
            LabelError, match=f"leaks: {what} .* of the training set is also in the test set, as {path}"
        ):
            check(train, valid, with_first(test, path))
    check(train, valid, with_first(test, copy), contents=False)
    with pytest.raises(LabelError, match="of the validation set is also in the test set"):
        check(train, valid, with_first(test, valid.clips[0].path))


def test_members_of_one_shard_are_different_files(tmp_path):
    (tmp_path / "a.tar").write_bytes(bytes(range(200)) + bytes(range(40)))
    clips = [data.Clip(str(tmp_path / "a.tar"), (start, 40), f"{start}.wav") for start in (0, 40, 80, 120, 160, 200)]
    whole = made("aabbab")
    whole = LabelledSet(whole.labels, tuple(clips), whole.targets, whole.sources, whole.folds)
    check(whole.take([0, 1, 2, 3]), whole.take([4]))
    with pytest.raises(LabelError, match=r"the content of .*a.tar:0.wav .*a.tar:200.wav"):
        check(whole.take([0, 1, 2, 3]), whole.take([5]))


def test_the_same_source_on_both_sides_is_a_leak():
    whole = made("ababab", sources=["anna", "bert", "", "carl", "", "anna"], folds=["train"] * 4 + ["test"] * 2)
    with pytest.raises(
        LabelError, match=r"source 'anna' is in the training set \(0.wav\) and in the test set \(5.wav\)"
    ):
        check(whole.where("train"), whole.where("test"))


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        (made("aabbb"), made("aabbb").take([]), "other set is empty"),
        (made("ab").take([]), made("ab"), "training set is empty"),
        (made("aaaa"), made("aaaa"), "has clips of 1 class"),
        (made("aabbc"), made("aabbc"), "class 'c' has a single clip to train on, 4.wav"),
        (made("aabbc").take([0, 1, 2, 3]), made("aabbc").take([4]), "label 'c' is in the other set, on 4.wav, but on no"),
        (made("aabb"), made("aabbc"), r"other labels than the training set \(3 and 2"),
        (made("aabb"), made("abab"), "0.wav of the training set does not exist"),
    ],
)  # fmt: skip
def test_sets_that_cannot_be_used_say_why(train, test, words):
    with pytest.raises(LabelError, match=words):
        check(train, test)


def test_a_set_that_contradicts_itself_is_refused():
    with pytest.raises(LabelError, match="'a' occurs twice"):
        LabelledSet(("a", "a"), (), np.zeros((0, 2), np.float32), (), ())
    with pytest.raises(ValueError, match="do not fit"):
        LabelledSet(("a", "b"), (data.Clip("x"),), np.zeros((1, 3), np.float32), ("",), ("",))
