"""The loop of everything that is trained here: ``for step in train(task, run)``.

What a step computes is a function of the task's configuration and the step's number. Hence a resumed run is the
uninterrupted run bit for bit, and any number of processes with the same global batch make the same run, up to rounding.
"""

import hashlib
import logging
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace

import psutil
import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from ssast_lab import data
from ssast_lab.config import ConfigError, RunConfig, to_dict
from ssast_lab.learning import heard, processes
from ssast_lab.learning.interrupts import Interrupts
from ssast_lab.learning.run import Run
from ssast_lab.learning.safeguards import Safeguards
from ssast_lab.learning.task import E, StepResult, TrainingTask
from ssast_lab.learning.trainer import Trainer


def train(task: TrainingTask[E], run: RunConfig, progress: bool = False) -> Generator[StepResult[E], None, None]:
    """Starts a run, or goes on with one, and yields every step.

    The run's folder holds configuration, environment, metrics, checkpoints and samples (:mod:`ssast_lab.learning.run`).
    Ctrl-C, SIGTERM, SIGHUP, or a consumer that stops asking end the run with a checkpoint. Where Ctrl-C comes during the last step,
    the run is complete and a KeyboardInterrupt is raised, so that a caller with more runs to do does not start the next.
    Under ``accelerate launch`` or ``torchrun`` every process runs this same loop on its share of the batch.

    Raises :class:`ssast_lab.learning.run.RunError` for a run that cannot start or go on,
    :class:`ssast_lab.config.ConfigError` for a configuration that does not fit the machine, and
    :class:`ssast_lab.data.DataError` for a corpus that cannot be used.
    """
    accelerator = _accelerator(run)
    trainer = Trainer(task, run, accelerator)
    task.check(accelerator)
    folder, start = _open(task, run, accelerator)
    try:
        yield from _steps(task, run, accelerator, trainer, folder, start, progress)
    finally:
        folder.unlock()


def _steps(
    task: TrainingTask[E], run: RunConfig, accelerator: Accelerator, trainer: Trainer, folder: Run, start: int,
    progress: bool,
) -> Generator[StepResult[E], None, None]:  # fmt: skip
    main = accelerator.is_main_process
    corpus = _corpus(task, run, accelerator, progress and main)
    evaluator = task.evaluator(accelerator, trainer.micro_batch)
    if start:
        trainer.restore(folder, start)
    unreadable = evaluator.unreadable | getattr(corpus, "unreadable", {})
    noticed = evaluator.noticed | getattr(corpus, "noticed", {})
    guard = Safeguards(trainer, folder, run, len(task.clips) + evaluator.clips, unreadable, noticed)
    plan = task.plan(corpus, trainer.rows)
    batches = data.batches(plan, range(start, task.steps), run.workers, pin=accelerator.device.type == "cuda")
    if run.track:
        accelerator.init_trackers(task.name)
    bar = tqdm(total=task.steps, initial=start, desc=run.folder, disable=not (progress and main))
    began = last = time.perf_counter()

    with Interrupts() as stop_requested, bar, closing(batches), guard:
        for batch in batches:
            losses = trainer.backward(batch)
            norm = trainer.clip_gradients()
            losses, gradient_norm = guard.check(batch, losses, norm, bool(stop_requested))  # over all processes
            learning_rate = trainer.update()
            step, now = trainer.done, time.perf_counter()
            evaluate = step % task.evaluate_every == 0 or step == task.steps
            held_out = trainer.evaluate(evaluator) if evaluate else None
            if evaluate:
                guard.take(evaluator.noticed)
            result = StepResult(
                step=step,
                epoch=step * task.settings.batch / len(task.clips),
                losses=losses,
                gradient_norm=gradient_norm,
                learning_rate=learning_rate,
                clips_per_second=task.settings.batch / (now - last),
                seconds=now - began,
                held_out=held_out,
            )
            guard.log(result)
            if evaluate or step % run.checkpoint_every == 0 or step == folder.pinned:
                guard.save(held_out)
            if step == task.steps and main:
                result = replace(result, judgements=task.judge(folder))
            _show(bar, result)
            yield result
            last = time.perf_counter()
            if guard.stop:
                break

    accelerator.wait_for_everyone()
    if guard.write_error:
        raise guard.write_error
    for tracker in accelerator.trackers:
        tracker.finish()
    if trainer.done == task.steps and (guard.stop or stop_requested):
        raise KeyboardInterrupt


def _accelerator(run: RunConfig) -> Accelerator:
    if run.track and run.track not in {tracker.value for tracker in get_available_trackers()}:
        raise ConfigError(f"{run.track} is no tracker that is installed: install it, or do without --run.track.")
    return processes.accelerator(log_with=run.track, project_dir=run.folder)


def _open(task: TrainingTask[E], run: RunConfig, accelerator: Accelerator) -> tuple[Run, int]:
    """The run's folder, ready to be written into, and the step to go on from."""
    folder = Run(run.folder, keep=run.keep, pinned=task.settings.stable_steps(task.steps))
    before = folder.clips() if run.resume else None
    if before and folder.worked():
        task.keep_division(before["sets"])
    # The clips are part of it: from other clips come other batches, and held-out clips that have been trained on.
    clips = {"train": clips_fingerprint(task.clips), "held_out": clips_fingerprint(task.held_out)}
    run_config = to_dict(task.config) | {"clips": clips}
    main, answers = accelerator.is_main_process, task.answers()
    judged = heard.compare(before, task.sets(), answers, [*folder.unreadable()]) if main and before else None
    verdict = gather_object([judged])[0] if before else None  # one looks at the files, all hear of it
    start = folder.open(run_config, run.resume, task.settings.stable_steps, verdict)
    accelerator.wait_for_everyone()  # until all have looked
    if main:
        folder.lock()
        if not run.resume and (folder.path / "config.json").exists():
            logging.getLogger("ssast_lab").warning(
                f"The run in {folder.path} had ended before its first step: it begins anew."
            )
        folder.begin(
            run_config, start, heard.record(task.sets(), run.contents, answers), verdict.mended if verdict else ()
        )
        if verdict and verdict.unknown:
            logging.getLogger("ssast_lab").warning(verdict.unknown)
    accelerator.wait_for_everyone()
    return folder, start


def clips_fingerprint(clips: Sequence[data.Clip]) -> str:
    """How many clips there are, and a checksum of their names."""
    names = hashlib.sha256("\n".join(clip.name for clip in clips).encode("utf-8", "surrogateescape"))
    return f"{len(clips)} clips ({names.hexdigest()[:12]})"


def _corpus(task: TrainingTask[E], run: RunConfig, accelerator: Accelerator, progress: bool) -> data.Corpus:
    """The training clips, decoded in memory where the run says so, or where they fit and it leaves that open."""
    in_memory, device = run.in_memory, accelerator.device
    if in_memory is None:
        free = psutil.virtual_memory().available / accelerator.num_processes
        if device.type == "cuda":
            free = min(free, torch.cuda.mem_get_info(device)[0])
        in_memory = 4 * task.rate * data.seconds_of(task.clips) < free / 3
        in_memory = all(gather_object([in_memory]))
    if in_memory:
        return data.Memory(task.clips, task.samples, device, max(run.workers, 1), progress, task.rate)
    return data.Files(task.clips, task.samples, task.rate)


def _show(bar: tqdm, result: StepResult[E]) -> None:
    shown = {"loss": f"{result.loss:.3f}"}
    if "accuracy" in result.losses._fields:
        shown["accuracy"] = f"{result.accuracy:.1%}"
    bar.set_postfix(shown, refresh=False)
    bar.update()
