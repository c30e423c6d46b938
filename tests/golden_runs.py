"""The small runs behind the figures in tests/golden/runs.json: every task, optimiser and schedule, a few steps each.

``python tests/golden_runs.py FOLDER`` makes the runs in a folder and prints their figures as JSON. To be recorded anew only
where a run is meant to change.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch
from tiny import RATE, here, tiny, write_clips

from ssast_lab import checkpoint
from ssast_lab.config import DataConfig, FineTuneConfig, LabelledConfig, MaskConfig, ModelConfig, TuningConfig
from ssast_lab.learning.classify import fine_tune
from ssast_lab.learning.forecast import ForecastConfig, ForecastTraining, forecast
from ssast_lab.learning.pretrain import pretrain
from ssast_lab.learning.run import Run
from ssast_lab.model import SSAST
from ssast_lab.predictive import APCConfig, Wav2VecConfig

FIGURES = Path(__file__).parent / "golden" / "runs.json"
NOT_COMPARED = (
    "clips_per_second",
    "seconds",
    "accuracy",
    "held_out_accuracy",
)  # the latter two jump where rounding differs


def corpus(folder: Path) -> dict[str, tuple[str, ...]]:
    """Eight sounds and a file that cannot be read, and three others that are held out."""
    write_clips(folder / "clips", 8)
    write_clips(folder / "held out", 3)
    (folder / "clips" / "broken.wav").touch()
    return {"train": (str(folder / "clips"),), "held_out": (str(folder / "held out"),)}


def patch(folder: Path) -> None:
    config = tiny(data=corpus(folder), steps=6, learning_rate=1e-3, warmup=2, evaluate_every=3)
    for _ in pretrain(config, here(folder / "run", micro_batch=2)):
        pass


def frame(folder: Path) -> None:
    """As the official code trains: its softmax, start, Adam, plateau and padding."""
    config = tiny(
        data=corpus(folder), model=dict(patch=(128, 2), stride=(128, 2)), steps=6, learning_rate=1e-3, optimizer="adam",
        schedule="plateau", patience=0, warmup=2, warmup_every=2, evaluate_every=1, clip_norm=None,
        start="official", softmax_over="predictions",
        pack=False,
    )  # fmt: skip
    for _ in pretrain(replace(config, mask=MaskConfig(12, None)), here(folder / "run")):
        pass


def sampled(folder: Path) -> None:
    """With Muon, a schedule that can be prolonged, and samples of a number of hidden patches that is drawn."""
    config = tiny(data=corpus(folder), steps=8, learning_rate=5e-5, warmup=2, optimizer="muon", schedule="wsd", cooldown=0.5,
                  sampled=4, settle=0.25, evaluate_every=4)  # fmt: skip
    for _ in pretrain(replace(config, mask=MaskConfig(12, (2, 3), fewest=6)), here(folder / "run", in_memory=True)):
        pass


def tuned(folder: Path) -> None:
    """Fine-tuning with all that varies the sounds, from a random model."""
    random, rows = np.random.default_rng(0), ["path,label,source,fold"]
    for number in range(24):
        fold = ("train", "train", "train", "valid", "test", "test")[number % 6]
        label, pitch = (("low", 200), ("high", 3000))[number // 6 % 2]
        t = np.arange(round(random.uniform(0.3, 0.9) * RATE)) / RATE
        tone = 0.3 * np.sin(2 * np.pi * pitch * t) + 0.01 * random.standard_normal(len(t))
        soundfile.write(folder / f"{number}.wav", tone, RATE, subtype="PCM_16")
        rows.append(f"{number}.wav,{label},{number},{fold}")
    (folder / "task.csv").write_text("\n".join(rows) + "\n")
    torch.manual_seed(3)
    model = checkpoint.save(SSAST(ModelConfig(width=32, depth=2, heads=2, frames=64)), folder / "model")
    training = TuningConfig(
        batch=4, learning_rate=1e-3, warmup=2, epochs=3, schedule="decay", decay_from=1, head_rate=2.0, mixup=0.5,
        frequency_mask=12, time_mask=8, noise=True, balanced=True, average_from=2,
    )  # fmt: skip
    for _ in fine_tune(
        FineTuneConfig(str(model), data=LabelledConfig(str(folder)), training=training), here(folder / "run")
    ):
        pass


def predictive(model: APCConfig | Wav2VecConfig) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        training = ForecastTraining(steps=5, batch=4, learning_rate=1e-3, warmup=2, evaluate_every=2)
        config = ForecastConfig(model, DataConfig(**corpus(folder)), training)
        for _ in forecast(config, here(folder / "run")):
            pass

    return run


RUNS: dict[str, Callable[[Path], None]] = {
    "patch": patch,
    "frame": frame,
    "sampled": sampled,
    "tuned": tuned,
    "apc": predictive(APCConfig(width=24, depth=2, ahead=3, frames=48)),
    "wav2vec": predictive(Wav2VecConfig(channels=16, depth=2, ahead=4, negatives=5, frames=48)),
}


def figures(name: str, folder: Path) -> list[dict[str, float]]:
    """A line for every step, and one for the weights at the end."""
    folder.mkdir()
    RUNS[name](folder)
    run = Run(folder / "run")
    lines = [{key: value for key, value in line.items() if key not in NOT_COMPARED} for line in run.metrics()]
    weights = run.read_weights(max(run.checkpoints())).values()
    return [*lines, {"squares": sum(float(value.double().square().sum()) for value in weights)}]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({name: figures(name, Path(sys.argv[1]) / name) for name in RUNS}, indent=1))
