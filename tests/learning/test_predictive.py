"""The models that predict what comes next: causal, their losses those of the papers, trained and kept as every other."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from test_checkpoint import refused, same
from tiny import ALONE, PATIENCE, assert_same_run, here, write_clips

from ssast_lab import audio, checkpoint, config, data
from ssast_lab.config import ConfigError, DataConfig, to_dict
from ssast_lab.learning.forecast import TASKS, ForecastConfig, ForecastTraining, draw_negatives, forecast, recipe
from ssast_lab.learning.run import Run
from ssast_lab.measuring import upstreams
from ssast_lab.model import SSAST
from ssast_lab.predictive import (
    APC,
    LATENT_HOP,
    REACH,
    APCConfig,
    Heard,
    Wav2Vec,
    Wav2VecConfig,
    apc_config,
    autoregression,
    latent_frames,
    wav2vec_config,
    wav2vec_loss,
)

SMALL = {
    "apc": APCConfig(width=24, depth=2, ahead=3, frames=48),
    "wav2vec": Wav2VecConfig(channels=16, depth=2, ahead=4, negatives=5, frames=48),
}
MODELS = {"apc": APC, "wav2vec": Wav2Vec}
KINDS = pytest.mark.parametrize("kind", SMALL)


def small(kind):
    torch.manual_seed(3)
    return MODELS[kind](SMALL[kind]).eval()


@pytest.fixture(scope="module")
def speech():
    return audio.load_waveform(audio.builtin_sounds()["speech"]["path"], 0.5, 1.5)


# --- the models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("now", [0, 20, 60])
def test_apc_knows_nothing_of_later_frames(speech, now):
    model, fbank = small("apc"), audio.log_mel(speech)[None]
    changed = fbank.clone()
    changed[:, now + 1 :] = torch.randn_like(changed[:, now + 1 :])
    for one, other in zip((*model.hidden(fbank), model(fbank)), (*model.hidden(changed), model(changed)), strict=True):
        assert torch.equal(one[:, : now + 1], other[:, : now + 1])
        assert not torch.allclose(one[:, now + 1 :], other[:, now + 1 :])


@pytest.mark.parametrize("now", [0, 20, 60])
def test_wav2vec_knows_nothing_of_later_samples(speech, now):
    model, heard = small("wav2vec"), now * LATENT_HOP + REACH  # so many samples has frame ``now`` heard
    changed = speech.clone()
    changed[heard:] = torch.randn(len(speech) - heard)
    before = speech.clone()
    before[heard - 1] += 0.5  # the last of them does matter
    for one, other, third in zip(model(speech[None]), model(changed[None]), model(before[None]), strict=True):
        assert torch.allclose(one[:, : now + 1], other[:, : now + 1], atol=1e-6)
        assert not torch.allclose(one[:, now + 1], other[:, now + 1], atol=1e-3)
        assert torch.allclose(one[:, :now], third[:, :now], atol=1e-6)
        assert not torch.allclose(one[:, now], third[:, now], atol=1e-3)


def test_latent_frames_are_counted_as_they_are_made():
    model = small("wav2vec")
    for samples in (REACH, REACH + LATENT_HOP - 1, REACH + LATENT_HOP, SMALL["wav2vec"].samples):
        (count,) = latent_frames(torch.tensor([samples]))
        assert model(torch.zeros(1, samples)).latents.shape == (1, count, 16)
    assert latent_frames(torch.tensor([0, 400, REACH - 1])).tolist() == [0, 0, 0]
    assert SMALL["wav2vec"].samples == REACH + 47 * LATENT_HOP


def test_the_encoder_is_a_stack_of_convolutions(speech):
    """Against torch's own convolutions, with the kernels and strides of the paper."""
    model = small("wav2vec")
    x = speech[None, None]
    for layer, kernel, stride in zip(model.encoder, (10, 8, 4, 4, 4), (5, 4, 2, 2, 2), strict=True):
        weight = layer.linear.weight.unflatten(1, (kernel, -1)).transpose(1, 2)
        x = torch.nn.functional.conv1d(x, weight, stride=stride).transpose(1, 2)
        x = torch.nn.functional.layer_norm(x.relu(), x.shape[-1:], eps=1e-10).transpose(1, 2)
    torch.testing.assert_close(model(speech[None]).latents, x.transpose(1, 2), rtol=1e-4, atol=1e-4)


