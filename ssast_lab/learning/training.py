"""The loop of everything that is trained here: ``for tick in train(lesson, run)``.

A lesson says what is learned (model, data, losses, examination); this room brings it to any number of processes, writes
the run's folder, stops and resumes. Axes: B clips of the global batch. What a step computes is a function of the lesson's
configuration and the step's number. Hence a resumed run is the undisturbed run, and any number of processes with the
same global batch make the same run, up to rounding.
"""

import hashlib
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm.auto import tqdm

from ssast_lab import data
from ssast_lab.config import ConfigError, LearningConfig, RunConfig
from ssast_lab.learning.muon import Muon
from ssast_lab.learning.precision import fast_bf16
from ssast_lab.learning.run import Interrupts, Run, RunError

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "muon": Muon,
}


@dataclass(frozen=True)
class Examination:
    """What the model does with the held-out clips."""

    figures: Any  # a dataclass of numbers, written down as held_out_...
    loss: float | None  # the lower, the better the checkpoint; None where nothing may be chosen by it
    score: float  # what a plateau heeds: lower is better
    pictures: tuple[Any, ...] = ()
    samples: Mapping[str, np.ndarray] = field(default_factory=dict)  # kept in the run's folder


class Lesson(ABC):
    """What is learned, and on what. Its tensors are global: row b of whatever it draws belongs to clip b of the batch."""

    name: str
    settings: LearningConfig
    steps: int
    evaluate_every: int
    clips: Sequence[data.Clip]
    held_out: Sequence[data.Clip]
    samples: int  # S of a piece
    scaled: Mapping[str, float] = {}  # names of parameters start with -> learning rate, as a multiple

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """All that decides what is computed, as JSON."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The model as it starts, from PyTorch's global generator, which has been seeded."""

    def repeated(self, model: Any) -> Iterable[nn.Module]:
        """The blocks that a model repeats: each is compiled, where that is asked for."""
        return model.encoder.blocks

    @abstractmethod
    def plan(self, corpus: data.Corpus, rows: slice) -> data.Plan:
        """Which clips stand in which batch, of which this process takes some rows."""

    @abstractmethod
    def draw(self, step: int) -> tuple[Tensor, ...]:
        """(B, ...) each: what else is drawn for a step."""

    @abstractmethod
    def losses(self, forward: Callable[..., Any], model: Any, batch: data.Batch, drawn: Sequence[Tensor]) -> Any:
        """A NamedTuple of () means over a part of the batch; the first is what is differentiated. ``forward`` is the
        model's, in the precision of the run and with the exchange of gradients among processes. What was drawn lies on the
        CPU still; the batch lies on the device, which should not be waited for."""

    def learned(self, done: int, model: Any) -> None:  # noqa: B027
        """Takes note of the weights after so many steps."""

    def state(self) -> dict[str, Any]:
        """What it took note of, as tensors and numbers: a checkpoint keeps it."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:  # noqa: B027
        """The inverse of :meth:`state`."""

    @abstractmethod
    def exam(self, accelerator: Accelerator, micro: int) -> "Exam":
        """The held-out clips, ready to be examined on, again and again."""


class Exam(ABC):
    """The held-out clips of a lesson: the same for every examination of a run, shared among its processes."""

    unreadable: dict[str, str]  # name -> why
    clips: int

    @abstractmethod
    def take(self, forward: Callable[..., Any], model: Any) -> Examination:
        """Runs in every process, and gives every one of them the same figures; ``forward`` as in a lesson's losses."""


@dataclass(frozen=True)
class Tick:
    """What one optimiser step did; its losses are means over the global batch."""

    step: int  # steps done, from 1
    epoch: float
    losses: Any  # the lesson's NamedTuple, of floats
    gradient_norm: float
    learning_rate: float
    clips_per_second: float  # of this step, over all processes
    seconds: float  # since this process began to train
    examination: Examination | None = None


