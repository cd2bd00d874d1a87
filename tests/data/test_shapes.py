"""Shapes of files that people bring: each row becomes the chat that is meant; what is not used is named in one note."""

import json

import pytest

from lora_playground.data import readers
from lora_playground.errors import DataError


def read(records, name="file.jsonl", mapping=None):
    if not isinstance(records, str):
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        records = "".join(lines) if name.endswith(("jsonl", "txt")) else json.dumps(records, ensure_ascii=False)
    return readers.read_bytes(records.encode(), name, mapping)


def chat(reading, row=0):
    """(first letter of the role, content) of each turn."""
    return [(turn["role"][0], turn["content"]) for turn in reading.rows[row]["messages"]]


def unused(reading):
    notes = [note for note in reading.notes if note.startswith("not used: ")]
    assert len(notes) <= 1
    return notes[0].removeprefix("not used: ").split(", ") if notes else []


HI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
ASKED = [("u", "Hi"), ("a", "Hello")]


@pytest.mark.parametrize(
    ("record", "expected", "left"),
    [
        ({"system_prompt": "Be brief.", "messages": HI}, [("s", "Be brief."), *ASKED], []),
        ({"conversations": HI, "system": "Be brief.", "tools": ""}, [("s", "Be brief."), *ASKED], ["tools"]),
        ({"system": "Be brief.", "messages": [{"role": "system", "content": "In French."}, *HI]},
         [("s", "Be brief.\n\nIn French."), *ASKED], []),
        ({"instruction": "Now?", "input": "", "output": "Snow.", "system": "A bot.", "history": [["Hi", "Hello"]]},
         [("s", "A bot."), *ASKED, ("u", "Now?"), ("a", "Snow.")], []),
        ({"prompt": "Now?", "response": "Snow.", "history": HI}, [*ASKED, ("u", "Now?"), ("a", "Snow.")], []),
        ({"question": "Who?", "answer": "Ada", "context": "Ada bakes.", "id": 3},
         [("u", "Ada bakes.\n\nWho?"), ("a", "Ada")], ["id"]),
        ({"question": "How many?", "schema": "CREATE TABLE t", "query": "SELECT 1"},
         [("u", "CREATE TABLE t\n\nHow many?"), ("a", "SELECT 1")], []),
        ({"instruction": "Who?", "context": "Ada bakes.", "response": "Ada", "category": "qa"},
         [("u", "Who?\n\nAda bakes."), ("a", "Ada")], ["category"]),
        ({"question": "red?", "passage": "It is green.", "answer": False},
         [("u", "It is green.\n\nred?"), ("a", "no")], []),
        ({"question": "Who?", "context": "Ada.", "answers": {"text": ["Ada", "She"], "answer_start": [0, 1]}},
         [("u", "Ada.\n\nWho?"), ("a", "Ada")], ["answers.answer_start"]),
        ({"instruction": "", "input": "Cat in German?", "output": "Katze"},
         [("u", "Cat in German?"), ("a", "Katze")], []),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},
                       {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]}]}, ASKED, []),
        ({"prompt": [HI[0]], "completion": [HI[1]]}, ASKED, []),
        ({"prompt": "Hi", "chosen": HI, "rejected": [HI[0], {"role": "assistant", "content": "Go"}]}, ASKED, []),
        ({"prompt": "Hi", "chosen": "Hello", "rejected": "Go", "score_chosen": 9}, ASKED, ["score_chosen"]),
        ({"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: Go"}, ASKED, []),
        ({"translation": {"en": "Hi", "de": "Hallo", "fr": "Salut"}},
         [("u", "Translate from en to de:\n\nHi"), ("a", "Hallo")], ["translation.fr"]),
        ({"messages": [{**HI[0], "time": 3}, {**HI[1], "model": "x"}]}, ASKED, ["messages[].time", "messages[].model"]),
        ({"en": "Hi", "de": "Hallo", "id": 3}, [("u", "Translate from en to de:\n\nHi"), ("a", "Hallo")], ["id"]),
        ({"dialogue": "A: Hi. B: Hello.", "summary": "They greet."},
         [("u", "A: Hi. B: Hello."), ("a", "They greet.")], []),
        ({"systemInstruction": {"parts": [{"text": "Be brief."}]}, "contents": [
            {"role": "user", "parts": [{"text": "Hi"}]}, {"role": "model", "parts": [{"text": "Hello"}]}]},
         [("s", "Be brief."), *ASKED], []),
        ({"system": "Be brief.", "question": "Hi", "chosen": "Hello", "rejected": "Go"},
         [("s", "Be brief."), *ASKED], []),
        ({"question": "How much?", "answer": "1.10"}, [("u", "How much?"), ("a", "1.10")], []),
        ({"source": "Hallo", "target": "Hi", "source_lang": "de", "target_lang": "en"},
         [("u", "Translate from de to en:\n\nHallo"), ("a", "Hi")], []),
        ({"src": "Hallo", "tgt": "Hi", "tgt_language": "English", "score": 0.5},
         [("u", "Translate to English:\n\nHallo"), ("a", "Hi")], ["score"]),
        ({"input": "Hallo", "output": "Hi", "language_pair": "de-en"},
         [("u", "Translate from de to en:\n\nHallo"), ("a", "Hi")], []),
        ({"input": "Hallo", "output": "Hi", "language": "de"}, [("u", "Hallo"), ("a", "Hi")], ["language"]),
        ({"translation": {"language": ["de", "en"], "translation": ["Hallo", "Hi"]}},
         [("u", "Translate from de to en:\n\nHallo"), ("a", "Hi")], []),
        ({"question": "Who?", "contexts": ["Ada bakes.", "She sells."], "answer": {"value": "Ada", "aliases": []}},
         [("u", "Ada bakes.\n\nShe sells.\n\nWho?"), ("a", "Ada")], ["answer.aliases"]),
        ({"question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}]},
         [("u", "Who?"), ("a", "Ada")], ["answers.answer_start"]),
        ({"messages": [{"role": "user", "from": None, "content": None, "value": "Hi"}, HI[1]], "problem": "Hi"},
         ASKED, ["problem", "messages[].from", "messages[].content"]),
        ({"human": "Hi", "bot": "Hello"}, ASKED, []),
    ],
    ids=lambda value: "/".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
