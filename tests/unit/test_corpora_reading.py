"""Strict reading, the hash splits and the near-duplicates: what chapter 41 and 31 teach with."""

import string

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.corpora import Problems, audit, normalise, read_tsv, split_of
from course_lib.corpora.splits import position
from course_lib.corpora.strict import integer, number, one_of, text
from course_lib.runtime import CourseError

LINES = [
    (b"good film\t1", None),
    (b"\xe4\xb8\xad\xe6\x96\x87\t0\r", None),
    (b"no tab here", "no tab"),
    (b"two\ttabs\t1", "2 tabs, expected 1"),
    (b"\t1", "empty text"),
    (b"   \t1", "empty text"),
    (b"label is a word\tgood", "label 'good' is not an integer"),
    (b"label is missing\t", "label '' is not an integer"),
    (b"label is a float\t1.0", "label '1.0' is not an integer"),
    (b"caf\xe9\t1", "not utf-8: byte 0xe9 at 4"),
    (b"nul \x00 byte\t1", "NUL byte"),
    (b"", "blank line"),
    (b"old\rmac\t1", "carriage return inside the line (old Macintosh line ends?)"),
    (b"x" * 20_001 + b"\t1", "20,003 characters, more than 20,000"),
    (b"the last one\t0", None),
]


@pytest.fixture
def write(tmp_path):
    def write(content: bytes):
        path = tmp_path / "rows.tsv"
        path.write_bytes(content)
        return path

    return write


def test_every_kind_of_bad_line_is_listed_with_its_number_and_reason(write):
    rows, problems = read_tsv(write(b"\xef\xbb\xbf" + b"\n".join(line for line, _ in LINES) + b"\n"))
    assert rows == [
        {"text": "good film", "label": 1},
        {"text": "中文", "label": 0},
        {"text": "the last one", "label": 0},
    ]
    expected = [(number, reason) for number, (_, reason) in enumerate(LINES, start=1) if reason]
    assert [(problem.line_number, problem.reason) for problem in problems] == expected
    assert "2 tabs" in str(problems)
    assert problems.reasons()["label ... is not an integer"] == 3


def test_known_labels(write):
    rows, problems = read_tsv(write(b"a\tham\nb\tspam\nc\tSpam\n"), labels=["ham", "spam"])
    assert [row["label"] for row in rows] == [0, 1]
    assert problems[0].reason == "unknown label 'Spam'; expected one of: ham, spam"
    assert len(read_tsv(write(b"a\t0\nb\t2\n"), labels=[0, 1]).problems) == 1


def test_a_schema_of_ones_own(write):
    rows, problems = read_tsv(
        write(b"7\t-1.5\thello\nx\tnan\thello\n8\tnan\thello\n9\t1\n"),
        {"id": integer, "score": number, "text": text},
    )
    assert rows == [{"id": 7, "score": -1.5, "text": "hello"}]
    assert [problem.line_number for problem in problems] == [2, 3, 4]
    assert one_of(["a", "b"])(" b ") == 1


def test_other_encodings(write):
    assert read_tsv(write("café\t1\n".encode("cp1252")), encoding="cp1252").rows == [{"text": "café", "label": 1}]
    assert read_tsv(write("好\t1\n".encode("gb18030")), encoding="gb18030").rows == [{"text": "好", "label": 1}]
    utf16 = write("好\t1\r\nno tab\r\n".encode("utf-16"))
    with pytest.raises(CourseError, match="encoding='utf-16'"):
        read_tsv(utf16)
    rows, problems = read_tsv(utf16, encoding="utf-16")
    assert rows == [{"text": "好", "label": 1}]
    assert problems[0].line_number == 2
    with pytest.raises(CourseError, match="not an encoding"):
        read_tsv(utf16, encoding="utf8000")


def test_a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(CourseError, match="cannot be read"):
        read_tsv(tmp_path / "nothing.tsv")


def test_no_problems_print_as_such(write):
    assert str(read_tsv(write(b"a\t1\n")).problems) == "no problems"
    assert "and 5 more" in str(Problems(read_tsv(write(b"x\n")).problems * 25))


PLAIN = st.text(st.characters(exclude_characters="\t\n\r\0", exclude_categories=["Cs"]), min_size=1, max_size=60)
PLAIN = PLAIN.filter(lambda characters: characters.strip())


