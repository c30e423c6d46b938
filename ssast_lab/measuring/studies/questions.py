"""The questions: which ways to pretrain each study compares, and at which size. All of this is data."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ssast_lab.config import SHAPES, PretrainConfig, pretrain_config

SPEECH, SOUNDS = ("speech",), ("music", "effect")  # kinds of clips in the manifest of a corpus


class StudyError(ValueError):
    """A study that cannot be made. The message says why and what to do."""


@dataclass(frozen=True)
class Variant:
    """One way to pretrain."""

    name: str
    changes: Mapping[str, Mapping[str, Any]]  # section of the recipe ("model", "mask", "training") -> fields -> values
    parts: tuple[
        tuple[str, ...], ...
    ] = ()  # parts of the corpus, each given by its kinds, in equal shares; (): all of it
    batch: int | None = None  # instead of the size's, for the same number of clips


@dataclass(frozen=True)
class Study:
    """Ways to pretrain, and which of them are compared."""

    name: str
    question: str
    variants: tuple[Variant, ...]
    pairs: tuple[tuple[str, str], ...]  # (variant, the one that it is compared with)
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        unknown = {name for pair in self.pairs for name in pair} - set(names)
        if unknown or len(set(names)) < len(names):
            raise StudyError(
                f"The study {self.name} names a variant twice, or compares unknown ones: {names}, {unknown}."
            )


@dataclass(frozen=True)
class Size:
    """The cost of a study."""

    family: str  # of pretraining recipes, "modern" or "quick"; variants with another batch take "modern"
    model: str  # size of a model preset
    batch: int
    steps: int  # of all runs together, so that every study takes equally long
    seeds: tuple[int, ...]
    changes: Mapping[str, Mapping[str, Any]]  # to the recipe, as those of a variant

    def recipe(self, variant: Variant, runs: int, steps: int | None, seed: int) -> PretrainConfig:
        """The recipe of a variant in a study of so many ``runs``, which share the size's steps; or with ``steps`` for this run.

        A variant with another batch sees as many clips, also in warm-up, and its learning rate grows with the square root of
        the batch. It takes the modern recipe at every size, since the quick ones are made for small batches.
        """
        clips = (steps or max(self.steps // runs, 1)) * self.batch
        batch = variant.batch or self.batch
        steps = max(clips // batch, 1)
        family = "modern" if variant.batch else self.family
        recipe = pretrain_config(f"{family}-{self.model}-patch-400-{batch}")
        # All hidden patches are predicted, as the variants differ in their number and in the softmax.
        model, mask, training = recipe.model, recipe.mask, replace(recipe.training, sampled=None)
        for changes in (self.changes, variant.changes):
            model = replace(model, **changes.get("model", {}))
            mask = replace(mask, **changes.get("mask", {}))
            training = replace(training, **changes.get("training", {}))
        training = replace(
            training, steps=steps, warmup=min(training.warmup, steps // 10), evaluate_every=steps, seed=seed
        )
        return PretrainConfig(model, mask, recipe.data, training)


SIZES = {
    "minutes": Size("quick", "nano", 8, 192, (0,), {}),
    "overnight": Size("quick", "nano", 8, 72_000, (0, 1, 2), {}),
    "gpu": Size("modern", "tiny", 256, 36_000, (0, 1, 2), {}),
}


def _shape(name: str) -> dict[str, dict[str, Any]]:
    patch = SHAPES[name]
    return {"model": {"patch": patch, "stride": patch}, "mask": {"cluster": (3, 5) if name == "patch" else None}}


STUDIES = {
    study.name: study
    for study in (
        Study(
            "shapes",
            "Patch against frame: do upright strips lead on speech and squares on sounds, as the paper found?",
            (Variant("patch", _shape("patch")), Variant("frame", _shape("frame"))),
            (("frame", "patch"),),
            ("Both see the same clips in the same order, and hide 400 of 512 patches.",),
        ),
        Study(
            "masks",
            "How many patches are to be hidden in training: 100, 250 or 400 of 512?",
            tuple(Variant(str(count), {"mask": {"count": count}}) for count in (400, 250, 100)),
            (("250", "400"), ("100", "400")),
            ("All hide clusters of patches; 400 is what the paper found best.",),
        ),
        Study(
            "objectives",
            "Do the two objectives need each other: joint, discriminative only, generative only?",
            (
                Variant("joint", {}),
                Variant("discriminative", {"training": {"mse_weight": 0.0}}),
                Variant("generative", {"training": {"nce_weight": 0.0}}),
            ),
            (("discriminative", "joint"), ("generative", "joint")),
            ("The joint loss is InfoNCE + 10 MSE, as in the paper.",),
        ),
        Study(
            "corpora",
            "Is a model that pretrained on speech only better at speech, and one on sounds only at sounds?",
            tuple(
                Variant(f"{shape}, {name}", _shape(shape), parts)
                for shape in SHAPES
                for name, parts in (("both", (SPEECH, SOUNDS)), ("speech", (SPEECH,)), ("sounds", (SOUNDS,)))
            ),
            tuple((f"{shape}, {name}", f"{shape}, both") for shape in SHAPES for name in ("speech", "sounds")),
            (
                "Every corpus has as many clips as the smallest kind has, so that what is compared is the kind and not the amount; "
                '"both" is half speech and half sounds.',
            ),
        ),
        Study(
            "batches",
            "Batch 24, as published, against large batches at the same number of clips",
            tuple(Variant(str(batch), {}, batch=batch) for batch in (24, 96, 384)),
            (("96", "24"), ("384", "24")),
            (
                "The learning rate goes with the square root of the batch. A larger batch makes fewer and surer steps out of "
                "the same clips; hardware that computes it faster is not counted.",
            ),
        ),
    )
}
