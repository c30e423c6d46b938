"""Pictures that are drawn without a browser."""

import importlib
import io

import numpy as np
import pytest
from PIL import Image, ImageFont

still = importlib.import_module("ssast_lab.figures.still")  # the package has a function of this name


def drawn(label: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(still.confusion((label, "b"), np.array([[1, 2], [0, 3]])))))


@pytest.mark.parametrize("installed", [True, False], ids=["a font", "no font"])
def test_names_with_marks_can_be_read(installed, monkeypatch):
    """By a font of the machine, or without their marks; letters that cannot be drawn would all look the same."""
    if not installed:
        monkeypatch.setattr(still, "FONTS", ("there-is-none.ttf",))
    names, font = still._written(("Käuze", "été", "b"), 24)
    if isinstance(font, ImageFont.FreeTypeFont) and font.getname()[0] != "Aileron":
        assert names == ["Käuze", "été", "b"]
        letters = [font.getmask(letter).getbbox() and bytes(font.getmask(letter)) for letter in "äéß"]
        assert len(set(letters)) == 3
    else:
        assert names == ["Kauze", "ete", "b"]
        assert np.array_equal(drawn("Käuze"), drawn("Kauze"))
    assert not np.array_equal(drawn("Käuze"), drawn("Keuze"))


def test_other_letters_are_question_marks_where_no_font_has_them(monkeypatch):
    monkeypatch.setattr(still, "FONTS", ())
    assert still._written(("鳥",), 24)[0] == ["?"]
