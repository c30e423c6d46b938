"""What an evaluation says of models whose figures are known beforehand, and of baselines that are computed another way."""

import json
import math
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import write_clips

from ssast_lab import analysis, audio, checkpoint, data
from ssast_lab.__main__ import main
from ssast_lab.config import ConfigError, ModelConfig
from ssast_lab.measuring.evaluation import baseline_mse, evaluate, examples, kinds_of
from ssast_lab.model import SSAST, Classifier
from ssast_lab.objectives import Prediction
from ssast_lab.patches import patchify, unpatchify

PATCH = ModelConfig(width=32, depth=2, heads=2, frames=64)  # 8 x 4 = 32 patches
FRAME = replace(PATCH, patch=(128, 2), stride=(128, 2))  # 32 patches
COUNTS = (6, 20)


class Truth(SSAST):
    """Draws and names every hidden patch as it is."""

    def forward(self, fbank, mask):
        truth = self.targets(fbank, mask)
        return Prediction(50 * torch.linalg.pinv(truth).mT, truth)


class Watched(SSAST):
    """Keeps what it is shown; draws zeros."""

    def forward(self, fbank, mask):
        self.seen = [*getattr(self, "seen", []), *zip(fbank, mask, strict=True)]
        return Prediction(*[torch.zeros(len(mask), int(mask[0].sum()), self.grid.values)] * 2)