def test_loudness_changes_no_latent_frame():
    """As long as it is well above one step of 16 bits."""
    model, noise = small("wav2vec"), torch.randn(1, 8000) / 10
    torch.testing.assert_close(model(noise).context, model(noise / 8).context, rtol=1e-3, atol=1e-3)


@KINDS
@pytest.mark.parametrize("size", ["nano", "tiny"])
def test_presets_are_as_large_as_those_of_ssast(kind, size):
    def count(make):
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in make().parameters())

    asked = recipe(f"{kind}-{size}", train=("x",))
    ssast = config.pretrain_config(f"modern-{size}-patch-400", train=("x",))
    assert count(lambda: MODELS[kind](asked.model)) == pytest.approx(count(lambda: SSAST(ssast.model)), rel=0.05)
    for item in ("batch", "learning_rate", "steps", "evaluate_every", "optimizer", "schedule", "warmup", "seed"):
        assert getattr(asked.training, item) == getattr(ssast.training, item)
    assert asked.data == ssast.data


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: APCConfig(width=0), "width is a whole number from 1 upwards, not 0"),
        (lambda: APCConfig(depth=2.5), "depth is a whole number from 1 upwards, not 2.5"),
        (lambda: APCConfig(ahead=64, frames=64), "No frame lies 64 ahead"),
        (lambda: Wav2VecConfig(negatives=0), "negatives is a whole number from 1 upwards, not 0"),
        (lambda: Wav2VecConfig(ahead=12, frames=12), "No frame lies 12 ahead"),
        (lambda: ForecastTraining(steps=0), "steps must be at least 1"),
        (lambda: apc_config("base"), "There is no size 'base'; there are nano and tiny"),
        (lambda: wav2vec_config(""), "There is no size ''"),
        (lambda: recipe("apc-base"), "There is no recipe 'apc-base'.*apc-nano, apc-tiny, wav2vec-nano, wav2vec-tiny"),
        (lambda: recipe("wav2vec"), "There is no recipe 'wav2vec'"),
    ],
)
def test_what_cannot_be_is_said_at_once(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def chance(negatives):
    """Nats of a model that says of every candidate that it is one in so many negatives and the true one."""
    return (negatives + 1) * math.log(negatives + 1) - negatives * math.log(negatives)


# --- the losses ---------------------------------------------------------------------------------------------------


def test_the_loss_of_apc_is_the_papers():
    guess, fbank = torch.randn(3, 10, 4), torch.randn(3, 10, 4)
    frames, ahead = [10, 6, 3], 3
    found = autoregression(guess, fbank, torch.tensor(frames), ahead)
    for clip, count in enumerate(frames):
        terms, repeated = [], []
        for t in range(count - ahead):
            for f in range(4):
                terms.append(abs(fbank[clip, t + ahead, f] - guess[clip, t, f]).item())
                repeated.append(abs(fbank[clip, t + ahead, f] - fbank[clip, t, f]).item())
        assert found.total[clip].item() == pytest.approx(np.mean(terms) if terms else 0, rel=1e-5)
        assert found.repeated[clip].item() == pytest.approx(np.mean(repeated) if repeated else 0, rel=1e-5)


def test_the_contrastive_loss_is_the_papers():
    """Equation (1) term by term, scores counted from the odds, for sounds of several lengths, one without a future."""
    length, ahead, negatives, channels = 7, 3, 4, 5
    frames = [7, 4, 2, 1, 0]
    heard = Heard(*(torch.randn(5, length, *more, channels) for more in ((), (), (ahead,))))
    drawn = torch.rand(5, length, negatives)
    found = wav2vec_loss(heard, torch.tensor(frames), drawn)

    def log_probability(score):
        """Of an event that is ``exp(score)`` times likelier than one in so many negatives and itself."""
        return -math.log1p(negatives * math.exp(-score))

    def log_otherwise(score):
        return -math.log1p(math.exp(score) / negatives)

    for b, count in enumerate(frames):
        z, h = heard.latents[b].double().numpy(), heard.ahead[b].double().numpy()
        loss, right, terms = 0.0, 0, 0
        for k in range(1, ahead + 1):
            for i in range(count - k):
                others = [z[math.floor(float(u) * count)] for u in drawn[b, i + k]]
                expectation = np.mean([log_otherwise(other @ h[i, k - 1]) for other in others])
                loss -= log_probability(z[i + k] @ h[i, k - 1]) + negatives * expectation  # lambda is their number
                right += all(z[i + k] @ h[i, k - 1] > other @ h[i, k - 1] for other in others)
                terms += 1
        assert found.total[b].item() == pytest.approx(loss / max(terms, 1), rel=1e-5)
        assert found.accuracy[b].item() == pytest.approx(right / max(terms, 1), rel=1e-5)


def test_an_untrained_model_says_that_all_candidates_are_equally_likely(speech):
    model = Wav2Vec(wav2vec_config("nano"))
    found = wav2vec_loss(model(speech[None]), latent_frames(torch.tensor([len(speech)])), torch.rand(1, 148, 10))
    assert found.total.item() == pytest.approx(chance(10), rel=0.02)


def test_negatives_of_one_frame_are_the_same_whatever_is_ahead_and_lie_in_the_sound():
    """Where all latent frames but the first three are enormous, a sound of three frames notices nothing of it."""
    drawn = draw_negatives(SMALL["wav2vec"], 2, (0, 0, 10))
    assert drawn.shape == (2, 48, 5)
    assert 0 <= drawn.min() < drawn.max() < 1
    heard = small("wav2vec")(torch.randn(2, SMALL["wav2vec"].samples))
    spoilt = Heard(*(torch.cat((part[:, :3], 1e4 * torch.ones_like(part[:, 3:])), 1) for part in heard))
    frames = torch.tensor([3, 3])
    for one, other in zip(wav2vec_loss(heard, frames, drawn), wav2vec_loss(spoilt, frames, drawn), strict=True):
        assert torch.equal(one, other)


def test_all_frames_of_a_sound_are_equally_often_negatives():
    model = replace(SMALL["wav2vec"], negatives=50, frames=400)
    places = (draw_negatives(model, 20, (1, 2, 10)) * 8).long().flatten()
    share = places.bincount() / len(places)
    assert len(share) == 8
    assert share.numpy() == pytest.approx(np.full(8, 1 / 8), rel=0.02)


def test_negatives_are_a_function_of_the_key():
    one, again, other, seed = (draw_negatives(SMALL["wav2vec"], 3, key) for key in ((0, 7, 10), (0, 7, 10), (0, 8, 10), (1, 7, 10)))  # fmt: skip
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one, seed)


