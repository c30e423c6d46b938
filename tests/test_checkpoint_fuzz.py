"""Files that were altered at random, in every format: each is a model or a :class:`CheckpointError`, soon, and none runs code."""

import os
import pickle
import random
import re
import sys
import warnings
import zipfile

import pytest
import torch

from ssast_lab import checkpoint
from ssast_lab.checkpoint import CheckpointError
from ssast_lab.config import ModelConfig
from ssast_lab.model import SSAST, Classifier

ROUNDS = int(os.environ.get("SSAST_FUZZ", 40))  # alterations of each kind of file
SENTENCE = re.compile(r"\S[^\n]{10,}\.")
FORMATS = ("ours", "transformers", "wrapped", "bin", "official", "fine-tuned", "audyn", "old torch")


def small(kind=SSAST, **changes):
    torch.manual_seed(0)
    labels = dict(labels=("a", "b")) if kind is Classifier else {}
    return kind(ModelConfig(**dict(width=16, depth=1, heads=1, frames=48) | labels | changes)).eval()


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Format -> (what is loaded, the files that are altered)."""
    folder = tmp_path_factory.mktemp("originals")
    found = {}
    for name, model, to in (
        ("ours", small(), "ours"),
        ("transformers", small(), "transformers"),
        ("wrapped", small(Classifier, patch=(128, 2), stride=(128, 1)), "transformers"),
        ("official", small(), "official"),
        ("fine-tuned", small(Classifier, stride=(10, 10)), "official"),
    ):
        out = checkpoint.export(model, folder / name, to).path
        found[name] = out / "model.pth" if to == "official" else out
    state = torch.load(found["official"], weights_only=True)
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    found["old torch"] = folder / "old.pth"
    (folder / "bin").mkdir()
    (folder / "bin/config.json").write_bytes((found["transformers"] / "config.json").read_bytes())
    from safetensors.torch import load_file

    torch.save(load_file(found["transformers"] / "model.safetensors"), folder / "bin/pytorch_model.bin")
    found["bin"] = folder / "bin"
    from test_foreign import Audyn

    torch.save(
        {"model": Audyn((16, 16)).state_dict(), "resolved_config": {"a": [1, 2.0, "b", None]}}, folder / "audyn.pth"
    )
    found["audyn"] = folder / "audyn.pth"
    assert set(found) == set(FORMATS)
    return found


def flipped(content, draw):
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]


def early(content, draw):
    """A bit of what describes the weights, which stands at the beginning or the end."""
    place = draw.randrange(min(2000, len(content))) * draw.choice((1, -1))
    place %= len(content)
    return content[:place] + bytes([draw.randrange(256)]) + content[place + 1 :]


def cut(content, draw):
    return content[: draw.randrange(len(content))]


def moved(content, draw):
    a, b, size = draw.randrange(len(content)), draw.randrange(len(content)), draw.randrange(1, 200)
    return content[:a] + content[b : b + size] + content[a + size :]


def doubled(content, draw):
    place = draw.randrange(len(content))
    return content[:place] + content[max(0, place - 300) :]


ALTERATIONS = (flipped, early, cut, moved, doubled)


def imports(arguments):
    """Whether code is run because a module is imported, as Python does with its own codecs when they are first needed."""
    names = (getattr(arguments[0], "co_filename", None), arguments[-1])
    return any(isinstance(name, str) and name.endswith(".py") and os.path.isfile(name) for name in names)


class Watch:
    """Notes what a process does that reading a file does not take."""

    forbidden = (
        "os.system",
        "subprocess.Popen",
        "os.exec",
        "os.posix_spawn",
        "socket.connect",
        "os.remove",
        "shutil.rmtree",
        "exec",
        "compile",
    )

    def __init__(self):
        self.on, self.seen = False, []
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if self.on and event in self.forbidden and not (event in ("exec", "compile") and imports(arguments)):
            self.seen.append((event, str(arguments)[:200]))


@pytest.fixture(scope="module")
def watch():
    return Watch()  # a hook can never be taken away again: it is switched off


@pytest.mark.parametrize("name", FORMATS)
def test_an_altered_file_is_a_model_or_one_error(name, originals, watch, tmp_path):
    source, draw = originals[name], random.Random(name)
    files = [
        path
        for path in ([source] if source.is_file() else sorted(source.iterdir()))
        if path.suffix not in (".md", ".py")
    ]
    checkpoint.load(source)  # whatever is imported at the first time
    loaded, said = 0, []
    for number in range(ROUNDS):
        target = tmp_path / f"{number}"
        target.mkdir()
        for path in files:
            (target / path.name).write_bytes(path.read_bytes())
        chosen = target / draw.choice(files).name
        content = draw.choice(ALTERATIONS)(chosen.read_bytes(), draw)
        chosen.write_bytes(content)
        watch.on = True
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = checkpoint.load(target if source.is_dir() else chosen)
            loaded += 1
            assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
        except CheckpointError as error:
            said.append(str(error))
        finally:
            watch.on = False
    assert watch.seen == []
    assert [sentence for sentence in said if not SENTENCE.fullmatch(sentence)] == []
    assert loaded < ROUNDS, "some alteration must have been noticed"


def test_an_archive_that_says_it_is_one_of_several(originals, tmp_path):
    """Found by 3,000 alterations: Python's own reader then fails where it only ought to look."""
    content = originals["official"].read_bytes()
    at = content.rindex(b"PK\x06\x07")  # the locator of a large archive's directory: ... number of disks
    (tmp_path / "x.pth").write_bytes(content[: at + 16] + b"\x02" + content[at + 17 :])
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["official", "fine-tuned", "audyn"])
def test_weights_of_wrong_shapes_and_kinds(name, originals, tmp_path):
    draw = random.Random(name)
    state = torch.load(originals[name], weights_only=True)
    state = state.get("model", state)
    values = (
        lambda value: value[..., :-1] if value.ndim else torch.zeros(3), lambda value: value[None], lambda value: value.double(),
        lambda value: value.to(torch.int32), lambda value: torch.full_like(value, float("inf")), lambda value: torch.zeros(0),
        lambda value: torch.zeros(()), lambda value: value.to(torch.complex64), lambda value: value.to_sparse(),
        lambda value: torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8), lambda value: None, lambda value: "text",
        lambda value: value.expand(10**6, *value.shape), lambda value: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    )  # fmt: skip
    path, said = tmp_path / "odd.pth", []
    for key in draw.sample(sorted(state), 12):
        for change in values:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    torch.save(state | {key: change(state[key].float())}, path)
                except (RuntimeError, NotImplementedError):
                    continue  # such a tensor cannot be saved
                try:
                    checkpoint.load(path)
                except CheckpointError as error:
                    said.append(str(error))
    assert len(said) > 50
    assert [sentence for sentence in said if not SENTENCE.fullmatch(sentence)] == []


