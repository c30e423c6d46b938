"""Small real tasks made from Debian packages: labelled speech and sounds, split by source.

    table.py      which tasks there are
    soundfont.py  the recordings in a soundfont
    speak.py      letters spoken by a synthesiser
    sounds.py     the sounds of a package
    card.py       the README of a task
    build.py      from packages to a task

    package --fetch--> .deb --unpack--> sounds --rules--> label, source --folds--> clips --build--> a folder per task

``tasks.json`` beside this folder says for each task which packages it needs. Rules on paths give each of their sounds its
label and its source (a voice, a drum kit, a soundfont, a game). A source is in one fold only. Nothing is downloaded before
:func:`build` is called. Validation and test sounds are kept out of the corpus that the built-in models were pretrained on
(``corpus.json``, "reserved").
"""

from ssast_lab.data.tasks.build import build, verify
from ssast_lab.data.tasks.table import TABLE, TaskError, megabytes, names, read_table

__all__ = ["TABLE", "TaskError", "build", "megabytes", "names", "read_table", "verify"]