# --- training -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Ten sounds, most of them shorter than the window, and one that is none; and others to be held out."""
    folder = tmp_path_factory.mktemp("corpus") / "clips"
    write_clips(folder, 10, seconds=(0.1, 0.9))
    write_clips(folder.parent / "held out", 3)
    (folder / "broken.flac").write_bytes(b"fLaC" + bytes(500))
    return folder


def asked(kind, train, held_out=None, **training):
    settings = dict(steps=8, batch=4, learning_rate=3e-3, warmup=2, evaluate_every=3)
    corpus = DataConfig((train,), (held_out or train.parent / "held out",))
    return ForecastConfig(SMALL[kind], corpus, ForecastTraining(**settings | training))


@KINDS
def test_padding_counts_for_nothing(kind, clips):
    """Batch == singles, each single without a sample of padding."""
    task, model = TASKS[type(SMALL[kind])](asked(kind, clips)), small(kind)
    corpus = data.Files([data.Clip(str(path)) for path in sorted(clips.glob("0*.flac"))], task.samples)
    batch = corpus.crop(np.arange(10), np.zeros(10), [(0, i) for i in range(10)])
    assert batch.lengths.min() < task.samples == batch.lengths.max()
    drawn = task.draw_by((0, 0, 10), 10)
    together = task.losses_per_clip(model, model, batch, drawn)
    for row, length in enumerate(batch.lengths.tolist()):
        wave = batch.waveforms[row : row + 1, :length]
        if kind == "apc":
            fbank = audio.log_mel(wave)
            alone = autoregression(model(fbank), fbank, torch.tensor([fbank.shape[1]]), 3)
        else:
            count = latent_frames(torch.tensor([length]))
            alone = wav2vec_loss(model(wave), count, drawn[0][row : row + 1, : int(count)])
        for one, many in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], many[row], rtol=1e-4, atol=1e-5)


