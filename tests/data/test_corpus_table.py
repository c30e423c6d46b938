"""The real table of packages keeps what is kept for others out of the corpus."""

import io
import json
import shutil
import zipfile
from pathlib import Path

import pytest
import soundfile
from packages import RATE, local_fetch, make_deb, sound, tone

from ssast_lab.data import corpus
from ssast_lab.data.corpus import CorpusError
from ssast_lab.data.corpus.assemble import check_reserved
from ssast_lab.data.corpus.packages import SOUNDS
from ssast_lab.data.corpus.table import kind_of

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("apt-get", "dpkg-deb")), reason="the corpus is made on Debian or Ubuntu"
)
TASKS = {"tones", "letters and digits", "phones", "drums", "game effects", "instruments", "built-in sounds"}


def test_the_real_table_keeps_the_tasks_sounds_out(tmp_path):
    """Packages under the real names, each with a file at every reserved place and one that is free."""
    table = corpus.read_table()
    rules = table["reserved"]
    assert {rule["use"] for rule in rules} - {"independent evaluation"} == TASKS
    assert all(rule["why"] and rule["paths"] for rule in rules)
    used = {entry["name"] for entry in table["packages"]}
    elsewhere = [entry for entry in table["packages"] if entry["role"] == "elsewhere"]
    assert len(elsewhere) >= 8
    assert {kind for entry in elsewhere for _, kind in entry["kinds"] if kind} == {"speech", "music", "effect"}
    whole = {rule["package"] for rule in rules if "*" in rule["paths"]}
    assert not used & (whole | set(table["left_out"]["packages"]))
    assert len(table["left_out"]["packages"]) == 7

    store, expected = tmp_path / "debs", {}
    store.mkdir()
    for name in sorted({rule["package"] for rule in rules} & used):
        patterns = [path for rule in rules if rule["package"] == name for path in rule["paths"]]
        entry = next(entry for entry in table["packages"] if entry["name"] == name)

        def fill(root, patterns=patterns):
            base = root.parent.parent.parent
            for i, pattern in enumerate(patterns):
                path = base / ("usr/share" + pattern.replace("*", "/x", 1).replace("*", "x"))
                path = path if path.suffix in SOUNDS else Path(f"{path}.wav")
                if "!" in pattern:  # in an archive
                    data = io.BytesIO()
                    soundfile.write(data, tone(300 + i, 1), RATE, format="WAV")
                    root.mkdir(parents=True, exist_ok=True)
                    with zipfile.ZipFile(root / "x.pk3", "w") as pack:
                        pack.writestr(pattern.strip("*!") + "x.wav", data.getvalue())
                else:
                    sound(path, tone(300 + i, 1))
            sound(root / "free/sound.wav", tone(700, 2))

        make_deb(store, name, fill)
        expected[name] = (len(patterns), kind_of(entry, "free/sound.wav"))
    asked = []

    def fetch(package, folder):
        asked.append(package)
        return local_fetch(store, package, folder)

    manifest = corpus.build(tmp_path / "out", fetch=fetch, progress=False)
    assert set(asked) == used
    assert {name: record["kept_back"] for name, record in manifest["packages"].items()} == {
        name: count for name, (count, _) in expected.items()
    }
    rows = [line.split("\t") for line in (tmp_path / "out/manifest.tsv").read_text().splitlines()[1:]]
    for row in rows:
        assert all(path.endswith("free/sound.wav") for path in row[7].split("|"))
    assert all(not corpus.reserved(table, row[4], path) for row in rows for path in row[7].split("|"))
    with pytest.raises(CorpusError, match="kept for drums"):
        check_reserved(
            table,
            [
                [
                    "train/00000.tar",
                    "000000",
                    "train",
                    "music",
                    "hydrogen-data",
                    "GPL-2+",
                    "10",
                    "usr/share/hydrogen/data/drumkits/GMRockKit/Kick-Hard.wav",
                ]
            ],
        )


def test_a_contradictory_table_is_refused(tmp_path):
    table = corpus.read_table()
    table["left_out"]["packages"].append("festvox-ru")
    (tmp_path / "table.json").write_text(json.dumps(table))
    with pytest.raises(CorpusError, match="festvox-ru"):
        corpus.read_table(tmp_path / "table.json")
