"""Commands that measure: ``probe``, ``compare``, ``study`` and ``bench``."""

import shlex
import sys
from pathlib import Path
from typing import Literal


def probe(arguments: list[str]) -> None:
    """``ssast-lab probe UPSTREAM TASK...``"""
    import tyro

    from ssast_lab import checkpoint
    from ssast_lab.commands import scores
    from ssast_lab.commands.arguments import Model, Tasks
    from ssast_lab.data.labelled import LabelError, read_labelled
    from ssast_lab.measuring.probe import probe_task
    from ssast_lab.measuring.upstreams import upstream as find_upstream

    def run(
        upstream: Model,
        tasks: Tasks = (),
        layer: int | Literal["best"] = "best",
        pooling: str = "mean",
        cache: Path = Path("runs/embeddings"),
        seed: int = 0,
        heads: Path | None = None,
        out: Path = Path("runs/probes"),
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
            out: a folder for the figures of each class and the confusion matrix, in a folder for each model and task.
            heads: a folder to keep the fitted regressions in, under the names of the tasks. In the folder "heads" of a
                model's own folder they are found by checkpoint.heads and by the app.
            download: download the weights of wav2vec2-base or hubert-base when they are not on this machine.
        """
        if not tasks:
            raise LabelError(_tasks_to_name())
        model, progress = find_upstream(upstream, download), sys.stderr.isatty()
        for task in tasks:
            result = probe_task(model, read_labelled(task), layer, pooling, cache, seed, progress=progress)
            print(f"{task}\n{result}", flush=True)
            folder = out / "-".join(Path(name).stem for name in (upstream.replace(":", "-"), task))
            print(f"Written: {folder}, with {', '.join(scores.write(result.scores, folder))}")
            if heads:
                print(f"Written: {checkpoint.save_head(result.head(Path(task).stem), heads, upstream)}")
            print()
        other = "tiny-patch" if upstream == "logmel" else "logmel"
        print(f"Next: ssast-lab compare {shlex.join([upstream, other])} --tasks {shlex.join(tasks)} --out comparison\n"
              f"      ssast-lab finetune small-patch --model {'tiny-patch' if upstream == 'logmel' else shlex.quote(upstream)} "
              f"--data.train {shlex.quote(tasks[0])}")  # fmt: skip

    tyro.cli(run, args=arguments, prog="ssast-lab probe")


def _tasks_to_name() -> str:
    """What can be probed, where nothing was named."""
    from ssast_lab.data import tasks

    here = sorted(str(path.parent) for path in Path("tasks").glob("*/task.csv"))
    found = f" Here are {', '.join(here)}." if here else ""
    return (
        f"Name the tasks: folders with one of clips for each label, tables, or what ssast-lab data tasks --out tasks makes "
        f"({', '.join(tasks.names())}).{found}"
    )


def compare(arguments: list[str]) -> None:
    """``ssast-lab compare UPSTREAM... --tasks TASK... --out FOLDER``"""
    import tyro

    from ssast_lab.commands.arguments import Models, TaskFlag
    from ssast_lab.measuring.compare import compare as run
    from ssast_lab.measuring.compare import earlier

    def table(
        upstreams: Models,
        tasks: TaskFlag,
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

        What was measured before is used again. Where the folder has a table of the same settings, its models and tasks stay in it.

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
        before = earlier(out)
        if before:
            settings = {
                "pooling": pooling,
                "layer": layer,
                "seeds": list(seeds),
                "fine_tune": fine_tune,
                "epochs": epochs,
            }
            changed = [name for name, value in settings.items() if before.settings.get(name) != value]
            gone = [task for task in before.tasks if not Path(task).exists()]
            if changed or gone:
                why = f"with another {' and '.join(changed)}" if changed else f"of {gone[0]}, which is not there now"
                print(
                    f"The table in {out} was made {why}: it is replaced. What was measured stays in {out / 'rows'}.",
                    file=sys.stderr,
                )
            else:
                kept = [name if title == name else f"{title}={name}" for title, name in before.upstreams.items()]
                upstreams, tasks = (
                    tuple(dict.fromkeys((*kept, *upstreams))),
                    tuple(dict.fromkeys((*before.tasks, *tasks))),
                )
                print(
                    f"The table in {out} has {', '.join(before.upstreams)} already, which stay in it.", file=sys.stderr
                )
        run(upstreams, tasks, out, pooling, layer, cache, seeds, fine_tune, epochs, baseline, download,
            progress=sys.stderr.isatty())  # fmt: skip
        print((out / "README.md").read_text(encoding="utf-8"))
        print(
            f"Written: {out}, with README.md and table.csv. The same command with other models adds them to the table."
        )

    tyro.cli(table, args=arguments, prog="ssast-lab compare")


def study(arguments: list[str]) -> None:
    """``ssast-lab study NAME --tasks TASK... --corpus FOLDER``"""
    import tyro

    from ssast_lab.commands.arguments import Name, TaskFlag
    from ssast_lab.measuring.studies import study as run

    def make(
        name: Name,
        tasks: TaskFlag,
        corpus: Path | None = None,
        out: Path = Path("studies"),
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
            corpus: a folder of recordings, or of a corpus (ssast-lab data corpus), to train on; hiding needs none.
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
