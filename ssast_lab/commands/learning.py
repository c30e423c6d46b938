"""Commands that train: ``pretrain`` and ``finetune``."""

import math
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ssast_lab.commands.progress import Clock, duration

if TYPE_CHECKING:
    from ssast_lab.config import FineTuneConfig, PretrainConfig, RunConfig
    from ssast_lab.data.labelled import Split
    from ssast_lab.learning.task import Judgement, StepResult

E = TypeVar("E")

OTHERS = {"held_out": "held out", "valid": "to choose by", "test": "to judge by"}  # sets of a run
QUICK, SMALL = "quick-nano-patch-400", "small-patch"  # where no recipe is named
PRETRAINING = f"""Train a masked spectrogram model on unlabelled sound: ssast-lab pretrain RECIPE --data.train recordings/

A recipe is named by how it trains, how large the model is, its patches, and how many of them are hidden:

  {QUICK}       for a CPU and one's own recordings; without a name, this one is meant
  modern-tiny-patch-400      the size of the built-in models, for one GPU
  modern-base-patch-400      the size of the paper, for several GPUs
  official-base-patch-400    the published recipe; official-base-frame-250 and the like with frames
  apc-nano, wav2vec-nano     other ways to learn from sound, to compare with; also -tiny

  quick     Muon and small batches, which learn more from the clips that a CPU has time for
  modern    AdamW with a cosine and gradient clipping, the batch of a GPU; modern-base-patch-400-2048 names the batch
  official  Adam as in the published code, which pads short clips and learns their padding
  -birds-48k, -telephone-8k, -bats-96k at the end of a name: sounds are heard at that rate instead of 16 kHz (with patch-200 for telephone-8k)
  nano, tiny, small, base    1, 5.7, 22 and 87 million parameters; patch: 16 mel bins x 16 frames, frame: 128 x 2

What follows are the settings of {{name}}."""
TUNING = """Train a classifier on a trained model, and judge it on sounds that it has not met: ssast-lab finetune RECIPE --data.train FOLDER

  small-patch, small-frame   for some hundreds of clips of one's own; without a name, small-patch is meant
  esc50, speechcommands, as20k, as2m, ks1, sid, er   each with -patch or -frame: the published recipes for ESC-50, Speech Commands,
                             AudioSet, and SUPERB's keywords, speakers and emotions

FOLDER holds a folder of clips for each label, or a task.csv. What follows are the settings of {name}."""


def pretrain(arguments: list[str]) -> None:
    """``ssast-lab pretrain RECIPE``: every field of the configuration is a flag."""
    from dataclasses import dataclass, field, replace

    import tyro

    from ssast_lab import config
    from ssast_lab.learning.pretrain import pretrain as train

    @dataclass(frozen=True)
    class Pretrain(config.PretrainConfig):
        run: config.RunConfig = field(default_factory=config.RunConfig)

    name, rest = _recipe("pretrain", arguments, QUICK, ("official", "modern", "quick", "apc", "wav2vec"))
    if name.partition("-")[0] in ("apc", "wav2vec"):
        _forecast(name, rest)
        return
    recipe = config.pretrain_config(name)
    mask = recipe.mask
    if any(word.split("=")[0] == "--mask.share" for word in rest):  # it stands for the recipe's count
        mask = replace(mask, count=None, share=1.0)
    default = Pretrain(recipe.model, mask, recipe.data, recipe.training, config.RunConfig(folder=f"runs/{name}"))
    description = PRETRAINING.format(name=name)
    given = tyro.cli(Pretrain, args=rest, default=default, prog=f"ssast-lab pretrain {name}", description=description)
    _check_sounds("pretrain", name, given.data.train)
    _say_new(given.run)
    settings = config.PretrainConfig(given.model, given.mask, given.data, given.training)
    step = None
    steps = train(settings, given.run, progress=sys.stderr.isatty())
    kind = {shape: kind for kind, shape in config.SHAPES.items()}.get(given.model.patch, "")
    if given.model.audio.band != config.AudioConfig().band:
        kind = ""  # the built-in models heard other sound: their figures are no measure
    for step in _told(steps, given.run, given.training.steps, given.training.batch, kind):
        if step.evaluation and _main_process():
            e = step.evaluation
            _say(
                f"step {step.step}: loss {step.loss:.3f}, {step.clips_per_second:.1f} clips/s; on {e.clips} held-out clip{'s' * (e.clips != 1)} "
                f"InfoNCE {e.nce:.3f}, accuracy {e.accuracy:.2%} (chance {1 / e.masked:.2%}), MSE {e.mse:.4f}"
            )
    if not _main_process():
        return
    if step is None:
        print(f"The run in {given.run.folder} has done its {given.training.steps} steps already.")
    elif step.step < given.training.steps:
        _say_stopped(step.step, given.run)
        return
    _say_pretrained(settings, given.run)


