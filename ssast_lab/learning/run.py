"""A training run's folder: its configuration, what it did, and the checkpoints from which it can go on.

    config.json        what is computed; only the same configuration can resume the run
    environment.json   versions, machine and command, one entry each time it was started
    metrics.jsonl      a line for every step
    clips.json         which clips it was started with, to see whether they are the same when it goes on
    unreadable.tsv     clips that could not be read, and why
    noticed.tsv        clips that were read, but are damaged, shorter than they say, or otherwise not what they seem
    checkpoints/step-00000500/{model/, training.pt}
    best.json          which of them has the lowest held-out loss, or the highest figure of the held-out clips that it names
    samples/           reconstructions of the same held-out clips, at every evaluation
    lock               the number of the process that trains, which holds it while it lives

Files are written under another name and then renamed, so that a run that is killed at any moment leaves no partial ones.
"""

import errno
import io
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from ssast_lab import analysis, checkpoint, files
from ssast_lab.config import renamed
from ssast_lab.learning import heard, provenance

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

PLACES = ("data.train", "data.valid", "data.test", "data.labels", "data.held_out", "clips.train", "clips.held_out")
_ADVICE = {
    errno.ENOSPC: "make room",
    getattr(errno, "EDQUOT", errno.ENOSPC): "make room",  # there is none on Windows
    errno.EACCES: "make it writable for whoever trains",
    errno.EPERM: "make it writable for whoever trains",
    errno.EROFS: "make its file system writable",
    errno.EEXIST: "move away what lies there",
    errno.ENOTDIR: "move away what lies there",
}
_OLDER_KEYS = {"lesson": "task"}  # of training.pt in runs that were written earlier


class RunError(RuntimeError):
    """A run that cannot start or go on: the message says why and what to do."""


