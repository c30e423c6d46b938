"""Masked spectrogram pretraining: ``for step in pretrain(config)``.

Axes: B clips of the global batch, T frames, F mel bins, N patches. What a step computes is a function of the configuration
and the step's number: clips, cuts and masks are keyed by (seed, step). Hence a resumed run is the undisturbed run, and
any number of processes with the same global batch make the same run, up to rounding.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import gather_object
from torch import Tensor
from tqdm.auto import tqdm

from ssast_lab import audio, data, masking, objectives
from ssast_lab.analysis import Reconstruction, reconstruct
from ssast_lab.config import ConfigError, MaskConfig, PretrainConfig, RunConfig, TrainingConfig, to_dict
from ssast_lab.model import SSAST
from ssast_lab.objectives import Losses
from ssast_lab.patches import PatchGrid
from ssast_lab.run import Interrupts, Run, RunError

WATCHED = 2  # held-out clips whose reconstruction is kept at every evaluation


@dataclass(frozen=True)
class Evaluation:
    """Means over the held-out clips, each with the same mask every time."""

    loss: float
    nce: float  # nats
    mse: float  # squared normalised log-mel
    accuracy: float
    clips: int
    masked: int  # patches hidden in each


@dataclass(frozen=True)
class Step:
    """What one optimiser step did; its losses are means over the global batch."""

    step: int  # steps done, from 1
    epoch: float
    loss: float
    nce: float
    mse: float
    accuracy: float
    gradient_norm: float
    learning_rate: float
    clips_per_second: float  # of this step, over all processes
    seconds: float  # since this process began to train
    evaluation: Evaluation | None = None
    reconstructions: tuple[Reconstruction, ...] = ()  # of the same held-out clips, at every evaluation


def pretrain(config: PretrainConfig, run: RunConfig | None = None, progress: bool = False) -> Iterator[Step]:
    """Trains a model from scratch, or goes on with a run, and yields every step.

    The run's folder holds configuration, environment, metrics, checkpoints and samples (:mod:`ssast_lab.run`). Ctrl-C,
    SIGTERM, or a consumer that stops asking end it with a checkpoint. Under ``accelerate launch`` or ``torchrun`` every
    process runs this same loop on its share of the batch. Raises :class:`ssast_lab.run.RunError` for a run that cannot
    start or go on, and :class:`ssast_lab.data.DataError` for a corpus that cannot be used.
    """
    run = run or RunConfig()
    settings = config.training
    if run.track and run.track not in {tracker.value for tracker in get_available_trackers()}:
        raise ConfigError(f"{run.track} is no tracker that is installed: install it, or do without --run.track.")
    accelerator = Accelerator(
        mixed_precision="no", log_with=run.track, project_dir=run.folder, cpu=not torch.cuda.is_available()
    )
    main = accelerator.is_main_process
    share = _share(settings.batch, accelerator.num_processes)
    rows = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)

    train, held_out = _clips(config)
    samples = audio.samples_of(config.model.frames)
    folder = Run(run.folder, keep=run.keep)
    start = folder.open(to_dict(config), run.resume)
    accelerator.wait_for_everyone()
    if main:
        folder.begin(to_dict(config), start)
    accelerator.wait_for_everyone()
    corpus = _corpus(train, samples, accelerator, run, progress and main)
    exam = _Exam(held_out, samples, config, accelerator)
    trainer = _Trainer(config, run, accelerator)
    if start:
        trainer.restore(folder, start)
    unreadable = folder.unreadable()
    found = exam.unreadable | getattr(corpus, "unreadable", {})  # and not yet listed

    done = saved = start
    trouble: RunError | None = None
    began = last = time.perf_counter()
    plan = data.Plan(corpus, settings.batch, settings.seed, rows)
    stream = data.batches(plan, range(start, settings.steps), run.workers, pin=accelerator.device.type == "cuda")
    if run.track:
        accelerator.init_trackers("pretrain")
    bar = tqdm(total=settings.steps, initial=start, desc=run.folder, disable=not (progress and main))

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

    def save(evaluation: Evaluation | None = None) -> None:
        nonlocal saved
        if not trainer.finite():
            raise RunError(f"The weights are no finite numbers after step {done}; {_intact(saved)}. "
                           f"The clips of that step: {', '.join(gather_object(batch.names))}.")  # fmt: skip
        about = {"recipe": to_dict(config), "steps": done}
        write(folder.save, done, trainer.model, trainer.state(), about, evaluation and evaluation.loss)
        saved = done

    with Interrupts() as interrupted, bar, closing(stream):
        try:
            for batch in stream:
                found |= batch.unreadable
                new = {name: why for name, why in found.items() if name not in unreadable}
                masks = draw_masks(config.model.grid, config.mask, settings.batch, settings.seed, done)[rows]
                losses, norm = trainer.differentiate(batch, masks)
                told = torch.stack((*losses, norm, *norm.new_tensor((len(new), bool(interrupted or trouble)))))
                loss, nce, mse, accuracy, gradient_norm, more, stop = accelerator.reduce(told, "mean").tolist()
                if more:
                    new = {name: why for each in gather_object([new]) for name, why in each.items()}
                    unreadable |= new
                    write(folder.note_unreadable, new)
                found = {}
                if len(unreadable) > run.unreadable * (len(train) + exam.clips):
                    if done > saved:
                        save()
                    raise RunError(
                        f"{len(unreadable)} of {len(train) + exam.clips} clips cannot be read, more than the share of "
                        f"{run.unreadable:g} that is allowed: they are listed in {folder.path / 'unreadable.tsv'}; "
                        "mend them and delete that list, or allow more, and resume."
                    )
                if not math.isfinite(loss + gradient_norm):
                    raise RunError(_diverged(done + 1, (loss, nce, mse, accuracy), losses, batch, saved))
                learning_rate = trainer.update(done)
                done += 1
                now = time.perf_counter()
                evaluation: Evaluation | None = None
                pictures: tuple[Reconstruction, ...] = ()
                if done % settings.evaluate_every == 0 or done == settings.steps:
                    evaluation, pictures = exam.take(trainer)
                    trainer.rate.heed(evaluation.mse if settings.nce_weight == 0 else -evaluation.accuracy)
                epoch, speed = done * settings.batch / len(train), settings.batch / (now - last)
                step = Step(
                    done, epoch, loss, nce, mse, accuracy, gradient_norm, learning_rate, speed, now - began,
                    evaluation, pictures,
                )  # fmt: skip
                write(_log, folder, step, accelerator if run.track else None)
                if evaluation or done % run.checkpoint_every == 0:
                    save(evaluation)
                bar.set_postfix(loss=f"{step.loss:.3f}", accuracy=f"{step.accuracy:.1%}", refresh=False)
                bar.update()
                yield step
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


def draw_masks(grid: PatchGrid, mask: MaskConfig, batch: int, seed: int, step: int) -> Tensor:
    """(B, N) bool: the masks of a step, keyed by (seed, step)."""
    generator = torch.Generator().manual_seed(
        int(np.random.SeedSequence([seed, step, 5]).generate_state(1, np.uint64)[0] >> 1)
    )
    if mask.cluster is None:
        return masking.random_mask(grid, mask.count, generator=generator, batch=batch)
    return masking.cluster_mask(grid, mask.count, generator=generator, batch=batch, cluster=mask.cluster)


class LearningRate:
    """The learning rate of each step: a linear warm-up, then a cosine to zero or halving on a plateau."""

    def __init__(self, settings: TrainingConfig) -> None:
        self.settings, self.best, self.waited, self.factor = settings, math.inf, 0, 1.0

    def __call__(self, step: int) -> float:
        """Of the step that follows ``step`` steps."""
        s = self.settings
        if step < s.warmup:
            return s.learning_rate * (step // s.warmup_every * s.warmup_every) / s.warmup
        if s.schedule == "plateau":
            return s.learning_rate * self.factor
        return s.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - s.warmup) / max(s.steps - s.warmup, 1)))

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


class _Trainer:
    """Model and optimiser on the device of this process."""

    def __init__(self, config: PretrainConfig, run: RunConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        device, settings = accelerator.device, config.training
        torch.manual_seed(settings.seed)
        self.model = SSAST(config.model).to(device)
        decay = [p for n, p in self.model.named_parameters() if n.endswith("weight") and p.ndim > 1]
        rest = [p for n, p in self.model.named_parameters() if not (n.endswith("weight") and p.ndim > 1)]
        adamw = (
            settings.optimizer == "adamw"
        )  # which spares biases, norms and tokens; Adam, as the official code, does not
        groups: list[dict[str, Any]] = [
            {"params": decay},
            {"params": rest, "weight_decay": 0.0 if adamw else settings.weight_decay},
        ]
        self.optimizer = (torch.optim.AdamW if adamw else torch.optim.Adam)(
            groups, settings.learning_rate, settings.betas, weight_decay=settings.weight_decay, fused=True
        )
        self.rate = LearningRate(settings)
        if run.compile:
            for block in self.model.encoder.blocks:
                block.compile()
        for token in (self.model.encoder.cls_token, self.model.encoder.distillation_token):
            # their gradients are slices, of whose strides the exchange among processes would warn
            token.register_hook(lambda gradient: gradient.flatten().view(gradient.shape))
        self.trained = accelerator.prepare_model(self.model)
        share = settings.batch // accelerator.num_processes
        self.micro = run.micro_batch or share
        if share % self.micro:
            raise ConfigError(f"Micro-batches of {self.micro} do not divide the {share} clips of this process.")
        bf16 = run.precision == "bf16" or (run.precision == "auto" and fast_bf16(device))
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)

    def restore(self, folder: Run, step: int) -> None:
        self.model.load_state_dict(folder.read_weights(step))
        state = folder.read_training(step)
        self.optimizer.load_state_dict(state["optimizer"])
        self.rate.load_state_dict(state["rate"])

    def state(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "rate": self.rate.state_dict()}

    def differentiate(self, batch: data.Batch, masks: Tensor) -> tuple[Losses, Tensor]:
        """This process's share of a batch -> mean losses over it, and the norm of the gradient over all processes."""
        config, settings = self.config, self.config.training
        parts = len(masks) // self.micro
        self.trained.train()
        self.optimizer.zero_grad(set_to_none=True)
        sums: list[Tensor] = []
        for part in range(parts):
            rows = slice(part * self.micro, (part + 1) * self.micro)
            piece = data.Batch(batch.waveforms[rows], batch.lengths[rows], [], {}).to(self.accelerator.device)
            mask = masks[rows].to(self.accelerator.device)
            fbank = piece.features(config.model.audio, config.model.frames)
            waiting = self.accelerator.no_sync(self.trained) if part < parts - 1 else nullcontext()
            with waiting:
                with self.autocast:
                    guess = self.trained(fbank, mask)
                losses = objectives.joint(
                    guess, self.model.targets(fbank, mask), settings.mse_weight, settings.nce_weight, settings.over
                )
                self.accelerator.backward(losses.total / parts)
            sums.append(torch.stack(losses).detach() / parts)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        if settings.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), settings.clip_norm, norm)
        return Losses(*torch.stack(sums).sum(0)), norm

    def finite(self) -> bool:
        return all(bool(parameter.isfinite().all()) for parameter in self.model.parameters())

    def update(self, step: int) -> float:
        learning_rate = self.rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        return learning_rate