@KINDS
def test_a_resumed_run_is_the_undisturbed_run(kind, clips, tmp_path):
    whole = asked(kind, clips)
    steps = [*forecast(whole, here(tmp_path / "one"))]
    assert [step.step for step in steps] == [*range(1, 9)]
    assert [step.step for step in steps if step.evaluation] == [3, 6, 8]
    for step in forecast(whole, here(tmp_path / "other")):
        if step.step == 5:
            break
    assert [step.step for step in forecast(whole, here(tmp_path / "other", resume=True))] == [6, 7, 8]
    assert_same_run(tmp_path / "one", tmp_path / "other", 8)
    folder = Run(tmp_path / "one")
    assert list(folder.unreadable()) == [str(clips / "broken.flac")]
    figures = steps[-1].evaluation
    line = folder.metrics()[-1]
    assert {f"held_out_{name}": value for name, value in vars(figures).items()}.items() <= line.items()
    assert folder.best()["loss"] == min(step.evaluation.loss for step in steps if step.evaluation)
    model = checkpoint.load(tmp_path / "one")
    assert isinstance(model, MODELS[kind])
    assert model.config == SMALL[kind]
    assert checkpoint.describe(tmp_path / "one")["about"]["recipe"] == json.loads(json.dumps(to_dict(whole)))


@KINDS
def test_micro_batches_are_the_whole_batch(kind, clips, tmp_path):
    whole = asked(kind, clips)
    runs = [here(tmp_path / "one"), here(tmp_path / "other", micro_batch=2, in_memory=True)]
    one, other = ([*forecast(whole, run)] for run in runs)
    for a, b in zip(one, other, strict=True):
        assert a.losses == pytest.approx(b.losses, rel=2e-3)
        assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=2e-2)
    assert one[0].losses == pytest.approx(other[0].losses, rel=1e-5)


@pytest.mark.parametrize(("kind", "rate"), [("apc", 1e-2), ("wav2vec", 3e-3)])
def test_a_model_learns_one_batch_by_heart(kind, rate, tmp_path):
    write_clips(tmp_path / "clips", 4, seconds=(0.55, 0.55))
    folder = tmp_path / "clips"
    whole = asked(kind, folder, folder, steps=250, learning_rate=rate, warmup=10, evaluate_every=250)
    steps = [*forecast(whole, here(tmp_path / "run", in_memory=True, checkpoint_every=250))]
    last = steps[-1]
    if kind == "apc":
        assert last.losses.total < 0.35 * steps[0].losses.total
        assert last.losses.total < 0.7 * last.losses.repeated
    else:
        negatives = SMALL[kind].negatives
        share = 1 / (1 + negatives)
        assert steps[0].losses.accuracy < 2 * share
        assert np.mean([step.losses.accuracy for step in steps[-20:]]) > 3.5 * share
        assert last.evaluation.accuracy > 3 * share
        assert last.losses.total < 0.7 * chance(negatives)


def test_latent_frames_of_real_sounds_stay_apart():
    """At the preset's own size and learning rate, where a common mean of all latent frames is what Adam follows first."""
    torch.manual_seed(0)
    whole = recipe("wav2vec-nano", train=("x",))
    model = Wav2Vec(replace(whole.model, frames=64))
    sounds = [audio.builtin_sounds()[name]["path"] for name in ("speech", "tabla", "blackbird", "guitar")]
    batch = torch.stack([audio.load_waveform(path, 0.5)[: model.config.samples] for path in sounds])
    optimizer = torch.optim.AdamW(model.parameters(), whole.training.learning_rate, whole.training.betas)
    for step in range(25):
        heard = model(batch)
        found = wav2vec_loss(heard, torch.full((4,), 64), draw_negatives(model.config, 4, (0, step, 10)))
        optimizer.zero_grad()
        found.total.mean().backward()
        optimizer.step()
    assert heard.latents.std(1).mean() > 0.3 * heard.latents.std()
    assert found.accuracy.mean() > 2.5 / 11
    assert found.total.mean() < 0.9 * chance(10)


@KINDS
def test_bfloat16_computes_the_same_up_to_rounding(kind, clips, tmp_path):
    runs = [here(tmp_path / precision, precision=precision) for precision in ("fp32", "bf16")]
    one, other = (next(forecast(asked(kind, clips), run)) for run in runs)
    assert other.losses.total == pytest.approx(one.losses.total, rel=0.02)
    assert other.gradient_norm == pytest.approx(one.gradient_norm, rel=0.1)


SCRIPT = """
import json, sys
from ssast_lab.config import DataConfig, RunConfig, from_dict
from ssast_lab.learning.forecast import ForecastConfig, ForecastTraining, forecast
from ssast_lab.predictive import Wav2VecConfig
asked, run = map(json.loads, sys.argv[1:])
parts = zip((Wav2VecConfig, DataConfig, ForecastTraining), (asked["model"], asked["data"], asked["training"]))
for _ in forecast(ForecastConfig(*(from_dict(*part) for part in parts)), RunConfig(**run)):
    pass
"""


