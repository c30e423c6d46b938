"""Commands that train: ``pretrain`` and ``finetune``."""

import math
import os
import sys


def pretrain(arguments: list[str]) -> None:
    """``ssast-lab pretrain RECIPE``: every field of the configuration is a flag."""
    from dataclasses import dataclass, field

    import tyro

    from ssast_lab import config
    from ssast_lab.learning.pretrain import pretrain as train

    @dataclass(frozen=True)
    class Pretrain(config.PretrainConfig):
        """Train a masked spectrogram model on unlabelled sound."""

        run: config.RunConfig = field(default_factory=config.RunConfig)

    name, rest = (
        (arguments[0], arguments[1:]) if arguments and arguments[0][:1] != "-" else ("quick-nano-patch-400", arguments)
    )
    if name.partition("-")[0] in ("apc", "wav2vec"):
        _forecast(name, rest)
        return
    recipe = config.pretrain_config(name)
    default = Pretrain(recipe.model, recipe.mask, recipe.data, recipe.training, config.RunConfig(folder=f"runs/{name}"))
    asked = tyro.cli(
        Pretrain, args=rest, default=default, prog=f"ssast-lab pretrain {name}", description=Pretrain.__doc__
    )
    main, last = int(os.environ.get("RANK", 0)) == 0, None
    for last in train(
        config.PretrainConfig(asked.model, asked.mask, asked.data, asked.training),
        asked.run,
        progress=sys.stderr.isatty(),
    ):
        if last.evaluation and main:
            e = last.evaluation
            print(
                f"step {last.step}: loss {last.loss:.3f}, {last.clips_per_second:.1f} clips/s; on {e.clips} held-out clips "
                f"InfoNCE {e.nce:.3f}, accuracy {e.accuracy:.2%} (chance {1 / e.masked:.2%}), MSE {e.mse:.4f}",
                flush=True,
            )
    if main and last is None:
        print(f"The run in {asked.run.folder} has done its {asked.training.steps} steps already.")
    elif main and last is not None and last.step < asked.training.steps:
        print(f"Stopped after step {last.step}; go on with --run.resume (the run is in {asked.run.folder}).")


def _forecast(name: str, arguments: list[str]) -> None:
    """The rivals that predict what comes next, by the same loop."""
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
    Forecast.__annotations__["model"] = model  # else the flags of both kinds of model
    default = Forecast(preset.model, preset.data, preset.training, RunConfig(folder=f"runs/{name}"))
    asked = tyro.cli(
        Forecast, args=arguments, default=default, prog=f"ssast-lab pretrain {name}", description=Forecast.__doc__
    )
    main = int(os.environ.get("RANK", 0)) == 0
    config = ForecastConfig(asked.model, asked.data, asked.training)
    for tick in forecast(config, asked.run, progress=sys.stderr.isatty()):
        if tick.examination and main:
            figures = ", ".join(f"{name} {value:.4g}" for name, value in asdict(tick.examination.figures).items())
            print(f"step {tick.step}: loss {tick.losses[0]:.3f}, {tick.clips_per_second:.1f} clips/s; held out: {figures}",
                  flush=True)  # fmt: skip


def finetune(arguments: list[str]) -> None:
    """``ssast-lab finetune RECIPE``: every field of the configuration is a flag; numbered folds are tested one by one."""
    from dataclasses import dataclass, field, fields, replace

    import tyro

    from ssast_lab import config
    from ssast_lab.learning.classify import fine_tune, judged, read_splits, together

    @dataclass(frozen=True)
    class FineTune(config.FineTuneConfig):
        """Train a classifier on a trained model and judge it on sounds that it has not met."""

        run: config.RunConfig = field(default_factory=config.RunConfig)

    name, rest = (arguments[0], arguments[1:]) if arguments and arguments[0][:1] != "-" else ("small-patch", arguments)
    recipe = config.finetune_config(name)
    default = FineTune(**vars(recipe), run=config.RunConfig(folder=f"runs/{name}"))
    asked = tyro.cli(
        FineTune, args=rest, default=default, prog=f"ssast-lab finetune {name}", description=FineTune.__doc__
    )
    main = int(os.environ.get("RANK", 0)) == 0
    splits, tested = read_splits(asked.data), []
    for split in splits:
        run, labelled = asked.run, asked.data
        if len(splits) > 1:
            run = replace(run, folder=f"{run.folder}/fold-{split.name}")
            labelled = replace(labelled, fold=split.name)
        settings = {item.name: getattr(asked, item.name) for item in fields(config.FineTuneConfig)}
        whole, last = config.FineTuneConfig(**settings | {"data": labelled}), None
        for last in fine_tune(whole, run, progress=sys.stderr.isatty()):
            if last.evaluation and main:
                e = last.evaluation
                watching = "validation" if len(split.valid) else "test"
                accuracy = "" if math.isnan(e.accuracy) else f"accuracy {e.accuracy:.2%}, "
                print(
                    f"step {last.step}: loss {last.loss:.3f}; on {e.clips} {watching} clips loss {e.loss:.3f}, "
                    f"{accuracy}mAP {e.mean_average_precision:.3f}",
                    flush=True,
                )
        if not main:
            continue
        if last is None:
            print(f"The run in {run.folder} has done its steps already.")
            judgements = judged(whole, run)
        elif last.judgements:
            judgements = last.judgements
        else:
            print(f"Stopped after step {last.step}; go on with --run.resume (the run is in {run.folder}).")
            return
        for judgement in judgements:
            fold = f" of fold {split.name}" if split.name else ""
            print(f"\nTest set{fold}, {judgement.weights} weights (step {judgement.step}): {judgement.scores}")
        tested.append((split.test, judgements[0].scores))
    if len(tested) > 1:
        print(f"\nAll {len(tested)} folds together: {together(tested)}")
