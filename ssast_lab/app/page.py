"""The app: one local page on which a sound is hidden in part, drawn again by a model, and compared.

Handlers are small functions over ``analysis`` and ``figures``. What a visitor chose stays in two states, the decoded sound and
the excerpt that the model sees; moving a slider of the mask starts from the excerpt, another model or window from the sound.
"""

import argparse
import hmac
import html
import ipaddress
import math
import os
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ssast_lab import analysis, audio, checkpoint, figures
from ssast_lab.analysis import Excerpt, Reconstruction
from ssast_lab.config import MaskConfig, ModelConfig
from ssast_lab.model import SSAST

if TYPE_CHECKING:
    import gradio as gr
    import plotly.graph_objects as go
    from gradio.components.plot import PlotData

LONGEST = 600  # seconds that are decoded of a sound: 38 MB for each visitor
VISITORS = 64  # whose sounds are remembered at once
LARGEST = "50mb"  # of an upload
SHARE = 400 / 512  # of the patches are hidden at first, as in the paper
PAPER = "3 to 5 (paper)"
PLURAL = {"patch": "patches", "frame": "frames"}
CLUSTERS = {PAPER: (3, 5)} | {str(size): (size, size) for size in range(1, 9)}
SEEDS = 2**31
STATIC = Path(__file__).parent / "static"


@dataclass(frozen=True)
class Model:
    """A pretraining model that can be chosen on the page."""

    path: Path
    kind: str  # "patch" or "frame"
    label: str
    note: str  # what its maker says of it


@dataclass(frozen=True)
class Sound:
    """A decoded sound and what is said of it."""

    title: str
    about: str
    waveform: Tensor  # (S,) at 16 kHz

    @property
    def seconds(self) -> float:
        return len(self.waveform) / audio.SAMPLE_RATE


# --- what can be chosen ---------------------------------------------------------------------------------------------


def find_models(folders: Sequence[Path] = ()) -> dict[str, Model]:
    """Name -> model of every pretraining checkpoint that is built in or lies in one of the folders, patch models first."""
    paths = dict(checkpoint.builtin_models())
    for folder in folders:
        found = [path.parent for path in (folder / checkpoint.CONFIG, *sorted(folder.glob(f"*/{checkpoint.CONFIG}")))]
        paths |= {path.name: path for path in found if (path / checkpoint.CONFIG).is_file()}
    models = {}
    for name, path in paths.items():
        try:
            description = checkpoint.describe(path)
        except checkpoint.CheckpointError as error:
            print(f"Left out: {error}")
            continue
        if description["kind"] == "pretext":
            about, shape = description["about"], description["model"]
            kind = "frame" if shape["patch"][0] == shape["audio"]["mel_bins"] else "patch"
            label = f"{about.get('title', name)}{' (stop-gap)' if about.get('stop_gap') else ''}"
            models[name] = Model(path, kind, label, str(about.get("note", "")))
    return dict(sorted(models.items(), key=lambda item: item[1].kind, reverse=True))


@lru_cache(maxsize=4)
def load_model(path: Path) -> SSAST:
    return checkpoint.load(path)  # type: ignore[return-value]


def builtin_sound(name: str) -> Sound:
    entry = audio.builtin_sounds()[name]
    return Sound(entry["title"], f"{entry['author']}, {entry['licence']}", audio.load_waveform(entry["path"]))


def own_sound(path: str, title: str | None = None) -> Sound:
    """A visitor's file, or at most its first ten minutes; an error names the file as the visitor does."""
    name = title or Path(path).name
    try:
        waveform = audio.load_waveform(path, duration=LONGEST)
    except audio.AudioError as error:
        raise audio.AudioError(str(error).replace(str(path), name)) from None
    whole = len(waveform) < LONGEST * audio.SAMPLE_RATE
    return Sound(name, "your sound" if whole else f"your sound, the first {LONGEST // 60} minutes of it", waveform)


def window_seconds(config: ModelConfig) -> float:
    """How much sound a model sees at once."""
    return audio.samples_of(config.frames) / audio.SAMPLE_RATE


