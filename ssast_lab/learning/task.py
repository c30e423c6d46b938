"""What can be trained, and what training says about each step.

Axes: B clips of the global batch, S samples of an excerpt.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from accelerate import Accelerator
from torch import Tensor, nn

from ssast_lab import audio, data
from ssast_lab.analysis import Reconstruction
from ssast_lab.config import LearningConfig
from ssast_lab.learning.run import Run
from ssast_lab.metrics import Scores

E = TypeVar("E")  # the dataclass of numbers that an evaluation of the task gives
Forward = Callable[..., Any]  # a model's forward, in the precision of the run


@dataclass(frozen=True)
class EvaluationResult(Generic[E]):
    """What the model does with the held-out clips."""

    evaluation: E
    loss: float | None  # the checkpoint where it is lowest is the best one; None where none may be chosen
    score: float  # what the schedule "plateau" watches
    reconstructions: tuple[Reconstruction, ...] = ()
    # ("accuracy", 0.93): the checkpoint where it is highest is the best one, the loss decides among equals
    figure: tuple[str, float] | None = None


@dataclass(frozen=True)
class Judgement:
    """The scores of a classifier on its test set, once training is over."""

    weights: str  # "best": chosen on the validation set; "last" where there is none; "averaged"
    step: int  # after which the weights were taken
    scores: Scores
    chosen: str = ""  # by what the weights were chosen, in words


@dataclass(frozen=True)
class StepResult(Generic[E]):
    """What one optimiser step did; its losses are means over the global batch."""

    step: int  # steps done, from 1
    epoch: float
    losses: Any  # the task's NamedTuple, of floats
    gradient_norm: float
    learning_rate: float
    clips_per_second: float  # of this step, over all processes
    seconds: float  # since this process began to train
    held_out: EvaluationResult[E] | None = None  # after every ``evaluate_every`` steps and after the last one
    judgements: tuple[Judgement, ...] = ()  # with the last step of fine-tuning, in its main process

    @property
    def loss(self) -> float:
        """What is minimised: the first of the losses."""
        return self.losses[0]

    @property
    def nce(self) -> float:
        """Nats, of pretraining."""
        return self.losses.nce

    @property
    def mse(self) -> float:
        """Squared normalised log-mel, of pretraining."""
        return self.losses.mse

    @property
    def accuracy(self) -> float:
        """Of pretraining, fine-tuning and wav2vec."""
        return self.losses.accuracy

    @property
    def evaluation(self) -> E | None:
        """The figures of the held-out clips."""
        return self.held_out.evaluation if self.held_out else None

    @property
    def reconstructions(self) -> tuple[Reconstruction, ...]:
        """Of the same held-out clips at every evaluation of pretraining."""
        return self.held_out.reconstructions if self.held_out else ()


class TrainingTask(ABC, Generic[E]):
    """What is learned, and from which clips. Tensors that a task draws are global: row b belongs to clip b of the batch."""

    name: str
    config: Any  # a dataclass: all that decides what is computed
    settings: LearningConfig
    steps: int
    evaluate_every: int
    clips: Sequence[data.Clip]
    held_out: Sequence[data.Clip]
    samples: int  # S
    rate: int = audio.SAMPLE_RATE  # Hz, at which clips are heard
    lr_multipliers: Mapping[str, float] = {}  # beginning of a parameter's name -> its learning rate, as a multiple
    told: Mapping[str, Any] = {}  # JSON: what a checkpoint says of itself beside its recipe
    better: Literal["min", "max"] = "min"  # whether a low or a high score of an evaluation is good

    def sets(self) -> dict[str, Sequence[data.Clip]]:
        """All clips that the task reads, by what they are for."""
        return {"train": self.clips, "held_out": self.held_out}

    def keep_division(self, sets: Mapping[str, Mapping[str, Any]]) -> None:
        """Called before a run goes on, with what :mod:`ssast_lab.learning.heard` kept of its sets: who divides clips by a rule that may
        change keeps them as they were."""

    def answers(self) -> str:
        """A checksum of what is to be learned of the clips, beside what is in them."""
        return ""

    def check(self, accelerator: Accelerator) -> None:
        """Called in every process before the run begins: raises an error for what would only come to light at its end."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The model before the first step, drawn from PyTorch's global generator, which has been seeded."""

    def blocks_to_compile(self, model: Any) -> Iterable[nn.Module]:
        """The blocks that a model consists of: each is compiled by itself where the run says so, and their weight matrices
        are what the optimiser Muon orthogonalises."""
        return model.encoder.blocks

    @abstractmethod
    def plan(self, corpus: data.Corpus, rows: slice) -> data.Plan:
        """Which clips stand in which batch, of which this process takes some rows."""

    @abstractmethod
    def draw(self, step: int) -> tuple[Tensor, ...]:
        """(B, ...) each: what else is drawn at random for a step."""

    @abstractmethod
    def losses(self, forward: Forward, model: Any, batch: data.Batch, drawn: Sequence[Tensor]) -> Any:
        """A NamedTuple of () means over the clips of ``batch``, which is a part of a global one; the first is minimised.

        ``forward`` must be called for predictions: it is the model's, with the exchange of gradients among processes. The
        batch is on the device. ``drawn`` is on the CPU: looking at its values on a GPU would force a synchronisation."""

    def on_step_end(self, step: int, model: Any) -> None:
        """Called after every step, before the evaluation; ``step`` counts from 1."""

    def state(self) -> dict[str, Any]:
        """What :meth:`on_step_end` keeps, as tensors and numbers, for the checkpoint."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Sets what :meth:`state` gave."""

    @abstractmethod
    def evaluator(self, accelerator: Accelerator, micro_batch: int) -> "Evaluator[E]":
        """Evaluates on the held-out clips; ``micro_batch`` of them fit into memory at once."""

    def judge(self, run: Run) -> tuple[Judgement, ...]:
        """Called in the main process when the last checkpoint has been written."""
        return ()


class Evaluator(ABC, Generic[E]):
    """The held-out clips of a task: the same at every evaluation of a run, shared among its processes."""

    clips: int
    unreadable: dict[str, str]  # name -> why
    noticed: dict[str, str]  # name -> what should be known of a clip that was read; grows where evaluating reads them

    @abstractmethod
    def evaluate(self, forward: Forward, model: Any) -> EvaluationResult[E]:
        """Is called in every process, and gives each the same figures; ``forward`` as in :meth:`TrainingTask.losses`."""