def _say_pretrained(config: "PretrainConfig", run: "RunConfig") -> None:
    from ssast_lab.learning.run import Run

    best = Run(run.folder).best()
    of = f" (its best model is that of step {best['step']}, by the loss on the held-out clips)" if best else ""
    print(f"Written: {run.folder}{of}")
    folder = shlex.quote(run.folder)
    measured = shlex.quote(config.data.held_out[0]) if config.data.held_out else "OTHER_SOUNDS"
    print(f"Next: ssast-lab info {folder} --evaluate {measured}\n      ssast-lab app --models {folder}")


def _told(
    steps: "Iterable[StepResult[E]]", run: "RunConfig", count: int, batch: int, kind: str = ""
) -> "Iterator[StepResult[E]]":
    """The steps as they come, of ``count`` in all. What there is to learn from is said with the first, and what the built-in model of
    the same ``kind`` had learned from as much; in a pipe or a log, how far they are every minute."""
    if _main_process():
        print(f"Reading the sounds; the run is in {run.folder}.", file=sys.stderr, flush=True)
    clock: Clock | None = None
    first = 0
    for step in steps:
        if _main_process() and step.step < count:
            if clock is None:
                clock, first = Clock(), step.step
                _note(_expected(run, count, batch))
                _note(reference(kind, count * batch))
            elif clock.strikes():
                left = (count - step.step) * clock.seconds / (step.step - first)
                _note(f"step {step.step:,} of {count:,}: loss {step.loss:.3f}, about {duration(left)} left")
        yield step


def _expected(run: "RunConfig", count: int, batch: int) -> str:
    from ssast_lab.learning.run import Run

    sizes = {name: len(part["names"]) for name, part in (Run(run.folder).clips() or {"sets": {}})["sets"].items()}
    train = sizes.pop("train", 0)
    others = "".join(f", {size:,} {OTHERS[name]}" for name, size in sizes.items() if size)
    often = count * batch / max(train, 1)
    return f"{train:,} clip{'s' * (train != 1)} to learn from{others}: {count:,} steps of {batch} clips hear each one {often:,.{0 if often >= 10 else 1}f} times."


def reference(kind: str, clips: int) -> str:
    """What the built-in model of a kind, "patch" or "frame", had reached when it had heard so many clips; "" for none."""
    from ssast_lab import checkpoint

    name = f"tiny-{kind}"
    if name not in checkpoint.builtin_models():
        return ""
    about = checkpoint.describe(name)["about"]
    *_, then = [one for one in about["learned"] if one["clips"] <= clips] or about["learned"][:1]
    end = about["curves"][-1]
    return (
        f"For comparison: {name} drew what was hidden with an MSE of {then['mse']:.3f} in training when it had heard {then['clips']:,} clips of "
        f"its 41 hours; on held-out clips, after {about['clips']:,}, with one of {end['mse']:.3f}, recognising {end['accuracy']:.0%} of "
        f"{end['masked']:.0f} hidden patches."
    )


def _note(line: str) -> None:
    """To stderr, above a progress bar."""
    from tqdm.auto import tqdm

    if line:
        tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()