PAYLOADS = {
    "system": lambda trace: (os.system, (f"touch '{trace}'",)),
    "exec": lambda trace: (exec, (f"open({str(trace)!r}, 'w')",)),
    "open": lambda trace: (open, (str(trace), "w")),
    "eval": lambda trace: (eval, (f"__import__('pathlib').Path({str(trace)!r}).touch()",)),
    "partial": lambda trace: (__import__("functools").partial(open, str(trace), "w"), ()),
}
PLACES = {
    "alone": lambda evil, state: evil,
    "beside the weights": lambda evil, state: {"model": state, "resolved_config": {"a": [evil]}},
    "as a weight": lambda evil, state: state | {"module.mask_embed": evil},
    "as a name": lambda evil, state: {"state_dict": state, "epoch": (1, {"x": evil})},
}


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("place", PLACES)
def test_a_pickle_that_would_run_code(payload, place, originals, tmp_path):
    trace = tmp_path / "trace"

    class Evil:
        def __reduce__(self):
            return PAYLOADS[payload](trace)

    content = PLACES[place](Evil(), torch.load(originals["official"], weights_only=True))
    for way in (True, False):
        torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=way)
        with pytest.raises(CheckpointError):
            checkpoint.load(tmp_path / "evil.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path / "bare.pth")
    assert not trace.exists()


@pytest.mark.parametrize(
    "name", ["omegaconf.dictconfig DictConfig", "argparse Namespace", "typing Any", "builtins dict"]
)
def test_what_is_read_as_nothing_is_nothing(name, originals, tmp_path):
    """An object of a known harmless name is not made: neither its module is imported nor its arguments used."""
    state = torch.load(originals["official"], weights_only=True)
    torch.save({"model": state, "args": ["PLACEHOLDER"]}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "with.pth", "w") as other:
        for member in plain.infolist():
            content = plain.read(member)
            if member.filename.endswith("data.pkl"):
                module, cls = name.split()
                called = f"c{module}\n{cls}\n".encode() + b"X\x01\x00\x00\x00a\x85R}X\x01\x00\x00\x00bK\x01sb"
                at = content.index(b"PLACEHOLDER") - 5
                content = content[:at] + called + content[at + 5 + len("PLACEHOLDER") :]
            other.writestr(member.filename, content)
    sys.modules.pop("omegaconf", None)
    model = checkpoint.load(tmp_path / "with.pth")
    assert isinstance(model, SSAST)
    assert "omegaconf" not in sys.modules
