"""SSAST Lab: see, hear and train masked spectrogram models."""

__version__ = "0.1.0"
