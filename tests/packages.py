"""Debian packages that hold sounds, made for a test."""

import shutil
import subprocess
from pathlib import Path

import av
import numpy as np
import soundfile

RATE = 16000


def tone(hertz, seconds, rate=RATE):
    t = np.arange(int(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * hertz * t)).astype(np.float32)


def sound(path, wave, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".g722":
        with av.open(str(path), "w", format="g722") as container:
            stream = container.add_stream("g722", rate=16000, layout="mono", format="s16")
            for start in range(0, len(wave) // 320 * 320, 320):
                frame = av.AudioFrame.from_ndarray(
                    (wave[None, start : start + 320] * 32767).astype("<i2"), "s16", "mono"
                )
                frame.sample_rate, frame.pts = 16000, start
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    else:
        soundfile.write(path, wave, rate)


def make_deb(store, name, fill):
    root = store / f"{name}.root"
    fill(root / "usr/share" / name)
    for file, text in (
        (
            "DEBIAN/control",
            f"Package: {name}\nVersion: 1.0-1\nArchitecture: all\n"
            "Maintainer: Nobody <nobody@example.org>\nDescription: sounds\n",
        ),
        (f"usr/share/doc/{name}/copyright", f"{name} is by Nobody.\n"),
    ):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "-b", root, store / f"{name}.deb"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    shutil.rmtree(root)


def local_fetch(store, package, folder):
    """What apt_download does, from a folder of packages."""
    deb = Path(store) / f"{package}.deb"
    return Path(shutil.copy(deb, folder)) if deb.exists() else None


def hertz(wave):
    return np.abs(np.fft.rfft(wave * np.hanning(len(wave)))).argmax() * RATE / len(wave)
