"""A corpus and a run over it that several files compare others with."""

import pytest
from tiny import here, plateau, train, write_clips

from ssast_lab.learning.run import Run


@pytest.fixture(scope="package")
def broken_clips(tmp_path_factory):
    """Twelve sounds and two files that are none, which is 1 in 7."""
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, 12)
    (folder / "broken.flac").write_bytes(b"fLaC" + bytes(500))
    (folder / "empty.wav").touch()
    return folder


@pytest.fixture
def clips(broken_clips):
    """The same; some files have a corpus of their own under this name."""
    return broken_clips


@pytest.fixture(scope="package")
def undisturbed(broken_clips, tmp_path_factory):
    """The folder of a run of twelve steps."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(plateau(broken_clips), here(folder))
    assert Run(folder).read_training(12)["rate"]["factor"] < 1
    return folder