@pytest.mark.parametrize("kind", ["jsonl", "json", "txt"])
def test_fields_become_turns_and_the_rest_is_named(record, expected, left, kind):
    reading = read([record, record], f"file.{kind}")
    assert chat(reading) == expected and unused(reading) == left and reading.bad == 0


def test_numbers_with_a_point_stay_as_written():
    assert chat(read('{"question": 1.50, "answer": 1.10}\n'))[1] == ("a", "1.10")


ROWS = [{"question": f"{n}+1?", "answer": str(n + 1)} for n in range(4)]


@pytest.mark.parametrize(
    "document",
    [
        {"question": {str(n): row["question"] for n, row in enumerate(ROWS)},
         "answer": {str(n): row["answer"] for n, row in enumerate(ROWS)}},
        {str(n): row for n, row in enumerate(ROWS)},
        {"columns": ["question", "answer"], "index": [0, 1, 2, 3], "data": [list(row.values()) for row in ROWS]},
        {"features": [{"name": "question"}], "rows": [{"row_idx": n, "row": row, "truncated_cells": []}
                                                      for n, row in enumerate(ROWS)]},
        {"schema": {"fields": []}, "data": ROWS},
        {"train": ROWS},
        [["question", "answer"], *(list(row.values()) for row in ROWS)],
        {"question": [row["question"] for row in ROWS], "answer": [row["answer"] for row in ROWS]},
    ],
    ids=["columns", "index", "split", "viewer", "table", "train", "header", "lists"],
)  # fmt: skip
def test_shapes_of_a_json_document(document):
    reading = read(document, "a.json")
    assert [chat(reading, n) for n in range(4)] == [[("u", r["question"]), ("a", r["answer"])] for r in ROWS]
    assert unused(reading) == []


