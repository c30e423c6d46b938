"""Entries for PyTorch Hub: ``torch.hub.load("/path/to/ssast-lab", "embedder", source="local")``."""

from typing import Any

dependencies = ["torch", "torchaudio", "numpy", "scipy", "soundfile", "soxr", "av", "safetensors"]


def ssast(name: str = "tiny-patch", **official: Any) -> Any:
    """A model, as :func:`ssast_lab.load` reads it: a built-in name, a folder, a run, an official file."""
    import ssast_lab

    return ssast_lab.load(name, **official)


def embedder(name: str = "tiny-patch", **options: Any) -> Any:
    """An embedder of sounds: :class:`ssast_lab.Embedder`."""
    import ssast_lab

    return ssast_lab.Embedder(name, **options)