def train(lesson: Lesson, run: RunConfig, progress: bool = False) -> Generator[Tick, None, None]:
    """Learns a lesson, or goes on with a run, and yields every step.

    The run's folder holds configuration, environment, metrics, checkpoints and samples (:mod:`ssast_lab.learning.run`). Ctrl-C,
    SIGTERM, or a consumer that stops asking end it with a checkpoint; where no step was left to be spared, the end is a
    KeyboardInterrupt, so that nobody takes the finished run for leave to begin the next. Under ``accelerate launch`` or
    ``torchrun`` every process runs this same loop on its share of the batch. Raises :class:`ssast_lab.learning.run.RunError` for a
    run that cannot start or go on, and :class:`ssast_lab.data.DataError` for a corpus that cannot be used.
    """
    settings = lesson.settings
    if run.track and run.track not in {tracker.value for tracker in get_available_trackers()}:
        raise ConfigError(f"{run.track} is no tracker that is installed: install it, or do without --run.track.")
    accelerator = Accelerator(
        mixed_precision="no", log_with=run.track, project_dir=run.folder, cpu=not torch.cuda.is_available()
    )
    main = accelerator.is_main_process
    share = _share(settings.batch, accelerator.num_processes)
    rows = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)

    stable = settings.stable_steps(lesson.steps)
    folder = Run(run.folder, keep=run.keep, pinned=stable)
    # Another corpus would be another run: other batches, and held-out clips that were trained on.
    asked = lesson.config() | {"clips": {"train": _roll(lesson.clips), "held_out": _roll(lesson.held_out)}}
    start = folder.open(asked, run.resume, settings.stable_steps)
    accelerator.wait_for_everyone()
    if main:
        folder.begin(asked, start)
    accelerator.wait_for_everyone()
    corpus = _corpus(lesson.clips, lesson.samples, accelerator, run, progress and main)
    trainer = Trainer(lesson, run, accelerator)
    exam = lesson.exam(accelerator, trainer.micro)
    if start:
        trainer.restore(folder, start)
    unreadable = folder.unreadable()
    found = exam.unreadable | getattr(corpus, "unreadable", {})  # and not yet listed
    heard = len(lesson.clips) + exam.clips

    done = saved = start
    trouble: RunError | None = None
    stop = False
    began = last = time.perf_counter()
    plan = lesson.plan(corpus, rows)
    stream = data.batches(plan, range(start, lesson.steps), run.workers, pin=accelerator.device.type == "cuda")
    if run.track:
        accelerator.init_trackers(lesson.name)
    bar = tqdm(total=lesson.steps, initial=start, desc=run.folder, disable=not (progress and main))

    def write(act: Callable[..., None], *what: Any) -> None:
        """In the main process. Where that fails while others wait for the next step, all end together after it."""
        nonlocal trouble
        if main and not trouble:
            try:
                act(*what)
            except RunError as error:
                if accelerator.num_processes == 1:
                    raise
                trouble = error

    def save(loss: float | None = None) -> None:
        nonlocal saved
        if not trainer.finite():
            raise RunError(f"The weights are no finite numbers after step {done}; {_intact(saved)}. "
                           f"The clips of that step: {', '.join(gather_object(batch.names))}.")  # fmt: skip
        about = {"recipe": lesson.config(), "steps": done}
        write(folder.save, done, trainer.model, trainer.state(), about, loss)
        saved = done

    with Interrupts() as interrupted, bar, closing(stream):
        try:
            for batch in stream:
                found |= batch.unreadable
                new = {name: why for name, why in found.items() if name not in unreadable}
                losses, norm = trainer.differentiate(batch, [drawn[rows] for drawn in lesson.draw(done)])
                told = torch.stack((*losses, norm, *norm.new_tensor((len(new), bool(interrupted or trouble)))))
                *means, gradient_norm, more, stop = accelerator.reduce(told, "mean").tolist()
                if more:
                    new = {name: why for each in gather_object([new]) for name, why in each.items()}
                    unreadable |= new
                    write(folder.note_unreadable, new)
                found = {}
                if len(unreadable) > run.unreadable * heard:
                    if done > saved:
                        save()
                    raise RunError(
                        f"{len(unreadable)} of {heard} clips cannot be read, more than the share of "
                        f"{run.unreadable:g} that is allowed: they are listed in {folder.path / 'unreadable.tsv'}; "
                        "mend them and delete that list, or allow more, and resume."
                    )
                if not math.isfinite(means[0] + gradient_norm):
                    raise RunError(_diverged(done + 1, type(losses)(*means), losses, batch, saved))
                learning_rate = trainer.update(done)
                done += 1
                lesson.learned(done, trainer.model)
                now = time.perf_counter()
                examination: Examination | None = None
                if done % lesson.evaluate_every == 0 or done == lesson.steps:
                    trainer.model.eval()
                    with torch.no_grad():
                        examination = exam.take(trainer.forward(trainer.model), trainer.model)
                    trainer.rate.heed(examination.score)
                epoch, speed = done * settings.batch / len(lesson.clips), settings.batch / (now - last)
                tick = Tick(
                    done, epoch, type(losses)(*means), gradient_norm, learning_rate, speed, now - began, examination
                )
                write(_log, folder, tick, accelerator if run.track else None)
                if examination or done % run.checkpoint_every == 0 or done == stable:
                    save(examination.loss if examination else None)
                shown = {"loss": f"{means[0]:.3f}"}
                if "accuracy" in losses._fields:
                    shown["accuracy"] = f"{tick.losses.accuracy:.1%}"
                bar.set_postfix(shown, refresh=False)
                bar.update()
                yield tick
                last = time.perf_counter()
                if stop:
                    break
        except GeneratorExit:
            if done > saved:
                save()
            raise
        if done > saved:
            save()
    accelerator.wait_for_everyone()
    if trouble:
        raise trouble
    for tracker in accelerator.trackers:
        tracker.finish()
    if done == lesson.steps and (stop or interrupted):
        raise KeyboardInterrupt


