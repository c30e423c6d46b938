"""A library: the windows of a folder of sounds in one file, made in parts by as many machines as there are, and searched.

Axes: W windows, D width. The files are taken in chunks, which depend on nothing but the list of files. A chunk is embedded by itself
and written by itself, so that a run that was stopped goes on, and the rows are the same whatever the parts.
"""

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssast_lab import files
from ssast_lab.data import Clip
from ssast_lab.measuring.embedder import Embedder
from ssast_lab.measuring.points import nearest

FORMAT = "ssast-lab library 1"
CHUNK_FILES, CHUNK_BYTES = 64, 64 << 20
KINDS = (".parquet", ".npz")


class LibraryError(ValueError):
    """A library that cannot be made, read or searched: the message says why and what to do."""


@dataclass(frozen=True)
class Library:
    """The windows of many sounds, and how they were embedded."""

    files: np.ndarray  # (W,) str
    seconds: np.ndarray  # (W, 2) from where to where in the file
    embeddings: np.ndarray  # (W, D) float32; (W, 0) where they were not read
    about: dict[str, Any]  # as of :func:`describe`


@dataclass(frozen=True)
class Found:
    """A window that is like what was searched for."""

    file: str
    start: float
    end: float
    score: float  # cosine of the two embeddings, both centred on the mean of the library