def _say(line: str) -> None:
    """To stdout, on a line of its own beside a progress bar."""
    from tqdm.auto import tqdm

    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def _forecast(name: str, arguments: list[str]) -> None:
    """``ssast-lab pretrain`` of APC and wav2vec."""
    from dataclasses import asdict, dataclass, field

    import tyro

    from ssast_lab.config import RunConfig
    from ssast_lab.learning.forecast import ForecastConfig, forecast, recipe

    @dataclass(frozen=True)
    class Forecast(ForecastConfig):
        run: RunConfig = field(default_factory=RunConfig)

    preset = recipe(name)
    model = type(preset.model)
    Forecast.__annotations__["model"] = model  # else there would be the flags of both kinds of model
    default = Forecast(preset.model, preset.data, preset.training, RunConfig(folder=f"runs/{name}"))
    description = PRETRAINING.format(name=name)
    given = tyro.cli(
        Forecast, args=arguments, default=default, prog=f"ssast-lab pretrain {name}", description=description
    )
    _check_sounds("pretrain", name, given.data.train)
    _say_new(given.run)
    config, step = ForecastConfig(given.model, given.data, given.training), None
    steps = forecast(config, given.run, progress=sys.stderr.isatty())
    for step in _told(steps, given.run, given.training.steps, given.training.batch):
        if step.evaluation and _main_process():
            figures = ", ".join(f"{name} {value:.4g}" for name, value in asdict(step.evaluation).items())
            _say(f"step {step.step}: loss {step.loss:.3f}, {step.clips_per_second:.1f} clips/s; held out: {figures}")
    if not _main_process():
        return
    if step and step.step < given.training.steps:
        _say_stopped(step.step, given.run)
        return
    folder = shlex.quote(given.run.folder)
    print(f"Written: {given.run.folder}\nNext: ssast-lab probe {folder} TASK ...")


def finetune(arguments: list[str]) -> None:
    """``ssast-lab finetune RECIPE``: every field of the configuration is a flag; numbered folds are tested one by one."""
    from dataclasses import dataclass, field, fields, replace

    import tyro

    from ssast_lab import config
    from ssast_lab.commands import scores
    from ssast_lab.learning.classify import pool_folds, read_splits

    @dataclass(frozen=True)
    class FineTune(config.FineTuneConfig):
        run: config.RunConfig = field(default_factory=config.RunConfig)

    name, rest = _recipe("finetune", arguments, SMALL, config.finetune_recipes())
    recipe = config.finetune_config(name)
    default = FineTune(**vars(recipe), run=config.RunConfig(folder=f"runs/{name}"))
    description = TUNING.format(name=name)
    given = tyro.cli(FineTune, args=rest, default=default, prog=f"ssast-lab finetune {name}", description=description)
    settings = config.FineTuneConfig(**{item.name: getattr(given, item.name) for item in fields(config.FineTuneConfig)})
    _check_sounds("finetune", name, given.data.train)
    _say_new(given.run)
    splits, tested = read_splits(given.data), []
    for split in splits:
        fold, run = settings, given.run
        if len(splits) > 1:
            fold = replace(settings, data=replace(settings.data, fold=split.name))
            run = replace(run, folder=f"{run.folder}/fold-{split.name}")
        judgements = _finetune(fold, run, split)
        if judgements is None:
            return
        if judgements:
            tested.append((split.test, judgements[0].scores))
    folder = Path(given.run.folder)
    if len(tested) > 1:
        pooled = pool_folds(tested)
        print(f"\nAll {len(tested)} folds together: {pooled}")
        print(f"Written: {folder}, with {', '.join(scores.write(pooled, folder))} of all folds")
    if tested:
        model = folder if len(splits) == 1 else folder / f"fold-{splits[0].name}"
        print(f"Next: ssast-lab predict {shlex.quote(str(model))} RECORDING.wav --windows")


