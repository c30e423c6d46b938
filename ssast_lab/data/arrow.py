"""Sounds in tables of Apache Arrow: Parquet files, and the folders that ``datasets`` of Hugging Face saves.

Axes: R rows. A column of sounds holds their files as bytes, beside a path that may be only a name, or paths alone. Within an
Arrow file every sound lies in one piece, so that it is read like a member of a tar shard; a row of Parquet is unpacked with
the others of its row group.
"""

import functools
import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ssast_lab.data.errors import DataError
from ssast_lab.data.lists import COLUMNS

EXTRA = "pip install 'ssast-lab[parquet]'"


class Sounds(NamedTuple):
    """The sounds of a file, and what other columns say of them."""

    paths: list[str]  # (R,) that the rows tell; "" for none
    spans: list[
        tuple[int, int] | None
    ]  # (R,) (first byte, or row of Parquet; bytes); None: the sound is the file of that path
    texts: dict[str, list[tuple[str, ...]]]  # column -> (R,) the texts in it
    classes: dict[str, tuple[str, ...]]  # column -> the names of its classes in order, where it has some


def read(path: str, columns: Sequence[str] = ()) -> Sounds | None:
    """The sounds of a Parquet or Arrow file, with those of the ``columns`` that it has; None where no column holds sounds.
    :class:`DataError` for a file that cannot be read, and where pyarrow is missing."""
    pyarrow = _pyarrow(path)
    try:
        return (_read_parquet if is_parquet(path) else _read_arrow)(path, columns)
    except (pyarrow.ArrowException, OSError, json.JSONDecodeError) as error:
        said = " ".join(str(error).split())[:200].rstrip(".")
        raise DataError(f"{path} cannot be read as {'Parquet' if is_parquet(path) else 'Arrow'}: {said}.") from None


def is_parquet(path: str) -> bool:
    return path.lower().endswith(".parquet")


def sound(path: str, row: int) -> bytes:
    """The file that stands in a row of Parquet."""
    changed = os.stat(path).st_mtime_ns
    starts = _groups(path, changed)[1]
    group = int(np.searchsorted(starts, row, side="right")) - 1
    return _values(path, changed, group)[row - starts[group]].as_py()


