"""What a run learns, from which sounds, how, and where: frozen dataclasses, checked when they are built."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from ssast_lab.config.shapes import AudioConfig, ConfigError, ModelConfig, Pooling, check_choices

Optimizer = Literal["adamw", "muon", "adam"]
Schedule = Literal["cosine", "wsd", "plateau", "decay"]
Start = Literal["mae", "official"]
SoftmaxOver = Literal["targets", "predictions"]
Loss = Literal["auto", "ce", "bce"]
Precision = Literal["auto", "fp32", "bf16"]


PAPER = 400  # of the paper's 512 patches are hidden, 78 percent


@dataclass(frozen=True)
class MaskConfig:
    """Which patches are hidden: a count of them or a share of all, in clusters of C x C, or one by one, as the paper does for
    frames. Where neither is named, the paper's 400 are."""

    count: int | None = None
    cluster: tuple[int, int] | None = (3, 5)  # least and most C; None: patches one by one
    fewest: int | None = None  # each training step hides a number drawn from here to the count; None: always the count
    share: float | None = None  # of the patches, between 0 and 1, instead of the count: so it goes with every window

    def __post_init__(self) -> None:
        if self.count is None and self.share is None:
            object.__setattr__(self, "count", PAPER)
        if self.count is not None and self.share is not None:
            raise ConfigError(
                f"Either a number of patches is hidden or a share of them: leave out the count of {self.count} or the share of "
                f"{self.share:g}."
            )
        if self.share is not None and not 0 < self.share <= 1:
            raise ConfigError(f"The share of patches to hide is above 0 and at most 1, not {self.share:g}.")
        if self.count is not None and self.count < 1:
            raise ConfigError(f"At least one patch must be hidden, not {self.count}.")
        if self.fewest is not None and not 1 <= self.fewest <= (self.count or self.fewest):
            raise ConfigError(f"The fewest hidden patches are from 1 to {self.count}, the most, not {self.fewest}.")
        if self.cluster is not None:
            object.__setattr__(self, "cluster", tuple(self.cluster))
            least, most = self.cluster
            if not 1 <= least <= most:
                raise ConfigError(f"The cluster factor runs from at least 1 upwards, not from {least} to {most}.")

    def hidden(self, patches: int) -> int:
        """M, how many of so many patches are hidden, where each step hides as many; of a share at least one."""
        return max(round(self.share * patches), 1) if self.count is None else self.count  # type: ignore[operator]


# Fields that older runs and caches do not have, with the defaults that mean what was done then.
_LATER: dict[str, Any] = dict(
    norm_eps=None, distillation=True, fewest=None, sampled=None, start_from="", settle=0.1, cooldown=0.2,
    mix=0.0, level=0.0, stretch=0.0, tilt=0.0, share=None, pack=False, sample_rate=16_000, low=20.0, high=None,
)  # fmt: skip


_RENAMED = {"over": "softmax_over"}  # fields that had another name in what was written earlier


