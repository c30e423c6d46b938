"""Laws of the model: what may influence what, and equality with plainer ways of computing the same."""

import pytest
import torch
import torch.nn.functional as F
from golden_model import figures

from ssast_lab import objectives
from ssast_lab.config import ConfigError, ModelConfig, model_config
from ssast_lab.data import Batch
from ssast_lab.masking import random_mask
from ssast_lab.model import SPECIAL, SSAST, Classifier, Encoder, _softmax, resample_positions
from ssast_lab.patches import PatchGrid, patchify, select, unpatchify


def clips(model, batch=3, hidden=10):
    fbank = torch.randn(batch, model.grid.frames, model.grid.mel_bins)
    return fbank, random_mask(model.grid, hidden, generator=torch.Generator().manual_seed(3), batch=batch)


@torch.no_grad()
def test_batch_equals_singles(nano):
    fbank, mask = clips(nano)
    together = nano(fbank, mask)
    for clip in range(3):
        alone = nano(fbank[clip : clip + 1], mask[clip : clip + 1])
        for one, several in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], several[clip], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("hidden", [1, 2, 31, 32])
def test_any_number_of_hidden_patches(nano, hidden):
    fbank, mask = clips(nano, 2, hidden)
    guess, targets = nano(fbank, mask), nano.targets(fbank, mask)
    assert guess.contrastive.shape == guess.reconstruction.shape == targets.shape == (2, hidden, 256)
    assert torch.equal(targets, select(patchify(fbank, nano.grid), mask))
    assert objectives.joint(guess, targets).total.isfinite()


def test_a_step_does_not_wait_for_the_device():
    """On the device "meta" there are no values, so that whatever waits for one fails."""
    model = SSAST(ModelConfig(width=32, depth=1, heads=2, frames=64)).to("meta")
    fbank, mask = clips(model, 2, 10)
    batch = Batch(torch.zeros(2, 800), torch.tensor([800, 400]), ["a", "b"], {}, torch.arange(2)).to("meta")
    assert (batch.waveforms.device.type, batch.lengths.tolist()) == ("meta", [800, 400])
    guess, targets = model(fbank.to("meta"), mask), model.targets(fbank.to("meta"), mask)
    assert guess.contrastive.shape == guess.reconstruction.shape == targets.shape == (2, 10, 256)
    assert targets.device == guess.contrastive.device == fbank.to("meta").device


@torch.no_grad()
def test_what_is_hidden_has_no_influence(nano):
    fbank, mask = clips(nano)
    tokens = nano.encode(fbank, mask).tokens
    pixels = unpatchify(mask[..., None].expand(-1, -1, nano.grid.values).float(), nano.grid) > 0
    other = torch.where(pixels, 100 * torch.randn_like(fbank), fbank)
    assert torch.equal(nano.encode(other, mask).tokens, tokens)
    assert not torch.equal(nano.encode(other).tokens, nano.encode(fbank).tokens)
    seen = torch.where(pixels, fbank, fbank + 0.1)
    assert not torch.isclose(nano.encode(seen, mask).tokens, tokens, atol=1e-4).all(-1).any()


def test_gradient_reaches_all_that_is_seen_and_nothing_that_is_hidden(nano):
    fbank, mask = clips(nano)
    fbank.requires_grad_(True)
    guess = nano(fbank, mask)
    (guess.contrastive.square().sum() + guess.reconstruction.square().sum()).backward()
    per_patch = patchify(fbank.grad, nano.grid).abs().sum(-1)
    assert torch.equal(per_patch > 0, ~mask)
    nano.zero_grad()


