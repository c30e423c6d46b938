"""From the name of a package to its piece of the corpus: a tar of its clips."""

import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

import numpy as np

from ssast_lab.audio import SAMPLE_RATE, AudioError
from ssast_lab.data.corpus.clips import (
    CUT,
    EXCERPT,
    GAP,
    LEAST,
    OPUS,
    QUIET,
    WINDOW,
    cut_and_join,
    decode,
    encode,
    excerpts,
)
from ssast_lab.data.corpus.table import KINDS, CorpusError, kind_of, licence_of, reserved
from ssast_lab.data.corpus.tars import add_member, json_line, sha256_of
from ssast_lab.files import to_json

SOUNDS = (".wav", ".ogg", ".oga", ".opus", ".flac", ".mp3", ".aif", ".aiff", ".wv", ".g722", ".gsm", ".als")
ARCHIVES = (".pk3", ".wz", ".zip")

Fetch = Callable[[str, Path], Path | None]


def apt_download(package: str, folder: Path) -> Path | None:
    """The package's .deb, downloaded and checked by apt; None when apt knows no such package."""
    done = subprocess.run(
        ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    if not done.returncode and (found := sorted(folder.glob("*.deb"))):
        return found[0]
    said = done.stderr.strip().splitlines() or ["apt-get said nothing"]
    if any("Unable to locate" in line or "no candidate" in line or "select candidate" in line for line in said):
        return None
    raise CorpusError(f"{package} could not be downloaded ({said[-1]}); check the network and run: apt-get update")


def check_tools() -> None:
    """The programs that a build calls are there."""
    if missing := [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]:
        raise CorpusError(
            f"The corpus is made from Debian packages and needs apt-get and dpkg-deb, but "
            f"{' and '.join(missing)} was not found. Build it on Debian or Ubuntu (a container will do) and "
            f"copy the folder here, or train on a folder of your own recordings."
        )


def carve(data: bytes) -> Iterator[tuple[str, bytes]]:
    """(.wav or .ogg, its bytes) for every sound that lies as it is in some game's own kind of archive."""
    if data[:2] == b"\x1e\x8c":  # OpenClonk's groups are gzip under another name
        data = zlib.decompress(b"\x1f\x8b" + data[2:], wbits=31)
    end = 0
    while found := re.compile(rb"(RIFF)....WAVE|OggS\x00\x02", re.DOTALL).search(data, end):
        end = start = found.start()
        if found[1]:
            end += 8 + int.from_bytes(data[start + 4 : start + 8], "little")
        else:  # page by page, up to the one that says that it is the last
            last = 0
            while data[end : end + 4] == b"OggS" and not last:
                sizes, last = data[end + 27 : end + 27 + data[end + 26]], data[end + 5] & 4
                end += 27 + len(sizes) + sum(sizes)
        yield (".wav" if found[1] else ".ogg"), data[start:end]


def unpack(
    deb: Path, folder: Path, more: tuple[str, ...] = (), carved: Sequence[str] = ()
) -> tuple[list[tuple[str, Path]], str]:
    """The sound files of a package as sorted (path in the package, file), and the text of its copyright file.

    Sounds in game archives are named "archive!path". Links are not followed: what they name comes by itself.
    ``more`` are endings of other files that are wanted as well, such as labels; ``carved`` patterns of files that sounds
    are cut out of, which are named "file!0001.ogg" in their order.
    """
    found: list[tuple[str, Path]] = []
    copyright = ""

    def keep(name: str, data: IO[bytes]) -> None:
        file = folder / f"{len(found):06d}{Path(name).suffix.lower()}"
        with file.open("wb") as out:
            shutil.copyfileobj(data, out)
        found.append((name, file))

    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as unpacker,
        tarfile.open(fileobj=unpacker.stdout, mode="r|") as members,
    ):
        for member in members:
            name, data = member.name.removeprefix("./"), members.extractfile(member) if member.isfile() else None
            if data is None:
                continue
            if any(fnmatchcase(name, pattern) for pattern in carved):
                for number, (ending, sound) in enumerate(carve(data.read())):
                    keep(f"{name}!{number:04d}{ending}", io.BytesIO(sound))
            elif name.lower().endswith((*SOUNDS, *more)):
                keep(name, data)
            elif name.lower().endswith(ARCHIVES):
                with tempfile.TemporaryFile(dir=folder) as copy:
                    shutil.copyfileobj(data, copy)
                    if zipfile.is_zipfile(copy):
                        with zipfile.ZipFile(copy) as archive:
                            for item in archive.namelist():
                                if item.lower().endswith(SOUNDS):
                                    keep(f"{name}!{item}", archive.open(item))
            elif re.fullmatch(r"usr/share/doc/[^/]+/copyright", name):
                copyright = data.read().decode(errors="replace")
    if unpacker.returncode:
        raise CorpusError(f"{deb.name} could not be unpacked by dpkg-deb; delete the cache folder and build again.")
    return sorted(found), copyright


