"""Map: the windows of many sounds as dots, near to each other where the model finds them alike."""

import zlib
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ssast_lab import audio
from ssast_lab.app import uploads
from ssast_lab.app.maps import Builtin, SoundMap, Source
from ssast_lab.app.sources import Sound, load_model
from ssast_lab.app.state import Common, Seen, Wish
from ssast_lab.app.views.view import Answer, Asked, Refusal, View
from ssast_lab.data import Passed
from ssast_lab.measuring.points import METHODS, PointsError, alike, nearest
from ssast_lab.stage import text

SECONDS = (1.0, 2.0, 5.0, 10.0)  # of a window
NEAREST = 8
TOLD = 20  # sounds that were left out, by name


def look(seen: Seen, asked: Asked, common: Common) -> Answer:
    """What is known of the visitor's map, after another slice of work on it."""
    answer: Answer = {"choices": {"seconds": SECONDS, "methods": METHODS}, "state": "none"}
    made = common.maps.find(asked.get("map"))
    if asked.get("do") == "start" and made is None:
        try:
            passed = Passed()
            found = sources(asked.get("files"), passed)
            made = SoundMap(found, seen.model.path, seconds_of(asked), str(passed))
        except uploads.UploadError as error:
            return answer | {"trouble": str(error)}
        common.maps.keep(asked.get("map"), made)
    if made is None:
        return answer
    if asked.get("go") is True:
        made.advance()
    return answer | described(made, seen, asked)


def sources(files: Any, passed: Passed) -> list[Source]:
    """What was sent, or else the built-in sounds in folders by their kind."""
    if files:
        found: list[Source] = [*uploads.items(files, passed)]
        if not found:
            raise uploads.UploadError(
                f"No sound was found in what was sent{f': there were {passed}' if passed else ''}."
            )
        return found
    return [Builtin(f"{entry['kind']}/{name}", entry["path"]) for name, entry in audio.builtin_sounds().items()]


def seconds_of(asked: Asked) -> float:
    seconds = asked.get("seconds")
    return float(seconds) if seconds in SECONDS else SECONDS[1]


def described(made: SoundMap, seen: Seen, asked: Asked) -> Answer:
    layer: Any = asked.get("layer")
    layer = layer if type(layer) is int and 0 <= layer < made.layers else max(made.layers - 1, 0)
    method: Any = asked.get("method") if asked.get("method") in METHODS and made.done else "pca"
    trouble = ""
    try:
        points = made.layout(method, layer)
    except PointsError as error:
        points, trouble = None, str(error)
    waits = points is None and not trouble
    if points is None:
        points, method = made.layout("pca", layer), "pca"
    assert points is not None
    return {
        "state": "done" if made.done else "measuring", "measured": made.measured, "total": len(made.sources), "waits": waits,
        "trouble": trouble, "names": [source.name for source in made.sources], "left_out": [*made.left_out.items()][:TOLD],
        "left_out_all": len(made.left_out), "passed": made.passed, "noticed": [*made.noticed.items()][:TOLD], "sound": text(np.array(made.sound, "<i4")), "second": text(np.array(made.second, "<f4")),
        "points": text(points.astype("<f4")), "alike": text(groups(made, layer, len(made.sound)).astype("u1")),
        "layer": layer, "layers": made.layers, "method": method, "seconds": made.seconds, "nearest": near(made, seen, layer),
        "of": zlib.crc32(str(made.model).encode()), "same_model": made.model == seen.model.path,
    }  # fmt: skip


@lru_cache(maxsize=8)
def groups(made: SoundMap, layer: int, count: int) -> np.ndarray:
    """(W,) once all is measured: before, the colours would change with each slice."""
    return alike(made.embeddings(layer)) if made.done and count else np.zeros(count, np.int64)


def near(made: SoundMap, seen: Seen, layer: int) -> list[list[float]] | None:
    """[number, cosine] of the windows that are most like what the stage shows."""
    if made.model != seen.model.path or not made.sound:
        return None
    best, cosines = nearest(made.embeddings(layer), present(seen)[layer], NEAREST)
    return [[int(number), float(cosine)] for number, cosine in zip(best, cosines, strict=True)]


@lru_cache(maxsize=8)
@torch.no_grad()
def present(seen: Seen) -> np.ndarray:
    """(L, D): what the stage shows, embedded as windows are."""
    encoder, depth = seen.network.encoder, seen.network.config.depth
    encoding = encoder(seen.excerpt.fbank[None], layers=range(depth - 1))
    tokens = [
        *(encoding.layers[layer][:, -encoding.patches.shape[1] :] for layer in range(depth - 1)),
        encoding.patches,
    ]
    return torch.cat([each.mean(1) for each in tokens]).numpy()


def act(asked: Asked, common: Common) -> Wish:
    """Has the stage show a window."""
    made, window = common.maps.find(asked.get("map")), asked.get("window")
    if made is None:
        raise Refusal("This map is no longer here: measure it again.")
    if type(window) is not int or not 0 <= window < len(made.sound):
        raise Refusal("There is no such window on the map.")
    source, rate = made.sources[made.sound[window]], load_model(made.model).config.audio.sample_rate
    try:
        waveform = source.waveform([], rate)
    except audio.AudioError as error:
        raise Refusal(str(error)) from None
    about = "built in" if isinstance(source, Builtin) else "your sound, from the map"
    return Wish(sound=Sound(source.name, about, waveform, rate), start=made.second[window])


CODE = """
windows = [ssast_lab.excerpt(part, model.config) for part in wave.split(2 * model.config.audio.sample_rate) if len(part) > model.config.audio.window * 10]  # of two seconds
with torch.no_grad():
    dots = torch.cat([model.encoder(window.fbank[None]).patches.mean(1) for window in windows])  # (windows, D)
print(f"{len(dots)} windows of {dots.shape[1]} values each")
"""

VIEW = View(
    name="map",
    title="Map",
    hint="Which sounds does the model find alike? Each dot is a window of a sound: point at one for its name, click to see and hear it.",
    look=look,
    shared=True,
    act=act,
    code=CODE,
)
