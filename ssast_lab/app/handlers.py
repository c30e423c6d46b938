"""What happens when something on the page is touched.

Each handler gives the new values of the parts that change, by the parts' names (:class:`ssast_lab.app.state.Parts`). What a
visitor chose stays in two states, the decoded ``sound`` and the ``excerpt`` that the model sees: moving a slider of the mask
starts from the excerpt, another model or window from the sound. A mask that was ``painted`` stays until another is asked for.
The sounds of a picture follow it, made from what was ``shown`` last, so that no picture waits for them.
"""

import html
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from ssast_lab import analysis, audio, checkpoint, stage
from ssast_lab.analysis import Excerpt
from ssast_lab.app.reconstruction import (
    CLUSTERS,
    NEXT_TO_NOTHING,
    NOTHING_HIDDEN,
    SEEDS,
    analyse,
    drawn_mask,
    figures_html,
    hidden_count,
    numbers,
    silent,
    sound_line,
    status_line,
)  # fmt: skip
from ssast_lab.app.sources import Model, Sound, builtin_sound, load_model, own_sound, window_seconds
from ssast_lab.app.state import Ceiling, Seen, Wish
from ssast_lab.model import SSAST

Models = dict[str, Model]  # by name
Shown = dict[str, Any]  # name of a part -> its new value
# Parts that change with another mask, excerpt, model or sound. Another window leaves the slider in the visitor's hand alone, and
# those of the mask.
SHOWN = ("stage", "seen", "result")
WITH_EXCERPT = ("excerpt", "status", *SHOWN)
WITH_MODEL = ("window", "hidden", "blocks", "note", *WITH_EXCERPT)
WITH_SOUND = ("sound", "caption", "painted", *WITH_MODEL)
BELOW = "This sound was taken in when no model here heard above {:g} kHz: choose the file again to hear all of it."
HEARS = "It hears {:g} to {:g} Hz."
FORGOTTEN = "This page forgot its sound in a long pause: choose one again."


def refusal(message: str, **more: Any) -> Exception:
    """An error that the page shows to its visitor."""
    import gradio as gr

    return gr.Error(message, print_exception=False, **more)


def loaded(models: Models, name: str) -> SSAST:
    try:
        return load_model(models[name].path)
    except checkpoint.CheckpointError as error:
        print(f"No usable model: {error}", flush=True)  # which tells its path, to whom that belongs
        raise refusal(
            f"The model {name} cannot be loaded: the terminal of this page says why.", title="No usable model"
        ) from None


def usable(models: Models, excerpt: Excerpt | None, name: str) -> Excerpt:
    """The excerpt, if there is one that was cut for this model."""
    if excerpt is None:
        raise refusal(FORGOTTEN)
    if excerpt.grid.shape != loaded(models, name).config.patch:  # it was cut for the model before this one
        raise refusal("This sound is too short for this model: choose another of them.")
    return excerpt


def show(models: Models, excerpt: Excerpt, name: str, mask: Tensor, stroke: int | None = None) -> Shown:
    """Pictures and figures of a mask."""
    record = analyse(excerpt, models[name], mask)
    seen = Seen(secrets.token_urlsafe(6), models[name], record)
    figures = figures_html(numbers(record, models[name].kind)) if record.hidden else NOTHING_HIDDEN
    return {
        "stage": stage.picture(record, seen.config, seen.key, stroke),
        "seen": seen,
        "result": (NEXT_TO_NOTHING if silent(record, seen.config) else "") + figures,
    }


def draw(models: Models, excerpt: Excerpt | None, name: str, count: float, cluster: str, seed: float) -> Shown:
    """From the mask on, which the controls ask for."""
    current = usable(models, excerpt, name)
    mask = drawn_mask(current, models[name], count, cluster, seed)
    return show(models, current, name, mask) | {"painted": None}


def cut_and_draw(
    models: Models,
    sound: Sound,
    name: str,
    start: float,
    share: float,
    cluster: str,
    seed: float,
    painted: Tensor | None = None,
) -> Shown:
    """From the excerpt on."""
    model, config = models[name], loaded(models, name).config
    spare = max(sound.seconds - window_seconds(config), 0.0)
    start = min(max(start or 0.0, 0.0), spare)
    excerpt = analysis.excerpt(sound.at(config.audio.sample_rate), config, start)
    mask = drawn_mask(excerpt, model, hidden_count(share, excerpt), cluster, seed, painted)
    shown = show(models, excerpt, name, mask) | controls(model, excerpt, int(mask.sum()), start, spare)
    said = [BELOW.format(sound.rate / 2000)] if sound.lost(model.rate) else sound.notices_at(config.audio.sample_rate)
    return shown | ({"status": status_line(" ".join(said))} if said else {})


def count_label(model: Model, count: int, excerpt: Excerpt) -> str:
    """What the number of hidden patches is called, with the share that it is."""
    return f"Hidden {stage.PLURAL[model.kind]} ({count / excerpt.grid.count:.0%})"


def controls(model: Model, excerpt: Excerpt, count: int, start: float, spare: float) -> Shown:
    """What can be chosen for an excerpt, of which ``count`` patches are hidden and which begins at one of ``spare`` seconds."""
    import gradio as gr

    frame = model.kind == "frame"
    return {
        "excerpt": excerpt,
        "window": gr.Slider(value=round(start, 1), maximum=round(max(spare, 0.1), 1), visible=spare > 0.05),
        "hidden": gr.Slider(
            value=count,
            maximum=max(excerpt.grid.count, 2),  # a slider needs two ends
            interactive=excerpt.grid.count > 1,
            label=count_label(model, count, excerpt),
        ),
        "blocks": gr.Dropdown(
            [("single frames, at random", cluster) for cluster in CLUSTERS] if frame else list(CLUSTERS),
            interactive=not frame,
            info="A frame reaches over all mel bins." if frame else "Patches are hidden in blocks of C x C.",
        ),
        "note": f"<p>{html.escape(model.note)} {HEARS.format(*excerpt.grid.band)}</p>",
        "status": "",
    }


