"""Studies train what they say, once, compare it honestly, and hide what they say they hide."""

import csv
import io
import json
import re
import shutil
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from test_compare import FOLDS, write_task
from tiny import write_clips
from torch.nn import functional as F

from ssast_lab import checkpoint, data
from ssast_lab.config import ConfigError, ModelConfig, PretrainConfig
from ssast_lab.data import DataError, labelled
from ssast_lab.learning import classify
from ssast_lab.learning.pretrain import ShortClips
from ssast_lab.measuring import studies
from ssast_lab.measuring.studies import SIZES, STUDIES, Size, StudyError, hiding, pages, pretraining, study
from ssast_lab.measuring.studies.pages import conclusion, kinds_of
from ssast_lab.model import SSAST, Classifier
from ssast_lab.patches import patchify

pytestmark = pytest.mark.filterwarnings("ignore::ssast_lab.learning.pretrain.ShortClips")  # its clips last a second
RATE = 16000
SMALL = Size("modern", "nano", 4, 12, (0, 1), {"model": {"width": 32, "depth": 2, "heads": 2}})
KINDS = ["speech"] * 9 + ["music"] * 3 + ["effect"] * 3


@pytest.fixture(autouse=True)
def no_browser(monkeypatch):
    monkeypatch.setitem(sys.modules, "kaleido", None)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Shards with a manifest, as ssast-lab data corpus writes them."""
    folder, random = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    rows = ["shard\tclip\trole\tkind\tpackage\tlicence\tseconds\tfiles"]
    for role, kinds in (("train", KINDS), ("heldout", ["speech", "music"])):
        (folder / role).mkdir()
        with tarfile.open(folder / role / "00000.tar", "w") as shard:
            for number, kind in enumerate(kinds):
                sound = io.BytesIO()
                t = np.arange(RATE) / RATE
                wave = 0.3 * np.sin(2 * np.pi * (200 + 100 * number) * t) + 0.01 * random.standard_normal(RATE)
                soundfile.write(sound, wave, RATE, format="OGG", subtype="OPUS")
                info = tarfile.TarInfo(f"{number:06d}.opus")
                info.size = len(sound.getvalue())
                sound.seek(0)
                shard.addfile(info, sound)
                rows.append(f'{role}/00000.tar\t{number:06d}\t{role}\t{kind}\tp\tCC0\t1.0\tit"s.ogg')
    (folder / "manifest.tsv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("tasks") / "tones", FOLDS, 36)


# --- what a study asks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("asked", STUDIES.values(), ids=STUDIES)
def test_every_variant_is_a_recipe_of_the_same_cost(asked, size):
    recipes = {v.name: size.recipe(v, len(asked.variants) * len(size.seeds), None, 3) for v in asked.variants}
    seen = [r.training.steps * r.training.batch for r in recipes.values()]
    assert max(seen) <= 1.02 * min(seen) or size is SIZES["minutes"]
    total = sum(seen) * len(size.seeds)
    assert total <= size.steps * size.batch
    for recipe in recipes.values():
        assert isinstance(recipe, PretrainConfig)
        assert recipe.training.seed == 3
        assert recipe.training.evaluate_every == recipe.training.steps
        assert recipe.training.warmup <= recipe.training.steps / 10


def recipe_of(name, variant):
    return SIZES["overnight"].recipe(next(v for v in STUDIES[name].variants if v.name == variant), 9, None, 0)


def test_variants_change_what_they_are_called():
    patch, frame = recipe_of("shapes", "patch"), recipe_of("shapes", "frame")
    assert (patch.model.patch, patch.model.stride, patch.mask.cluster) == ((16, 16), (16, 16), (3, 5))
    assert (frame.model.patch, frame.model.stride, frame.mask.cluster) == ((128, 2), (128, 2), None)
    assert replace(frame, model=patch.model, mask=patch.mask) == patch
    assert [recipe_of("masks", n).mask.count for n in ("100", "250", "400")] == [100, 250, 400]
    weights = [recipe_of("objectives", n).training for n in ("joint", "discriminative", "generative")]
    assert [(w.nce_weight, w.mse_weight) for w in weights] == [(1, 10), (1, 0), (0, 10)]
    small, large = recipe_of("batches", "24").training, recipe_of("batches", "384").training
    assert small.steps == pytest.approx(16 * large.steps, rel=0.02)
    assert large.learning_rate == pytest.approx(4 * small.learning_rate)
    assert (small.optimizer, recipe_of("masks", "100").training.optimizer) == ("adamw", "muon")


def test_a_study_that_compares_nothing_it_trains_is_refused():
    with pytest.raises(StudyError, match="compares unknown ones"):
        replace(STUDIES["shapes"], pairs=(("frame", "square"),))


# --- parts of a corpus ----------------------------------------------------------------------------------------------


def test_parts_of_a_corpus_are_equal_and_of_their_kinds(corpus, tmp_path):
    asked = STUDIES["corpora"]
    clips = {
        v.name: data.find_clips([pretraining._source(v, asked, corpus, tmp_path)])
        for v in asked.variants
        if v.name.startswith("frame")
    }
    kinds = {name: sorted(KINDS[int(clip.member[:6])] for clip in found) for name, found in clips.items()}
    assert kinds["frame, speech"] == ["speech"] * 6  # of nine: there are six sounds
    assert kinds["frame, sounds"] == ["effect"] * 3 + ["music"] * 3
    assert kinds["frame, both"].count("speech") == 3
    assert len(kinds["frame, both"]) == 6
    everything = {clip.member: clip for clip in data.find_clips([corpus / "train"])}
    for found in clips.values():
        assert len(set(found)) == 6
        for clip in found:
            assert clip.span == everything[clip.member].span
            assert clip.open().read() == everything[clip.member].open().read()


def test_members_of_shards_are_relative_to_their_manifest(corpus):
    manifest = corpus / "some.csv"
    manifest.write_text("path\ntrain/00000.tar:000003.opus\ntrain/00000.tar:000001.opus\nheldout/00000.tar\n")
    found = data.find_clips([manifest])
    assert [clip.member for clip in found[:2]] == ["000003.opus", "000001.opus"]
    manifest.write_text("path\ntrain/00000.tar:000099.opus\n")
    with pytest.raises(DataError, match=r"00000\.tar has no sound 000099\.opus"):
        data.find_clips([manifest])
    manifest.unlink()


# --- the runner -----------------------------------------------------------------------------------------------------


def run(name, corpus, task, folder, **changes):
    asked = dict(study=STUDIES[name], size=SMALL, tasks=[task], corpus=corpus, runs=folder, seeds=(0, 1), steps=2)
    return studies.run_study(**asked | changes)


def test_a_study_from_corpus_to_page(corpus, task, tmp_path, monkeypatch):
    monkeypatch.setitem(SIZES, "minutes", SMALL)
    asked = dict(
        tasks=[task], corpus=corpus, out=tmp_path / "docs", size="minutes", steps=2, runs=tmp_path / "runs", cache=None
    )
    with pytest.warns(ShortClips) as said:
        page = study("shapes", **asked)
    advice = [str(warning.message) for warning in said if warning.category is ShortClips]
    assert len(advice) == len(set(advice)) == 1  # not by each of the four runs
    text = page.read_text()
    assert page == tmp_path / "docs" / "shapes.md"
    assert (tmp_path / "docs" / "shapes.html").exists()
    for line in ("| patch | 2 x 4 | 8 | 15 |", "| frame | 2 x 4 | 8 | 15 |", "| untrained, frame | ", "| logmel | "):
        assert line in text
    assert f"ssast-lab study shapes --tasks {task}" in text
    assert "2 layers, 32 wide" in text
    with (tmp_path / "docs" / "shapes.csv").open(newline="") as file:
        rows = {row["upstream"]: row for row in csv.DictReader(file)}
    assert {name: row["seeds"] for name, row in rows.items()} == {
        "patch": "2", "frame": "2", "untrained, patch": "2", "untrained, frame": "2", "logmel": "1",
    }  # fmt: skip
    runs = sorted(path for path in (tmp_path / "runs").iterdir() if "seed" in path.name)
    assert len(runs) == 4
    for path in runs:
        trained = checkpoint.load(path)
        assert isinstance(trained, SSAST)
        assert trained.config.width == 32

    def never(*_):
        raise AssertionError("It was trained before.")

    monkeypatch.setattr(pretraining, "pretrain", never)
    again = study("shapes", **asked).read_text()
    assert again == text


def test_a_folder_of_ones_own_is_studied_where_one_stands(task, tmp_path, monkeypatch):
    """Nothing of it is a corpus; some of it is set aside, and the page is written beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(SIZES, "small", replace(SMALL, seeds=(0,)))
    write_clips(tmp_path / "recordings", 8, (0.7, 1.5))
    page = study("shapes", [task], "recordings", size="small", cache=None)
    assert page == Path("studies/shapes.md")
    assert {path.name for path in tmp_path.iterdir()} == {"recordings", "runs", "studies"}
    (run, *_) = [path for path in (tmp_path / "runs" / "studies").glob("nano-*") if path.is_dir()]
    assert len(json.loads((run / "clips.json").read_text())["sets"]["train"]["names"]) == 7


