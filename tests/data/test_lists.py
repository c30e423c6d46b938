"""Lists are read as they were written, or refused by file and line; a list says the same to every reader."""

import csv
import io
import json

import pytest

from ssast_lab import data
from ssast_lab.data import lists
from ssast_lab.data.labelled import LabelError, read_labelled

ROWS = [("a b.wav", "tap, dripping"), ("ü.wav", 'so "to" speak'), ("c;d|e.wav", "it's"), ("f.wav", "tap, dripping")]


def written(delimiter):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows([("path", "label"), *ROWS])
    return text.getvalue()


def pairs(table):
    return [tuple(row.cells[name] for name in ("path", "label")) for row in table.rows]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("delimiter", lists.DELIMITERS)
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_what_python_writes_is_read(tmp_path, encoding, delimiter, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(written(delimiter).encode(encoding))
    assert pairs(lists.read_table(path)) == ROWS
    assert [clip.path for clip in data.find_clips([path])] == [str(tmp_path / name) for name, _ in ROWS]
    table = read_labelled(path, sorted({label for _, label in ROWS}))
    assert [clip.path for clip in table.clips] == [str(tmp_path / name) for name, _ in ROWS]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_blank_lines_comments_spaces_and_capitals(tmp_path, end):
    text = end.join(
        ["# made by hand", "", " Path , LABEL", ' "a,1.wav" , x', "", ",", "#b.wav,y", "c.wav,y,,", "./#d.wav, x"]
    )
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    passed = data.Passed()
    table = lists.read_table(path, passed)
    assert table.columns == ("path", "label")
    assert pairs(table) == [("a,1.wav", "x"), ("c.wav", "y"), ("./#d.wav", "x")]
    assert [row.line for row in table.rows] == [4, 8, 9]
    assert passed.counts == {lists.COMMENT: 2}
    found, read = data.find_clips([path], data.Passed()), read_labelled(path, passed=data.Passed())
    assert [*read.clips] == found
    assert read.labels == ("x", "y")


def test_a_mark_between_tabs_is_a_letter_unless_it_is_at_both_ends(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('path\tlabel\na.wav\t"so to speak\n"b ""c"".wav"\t5" tape\n')
    assert pairs(lists.read_table(path)) == [("a.wav", '"so to speak'), ('b "c".wav', '5" tape')]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'path,label\na.wav,x\nb.wav,"so to speak\nc.wav,y\n', "Line 3 of .* quotation mark that is not closed on this line"),
        (b'path,label\na.wav,"so to speak\nb.wav,"y\n', "Line 2 of .* quotation mark"),
        (b'path,label\na.wav,"x" y\n', "Line 2 of .* has a fault"),
        (b"path,label\na.wav,x\nb,c.wav,y\n", "Line 3 of .* has 3 cells, where its first line names 2 columns, parted by commas"),
        (b"path,label\na.wav\n", "Line 2 of .* has 1 cells"),
        (b"path,label\na.wav,x\n,y\n", "Line 3 of .* names no sound"),
        (b"path,label,Path\na.wav,x,b.wav\n", "Line 1 of .* names the column path twice"),
        (b"\nname,label\na.wav,x\n", "has no column path, wav.* holds: name, label"),
        ("path,label\na.wav,x\nü.wav,y\n".encode("latin-1"), "Line 3 of .* is no UTF-8: save the list as UTF-8"),
        ("path,label\na.wav,x\n".encode("utf-16-le"), "Line 1 of .* holds a zero byte"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_by_file_and_line(tmp_path, content, words):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    for read, error in ((lambda: data.find_clips([path]), data.DataError), (lambda: read_labelled(path), LabelError)):
        with pytest.raises(error, match=words) as caught:
            read()
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"data": [{"wav": "a.wav"}, {"path": "b.wav"}]}', "Entry 2 of .* names no sound"),
        ('{"data": [{"wav": 5}]}', "Entry 1 of .* names no sound"),
        ('{"data":\n [{"wav": "a.wav"}\n', "Line 3 of .* is no JSON"),
        ('{"dates": []}', "has no list called data"),
        ("[" * 100_000, "is no JSON: it is nested too deeply"),
    ],
)
def test_a_json_that_is_wrong_is_refused_by_its_entry(tmp_path, content, words):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(data.DataError, match=words):
        data.find_clips([tmp_path / "a.json"])


