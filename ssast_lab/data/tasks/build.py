"""From packages to the folder of a task: which sounds, which label, which fold, and what the files hold."""

import csv
import hashlib
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

from ssast_lab.audio import SAMPLE_RATE, AudioError
from ssast_lab.data.corpus.packages import Fetch, apt_download, unpack
from ssast_lab.data.corpus.table import CorpusError, licence_of, reserved
from ssast_lab.data.corpus.table import read_table as read_corpus_table
from ssast_lab.data.corpus.tars import sha256_of
from ssast_lab.data.tasks.card import card
from ssast_lab.data.tasks.sounds import MORE, Load, sounds
from ssast_lab.data.tasks.speak import install, speech, with_dependencies
from ssast_lab.data.tasks.table import FOLDS, TABLE, TaskError, first, fold_of, megabytes, read_table

COLUMNS = ("path", "label", "source", "fold", "origin", "licence")


@dataclass(frozen=True)
class Found:
    """A labelled sound of a package; ``path`` is where it lies in the package, as "file" or "file#part"."""

    package: str
    path: str
    label: str
    source: str
    fold: str
    licence: str
    load: Load
    pcm: bytes = b""  # 16 bit, 16 kHz, once it is decoded

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
    """Build tasks (all by default) in folders of ``out`` and return what each one's task.json says.

    A task that is there already is checked and kept. Packages are kept in ``cache`` (by default in ``out``, until the
    last task is built), so that an interrupted build goes on where it was. ``fetch(package, folder)`` puts a package's
    .deb into the folder and returns its path, or None when there is no such package. Raises :class:`TaskError`.
    """
    from tqdm import tqdm

    out, tasks = Path(out), read_table(table)
    asked = list(tasks) if names is None else list(names)
    if unknown := [name for name in asked if name not in tasks]:
        raise TaskError(f"There is no task {unknown[0]!r}; there are {', '.join(tasks)}.")
    done = {name: verify(out / name) for name in asked if (out / name / "task.json").exists()}
    for name, record in done.items():
        if record["recipe"] != _recipe(tasks[name]):
            raise TaskError(f"{out / name} was built by another table of tasks; delete it or choose another folder.")
    left = [name for name in asked if name not in done]
    if not left:
        return {name: done[name] for name in asked}
    _check_tools()
    store = Path(cache) if cache else out / ".packages"
    for folder in (out, store):
        folder.mkdir(parents=True, exist_ok=True)
    with tqdm(total=sum(len(tasks[name]["packages"]) for name in left), unit="package", disable=not progress) as bar:
        for name in left:
            bar.set_description(f"{name} ({megabytes(tasks[name]):.0f} MB)")
            for folder in out.glob(f".{name}-*"):  # of a build that was killed
                shutil.rmtree(folder)
            with tempfile.TemporaryDirectory(dir=out, prefix=f".{name}-") as work:
                try:
                    done[name] = _build(name, tasks[name], Path(work) / name, store, fetch, bar.update)
                except CorpusError as error:
                    raise TaskError(f"The task {name} was not built: {error}") from None
                os.replace(Path(work) / name, out / name)
    if not cache:
        shutil.rmtree(store)
    return {name: done[name] for name in asked}


def verify(folder: str | os.PathLike) -> dict[str, Any]:
    """What a finished task's task.json says, after comparing every file with its checksum."""
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
            f"Ubuntu (a container will do) and copy the folder here, or use a labelled folder of your own."
        )


def _recipe(task: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(task, sort_keys=True).encode()).hexdigest()


