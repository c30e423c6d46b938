"""The stage of the page in a notebook: hear, see and paint; the model runs in Python whenever the mask changes."""

import os
import secrets
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import torch
import traitlets
from torch import Tensor

from ssast_lab import analysis, audio, checkpoint, stage
from ssast_lab.analysis import Excerpt, Reconstruction
from ssast_lab.app.stage import script, style
from ssast_lab.app.views import VIEWS
from ssast_lab.app.views.view import answered
from ssast_lab.config import AudioConfig, MaskConfig
from ssast_lab.model import SSAST

HERE = Path(__file__).parent
SHARE = 400 / 512  # of the patches are hidden at first, as in the paper
CONTROLS = ("blocks", "seed")  # of the page, that a notebook has as well
BY_NAME = {view.name: view for view in VIEWS if not {*view.inputs} - {*CONTROLS}}


def still_only() -> bool:
    """Whether notebooks are run for a page on which nothing runs: widgets then show as pictures with players alone."""
    return bool(os.environ.get("SSAST_LAB_STILL"))


class Seen:
    """What a view of the stage is asked about."""

    def __init__(self, key: str, network: SSAST, record: Reconstruction, piece: Excerpt) -> None:
        self.key, self.network, self.record, self.excerpt = key, network, record, piece

    @property
    def config(self) -> AudioConfig:
        return self.network.config.audio

    @property
    def mask(self) -> Tensor:
        return torch.from_numpy(self.record.mask)


