"""Train: a small model learns the pretext task before the visitor's eyes."""

import base64
import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ssast_lab import audio, figures
from ssast_lab.analysis import Reconstruction
from ssast_lab.app import uploads
from ssast_lab.app.sources import Model
from ssast_lab.app.stage import STATIC
from ssast_lab.app.state import Common, Seen, Wish
from ssast_lab.app.trainings import STEPS, Plan, Training, TrainingError
from ssast_lab.app.views.reconstruction import sixteen_bits
from ssast_lab.app.views.view import Answer, Asked, Refusal, View
from ssast_lab.config import AudioConfig
from ssast_lab.learning.diagnosis import diagnose
from ssast_lab.learning.run import RunError
from ssast_lab.stage import levels, text

MEASURED = ("loss", "nce", "mse", "accuracy")
POINTS = 240  # of a curve
SMOOTHED = 20  # parts of it, over each of which a running mean goes
BUILTIN = "the built-in sounds"


def look(seen: Seen, asked: Asked, common: Common) -> Answer:
    """The visitor's training, after what is to be done with it. All that can be asked for may be asked again: of each later
    picture, too."""
    answer: Answer = {"choices": {"steps": STEPS}, "reference": reference()}
    try:
        training = common.trainings.find(asked.get("training"))
        if asked.get("do") == "start" and not training:
            training = started(asked, common)
        elif asked.get("do") == "stop" and training:
            training.stop()
        elif asked.get("do") == "go on" and training and training.state in ("stopped", "failed"):
            common.trainings.check_room()
            training.start()
    except (TrainingError, uploads.UploadError) as error:
        return answer | {"state": "none", "trouble": str(error)}
    except OSError as error:
        return answer | {"state": "none", "trouble": f"The machine has no room for this: {error.strerror}."}
    if not training:
        return answer | {"state": "none"}
    answer |= described(training)
    if asked.get("hear") is True:
        answer["sounds"] = heard(training)
    if asked.get("keep") is True:
        answer["kept"] = packed(training)
    return answer


def started(asked: Asked, common: Common) -> Training:
    kind = "frame" if asked.get("kind") == "frame" else "patch"
    steps = asked.get("steps")
    steps = steps if steps in STEPS else STEPS[0]
    given = uploads.sounds(asked.get("files"))
    sounds = [waveform for _, waveform in given] if given else [
        audio.load_waveform(entry["path"]) for entry in audio.builtin_sounds().values()
    ]  # fmt: skip
    source = BUILTIN if not given else given[0][0] if len(given) == 1 else f"{len(given)} sounds"
    return common.trainings.start(asked.get("training"), Plan(kind, int(steps), source), sounds)


def described(training: Training) -> Answer:
    lines, plan = training.lines(), training.plan
    left, state = training.seconds_left(), training.state
    return {
        "state": state, "step": lines[-1]["step"] if lines else 0, "steps": plan.steps, "kind": plan.kind, "source": plan.source,
        "builtin": plan.source == BUILTIN, "masked": plan.masked, "seconds_left": left,
        "trouble": training.complaint() if state == "failed" else "",
        "diagnosis": vars(diagnose(lines, plan.masked)), "curves": thinned(lines), "held_out": held_out(lines),
        "sample": sampled(training), "command": " ".join(shown(training)),
    }  # fmt: skip


def shown(training: Training) -> list[str]:
    """The command without the places of this machine."""
    words = training.plan.command(training.folder)
    return ["ssast-lab", *(word.replace(f"{training.folder}/", "") for word in words)]


