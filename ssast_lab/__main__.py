"""The command line: ``ssast-lab COMMAND --help`` tells the rest."""

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

HELP = """ssast-lab: see, hear and train masked spectrogram models

  ssast-lab app                  the page on http://127.0.0.1:7860
  ssast-lab pretrain RECIPE ...  train a model on a folder of sound (recipes: quick-nano-patch-400, official-base-frame-250, ...)
  ssast-lab finetune RECIPE ...  train a classifier on a trained model (recipes: small-patch, esc50-patch, speechcommands-frame, ...)
  ssast-lab probe MODEL TASK...  a linear probe: what can be read off a model's frozen embeddings
  ssast-lab compare MODEL...     many models on many tasks, in one table and one figure
  ssast-lab study NAME ...       a question that the paper leaves open, from pretraining to its table
  ssast-lab info MODEL           what a model file or folder is; with --evaluate, how well it does on a folder of sound
  ssast-lab export RUN OUT       a run's best model by itself, in half precision, with its history
  ssast-lab data corpus ...      fetch and cut a corpus of free sound from Debian packages
  ssast-lab data tasks ...       small real tasks to measure models on, from Debian packages
  ssast-lab data statistics ...  mean and deviation of a corpus, to normalise with
  ssast-lab bench ...            how fast this machine trains

Each command explains itself with --help."""


def pretrain(arguments: list[str]) -> None:
    """``ssast-lab pretrain RECIPE``: every field of the configuration is a flag."""
    from dataclasses import dataclass, field

    import tyro

    from ssast_lab import config
    from ssast_lab.pretrain import pretrain as train

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
    from ssast_lab.forecast import ForecastConfig, forecast, recipe

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
    from ssast_lab.classify import fine_tune, judged, read_splits, together

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


def probe(arguments: list[str]) -> None:
    """``ssast-lab probe UPSTREAM TASK...``"""
    import tyro

    from ssast_lab.labelled import read_labelled
    from ssast_lab.probe import probe_task
    from ssast_lab.upstreams import upstream as find

    def run(
        upstream: tyro.conf.Positional[str],
        tasks: tyro.conf.Positional[tuple[str, ...]],
        layer: int | Literal["best"] = "best",
        pooling: str = "mean",
        cache: Path = Path("runs/embeddings"),
        seed: int = 0,
        download: bool = False,
    ) -> None:
        """A linear probe: a logistic regression on the frozen embeddings of a model, judged on sounds it has not met.

        Args:
            upstream: a built-in model, checkpoint, run or official .pth; scratch:NAME for the same with random weights;
                logmel for plain statistics; wav2vec2-base or hubert-base.
            tasks: folders of tasks (ssast-lab data tasks), folders with one sub-folder per class, or tables.
            layer: the number of a layer from 0, or best: chosen without the test clips.
            pooling: mean, max, cls or statistics.
            cache: a folder for the embeddings, so that each sound goes through each model only once.
            seed: of the cross-validation.
            download: fetch the weights of wav2vec2-base or hubert-base when they are not on this machine.
        """
        chosen = find(upstream, download)
        for task in tasks:
            labelled = read_labelled(task)
            print(
                f"{task}\n{probe_task(chosen, labelled, layer, pooling, cache, seed, progress=sys.stderr.isatty())}\n"
            )

    tyro.cli(run, args=arguments, prog="ssast-lab probe")


def compare(arguments: list[str]) -> None:
    """``ssast-lab compare UPSTREAM... --tasks TASK... --out FOLDER``"""
    import tyro

    from ssast_lab.compare import compare as run

    def table(
        upstreams: tyro.conf.Positional[tuple[str, ...]],
        tasks: tuple[str, ...],
        out: Path,
        pooling: str = "mean",
        layer: int | Literal["best"] = "best",
        cache: Path = Path("runs/embeddings"),
        seeds: tuple[int, ...] = (0,),
        fine_tune: str = "",
        epochs: int | None = None,
        baseline: str | None = None,
        download: bool = False,
    ) -> None:
        """Run models over tasks by a linear probe, and by fine-tuning where it is asked for; write one table and figure.

        What was done before is not done again.

        Args:
            upstreams: models as for ssast-lab probe; ours=runs/pretrain calls one otherwise in the table.
            tasks: folders of tasks (ssast-lab data tasks), folders with one sub-folder per class, or tables.
            out: the folder of the table, its figure, and what was measured.
            pooling: mean, max, cls or statistics.
            layer: the number of a layer from 0, or best: chosen without the test clips.
            cache: a folder for the embeddings, so that each sound goes through each model only once.
            seeds: of models with random weights, and of fine-tuning.
            fine_tune: also fine-tune every masked spectrogram model by this recipe, such as small.
            epochs: of fine-tuning, instead of the recipe's.
            baseline: what the others are compared with; by default each with itself from scratch, if that is among them,
                else with the first one from scratch.
            download: fetch the weights of wav2vec2-base or hubert-base when they are not on this machine.
        """
        run(upstreams, tasks, out, pooling, layer, cache, seeds, fine_tune, epochs, baseline, download,
            progress=sys.stderr.isatty())  # fmt: skip
        print((out / "README.md").read_text(encoding="utf-8"))

    tyro.cli(table, args=arguments, prog="ssast-lab compare")


