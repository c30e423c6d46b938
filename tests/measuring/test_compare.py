"""A comparison says what its parts say, goes on where it was interrupted, and calls nothing better that may be chance."""

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny import RATE

from ssast_lab import checkpoint, figures, metrics
from ssast_lab.__main__ import main
from ssast_lab.config import LabelledConfig, ModelConfig
from ssast_lab.data.labelled import read_labelled
from ssast_lab.learning import classify
from ssast_lab.measuring import compare
from ssast_lab.measuring.compare import (
    ABOVE,
    BELOW,
    PROBED,
    TUNED,
    UNDECIDED,
    CompareError,
    Comparison,
    TaskResult,
    averaged,
    by_length,
    paired_difference,
    write,
)  # fmt: skip
from ssast_lab.measuring.compare.lengths import seconds_of
from ssast_lab.measuring.compare.rows import Rows, read_tasks
from ssast_lab.measuring.probe import probe_task
from ssast_lab.measuring.upstreams import upstream
from ssast_lab.model import SSAST

PITCHES = {"low": 200, "middle": 500, "high": 1200}
FOLDS = ("train", "train", "train", "valid", "test", "test")


def write_task(folder, folds=FOLDS, clips=54, spread=1.3):
    """Tones in noise whose pitches overlap a little; every clip has a source of its own."""
    folder.mkdir(parents=True)
    random, rows = np.random.default_rng(clips), ["path,label,source,fold"]
    for number in range(clips):
        label = list(PITCHES)[number // len(folds) % 3]
        t = np.arange(round(random.uniform(0.3, 0.8) * RATE)) / RATE
        tone = 0.1 * np.sin(2 * np.pi * PITCHES[label] * spread ** random.uniform(-1, 1) * t)
        soundfile.write(folder / f"{number}.wav", tone + 0.1 * random.standard_normal(len(t)), RATE, subtype="PCM_16")
        rows.append(f"{number}.wav,{label},s{number},{folds[number % len(folds)]}")
    (folder / "task.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("tasks") / "tones")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two seeds of a small random model."""
    folder = tmp_path_factory.mktemp("models")
    for seed in (0, 1):
        torch.manual_seed(seed + 5)
        checkpoint.save(SSAST(ModelConfig(width=32, depth=2, heads=2, frames=64)), folder / f"small-{seed}")
    return folder


@pytest.fixture(autouse=True)
def no_browser(monkeypatch):
    """Figures are pages, but where a test asks for a picture: a browser takes seconds to start."""
    monkeypatch.setitem(sys.modules, "kaleido", None)


def rows_of(out):
    with (out / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_figure_is_that_of_the_probe(task, models, tmp_path):
    name = str(models / "small-0")
    compared = compare.compare([name, "logmel"], [task], tmp_path / "out", cache=tmp_path / "cache")
    assert [(e.upstream, e.task, e.method) for e in compared.results] == [
        (name, "tones", PROBED),
        ("logmel", "tones", PROBED),
    ]
    for entry, row in zip(compared.results, rows_of(tmp_path / "out"), strict=True):
        alone = probe_task(upstream(entry.upstream), read_labelled(task))
        assert entry.figure == alone.scores.accuracy
        assert np.allclose(entry.runs[0].scores, alone.scores.scores, atol=1e-6)
        assert entry.layers == (alone.layer,)
        assert float(row["value"]) == pytest.approx(alone.scores.accuracy.value, abs=1e-4)
        assert float(row["macro_recall"]) == pytest.approx(alone.scores.macro_recall.value, abs=1e-4)
        assert (row["upstream"], row["clips"], row["tested"]) == (entry.upstream, "54", "18")
    assert set(compared.baselines.values()) == {""}
    assert all(entry.difference is None for entry in compared.results)


def test_a_comparison_goes_on_where_it_was(task, models, tmp_path, monkeypatch):
    """What was done is not done again, whatever it is called now and wherever the task lies; what changed is."""
    names, out = [f"scratch:{models / 'small-0'}", "logmel"], tmp_path / "out"
    compare.compare(names, [task], out, cache=None, seeds=(0, 1))
    table = (out / "table.csv").read_bytes()
    rows = sorted((out / "rows").iterdir())
    assert len(rows) == 3  # two seeds of the one, the other once
    rows[0].unlink()

    done = []
    probe = Rows._probe
    monkeypatch.setattr(Rows, "_probe", lambda self, *rest: done.append(rest) or probe(self, *rest))
    compare.compare(names, [task], out, cache=None, seeds=(0, 1))
    assert len(done) == 1
    without = [{k: v for k, v in row.items() if k != "seconds"} for row in rows_of(out)]
    again = csv.DictReader(table.decode().splitlines())
    assert without == [{k: v for k, v in row.items() if k != "seconds"} for row in again]
    shutil.copytree(task, tmp_path / "elsewhere" / "tones")
    compare.compare({"floor": names[1]}, [tmp_path / "elsewhere" / "tones"], out, cache=None)
    assert len(done) == 1
    compare.compare(["logmel"], [task], out, cache=None, pooling="max")
    assert len(done) == 2
    changed = tmp_path / "elsewhere" / "tones" / "task.csv"
    changed.write_text(changed.read_text().replace("s0,train", "s0,valid"))
    compare.compare(["logmel"], [changed], out, cache=None)
    assert len(done) == 3


def test_what_fails_is_a_sentence_and_the_rest_goes_on(task, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    leaking = shutil.copytree(task, tmp_path / "leaking")
    manifest = leaking / "task.csv"
    manifest.write_text(re.sub(r",s\d+,", ",one,", manifest.read_text()))
    tasks = [tmp_path / "absent", leaking, tmp_path / "empty", task]
    compared = compare.compare(["wav2vec2-base", "logmel", "nonsense"], tasks, tmp_path / "out", cache=None)
    failures = {(e.upstream, e.task): e.failure for e in compared.results}
    assert len(failures) == 12
    assert failures["logmel", "tones"] == ""
    assert "wav2vec2-base" in failures["wav2vec2-base", "tones"]
    assert "--download" in failures["wav2vec2-base", "tones"]
    assert "no upstream 'nonsense'" in failures["nonsense", "tones"]
    assert "no such file or folder" in failures["logmel", "absent"]
    assert "leaks" in failures["logmel", "leaking"]
    assert "No labelled sound" in failures["logmel", "empty"]
    page = (tmp_path / "out" / "README.md").read_text()
    assert "- wav2vec2-base: The weights of wav2vec2-base (360 MB)" in page
    assert "| wav2vec2-base | – | – | – | – |" in page
    assert [bool(row["failure"]) for row in rows_of(tmp_path / "out")] == [bool(f) for f in failures.values()]


def test_seeds_are_drawn_and_named(task, models, tmp_path):
    """scratch:NAME by each seed, {seed} in a name by each; what nobody draws is measured once."""
    scratch, pattern = f"scratch:{models / 'small-0'}", str(models / "small-{seed}")
    compared = compare.compare(
        {"scratch": scratch, "ours": pattern, "floor": "logmel"}, [task], tmp_path / "out", cache=None, seeds=(0, 1)
    )
    by_name = {entry.upstream: entry for entry in compared.results}
    for seed in (0, 1):
        for called, name in (("scratch", f"scratch@{seed}:{models / 'small-0'}"), ("ours", models / f"small-{seed}")):
            alone = probe_task(upstream(name), read_labelled(task))
            assert by_name[called].singles[seed] == alone.scores.accuracy.value
    assert [len(by_name[name].runs) for name in ("scratch", "ours", "floor")] == [2, 2, 1]
    assert by_name["ours"].figure.value == pytest.approx(np.mean(by_name["ours"].singles))
    assert by_name["ours"].deviation == pytest.approx(np.std(by_name["ours"].singles, ddof=1))
    assert set(compared.baselines.values()) == {"scratch"}
    assert by_name["scratch"].difference is None
    gained = by_name["floor"].figure.value - by_name["scratch"].figure.value
    assert by_name["floor"].difference.interval.value == pytest.approx(gained)
    page = (tmp_path / "out" / "README.md").read_text()
    best = max(entry.figure.value for entry in compared.results)
    assert set(re.findall(r"\*\*(\d\.\d{3})", page)) == {f"{best:.3f}"}
    assert f"ssast-lab compare scratch={scratch} " in page


def scored(random, right, clips=200, labels=4, several=False):
    """Scores that are right on about such a share of the clips."""
    targets = np.eye(labels)[np.arange(clips) % labels]
    if several:
        targets[::5] = 1 - targets[::5]
    hit = random.random((clips, 1)) < right
    return metrics.score(targets, targets * hit + random.random((clips, labels)), list("abcd"))


def test_a_difference_is_told_for_each_length(tmp_path):
    """A model that is right on the short half of the clips, and one that is right on the long half."""
    folder, random = tmp_path / "mixed", np.random.default_rng(0)
    folder.mkdir()
    rows = ["path,label,source,fold"]
    for number in range(140):
        seconds = 0.3 if number % 4 < 2 else 1.0
        soundfile.write(folder / f"{number}.wav", 0.1 * random.standard_normal(round(seconds * RATE)), RATE)
        rows.append(f"{number}.wav,{'ab'[number % 2]},s{number},{'test' if number < 80 else 'train'}")
    (folder / "task.csv").write_text("\n".join(rows) + "\n")
    (folder / "0.wav").write_bytes(b"nothing")
    tests = read_tasks([folder])[0].tests
    long = np.array([int(Path(clip.name).stem) % 4 >= 2 for clip in tests.clips])
    lengths = {"mixed": seconds_of(tests.clips)}
    assert np.isnan(lengths["mixed"]).sum() == 1
    assert np.nanmax(np.abs(lengths["mixed"] - np.where(long, 1.0, 0.3))) < 1e-6

    def entry(name, right):
        scores = np.where(right[:, None], tests.targets, 1 - tests.targets)
        runs = (metrics.score(tests.targets, scores, tests.labels, tests.sources),) * 2
        return TaskResult(name, "mixed", PROBED, "", runs, averaged=averaged(runs))

    entries = [entry("patch", long), entry("frame", ~long)]
    lines = by_length([("frame", "patch")], entries, lengths)
    assert lines[0] == "| task | difference | below 0.5 s | 0.5 to 2 s | 2 s and longer |"
    assert lines[2] == (
        "| mixed | *frame* minus *patch* | +1.000 [+1.000, +1.000] ▲ (39) | -1.000 [-1.000, -1.000] ▼ (40) |  |"
    )
    assert by_length([("frame", "other")], entries, lengths) == []
    assert by_length([("frame", "patch")], entries, {"mixed": np.full(80, 0.3)}) == []

    write(Comparison(tuple(entries), {"frame": "patch", "patch": "patch"}, {}, "command", lengths), tmp_path / "out")
    assert lines[2] in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("several", [False, True])
def test_seeds_together_are_their_mean(several):
    random = np.random.default_rng(0)
    runs = [scored(random, right, several=several) for right in (0.5, 0.7, 0.9)]
    both = averaged(runs)
    spreads = metrics.over_seeds(runs)
    assert both.ranking.mean_average_precision.value == pytest.approx(spreads["mean_average_precision"].mean)
    if not several:
        assert both.decisions.accuracy.value == pytest.approx(spreads["accuracy"].mean)
        assert both.decisions.macro_recall.value == pytest.approx(spreads["macro_recall"].mean)
    # The same run as if it were three: nothing is known better for being said thrice.
    thrice = averaged([runs[0]], 3)
    one, three = runs[0].mean_average_precision, thrice.ranking.mean_average_precision
    assert tuple(three) == pytest.approx(tuple(one))
    if not several:
        assert tuple(thrice.decisions.accuracy) == pytest.approx(tuple(runs[0].accuracy))


def entry(*runs):
    return TaskResult("one", "task", PROBED, "", tuple(runs), averaged=averaged(runs))


def test_better_is_what_neither_clips_nor_seeds_explain():
    random = np.random.default_rng(1)
    good, bad = ([scored(random, right) for _ in range(3)] for right in (0.9, 0.3))
    assert paired_difference(entry(*good), entry(*bad)).verdict == ABOVE
    assert paired_difference(entry(*bad), entry(*good)).verdict == BELOW
    assert paired_difference(entry(good[0]), entry(*bad)).verdict == ABOVE
    same = paired_difference(entry(*good), entry(*good))
    assert (same.interval.value, same.interval.low, same.interval.high, same.verdict) == (0, 0, 0, UNDECIDED)
    # Two of three seeds are far better, but one is as bad as the others: training, not the model, may have decided.
    mixed = paired_difference(entry(good[0], good[1], bad[0]), entry(*bad))
    assert mixed.interval.low > 0
    assert mixed.verdict == UNDECIDED


def test_a_single_seed_is_compared_as_metrics_compares():
    random = np.random.default_rng(2)
    one, other = scored(random, 0.6), scored(random, 0.5)
    assert paired_difference(entry(one), entry(other)).interval == metrics.difference(one, other).accuracy


@pytest.mark.parametrize("folds", [FOLDS, ("1", "2", "3")])
def test_fine_tuning_is_that_of_the_classifier(folds, models, tmp_path):
    task = write_task(tmp_path / "task", folds)
    name = str(models / "small-0")
    compared = compare.compare([name, "logmel"], [task], tmp_path / "out", cache=None, fine_tune="small", epochs=2)
    (tuned, other) = compared.of(TUNED)
    assert "no masked spectrogram model" in other.failure
    (folder,) = (tmp_path / "out" / "fine-tuned").iterdir()
    reports = [json.loads(path.read_text()) for path in sorted(folder.glob("*/report.json"))]
    right = sum(report[0]["accuracy"]["value"] * report[0]["clips"] for report in reports)
    assert tuned.figure.value == pytest.approx(right / len(tuned.runs[0].targets))
    assert len(tuned.runs[0].targets) == (18 if folds is FOLDS else 54)

    # A run that was finished, but whose row was not written any more, is judged and not trained again.
    row = next(path for path in (tmp_path / "out" / "rows").iterdir() if path.stem == folder.name)
    row.unlink()
    starts = {path: path.read_bytes() for path in folder.glob("*/metrics.jsonl")}
    again = compare.compare([name], [task], tmp_path / "out", cache=None, fine_tune="small", epochs=2)
    assert again.of(TUNED)[0].figure == tuned.figure
    assert starts == {path: path.read_bytes() for path in folder.glob("*/metrics.jsonl")}


def test_a_run_that_was_stopped_stops_the_comparison(task, models, tmp_path, monkeypatch):
    """Ctrl-C ends training after a checkpoint, without an error: half a run must not become a figure."""

    def stopped(recipe, run, progress=False):
        steps = classify.fine_tune(recipe, run)
        yield next(steps)
        steps.close()

    monkeypatch.setattr("ssast_lab.measuring.compare.rows.fine_tune", stopped)
    with pytest.raises(KeyboardInterrupt):
        compare.compare([str(models / "small-0")], [task], tmp_path / "out", cache=None, fine_tune="small", epochs=2)
    monkeypatch.undo()


def test_scratch_is_fine_tuned_from_the_weights_that_are_probed(task, models, tmp_path):
    """Else the row would be keyed by other weights than those that were trained."""
    rows = Rows(tmp_path, "mean", "best", None, "small", 1, False, False)
    (read,) = read_tasks([task])
    name = f"scratch:{models / 'small-0'}"
    found = upstream(f"scratch@3:{models / 'small-0'}")
    recipe = rows._tuning(found, name, read, seed=3)
    tuning = classify.FineTuning(recipe)
    assert recipe.data == LabelledConfig(str(task))
    for key, value in tuning.classifier.encoder.state_dict().items():
        if key != "positions":  # of a shorter window
            assert torch.equal(value, found.module.state_dict()[key])


def test_nothing_to_compare_is_said(task, tmp_path):
    with pytest.raises(CompareError, match="nothing to compare"):
        compare.compare([], [task], tmp_path)
    with pytest.raises(CompareError, match="baseline 'x' is not among"):
        compare.compare(["logmel"], [task], tmp_path, baseline="x")
    with pytest.raises(CompareError, match="Both logmel and scratch:nano-patch are called 'a': give each its own name"):
        compare.compare(["a=logmel", "b=logmel", "a=scratch:nano-patch"], [task], tmp_path)
    assert not any(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(CompareError, match=r"file/rows/.* cannot be written: Not a directory\.$"):
        compare.compare(["logmel"], [task], tmp_path / "file", cache=None)


DOTS = [
    figures.Dot("a", "one", 0.5, 0.4, 0.7, (0.45, 0.55)),
    figures.Dot("b", "one", 0.6, 0.5, 0.8),
    figures.Dot("a", "two", 0.9, 0.8, 0.9),
]


def test_dots_stand_at_their_values():
    figure = figures.dots(DOTS, "title", "accuracy")
    named = {trace.name: trace for trace in figure.data if trace.name}
    assert list(named) == ["one", "two"]
    assert list(named["one"].x) == [0.5, 0.6]
    assert list(named["one"].error_x.array) == pytest.approx([0.2, 0.2])
    assert list(named["one"].error_x.arrayminus) == pytest.approx([0.1, 0.1])
    ticks = dict(zip(figure.layout.yaxis.ticktext, figure.layout.yaxis.tickvals))
    assert ticks["a"] > ticks["b"]  # read from the top
    assert named["one"].y[0] > named["two"].y[0]
    for name, rows in (("one", "ab"), ("two", "a")):
        assert [round(y) for y in named[name].y] == [ticks[row] for row in rows]
    assert list(figure.data[0].x) == [0.45, 0.55]


def test_lines_stand_in_the_panel_of_their_task():
    at = [0, 50]
    measured = [
        figures.Line(panel, name, at, [0.5, 0.4], [0.4, 0.3], [0.6, 0.5], 0.25)
        for panel in "abcd"
        for name in ("x", "y")
    ]
    figure = figures.lines(measured, "title", "hidden", "accuracy")
    drawn = [trace for trace in figure.data if trace.name in ("x", "y")]
    assert [(trace.xaxis, trace.name) for trace in drawn] == [
        (axis, name) for axis in ("x", "x2", "x3", "x4") for name in ("x", "y")
    ]
    assert [trace.name for trace in figure.data if trace.showlegend is not False] == ["guessing", "x", "y"]
    domains = [(figure.layout[f"xaxis{n}"].domain, figure.layout[f"yaxis{n}"].domain) for n in ("", 2, 3, 4)]
    for (left, right), (low, high) in domains:
        assert 0 <= left < right <= 1
        assert 0 <= low < high <= 1
    assert domains[0][0] == domains[3][0]  # the fourth stands below the first
    assert domains[3][1][1] < domains[0][1][0]
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert list(bands[0].x) == [0, 50, 50, 0]
    assert list(bands[0].y) == [0.6, 0.5, 0.3, 0.4]


def test_a_figure_without_a_browser_is_a_whole_page(tmp_path):
    said = compare.draw(figures.dots(DOTS, "title", "accuracy"), tmp_path / "figure")
    assert "[figure.html](figure.html)" in said
    page = (tmp_path / "figure.html").read_text()
    assert not re.search(r"<(script|link)[^>]+(src|href)=", page)
    assert "Plotly.newPlot" in page


@pytest.mark.skipif(not (shutil.which("chromium") or shutil.which("google-chrome")), reason="no browser")
def test_a_figure_with_a_browser_is_a_picture(tmp_path, monkeypatch):
    monkeypatch.undo()
    pytest.importorskip("kaleido")
    said = compare.draw(figures.dots(DOTS, "title", "accuracy"), tmp_path / "figure")
    assert said == "![title](figure.svg)"
    picture = (tmp_path / "figure.svg").read_text()
    assert picture.startswith("<svg")
    assert ">accuracy</text>" in picture
    assert [path.name for path in tmp_path.iterdir()] == ["figure.svg"]


def test_a_model_is_compared_with_itself_from_scratch(task, models, tmp_path):
    """Where that is among the upstreams; the others with the first one from scratch, or all with the one that is named."""
    one, other = (str(models / f"small-{number}") for number in (0, 1))
    names = [one, other, "logmel", "scratch@3:nano-frame", f"scratch:{other}"]
    compared = compare.compare(names, [task], tmp_path / "out", cache=tmp_path / "cache")
    first, own = names[3:]
    assert compared.baselines == {one: first, other: own, "logmel": first, first: first, own: first}
    scores = {entry.upstream: entry.runs[0] for entry in compared.results}
    told = {entry.upstream: entry.difference.interval.value for entry in compared.results if entry.difference}
    assert told.keys() == {one, other, "logmel", own}
    assert told[other] == pytest.approx(scores[other].accuracy.value - scores[own].accuracy.value)
    assert told[one] == pytest.approx(scores[one].accuracy.value - scores[first].accuracy.value)
    page = (tmp_path / "out" / "README.md").read_text()
    assert f"{own} ({other})" in page
    named = compare.compare(names, [task], tmp_path / "out", cache=tmp_path / "cache", baseline="logmel")
    assert set(named.baselines.values()) == {"logmel"}
    assert "below logmel:" in (tmp_path / "out" / "README.md").read_text()


def test_a_second_call_keeps_the_rows_that_are_there_or_says_why_not(task, models, tmp_path, capsys):
    out = ["--tasks", str(task), "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    main(["compare", "logmel", *out])
    assert {row["upstream"] for row in rows_of(tmp_path / "out")} == {"logmel"}
    capsys.readouterr()
    main(["compare", f"ours={models / 'small-0'}", *out])
    said = capsys.readouterr()
    assert {row["upstream"] for row in rows_of(tmp_path / "out")} == {"logmel", "ours"}
    assert said.err.startswith(f"The table in {tmp_path / 'out'} has logmel already, which stay in it.")
    assert said.out.splitlines()[-1].startswith(f"Written: {tmp_path / 'out'}, with README.md")
    main(["compare", "logmel", "--pooling", "statistics", *out])
    assert "was made with another pooling: it is replaced." in capsys.readouterr().err
    assert {row["upstream"] for row in rows_of(tmp_path / "out")} == {"logmel"}


def test_a_probe_is_printed_and_kept_with_its_confusions(task, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["probe", "logmel", str(task)])
    said = capsys.readouterr().out
    folder = tmp_path / "runs" / "probes" / "logmel-tones"
    assert f"Written: {folder.relative_to(tmp_path)}, with classes.csv, confusion.csv, confusion.png" in said
    assert (
        "27 clips of 27 sources to learn from, 9 clips of 9 sources to choose by, 18 clips of 18 sources to judge by"
        in said
    )
    assert "Next: ssast-lab compare logmel logmel" not in said
    with (folder / "confusion.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["true label", "high", "low", "middle"]
    assert [sum(map(int, row[1:])) for row in rows] == [6, 6, 6]
    with (folder / "classes.csv").open(newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["high", "low", "middle"]
    assert (folder / "confusion.png").read_bytes().startswith(b"\x89PNG")
