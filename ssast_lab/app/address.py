"""The page's address: which built-in sound, window, model and mask are shown. It shows them again on another machine, and never a
visitor's own sound. What only the browser knows, such as the open tab, ``static/address.js`` keeps there."""

import html
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    import gradio as gr

from ssast_lab import analysis, audio
from ssast_lab.app.handlers import Models, Shown, loaded
from ssast_lab.app.reconstruction import CLUSTERS, PAPER, SEEDS
from ssast_lab.app.sources import LONGEST_SECONDS, builtin_sound

LONGEST = 2000  # letters that are looked at
NAMED = (
    "builtin",
    "model",
    "hidden",
    "blocks",
    "seed",
    "window",
)  # the parts whose values it has, in the order of address.js


def connect(page: "gr.Blocks", parts: Any, models: Models) -> Any:
    """What the address asks for is put into the controls; returns the event after which the page can be filled."""
    import gradio as gr

    def on_address(query: str) -> Any:
        shown, unknown = asked_for(models, query)
        if unknown:
            gr.Warning(html.escape(sentence(unknown)), title="Not all of the address")
        if "window" in shown:  # the slider knows its own end only once the sound is there
            shown["window"] = gr.Slider(value=shown["window"], maximum=LONGEST_SECONDS)
        return {getattr(parts, name): value for name, value in shown.items()} or gr.skip()

    names = parts.of(*NAMED)
    shorter = f"value === {json.dumps(PAPER)} ? 'paper' : value"
    for name in NAMED:
        getattr(parts, name).change(None, names, js=f"(...all) => ssast.writeAddress(all.map((value) => {shorter}))")
    query = gr.Textbox(visible=False)
    return page.load(
        on_address, query, parts.of("builtin", "model", "blocks", "seed", "share", "window"), js="() => ssast.askedFor()",
        show_progress="hidden", api_visibility="private",
    )  # fmt: skip


def asked_for(models: Models, query: str | None) -> tuple[Shown, dict[str, str]]:
    """The values of the parts that an address names, and what of it is not known here."""
    asked = dict(parse_qsl((query or "").removeprefix("?")[:LONGEST]))
    shown: Shown = {}
    kinds: dict[str, tuple[str, Any]] = {
        "sound": ("builtin", audio.builtin_sounds()),
        "model": ("model", models),
        "cluster": ("blocks", CLUSTERS),
    }
    for key, (part, choices) in kinds.items():
        value = PAPER if asked.get(key) == "paper" else asked.get(key)
        if value in choices:
            shown[part] = value
    if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3})?", asked.get("start", "")):
        shown["window"] = min(float(asked["start"]), LONGEST_SECONDS)
    seed, hidden = whole(asked.get("seed"), 0, SEEDS - 1), None
    if seed is not None:
        shown["seed"] = seed
    if asked.get("hidden"):
        many = patches(models, shown)
        hidden = whole(asked["hidden"], 1, many)
        if hidden is not None:
            shown["share"] = hidden / many
    known = {
        "sound": "builtin",
        "model": "model",
        "cluster": "blocks",
        "seed": "seed",
        "hidden": "share",
        "start": "window",
    }
    return shown, {key: asked[key] for key, part in known.items() if key in asked and part not in shown}


def patches(models: Models, shown: Shown) -> int:
    """How many patches there are of the sound for the model."""
    sound = builtin_sound(shown.get("builtin", next(iter(audio.builtin_sounds()))))
    config = loaded(models, shown.get("model", next(iter(models)))).config
    return analysis.excerpt(sound.at(config.audio.sample_rate), config).grid.count


def whole(text: str | None, least: int, most: int) -> int | None:
    known = (
        text is not None
        and text.isascii()
        and text.isdigit()
        and len(text) <= len(str(most))
        and least <= int(text) <= most
    )
    return int(text) if known and text else None


def sentence(unknown: dict[str, str]) -> str:
    named = ", ".join(f"{key} {value[:40]}" for key, value in unknown.items())
    return f"The address asks for what is not here ({named}): the rest of it is shown."