def _finetune(config: "FineTuneConfig", run: "RunConfig", split: "Split") -> "tuple[Judgement, ...] | None":
    """Trains and judges one classifier: its judgements, none in processes other than the main one; None where the run was
    stopped."""
    from ssast_lab.commands import scores
    from ssast_lab.learning.classify import fine_tune, judge

    step = None
    judgements: tuple[Judgement, ...] = ()
    training = config.training
    count = training.steps or training.epochs * math.ceil(len(split.train) / training.batch)
    if _main_process():
        _say(f"{split.told()}.")
    for step in _told(fine_tune(config, run, progress=sys.stderr.isatty()), run, count, training.batch):
        if step.evaluation and _main_process():
            e = step.evaluation
            watching = "validation" if len(split.valid) else "test"
            accuracy = "" if math.isnan(e.accuracy) else f"accuracy {e.accuracy:.2%}, "
            _say(
                f"step {step.step}: loss {step.loss:.3f}; on {e.clips} {watching} clips loss {e.loss:.3f}, "
                f"{accuracy}mAP {e.mean_average_precision:.3f}"
            )
        judgements = step.judgements
    if not _main_process():
        return ()
    if step is None:
        print(f"The run in {run.folder} has done its steps already.")
        judgements = judge(config, run)
    elif not judgements:
        _say_stopped(step.step, run)
        return None
    for judgement in judgements:
        fold = f" of fold {split.name}" if split.name else ""
        chosen = f", chosen by {judgement.chosen}" if judgement.chosen else ""
        print(f"\nTest set{fold}, {judgement.weights} weights (step {judgement.step}{chosen}): {judgement.scores}")
    written = scores.write(judgements[0].scores, Path(run.folder))
    print(f"Written: {run.folder}, with report.json, {', '.join(written)}")
    return judgements


def _recipe(command: str, arguments: list[str], default: str, recipes: Iterable[str]) -> tuple[str, list[str]]:
    """(name of the recipe, the other arguments). Sounds that are named where the recipe would stand, or after it, are what is
    learned from."""
    rest, name = list(arguments), default
    if rest and rest[0].partition("-")[0] in recipes and not os.path.exists(rest[0]):
        name = rest.pop(0)
    sounds: list[str] = []
    while rest and rest[0][:1] != "-" and (os.path.exists(rest[0]) or glob(rest[0], recursive=True)):
        sounds.append(rest.pop(0))
    if rest and rest[0][:1] != "-":
        if not sounds and name == default and rest[0] == arguments[0]:
            if os.path.basename(rest[0]) != rest[0]:
                from ssast_lab.data import DataError

                raise DataError(f"There is no sound at {rest[0]}: no such file, folder or pattern.")
            return rest[0], rest[1:]  # a recipe that is not there, which is said
        _unknown(command, name, rest[0])
    if sounds:
        if any(re.split("[= ]", word)[0] == "--data.train" for word in rest):
            _unknown(command, name, sounds[0])
        rest = ["--data.train", *sounds, *rest]
        if _main_process() and name not in arguments:
            print(f"This is taken for: ssast-lab {command} {shlex.join([name, *rest])}", file=sys.stderr, flush=True)
    return name, rest


def _unknown(command: str, name: str, word: str) -> None:
    from ssast_lab.config import ConfigError

    raise ConfigError(
        f"What {word!r} is meant for cannot be told: write ssast-lab {command} {name} --data.train FOLDER and then other settings."
    )


def _check_sounds(command: str, name: str, train: object) -> None:
    from ssast_lab.data import DataError

    if not train:
        what = (
            "a folder, a manifest or shards of sound"
            if command == "pretrain"
            else "a folder with one of clips for each label"
        )
        raise DataError(
            f"There is nothing to train on: name {what}, as in ssast-lab {command} {name} --data.train FOLDER"
        )


def _say_new(run: "RunConfig") -> None:
    """A job that is always started with --run.resume begins with it, too; whoever mistyped the folder should know."""
    folder = Path(run.folder)
    there = any(folder.glob("config.json")) or any(folder.glob("fold-*/config.json"))
    if run.resume and not there and _main_process():
        print(f"There is no run to resume in {folder}: a new one begins there.", file=sys.stderr)


def _main_process() -> bool:
    """Whether this process is the one that prints, of those that torchrun started."""
    return int(os.environ.get("RANK", 0)) == 0


def _say_stopped(step: int, run: "RunConfig") -> None:
    print(f"Stopped after step {step}; go on with --run.resume (the run is in {run.folder}).")