def test_keys_beside_the_rows_are_named_and_cut_cells_refused():
    assert unused(read({"train": ROWS, "test": ROWS, "version": 1}, "a.json")) == ["test", "version"]
    rows = [{"row_idx": n, "row": row, "truncated_cells": ["answer"] if n else []} for n, row in enumerate(ROWS)]
    reading = read({"rows": rows}, "a.json")
    assert len(reading.rows) == 1 and reading.bad == 3 and "cut by the viewer" in reading.problems[0].text


TURNS = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]


def test_turns_by_themselves_are_chats():
    assert chat(read([TURNS, TURNS], "a.json")) == ASKED
    assert chat(read({"conversations": TURNS}, "a.json")) == ASKED
    flat = read(TURNS * 2, "a.json")
    assert chat(flat) == ASKED * 2 and "one chat" in flat.notes[0]
    named = [{"conversation_id": n, **turn} for n in (1, 2) for turn in HI]
    assert [chat(read(named), n) for n in (0, 1)] == [ASKED, ASKED]
    table = "conversation_id,role,content\n" + "".join(f"{n},{t['role']},{t['content']}\n" for n in "ab" for t in HI)
    assert len(read(table, "a.csv").rows) == 2


def test_translations_go_one_way_whatever_comes_first_in_a_row():
    reading = read([{"translation": {"en": "Hi", "de": "Hallo"}}, {"translation": {"de": "Ja", "en": "Yes"}}])
    assert [chat(reading, n)[1] for n in (0, 1)] == [("a", "Hallo"), ("a", "Ja")]


@pytest.mark.parametrize(
    ("column", "cell", "learned"),
    [
        ("answers", "{'text': array(['Ada', 'She'], dtype=object), 'answer_start': array([0, 1], dtype=int32)}", "Ada"),
        ("answers", "{'text': ['Ada'], 'answer_start': [0]}", "Ada"),
        ("answers", "['Ada', 'She']", "Ada"),
        ("answer", "['Ada', 'She']", "['Ada', 'She']"),  # which may be what is asked for
        ("answer", '["Ada"]', '["Ada"]'),
        ("answer", '{"name": "Ada"}', '{"name": "Ada"}'),
    ],
)
def test_answers_that_a_table_holds_as_printed_values(column, cell, learned):
    reading = read(f'question,{column}\nWho?,"{cell.replace(chr(34), chr(34) * 2)}"\n', "a.csv")
    assert chat(reading)[1] == ("a", learned)
    assert any("learned as they are written" in note for note in reading.notes) == learned.startswith("['")


@pytest.mark.parametrize("dump", [json.dumps, repr])
def test_chats_in_a_cell(dump):
    cell = '"' + dump(HI).replace('"', '""') + '"'
    assert chat(read(f"messages\n{cell}\n{cell}\n", "a.csv")) == ASKED


def test_tables_in_a_text_file():
    reading = read("question\tanswer\na\tb\nc\td\n", "a.txt")
    assert chat(reading) == [("u", "a"), ("a", "b")] and "table" in reading.notes[0]
    assert read("A line of text, with a comma\nAnd another, too\n", "a.txt").rows[0]["text"].startswith("A line")


@pytest.mark.parametrize(
    ("bad", "good"), [(False, True), ("false", "true"), (0, 1), ("thumbs_down", "thumbs_up"), (-1, 1)]
)
@pytest.mark.parametrize("column", ["label", "rating", "kto_tag"])
def test_rows_marked_as_bad_are_left_out(column, bad, good):
    records = [{"prompt": f"q{n}", "completion": "x", column: bad if n % 2 else good} for n in range(6)]
    reading = read(records)
    assert [chat(reading, n)[0][1] for n in range(3)] == ["q0", "q2", "q4"] and len(reading.rows) == 3
    assert any("3 rows were left out" in note and column in note for note in reading.notes)


