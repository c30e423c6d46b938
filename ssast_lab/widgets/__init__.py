"""What the notebooks show: state and wiring over :mod:`ssast_lab.figures`, no science.

training.py  a training run, live
"""

from ssast_lab.widgets.training import watch

__all__ = ["watch"]