class LearningRate:
    """The learning rate of each step: a linear warm-up, then a cosine to zero; a constant and a line to zero (Hägele et al.,
    "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations", NeurIPS 2024); halving on a plateau; or
    decay by epochs."""

    def __init__(self, settings: LearningConfig, steps: int, epoch: float = math.inf) -> None:
        """``steps`` in all, ``epoch`` steps in an epoch."""
        self.settings, self.steps, self.epoch = settings, steps, epoch
        self.best, self.waited, self.factor = math.inf, 0, 1.0

    def __call__(self, step: int) -> float:
        """Of the step that follows ``step`` steps."""
        s = self.settings
        if step < s.warmup:
            return s.learning_rate * (step // s.warmup_every * s.warmup_every) / s.warmup
        if s.schedule == "plateau":
            return s.learning_rate * self.factor
        if s.schedule == "wsd":
            return s.learning_rate * min(1.0, (self.steps - step) / max(s.cooldown * self.steps, 1))
        if s.schedule == "decay":
            past = int(step / self.epoch) - s.decay_from  # epochs since the first decayed one
            return s.learning_rate * s.decay ** (past // s.decay_every + 1 if past >= 0 else 0)
        return s.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - s.warmup) / max(self.steps - s.warmup, 1)))

    def heed(self, score: float) -> None:
        """Takes note of an evaluation (lower is better), as ``torch.optim.lr_scheduler.ReduceLROnPlateau`` does."""
        if score < self.best - 1e-4 * abs(self.best) or math.isinf(self.best):
            self.best, self.waited = score, 0
        else:
            self.waited += 1
            if self.waited > self.settings.patience:
                self.factor, self.waited = self.factor / 2, 0

    def state_dict(self) -> dict[str, float]:
        return {"best": self.best, "waited": self.waited, "factor": self.factor}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.best, self.waited, self.factor = state["best"], int(state["waited"]), state["factor"]


class Trainer:
    """Model and optimiser on the device of this process."""

    def __init__(self, lesson: Lesson, run: RunConfig, accelerator: Accelerator) -> None:
        self.lesson, self.accelerator = lesson, accelerator
        device, settings = accelerator.device, lesson.settings
        torch.manual_seed(settings.seed)
        self.model = lesson.build().to(device)
        self.optimizer = OPTIMIZERS[settings.optimizer](
            self._groups(), settings.learning_rate, settings.betas, weight_decay=settings.weight_decay, fused=True
        )
        self.rate = LearningRate(settings, lesson.steps, len(lesson.clips) / settings.batch)
        if run.compile:
            for block in lesson.repeated(self.model):
                block.compile()
        self.trained = accelerator.prepare_model(self.model)
        share = settings.batch // accelerator.num_processes
        self.micro = run.micro_batch or share
        if share % self.micro:
            raise ConfigError(f"Micro-batches of {self.micro} do not divide the {share} clips of this process.")
        bf16 = run.precision == "bf16" or (run.precision == "auto" and fast_bf16(device))
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)

    def _groups(self) -> list[dict[str, Any]]:
        """Biases, norms and tokens are spared from weight decay, but not by Adam, as the official code has it; Muon takes
        the matrices of the blocks."""
        settings = self.lesson.settings
        inner = {id(p) for block in self.lesson.repeated(self.model) for p in block.parameters() if p.ndim == 2}
        groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                scale = next((s for start, s in self.lesson.scaled.items() if name.startswith(start)), 1.0)
                decays = settings.optimizer == "adam" or (name.endswith("weight") and parameter.ndim > 1)
                orthogonal = settings.optimizer == "muon" and id(parameter) in inner
                groups.setdefault((scale, decays, orthogonal), []).append(parameter)
        return [
            {
                "params": parameters,
                "weight_decay": settings.weight_decay * decays,
                "scale": scale,
                "orthogonal": orthogonal,
            }
            for (scale, decays, orthogonal), parameters in sorted(
                groups.items(), key=lambda item: item[0], reverse=True
            )
        ]

    def restore(self, folder: Run, step: int) -> None:
        self.model.load_state_dict(folder.read_weights(step))
        state = folder.read_training(step)
        self.optimizer.load_state_dict(state["optimizer"])
        self.rate.load_state_dict(state["rate"])
        self.lesson.restore(state.get("lesson", {}))

    def state(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "rate": self.rate.state_dict(), "lesson": self.lesson.state()}

    def differentiate(self, batch: data.Batch, drawn: Sequence[Tensor]) -> tuple[Any, Tensor]:
        """This process's share of a batch -> mean losses over it, and the norm of the gradient over all processes."""
        settings, device = self.lesson.settings, self.accelerator.device
        parts = len(batch.lengths) // self.micro
        self.trained.train()
        self.optimizer.zero_grad(set_to_none=True)
        sums: list[Tensor] = []
        for part in range(parts):
            rows = slice(part * self.micro, (part + 1) * self.micro)
            piece, own = batch.part(rows).to(device), [tensor[rows] for tensor in drawn]
            waiting = self.accelerator.no_sync(self.trained) if part < parts - 1 else nullcontext()
            with waiting:
                losses = self.lesson.losses(self.forward(self.trained), self.model, piece, own)
                self.accelerator.backward(losses[0] / parts)
            sums.append(torch.stack(losses).detach() / parts)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        if settings.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), settings.clip_norm, norm)
        return type(losses)(*torch.stack(sums).sum(0)), norm

    def forward(self, model: nn.Module) -> Callable[..., Any]:
        """A model's forward in the precision of the run; what surrounds it stays in float32."""

        def within(*inputs: Tensor) -> Any:
            with self.autocast:
                return model(*inputs)

        return within

    def finite(self) -> bool:
        return all(bool(parameter.isfinite().all()) for parameter in self.model.parameters())

    def update(self, step: int) -> float:
        learning_rate = self.rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["scale"]
        self.optimizer.step()
        return learning_rate


