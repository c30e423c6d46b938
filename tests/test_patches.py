"""Laws of the patch grid, against torch.nn.Unfold, plain loops and the mel filters of torchaudio and librosa."""

import librosa
import pytest
import torch
from torchaudio.compliance.kaldi import get_mel_banks

from ssast_lab.patches import PatchGrid, mel_edges, patchify, select, unpatchify

SSAST_PATCH = PatchGrid()
SSAST_FRAME = PatchGrid(shape=(128, 2), stride=(128, 2))
TILING = [SSAST_PATCH, SSAST_FRAME, PatchGrid(12, 35, (3, 5), (3, 5)), PatchGrid(4, 6, (1, 1), (1, 1))]
OTHER = [
    PatchGrid(128, 100, (16, 16), (10, 10)),
    PatchGrid(128, 40, (128, 2), (128, 1)),
    PatchGrid(20, 31, (4, 6), (3, 7)),  # overlap in frequency, gaps in time, rests at both edges
    PatchGrid(130, 50, (16, 16), (16, 16)),
]


def spectrogram(grid, batch=2):
    return torch.randn(batch, grid.frames, grid.mel_bins)


@pytest.mark.parametrize("grid", TILING, ids=str)
def test_round_trip_is_exact_for_tilings(grid):
    assert grid.tiles
    fbank = spectrogram(grid)
    patches = patchify(fbank, grid)
    assert patches.shape == (2, grid.count, grid.values)
    assert torch.equal(unpatchify(patches, grid), fbank)
    assert torch.equal(unpatchify(patches[0], grid), fbank[0])


@pytest.mark.parametrize("grid", TILING + OTHER, ids=str)
def test_same_as_unfold(grid):
    fbank = spectrogram(grid)
    unfold = torch.nn.Unfold(kernel_size=grid.shape, stride=grid.stride)
    expected = unfold(fbank.transpose(1, 2)[:, None]).transpose(1, 2)
    assert torch.equal(patchify(fbank, grid), expected)
    assert torch.equal(patchify(fbank[0], grid), expected[0])
    assert (grid.count, grid.values) == expected.shape[1:]


@pytest.mark.parametrize("grid", OTHER, ids=str)
def test_overlap_is_averaged(grid):
    assert not grid.tiles
    patches = torch.randn(grid.count, grid.values)
    total, times = torch.zeros(grid.frames, grid.mel_bins), torch.zeros(grid.frames, grid.mel_bins)
    for number in range(grid.count):
        low, high, start, end = grid.bounds(number)
        total[start:end, low:high] += patches[number].reshape(grid.shape).T
        times[start:end, low:high] += 1
    torch.testing.assert_close(unpatchify(patches, grid), total / times.clamp(min=1))
    fbank = spectrogram(grid)
    torch.testing.assert_close(unpatchify(patchify(fbank, grid), grid), fbank * (times > 0))


@pytest.mark.parametrize("grid", [SSAST_PATCH, OTHER[0], OTHER[2]], ids=str)
def test_bounds_are_where_the_values_come_from(grid):
    mel, frame = torch.meshgrid(torch.arange(grid.mel_bins), torch.arange(grid.frames), indexing="ij")
    mels, frames = (patchify(position.T.float(), grid) for position in (mel, frame))
    for number in (0, 1, grid.columns, grid.count // 2, grid.count - 1):
        low, high, start, end = grid.bounds(number)
        assert (mels[number].min(), mels[number].max()) == (low, high - 1)
        assert (frames[number].min(), frames[number].max()) == (start, end - 1)


def test_seconds():
    assert SSAST_PATCH.seconds(0) == pytest.approx((0, 0.15 + 0.025))  # 16 frames, 10 ms apart, the last 25 ms long
    assert SSAST_PATCH.seconds(64 + 3) == pytest.approx((0.48, 0.48 + 0.175))
    assert SSAST_FRAME.seconds(511) == pytest.approx((10.22, 10.255))


MEL_SCALES = pytest.mark.parametrize(("mel_bins", "low", "high"), [(128, 20.0, 8000.0), (40, 60.0, 7000.0)])


@MEL_SCALES
def test_a_frequency_lies_at_the_mel_bin_that_peaks_there(mel_bins, low, high):
    grid = PatchGrid(mel_bins=mel_bins, band=(low, high))
    bins = [grid.mel_bin(float(hertz)) for hertz in mel_edges(mel_bins, low, high)]
    assert bins == pytest.approx(range(-1, mel_bins + 1), abs=1e-9)


@MEL_SCALES
def test_mel_edges_are_those_of_librosa(mel_bins, low, high):
    expected = librosa.mel_frequencies(mel_bins + 2, fmin=low, fmax=high, htk=True)
    assert mel_edges(mel_bins, low, high).tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_band_of_a_patch_is_where_its_filters_are_not_zero():
    bins = 1 << 15  # so fine that the feet of the triangles are found to a fraction of a hertz
    filters, centres = get_mel_banks(128, 2 * bins, 16000.0, 20.0, 0.0, 100.0, -500.0, 1.0)
    hertz = torch.arange(bins) * 8000.0 / bins
    for row in range(SSAST_PATCH.rows):
        seen = hertz[(filters[16 * row : 16 * row + 16] > 0).any(0)]
        low, high = SSAST_PATCH.hertz(row * SSAST_PATCH.columns + 5)
        assert (low, high) == pytest.approx((seen.min().item(), seen.max().item()), abs=0.5)
    assert SSAST_FRAME.hertz(3) == pytest.approx((20, 8000))
    torch.testing.assert_close(mel_edges()[1:-1].float(), centres.flatten().float(), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    "sizes", [(0, 10, (1, 1), (1, 1)), (8, 8, (4, 0), (4, 4)), (8, 8, (4, 4), (4, -1)), (8, 8, (9, 4), (1, 1))], ids=str
)
def test_impossible_grids(sizes):
    with pytest.raises(ValueError, match=r"^A patch [^\n]+\.$"):
        PatchGrid(*sizes)


def test_wrong_calls_are_refused_in_a_sentence():
    grid = TILING[2]
    for call in (
        lambda: grid.bounds(grid.count),
        lambda: grid.bounds(-1),
        lambda: grid.hertz(99),
        lambda: patchify(torch.zeros(12, 35), grid),  # (F, T) where (T, F) belongs
        lambda: unpatchify(torch.zeros(1, grid.count, 3), grid),
        lambda: select(torch.zeros(2, 3, 1), torch.tensor([[True, False, False], [True, True, False]])),
        lambda: select(torch.zeros(2, 3, 1), torch.ones(2, 2, dtype=torch.bool)),  # of another grid
        lambda: select(torch.zeros(2, 3, 1), torch.ones(1, 3, dtype=torch.bool)),  # of one clip of two
    ):
        with pytest.raises(ValueError, match=r"^[A-Z][^\n]+\.$"):
            call()


@pytest.mark.parametrize("hidden", [0, 1, 5, 12])
def test_select_keeps_the_order(hidden):
    items = torch.randn(3, 12, 4, requires_grad=True)
    mask = torch.stack([torch.randperm(12) < hidden for _ in range(3)])
    chosen = select(items, mask)
    expected = torch.stack([item[own] for item, own in zip(items, mask, strict=True)])
    assert chosen.shape == (3, hidden, 4)
    assert torch.equal(chosen, expected)
    chosen.sum().backward()
    assert torch.equal(items.grad, mask[..., None].expand_as(items).float())
