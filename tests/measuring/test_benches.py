"""At home elsewhere: HEAR, X-ARES, scikit-learn, PyTorch Hub and Ray take the models as their own tools ask for them."""

import os
import pickle
import re
import subprocess
import sys
import types
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import soundfile
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from tiny import ALONE

import ssast_lab
from ssast_lab import audio, checkpoint
from ssast_lab.config import model_config
from ssast_lab.measuring import hear, xares
from ssast_lab.measuring.transformer import SoundEmbedder
from ssast_lab.model import SSAST

ROOT = Path(__file__).parent.parent.parent
SOUNDS = {name: sound["path"] for name, sound in audio.builtin_sounds().items()}
RATE = audio.SAMPLE_RATE


@pytest.fixture(scope="module", params=["patch", "frame"])
def small(request, tmp_path_factory):
    torch.manual_seed(0)
    model = SSAST(model_config(f"nano-{request.param}", depth=2, frames=128))
    return str(checkpoint.save(model, tmp_path_factory.mktemp("small") / request.param))


def test_hears_validator_finds_what_it_asks_for(small, monkeypatch, capsys):
    """Without tensorflow, which it imports for models that are written in it."""
    tensorflow = types.ModuleType("tensorflow")
    tensorflow.Module = type("Module", (), {})
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)
    validate = pytest.importorskip("hearvalidator.validate")
    validate.ValidateModel(
        "ssast_lab.measuring.hear", small, device="cpu"
    )()  # warnings are errors: so the spacing is fine enough
    said = capsys.readouterr().out
    assert "Received embedding of shape: torch.Size([8, " in said


