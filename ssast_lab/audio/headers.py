"""What a file's first bytes are, and what they promise: found without decoding anything.

A header is written before the sound is there, so that a recorder that dies, a download that stops, or a length of more than
32 bits leaves one that does not tell the truth.
"""

import io
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

UNTOLD = (0, 0xFFFFFFFF, 0xFFFFFFFE)  # a length that was never filled in

RATES = (48000, 44100, 32000)  # Hz, in the order of AC-3
AC3 = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)  # kbit/s
LAYER_2 = (  # kbit/s, of the extensions of MPEG-1 to lower rates, and of itself
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
    (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 0),
)


class Data(NamedTuple):
    """Where the samples of an uncompressed file lie, in bytes."""

    first: int
    promised: int | None  # bytes that the header tells; None: it does not
    present: int  # bytes that are there and belong to them


def kind(file: io.IOBase) -> str:
    """ "WAV", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG" or "MP3" (of any layer), by the first bytes; otherwise ""."""
    head = _at(file, 0, 12)
    if head[:4] in (b"RIFF", b"RIFX") and head[8:] == b"WAVE":
        return "WAV"
    if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        return "AIFF"
    names = {
        b"RF64": "RF64",
        b"riff": "W64",
        b".snd": "AU",
        b"dns.": "AU",
        b"caff": "CAF",
        b"fLaC": "FLAC",
        b"OggS": "OGG",
    }
    if head[:4] in names:
        return names[head[:4]]
    return "MP3" if head[:3] == b"ID3" or _is_frame(head) else ""


def _is_frame(head: bytes) -> bool:
    """Whether a frame of MPEG audio, of any layer, may begin with these bytes."""
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x06 != 0


def data_of(file: io.IOBase) -> Data | None:
    """Of a WAV, RF64, W64, AIFF, AU or CAF; None for others, and where there is no such part in it."""
    size, name = file.seek(0, io.SEEK_END), kind(file)
    if name == "AU":
        order = ">" if _at(file, 0, 4) == b".snd" else "<"
        first, promised = struct.unpack(order + "II", _at(file, 4, 8).ljust(8, b"\0"))
        return _data(first, None if promised in UNTOLD else promised, size)
    order = "<" if name in ("RF64", "W64") or _at(file, 0, 4) == b"RIFF" else ">"
    wide = 0
    for label, first, length in _chunks(file, name, order, size):
        if label == b"ds64":
            wide = struct.unpack("<Q", _at(file, first + 8, 8).ljust(8, b"\0"))[0]
        elif label in (b"data", b"SSND"):
            before = {"AIFF": 8, "CAF": 4}.get(name, 0)  # an offset and a block size; a counter of edits
            first, length = first + before, length - before
            if name == "RF64" and length == 0xFFFFFFFF:
                length = wide
            if name in ("WAV", "RF64") and length + first < size and (size - first - length) >> 32:
                length += (size - first - length) >> 32 << 32  # 32 bits were too few for it
            told = (name == "CAF" and length >= 0) or (name != "CAF" and length not in UNTOLD)
            return _data(first, length if told else None, size)
    return None


def _data(first: int, promised: int | None, size: int) -> Data:
    there = max(0, size - first)
    return Data(first, promised, there if promised is None else min(promised, there))


def _chunks(file: io.IOBase, name: str, order: str, size: int) -> Iterator[tuple[bytes, int, int]]:
    """(label, first byte of the content, its length) of each part of a file, in order."""
    place = {"CAF": 8, "W64": 40}.get(name, 12)
    width = {"CAF": 12, "W64": 24}.get(name, 8)
    while place + width <= size:
        head = _at(file, place, width)
        label = head[:4]
        if name == "CAF":
            length = struct.unpack(">q", head[4:])[0]
            if length < 0 and label != b"data":
                return
        elif name == "W64":
            length = struct.unpack("<Q", head[16:])[0] - 24
            if length < 0:
                return
        else:
            length = struct.unpack(order + "I", head[4:])[0]
        yield label, place + width, length
        step = width + length
        place += step + (-step % 8 if name == "W64" else 0 if name == "CAF" else length % 2)


