"""The Python lines that make what the page shows."""

import json
import textwrap

import torch

from ssast_lab import audio, checkpoint
from ssast_lab.app.reconstruction import CLUSTERS, OFFICIAL, SEEDS, draw
from ssast_lab.app.sources import LONGEST_SECONDS, Sound
from ssast_lab.app.state import Seen

MODULES = ("analysis", "audio", "figures", "masking")  # in the order in which they are imported
YOURS = "your.wav"  # stands for a recording, which has no name
RECONSTRUCT = """
record = ssast_lab.reconstruct(model, excerpt.fbank, mask, excerpt.start)
found = f"accuracy {record.accuracy:.1%} of {record.hidden} hidden patches, InfoNCE {record.nce:.2f} nats"
print(f"MSE {record.mse:.3f}, {found}")
figure = figures.reconstruction(record)  # figure.show() opens it, figure.write_html("view.html") keeps it
"""


def lines(seen: Seen, name: str, sound: Sound, cluster: str, seed: float | None, view: str) -> str:
    """The lines, which run as they stand where the sound and the model are: ``name`` is the model's, ``view`` what the open tab
    adds to them (:class:`ssast_lab.app.views.view.View`)."""
    number = int(seed or 0) % SEEDS
    body = [
        load(name),
        hear(sound, seen.config.sample_rate),
        f"excerpt = ssast_lab.excerpt(wave, model.config, {seen.record.start!r})  # its log-mel and its grid of patches",
        hide(seen, cluster, number),
    ]
    if seen.record.hidden:
        body += [RECONSTRUCT.strip(), "", view.strip().replace("SEED", str(number))]
    text = "\n".join(body).strip() + "\n"
    return imports(text) + "\n" + text


def imports(text: str) -> str:
    """What the lines use."""
    used = [module for module in MODULES if f"{module}." in text.replace(f"ssast_lab.{module}.", "")]
    return (
        ("import torch\n\n" if "torch." in text else "")
        + "import ssast_lab\n"
        + (f"from ssast_lab import {', '.join(used)}\n" if used else "")
        + ("from ssast_lab.config import MaskConfig\n" if "MaskConfig" in text else "")
    )


def load(name: str) -> str:
    where = "" if name in checkpoint.builtin_models() else "  # the folder of this model"
    return f"model = ssast_lab.load({json.dumps(name)}){where}"


def hear(sound: Sound, rate: int) -> str:
    to = "" if rate == audio.SAMPLE_RATE else f", to_rate={rate}"
    said = f"  # (S,) float32, mono, {rate / 1000:g} kHz"
    if sound.builtin:
        return f'wave = ssast_lab.load_waveform(audio.builtin_sounds()["{sound.builtin}"]["path"]{to}){said}'
    most = f", duration={LONGEST_SECONDS}" if sound.seconds >= LONGEST_SECONDS else ""
    return f"wave = ssast_lab.load_waveform({json.dumps(sound.file or YOURS, ensure_ascii=False)}{most}{to}){said}"


def hide(seen: Seen, cluster: str, seed: int) -> str:
    """The mask as the controls drew it; or, where it was painted, patch by patch."""
    grid, count = seen.record.grid, seen.record.hidden
    said = "  # (N,) bool, True = hidden"
    if count and torch.equal(draw(grid, cluster, count, seed), seen.mask):
        if cluster == OFFICIAL and grid.rows > 1:
            generator = f"torch.Generator().manual_seed({seed})"
            return f"mask = masking.official_mask(excerpt.grid, {count}, generator={generator}){said}"
        blocks = CLUSTERS[cluster] if grid.rows > 1 else None
        return f"mask = ssast_lab.draw_mask(excerpt, MaskConfig({count}, {blocks}), seed={seed}){said}"
    nothing = f"mask = torch.zeros(excerpt.grid.count, dtype=torch.bool){said}"
    if not count:
        return nothing
    patches = ", ".join(map(str, seen.mask.nonzero()[:, 0].tolist()))
    listed = textwrap.fill(patches, 116, initial_indent="    ", subsequent_indent="    ")
    return f"{nothing}\nmask[[\n{listed}\n]] = True"
