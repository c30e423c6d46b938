"""Embeddings of many clips, cached by the content of the clips.

Axes: C clips, S samples at the upstream's rate, D width.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ssast_lab import audio, files
from ssast_lab.config import AudioConfig
from ssast_lab.data import Clip, told
from ssast_lab.measuring.upstreams import Upstream, UpstreamError, check_pooling

BATCH_SECONDS = {"cpu": 40, "cuda": 240}  # of sound in a batch, by the type of device: bounds the memory
Item = TypeVar("Item")
Result = TypeVar("Result")


def embed_clips(
    upstream: Upstream,
    clips: Sequence[Clip],
    pooling: str = "mean",
    cache: str | os.PathLike[str] | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
    noticed: dict[str, str] | None = None,
) -> np.ndarray:
    """(C, layers, D) float32: the embeddings of whole clips. ``device`` None is CUDA where there is one.

    With a ``cache`` folder nothing is computed twice: an embedding is found by the upstream's key, the pooling and the
    clip's content, whatever the file's name. What was computed before an error or Ctrl-C is kept.

    To ``noticed`` (name -> what) is added what should be known of the clips that are read; where there is none, it is given to
    :func:`warnings.warn`.

    Clips of equal length are batched. To get more of them, a little is cut off the end of each clip (:func:`trimmed`).
    :class:`UpstreamError` names all clips that cannot be read, before anything is computed; one that only decoding shows to
    be broken is named when it is met.
    """
    check_pooling(pooling)
    workers = max(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        digests = _all(pool, Clip.sha256, clips)
        file = None if cache is None else Path(cache) / f"{upstream.key[:32]}-{pooling}.safetensors"
        known = {} if file is None else _read_cache(file)
        missing = {digest: clip for digest, clip in zip(digests, clips, strict=True) if digest not in known}
        _all(pool, _check, missing.values())
        computed: dict[bytes, np.ndarray] = {}
        try:
            device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            embeddings = _embeddings(upstream, missing, pooling, device, pool, 2 * workers, noticed)
            hide = not (progress and missing)
            for digest, embedding in tqdm(embeddings, f"embedding by {upstream.name}", len(missing), disable=hide):
                computed[digest] = embedding
        finally:
            if file is not None and computed:
                _add_to_cache(file, computed)
    known |= computed
    return np.stack([known[digest] for digest in digests]) if digests else np.empty((0, upstream.layers, 0), np.float32)


def trimmed(samples: int, rate: int = audio.SAMPLE_RATE) -> int:
    """How many samples of a clip are embedded. The number of frames is rounded down to a multiple of a power of two that is
    at most 16 (0.16 s) and at most a sixteenth of the clip: so there are sixteen lengths between any duration and its double,
    and one every 0.16 s beyond 5 s."""
    clock = AudioConfig(sample_rate=rate)
    frames = clock.frames_of(samples)
    step = min(16, 1 << max(0, (frames // 16).bit_length() - 1))
    return clock.samples_of(frames // step * step)


def _embeddings(
    upstream: Upstream,
    clips: dict[bytes, Clip],
    pooling: str,
    device: torch.device,
    pool: ThreadPoolExecutor,
    ahead: int,
    noticed: dict[str, str] | None,
) -> Iterator[tuple[bytes, np.ndarray]]:
    """(digest, (layers, D)) of each clip, batch by batch; ``ahead`` clips are decoded in advance."""
    upstream = upstream.to(device)
    most = BATCH_SECONDS.get(device.type, BATCH_SECONDS["cpu"]) * upstream.rate
    waiting: dict[int, list[tuple[bytes, Tensor]]] = {}  # by length, until they fill a batch

    def embedded(batch: list[tuple[bytes, Tensor]]) -> Iterator[tuple[bytes, np.ndarray]]:
        waveforms = torch.stack([waveform for _, waveform in batch]).to(device)
        rows = upstream.embed(waveforms, pooling).float().cpu().numpy()
        yield from ((digest, row) for (digest, _), row in zip(batch, rows, strict=True))

    for digest, waveform in zip(
        clips, map_ahead(pool, partial(_decode, noticed, upstream.rate), clips.values(), ahead), strict=True
    ):
        samples = len(waveform)
        batch = waiting.setdefault(samples, [])
        batch.append((digest, waveform))
        if (len(batch) + 1) * samples > most:
            yield from embedded(waiting.pop(samples))
    for batch in waiting.values():
        yield from embedded(batch)


def map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], count: int
) -> Iterator[Result]:
    """``map`` in order, by threads that work at most ``count`` items ahead of the consumer."""
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


def _decode(noticed: dict[str, str] | None, rate: int, clip: Clip) -> Tensor:
    """(S,) float32, trimmed."""
    notices: list[audio.AudioWarning] = []
    try:
        waveform = audio.load_waveform(clip.open(), notices=None if noticed is None else notices, to_rate=rate)
    except (audio.AudioError, OSError) as error:
        raise _unreadable(clip, error) from None
    if noticed is not None:
        noticed |= told(clip, notices)
    return waveform[: trimmed(len(waveform), rate)]


def _check(clip: Clip) -> audio.AudioInfo:
    return audio.info(clip.open(), [], damage=False)


def _all(pool: ThreadPoolExecutor, read: Callable[[Clip], Result], clips: Iterable[Clip]) -> list[Result]:
    """What is read of each clip; :class:`UpstreamError` names all that cannot be read."""

    def tried(clip: Clip) -> Result | Exception:
        try:
            return read(clip)
        except (audio.AudioError, OSError) as error:
            return error

    clips = list(clips)
    results = list(pool.map(tried, clips))
    broken = {clip.name: one for clip, one in zip(clips, results, strict=True) if isinstance(one, Exception)}
    if broken:
        raise _named(broken)
    return results  # type: ignore[return-value]


def _unreadable(clip: Clip, error: Exception) -> UpstreamError:
    return _named({clip.name: error})


def _named(broken: Mapping[str, Exception]) -> UpstreamError:
    """``broken`` are the names of clips, and why they cannot be read."""
    reasons = {
        name: error.strerror if isinstance(error, OSError) and error.strerror else str(error).rstrip(".")
        for name, error in broken.items()
    }
    if len(broken) == 1:
        ((name, reason),) = reasons.items()
        return UpstreamError(f"The clip {name} cannot be embedded: {reason}.")
    listed = "; ".join(f"{name} ({reason})" for name, reason in reasons.items())
    return UpstreamError(f"{len(broken)} clips cannot be embedded: {listed}.")


# --- the cache: for each upstream and pooling one file of SHA-256 and embedding of many clips -----------------------


def _read_cache(file: Path) -> dict[bytes, np.ndarray]:
    """SHA-256 of a clip -> (layers, D). Empty where there is no such file or it is damaged: it is only a cache."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        content = load(file.read_bytes())
        digests, embeddings = content["sha256"], content["embeddings"]
    except (OSError, SafetensorError, KeyError, ValueError):
        return {}
    fits = digests.dtype == np.uint8 and digests.shape == (len(embeddings), 32)
    if not (fits and embeddings.dtype == np.float32 and embeddings.ndim == 3 and np.isfinite(embeddings).all()):
        return {}
    return {digest.tobytes(): embedding for digest, embedding in zip(digests, embeddings, strict=True)}


def _add_to_cache(file: Path, computed: dict[bytes, np.ndarray]) -> None:
    """Adds embeddings to a file, which is read again just before: what another process has added meanwhile stays. Of two
    processes that write at the same moment one's additions are lost and computed again; the file is never damaged."""
    from safetensors.numpy import save

    content = _read_cache(file) | computed
    digests = np.frombuffer(b"".join(content), dtype=np.uint8).reshape(-1, 32)
    try:
        files.write(file, save({"sha256": digests, "embeddings": np.stack(list(content.values()))}))
    except OSError as error:
        raise UpstreamError(f"The cache {file} cannot be written: {error.strerror or error}.") from None