def test_two_processes_make_the_run_of_one(clips, tmp_path):
    """Each takes its own rows of the negatives, in training and in evaluations of three clips."""
    whole = asked("wav2vec", clips)
    for _ in forecast(whole, here(tmp_path / "one")):
        pass
    (tmp_path / "script.py").write_text(SCRIPT)
    arguments = [json.dumps(to_dict(part)) for part in (whole, here(tmp_path / "two"))]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(tmp_path / "script.py"), *arguments],
        env=ALONE | {"PYTHONWARNINGS": "default"}, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, two = (Run(tmp_path / name).metrics() for name in ("one", "two"))
    names = ("loss", "accuracy", "held_out_loss", "held_out_accuracy", "gradient_norm")
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        assert [b[name] for name in names if name in b] == pytest.approx([a[n] for n in names if n in a], rel=1e-4)


# --- on disk, and as upstreams ------------------------------------------------------------------------------------


@KINDS
def test_checkpoints_come_back_as_they_went(kind, speech, tmp_path):
    model = small(kind)
    again = checkpoint.load(checkpoint.save(model, tmp_path / "m", about={"title": "größer"}))
    assert type(again) is MODELS[kind]
    assert again.config == model.config
    assert same(again, model)
    assert not again.training
    assert checkpoint.describe(tmp_path / "m")["kind"] == kind
    sound = audio.log_mel(speech)[None] if kind == "apc" else speech[None]
    for one, other in zip(again.hidden(sound), model.hidden(sound), strict=True):
        assert torch.equal(one, other)
    again.hidden(sound)[-1].sum().backward()


@pytest.mark.parametrize(
    ("kind", "model", "words"),
    [(kind, changes, "does not describe a model") for kind, changes in product(
        SMALL, [{"depth": 10**9}, {"frames": 10**15}, {"ahead": 0}, {"surprise": 1}, {"frames": None}])]
    + [("apc", {"width": 10**k}, "does not describe a model") for k in (5, 9, 18)]
    + [("apc", {"audio": {"mel_bins": 10**18}}, "does not describe a model"), ("apc", {"audio": 3}, "does not describe")]
    + [("wav2vec", {"channels": 10**k}, "does not describe a model") for k in (5, 9, 18)]
    + [("apc", {"width": 25}, "shape"), ("wav2vec", {"depth": 3}, "lacks context.2"), ("wav2vec", {"kernel": 4}, "shape")],
    ids=str,
)  # fmt: skip
def test_wild_descriptions_are_refused(tmp_path, kind, model, words):
    path = checkpoint.save(small(kind), tmp_path / "m")
    description = checkpoint.describe(path)
    description["model"].update(model)
    (path / checkpoint.CONFIG).write_text(json.dumps(description), encoding="utf-8")
    assert words in refused(path)


@KINDS
def test_damaged_weights_are_refused(tmp_path, kind):
    path = checkpoint.save(small(kind), tmp_path / "m")
    weights = bytearray((path / checkpoint.WEIGHTS).read_bytes())
    weights[-5] ^= 0x10
    (path / checkpoint.WEIGHTS).write_bytes(weights)
    assert "checksum" in refused(path)


def test_one_kind_does_not_pass_for_another(tmp_path):
    path = checkpoint.save(small("apc"), tmp_path / "m")
    description = checkpoint.describe(path) | {"kind": "wav2vec"}
    (path / checkpoint.CONFIG).write_text(json.dumps(description), encoding="utf-8")
    assert "Wav2VecConfig has no field" in refused(path)


@KINDS
def test_every_layer_is_embedded(kind, speech, tmp_path):
    model = small(kind)
    path = checkpoint.save(model, tmp_path / "m")
    upstream = upstreams.upstream(path)
    assert upstream.layers == 2
    window = 48 * LATENT_HOP
    sound = speech[: window + (240 if kind == "apc" else REACH - LATENT_HOP)]  # one window
    layers = model.hidden(audio.log_mel(sound)[None] if kind == "apc" else sound[None])
    torch.testing.assert_close(upstream.embed(sound[None], "mean"), torch.stack([x.mean(1) for x in layers], 1))
    assert upstream.embed(torch.zeros(2, 100), "max").isfinite().all()  # less than one frame
    scratch = upstreams.upstream(f"scratch:{path}")
    assert scratch.key != upstream.key
    with pytest.raises(upstreams.UpstreamError, match=r"\[CLS\]"):
        upstream.embed(sound[None], "cls")