def study(arguments: list[str]) -> None:
    """``ssast-lab study NAME --tasks TASK... --corpus FOLDER``"""
    import tyro

    from ssast_lab.studies import study as run

    def make(
        name: tyro.conf.Positional[str],
        tasks: tuple[str, ...],
        corpus: Path | None = None,
        out: Path = Path("docs/studies"),
        size: str = "overnight",
        seeds: tuple[int, ...] = (),
        steps: int | None = None,
        models: tuple[str, ...] = ("tiny-patch", "tiny-frame"),
        runs: Path = Path("runs/studies"),
        cache: Path = Path("runs/embeddings"),
    ) -> None:
        """Answer a question by training and measuring; write its page, table and figure.

        What was trained before is used again.

        Args:
            name: shapes, masks, objectives, corpora, batches, or hiding.
            tasks: the labelled sets to probe on, or to fine-tune on.
            corpus: the folder of a corpus (ssast-lab data corpus), which all but hiding train on.
            out: the folder that the page is written into.
            size: minutes, overnight (on a CPU) or gpu.
            seeds: of training; the size's, if none is named.
            steps: of every training run, instead of the size's.
            models: from which hiding hides: classifiers of the task's labels, or models to fine-tune on it.
            runs: the folder of the training runs.
            cache: the folder of the embeddings.
        """
        page = run(name, tasks, corpus, out, size, seeds, steps, models, runs, cache, progress=sys.stderr.isatty())
        print(f"Written: {page}")

    tyro.cli(make, args=arguments, prog="ssast-lab study")


def info(arguments: list[str]) -> None:
    """``ssast-lab info MODEL``"""
    import tyro

    from ssast_lab import checkpoint
    from ssast_lab.config import ConfigError, ModelConfig, to_dict

    def show(
        model: tyro.conf.Positional[str],
        evaluate: str | None = None,
        counts: tuple[int, ...] = (100, 250, 400),
        json: Path | None = None,
        pictures: Path | None = None,
    ) -> None:
        """What a model is: a built-in name, a checkpoint or run folder, or an official .pth file.

        Args:
            model: the name, folder or file.
            evaluate: measure it on this folder of sound, such as a corpus's "heldout".
            counts: how many patches are hidden then.
            json: a file to write the figures to as well.
            pictures: a .png, .svg or .html file to show eight of the sounds in: as they are, masked, and as drawn.
        """
        if (json or pictures) and not evaluate:
            raise ConfigError("--json and --pictures tell of an evaluation: say on which sounds by --evaluate DIR.")
        loaded = checkpoint.load(model)
        print(f"{model}: {type(loaded).__name__}, {sum(p.numel() for p in loaded.parameters()):,} parameters")
        config = loaded.config
        if isinstance(config, ModelConfig):
            grid = config.grid
            print(f"  encoder   {config.depth} layers, {config.width} wide, {config.heads} heads")
            print(f"  patches   {grid.shape[0]} mel bins x {grid.shape[1]} frames, stride {grid.stride[0]} x "
                  f"{grid.stride[1]}: {grid.rows} x {grid.columns} = {grid.count} in {config.frames} frames")  # fmt: skip
            print(f"  features  {config.audio.mel_bins} mel bins, mean {config.audio.mean:g}, "
                  f"deviation {config.audio.std:g}")  # fmt: skip
            if config.labels:
                more = " ..." if len(config.labels) > 8 else ""
                print(f"  labels    {len(config.labels)}: {', '.join(config.labels[:8])}{more}")
        else:
            for name, value in to_dict(config).items():
                print(f"  {name:9} {value}")
        if model in checkpoint.builtin_models() or Path(model).is_dir():
            for name, value in checkpoint.describe(model)["about"].items():
                if isinstance(value, str | int | float):
                    print(f"  {name:9} {value}")
        if evaluate:
            _evaluate(loaded, evaluate, counts, json, pictures)

    tyro.cli(show, args=arguments, prog="ssast-lab info")


def _evaluate(model: Any, folder: str, counts: tuple[int, ...], out: Path | None, pictures: Path | None) -> None:
    import json
    from dataclasses import asdict

    import torch

    from ssast_lab.checkpoint import CheckpointError
    from ssast_lab.config import ConfigError
    from ssast_lab.evaluation import evaluate, examples
    from ssast_lab.model import SSAST

    if pictures and pictures.suffix not in (".png", ".svg", ".html"):
        raise ConfigError(f"Pictures are written as .png, .svg or .html, not as {pictures.name}.")
    if not isinstance(model, SSAST):
        raise CheckpointError("Only a pretext model can be evaluated: this one has no pretext heads.")
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    report = evaluate(model, [folder], counts, progress=sys.stderr.isatty())
    print(f"\n{report}")
    if out:
        figures = {"scores": [asdict(score) for score in report.scores], "left_out": report.unreadable}
        out.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if pictures:
        from ssast_lab import figures as draw

        figure = draw.gallery(examples(model, [folder], count=max(counts)))
        if pictures.suffix == ".html":
            pictures.write_text(figure.to_html(), encoding="utf-8")
            return
        try:
            image = draw.picture(figure, pictures.suffix[1:])
        except Exception as error:  # kaleido is not installed, or its browser is missing or fails in one of many ways
            raise ConfigError(
                f"No {pictures.suffix} could be drawn ({type(error).__name__}: {error}): install kaleido and Chromium, "
                "or have the pictures written as .html."
            ) from error
        pictures.write_bytes(image)