def test_a_rating_that_is_not_understood_is_said():
    reading = read([{"prompt": f"q{n}", "completion": "x", "score": n} for n in range(5)])
    assert len(reading.rows) == 5 and unused(reading) == ["score"]
    assert any("whatever score says" in note for note in reading.notes)


@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": False}, {"rating": "bad"}])
def test_answers_that_are_not_to_be_learned_are_marked(mark):
    reading = read([{"messages": [*HI[:1], {**HI[1], **mark}, *HI]}])
    assert [turn.get("weight") for turn in reading.rows[0]["messages"]] == [None, 0, None, None]
    assert any("not learned" in note for note in reading.notes) and unused(reading) == []
    with pytest.raises(DataError, match="none of its answers"):
        read([{"messages": [HI[0], {**HI[1], **mark}]}])


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        ({"role": "assistant", "content": None, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "warmth", "arguments": '{"port": 0}'}}]},
         {"role": "tool", "tool_call_id": "1", "content": "21"}),
        ({"from": "function_call", "value": '{"name": "warmth", "arguments": {"port": 0}}'},
         {"from": "observation", "value": "21"}),
        ({"role": "assistant", "function_call": {"name": "warmth", "arguments": '{"port": 0}'}},
         {"role": "function", "name": "warmth", "content": "21"}),
    ],
    ids=["calls", "sharegpt", "old"],
)  # fmt: skip
def test_turns_of_tools_are_kept_whole(call, answer):
    row = read([{"messages": [HI[0], call, answer, HI[1]]}]).rows[0]["messages"]
    assert [turn["role"] for turn in row] == ["user", "assistant", "tool", "assistant"]
    assert row[1]["tool_calls"][0]["function"] == {"name": "warmth", "arguments": {"port": 0}}
    assert row[2]["content"] == "21"


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"messages": [HI[0], {"role": "assistant", "content": [{"type": "image"}]}]}, "part of type 'image'"),
        ({"messages": HI, "tools": [{"name": "x"}]}, "describes tools"),
        ({"messages": [{**HI[0]}, {**HI[1], "weight": 0.5}]}, "only 0 and 1"),
        ({"messages": [HI[0], {"role": "tool", "content": "21"}, HI[1]]}, "no tool was called"),
        ({"prompt": "a", "completion": "b", "history": [["x"]]}, "pairs of question and answer"),
        ({"chosen": "Hello", "rejected": "Go"}, "there is no question"),
        ({"translation": {"en": "Hi"}}, "two languages"),
        ({"question": "a", "answers": {"text": []}}, "'answers' is an empty list: the row has no answer"),
        ({"question": "a", "answer": "<NA>"}, "the row has no answer"),
        ({"premise": "a", "hypothesis": "b", "label": -1}, "the row has no label"),
        ({"source": "Hallo", "target": "Hi", "lang_pair": "German"}, "must say which way to translate"),
        ({"source": "Hallo", "target": "Hi", "target_lang": None}, "'target_lang' holds null"),
    ],
)
def test_what_is_not_understood_is_refused(record, expected):
    with pytest.raises(DataError, match=expected):
        read([record])


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ({"messages": "messages", "prompt": "more"}, "prompt='more' would have no effect"),
        ({"text": "more", "system": "other"}, "system='other' would have no effect"),
        ({"messages": "messages", "system": "empty"}, "'empty', given for system, is empty in every row"),
        ({"prompt": "more", "completion": "more"}, "'more' is given for two roles"),
    ],
)
def test_a_mapping_without_effect_is_refused(mapping, expected):
    with pytest.raises(DataError, match=expected):
        read([{"messages": HI, "more": "x", "other": "y", "empty": ""}], mapping=mapping)


def test_parquet_without_the_library_says_what_to_do(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DataError, match="pip install"):
        readers.read_bytes(b"PAR1" + b"x" * 30 + b"PAR1", "a.parquet")