def hidden_count(portion: float, now: Excerpt) -> int:
    """How many patches make up a share of an excerpt's, and at least one."""
    return min(max(round(portion * now.grid.count), 1), now.grid.count)


def analyse(piece: Excerpt, model: Model, count: float | None, cluster: str, seed: float | None) -> Reconstruction:
    """Mask and model on an excerpt that is already there."""
    room = piece.grid.count
    blocks = None if model.kind == "frame" else CLUSTERS[cluster]
    mask = analysis.draw_mask(piece, MaskConfig(min(max(round(count or 1), 1), room), blocks), int(seed or 0) % SEEDS)
    return analysis.reconstruct(load_model(model.path), piece.fbank, mask, piece.start)


# --- what is shown --------------------------------------------------------------------------------------------------


def numbers(record: Reconstruction, kind: str) -> dict[str, Any]:
    """The figures of a reconstruction as plain JSON."""
    return {
        "mse": record.mse,
        "mse_of_visible_mean": record.baseline,
        "accuracy": record.accuracy,
        "chance": record.chance,
        "info_nce": record.nce,
        "info_nce_of_guessing": math.log(record.hidden),
        "hidden": record.hidden,
        "patches": record.grid.count,
        "kind": kind,
        "seconds": [record.start, record.start + record.grid.frames * audio.HOP / audio.SAMPLE_RATE],
    }


def figures_html(values: dict[str, Any]) -> str:
    """The four figures, each beside what it has to be compared with."""
    hidden = values["hidden"]
    right = round(values["accuracy"] * hidden)
    cards = (
        ("mse", "Reconstruction MSE", f"{values['mse']:.3f}", f"{values['mse_of_visible_mean']:.3f} for filling in "
         "the visible mean of each mel bin"),
        ("accuracy", "InfoNCE accuracy", f"{values['accuracy']:.1%}", f"{right} of {hidden} recognised; guessing: "
         f"{values['chance']:.2%}"),
        ("nce", "InfoNCE loss", f"{values['info_nce']:.2f} nats", f"guessing: {values['info_nce_of_guessing']:.2f}"),
        ("hidden", f"Hidden {PLURAL[values['kind']]}", f"{hidden}",
         f"of {values['patches']} ({hidden / values['patches']:.0%})"),
    )  # fmt: skip
    return '<dl class="figures">' + "".join(
        f'<div id="{key}"><dt>{title}</dt><dd>{value}</dd><dd class="beside">{beside}</dd></div>'
        for key, title, value, beside in cards
    ) + "</dl>"  # fmt: skip


def plot(figure: "go.Figure") -> "PlotData":
    """The figure with its tool bar; a double click shows the whole sound again."""
    from gradio.components.plot import PlotData
    from plotly.io.json import to_json_plotly

    tools = dict(displaylogo=False, doubleClick="reset", showTips=False)
    return PlotData(type="plotly", plot=to_json_plotly(figure.to_dict() | {"config": tools}))


def playable(sound: Sound, start: float, config: ModelConfig) -> tuple[int, np.ndarray]:
    """The excerpt as 16-bit samples for the player."""
    first = round(start * audio.SAMPLE_RATE)
    cut = sound.waveform[first : first + audio.samples_of(config.frames)]
    return audio.SAMPLE_RATE, (cut.clamp(-1, 1) * 32767).to(torch.int16).numpy()


def sound_line(sound: Sound) -> str:
    return (
        f'<p class="sound"><b>{html.escape(sound.title)}</b> <span>{sound.seconds:.1f} s, '
        f"{html.escape(sound.about)}</span></p>"
    )


def status_line(message: str = "", kept: bool = False) -> str:
    rest = " The earlier sound is still shown." if message and kept else ""
    return f'<p class="trouble" role="alert">{html.escape(message + rest)}</p>' if message else ""


# --- the page -------------------------------------------------------------------------------------------------------