class Making:
    """A library that is being made."""

    def __init__(
        self, embedder: Embedder, clips: Sequence[Clip], folder: str | os.PathLike[str] | None, out: Path
    ) -> None:
        """``folder``: files are called by their paths within it; None: as they are. ``out``: a .parquet or .npz file. Beside it,
        what is done so far lies in a folder that ends in ``.parts``.

        :class:`LibraryError` where something else lies there.
        """
        if out.suffix not in KINDS:
            raise LibraryError(f"{out.name} would have to end in {' or '.join(KINDS)}.")
        if out.suffix == ".parquet":
            _pyarrow()
        self.embedder, self.clips, self.out = embedder, clips, out
        self.names = [files.in_utf8(os.path.relpath(clip.name, folder) if folder else clip.name) for clip in clips]
        if not clips:
            raise LibraryError("There is nothing to embed: name a folder of recordings.")
        sizes = [_size(clip) for clip in clips]
        self.chunks = _chunked(sizes)
        self.folder = out.with_name(f"{out.name}.parts")
        settings = {name: value for name, value in embedder.settings.items() if name != "model"}
        self.plan = {"format": FORMAT, "embedder": settings, "files": files.sha256([*zip(self.names, sizes)])}
        self._check()

    def _check(self) -> None:
        if self.out.exists():
            about = describe(self.out)
            if {name: about.get(name) for name in self.plan} != self.plan | {"embedder": self.embedder.settings}:
                raise LibraryError(
                    f"{self.out} is there already, and holds other files or other embeddings: name another file, or remove it."
                )
            return
        place = self.folder / "plan.json"
        if not place.exists():
            files.write(place, files.to_json(self.plan, indent=1) + "\n")
        elif json.loads(place.read_text(encoding="utf-8")) != self.plan:
            raise LibraryError(
                f"{self.folder} holds parts of other files or of other embeddings: name another file with --out, or remove that "
                "folder."
            )

    def waiting(self, part: int = 1, parts: int = 1) -> list[int]:
        """The chunks of a part that are not there yet."""
        if self.out.exists():
            return []
        return [number for number in range(part - 1, len(self.chunks), parts) if not self._place(number).exists()]

    def work(
        self, part: int = 1, parts: int = 1, heard: Callable[[float], Any] | None = None
    ) -> Iterator[dict[str, str]]:
        """Embeds the chunks of a part that are not there yet: of each, what could not be read, name -> why."""
        if not 1 <= part <= parts:
            raise LibraryError(f"A part is one of 1/{parts} to {parts}/{parts}, not {part}/{parts}.")
        for number in self.waiting(part, parts):
            chosen = self.chunks[number]
            table = self.embedder.many((self.clips[i] for i in chosen), heard=heard)
            said = {
                kind: {
                    self.names[chosen[at]]: _of(text, self.clips[chosen[at]], self.names[chosen[at]])
                    for at, text in told.items()
                }
                for kind, told in (("left_out", table.left_out), ("noticed", table.noticed))
            }
            content = io.BytesIO()
            np.savez(
                content, number=np.array(chosen, np.int64)[table.sound], seconds=table.seconds, embeddings=table.values,
                said=np.array(files.to_json(said)),
            )  # fmt: skip
            files.write(self._place(number), content.getvalue())
            yield said["left_out"]

    def finish(self) -> dict[str, Any] | None:
        """Joins the chunks into the file, if all are there, and gives what :func:`describe` says of it; None: others have some still to
        do."""
        if not self.out.exists():
            if self.waiting():
                return None
            try:
                self._join()
            except FileNotFoundError:
                if not self.out.exists():  # else another machine has joined them meanwhile
                    raise
            shutil.rmtree(self.folder, ignore_errors=True)
        return describe(self.out)

    def _join(self) -> None:
        about: dict[str, Any] = self.plan | {"embedder": self.embedder.settings, "left_out": {}, "noticed": {}}
        about |= {"windows": 0, "sounds": 0, "seconds": 0.0, "width": 0}
        for chunk in map(self._chunk, range(len(self.chunks))):
            for kind, told in json.loads(str(chunk["said"])).items():
                about[kind] |= told
            about["windows"] += len(chunk["number"])
            about["sounds"] += len(np.unique(chunk["number"]))
            about["seconds"] += float(np.diff(chunk["seconds"]).sum())
            about["width"] = chunk["embeddings"].shape[1]
        write = _write_parquet if self.out.suffix == ".parquet" else _write_npz
        aside = self.out.with_name(f".writing-{self.out.name}-{os.getpid()}")
        try:
            write(aside, ((self._named(chunk), chunk) for chunk in map(self._chunk, range(len(self.chunks)))), about)
            aside.replace(self.out)
        finally:
            aside.unlink(missing_ok=True)

    def _named(self, chunk: dict[str, np.ndarray]) -> list[str]:
        return [self.names[number] for number in chunk["number"]]

    def _chunk(self, number: int) -> dict[str, np.ndarray]:
        try:
            return _arrays(self._place(number))
        except (ValueError, zipfile.BadZipFile, EOFError):
            self._place(number).unlink()
            raise LibraryError(
                f"{self._place(number)} was damaged and is removed: run the same command again."
            ) from None

    def _place(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"


def chunks_of(clips: Sequence[Clip]) -> list[list[int]]:
    """Numbers of clips, as many together as are done at once."""
    return _chunked([_size(clip) for clip in clips])


def _chunked(sizes: Sequence[int]) -> list[list[int]]:
    """Bytes of files in order -> their numbers in chunks, of at most so many files and, unless it is one file, so many bytes."""
    chunks: list[list[int]] = []
    held = 0
    for number, size in enumerate(sizes):
        if not chunks or len(chunks[-1]) == CHUNK_FILES or held + size > CHUNK_BYTES:
            chunks.append([])
            held = 0
        chunks[-1].append(number)
        held += size
    return chunks


def _size(clip: Clip) -> int:
    try:
        return clip.span[1] if clip.span else os.stat(clip.path).st_size
    except OSError:  # is met again, and told, when it is read
        return 0


def _of(text: str, clip: Clip, name: str) -> str:
    """What is said of a file under the name that it has in the library."""
    return text.replace(repr(clip.path), repr(name)).replace("The sound", repr(name))


# --- files ----------------------------------------------------------------------------------------------------------


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise LibraryError(
            "Parquet needs the package pyarrow: pip install 'ssast-lab[parquet]', or write a .npz file."
        ) from None
    return pyarrow


def _write_parquet(
    path: Path, chunks: Iterator[tuple[list[str], dict[str, np.ndarray]]], about: dict[str, Any]
) -> None:
    pa = _pyarrow()
    writer = None
    for names, chunk in chunks:
        width = chunk["embeddings"].shape[1]
        values = pa.FixedSizeListArray.from_arrays(pa.array(chunk["embeddings"].ravel(), pa.float32()), width)
        table = pa.table({
            "file": pa.array(names, pa.string()), "start": chunk["seconds"][:, 0], "end": chunk["seconds"][:, 1], "embedding": values,
        }).replace_schema_metadata({"ssast-lab": files.to_json(about)})  # fmt: skip
        writer = writer or pa.parquet.ParquetWriter(path, table.schema, use_dictionary=["file"])
        writer.write_table(table)
    assert writer is not None
    writer.close()


def _write_npz(path: Path, chunks: Iterator[tuple[list[str], dict[str, np.ndarray]]], about: dict[str, Any]) -> None:
    parts = [*chunks]
    seconds = np.concatenate([chunk["seconds"] for _, chunk in parts])
    names = np.array([name for names, _ in parts for name in names], np.str_)
    embeddings = np.concatenate([chunk["embeddings"] for _, chunk in parts])
    with path.open("wb") as file:
        np.savez(
            file,
            files=names,
            start=seconds[:, 0],
            end=seconds[:, 1],
            embedding=embeddings,
            about=np.array(files.to_json(about)),
        )


def _parquet_embeddings(path: Path, windows: int, width: int) -> np.ndarray:
    """(W, D), of which no more than a part is held twice."""
    values, first = np.empty((windows, width), np.float32), 0
    with _pyarrow().parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            column = file.read_row_group(group, columns=["embedding"])["embedding"]
            part = column.combine_chunks().flatten().to_numpy().reshape(-1, width)
            values[first : first + len(part)] = part
            first += len(part)
    return values


def _arrays(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    with (
        path.open("rb") as file,
        np.load(file, allow_pickle=False) as content,
    ):  # which leaves a damaged one open by itself
        return {name: content[name] for name in names or content}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    if not path.exists():
        raise LibraryError(f"There is no library {path}: ssast-lab embed makes one.")
    try:
        yield
    except LibraryError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise LibraryError(f"{path} is no library of embeddings ({reason}): ssast-lab embed makes one.") from None


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """JSON, without reading the embeddings: "embedder" as in :attr:`Embedder.settings`; "left_out" and "noticed" by file; the number of
    "windows" and of "sounds" that have some, their "seconds" in all, and the "width" of an embedding. :class:`LibraryError` for a
    file that is no library."""
    path = Path(path)
    with _reading(path):
        if path.suffix == ".npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
                about = json.loads(str(content["about"]))
        else:
            about = json.loads(_pyarrow().parquet.read_schema(path).metadata[b"ssast-lab"])
        if about["format"] != FORMAT:
            raise ValueError(f"it does not say {FORMAT!r}")
    return about


def read(path: str | os.PathLike[str], embeddings: bool = True) -> Library:
    """All of it, or all but the embeddings. :class:`LibraryError` for a file that is no library."""
    path, about = Path(path), describe(path)
    with _reading(path):
        if path.suffix == ".npz":
            content = _arrays(path, ["files", "start", "end"] + ["embedding"] * embeddings)
            names, start, end = (content[name] for name in ("files", "start", "end"))
            values = content.get("embedding")
        else:
            table = _pyarrow().parquet.read_table(path, columns=["file", "start", "end"])
            names, start, end = (table[name].to_numpy() for name in ("file", "start", "end"))
            values = _parquet_embeddings(path, len(names), about["width"]) if embeddings else None
        values = np.empty((len(names), 0), np.float32) if values is None else values
    return Library(names.astype(np.str_), np.stack([start, end], 1), values, about)


# --- search ---------------------------------------------------------------------------------------------------------


def embedder_of(library: Library, model: str | os.PathLike[str], device: str | None = None) -> Embedder:
    """The embedder that a library was made by. :class:`LibraryError` where ``model`` is another one."""
    settings = library.about["embedder"]
    asked = {name: settings[name] for name in ("layers", "pooling", "seconds", "hop")}
    embedder = Embedder(model, **asked, device=device, dtype=settings.get("dtype", "float32"))
    if embedder.upstream.key != settings["key"]:
        raise LibraryError(
            f"The library was made by {settings['model']}, whose weights or features are not those of {embedder.upstream.name}: "
            "name the model that it was made by."
        )
    return embedder


def near(library: Library, embedding: np.ndarray, count: int = 10) -> list[Found]:
    """The windows whose embeddings are most like (D,) one, best first: all are compared. :class:`LibraryError` where there are
    none."""
    check_asked(library, count)
    return found(library, *nearest(library.embeddings, embedding, count))


def check_asked(library: Library, count: int) -> None:
    """Raises :class:`LibraryError` where no window can be found."""
    if not len(library.files):
        raise LibraryError("The library has no windows: none of its files could be read.")
    if count < 1:
        raise LibraryError(f"At least one window is asked for, not {count}.")


def found(library: Library, numbers: np.ndarray, cosines: np.ndarray) -> list[Found]:
    """Numbers of windows and their scores -> what is said of them."""
    return [
        Found(str(library.files[at]), float(library.seconds[at, 0]), float(library.seconds[at, 1]), float(cosine))
        for at, cosine in zip(numbers, cosines, strict=True)
    ]
