"""Weights of other projects: Audyn's release files, AudioMAE's encoders, and models of the Hugging Face Hub, beside PyTorch's own Transformer."""

import argparse
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from torch import nn

from ssast_lab import analysis, checkpoint
from ssast_lab.__main__ import main
from ssast_lab.checkpoint import CheckpointError
from ssast_lab.config import model_config
from ssast_lab.model import SSAST, Classifier, EncoderModel

WIDTH, DEPTH, FRAMES = 64, 2, 96


def randomised(module):
    torch.manual_seed(5)
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(torch.randn_like(value) * 0.2)
    return module.eval()


def transformer():
    layer = nn.TransformerEncoderLayer(
        WIDTH, 1, 4 * WIDTH, activation="gelu", batch_first=True, norm_first=True, layer_norm_eps=1e-6
    )
    return nn.TransformerEncoder(layer, DEPTH, nn.LayerNorm(WIDTH, 1e-6), enable_nested_tensor=False)


# --- Audyn --------------------------------------------------------------------------------------------------------


class Heads(nn.Module):
    def __init__(self, values):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, values)

    def forward(self, x):
        return self.linear2(self.linear1(x).relu())


class Audyn(nn.Module):
    """Its modules by their names: a picture of positions, and tokens that have theirs in them."""

    def __init__(self, patch):
        super().__init__()
        rows, columns = 128 // patch[0], FRAMES // patch[1]
        self.embedding, self.masker = nn.Module(), nn.Module()
        self.embedding.conv2d = nn.Conv2d(1, WIDTH, patch, patch)
        self.embedding.positional_embedding = nn.Parameter(torch.zeros(WIDTH, rows, columns))
        self.embedding.cls_token = nn.Parameter(torch.zeros(WIDTH))
        self.embedding.dist_token = nn.Parameter(torch.zeros(WIDTH))
        self.masker.mask_embedding = nn.Parameter(torch.zeros(WIDTH))
        self.backbone = transformer()
        self.reconstructor, self.classifier = Heads(patch[0] * patch[1]), Heads(patch[0] * patch[1])

    def forward(self, fbank, mask):
        """Sees (B, F, T), and hides patches after their positions were added, as Audyn does: then they have none."""
        x = self.embedding.conv2d(fbank.transpose(1, 2)[:, None]).flatten(2).transpose(1, 2)
        x = torch.where(mask[..., None], self.masker.mask_embedding, x)
        x = x + self.embedding.positional_embedding.flatten(1).T
        special = torch.stack((self.embedding.cls_token, self.embedding.dist_token)).expand(len(x), -1, -1)
        tokens = self.backbone(torch.cat((special, x), dim=1))
        hidden = tokens[:, 2:][mask].unflatten(0, (len(x), -1))
        return tokens, self.classifier(hidden), self.reconstructor(hidden)


@pytest.mark.parametrize("patch", [(16, 16), (128, 2)], ids=str)
@torch.no_grad()
def test_audyns_release_files_have_both_pretext_heads(patch, tmp_path):
    reference = randomised(Audyn(patch))
    state = {"model": reference.state_dict(), "resolved_config": {"model": {"embedding": {"n_frames": FRAMES}}}}
    torch.save(state, tmp_path / "audyn.pth")
    model, report = checkpoint.load_with_report(tmp_path / "audyn.pth")
    assert isinstance(model, SSAST)
    assert (model.config.patch, model.config.frames) == (patch, FRAMES)
    fbank = torch.randn(2, FRAMES, 128) * 0.5
    mask = torch.zeros(2, model.grid.count, dtype=torch.bool)
    mask[:, ::3] = True
    tokens, contrastive, reconstruction = reference(fbank, mask)
    torch.testing.assert_close(model.encode(fbank, mask).tokens, tokens, rtol=0, atol=1e-5)
    guess = model(fbank, mask)
    torch.testing.assert_close(guess.contrastive, contrastive, rtol=0, atol=1e-5)
    torch.testing.assert_close(guess.reconstruction, reconstruction, rtol=0, atol=1e-5)
    assert "Audyn" in report.format
    assert {weight.note.partition(" (")[0] for weight in report.taken} == set(reference.state_dict())
    assert (report.left, report.missing) == ((), ())


