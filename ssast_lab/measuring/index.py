"""An index of a library, for millions of windows: most of them are neither read nor compared.

Axes: W windows, D width. Windows lie in cells, each around the mean of its own (Sivic and Zisserman, ICCV 2003: an inverted file), and
a search compares those of the cells that are nearest to what is searched for. Faiss does both.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ssast_lab import files
from ssast_lab.measuring.library import Found, LibraryError, check_asked, found, read

FORMAT = "ssast-lab index 1"
FEWEST = 39  # windows in a cell, on average: Faiss recommends as many to learn from
LEARNT = 64  # windows a cell that the cells are learnt from
LOOKED_INTO = 32  # cells that a search looks into
BLOCK = 1 << 16  # windows that are added at a time
TAIL = 1 << 20  # bytes: of a library's end, where Parquet has its statistics and NPZ the checksums of its parts


class Index:
    """An index that is open::

    index = Index("birds.parquet")  # made when there is none, or when the library has changed
    index.near(embedder("query.wav").clip)  # like ssast_lab.measuring.library.near
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """``path``: of the library; the index is a folder beside it, whose name ends in ``.index``. :class:`LibraryError` for a file that
        is no library, and where Faiss is missing."""
        faiss = _faiss()
        self.path = Path(path)
        self.folder = self.path.with_name(f"{self.path.name}.index")
        self.library = read(self.path, embeddings=False)
        check_asked(self.library, 1)
        self.made = not self._fits()  # now, and not before
        if self.made:
            self._make()
        about = self._about()
        self.mean, self.cells = np.array(about["mean"], np.float32), int(about["cells"])  # (D,)
        self._cells = faiss.read_index(str(self.folder / "cells.faiss"), faiss.IO_FLAG_MMAP_IFC)
        self._cells.nprobe = LOOKED_INTO

    def nearest(self, embedding: np.ndarray, count: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """(D,) -> numbers of the nearest windows that are found, best first, and their cosine to the embedding, both centred on the mean
        of the library: as :func:`ssast_lab.measuring.points.nearest`, which misses none."""
        check_asked(self.library, count)
        wanted = _directions(np.asarray(embedding, np.float32)[None] - self.mean)
        cosines, numbers = self._cells.search(wanted, min(count, len(self.library.files)))
        there = numbers[0] >= 0
        return numbers[0][there], cosines[0][there]

    def near(self, embedding: np.ndarray, count: int = 10) -> list[Found]:
        """(D,) -> the windows that are most like it, best first, as far as they are found."""
        return found(self.library, *self.nearest(embedding, count))

    def _about(self) -> dict[str, Any]:
        return json.loads((self.folder / "about.json").read_text(encoding="utf-8"))

    def _plan(self) -> dict[str, Any]:
        with self.path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            return {"format": FORMAT, "library": files.sha256([size, self.library.about], file.read())}

    def _fits(self) -> bool:
        try:
            about = self._about()
            size = (self.folder / "cells.faiss").stat().st_size
        except (OSError, ValueError):
            return False
        return isinstance(about, dict) and self._plan().items() <= about.items() and about.get("bytes") == size

    def _make(self) -> None:
        faiss = _faiss()
        values = read(self.path).embeddings
        windows, width = values.shape
        cells = max(1, min(round(windows**0.5), windows // FEWEST))
        mean = values.mean(0)
        made = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
        made.cp.min_points_per_centroid = 1  # else it warns of a library of fewer
        chosen = np.random.default_rng(0).choice(windows, min(windows, LEARNT * cells), replace=False)
        made.train(_directions(values[np.sort(chosen)] - mean))
        for first in range(0, windows, BLOCK):
            made.add(_directions(values[first : first + BLOCK] - mean))
        aside = self.folder.with_name(f".writing-{self.folder.name}-{os.getpid()}")
        try:
            aside.mkdir()
            faiss.write_index(made, str(aside / "cells.faiss"))
            about = self._plan() | {"cells": cells, "mean": mean.tolist(), "faiss": faiss.__version__}
            about["bytes"] = (aside / "cells.faiss").stat().st_size
            files.write(aside / "about.json", files.to_json(about) + "\n")
            shutil.rmtree(self.folder, ignore_errors=True)
            aside.replace(self.folder)
        except OSError as error:
            raise LibraryError(f"The index {self.folder} cannot be written: {error.strerror or error}.") from None
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _directions(values: np.ndarray) -> np.ndarray:
    """(W, D) -> the same with the length 1, but for zeros."""
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise LibraryError(
            "An index needs the package faiss-cpu: pip install 'ssast-lab[index]', or search without one, which compares every window."
        ) from None
    return faiss