def frame_bytes(frame: bytes) -> int:
    """How many bytes a frame of AC-3, E-AC-3 or MPEG audio layer II has by its own header; 0 for anything else."""
    if frame[:2] == b"\x0b\x77" and len(frame) > 5:
        if frame[5] >> 3 > 10:  # E-AC-3
            return 2 * ((frame[2] & 7) << 8 | frame[3]) + 2
        rate, code = frame[4] >> 6, frame[4] & 63
        if rate == 3 or code >= 2 * len(AC3):
            return 0
        return AC3[code // 2] * 96000 // RATES[rate] * 2 + 2 * (rate == 1 and code % 2)
    rate = frame[2] >> 2 & 3 if len(frame) > 3 else 3
    if rate == 3 or not _is_frame(frame) or frame[1] & 0x06 != 0x04:
        return 0
    newest = bool(frame[1] & 0x08)
    hertz = (44100, 48000, 32000)[rate] // (1 if newest else 2 if frame[1] & 0x10 else 4)
    return 144_000 * LAYER_2[newest][frame[2] >> 4] // hertz + (frame[2] >> 1 & 1)


class Xing(NamedTuple):
    """What the first frame of an MP3 says of the others."""

    start: int  # bytes before that frame: tags, and whatever else is no sound
    frames: int | None  # how many follow; None: it does not say


def xing(file: io.IOBase) -> Xing | None:
    """None for an MP3 without such a frame."""
    head = _at(file, 0, 10)
    tag = 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0))) if head[:3] == b"ID3" else 0
    start = _at(file, tag, 1 << 16)
    for found in re.finditer(b"Xing|Info", start):
        for aside in (36, 21, 13):  # of one channel or two, at full or half the rate
            first = found.start() - aside
            if first >= 0 and _is_frame(start[first : first + 2]) and len(start) >= found.end() + 8:
                told = start[found.end() + 3] & 1 and struct.unpack(">I", start[found.end() + 4 : found.end() + 8])[0]
                return Xing(tag + first, told or None)
    return None


def ogg_ends(file: io.IOBase) -> bool:
    """Whether the last page of an Ogg file is there, whole, and marked as the last one."""
    size = file.seek(0, io.SEEK_END)
    tail = _at(file, max(0, size - 70_000), 70_000)
    found = tail.rfind(b"OggS")
    if found < 0 or len(tail) < found + 27:
        return False
    count = tail[found + 26]
    length = 27 + count + sum(tail[found + 27 : found + 27 + count])
    return bool(tail[found + 5] & 4) and found + length <= len(tail)


def looks_like(file: io.IOBase) -> str:
    """What a file that is no sound seems to be, for a message: "HTML", "text" ... or ""."""
    head = _at(file, 0, 512)
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for mark, name in (
        (b"<!doctype html", "HTML"), (b"<html", "HTML"), (b"<?xml", "XML"), (b"%pdf", "a PDF"), (b"pk\x03\x04", "a ZIP archive"),
        (b"\x1f\x8b", "a gzip archive"), (b"\x89png", "a picture"), (b"\xff\xd8\xff", "a picture"), (b"{", "JSON"),
        (b"version https://git-lfs", "a pointer of Git LFS, not the file itself"),
    ):  # fmt: skip
        if start.startswith(mark):
            return name
    return "text" if head and all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head) else ""


def flac_bits(file: io.IOBase) -> int:
    """Of a sample, by the STREAMINFO at the beginning (RFC 9639, section 8.2): five bits, one less."""
    return (int.from_bytes(_at(file, 18, 4), "big") >> 4 & 31) + 1


def _at(file: io.IOBase, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)
