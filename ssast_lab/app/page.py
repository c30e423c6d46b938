"""The page: what lies where, and which handler answers what is touched."""

import html
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ssast_lab import audio
from ssast_lab.app import address, code, endpoints, handlers, stage
from ssast_lab.app.handlers import Models, Shown
from ssast_lab.app.reconstruction import CLUSTERS, PAPER, SHARE, status_line
from ssast_lab.app.sources import Sound
from ssast_lab.app.state import Common, Parts, Seen, told
from ssast_lab.app.views import VIEWS, lay_out_views

if TYPE_CHECKING:
    import gradio as gr


def build(common: Common) -> "gr.Blocks":
    """The page with its handlers."""
    import gradio as gr

    models = common.models
    titles = html.escape(json.dumps({view.name: view.title for view in VIEWS}))
    with gr.Blocks(title="SSAST Lab", analytics_enabled=False, delete_cache=(3600, 86400), fill_width=True) as page:
        gr.HTML(
            f'<header data-tabs="{titles}"><h1>SSAST Lab</h1>'
            "<p>Most of a sound is hidden from the model, which draws it again: compare with the keys 1 to 4, "
            "drag to hear a part, paint to hide.</p></header>",
            elem_id="header",
        )
        if models:
            parts = lay_out(common)
            connect(page, parts, models)
            endpoints.offer(models)
        else:
            gr.HTML(status_line("There is no model to look through: start the app with --models and a folder of them."))
    return page


def lay_out(common: Common) -> Parts:
    """Controls on the left, the stage and what belongs to it on the right."""
    import gradio as gr

    kept: dict[str, Any] = {
        name: gr.State(None, time_to_live=7200) for name in ("sound", "excerpt", "painted", "seen", "own", "ceiling")
    }
    with gr.Row(equal_height=False, elem_id="columns"):
        with gr.Column(scale=0, min_width=300, elem_id="controls"):
            controls = lay_out_sound() | lay_out_model(common.models) | lay_out_mask()
        with gr.Column(scale=1, min_width=320, elem_id="main"):
            caption = gr.HTML("", elem_id="caption")
            canvas, sounds, lines = stage.lay_out()
            result = gr.HTML("", elem_id="figures")
            shown: dict[str, Any] = dict(caption=caption, stage=canvas, sounds=sounds, code=lines, result=result)
            parts = Parts(**kept, **controls, **shown, share=gr.State(SHARE))
            lay_out_views(parts, common)
    return parts


def lay_out_sound() -> dict[str, Any]:
    import gradio as gr

    sounds = audio.builtin_sounds()
    return dict(
        builtin=gr.Dropdown(
            [(f"{entry['title']} ({entry['seconds']:.0f} s)", name) for name, entry in sounds.items()],
            value=next(iter(sounds)), label="Built-in sound", elem_id="builtin",
        ),
        upload=gr.File(label="Your own sound", type="filepath", height=56, show_label=False, elem_id="upload"),
        microphone=gr.Audio(
            sources=["microphone"], type="filepath", format="wav", label="Or record one", elem_id="mic", buttons=[],
            waveform_options=gr.WaveformOptions(show_recording_waveform=False),
        ),
        status=gr.HTML("", elem_id="status"),
        window=gr.Slider(
            0, 1, 0, step=0.1, label="Window from (seconds)", visible=False, buttons=[], elem_id="window"
        ),
    )  # fmt: skip


def lay_out_model(models: Models) -> dict[str, Any]:
    import gradio as gr

    choices = [(model.label, name) for name, model in models.items()]
    model = gr.Radio(choices, value=next(iter(models)), label="Model", elem_id="model")
    note = gr.HTML("", elem_id="note")
    missing = {"patch", "frame"} - {model.kind for model in models.values()}
    if missing:
        gr.Markdown(f"There is no {missing.pop()} model here; `--models` adds a folder of them.")
    return dict(model=model, note=note)


def lay_out_mask() -> dict[str, Any]:
    import gradio as gr

    hidden = gr.Slider(1, 512, 400, step=1, label="Hidden patches", buttons=[], elem_id="count")
    blocks = gr.Dropdown(list(CLUSTERS), value=PAPER, label="Cluster factor C", elem_id="cluster")
    with gr.Row(equal_height=True):
        seed = gr.Number(0, label="Seed", precision=0, min_width=90, elem_id="seed")
        another = gr.Button("Another mask", size="md", min_width=110, elem_id="another")
    return dict(hidden=hidden, blocks=blocks, seed=seed, another=another)