def test_what_is_not_quite_audyns_is_refused(tmp_path):
    state = Audyn((16, 16)).state_dict()
    for changes, word in (
        ({"embedding.surprise": torch.zeros(2)}, "surprise"),
        ({"embedding.positional_embedding": torch.zeros(3)}, "positions"),
        ({"embedding.conv2d.weight": torch.zeros(WIDTH, 256)}, "patches"),
        ({"embedding.cls_token": torch.zeros(7)}, "shape"),
        ({"masker.mask_embedding": torch.full((WIDTH,), float("nan"))}, "finite"),
    ):
        torch.save({"model": state | changes}, tmp_path / "odd.pth")
        with pytest.raises(CheckpointError, match=word):
            checkpoint.load(tmp_path / "odd.pth")


# --- AudioMAE -----------------------------------------------------------------------------------------------------


class AudioMAE(nn.Module):
    """An encoder whose spectrogram has time downwards, with [CLS] alone before its patches."""

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + FRAMES // 16 * 8, WIDTH))
        self.proj = nn.Conv2d(1, WIDTH, 16, 16)
        self.backbone = transformer()

    def forward(self, fbank):
        """(B, T, F) -> (B, 1 + T / 16 * 8, D), column by column."""
        x = self.proj(fbank[:, None]).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        return self.backbone(torch.cat((cls, x), dim=1))

    def saved(self):
        """Its weights by the names of timm."""
        state = {"cls_token": self.cls_token, "pos_embed": self.pos_embed, "norm.weight": self.backbone.norm.weight,
                 "norm.bias": self.backbone.norm.bias, "patch_embed.proj.weight": self.proj.weight, "patch_embed.proj.bias": self.proj.bias}  # fmt: skip
        for number, layer in enumerate(self.backbone.layers):
            for kind in ("weight", "bias"):
                for name, value in {
                    "norm1": getattr(layer.norm1, kind), "norm2": getattr(layer.norm2, kind),
                    "attn.qkv": getattr(layer.self_attn, f"in_proj_{kind}"), "attn.proj": getattr(layer.self_attn.out_proj, kind),
                    "mlp.fc1": getattr(layer.linear1, kind), "mlp.fc2": getattr(layer.linear2, kind),
                }.items():  # fmt: skip
                    state[f"blocks.{number}.{name}.{kind}"] = value
        return {name: value.detach().clone() for name, value in state.items()}


@pytest.fixture
def audiomae(tmp_path):
    reference = randomised(AudioMAE())
    decoder = {"mask_token": torch.zeros(1, 1, 32), "decoder_embed.weight": torch.zeros(32, WIDTH)}
    # as its training saves it, with what is no weight beside it
    torch.save(
        {"model": reference.saved() | decoder, "epoch": 3, "args": argparse.Namespace(lr=1.0)}, tmp_path / "mae.pth"
    )
    return reference, tmp_path / "mae.pth"


@torch.no_grad()
def test_an_encoder_of_audiomae(audiomae, tmp_path):
    reference, path = audiomae
    model, report = checkpoint.load_with_report(path)
    assert isinstance(model, EncoderModel)
    assert (model.config.frames, model.config.distillation) == (FRAMES, False)
    fbank = torch.randn(2, FRAMES, 128) * 0.5
    expected, encoding = reference(fbank), model.encoder(fbank, attention=[0], layers=[0])
    ours = expected[:, 1:].unflatten(1, (FRAMES // 16, 8)).transpose(1, 2).flatten(1, 2)
    torch.testing.assert_close(encoding.patches, ours, rtol=0, atol=1e-5)
    for token in (0, 1):
        torch.testing.assert_close(encoding.tokens[:, token], expected[:, 0], rtol=0, atol=1e-5)
    attention = encoding.attention[0]
    assert attention.shape[-1] == attention.shape[-2] == encoding.tokens.shape[1] == encoding.layers[0].shape[1]
    torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]))
    assert not attention[..., 1].any(), "nobody attends to a token that is not there"
    assert {weight.name for weight in report.left} == {"mask_token", "decoder_embed.weight"}
    assert report.missing[0].name == "encoder.distillation_token"
    assert "column by column" in report.positions

    again = checkpoint.load(checkpoint.save(model, tmp_path / "ours"))
    assert again.config == model.config
    assert torch.equal(again.encoder(fbank).tokens, encoding.tokens)
    tuned = Classifier.from_pretrained(model, ["a", "b"], frames=48)
    assert torch.isfinite(tuned(fbank[:, :48])).all()
    assert analysis.fingerprint(model) is not None


