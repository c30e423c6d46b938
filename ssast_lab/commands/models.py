"""Commands about one model: ``info`` and ``export``."""

import shlex
import sys
from pathlib import Path
from typing import Any, Literal

SETS = {  # of a corpus, to measure on
    "heldout": "packages that were not trained on; models may be chosen by it",
    "elsewhere": "makers that neither training nor choice has met; it only tells",
}

DRAWN = (".png", ".svg", ".html")


def info(arguments: list[str]) -> None:
    """``ssast-lab info MODEL``"""
    import tyro

    from ssast_lab import analysis, checkpoint
    from ssast_lab.commands.arguments import Model
    from ssast_lab.config import ConfigError, ModelConfig, to_dict

    def show(
        model: Model,
        evaluate: str | None = None,
        counts: tuple[int, ...] = (100, 250, 400),
        json: Path | None = None,
        pictures: Path | None = None,
        curves: Path | None = None,
    ) -> None:
        """What a model is: a built-in name, a checkpoint or run folder, or an official .pth file.

        Args:
            model: the name, folder or file.
            evaluate: measure it on this folder of sound, such as "heldout" of a corpus.
            counts: how many patches the evaluation hides.
            json: a file to write the figures to as well.
            pictures: a .png, .svg or .html file for pictures of eight sounds: original, masked, reconstructed.
            curves: a .csv, .png, .svg or .html file for how it learned: both losses and the accuracy against the clips heard.
        """
        if (json or pictures) and not evaluate:
            raise ConfigError("--json and --pictures belong to an evaluation: say on which sounds by --evaluate DIR.")
        for path, kinds in ((pictures, DRAWN), (curves, (".csv", *DRAWN))):
            if path and path.suffix not in kinds:
                raise ConfigError(f"{path.name} would have to end in {', '.join(kinds[:-1])} or {kinds[-1]}.")
            if path and path.suffix != ".csv":
                _can_draw(path)
        loaded, report = checkpoint.load_with_report(model)
        print(f"{model}: {type(loaded).__name__}, {sum(p.numel() for p in loaded.parameters()):,} parameters")
        config = loaded.config
        if isinstance(config, ModelConfig):
            grid = config.grid
            print(f"  encoder   {config.depth} layers, {config.width} wide, {config.heads} heads")
            print(f"  patches   {grid.shape[0]} mel bins x {grid.shape[1]} frames, stride {grid.stride[0]} x "
                  f"{grid.stride[1]}: {grid.rows} x {grid.columns} = {grid.count} in {config.frames} frames")  # fmt: skip
            print(f"  features  {config.audio}")
            if config.labels:
                more = " ..." if len(config.labels) > 8 else ""
                print(f"  labels    {len(config.labels)}: {', '.join(config.labels[:8])}{more}")
        else:
            for name, value in to_dict(config).items():
                print(f"  {name:9} {value}")
        for line in report.lines():
            print(f"  {line}")
        mark = analysis.fingerprint(loaded)
        if mark:
            figures = ", ".join(f"{value:.4f}" for value in mark.figures)
            print(f"  fingerprint of what it does with the sound {mark.sound!r}: {figures}")
        if model in checkpoint.builtin_models() or Path(model).is_dir():
            for name, value in checkpoint.describe(model)["about"].items():
                if isinstance(value, str | int | float):
                    print(f"  {name:9} {f'{value:.6g}' if isinstance(value, float) else value}")
        if curves:
            _write_curves(model, curves)
        if evaluate:
            _evaluate(loaded, evaluate, counts, json, pictures)
        written = [str(path) for path in (curves, json, pictures) if path]
        if written:
            print(f"Written: {', '.join(written)}")
        print(_next(loaded, model, bool(evaluate)))

    tyro.cli(show, args=arguments, prog="ssast-lab info")


def _next(loaded: Any, model: str, evaluated: bool) -> str:
    """What can be done with a model that one has looked at."""
    from ssast_lab.model import SSAST, Classifier

    name = shlex.quote(model)
    if isinstance(loaded, Classifier):
        return f"Next: ssast-lab predict {name} RECORDING.wav --windows"
    if not isinstance(loaded, SSAST):
        return f"Next: ssast-lab probe {name} TASK ..."
    page = f"ssast-lab app --models {name}" if Path(model).is_dir() else "ssast-lab app"
    return f"Next: {page if evaluated else f'ssast-lab info {name} --evaluate FOLDER'}\n      ssast-lab export {name} FOLDER"


def _evaluate(model: Any, folder: str, counts: tuple[int, ...], out: Path | None, pictures: Path | None) -> None:
    from dataclasses import asdict

    import torch

    from ssast_lab import files
    from ssast_lab.checkpoint import CheckpointError
    from ssast_lab.measuring.evaluation import evaluate, examples
    from ssast_lab.model import SSAST

    if not isinstance(model, SSAST):
        raise CheckpointError("Only a pretext model can be evaluated: this one has no pretext heads.")
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    corpus = Path(folder)
    sets = [name for name in SETS if (corpus / "manifest.tsv").is_file() and (corpus / name).is_dir()]
    places = {name: str(corpus / name) for name in sets} or {"": folder}
    reports = {}
    for name, place in places.items():
        report = evaluate(model, [place], counts, progress=sys.stderr.isatty())
        print(f"\n{name}: {SETS[name]}\n{report}" if name else f"\n{report}")
        reports[name] = {
            "scores": [asdict(score) for score in report.scores],
            "left_out": report.unreadable,
            "noticed": report.noticed,
        }
    if out:
        files.write(out, files.to_json(reports if sets else reports[""], indent=1, ensure_ascii=False) + "\n")
    if pictures:
        from ssast_lab import figures as draw

        _write_picture(draw.gallery(examples(model, places.values(), count=max(counts))), pictures)