def build_piece(table: dict[str, Any], entry: dict[str, Any], cache: Path, fetch: Fetch) -> tuple[str, Path | None]:
    """One package's clips as a tar in the cache, (name, file); the file is None when apt has no such package.

    A finished piece is used again; an unfinished one leaves nothing behind that could be taken for finished.
    """
    name = entry["name"]
    rules = [rule for rule in table["reserved"] if rule["package"] == name]
    recipe = [table["recipe"], entry, rules, WINDOW, CUT, GAP, LEAST, QUIET, OPUS]
    if entry["role"] == "elsewhere":
        recipe.append(EXCERPT)
    piece = cache / f"{name}-{hashlib.sha256(to_json(recipe).encode()).hexdigest()[:12]}.tar"
    if piece.exists():
        return name, piece
    with tempfile.TemporaryDirectory(dir=cache, prefix=f".{name}-") as folder:
        work = Path(folder)
        deb = fetch(name, work)
        if deb is None:
            return name, None
        version = subprocess.run(["dpkg-deb", "-f", deb, "Version"], capture_output=True, text=True).stdout.strip()
        sha = sha256_of(deb)
        files, copyright = unpack(deb, work, carved=entry.get("carve", ()))
        deb.unlink()
        record: dict[str, Any] = dict(
            package=name, version=version, deb_sha256=sha, kept_back={}, dropped=[], copyright=copyright
        )
        with tarfile.open(work / "piece", "w", format=tarfile.USTAR_FORMAT) as out:
            for number, clip in enumerate(_clips(table, entry, files, record)):
                clip["version"] = version
                add_member(out, f"{number:06d}.opus", clip.pop("data"))
                add_member(out, f"{number:06d}.json", json_line(clip))
            add_member(out, "piece.json", json_line(record))
        os.replace(work / "piece", piece)
    return name, piece


def _clips(table: dict, entry: dict, files: list[tuple[str, Path]], record: dict) -> Iterator[dict[str, Any]]:
    """The clips of an unpacked package, encoded; what is kept back or dropped is written into the record."""
    group = re.compile(entry.get("group", r"(.*)/"))
    shas = {path: sha256_of(file) for path, file in files}
    record["kept_back"] = {shas[path]: use for path, _ in files if (use := reserved(table, entry["name"], path))}
    chosen: dict[str, list[tuple[str, str, Path]]] = {kind: [] for kind in KINDS}
    seen = set(record["kept_back"])
    for path, file in files:
        kind = kind_of(entry, path)
        if kind and shas[path] not in seen:
            seen.add(shas[path])
            match = group.search(path)
            chosen[kind].append((match[1] if match else "", path, file))

    make = excerpts if entry["role"] == "elsewhere" else cut_and_join
    cut = {**CUT, **entry.get("cut", {})}
    for kind in KINDS:

        def waves(kind: str = kind) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
            for _, path, file in sorted(chosen[kind]):
                try:
                    yield dict(path=path, sha256=shas[path]), decode(file, kind, cut)
                except AudioError as error:
                    record["dropped"].append([path, error.about("it")])

        clips = make(waves())
        if most := entry.get("clips", {}).get(kind):  # evenly spread over the package
            every = list(clips)
            clips = iter(
                [every[i] for i in sorted({*np.linspace(0, len(every) - 1, most).astype(int)})] if every else []
            )
        for sources, wave in clips:
            licences = {licence_of(entry, file["path"]) for file in sources}
            yield dict(
                data=encode(wave),
                package=entry["name"],
                role=entry["role"],
                kind=kind,
                licence=" AND ".join(sorted(licences)),
                seconds=round(len(wave) / SAMPLE_RATE, 3),
                files=sources,
            )
