"""Folders of Hugging Face's transformers: what is in them is what comes out, under the names of version 4 and of version 5."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import here, write_clips

from ssast_lab import audio, checkpoint
from ssast_lab.__main__ import main
from ssast_lab.checkpoint import CheckpointError
from ssast_lab.config import (
    ConfigError,
    FineTuneConfig,
    LabelledConfig,
    ModelConfig,
    TuningConfig,
    from_dict,
    to_dict,
)
from ssast_lab.learning import classify
from ssast_lab.measuring.upstreams import upstream
from ssast_lab.model import Classifier, EncoderModel

WIDTH, DEPTH, FRAMES = 32, 2, 64
DESCRIPTION = {
    "model_type": "audio-spectrogram-transformer",
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "intermediate_size": 4 * WIDTH,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "patch_size": 16,
    "frequency_stride": 10,
    "time_stride": 12,
    "max_length": FRAMES,
    "num_mel_bins": 128,
    "id2label": {"2": "Regen", "0": "Amsel", "1": "鳥"},
}
LABELS = ("Amsel", "鳥", "Regen")


def own(kind, **changes):
    """A model with weights as of a trained one: none of its vectors is still zeros or ones."""
    torch.manual_seed(1)
    labels = dict(labels=LABELS, pooling="cls") if kind is Classifier else {}
    eps = 1e-6 if kind is Classifier else None
    config = ModelConfig(WIDTH, DEPTH, 2, FRAMES, (16, 16), (10, 12), norm_eps=eps, **labels)
    model = kind(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value) * 0.2)
    return model


def theirs(model, version):
    """The weights of one of our models under the names of transformers, written down from its own modules."""
    ours = {name: value.detach().clone() for name, value in model.state_dict().items()}
    state = {}
    for kind in ("weight", "bias"):
        state[f"embeddings.patch_embeddings.projection.{kind}"] = ours[f"encoder.patch_embedding.{kind}"]
        state[f"layernorm.{kind}"] = ours[f"encoder.norm.{kind}"]
        for i in range(DEPTH):
            block = f"encoder.blocks.{i}"
            query, key, value = ours[f"{block}.attention.qkv.{kind}"].split(WIDTH)
            layer, out, first, second, three = {
                4: (f"encoder.layer.{i}", "attention.output.dense", "intermediate.dense", "output.dense",
                    ("attention.attention.query", "attention.attention.key", "attention.attention.value")),
                5: (f"layers.{i}", "attention.o_proj", "mlp.fc1", "mlp.fc2",
                    ("attention.q_proj", "attention.k_proj", "attention.v_proj")),
            }[version]  # fmt: skip
            for name, part in zip(three, (query, key, value)):
                state[f"{layer}.{name}.{kind}"] = part.clone()
            state[f"{layer}.{out}.{kind}"] = ours[f"{block}.attention.out.{kind}"]
            state[f"{layer}.{first}.{kind}"] = ours[f"{block}.mlp.0.{kind}"]
            state[f"{layer}.{second}.{kind}"] = ours[f"{block}.mlp.2.{kind}"]
            state[f"{layer}.layernorm_before.{kind}"] = ours[f"{block}.norm1.{kind}"]
            state[f"{layer}.layernorm_after.{kind}"] = ours[f"{block}.norm2.{kind}"]
    kernel = state["embeddings.patch_embeddings.projection.weight"]
    state["embeddings.patch_embeddings.projection.weight"] = kernel.reshape(WIDTH, 1, 16, 16)
    state["embeddings.cls_token"] = ours["encoder.cls_token"]
    state["embeddings.distillation_token"] = ours["encoder.distillation_token"]
    state["embeddings.position_embeddings"] = ours["encoder.positions"]
    if isinstance(model, Classifier):
        state = {f"audio_spectrogram_transformer.{name}": value for name, value in state.items()}
        for kind in ("weight", "bias"):
            state[f"classifier.layernorm.{kind}"] = ours[f"norm.{kind}"]
            state[f"classifier.dense.{kind}"] = ours[f"linear.{kind}"]
    return state


def write(folder, state, description=None, way="safetensors", features=None):
    folder.mkdir(exist_ok=True)
    if way == "safetensors":
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    elif way == "bin":
        torch.save(state, folder / "pytorch_model.bin")
    elif way == "shards":
        place = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(state)}
        for file in set(place.values()):
            save_file({name: state[name] for name in state if place[name] == file}, folder / file)
        index = {"metadata": {"total_size": 1}, "weight_map": place}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(DESCRIPTION | (description or {})))
    if features is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(features))
    return folder


def same(one, other):
    mine, yours = one.state_dict(), other.state_dict()
    return mine.keys() == yours.keys() and all(torch.equal(mine[name], yours[name]) for name in mine)


def refused(path):
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path)
    message = str(caught.value)
    assert re.fullmatch(r"\S[^\n]{10,}[^.]\.", message), message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None, "one error, not a chain of them"
    return message


@pytest.mark.parametrize("way", ["safetensors", "bin", "shards"])
@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("kind", [EncoderModel, Classifier])
def test_what_is_in_the_folder_comes_out(kind, version, way, tmp_path):
    model = own(kind)
    loaded = checkpoint.load(write(tmp_path / "hf", theirs(model, version), way=way))
    assert type(loaded) is kind
    assert loaded.config == model.config
    assert same(loaded, model)
    assert not loaded.training
    again = checkpoint.load(checkpoint.save(loaded, tmp_path / "ours"))
    assert type(again) is kind
    assert again.config == loaded.config
    assert same(again, loaded)


@pytest.mark.parametrize("kind", [EncoderModel, Classifier])
def test_the_eps_is_kept(kind, tmp_path):
    state = theirs(own(kind), 5)
    loaded = checkpoint.load(write(tmp_path / "hf", state, {"layer_norm_eps": 1e-12}))
    norms = [module.eps for module in loaded.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert norms == [1e-12] * (2 * DEPTH + 1 + (kind is Classifier))
    description = DESCRIPTION.copy()
    del description["layer_norm_eps"]
    (tmp_path / "hf" / "config.json").write_text(json.dumps(description))
    assert checkpoint.load(tmp_path / "hf").config.norm_eps == 1e-12, "the default of transformers"
    again = checkpoint.load(checkpoint.save(loaded, tmp_path / "ours"))
    tuned = Classifier.from_pretrained(again, ["a", "b"], frames=32, pooling="mean")
    assert {module.eps for module in tuned.modules() if isinstance(module, torch.nn.LayerNorm)} == {1e-12}


def test_an_eps_that_is_not_set_is_not_in_the_description():
    config, other = ModelConfig(), ModelConfig(norm_eps=1e-12)
    assert "norm_eps" not in to_dict(config)
    for one in (config, other):
        assert from_dict(ModelConfig, json.loads(json.dumps(to_dict(one)))) == one
    for wrong in (0.0, -1e-6, float("nan"), 2.0, "1e-6"):
        with pytest.raises(ConfigError, match="norm_eps"):
            ModelConfig(norm_eps=wrong)


def test_without_biases_of_queries_keys_and_values(tmp_path):
    model = own(EncoderModel)
    with torch.no_grad():
        for block in model.encoder.blocks:
            block.attention.qkv.bias.zero_()
    state = {name: value for name, value in theirs(model, 5).items() if not re.search(r"[qkv]_proj\.bias", name)}
    assert same(checkpoint.load(write(tmp_path / "hf", state, {"qkv_bias": False})), model)


def test_the_features_are_those_of_the_preprocessor(tmp_path):
    state = theirs(own(EncoderModel), 4)
    features = {"mean": -6.5, "std": 3.0, "num_mel_bins": 128, "max_length": FRAMES, "sampling_rate": 16000}
    folder = write(tmp_path / "hf", state, features=features | {"do_normalize": True})
    assert (checkpoint.load(folder).config.audio.mean, checkpoint.load(folder).config.audio.std) == (-6.5, 3.0)
    write(folder, state, features=features | {"do_normalize": False})
    config = checkpoint.load(folder).config.audio
    wave = torch.sin(torch.arange(16_000) ** 2 * 1e-5)
    plain = audio.denormalise(audio.log_mel(wave))
    torch.testing.assert_close(audio.log_mel(wave, config), plain, rtol=1e-5, atol=1e-5)
    for wrong in (
        dict(num_mel_bins=64),
        dict(max_length=1024),
        dict(sampling_rate=44_100),
        dict(std=0),
        dict(mean="x"),
    ):
        (name,) = wrong
        assert name in refused(write(folder, state, features=features | wrong))


def test_upstream_and_fine_tuning(tmp_path):
    model = own(EncoderModel)
    folder = write(tmp_path / "hf", theirs(model, 5))
    wave = torch.randn(2, audio.OFFICIAL.samples_of(FRAMES)) * 0.1
    tokens = model(audio.log_mel(wave)).tokens.detach()
    found = upstream(str(folder))
    assert found.layers == DEPTH
    np.testing.assert_allclose(found.embed(wave, "mean")[:, -1], tokens[:, 2:].mean(1), atol=1e-5)
    np.testing.assert_allclose(found.embed(wave, "cls")[:, -1], tokens[:, :2].mean(1), atol=1e-5)
    assert found.key == upstream(str(checkpoint.save(model, tmp_path / "ours"))).key
    tuned = Classifier.from_pretrained(checkpoint.load(folder), ["a", "b"])
    torch.testing.assert_close(tuned.encoder(audio.log_mel(wave)).tokens, tokens)
    scratch = checkpoint.load(f"scratch:{folder}")
    assert scratch.config == model.config
    assert not same(scratch, model)


@pytest.mark.parametrize("kind", [EncoderModel, Classifier])
def test_it_is_fine_tuned(kind, tmp_path):
    model = own(kind)
    folder = write(tmp_path / "hf", theirs(model, 4), {"layer_norm_eps": 1e-12})
    rows = ["path,label,fold"]
    for number, clip in enumerate(write_clips(tmp_path / "audio", 12)):
        rows.append(f"{clip},{('low', 'high')[number // 2 % 2]},{('train', 'train', 'test')[number // 4]}")
    (tmp_path / "task.csv").write_text("\n".join(rows) + "\n")
    settings = TuningConfig(batch=4, epochs=1, warmup=1)
    config = FineTuneConfig(str(folder), data=LabelledConfig(str(tmp_path / "task.csv")), training=settings)
    started = classify.FineTuning(config).classifier
    assert torch.equal(started.encoder.blocks[1].attention.qkv.weight, model.encoder.blocks[1].attention.qkv.weight)
    steps = list(classify.fine_tune(config, here(tmp_path / "run")))
    assert len(steps) == 2
    tuned = checkpoint.load(tmp_path / "run")
    assert set(tuned.config.labels) == {"low", "high"}
    assert tuned.config.norm_eps == tuned.norm.eps == 1e-12


@pytest.mark.parametrize("kind", [EncoderModel, Classifier])
def test_info(kind, tmp_path, capsys):
    folder = write(tmp_path / "hf", theirs(own(kind), 5))
    main(["info", str(folder)])
    said = capsys.readouterr().out
    assert kind.__name__ in said
    assert "stride 10 x 12" in said
    assert ("Amsel, 鳥, Regen" in said) == (kind is Classifier)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model_type": "wav2vec2"}, "wav2vec2"),
        ({"model_type": None}, "type"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"patch_size": [128, 2]}, "square"),
        ({"patch_size": "16"}, "patch_size"),
        ({"patch_size": 8}, "patch_embeddings"),
        ({"intermediate_size": 100}, "intermediate_size"),
        ({"hidden_size": 10**9}, "hidden_size"),
        ({"hidden_size": 2 * WIDTH, "intermediate_size": 8 * WIDTH}, "shape"),
        ({"num_attention_heads": 5}, "heads"),
        ({"num_hidden_layers": 10**6}, "layers"),
        ({"num_hidden_layers": DEPTH + 1}, f"layers.{DEPTH}"),
        ({"num_hidden_layers": DEPTH - 1}, f"layers.{DEPTH - 1}"),
        ({"max_length": 128}, "position_embeddings"),
        ({"time_stride": 16}, "position_embeddings"),
        ({"time_stride": 0}, "time_stride"),
        ({"layer_norm_eps": 0}, "layer_norm_eps"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps"),
        ({"id2label": {"0": "a"}}, "id2label"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, "Two labels"),
        ({"id2label": [1]}, "id2label"),
    ],
    ids=str,
)
def test_descriptions_of_something_else(changes, word, tmp_path):
    assert word in refused(write(tmp_path / "hf", theirs(own(Classifier), 5), changes))


@pytest.mark.parametrize("version", [4, 5])
def test_weights_of_something_else(version, tmp_path):
    state = theirs(own(EncoderModel), version)
    for name in state:
        assert f"lack {name}" in refused(write(tmp_path / "hf", {n: v for n, v in state.items() if n != name}))
        assert re.search("shape|lack", refused(write(tmp_path / "hf", state | {name: torch.zeros(3, 5)})))
        odd = torch.full_like(state[name], float("nan"))
        assert "finite" in refused(write(tmp_path / "hf", state | {name: odd}))
    assert "mask_embed" in refused(write(tmp_path / "hf", state | {"mask_embed": torch.zeros(1)}))
    assert "lack" in refused(write(tmp_path / "hf", {}))


def test_incomplete_folders(tmp_path):
    state = theirs(own(EncoderModel), 5)
    assert "no weights" in refused(write(tmp_path / "none", state, way="none"))
    folder = write(tmp_path / "hf", state, way="shards")
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002" in refused(folder)
    index = folder / "model.safetensors.index.json"
    for wrong in ("", "[]", "{}", '{"weight_map": {"a": "../model.safetensors"}}', '{"weight_map": {"a": "x.bin"}}'):
        index.write_text(wrong)
        assert index.name in refused(folder)
    (folder / "model.safetensors").write_bytes(b"no tensors at all")
    assert "no safetensors file" in refused(folder)


def test_a_pickle_runs_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "trace"), "w")

    write(tmp_path / "hf", {"embeddings.cls_token": Evil()}, way="bin")
    assert "wants to run" in refused(tmp_path / "hf")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("eps", [1e-12, 1e-6])
@pytest.mark.parametrize("name", ["ASTModel", "ASTForAudioClassification"])
@pytest.mark.filterwarnings("ignore")  # of another library
def test_the_outputs_are_those_of_transformers(name, eps, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    settings = {key: value for key, value in DESCRIPTION.items() if key not in ("model_type", "id2label")}
    config = transformers.ASTConfig(**settings | {"layer_norm_eps": eps, "num_labels": 5})
    reference = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for value in reference.parameters():
            value.add_(torch.randn_like(value) * 0.1)
    reference.save_pretrained(tmp_path / "hf")
    transformers.ASTFeatureExtractor(max_length=FRAMES, mean=-5.0, std=4.0).save_pretrained(tmp_path / "hf")
    model = checkpoint.load(tmp_path / "hf")
    assert model.config.audio.mean == -5
    fbank = torch.randn(3, FRAMES, 128) * 0.5
    with torch.no_grad():
        expected = reference(fbank)
        if name == "ASTModel":
            torch.testing.assert_close(model(fbank).tokens, expected.last_hidden_state, rtol=0, atol=1e-5)
        else:
            assert model.config.labels == tuple(f"LABEL_{number}" for number in range(5))
            torch.testing.assert_close(model(fbank), expected.logits, rtol=0, atol=1e-5)
