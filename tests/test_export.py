"""A model goes out to others and comes back: what transformers, the official layout, onnxruntime and torch.export load has our numbers."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from golden_model import figures, official_state
from tiny import ALONE, here, tiny, train, write_clips

from ssast_lab import audio, checkpoint
from ssast_lab.__main__ import main
from ssast_lab.checkpoint import CheckpointError
from ssast_lab.config import AudioConfig, ModelConfig
from ssast_lab.learning.run import Run
from ssast_lab.model import SSAST, Classifier, EncoderModel
from ssast_lab.predictive import APC, APCConfig

FRAMES = 96
LABELS = ("Amsel", "鳥", "Regen, stark")


def made(kind, shape="patch", **changes):
    """A small model whose every weight is random."""
    patch = (16, 16) if shape == "patch" else (128, 2)
    labels = dict(labels=LABELS) if kind is Classifier else {}
    torch.manual_seed(3)
    heard = AudioConfig(mean=-5.0, std=4.0)
    config = ModelConfig(
        **dict(width=32, depth=2, heads=2, frames=FRAMES, patch=patch, stride=patch, audio=heard) | labels | changes
    )
    model = kind(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value) * 0.1)
    return model


def same(one, other):
    mine, yours = one.state_dict(), other.state_dict()
    return mine.keys() == yours.keys() and all(torch.equal(mine[name], yours[name]) for name in mine)


@pytest.fixture(scope="module")
def waves():
    """(S,) each: the built-in sounds."""
    return [audio.load_waveform(sound["path"]) for sound in audio.builtin_sounds().values()]


@pytest.fixture(scope="module")
def fbank(waves):
    """(B, T, F) of real sounds."""
    return torch.stack([audio.log_mel(wave, AudioConfig(mean=-5.0, std=4.0), FRAMES) for wave in waves])


@pytest.fixture
def transformers(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    transformers = pytest.importorskip("transformers")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    transformers.utils.logging.set_verbosity_error()
    return transformers


# --- transformers -------------------------------------------------------------------------------------------------


PLAIN = [
    (EncoderModel, {}),
    (SSAST, {}),
    (Classifier, dict(pooling="cls", norm_eps=1e-6, stride=(10, 10))),
]
WRAPPED = [
    (EncoderModel, dict(shape="frame")),
    (SSAST, dict(shape="frame")),
    (Classifier, dict(stride=(10, 10))),
    (Classifier, dict(pooling="cls")),  # two epsilons
    (Classifier, dict(shape="frame", stride=(128, 1), norm_eps=1e-6)),
]


@pytest.mark.parametrize(("kind", "changes"), [*PLAIN, *WRAPPED], ids=str)
def test_what_goes_to_transformers_comes_back(kind, changes, tmp_path):
    model = made(kind, **changes)
    out = checkpoint.export(model, tmp_path / "hf", "transformers").path
    again, report = checkpoint.load_with_report(out)
    assert type(again) is kind
    assert again.config == model.config
    assert same(again, model)
    assert report.fingerprint == checkpoint.fingerprint(model)


@pytest.mark.filterwarnings("ignore")  # of another library
@torch.no_grad()
def test_astmodel_gives_our_tokens(tmp_path, transformers, fbank):
    for kind in (EncoderModel, SSAST):
        model = made(kind)
        out = checkpoint.export(model, tmp_path / kind.__name__, "transformers").path
        theirs = transformers.ASTModel.from_pretrained(out).eval()
        torch.testing.assert_close(theirs(fbank).last_hidden_state, model.encoder(fbank).tokens, rtol=0, atol=1e-5)
        assert torch.equal(transformers.AutoModel.from_pretrained(out).eval()(fbank)[0], theirs(fbank)[0])


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_a_classifier_that_transformers_can_hold(tmp_path, transformers, fbank, waves):
    model = made(Classifier, pooling="cls", norm_eps=1e-6)
    exported = checkpoint.export(model, tmp_path / "hf", "transformers")
    assert exported.notes == ()
    theirs = transformers.ASTForAudioClassification.from_pretrained(exported.path).eval()
    torch.testing.assert_close(theirs(fbank).logits, model(fbank), rtol=0, atol=1e-5)
    assert_classifies(transformers.pipeline("audio-classification", model=str(exported.path)), model, waves)


def assert_classifies(pipeline, model, waves):
    """The pipeline gives our probabilities of real sounds, by our names."""
    for wave in waves[:3]:
        answer = {row["label"]: row["score"] for row in pipeline({"raw": wave.numpy(), "sampling_rate": 16_000})}
        assert set(answer) == set(LABELS)
        expected = model(audio.log_mel(wave, model.config.audio, FRAMES)[None]).softmax(-1)[0]
        assert [answer[label] for label in LABELS] == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "changes"), WRAPPED, ids=str)
@torch.no_grad()
def test_what_transformers_cannot_hold_is_carried_by_a_class_beside_it(
    kind, changes, tmp_path, transformers, fbank, waves
):
    model = made(kind, **changes)
    exported = checkpoint.export(model, tmp_path / "hf", "transformers")
    assert "cannot hold this model" in exported.notes[0]
    auto = transformers.AutoModelForAudioClassification if kind is Classifier else transformers.AutoModel
    theirs = auto.from_pretrained(exported.path, trust_remote_code=True).eval()
    if kind is Classifier:
        torch.testing.assert_close(theirs(fbank).logits, model(fbank), rtol=0, atol=1e-5)
        pipeline = transformers.pipeline("audio-classification", model=str(exported.path), trust_remote_code=True)
        assert_classifies(pipeline, model, waves)
    else:
        torch.testing.assert_close(theirs(fbank).last_hidden_state, model.encoder(fbank).tokens, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_transformers_own_class_never_takes_a_head_that_it_pools_otherwise(tmp_path, transformers, fbank):
    out = checkpoint.export(made(Classifier), tmp_path / "hf", "transformers").path
    _, told = transformers.ASTForAudioClassification.from_pretrained(out, output_loading_info=True)
    assert {"classifier.dense.weight", "classifier.dense.bias"} <= set(told["missing_keys"])
    frame = checkpoint.export(made(Classifier, shape="frame"), tmp_path / "frame", "transformers").path
    with pytest.raises(RuntimeError, match="mismatch"):
        transformers.ASTForAudioClassification.from_pretrained(frame)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shape", ["patch", "frame"])
@torch.no_grad()
def test_pretext_heads_in_transformers(shape, tmp_path, transformers, fbank):
    model = made(SSAST, shape)
    out = checkpoint.export(model, tmp_path / "hf", "transformers").path
    theirs = transformers.AutoModelForPreTraining.from_pretrained(out, trust_remote_code=True).eval()
    mask = torch.zeros(len(fbank), model.grid.count, dtype=torch.bool)
    mask[:, ::3] = True
    guess, (contrastive, reconstruction) = model(fbank, mask), theirs(fbank, hidden=mask)
    torch.testing.assert_close(contrastive[mask].view_as(guess.contrastive), guess.contrastive, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        reconstruction[mask].view_as(guess.reconstruction), guess.reconstruction, rtol=0, atol=1e-5
    )


@pytest.mark.filterwarnings("ignore")
def test_the_feature_extractor_hears_as_we_do(tmp_path, transformers, waves):
    model = made(EncoderModel)
    out = checkpoint.export(model, tmp_path / "hf", "transformers").path
    extract = transformers.AutoFeatureExtractor.from_pretrained(out)
    heard = extract([wave.numpy() for wave in waves], sampling_rate=16_000, return_tensors="pt")["input_values"]
    own = torch.stack([audio.log_mel(wave, model.config.audio, FRAMES) for wave in waves])
    assert heard.shape == own.shape
    assert float((heard - own).abs().mean()) < 1e-4, (
        "but for quiet bands, where removing the sound's mean first is rounding"
    )


CARD = """
import json, re, sys
from pathlib import Path
folder, out = map(Path, sys.argv[1:])
code = re.search(r"```python\\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.S)[1].replace("FOLDER", str(folder))
for name in ("model.onnx", "model.pt2", "labels.json"):
    code = code.replace(f'"{name}"', repr(str(folder / name)))
said = {}
exec(code, said)
assert not any(name.startswith("ssast_lab") for name in sys.modules)
found = {name: said[name].tolist() for name in ("embedding", "logits") if name in said}
out.write_text(json.dumps(found))
"""


@pytest.mark.parametrize("seconds", [0.5, 2.0])  # shorter and longer than the window
@pytest.mark.parametrize(
    ("to", "takes"), [("transformers", "features"), ("onnx", "features"), ("onnx", "waveform"), ("torch", "features"), ("torch", "waveform")]
)  # fmt: skip
def test_the_code_on_a_card_runs_as_it_stands(to, takes, seconds, tmp_path):
    """In a new process elsewhere, on a file of another rate than the official one and a band of its own, without any code of ours."""
    pytest.importorskip({"transformers": "transformers", "onnx": "onnxruntime", "torch": "torchaudio"}[to])
    pytest.importorskip("onnxscript" if to == "onnx" else "torch")
    heard = AudioConfig(mean=-5.0, std=4.0, sample_rate=24_000, low=50.0, high=10_000.0)
    wave = audio.load_waveform(audio.builtin_sounds()["blackbird"]["path"], to_rate=24_000)[: int(seconds * 24_000)]
    soundfile.write(tmp_path / "bird.flac", wave.numpy(), 24_000)
    wave = audio.load_waveform(tmp_path / "bird.flac", to_rate=24_000)
    for kind in (SSAST, Classifier):
        if to == "transformers" and kind is Classifier:  # its card has transformers' pipeline, which is tested above
            continue
        model = made(kind, audio=heard, frames=96)
        folder = checkpoint.export(model, tmp_path / kind.__name__, to, takes=takes).path
        done = subprocess.run([sys.executable, "-c", CARD, folder, "out.json"], cwd=tmp_path, capture_output=True, text=True,
                              env=ALONE | {"PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")})  # fmt: skip
        assert done.returncode == 0, done.stderr
        found = {
            name: torch.tensor(value[0]) for name, value in json.loads((tmp_path / "out.json").read_text()).items()
        }
        long = heard.samples_of(96)
        given = wave[:long] if to != "transformers" else torch.from_numpy(np.resize(wave, long))
        with torch.inference_mode():
            if kind is Classifier:
                expected = model(audio.log_mel(wave, heard, 96)[None])[0]
                torch.testing.assert_close(found["logits"], expected, rtol=0, atol=1e-3)
            else:
                expected = model.encoder(audio.log_mel(given, heard)[None]).tokens[0, 2:].mean(0)
                torch.testing.assert_close(found["embedding"], expected, rtol=0, atol=1e-3)


# --- the official layout ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["patch", "frame"])
def test_the_official_layout_is_the_recorded_one(shape, tmp_path):
    """Golden weights in, out, and every tensor as it was, but for ImageNet's heads, which SSAST never trains: they are zeros."""
    state = {f"module.{name}": value for name, value in official_state(figures(shape)).items()}
    torch.save(state, tmp_path / "golden.pth")
    out = checkpoint.export(tmp_path / "golden.pth", tmp_path / "out", "official").path
    written = torch.load(out / "model.pth", weights_only=True)
    assert set(written) == set(state)
    for name, value in written.items():
        assert value.shape == state[name].shape
        if not name.startswith("module.v.head"):
            torch.testing.assert_close(value.float(), state[name].float(), rtol=0, atol=1e-6)
    assert same(checkpoint.load(out / "model.pth"), checkpoint.load(tmp_path / "golden.pth"))


@pytest.mark.parametrize("shape", ["patch", "frame"])
@torch.no_grad()
def test_a_fine_tuned_model_in_the_official_layout(shape, tmp_path, fbank):
    stride = (10, 10) if shape == "patch" else (128, 1)
    trained = checkpoint.load(f"scratch:tiny-{shape}")
    model = Classifier.from_pretrained(trained, LABELS, frames=FRAMES, stride=stride, pooling="cls").eval()
    out = checkpoint.export(model, tmp_path / "out", "official").path
    again = checkpoint.load(out / "model.pth")
    assert again.config == model.config, "the settings beside the file say what its layout does not"
    torch.testing.assert_close(again(fbank), model(fbank), rtol=0, atol=1e-6)
    (out / "settings.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"settings\.json cannot be read"):
        checkpoint.load(out / "model.pth")


# --- graphs -------------------------------------------------------------------------------------------------------


def outputs(model, sound):
    tokens = model.encoder(sound).tokens
    logits = (model(sound),) if isinstance(model, Classifier) else ()
    return [*logits, tokens[:, 2:].mean(1), tokens]


@pytest.fixture(scope="module", params=["onnx", "torch"])
def runner(request):
    """Gives a function that runs an exported folder."""
    if request.param == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")

        def run(folder, sound):
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
            (given,) = session.get_inputs()
            return [torch.from_numpy(value) for value in session.run(None, {given.name: sound.numpy()})]
    else:

        def run(folder, sound):
            return torch.export.load(folder / "model.pt2").module()(sound)

    return request.param, run


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (SSAST, {}),
        (SSAST, dict(shape="frame")),
        (Classifier, dict(stride=(10, 10))),
        (Classifier, dict(shape="frame", pooling="cls")),
    ],
    ids=str,
)
@torch.no_grad()
def test_a_graph_of_features_takes_any_batch_and_length(kind, changes, runner, tmp_path, fbank):
    to, run = runner
    model = made(kind, **changes)
    out = checkpoint.export(model, tmp_path / "graph", to).path
    for sound in (fbank, fbank[:1], fbank[:3, : FRAMES - 17], fbank[:2, : model.config.patch[1]]):
        for given, expected in zip(run(out, sound), outputs(model, sound), strict=True):
            torch.testing.assert_close(given, expected, rtol=0, atol=1e-4)
    said = json.loads((out / "config.json").read_text())
    assert said["outputs"][-2:] == ["embedding", "tokens"]


