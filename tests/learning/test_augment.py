"""More out of the same sound: what is mixed, louder, faster and brighter is what it would be, and a run stays one run."""

import json
import math
from contextlib import closing

import pytest
import scipy.signal
import torch
from tiny import PATIENCE, assert_same_run, here, launch, tiny, train, write_clips

from ssast_lab import audio, config, data
from ssast_lab.audio import kaldi_fbank
from ssast_lab.config import AudioConfig, ConfigError, TrainingConfig, to_dict
from ssast_lab.data import Batch, Changes
from ssast_lab.learning import augment
from ssast_lab.learning.augment import AugmentingPlan
from ssast_lab.learning.pretrain import Pretraining, pretrain
from ssast_lab.learning.run import Run
from ssast_lab.patches import mel_edges

AUDIO, FRAMES = AudioConfig(), 64
SILENCE = (math.log(audio.EPSILON) - AUDIO.mean) / (2 * AUDIO.std)
PADDING = -AUDIO.mean / (2 * AUDIO.std)
NOTHING = (160, 0, 0)  # hop, level, tilt
ALL = dict(mix=0.5, level=6.0, stretch=0.1, tilt=6.0)


def noise(seed: int, samples: int = audio.OFFICIAL.samples_of(FRAMES), loud: float = 0.1) -> torch.Tensor:
    return loud * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def batch_of(*sounds: torch.Tensor, samples: int = audio.OFFICIAL.samples_of(FRAMES, 180)):
    waveforms = torch.zeros(len(sounds), samples)
    for row, sound in zip(waveforms, sounds, strict=True):
        row[: len(sound)] = sound
    lengths = torch.tensor([min(len(sound), samples) for sound in sounds])
    return Batch(waveforms, lengths, [""] * len(sounds), {}, torch.arange(len(sounds)))


def with_changes(batch: Batch, *rows: tuple[float, ...], mixed=(), partner_level=(), partners: Batch | None = None):
    """The batch, to each row of which is done what (hop, level, tilt) says."""
    hop, level, tilt = torch.tensor(rows, dtype=torch.float32).unbind(1)
    partners = partners or batch_of(samples=batch.waveforms.shape[1])
    mixed, partner_level = torch.tensor(mixed, dtype=torch.int64), torch.tensor(partner_level, dtype=torch.float32)
    return batch._replace(changes=Changes(hop.long(), level, tilt, mixed, partner_level, partners))


def changed(batch: Batch, *rows: tuple[float, ...], **mixed) -> torch.Tensor:
    return augment.features(with_changes(batch, *rows, **mixed), AUDIO, FRAMES)


def energies(fbank: torch.Tensor) -> torch.Tensor:
    return audio.denormalise(fbank.double(), AUDIO).exp()


# --- nothing ------------------------------------------------------------------------------------------------------


def test_nothing_drawn_leaves_every_bit():
    batch = batch_of(noise(0), noise(1, 4000), torch.zeros(9000))
    plain = batch.features(AUDIO, FRAMES)
    assert torch.equal(changed(batch, *[NOTHING] * 3), plain)
    # Where other clips are changed, too.
    found = changed(batch_of(noise(0), noise(1, 4000), noise(2)), NOTHING, NOTHING, (170, 3, 6))
    assert torch.equal(found[:2], plain[:2])


@pytest.mark.parametrize("recipe", ["official", "modern", "quick"])
def test_nothing_is_drawn_unless_asked_for(recipe):
    settings = config.pretrain_config(f"{recipe}-nano-patch-400", train=("x",)).training
    assert (settings.mix, settings.level, settings.stretch, settings.tilt) == (0, 0, 0, 0)
    assert not {"mix", "level", "stretch", "tilt"} & {*to_dict(settings)}
    plan = AugmentingPlan(Steady(5), settings.batch, 0, settings=settings)
    assert plan[3].changes is None


# --- mixed --------------------------------------------------------------------------------------------------------


def test_mixing_adds_energies():
    one, other = (batch_of(noise(seed)).features(AUDIO, FRAMES) for seed in (0, 1))
    for decibels in (-10.0, 0.0, 3.0):
        mixed = augment.mix(one, other, torch.tensor([decibels]), AUDIO)
        expected = energies(one) + 10 ** (decibels / 10) * energies(other)
        heard = expected > 3 * audio.EPSILON
        assert heard.float().mean() > 0.99
        torch.testing.assert_close(energies(mixed)[heard], expected[heard], rtol=1e-4, atol=0)


