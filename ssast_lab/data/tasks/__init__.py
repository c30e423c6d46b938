"""A bench of small real tasks out of Debian packages: speech and sounds, labelled, split by source.

    table.py      which tasks there are
    soundfont.py  the recordings in a soundfont
    speak.py      phones spoken by a synthesiser
    sounds.py     the sounds of a package
    card.py       the README of a task
    build.py      from packages to a task

    package --fetch--> .deb --unpack--> sounds --rules--> label, source --folds--> clips --build--> a folder per task

``tasks.json`` beside this folder says for each task which packages it needs and, by rules on paths, what label each of
their sounds has and which source (a voice, a drum kit, a soundfont, a game) it comes from. A source stands in one fold
only. Nothing is fetched before :func:`build` is called. What stands in a test fold is kept out of the corpus that the
built-in models were pretrained on (``corpus.json``, "reserved").
"""

from ssast_lab.data.tasks.build import build, verify
from ssast_lab.data.tasks.table import TABLE, TaskError, megabytes, names, read_table

__all__ = ["TABLE", "TaskError", "build", "megabytes", "names", "read_table", "verify"]
