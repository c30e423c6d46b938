"""From packages to the folder of a task: its sounds with their labels and folds, and its files."""

import csv
import io
import json
import os
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ssast_lab import files
from ssast_lab.audio import SAMPLE_RATE, AudioError
from ssast_lab.data.corpus.packages import Fetch, apt_download, unpack
from ssast_lab.data.corpus.table import CorpusError, licence_of, reserved
from ssast_lab.data.corpus.table import read_table as read_corpus_table
from ssast_lab.data.corpus.tars import sha256_of
from ssast_lab.data.tasks.card import card
from ssast_lab.data.tasks.sounds import OTHER_SUFFIXES, Load, sounds_of
from ssast_lab.data.tasks.speak import install, speech, with_dependencies
from ssast_lab.data.tasks.table import FOLDS, TABLE, TaskError, first_match, fold_of, megabytes, read_table

COLUMNS = ("path", "label", "source", "fold", "origin", "licence")


@dataclass(frozen=True)
class TaskSound:
    """A labelled sound of a package. ``path`` is its place in the package, "file" or "file#part"."""

    package: str
    path: str
    label: str
    source: str
    fold: str
    licence: str
    load: Load
    pcm: bytes = b""  # 16 bit at 16 kHz, after decoding

    @property
    def origin(self) -> str:
        return f"{self.package}:{self.path}"


def build(
    out: str | os.PathLike,
    names: Iterable[str] | None = None,
    cache: str | os.PathLike | None = None,
    fetch: Fetch = apt_download,
    progress: bool = True,
    table: str | os.PathLike = TABLE,
) -> dict[str, dict[str, Any]]:
    """Builds tasks (all by default) in folders of ``out`` and returns what the task.json of each says.

    A finished task is checked and kept. Packages are kept in ``cache`` (by default in ``out``, until the last task is built),
    so that an interrupted build can be resumed. ``fetch(package, folder)`` puts the .deb of a package into the folder and
    returns its path, or None where there is no such package. :class:`TaskError` where a task cannot be built.
    """
    from tqdm import tqdm

    out, tasks = Path(out), read_table(table)
    chosen = list(tasks) if names is None else list(names)
    if unknown := [name for name in chosen if name not in tasks]:
        raise TaskError(f"There is no task {unknown[0]!r}; there are {', '.join(tasks)}.")
    done = {name: verify(out / name) for name in chosen if (out / name / "task.json").exists()}
    for name, record in done.items():
        if record["recipe"] != _recipe(tasks[name]):
            raise TaskError(f"{out / name} was built by another table of tasks; delete it or choose another folder.")
    missing = [name for name in chosen if name not in done]
    if not missing:
        return {name: done[name] for name in chosen}
    _check_tools()
    store = Path(cache) if cache else out / ".packages"
    for folder in (out, store):
        folder.mkdir(parents=True, exist_ok=True)
    with tqdm(total=sum(len(tasks[name]["packages"]) for name in missing), unit="package", disable=not progress) as bar:
        for name in missing:
            bar.set_description(f"{name} ({megabytes(tasks[name]):.0f} MB)")
            for folder in out.glob(f".{name}-*"):  # left by a build that was killed
                shutil.rmtree(folder)
            with tempfile.TemporaryDirectory(dir=out, prefix=f".{name}-") as work:
                try:
                    done[name] = _build(name, tasks[name], Path(work) / name, store, fetch, bar.update)
                except CorpusError as error:
                    raise TaskError(f"The task {name} was not built: {error}") from None
                os.replace(Path(work) / name, out / name)
    if not cache:
        shutil.rmtree(store)
    return {name: done[name] for name in chosen}


def verify(folder: str | os.PathLike) -> dict[str, Any]:
    """What the task.json of a finished task says, after every file was compared with its checksum. :class:`TaskError` where
    one is damaged or missing."""
    folder = Path(folder)
    try:
        record = json.loads((folder / "task.json").read_text(encoding="utf-8"))
        damaged = [name for name, sha in record["files"].items() if sha256_of(folder / name) != sha]
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise TaskError(f"{folder} is no finished task ({error}); delete it and build it again.") from None
    if damaged:
        raise TaskError(f"{folder / damaged[0]} is damaged; delete {folder} and build the task again.")
    return record


