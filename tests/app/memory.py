"""How much memory the app's process holds after many uploads: ``python tests/app/memory.py [UPLOADS]``, some minutes, no test.

First one visitor who uploads again and again, then a new visitor for each upload, of whom only so many are remembered.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import soundfile
from started import ask, send, started

from ssast_lab import audio
from ssast_lab.app.serve import VISITORS

FIRST = 20


def event_of(address: str) -> tuple[int, list[str]]:
    """The number of the page's event for an upload, and the types of its inputs."""
    config = json.loads(ask(address + "config")[1])
    kinds = {part["id"]: part["type"] for part in config["components"]}
    for event in config["dependencies"]:
        if "upload" in [how for _, how in event["targets"]]:
            return event["id"], [kinds[part] for part in event["inputs"]]
    raise SystemExit("This page takes no uploads.")


def upload(address: str, event: tuple[int, list[str]], content: bytes, visitor: str) -> None:
    path = json.loads(send(address, content)[1])[0]
    values = {
        "file": {"path": path, "meta": {"_type": "gradio.FileData"}},
        "radio": "tiny-patch",
        "dropdown": "3 to 5 (paper)",
        "number": 0,
    }
    body = {"fn_index": event[0], "data": [values.get(kind) for kind in event[1]], "session_hash": visitor}
    status, said, _ = ask(
        f"{address}gradio_api/run/predict", json.dumps(body).encode(), Content_Type="application/json"
    )
    assert status == 200, said


def main(uploads: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "ten.flac"
        wave = soundfile.read(audio.builtin_sounds()["tabla"]["path"])[0]
        for title, visitor in (
            ("one visitor", "same"),
            (f"a visitor each, of whom {VISITORS} are remembered", "visitor-{}"),
        ):
            with started(Path(folder) / "here") as here:
                event, process, begun = event_of(here.address), psutil.Process(here.process.pid), time.monotonic()
                for number in range(1, uploads + 1):
                    soundfile.write(sound, np.roll(np.resize(wave, 160_000), 100 * number), 16000)
                    upload(here.address, event, sound.read_bytes(), visitor.format(number))
                    if number in (1, FIRST, VISITORS, uploads // 2, uploads):
                        print(
                            f"{title}: {number:4} uploads, {process.memory_info().rss / 1e6:.0f} MB, {time.monotonic() - begun:.0f} s",
                            flush=True,
                        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
