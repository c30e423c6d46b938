"""From the pieces of all packages to the corpus: what comes in, shards, manifest and card."""

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from itertools import islice, product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from ssast_lab import files
from ssast_lab.audio import SAMPLE_RATE
from ssast_lab.data.clips import find_clips, read_piece, spread
from ssast_lab.data.corpus.clips import CUT, WINDOW, level
from ssast_lab.data.corpus.packages import Fetch, apt_download, build_piece, check_tools
from ssast_lab.data.corpus.table import KINDS, ROLES, SIZES, TABLE, CorpusError, read_table, reserved
from ssast_lab.data.corpus.tars import add_member, json_line, read_member, sha256_of

CLIPS_PER_SHARD = 512  # about 23 MB
ALIKE = 0.05  # dB


def select(pieces: list[tuple[list[dict[str, Any]], dict[str, Any]]]) -> tuple[list[tuple[int, int]], dict[str, int]]:
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


def build(
    out: str | os.PathLike,
    size: str = "large",
    cache: str | os.PathLike | None = None,
    workers: int = 1,
    fetch: Fetch = apt_download,
    table: str | os.PathLike = TABLE,
    progress: bool = True,
) -> dict[str, Any]:
    """Build the corpus in a folder and return its manifest; what is there already is checked and used again.

    ``size`` is "large", "small", which is a part of it, or "evaluation": only the two sets to measure on. The pieces of
    finished packages are kept in ``cache`` (by default in ``out``, until the corpus is complete), so that an interrupted
    build goes on where it was; give one cache to two sizes and the second build makes only what the first has not. ``workers`` processes share the packages.
    ``fetch(package, folder)`` puts a package's .deb into the folder and returns its path.
    """
    from tqdm import tqdm

    if size not in ("evaluation", *SIZES):
        raise CorpusError(f'The size is "evaluation", "small" or "large", not {size!r}.')
    out, content = Path(out), read_table(table)
    recipe = hashlib.sha256(Path(table).read_bytes() + size.encode()).hexdigest()
    if (out / "manifest.json").exists():
        manifest = verify(out)
        if manifest["recipe"] != recipe:
            raise CorpusError(f"{out} holds a corpus of another size or made by another table; choose an empty folder.")
        return manifest
    check_tools()
    store = Path(cache) if cache else out / "pieces"
    store.mkdir(parents=True, exist_ok=True)
    entries = [
        entry
        for entry in content["packages"]
        if size in ("large", entry["size"]) or (size == "evaluation" and entry["role"] != "train")
    ]
    for entry in entries:
        for leftover in store.glob(f".{entry['name']}-????????"):  # of a build that was killed
            shutil.rmtree(leftover)

    with tqdm(total=len(entries), desc="packages", unit="package", disable=not progress) as bar:
        found = {}
        for name, piece in _pieces(content, entries, store, fetch, workers):
            found[name] = piece
            bar.set_postfix_str(name)
            bar.update()
    missing = [entry["name"] for entry in entries if found[entry["name"]] is None]
    if len(missing) == len(entries):
        raise CorpusError(
            "apt knows none of the packages; update its lists (apt-get update) with Debian's main section."
        )
    manifest = _assemble(out, content, size, recipe, [p for e in entries if (p := found[e["name"]])], missing)
    if not cache:
        shutil.rmtree(store)
    return manifest


def _pieces(
    table: dict, entries: list[dict], store: Path, fetch: Fetch, workers: int
) -> Iterator[tuple[str, Path | None]]:
    if workers == 1:
        yield from (build_piece(table, entry, store, fetch) for entry in entries)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(build_piece, table, entry, store, fetch) for entry in entries]
        try:
            yield from (job.result() for job in jobs)
        finally:  # after an error the packages that nobody has begun stay undone
            pool.shutdown(cancel_futures=True)