def test_such_an_encoder_goes_out_as_a_graph_only(audiomae, tmp_path):
    model = checkpoint.load(audiomae[1])
    for to in ("transformers", "official"):
        with pytest.raises(CheckpointError, match=r"distillation|pretraining models"):
            checkpoint.export(model, tmp_path / "out", to)
    out = checkpoint.export(model, tmp_path / "out", "torch").path
    fbank = torch.randn(3, 64, 128)
    with torch.no_grad():
        _, tokens = torch.export.load(out / "model.pt2").module()(fbank)
        torch.testing.assert_close(tokens, model.encoder(fbank).tokens, rtol=0, atol=1e-5)


def test_what_audiomae_cannot_give_is_said(audiomae, tmp_path):
    state = audiomae[0].saved()
    for changes, word in (
        ({"fc_norm.weight": torch.ones(WIDTH)}, "fine-tuned"),
        ({"patch_embed.proj.weight": torch.zeros(WIDTH, 3, 16, 16)}, "pictures"),
        ({"pos_embed": torch.zeros(1, 6, WIDTH)}, "whole columns"),
        ({"surprise": torch.zeros(2)}, "surprise"),
        ({"blocks.0.norm1.weight": torch.zeros(3)}, "shape"),
    ):
        torch.save(state | changes, tmp_path / "odd.pth")
        with pytest.raises(CheckpointError, match=word):
            checkpoint.load(tmp_path / "odd.pth")


# --- the Hub ------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub of one model on this machine: gives its folder, and the paths that were asked for."""
    pytest.importorskip("huggingface_hub")
    folder, asked = tmp_path / "served", []
    torch.manual_seed(0)
    model = EncoderModel(model_config("nano-patch", width=32, depth=1, frames=64))
    checkpoint.export(model, folder, "transformers")
    (folder / "evil.py").write_text("raise SystemExit")

    def tree(path):
        return {
            "type": "file",
            "path": path.name,
            "size": path.stat().st_size,
            "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
        }

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET(body=False)

        def do_GET(self, body=True):
            asked.append(self.path)
            name = self.path.partition("?")[0].rpartition("/")[2]
            path = folder / name
            if "/api/models/some/model/tree/" in self.path:
                content = json.dumps([tree(path) for path in folder.iterdir()]).encode()
            elif "/api/models/some/model" in self.path:
                files = [{"rfilename": path.name} for path in folder.iterdir()]
                content = json.dumps({"id": "some/model", "sha": "a" * 40, "siblings": files}).encode()
            elif "/some/model/resolve/" in self.path and path.is_file():
                content = path.read_bytes()
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("X-Repo-Commit", "a" * 40)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    # whatever another test set when it was imported
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    yield model, asked
    server.shutdown()
    server.server_close()


@pytest.mark.filterwarnings("ignore")  # of another library
def test_a_model_of_the_hub_by_its_name(hub, monkeypatch):
    model, asked = hub
    loaded = checkpoint.load("hf:some/model")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert any(path.endswith("model.safetensors") for path in asked)
    assert not any("evil.py" in path and "resolve" in path for path in asked), "no code is fetched"
    with pytest.raises(CheckpointError, match="no model some/other"):
        checkpoint.load("hf:some/other")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # where nobody answers
    assert checkpoint.load("hf:some/model").config == model.config, "what is here stays usable"
    with pytest.raises(CheckpointError, match="cannot be reached"):
        checkpoint.load("hf:another/model")


def test_nothing_is_fetched_that_is_not_asked_for_by_name(monkeypatch):
    def fetch(*_, **__):
        raise AssertionError("something was fetched")

    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    for name in ("MIT/ast", "https://huggingface.co/MIT/ast", "hf:MIT", "hf:../../etc", "hf:a/b/c", "hf:", "hf:a b/c"):
        with pytest.raises(CheckpointError):
            checkpoint.load(name)


def test_the_hub_needs_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(SystemExit, match=r"pip install 'ssast-lab\[hub\]'\.$"):
        main(["info", "hf:MIT/ast"])