def test_a_json_may_have_a_byte_order_mark(tmp_path):
    entries = {"data": [{"wav": "ü.wav", "labels": "x|y"}, {"wav": "b.wav", "labels": ["x"]}]}
    (tmp_path / "a.json").write_text(json.dumps(entries), encoding="utf-16")
    assert [clip.path for clip in data.find_clips([tmp_path / "a.json"])] == [
        str(tmp_path / "ü.wav"),
        str(tmp_path / "b.wav"),
    ]
    assert read_labelled(tmp_path / "a.json", ("x", "y")).targets.tolist() == [[1, 1], [1, 0]]


def test_rows_that_come_twice_are_said(tmp_path, caplog):
    path = tmp_path / "a.csv"
    path.write_text("path,label\na.wav,x\nb.wav,y\na.wav,x\n")
    heard, read = data.Passed(), data.Passed()
    assert len(data.find_clips([path], heard)) == 3, "what is listed twice is heard twice"
    assert len(read_labelled(path, passed=read)) == 2, "but judged once"
    assert heard.counts == read.counts == {lists.TWICE: 1}
    data.find_clips([path])
    (said,) = caplog.messages
    assert "1 more than 2 different sounds are listed" in said
    assert "each is heard as often as it is listed" in said
    assert "Passed over" not in said


# --- labels -------------------------------------------------------------------------------------------------------


def labels_of(tmp_path, *texts, labels=None):
    rows = [("path", "labels"), *((f"{number}.wav", text) for number, text in enumerate(texts))]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    read = read_labelled(tmp_path / "a.csv", labels)
    return read.labels, [{read.labels[i] for i in row.nonzero()[0]} for row in read.targets]


@pytest.mark.parametrize(
    "both", ["Robin;Wren", "Robin|Wren", "Robin,Wren", "Robin, Wren", " Robin ; Wren ;", "Wren,Robin,Wren"]
)
def test_several_labels_are_no_third_class(tmp_path, both):
    assert labels_of(tmp_path, both, "Robin", "Wren") == (("Robin", "Wren"), [{"Robin", "Wren"}, {"Robin"}, {"Wren"}])
    given = labels_of(tmp_path, both, "Robin", labels=("Wren", "Robin"))
    assert given == (("Wren", "Robin"), [{"Robin", "Wren"}, {"Robin"}])


def test_a_comma_may_belong_to_a_name(tmp_path):
    assert labels_of(tmp_path, "tap, dripping", "rain", "tap, dripping")[0] == ("rain", "tap, dripping")
    assert labels_of(tmp_path, "speech, male;speech, female", "speech, male")[0] == ("speech, female", "speech, male")
    names = ("speech, male", "speech, female", "speech")
    assert labels_of(tmp_path, "speech, male,speech", "speech, female", labels=names)[1] == [
        {"speech, male", "speech"}, {"speech, female"}
    ]  # fmt: skip


@pytest.mark.parametrize(
    "texts", [("speech, male", "speech, female"), ("Robin,Wren", "Robin", "Jay"), ("a,b", "b,c", "c")]
)
def test_what_may_be_one_label_or_several_is_refused(tmp_path, texts):
    with pytest.raises(LabelError, match=r"Line 2 of .*a.csv names .* one label or several: part several by"):
        labels_of(tmp_path, *texts)


def test_folders_follow_the_same_rule(tmp_path):
    for name in ("Robin", "Wren", "Robin,Wren"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.wav").touch()
    assert read_labelled(tmp_path).labels == ("Robin", "Wren")
    (tmp_path / "Jay,Wren").mkdir()
    (tmp_path / "Jay,Wren" / "x.wav").touch()
    with pytest.raises(LabelError, match=r"The folder .*Jay,Wren names 'Jay,Wren', which may be one label or several"):
        read_labelled(tmp_path)
