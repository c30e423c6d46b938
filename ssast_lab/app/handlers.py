"""What happens when something on the page is touched.

Each handler gives the new values of the parts that change, by the parts' names (:class:`ssast_lab.app.page.Parts`). What a
visitor chose stays in two states, the decoded ``sound`` and the ``excerpt`` that the model sees: moving a slider of the mask
starts from the excerpt, another model or window from the sound.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ssast_lab import analysis, audio, checkpoint, figures
from ssast_lab.analysis import Excerpt
from ssast_lab.model import SSAST

if TYPE_CHECKING:
    pass

from ssast_lab.app.reconstruction import (
    PLURAL,
    SEEDS,
    analyse,
    figures_html,
    hidden_count,
    numbers,
    playable,
    plot,
    sound_line,
    status_line,
)  # fmt: skip
from ssast_lab.app.sources import Model, Sound, builtin_sound, load_model, own_sound, window_seconds

Models = dict[str, Model]  # by name
Shown = dict[str, Any]  # name of a part -> its new value


def refusal(message: str, **more: Any) -> Exception:
    """An error that the page shows to its visitor."""
    import gradio as gr

    return gr.Error(message, print_exception=False, **more)


def loaded(models: Models, name: str) -> SSAST:
    try:
        return load_model(models[name].path)
    except checkpoint.CheckpointError as error:
        raise refusal(str(error), title="No usable model") from None


def draw(models: Models, excerpt: Excerpt | None, name: str, count: float, cluster: str, seed: float) -> Shown:
    """From the mask on."""
    if excerpt is None:
        raise refusal("This page forgot its sound in a long pause: choose one again.")
    if excerpt.grid.shape != loaded(models, name).config.patch:  # it was cut for the model before this one
        raise refusal("This sound is too short for this model: choose another of them.")
    record = analyse(excerpt, models[name], count, cluster, seed)
    return {"pictures": plot(figures.overview(record)), "result": figures_html(numbers(record, models[name].kind))}


def cut_and_draw(
    models: Models, sound: Sound, name: str, start: float, share: float, cluster: str, seed: float
) -> Shown:
    """From the excerpt on."""
    import gradio as gr

    model, config = models[name], loaded(models, name).config
    spare = max(sound.seconds - window_seconds(config), 0.0)
    start = min(max(start or 0.0, 0.0), spare)
    excerpt = analysis.excerpt(sound.waveform, config, start)
    count = hidden_count(share, excerpt)
    frame = model.kind == "frame"
    return draw(models, excerpt, name, count, cluster, seed) | {
        "excerpt": excerpt,
        "player": gr.Audio(playable(sound, start, config)),
        "window": gr.Slider(value=round(start, 1), maximum=round(max(spare, 0.1), 1), visible=spare > 0.05),
        "hidden": gr.Slider(value=count, maximum=excerpt.grid.count, label=f"Hidden {PLURAL[model.kind]}"),
        "blocks": gr.Dropdown(
            interactive=not frame,
            info="The paper hides single frames at random." if frame else "Patches are hidden in blocks of C x C.",
        ),
        "note": model.note,
        "status": "",
    }


def take(models: Models, before: Sound | None, read: Callable[[], Sound], name: str, *mask: Any) -> Shown:
    """From a new sound on; a sound that cannot be used changes nothing but the line that says why."""
    import gradio as gr

    try:
        sound = read()
        shown = cut_and_draw(models, sound, name, 0.0, *mask)
        return shown | {"sound": sound, "caption": sound_line(sound)}
    except audio.AudioError as error:
        gr.Warning(str(error), title="No usable sound", duration=5)
        return {"status": status_line(str(error), kept=before is not None)}


def on_builtin(models: Models, chosen: str, before: Sound | None, *rest: Any) -> Shown:
    return take(models, before, partial(builtin_sound, chosen), *rest)


def on_upload(models: Models, path: str, before: Sound | None, *rest: Any) -> Shown:
    shown = take(models, before, partial(own_sound, path), *rest)
    return shown | {"upload": None} | ({"builtin": None} if "sound" in shown else {})


def on_record(models: Models, path: str, before: Sound | None, *rest: Any) -> Shown:
    shown = take(models, before, partial(own_sound, path, "Recording"), *rest)
    return shown | {"microphone": None} | ({"builtin": None} if "sound" in shown else {})


def on_model(models: Models, sound: Sound | None, name: str, start: float, *mask: Any) -> Shown:
    if sound is None:
        return draw(models, None, name, *mask)
    try:
        return cut_and_draw(models, sound, name, start, *mask)
    except audio.AudioError as error:
        return {"status": status_line(str(error))}


def on_count(models: Models, excerpt: Excerpt | None, name: str, count: float, cluster: str, seed: float) -> Shown:
    """What the visitor chose to hide is the share of the next sound, too."""
    shown = draw(models, excerpt, name, count, cluster, seed)
    return shown | ({"share": count / excerpt.grid.count} if excerpt and count else {})


def on_another(models: Models, excerpt: Excerpt, name: str, count: float, cluster: str, number: float | None) -> Shown:
    following = (int(number or 0) + 1) % SEEDS
    return draw(models, excerpt, name, count, cluster, following) | {"seed": following}
