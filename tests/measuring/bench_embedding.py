"""How fast recordings are embedded, beside the same model in transformers, and how much memory a long one takes::

    python tests/measuring/bench_embedding.py --clips 1000 --hours 2

A batch of clips goes through both in turn, from file to embedding, and ratios are taken pair by pair, since the speed of machines drifts.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

from ssast_lab import Embedder, audio

RATE = audio.SAMPLE_RATE
BATCH = 32  # clips that take their turn together
THEIRS = 8  # of them that transformers is given at once


def write_clips(folder: Path, count: int, shortest: float, longest: float) -> list[Path]:
    """FLAC files cut out of the built-in sounds joined together."""
    whole = np.concatenate([audio.load_waveform(sound["path"]).numpy() for sound in audio.builtin_sounds().values()])
    random = np.random.default_rng(0)
    paths = [folder / f"{number:05}.flac" for number in range(count)]
    for path in paths:
        samples = int(random.uniform(shortest, longest) * RATE)
        start = random.integers(0, len(whole) - samples)
        soundfile.write(path, whole[start : start + samples], RATE)
    return paths


def transformers_model(folder: Path):
    """An AST of tiny-patch's size with random weights, saved so that both read it: theirs, as a function of paths."""
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    torch.manual_seed(0)
    config = ASTConfig(
        hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768, frequency_stride=16, time_stride=16,
        max_length=1024, num_mel_bins=128,
    )  # fmt: skip
    model, extractor = ASTModel(config).eval(), ASTFeatureExtractor()
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)

    @torch.inference_mode()
    def embed(paths: list[Path]) -> np.ndarray:
        rows = []
        for at in range(0, len(paths), THEIRS):
            waves = [soundfile.read(path, dtype="float32")[0] for path in paths[at : at + THEIRS]]
            features = extractor(waves, sampling_rate=RATE, return_tensors="pt")
            rows.append(model(**features).last_hidden_state[:, 2:].mean(1).numpy())
        return np.concatenate(rows)

    return embed


def take_turns(paths: list[Path], ours, theirs) -> dict[str, float]:
    """Ratios by the clock, and by the processor's time, which other work on the machine hardly changes."""
    clocks = {"wall": time.perf_counter, "processor": time.process_time}
    spent: dict[tuple[str, str], list[float]] = {}
    for run in (ours, theirs):
        run(paths[:THEIRS])  # warms up
    for at in range(0, len(paths), BATCH):
        for name, run in (("ours", ours), ("theirs", theirs)):
            begin = {clock: tell() for clock, tell in clocks.items()}
            run(paths[at : at + BATCH])
            for clock, tell in clocks.items():
                spent.setdefault((name, clock), []).append(tell() - begin[clock])
        if at // BATCH % 8 == 7:
            print(json.dumps(_figures(at + BATCH, spent) | {"load": os.getloadavg()[0]}), file=sys.stderr, flush=True)
    return _figures(len(paths), spent)


def _figures(clips: int, spent: dict[tuple[str, str], list[float]]) -> dict[str, float]:
    figures: dict[str, float] = {"clips": clips, "pairs": -(-clips // BATCH)}
    for clock in ("wall", "processor"):
        for name in ("ours", "theirs"):
            figures[f"{name}: clips/s, {clock}"] = clips / sum(spent[name, clock])
        ratios = [theirs / ours for ours, theirs in zip(spent["ours", clock], spent["theirs", clock], strict=True)]
        figures |= {
            f"faster by, {clock}": statistics.median(ratios),
            f"least, {clock}": min(ratios),
            f"most, {clock}": max(ratios),
        }
    return figures


def long_file(path: Path, hours: float) -> None:
    """The built-in sounds over and over, in stereo at 44.1 kHz."""
    import soxr

    parts = [audio.load_waveform(sound["path"]).numpy() for sound in audio.builtin_sounds().values()]
    loop = soxr.resample(np.concatenate(parts), RATE, 44100)
    left = int(hours * 3600 * 44100)
    with soundfile.SoundFile(path, "w", 44100, 2) as file:
        while left > 0:
            file.write(np.stack([loop[:left]] * 2, 1))
            left -= len(loop)


MEASURED = """
import re, sys
from pathlib import Path
from ssast_lab.__main__ import main
main(["embed", "tiny-patch", sys.argv[1], "--out", sys.argv[2]])
print("PEAK", re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])  # ru_maxrss begins with that of the parent
"""


def peak(path: Path, out: Path) -> tuple[float, float]:
    """(MB at most, seconds) of ssast-lab embed in a process of its own."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(path), str(out)], capture_output=True, text=True, check=True
    )
    return int(done.stdout.rpartition("PEAK ")[2]) / 1024, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--hours", type=float, default=2.0)
    asked = parser.parse_args()
    figures: dict = {"threads": torch.get_num_threads(), "torch": torch.__version__, "load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if asked.clips:
            theirs = transformers_model(folder / "ast")
            embedder = Embedder(folder / "ast")

            def ours(paths: list[Path]) -> np.ndarray:
                return embedder.many(paths).clips()

            (folder / "clips").mkdir()
            (folder / "full").mkdir()
            short = write_clips(folder / "clips", asked.clips, 1.0, 5.0)
            full = write_clips(
                folder / "full", min(max(asked.clips // 8, 2), 256), 10.255, 10.256
            )  # a whole window: theirs pads nothing
            apart = float(np.abs(ours(full[:2]) - theirs(full[:2])).max())
            figures["largest difference where nothing is padded"] = apart
            figures["10.24 s"] = take_turns(full, ours, theirs)
            figures["1 to 5 s"] = take_turns(short, ours, theirs)
        if asked.hours:
            for name, hours in (("a minute", 1 / 60), (f"{asked.hours:g} h", asked.hours)):
                long_file(folder / "long.flac", hours)
                megabytes, seconds = peak(folder / "long.flac", folder / f"{name}.npz")
                figures[f"{name}: peak MB"], figures[f"{name}: seconds"] = megabytes, seconds
    figures["load at the end"] = os.getloadavg()[0]
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