@functools.lru_cache(maxsize=64)
def _groups(path: str, changed: int) -> tuple[str, np.ndarray]:
    """The column of sounds, and the first row of each row group."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    return _audio_column(file.schema_arrow) or "", np.cumsum([0, *counts[:-1]])


@functools.lru_cache(maxsize=2)
def _values(path: str, changed: int, group: int) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = _groups(path, changed)[0]
    values = pq.ParquetFile(path).read_row_group(group, columns=[column], use_threads=False).column(0)
    return pa.chunked_array([_held(chunk) for chunk in values.chunks])


def _pyarrow(path: str) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise DataError(f"{path} can be read with pyarrow, which is not installed: {EXTRA}.") from None
    return pyarrow


def _read_parquet(path: str, columns: Sequence[str]) -> Sounds | None:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    sounds = _begun(file.schema_arrow, columns)
    if sounds is None:
        return None
    for group in range(file.num_row_groups):
        names = [_audio_column(file.schema_arrow), *_wanted(file.schema_arrow, columns)]
        for batch in file.read_row_group(group, columns=names, use_threads=False).to_batches():
            _add(sounds, batch, len(sounds.paths) + np.arange(len(batch)))
    return sounds


def _read_arrow(path: str, columns: Sequence[str]) -> Sounds | None:
    import pyarrow as pa

    content = pa.memory_map(path).read_buffer()
    file = content.size >= 6 and content.slice(0, 6).to_pybytes() == b"ARROW1"
    reader = (pa.ipc.open_file if file else pa.ipc.open_stream)(content)

    def first_bytes(held: Any) -> np.ndarray:
        _, offsets, values = held.buffers()
        kind = np.int64 if pa.types.is_large_binary(held.type) else np.int32
        if not 0 <= values.address - content.address <= content.size:
            raise DataError(f"{path} is compressed: save it without compression, or as Parquet.")
        starts = np.frombuffer(offsets, kind)[held.offset : held.offset + len(held)]
        return values.address - content.address + starts.astype(np.int64)

    sounds = _begun(reader.schema, columns)
    if sounds is None:
        return None
    for batch in map(reader.get_batch, range(reader.num_record_batches)) if file else reader:
        held = _held(batch.column(_audio_column(batch.schema)))
        _add(sounds, batch, None if held is None or held.null_count == len(held) else first_bytes(held))
    return sounds


def _begun(schema: Any, columns: Sequence[str]) -> Sounds | None:
    """What :func:`_add` adds to; None where no column holds sounds."""
    if _audio_column(schema) is None:
        return None
    wanted = _wanted(schema, columns)
    names = {name: _class_names(_features(schema).get(name)) for name in wanted}
    return Sounds([], [], {n.lower(): [] for n in wanted}, {n.lower(): those for n, those in names.items() if those})


def _wanted(schema: Any, columns: Sequence[str]) -> list[str]:
    return [name for name in schema.names if name.lower() in columns and name != _audio_column(schema)]


def _add(sounds: Sounds, batch: Any, places: np.ndarray | None) -> None:
    """``places`` (R,) are the first numbers of the spans; None where no row holds bytes."""
    import pyarrow.compute as pc

    for name in _wanted(batch.schema, tuple(sounds.texts)):
        classes = sounds.classes.get(name.lower(), ())
        sounds.texts[name.lower()] += [_texts(value, classes) for value in batch.column(name).to_pylist()]
    column = batch.column(_audio_column(batch.schema))
    held, paths = _held(column), _held(column, "path")
    places = None if held is None or held.null_count == len(held) else places
    sounds.paths.extend([""] * len(column) if paths is None else [path or "" for path in paths.to_pylist()])
    if places is None:
        sounds.spans.extend([None] * len(column))
        return
    sizes = pc.fill_null(pc.binary_length(held), -1).to_numpy(zero_copy_only=False).tolist()
    sounds.spans.extend(None if size < 0 else (place, size) for place, size in zip(places.tolist(), sizes, strict=True))


def _held(column: Any, field: str = "bytes") -> Any:
    """The bytes of a column of sounds, or their paths; None where it has none."""
    import pyarrow as pa

    if pa.types.is_struct(column.type):
        return dict(zip([item.name for item in column.type], column.flatten(), strict=True)).get(field)
    text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    return column if text == (field == "path") else None


def _features(schema: Any) -> dict[str, Any]:
    """What ``datasets`` notes of the columns."""
    about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return about.get("info", {}).get("features") or {}


def _audio_column(schema: Any) -> str | None:
    """The name of the column that holds sounds most surely."""
    import pyarrow as pa

    features = _features(schema)

    def doubt(field: Any) -> int:
        kind, named, feature = field.type, field.name.lower() in COLUMNS, features.get(field.name)
        if isinstance(feature, dict) and feature.get("_type") == "Audio":
            return 0
        if (
            pa.types.is_struct(kind)
            and {item.name for item in kind} == {"bytes", "path"}
            and field.name not in features
        ):
            return 1
        if named and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            return 2
        return 3 if named and (pa.types.is_string(kind) or pa.types.is_large_string(kind)) else 4

    best = min(schema, key=doubt, default=None)
    return best.name if best is not None and doubt(best) < 4 else None


def _class_names(feature: Any) -> tuple[str, ...]:
    while isinstance(feature, dict) and "feature" in feature:  # a list of labels
        feature = feature["feature"]
    while isinstance(feature, list) and len(feature) == 1:  # as it was written in earlier versions
        feature = feature[0]
    return tuple(map(str, feature.get("names") or ())) if isinstance(feature, dict) else ()


def _texts(value: Any, classes: tuple[str, ...]) -> tuple[str, ...]:
    """The texts of a cell; those of class labels by their numbers, of which -1 is an unknown one."""
    if isinstance(value, list):
        return tuple(text for each in value for text in _texts(each, classes))
    if classes and isinstance(value, int):
        return (classes[value],) if 0 <= value < len(classes) else ()
    text = "" if value is None else str(value).strip()
    return (text,) if text else ()
