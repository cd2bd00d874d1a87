"""Uploaded files of every shape and every kind of damage: rows are found, and each complaint names row and remedy."""

import json
import re
import subprocess
import sys

import pytest

from lora_playground.data import readers
from lora_playground.data.values import RowError
from lora_playground.errors import DataError

CHAT = [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "4"}]
GOOD = '{"question": "What is 2 + 2?", "answer": "4"}\n'


def read(text, name="file.jsonl", mapping=None):
    data = text if isinstance(text, bytes) else text.encode()
    return readers.read_bytes(data, name, mapping)


@pytest.mark.parametrize(
    "record",
    [
        {"messages": CHAT},
        {"conversations": [{"from": "human", "value": "What is 2 + 2?"}, {"from": "gpt", "value": "4"}]},
        {"prompt": "What is 2 + 2?", "completion": "4"},
        {"instruction": "What is 2 + 2?", "input": "", "output": "4"},
        {"Question": "What is 2 + 2?", "Answer": 4},
        {"mr": "What is 2 + 2?", "ref": "4", "id": 3},
        {"input": "What is 2 + 2?", "target": "4"},
    ],
    ids=lambda record: "/".join(record),
)
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv"])
def test_layouts(record, kind):
    if kind in ("csv", "tsv"):
        if any(isinstance(value, list) for value in record.values()):
            pytest.skip("a chat does not fit into a cell")
        mark = "," if kind == "csv" else "\t"
        text = mark.join(record) + "\n" + mark.join(f'"{value}"' for value in record.values()) + "\n"
    else:
        text = json.dumps([record] if kind == "json" else record)
    reading = read(text, f"file.{kind}")
    assert reading.rows == [{"messages": CHAT, "meta": {"line": 1 if kind.startswith("json") else 2}}]
    assert reading.bad == 0 and reading.format == kind


def test_instruction_with_input_and_system():
    record = {"system": "Be brief.", "instruction": "Translate.", "input": "Hund", "output": "dog"}
    messages = read(json.dumps(record)).rows[0]["messages"]
    assert [message["content"] for message in messages] == ["Be brief.", "Translate.\n\nHund", "dog"]


def test_mapping_overrules_detection():
    text = "Frage;Antwort;text\nWas?;Das.;x\n"
    reading = read(text, "daten.csv", {"prompt": "Frage", "completion": "Antwort"})
    assert [message["content"] for message in reading.rows[0]["messages"]] == ["Was?", "Das."]
    with pytest.raises(DataError, match=r"no column 'Fragen'.*found are 'Frage'"):
        read(text, "daten.csv", {"prompt": "Fragen", "completion": "Antwort"})
    with pytest.raises(DataError, match="no role"):
        read(text, "daten.csv", {"frage": "Frage"})
    with pytest.raises(DataError, match="prompt and completion"):
        read(text, "daten.csv", {"prompt": "Frage"})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings(encoding):
    reading = read('{"question": "Größe 漢字 🙂?", "answer": "yes and more of it"}\n'.encode(encoding))
    assert reading.rows[0]["messages"][0]["content"] == "Größe 漢字 🙂?"


@pytest.mark.parametrize(
    ("encoding", "shown", "question", "answer"),
    [
        ("latin-1", "Windows-1252", "Wie groß?", "zwölf"),
        ("cp1251", "Windows-1251", "Рейс прошёл спокойно?", "да, спокойно"),
        ("koi8-r", "KOI8-R", "Рейс прошёл спокойно?", "да, спокойно"),
        ("shift_jis", "Shift JIS", "犬はどこですか？", "庭にいます。"),
        ("gb18030", "GB 18030", "狗在哪里？", "在花园里。"),
    ],
)
def test_encodings_of_before_unicode_are_read_with_a_note(encoding, shown, question, answer):
    reading = read(f'question;answer\n"{question}";"{answer}"\n'.encode(encoding), "a.csv")
    assert [turn["content"] for turn in reading.rows[0]["messages"]] == [question, answer]
    assert (
        reading.encoding == shown.lower() and f"Line 2 is not UTF-8; the file was read as {shown}" in reading.notes[0]
    )


def test_csv_with_quoted_newlines_and_semicolons():
    text = 'question;answer\r\n"one\r\ntwo; three";"say ""hi"""\r\n\r\nfour;five\r\n'
    reading = read(text, "a.csv")
    assert [row["messages"][0]["content"] for row in reading.rows] == ["one\ntwo; three", "four"]
    assert reading.rows[0]["messages"][1]["content"] == 'say "hi"'
    assert reading.lines == [2, 5]