def thinned(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Running means, in which a trend shows, and of at most so many points that a long run draws as quickly as a short one."""
    if not lines:
        return {name: [] for name in ("step", *MEASURED)}
    parts = np.array_split(np.arange(len(lines)), min(len(lines), POINTS))
    columns = {name: figures.smoothed(np.array([line[name] for line in lines], float), SMOOTHED) for name in MEASURED}
    columns["step"] = np.array([line["step"] for line in lines], float)
    return {name: [round(float(values[part].mean()), 5) for part in parts] for name, values in columns.items()}


def held_out(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    found = [line for line in lines if "held_out_loss" in line]
    return {"step": [line["step"] for line in found]} | {
        name: [line[f"held_out_{name}"] for line in found] for name in MEASURED
    }


@lru_cache(maxsize=1)
def reference() -> Answer:
    """Held-out curves of the same recipe on the built-in sounds, for each kind, of 300 steps: on so little sound more are learned by heart."""
    return json.loads((STATIC / "reference.json").read_text(encoding="utf-8"))


def record_of(arrays: Mapping[str, np.ndarray], training: Training) -> Reconstruction:
    grid = replace(training.plan.grid, frames=len(arrays["original"]))  # a clip may be shorter than a window
    nan = math.nan
    nowhere = np.full(grid.count, nan, np.float32)
    return Reconstruction(
        grid, 0.0, arrays["original"], arrays["mask"], arrays["reconstruction"], nowhere, np.full(grid.count, -1), nan, nan, nan, nan,
    )  # fmt: skip


def sampled(training: Training) -> Answer | None:
    """One held-out clip: in the steps of levels of which the stage makes its pictures."""
    found = training.sample()
    if not found:
        return None
    step, arrays = found
    record, config = record_of(arrays, training), AudioConfig()
    return {
        "step": step, "frames": len(record.original), "bins": record.grid.mel_bins, "shape": record.grid.shape,
        "columns": record.grid.columns, "mask": text(record.mask.astype("u1")),
        "original": levels(record, record.original, config), "reconstructed": levels(record, record.reconstruction, config),
        "mse": float(np.mean((record.error[np.abs(record.error) > 0]) ** 2)) if np.abs(record.error).max() > 0 else 0.0,
    }  # fmt: skip


def heard(training: Training) -> Answer | None:
    """That clip and what was drawn of it, both made audible in the same way."""
    found = training.sample()
    if not found:
        return None
    step, arrays = found
    pair = torch.from_numpy(np.stack([arrays["original"], arrays["reconstruction"]]))
    waves = audio.invert(pair, AudioConfig()).numpy()
    return {"step": step} | {
        name: sixteen_bits(wave) for name, wave in zip(("original", "reconstructed"), waves, strict=True)
    }


def packed(training: Training) -> Answer:
    """The best model so far as a zip for the visitor's own disk."""
    try:
        step, folder = training.keep("My training")
    except TrainingError as error:
        return {"trouble": str(error)}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"my-training-{step}/{path.name}")
    return {"name": f"my-training-{step}.zip", "zip": base64.b64encode(content.getvalue()).decode()}


def act(asked: Asked, common: Common) -> Wish:
    """Has the stage use the model as it is now."""
    name = asked.get("training")
    training = common.trainings.find(name)
    if not training:
        raise Refusal("This training is no longer here: the server was started anew, or others took its place.")
    try:
        step, folder = training.keep("My training")
    except (TrainingError, RunError) as error:
        raise Refusal(str(error)) from None
    about = f"A nano model, pretrained here for {step} steps on {training.plan.source}."
    common.models[f"{name}-{step}"] = Model(
        folder, training.plan.kind, f"My training, step {step}", about, public=False
    )
    return Wish(model=f"{name}-{step}")


CODE = """
recipe = ssast_lab.config.pretrain_config("quick-nano-patch-400", train="your recordings")
print(f"{recipe.training.steps} steps of {recipe.training.batch} clips")
# for step in ssast_lab.pretrain(recipe, progress=True): step.loss, step.evaluation
"""

VIEW = View(
    name="train",
    title="Train",
    hint="Does it learn? InfoNCE and MSE should fall, below guessing and towards the reference; the held-out sound shows it.",
    look=look,
    shared=True,
    act=act,
    code=CODE,
)