def build(models: dict[str, Model]) -> "gr.Blocks":
    """The page with its handlers."""
    import gradio as gr

    sounds = audio.builtin_sounds()
    first_sound, first_model = next(iter(sounds)), next(iter(models), None)

    def loaded(name: str) -> SSAST:
        try:
            return load_model(models[name].path)
        except checkpoint.CheckpointError as error:
            raise gr.Error(str(error), title="No usable model", print_exception=False) from None

    def draw(now: Excerpt | None, name: str, count: float, cluster: str, seed: float) -> dict:
        """From the mask on."""
        if now is None:
            raise gr.Error("This page forgot its sound in a long pause: choose one again.", print_exception=False)
        if now.grid.shape != loaded(name).config.patch:  # it was cut for the model before this one
            raise gr.Error("This sound is too short for this model: choose another of them.", print_exception=False)
        record = analyse(now, models[name], count, cluster, seed)
        values = numbers(record, models[name].kind)
        return {pictures: plot(figures.overview(record)), result: figures_html(values)}

    def look(heard: Sound, name: str, at: float, portion: float, cluster: str, seed: float) -> dict:
        """From the excerpt on."""
        model, config = models[name], loaded(name).config
        spare = heard.seconds - window_seconds(config)
        at = min(max(at or 0.0, 0.0), max(spare, 0.0))
        now = analysis.excerpt(heard.waveform, config, at)
        count = hidden_count(portion, now)
        frame = model.kind == "frame"
        return draw(now, name, count, cluster, seed) | {
            piece: now,
            player: gr.Audio(playable(heard, at, config)),
            window: gr.Slider(value=round(at, 1), maximum=round(max(spare, 0.1), 1), visible=spare > 0.05),
            hidden: gr.Slider(value=count, maximum=now.grid.count, label=f"Hidden {PLURAL[model.kind]}"),
            blocks: gr.Dropdown(
                interactive=not frame,
                info="The paper hides single frames at random." if frame else "Patches are hidden in blocks of C x C.",
            ),
            note: model.note,
            status: "",
        }

    def listen(heard: Sound | None, get: Any, name: str, *rest: Any) -> dict:
        """From a new sound on; a sound that cannot be used changes nothing but the line that says why."""
        try:
            new = get()
            return look(new, name, 0.0, *rest) | {sound: new, caption: sound_line(new)}
        except audio.AudioError as error:
            gr.Warning(str(error), title="No usable sound", duration=5)
            return {status: status_line(str(error), kept=heard is not None)}

    def on_builtin(name: str, heard: Sound | None, *rest: Any) -> dict:
        return listen(heard, lambda: builtin_sound(name), *rest)

    def on_upload(path: str, heard: Sound | None, *rest: Any) -> dict:
        shown = listen(heard, lambda: own_sound(path), *rest)
        return shown | {upload: None} | ({picked: None} if sound in shown else {})

    def on_record(path: str, heard: Sound | None, *rest: Any) -> dict:
        shown = listen(heard, lambda: own_sound(path, "Recording"), *rest)
        return shown | {mic: None} | ({picked: None} if sound in shown else {})

    def on_model(heard: Sound | None, name: str, at: float, *rest: Any) -> dict:
        if heard is None:
            return draw(None, name, *rest)
        try:
            return look(heard, name, at, *rest)
        except audio.AudioError as error:
            return {status: status_line(str(error))}

    def on_window(*everything: Any) -> dict:
        """As for another model, but the slider in the visitor's hand is left alone, and so are those of the mask."""
        return {part: value for part, value in on_model(*everything).items() if part in window_moves}

    def on_count(now: Excerpt | None, name: str, count: float, cluster: str, seed: float) -> dict:
        """What the visitor chose to hide is the share of the next sound, too."""
        shown = draw(now, name, count, cluster, seed)
        return shown | ({portion: count / now.grid.count} if now and count else {})

    def on_another(now: Excerpt, name: str, count: float, cluster: str, number: float | None) -> dict:
        following = (int(number or 0) + 1) % SEEDS
        return draw(now, name, count, cluster, following) | {seed: following}

    def reconstruct(
        file: str | None, builtin: str, model: str, start: float, hidden: float, cluster: str, seed: float
    ) -> dict[str, Any]:
        """Hides patches of a sound and lets a model draw and recognise them: the figures as JSON.

        ``file`` is a sound file, or None for the built-in one named ``builtin``; ``start`` is in seconds; ``hidden`` is a
        number of patches, or of frames for a frame model.
        """
        try:
            wave = (own_sound(file) if file else builtin_sound(builtin)).waveform
            now = analysis.excerpt(wave, loaded(model).config, start)
        except audio.AudioError as error:
            raise gr.Error(str(error)) from None
        return numbers(analyse(now, models[model], hidden, cluster, seed), models[model].kind)

    with gr.Blocks(title="SSAST Lab", analytics_enabled=False, delete_cache=(3600, 86400), fill_width=True) as page:
        sound, piece = gr.State(None, time_to_live=7200), gr.State(None, time_to_live=7200)
        portion = gr.State(SHARE)
        gr.HTML(
            "<header><h1>SSAST Lab</h1><p>Most of a sound is hidden from the model: compare the third picture, all that it "
            "was given, with the fourth, what it made of it. Hover over a patch to read whether it was recognised; drag to "
            "zoom, double-click to go back.</p></header>",
            elem_id="header",
        )
        if not models:
            gr.HTML(status_line("There is no model to look through: start the app with --models and a folder of them."))
            return page
        with gr.Row(equal_height=False):
            with gr.Column(scale=0, min_width=300, elem_id="controls"):
                picked = gr.Dropdown(
                    [(f"{entry['title']} ({entry['seconds']:.0f} s)", name) for name, entry in sounds.items()],
                    value=first_sound, label="Built-in sound", elem_id="builtin",
                )  # fmt: skip
                upload = gr.File(label="Your own sound", type="filepath", height=56, show_label=False, elem_id="upload")
                mic = gr.Audio(sources=["microphone"], type="filepath", format="wav", label="Or record one", elem_id="mic",
                               buttons=[], waveform_options=gr.WaveformOptions(show_recording_waveform=False))  # fmt: skip
                status = gr.HTML("", elem_id="status")
                window = gr.Slider(0, 1, 0, step=0.1, label="Window from (seconds)", visible=False, buttons=[],
                                   elem_id="window")  # fmt: skip
                chosen = gr.Radio(
                    [(model.label, name) for name, model in models.items()], value=first_model, label="Model",
                    elem_id="model",
                )  # fmt: skip
                note = gr.Markdown("", elem_id="note")
                missing = {"patch", "frame"} - {model.kind for model in models.values()}
                if missing:
                    gr.Markdown(f"There is no {missing.pop()} model here; `--models` adds a folder of them.")
                hidden = gr.Slider(1, 512, 400, step=1, label="Hidden patches", buttons=[], elem_id="count")
                blocks = gr.Dropdown(list(CLUSTERS), value=PAPER, label="Cluster factor C", elem_id="cluster")
                with gr.Row(equal_height=True):
                    seed = gr.Number(0, label="Seed", precision=0, min_width=90,
                                     elem_id="seed")  # fmt: skip
                    another = gr.Button("Another mask", size="md", min_width=110, elem_id="another")
            with gr.Column(scale=1, min_width=640):
                with gr.Row(equal_height=False):
                    with gr.Column(scale=3, min_width=300):
                        caption = gr.HTML("", elem_id="caption")
                    with gr.Column(scale=2, min_width=300):
                        player = gr.Audio(
                            label="The window that is shown", show_label=False, interactive=False, elem_id="player",
                            buttons=[], waveform_options=gr.WaveformOptions(show_recording_waveform=False),
                        )  # fmt: skip
                result = gr.HTML("", elem_id="figures")
                pictures = gr.Plot(
                    plot(figures.blank()), label="Pictures", show_label=False, container=False, elem_id="pictures"
                )
        json, builtin_name, start_at, file = (
            gr.JSON(label="Figures", visible=False),
            gr.Dropdown(list(sounds), value=first_sound, label="Built-in sound", visible=False),
            gr.Number(0, minimum=0, label="Start (seconds)", visible=False),
            gr.File(label="Sound file, or none for the built-in sound", visible=False),
        )  # fmt: skip

        mask = [hidden, blocks, seed]
        same_share = [portion, blocks, seed]
        seen = [pictures, result]
        window_moves = [piece, player, status, *seen]
        cut = [window, hidden, blocks, note, *window_moves]
        heard = [sound, caption, *cut]
        model_event: dict[str, Any] = dict(concurrency_id="model", concurrency_limit=1, api_visibility="private")
        live: dict[str, Any] = dict(trigger_mode="always_last", show_progress="hidden", **model_event)
        new: dict[str, Any] = dict(
            inputs=[sound, chosen, *same_share], show_progress="minimal", show_progress_on=caption, **model_event
        )

        def for_sound(source: Any) -> dict[str, Any]:
            return new | dict(inputs=[source, *new["inputs"]])

        page.load(on_builtin, outputs=heard, **for_sound(picked))
        picked.input(on_builtin, outputs=heard, **for_sound(picked))
        upload.upload(on_upload, outputs=[*heard, upload, picked], **for_sound(upload))
        mic.stop_recording(on_record, outputs=[*heard, mic, picked], **for_sound(mic))
        chosen.input(on_model, [sound, chosen, window, *same_share], cut, **live)
        window.input(on_window, [sound, chosen, window, *same_share], window_moves,
                     js="(...all) => withinRange('#window', 2, all)", **live)  # fmt: skip
        hidden.input(
            on_count, [piece, chosen, *mask], [*seen, portion], js="(...all) => withinRange('#count', 2, all)", **live
        )
        for changed in (blocks.input, seed.input):
            changed(draw, [piece, chosen, *mask], seen, **live)
        another.click(on_another, [piece, chosen, *mask], [seed, *seen], **live)
        gr.Button(visible=False).click(
            reconstruct, [file, builtin_name, chosen, start_at, hidden, blocks, seed], json, api_name="reconstruct",
            concurrency_id="model",
        )  # fmt: skip
    return page