def test_json_shapes():
    rows = [{"question": "a", "answer": "b"}, {"question": "c", "answer": "d"}]
    expected = read("\n".join(map(json.dumps, rows))).rows
    for shape in (rows, {"data": rows}, {"question": ["a", "c"], "answer": ["b", "d"]}):
        assert read(json.dumps(shape, indent=1), "a.json").rows == expected
    assert read("\n".join(map(json.dumps, rows)), "a.json").format == "jsonl"
    assert read(json.dumps(rows), "a.jsonl").format == "json"


def test_line_separators_inside_strings_do_not_cut_lines():
    assert read('{"text": "one\u2028two\u0085three"}\n').rows[0]["text"] == "one\u2028two\u0085three"


def test_text_files():
    assert [row["text"] for row in read("one\ntwo\n\nthree\n", "a.txt").rows] == ["one\ntwo", "three"]
    assert [row["text"] for row in read("one\ntwo\n", "a.txt").rows] == ["one", "two"]
    assert read("one\r\n\r\n\r\ntwo", "a.txt").lines == [1, 4]


def test_duplicates_are_counted_and_one_row_is_noted():
    assert read(GOOD * 3).duplicates == 2
    assert "only one usable row" in read(GOOD).notes[0]


def test_bad_row_among_many_is_skipped_and_listed():
    lines = [GOOD] * 10_000
    lines[5_000] = "{broken\n"
    reading = read("".join(lines))
    assert len(reading.rows) == 9_999 and reading.bad == 1
    assert reading.problems[0].line == 5_001 and "line 5001" in reading.problems[0].text


def _nested(depth):
    return '{"question": ' + "[" * depth + "]" * depth + ', "answer": "x"}'


def _messages(*pairs):
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in pairs]})


