"""Commands that train: ``pretrain`` and ``finetune``."""

import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssast_lab.config import FineTuneConfig, RunConfig
    from ssast_lab.data.labelled import Split
    from ssast_lab.learning.task import Judgement


def pretrain(arguments: list[str]) -> None:
    """``ssast-lab pretrain RECIPE``: every field of the configuration is a flag."""
    from dataclasses import dataclass, field, replace

    import tyro

    from ssast_lab import config
    from ssast_lab.learning.pretrain import pretrain as train

    @dataclass(frozen=True)
    class Pretrain(config.PretrainConfig):
        """Train a masked spectrogram model on unlabelled sound."""

        run: config.RunConfig = field(default_factory=config.RunConfig)

    name, rest = _recipe(arguments, "quick-nano-patch-400")
    if name.partition("-")[0] in ("apc", "wav2vec"):
        _forecast(name, rest)
        return
    recipe = config.pretrain_config(name)
    mask = recipe.mask
    if any(word.split("=")[0] == "--mask.share" for word in rest):  # it stands for the recipe's count
        mask = replace(mask, count=None, share=1.0)
    default = Pretrain(recipe.model, mask, recipe.data, recipe.training, config.RunConfig(folder=f"runs/{name}"))
    given = tyro.cli(
        Pretrain, args=rest, default=default, prog=f"ssast-lab pretrain {name}", description=Pretrain.__doc__
    )
    _say_new(given.run)
    step = None
    for step in train(
        config.PretrainConfig(given.model, given.mask, given.data, given.training),
        given.run,
        progress=sys.stderr.isatty(),
    ):
        if step.evaluation and _main_process():
            e = step.evaluation
            print(
                f"step {step.step}: loss {step.loss:.3f}, {step.clips_per_second:.1f} clips/s; on {e.clips} held-out clips "
                f"InfoNCE {e.nce:.3f}, accuracy {e.accuracy:.2%} (chance {1 / e.masked:.2%}), MSE {e.mse:.4f}",
                flush=True,
            )
    if not _main_process():
        return
    if step is None:
        print(f"The run in {given.run.folder} has done its {given.training.steps} steps already.")
    elif step.step < given.training.steps:
        _say_stopped(step.step, given.run)


def _forecast(name: str, arguments: list[str]) -> None:
    """``ssast-lab pretrain`` of APC and wav2vec."""
    from dataclasses import asdict, dataclass, field

    import tyro

    from ssast_lab.config import RunConfig
    from ssast_lab.learning.forecast import ForecastConfig, forecast, recipe

    @dataclass(frozen=True)
    class Forecast(ForecastConfig):
        """Train a model that predicts what comes next on unlabelled sound."""

        run: RunConfig = field(default_factory=RunConfig)

    preset = recipe(name)
    model = type(preset.model)
    Forecast.__annotations__["model"] = model  # else there would be the flags of both kinds of model
    default = Forecast(preset.model, preset.data, preset.training, RunConfig(folder=f"runs/{name}"))
    given = tyro.cli(
        Forecast, args=arguments, default=default, prog=f"ssast-lab pretrain {name}", description=Forecast.__doc__
    )
    _say_new(given.run)
    config = ForecastConfig(given.model, given.data, given.training)
    for step in forecast(config, given.run, progress=sys.stderr.isatty()):
        if step.evaluation and _main_process():
            figures = ", ".join(f"{name} {value:.4g}" for name, value in asdict(step.evaluation).items())
            print(f"step {step.step}: loss {step.loss:.3f}, {step.clips_per_second:.1f} clips/s; held out: {figures}",
                  flush=True)  # fmt: skip


def finetune(arguments: list[str]) -> None:
    """``ssast-lab finetune RECIPE``: every field of the configuration is a flag; numbered folds are tested one by one."""
    from dataclasses import dataclass, field, fields, replace

    import tyro

    from ssast_lab import config
    from ssast_lab.learning.classify import pool_folds, read_splits

    @dataclass(frozen=True)
    class FineTune(config.FineTuneConfig):
        """Train a classifier on a trained model and judge it on sounds that it has not met."""

        run: config.RunConfig = field(default_factory=config.RunConfig)

    name, rest = _recipe(arguments, "small-patch")
    recipe = config.finetune_config(name)
    default = FineTune(**vars(recipe), run=config.RunConfig(folder=f"runs/{name}"))
    given = tyro.cli(
        FineTune, args=rest, default=default, prog=f"ssast-lab finetune {name}", description=FineTune.__doc__
    )
    settings = config.FineTuneConfig(**{item.name: getattr(given, item.name) for item in fields(config.FineTuneConfig)})
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
    if len(tested) > 1:
        print(f"\nAll {len(tested)} folds together: {pool_folds(tested)}")
    if tested:
        print(f"\nNext: ssast-lab predict {run.folder} RECORDINGS")


def _finetune(config: "FineTuneConfig", run: "RunConfig", split: "Split") -> "tuple[Judgement, ...] | None":
    """Trains and judges one classifier: its judgements, none in processes other than the main one; None where the run was
    stopped."""
    from ssast_lab.learning.classify import fine_tune, judge

    step = None
    judgements: tuple[Judgement, ...] = ()
    for step in fine_tune(config, run, progress=sys.stderr.isatty()):
        if step.evaluation and _main_process():
            e = step.evaluation
            watching = "validation" if len(split.valid) else "test"
            accuracy = "" if math.isnan(e.accuracy) else f"accuracy {e.accuracy:.2%}, "
            print(
                f"step {step.step}: loss {step.loss:.3f}; on {e.clips} {watching} clips loss {e.loss:.3f}, "
                f"{accuracy}mAP {e.mean_average_precision:.3f}",
                flush=True,
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
        print(f"\nTest set{fold}, {judgement.weights} weights (step {judgement.step}): {judgement.scores}")
    return judgements


def _recipe(arguments: list[str], default: str) -> tuple[str, list[str]]:
    """(name of the recipe, the other arguments)"""
    if arguments and arguments[0][:1] != "-":
        return arguments[0], arguments[1:]
    return default, arguments


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
