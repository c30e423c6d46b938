"""Commands that measure: ``probe``, ``compare``, ``study`` and ``bench``."""

import sys
from pathlib import Path
from typing import Literal


def probe(arguments: list[str]) -> None:
    """``ssast-lab probe UPSTREAM TASK...``"""
    import tyro

    from ssast_lab import checkpoint
    from ssast_lab.data.labelled import read_labelled
    from ssast_lab.measuring.probe import probe_task
    from ssast_lab.measuring.upstreams import upstream as find_upstream

    def run(
        upstream: tyro.conf.Positional[str],
        tasks: tyro.conf.Positional[tuple[str, ...]],
        layer: int | Literal["best"] = "best",
        pooling: str = "mean",
        cache: Path = Path("runs/embeddings"),
        seed: int = 0,
        heads: Path | None = None,
        download: bool = False,
    ) -> None:
        """A linear probe: a logistic regression on the frozen embeddings of a model, tested on unseen sounds.

        Args:
            upstream: a built-in model, checkpoint, run or official .pth; scratch:NAME for the same with random weights;
                logmel for statistics of the features; wav2vec2-base or hubert-base.
            tasks: folders of tasks (ssast-lab data tasks), folders with one sub-folder per class, or tables.
            layer: the number of a layer from 0, or best: chosen without the test clips.
            pooling: mean, max, cls or statistics.
            cache: a folder for the embeddings, so that each sound goes through each model only once.
            seed: of the cross-validation.
            heads: a folder to keep the fitted regressions in, under the names of the tasks. In the folder "heads" of a
                model's own folder they are found by checkpoint.heads and by the app.
            download: download the weights of wav2vec2-base or hubert-base when they are not on this machine.
        """
        model, progress = find_upstream(upstream, download), sys.stderr.isatty()
        for task in tasks:
            result = probe_task(model, read_labelled(task), layer, pooling, cache, seed, progress=progress)
            print(f"{task}\n{result}\n")
            if heads:
                print(f"{checkpoint.save_head(result.head(Path(task).stem), heads, upstream)}\n")

    tyro.cli(run, args=arguments, prog="ssast-lab probe")


def compare(arguments: list[str]) -> None:
    """``ssast-lab compare UPSTREAM... --tasks TASK... --out FOLDER``"""
    import tyro

    from ssast_lab.measuring.compare import compare as run

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
        """Compare models on tasks by linear probes, and by fine-tuning if you like; write one table and figure.

        What was measured before is used again.

        Args:
            upstreams: models as for ssast-lab probe; ours=runs/pretrain calls one "ours" in the table.
            tasks: folders of tasks (ssast-lab data tasks), folders with one sub-folder per class, or tables.
            out: the folder of the table, its figure, and the measured scores.
            pooling: mean, max, cls or statistics.
            layer: the number of a layer from 0, or best: chosen without the test clips.
            cache: a folder for the embeddings, so that each sound goes through each model only once.
            seeds: of models with random weights, and of fine-tuning.
            fine_tune: also fine-tune every masked spectrogram model by this recipe, such as small.
            epochs: of fine-tuning, instead of the recipe's.
            baseline: the model that the others are compared with; by default each is compared with itself from scratch,
                if that is among them, else with the first one from scratch.
            download: download the weights of wav2vec2-base or hubert-base when they are not on this machine.
        """
        run(upstreams, tasks, out, pooling, layer, cache, seeds, fine_tune, epochs, baseline, download,
            progress=sys.stderr.isatty())  # fmt: skip
        print((out / "README.md").read_text(encoding="utf-8"))

    tyro.cli(table, args=arguments, prog="ssast-lab compare")


def study(arguments: list[str]) -> None:
    """``ssast-lab study NAME --tasks TASK... --corpus FOLDER``"""
    import tyro

    from ssast_lab.measuring.studies import study as run

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

        Finished runs are used again.

        Args:
            name: shapes, masks, objectives, corpora, batches, or hiding.
            tasks: the labelled sets to probe or to fine-tune on.
            corpus: the folder of a corpus (ssast-lab data corpus) to train on; hiding needs none.
            out: the folder that the page is written into.
            size: minutes, overnight (on a CPU) or gpu.
            seeds: of training; by default those of the size.
            steps: of every training run, instead of the size's.
            models: for hiding: classifiers of the task's labels, or models to fine-tune on the task.
            runs: the folder of the training runs.
            cache: the folder of the embeddings.
        """
        page = run(name, tasks, corpus, out, size, seeds, steps, models, runs, cache, progress=sys.stderr.isatty())
        print(f"Written: {page}")

    tyro.cli(make, args=arguments, prog="ssast-lab study")


def bench(arguments: list[str]) -> None:
    """``ssast-lab bench``"""
    import tyro

    from ssast_lab.measuring.bench import bench as measure

    tyro.cli(measure, args=arguments, prog="ssast-lab bench")