def test_mixing_is_symmetric():
    one, other = batch_of(noise(0), noise(1, loud=0.003)).features(AUDIO, FRAMES)[:, None]
    even, louder = torch.zeros(1), torch.tensor([4.0])
    assert torch.equal(augment.mix(one, other, even, AUDIO), augment.mix(other, one, even, AUDIO))
    back = augment.mix(other, one, -louder, AUDIO) + 4 * augment.DECIBEL / (2 * AUDIO.std)
    heard = (one > SILENCE + 1) & (other > SILENCE + 1)
    torch.testing.assert_close(augment.mix(one, other, louder, AUDIO)[heard], back[heard])


def test_mixed_noises_are_the_noise_of_both():
    """Sounds that do not interfere: the mean energy in a band is that of the sum of the waveforms."""
    one, other = noise(0, 160_000), noise(1, 160_000, loud=0.05)
    a, b, both = ((kaldi_fbank(x) - AUDIO.mean) / (2 * AUDIO.std) for x in (one, other, one + other))
    mixed = augment.mix(a[None], b[None], torch.zeros(1), AUDIO)[0]
    ratio = energies(mixed).mean(0)[4:] / energies(both).mean(0)[4:]
    assert ratio.log().abs().max() < 0.2
    assert ratio.log().mean().abs() < 0.02


def test_silence_adds_nothing_and_is_no_louder():
    sound, silence = batch_of(noise(0), torch.zeros(audio.OFFICIAL.samples_of(FRAMES))).features(AUDIO, FRAMES)[:, None]
    torch.testing.assert_close(augment.mix(sound, silence, torch.tensor([10.0]), AUDIO), sound)
    torch.testing.assert_close(augment.mix(silence, sound, torch.zeros(1), AUDIO), sound)
    for changes in ((160, 20, 0), (160, -20, 0), (170, 5, 12)):
        found = changed(batch_of(torch.zeros(11789)), changes)
        assert torch.allclose(found, torch.tensor(SILENCE))
        # which hears nothing
        assert torch.allclose(changed(batch_of(noise(0, 11789)), changes)[..., 3], torch.tensor(SILENCE))


def test_a_partner_is_mixed_into_its_own_row_at_its_own_length():
    own, partner = batch_of(noise(0), noise(1), noise(2, 5000)), batch_of(noise(3, 4000), noise(4))
    plain, other = own.features(AUDIO, FRAMES), partner.features(AUDIO, FRAMES)
    batch = with_changes(own, *[NOTHING] * 3, mixed=[1, 2], partner_level=[2.0, -5.0], partners=partner)
    found = augment.features(batch, AUDIO, FRAMES)
    assert torch.equal(found[0], plain[0])
    for row, (level, frames) in enumerate(
        [(2.0, audio.OFFICIAL.frames_of(4000)), (-5.0, audio.OFFICIAL.frames_of(5000))]
    ):
        mixed = augment.mix(plain[row + 1 :][:1], other[row : row + 1], torch.tensor([level]), AUDIO)[0]
        torch.testing.assert_close(found[row + 1, :frames], mixed[:frames])
        torch.testing.assert_close(found[row + 1, frames:], plain[row + 1, frames:])
    parts = [augment.features(batch.part(rows), AUDIO, FRAMES) for rows in (slice(0, 1), slice(1, 2), slice(2, 3))]
    torch.testing.assert_close(torch.cat(parts), found)
    assert [len(batch.part(rows).changes.mixed) for rows in (slice(0, 1), slice(0, 2), slice(1, 3))] == [0, 1, 2]


# --- louder and brighter ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decibels", [-12.0, 6.0])
def test_a_level_is_that_of_the_waveform(decibels):
    sound = noise(0, loud=0.05)
    found = changed(batch_of(sound), (160, decibels, 0))[0]
    louder = audio.log_mel(sound * 10 ** (decibels / 20), AUDIO, frames=FRAMES)
    heard = louder > SILENCE + 0.5
    assert heard.float().mean() > 0.95
    torch.testing.assert_close(found[heard], louder[heard], rtol=0, atol=2e-3)  # of 16 bits


def test_a_tilt_is_a_straight_line():
    found = changed(batch_of(noise(0)), (160, 0, 12)) - changed(batch_of(noise(0)), NOTHING)
    decibels = (found[0, :, 4:] * 2 * AUDIO.std / augment.DECIBEL).mean(0)
    expected = torch.linspace(-6, 6, 128)[4:]
    torch.testing.assert_close(decibels, expected, rtol=0, atol=1e-3)


def test_nothing_falls_below_the_least_energy():
    found = changed(batch_of(noise(0, loud=0.001)), (160, -60, -60))
    assert found.min() == pytest.approx(SILENCE, abs=1e-6)


