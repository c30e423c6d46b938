"""A checkpoint is read back as it was written, or refused in a sentence; nothing in a stranger's file is executed."""

import hashlib
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import zipfile

import pytest
import torch
from golden_model import figures, official_state
from safetensors.torch import save as to_safetensors

from ssast_lab import checkpoint
from ssast_lab.checkpoint import CONFIG, WEIGHTS, CheckpointError
from ssast_lab.config import model_config
from ssast_lab.model import SSAST, Classifier
from ssast_lab.predictive import Wav2Vec, Wav2VecConfig


def small(**changes):
    return SSAST(model_config("nano-patch", **dict(width=16, depth=1, heads=2, frames=64) | changes))


def same(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def refused(path, **official):
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path, **official)
    message = str(caught.value)
    assert re.fullmatch(r"\S[^\n]{10,}[^.]\.", message), message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None, "one error, not a chain of them"
    return message


@pytest.mark.parametrize(
    "make", [small, lambda: Classifier.from_pretrained(small(), ["Käuzchen", "鳥"], pooling="cls")]
)
def test_round_trip(make, tmp_path):
    model = make()
    path = tmp_path / "a folder" / "mit Räumen 鳥"
    assert checkpoint.save(model, path, about={"text": "größer", "steps": 3}) == path
    again = checkpoint.load(path)
    assert type(again) is type(model)
    assert again.config == model.config
    assert same(again, model)
    assert not again.training
    assert all(value.requires_grad for value in again.parameters())
    assert checkpoint.describe(path)["about"] == {"text": "größer", "steps": 3}
    assert same(checkpoint.load(path / WEIGHTS), model)
    assert same(checkpoint.load(str(path)), model)
    assert os.listdir(path.parent) == [path.name], "nothing else is left"


def test_half(tmp_path):
    model = small()
    again = checkpoint.load(checkpoint.save(model, tmp_path / "half", half=True))
    for name, value in model.state_dict().items():
        assert again.state_dict()[name].dtype == torch.float32
        torch.testing.assert_close(again.state_dict()[name], value, rtol=2**-11, atol=2**-25)
    checkpoint.save(model, tmp_path / "full")
    sizes = [(tmp_path / name / WEIGHTS).stat().st_size for name in ("half", "full")]
    assert sizes[0] < 0.6 * sizes[1]


def test_loaded_models_can_be_trained(tmp_path):
    model = checkpoint.load(checkpoint.save(small(), tmp_path / "m"))
    mask = torch.arange(32)[None] < 5
    model(torch.randn(1, 64, 128), mask).reconstruction.sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()


def test_saving_replaces(tmp_path):
    first, second = small(), small(width=24)
    checkpoint.save(first, tmp_path / "m")
    (tmp_path / "m" / "note.txt").write_text("of the old one")
    checkpoint.save(second, tmp_path / "m")
    assert same(checkpoint.load(tmp_path / "m"), second)
    assert sorted(os.listdir(tmp_path / "m")) == [CONFIG, WEIGHTS]


def test_failed_save_leaves_the_old_one(tmp_path, monkeypatch):
    model = small()
    path = checkpoint.save(model, tmp_path / "m")
    with pytest.raises(TypeError):
        checkpoint.save(small(), path, about={"not": object()})
    assert same(checkpoint.load(path), model)
    assert os.listdir(tmp_path) == ["m"]

    rename = type(path).rename

    def full(self, target):
        if self.name != "m":
            raise OSError("no space left on device")
        return rename(self, target)

    monkeypatch.setattr(type(path), "rename", full)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(small(), path)
    monkeypatch.undo()
    assert same(checkpoint.load(path), model)
    assert checkpoint.describe(path)["kind"] == "pretext"
    newer = small()
    checkpoint.save(newer, path)
    assert same(checkpoint.load(path), newer)
    assert os.listdir(tmp_path) == ["m"]


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from ssast_lab import checkpoint
model = checkpoint.load(sys.argv[1])
with torch.no_grad():
    model.mask_token.add_(1)
