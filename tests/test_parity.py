"""The model computes what the official SSAST computes, with the official weights read through the importer."""

import warnings

import pytest
import torch
from golden_model import figures, hashed, masks, official_state, spectrograms, weight

from ssast_lab import checkpoint, objectives
from ssast_lab.model import SSAST, Classifier
from ssast_lab.patches import patchify

CLOSE = dict(rel=1e-4, abs=2e-5)


@pytest.fixture(scope="module", params=["patch", "frame"])
def golden(request, tmp_path_factory):
    figure = figures(request.param)
    path = tmp_path_factory.mktemp("official") / f"{request.param}.pth"
    torch.save({"module." + name: value for name, value in official_state(figure).items()}, path)
    model = checkpoint.load(path)
    assert isinstance(model, SSAST)
    return figure, model


@torch.no_grad()
def test_pretext_figures(golden):
    figure, model = golden
    fbank, mask = spectrograms("input", figure["batch"], figure["input_tdim"]), masks(figure)
    assert mask[0].nonzero()[:12, 0].tolist() == figure["mask_first"]

    guess, targets = model(fbank, mask), model.targets(fbank, mask)
    scores = objectives.similarity(guess.contrastive, targets)
    measured = {
        "nce_code": objectives.info_nce(scores, over="predictions").mean(),
        "nce_paper": objectives.info_nce(scores).mean(),
        "mse": objectives.reconstruction_mse(guess.reconstruction, targets).mean(),
        "accuracy": objectives.accuracy(scores, over="predictions").mean(),
        "cpred_l2": guess.contrastive.norm(),
        "gpred_l2": guess.reconstruction.norm(),
    }
    assert {name: value.item() for name, value in measured.items()} == pytest.approx(
        {name: figure[name] for name in measured}, **CLOSE
    )
    assert guess.contrastive[0, 0, :8].tolist() == pytest.approx(figure["cpred_0_0_first8"], **CLOSE)
    assert guess.reconstruction[0, 0, :8].tolist() == pytest.approx(figure["gpred_0_0_first8"], **CLOSE)

    losses = objectives.joint(guess, targets)
    assert losses.total.item() == pytest.approx(figure["nce_paper"] + 10 * figure["mse"], rel=1e-4)


@torch.no_grad()
def test_tokens_and_patch_order(golden):
    figure, model = golden
    fbank, mask = spectrograms("input", figure["batch"], figure["input_tdim"]), masks(figure)
    tokens = model.encode(fbank, mask).tokens
    for token, expected in zip((0, 1, 2, -1), figure["tokens_0_[0,1,2,-1]_first8"], strict=True):
        assert tokens[0, token, :8].tolist() == pytest.approx(expected, **CLOSE)
    assert tokens.abs().mean().item() == pytest.approx(figure["tokens_mean_abs"], rel=1e-4)
    first = patchify(fbank, model.grid)[0, 0, :8]
    assert first.tolist() == pytest.approx(figure["target_patch0_first8"], rel=1e-6)


@torch.no_grad()
def test_fine_tuning_at_other_lengths_and_strides(golden, tmp_path):
    figure, model = golden
    for case in figure["finetune"]:
        labels = [str(number) for number in range(case["labels"])]
        fbank = spectrograms("finetune", figure["batch"], case["input_tdim"])
        for pooling in ("mean", "cls"):
            classifier = Classifier.from_pretrained(
                model, labels, frames=case["input_tdim"], pooling=pooling, stride=(case["fstride"], case["tstride"])
            ).eval()
            head = {
                name: weight(f"mlp_head.{name}", shape)
                for name, shape in {
                    "0.weight": (192,),
                    "0.bias": (192,),
                    "1.weight": (len(labels), 192),
                    "1.bias": (len(labels),),
                }.items()
            }
            classifier.norm.load_state_dict({"weight": head["0.weight"], "bias": head["0.bias"]})
            classifier.linear.load_state_dict({"weight": head["1.weight"], "bias": head["1.bias"]})
            assert classifier.encoder.positions.shape[1] == case["positions"]
            expected = torch.tensor(case["logits_mean_pool" if pooling == "mean" else "logits_cls"])
            torch.testing.assert_close(classifier(fbank), expected, rtol=1e-4, atol=2e-5)

            # the same weights as a fine-tuned official file, which tells neither its length nor its stride
            state = official_state(figure) | {f"mlp_head.{name}": value for name, value in head.items()}
            state = {name: value for name, value in state.items() if name.startswith(("v.", "mlp_head."))}
            state["v.pos_embed"] = classifier.encoder.positions.detach()
            torch.save({"module." + name: value for name, value in state.items()}, tmp_path / "tuned.pth")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", checkpoint.LayoutWarning)
                loaded = checkpoint.load(tmp_path / "tuned.pth", pooling=pooling)
            assert isinstance(loaded, Classifier)
            assert loaded.config.stride == (case["fstride"], case["tstride"])
            assert loaded.config.grid.columns == classifier.config.grid.columns
            torch.testing.assert_close(loaded(fbank[:, : loaded.config.frames]), expected, rtol=1e-4, atol=2e-5)


def test_prefix_does_not_matter(golden, tmp_path):
    figure, model = golden
    torch.save(official_state(figure), tmp_path / "bare.pth")
    bare = checkpoint.load(tmp_path / "bare.pth").state_dict()
    assert all(torch.equal(value, bare[name]) for name, value in model.state_dict().items())


def test_formula_is_the_recorded_one():
    assert 2 * hashed("input", (2, 1024, 128))[0, 0, 0] == pytest.approx(
        figures("patch")["target_patch0_first8"][0], rel=1e-6
    )