# --- faster and slower --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hop", [130, 145, 155, 165, 175, 200])
def test_a_tone_is_heard_where_it_would_be(hop):
    seconds = torch.arange(audio.OFFICIAL.samples_of(FRAMES, 200)) / audio.SAMPLE_RATE

    def tone(hertz: float) -> torch.Tensor:
        return 0.5 * torch.sin(2 * math.pi * hertz * seconds)

    found = changed(batch_of(tone(440), samples=len(seconds)), (hop, 0, 0))
    expected = changed(batch_of(tone(440 * hop / 160), samples=len(seconds)), NOTHING)
    assert found.mean(1).argmax() == expected.mean(1).argmax()
    heard = expected > SILENCE + 0.8
    torch.testing.assert_close(found[heard], expected[heard], rtol=0, atol=0.05)


@pytest.mark.parametrize("hop", [130, 150, 165, 180, 220])
@pytest.mark.parametrize("name", ["speech", "blackbird"])
def test_faster_is_resampled(hop, name):
    """Against the same sound resampled by a Fourier transform as long as itself."""
    sound = audio.load_waveform(audio.builtin_sounds()[name]["path"])[: 200 * 220]
    faster = torch.from_numpy(scipy.signal.resample(sound.double().numpy(), len(sound) * 160 // hop)).float()
    expected, found = kaldi_fbank(faster)[3:-3], kaldi_fbank(sound, hop=hop)[3:-3]
    frames = min(len(expected), len(found))
    assert abs(len(expected) - len(found)) <= 1
    below = mel_edges()[2:] < 7000 * min(1, hop / 160)  # where the sound has not ended yet
    difference = (expected[:frames] - found[:frames]).abs()
    loud = (expected[:frames] > -10) & below
    assert difference[loud].mean() < 0.02  # nats of energy
    assert (difference[loud] < 0.1).float().mean() > 0.98


@pytest.mark.parametrize("samples", [400, 401, 430, 3000, 9000])
@pytest.mark.parametrize("hop", [145, 180])
def test_padding_stays_what_it_is(samples, hop):
    sound = noise(5, samples)
    found = changed(batch_of(sound), (hop, 6, 6))[0]
    pace = hop if samples >= audio.OFFICIAL.window_of(hop) else 160
    frames = 1 + (samples - audio.OFFICIAL.window_of(pace)) // pace
    assert frames >= 1
    padding = batch_of(sound).features(AUDIO, FRAMES)[0, -1, 0]
    assert padding.item() == pytest.approx(PADDING, abs=1e-6)
    assert (found[frames:] == padding).all()
    assert not (found[:frames] == padding).all(-1).any()


def test_other_hops_are_refused():
    for hop in (0, 161):
        with pytest.raises(audio.AudioError, match=f"a multiple of 5 samples apart, not {hop}"):
            kaldi_fbank(torch.zeros(1000), hop=hop)


# --- drawn --------------------------------------------------------------------------------------------------------


class Steady:
    """A corpus of clips that are never opened."""

    def __init__(self, count: int) -> None:
        self.clips = [data.Clip(str(number)) for number in range(count)]

    def crop(self, indices, fractions, keys):
        assert ((fractions >= 0) & (fractions < 1)).all()
        return batch_of(*[torch.zeros(400)] * len(indices), samples=400)._replace(indices=torch.from_numpy(indices))


def test_what_is_drawn_is_drawn_evenly_and_anew():
    def drawn(steps, seed=0, **settings):
        plan = AugmentingPlan(Steady(5), 50, seed, settings=TrainingConfig(**settings))
        return [plan[step].changes for step in steps]

    changes = drawn(range(100), mix=0.3, level=6, stretch=0.1, tilt=9)
    hop, level, tilt, partner_level = (torch.cat([getattr(each, name) for each in changes])
                                       for name in ("hop", "level", "tilt", "partner_level"))  # fmt: skip
    values, counts = hop.unique(return_counts=True)
    assert values.tolist() == augment.hops(0.1) == [145, 150, 155, 160, 165, 170, 175]
    assert (counts / 5000 - 1 / 7).abs().max() < 0.03
    for column, most in ((level, 6), (tilt, 9), (partner_level, augment.PARTNER)):
        assert 0.98 * most < column.abs().max() <= most
        assert abs(column.mean()) < 0.05 * most
    assert 0.27 < len(partner_level) / 5000 < 0.33
    partners = torch.cat([each.partners.indices for each in changes])
    assert (partners.bincount() / len(partners) - 1 / 5).abs().max() < 0.04
    assert torch.equal(changes[7].level, drawn([7], level=6)[0].level)  # whatever else is asked for
    assert torch.equal(changes[7].mixed, drawn([7], mix=0.3)[0].mixed)
    assert not torch.equal(changes[7].level, changes[8].level)
    assert not torch.equal(changes[7].level, drawn([7], seed=1, level=6)[0].level)


def test_what_is_drawn_does_not_depend_on_the_processes(tmp_path):
    clips = data.find_clips([str(path) for path in write_clips(tmp_path, 6)])
    settings = TrainingConfig(**ALL)
    for corpus in (data.Files(clips, 4000), data.Memory(clips, 4000)):
        whole = AugmentingPlan(corpus, 8, 3, settings=settings)
        shares = [slice(0, 4), slice(4, 8)]
        halves = [AugmentingPlan(corpus, 8, 3, rows, settings) for rows in shares]
        for step in range(10):
            batch = whole[step]
            for rows, half in zip(shares, halves, strict=True):
                expected, found = batch.part(rows).changes, half[step].changes
                for name in ("hop", "level", "tilt", "mixed", "partner_level"):
                    assert torch.equal(getattr(found, name), getattr(expected, name))
                assert torch.equal(found.partners.waveforms, expected.partners.waveforms)
            assert torch.equal(batch.waveforms, data.Plan(corpus, 8, 3)[step].waveforms)


def test_a_partner_that_cannot_be_read_is_replaced_and_told(tmp_path):
    write_clips(tmp_path, 3)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    clips = data.find_clips([tmp_path])
    plan = AugmentingPlan(data.Files(clips, 4000), 4, 0, settings=TrainingConfig(mix=1.0))
    batches = [plan[step] for step in range(4)]
    for batch in batches:
        assert len(batch.changes.partners.lengths) == 4
        assert batch.unreadable.keys() >= batch.changes.partners.unreadable.keys()
    assert any(batch.changes.partners.unreadable for batch in batches)
    assert "broken.wav" not in " ".join(name for batch in batches for name in batch.changes.partners.names)


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_varied_run_resumed_is_the_undisturbed_run(tmp_path, in_memory):
    write_clips(tmp_path / "clips", 8)
    recipe = tiny(tmp_path / "clips", **ALL, sampled=4, settle=0.25)
    train(recipe, here(tmp_path / "whole", in_memory=in_memory))
    with closing(pretrain(recipe, here(tmp_path / "parts", in_memory=in_memory))) as steps:
        while next(steps).step < 6:
            pass
    train(recipe, here(tmp_path / "parts", resume=True, in_memory=in_memory, workers=0 if in_memory else 1))
    assert_same_run(tmp_path / "whole", tmp_path / "parts", 12)


def test_micro_batches_make_the_same_run(tmp_path):
    write_clips(tmp_path / "clips", 8)
    recipe = tiny(tmp_path / "clips", **ALL)
    whole = train(recipe, here(tmp_path / "whole"))
    parts = train(recipe, here(tmp_path / "parts", micro_batch=1))
    for one, other in zip(whole, parts, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
    plain = train(tiny(tmp_path / "clips"), here(tmp_path / "plain"))
    assert abs(plain[0].loss - whole[0].loss) > 1e-4


def test_two_processes_make_the_run_of_one(tmp_path):
    write_clips(tmp_path / "clips", 8)
    recipe = tiny(tmp_path / "clips", **ALL)
    train(recipe, here(tmp_path / "one"))
    process = launch(2, recipe, here(tmp_path / "two", workers=1))
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    one, two = Run(tmp_path / "one").metrics(), Run(tmp_path / "two").metrics()
    assert len(one) == len(two) == 12
    for a, b in zip(one, two, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


def test_what_is_held_out_is_not_varied(tmp_path):
    """The held-out clips are cut and heard as they are without it."""
    write_clips(tmp_path / "clips", 8, seconds=(1.0, 2.0))
    accelerator = type("Alone", (), dict(process_index=0, num_processes=1, is_main_process=True))
    evaluators = [Pretraining(tiny(tmp_path / "clips", **more)).evaluator(accelerator, 4) for more in ({}, ALL)]
    # of clips that all fill the window
    ((plain, masks),), ((varied, same_masks),) = (each.parts for each in evaluators)
    assert torch.equal(plain.waveforms, varied.waveforms)
    assert varied.changes is None
    assert torch.equal(*masks, *same_masks)


# --- asked for ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("mix", 1.5, "mix is a share between 0 and 1, not 1.5"),
        ("mix", -0.1, "mix is a share between 0 and 1"),
        ("level", -1.0, "level is from 0 to 60 dB, not -1.0"),
        ("tilt", math.nan, "tilt is from 0 to 60 dB, not nan"),
        ("stretch", 0.01, "stretch is 0, or from 1/32"),
        ("stretch", 0.6, "to 1/2, not 0.6"),
    ],
)
def test_what_cannot_be_is_refused(name, value, said):
    with pytest.raises(ConfigError, match=said):
        TrainingConfig(**{name: value})


def test_an_older_run_is_read_as_it_was_meant():
    assert not {"mix", "level", "stretch", "tilt"} & {*to_dict(tiny("x"))["training"]}
    varied = tiny("x", **ALL)
    assert config.from_dict(config.PretrainConfig, json.loads(json.dumps(to_dict(varied)))) == varied
