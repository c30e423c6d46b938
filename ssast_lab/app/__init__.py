"""The app: one local page on which a sound is hidden in part, drawn again by a model, and compared.

page.py  the page, its handlers and its server
"""

from ssast_lab.app.page import find_models, main

__all__ = ["find_models", "main"]