def test_runs_in_common_are_trained_once(corpus, task, tmp_path, monkeypatch):
    """400 patches with both objectives is a variant of two studies."""
    started = []
    pretrain = pretraining.pretrain
    monkeypatch.setattr(pretraining, "pretrain", lambda *asked: started.append(asked) or pretrain(*asked))
    run("masks", corpus, task, tmp_path, seeds=(0,))
    assert len(started) == 3
    trained, _ = run("objectives", corpus, task, tmp_path, seeds=(0,))
    assert len(started) == 5
    weights = [checkpoint.load(one.pattern.replace("{seed}", "0")).state_dict() for one in trained]
    for other in weights[1:]:
        assert not torch.equal(weights[0]["encoder.patch_embedding.weight"], other["encoder.patch_embedding.weight"])


def test_an_interrupted_study_goes_on(corpus, task, tmp_path, monkeypatch):
    """Ctrl-C ends a run early and without an error: it must not be taken for a finished one."""
    whole, _ = run("objectives", corpus, task, tmp_path / "whole", seeds=(0,), steps=3)
    pretrain = pretraining.pretrain

    def stopped(recipe, asked, progress=False):
        steps = pretrain(recipe, replace(asked, checkpoint_every=1))
        yield next(steps)
        yield next(steps)
        steps.close()

    monkeypatch.setattr(pretraining, "pretrain", stopped)
    with pytest.raises(KeyboardInterrupt):
        run("objectives", corpus, task, tmp_path / "halved", seeds=(0,), steps=3)
    monkeypatch.setattr(pretraining, "pretrain", pretrain)
    halved, _ = run("objectives", corpus, task, tmp_path / "halved", seeds=(0,), steps=3)
    one, other = (checkpoint.load(trained[0].pattern.replace("{seed}", "0")) for trained in (whole, halved))
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])