moves, real, last = [], Path.rename, int(sys.argv[2])
def rename(self, target):
    if len(moves) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    moves.append(target)
    return real(self, target)
Path.rename = rename
checkpoint.save(model, sys.argv[1])
"""


@pytest.mark.parametrize("renames", [0, 1])
def test_killed_while_saving(tmp_path, renames):
    model = small()
    path = checkpoint.save(model, tmp_path / "m")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(renames)], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert same(checkpoint.load(path), model)


@pytest.fixture
def folder(tmp_path):
    """Writes a checkpoint folder of a small model with other weights or settings; the checksum fits unless told."""

    def write(weights=None, checksum=True, model=None, **changes):
        path = tmp_path / "odd"
        checkpoint.save(small(), path)
        description = checkpoint.describe(path)
        weights = (path / WEIGHTS).read_bytes() if weights is None else weights
        (path / WEIGHTS).write_bytes(weights)
        if checksum:
            description["sha256"] = hashlib.sha256(weights).hexdigest()
        description["model"].update(model or {})
        (path / CONFIG).write_text(json.dumps(description | changes), encoding="utf-8")
        return path

    return write


def weights(**changes):
    state = {name: value.clone() for name, value in small().state_dict().items()}
    return to_safetensors(state | changes)


def test_damaged_weights(folder):
    whole = weights()
    for cut in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        assert "checksum" in refused(folder(whole[:cut], checksum=False))
        assert "no safetensors file" in refused(folder(whole[:cut]))
    for place in (0, 9, 500, len(whole) // 2, len(whole) - 1):
        flipped = bytearray(whole)
        flipped[place] ^= 0x10
        path = folder(whole)
        (path / WEIGHTS).write_bytes(flipped)
        assert "checksum" in refused(path)


def test_weights_of_something_else(folder):
    for value, word in (
        (torch.zeros(1, 1, 17), "shape"),
        (torch.full((1, 1, 16), float("nan")), "finite"),
        (torch.full((1, 1, 16), float("-inf")), "finite"),
        (torch.full((1, 1, 16), 1e300, dtype=torch.float64), "finite"),
        (torch.full((1, 1, 16), float("nan")).to(torch.float8_e4m3fn), "finite"),
        (torch.zeros(1, 1, 16, dtype=torch.int64), "finite"),
    ):
        message = refused(folder(weights(mask_token=value)))
        assert "mask_token" in message
        assert word in message
    assert "encoder.extra" in refused(folder(weights(**{"encoder.extra": torch.zeros(2)})))
    assert "lacks" in refused(folder(to_safetensors({"conv1.weight": torch.zeros(64, 3, 7, 7)})))
    assert "lacks" in refused(folder(to_safetensors({})))


@pytest.mark.parametrize(
    "model",
    [{"width": 10**k} for k in (5, 9, 18, 40)]
    + [{"depth": 10**9}, {"frames": 10**15}, {"frames": 10**30}, {"audio": {"mel_bins": 10**18}}]
    + [{"width": 16.0}, {"width": None}, {"heads": 3}, {"heads": 0}, {"patch": [16]}, {"patch": 16}, {"patch": "ab"}]
    + [{"stride": [0, 0]}, {"stride": [10, 10]}, {"labels": None}, {"labels": [[]]}, {"pooling": "max"}]
    + [{"audio": 3}, {"audio": {"mean": float("nan")}}, {"audio": {"std": float("inf")}}, {"surprise": 1}],
    ids=str,
)
def test_wild_descriptions(folder, model):
    assert "does not describe a model" in refused(folder(model=model))


@pytest.mark.parametrize("changes", [dict(model=None), dict(model=[1]), dict(kind="x"), dict(kind=[1])], ids=str)
def test_descriptions_of_nothing(folder, changes):
    path = folder()
    (path / CONFIG).write_text(json.dumps(checkpoint.describe(path) | changes))
    assert "does not describe a model" in refused(path)


@pytest.mark.parametrize("part", ["kind", "model", "sha256", "about"])
def test_a_description_that_lacks_a_part_is_refused_when_it_is_only_read_too(folder, part):
    path = folder()
    content = json.loads((path / CONFIG).read_text())
    (path / CONFIG).write_text(json.dumps({name: value for name, value in content.items() if name != part}))
    assert f"{part!r} is missing" in refused(path)
    with pytest.raises(CheckpointError, match=f"'{part}' is missing"):
        checkpoint.describe(path)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b'{"format": 1}', b"\xff\xfe\x00", b"[" * 100_000, b"9" * 10_000, b'{"a": "\x00"}'],
    ids=lambda text: repr(text[:9]),
)
def test_broken_json(folder, text):
    path = folder()
    (path / CONFIG).write_bytes(text)
    assert CONFIG in refused(path)


def test_incomplete_folders(folder, tmp_path):
    path = folder()
    (path / WEIGHTS).unlink()
    assert "weights" in refused(path)
    (path / WEIGHTS).mkdir()
    assert "weights" in refused(path)
    (path / CONFIG).unlink()
    assert CONFIG in refused(path)
    (tmp_path / "empty").mkdir()
    assert CONFIG in refused(tmp_path / "empty")
    with pytest.raises(CheckpointError):
        checkpoint.describe(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name", ["nowhere", "small-patch", "a\0b", "x" * 5000, "no/such/place.pth"], ids=lambda s: s[:9]
)
def test_no_such_model(name):
    assert "There is no model" in refused(name)


def test_folders_describe_themselves(folder):
    assert "frames" in refused(folder(), frames=100)


def test_files_that_are_no_checkpoints(tmp_path):
    path = tmp_path / "odd.pth"
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("letter.txt", "dear reader")
    for content in (
        b"",
        b"\x80",
        b"PK",
        b"dear reader\n" * 100,
        bytes(range(256)) * 50,
        (tmp_path / "some.zip").read_bytes(),
        weights(),
        pickle.dumps({"a": 1}, 4),
    ):
        path.write_bytes(content)
        assert str(path) in refused(path)


OTHERS = {
    "list": [torch.zeros(3)],
    "number": 3,
    "tensor": torch.zeros(3),
    "nothing": {},
    "numbered": {1: torch.zeros(3)},
    "texts": {"a": "b"},
    "resnet": {"conv1.weight": torch.zeros(64, 3, 7, 7), "bn1.running_mean": torch.zeros(64)},
    "training": {"state_dict": {"conv1.weight": torch.zeros(3)}, "epoch": 3},
    "own": {"encoder.positions": torch.zeros(1, 3, 8)},
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("zipped", [True, False])
def test_other_torch_files(name, zipped, tmp_path):
    torch.save(OTHERS[name], tmp_path / "other.pth", _use_new_zipfile_serialization=zipped)
    assert "other.pth" in refused(tmp_path / "other.pth")


def official(**changes):
    state = {
        "v.patch_embed.proj.weight": torch.zeros(64, 1, 16, 16),
        "v.pos_embed": torch.zeros(1, 514, 64),
        "v.blocks.0.norm1.weight": torch.zeros(64),
    }
    return state | changes


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's remark on sparse tensors
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"v.blocks.999999999.norm1.weight": torch.zeros(64)},
        {"v.patch_embed.proj.weight": torch.zeros(64, 3, 16, 16)},
        {"v.patch_embed.proj.weight": torch.zeros(64, 1, 0, 16)},
        {"v.patch_embed.proj.weight": torch.zeros(64, 1, 138, 16)},
        {"v.patch_embed.proj.weight": torch.zeros(0, 1, 16, 16)},
        {"v.patch_embed.proj.weight": torch.tensor(1.0)},
        {"v.pos_embed": torch.zeros(3)},
        {"v.pos_embed": torch.zeros(1, 1, 64)},
        {"p_input_fdim": torch.zeros(2)},
        {"p_input_fdim": torch.tensor(float("nan"))},
        {"p_input_tdim": torch.tensor(float("inf"))},
        {"p_input_tdim": torch.tensor(1000)},
        {"mlp_head.1.weight": torch.tensor(1.0)},
        {"mlp_head.1.weight": torch.zeros(1).expand(10**9, 64)},  # a gigabyte of labels in a file of 2 kB
        {"v.cls_token": torch.ones(1, 1, 64).to_sparse()},
        {"v.cls_token": torch.ones(1, 1, 64, device="meta")},
    ],
    ids=lambda changes: "".join(f"{name} {tuple(value.shape)}" for name, value in changes.items()),
)
def test_nearly_official_files(changes, tmp_path):
    path = tmp_path / "nearly.pth"
    torch.save(official(**changes), path)
    assert str(path) in refused(path)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    path = tmp_path_factory.mktemp("official") / "tiny.pth"
    torch.save(official_state(figures("frame")), path)
    return path


def test_truncated_official_file(real, tmp_path):
    assert isinstance(checkpoint.load(real), SSAST)
    whole = real.read_bytes()
    for cut in (1, 10, 1000, len(whole) // 2, len(whole) - 1000, len(whole) - 10):
        (tmp_path / "cut.pth").write_bytes(whole[:cut])
        refused(tmp_path / "cut.pth")


def test_flipped_bits_in_an_official_file(real, tmp_path):
    whole = real.read_bytes()
    for place in range(len(whole) // 9, len(whole), len(whole) // 5):  # among the weights
        damaged = bytearray(whole)
        damaged[place] ^= 1
        (tmp_path / "flipped.pth").write_bytes(damaged)
        assert "damaged" in refused(tmp_path / "flipped.pth")


def test_nan_and_shapes_in_an_official_file(tmp_path):
    state = official_state(figures("frame"))
    for name, value, word in (
        ("v.norm.weight", torch.full((192,), float("nan")), "finite"),
        ("v.norm.weight", torch.zeros(191), "shape"),
        ("v.pos_embed", torch.zeros(1, 77, 192), "positions"),
        ("v.surprise", torch.zeros(2), "v.surprise"),
    ):
        torch.save(state | {name: value}, tmp_path / "odd.pth")
        assert word in refused(tmp_path / "odd.pth")


def test_zip_bomb(real, tmp_path):
    with zipfile.ZipFile(real) as plain, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for member in plain.infolist():
            bomb.writestr(
                member.filename, bytes(member.file_size) if "/data/" in member.filename else plain.read(member)
            )
    assert "compressed" in refused(tmp_path / "bomb.pth")


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize(
    "wrap", [lambda evil: evil, lambda evil: official(**{"v.cls_token": evil})], ids=["bare", "dict"]
)
@pytest.mark.parametrize("zipped", [True, False])
def test_malicious_pickle(wrap, zipped, tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "evil.pth"
    torch.save(wrap(Malicious(trace)), path, _use_new_zipfile_serialization=zipped)
    message = refused(path)
    assert not trace.exists()
    assert "system" in message
    assert "wants to run" in message


@pytest.mark.parametrize("protocol", range(6))
def test_malicious_bare_pickle(protocol, tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(Malicious(trace), protocol))
    refused(path)
    assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists(), "the file would have done harm"


@pytest.mark.parametrize("kind", ["pretext", "wav2vec"])
def test_reading_a_model_does_not_import_the_compiler(kind, tmp_path):
    """Which takes longer than everything else together."""
    model = Wav2Vec(Wav2VecConfig(channels=8, depth=1)) if kind == "wav2vec" else None
    name = str(checkpoint.save(model, tmp_path / "model")) if model else "tiny-patch"
    code = f"import sys; from ssast_lab import checkpoint; checkpoint.load({name!r}); print('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
