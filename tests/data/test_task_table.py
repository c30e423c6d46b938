"""The real table of tasks: labels, sources and folds of real paths, and nothing tested on that the corpus may hold."""

from fnmatch import fnmatchcase

from ssast_lab.data import corpus, tasks
from ssast_lab.data.tasks.table import first_match, fold_of

KITS = "usr/share/hydrogen/data/drumkits"
REAL = [  # (task, package, path, label, source, fold)
    ("tones", "gcin-voice", "usr/share/gcin-voice/ogg/ㄅㄚ/5.ogg", "1", "voice 5", "test"),
    ("tones", "gcin-voice", "usr/share/gcin-voice/ogg/ㄅㄚ4/3.ogg", "4", "voice 3", "train"),
    ("tones", "gcin-voice", "usr/share/gcin-voice/ogg/ㄇㄚ1/3.ogg", None, None, None),  # the neutral tone
    ("tones", "gcin-voice", "usr/share/gcin-voice/ogg/ㄅ/3.ogg", None, None, None),
    ("letters", "espeak-ng", "usr/bin/espeak-ng#en-us+m1 Q", "Q", "espeak-ng en-us+m1", "train"),
    ("letters", "flite", "usr/bin/flite#kal16 Q", "Q", "flite kal", "train"),
    ("letters", "asterisk-core-sounds-en-g722", "usr/share/asterisk/sounds/en_US_f_Allison/letters/q.g722", "q", "Allison", "test"),
    ("letters", "asterisk-core-sounds-en-g722", "usr/share/asterisk/sounds/en_US_f_Allison/letters/dash.g722", None, None, None),
    ("letters", "klettres-data", "usr/share/klettres/en_GB/alpha/q.ogg", "q", "klettres en_GB", "test"),
    ("letters", "klettres-data", "usr/share/klettres/en/alpha/Q.ogg", "Q", "klettres en", "test"),
    ("letters", "klettres-data", "usr/share/klettres/fr/alpha/a.ogg", None, None, None),
    ("letters", "tuxpaint-stamps-default", "usr/share/tuxpaint/stamps/symbols/alphabets/english/filled/lowercase/q_filled_en_GB.ogg", "q", "tuxpaint en_GB", "test"),
    ("phones", "festvox-ru", "usr/share/festival/voices/russian/msu_ru_nsh_clunits/wav/ru_0499.wav#sch 1.200", "sch", "ru_0499", "train"),
    ("phones", "festvox-ru", "usr/share/festival/voices/russian/msu_ru_nsh_clunits/wav/ru_0500.wav#zh 1.200", "zh", "ru_0500", "test"),
    ("phones", "festvox-ru", "usr/share/festival/voices/russian/msu_ru_nsh_clunits/wav/ru_0612.wav#a 1.200", "a", "ru_0612", "test"),
    ("phones", "festvox-ru", "usr/share/festival/voices/russian/msu_ru_nsh_clunits/wav/ru_0612.wav#pau 1.200", None, None, None),
    ("drums", "hydrogen-drumkits", f"{KITS}/The Black Pearl 1.0/PaisteRide-Soft.wav", "ride", "The Black Pearl 1.0", "test"),
    ("drums", "hydrogen-drumkits", f"{KITS}/The Black Pearl 1.0/PaisteBell-Soft.wav", None, None, None),
    ("drums", "hydrogen-drumkits", f"{KITS}/BJA_Pacific/HH2_03.aiff", "hihat", "BJA_Pacific", "test"),
    ("drums", "hydrogen-drumkits", f"{KITS}/ColomboAcousticDrumkit/crash20i__crash.flac", "crash", "ColomboAcousticDrumkit", "test"),
    ("drums", "hydrogen-drumkits", f"{KITS}/ElectricEmpireKit/EE_Kick_Old.flac", "kick", "ElectricEmpireKit", "test"),
    ("drums", "hydrogen-drumkits", f"{KITS}/HardElectro1/PowR_SN_1.flac", "snare", "HardElectro1", "test"),
    ("drums", "hydrogen-drumkits", f"{KITS}/Millo_MultiLayered3/ft_01.flac", "tom", "Millo", "train"),
    ("drums", "hydrogen-drumkits", f"{KITS}/Millo-Drums_v.1/cra_Rock_a.flac", "crash", "Millo", "train"),
    ("drums", "hydrogen-drumkits", f"{KITS}/ForzeeStereo/SnareOff-1.wav", None, None, None),
    ("drums", "sonic-pi-samples", "usr/share/sonic-pi/samples/bd_808.flac", "kick", "sonic-pi-samples", "train"),
    ("effects", "minetest-data", "usr/share/games/minetest/mods/default/sounds/default_water_footstep.1.ogg", "water", "minetest-data", "test"),
    ("effects", "minetest-data", "usr/share/games/minetest/mods/default/sounds/default_wood_footstep.1.ogg", "footstep", "minetest-data", "test"),
    ("effects", "ufoai-sound", "usr/share/games/ufoai/base/0snd.pk3!sound/soldiers/death1.ogg", None, None, None),
    ("effects", "openarena-data", "usr/lib/openarena/baseoa/pak0.pk3!sound/weapons/rocket/rocklx1a.wav", None, None, None),
    ("instruments", "minuet-data", "usr/share/minuet/soundfonts/GeneralUser-v1.47.sf2#087 Bass & Lead: x", "synth lead", "minuet-data", "test"),
    ("instruments", "timgm6mb-soundfont", "usr/share/sounds/sf2/TimGM6mb.sf2#088 Pad: x", None, None, None),
]  # fmt: skip


def test_the_real_table_tests_only_on_what_the_corpus_keeps_out():
    """Whole packages that are reserved, or else paths of every test source and its neighbours."""
    table, kept = tasks.read_table(), corpus.read_table()
    assert [task["kind"] for task in table.values()] == ["speech"] * 3 + ["sounds"] * 3
    for name, task in table.items():
        packages = {package["name"]: package for package in task["packages"]}
        assert not set(packages) & set(kept["left_out"]["packages"])
        assert len(task["weaknesses"]) >= 3
        assert "hydrogen-data" not in packages
        whole = {rule["package"] for rule in kept["reserved"] if "*" in rule["paths"]}
        seen = set()
        for _, package, path, label, source, fold in (row for row in REAL if row[0] == name):
            entry = packages[package]
            assert first_match(entry["labels"], path) == label, path
            if label is None:
                continue
            seen.add(package)
            given = first_match(entry.get("sources", []), path) or package
            assert (given, fold_of(task, given)) == (source, fold), path
            use = corpus.reserved(kept, package, path.partition("#")[0])
            assert (use is not None) == (fold != "train" or package in whole), path
        patterns = [pattern for fold in task["folds"].values() for pattern in fold]
        assert set(packages) - whole <= seen | {p for p in packages if p not in patterns}
        tested = {row[4] for row in REAL if row[0] == name and row[5] == "test"}
        for pattern in patterns:
            assert pattern in whole or any(fnmatchcase(source, pattern) for source in tested)


def test_the_real_table_says_what_it_downloads():
    table = tasks.read_table()
    assert set(tasks.names()) == {"tones", "letters", "phones", "drums", "effects", "instruments"}
    assert tasks.megabytes(table["tones"]) == 7.7
    assert all(tasks.megabytes(task) < 800 for task in table.values())