class _Exam:
    """The held-out clips and their masks: the same for every evaluation of a run."""

    def __init__(self, clips: list[data.Clip], samples: int, config: PretrainConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        grid, chosen = config.model.grid, clips[: config.data.held_out_clips]
        count = config.training.evaluate_masks if config.training.evaluate_masks < grid.count else config.mask.count
        own = np.arange(len(chosen))[accelerator.process_index :: accelerator.num_processes]
        keys = [(config.training.seed, 6, int(index)) for index in own]
        self.masks = draw_masks(grid, MaskConfig(count, config.mask.cluster), len(chosen), config.training.seed, 0)[own]
        self.batch = data.Files(chosen, samples).cut(own, np.full(len(own), 0.5), keys) if len(own) else None
        self.unreadable = self.batch.unreadable if self.batch else {}
        self.clips, self.count = len(chosen), count

    @torch.no_grad()
    def take(self, trainer: _Trainer) -> tuple[Evaluation, tuple[Reconstruction, ...]]:
        device, model, settings = self.accelerator.device, trainer.model, self.config.training
        model.eval()
        total = torch.zeros(len(Losses._fields), device=device)
        pictures: list[Reconstruction] = []
        for begin in range(0, len(self.masks), trainer.micro):
            assert self.batch is not None
            rows = slice(begin, begin + trainer.micro)
            piece = data.Batch(self.batch.waveforms[rows], self.batch.lengths[rows], [], {}).to(device)
            mask, fbank = self.masks[rows].to(device), piece.features(self.config.model.audio, self.config.model.frames)
            with trainer.autocast:
                guess = model(fbank, mask)
            losses = objectives.per_clip(
                guess, model.targets(fbank, mask), settings.mse_weight, settings.nce_weight, settings.over
            )
            total += torch.stack([value.sum() for value in losses])
            if self.accelerator.is_main_process and begin == 0:
                pictures += [reconstruct(model, *pair) for pair in list(zip(fbank, mask, strict=True))[:WATCHED]]
        loss, nce, mse, accuracy = (self.accelerator.reduce(total, "sum") / self.clips).tolist()
        return Evaluation(loss, nce, mse, accuracy, self.clips, self.count), tuple(pictures)


def fast_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 matrices faster than float32 ones."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()


def _share(batch: int, processes: int) -> int:
    if batch % processes:
        raise ConfigError(f"A global batch of {batch} clips cannot be shared evenly by {processes} processes.")
    return batch // processes


def _clips(config: PretrainConfig) -> tuple[list[data.Clip], list[data.Clip]]:
    if not config.data.train:
        raise data.DataError("There is nothing to train on: name a folder, a manifest or shards of sound.")
    train = data.find_clips(config.data.train)
    if config.data.held_out:
        return train, data.find_clips(config.data.held_out)
    return data.split(train, min(config.data.held_out_clips, max(len(train) // 10, 1)), config.training.seed)


def _corpus(
    clips: list[data.Clip], samples: int, accelerator: Accelerator, run: RunConfig, progress: bool
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


def _diverged(step: int, means: Sequence[float], losses: Losses, batch: data.Batch, saved: int) -> str:
    guilty = [] if torch.stack(losses).isfinite().all() else batch.names
    names = gather_object(guilty) or gather_object(batch.names)
    values = ", ".join(f"{name} {value:g}" for name, value in zip(Losses._fields, means, strict=True))
    return (
        f"The loss or its gradient is no finite number at step {step} ({values}); {_intact(saved)}. "
        f"The clips of that step: {', '.join(names)}."
    )


def _intact(saved: int) -> str:
    return f"the checkpoint of step {saved} is intact" if saved else "there was no checkpoint yet"


def _log(folder: Run, step: Step, tracker: Accelerator | None) -> None:
    line = asdict(step) | {"reconstructions": None}
    del line["reconstructions"]
    evaluation = line.pop("evaluation")
    folder.log(line | ({f"held_out_{name}": value for name, value in evaluation.items()} if evaluation else {}))
    if step.reconstructions:
        pictures = step.reconstructions
        folder.keep_sample(
            step.step,
            {
                name: np.stack([getattr(picture, name) for picture in pictures])
                for name in ("original", "mask", "reconstruction")
            },
        )
    if tracker:
        tracker.log({name: value for name, value in line.items() if name != "step"}, step=step.step)