def _assemble(out: Path, table: dict, size: str, recipe: str, paths: list[Path], missing: list[str]) -> dict[str, Any]:
    """Write shards, licences, manifest and card. The manifest comes last: where it is, the corpus is complete."""
    (out / "licences").mkdir(parents=True, exist_ok=True)
    shards, rows = {}, []
    with ExitStack() as opened:
        tars = [opened.enter_context(tarfile.open(path)) for path in paths]
        pieces = []
        for tar in tars:
            record, *clips = (
                json.loads(read_member(tar, name))
                for name in sorted(tar.getnames(), reverse=True)
                if name.endswith(".json")
            )  # "piece.json" is the first, then the clips from the last on
            (out / "licences" / f"{record['package']}.txt").write_text(record["copyright"], encoding="utf-8")
            pieces.append((clips[::-1], record))
        taken, left_out = select(pieces)
        for role in ROLES:
            mixed = sorted(
                (hashlib.sha256(f"{pieces[p][1]['package']} {c}".encode()).digest(), p, c)
                for p, c in taken
                if pieces[p][0][c]["role"] == role
            )  # packages well mixed, the same way every time
            order = iter(enumerate(mixed))
            (out / role).mkdir(exist_ok=True)
            for old in (out / role).glob("[0-9]" * 5 + ".tar*"):  # of a build that did not get as far as the manifest
                old.unlink()
            for shard in range(-(-len(mixed) // CLIPS_PER_SHARD)):
                name = f"{role}/{shard:05d}.tar"
                with tarfile.open(out / f"{name}.part", "w", format=tarfile.USTAR_FORMAT) as tar:
                    for number, (_, p, c) in islice(order, CLIPS_PER_SHARD):
                        clip = pieces[p][0][c]
                        add_member(tar, f"{number:06d}.opus", read_member(tars[p], f"{c:06d}.opus"))
                        add_member(tar, f"{number:06d}.json", json_line(clip))
                        rows.append(
                            [
                                name,
                                f"{number:06d}",
                                role,
                                clip["kind"],
                                clip["package"],
                                clip["licence"],
                                f"{clip['seconds']:.3f}",
                                "|".join(file["path"] for file in clip["files"]),
                            ]
                        )
                os.replace(out / f"{name}.part", out / name)
                shards[name] = dict(sha256=sha256_of(out / name), bytes=(out / name).stat().st_size)

    head = ["shard", "clip", "role", "kind", "package", "licence", "seconds", "files"]
    lists = {"manifest.tsv": [head, *rows]}
    for role, kind in product(ROLES, KINDS):
        if own := [[f"{row[0]}:{row[1]}.opus"] for row in rows if row[2:4] == [role, kind]]:
            lists[f"{role}-{kind}.tsv"] = [["path"], *own]
    for name, lines in lists.items():
        (out / name).write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
        shards[name] = dict(sha256=sha256_of(out / name), bytes=(out / name).stat().st_size)
    check_reserved(table, rows)
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
        files=shards,
        sha256=hashlib.sha256("".join(f"{n} {s['sha256']}\n" for n, s in sorted(shards.items())).encode()).hexdigest(),
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
    files.write(out / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest


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


def verify(out: str | os.PathLike) -> dict[str, Any]:
    """The manifest of a finished corpus, after comparing every shard with its checksum."""
    out = Path(out)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    for name, shard in manifest["files"].items():
        if not (out / name).exists() or sha256_of(out / name) != shard["sha256"]:
            raise CorpusError(f"{out / name} is missing or damaged; delete {out / 'manifest.json'} and build again.")
    return manifest


def card(manifest: dict[str, Any], rows: list[list[str]]) -> str:
    """The corpus's README: what is in it, from where, under which licences, and where it is weak."""
    lines = [
        "# A corpus of speech, music and effects from Debian packages",
        "",
        f'Size "{manifest["size"]}", {manifest["encoding"]}, 16 kHz mono, made by `ssast-lab data corpus`. '
        "Train on the folder `train`; choose by `heldout`; `elsewhere` only tells how a chosen model does on sounds of "
        "makers that neither training nor choice has met.",
        "",
        "| role | clips | " + " | ".join(f"{kind}, h" for kind in KINDS) + " | together, h |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for role, hours in manifest["hours"].items():
        lines.append(
            f"| {role} | {manifest['clips'][role]} | "
            + " | ".join(f"{hours[kind]:.2f}" for kind in KINDS)
            + f" | {sum(hours.values()):.2f} |"
        )
    lines += [
        "",
        "Every shard is a tar of pairs `000123.opus` and `000123.json`; `manifest.tsv` lists all clips, "
        "`manifest.json` the checksums and the packages, and `train-effect.tsv` (role and kind) the clips of one kind: "
        "named beside the folder, once or several times, it makes that kind heard more often. A clip fills at least one window of "
        f"{manifest['window'] / SAMPLE_RATE:.2f} s (1024 frames): long sounds are cut into equal parts, short ones of a "
        "package joined with 0.1 s of silence; only the last clip of a package and kind may be shorter. Of a "
        f"music file the middle {CUT['music']} s are taken, of an effect {CUT['effect']} s, where the table of packages "
        "names no other length. The clips of `elsewhere` are ten continuous seconds out of one file.",
        "",
        "The held-out sets are whole packages that training never sees. Files that the downstream tasks test on, the "
        "built-in sounds and the packages of the independent evaluation are in neither; nor are files with the same "
        "bytes under other names.",
        "",
        "## Checksums",
        "",
        f"- Is this copy undamaged? SHA-256 over all files: `{manifest['sha256']}`. Only one machine gives it twice: the "
        "Opus encoder uses approximate reciprocals, whose last bits each maker of processors chooses.",
        f"- Are two builds the same corpus? Compare what the clips were made of, `{manifest['sources']}`, and what is "
        f"heard, which may differ by less than {ALIKE} dB (`ssast_lab.data.corpus.same` does both):",
        "",
        "| clips, at most 100 of each | mean level, dB | deviation, dB |",
        "| --- | --: | --: |",
        *(f"| {name} | {h['mean']:.3f} | {h['deviation']:.3f} |" for name, h in manifest["heard"].items()),
        "",
        "## Packages",
        "",
        "| package | version | role | licence of its clips | minutes |",
        "| --- | --- | --- | --- | --: |",
    ]
    for package, entry in manifest["packages"].items():
        own = [row for row in rows if row[4] == package]
        if own:
            licences = ", ".join(sorted({part for row in own for part in row[5].split(" AND ")}))
            lines.append(
                f"| {package} | {entry['version']} | {own[0][2]} | {licences} | "
                f"{sum(float(row[6]) for row in own) / 60:.1f} |"
            )
    lines += [
        "",
        "`licences/` holds each package's copyright file with its authors. The clips are modified copies: mixed to "
        "one channel, resampled, cut or joined, encoded. Some licences (CC-BY-SA, GPL, GFDL) bind whoever passes the "
        "clips on, so pass on the command rather than the corpus.",
        "",
        "## Known weaknesses",
        "",
        "- Much of the speech is single words and short prompts of few voices, joined; there is little conversation.",
        "- Music and effects come from games: much is synthesised, little is recorded out of doors.",
        "- Some sources are telephone or old game recordings of 8 or 11 kHz: their upper mel bands are empty.",
        "- Kinds follow rules on paths, not ears. A recording that was encoded anew for another package is not "
        "recognised as the same.",
        "- Opus changes the top mel bands: evaluate on the encoding that was trained on.",
    ]
    if manifest["missing"]:
        lines += [
            "",
            f"Not known to apt on the machine that built this, and so absent: {', '.join(manifest['missing'])}.",
        ]
    return "\n".join(lines) + "\n"