@torch.no_grad()
def test_attention_weights_are_those_of_the_fused_attention(nano):
    block = nano.encoder.blocks[1]
    x = block.norm1(torch.randn(2, 2 + nano.grid.count, nano.config.width))
    weights = block.attention.weights(x)
    assert weights.shape == (2, nano.config.heads, x.shape[1], x.shape[1])
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    _, _, value = block.attention._split(x)
    by_hand = block.attention.out((weights @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(by_hand, block.attention(x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_asking_for_layers_changes_nothing(nano):
    fbank, mask = clips(nano)
    plain, asked = nano.encode(fbank, mask), nano.encode(fbank, mask, attention=[0, 1], layers=[1])
    assert torch.equal(plain.tokens, asked.tokens)
    assert (plain.attention, plain.layers) == ({}, {})
    assert (sorted(asked.attention), sorted(asked.layers)) == ([0, 1], [1])
    assert torch.equal(nano.encoder.norm(asked.layers[1]), asked.tokens)
    assert torch.equal(asked.patches, asked.tokens[:, 2:])
    second, entering = nano.encoder.blocks[1], nano.encode(fbank, mask, layers=[0]).layers[0]
    assert torch.equal(asked.attention[1], second.attention.weights(second.norm1(entering)))
    for layer in (-1, 2):
        with pytest.raises(ValueError, match=r"^There is no layer [^\n]+\.$"):
            nano.encode(fbank, attention=[layer])


def test_positions_are_cut_in_the_middle_and_stretched():
    old = PatchGrid(128, 160)  # 8 rows x 10 columns
    table = torch.randn(1, SPECIAL + old.count, 6)
    picture = table[:, SPECIAL:].reshape(1, 8, 10, 6).permute(0, 3, 1, 2)

    def resampled(mel_bins, frames):
        new = PatchGrid(mel_bins, frames)
        result = resample_positions(table, old, new)
        assert torch.equal(result[:, :SPECIAL], table[:, :SPECIAL])
        return result[:, SPECIAL:].reshape(1, new.rows, new.columns, 6).permute(0, 3, 1, 2)

    assert torch.equal(resampled(128, 160), picture)
    assert torch.equal(resampled(128, 64), picture[..., 3:7])
    assert torch.equal(resampled(128, 16), picture[..., 5:6])
    assert torch.equal(resampled(64, 160), picture[..., 2:6, :])
    assert torch.equal(resampled(64, 64), picture[..., 2:6, 3:7])
    torch.testing.assert_close(resampled(128, 320), F.interpolate(picture, size=(8, 20), mode="bilinear"))
    torch.testing.assert_close(resampled(256, 64), F.interpolate(picture[..., 3:7], size=(16, 4), mode="bilinear"))


@torch.no_grad()
def test_resized_models(nano):
    longer, shorter = nano.resized(128), nano.resized(32)
    assert (longer.grid.columns, shorter.grid.columns) == (2 * nano.grid.columns, nano.grid.columns // 2)
    for model in (longer, shorter):
        fbank, mask = clips(model)
        assert model(fbank, mask).reconstruction.shape == (3, 10, 256)
        assert not model.training
        kept = {name for name, value in nano.state_dict().items() if torch.equal(value, model.state_dict()[name])}
        assert set(nano.state_dict()) - kept == {"encoder.positions"}
    fbank, mask = clips(nano)
    assert torch.equal(nano.resized(64)(fbank, mask).contrastive, nano(fbank, mask).contrastive)
    with pytest.raises(ConfigError, match=r"^Pretraining needs patches that tile [^\n]+\.$"):
        nano.resized(65)


def test_only_tilings_are_pretrained():
    for changes in (dict(stride=(10, 10)), dict(frames=1000), dict(patch=(24, 16), stride=(24, 16))):
        config = ModelConfig(width=8, depth=1, heads=1, **changes)
        with pytest.raises(ConfigError, match=r"^Pretraining needs patches that tile [^\n]+\.$"):
            SSAST(config)
        Encoder(config)  # but such grids are fine-tuned


def test_classifiers(nano):
    labels = ("dog", "cat", "rain")
    changes = dict(frames=50, stride=(10, 10) if nano.grid.rows > 1 else (128, 1))
    for pooling, pooled in (("mean", slice(2, None)), ("cls", slice(0, 2))):
        classifier = Classifier.from_pretrained(nano, labels, pooling=pooling, **changes)
        fbank = torch.randn(2, 50, 128)
        logits = classifier(fbank)
        assert logits.shape == (2, 3)
        features = classifier.encoder(fbank).tokens[:, pooled].mean(1)
        torch.testing.assert_close(logits, classifier.linear(classifier.norm(features)))
        before = nano.encoder.patch_embedding.weight.clone()
        with torch.no_grad():
            classifier.encoder.patch_embedding.weight.zero_()
        assert torch.equal(nano.encoder.patch_embedding.weight, before), "the encoder is a copy"
    with pytest.raises(ConfigError, match=r"^A classifier needs the names of its labels\.$"):
        Classifier.from_pretrained(nano, ())
    with pytest.raises(ConfigError, match=r"^Only frames, mel bins and strides [^\n]+\.$"):
        Classifier.from_pretrained(nano, labels, patch=(32, 32), stride=(32, 32))


def parameters(name):
    with torch.device("meta"):
        return sum(value.numel() for value in SSAST(model_config(name)).parameters())


@pytest.mark.parametrize("kind", ["patch", "frame"])
def test_as_many_parameters_as_the_official_models(kind):
    # The official tiny state, without the two ImageNet heads that it never trains and without its two sizes
    official = {name: shape for name, shape in figures(kind)["state"].items() if not name.startswith(("v.head", "p_"))}
    assert parameters(f"tiny-{kind}") == sum(torch.Size(shape).numel() for shape in official.values())
    # Audyn publishes 87,223,808 for the base models; it has no positions for [CLS] and distillation
    assert parameters(f"base-{kind}") == 87_223_808 + SPECIAL * 768


def test_sizes_by_arithmetic():
    for size, width, depth in (("nano", 128, 4), ("tiny", 192, 12), ("small", 384, 12), ("base", 768, 12)):
        block = 12 * width**2 + 13 * width  # 4 + 8 matrices; 4 + 5 biases and two norms of 2
        heads = 2 * (width**2 + width + 256 * width + 256)
        rest = 256 * width + width + (512 + 2) * width + 3 * width + 2 * width
        assert parameters(f"{size}-patch") == depth * block + heads + rest


def test_half_precision(nano):
    fbank, mask = clips(nano)
    exact = objectives.joint(nano(fbank, mask), nano.targets(fbank, mask))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = objectives.joint(nano(fbank, mask), nano.targets(fbank, mask))
    mixed.total.backward()
    nano.zero_grad()
    assert mixed.total.dtype == torch.float32
    assert mixed.total.item() == pytest.approx(exact.total.item(), rel=0.02)


def test_one_batch_is_learned_by_heart():
    model = SSAST(model_config("nano-patch", depth=1, frames=64))
    _, mask = clips(model, batch=2, hidden=16)
    time, mel = torch.arange(64)[:, None], torch.arange(128)
    fbank = torch.stack([(time * a + mel * b).sin() * (mel / 20).cos() for a, b in ((0.3, 0.1), (0.15, 0.25))])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(80):
        loss = objectives.joint(model(fbank, mask), model.targets(fbank, mask))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(loss)
    assert losses[-1].mse < 0.25 * losses[0].mse
    assert losses[-1].nce < 0.25 * losses[0].nce
    assert losses[-1].accuracy > 0.8 > losses[0].accuracy
    assert all(value.grad.abs().sum() > 0 for value in model.parameters()), "every weight takes part"


def test_the_start_of_masked_autoencoders():
    """Each patch has a place of its own, the product of two falls off with their distance along time and along frequency, and
    no layer starts so small that attention is the same everywhere."""
    encoder = SSAST(model_config("nano-patch", depth=1)).encoder
    special = encoder.positions[0, :2].clone()
    small = encoder.blocks[0].attention.qkv.weight.detach().std()
    encoder.start_as_mae()
    assert torch.equal(encoder.positions[0, :2], special)
    table = encoder.positions[0, 2:].detach().unflatten(0, (encoder.grid.rows, encoder.grid.columns))
    assert len(table.flatten(0, 1).unique(dim=0)) == encoder.grid.count
    product = torch.einsum("rcd,d->rc", table, table[4, 30])
    assert product.argmax() == 4 * encoder.grid.columns + 30
    assert product[4, 30] > product[4, 31] > product[4, 33]
    assert torch.allclose(product[4, 29], product[4, 31])
    assert product[4, 30] > product[5, 30] > product[6, 30]
    assert float(encoder.blocks[0].attention.qkv.weight.detach().std()) == pytest.approx((2 / 256) ** 0.5, rel=0.02)
    assert float(small) == pytest.approx(0.02, rel=0.02)

    frames = SSAST(model_config("nano-frame", depth=1)).encoder
    frames.start_as_mae()
    assert frames.positions[0, 2:].detach().std(0).min() > 1e-4  # nothing is kept for rows that are not there
    with pytest.raises(ConfigError, match="a width that 4 divides, not 6"):
        SSAST(model_config("nano-patch", width=6, heads=2)).encoder.start_as_mae()


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("kind", ["fused", "plain"])
def test_the_clips_of_a_packed_window_do_not_see_each_other(sampled, kind, monkeypatch):
    """In one layer, where nothing can go from clip to clip by way of [CLS], what is said of a clip's patches is what is said where
    the model is given these alone."""
    if kind == "plain":  # as in bfloat16 on a CPU
        monkeypatch.setattr(
            torch.nn.functional,
            "scaled_dot_product_attention",
            lambda q, k, v, attn_mask: _softmax(q, k, attn_mask) @ v,
        )
    model = SSAST(ModelConfig(width=32, depth=1, heads=2, frames=64))
    fbank, mask = torch.randn(2, 64, 128), torch.zeros(2, 32, dtype=torch.bool)
    mask[:, ::3] = True
    of_clip = torch.tensor([0, 0, 1, 1]).repeat(8)  # columns 0 and 1 are of one clip, 2 and 3 of another
    asked = torch.arange(11).expand(2, -1)[:, 1::2] if sampled else None
    hidden = mask[0].nonzero()[:, 0][asked[0] if sampled else slice(None)]
    together = model(fbank, mask, asked, of_clip.expand(2, -1)).reconstruction
    across = model(fbank, mask, asked).reconstruction
    for clip in (0, 1):
        shown = of_clip == clip
        if sampled:
            shown &= ~mask[0] | torch.zeros(32, dtype=torch.bool).index_fill(0, hidden, True)
        numbers_ = shown.nonzero()[:, 0]
        x = model.encoder.patch_embedding(patchify(fbank, model.grid))
        x = torch.where(mask[..., None], model.mask_token, x)[:, numbers_]
        tokens = model.encoder.transform(x, model.grid, patches=numbers_.expand(2, -1)).patches
        alone = model.reconstruction_head(tokens[:, mask[0][numbers_]])
        rows = of_clip[hidden] == clip
        torch.testing.assert_close(together[:, rows], alone, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(across[:, rows], alone, atol=1e-3)
