"""What the notebooks show: state and wiring over :mod:`ssast_lab.figures`, no science."""

import time
from collections.abc import Iterable, Iterator

from IPython.display import display

from ssast_lab import figures
from ssast_lab.learning.pretrain import Evaluation
from ssast_lab.learning.task import StepResult

Step = StepResult[Evaluation]


def watch(steps: Iterable[Step], every: float = 2.0) -> Iterator[Step]:
    """Hands every step on, and meanwhile draws the curves, and one reconstruction as it improves, below the cell.

    The pictures are drawn anew when ``every`` seconds have passed and after each evaluation. They stay in the notebook as
    ordinary plotly output, so that they are still there where no kernel runs. To stop, interrupt the kernel: the run ends
    with a checkpoint.
    """
    seen: list[Step] = []
    curves = picture = None
    drawn = 0.0
    try:
        for step in steps:
            seen.append(step)
            if time.monotonic() - drawn > every or step.evaluation:
                figure = figures.curves(seen)
                if curves is None:
                    curves = display(figure, display_id=True)
                else:
                    curves.update(figure)
                drawn = time.monotonic()
            if step.reconstructions:
                figure = figures.overview(step.reconstructions[0])
                figure.update_layout(title_text=f"A held-out clip after {step.step} steps")
                if picture is None:
                    picture = display(figure, display_id=True)
                else:
                    picture.update(figure)
            yield step
    finally:
        if curves is not None:
            curves.update(figures.curves(seen))
