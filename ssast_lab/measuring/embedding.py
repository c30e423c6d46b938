"""Embeddings of clips, and a cache of them by content.

Axes: C clips, S samples at 16 kHz, D width.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ssast_lab import audio, files
from ssast_lab.data import Clip
from ssast_lab.measuring.upstreams import Upstream, UpstreamError, check_pooling

AT_ONCE = {"cpu": 80, "cuda": 240}  # seconds of sound that go through a model together: bounds its memory
Item = TypeVar("Item")
Result = TypeVar("Result")


def embed_clips(
    upstream: Upstream,
    clips: Sequence[Clip],
    pooling: str = "mean",
    cache: str | os.PathLike[str] | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> np.ndarray:
    """(C, layers, D) float32: the embeddings of whole clips. ``device`` None is CUDA where there is one.

    With a ``cache`` folder, what was computed once is read from it: it belongs to the upstream's key, the pooling and the
    clip's content, wherever the file lies and whatever it is called. What was computed before an error or Ctrl-C is kept.

    Equally long clips go through the model together. So that there are many of them, a clip's end is cut to a whole number
    of steps of at most 16 frames, 0.16 s, and at most a sixteenth of the clip (:func:`trimmed`).
    :class:`UpstreamError` names a clip that cannot be read, before anything is computed unless only decoding shows it.
    """
    check_pooling(pooling)
    workers = max(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        digests = list(pool.map(_digest, clips))
        file = None if cache is None else Path(cache) / f"{upstream.key[:32]}-{pooling}.safetensors"
        known = {} if file is None else _read_cache(file)
        todo = {digest: clip for digest, clip in zip(digests, clips, strict=True) if digest not in known}
        list(pool.map(_check, todo.values()))
        fresh: dict[bytes, np.ndarray] = {}
        try:
            device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            steps = _embeddings(upstream, todo, pooling, device, pool, 2 * workers)
            with tqdm(total=len(todo), desc=f"embedding by {upstream.name}", disable=not (progress and todo)) as bar:
                for digest, embedding in steps:
                    fresh[digest] = embedding
                    bar.update()
        finally:
            if file is not None and fresh:
                _write_cache(file, fresh)
    known |= fresh
    return np.stack([known[digest] for digest in digests]) if digests else np.empty((0, upstream.layers, 0), np.float32)


def trimmed(samples: int) -> int:
    """How many samples of a clip are embedded: those of a number of frames that a power of two divides, 16 at most and a
    sixteenth of them at most: sixteen lengths from any duration to its double, and one every 0.16 s beyond 5 s."""
    frames = audio.frames_of(samples)
    step = min(16, 1 << max(0, (frames // 16).bit_length() - 1))
    return audio.samples_of(frames // step * step)


def _embeddings(
    upstream: Upstream,
    clips: dict[bytes, Clip],
    pooling: str,
    device: torch.device,
    pool: ThreadPoolExecutor,
    ahead: int,
) -> Iterator[tuple[bytes, np.ndarray]]:
    upstream = upstream.to(device)
    room = AT_ONCE.get(device.type, AT_ONCE["cpu"]) * audio.SAMPLE_RATE
    waiting: dict[int, list[tuple[bytes, Tensor]]] = {}  # by length

    def embedded(alike: list[tuple[bytes, Tensor]]) -> Iterator[tuple[bytes, np.ndarray]]:
        batch = torch.stack([waveform for _, waveform in alike]).to(device)
        found = upstream.embed(batch, pooling).float().cpu().numpy()
        yield from ((digest, row) for (digest, _), row in zip(alike, found, strict=True))

    for digest, waveform in zip(clips, _ahead(pool, _decode, clips.values(), ahead), strict=True):
        samples = len(waveform)
        alike = waiting.setdefault(samples, [])
        alike.append((digest, waveform))
        if (len(alike) + 1) * samples > room:
            yield from embedded(waiting.pop(samples))
    for alike in waiting.values():
        yield from embedded(alike)


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], count: int
) -> Iterator[Result]:
    """``map`` in order, by threads that are at most ``count`` items ahead of whoever takes the results."""
    rest = iter(items)
    futures: deque[Future[Result]] = deque(pool.submit(function, item) for item in islice(rest, count))
    try:
        while futures:
            result = futures.popleft().result()
            futures.extend(pool.submit(function, item) for item in islice(rest, 1))
            yield result
    finally:
        for future in futures:
            future.cancel()


def _decode(clip: Clip) -> Tensor:
    """(S,) trimmed"""
    try:
        waveform = audio.load_waveform(clip.open())
    except (audio.AudioError, OSError) as error:
        raise _unreadable(clip, error) from None
    return waveform[: trimmed(len(waveform))]


def _check(clip: Clip) -> None:
    try:
        audio.info(clip.open())
    except (audio.AudioError, OSError) as error:
        raise _unreadable(clip, error) from None


def _digest(clip: Clip) -> bytes:
    try:
        source = clip.open()
        content = Path(source).read_bytes() if isinstance(source, str) else source.getbuffer()
    except OSError as error:
        raise _unreadable(clip, error) from None
    return hashlib.sha256(content).digest()


def _unreadable(clip: Clip, error: Exception) -> UpstreamError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).rstrip(".")
    return UpstreamError(f"The clip {clip.name} cannot be embedded: {reason}.")


# --- the cache: one file of (clip's sha256, embedding) for each upstream and pooling --------------------------------


def _read_cache(file: Path) -> dict[bytes, np.ndarray]:
    """What a file holds; nothing where there is none, or it is damaged: it is only a cache."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        found = load(file.read_bytes())
        digests, embeddings = found["sha256"], found["embeddings"]
    except (OSError, SafetensorError, KeyError, ValueError):
        return {}
    whole = digests.dtype == np.uint8 and digests.shape == (len(embeddings), 32)
    if not (whole and embeddings.dtype == np.float32 and embeddings.ndim == 3 and np.isfinite(embeddings).all()):
        return {}
    return {digest.tobytes(): embedding for digest, embedding in zip(digests, embeddings, strict=True)}


def _write_cache(file: Path, fresh: dict[bytes, np.ndarray]) -> None:
    """Adds embeddings to a file. It is read again just before, so that what another process has added since stays; two that
    rename at the same moment lose the one's additions, which are computed again, never the file."""
    from safetensors.numpy import save

    content = _read_cache(file) | fresh
    digests = np.frombuffer(b"".join(content), dtype=np.uint8).reshape(-1, 32)
    try:
        files.write(file, save({"sha256": digests, "embeddings": np.stack(list(content.values()))}))
    except OSError as error:
        raise UpstreamError(f"The cache {file} cannot be written: {error.strerror or error}.") from None
