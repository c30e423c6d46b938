"""Embeddings do not depend on what stands beside a sound in its batch, come from the cache when they are there, and mean what
their docstrings say."""

import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from tiny import write_clips

from ssast_lab import audio, checkpoint, data
from ssast_lab.config import ModelConfig
from ssast_lab.measuring import embedding, upstreams
from ssast_lab.measuring.embedding import embed_clips, trimmed
from ssast_lab.measuring.linear import ByOneDNN
from ssast_lab.measuring.upstreams import UpstreamError, upstream
from ssast_lab.model import SPECIAL, SSAST, Classifier, resample_positions
from ssast_lab.patches import patchify

WIDTH, DEPTH, FRAMES = 32, 3, 64
SMALL = dict(
    extractor_mode="group_norm", extractor_conv_layer_config=[(16, 10, 5), (16, 8, 4), (16, 4, 4)], extractor_conv_bias=False,
    encoder_embed_dim=24, encoder_projection_dropout=0.1, encoder_pos_conv_kernel=8, encoder_pos_conv_groups=4,
    encoder_num_layers=2, encoder_num_heads=2, encoder_attention_dropout=0.1, encoder_ff_interm_features=48,
    encoder_ff_interm_dropout=0.0, encoder_dropout=0.1, encoder_layer_norm_first=False, encoder_layer_drop=0.05,
    aux_num_out=None,
)  # fmt: skip


@pytest.fixture(scope="module", params=[(16, 16), (128, 2)], ids=["patch", "frame"])
def model(request):
    torch.manual_seed(3)
    return SSAST(ModelConfig(WIDTH, DEPTH, 2, FRAMES, request.param, request.param)).eval()


@pytest.fixture
def saved(model, tmp_path):
    return checkpoint.save(model, tmp_path / "model")


@pytest.fixture
def speechlike():
    torch.manual_seed(4)
    return upstreams.of_torchaudio("small", torchaudio.models.wav2vec2_model(**SMALL))


def noise(*shape):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", upstreams.POOLINGS)
def test_a_batch_is_its_clips_one_by_one(saved, speechlike, pooling):
    for found in (upstream(saved), speechlike, upstream("logmel")):
        if pooling == "cls" and found is speechlike:
            continue
        waves = noise(3, 14_000)
        batch = found.embed(waves, pooling)
        assert batch.shape[:2] == (3, found.layers)
        close(batch, torch.cat([found.embed(wave[None], pooling) for wave in waves]))