def test_hears_time_stamps_are_the_middles_of_what_was_heard(small):
    model = hear.load_model(small)
    waves = torch.stack([audio.load_waveform(SOUNDS[name])[: 5 * RATE] for name in ("tabla", "water")])
    embeddings, times = hear.get_timestamp_embeddings(waves, model)
    assert embeddings.shape == (2, times.shape[1], model.timestamp_embedding_size)
    assert 0 < float(times[0, 0]) < 100
    assert 4700 < float(times[0, -1]) < 5000
    spacing = float(times[0, 1] - times[0, 0])
    assert spacing <= 50
    assert torch.allclose(times.diff(), torch.full_like(times[:, 1:], spacing))
    for at in (0, 7, 60):  # what begins there by itself has the same middle
        offset = round((float(times[0, at]) - float(times[0, 0])) * RATE / 1000)
        within = offset % round(model.step * RATE)
        alone = model(waves[:, within:])[:, (offset - within) // round(model.step * RATE)]
        assert torch.allclose(embeddings[:, at], alone, atol=1e-5)
    short, _ = hear.get_timestamp_embeddings(waves[:, :1000], model)
    assert short.shape[1] >= 1
    scene = hear.get_scene_embeddings(waves, model)
    assert torch.allclose(scene, model(waves).mean(1))
    assert scene.shape == (2, model.scene_embedding_size)


def test_what_is_high_and_what_is_low_stay_apart(small):
    given = ssast_lab.Embedder(small)(SOUNDS["blackbird"])
    steps = hear.load_model(small)(audio.load_waveform(SOUNDS["blackbird"])[None])[0].numpy()
    np.testing.assert_allclose(steps.reshape(given.patches.shape), given.patches, atol=1e-4)


def test_the_encoder_is_one_for_xares(small):
    checker = pytest.importorskip("xares.audio_encoder_checker")
    found = pytest.importorskip("xares.utils").attr_from_py_path("ssast_lab/measuring/xares.py", endswith="Encoder")
    assert found is xares.SsastEncoder
    encoder = found(small)
    assert checker.check_audio_encoder(encoder)
    assert checker.check_audio_encoder(found())
    wave = audio.load_waveform(SOUNDS["tabla"])
    steps = encoder(wave)
    assert steps.shape == (1, steps.shape[1], encoder.output_dim)
    assert len(wave) / RATE * 1000 / steps.shape[1] == pytest.approx(encoder.hop_size_in_ms, rel=0.05)
    assert not steps.requires_grad


# --- scikit-learn ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """Half seconds of three sounds, as files."""
    folder = tmp_path_factory.mktemp("pieces")
    paths, labels = [], []
    for name in ("tabla", "water", "speech"):
        wave = audio.load_waveform(SOUNDS[name]).numpy()[: 3 * RATE]
        for number, piece in enumerate(np.split(wave, 6)):
            paths.append(str(folder / f"{name}-{number}.wav"))
            labels.append(name)
            soundfile.write(paths[-1], piece, RATE)
    return paths, labels


def test_a_pipeline_learns_from_paths_and_arrays(pieces):
    paths, labels = pieces
    pipeline = make_pipeline(SoundEmbedder("tiny-patch", layers=9), StandardScaler(), LogisticRegression(max_iter=500))
    assert cross_val_score(pipeline, paths, labels, cv=3).mean() > 0.8
    waves = np.stack([audio.load_waveform(path).numpy() for path in paths])
    ours = SoundEmbedder("tiny-patch", layers=9).fit(paths)
    wanted = ours.transform(paths)
    for given in (waves, [*waves], [*torch.from_numpy(waves)]):
        np.testing.assert_allclose(ours.transform(given), wanted, atol=1e-2)
    np.testing.assert_array_equal(
        ours.transform([Path(path).read_bytes() for path in paths[:3]]), ours.transform(paths[:3])
    )
    with_numpy = clone(ours).set_params(layers=np.int64(9)).fit(paths)  # as of a grid search over numpy.arange
    np.testing.assert_array_equal(with_numpy.transform(paths[:3]), ours.transform(paths[:3]))
    embedder = ssast_lab.Embedder("tiny-patch", 9)
    np.testing.assert_allclose(wanted[4], embedder(paths[4]).clip, atol=1e-3)
    assert ours.get_feature_names_out().shape == (wanted.shape[1],)


def test_it_is_cloned_pickled_and_told_apart(pieces):
    paths, _ = pieces
    one = SoundEmbedder("tiny-frame", layers=(4, 5), pooling="statistics", seconds=0.2, hop=0.1)
    other = clone(one)
    assert other.get_params() == one.get_params()
    assert "tiny-frame" in repr(other)
    fitted = one.fit(paths[:2])
    content = pickle.dumps(fitted)
    assert len(content) < 2000
    np.testing.assert_array_equal(pickle.loads(content).transform(paths[:2]), fitted.transform(paths[:2]))
    assert fitted.transform(paths[:2]).shape == (2, 384)


def test_a_sound_that_cannot_be_read_is_named(tmp_path, pieces):
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    with pytest.raises(audio.AudioError, match=r"Sound 1 of 2 .*broken\.wav"):
        SoundEmbedder().fit_transform([pieces[0][0], str(tmp_path / "broken.wav")])


class Looped(SoundEmbedder):
    """scikit-learn checks with rows of a few numbers, which are no sounds: they are repeated until they are."""

    def sounds(self, X, reset):
        return [np.resize(row, 1600) if isinstance(row, np.ndarray) else row for row in super().sounds(X, reset)]


@pytest.mark.filterwarnings("ignore")  # of checks that scikit-learn leaves out
def test_scikit_learns_own_checks(small):
    results = check_estimator(Looped(small), on_fail=None, on_skip=None)
    failed = {result["check_name"]: repr(result["exception"]) for result in results if result["status"] == "failed"}
    assert failed == {}
    assert len([result for result in results if result["status"] == "passed"]) > 40


@pytest.mark.parametrize("given", [[], [1, 2], "one.wav", np.zeros((2, 2, 2)), [np.nan]])
def test_what_are_no_sounds_is_refused(given):
    with pytest.raises(ValueError, match=r"sound|Expected 2D array|Found array with"):
        SoundEmbedder().fit_transform(given)


# --- PyTorch Hub and Ray --------------------------------------------------------------------------------------------

HUB = """
import sys, torch
embedder = torch.hub.load(sys.argv[1], "embedder", source="local", name="tiny-frame", layers=5)
model = torch.hub.load(sys.argv[1], "ssast", source="local")
print(embedder(sys.argv[2]).clip.shape, type(model).__name__)
"""


def test_the_hub_finds_its_entries(tmp_path):
    env = {name: value for name, value in ALONE.items() if name != "PYTHONPATH"} | {"TORCH_HOME": str(tmp_path)}
    run = [sys.executable, "-c", HUB, str(ROOT), str(SOUNDS["speech"])]
    done = subprocess.run(run, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(192,) SSAST\n"


def test_the_page_shows_how_ray_does_it(tmp_path):
    """The example of docs/embeddings.md, on two processes of this machine."""
    pytest.importorskip("ray")
    (example,) = re.findall(
        r"```python\n(import ray.*?)```", (ROOT / "docs/embeddings.md").read_text(encoding="utf-8"), re.S
    )
    for name, path in [*SOUNDS.items()][:6]:
        (tmp_path / f"{name}.flac").write_bytes(path.read_bytes())
    assert '"recordings/"' in example
    alone = 'import ray\nray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1")\n'
    (tmp_path / "example.py").write_text(
        alone + example.replace('"recordings/"', repr(str(tmp_path))), encoding="utf-8"
    )
    quiet = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }
    with TemporaryDirectory() as place:  # of a short name, for its sockets
        done = subprocess.run(
            [sys.executable, "example.py"], env=os.environ | quiet | {"OMP_NUM_THREADS": "1", "RAY_TMPDIR": place},
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if "timed out during startup" in done.stderr:
        pytest.skip("Ray gave up after the 30 seconds that it gives itself to start: the machine is too busy.")
    assert done.returncode == 0, done.stderr[-3000:]
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(tmp_path / "embeddings").sort_values("file")
    table = ssast_lab.Embedder("tiny-patch").many(sorted(tmp_path.glob("*.flac")))
    assert [Path(file).name for file in frame["file"]] == sorted(path.name for path in tmp_path.glob("*.flac"))
    np.testing.assert_allclose(np.stack(frame["embedding"]), table.values, atol=1e-2)


PAGE = re.findall(r"```python\n(.*?)```", (ROOT / "docs/embeddings.md").read_text(encoding="utf-8"), re.S)


@pytest.mark.parametrize(
    "example", [each for each in PAGE if "import ray" not in each], ids=lambda text: text.split("\n")[0]
)
def test_the_examples_of_the_page_run(example, monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {}
    exec(example, names)
    if "BirdsEncoder" in names:
        steps = names["BirdsEncoder"]()(audio.load_waveform(SOUNDS["frogs"]))
        assert steps.shape == (1, 294, 192)
    if "Maeb" in names:
        samples, rate = soundfile.read(SOUNDS["frogs"])
        batches = [{"audio": [{"array": samples, "sampling_rate": rate}] * 2}] * 2
        clips = names["Maeb"]().encode(batches, task_metadata=None)
        np.testing.assert_allclose(
            clips, np.stack([ssast_lab.Embedder("tiny-patch")(SOUNDS["frogs"]).clip] * 4), atol=1e-3
        )