def take(
    models: Models, before: Sound | None, read: Callable[[], Sound], name: str, *mask: Any, start: float = 0.0
) -> Shown:
    """From a new sound on; a sound that cannot be used changes nothing but the line that says why."""
    import gradio as gr

    try:
        sound = read()
        shown = cut_and_draw(models, sound, name, start, *mask)
        return shown | {"sound": sound, "caption": sound_line(sound), "painted": None}
    except audio.AudioError as error:
        gr.Warning(str(error), title="No usable sound", duration=5)
        return {"status": status_line(str(error), kept=before is not None)}


def on_builtin(models: Models, chosen: str, before: Sound | None, *rest: Any) -> Shown:
    return take(models, before, partial(builtin_sound, chosen), *rest)


def on_arrival(models: Models, chosen: str, before: Sound | None, *rest: Any) -> Shown:
    """As the address asks, which may name a window, too: the last of the values."""
    *others, start = rest
    return take(models, before, partial(builtin_sound, chosen), *others, start=start)


def highest(models: Models) -> int:
    """The rate of a sound from which all models hear all that they can."""
    return max(model.rate for model in models.values())


def on_upload(models: Models, path: str, before: Sound | None, *rest: Any) -> Shown:
    shown = take(models, before, partial(own_sound, path, rate=highest(models)), *rest)
    return shown | {"upload": None} | ({"builtin": None} if "sound" in shown else {})


def on_record(models: Models, path: str, before: Sound | None, *rest: Any) -> Shown:
    shown = take(models, before, partial(own_sound, path, "Recording", highest(models)), *rest)
    return shown | {"microphone": None} | ({"builtin": None} if "sound" in shown else {})


def on_model(models: Models, sound: Sound | None, name: str, start: float, *mask: Any) -> Shown:
    if sound is None:
        raise refusal(FORGOTTEN)
    try:
        return cut_and_draw(models, sound, name, start, *mask)
    except audio.AudioError as error:
        return {"status": status_line(str(error))}


def on_wish(
    models: Models, wish: Wish, own: list[str] | None, sound: Sound | None, name: str, start: float, *mask: Any
) -> Shown:
    """A view has the stage show another model or sound."""
    import gradio as gr

    *drawn, painted = mask
    shown: Shown = {}
    if wish.model is not None:
        names = [*dict.fromkeys([*(own or []), wish.model])]
        public = [one for one, model in models.items() if model.public and one not in names]
        choices = [(models[one].label, one) for one in [*public, *names] if one in models]
        shown |= {"model": gr.Radio(choices, value=wish.model), "own": names}
    chosen = wish.model or name
    if wish.sound is not None:
        return shown | take(models, sound, lambda: wish.sound, chosen, *drawn, start=wish.start) | {"builtin": None}  # type: ignore[arg-type,return-value]
    return shown | on_model(models, sound, chosen, start, *drawn, painted)


def on_count(models: Models, excerpt: Excerpt | None, name: str, count: float, cluster: str, seed: float) -> Shown:
    """What the visitor chose to hide is the share of the next sound, too."""
    import gradio as gr

    shown = draw(models, excerpt, name, count, cluster, seed)
    if not (excerpt and count):
        return shown
    label = count_label(models[name], round(count), excerpt)
    return shown | {"hidden": gr.Slider(label=label), "share": count / excerpt.grid.count}


def on_another(models: Models, excerpt: Excerpt, name: str, count: float, cluster: str, number: float | None) -> Shown:
    following = (int(number or 0) + 1) % SEEDS
    return draw(models, excerpt, name, count, cluster, following) | {"seed": following}


def on_paint(models: Models, excerpt: Excerpt | None, name: str, hidden: Any, stroke: Any) -> Shown:
    """A stroke of the brush has ended: ``hidden`` are the numbers of all patches that are hidden now. Their number is that of
    the next mask, too, but for none, which cannot be asked for."""
    import gradio as gr

    current = usable(models, excerpt, name)
    mask = stage.painted_mask(hidden, current.grid)
    count = int(mask.sum())
    shown = show(models, current, name, mask, stroke if type(stroke) is int else None)
    shown["painted"] = mask.reshape(current.grid.rows, current.grid.columns)
    if not count:
        return shown
    slider = gr.Slider(value=count, label=count_label(models[name], count, current))
    return shown | {"hidden": slider, "share": count / current.grid.count}


def on_hear(models: Models, sound: Sound | None, seen: Seen | None, ceiling: Ceiling | None) -> Shown:
    """The sounds of the picture that is shown."""
    if sound is None or seen is None:
        return {}
    rate = seen.config.sample_rate
    stretch, first = stage.stretch(seen.record), round(seen.record.start * rate)
    original = sound.at(rate)[first:]
    if len(original) < seen.config.samples_of(seen.record.grid.frames):
        return {}  # another sound has come since, whose picture asks for its own
    known = ceiling.waveform if ceiling is not None and ceiling.stretch == stretch else None
    inversions = stage.inverted(seen.record, seen.config, known)
    return {
        "sounds": stage.sounds(seen.record, original, inversions, seen.key),
        "ceiling": Ceiling(stretch, inversions[2]),
    }