@pytest.mark.parametrize("shape", [(3, 5, 16), (5, 16), (1, 16)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_by_onednn_are_those_of_pytorch(shape, bias):
    linear, x = torch.nn.Linear(16, 24, bias), torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = linear(x)
        with ByOneDNN():
            torch.testing.assert_close(linear(x), wanted, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(linear(x[..., :0, :]), wanted[..., :0, :])
            torch.testing.assert_close(linear(x.T.contiguous().T if x.ndim == 2 else x), wanted, rtol=1e-5, atol=1e-6)
            assert linear.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    linear.float()
    with ByOneDNN():
        linear(x).sum().backward()
    assert linear.weight.grad is not None


def test_layers_behind_those_that_are_asked_for_are_not_computed(saved, speechlike):
    for found in (upstream(saved), speechlike):
        waves = noise(2, 14_000)
        every = found.by_layer(waves, range(found.layers))
        gone = []
        blocks = getattr(found.module, "blocks", None) or found.module.get_submodule("encoder.transformer").layers
        for number, block in enumerate(blocks):
            block.register_forward_hook(lambda *_, gone=gone, number=number: gone.append(number))
        ((layer, tokens),) = found.by_layer(waves, [0])
        assert (layer, gone) == (0, [0])
        close(tokens, every[0][1])


def test_layers_are_the_tokens_after_each_block_and_the_last_norm(model, saved):
    waves = noise(2, audio.OFFICIAL.samples_of(FRAMES))
    x = model.encoder.patch_embedding(patchify(audio.log_mel(waves), model.grid))
    special = torch.cat((model.encoder.cls_token, model.encoder.distillation_token), 1).expand(2, -1, -1)
    x = torch.cat((special, x), 1) + model.encoder.positions
    layers = []
    for block in model.encoder.blocks:
        x = block(x)
        layers.append(x)
    layers[-1] = model.encoder.norm(x)
    found = upstream(saved)
    assert found.layers == DEPTH
    for number, tokens in enumerate(layers):
        places = tokens[:, SPECIAL:]
        close(found.embed(waves, "mean")[:, number], places.mean(1).detach())
        close(found.embed(waves, "max")[:, number], places.amax(1).detach())
        close(found.embed(waves, "cls")[:, number], tokens[:, :2].mean(1).detach())
        both = torch.cat((places.mean(1), (places - places.mean(1, keepdim=True)).square().mean(1).sqrt()), 1)
        close(found.embed(waves, "statistics")[:, number], both.detach())


def test_a_short_sound_is_taken_at_its_own_length(model, saved):
    short = noise(1, audio.OFFICIAL.samples_of(32))
    grid = model.encoder.grid_of(audio.log_mel(short))
    positions = resample_positions(model.encoder.positions, model.grid, grid)
    assert positions.shape[1] == SPECIAL + model.grid.count // 2
    tokens = model.encoder(audio.log_mel(short)).patches
    close(upstream(saved).embed(short, "mean")[:, -1], tokens.mean(1).detach())


def test_a_long_sound_is_the_mean_of_its_windows(saved):
    found, window = upstream(saved), audio.OFFICIAL.samples_of(FRAMES)
    sound = noise(1, 4 * FRAMES * audio.OFFICIAL.hop)
    step = FRAMES * audio.OFFICIAL.hop
    first, second = (found.embed(sound[:, start : start + window], "mean") for start in (0, step))
    half = found.embed(sound[:, 2 * step : 2 * step + audio.OFFICIAL.samples_of(32)], "mean")
    close(found.embed(sound[:, : step + window], "mean"), (first + second) / 2)
    close(
        found.embed(sound[:, : 2 * step + audio.OFFICIAL.samples_of(32)], "mean"), (2 * first + 2 * second + half) / 5
    )
    # A last window of less than a quarter is left out, whatever is in it.
    rest = step + window + 15 * audio.OFFICIAL.hop
    close(found.embed(sound[:, :rest], "mean"), (first + second) / 2)


def test_speech_models_are_cut_into_windows_too(speechlike, monkeypatch):
    speechlike.window = 8000
    sound = noise(1, 20_000)
    parts = [speechlike.embed(sound[:, start : start + 8000], "mean") for start in (0, 8000, 16_000)]
    close(speechlike.embed(sound, "mean"), (2 * parts[0] + 2 * parts[1] + parts[2]) / 5)


def test_a_very_short_sound_is_zero_padded(model, saved, speechlike):
    blip = noise(1, 200)
    frames = model.config.patch[1]
    for found, least in (
        (upstream(saved), audio.OFFICIAL.samples_of(frames)),
        (speechlike, 400),
        (upstream("logmel"), 560),
    ):
        embedding = found.embed(blip, "mean")
        assert embedding.shape[:2] == (1, found.layers)
        assert embedding.isfinite().all()
        close(embedding, found.embed(torch.nn.functional.pad(blip, (0, least - 200)), "mean"))


def test_the_floor_is_statistics_of_frames_and_of_their_changes():
    wave = noise(1, 16_000)
    fbank = audio.log_mel(wave)[0].double().numpy()
    change = fbank[1:] - fbank[:-1]
    expected = np.concatenate([f for x in (fbank, change) for f in (x.mean(0), x.std(0))])
    np.testing.assert_allclose(upstream("logmel").embed(wave, "mean")[0, 0].numpy(), expected, rtol=1e-3, atol=1e-4)


def test_speech_models_give_every_layer_of_torchaudio(speechlike):
    waves = noise(2, 9000)
    with torch.no_grad():
        layers, _ = speechlike.module.extract_features(waves)
    assert len(layers) == speechlike.layers == 2
    close(speechlike.embed(waves, "mean"), torch.stack([layer.mean(1) for layer in layers], 1))
    # The least that it hears: one frame comes of so many samples, and none of one less.
    features = speechlike.module.feature_extractor
    least = 10 + 7 * 5 + 3 * 20  # of kernels 10, 8 and 4 at strides 5, 20 and 80
    assert features(noise(1, least), None)[0].shape[1] == 1
    assert speechlike.least == max(least, audio.OFFICIAL.window)
    with pytest.raises(UpstreamError, match=r"no \[CLS\]"):
        speechlike.embed(waves, "cls")


def test_scratch_is_the_same_model_with_random_weights(saved, model):
    trained, zero, again, one = (
        upstream(name) for name in (saved, f"scratch:{saved}", f"scratch@0:{saved}", f"scratch@1:{saved}")
    )
    wave = noise(1, 10_000)
    found = [each.embed(wave, "mean") for each in (trained, zero, again, one)]
    assert {each.shape for each in found} == {(1, DEPTH, WIDTH)}
    assert torch.equal(found[1], found[2])
    assert not any(torch.allclose(a, b, atol=1e-3) for a, b in ((found[0], found[1]), (found[1], found[3])))
    assert zero.key == again.key
    assert len({trained.key, zero.key, one.key}) == 3


def test_scratch_of_a_preset_leaves_global_randomness_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    assert upstream("scratch:nano-frame").layers == 4
    assert torch.equal(torch.rand(3), expected)
    assert upstream("scratch@2:nano-patch").key != upstream("scratch:nano-patch").key


def test_the_key_is_that_of_the_encoder(model, saved, tmp_path):
    classifier = Classifier.from_pretrained(model, ["a", "b"], pooling="cls")
    other = SSAST(model.config)
    other.encoder.load_state_dict(model.encoder.state_dict())
    heads = {upstream(checkpoint.save(each, tmp_path / name)).key for name, each in (("c", classifier), ("o", other))}
    assert heads == {upstream(saved).key}
    with torch.no_grad():
        other.encoder.norm.bias[0] += 1e-6
    assert upstream(checkpoint.save(other, tmp_path / "moved")).key != upstream(saved).key


def test_what_is_no_upstream_is_said():
    with pytest.raises(UpstreamError, match=r"no upstream 'no-such'.*logmel"):
        upstream("no-such")
    with pytest.raises(UpstreamError, match="no upstream 'scratch:no-such'"):
        upstream("scratch:no-such")
    with pytest.raises(UpstreamError, match="pooling is mean"):
        upstream("logmel").embed(noise(1, 4000), "median")


def test_a_damaged_model_is_not_a_missing_one(saved):
    (saved / "model.safetensors").write_bytes(b"")
    with pytest.raises(checkpoint.CheckpointError, match="damaged"):
        upstream(saved)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of downloads with nothing in it, and a published model that is small."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    bundle = torchaudio.pipelines.Wav2Vec2Bundle("small.pth", SMALL, 16_000, False, "Wav2Vec2")
    monkeypatch.setattr(torchaudio.pipelines, "HUBERT_BASE", bundle)
    return Path(torch.hub.get_dir()) / "checkpoints"


def test_published_weights_are_not_fetched_unasked(hub, monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("it was downloaded"))
    with pytest.raises(UpstreamError, match=r"hubert-base .* not on this machine.*--download") as raised:
        upstream("hubert-base")
    assert str(hub / "small.pth") in str(raised.value)


def test_a_download_that_fails_is_one_sentence(hub, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(UpstreamError, match=r"hubert-base could not be loaded \(no route to host\)"):
        upstream("hubert-base", download=True)


def test_published_weights_that_are_there_are_used(hub):
    hub.mkdir(parents=True)
    model = torchaudio.models.wav2vec2_model(**SMALL)
    torch.save(model.state_dict(), hub / "small.pth")
    wave = noise(1, 9000)
    expected = upstreams.of_torchaudio("small", model)
    found = upstream("hubert-base")
    assert torch.equal(found.embed(wave, "mean"), expected.embed(wave, "mean"))
    assert found.key == expected.key


# --- clips ------------------------------------------------------------------------------------------------------------


class Counting:
    """An upstream that counts the clips it is asked for."""

    def __init__(self, inner):
        self.inner, self.name, self.key, self.layers, self.rate = inner, inner.name, inner.key, inner.layers, inner.rate
        self.batches = []

    def to(self, device):
        return self

    def embed(self, waveforms, pooling):
        self.batches.append(len(waveforms))
        return self.inner.embed(waveforms, pooling)


@pytest.fixture
def clips(tmp_path):
    return [data.Clip(str(path)) for path in write_clips(tmp_path / "audio", 9)]


@pytest.mark.parametrize("seconds", [1, 80])
def test_clips_are_embedded_as_if_each_were_alone(saved, clips, monkeypatch, seconds):
    monkeypatch.setitem(embedding.BATCH_SECONDS, "cpu", seconds)
    found = upstream(saved)
    alone = []
    for clip in clips:
        wave = audio.load_waveform(clip.path)
        alone.append(found.embed(wave[None, : trimmed(len(wave))], "mean")[0].numpy())
    embeddings = embed_clips(found, clips, device="cpu")
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, alone, rtol=1e-4, atol=1e-5)


def test_equally_long_clips_go_together(tmp_path):
    lengths = [16_000, 16_100, 24_000, 16_050]
    for number, length in enumerate(lengths):
        soundfile.write(tmp_path / f"{number}.wav", noise(length).numpy() + number / 100, 16_000)
    counting = Counting(upstream("logmel"))
    embed_clips(counting, [data.Clip(str(tmp_path / f"{n}.wav")) for n in range(4)], device="cpu")
    assert sorted(counting.batches) == [1, 3]


def test_little_is_trimmed():
    samples = np.arange(audio.OFFICIAL.window, 20 * audio.SAMPLE_RATE, 37)
    kept = np.array([trimmed(int(count)) for count in samples])
    frames, left = (np.array([audio.OFFICIAL.frames_of(int(count)) for count in counts]) for counts in (samples, kept))
    assert (kept <= samples).all()
    assert (frames - left < np.maximum(frames / 16, 1)).all()
    assert (frames - left < 16).all()
    assert (left[frames >= 256] % 16 == 0).all()
    assert len(np.unique(left[(frames >= 64) & (frames < 128)])) == 16


def test_what_is_in_the_cache_is_not_computed_again(saved, clips, tmp_path):
    counting = Counting(upstream(saved))
    first = embed_clips(counting, clips, cache=tmp_path / "cache", device="cpu")
    assert sum(counting.batches) == len(clips)
    again = embed_clips(counting, clips[::-1], cache=tmp_path / "cache", device="cpu")
    assert sum(counting.batches) == len(clips)
    assert np.array_equal(again, first[::-1])
    assert embed_clips(counting, [], cache=tmp_path / "cache").shape == (0, DEPTH, 0)


def test_the_cache_goes_by_content(saved, clips, tmp_path):
    cache = tmp_path / "cache"
    first = embed_clips(upstream(saved), clips, cache=cache, device="cpu")
    moved = tmp_path / "moved.flac"
    shutil.copy(clips[0].path, moved)
    shutil.copy(clips[2].path, clips[1].path)
    write_clips(tmp_path / "other", 2)
    shutil.copy(tmp_path / "other" / "001.flac", clips[2].path)
    counting = Counting(upstream(saved))
    found = embed_clips(counting, [data.Clip(str(moved)), *clips[1:3]], cache=cache, device="cpu")
    assert sum(counting.batches) == 1
    assert np.array_equal(found[:2], first[[0, 2]])
    assert not np.allclose(found[2], first[2], atol=1e-3)


def test_other_weights_and_poolings_have_other_caches(saved, clips, tmp_path):
    cache = tmp_path / "cache"
    for name in (saved, f"scratch:{saved}"):
        for pooling in ("mean", "max"):
            counting = Counting(upstream(name))
            embed_clips(counting, clips, pooling, cache=cache, device="cpu")
            assert sum(counting.batches) == len(clips)
    assert len(list(cache.iterdir())) == 4


def test_a_damaged_cache_is_made_anew(saved, clips, tmp_path):
    first = embed_clips(upstream(saved), clips, cache=tmp_path / "cache", device="cpu")
    (file,) = (tmp_path / "cache").iterdir()
    for damage in (b"", file.read_bytes()[:-7], b"\xff" * 100):
        file.write_bytes(damage)
        np.testing.assert_array_equal(
            embed_clips(upstream(saved), clips, cache=tmp_path / "cache", device="cpu"), first
        )
        assert len(embedding._read_cache(file)) == len(clips)


def test_a_cache_that_cannot_be_written_is_one_sentence(clips, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UpstreamError, match=r"The cache .*file/.* cannot be written: File exists\.$"):
        embed_clips(upstream("logmel"), clips, cache=tmp_path / "file", device="cpu")


def test_two_writers_leave_a_whole_cache(tmp_path):
    file = tmp_path / "cache.safetensors"
    rows = {bytes([number]) * 32: np.full((2, 5), number, np.float32) for number in range(40)}

    def write(number):
        embedding._add_to_cache(file, {bytes([number]) * 32: rows[bytes([number]) * 32]})
        return embedding._read_cache(file)

    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(write, range(40)))
    for content in seen:
        assert content
        assert all(np.array_equal(value, rows[digest]) for digest, value in content.items())
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_broken_clip_is_named_before_anything_is_computed(saved, clips, tmp_path):
    for content, reason in ((b"", "empty"), (b"no sound" * 50, "cannot be decoded"), (None, "No such file")):
        broken = tmp_path / "broken.flac"
        broken.unlink(missing_ok=True)
        if content is not None:
            broken.write_bytes(content)
        counting = Counting(upstream(saved))
        with pytest.raises(UpstreamError, match=rf"broken\.flac cannot be embedded: .*{reason}"):
            embed_clips(counting, [*clips, data.Clip(str(broken))], cache=tmp_path / "cache", device="cpu")
        assert counting.batches == []


def test_all_broken_clips_are_named_at_once(saved, clips, tmp_path):
    for name in ("a.flac", "b.flac"):
        (tmp_path / name).write_bytes(b"no sound" * 50)
    some = [data.Clip(str(tmp_path / name)) for name in ("a.flac", "b.flac")]
    (tmp_path / "b.flac").write_bytes(b"")
    with pytest.raises(UpstreamError, match=r"^2 clips cannot be embedded: .*a\.flac \(.*; .*b\.flac \(.*empty"):
        embed_clips(upstream(saved), [*clips, *some], device="cpu")


def test_what_was_computed_before_a_broken_clip_is_kept(saved, clips, tmp_path, monkeypatch):
    monkeypatch.setitem(embedding.BATCH_SECONDS, "cpu", 0)
    monkeypatch.setattr(embedding, "_check", lambda clip: None)  # only decoding shows it
    cut = tmp_path / "cut.flac"
    cut.write_bytes(b"no sound" * 50)
    counting = Counting(upstream(saved))
    with pytest.raises(UpstreamError, match=r"cut\.flac cannot be embedded"):
        embed_clips(counting, [*clips, data.Clip(str(cut))], cache=tmp_path / "cache", device="cpu")
    assert sum(counting.batches) == len(clips)
    embed_clips(counting, clips, cache=tmp_path / "cache", device="cpu")
    assert sum(counting.batches) == len(clips)


def test_members_of_shards_are_clips_too(saved, clips, tmp_path):
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        for clip in clips:
            shard.add(clip.path, Path(clip.path).name)
    members = data.find_clips([tmp_path / "shard.tar"])
    counting = Counting(upstream(saved))
    first = embed_clips(counting, members, cache=tmp_path / "cache", device="cpu")
    assert np.array_equal(embed_clips(counting, clips, cache=tmp_path / "cache", device="cpu"), first)
    assert sum(counting.batches) == len(clips)