def _check_tools() -> None:
    if missing := [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]:
        raise TaskError(
            f"The tasks are made from Debian packages, but {' and '.join(missing)} was not found. Build them on Debian or "
            f"Ubuntu (also in a container) and copy the folder here, or use a labelled folder of your own."
        )


def _recipe(task: dict[str, Any]) -> str:
    return files.sha256(task)


def _build(name: str, task: dict[str, Any], out: Path, store: Path, fetch: Fetch, tick: Any) -> dict[str, Any]:
    """Writes the folder of a task and returns what its task.json says."""
    (out / "audio").mkdir(parents=True)
    (out / "licences").mkdir()
    with tempfile.TemporaryDirectory(dir=out.parent) as work:
        sounds, packages = _collect(name, task, out, Path(work), store, fetch, tick)
        kept, left_out = choose(sounds, task.get("most", {}))
    for label in task["labels"]:
        if missing := [f for f in ("train", "test") if not any((s.label, s.fold) == (label, f) for s in kept)]:
            raise TaskError(
                f"The task {name} has no {missing[0]} clip of {label!r} with these versions of its packages."
            )
    _write_clips(out, kept)
    record = {**_summary(name, task, kept, packages), "left_out": left_out, "weaknesses": task["weaknesses"]}
    written = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    record["files"] = {file: sha256_of(out / file) for file in written}
    record["sha256"] = files.sha256("".join(f"{f} {s}\n" for f, s in record["files"].items()).encode())
    (out / "README.md").write_text(card(record), encoding="utf-8")
    (out / "task.json").write_text(files.to_json(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return record


def _collect(
    name: str, task: dict[str, Any], out: Path, work: Path, store: Path, fetch: Fetch, tick: Any
) -> tuple[list[TaskSound], dict[str, dict[str, Any]]]:
    """The sounds of the task's packages that have a label, and what is recorded of each package. Packages are unpacked into
    ``work``, where the sounds are decoded from; their licences are written into ``out``."""
    corpus, labels = read_corpus_table(), {label.casefold(): label for label in task["labels"]}
    collected: list[TaskSound] = []
    packages = {}
    for entry in task["packages"]:
        package, folder = entry["name"], work / entry["name"]
        folder.mkdir()
        deb = _package(package, store, fetch)
        unpacked, copyright = unpack(deb, folder, OTHER_SUFFIXES)
        (out / "licences" / f"{package}.txt").write_text(copyright, encoding="utf-8")
        debs, loaders = {package: deb}, sounds_of(unpacked)
        if speak := entry.get("speak"):
            debs = with_dependencies(package, lambda name: _package(name, store, fetch))
            install(debs, folder / "root")
            loaders = speech(speak, folder / "root", folder)
        packages[package] = _describe(debs)
        for path, load in loaders:
            if label := first_match(entry["labels"], path):
                source = first_match(entry.get("sources", []), path) or package
                if label.casefold() not in labels:
                    raise TaskError(f"A rule of the task {name} gives {path} the label {label!r}, which it lacks.")
                fold, licence = fold_of(task, source), licence_of(entry, path)
                _check_kept_back(corpus, name, fold, package, path)
                collected.append(TaskSound(package, path, labels[label.casefold()], source, fold, licence, load))
        tick()
    return collected, packages


def _write_clips(out: Path, sounds: Iterable[TaskSound]) -> None:
    """The folder ``audio`` and the table ``task.csv``."""
    with (out / "task.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for number, sound in enumerate(sounds):
            path = f"audio/{number:05d}.flac"
            _write_flac(out / path, sound.pcm)
            table.writerow([path, sound.label, sound.source, sound.fold, sound.origin, sound.licence])


def _summary(
    name: str, task: dict[str, Any], sounds: list[TaskSound], packages: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """What task.json says of the task and its clips."""
    folds = {fold: [s for s in sounds if s.fold == fold] for fold in FOLDS if any(s.fold == fold for s in sounds)}
    used = {sound.package for sound in sounds}
    return dict(
        name=name, kind=task["kind"], question=task["question"], labels=task["labels"], recipe=_recipe(task),
        sample_rate=SAMPLE_RATE,
        counts={fold: {label: sum(s.label == label for s in those) for label in task["labels"]}
                for fold, those in folds.items()},
        sources={fold: sorted({s.source for s in those}) for fold, those in folds.items()},
        seconds=round(sum(len(s.pcm) for s in sounds) / 2 / SAMPLE_RATE, 1),
        packages={p: {**about, "licences": sorted({s.licence for s in sounds if s.package == p})}
                  for p, about in packages.items() if p in used},
    )  # fmt: skip


def _check_kept_back(corpus: dict, task: str, fold: str, package: str, path: str) -> None:
    """:class:`TaskError` for a validation or test sound that the corpus may hold, and for a package that nothing may use."""
    if package in corpus["left_out"]["packages"]:
        raise TaskError(f"The task {task} uses {package}, which nothing may use; take another package.")
    if fold != "train" and reserved(corpus, package, path.partition("#")[0]) is None:
        raise TaskError(
            f"The task {task} tests on {path} of {package}, which the corpus may hold; reserve it there first."
        )


def _describe(debs: dict[str, Path]) -> dict[str, Any]:
    """Version, checksum and size of a package; of a program also those of the packages that it needs."""
    about = {
        name: dict(
            version=subprocess.run(["dpkg-deb", "-f", deb, "Version"], capture_output=True, text=True).stdout.strip(),
            deb_sha256=sha256_of(deb),
        )
        for name, deb in debs.items()
    }
    package, *needed = about
    size = round(sum(deb.stat().st_size for deb in debs.values()) / 1e6, 1)
    needs = {"needs": {name: about[name] for name in needed}} if needed else {}
    return {**about[package], "megabytes": size, **needs}


def _package(name: str, store: Path, fetch: Fetch) -> Path:
    """The .deb of a package, from the store; fetched into it first where it is missing."""
    if not (ready := store / name).exists():
        with tempfile.TemporaryDirectory(dir=store, prefix=f".{name}-") as folder:
            deb = fetch(name, Path(folder))
            if deb is None:
                raise TaskError(
                    f"apt knows no package {name}; update its lists (apt-get update) with Debian's main section."
                )
            (Path(folder) / "ready").mkdir()
            os.replace(deb, Path(folder) / "ready" / f"{name}.deb")
            os.replace(Path(folder) / "ready", ready)
    return ready / f"{name}.deb"


def choose(sounds: list[TaskSound], most: dict[str, int]) -> tuple[list[TaskSound], dict[str, int]]:
    """The sounds of the task, decoded, in the order of their folds and origins; and reason -> how many were left out.

    Where a label has more than ``most`` sounds in a fold, evenly spread ones are taken. A sound that occurs twice is taken
    once, in the test fold if it occurs there; if its labels differ, it is left out.
    """
    why = dict(unusable=0, ambiguous=0, repeated=0, beyond_most=0)
    decoded: list[TaskSound] = []
    for sound in sorted(sounds, key=lambda s: (-FOLDS.index(s.fold), s.origin)):  # test, valid, train
        try:
            pcm = np.round(np.clip(sound.load(), -1, 1) * 32767).astype("<i2").tobytes()
        except AudioError:
            why["unusable"] += 1
        else:
            decoded.append(replace(sound, pcm=pcm))
    labels = defaultdict(set)
    for sound in decoded:
        labels[sound.pcm].add(sound.label)
    groups, seen = defaultdict(list), set()
    for sound in decoded:
        if len(labels[sound.pcm]) > 1:
            why["ambiguous"] += 1
        elif sound.pcm in seen:
            why["repeated"] += 1
        else:
            seen.add(sound.pcm)
            groups[sound.fold, sound.label].append(sound)
    kept: list[TaskSound] = []
    for (fold, _), group in groups.items():
        count = min(most.get(fold, len(group)), len(group))
        why["beyond_most"] += len(group) - count
        kept += [group[i] for i in np.linspace(0, len(group) - 1, count).astype(int)]
    return sorted(kept, key=lambda s: (FOLDS.index(s.fold), s.origin)), why


def _write_flac(path: Path, pcm: bytes) -> None:
    """Writes a FLAC file, after decoding it again and comparing."""
    import soundfile

    values = np.frombuffer(pcm, "<i2")
    file = io.BytesIO()
    soundfile.write(file, values, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    file.seek(0)
    back, rate = soundfile.read(file, dtype="int16")
    if rate != SAMPLE_RATE or not np.array_equal(back, values):
        raise TaskError(f"{path.name} changed when it was written as FLAC: this libsndfile is broken.")
    path.write_bytes(file.getvalue())