def launch(page: "gr.Blocks", host: str, port: int, password: str | None) -> None:
    """Serves the page until interrupted, to nobody but who is allowed to see it, and sends nothing anywhere."""
    import gradio as gr

    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"]
    theme = gr.themes.Base(
        primary_hue="teal", neutral_hue="gray", radius_size="sm", spacing_size="sm", text_size="md", font=fonts,
        font_mono=["ui-monospace", "DejaVu Sans Mono", "monospace"],
    )  # fmt: skip
    page.queue(max_size=64, default_concurrency_limit=4).launch(
        server_name=host, server_port=port, share=False, ssr_mode=False, max_file_size=LARGEST, run_history=False,
        enable_monitoring=False, show_error=False, strict_cors=True, allowed_paths=[], footer_links=[], theme=theme,
        state_session_capacity=VISITORS, css_paths=STATIC / "app.css",
        head=f"<script>{(STATIC / 'app.js').read_text(encoding='utf-8')}</script>", quiet=True, prevent_thread_lock=True,
        auth=(lambda user, given: hmac.compare_digest(given.encode(), password.encode())) if password else None,
    )  # fmt: skip
    print(f"SSAST Lab is at http://{host}:{port} (Ctrl-C ends it)", flush=True)
    page.block_thread()


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="app.py", description="SSAST Lab: masked spectrogram models on your own sounds."
    )
    parser.add_argument("--host", default="127.0.0.1", help="another address than this machine's needs a password")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--password", help="asked of every visitor, with any user name")
    parser.add_argument("--models", type=Path, action="append", default=[], metavar="DIR",
                        help="a checkpoint folder, or a folder of them; may be given again")  # fmt: skip
    options = parser.parse_args(arguments)
    if not is_loopback(options.host) and not options.password:
        parser.error(f"--host {options.host} lets other machines in: choose a --password as well.")
    for folder in options.models:
        if not folder.is_dir():
            parser.error(f"--models {folder} is no folder.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="ssast-lab-") as folder:  # uploads and players' files; nobody else reads it
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": folder}
        launch(build(find_models(options.models)), options.host, options.port, options.password)
