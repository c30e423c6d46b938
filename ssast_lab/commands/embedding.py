"""Commands that use a model on recordings: ``embed``, ``near`` and ``predict``."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ssast_lab.commands.progress import progress, tell

if TYPE_CHECKING:
    from ssast_lab.measuring.prediction import Prediction


def embed(arguments: list[str]) -> None:
    """``ssast-lab embed MODEL FOLDER... --out FILE``"""
    import tyro

    from ssast_lab.commands.arguments import Model, Sounds
    from ssast_lab.data import find_clips, seconds_of
    from ssast_lab.measuring.embedder import Embedder
    from ssast_lab.measuring.library import LibraryError, Making

    def make(
        model: Model,
        sounds: Sounds,
        out: Path,
        layers: tuple[int, ...] = (-1,),
        pooling: Literal["mean", "statistics", "cls", "max"] = "mean",
        seconds: float | None = None,
        hop: float | None = None,
        bfloat16: bool = False,
        part: str = "1/1",
        device: str | None = None,
    ) -> None:
        """Embed a folder of recordings: one row for each window, with its file, start and end in seconds.

        What was done before the command was stopped is kept: the same command goes on.

        Args:
            model: a built-in model, checkpoint, run, official .pth, or wav2vec2-base.
            sounds: a folder, whose files are then called by their paths within it; or several folders, files or manifests.
            out: a .parquet or .npz file.
            layers: one layer from 0, or several whose mean is taken; -1 is the last one.
            pooling: of a window's tokens: their mean, mean and standard deviation (statistics), the class token (cls), or max.
            seconds: the length of a window; by default what the model was made for.
            hop: seconds from one window to the next; by default they do not overlap.
            bfloat16: round matrix products so: faster on processors and GPUs that multiply it fast, a little less exact.
            part: 3/64 does the third of 64 parts, on any machine that sees the same files; the last one to end joins them.
            device: cpu or cuda; by default cuda where there is one.
        """
        number, parts = _part(part)
        clips = find_clips(sounds)
        embedder = Embedder(model, layers, pooling, seconds, hop, device, "bfloat16" if bfloat16 else "float32")
        folder = sounds[0] if len(sounds) == 1 and Path(sounds[0]).is_dir() else None
        making = Making(embedder, clips, folder, out)
        todo = [clips[i] for chunk in making.waiting(number, parts) for i in making.chunks[chunk]]
        if todo:
            print(
                f"{len(todo)} of {len(clips)} files to embed by {embedder.upstream.name} on {embedder.device}",
                flush=True,
            )
            with progress(seconds_of(todo)) as heard:
                for _ in making.work(number, parts, heard):
                    pass
        about = making.finish()
        if about is None:
            print(f"Part {part} is done. Other parts are still to do: their results are awaited in {making.folder}, and whoever ends last "
                  f"writes {out}; the same command without --part does all that is left.")  # fmt: skip
            return
        _tell(about, out)
        if not about["windows"]:
            raise LibraryError("None of the files could be read: there is nothing to search.")
        print(f"Next: ssast-lab near {shlex.join([model, str(out)])} RECORDING.wav")

    tyro.cli(make, args=arguments, prog="ssast-lab embed")


def _part(part: str) -> tuple[int, int]:
    from ssast_lab.measuring.library import LibraryError

    number, _, parts = part.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise LibraryError(f"--part is like 3/64, the third of 64 parts, not {part!r}.")
    return int(number), int(parts)


def _tell(about: dict[str, Any], out: Path) -> None:
    by = about["embedder"]
    layers = f"layer{'s' * (len(by['layers']) > 1)} {', '.join(map(str, by['layers']))}"
    print(f"{out}: {about['windows']:,} windows of {about['sounds']:,} files ({about['seconds'] / 3600:.2f} h), {about['width']} values "
          f"each, by {by['model']}, {layers}, pooled by {by['pooling']}")  # fmt: skip
    tell(about["left_out"], about.get("noticed", {}))


def near(arguments: list[str]) -> None:
    """``ssast-lab near MODEL LIBRARY QUERY``"""
    import tyro

    from ssast_lab import audio, files
    from ssast_lab.commands.arguments import File, Model, Sound
    from ssast_lab.measuring.index import Index
    from ssast_lab.measuring.library import embedder_of, read
    from ssast_lab.measuring.library import near as search
    from ssast_lab.tables import text_table

    def find(
        model: Model,
        library: File,
        query: Sound,
        top: int = 10,
        start: float = 0.0,
        end: float | None = None,
        out: Path | None = None,
        index: bool = False,
        device: str | None = None,
    ) -> None:
        """The windows of a library that sound most like a recording to a model: file, second, score.

        The score is the cosine of two embeddings, both centred on the mean of the library; every window is compared,
        unless there is an index.

        Args:
            model: the one that the library was made by.
            library: a .parquet or .npz file that ssast-lab embed has written.
            query: a sound.
            top: so many windows.
            start: of what is searched for in the query, in seconds.
            end: of it; by default the end of the query.
            out: a .csv file for the answer.
            index: search in an index, which is made beside the library the first time: for millions of windows.
            device: cpu or cuda; by default cuda where there is one.
        """
        indexed = Index(library) if index else None
        if indexed and indexed.made:
            print(f"Made: {indexed.folder}, which the next search will use", flush=True)
        known = indexed.library if indexed else read(library)
        notices: list[audio.AudioWarning] = []
        embedder = embedder_of(known, model, device)
        seconds = None if end is None else end - start
        wave = audio.load_waveform(query, start, seconds, notices=notices, to_rate=embedder.rate)
        for notice in notices:
            print(notice, file=sys.stderr)
        asked = embedder(wave, embedder.rate)
        found = indexed.near(asked.clip, top) if indexed else search(known, asked.clip, top)
        rows = [[one.file, f"{one.start:.2f}", f"{one.end:.2f}", f"{one.score:.4f}"] for one in found]
        head = ["file", "start", "end", "score"]
        print("\n".join(text_table(head, rows)))
        if out:
            files.write(out, _csv([head, *rows]))
            print(f"Written: {out}")
        else:
            print("Next: --out FILE.csv keeps it, --top 50 tells more.")

    tyro.cli(find, args=arguments, prog="ssast-lab near")


def predict(arguments: list[str]) -> None:
    """``ssast-lab predict MODEL FILES...``"""

    import tyro

    from ssast_lab import files
    from ssast_lab.commands.arguments import Model, Sounds
    from ssast_lab.config import ConfigError
    from ssast_lab.data import find_clips, seconds_of
    from ssast_lab.measuring.library import chunks_of
    from ssast_lab.measuring.prediction import PredictionError, Predictor

    def name_them(
        model: Model,
        sounds: Sounds,
        heads: tuple[str, ...] = (),
        top: int = 3,
        threshold: float | None = None,
        windows: bool = False,
        seconds: float | None = None,
        hop: float | None = None,
        several: bool | None = None,
        out: Path | None = None,
        device: str | None = None,
    ) -> None:
        """Name the labels of recordings, with probabilities, by a fine-tuned classifier or by the heads of a model.

        Args:
            model: a classifier's run or folder, or a model with heads, such as tiny-patch.
            sounds: files, folders, manifests.
            heads: the heads to ask; by default all that are beside the model.
            top: so many labels, the most probable ones.
            threshold: only labels that are at least so probable.
            windows: also window by window, with start and end in seconds.
            seconds: the length of a window; by default what the model was made for.
            hop: seconds from one window to the next; by default they do not overlap.
            several: a sound may have several labels or none; by default as the classifier was trained.
            out: a .csv or .json file for all of it.
            device: cpu or cuda; by default cuda where there is one.
        """
        if top < 1 or not 0 <= (threshold or 0) <= 1:
            raise ConfigError("--top is at least 1, and --threshold a probability from 0 to 1.")
        if out and out.suffix not in (".csv", ".json"):
            raise ConfigError(f"{out.name} would have to end in .csv or .json.")
        clips = find_clips(sounds)
        if not clips:
            raise PredictionError("There is nothing to name: give some recordings.")
        predictor = Predictor(model, heads, seconds, hop, several, device)
        answers: list[dict[str, Any]] = []
        left_out: dict[str, str] = {}
        noticed: dict[str, str] = {}
        with progress(seconds_of(clips)) as heard:
            for numbers in chunks_of(clips):
                table = predictor.many((clips[number] for number in numbers), heard=heard)
                for place, number in enumerate(numbers):
                    name = files.in_utf8(clips[number].name)
                    if place in table.left_out:
                        left_out[name] = table.left_out[place]
                        continue
                    if place in table.noticed:
                        noticed[name] = table.noticed[place]
                    answer = _answer(name, predictor.of(table, place), top, threshold, windows)
                    answers.append(answer)
                    print("\n".join(_lines(answer)), flush=True)
        tell(left_out, noticed)
        if not answers:
            raise PredictionError("None of the recordings could be read, so that nothing is named.")
        if out:
            content = (
                files.to_json(answers, indent=1, ensure_ascii=False) + "\n"
                if out.suffix == ".json"
                else _csv(_cells(answers))
            )
            files.write(out, content)
            print(f"Written: {out}")
        else:
            print(f"Next: {'' if windows else '--windows tells when, '}--out FILE.csv keeps it.")

    tyro.cli(name_them, args=arguments, prog="ssast-lab predict")


def _answer(
    name: str, found: "dict[str, Prediction]", top: int, threshold: float | None, windows: bool
) -> dict[str, Any]:
    """JSON"""

    def chosen(prediction: "Prediction", window: int | None = None) -> dict[str, float]:
        least = 0.0 if threshold is None else threshold
        return {label: round(value, 6) for label, value in prediction.above(least, window)[:top]}

    seconds = next(iter(found.values())).seconds
    answer: dict[str, Any] = {"file": name, "seconds": round(float(seconds[-1, 1]), 3)}
    answer["clip"] = {question: chosen(prediction) for question, prediction in found.items()}
    if windows:
        answer["windows"] = [
            {"start": round(float(start), 3), "end": round(float(end), 3)}
            | {question: chosen(prediction, number) for question, prediction in found.items()}
            for number, (start, end) in enumerate(seconds)
        ]
    return answer


def _lines(answer: dict[str, Any]) -> list[str]:
    def told(labels: dict[str, float]) -> str:
        return ", ".join(f"{label} {value:.2f}" for label, value in labels.items()) or "nothing"

    wide = max(map(len, answer["clip"]))
    lines = [answer["file"], *(f"  {question:{wide}}  {told(labels)}" for question, labels in answer["clip"].items())]
    for window in answer.get("windows", []):
        span = f"{window['start']:.2f} to {window['end']:.2f} s"
        lines += [f"  {span}  {question:{wide}}  {told(window[question])}" for question in answer["clip"]]
    return lines


def _cells(answers: list[dict[str, Any]]) -> list[list[Any]]:
    rows: list[list[Any]] = [["file", "of", "start", "end", "head", "label", "probability"]]
    for answer in answers:
        parts = [("clip", {"start": 0.0, "end": answer["seconds"]} | answer["clip"])]
        for of, part in parts + [("window", window) for window in answer.get("windows", [])]:
            rows += [
                [answer["file"], of, part["start"], part["end"], question, label, value]
                for question in answer["clip"]
                for label, value in part[question].items()
            ]
    return rows


def _csv(rows: list[list[Any]]) -> str:
    import csv
    import io

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
