"""The bench of tasks, on tiny packages made here: no network, real .deb files, real sounds, a real program."""

import csv
import functools
import io
import json
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ssast_lab.data import tasks
from ssast_lab.data.tasks import TaskError
from ssast_lab.data.tasks.soundfont import read_soundfont

needs_debian = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("apt-get", "dpkg-deb")), reason="the tasks are made on Debian or Ubuntu"
)
RATE = 16000
LOW, HIGH = 400, 1600  # Hz: what the labels "low" and "high" sound like, more or less


def tone(hertz, seconds, rate=RATE):
    t = np.arange(int(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * hertz * t)).astype(np.float32)


def sound(path, wave, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate)


def make_deb(store, name, fill, depends=""):
    root = store / f"{name}.root"
    fill(root / "usr")
    control = f"Package: {name}\nVersion: 1.0-1\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\n"
    for file, text in (
        ("DEBIAN/control", control + (f"Depends: {depends}\n" if depends else "") + "Description: sounds\n"),
        (f"usr/share/doc/{name}/copyright", f"{name} is by Nobody.\n"),
    ):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)
    command = ["dpkg-deb", "--root-owner-group", "-Znone", "-b", root, store / f"{name}.deb"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(root)


def local_fetch(store, asked, package, folder):
    """What apt_download does, from a folder of packages."""
    asked.append(package)
    deb = Path(store) / f"{package}.deb"
    return Path(shutil.copy(deb, folder)) if deb.exists() else None


def write_soundfont(path, programs):
    """A SoundFont 2 file of (program, name, wave, rate, loop) with a preset, an instrument and a sample for each."""

    def chunk(name, data):
        return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    def text(name):
        return name.encode().ljust(20, b"\0")

    values, phdr, pbag, pgen, inst, ibag, igen, shdr = b"", b"", b"", b"", b"", b"", b"", b""
    for i, (program, name, wave, rate, loop) in enumerate(programs):
        start = len(values) // 2
        values += np.round(wave * 32767).astype("<i2").tobytes() + bytes(92)
        phdr += text(f"preset {name}") + struct.pack("<HHHIII", program, 0, i, 0, 0, 0)
        pbag, pgen = pbag + struct.pack("<HH", i, 0), pgen + struct.pack("<HH", 41, i)
        inst, ibag = inst + text(f"instrument {name}") + struct.pack("<H", i), ibag + struct.pack("<HH", 2 * i, 0)
        igen += struct.pack("<HHHH", 54, int(loop is not None), 53, i)
        first, last = loop or (0, 0)
        shdr += text(name) + struct.pack(
            "<IIIIIBbHH", start, start + len(wave), start + first, start + last, rate, 60, 0, 0, 1
        )
    n = len(programs)
    phdr += text("EOP") + struct.pack("<HHHIII", 0, 0, n, 0, 0, 0)
    pbag, pgen = pbag + struct.pack("<HH", n, 0), pgen + bytes(4)
    inst, ibag, igen = inst + text("EOI") + struct.pack("<H", n), ibag + struct.pack("<HH", 2 * n, 0), igen + bytes(4)
    shdr += text("EOS") + bytes(26)
    tables = dict(phdr=phdr, pbag=pbag, pmod=bytes(10), pgen=pgen, inst=inst, ibag=ibag, imod=bytes(10), igen=igen)
    pdta = b"pdta" + b"".join(chunk(k.encode(), v) for k, v in tables.items()) + chunk(b"shdr", shdr)
    body = b"sfbk" + chunk(b"LIST", b"sdta" + chunk(b"smpl", values)) + chunk(b"LIST", pdta)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(chunk(b"RIFF", body))


TASK = dict(
    kind="sounds",
    question="Is it low or high?",
    labels=["low", "high"],
    folds={"test": ["bert"], "valid": ["carl"]},
    weaknesses=["Nobody says so."],
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder of packages and a table of tasks. gcin-voice, fluid-soundfont-gm and the last sentences of festvox-ru are
    names that the corpus reserves."""
    store = tmp_path_factory.mktemp("debs")

    def voices(usr):
        for voice, shift in (("bert", 7), ("carl", 13)):
            for i in range(3):
                sound(usr / f"share/{voice}/low/{i}.wav", tone(LOW + shift + 20 * i, 0.5))
                sound(usr / f"share/{voice}/High/{i}.ogg", tone(HIGH + shift + 20 * i, 0.5, 44100), 44100)
        sound(usr / "share/bert/low/long.flac", np.stack([tone(500, 14, 22050)] * 2, 1), 22050)
        sound(usr / "share/bert/low/short.wav", tone(450, 0.03))
        sound(usr / "share/bert/low/silent.wav", np.zeros(RATE, np.float32))
        (usr / "share/bert/low/broken.ogg").write_bytes(b"OggS and nothing more")

    def game(usr):
        (usr / "share").mkdir(parents=True)
        with zipfile.ZipFile(usr / "share/data.pk3", "w") as pack:
            for label, hertz in (("low", LOW), ("high", HIGH)):
                for i in range(9):
                    data = io.BytesIO()
                    soundfile.write(data, tone(hertz + 20 * i, 0.5), RATE, format="WAV")
                    pack.writestr(f"sound/{label}/{i}.wav", data.getvalue())
        sound(usr / "share/low/again.wav", tone(LOW + 7, 0.5))  # bert says it
        sound(usr / "share/low/both.wav", tone(900, 0.5))
        sound(usr / "share/high/both.wav", tone(900, 0.5))
        sound(usr / "share/low/menu/skipped.wav", tone(600, 1))

    def units(usr):
        lines = ["EST_File index", "EST_Header_End"]
        for utterance in ("ru_0001", "ru_0500"):
            parts = [tone(LOW, 0.3), tone(HIGH, 0.06), tone(LOW + 100, 0.3), tone(HIGH + 100, 0.3)]
            sound(usr / f"share/wav/{utterance}.wav", np.concatenate(parts))
            for unit, a, b in (("l_1", 0, 0.3), ("h_2", 0.3, 0.36), ("pau_3", 0.36, 0.66), ("h_4", 0.66, 0.96)):
                lines.append(f"{unit} {utterance} {a:.6f} {(a + b) / 2:.6f} {b:.6f}")
        # one speaker says the same twice: what differs is the sentence's last quarter of a second
        sound(usr / "share/wav/ru_0500.wav", 0.9 * np.concatenate(parts))
        (usr / "share/units.catalogue").write_text("\n".join(lines) + "\n")

    def font(shift, usr):
        looped = tone(LOW * 1.0 + shift, 0.25, 32000)
        write_soundfont(
            usr / "share/a.sf2",
            [
                (8, "Bell", tone(HIGH + shift, 3, 32000), 32000, None),
                (9, "Tick", tone(HIGH + shift, 0.05, 32000), 32000, None),
                (0, "Piano", looped, 32000, (800, 7200)),
            ],
        )

    def talker(usr):
        (usr / "bin").mkdir(parents=True)
        (usr / "bin/talker").write_text('#!/bin/sh\ncp "$(dirname "$0")/../share/talker/$1-$2.wav" "$3"\n')
        (usr / "bin/talker").chmod(0o755)

    def talker_data(usr):
        for i, voice in enumerate("ab"):
            sound(usr / f"share/talker/{voice}-L.wav", tone(LOW + 3 + i, 0.4))
            sound(usr / f"share/talker/{voice}-H.wav", tone(HIGH + 3 + i, 0.4))

    make_deb(store, "gcin-voice", voices)
    make_deb(store, "game", game)
    make_deb(store, "festvox-ru", units)
    make_deb(store, "fonts", functools.partial(font, 0))
    make_deb(store, "fluid-soundfont-gm", functools.partial(font, 50))
    make_deb(store, "talker", talker, "libc6 (>= 2.1), talker-data (= 1.0-1) | talker-voice")
    make_deb(store, "talker-data", talker_data)

    by_folder = [["/menu/", None], ["(?i)/(low|high)/", "\\1"]]
    voices = dict(name="gcin-voice", megabytes=1, licence="CC0-1.0", licences=[["*/bert/*", "GPL-2"]],
                  labels=by_folder, sources=[["/(bert|carl)/", "\\1"]])  # fmt: skip
    speak = dict(program="talker", arguments=["{voice}", "{text}", "{file}"], voices=["a", "b"], texts=["L", "H"])
    by_text = [["#. L", "low"], ["#. H", "high"]]
    by_program = [["#000 ", "low"], ["#00[89] ", "high"]]
    table = {
        "pitch": dict(TASK, most={"train": 5}, packages=[
            voices, dict(name="game", megabytes=2.5, licence="GPL-3", labels=by_folder)]),
        "phones": dict(TASK, folds={"test": ["ru_05*"]}, packages=[
            dict(name="festvox-ru", megabytes=1, licence="CC0-1.0", labels=[["#pau ", None], ["#l ", "low"], ["#h ", "high"]],
                 sources=[["/(ru_....)", "\\1"]])]),
        "fonts": dict(TASK, folds={"test": ["fluid*"]}, packages=[
            dict(name=name, megabytes=1, licence="CC0-1.0", labels=by_program) for name in ("fonts", "fluid-soundfont-gm")]),
        "spoken": dict(TASK, packages=[
            voices, dict(name="talker", megabytes=1, licence="CC0-1.0", speak=speak, labels=by_text,
                         sources=[["#(.)", "voice \\1"]])]),
    }  # fmt: skip
    (store / "tasks.json").write_text(json.dumps({"tasks": table}))
    return store


def build(world, out, *names, asked=None, **options):
    fetch = options.pop("fetch", functools.partial(local_fetch, world, [] if asked is None else asked))
    return tasks.build(out, names or None, fetch=fetch, progress=False, **{"table": world / "tasks.json", **options})


@pytest.fixture(scope="module")
def built(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("bench")
    return out, build(world, out)


def read(folder):
    with (folder / "task.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        head = soundfile.info(folder / row["path"])
        assert (head.samplerate, head.channels, head.format, head.subtype) == (RATE, 1, "FLAC", "PCM_16")
        assert 0.2 <= head.duration <= 10
        row["wave"] = soundfile.read(folder / row["path"], dtype="float32")[0]
    return rows


def hertz(wave):
    return np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 1 << 18)).argmax() * RATE / (1 << 18)


@needs_debian
@pytest.mark.parametrize("name", ["pitch", "phones", "fonts", "spoken"])
def test_a_clip_sounds_as_its_label_says_and_its_source_has_one_fold(built, name):
    out, records = built
    rows, record = read(out / name), records[name]
    folds, sounds = {}, set()
    for row in rows:
        assert (hertz(row["wave"]) > 1000) == (row["label"] == "high"), row
        assert folds.setdefault(row["source"], row["fold"]) == row["fold"]
        sounds.add(row["wave"].tobytes())
    assert len(sounds) == len(rows)  # nothing stands there twice
    assert {(r["label"], r["fold"]) for r in rows} >= {
        (label, f) for label in ("low", "high") for f in ("train", "test")
    }
    for fold, counts in record["counts"].items():
        assert counts == {
            label: sum((r["label"], r["fold"]) == (label, fold) for r in rows) for label in ("low", "high")
        }
        assert record["sources"][fold] == sorted({r["source"] for r in rows if r["fold"] == fold})
    text = (out / name / "README.md").read_text()
    assert record["sha256"] in text
    assert "Nobody says so." in text
    assert {p.name for p in (out / name / "licences").iterdir()} == {f"{p}.txt" for p in record["packages"]}
    assert not [p for p in out.iterdir() if p.name.startswith(".")]


@needs_debian
def test_what_stands_twice_or_cannot_be_used_is_left_out(built):
    out, records = built
    rows = read(out / "pitch")
    origins = {row["origin"]: row for row in rows}
    assert records["pitch"]["left_out"] == {"unusable": 2, "ambiguous": 2, "repeated": 1, "beyond_most": 8}
    assert "gcin-voice:usr/share/bert/low/0.wav" in origins  # the test keeps what training had as well
    assert not [o for o in origins if "again" in o or "both" in o or "menu" in o or "silent" in o or "broken" in o]
    assert len(origins["gcin-voice:usr/share/bert/low/long.flac"]["wave"]) == 10 * RATE
    assert len(origins["gcin-voice:usr/share/bert/low/short.wav"]["wave"]) == 0.2 * RATE
    kept = [row["origin"].split("!")[1] for row in rows if row["fold"] == "train"]
    assert kept == [f"sound/{label}/{i}.wav" for label in ("high", "low") for i in (0, 2, 4, 6, 8)]  # an even spread
    assert {row["licence"] for row in rows if row["source"] == "bert"} == {"GPL-2"}
    assert {row["licence"] for row in rows if row["source"] == "carl"} == {"CC0-1.0"}


@needs_debian
def test_a_phone_stands_in_the_middle_of_its_clip(built):
    for row in read(built[0] / "phones"):
        phone, start = row["origin"].partition("#")[2].split()
        length = 0.2 if start == "0.300" else 0.3  # the short one is widened by its neighbours
        assert len(row["wave"]) == pytest.approx(length * RATE, abs=1)
        middle = row["wave"][len(row["wave"]) // 2 - 320 :][:640]
        assert (hertz(middle) > 1000) == (phone == "h")


def test_a_sample_is_held_by_its_loop_and_faded_out(tmp_path):
    wave = tone(800, 0.25, 32000)  # 10 ms are 8 periods: the loop closes without a step
    write_soundfont(tmp_path / "a.sf2", [(5, "Held", wave, 32000, (800, 7200)), (3, "Once", wave, 32000, None)])
    once, held = read_soundfont(tmp_path / "a.sf2")
    assert [once.name, held.name] == ["003 preset Once: Once", "005 preset Held: Held"]
    assert len(once.play(2)) == len(wave)
    long = held.play(2)
    assert len(long) == 64000
    np.testing.assert_allclose(long[:60000], tone(800, 2, 32000)[:60000], atol=2e-4)
    assert long[-1] == once.play(2)[-1] == 0
    (tmp_path / "b.sf2").write_bytes((tmp_path / "a.sf2").read_bytes()[:2000])
    with pytest.raises(TaskError, match=r"b\.sf2 is no readable SoundFont"):
        read_soundfont(tmp_path / "b.sf2")


@needs_debian
def test_a_program_speaks_with_what_it_depends_on(built, world, tmp_path):
    out, records = built
    assert set(records["spoken"]["packages"]["talker"]["needs"]) == {"talker-data"}
    said = [row for row in read(out / "spoken") if row["fold"] == "train"]
    assert {(row["source"], round(hertz(row["wave"]))) for row in said} == {
        (f"voice {voice}", base + 3 + i) for i, voice in enumerate("ab") for base in (LOW, HIGH)
    }
    store = tmp_path / "debs"
    shutil.copytree(world, store)
    make_deb(store, "talker-data", lambda usr: sound(usr / "share/talker/a-L.wav", tone(500, 1)))
    with pytest.raises(TaskError, match="talker did not say 'H' with the voice a"):
        build(store, tmp_path / "out", "spoken")


@needs_debian
def test_the_same_packages_give_the_same_bytes(built, world, tmp_path):
    out, records = built
    assert build(world, tmp_path) == records
    for name, record in records.items():
        for file in [*record["files"], "README.md", "task.json"]:
            assert (out / name / file).read_bytes() == (tmp_path / name / file).read_bytes()


@needs_debian
def test_an_interrupted_build_goes_on_and_a_finished_one_asks_for_nothing(built, world, tmp_path):
    asked = []

    def breaks(package, folder):
        if package == "fluid-soundfont-gm" and asked.count(package) == 0:
            asked.append(package)
            (folder / "half a package.deb").write_bytes(b"!<arch>")
            raise KeyboardInterrupt
        return local_fetch(world, asked, package, folder)

    with pytest.raises(KeyboardInterrupt):
        build(world, tmp_path, fetch=breaks)
    assert {p.name for p in tmp_path.iterdir()} == {"pitch", "phones", ".packages"}
    (tmp_path / ".fonts-killed").mkdir()  # what a killed process leaves
    assert build(world, tmp_path, fetch=breaks) == built[1]
    expected = ["gcin-voice", "game", "festvox-ru", "fonts", *["fluid-soundfont-gm"] * 2, "talker", "talker-data"]
    assert asked == expected
    assert {p.name for p in tmp_path.iterdir()} == set(built[1])
    build(world, tmp_path, fetch=breaks)
    assert asked == expected


@needs_debian
def test_damage_and_another_table_are_noticed(built, world, tmp_path):
    shutil.copytree(built[0] / "fonts", tmp_path / "fonts")
    table = json.loads((world / "tasks.json").read_text())
    table["tasks"]["fonts"]["question"] = "Another?"
    (tmp_path / "other.json").write_text(json.dumps(table))
    with pytest.raises(TaskError, match="another table"):
        build(world, tmp_path, "fonts", table=tmp_path / "other.json")
    clip = tmp_path / "fonts/audio/00000.flac"
    clip.write_bytes(clip.read_bytes()[:-1])
    with pytest.raises(TaskError, match=r"00000\.flac is damaged"):
        build(world, tmp_path, "fonts")
    (tmp_path / "fonts/task.json").write_text("{")
    with pytest.raises(TaskError, match="no finished task"):
        tasks.verify(tmp_path / "fonts")


def changed(world, tmp_path, name, change):
    table = json.loads((world / "tasks.json").read_text())
    change(table["tasks"][name])
    (tmp_path / "table.json").write_text(json.dumps(table))
    return tmp_path / "table.json"


@needs_debian
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("pitch", lambda t: t["packages"][1].update(name="unknown"), "apt knows no package unknown.*apt-get update"),
        ("pitch", lambda t: t["packages"].pop(), "no train clip of 'low'"),
        ("pitch", lambda t: t["packages"][1].update(labels=[["/menu/", "middle"]]), "no label 'middle'"),
        ("pitch", lambda t: t["packages"][1].update(labels=[["/(menu)/", "\\1"]]), "the label 'menu', which it lacks"),
        ("pitch", lambda t: t["packages"][1].update(labels=[["/(menu", "low"]]), "is no pattern"),
        ("pitch", lambda t: t.update(folds={"test": ["game"]}), "tests on usr/share/.* of game, which the corpus may hold"),
        ("phones", lambda t: t.update(folds={"test": ["ru_00*"]}), "tests on usr/share/wav/ru_0001"),
        ("pitch", lambda t: t.update(folds={"valid": ["bert"]}), 'for "test"'),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(world, tmp_path, name, change, message):
    with pytest.raises(TaskError, match=message):
        build(world, tmp_path / "out", name, table=changed(world, tmp_path, name, change))
    assert not (tmp_path / "out" / name).exists()


def test_unknown_tasks_and_missing_tools_are_said(tmp_path, monkeypatch):
    with pytest.raises(TaskError, match="no task 'tune'; there are tones, letters, "):
        tasks.build(tmp_path, ["tune"], progress=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TaskError, match=r"dpkg-deb was not found.*Debian or Ubuntu"):
        tasks.build(tmp_path, progress=False)
