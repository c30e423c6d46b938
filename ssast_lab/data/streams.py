"""The numbers that keep what is drawn at random apart.

Whatever is drawn is drawn from a generator of its own, whose key is made of the seed, the place in the run, and one of these
numbers. They are never changed: the same configuration would give another run.
"""

from enum import IntEnum


class Stream(IntEnum):
    """What is drawn, and its key. Two names share a number only where the rest of their keys, or the generators, differ."""

    CROP = 0  # (seed, place): where a clip is cut
    STAND_IN = 1  # (*key of the crop): which clip stands in for an unreadable one
    SPLIT = 2  # (seed): which clips are held out
    ORDER = 3  # (seed, epoch): the order of the clips
    STATISTICS = 4  # (seed): the clips that are measured
    MASK = 5  # (seed, step): which patches are hidden
    HELD_OUT = 6  # (seed, number, clip): begins the key of a held-out clip's crop
    BALANCED = 7  # (seed, place): which clip is drawn, where rare labels are drawn more often
    MIXUP = 8  # (seed, place): whether and with what a clip is mixed
    QUERIED = 8  # (seed, step), of PyTorch's generator: which hidden patches are predicted
    VARIATION = 9  # (seed, step): SpecAugment, shifts and noise
    NEGATIVES = 10  # (seed, step): wav2vec's negatives
    HELD_OUT_NEGATIVES = 11  # (seed, 0): the same in evaluation
    AUGMENTATION = 12  # (seed, step), of PyTorch's generator: how clips are changed in pretraining, and which are mixed
    PARTNER = 13  # (seed, place): begins what follows the key of the clip that is mixed into another
    FILLING = 14  # (*key of the crop): what follows a clip that is shorter than the window
    SCORED_MASK = 7  # (seed, clip, count): which patches of a clip are hidden when a model is measured
    OCCLUSION = 11  # (*key of a clip), of PyTorch's generator: which patches a classifier must do without
