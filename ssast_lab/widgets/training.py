"""A training run, live: curves, and one held-out reconstruction with its sound as it improves."""

import html
import json
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as controls
import torch
from IPython.display import display

from ssast_lab import audio, checkpoint, figures, stage
from ssast_lab.analysis import Reconstruction
from ssast_lab.config import PretrainConfig, RunConfig
from ssast_lab.learning.pretrain import Evaluation, pretrain
from ssast_lab.learning.run import Run
from ssast_lab.learning.task import StepResult
from ssast_lab.widgets.stage import still_only

Step = StepResult[Evaluation]
Reference = Sequence[dict[str, Any]]  # lines of a run's metrics.jsonl
NAMES = ("nce", "accuracy", "mse")
EVERY = 1.0  # seconds from one picture to the next


class Curves:
    """What is known of a run so far, and how it is shown: as HTML of some 100 kB."""

    def __init__(self, reference: Reference | None = None) -> None:
        self.trained: dict[str, list[float]] = {name: [] for name in ("step", *NAMES)}
        self.held_out: dict[str, list[float]] = {name: [] for name in ("step", *NAMES)}
        self.reference = evaluations(reference) if reference else None
        self.chance: float | None = None
        self.record: Reconstruction | None = None
        self._picture = ""

    def add(self, step: Step) -> None:
        for name in ("step", *NAMES):
            self.trained[name].append(getattr(step, name))
        if step.evaluation:
            self.chance = 1 / step.evaluation.masked
            self.held_out["step"].append(step.step)
            for name in NAMES:
                self.held_out[name].append(getattr(step.evaluation, name))
        if step.reconstructions:
            self.record = step.reconstructions[0]
            title = f"A held-out clip after {step.step} steps"
            sound = stage.player(
                audio.invert(torch.from_numpy(self.record.reconstruction), self.record.audio),
                "drawn by the model",
                self.record.audio.sample_rate,
            )
            self._picture = f"<p><b>{title}</b>: {html.escape(stage.summary(self.record))}</p>{stage.picture_html(stage.picture_of(self.record), title)}<div>{sound}</div>"

    def html(self) -> str:
        return figures.curves_svg(self.trained, self.held_out, self.chance, self.reference) + self._picture


def evaluations(lines: Reference) -> dict[str, list[float]]:
    """ "step", "nce", "accuracy" and "mse" of the lines that have been measured on held-out clips."""
    measured = [line for line in lines if "held_out_mse" in line]
    named = {name: [line[f"held_out_{name}"] for line in measured] for name in NAMES}
    return {"step": [line["step"] for line in measured]} | named


def watch(steps: Iterable[Step], every: float = EVERY, reference: Reference | None = None) -> Iterator[Step]:
    """Hands every step on, and meanwhile draws the curves, and one reconstruction as it improves, in one output below the cell.

    It is drawn anew when ``every`` seconds have passed and after each evaluation. To stop, interrupt the kernel: the run ends
    with a checkpoint. ``reference``, the metrics of another run, is drawn in grey.
    """
    shown, drawn = Curves(reference), time.monotonic()
    handle = display(_Html(shown.html()), display_id=True)
    try:
        for step in steps:
            shown.add(step)
            if time.monotonic() - drawn > every or step.evaluation:
                handle.update(_Html(shown.html()))
                drawn = time.monotonic()
            yield step
    finally:
        handle.update(_Html(shown.html()))


class _Html:
    def __init__(self, text: str) -> None:
        self.text = text

    def _repr_html_(self) -> str:
        return self.text


class Training(controls.VBox):
    """A pretraining run in the background, with buttons: it can be stopped, goes on where it was, and what it has learned can be
    kept. ``steps`` holds what was done, :meth:`wait` waits until it has stopped, and an error in it is raised there."""

    def __init__(self, config: PretrainConfig, run: RunConfig, reference: Reference | None = None) -> None:
        self.config, self.run, self.steps = config, run, 0
        self.shown = Curves(reference)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._handle: Any = None
        self._picture = controls.HTML(self.shown.html())
        self._line = controls.HTML()
        self._start = _button("Start", "play", self.start)
        self._halt = _button("Stop", "stop", self.stop)
        self._keep = _button("Keep", "save", lambda: self.keep())
        super().__init__([controls.HBox([self._start, self._halt, self._keep, self._line]), self._picture])
        self._say("not started")

    # ---- what the buttons do ----

    def start(self) -> "Training":
        """Begins, or goes on from the last checkpoint."""
        if not self.running:
            self._stop.clear()
            self._thread = threading.Thread(target=self._train, daemon=True)
            self._thread.start()
        return self

    def stop(self) -> "Training":
        """Ends the run after the step that it is at, with a checkpoint."""
        self._stop.set()
        return self

    def wait(self) -> "Training":
        if self._thread:
            self._thread.join()
        if self._error:
            raise self._error
        if self._handle:
            self._handle.update(self._bundle(), raw=True)
        return self

    def keep(self, folder: str | Path | None = None) -> Path:
        """Copies the best checkpoint so far to a folder, which :func:`ssast_lab.load` reads."""
        out = Path(folder or f"{self.run.folder}-kept-at-{self.steps}")
        model = checkpoint.load(self.run.folder)
        checkpoint.save(model, out, {"title": out.name, "note": f"Kept after {self.steps} steps."})
        self._say(f"kept in {out}")
        return out

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    # ---- what happens meanwhile ----

    def _train(self) -> None:
        self._error = None
        drawn = 0.0
        try:
            begun = bool(Run(self.run.folder).checkpoints())
            for step in pretrain(self.config, replace(self.run, resume=begun)):
                self.shown.add(step)
                self.steps = step.step
                if time.monotonic() - drawn > EVERY or step.evaluation:
                    self._picture.value, drawn = self.shown.html(), time.monotonic()
                    self._say(
                        f"step {step.step} of {self.config.training.steps}, {step.clips_per_second:.0f} clips a second"
                    )
                if self._stop.is_set():
                    break
        except Exception as error:
            self._error = error
        finally:
            self._picture.value = self.shown.html()
            ended = "finished" if self.steps >= self.config.training.steps else "stopped"
            self._say(str(self._error) if self._error else f"{ended} after {self.steps} steps", over=True)

    def _say(self, words: str, over: bool = False) -> None:
        running = self.running and not over
        finished = self.steps >= self.config.training.steps
        self._start.description = "Go on" if self.steps else "Start"
        self._start.disabled, self._halt.disabled = running or finished, not running
        self._keep.disabled = running or not self.steps
        self._line.value = f"<span class='training-line'>{html.escape(words)}</span>"

    # ---- in the notebook ----

    def _ipython_display_(self) -> None:
        if still_only():
            self.wait()
        self._handle = display(self._bundle(), raw=True, display_id=True)

    def _bundle(self) -> dict[str, Any]:
        """The panel, and its picture for where no kernel runs."""
        still = {"text/plain": f"A run of {self.steps} steps", "text/html": self.shown.html()}
        return still if still_only() else super()._repr_mimebundle_() | still


def _button(words: str, icon: str, act: Any) -> controls.Button:
    button = controls.Button(description=words, icon=icon, layout=controls.Layout(width="90px"))
    button.on_click(lambda _: act())
    return button


def reference() -> Reference:
    """The evaluations of notebook 4's recipe on the built-in sounds, to hold other runs against."""
    return json.loads((Path(__file__).parent / "reference.json").read_text(encoding="utf-8"))
