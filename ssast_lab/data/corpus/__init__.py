"""The corpus: real speech, music and effects out of Debian packages, as shards of clips that each fill a window.

    table.py     which packages there are, and what never comes in
    clips.py     from sound files to clips, and to Opus
    tars.py      shards without anything that differs between two builds
    packages.py  from a package to its piece of the corpus
    card.py      the README of a corpus
    assemble.py  from the pieces to shards, lists and manifest
    build.py     from the packages to the corpus

    package --fetch--> .deb --unpack--> sound files --clips--> clips --encode--> Opus --pack--> piece of the package
    pieces --build--> train/00000.tar ..., heldout/, elsewhere/, train-effect.tsv ..., manifest.tsv, manifest.json, README.md

``corpus.json`` beside this folder says which packages there are, what their files are, and what never comes in: sounds
that the downstream tasks test on, and packages that an independent evaluation uses. The same packages give the same
clips: nothing depends on the time, the machine's name, the order of a folder or the number of processes. Their encoded
bytes are the same on one machine, and may differ on one with another processor: see :func:`same`.
"""

from ssast_lab.data.corpus.assemble import same
from ssast_lab.data.corpus.build import build, verify
from ssast_lab.data.corpus.table import TABLE, CorpusError, read_rows, read_table, reserved

__all__ = ["TABLE", "CorpusError", "build", "read_rows", "read_table", "reserved", "same", "verify"]
