"""Stages with what belongs to a question: sliders above, a view below."""

from collections.abc import Sequence
from typing import Any

import ipywidgets as controls

from ssast_lab import stage
from ssast_lab.app.reconstruction import CLUSTERS, PAPER, draw
from ssast_lab.audio import builtin_sounds
from ssast_lab.widgets.stage import Stage, still_only

WIDE = {"description_width": "110px"}


class Explorer(controls.VBox):
    """One stage, or several that share a sound, under their controls; ``stages`` are at hand in Python."""

    def __init__(self, above: Sequence[controls.Widget], stages: Sequence[Stage]) -> None:
        self.stages = tuple(stages)
        super().__init__([controls.HBox(list(above), layout=controls.Layout(flex_flow="row wrap")), *stages])

    @property
    def stage(self) -> Stage:
        return self.stages[0]

    def _repr_mimebundle_(self, **options: Any) -> Any:
        if not still_only():
            return super()._repr_mimebundle_(**options) | {"image/png": stage.picture_of(self.stage.record)}
        bundles = [stage.bundle(one.record) for one in self.stages]
        return bundles[0] | {"text/html": "".join(one["text/html"] for one in bundles)}


def explore(
    sound: Any = "blackbird", model: Any = "tiny-patch", view: str = "", mask: Any = None, start: float = 0.0
) -> Explorer:
    """A stage with sliders for the mask, and one of the views: "masks", "reconstruction", "recognition" or "attention"."""
    shown = Stage(sound, model, mask=mask, start=start, view=view)
    return Explorer(_sound(sound, [shown]) + _mask(shown), [shown])


def compare(
    sound: Any = "blackbird", models: Sequence[Any] = ("tiny-patch", "tiny-frame"), start: float = 0.0
) -> Explorer:
    """The same sound and the same share hidden, seen by several models, one under another."""
    stages = [Stage(sound, model, start=start) for model in models]
    share = controls.IntSlider(78, 1, 99, description="Hidden, %", style=WIDE, continuous_update=True)

    def moved(change: Any) -> None:
        for one in stages:
            count = one.excerpt.grid.count
            one.hide(max(round(change["new"] / 100 * count), 1), None if one.excerpt.grid.rows == 1 else (3, 5))

    share.observe(moved, "value")
    return Explorer([*_sound(sound, stages), share], stages)


def _sound(sound: Any, stages: Sequence[Stage]) -> list[controls.Widget]:
    known = builtin_sounds()
    if not (isinstance(sound, str) and sound in known):
        return []
    chosen = controls.Dropdown(options=[(entry["title"], name) for name, entry in known.items()], value=sound, description="Sound",
                               style=WIDE)  # fmt: skip

    def another(change: Any) -> None:
        for one in stages if change["new"] else ():
            one.sound = change["new"]

    chosen.observe(another, "value")
    stages[0].observe(
        lambda change: setattr(
            chosen, "value", change["new"] if isinstance(change["new"], str) and change["new"] in known else None
        ),
        "sound",
    )
    return [chosen]


def _mask(shown: Stage) -> list[controls.Widget]:
    count = controls.IntSlider(int(shown.mask.sum()), 1, shown.excerpt.grid.count, description="Hidden, N", style=WIDE)
    kind = controls.Dropdown(options=list(CLUSTERS), value=PAPER, description="Cluster, C", style=WIDE)
    seed = controls.BoundedIntText(
        0, 0, 2**31 - 1, description="Seed", style=WIDE, layout=controls.Layout(width="220px")
    )

    def moved(_: Any) -> None:
        shown.asked = kind.value, seed.value
        shown.mask = draw(shown.excerpt.grid, kind.value, count.value, seed.value).numpy()

    def follow(_: Any) -> None:
        """Another sound, or a mask that was painted."""
        count.unobserve(moved, "value")
        count.max = max(shown.excerpt.grid.count, count.value)
        count.value, count.max = max(int(shown.mask.sum()), 1), shown.excerpt.grid.count
        count.observe(moved, "value")

    for control in (count, kind, seed):
        control.observe(moved, "value")
    shown.observe(follow, ["mask", "sound", "model", "start"])
    return [count, kind, seed]