def test_the_untrained_model_is_where_training_begins(corpus, task, tmp_path):
    """A run of one step at a vanishing rate ends where it began."""
    slow = replace(SMALL, changes=SMALL.changes | {"training": {"learning_rate": 1e-30, "weight_decay": 0.0}})
    trained, comparison = run("masks", corpus, task, tmp_path, seeds=(2,), steps=1, size=slow)
    (untrained,) = (tmp_path / "untrained").iterdir()
    start = checkpoint.load(untrained).state_dict()
    end = checkpoint.load(trained[0].pattern.replace("{seed}", "2")).state_dict()
    for key, value in start.items():
        assert torch.allclose(value, end[key], atol=1e-7)
    assert "untrained" in {entry.upstream for entry in comparison.results}


def test_the_conclusion_says_no_more_than_the_intervals(corpus, task, tmp_path):
    from test_compare import scored

    from ssast_lab.measuring.compare import PROBED, TaskResult, averaged

    random = np.random.default_rng(0)

    def entry(name, on, right):
        runs = tuple(scored(random, right) for _ in range(2))
        return TaskResult(name, on, PROBED, "", runs, averaged=averaged(runs))

    entries = [
        entry("patch", "a", 0.3), entry("frame", "a", 0.9), entry("patch", "b", 0.9), entry("frame", "b", 0.3),
        entry("patch", "c", 0.6), entry("frame", "c", 0.6), entry("untrained, patch", "a", 0.05),
    ]  # fmt: skip
    first, speech, sounds = conclusion(STUDIES["shapes"], entries, {"speech": ["a", "b"], "sounds": ["c"]})
    assert "in 1 of 1 pairs" in first
    alone = [replace(one, runs=one.runs[:1]) for one in entries]
    assert conclusion(STUDIES["shapes"], alone, {"speech": ["a"]})[1].startswith("One seed: ")
    assert re.fullmatch(
        r"On speech tasks frame is above patch on a \(\+0\.\d+ .*\) and below patch on b \(-0\..*\)\.", speech
    )
    assert sounds.startswith("On sounds tasks this budget cannot tell frame from patch: c (")
    assert kinds_of([task], entries) == {"other": ["a", "b", "c"]}


