"""The corpus builder, on tiny packages made here: no network, real .deb files, real encoded sounds."""

import functools
import gzip
import hashlib
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from packages import RATE, hertz, local_fetch, make_deb, sound, tone

from ssast_lab import data
from ssast_lab.data import corpus
from ssast_lab.data.corpus import CorpusError, clips, packages
from ssast_lab.data.corpus.clips import GAP

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("apt-get", "dpkg-deb")), reason="the corpus is made on Debian or Ubuntu"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder of packages and their table."""
    store = tmp_path_factory.mktemp("debs")

    def voices(root):
        for i in range(9):
            sound(root / f"anna/{i}.ogg", tone(300 + 50 * i, 2.5), 16000)
        sound(root / "bert/0.g722", tone(800, 3.0))
        sound(root / "secret/test.wav", tone(1111, 2.0))
        (root / "anna/link.ogg").symlink_to("0.ogg")

    def tunes(root):
        sound(root / "long.flac", np.stack([tone(440, 35, 44100), tone(440, 35, 44100)], 1), 44100)
        sound(root / "copy of a secret.wav", tone(1111, 2.0))
        sound(root / "also held out.wav", tone(2222, 11.0))

    def game(root):
        root.mkdir(parents=True)
        with zipfile.ZipFile(root / "data.pk3", "w") as pack:
            for i in range(4):
                data = io.BytesIO()
                soundfile.write(data, tone(500 + 100 * i, 3, 22050), 22050, format="WAV")
                pack.writestr(f"sound/{i}.wav", data.getvalue())
        sound(root / "silent.wav", np.zeros(RATE, np.float32))
        (root / "broken.ogg").write_bytes(b"OggS and nothing more")
        sound(root / "menu/skipped.wav", tone(600, 12))

    def held(root):
        sound(root / "held.wav", tone(2222, 11.0))
        for i in range(5):
            sound(root / f"more/{i}.ogg", tone(2500 + i, 11.0))

    def far(root):
        sound(root / "long.flac", np.concatenate([tone(1000, 20), tone(3000, 20)]))
        sound(root / "short.flac", tone(500, 9))

    for name, fill in dict(voices=voices, tunes=tunes, game=game, held=held, far=far).items():
        make_deb(store, name, fill)
    table = dict(
        recipe=1,
        left_out=dict(why="a test", packages=["kept"]),
        reserved=[dict(use="letters", package="voices", paths=["*/secret/*"], why="a test")],
        packages=[
            dict(
                name="held",
                role="heldout",
                size="small",
                licence="CC0-1.0",
                kinds=[["*", "speech"]],
                clips=dict(speech=4),
            ),
            dict(
                name="voices",
                role="train",
                size="small",
                licence="GPL-2",
                kinds=[["*", "speech"]],
                licences=[["*/bert/*", "CC-BY-4.0"]],
            ),
            dict(name="tunes", role="train", size="large", licence="CC0-1.0", kinds=[["*", "music"]]),
            dict(name="game", role="train", size="large", licence="GPL-3", kinds=[["*/menu/*", None], ["*", "effect"]]),
            dict(name="unknown", role="train", size="large", licence="GPL-3", kinds=[["*", "effect"]]),
            dict(name="far", role="elsewhere", size="large", licence="CC0-1.0", kinds=[["*", "effect"]]),
        ],
    )
    (store / "table.json").write_text(json.dumps(table))
    return store


def build(world, out, fetch=local_fetch, **options):
    return corpus.build(
        out, fetch=functools.partial(fetch, world), table=world / "table.json", progress=False, **options
    )


@pytest.fixture(scope="module")
def built(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus")
    return out, build(world, out)


def read_clips(out, role="train"):
    for shard in sorted((out / role).glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.uname) == (0, 0, "")
                if member.name.endswith(".json"):
                    wave, rate = soundfile.read(io.BytesIO(tar.extractfile(member.name.replace("json", "opus")).read()))
                    assert rate == RATE
                    yield json.load(tar.extractfile(member)), wave


def test_same_bytes_from_one_process_and_from_two(built, world, tmp_path):
    out, manifest = built
    again = build(world, tmp_path / "again", workers=2)
    assert again == manifest
    for name in manifest["files"]:
        assert (out / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == manifest["files"][name]["sha256"]


def test_an_interrupted_build_goes_on(built, world, tmp_path):
    asked = []

    def breaks(store, package, folder):
        asked.append(package)
        if package == "game" and asked.count("game") == 1:
            (folder / "half a package.deb").write_bytes(b"!<arch>")
            raise KeyboardInterrupt
        return local_fetch(store, package, folder)

    with pytest.raises(KeyboardInterrupt):
        build(world, tmp_path / "out", breaks)
    (tmp_path / "out/pieces/.game-k1ll_ed5").mkdir()  # what a killed process leaves
    assert not (tmp_path / "out/manifest.json").exists()
    manifest = build(world, tmp_path / "out", breaks)
    assert asked == ["held", "voices", "tunes", "game", "game", "unknown", "far"]
    assert manifest == built[1]
    assert not (tmp_path / "out/pieces").exists()
    assert build(world, tmp_path / "out", breaks) == manifest
    assert len(asked) == 7  # the finished corpus asks for nothing


def test_only_what_a_killed_build_left_is_removed_from_a_cache(world, tmp_path):
    cache = tmp_path / "a home"
    killed, other = cache / ".game-k1ll_ed5", cache / ".my-settings"
    for folder in (killed, other):
        folder.mkdir(parents=True)
    with pytest.raises(CorpusError, match="apt knows none"):
        build(world, tmp_path / "out", lambda *_: None, cache=cache)
    assert [*cache.iterdir()] == [other]


def test_the_large_build_uses_the_pieces_of_the_small_one(built, world, tmp_path):
    asked = []

    def counts(store, package, folder):
        asked.append(package)
        return local_fetch(store, package, folder)

    small = build(world, tmp_path / "small", counts, size="small", cache=tmp_path / "cache")
    assert asked == ["held", "voices"] == list(small["packages"])
    large = build(world, tmp_path / "large", counts, cache=tmp_path / "cache")
    assert asked[2:] == ["tunes", "game", "unknown", "far"]
    assert large == built[1]
    with pytest.raises(CorpusError, match="another size"):
        build(world, tmp_path / "small", counts, size="large")


def test_the_sets_to_measure_on_can_be_built_alone(built, world, tmp_path):
    asked = []

    def counts(store, package, folder):
        asked.append(package)
        return local_fetch(store, package, folder)

    manifest = build(world, tmp_path / "out", counts, size="evaluation")
    assert asked == ["held", "far"]
    assert manifest["clips"] == {**built[1]["clips"], "train": 0}
    for shard in ("heldout/00000.tar", "elsewhere/00000.tar"):
        assert manifest["files"][shard] == built[1]["files"][shard]
    with pytest.raises(CorpusError, match='"evaluation", "small" or "large"'):
        build(world, tmp_path / "out", size="medium")


def test_elsewhere_is_ten_continuous_seconds_of_one_file(built):
    clips = list(read_clips(built[0], "elsewhere"))
    assert sorted(clip["files"][0]["start"] for clip, _ in clips) == [7.5, 22.5]  # of 40 s, a quarter and three in
    for clip, wave in clips:
        assert [Path(file["path"]).name for file in clip["files"]] == ["long.flac"]  # the other is too short
        assert len(wave) == 10 * RATE
        assert hertz(wave) == pytest.approx(1000 if clip["files"][0]["start"] < 20 else 3000, abs=1)


def test_a_list_for_every_kind(built):
    """What a training run names beside the folder, in order to hear a kind more often."""
    out, manifest = built
    rows = [line.split("\t") for line in (out / "manifest.tsv").read_text().splitlines()[1:]]
    for role, kind in {(row[2], row[3]) for row in rows}:
        found = [(clip.path, clip.member) for clip in data.find_clips([out / f"{role}-{kind}.tsv"])]
        assert found == [(str(out / row[0]), f"{row[1]}.opus") for row in rows if row[2:4] == [role, kind]]
    lists = [name for name in manifest["files"] if name.endswith(".tsv")]
    assert len(lists) == 1 + 5  # the manifest; three kinds to train on, speech held out, effects from elsewhere


def test_what_is_heard_alike_is_the_same_corpus_whatever_its_bytes(built, world, tmp_path, monkeypatch):
    def louder(times):
        monkeypatch.setattr(packages, "encode", lambda wave: clips.encode(wave * times))
        return build(world, tmp_path / f"{times}")

    manifest, almost = built[1], louder(0.9995)
    assert almost["sha256"] != manifest["sha256"]
    assert corpus.same(manifest, almost)
    assert corpus.same(almost, manifest)
    assert not corpus.same(manifest, louder(0.9))
    assert not corpus.same(manifest, build(world, tmp_path / "small", size="small"))


def test_sounds_are_cut_out_of_archives_of_a_games_own(tmp_path):
    sounds = []
    for ending in (".wav", ".ogg", ".ogg", ".wav", ".ogg"):
        sound(tmp_path / f"one{ending}", tone(300 + 100 * len(sounds), 0.5))
        sounds.append((ending, (tmp_path / f"one{ending}").read_bytes()))
    archive = (
        b"a header".join([b"", *(data for _, data in sounds[:2]), b"".join(data for _, data in sounds[2:])])
        + b"the end"
    )
    assert list(packages.carve(archive)) == sounds
    squeezed = gzip.compress(archive)
    assert list(packages.carve(b"\x1e\x8c" + squeezed[2:])) == sounds  # as OpenClonk has it
    assert list(packages.carve(b"RIFF, OggS and no sound")) == []

    def fill(root):
        root.mkdir(parents=True)
        (root / "all.dat").write_bytes(archive)
        (root / "other.dat").write_bytes(archive)

    make_deb(tmp_path, "odd", fill)
    (tmp_path / "files").mkdir()
    found, _ = packages.unpack(tmp_path / "odd.deb", tmp_path / "files", carved=["*/all.dat"])
    assert [name for name, _ in found] == [f"usr/share/odd/all.dat!{i:04d}{sounds[i][0]}" for i in range(5)]
    assert [file.read_bytes() for _, file in found] == [data for _, data in sounds]


def test_clips_hold_the_sounds_in_order(built):
    out, manifest = built
    found = {}
    for clip, wave in read_clips(out):
        found.setdefault(clip["package"], []).append(clip)
        assert clip["seconds"] == pytest.approx(len(wave) / RATE, abs=0.001)
        if clip["package"] == "voices" and clip["files"][0]["path"].endswith("anna/0.ogg"):
            names = [Path(file["path"]).name for file in clip["files"]]
            assert names == ["0.ogg", "1.ogg", "2.ogg", "3.ogg"]  # 4 x 2.5 s and three gaps of 0.1 s fill 10.26 s
            for i in range(4):
                start = int(i * (2.5 * RATE + GAP))
                assert hertz(wave[start + 8000 : start + 24000]) == pytest.approx(300 + 50 * i, abs=3)
        if clip["package"] == "tunes":
            assert clip["files"][0]["path"].endswith("long.flac")
            assert hertz(wave) == pytest.approx(440, abs=1)
        if clip["package"] == "game":
            assert [file["path"] for file in clip["files"]] == [
                f"usr/share/game/data.pk3!sound/{i}.wav" for i in range(4)
            ]
    # 9 x 2.5 s and 3 s: two windows and the rest; 35 s: three windows; the rest of the tunes is left out, see below
    assert {name: len(every) for name, every in found.items()} == {"voices": 3, "tunes": 3, "game": 1}
    assert manifest["clips"] == {"train": 7, "heldout": 4, "elsewhere": 2}
    assert manifest["missing"] == ["unknown"]
    assert [Path(path).name for path, _ in manifest["packages"]["game"]["dropped"]] == ["broken.ogg", "silent.wav"]


def test_what_is_kept_or_held_out_is_in_no_training_clip_under_any_name(built):
    out, manifest = built
    paths = [
        file["path"]
        for role in ("train", "heldout", "elsewhere")
        for clip, _ in read_clips(out, role)
        for file in clip["files"]
    ]
    assert not [path for path in paths if "secret" in path or "skipped" in path or "link" in path]
    assert "usr/share/tunes/also held out.wav" not in paths
    assert "usr/share/held/held.wav" in paths
    assert manifest["left_out"] == {"kept_back": 1, "held_out": 1, "repeated": 0}
    assert manifest["packages"]["voices"]["kept_back"] == 1
    for clip, wave in read_clips(out):
        spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
        at = np.fft.rfftfreq(len(wave), 1 / RATE)
        for secret in (1111, 2222):
            assert spectrum[np.abs(at - secret) < 5].max() < 0.02 * spectrum.max(), clip["files"]


def test_every_clip_names_its_source_licence_and_kind(built):
    out, manifest = built
    rows = [line.split("\t") for line in (out / "manifest.tsv").read_text().splitlines()]
    assert rows[0] == ["shard", "clip", "role", "kind", "package", "licence", "seconds", "files"]
    assert len(rows) == 1 + 13
    licences = {
        "voices": {"GPL-2", "CC-BY-4.0 AND GPL-2"},
        "tunes": {"CC0-1.0"},
        "game": {"GPL-3"},
        "held": {"CC0-1.0"},
        "far": {"CC0-1.0"},
    }
    for role in ("train", "heldout", "elsewhere"):
        for clip, _ in read_clips(out, role):
            assert set(clip) == {"package", "version", "role", "kind", "licence", "seconds", "files"}
            assert clip["licence"] in licences[clip["package"]]
            assert clip["role"] == role
            assert clip["version"] == "1.0-1"
    assert (out / "licences/voices.txt").read_text() == "voices is by Nobody.\n"
    text = (out / "README.md").read_text()
    assert manifest["sha256"] in text
    assert "CC-BY-4.0" in text
    total = sum(float(row[6]) for row in rows[1:]) / 3600
    assert sum(sum(hours.values()) for hours in manifest["hours"].values()) == pytest.approx(total, abs=0.005)


def test_an_entry_may_take_more_of_a_file(world, tmp_path, monkeypatch):
    monkeypatch.setitem(clips.CUT, "music", 12)
    table = json.loads((world / "table.json").read_text())
    entry = next(entry for entry in table["packages"] if entry["name"] == "tunes")
    lengths = []
    for cut in ({}, {"cut": {"music": 24}}):
        _, piece = packages.build_piece(table, {**entry, **cut}, tmp_path, functools.partial(local_fetch, world))
        with tarfile.open(piece) as tar:
            made = [json.load(tar.extractfile(name)) for name in tar.getnames() if name[0] == "0" and name[-1] == "n"]
        lengths.append(sum(clip["seconds"] for clip in made if clip["files"][0]["path"].endswith("long.flac")))
    assert lengths == pytest.approx([12, 24], abs=0.01)


def test_damage_is_noticed(built, tmp_path):
    shutil.copytree(built[0], tmp_path / "copy")
    shard = tmp_path / "copy/train/00000.tar"
    data = bytearray(shard.read_bytes())
    data[2000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorpusError, match="damaged"):
        corpus.verify(tmp_path / "copy")


def test_what_is_missing_is_said(world, tmp_path, monkeypatch):
    with pytest.raises(CorpusError, match="apt-get update"):
        corpus.build(tmp_path / "a", fetch=lambda package, folder: None, table=world / "table.json", progress=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CorpusError, match=r"dpkg-deb was not found.*Debian or Ubuntu"):
        build(world, tmp_path / "b")