def connect(page: "gr.Blocks", parts: Parts, models: Models) -> None:
    """Which handler answers what, and which parts each may change."""
    import gradio as gr

    def answered(handler: Callable[..., Shown], *outputs: str) -> dict[str, Any]:
        def by_part(*values: Any) -> dict[Any, Any]:
            shown = handler(models, *values)
            return {getattr(parts, name): value for name, value in shown.items() if name in outputs} or gr.skip()

        return dict(fn=by_part, outputs=parts.of(*outputs))

    from_excerpt = parts.of("excerpt", "model", "hidden", "blocks", "seed")
    from_sound = parts.of("sound", "model", "window", "share", "blocks", "seed", "painted")
    shown, with_excerpt, with_model, with_sound = (
        handlers.SHOWN, handlers.WITH_EXCERPT, handlers.WITH_MODEL, handlers.WITH_SOUND,
    )  # fmt: skip
    model_event: dict[str, Any] = dict(concurrency_id="model", concurrency_limit=1, api_visibility="private")
    live: dict[str, Any] = dict(trigger_mode="always_last", show_progress="hidden", **model_event)
    slow: dict[str, Any] = dict(show_progress="minimal", show_progress_on=parts.caption, **model_event)

    def new_sound(source: Any, handler: Callable[..., Shown], *more: str) -> dict[str, Any]:
        inputs = [source, *parts.of("sound", "model", "share", "blocks", "seed")]
        return dict(inputs=inputs, **answered(handler, *with_sound, *more), **slow)

    arrival = new_sound(parts.builtin, handlers.on_arrival)
    arrival["inputs"].append(parts.window)
    address.connect(page, parts, models).then(**arrival)
    parts.builtin.input(**new_sound(parts.builtin, handlers.on_builtin))
    parts.upload.upload(**new_sound(parts.upload, handlers.on_upload, "upload", "builtin"))
    parts.microphone.stop_recording(**new_sound(parts.microphone, handlers.on_record, "microphone", "builtin"))
    parts.model.input(inputs=from_sound, **answered(handlers.on_model, *with_model), **live)
    parts.window.input(
        inputs=from_sound, js="(...all) => withinRange('#window', 2, all)",
        **answered(handlers.on_model, *with_excerpt), **live,
    )  # fmt: skip
    parts.hidden.input(
        inputs=from_excerpt, js="(...all) => withinRange('#count', 2, all)",
        **answered(handlers.on_count, *shown, "hidden", "share", "painted"), **live,
    )  # fmt: skip
    for changed in (parts.blocks.input, parts.seed.input):
        changed(inputs=from_excerpt, **answered(handlers.draw, *shown, "painted"), **live)
    parts.another.click(inputs=from_excerpt, **answered(handlers.on_another, "seed", *shown, "painted"), **live)
    connect_stage(parts, answered, model_event)
    connect_code(parts, models)


def connect_stage(parts: Parts, answered: Callable[..., dict[str, Any]], model_event: dict[str, Any]) -> None:
    """What the stage asks for."""
    import gradio as gr

    painted = answered(handlers.on_paint, "stage", "seen", "result", "painted", "hidden", "share")
    by_part = painted.pop("fn")

    def on_paint(excerpt: Any, name: str, event: gr.EventData) -> dict[Any, Any]:
        return by_part(excerpt, name, told(event, "hidden"), told(event, "stroke"))

    # Every stroke is answered in its turn: an event that is put off forgets what it was told.
    parts.stage.paint(
        on_paint,
        parts.of("excerpt", "model"),
        **painted,
        trigger_mode="multiple",
        show_progress="hidden",
        **model_event,
    )
    parts.stage.hear(
        inputs=parts.of("sound", "seen", "ceiling"), **answered(handlers.on_hear, "sounds", "ceiling"),
        trigger_mode="always_last", show_progress="hidden", concurrency_id="sounds", concurrency_limit=1, api_visibility="private",
    )  # fmt: skip


def connect_code(parts: Parts, models: Models) -> None:
    """The lines of Python that make what is shown."""
    import gradio as gr

    views = {view.name: view.code for view in VIEWS}

    def on_code(seen: Seen | None, sound: Sound | None, cluster: str, seed: float | None, event: gr.EventData) -> Shown:
        if seen is None or sound is None:
            raise handlers.refusal(handlers.FORGOTTEN)
        name = next((name for name, model in models.items() if model == seen.model), seen.model.path.name)
        more = views.get(str(told(event, "tab")), "")
        return {"lines": code.lines(seen, name, sound, cluster, seed, more), "ticket": told(event, "ticket")}

    parts.stage.code(
        on_code,
        parts.of("seen", "sound", "blocks", "seed"),
        [parts.code],
        trigger_mode="multiple",
        show_progress="hidden",
        queue=False,  # answered at once, whatever the models are busy with
        api_visibility="private",
    )