class Run:
    """The folder of one training run. Only the main process writes into it."""

    def __init__(self, path: str | os.PathLike[str], keep: int = 2, pinned: int = 0) -> None:
        """Keeps the last ``keep`` checkpoints, the best one, and that of the step ``pinned``."""
        self.path, self.keep, self.pinned = Path(path), keep, pinned
        self._lock: TextIO | None = None

    def lock(self) -> None:
        """Keeps other processes from training in this folder, until :meth:`unlock` or this one's end, however it comes.
        :class:`RunError` where one does already."""
        if fcntl is None:
            return
        with self.writing():
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / "lock").open("a+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            number = file.read().strip() or "unknown"
            file.close()
            raise RunError(
                f"The run in {self.path} is going on (process {number}): wait for its end, or stop it."
            ) from None
        except OSError:  # a file system without locks
            file.close()
            return
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._lock = file

    def unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def open(
        self,
        config: dict[str, Any],
        resume: bool,
        stable_steps: Callable[[int], int] = lambda steps: 0,
        verdict: heard.Verdict | None = None,
    ) -> int:
        """The step to go on from: 0 for a new run. Writes nothing, so that all processes of a run come to the same answer;
        then one of them calls :meth:`begin`.

        ``stable_steps`` says how many steps of a run of a given length are the same in a longer one. A run whose length is
        changed goes on from its last checkpoint among these. ``verdict`` says what has become of its clips: where they are the
        same they may lie in another place now. A run that ended before its first step is begun anew, whatever its configuration.
        Raises :class:`RunError` where the folder holds another run."""
        settings = self.path / "config.json"
        if not settings.exists():
            if self.checkpoints():
                raise RunError(
                    f"{self.path} has checkpoints but no {settings.name} to go with them: choose another folder."
                )
            return 0
        if not self.worked():
            return 0
        if not resume:
            raise RunError(
                f"There is a run in {self.path} already: resume it (--run.resume), or choose another folder (--run.folder)."
            )
        before = renamed(_read(settings, "put it back, or choose another folder"))
        differences = dict(_differences(before, json.loads(files.to_json(config))))
        if verdict and not verdict.changed:
            for name in PLACES:
                differences.pop(name, None)
        length = differences.pop("training.steps", None)
        if verdict and verdict.changed and not differences:
            raise RunError(
                f"The run in {self.path} cannot go on: {verdict.changed} Put them back, or delete {self.path / heard.FILE} to go "
                "on with them as they are."
            )
        if length and not differences:
            return self._prolonged(before["training"]["steps"], config["training"]["steps"], stable_steps)
        if length or differences:
            changes = "; ".join([*differences.values(), *([length] if length else [])])
            why = f" {verdict.changed}" if verdict and verdict.changed and differences.keys() <= set(PLACES) else ""
            raise RunError(f"The run in {self.path} was started with another configuration: {changes}.{why}")
        return max(self.checkpoints(), default=0)

    def worked(self) -> bool:
        """Whether a step was done, so that there is something to keep."""
        return bool(self.checkpoints() or self.metrics())

    def _prolonged(self, before: int, now: int, stable_steps: Callable[[int], int]) -> int:
        """The checkpoint to go on from when a run of ``before`` steps becomes one of ``now``."""
        if not stable_steps(before):
            raise RunError(
                f"The run in {self.path} was started for {before} steps and cannot go on to {now}: its learning rate depends "
                'on their number from the first step on. Only a run with the schedule "wsd" can be prolonged.'
            )
        last = min(stable_steps(before), stable_steps(now))
        usable = [step for step in self.checkpoints() if step <= last]
        if not usable:
            raise RunError(
                f"The run in {self.path} was started for {before} steps. To become one of {now} it would go on from a "
                f"checkpoint at or before step {last}, where its learning rate begins to fall, and none is left."
            )
        return max(usable)

    def clips(self) -> dict[str, Any] | None:
        """What :mod:`ssast_lab.learning.heard` kept of the clips; None in runs that were written earlier."""
        path = self.path / heard.FILE
        kept = _read(path) if path.exists() else None
        if path.exists() and not (isinstance(kept, dict) and isinstance(kept.get("sets"), dict)):
            raise RunError(f"{path} is damaged (it holds no sets of clips): delete it and resume.")
        return kept

    def begin(
        self, config: dict[str, Any], start: int, clips: dict[str, Any] | None = None, mended: Sequence[str] = ()
    ) -> None:
        """Makes the folder ready to go on from a step: removes what a kill left, and what was written after that step.
        ``mended`` are clips that are readable now."""
        with self.writing():
            self.path.mkdir(parents=True, exist_ok=True)
            for partial in list(self.path.glob("**/.writing-*")):
                shutil.rmtree(partial, ignore_errors=True) if partial.is_dir() else partial.unlink(missing_ok=True)
            if not self.worked():  # its clips are read again, and may be others
                for list_ in ("unreadable.tsv", "noticed.tsv"):
                    (self.path / list_).unlink(missing_ok=True)
            self._forget_after(start, mended)
            best = self.best()
            if best and best["step"] > start:
                (self.path / "best.json").unlink()
            environment = self.path / "environment.json"
            starts = _read(environment) if environment.exists() else []
            files.write(environment, files.to_json([*starts, provenance.environment(start)], indent=1))
            if clips is not None:
                files.write(self.path / heard.FILE, files.to_json(clips))
            files.write(self.path / "config.json", files.to_json(config, indent=1))
            if start:  # the run may have been killed after writing a checkpoint and before noting that it is the best
                with self.reading(start) as folder:
                    about = checkpoint.describe(folder / "model")["about"]
                name = about.get("chosen_by")
                self._note_best(start, about.get("held_out_loss"), (name, about[f"held_out_{name}"]) if name else None)

    def checkpoints(self) -> dict[int, Path]:
        """Step -> folder, in order; folders with other names are ignored."""
        return {int(path.name[5:]): path for path in checkpoint.checkpoints_of(self.path).values()}

    def save(
        self,
        step: int,
        model: Any,
        training: Mapping[str, Any],
        about: dict[str, Any],
        loss: float | None,
        figure: tuple[str, float] | None = None,
    ) -> None:
        """Writes a checkpoint of model and training state. The one with the lowest ``loss``, on held-out clips, is the best; or
        where a ``figure`` of them is given by name, the one where that is highest, and among equals the loss lowest."""
        about = about | {"held_out_loss": loss}
        if figure and loss is not None:
            about |= {f"held_out_{figure[0]}": figure[1], "chosen_by": figure[0]}
        folder = self.path / "checkpoints"
        target = folder / f"step-{step:08d}"
        with self.writing():
            partial = folder / f".writing-{target.name}"
            try:
                checkpoint.save(model, partial / "model", about=about)
                state = io.BytesIO()  # if torch.save wrote the file itself, a full disk would not raise an OSError
                torch.save(dict(training), state)
                (partial / "training.pt").write_bytes(state.getvalue())
                partial.rename(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            self._note_best(step, loss, figure)
            best = self.best()
            kept = [*[*self.checkpoints()][-self.keep :], self.pinned]
            for other, path in self.checkpoints().items():
                if other not in kept and (best is None or other != best["step"]):
                    shutil.rmtree(path.rename(folder / f".writing-{path.name}"))

    def _note_best(self, step: int, loss: float | None, figure: tuple[str, float | None] | None = None) -> None:
        if not all(value is not None and math.isfinite(value) for value in (loss, figure[1] if figure else 0)):
            return
        best = self.best()
        now: dict[str, Any] = {"step": step, "loss": loss}
        now |= {"by": figure[0], "value": figure[1]} if figure else {}
        if best and figure and "by" not in best:  # of a run begun when 1 - the figure was written in the loss's place
            best = {"value": 1 - best["loss"], "loss": math.inf}
        if best is None or (now.get("value", 0), -now["loss"]) > (best.get("value", 0), -best["loss"]):
            files.write(self.path / "best.json", files.to_json(now))

    def best(self) -> dict[str, Any] | None:
        """The step with the lowest held-out loss, and that loss; where checkpoints are chosen "by" a figure, its step, loss and the
        figure's "value". None before the first evaluation."""
        path = self.path / "best.json"
        best = _read(path) if path.exists() else None
        if path.exists() and not (
            isinstance(best, dict) and isinstance(best.get("step"), int) and isinstance(best.get("loss"), int | float)
        ):
            raise RunError(f"{path} is damaged (it holds no step and loss): delete it and resume.")
        return best

    def read_weights(self, step: int) -> dict[str, torch.Tensor]:
        with self.reading(step) as folder:
            return checkpoint.load(folder / "model").state_dict()

    def read_training(self, step: int) -> dict[str, Any]:
        """The state of optimiser, learning rate and task."""
        with self.reading(step) as folder:
            state = torch.load(folder / "training.pt", map_location="cpu", weights_only=True)
            return {_OLDER_KEYS.get(name, name): value for name, value in state.items()}

    @contextmanager
    def reading(self, step: int) -> Iterator[Path]:
        """Its folder, within which every error is said of the checkpoint."""
        folder = self.checkpoints()[step]
        try:
            yield folder
        except RunError:
            raise
        except Exception as error:  # on a damaged file torch raises nearly any exception, with many lines of text
            readable = isinstance(error, checkpoint.CheckpointError)
            why = str(error).rstrip(".") if readable else f"training.pt: {type(error).__name__}"
            raise RunError(f"The checkpoint of step {step} is damaged ({why}): delete {folder} and resume, from the "
                           "checkpoint before it.") from None  # fmt: skip

    def export(self, out: str | os.PathLike[str], about: Mapping[str, Any], **target: Any) -> Path:
        """Writes the best checkpoint (or the last) into a folder of its own, with ``about`` and a description of its training:
        recipe, corpus, commit, and the evaluations on held-out clips. ``target`` is what :func:`ssast_lab.checkpoint.export`
        takes; by default the folder is ours, in float16."""
        if Path(out).exists():
            raise RunError(f"{out} is there already: choose another folder.")
        model, known = self.described()
        with self.writing():
            settings: dict[str, Any] = {"to": "ours"} | target
            return checkpoint.export(model, out, about=dict(about) | known, **settings).path

    def described(self) -> tuple[checkpoint.Model, dict[str, Any]]:
        """The model of the best checkpoint (or the last), and what is known of it and its training."""
        steps = self.checkpoints()
        if not steps:
            raise RunError(f"The run in {self.path} has written no checkpoint yet.")
        best = self.best()
        step = best["step"] if best and best["step"] in steps else max(steps)
        recipe, starts = _read(self.path / "config.json"), _read(self.path / "environment.json")
        curves = [
            {"step": line["step"]}
            | {n.removeprefix("held_out_"): v for n, v in line.items() if n.startswith("held_out_")}
            for line in self.metrics()
            if any(name.startswith("held_out_") for name in line)
        ]
        trained = recipe.get("data", {}).get("train", ())
        known = {
            "steps": step,
            "clips": step * recipe["training"]["batch"],
            "held_out": next((line for line in curves if line["step"] == step), None),
            "corpus": _corpora(trained),
            "recipe": {name: part for name, part in recipe.items() if name != "model" or isinstance(part, str)},
            **{name: starts[-1].get(name) for name in ("commit", "device", "torch")},
            "curves": curves,
            "learned": provenance.learned(self.metrics(), recipe["training"]["batch"]),
        }
        if (self.path / "report.json").is_file():
            known["report"] = [
                {name: part for name, part in judged.items() if name not in ("classes", "confusion")}
                for judged in _read(self.path / "report.json")
            ]
        model = checkpoint.load(steps[step] / "model")
        mark = analysis.fingerprint(model)
        known |= {"fingerprint": asdict(mark)} if mark else {}
        said = checkpoint.describe(steps[step] / "model")["about"]
        known |= {name: said[name] for name in ("loss",) if name in said}  # of a classifier
        return model, known

    def log(self, line: Mapping[str, Any]) -> None:
        with self.writing(), (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(files.to_json(line) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, in which null is NaN; a last one that was cut short by a kill is left out."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        text = path.read_text(encoding="utf-8", errors="replace")
        lines = [_parsed(line, path) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        for number, line in enumerate(lines, 1):
            if not (isinstance(line, dict) and isinstance(line.get("step"), int)):
                raise RunError(f"{path} is damaged (line {number} tells no step): delete it and resume.")
        return [{name: math.nan if value is None else value for name, value in line.items()} for line in lines]

    def keep_sample(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        path = self.path / "samples" / f"step-{step:08d}.npz"
        with self.writing():
            content = io.BytesIO()
            np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
            files.write(path, content.getvalue())

    def unreadable(self) -> dict[str, str]:
        return self._said("unreadable.tsv")

    def noticed(self) -> dict[str, str]:
        return self._said("noticed.tsv")

    def _said(self, list_: str) -> dict[str, str]:
        path = self.path / list_
        text = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
        return dict(line.rsplit("\t", 1) for line in text.split("\n")[:-1] if "\t" in line)

    def note(self, unreadable: Mapping[str, str], noticed: Mapping[str, str]) -> None:
        """Adds clips (name -> why) to the two lists. Names that are not valid UTF-8 are written byte for byte."""
        for name, clips in (("unreadable.tsv", unreadable), ("noticed.tsv", noticed)):
            if clips:
                with self.writing(), (self.path / name).open("a", encoding="utf-8", errors="surrogateescape") as file:
                    file.write(_table(clips))

    @contextmanager
    def writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            last = max(self.checkpoints(), default=None)
            intact = "No checkpoint had been written" if last is None else f"The checkpoint of step {last} is intact"
            raise RunError(f"The run in {self.path} cannot be written: {error.strerror or error}. {intact}; "
                           f"{_ADVICE.get(error.errno or 0, 'see to that')} and resume.") from None  # fmt: skip

    def _forget_after(self, step: int, mended: Sequence[str] = ()) -> None:
        """Drops what was logged after the step that a resumed run goes on from: it will be logged again."""
        lines = [files.to_json(line) + "\n" for line in self.metrics() if line["step"] <= step]
        files.write(self.path / "metrics.jsonl", "".join(lines))
        unreadable = {name: why for name, why in self.unreadable().items() if name not in mended}
        files.write(self.path / "unreadable.tsv", _table(unreadable))  # without a partial last line
        if self.noticed():
            files.write(self.path / "noticed.tsv", _table(self.noticed()))
        for path in (self.path / "samples").glob("step-*.npz"):
            if int(path.stem[5:]) > step:
                path.unlink()
        for later, path in self.checkpoints().items():  # of the end of a run that is prolonged
            if later > step:
                shutil.rmtree(path.rename(path.parent / f".writing-{path.name}"))


def _read(path: Path, advice: str = "delete it and resume") -> Any:
    return _parsed(path.read_text(encoding="utf-8", errors="replace"), path, advice)


def _parsed(text: str, path: Path, advice: str = "delete it and resume") -> Any:
    """JSON. A kill leaves no damaged file, but a power cut may."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}): {advice}.") from None


def _table(clips: Mapping[str, str]) -> str:
    return "".join(f"{name}\t{' '.join(why.split())}\n" for name, why in clips.items())


def _differences(old: Any, new: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """(name of the field, how it differs), for every field that does."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(name), new.get(name), f"{where}.{name}".lstrip("."))
    elif old != new:
        yield where, f"{where} was {old!r} and is now {new!r}"


def _corpora(sources: Any) -> list[dict[str, Any]]:
    """What the manifests of ``ssast-lab data corpus`` say of the corpora that a run's training sounds are from."""
    corpora = {}
    for source in (sources,) if isinstance(sources, str) else sources:
        path = Path(source).absolute().parent / "manifest.json"
        if path.is_file():
            manifest = _read(path)
            corpora[path] = {name: manifest.get(name) for name in ("size", "sha256", "hours", "clips")}
    return [*corpora.values()]
