"""A conversation's link is read strictly, and what one question says holds for the next."""

import json

import pytest

from lora_playground.errors import ChatError
from lora_playground.ui.conversation import MAX_LINKED, read_link, short_names, why_absent


def test_a_question_inherits_the_settings_before_it() -> None:
    first = {
        "q": "Hi",
        "seed": 7,
        "temperature": 0.5,
        "tune": {"run-1": {"strength": 0.5, "keep": None, "cut": [1, 3]}},
    }
    one, two = read_link(json.dumps([first, {"q": "And?", "length": 16}]))
    assert (one.q, one.seed, one.temperature, one.length) == ("Hi", 7, 0.5, 96)
    assert (two.q, two.seed, two.temperature, two.length) == ("And?", 7, 0.5, 16)
    assert two.tune["run-1"].strength == 0.5 and two.tune["run-1"].cut == (1, 3)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        "[1]",
        '[{"q": ""}]',
        '[{"seed": 1}]',
        '[{"q": "a", "seed": -1}]',
        '[{"q": "a", "seed": "1"}]',
        '[{"q": "a", "temperature": NaN}]',
        '[{"q": "a", "length": 100000}]',
        '[{"q": "a", "tune": {"r": {"strength": 3}}}]',
        '[{"q": "a", "tune": {"r": {"cut": [3, 1]}}}]',
        '[{"q": "a", "colour": "red"}]',
        json.dumps([{"q": "a"}] * (MAX_LINKED + 1)),
        "[" * 100_000,
    ],
)
def test_what_is_no_link_is_refused(text: str) -> None:
    with pytest.raises(ChatError, match="cannot be read"):
        read_link(text)


def test_prompts_that_begin_alike_are_told_apart_by_their_ends() -> None:
    asked = [
        f"Classify the text. Answer with one of these labels alone: bad, good.\n\nThe {x}." for x in ("pen", "pin")
    ]
    assert short_names(asked) == ["… pen.", "… pin."]
    assert short_names(["Where does Ann live?", "Where does Al live?"]) == [
        "Where does Ann live?",
        "Where does Al live?",
    ]
    assert short_names(["x" * 99])[0] == "x" * 71 + "…" and short_names([]) == []


def test_it_is_said_why_a_ticked_run_has_no_pane() -> None:
    assert "is not finished yet (training)" in why_absent("mine", "training", False)
    assert "is not finished yet (waiting for its turn)" in why_absent("mine", "queued", False)
    assert "failed before it had learned" in why_absent("mine", "failed", False)
    assert "Resume" in why_absent("mine", "failed", False)
    assert "Resume" not in why_absent("mine", "failed", False, False)
    assert "was stopped before" in why_absent("mine", "interrupted", False)
    assert "no more than 3 fit" in why_absent("mine", "done", True)