def test_shapes_are_also_compared_before_training():
    assert pages._pairs(STUDIES["shapes"]) == [("frame", "patch"), ("untrained, frame", "untrained, patch")]
    assert pages._pairs(STUDIES["corpora"]) == list(STUDIES["corpora"].pairs)  # of one shape each


def test_what_cannot_be_studied_is_said(corpus, task, tmp_path):
    with pytest.raises(StudyError, match="no study 'nothing'"):
        study("nothing", [task], corpus, size="minutes")
    with pytest.raises(StudyError, match="no size 'huge'"):
        study("shapes", [task], corpus, size="huge")
    with pytest.raises(StudyError, match="or a corpus made by"):
        study("shapes", [task], size="minutes")
    with pytest.raises(StudyError, match="Name the tasks"):
        study("shapes", [], corpus, size="minutes")
    with pytest.raises(StudyError, match=r"There is no .*nowhere: name a folder of recordings, or make a corpus"):
        study("shapes", [task], tmp_path / "nowhere", size="minutes")
    (tmp_path / "train").mkdir()
    (tmp_path / "heldout").mkdir()
    with pytest.raises(StudyError, match=r"manifest\.tsv cannot be read"):
        study("corpora", [task], tmp_path, size="minutes", runs=tmp_path)


# --- hiding ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(1)
    config = ModelConfig(width=32, depth=2, heads=2, frames=64, labels=("high", "low", "middle"))
    return Classifier(config).eval()


def fbank_and_mask(classifier, share):
    torch.manual_seed(2)
    fbank = torch.randn(3, 64, 128)
    return fbank, hiding.draw_mask(classifier, share, [(0, row) for row in range(3)])


@pytest.mark.parametrize("way", [hiding.LEFT_OUT, hiding.FILLED])
def test_nothing_hidden_changes_nothing(classifier, way):
    fbank, mask = fbank_and_mask(classifier, 0)
    with torch.no_grad():
        expected = classifier(fbank)
    assert torch.allclose(hiding.masked_logits(classifier, fbank, mask, way, fbank.mean((1, 2))), expected, atol=1e-5)


@pytest.mark.parametrize("way", [hiding.LEFT_OUT, hiding.FILLED])
def test_what_is_hidden_does_not_matter(classifier, way):
    fbank, mask = fbank_and_mask(classifier, 0.5)
    means = torch.zeros(3)
    found = hiding.masked_logits(classifier, fbank, mask, way, means)
    cells = mask.unflatten(1, (8, 4)).repeat_interleave(16, 1).repeat_interleave(16, 2).transpose(1, 2)
    other = torch.where(cells, torch.randn_like(fbank), fbank)
    assert torch.allclose(hiding.masked_logits(classifier, other, mask, way, means), found, atol=1e-5)
    shown = torch.where(cells, fbank, torch.randn_like(fbank))
    assert not torch.allclose(hiding.masked_logits(classifier, shown, mask, way, means), found, atol=1e-2)


def test_left_out_is_attended_by_nobody(classifier):
    """Against the whole sequence, in which hidden patches may not be attended to and are not pooled."""
    fbank, mask = fbank_and_mask(classifier, 0.6)
    encoder = classifier.encoder
    with torch.no_grad():
        x = encoder.patch_embedding(patchify(fbank, encoder.grid))
        special = torch.cat((encoder.cls_token, encoder.distillation_token), 1).expand(3, -1, -1)
        x = torch.cat((special, x), 1) + encoder.positions
        open_ = torch.cat((torch.ones(3, 2, dtype=torch.bool), ~mask), 1)[:, None, None]
        for block in encoder.blocks:
            query, key, value = block.attention._split(block.norm1(x))
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=open_)
            x = x + block.attention.out(mixed.transpose(1, 2).flatten(2))
            x = x + block.mlp(block.norm2(x))
        patches = encoder.norm(x)[:, 2:]
        pooled = (patches * ~mask[..., None]).sum(1) / (~mask).sum(1, keepdim=True)
        expected = classifier.linear(classifier.norm(pooled))
    found = hiding.masked_logits(classifier, fbank, mask, hiding.LEFT_OUT, torch.zeros(3))
    assert torch.allclose(found, expected, atol=1e-5)