def _share(batch: int, processes: int) -> int:
    if batch % processes:
        raise ConfigError(f"A global batch of {batch} clips cannot be shared evenly by {processes} processes.")
    return batch // processes


def _roll(clips: Sequence[data.Clip]) -> str:
    """How many clips there are, and a checksum of their names."""
    names = hashlib.sha256("\n".join(clip.name for clip in clips).encode("utf-8", "surrogateescape"))
    return f"{len(clips)} clips ({names.hexdigest()[:12]})"


def _corpus(
    clips: Sequence[data.Clip], samples: int, accelerator: Accelerator, run: RunConfig, progress: bool
) -> data.Corpus:
    held, device = run.in_memory, accelerator.device
    if held is None:  # ten times is what speech takes up when Opus is decoded; other formats take less
        free = psutil.virtual_memory().available / accelerator.num_processes
        if device.type == "cuda":
            free = min(free, torch.cuda.mem_get_info(device)[0])
        held = 10 * sum(clip.span[1] if clip.span else _size(clip.path) for clip in clips) < free / 4
        held = all(gather_object([held]))
    return data.Memory(clips, samples, device, max(run.workers, 1), progress) if held else data.Files(clips, samples)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _diverged(step: int, means: Any, losses: Any, batch: data.Batch, saved: int) -> str:
    guilty = [] if torch.stack(losses).isfinite().all() else batch.names
    names = gather_object(guilty) or gather_object(batch.names)
    values = ", ".join(f"{name} {value:g}" for name, value in means._asdict().items())
    return (
        f"The loss or its gradient is no finite number at step {step} ({values}); {_intact(saved)}. "
        f"The clips of that step: {', '.join(names)}."
    )


def _intact(saved: int) -> str:
    return f"the checkpoint of step {saved} is intact" if saved else "there was no checkpoint yet"


def _log(folder: Run, tick: Tick, tracker: Accelerator | None) -> None:
    first, *others = tick.losses._asdict().items()
    line = {
        "step": tick.step, "epoch": tick.epoch, "loss": first[1], **dict(others), "gradient_norm": tick.gradient_norm,
        "learning_rate": tick.learning_rate, "clips_per_second": tick.clips_per_second, "seconds": tick.seconds,
    }  # fmt: skip
    held_out = asdict(tick.examination.figures) if tick.examination else {}
    folder.log(line | {f"held_out_{name}": value for name, value in held_out.items()})
    if tick.examination and tick.examination.samples:
        folder.keep_sample(tick.step, tick.examination.samples)
    if tracker:
        tracker.log({name: value for name, value in line.items() if name != "step"}, step=tick.step)