class Stage(anywidget.AnyWidget):
    """A sound, what is hidden of it, and what a model makes of that.

    ``sound`` is the name of a built-in one, a file, or a waveform (S,) at the model's rate; ``model`` a name that :func:`ssast_lab.load`
    knows, or a model; ``start`` the second at which its window begins. ``mask`` is (N,) bool, True = hidden: painting sets it, and
    setting it paints. ``layer`` is what is seen, ``pinned`` the patch that was clicked (-1: none), ``view`` a panel below
    ("masks", "reconstruction", "recognition" or "attention"; "": none). ``record`` is what the model made of it.
    """

    _esm = f"{script()}\n{(HERE / 'stage.js').read_text(encoding='utf-8')}"
    _css = f"{style()}\n{(HERE / 'stage.css').read_text(encoding='utf-8')}"

    sound = traitlets.Any()
    model = traitlets.Any()
    start = traitlets.Float(0.0)
    mask = traitlets.Any()
    layer = traitlets.Unicode("reconstructed").tag(sync=True)
    pinned = traitlets.Int(-1).tag(sync=True)
    view = traitlets.Enum(["", *BY_NAME], "")
    _view = traitlets.Dict().tag(sync=True)

    def __init__(
        self, sound: Any = "blackbird", model: Any = "tiny-patch", mask: Any = None, start: float = 0.0, **more: Any
    ) -> None:
        super().__init__(**more)
        self.asked: tuple[str, float | None] = ("3 to 5 (paper)", 0)  # of the controls by a view: blocks and seed
        self._ceiling: tuple[int, Tensor] | None = None
        self._stroke: int | None = None
        with self.hold_trait_notifications():
            self.sound, self.model, self.start = sound, model, start
        self.on_msg(self._told)
        self._cut(mask)
        self.observe(lambda change: self._cut(), ["sound", "model", "start"])

    # ---- what is seen ----

    def _cut(self, mask: Any = None) -> None:
        """From the sound or the model on; the mask stays where it fits, else as large a share is hidden."""
        before = self.mask
        self.network: SSAST = checkpoint.load(self.model) if isinstance(self.model, str | os.PathLike) else self.model  # type: ignore[assignment]
        self.waveform = waveform_of(self.sound, self.network.config.audio.sample_rate)
        self.excerpt = analysis.excerpt(self.waveform, self.network.config, self.start)
        if mask is None and before is not None and len(before) == self.excerpt.grid.count:
            mask = before
        if mask is None:
            share = SHARE if before is None else float(np.mean(before))
            mask = analysis.draw_mask(self.excerpt, share)
        mask, self.mask = np.asarray(mask, bool).ravel(), mask
        if before is not None and np.array_equal(before, mask):  # which nobody is told of
            self._analyse(mask)

    @traitlets.validate("mask")
    def _checked(self, proposal: Any) -> np.ndarray | None:
        if proposal["value"] is None:
            return None
        mask = np.asarray(proposal["value"], bool).ravel()
        if len(mask) != self.excerpt.grid.count:
            raise traitlets.TraitError(
                f"The mask says of {self.excerpt.grid.count} patches whether they are hidden, not of {len(mask)}."
            )
        mask = mask.copy()
        mask.flags.writeable = False  # else one changed in place would not be noticed
        return mask

    @traitlets.observe("mask")
    def _masked(self, change: Any) -> None:
        if change["new"] is None or (change["old"] is not None and np.array_equal(change["old"], change["new"])):
            return
        self._analyse(change["new"])

    def _analyse(self, mask: np.ndarray) -> None:
        record = stage.analyse(self.network, self.excerpt, torch.from_numpy(mask.copy()))
        self.seen = Seen(secrets.token_hex(8), self.network, record, self.excerpt)
        self._show(self._stroke)

    @property
    def record(self) -> Reconstruction:
        return self.seen.record

    def hide(self, count: int, cluster: tuple[int, int] | None = (3, 5), seed: int = 0) -> None:
        """Hides so many patches, in clusters or one by one (None)."""
        self.mask = analysis.draw_mask(self.excerpt, MaskConfig(count, cluster), seed)

    @traitlets.observe("view")
    def _opened(self, change: Any) -> None:
        known = BY_NAME.get(change["new"])
        self._view = {"name": known.name, "hint": known.hint} if known else {}

    # ---- what goes to the browser and comes from it ----

    def _show(self, stroke: int | None = None) -> None:
        self.send({"picture": stage.picture(self.record, self.seen.config, self.seen.key, stroke)})

    def _told(self, _: Any, message: dict[str, Any], buffers: Any) -> None:
        do = message.get("do")
        if do == "show":
            self._show()
        elif do == "hear":
            self._hear()
        elif do == "paint":
            self._painted(message.get("hidden"), message.get("stroke"))
        elif do in ("look", "later") and self.view:
            self._answer(do, message.get("asked"), message.get("ticket"))

    def _painted(self, hidden: Any, stroke: Any) -> None:
        self._stroke = stroke if type(stroke) is int else None
        before = self.mask
        try:
            self.mask = stage.painted_mask(hidden, self.excerpt.grid).numpy()
        finally:
            if np.array_equal(before, self.mask):
                self._show(self._stroke)
            self._stroke = None

    def sounds(self) -> Tensor:
        """(3, S): what the model was given, what it drew, and the original log-mel, made audible."""
        stretch = stage.stretch(self.record)
        known = self._ceiling[1] if self._ceiling and self._ceiling[0] == stretch else None
        inversions = stage.inverted(self.record, self.seen.config, known)
        self._ceiling = stretch, inversions[2]
        return inversions

    def _hear(self) -> None:
        first = round(self.record.start * self.seen.config.sample_rate)
        self.send({"sounds": stage.sounds(self.record, self.waveform[first:], self.sounds(), self.seen.key)})

    def _answer(self, do: str, asked: Any, ticket: Any) -> None:
        view: Any = BY_NAME[self.view]
        if do == "later":
            answer = {"ticket": ticket, "later": view.later(self.seen, asked if isinstance(asked, dict) else {})}
        else:
            values = self.asked if view.inputs else ()
            answer = answered(view, self.seen, asked, ticket, values)  # type: ignore[arg-type]
        self.send({"answer": answer})

    # ---- where no script runs ----

    def _repr_mimebundle_(self, **options: Any) -> Any:
        if still_only():
            return stage.bundle(self.record)
        data, metadata = super()._repr_mimebundle_(**options)  # type: ignore[misc]
        return data | {"image/png": stage.picture_of(self.record)}, metadata


def waveform_of(sound: Any, rate: int = audio.SAMPLE_RATE) -> Tensor:
    """(S,) at a rate, of a built-in sound's name, a file or a waveform."""
    if isinstance(sound, str) and sound in audio.builtin_sounds():
        sound = audio.builtin_sounds()[sound]["path"]
    if isinstance(sound, str | os.PathLike):
        return audio.load_waveform(sound, to_rate=rate)
    return torch.as_tensor(sound, dtype=torch.float32)