@pytest.mark.parametrize(("kind", "shape"), [(SSAST, "patch"), (Classifier, "frame")], ids=str)
@torch.no_grad()
def test_a_graph_from_the_waveform_on(kind, shape, runner, tmp_path, waves):
    to, run = runner
    model = made(kind, shape)
    out = checkpoint.export(model, tmp_path / "graph", to, takes="waveform").path
    window, whole = audio.OFFICIAL.samples_of(FRAMES), kind is Classifier
    batch = torch.stack([wave[:window] for wave in waves])
    for sound in (batch, batch[:1, :9999], *([waves[2][None]] if whole else [])):
        heard = audio.log_mel(sound[:, :window], model.config.audio, FRAMES if whole else None)
        expected = outputs(model, heard)
        for given, value in list(zip(run(out, sound), expected, strict=True))[:-1]:
            torch.testing.assert_close(given, value, rtol=0, atol=1e-4)
    with pytest.raises(CheckpointError, match=r"is a graph for onnxruntime or torch\.export.*README\.md"):
        checkpoint.load(out)


def test_eight_bits_with_what_they_cost(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    checkpoint.save(made(Classifier, width=64), tmp_path / "model", {"title": "A model"})
    main(["export", str(tmp_path / "model"), str(tmp_path / "out"), "--to", "onnx", "--takes", "waveform", "--int8"])
    said = capsys.readouterr().out
    small = re.search(
        r"model\.int8\.onnx, .* the least cosine of two embeddings (0\.\d+); the same label for \d+%.*ms a sound", said
    )
    assert small, said
    assert float(small[1]) > 0.95
    # the mel filters and positions stay as they are, a large part of so small a model
    assert (tmp_path / "out/model.int8.onnx").stat().st_size < 0.8 * (tmp_path / "out/model.onnx").stat().st_size
    assert small[0] in (tmp_path / "out/README.md").read_text()
    import onnx

    told = {entry.key: entry.value for entry in onnx.load(tmp_path / "out/model.onnx").metadata_props}
    assert tuple(json.loads(told["labels"])) == LABELS == tuple(json.loads((tmp_path / "out/labels.json").read_text()))


# --- what is refused, and the card --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "to", "word"),
    [
        (lambda: made(EncoderModel), "official", "pretraining models and classifiers"),
        (lambda: made(Classifier, norm_eps=1e-12), "official", "LayerNorms"),
        (lambda: made(SSAST), "official", "number of heads"),
        (lambda: APC(APCConfig(width=16, depth=1)), "transformers", "APC"),
        (lambda: APC(APCConfig(width=16, depth=1)), "onnx", "APC"),
        (lambda: made(SSAST), "parquet", "parquet"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_with_the_reason(make, to, word, tmp_path):
    with pytest.raises(CheckpointError, match=word) as caught:
        checkpoint.export(make(), tmp_path / "out", to)
    assert re.fullmatch(r"[^\n]+\.", str(caught.value))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("ssast_lab.checkpoint.graph.find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(SystemExit, match=r"^ssast-lab export: .*onnxscript.*pip install 'ssast-lab\[onnx\]'\.$"):
        main(["export", "tiny-patch", str(tmp_path / "out"), "--to", "onnx"])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_stays(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="there already"):
        checkpoint.export("tiny-patch", tmp_path / "out")


def test_the_card_says_what_the_checkpoint_does(tmp_path):
    out = checkpoint.export("tiny-patch", tmp_path / "hf", "transformers").path
    page, about = (out / "README.md").read_text(), checkpoint.describe("tiny-patch")["about"]
    assert page.startswith("---\nlicense: bsd-3-clause\nlibrary_name: transformers\npipeline_tag: feature-extraction\n")
    for expected in (about["title"], "28.5 h of music", "training.optimizer | muon", f"{about['clips']:,}", "Gong, Yuan", "BSD-3-Clause",
                     about["commit"], "AutoModel.from_pretrained", "last_hidden_state[:, 2:]"):  # fmt: skip
        assert expected in page
    rows = [line for line in page.splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(rows) == len(about["curves"])
    assert f"{about['curves'][-1]['mse']:.4g}" in rows[-1]


def test_the_card_of_a_run(tmp_path, capsys):
    """Trained for a few steps, then exported by the command: data, recipe, curves and figures are the run's."""
    write_clips(tmp_path / "clips", 8, (1.0, 1.5))  # longer than the window
    config = tiny(tmp_path / "clips")
    train(config, here(tmp_path / "run"))
    main(
        [
            "export",
            str(tmp_path / "run"),
            str(tmp_path / "out"),
            "--to",
            "transformers",
            "--licence",
            "CC0-1.0",
            "--title",
            "Small",
        ]
    )
    said = capsys.readouterr().out
    page = (tmp_path / "out/README.md").read_text()
    assert "license: cc0-1.0" in page
    assert "# Small" in page
    best = Run(tmp_path / "run").best()
    for expected in (
        f"| steps | {best['step']} |",
        "| data.train | clips |",
        "| training.learning\\_rate | 0.002 |",
        "While it learned",
    ):
        assert expected in page
    assert str(tmp_path) not in page, "where the sounds lay is nobody's business"
    evaluations = [line for line in Run(tmp_path / "run").metrics() if "held_out_mse" in line]
    rows = [line for line in page.splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(rows) == len(evaluations)
    assert f"{evaluations[-1]['held_out_mse']:.4g}" in rows[-1]
    if "no picture of the curves" not in said:
        assert "![curves.svg](curves.svg)" in page
        assert "<svg" in (tmp_path / "out/curves.svg").read_text()
    assert same(checkpoint.load(tmp_path / "out"), checkpoint.load(tmp_path / "run"))


def test_a_card_takes_what_is_said_as_text(tmp_path):
    wild = {"title": "<script>x</script>\n# heading | [a](b)", "licence": "MIT\nfoo: bar", "curves": [3], "corpus": [{"hours": 3}],
            "recipe": {"a": {"b": [1]}}, "held_out": 3, "report": [1]}  # fmt: skip
    page = (checkpoint.export(made(SSAST), tmp_path / "hf", "transformers", wild).path / "README.md").read_text()
    assert "<script>" not in page.replace("\\<", "")
    assert "license:" not in page
    assert sum(line.startswith("# ") for line in page.splitlines()) == 1
