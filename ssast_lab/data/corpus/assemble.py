"""What comes into the corpus, and its shards, lists and manifest."""

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ssast_lab import files
from ssast_lab.audio import SAMPLE_RATE
from ssast_lab.data.clips import find_clips, read_piece, spread
from ssast_lab.data.corpus.card import ALIKE, card
from ssast_lab.data.corpus.clips import WINDOW, level
from ssast_lab.data.corpus.table import COLUMNS, KINDS, ROLES, CorpusError, reserved
from ssast_lab.data.corpus.tars import add_member, json_line, read_member, sha256_of

CLIPS_PER_SHARD = 512  # about 23 MB
Piece = tuple[list[dict[str, Any]], dict[str, Any]]  # the clips of a package, and what is said of it


def select(pieces: list[Piece]) -> tuple[list[tuple[int, int]], dict[str, int]]:
    """Which clips come in, as (piece, clip), and how many were left out and why; the pieces in the table's order.

    The same file can be in several packages. A clip is left out when one of its files is kept back for a task anywhere,
    or is also in a set to measure on and the clip is trained on; or when all that it holds came before.
    """
    kept_back = {sha for _, record in pieces for sha in record["kept_back"]}
    held_out = {
        file["sha256"] for clips, _ in pieces for clip in clips if clip["role"] != "train" for file in clip["files"]
    }
    taken, why = [], dict(kept_back=0, held_out=0, repeated=0)
    seen: set[tuple[str, float]] = set()
    for p, (clips, _) in enumerate(pieces):
        for c, clip in enumerate(clips):
            parts = {(file["sha256"], file["start"]) for file in clip["files"]}
            shas = {sha for sha, _ in parts}
            if shas & kept_back:
                why["kept_back"] += 1
            elif clip["role"] == "train" and shas & held_out:
                why["held_out"] += 1
            elif parts <= seen:
                why["repeated"] += 1
            else:
                seen |= parts
                taken.append((p, c))
    return taken, why