def export(arguments: list[str]) -> None:
    """``ssast-lab export RUN OUT``"""
    import tyro

    from ssast_lab.run import Run

    def write(
        run: tyro.conf.Positional[Path],
        out: tyro.conf.Positional[Path],
        title: str = "",
        note: str = "",
        licence: str = "",
        stop_gap: bool = False,
    ) -> None:
        """Write the best model of a training run into a folder of its own: float16, with its recipe, corpus and curves.

        Args:
            run: the folder of the run.
            out: the folder to write; it can be handed on, and is read wherever a model is named.
            title: what the app calls it; by default the folder's name.
            note: what the app says of it.
            licence: under which it may be used.
            stop_gap: it is only there until a better one is.
        """
        about = {"title": title or out.name, "note": note, "licence": licence, "stop_gap": stop_gap}
        Run(run).export(out, {name: value for name, value in about.items() if value})
        print(f"{out}: {sum(path.stat().st_size for path in out.iterdir()) / 1e6:.1f} MB")

    tyro.cli(write, args=arguments, prog="ssast-lab export")


def data(arguments: list[str]) -> None:
    """``ssast-lab data corpus|tasks|statistics``"""
    import tyro

    def corpus(out: Path, size: str = "large", workers: int = os.cpu_count() or 1) -> None:
        """Fetch, unpack, decode and cut a corpus of free speech, music and effects from Debian packages.

        Args:
            out: the folder that the shards, the manifest and the card are written into.
            size: "large" (about 20 hours from 1.7 GB of packages) or "small" (about 8 hours from 0.3 GB).
            workers: processes that share the packages; the corpus is the same, however many.
        """
        from ssast_lab.corpus import build

        build(out, size=size, workers=workers)

    def tasks(out: Path, names: tuple[str, ...] = (), cache: Path | None = None) -> None:
        """Build small labelled tasks of real sound from Debian packages, no voice, kit or game on both sides.

        Args:
            out: the folder that each task's folder is written into.
            names: the tasks to build; all of them, if none is named.
            cache: a folder that keeps the packages that were fetched.
        """
        from ssast_lab.tasks import build

        build(out, names or None, cache)

    def statistics(sources: tyro.conf.Positional[tuple[str, ...]], limit: int = 10_000) -> None:
        """Mean and standard deviation of the log-mel features of a corpus: --model.audio.mean and --model.audio.std.

        Args:
            sources: folders, sound files, manifests or tar shards.
            limit: at most so many clips are heard.
        """
        from ssast_lab.data import find_clips
        from ssast_lab.data import statistics as measure

        mean, std, clips = measure(find_clips(sources), limit, progress=sys.stderr.isatty())
        print(f"mean {mean:.7f}, standard deviation {std:.7f} over {clips} clips")

    tyro.extras.subcommand_cli_from_dict(
        {"corpus": corpus, "tasks": tasks, "statistics": statistics}, args=arguments, prog="ssast-lab data"
    )


def bench(arguments: list[str]) -> None:
    """``ssast-lab bench``"""
    import tyro

    from ssast_lab.bench import bench as measure

    tyro.cli(measure, args=arguments, prog="ssast-lab bench")


def app(arguments: list[str]) -> None:
    """``ssast-lab app``"""
    from ssast_lab.app import main as serve

    serve(arguments)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "app": app, "pretrain": pretrain, "finetune": finetune, "probe": probe, "compare": compare,
    "study": study, "info": info, "export": export, "data": data, "bench": bench,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(HELP)
        return
    if name not in COMMANDS:
        sys.exit(f"ssast-lab: there is no command {name!r}; there are {', '.join(COMMANDS)}.")
    try:
        COMMANDS[name](rest)
    except (ValueError, RuntimeError) as error:
        # those of our own classes are sentences for the user; anything else is a defect and keeps its trace
        if not type(error).__module__.startswith("ssast_lab."):
            raise
        sys.exit(f"ssast-lab {name}: {error}")
    except BrokenPipeError:  # of whoever read only the beginning
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # the machine's, not a defect: a full disk, a folder that cannot be written
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"ssast-lab {name}: {where}{error.strerror or ' '.join(str(error).split())}.")
    except KeyboardInterrupt:
        print(f"ssast-lab {name}: interrupted.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
