"""Public labelled datasets, read from the folders that their archives unpack to. Nothing is downloaded, written or moved.

Each function takes such a folder and gives a :class:`~ssast_lab.data.labelled.LabelledSet` with the official folds. Each
docstring says what the official split leaves open, and what is done about it. :class:`LabelError` for any other folder.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from ssast_lab import data
from ssast_lab.data.labelled import LabelError, LabelledSet, joined, read_labelled
from ssast_lab.data.labelled.names import table_rows
from ssast_lab.data.labelled.readers import class_folders, sounds, sub_folders
from ssast_lab.data.labelled.sets import LabelledClip, build

WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")  # of the twelve-class task
UNKNOWN, SILENCE = "_unknown_", "_silence_"
NOISE = "_background_noise_"
TEST_ARCHIVE = "speech_commands_test_set_v0.01"
EMOTIONS = {"neu": "neutral", "hap": "happy", "exc": "happy", "sad": "sad", "ang": "angry"}
SPEAKER = re.compile(r"[0-9a-f]{8}(?=_nohash_)")
UTTERANCE = re.compile(r"\[[\d.]+ - [\d.]+\]\s+(?P<name>(?P<dialogue>\S+)_\S+)\s+(?P<emotion>\S+)\s+\[")


def esc_50(path: str | os.PathLike[str]) -> LabelledSet:
    """ESC-50 (Piczak 2015; github.com/karolpiczak/ESC-50): 2,000 clips, 50 classes, five folds. The source of a clip is the
    Freesound recording that it was cut from; no recording is in two folds."""
    path = Path(path)
    table = _expect(path, "meta/esc50.csv", "ESC-50")
    entries = [
        LabelledClip(data.Clip(str(path / "audio" / row["filename"])), (row["category"],), row["src_file"], row["fold"])
        for row in table_rows(table, ("filename", "fold", "category", "src_file"))
    ]
    return build(entries, origin=table)


def speech_commands_v2(path: str | os.PathLike[str]) -> LabelledSet:
    """Speech Commands v2 (Warden 2018), with every word a class (35). Folds are those of ``validation_list.txt`` and
    ``testing_list.txt``, and all else trains. The source is the speaker. ``_background_noise_`` is left out."""
    path = Path(path)
    return build(list(_words(path, "Speech Commands v2")), origin=path)


def speech_commands_v1(path: str | os.PathLike[str]) -> LabelledSet:
    """Speech Commands v1 as SUPERB's keyword spotting has it (s3prl ``downstream/speech_commands``): ten words, all other words
    as ``_unknown_``, and ``_silence_``; the source is the speaker.

    A clip of silence is a whole recording of ``_background_noise_``, about a minute long; in training another stretch of it is
    cropped each time. The last but one of these recordings, in alphabetical order, is for validation, where SUPERB trains and
    validates on all. The test set is the official archive ``speech_commands_test_set_v0.01`` if that folder lies in or beside
    this one: its twelve classes are balanced, and its silence is cut from the same noise as that of training. Without it,
    ``testing_list.txt`` says which words are tested and the last noise recording is their silence; the figures are then not
    comparable with published ones.
    """
    path = Path(path)
    entries = [
        entry if entry.labels[0] in WORDS else entry._replace(labels=(UNKNOWN,))
        for entry in _words(path, "Speech Commands v1")
    ]
    noises = list(sounds(path / NOISE))
    if len(noises) < 4:
        raise LabelError(
            f"{len(noises)} recordings of noise were found in {path / NOISE}, where at least four were expected."
        )
    sides = ["train"] * (len(noises) - 2) + ["valid", "test"]
    official = next((folder for folder in (path / TEST_ARCHIVE, path.parent / TEST_ARCHIVE) if folder.is_dir()), None)
    if official:
        entries = [entry for entry in entries if entry.fold != "test"]
        entries += [entry._replace(source=_speaker(entry.clip), fold="test") for entry in class_folders(official)]
        sides[-1] = "train"
    entries += [LabelledClip(clip, (SILENCE,), clip.path, side) for clip, side in zip(noises, sides, strict=True)]
    return build(entries, (*WORDS, UNKNOWN, SILENCE), origin=path)


def _words(path: Path, name: str) -> Iterator[LabelledClip]:
    lists = {
        fold: _expect(path, f"{file}_list.txt", name) for fold, file in (("valid", "validation"), ("test", "testing"))
    }
    folds = {
        line.strip(): fold for fold, file in lists.items() for line in file.read_text(encoding="utf-8").splitlines()
    }
    for folder in sub_folders(path):
        if folder.name not in (NOISE, TEST_ARCHIVE):
            for clip in sounds(folder):
                fold = folds.get(Path(clip.path).relative_to(path).as_posix(), "train")
                yield LabelledClip(clip, (folder.name,), _speaker(clip), fold)


def _speaker(clip: data.Clip) -> str:
    match = SPEAKER.search(Path(clip.path).name)
    return match[0] if match else ""


def audioset_20k(path: str | os.PathLike[str]) -> LabelledSet:
    """AudioSet's balanced training set and evaluation set (Gemmeke et al. 2017; 527 labels, many to a clip) as the official
    code of SSAST and AST takes them: a folder with ``class_labels_indices.csv``, one JSON of training clips (``*20k*.json``,
    ``bal*.json``, or ``*train*.json``) and one of evaluation clips (``*eval*.json``)."""
    path = Path(path)
    labels = _expect(path, "class_labels_indices.csv", "AudioSet")
    train = read_labelled(_one(path, "*20k*.json", "bal*.json", "*train*.json"), labels)
    test = read_labelled(_one(path, "*eval*.json"), labels)
    return replace(joined([train, test]), folds=("train",) * len(train) + ("test",) * len(test))


def _one(path: Path, *patterns: str) -> Path:
    """The file that matches the first of the patterns with any match; :class:`LabelError` for none or several."""
    for pattern in patterns:
        files = [file for file in sorted(path.glob(pattern)) if "eval" not in file.name or "eval" in pattern]
        if len(files) == 1:
            return files[0]
        if files:
            raise LabelError(
                f"{path} holds {len(files)} files {pattern}, such as {files[0].name} and {files[1].name}: keep one."
            )
    raise LabelError(f"{path} is no AudioSet folder: a file {' or '.join(patterns)} was expected in it.")


def voxceleb1(path: str | os.PathLike[str]) -> LabelledSet:
    """VoxCeleb1 for speaker identification (Nagrani, Chung, Zisserman 2017): 1,251 speakers, folds from ``iden_split.txt``. The
    source is the video, since every speaker is in every fold. Sounds lie in ``wav/``, or in ``dev/wav/`` and ``test/wav/`` as
    the archives unpack."""
    path = Path(path)
    table = _expect(path, "iden_split.txt", "VoxCeleb1")
    roots = [path / name for name in ("wav", "dev/wav", "test/wav") if (path / name).is_dir()]
    if not roots:
        raise LabelError(
            f"{path} is no folder of VoxCeleb1: a folder wav, or dev/wav and test/wav, was expected in it."
        )
    where = {folder.name: folder for root in roots for folder in sub_folders(root)}
    entries = []
    for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        parts = re.fullmatch(r"([123]) (([^/ ]+)/[^/ ]+)/([^/ ]+)", line.strip())
        if not parts:
            raise LabelError(
                f'Line {number} of {table} is {line!r}, where "1 id10001/1zcIwhmdeo4/00001.wav" or the like was expected.'
            )
        side, video, speaker, file = parts.groups()
        folder = where.get(speaker, roots[0] / speaker).parent
        fold = {"1": "train", "2": "valid", "3": "test"}[side]
        entries.append(LabelledClip(data.Clip(str(folder / video / file)), (speaker,), video, fold))
    return build(entries, origin=table)


def iemocap(path: str | os.PathLike[str]) -> LabelledSet:
    """IEMOCAP (Busso et al. 2008) as SUPERB's emotion recognition has it: neutral, happy (with excited), sad and angry, 5,531
    utterances. Each of the five sessions is a fold and a source; they share no speaker."""
    path = Path(path)
    sessions = [path / f"Session{number}" for number in range(1, 6)]
    entries = []
    for number, session in enumerate(sessions, 1):
        folder = _expect(path, f"{session.name}/dialog/EmoEvaluation", "IEMOCAP")
        files = sorted(file for file in folder.glob("*.txt") if not file.name.startswith("."))
        if not files:
            raise LabelError(f"{folder} holds no evaluation of a dialogue, such as Ses0{number}F_impro01.txt.")
        for file in files:
            for line in UTTERANCE.finditer(file.read_text(encoding="latin-1")):
                if line["emotion"] in EMOTIONS:
                    wav = session / "sentences" / "wav" / line["dialogue"] / f"{line['name']}.wav"
                    entries.append(
                        LabelledClip(data.Clip(str(wav)), (EMOTIONS[line["emotion"]],), session.name, str(number))
                    )
    return build(entries, origin=path)


DATASETS: dict[str, Callable[[str | os.PathLike[str]], LabelledSet]] = {
    "esc-50": esc_50,
    "speech-commands-v1": speech_commands_v1,
    "speech-commands-v2": speech_commands_v2,
    "audioset-20k": audioset_20k,
    "voxceleb1": voxceleb1,
    "iemocap": iemocap,
}


def read_dataset(name: str, path: str | os.PathLike[str]) -> LabelledSet:
    """A public dataset by its name, one of :data:`DATASETS`; :class:`LabelError` for any other."""
    if name not in DATASETS:
        raise LabelError(f"There is no dataset {name!r}: choose among {', '.join(DATASETS)}.")
    return DATASETS[name](path)


def _expect(path: Path, name: str, dataset: str) -> Path:
    if not (path / name).exists():
        raise LabelError(f"{path} is no folder of {dataset}: {name} was expected in it.")
    return path / name
