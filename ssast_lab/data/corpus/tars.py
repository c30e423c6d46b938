"""Tars, JSON and checksums that are the same bytes whenever and wherever they are written."""

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

from ssast_lab.data.corpus.table import CorpusError
from ssast_lab.files import to_json


def sha256_of(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def json_line(value: Any) -> bytes:
    return (to_json(value, ensure_ascii=False, sort_keys=True) + "\n").encode()


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """A member without time, owner or anything else that differs between two builds."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def read_member(tar: tarfile.TarFile, name: str) -> bytes:
    data = tar.extractfile(name)
    if data is None:
        raise CorpusError(f"A piece of the corpus holds no file {name}; delete the cache folder and build again.")
    return data.read()
