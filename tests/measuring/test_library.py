"""A folder of real sounds becomes one table, whole or in parts, and is searched."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from tiny import ALONE, PATIENCE, write_clips

from ssast_lab import audio
from ssast_lab.__main__ import main
from ssast_lab.data import find_clips
from ssast_lab.measuring import library
from ssast_lab.measuring.embedder import Embedder
from ssast_lab.measuring.library import LibraryError, Making, embedder_of, near, read


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """The built-in sounds in folders by kind, one of them damaged, and one that is no sound."""
    folder = tmp_path_factory.mktemp("my recordings")
    for name, sound in audio.builtin_sounds().items():
        (folder / sound["kind"]).mkdir(exist_ok=True)
        shutil.copy(sound["path"], folder / sound["kind"] / f"{name}.flac")
    wave, rate = soundfile.read(audio.builtin_sounds()["frogs"]["path"])
    soundfile.write(folder / "cut.wav", wave, rate)
    (folder / "cut.wav").write_bytes((folder / "cut.wav").read_bytes()[:100_000])
    (folder / "broken.mp3").write_bytes(b"no sound at all")
    return folder


def run(*arguments, **more):
    return subprocess.run([sys.executable, "-m", "ssast_lab", *map(str, arguments)], env=ALONE, capture_output=True, text=True, **more)  # fmt: skip


@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_a_folder_becomes_a_table_and_is_searched(recordings, tmp_path, capsys, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    out = tmp_path / f"x.{kind}"
    asked = [
        "embed",
        "tiny-patch",
        str(recordings),
        "--out",
        str(out),
        "--seconds",
        "2",
        "--hop",
        "1",
        "--layers",
        "9",
        "10",
    ]
    main(asked)
    said = capsys.readouterr()
    assert "11 of 11 files to embed by tiny-patch on c" in said.out
    assert f"{out}: " in said.out
    assert "by tiny-patch, layers 9, 10, pooled by mean" in said.out
    assert f"Next: ssast-lab near tiny-patch {out} " in said.out
    assert "'broken.mp3' cannot be decoded as sound" in said.err
    assert not out.with_name(f"{out.name}.parts").exists()

    made = read(out)
    assert (made.embeddings.dtype, made.embeddings.shape[1]) == (np.float32, 192)
    names = [os.path.relpath(clip.name, recordings) for clip in find_clips([recordings])]
    assert list(dict.fromkeys(made.files)) == [name for name in names if name != "broken.mp3"]
    assert list(made.about["left_out"]) == ["broken.mp3"]
    assert list(made.about["noticed"]) == ["cut.wav"]
    assert [made.about[name] for name in ("windows", "sounds", "width")] == [len(made.files), 10, 192]
    assert made.about["seconds"] == pytest.approx((made.seconds[:, 1] - made.seconds[:, 0]).sum())
    embedder = Embedder("tiny-patch", (9, 10), seconds=2, hop=1)
    for name in ("music/tabla.flac", "speech/speech.flac"):
        rows = made.files == name
        alone = embedder(recordings / name)
        np.testing.assert_array_equal(made.seconds[rows], alone.window_seconds)
        np.testing.assert_allclose(made.embeddings[rows], alone.windows, rtol=1e-4, atol=1e-3)

    query = str(recordings / "music" / "tabla.flac")
    main(
        [
            "near",
            "tiny-patch",
            str(out),
            query,
            "--start",
            "3",
            "--end",
            "5.08",
            "--top",
            "5",
            "--out",
            str(tmp_path / "a.csv"),
        ]
    )
    head, first, *rest = capsys.readouterr().out.splitlines()
    assert head.split() == ["file", "start", "end", "score"]
    assert first.split()[:3] == ["music/tabla.flac", "3.00", "5.08"]
    assert float(first.split()[3]) > 0.98
    assert len(rest) == 5
    assert (tmp_path / "a.csv").read_text().splitlines()[1].startswith("music/tabla.flac,3.00,5.08,0.9")

    main(asked)  # once more: it is there
    assert "files to embed" not in capsys.readouterr().out
    with pytest.raises(SystemExit, match="other files or other embeddings"):
        main([*asked[:-3], "--layers", "3"])
    with pytest.raises(SystemExit, match="whose weights or features are not those of tiny-frame"):
        main(["near", "tiny-frame", str(out), query])


def test_a_library_in_bfloat16_is_searched_so(recordings, tmp_path, capsys):
    asked = ["embed", "tiny-patch", str(recordings / "music"), "--out", str(tmp_path / "x.npz"), "--seconds", "2"]
    main([*asked, "--bfloat16"])
    made = read(tmp_path / "x.npz")
    assert made.about["embedder"]["dtype"] == embedder_of(made, "tiny-patch").dtype == "bfloat16"
    with pytest.raises(SystemExit, match="other embeddings"):
        main(asked)


def test_parquet_is_read_by_others(recordings, tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    main(["embed", "tiny-frame", str(recordings / "music"), "--out", str(tmp_path / "x.parquet")])
    frame = pandas.read_parquet(tmp_path / "x.parquet")
    assert list(frame) == ["file", "start", "end", "embedding"]
    assert frame["file"].tolist() == sorted(set(frame["file"]))  # each is shorter than a window
    np.testing.assert_array_equal(np.stack(frame["embedding"]), read(tmp_path / "x.parquet").embeddings)


def test_the_rows_are_the_same_whatever_the_parts(recordings, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(library, "CHUNK_FILES", 2)
    asked = ["embed", "tiny-patch", str(recordings), "--seconds", "3", "--out"]
    main([*asked, str(tmp_path / "whole.npz")])
    for part in ("2/3", "3/3"):
        main([*asked, str(tmp_path / "parted.npz"), "--part", part])
        assert f"Part {part} is done" in capsys.readouterr().out
        assert not (tmp_path / "parted.npz").exists()
    main([*asked, str(tmp_path / "parted.npz"), "--part", "1/3"])
    assert (tmp_path / "whole.npz").read_bytes() == (tmp_path / "parted.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parted.npz", "whole.npz"]


def test_chunks_hold_so_many_files_and_so_many_bytes():
    assert library._chunked([1] * 130) == [[*range(64)], [*range(64, 128)], [128, 129]]
    big = library.CHUNK_BYTES
    assert library._chunked([1, big, 3, 2 * big, 5, 6]) == [[0], [1], [2], [3], [4, 5]]
    assert library._chunked([]) == []


def test_a_killed_run_goes_on(tmp_path):
    write_clips(tmp_path / "clips", 200, (0.3, 0.6))
    asked = ["embed", "scratch:nano-patch", tmp_path / "clips", "--out"]
    whole = run(*asked, tmp_path / "whole.npz", check=True)
    assert "200 of 200 files to embed" in whole.stdout
    victim = subprocess.Popen(
        [sys.executable, "-m", "ssast_lab", *map(str, asked), str(tmp_path / "x.npz")], env=ALONE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )  # fmt: skip
    parts, until = tmp_path / "x.npz.parts", time.monotonic() + PATIENCE
    while victim.poll() is None and not [*parts.glob("0*.npz")] and time.monotonic() < until:
        time.sleep(0.002)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    if not (tmp_path / "x.npz").exists():  # the machine was not so fast that it had ended
        there = len([*parts.glob("0*.npz")])
        assert there
        again = run(*asked, tmp_path / "x.npz", check=True)
        assert f"{max(200 - 64 * there, 0)} of 200 files to embed" in again.stdout or there == 4
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_what_lies_there_already_is_not_mixed_with_other_things(recordings, tmp_path, monkeypatch):
    monkeypatch.setattr(library, "CHUNK_FILES", 2)
    clips, out = find_clips([recordings]), tmp_path / "x.npz"
    making = Making(Embedder("tiny-patch"), clips, recordings, out)
    next(making.work())
    assert making.finish() is None
    for other in (
        lambda: Making(Embedder("tiny-patch", 3), clips, recordings, out),
        lambda: Making(Embedder("tiny-frame"), clips, recordings, out),
        lambda: Making(Embedder("tiny-patch"), clips[1:], recordings, out),
    ):
        with pytest.raises(LibraryError, match="holds parts of other files or of other embeddings"):
            other()
    chunk = making.folder / "000000.npz"
    chunk.write_bytes(chunk.read_bytes()[:500])
    again = Making(Embedder("tiny-patch"), clips, recordings, out)
    assert len(again.waiting()) == len(again.chunks) - 1
    [*again.work()]
    with pytest.raises(LibraryError, match="damaged and is removed: run the same command again"):
        again.finish()
    [*again.work()]
    assert again.finish() == read(out).about
    assert read(out).about["sounds"] == 10


@pytest.mark.parametrize("content", [b"", b"PK\3\4 nonsense", b"PAR1 nonsense PAR1"])
@pytest.mark.parametrize("name", ["x.npz", "x.parquet"])
def test_what_is_no_library_gets_a_sentence(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LibraryError, match="is no library of embeddings"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        (["embed", "tiny-patch", "--out", "x.npz"], "nothing to listen to: name folders"),
        (["embed", "tiny-patch", ".", "--out", "x.csv"], "x.csv would have to end in .parquet or .npz"),
        (["embed", "tiny-patch", ".", "--out", "x.npz", "--part", "4/3"], "--part is like 3/64"),
        (["embed", "tiny-patch", ".", "--out", "x.npz", "--part", "third"], "--part is like 3/64"),
        (["embed", "tiny-patch", "/nowhere", "--out", "x.npz"], "There is no sound at /nowhere"),
        (["embed", "tiny-patch", ".", "--out", "x.npz", "--layers", "12"], "layers from 0 to 11"),
        (["embed", "tiny-patch", ".", "--out", "x.npz", "--seconds", "60"], "at most 10.24 s"),
        (["near", "tiny-patch", "x.npz", "a.wav"], "There is no library x.npz"),
    ],
)
def test_errors_are_one_sentence(asked, word, recordings, monkeypatch, tmp_path):
    shutil.copy(audio.builtin_sounds()["speech"]["path"], tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=word) as ended:
        main(asked)
    assert "\n" not in str(ended.value)
    assert [path.name for path in tmp_path.iterdir()] == ["speech.flac"]


def test_without_pyarrow_there_is_one_sentence_and_npz(recordings, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(SystemExit, match=r"pip install 'ssast-lab\[parquet\]'"):
        main(["embed", "tiny-patch", str(recordings), "--out", str(tmp_path / "x.parquet")])
    main(["embed", "tiny-patch", str(recordings / "music"), "--out", str(tmp_path / "x.npz")])
    assert len(read(tmp_path / "x.npz").files)


@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_names_that_are_no_utf8_can_be_read_by_others(tmp_path, monkeypatch, capsys, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    os.mkdir("amsel")
    for name in (b"caf\xe9.flac", "schön 鳥.flac".encode()):
        shutil.copy(audio.builtin_sounds()["speech"]["path"], os.path.join(b"amsel", name))
    main(["embed", "scratch:nano-patch", "amsel", "--out", f"x.{kind}"])
    assert set(read(f"x.{kind}").files) == {r"caf\xe9.flac", "schön 鳥.flac"}
    main(["predict", "tiny-patch", "amsel", "--heads", "kind", "--out", "x.json"])
    assert {row["file"] for row in json.loads((tmp_path / "x.json").read_text("utf-8"))} == {
        r"amsel/caf\xe9.flac", "amsel/schön 鳥.flac",
    }  # fmt: skip


def test_nothing_that_can_be_read_ends_with_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.mp3").write_bytes(b"no sound at all")
    shutil.copy(audio.builtin_sounds()["speech"]["path"], tmp_path)
    for asked, word in [
        (["embed", "scratch:nano-patch", "broken.mp3", "--out", "x.npz"], "None of the files could be read"),
        (["near", "scratch:nano-patch", "x.npz", "speech.flac"], "The library has no windows"),
        (["predict", "tiny-patch", "broken.mp3"], "None of the recordings could be read"),
    ]:
        with pytest.raises(SystemExit, match=word):
            main(asked)


def test_the_nearest_are_those_of_all_pairs(recordings, tmp_path):
    main(
        [
            "embed",
            "tiny-frame",
            str(recordings),
            "--out",
            str(tmp_path / "x.npz"),
            "--seconds",
            "2",
            "--pooling",
            "statistics",
        ]
    )
    made = read(tmp_path / "x.npz")
    values = made.embeddings.astype(np.float64) - made.embeddings.astype(np.float64).mean(0)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    for at in (0, 7, len(values) - 1):
        found = near(made, made.embeddings[at], 5)
        cosines = values @ values[at]
        assert [one.score for one in found] == pytest.approx(np.sort(cosines)[::-1][:5].tolist(), abs=1e-4)
        assert (found[0].file, found[0].start) == (made.files[at], made.seconds[at, 0])
    with pytest.raises(LibraryError, match="At least one window"):
        near(made, made.embeddings[0], 0)
    again = embedder_of(made, "tiny-frame")
    assert again.settings == made.about["embedder"]
    assert json.loads(json.dumps(again.settings)) == again.settings


def test_a_log_is_told_soon_and_every_minute(monkeypatch, capsys):
    from ssast_lab.commands import progress

    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.progress(1000.0) as heard:
        for _ in range(20):
            now[0] += 10
            heard(50.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "0.8 of about 16.7 minutes of sound, 3 minutes left"
    assert [line.split()[0] for line in lines] == ["0.8", "5.8", "10.8", "15.8"]
