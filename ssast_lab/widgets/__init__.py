"""What the notebooks show: state and wiring over :mod:`ssast_lab.figures` and the stage of the page, no science.

stage.py      the stage, with traits
explorers.py  stages under sliders, above a view
training.py   a training run, live
"""

try:
    from ssast_lab.widgets.explorers import Explorer, compare, explore
    from ssast_lab.widgets.stage import Stage
    from ssast_lab.widgets.training import Training, reference, watch
except ImportError as error:
    from ssast_lab.extras import sentence

    raise ImportError(sentence(error) or str(error), name=error.name) from error

__all__ = ["Explorer", "Stage", "Training", "compare", "explore", "reference", "watch"]
