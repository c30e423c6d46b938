"""The command line: ``ssast-lab COMMAND --help`` tells the rest."""

import io
import os
import sys
import warnings
from collections.abc import Callable

from ssast_lab import __version__, commands

HELP = """ssast-lab: see, hear and train masked spectrogram models

  ssast-lab app                  the page on http://127.0.0.1:7860
  ssast-lab pretrain RECIPE ...  train a model on a folder of sound (recipes: quick-nano-patch-400, official-base-frame-250, ...)
  ssast-lab finetune RECIPE ...  train a classifier on a trained model (recipes: small-patch, esc50-patch, speechcommands-frame, ...)
  ssast-lab embed MODEL DIR ...  a folder of recordings as a table of embeddings, one row a window
  ssast-lab near MODEL TABLE WAV the windows of such a table that sound most like a recording
  ssast-lab predict MODEL WAV... what a fine-tuned classifier, or the heads of a model, call a recording, and when
  ssast-lab probe MODEL TASK...  a linear probe: what can be read off a model's frozen embeddings
  ssast-lab compare MODEL...     many models on many tasks, in one table and one figure
  ssast-lab study NAME ...       a question that the paper leaves open, from pretraining to its table
  ssast-lab info MODEL           what a model file or folder is; with --evaluate, how well it does on a folder of sound
  ssast-lab export MODEL OUT     a model or a run's best one by itself, for transformers, the official code, ONNX, or as ours
  ssast-lab data look DIR        what lies in a folder of recordings, and what is wrong with which
  ssast-lab data statistics ...  mean and deviation of a corpus, to normalise with
  ssast-lab data corpus ...      fetch and cut a corpus of free sound from Debian packages
  ssast-lab data tasks ...       small real tasks to measure models on, from Debian packages
  ssast-lab bench ...            how fast this machine trains
  ssast-lab completion SHELL     a script for bash, zsh or fish, which then complete commands, options and choices

A MODEL is the name of a built-in one, a folder, a run, an official file (FILE.pth?frames=312&stride=10x10 where its length is in doubt), or
hf:OWNER/NAME, which is fetched from the Hugging Face Hub.

Each command explains itself with --help; ssast-lab --version is known, too. A first day: ssast-lab data look FOLDER tells the next step,
and so does each after it."""


def app(arguments: list[str]) -> None:
    """``ssast-lab app``"""
    from ssast_lab.app import main as serve

    serve(arguments, "ssast-lab app")


def completion(arguments: list[str]) -> None:
    """``ssast-lab completion``"""
    commands.completion(arguments, COMMANDS, HELP)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "app": app,
    "pretrain": commands.pretrain,
    "finetune": commands.finetune,
    "embed": commands.embed,
    "near": commands.near,
    "predict": commands.predict,
    "probe": commands.probe,
    "compare": commands.compare,
    "study": commands.study,
    "info": commands.info,
    "export": commands.export,
    "data": commands.data,
    "bench": commands.bench,
    "completion": completion,
}


def main(arguments: list[str] | None = None) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that is no UTF-8 must not lose what was measured
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(HELP)
        return
    if name == "--version":
        print(f"ssast-lab {__version__}")
        return
    if name not in COMMANDS:
        sys.exit(f"ssast-lab: there is no command {name!r}; there are {', '.join(COMMANDS)}.")
    warnings.formatwarning = lambda message, *_, **__: f"ssast-lab {name}: {message}\n"  # without a line of our code
    try:
        COMMANDS[name](rest)
    except (ValueError, RuntimeError) as error:
        # those of our own classes are sentences for the user; anything else is a defect and keeps its trace
        if not type(error).__module__.startswith("ssast_lab."):
            raise
        sys.exit(f"ssast-lab {name}: {error}")
    except ImportError as error:
        from ssast_lab.extras import sentence

        if not sentence(error):
            raise
        sys.exit(f"ssast-lab {name}: {sentence(error)}")
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