MALFORMED = {
    "empty": (b"", "a.jsonl", "empty.*line 1.*[Gg]ive"),
    "only blanks": (b" \n\n\t\n", "a.csv", "empty.*line 1.*[Gg]ive"),
    "only a mark": (b"\xef\xbb\xbf", "a.jsonl", "empty.*line 1"),
    "header only": (b"question,answer\n", "a.csv", "line 1 but no rows. Add"),
    "empty list": (b"[]", "a.json", "no row 1. Give"),
    "long line": (
        b'{"question": "' + b"x" * 50_000_000 + b'", "answer": "y"}',
        "a.jsonl",
        "line 1.*50,000,.*each line",
    ),
    "long cell": (b"question,answer\nx," + b"y" * 3_000_000, "a.csv", "line 2.*Close or shorten"),
    "long row": (json.dumps({"text": "x" * 500_000}), "a.jsonl", "line 1.*500,000 characters.*Cut"),
    "binary": (bytes(range(256)) * 40, "a.jsonl", "line 2.*byte 128.*looks binary.*Give"),
    "zip": (b"PK\x03\x04rest", "a.csv", "Excel.*line 1.*export"),
    "parquet": (b"PAR1rest", "a.jsonl", "Parquet.*line 1.*convert"),
    "gzip": (b"\x1f\x8b\x08rest", "a.jsonl", "gzip.*line 1.*unpack"),
    "pickle": (b"\x80\x04\x95rest", "a.json", "pickle.*line 1.*write"),
    "web page": (b"<!DOCTYPE html><html></html>", "a.csv", "line 1.*web page.*Download"),
    "nul bytes": (b"question,answer\na\0b,c\n", "a.csv", "line 2.*NUL.*Save"),
    "broken utf-16": (b"\xff\xfea\x00b\x00\n\x00\x00\xd8", "a.jsonl", "line.*utf-16.*Save it as UTF-8"),
    "unknown ending": (GOOD.encode(), "a.exe", "ending must be one of jsonl.*rename"),
    "nested object": (b'{"question": {"a": 1}, "answer": "x"}', "a.jsonl", "line 1.*an object.*text in quotes"),
    "nested list": (b'{"question": "a", "answer": [1, [2]]}', "a.jsonl", "line 1.*a list.*text in quotes"),
    "wrong columns": (b"foo,bar\n1,2\n", "a.csv", "line 1.*'foo', 'bar'.*expected are.*Rename"),
    "missing field": ((GOOD + '{"question": "a"}').encode(), "a.jsonl", "line 2.*'answer' is missing.*Add"),
    "null": (b'{"question": null, "answer": "x"}', "a.jsonl", "line 1.*null.*text"),
    "mixed types": ((GOOD + '{"question": true, "answer": 4}').encode(), "a.jsonl", "line 2.*true or false.*text"),
    "NaN": ((GOOD + '{"question": "a", "answer": NaN}').encode(), "a.jsonl", "line 2.*NaN.*[Ll]eave"),
    "infinite number": (b'{"question": "a", "answer": 1e999}', "a.jsonl", "line 1.*not finite.*text"),
    "duplicate header": (b"question,answer,question\n1,2,3\n", "a.csv", "line 1.*'question'.*Rename"),
    "duplicate key": (b'{"question": "a", "question": "b", "answer": "c"}', "a.jsonl", "line 1.*twice.*Keep"),
    "open quote": (b'question,answer\na,b\n"c,d\ne,f\n', "a.csv", "line 3.*never closed.*1 more line.*Close"),
    "quote inside": (b'question,answer\n"a"b,c\n', "a.csv", "line 2.*quotation marks.*Double"),
    "too many cells": (b"question,answer\na,b,c\n", "a.csv", "line 2.*3 cells.*header has 2.*Put"),
    "lone surrogate": (rb'{"question": "a\ud800b", "answer": "x"}', "a.jsonl", "line 1.*half a character.*Replace"),
    "nul escape": (rb'{"question": "a\u0000b", "answer": "x"}', "a.jsonl", "line 1.*NUL.*Delete"),
    "5000 digits": (b'{"question": "a", "answer": ' + b"7" * 5_000 + b"}", "a.jsonl", "line 1.*digits.*quotes"),
    "deep": (_nested(200_000), "a.jsonl", "line 1.*nested too deeply.*Give flat"),
    "not JSON": (b"hello\n", "a.jsonl", "line 1.*no valid JSON.*Check"),
    "cut off": (b'[{"question": "a"', "a.json", "no valid JSON.*column.*Check"),
    "bare values": (b'"text"\n12\n', "a.jsonl", "line 1.*a text.*Write"),
    "list of numbers": (b"[1, 2]", "a.json", "row 1.*a number.*Write"),
    "number": (b"12", "a.json", "row 1.*a number.*Write"),
    "blank answer": (b'{"question": "a", "answer": "  "}', "a.jsonl", "line 1.*empty.*Fill"),
    "unknown role": (_messages(("user", "a"), ("narrator", "b")), "a.jsonl", "line 1.*'narrator'.*allowed are"),
    "no answer": (_messages(("user", "a")), "a.jsonl", "line 1.*last message.*End"),
    "same role twice": (_messages(("user", "a"), ("user", "b")), "a.jsonl", "line 1.*1 and 2.*Join"),
    "assistant first": (_messages(("assistant", "a")), "a.jsonl", "line 1.*nobody asked.*Begin"),
    "late system": (_messages(("user", "a"), ("system", "b")), "a.jsonl", "line 1.*message 2.*Move"),
    "messages as text": (b'{"messages": "hi"}', "a.jsonl", "line 1.*must be a list"),
    "empty messages": (b'{"messages": []}', "a.jsonl", "line 1.*must be a list"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name):
    data, file, expected = MALFORMED[name]
    try:
        text = " ".join(problem.text for problem in read(data, file).problems)
    except DataError as error:
        text = str(error)
    assert re.search(expected, text, re.S), text
    assert file in text and len(text) < 600


def test_file_name_is_shown_harmlessly():
    for name in ("../../etc/x.jsonl", "C:\\x\\y.jsonl", "a\nb\x1b[31m.jsonl", "x" * 5_000 + ".jsonl"):
        with pytest.raises(DataError) as caught:
            read(b"{broken", name)
        assert len(str(caught.value)) < 300 and "/" not in str(caught.value).split(":")[0]
        assert all(char.isprintable() for char in str(caught.value))


def test_too_large_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAX_BYTES", 10)
    (tmp_path / "a.jsonl").write_text(GOOD)
    with pytest.raises(DataError, match=r"at most 0 MB.*Split"):
        readers.read_file(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        readers.read_file(tmp_path / "none.jsonl")


def test_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = arrow.table({"question": ["a", None, "c"], "answer": ["1", "2", "3"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    reading = readers.read_file(tmp_path / "a.parquet")
    assert reading.format == "parquet" and reading.layout.kind == "question/answer"
    assert len(reading.rows) == 2 and "row 2" in reading.problems[0].text
    assert readers.columns_of(tmp_path / "a.parquet") == ["question", "answer"]
    odd = arrow.table({"question": ["a", "b"], "answer": [b"bytes", b"more"]})
    parquet.write_table(odd, tmp_path / "odd.parquet")
    with pytest.raises(DataError, match=r"row 1.*a bytes"):
        readers.read_file(tmp_path / "odd.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"PAR1" + b"x" * 100, whole[:8] + b"\0" * 40 + whole[48:]):
        try:
            read(damaged, "a.parquet")
        except DataError as error:
            assert "a.parquet" in str(error)


def test_needs_no_torch():
    code = "import sys, lora_playground.data.uploads; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_row_errors_never_escape():
    with pytest.raises(DataError):
        read('{"a": 1}')
    assert not issubclass(RowError, DataError)
