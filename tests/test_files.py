"""Files are whole or not there, whatever comes between."""

import json
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ssast_lab import files
from ssast_lab.metrics import Interval


def test_text_and_bytes_are_written_and_replace_what_was_there(tmp_path):
    path = tmp_path / "new folder" / "note.txt"
    files.write(path, "frühling\n")
    assert path.read_bytes() == "frühling\n".encode()
    files.write(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert [file.name for file in path.parent.iterdir()] == ["note.txt"]


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inside").write_text("old")
    with pytest.raises(OSError, match="directory"):
        files.write(tmp_path / "taken", "new")
    assert (tmp_path / "taken" / "inside").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["taken"]
    with pytest.raises(OSError, match="exists"):
        files.write(tmp_path / "taken" / "inside" / "below.txt", "new")


def test_several_that_write_one_file_never_mix(tmp_path):
    path = tmp_path / "shared"
    texts = [str(number) * 500_000 for number in range(8)]
    files.write(path, texts[0])

    def write_and_read(text):
        files.write(path, text)
        return path.read_text() in texts

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(write_and_read, texts * 3))
    assert [file.name for file in tmp_path.iterdir()] == ["shared"]


def test_json_has_nothing_that_others_refuse():
    content = {"a": [1.5, math.nan], "b": {"c": (math.inf, -math.inf, np.float64("nan"))}, "ü": [True, None, "NaN", 3]}
    content["interval"] = Interval(0.5, math.nan, 0.75, 2)
    text = files.to_json(content, ensure_ascii=False)
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == {
        "a": [1.5, None], "b": {"c": [None, None, None]}, "ü": [True, None, "NaN", 3], "interval": [0.5, None, 0.75, 2]
    }  # fmt: skip
    assert "ü" in text
    assert math.isnan(content["a"][1])  # what is given stays as it was