@given(st.lists(st.tuples(PLAIN, st.integers(-9, 9)), max_size=8), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_what_is_written_comes_back(tmp_path_factory, rows, line_end, mark):
    path = tmp_path_factory.mktemp("tsv") / "rows.tsv"
    lines = "".join(f"{row_text}\t{label}{line_end}" for row_text, label in rows)
    path.write_bytes(b"\xef\xbb\xbf" * mark + lines.encode())
    # a text that begins with a byte order mark of its own loses it, as any reader does
    found = read_tsv(path)
    assert not found.problems
    expected = [{"text": row_text.strip(), "label": label} for row_text, label in rows]
    if rows and not mark:
        expected[0]["text"] = rows[0][0].removeprefix("\ufeff").strip()
    assert found.rows == expected or (rows and not rows[0][0].removeprefix("\ufeff").strip())


@given(st.binary(max_size=200) | st.text("ab1\t\n\r\0é", max_size=80).map(str.encode))
def test_no_line_of_any_file_is_lost(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("tsv") / "any.tsv"
    path.write_bytes(content)
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return
    rows, problems = read_tsv(path)
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    assert len(rows) + len(problems) == len(lines) - (not lines[-1])
    assert all(row["text"] for row in rows)
    numbers = [problem.line_number for problem in problems]
    assert numbers == sorted(set(numbers))


# --- splits ----------------------------------------------------------------------------------------------------------


def test_the_hash_never_changes():
    # these values are fixed for ever, or everyone's splits move
    assert normalise("ＧＯＯＤ film, 10/10!!") == "goodfilm"
    assert normalise("10/10") == "10/10"
    assert normalise("  :-) ") == ":-)"
    assert position("goodfilm") == pytest.approx(0.8827157859594971, abs=1e-12)
    assert [split_of(word) for word in ("one", "two", "three", "four", "five", "six", "seven")] == [
        "train",
        "validation",
        "train",
        "test",
        "test",
        "train",
        "validation",
    ]


@given(st.text(max_size=30))
def test_case_digits_punctuation_and_width_do_not_move_a_text(words):
    if any(letter.isalpha() for letter in normalise(words)):
        assert split_of(normalise(words)) == split_of(normalise(f" {words} 42!? "))
        assert normalise(normalise(words)) == normalise(words) or not words.isascii()


def test_shares():
    places = [split_of(f"{a}{b}{c}") for a in string.ascii_lowercase for b in string.ascii_lowercase for c in "abcdef"]
    shares = {split: places.count(split) / len(places) for split in ("train", "validation", "test")}
    assert shares == pytest.approx({"train": 0.75, "validation": 0.10, "test": 0.15}, abs=0.02)


# --- near-duplicates -------------------------------------------------------------------------------------------------

LONG = "The quick brown fox jumps over the lazy dog while seven sleepy cats look on from the garden wall"


def test_audit_finds_a_planted_pair_and_no_other():
    data = datasets.DatasetDict(
        train=datasets.Dataset.from_dict(
            {
                "text": [
                    LONG,
                    "Nothing here resembles any other row of this small set.",
                    "第一句完全不同的话说天气",
                ]
            }
        ),
        test=datasets.Dataset.from_dict(
            {
                "text": [
                    "An honest row of the test set, alone of its kind.",
                    LONG + " today",
                    "今天我们去公园看花很高兴",
                ]
            }
        ),
    )
    found = audit(data)
    assert [(pair.split, pair.row, pair.other_split, pair.other_row) for pair in found.pairs] == [
        ("train", 0, "test", 1)
    ]
    assert 0.8 <= found.pairs[0].similarity < 1
    assert found.leaks("test") == [1]
    assert "1 of 3 test rows (33.3%) have one in train" in str(found)
    assert audit(data, threshold=0.95).pairs == []


def test_audit_of_one_table_and_of_a_wrong_column():
    rows = datasets.Dataset.from_dict({"body": [LONG, LONG.upper(), "别的"]})
    found = audit(rows, "body")
    assert found.counts() == {("all", "all"): 1}
    assert found.pairs[0].similarity == 1
    with pytest.raises(CourseError, match="no column 'text'; it has: body"):
        audit(rows)