@pytest.fixture(scope="module", params=[PATCH, FRAME], ids=["patch", "frame"])
def model(request):
    torch.manual_seed(1)
    return SSAST(request.param).eval()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two shards and a manifest, as ``ssast-lab data corpus`` writes them; the clips are shorter and longer than a window."""
    folder = tmp_path_factory.mktemp("a corpus")
    sounds = write_clips(folder / "sounds", 7)
    (folder / "heldout").mkdir()
    rows = [["shard", "clip", "role", "kind", "package", "licence", "seconds", "files"]]
    for shard, part in enumerate((sounds[:4], sounds[4:])):
        with tarfile.open(folder / f"heldout/{shard:05}.tar", "w") as tar:
            for number, path in enumerate(part):
                tar.add(path, f"{number:06}.flac")
                kind = "speech" if (shard + number) % 2 else "music"
                rows.append([f"heldout/{shard:05}.tar", f"{number:06}", "heldout", kind, "p", "l", "1.0", 'a"b'])
    shutil.rmtree(folder / "sounds")
    (folder / "manifest.tsv").write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def report(model, corpus):
    return evaluate(model, [corpus / "heldout"], COUNTS)


@pytest.mark.parametrize("config", [PATCH, FRAME], ids=["patch", "frame"])
def test_a_model_that_draws_the_truth_is_perfect(config, corpus):
    for score in evaluate(Truth(config), [corpus / "heldout"], COUNTS).scores:
        assert (score.mse, score.mse_reduction, score.accuracy) == (0, 1, 1)
        assert score.nce < 1e-3
        assert 0 < score.better_baseline <= min(score.baselines.values())


def test_the_model_is_measured_on_what_was_hidden(model, corpus, report):
    watched = Watched(model.config)
    zeros = evaluate(watched, [corpus / "heldout"], COUNTS, batch=1)
    values = [patchify(fbank, model.encoder.grid_of(fbank))[mask] for fbank, mask in watched.seen]
    assert [o.mse for o in zeros.outcomes] == pytest.approx([float(v.square().mean()) for v in values], rel=1e-5)
    assert [o.nce for o in zeros.outcomes] == pytest.approx([math.log(o.hidden) for o in zeros.outcomes], rel=1e-5)
    baselines = {(o.name, o.count): o.baselines for o in report.outcomes}
    assert all(o.baselines == baselines[o.name, o.count] for o in zeros.outcomes), "which do not depend on the model"


def test_a_short_clip_is_taken_at_its_own_length(corpus, model):
    watched = Watched(model.config)
    outcomes = evaluate(watched, [corpus / "heldout"], COUNTS, batch=1).outcomes
    lengths = {c.name: len(audio.load_waveform(c.open())) for c in data.find_clips([corpus / "heldout"])}
    short = 0
    for outcome, (fbank, mask) in zip(outcomes, watched.seen, strict=True):
        rows, frames = model.grid.rows, model.grid.shape[1]
        columns = min(audio.OFFICIAL.frames_of(lengths[outcome.name]), 64) // frames
        assert fbank.shape[-2] == columns * frames
        assert mask.shape[-1] == rows * columns
        assert outcome.hidden == int(mask.sum()) == round(outcome.count * rows * columns / model.grid.count)
        short += columns * frames < 64
    assert 0 < short < len(outcomes)


def test_means_are_those_of_the_clips(report):
    scores = {(score.kind, score.count): score for score in report.scores}
    assert [*scores] == [(kind, count) for kind in ("music", "speech", "all") for count in COUNTS]
    for (kind, count), score in scores.items():
        own = [o for o in report.outcomes if o.count == count and kind in (o.kind, "all")]
        assert score.clips == len(own) == {"music": 3, "speech": 4, "all": 7}[kind]
        for name in ("mse", "nce", "accuracy", "better_baseline"):
            assert getattr(score, name) == pytest.approx(np.mean([getattr(o, name) for o in own]))
        assert score.chance == pytest.approx(np.mean([1 / o.hidden for o in own]))
        for name, mse in score.baselines.items():
            assert mse == pytest.approx(np.mean([o.baselines[name] for o in own]))
        assert score.better_baseline == pytest.approx(np.mean([min(o.baselines.values()) for o in own]))
        assert score.mse_reduction == pytest.approx(1 - score.mse / score.better_baseline)


def figures(report):
    return {(o.name, o.count): (o.hidden, o.accuracy, o.nce, o.mse, *o.baselines.values()) for o in report.outcomes}


def test_the_seed_decides_and_batches_do_not(model, corpus, report):
    state = torch.get_rng_state()
    again = evaluate(model, data.find_clips([corpus / "heldout"]), COUNTS)
    assert again == report
    assert torch.equal(torch.get_rng_state(), state)
    single, other = (evaluate(model, [corpus / "heldout"], COUNTS, **how) for how in ({"batch": 1}, {"seed": 1}))
    for key, values in figures(report).items():
        assert figures(single)[key] == pytest.approx(values, rel=1e-4)
        assert figures(other)[key][-1] != values[-1]


# --- baselines ----------------------------------------------------------------------------------------------------


def test_baselines_count_the_hidden_values(model):
    generator = torch.Generator().manual_seed(3)
    sound, mask = torch.randn(64, 128, generator=generator), torch.randperm(32, generator=generator) < 20
    where = unpatchify(mask[:, None].expand(-1, 256).float(), model.grid).bool()
    found = baseline_mse(sound, mask, model.grid)
    total = 0.0
    for mel in range(128):
        own = where[:, mel]
        mean = sound[~own, mel].mean() if bool((~own).any()) else sound[~where].mean()
        total += float((sound[own, mel] - mean).square().sum())
    assert found.pop("bin mean") == pytest.approx(total / int(where.sum()), rel=1e-4)
    picture, hidden = sound.double().numpy(), where.numpy()
    drawn = (
        analysis.linear_in_time(picture, hidden[:, 0])
        if model.grid.rows == 1
        else analysis.linear_inpainting(picture, hidden)
    )
    assert [*found.values()] == pytest.approx([((drawn - picture)[hidden] ** 2).mean()])


# --- clips, errors and the command --------------------------------------------------------------------------------


def test_kinds_come_from_the_manifest_of_a_corpus(corpus, tmp_path, monkeypatch):
    clips = data.find_clips([corpus / "heldout"])
    _, *rows = (corpus / "manifest.tsv").read_text(encoding="utf-8").splitlines()
    assert kinds_of(clips) == [row.split("\t")[3] for row in rows]
    monkeypatch.chdir(corpus / "heldout")
    assert kinds_of(data.find_clips(["."])) == kinds_of(clips)
    assert kinds_of(data.find_clips([shutil.copy(corpus / "heldout/00000.tar", tmp_path)])) == ["all"] * 4
    (tmp_path / "a").mkdir()
    shutil.copy(corpus / "heldout/00000.tar", tmp_path / "a")
    (tmp_path / "manifest.tsv").write_text("path\nof something else\n")
    assert kinds_of(data.find_clips([tmp_path / "a", *write_clips(tmp_path / "b", 1)])) == ["all"] * 5


def test_what_cannot_be_measured_is_said(model, tmp_path):
    (path,) = write_clips(tmp_path, 1, (1.0, 1.0))
    (tmp_path / "noise.wav").write_bytes(b"no sound")
    found = evaluate(model, [tmp_path], (5,))
    assert [o.name for o in found.outcomes] == [str(path)]
    assert [*found.unreadable] == [str(tmp_path / "noise.wav")]
    assert "Left out: 1 clips, such as" in str(found)
    assert {o.kind for o in found.outcomes} == {"all"} == {s.kind for s in found.scores}
    path.unlink()
    with pytest.raises(data.DataError, match="None of the 1 clips can be evaluated on"):
        evaluate(model, [tmp_path], (5,))
    for counts in ((), (0,), (5, 32)):
        with pytest.raises(ConfigError, match="of which 1 to 31 can be hidden"):
            evaluate(model, [tmp_path], counts)


def test_the_command_prints_and_writes_the_same(model, corpus, report, tmp_path, capsys):
    folder = checkpoint.save(model, tmp_path / "model")
    main(["info", str(folder)])
    alone = capsys.readouterr().out
    asked = ["info", str(folder), "--evaluate", str(corpus / "heldout"), "--counts", "6", "20"]
    main([*asked, "--json", str(tmp_path / "figures.json")])
    shown = capsys.readouterr().out
    alone, _, after = alone.partition("Next: ")
    assert after
    assert shown.startswith(alone)
    lines = shown.removeprefix(alone).split("\n")
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["left_out"] == {}
    assert len(written["scores"]) == len(report.scores) == 6
    for score, ours, line in zip(written["scores"], report.scores, lines[2:], strict=False):
        assert score["baselines"] == pytest.approx(ours.baselines)
        assert score["mse"] == pytest.approx(ours.mse, rel=1e-4)
        assert line.split()[:3] == [ours.kind, str(ours.count), str(ours.clips)]
        assert f"{score['mse']:.4f}" in line
        assert f"{score['mse_reduction']:.1%}" in line

    main([*asked, "--pictures", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert all(name in page for name, _ in examples(model, [corpus / "heldout"], count=20))
    with pytest.raises(SystemExit, match=r"page\.pdf would have to end in"):
        main([*asked, "--pictures", str(tmp_path / "page.pdf")])

    checkpoint.save(Classifier.from_pretrained(model, ["a", "b"]), tmp_path / "classifier")
    with pytest.raises(SystemExit, match="Only a pretext model can be evaluated"):
        main(["info", str(tmp_path / "classifier"), "--evaluate", str(corpus)])


def test_both_sets_of_a_corpus_are_told(model, corpus, report, tmp_path, capsys):
    whole = tmp_path / "corpus"
    shutil.copytree(corpus, whole)
    for place in ("elsewhere", "train"):
        (whole / place).mkdir()
        shutil.copy(whole / "heldout/00001.tar", whole / place / "00000.tar")
    with (whole / "manifest.tsv").open("a", encoding="utf-8") as manifest:
        for number in range(3):
            manifest.write(f"elsewhere/00000.tar\t{number:06}\telsewhere\teffect\tp\tl\t1.0\tx\n")
    folder = checkpoint.save(model, tmp_path / "model")
    asked = ["info", str(folder), "--evaluate", str(whole), "--counts", "6"]
    main([*asked, "--json", str(tmp_path / "figures.json"), "--pictures", str(tmp_path / "page.html")])
    shown = capsys.readouterr().out.split("\n")
    written = json.loads((tmp_path / "figures.json").read_text())
    assert list(written) == ["heldout", "elsewhere"]
    assert [score["kind"] for score in written["heldout"]["scores"]] == ["music", "speech", "all"]
    assert [score["kind"] for score in written["elsewhere"]["scores"]] == ["effect", "all"]
    assert [score["clips"] for score in written["elsewhere"]["scores"]] == [3, 3]
    for name, figures in written.items():
        at = next(i for i, line in enumerate(shown) if line.startswith(f"{name}: "))
        lines = shown[at + 2 : at + 2 + len(figures["scores"])]
        for score, line in zip(figures["scores"], lines, strict=True):
            assert line.split()[:3] == [score["kind"], "6", str(score["clips"])]
    mse = {score.kind: score.mse for score in report.scores if score.count == 6}
    assert written["heldout"]["scores"][-1]["mse"] == pytest.approx(mse["all"], rel=1e-4)
    assert "effect" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_examples_are_what_was_measured(model, corpus, report):
    shown = examples(model, [corpus / "heldout"], number=3, count=20)
    assert [name for name, _ in shown] == [
        "music 000000",
        "speech 000003",
        "speech 000002",
    ]  # the first, the fourth and the last of seven
    measured = [outcome for outcome in report.outcomes if outcome.count == 20]
    for _, record in shown:
        assert min(abs(record.mse - outcome.mse) for outcome in measured) < 1e-6


def test_a_clip_of_one_patch_is_left_out(tmp_path):
    model = SSAST(replace(FRAME, patch=(128, 32), stride=(128, 32)))
    with pytest.raises(data.DataError, match="shorter than two patches"):
        evaluate(model, write_clips(tmp_path / "short", 1, (0.4, 0.45)), (1,))