def _build(name: str, task: dict[str, Any], out: Path, store: Path, fetch: Fetch, tick: Any) -> dict[str, Any]:
    (out / "audio").mkdir(parents=True)
    (out / "licences").mkdir()
    found: list[Found] = []
    corpus = read_corpus_table()
    packages, known = {}, {label.casefold(): label for label in task["labels"]}
    with tempfile.TemporaryDirectory(dir=out.parent) as work:
        for entry in task["packages"]:
            folder = Path(work) / entry["name"]
            folder.mkdir()
            deb = _package(entry["name"], store, fetch)
            files, copyright = unpack(deb, folder, MORE)
            (out / "licences" / f"{entry['name']}.txt").write_text(copyright, encoding="utf-8")
            debs = {entry["name"]: deb}
            if speak := entry.get("speak"):
                debs = with_dependencies(entry["name"], lambda name: _package(name, store, fetch))
                install(debs, folder / "root")
                heard = speech(speak, folder / "root", folder)
            else:
                heard = sounds(files)
            packages[entry["name"]] = _describe(debs)
            for path, load in heard:
                if label := first(entry["labels"], path):
                    source = first(entry.get("sources", []), path) or entry["name"]
                    if label.casefold() not in known:
                        raise TaskError(f"A rule of the task {name} gives {path} the label {label!r}, which it lacks.")
                    fold, licence = fold_of(task, source), licence_of(entry, path)
                    _check_kept_back(corpus, name, fold, entry["name"], path)
                    found.append(Found(entry["name"], path, known[label.casefold()], source, fold, licence, load))
            tick()
        kept, left_out = choose(found, task.get("most", {}))
    for label in task["labels"]:
        if missing := [f for f in ("train", "test") if not any((s.label, s.fold) == (label, f) for s in kept)]:
            raise TaskError(
                f"The task {name} has no {missing[0]} clip of {label!r} with these versions of its packages."
            )
    rows = []
    for number, sound in enumerate(kept):
        path = f"audio/{number:05d}.flac"
        _write(out / path, sound.pcm)
        rows.append([path, sound.label, sound.source, sound.fold, sound.origin, sound.licence])
    with (out / "task.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    used = {s.package for s in kept}
    record: dict[str, Any] = dict(
        name=name, kind=task["kind"], question=task["question"], labels=task["labels"], recipe=_recipe(task),
        sample_rate=SAMPLE_RATE,
        counts={f: {label: sum(s.fold == f and s.label == label for s in kept) for label in task["labels"]}
                for f in FOLDS if any(s.fold == f for s in kept)},
        sources={f: sorted({s.source for s in kept if s.fold == f}) for f in FOLDS if any(s.fold == f for s in kept)},
        seconds=round(sum(len(s.pcm) for s in kept) / 2 / SAMPLE_RATE, 1),
        left_out=left_out,
        packages={p: {**record, "licences": sorted({s.licence for s in kept if s.package == p})}
                  for p, record in packages.items() if p in used},
        weaknesses=task["weaknesses"],
    )  # fmt: skip
    every = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    record["files"] = {file: sha256_of(out / file) for file in every}
    record["sha256"] = hashlib.sha256("".join(f"{f} {s}\n" for f, s in record["files"].items()).encode()).hexdigest()
    (out / "README.md").write_text(card(record), encoding="utf-8")
    (out / "task.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return record


def _check_kept_back(corpus: dict, task: str, fold: str, package: str, path: str) -> None:
    """Nothing is tested on that the corpus may hold, and nothing used that is left out of everything."""
    if package in corpus["left_out"]["packages"]:
        raise TaskError(f"The task {task} uses {package}, which is left out of everything; take another package.")
    if fold != "train" and reserved(corpus, package, path.partition("#")[0]) is None:
        raise TaskError(
            f"The task {task} tests on {path} of {package}, which the corpus may hold; reserve it there first."
        )


def _describe(debs: dict[str, Path]) -> dict[str, Any]:
    """Versions and checksums of a package, and of what it needs to run if it is a program."""
    about = {
        name: dict(
            version=subprocess.run(["dpkg-deb", "-f", deb, "Version"], capture_output=True, text=True).stdout.strip(),
            deb_sha256=sha256_of(deb),
        )
        for name, deb in debs.items()
    }
    whole, *rest = about
    size = round(sum(deb.stat().st_size for deb in debs.values()) / 1e6, 1)
    return {**about[whole], "megabytes": size, **({"needs": {name: about[name] for name in rest}} if rest else {})}


def _package(name: str, store: Path, fetch: Fetch) -> Path:
    """The package's .deb, out of the store or put there."""
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


def choose(found: list[Found], most: dict[str, int]) -> tuple[list[Found], dict[str, int]]:
    """The sounds that stand in the task, decoded, in the order of their folds and origins; and how many were left out, why.

    Of a label with more than ``most`` sounds in a fold an even spread is taken. A sound that is there twice is taken once:
    as a test sound if it is one anywhere, and not at all when its labels differ.
    """
    why = dict(unusable=0, ambiguous=0, repeated=0, beyond_most=0)
    decoded: list[Found] = []
    for sound in sorted(found, key=lambda s: (-FOLDS.index(s.fold), s.origin)):  # test, valid, train
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
    kept: list[Found] = []
    for (fold, _), group in groups.items():
        count = min(most.get(fold, len(group)), len(group))
        why["beyond_most"] += len(group) - count
        kept += [group[i] for i in np.linspace(0, len(group) - 1, count).astype(int)]
    return sorted(kept, key=lambda s: (FOLDS.index(s.fold), s.origin)), why


def _write(path: Path, pcm: bytes) -> None:
    """A FLAC file, read back and compared."""
    import soundfile

    values = np.frombuffer(pcm, "<i2")
    file = io.BytesIO()
    soundfile.write(file, values, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    file.seek(0)
    back, rate = soundfile.read(file, dtype="int16")
    if rate != SAMPLE_RATE or not np.array_equal(back, values):
        raise TaskError(f"{path.name} did not come back from FLAC as it was; this libsndfile is broken.")
    path.write_bytes(file.getvalue())
