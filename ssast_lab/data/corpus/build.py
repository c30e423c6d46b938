"""From packages to the corpus, and whether one is whole."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ssast_lab.data.corpus.assemble import assemble
from ssast_lab.data.corpus.packages import Fetch, apt_download, build_piece, check_tools
from ssast_lab.data.corpus.table import SIZES, TABLE, CorpusError, read_table
from ssast_lab.data.corpus.tars import sha256_of


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
    manifest = assemble(out, content, size, recipe, [p for e in entries if (p := found[e["name"]])], missing)
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


def verify(out: str | os.PathLike) -> dict[str, Any]:
    """The manifest of a finished corpus, after comparing every shard with its checksum."""
    out = Path(out)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    for name, shard in manifest["files"].items():
        if not (out / name).exists() or sha256_of(out / name) != shard["sha256"]:
            raise CorpusError(f"{out / name} is missing or damaged; delete {out / 'manifest.json'} and build again.")
    return manifest