def assemble(out: Path, table: dict, size: str, recipe: str, paths: list[Path], missing: list[str]) -> dict[str, Any]:
    """Writes shards, licences, lists, manifest and card. The manifest comes last: where it is, the corpus is complete."""
    with ExitStack() as opened:
        tars = [opened.enter_context(tarfile.open(path)) for path in paths]
        pieces = [_read_piece(tar) for tar in tars]
        taken, left_out = select(pieces)
        rows = [row for role in ROLES for row in _write_shards(out, role, tars, pieces, taken)]
    (out / "licences").mkdir(exist_ok=True)
    for _, record in pieces:
        (out / "licences" / f"{record['package']}.txt").write_text(record["copyright"], encoding="utf-8")
    lists = _write_lists(out, rows)
    check_reserved(table, rows)
    written = {
        name: dict(sha256=sha256_of(out / name), bytes=(out / name).stat().st_size)
        for name in [*dict.fromkeys(row[0] for row in rows), *lists]
    }
    manifest = dict(
        size=size,
        recipe=recipe,
        sample_rate=SAMPLE_RATE,
        window=WINDOW,
        encoding="Ogg Opus, 32 kbit/s",
        clips={role: sum(row[2] == role for row in rows) for role in ROLES},
        hours={role: {kind: _hours(rows, role, kind) for kind in KINDS} for role in ROLES},
        left_out=left_out,
        missing=missing,
        files=written,
        sha256=hashlib.sha256("".join(f"{n} {s['sha256']}\n" for n, s in sorted(written.items())).encode()).hexdigest(),
        sources=_sources([pieces[p][0][c] for p, c in taken]),
        heard=_heard(out, [name for name in lists if name != "manifest.tsv"]),
        packages={
            r["package"]: dict(
                version=r["version"], deb_sha256=r["deb_sha256"], kept_back=len(r["kept_back"]), dropped=r["dropped"]
            )
            for _, r in pieces
        },
    )
    (out / "README.md").write_text(card(manifest, rows), encoding="utf-8")
    files.write(out / "manifest.json", files.to_json(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest


def _read_piece(tar: tarfile.TarFile) -> Piece:
    names = sorted(name for name in tar.getnames() if name.endswith(".json"))  # "piece.json" comes after the clips
    *clips, record = (json.loads(read_member(tar, name)) for name in names)
    return clips, record


def _write_shards(
    out: Path, role: str, tars: list[tarfile.TarFile], pieces: list[Piece], taken: list[tuple[int, int]]
) -> Iterator[list[str]]:
    """The clips of a role, packages well mixed, the same way every time. Yields their rows of the manifest."""
    mixed = sorted(
        (hashlib.sha256(f"{pieces[p][1]['package']} {c}".encode()).digest(), p, c)
        for p, c in taken
        if pieces[p][0][c]["role"] == role
    )
    (out / role).mkdir(parents=True, exist_ok=True)
    for old in (out / role).glob("[0-9]" * 5 + ".tar*"):  # of a build that did not get as far as the manifest
        old.unlink()
    for first in range(0, len(mixed), CLIPS_PER_SHARD):
        name = f"{role}/{first // CLIPS_PER_SHARD:05d}.tar"
        with tarfile.open(out / f"{name}.part", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, (_, p, c) in enumerate(mixed[first : first + CLIPS_PER_SHARD], first):
                clip = pieces[p][0][c]
                add_member(tar, f"{number:06d}.opus", read_member(tars[p], f"{c:06d}.opus"))
                add_member(tar, f"{number:06d}.json", json_line(clip))
                sources = "|".join(file["path"] for file in clip["files"])
                about = [clip["kind"], clip["package"], clip["licence"], f"{clip['seconds']:.3f}", sources]
                yield [name, f"{number:06d}", role, *about]
        os.replace(out / f"{name}.part", out / name)


def _write_lists(out: Path, rows: list[list[str]]) -> list[str]:
    """``manifest.tsv``, and one list of clips for each role and kind. Returns their names."""
    lists = {"manifest.tsv": [list(COLUMNS), *rows]}
    for role, kind in product(ROLES, KINDS):
        if clips := [[f"{row[0]}:{row[1]}.opus"] for row in rows if row[2:4] == [role, kind]]:
            lists[f"{role}-{kind}.tsv"] = [["path"], *clips]
    for name, lines in lists.items():
        (out / name).write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
    return list(lists)


def _sources(clips: list[dict[str, Any]]) -> str:
    """A checksum of what the clips were made of: role, kind, and the checksums of the packages' files, in order."""
    lines = (" ".join([clip["role"], clip["kind"], *(file["sha256"] for file in clip["files"])]) for clip in clips)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _heard(out: Path, lists: list[str]) -> dict[str, dict[str, float]]:
    """Mean and deviation of the level (dB) of up to 100 clips of each list, evenly spread, once they are decoded."""
    heard = {}
    for name in lists:
        clips = find_clips([out / name])
        levels = [level(read_piece(clips[i], 0.5, WINDOW).numpy()) for i in spread(len(clips), 100)]
        heard[name] = dict(mean=round(float(np.mean(levels)), 3), deviation=round(float(np.std(levels)), 3))
    return heard


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two manifests, perhaps from two machines, are of one corpus: made of the same files, and heard alike.

    The encoded bytes may differ: Opus searches for its pulses with the processor's approximate reciprocals (rcpps and
    rsqrtps), whose last bits each maker of processors chooses. What is decoded then differs by about -35 dB.
    """
    return one["sources"] == other["sources"] and all(
        abs(heard[what] - other["heard"][name][what]) < ALIKE for name, heard in one["heard"].items() for what in heard
    )


def _hours(rows: list[list[str]], role: str, kind: str) -> float:
    return round(sum(float(row[6]) for row in rows if row[2] == role and row[3] == kind) / 3600, 3)


def check_reserved(table: dict[str, Any], rows: Iterable[list[str]]) -> None:
    """No clip of a finished corpus holds a file that is kept for something else, and no package has two roles."""
    roles: dict[str, str] = {}
    for _, clip, role, _, package, _, _, paths in rows:
        if roles.setdefault(package, role) != role:
            raise CorpusError(f"{package} is in two sets, {roles[package]} and {role}.")
        if kept := [(path, use) for path in paths.split("|") if (use := reserved(table, package, path))]:
            raise CorpusError(f"Clip {clip} holds {kept[0][0]} of {package}, which is kept for {kept[0][1]}.")