def _write_curves(model: str, out: Path) -> None:
    import csv
    import io

    from ssast_lab import checkpoint, files
    from ssast_lab.learning.run import Run

    run = (Path(model) / "checkpoints").is_dir()
    about = Run(model).described()[1] if run else checkpoint.about_of(model)
    if not about.get("learned") or "nce" not in about["learned"][0]:
        raise checkpoint.CheckpointError(
            f"{model} does not say how it learned: runs of ssast-lab pretrain do, and what ssast-lab export makes of them."
        )
    if out.suffix != ".csv":
        from ssast_lab import figures as draw

        _write_picture(draw.learned(about), out)
        return
    batch, names = about["recipe"]["training"]["batch"], ("nce", "mse", "accuracy")
    rows = [["training", one["clips"], *(one[name] for name in names)] for one in about["learned"]]
    rows += [["held out", one["step"] * batch, *(one[name] for name in names)] for one in about["curves"]]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["set", "clips", *names], *rows])
    files.write(out, text.getvalue())


def _can_draw(out: Path) -> None:
    """Said before anything is measured: :class:`ConfigError`, or an ImportError that says what to install."""
    from importlib.util import find_spec

    from ssast_lab import figures  # noqa: F401
    from ssast_lab.config import ConfigError
    from ssast_lab.extras import sentence

    if out.suffix != ".html" and find_spec("kaleido") is None:
        raise ConfigError(f"{sentence(ImportError(name='kaleido'))}, or have the pictures written as .html.")


def _write_picture(figure: Any, out: Path) -> None:
    from ssast_lab import figures as draw
    from ssast_lab import files
    from ssast_lab.config import ConfigError

    if out.suffix == ".html":
        files.write(out, figure.to_html())
        return
    try:
        image = draw.picture(figure, out.suffix[1:])
    except Exception as error:  # kaleido's browser is missing, or fails in one of many ways
        raise ConfigError(
            f"No {out.suffix} could be drawn ({type(error).__name__}: {error}): install Chromium, or have the pictures written as .html."
        ) from error
    files.write(out, image)


def export(arguments: list[str]) -> None:
    """``ssast-lab export MODEL OUT``"""
    import tyro

    from ssast_lab import checkpoint
    from ssast_lab.commands.arguments import Folder, Model
    from ssast_lab.learning.run import Run

    def write(
        model: Model,
        out: Folder,
        to: Literal["ours", "transformers", "official", "onnx", "torch"] = "ours",
        takes: Literal["features", "waveform"] = "features",
        int8: bool = False,
        title: str = "",
        note: str = "",
        licence: str = "",
        stop_gap: bool = False,
    ) -> None:
        """Write a model, or the best one of a training run, into a folder of its own, for others to load.

        Args:
            model: a run's folder, or whatever is a model elsewhere: a built-in name, a checkpoint, an official file.
            out: the folder to write. It can be passed on, and one that is "ours" be given wherever a model is named.
            to: "ours" is float16 with recipe, corpus and curves; "transformers" is what Hugging Face's library loads;
                "official" the layout of the published code; "onnx" and "torch" (torch.export) are graphs that need no code of ours.
            takes: what a graph is given: normalised log-mel, or the waveform, with the features in the graph.
            int8: also write an ONNX file with weights of 8 bits, and say what that costs and gains.
            title: its name; by default that of the folder.
            note: a sentence on it.
            licence: under which it may be used.
            stop_gap: a better model is to replace it.
        """
        said = {"title": title, "note": note, "licence": licence, "stop_gap": stop_gap}
        about = {name: value for name, value in said.items() if value}
        target: dict[str, Any] = {"to": to, "takes": takes, "int8": int8}
        best: Any = model
        if (Path(model) / "checkpoints").is_dir():
            best, known = Run(model).described()
        else:
            known = checkpoint.about_of(model)
        if to != "ours":
            target["pictures"] = _curves(known)
        exported = checkpoint.export(best, out, about={"title": out.name} | known | about, **target)
        size = sum(path.stat().st_size for path in exported.path.iterdir())
        print(f"{out}: {size / 1e6:.1f} MB")
        for line in (*exported.notes, *exported.measured):
            print(f"- {line}")
        if to == "ours":
            name = shlex.quote(str(out))
            print(
                f"Next: ssast-lab embed {name} recordings/ --out recordings.npz\n      ssast-lab probe {name} TASK ..."
            )
        else:
            print(f"Next: {out / 'README.md'} says how it is loaded.")

    tyro.cli(write, args=arguments, prog="ssast-lab export")


def _curves(about: dict[str, Any]) -> dict[str, bytes]:
    """A picture of how a model learned, where it is known and can be drawn."""
    try:
        known = "nce" in about["learned"][0]
    except (KeyError, IndexError, TypeError):
        known = False
    if not known:
        return {}
    try:
        from ssast_lab import figures as draw

        return {"curves.svg": draw.picture(draw.learned(about), "svg")}
    except Exception as error:  # plotly, kaleido or its browser is missing, or fails in one of many ways
        print(
            f"The card has no picture of the curves ({type(error).__name__}): pip install 'ssast-lab[app,pictures]' and Chromium draw it."
        )
        return {}