def renamed(values: Any) -> Any:
    """What was written of a configuration earlier, under the names of today."""
    if not isinstance(values, dict):
        return values
    return {_RENAMED.get(name, name): renamed(value) for name, value in values.items()}


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON types. Fields that came later are left out while they have their default, so that an
    older run can be resumed, and what is kept under a key made of a configuration is found again."""
    return asdict(config, dict_factory=lambda items: {n: v for n, v in items if n not in _LATER or v != _LATER[n]})


@dataclass(frozen=True)
class DataConfig:
    """Which sounds a run learns from and which it is measured on: folders, files, manifests or tar shards."""

    train: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()  # empty: a tenth of the training clips is set aside, of a single one its end
    held_out_clips: int = 64  # at most so many are evaluated, evenly spread over the list

    def __post_init__(self) -> None:
        for name in ("train", "held_out"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(map(str, value)))
        if self.held_out_clips < 1:
            raise ConfigError("At least one clip must be held out: without it nobody sees whether the model learns.")


@dataclass(frozen=True)
class LearningConfig:
    """The optimiser and its schedule, whatever is learned. The batch is the global one, whatever hardware shares it."""

    batch: int = 64  # clips of a step, over all processes
    learning_rate: float = 1e-3  # its peak
    optimizer: Optimizer = "adamw"  # "adam" as the official code
    betas: tuple[float, float] = (0.9, 0.95)  # of Adam and AdamW
    weight_decay: float = 0.05
    schedule: Schedule = (
        "cosine"  # down to zero; "wsd": constant, then to zero; "plateau": by progress; "decay": by epochs
    )
    warmup: int = 500  # steps in which the learning rate rises from 0
    cooldown: float = 0.2  # share of the steps, the last ones, in which "wsd" falls in a straight line to zero
    warmup_every: int = 1  # the official code moves it every 50 steps only
    patience: int = 2  # evaluations without progress before a plateau halves the learning rate
    decay: float = 0.85  # what "decay" multiplies the learning rate with
    decay_from: int = 6  # epochs that learn at the full rate, the first milestone of PyTorch's MultiStepLR
    decay_every: int = 1  # epochs from one decay to the next
    clip_norm: float | None = 1.0  # to which longer gradients are cut; None: as long as they are
    seed: int = 0  # of all that is drawn at random

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        self._at_least_one("batch", "warmup_every", "decay_from", "decay_every")
        check_choices(self)
        self._share("cooldown")
        if not self.learning_rate > 0:
            raise ConfigError(f"The learning rate must be positive, not {self.learning_rate}.")
        if self.seed < 0:
            raise ConfigError(f"A seed is a whole number from 0, not {self.seed}.")

    def _at_least_one(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")

    def _share(self, name: str) -> None:
        if not 0 <= getattr(self, name) <= 1:
            raise ConfigError(f"{name} is a share between 0 and 1, not {getattr(self, name)}.")

    def stable_steps(self, steps: int) -> int:
        """How many of so many steps are the same in a longer run; 0 where every step depends on their number."""
        return round((1 - self.cooldown) * steps) if self.schedule == "wsd" else 0


@dataclass(frozen=True)
class TrainingConfig(LearningConfig):
    """Pretraining: how long, by which objective, and how it is measured."""

    steps: int = 10_000  # of the optimiser, in all
    start_from: str = ""  # a model whose weights training begins with; take a sixth to half of the learning rate then; empty: random ones
    start: Start = "mae"  # how the encoder's weights start: as Masked Autoencoders do, or "official"
    nce_weight: float = 1.0  # 0: generative only
    mse_weight: float = 10.0  # 0: discriminative only
    softmax_over: SoftmaxOver = "targets"  # in InfoNCE: the paper's, or "predictions" as in the official code
    sampled: int | None = None  # K hidden patches that a step asks for, drawn anew for each clip (CrossMAE); None: all
    settle: float = 0.1  # share of the steps, the last ones, that ask for all, as they will be in use
    pack: bool = True  # joins clips that are shorter than the window; else their padding is learned like sound
    mix: float = 0.0  # share of the clips into which another is mixed, up to 10 dB louder or softer than it is
    level: float = 0.0  # dB by which a clip is made louder or softer at most
    stretch: float = 0.0  # share by which it is played faster or slower at most, as a tape is, in steps of 1/32
    tilt: float = 0.0  # dB by which its highest mel band gains on the lowest at most, or loses
    evaluate_every: int = 500  # steps
    evaluate_masks: int = 400  # patches hidden in evaluation, whatever training hides

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least_one("steps", "evaluate_every", "evaluate_masks")
        self._share("settle")
        self._share("mix")
        for name in ("level", "tilt"):
            if not 0 <= getattr(self, name) <= 60:
                raise ConfigError(f"{name} is from 0 to 60 dB, not {getattr(self, name)}.")
        if self.stretch != 0 and not 1 / 32 <= self.stretch <= 1 / 2:
            raise ConfigError(f"stretch is 0, or from 1/32 (half a semitone) to 1/2, not {self.stretch}.")
        if self.sampled is not None and self.sampled < 2:
            raise ConfigError(
                f"At least 2 hidden patches must be asked for, or there is nothing to tell apart, not {self.sampled}."
            )
        if self.sampled is not None and self.softmax_over == "predictions":
            raise ConfigError(
                "The official softmax over the predictions needs all of them: set sampled to None, or softmax_over to targets."
            )
        if min(self.nce_weight, self.mse_weight) < 0 or self.nce_weight + self.mse_weight == 0:
            raise ConfigError("The weights of the two objectives cannot be negative, nor both be 0.")

    def stable_steps(self, steps: int) -> int:
        return min(super().stable_steps(steps), self.sampled_steps(steps))

    def sampled_steps(self, steps: int) -> int:
        """The steps that ask for a sample only, of so many in all."""
        return steps if self.sampled is None else round((1 - self.settle) * steps)


@dataclass(frozen=True)
class PretrainConfig:
    """All that decides what a pretraining run computes. Where and how fast it runs is :class:`RunConfig`'s."""

    model: ModelConfig = field(default_factory=ModelConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        patches = self.model.grid.count
        hidden = self.mask.hidden(patches)
        if hidden > patches:
            raise ConfigError(
                f"{hidden} of {patches} patches cannot be hidden: ask for fewer, {round(0.78 * patches)} are 78%."
            )
        fewest = self.mask.fewest or hidden
        if fewest > hidden:
            raise ConfigError(f"The fewest hidden patches are from 1 to {hidden}, the most, not {fewest}.")
        if self.training.sampled is not None and self.training.sampled > fewest:
            raise ConfigError(
                f"{self.training.sampled} hidden patches cannot be asked for where only {fewest} are hidden: "
                "set training.sampled to fewer or to None, or hide more."
            )


@dataclass(frozen=True)
class LabelledConfig:
    """Which labelled sounds a classifier learns from, which choose it, and which judge it."""

    train: str = ""  # a task's folder, folders by class, a table, an official JSON, or the folder of a public data set
    valid: str = ""  # another such set, which chooses the best weights; empty: the fold "valid" of train
    test: str = ""  # another such set; empty: the fold "test" of train, or a numbered one
    labels: str = ""  # the label CSV of official JSON files
    dataset: str = ""  # how the folder of a public data set is read: esc-50, speech-commands-v2, ...
    fold: str = ""  # the numbered fold that is tested


@dataclass(frozen=True)
class TuningConfig(LearningConfig):
    """Fine-tuning: how long, by which loss, and how the sounds are varied (as the official src/dataloader.py does)."""

    batch: int = 32
    learning_rate: float = 3e-4
    warmup: int = 50
    epochs: int = 30
    steps: int | None = None  # instead of epochs
    evaluate_every: int | None = None  # steps; None: every epoch
    loss: Loss = "auto"  # "ce": one label for each clip; "bce": any number; auto: what the labels ask for
    mixup: float = 0.0  # share of the clips that another is mixed into, labelled in proportion
    frequency_mask: int = 0  # SpecAugment hides fewer than so many mel bins
    time_mask: int = 0  # and fewer than so many frames
    noise: bool = False  # adds noise, and turns the clip by up to 10 frames
    balanced: bool = False  # draws the clips of rare labels more often
    head_rate: float = 1.0  # learning rate of the classification head, as a multiple
    average_from: int = 0  # the epoch (from 1) from which on the weights of each epoch are averaged; 0: never

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least_one("epochs", *(name for name in ("steps", "evaluate_every") if getattr(self, name) is not None))
        if not 0 <= self.mixup <= 1:
            raise ConfigError(f"mixup is a share between 0 and 1, not {self.mixup}.")
        if min(self.frequency_mask, self.time_mask, self.average_from) < 0 or not self.head_rate > 0:
            raise ConfigError(
                "frequency_mask, time_mask and average_from cannot be negative, and head_rate is positive."
            )
        if self.average_from > self.epochs:
            raise ConfigError(f"Weights cannot be averaged from epoch {self.average_from} on: there are {self.epochs}.")


@dataclass(frozen=True)
class FineTuneConfig:
    """All that decides what a fine-tuning run computes: a trained model, the shape it gets, and what it learns."""

    model: str = (
        "tiny-patch"  # a built-in one, a run, a folder or an official .pth; "scratch:tiny-patch" has random weights
    )
    frames: int | None = None  # None: what nine in ten of the training clips fit into, at most the model's own
    stride: tuple[int, int] | None = None  # (mel bins, frames); None: the model's own
    pooling: Pooling = "mean"  # over the patches, or "cls": [CLS] and distillation token together
    mean: float | None = None  # of the features, which normalises them; None: the model's own
    std: float | None = None  # likewise
    data: LabelledConfig = field(default_factory=LabelledConfig)
    training: TuningConfig = field(default_factory=TuningConfig)

    def __post_init__(self) -> None:
        check_choices(self)


@dataclass(frozen=True)
class RunConfig:
    """Where a run lives and what it runs on: none of this changes what is computed (but for rounding)."""

    folder: str = "runs/pretrain"  # its checkpoints, metrics and settings
    resume: bool = False  # go on with the run in that folder
    micro_batch: int | None = None  # clips that go through the model at once; None: the whole share of this process
    precision: Precision = "auto"  # "fp32" or "bf16"; auto: bf16 where the hardware multiplies it fast
    in_memory: bool | None = None  # hold the corpus decoded; None: where it fits
    workers: int = 2  # processes (or threads, for a corpus in memory) that decode sound
    compile: bool = False  # by torch.compile: faster in long runs
    checkpoint_every: int = 500  # steps
    keep: int = 2  # of the last checkpoints, beside the best one
    contents: bool = False  # keep checksums of all that is in the clips, and look at them again when the run is resumed
    unreadable: float = 0.05  # the run stops when a larger share of the clips cannot be read
    track: str | None = None  # "tensorboard" or "trackio", beside metrics.jsonl

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.folder.strip():
            raise ConfigError("The run has no folder: name the one that it is written into.")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ConfigError(f"micro_batch must be at least 1, not {self.micro_batch}.")
        if not 0 <= self.unreadable <= 1:
            raise ConfigError(f"unreadable is a share between 0 and 1, not {self.unreadable}.")
        if min(self.checkpoint_every, self.keep) < 1:
            raise ConfigError("checkpoint_every and keep must be at least 1.")


def from_dict(cls: type, values: dict[str, Any]) -> Any:
    """A configuration from what :func:`to_dict` made of it, now or in an older release; refuses fields that it does not know."""
    values = renamed(values)
    known = {item.name: item for item in fields(cls)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(f"{cls.__name__} has no field {unknown[0]}.")
    values = {name: value for name, value in _LATER.items() if name in known} | values
    nested = {
        "model": ModelConfig,
        "mask": MaskConfig,
        "data": DataConfig,
        "training": TrainingConfig,
        "audio": AudioConfig,
    }
    return cls(**{name: from_dict(nested[name], value) if name in nested else value for name, value in values.items()})
