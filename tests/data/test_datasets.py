"""Every public dataset from a miniature copy in the layout in which it is distributed."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
import soundfile
from tiny import RATE

from ssast_lab.audio import load_waveform
from ssast_lab.data import datasets
from ssast_lab.data.datasets import read_dataset
from ssast_lab.data.labelled import LabelError, check, splits


def sound(path, seconds=0.1, rate=RATE):
    """A file whose content is that of no other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(list(str(path).encode()))
    soundfile.write(path, 0.1 * random.standard_normal(round(seconds * rate)), rate, subtype="PCM_16")


def text(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def esc_50(root):
    """Two classes, five folds, two cuts of each recording."""
    with (root / "esc50.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["filename", "fold", "target", "category", "esc10", "src_file", "take"])
        for fold in range(1, 6):
            for target, category in ((0, "dog"), (14, "chirping_birds")):
                for take in "AB":
                    name = f"{fold}-{fold}00{target}-{take}-{target}.wav"
                    rows.writerow([name, fold, target, category, target == 0, f"{fold}00{target}", take])
                    sound(root / "audio" / name, rate=44100)
    (root / "meta").mkdir()
    (root / "esc50.csv").rename(root / "meta" / "esc50.csv")


VOICES = ("0a7c2a8d", "0b09edd3", "1ecfb537", "2aca1e72", "ffd2ba2f")  # the last is tested, the one before validates


def speech_commands(root, words):
    lists = {"validation_list.txt": [], "testing_list.txt": []}
    for word in words:
        for voice in VOICES:
            for take in range(2):
                sound(root / word / f"{voice}_nohash_{take}.wav")
                for name, who in zip(lists, VOICES[-2:], strict=True):
                    if voice == who:
                        lists[name].append(f"{word}/{voice}_nohash_{take}.wav")
    for name, lines in lists.items():
        text(root / name, lines)
    for noise in ("doing_the_dishes", "dude_miaowing", "exercise_bike", "pink_noise", "running_tap", "white_noise"):
        sound(root / "_background_noise_" / f"{noise}.wav", seconds=3)
    text(root / "_background_noise_" / "README.md", ["noise"])
    text(root / "README.md", ["words"])
    text(root / "LICENSE", ["CC BY 4.0"])


def audioset(root):
    names = ["Speech", "Male speech, man speaking", "Music", "Zither"]
    rows = [f'{i},/m/{i:03},"{name}"' for i, name in enumerate(names)]
    text(root / "class_labels_indices.csv", ["index,mid,display_name", *rows])
    for fold, name in (("bal", "balanced_train_data.json"), ("eval", "eval_data.json")):
        entries = []
        for i in range(6):
            sound(root / "audio" / fold / f"Y{i}.flac")
            labels = ",".join(["/m/000", "/m/001"] if i % 2 else ["/m/002"])
            entries.append({"wav": str(root / "audio" / fold / f"Y{i}.flac"), "labels": labels})
        (root / name).write_text(json.dumps({"data": entries}), encoding="utf-8")
    (root / "unbalanced_train_data.json").write_text('{"data": []}')


def voxceleb1(root, *, unpacked=False):
    lines = []
    for number, speaker in enumerate(("id10001", "id10002", "id10270")):
        for video, side, count in (("1zcIwhmdeo4", 1, 3), ("7gWzIy6yIIk", 2, 1), ("J9lHsKG98U8", 3, 2)):
            for i in range(1, count + 1):
                path = f"{speaker}/{video[:-1]}{number}/{i:05}.wav"
                lines.append(f"{side} {path}")
                part = ("test/wav" if number == 2 else "dev/wav") if unpacked else "wav"
                sound(root / part / path)
    text(root / "iden_split.txt", lines)


def iemocap(root):
    emotions = ("neu", "exc", "sad", "ang", "fru", "hap", "xxx", "neu", "sad", "ang")
    for session in range(1, 6):
        folder = root / f"Session{session}"
        for dialogue in (f"Ses0{session}F_impro01", f"Ses0{session}M_script01_1"):
            lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
            for i, emotion in enumerate(emotions):
                name = f"{dialogue}_{'FM'[i % 2]}{i:03}"
                lines += [f"[{i}.2901 - {i + 1}.2357]\t{name}\t{emotion}\t[2.5000, 2.5000, 2.5000]",
                          "C-E2:\tNeutral;\t()", "A-F1:\tval 3; act 2; dom  2;\t()", ""]  # fmt: skip
                sound(folder / "sentences" / "wav" / dialogue / f"{name}.wav")
            text(folder / "dialog" / "EmoEvaluation" / f"{dialogue}.txt", lines)
            (folder / "dialog" / "EmoEvaluation" / f"._{dialogue}.txt").write_bytes(b"\x00\x05\xff")
            text(folder / "dialog" / "EmoEvaluation" / "Categorical" / f"{dialogue}_e2_cat.txt", ["no evaluation"])


def table(one):
    """Clips of each fold and label."""
    return Counter((fold, one.labels[i]) for fold, row in zip(one.folds, one.targets) for i in np.flatnonzero(row))


def assert_usable(one):
    """Every clip is a sound, and no split leaks."""
    assert all(len(load_waveform(clip.open())) >= 0.09 * RATE for clip in one.clips)
    found = splits(one)
    for split in found:
        check(*(part for part in split.parts if len(part)))
    return found


def test_esc_50(tmp_path):
    esc_50(tmp_path)
    read = read_dataset("esc-50", tmp_path)
    assert read.labels == ("chirping_birds", "dog")
    assert table(read) == {(str(fold), label): 2 for fold in range(1, 6) for label in read.labels}
    assert len(set(read.sources)) == 10
    assert [split.name for split in assert_usable(read)] == list("12345")


def test_esc_50_whose_recording_is_in_two_folds_leaks(tmp_path):
    esc_50(tmp_path)
    path = tmp_path / "meta" / "esc50.csv"
    path.write_text(path.read_text().replace(",1000,A", ",2000,A"))
    with pytest.raises(LabelError, match="source '2000'"):
        check(*splits(read_dataset("esc-50", tmp_path))[0][1::2])


def test_speech_commands_v2(tmp_path):
    speech_commands(tmp_path, ("backward", "bed", "yes"))
    read = read_dataset("speech-commands-v2", tmp_path)
    assert read.labels == ("backward", "bed", "yes")
    assert table(read) == {
        (fold, word): clips for word in read.labels for fold, clips in (("train", 6), ("valid", 2), ("test", 2))
    }
    assert set(read.where("valid").sources) == {VOICES[3]}
    assert set(read.where("test").sources) == {VOICES[4]}
    assert set(read.where("train").sources) == set(VOICES[:3])
    assert len(assert_usable(read)) == 1


def test_speech_commands_v1_has_twelve_classes(tmp_path):
    speech_commands(tmp_path, (*datasets.WORDS, "bed", "bird", "cat"))
    read = read_dataset("speech-commands-v1", tmp_path)
    assert read.labels == (*datasets.WORDS, "_unknown_", "_silence_")
    counts = table(read)
    for fold, clips, silence in (("train", 6, 4), ("valid", 2, 1), ("test", 2, 1)):
        assert [counts[fold, label] for label in read.labels] == [clips] * 10 + [3 * clips, silence]
    assert len(assert_usable(read)) == 1


def test_speech_commands_v1_is_tested_on_the_official_archive(tmp_path):
    root, archive = tmp_path / "speech_commands_v0.01", tmp_path / "speech_commands_test_set_v0.01"
    speech_commands(root, (*datasets.WORDS, "bed"))
    for label in (*datasets.WORDS, "_unknown_", "_silence_"):
        for take in range(3):
            name = f"{take}.wav" if label == "_silence_" else f"{VOICES[4]}_nohash_{take}.wav.wav"
            sound(archive / label / name)
    for moved in (False, True):
        if moved:
            archive.rename(root / archive.name)
        read = read_dataset("speech-commands-v1", root)
        counts = table(read)
        assert [counts["test", label] for label in read.labels] == [3] * 12
        assert [counts[fold, "_silence_"] for fold in ("train", "valid")] == [5, 1]
        assert set(read.where("test").sources) == {VOICES[4], ""}
        assert len(assert_usable(read)) == 1


def test_audioset(tmp_path):
    audioset(tmp_path)
    read = read_dataset("audioset-20k", tmp_path)
    assert read.labels == ("Speech", "Male speech, man speaking", "Music", "Zither")
    assert read.multi
    assert table(read) == {(fold, label): 3 for fold in ("train", "test") for label in read.labels[:3]}
    assert len(assert_usable(read)) == 1
    (tmp_path / "balanced_copy.json").write_text("{}")
    with pytest.raises(LabelError, match=r"holds 2 files bal\*.json, such as balanced_copy.json"):
        read_dataset("audioset-20k", tmp_path)


@pytest.mark.parametrize("unpacked", [False, True])
def test_voxceleb1(tmp_path, unpacked):
    voxceleb1(tmp_path, unpacked=unpacked)
    read = read_dataset("voxceleb1", tmp_path)
    assert read.labels == ("id10001", "id10002", "id10270")
    sides = (("train", 3), ("valid", 1), ("test", 2))
    assert table(read) == {(fold, speaker): clips for speaker in read.labels for fold, clips in sides}
    assert len(set(read.sources)) == 9
    assert len(assert_usable(read)) == 1
    text(tmp_path / "iden_split.txt", ["1 id10001/1zcIwhmdeo4/00001.wav", "4 id10001/1zcIwhmdeo4/00002.wav"])
    with pytest.raises(LabelError, match="Line 2 of"):
        read_dataset("voxceleb1", tmp_path)


def test_iemocap(tmp_path):
    iemocap(tmp_path)
    read = read_dataset("iemocap", tmp_path)
    assert read.labels == ("angry", "happy", "neutral", "sad")
    assert table(read) == {(str(session), label): 4 for session in range(1, 6) for label in read.labels}
    found = assert_usable(read)
    assert [set(split.test.sources) for split in found] == [{f"Session{i}"} for i in range(1, 6)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("esc-50", "meta/esc50.csv"), ("speech-commands-v1", "validation_list.txt"), ("voxceleb1", "iden_split.txt"),
     ("speech-commands-v2", "validation_list.txt"), ("audioset-20k", "class_labels_indices.csv"),
     ("iemocap", "Session1/dialog/EmoEvaluation")],
)  # fmt: skip
def test_a_wrong_folder_says_what_was_expected_where(tmp_path, name, expected):
    assert name in datasets.DATASETS
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(LabelError, match=f"{path} is no folder of .*: {expected} was expected in it"):
            read_dataset(name, path)


def test_a_half_unpacked_folder_says_what_is_missing(tmp_path):
    text(tmp_path / "iden_split.txt", ["1 id10001/1zcIwhmdeo4/00001.wav"])
    with pytest.raises(LabelError, match="a folder wav, or dev/wav and test/wav, was expected"):
        read_dataset("voxceleb1", tmp_path)
    text(tmp_path / "class_labels_indices.csv", ["index,mid,display_name", "0,/m/0,a"])
    with pytest.raises(LabelError, match=r"a file \*20k\*.json or bal\*.json or \*train\*.json was expected"):
        read_dataset("audioset-20k", tmp_path)
    for name in ("validation_list.txt", "testing_list.txt"):
        text(tmp_path / name, [])
    with pytest.raises(LabelError, match=r"0 recordings of noise were found in .*_background_noise_"):
        read_dataset("speech-commands-v1", tmp_path)
    (tmp_path / "Session1" / "dialog" / "EmoEvaluation").mkdir(parents=True)
    with pytest.raises(LabelError, match=r"holds no evaluation of a dialogue, such as Ses01F_impro01.txt"):
        read_dataset("iemocap", tmp_path)


def test_a_missing_sound_and_an_unknown_name_are_told(tmp_path):
    esc_50(tmp_path)
    (tmp_path / "audio" / "3-3000-B-0.wav").unlink()
    with pytest.raises(LabelError, match=r"3-3000-B-0.wav of the .* set does not exist"):
        check(*splits(read_dataset("esc-50", tmp_path))[0][1::2])
    with pytest.raises(LabelError, match="no dataset 'esc50': choose among esc-50, "):
        read_dataset("esc50", tmp_path)
