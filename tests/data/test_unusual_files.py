"""Files of less usual kinds: choices, trees of turns, texts that are chats, places for pictures."""

import json
from typing import Any

import pytest

from lora_playground.data.readers import Reading, read_bytes
from lora_playground.data.transcripts import turns_of
from lora_playground.errors import DataError


def read(*rows: dict[str, Any], name: str = "a.jsonl") -> Reading:
    return read_bytes("\n".join(json.dumps(row) for row in rows).encode(), name)


def said(reading: Reading, row: int = 0) -> list[tuple[str, str]]:
    return [(turn["role"][0], turn["content"]) for turn in reading.rows[row]["messages"]]


LISTED = "Which?\n\nA. red\nB. blue\nC. green"
COLOURS = ["red", "blue", "green"]


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"choices": COLOURS, "answer": 1}, "B"),
        ({"choices": {"text": COLOURS, "label": ["A", "B", "C"]}, "answerKey": "C"}, "C"),
        ({"options": {"A": "red", "B": "blue", "C": "green"}, "answer": "(c)"}, "C"),
        ({"options": ["A) red", "B) blue", "C) green"], "answer": "B"}, "B"),
        ({"A": "red", "B": "blue", "C": "green", "answer": "B"}, "B"),
        ({"option_1": "red", "option_2": "blue", "option_3": "green", "correct_answer": "blue"}, "blue"),
        ({"choices": [{"label": "A", "text": "red"}, {"label": "B", "text": "blue"}, {"label": "C", "text": "green"}],
          "answer": "A"}, "A"),
    ],
)  # fmt: skip
def test_choices_are_part_of_the_question(fields: dict[str, Any], answer: str) -> None:
    reading = read({"question": "Which?", **fields}, {"question": "And which?", **fields})
    assert said(reading) == [("u", LISTED), ("a", answer)]
    assert not any("not used" in note for note in reading.notes)


def test_numbers_count_choices_from_where_the_file_does() -> None:
    from_one = read(*({"question": "Which?", "choices": COLOURS, "answer": number} for number in (1, 3)))
    assert [said(from_one, row)[-1][1] for row in (0, 1)] == ["A", "C"] and "from 1" in " ".join(from_one.notes)
    odd = read(*({"question": "Which?", "choices": COLOURS, "answer": answer} for answer in ("A", "pink")))
    assert odd.bad == 1 and "'pink' is none of the choices A, B, C" in odd.problems[0].text
    gap = read(
        {"question": "Which?", "A": "red", "B": "", "C": "green", "answer": "C"}, {"question": "x", "answer": "y"}
    )
    assert said(gap) == [("u", "Which?\n\nA. red\nC. green"), ("a", "C")]
    many = [str(number) for number in range(12)]
    assert said(read({"question": "Which?", "options": many, "answer": "L"}))[0][1].endswith("\nL. 11")
    other = read(*({"question": "Which?", "options": ["S", "M"], "answer": f"A coat in {one}."} for one in COLOURS))
    assert said(other)[0] == ("u", "Which?") and any("most answers are none" in note for note in other.notes)
    rows = [{"Frage": "Which?", "options": COLOURS, "Antwort": "B"}]
    given = read_bytes(json.dumps(rows).encode(), "a.json", {"prompt": "Frage", "completion": "Antwort"})
    assert said(given) == [("u", LISTED), ("a", "B")]


def test_turns_that_answer_each_other_are_chats_of_their_own() -> None:
    turns = [("a", None, "prompter", "Hi?"), ("c", None, "prompter", "Bye?"), ("b", "a", "assistant", "Hello."),
             ("d", "c", "assistant", "Bye."), ("e", "a", "assistant", "Go."), ("f", "b", "prompter", "How?"),
             ("g", "f", "assistant", "So.")]  # fmt: skip
    rows = [{"message_id": own, "parent_id": to, "role": role, "text": text} for own, to, role, text in turns]
    reading = read(*rows)
    assert said(reading) == [("u", "Hi?"), ("a", "Hello."), ("u", "How?"), ("a", "So.")]
    assert said(reading, 1) == [("u", "Bye?"), ("a", "Bye.")]
    assert any(note.startswith("1 turn is left out") for note in reading.notes)


