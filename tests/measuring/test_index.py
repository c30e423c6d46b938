"""An index of a library finds what comparing all windows finds, and is never one of another library."""

import shutil
import sys

import numpy as np
import pytest

from ssast_lab import audio
from ssast_lab.__main__ import main
from ssast_lab.measuring import library
from ssast_lab.measuring.library import LibraryError, near, read
from ssast_lab.measuring.points import nearest

SOUNDS = {name: sound["path"] for name, sound in audio.builtin_sounds().items()}


@pytest.fixture
def recordings(tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    for path in SOUNDS.values():
        shutil.copy(path, folder)
    main(["embed", "tiny-patch", str(folder), "--out", str(tmp_path / "x.npz"), "--seconds", "1", "--hop", "0.32"])
    return tmp_path / "x.npz"


@pytest.fixture
def made():
    """A function that makes and opens indexes; what needs it is skipped where Faiss is missing."""
    pytest.importorskip("faiss")
    from ssast_lab.measuring.index import Index

    return Index


def written(path, values):
    """A library of some embeddings, (W, D)."""
    windows = len(values)
    chunk = {"seconds": np.stack([np.arange(windows), np.arange(windows) + 1], 1).astype(float), "embeddings": values}
    about = {"format": library.FORMAT, "width": values.shape[1], "windows": windows}
    write = library._write_npz if path.suffix == ".npz" else library._write_parquet
    write(path, iter([([f"{number // 50}.flac" for number in range(windows)], chunk)]), about)
    return path


def clustered(windows, seed=0, width=16):
    random = np.random.default_rng(seed)
    places = random.normal(size=(300, width))
    return (places[random.integers(0, 300, windows)] + 0.3 * random.normal(size=(windows, width))).astype(np.float32)


def test_the_command_finds_the_same_with_an_index(recordings, made, capsys):
    asked = ["near", "tiny-patch", str(recordings), str(SOUNDS["tabla"]), "--start", "3.2", "--end", "4.24"]
    main(asked)
    exact = capsys.readouterr().out.splitlines()
    for lines in (["Made: "], []):
        main([*asked, "--index"])
        said = capsys.readouterr().out.splitlines()
        assert [line[:6] for line in said[: len(lines)]] == lines
        assert said[len(lines) :] == exact
    folder = recordings.with_name("x.npz.index")
    assert sorted(path.name for path in folder.iterdir()) == ["about.json", "cells.faiss"]
    assert sorted(path.name for path in recordings.parent.iterdir()) == ["recordings", "x.npz", "x.npz.index"]


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_nearly_all_of_the_nearest_are_found_in_a_part_of_the_cells(made, tmp_path, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    values = clustered(20_000)
    index = made(written(tmp_path / f"x.{kind}", values))
    assert (index.made, index.cells) == (True, 141)
    shares = []
    for query in clustered(100, seed=1):
        wanted, cosines = nearest(values, query)
        numbers, scores = index.nearest(query)
        assert len(numbers) == 10
        assert (np.diff(scores) <= 0).all()
        shares.append(np.isin(wanted, numbers).mean())
        np.testing.assert_allclose(scores[0], cosines[0], atol=1e-5)
    assert np.mean(shares) > 0.95
    exact, few = near(read(index.path), values[7], 3), index.near(values[7], 3)
    assert [(one.file, one.start, one.end) for one in few] == [(one.file, one.start, one.end) for one in exact]


def test_an_index_is_kept_until_the_library_changes(made, tmp_path):
    path = written(tmp_path / "x.npz", clustered(2000))
    assert made(path).made
    assert not made(path).made
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("x.npz", "x.npz.index"):
        (tmp_path / name).rename(moved / name)
    assert not made(moved / "x.npz").made
    values = clustered(2000)
    values[5] += 1e-3
    index = made(written(moved / "x.npz", values))
    assert index.made
    assert index.nearest(values[5], 1)[0].tolist() == [5]
    assert not made(moved / "x.npz").made


@pytest.mark.parametrize("name", ["about.json", "cells.faiss"])
def test_a_damaged_index_is_made_anew(made, tmp_path, name):
    path = written(tmp_path / "x.npz", clustered(500))
    made(path)
    file = tmp_path / "x.npz.index" / name
    file.write_bytes(file.read_bytes()[:-100])
    index = made(path)
    assert index.made
    assert len(index.near(clustered(1)[0], 10)) == 10
    assert not made(path).made


@pytest.mark.parametrize("windows", [1, 3, 60])
def test_a_few_windows_have_an_index_too(made, tmp_path, windows, capfd):
    values = clustered(windows)
    index = made(written(tmp_path / "x.npz", values))
    assert len(index.near(values[0], 10)) == min(windows, 10)
    assert capfd.readouterr() == ("", "")


def test_without_faiss_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    written(tmp_path / "x.npz", clustered(50))
    with pytest.raises(SystemExit, match=r"pip install 'ssast-lab\[index\]'"):
        main(["near", "tiny-patch", str(tmp_path / "x.npz"), str(SOUNDS["tabla"]), "--index"])
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_what_is_no_library_has_no_index(made, tmp_path):
    with pytest.raises(LibraryError, match="There is no library"):
        made(tmp_path / "x.npz")
    assert not [*tmp_path.iterdir()]


def test_no_windows_and_none_asked_for_are_refused_as_without_an_index(made, tmp_path):
    some, none = (
        written(tmp_path / name, np.eye(4, dtype=np.float32)[:rows])
        for name, rows in (("some.npz", 4), ("none.npz", 0))
    )
    with pytest.raises(LibraryError, match="At least one window"):
        made(some).near(np.ones(4), 0)
    with pytest.raises(LibraryError, match="has no windows"):
        made(none)