def test_more_hides_more_of_the_same(classifier):
    keys = [(0, row) for row in range(5)]
    before = torch.zeros(5, 32, dtype=torch.bool)
    for share in (0.1, 0.5, 0.75, 0.95):
        mask = hiding.draw_mask(classifier, share, keys)
        assert mask.sum(1).tolist() == [round(share * 32)] * 5
        assert (mask | ~before).all()
        before = mask
    assert hiding.draw_mask(classifier, 0.999, keys).sum(1).tolist() == [31] * 5
    assert torch.equal(hiding.draw_mask(classifier, 0.5, keys[3:]), hiding.draw_mask(classifier, 0.5, keys)[3:])


def test_logits_of_the_whole_are_the_classifiers(classifier, task):
    clips = labelled.read_labelled(task).where("test").clips
    found = hiding.occluded_logits(classifier, clips, (0.0, 0.5), hiding.LEFT_OUT, 0)
    assert found.shape == (2, len(clips), 3)
    assert np.allclose(found[0], classify.logits(classifier, clips), atol=1e-5)
    assert not np.allclose(found[1], found[0], atol=1e-5)


def curve(*rights):
    """A model that is right on such shares of the clips as more is hidden."""
    from test_compare import scored

    from ssast_lab.measuring.compare import averaged

    runs = tuple((scored(np.random.default_rng(5), right),) for right in rights)
    shares = tuple(place / len(rights) for place in range(len(rights)))
    return hiding.OcclusionCurve("one", "task", hiding.FILLED, shares, runs, tuple(map(averaged, runs)))


def test_a_loss_is_said_where_it_lasts():
    dips = curve(0.9, 0.3, 0.9, 0.3, 0.1)
    assert dips.change(1).high < 0
    assert dips.chance == 0.25
    assert "a loss can be told from 60% hidden on" in hiding.conclusion(dips)
    assert "guessing (0.250)" in hiding.conclusion(dips)
    assert "no lasting loss can be told" in hiding.conclusion(curve(0.9, 0.2, 0.9))
    assert "above guessing" in hiding.conclusion(curve(0.9, 0.2, 0.9))
    assert "is not above guessing" in hiding.conclusion(curve(0.0, 0.0))


def test_hiding_from_task_to_page(classifier, task, tmp_path, monkeypatch):
    """A model that is fine-tuned, and a classifier that is taken as it is; then both again, without a step of training."""
    torch.manual_seed(4)
    small = checkpoint.save(SSAST(ModelConfig(width=32, depth=2, heads=2, frames=64)), tmp_path / "small")
    given = checkpoint.save(classifier, tmp_path / "given")
    asked = dict(out=tmp_path / "docs", size="minutes", models=[str(small), str(given)], runs=tmp_path / "runs")
    manifest = shutil.copytree(task, tmp_path / "leaking") / "task.csv"
    manifest.write_text(re.sub(r",s\d+,", ",one,", manifest.read_text()))
    tasks = [tmp_path / "leaking", task, tmp_path / "absent"]
    page = study("hiding", tasks, **asked)
    text = page.read_text()
    assert "absent: There is no labelled set" in text
    assert "leaking: The split leaks: the source 'one'" in text
    assert "--models" in text
    with (tmp_path / "docs" / "hiding.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * len(hiding.SHARES)
    whole = [row for row in rows if row["share"] == "0"]
    assert {row["lost"] for row in whole} == {"0"}
    for name in (small, given):
        assert len({row["value"] for row in whole if row["model"] == str(name)}) == 1  # both ways hide nothing
        assert (tmp_path / "docs" / f"hiding-{name.name}.html").exists()
    assert len(list((tmp_path / "runs" / "fine-tuned").iterdir())) == 1

    monkeypatch.setattr(hiding, "occluded_logits", None)
    assert study("hiding", tasks, **asked).read_text() == text
    with pytest.raises(StudyError, match="must include 0"):
        studies.run_hiding([str(small)], [task], tmp_path, shares=(0.5,))
    with pytest.raises(ConfigError, match="no recipe"):
        studies.run_hiding([str(small)], [task], tmp_path, recipe="nonsense")