def test_the_best_answer_is_taken_and_what_was_deleted_is_not() -> None:
    turns = [("a", None, "prompter", None, False), ("b", "a", "assistant", 1, False), ("c", "a", "assistant", 0, False),
             ("d", "a", "assistant", None, True), ("e", None, "prompter", None, True)]  # fmt: skip
    names = ("message_id", "parent_id", "role", "rank", "deleted")
    reading = read(*({**dict(zip(names, turn, strict=True)), "text": turn[0]} for turn in turns))
    assert said(reading) == [("u", "a"), ("a", "c")] and len(reading.rows) == 1
    assert any("of a lower rank" in note for note in reading.notes)
    assert any("2 turns are left out: marked as deleted" in note for note in reading.notes)


TWO = [("u", "Hi?"), ("a", "Hello.\nAll well?"), ("u", "Yes"), ("a", "Good.")]


@pytest.mark.parametrize(
    "form",
    [
        ("<|im_start|>user\n{}<|im_end|>\n", "<|im_start|>assistant\n{}<|im_end|>\n"),
        ("<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>",
         "<|start_header_id|>assistant<|end_header_id|>\n\n{}<|eot_id|>"),
        ("<start_of_turn>user\n{}<end_of_turn>\n", "<start_of_turn>model\n{}<end_of_turn>\n"),
        ("<|user|>\n{}</s>\n", "<|assistant|>\n{}</s>\n"),
        ("<s>[INST] {} [/INST]", " {} </s>"),
        ("### Human: {}", "### Assistant: {}"),
        ("### Instruction:\n{}\n\n", "### Response:\n{}\n\n"),
        ("User: {}\n", "Assistant: {}\n"),
        ("Q: {}\n", "A: {}\n"),
    ],
)  # fmt: skip
def test_texts_that_are_chats_are_read_as_chats(form: tuple[str, str]) -> None:
    text = "".join(form[number % 2].format(content) for number, (_, content) in enumerate(TWO))
    reading = read({"text": text}, {"text": text})
    assert said(reading) == TWO and any("were read as chats" in note for note in reading.notes)
    mixed = read({"text": text}, {"text": "No chat."})
    assert all("text" in row for row in mixed.rows), "of a few texts alone no chats are made"


def test_other_texts_stay_texts_and_marks_in_them_are_told() -> None:
    for text in ("The Q: and A: of it", "### Heading\nText", "User: Hi?\nUser: Hello?", "a [INST] b", "Human: alone"):
        assert turns_of(text) is None, text
    system = turns_of("<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi? [/INST] Hello.</s>")
    assert system is not None and [turn["content"] for turn in system[1]] == ["Be kind.", "Hi?", "Hello."]
    told = read({"text": "before <|im_start|>user\nHi?"}, {"text": "plain"}).notes
    assert any("learned as plain text" in note for note in told)


def test_what_needs_a_picture_or_several_labels_is_refused() -> None:
    seen = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A dog."}]
    with pytest.raises(DataError, match="'image' that comes with it; only text"):
        read({"image": "dog.jpg", "conversations": seen})
    several = read({"text": "a", "labels": ["x", "y"]}, {"text": "b", "labels": ["x"]}, {"text": "c", "labels": ["y"]})
    assert several.bad == 1 and "holds 2 labels" in several.problems[0].text
    code = read({"text": "Add two numbers.", "code": "a + b"})
    assert said(code) == [("u", "Add two numbers."), ("a", "a + b")]


def test_labels_of_other_kinds() -> None:
    told = read_bytes(b"text,is_spam\nwin,True\nhi,False\nyo,False\n", "a.csv")
    assert told.layout.classifies and said(told)[-1] == ("a", "True")
    floats = read_bytes(b"text,label\na,1.0\nb,0.0\nc,1.0\nd,nan\n", "a.csv")
    assert [said(floats, row)[-1][1] for row in range(3)] == ["1", "0", "1"]
    assert floats.bad == 1 and "has no label" in floats.problems[0].text
    assert any("only one label" in note for note in read_bytes(b"text,label\na,x\nb,x\n", "a.csv").notes)


def test_tables_as_other_programs_write_them() -> None:
    table = "| question | answer |\n|:---|---:|\n| Hi? | Hello. |\n| Bye? | Bye. |\n"
    for name, text in (("a.txt", table), ("a.csv", "sep=;\nquestion;answer\nHi?;Hello.\nBye?;Bye.\n")):
        reading = read_bytes(text.encode(), name)
        assert [turn[1].strip() for turn in said(reading)] == ["Hi?", "Hello."] and len(reading.rows) == 2
