"""What is one visitor's is found under its name alone, and no more is kept than there is room for."""

from ssast_lab.app.private import Private

NAMES = [f"{number:032x}" for number in range(5)]


def test_only_the_name_finds_it():
    things = Private(3)
    assert things.keep(NAMES[0], "a") == []
    assert things.find(NAMES[0]) == "a"
    assert things.keep(NAMES[0], "b") == ["a"]
    for other in (NAMES[1], "", None, 3, NAMES[0].upper() + "0", [NAMES[0]]):
        assert things.find(other) is None


def test_what_was_asked_for_longest_ago_goes_first():
    things = Private(2)
    things.keep(NAMES[0], "a")
    things.keep(NAMES[1], "b")
    things.find(NAMES[0])
    assert things.keep(NAMES[2], "c") == ["b"]
    assert things.all() == ["a", "c"]


def test_a_name_that_could_be_guessed_is_none():
    things = Private(2)
    for name in ("mine", "", None, 7, "0" * 31, "g" * 32):
        assert things.keep(name, "a") == ["a"]
    assert things.all() == []
