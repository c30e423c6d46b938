"""Sounds that a view's script sent: files, folders of them, and zips, which are never unpacked onto the disk."""

import io
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ssast_lab import audio
from ssast_lab.audio import AudioError
from ssast_lab.data import EXTENSIONS, Passed, folders

MEMBERS = 5000  # of a zip, and files at once
LARGEST = 50 << 20  # bytes of a sound in a zip
UNPACKED = 1 << 30  # bytes of all sounds of a zip
RATIO = 200  # of what a member unpacks to: beyond it nothing is sound
LONGEST_NAME = 200
SECONDS = 600  # that are decoded of a sound


class UploadError(ValueError):
    """What was sent cannot be used: the message says why."""


@dataclass(frozen=True)
class Item:
    """A sound that was sent, not yet decoded."""

    name: str  # with its folders, as the visitor knows it
    path: Path
    member: str | None = None  # of a zip

    def waveform(self, notices: list[audio.AudioWarning] | None = None, rate: int = audio.SAMPLE_RATE) -> Tensor:
        """(S,); :class:`ssast_lab.audio.AudioError` names it as the visitor does."""
        source: Any = self.path if self.member is None else io.BytesIO(self._read())
        try:
            return audio.load_waveform(source, duration=SECONDS, notices=notices, to_rate=rate)
        except AudioError as error:
            raise AudioError(error.message, self.name) from None

    def _read(self) -> bytes:
        """The header of a member may lie about its size."""
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member or "") as member:
                content = member.read(LARGEST + 1)
        except (
            zipfile.BadZipFile,
            OSError,
            RuntimeError,
            NotImplementedError,
            EOFError,
            KeyError,
            ValueError,
        ) as error:
            raise AudioError(f"{self.name} cannot be unpacked ({' '.join(str(error).split())[:100]}).") from None
        if len(content) > LARGEST:
            raise AudioError(f"{self.name} has more than {LARGEST >> 20} MB.")
        return content


def items(sent: Any, passed: Passed | None = None) -> list[Item]:
    """The sounds among what was sent, ``[{"path", "name"}, ...]`` as the visitor's script says it: a path counts only where it is an
    upload. What was passed over is counted in ``passed``. :class:`UploadError` for a zip that is none, or too large."""
    passed = Passed() if passed is None else passed
    found: list[Item] = []
    for entry in sent[:MEMBERS] if isinstance(sent, list) else ():
        path = upload(entry.get("path")) if isinstance(entry, dict) else None
        if path is None:
            continue
        name = readable(entry.get("name") or path.name)
        if path.suffix.lower() == ".zip":
            found += members(path, name, passed)
        elif path.suffix.lower() in EXTENSIONS and not folders.is_hidden(name):
            found.append(Item(name, path))
        else:
            folders.pass_over(name, passed, name)
    return found[:MEMBERS]


def upload(path: Any) -> Path | None:
    """A file that was uploaded: it lies in a folder that is named after its content, in that of all uploads."""
    folder = os.environ.get("GRADIO_TEMP_DIR")
    if not isinstance(path, str) or not folder or "\0" in path:
        return None
    real = Path(path).resolve()
    inside = real.parent.parent == Path(folder).resolve() and len(real.parent.name) == 64
    return real if inside and real.is_file() else None


def readable(name: Any) -> str:
    """Folders and name, without what would climb out of them or cannot be written."""
    parts = [part for part in str(name).replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return "".join(letter if letter.isprintable() else "�" for letter in "/".join(parts))[-LONGEST_NAME:] or "a sound"


def members(path: Path, name: str, passed: Passed) -> Iterator[Item]:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UploadError(f"{name} is no zip that can be read ({' '.join(str(error).split())[:100]}).") from None
    if len(infos) > MEMBERS:
        raise UploadError(f"{name} holds {len(infos)} files: {MEMBERS} are the most.")
    sounds = []
    for info in infos:
        inner = readable(info.filename)
        if folders.is_sound(inner):
            sounds.append(info)
        else:
            folders.pass_over(inner, passed, inner)
    if sum(info.file_size for info in sounds) > UNPACKED:
        raise UploadError(f"{name} would unpack to more than {UNPACKED >> 20} MB.")
    for info in sounds:
        if info.file_size > RATIO * max(info.compress_size, 1):
            raise UploadError(f"{name} holds {readable(info.filename)}, which is packed as no sound can be.")
        if info.flag_bits & 1:
            raise UploadError(f"{name} is locked with a password: send one that is not.")
        yield Item(readable(info.filename), path, info.filename)


def sounds(sent: Any, most_seconds: float = 1800) -> list[tuple[str, Tensor]]:
    """(name, (S,)) of what can be decoded, up to so many seconds of it in all. :class:`UploadError` where nothing can."""
    found, seconds, trouble = [], 0.0, ""
    for item in items(sent):
        try:
            waveform = item.waveform()
        except AudioError as error:
            trouble = str(error)
            continue
        found.append((item.name, waveform))
        seconds += len(waveform) / audio.SAMPLE_RATE
        if seconds > most_seconds:
            break
    if sent and not found:
        raise UploadError(trouble or "No sound was found in what was sent.")
    return found
