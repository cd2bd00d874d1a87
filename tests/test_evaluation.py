"""Scorers on answers that are right, nearly right and wrong; evaluation with a plain function as the model."""

import subprocess
import sys

import pytest

from lora_playground import evaluation as ev
from lora_playground.errors import DataError


def row(**meta):
    return {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}], "meta": meta}


@pytest.mark.parametrize(
    ("metric", "meta", "answer", "score"),
    [
        ("contains", {"answer": "baker"}, "Ada is a Baker.", 1),
        ("contains", {"answer": "bake"}, "Ada is a baker.", 0),
        ("contains", {"answer": "in the shed"}, "You can find a saw in the shed.", 1),
        ("contains", {"answer": "don't know"}, "I don't know Ada.", 1),
        ("contains-all", {"answer": "baker|Oakford"}, "A baker from Oakford.", 1),
        ("contains-all", {"answer": "baker|Oakford"}, "A baker from Ashport.", 0),
        ("starts", {"answer": "Yes"}, "Yes, Ada is.", 1),
        ("starts", {"answer": "Yes"}, "No, yes.", 0),
        ("starts", {"answer": "No"}, "Nobody", 0),
        ("number", {"answer": "7"}, "3 + 4 = 7. The answer is 7 eggs.", 1),
        ("number", {"answer": "7"}, "7 - 4 = 3", 0),
        ("number", {"answer": "7"}, "seven", 0),
        ("number", {"answer": "-2"}, "1 - 3 = -2", 1),
        ("exact", {"answer": "a, b"}, " a,  b ", 1),
        ("exact", {"answer": "a, b"}, "a, b.", 0),
        ("label", {"answer": "sunny"}, "Sunny.", 1),
        ("label", {"answer": "sunny"}, "This is sunny", 0),
        ("label", {"answer": "Да"}, " да. ", 1),
        ("label", {"answer": "да"}, "нет", 0),
        ("label", {"answer": "👍"}, "👎", 0),
        ("label", {"answer": "C"}, "C++", 0),
        ("label", {"answer": "晴れ"}, "晴れ。", 1),
        ("contains", {"answer": "Рыба"}, "Здесь подают рис.", 0),
        ("contains", {"answer": "рис"}, "Здесь подают рис.", 1),
        ("contains", {"answer": "की"}, "राम का घर", 0),
        ("contains", {"answer": "東京"}, "私は東京に住む", 1),
        ("contains", {"answer": "+"}, "-", 0),
        ("starts", {"answer": "Да"}, "Нет, не да.", 0),
        ("steps", {"answer": "11"}, "4 + 4 = 8. 8 + 3 = 11. #### 11", 1),
        ("steps", {"answer": "11"}, "4 + 4 = 8. The answer is 11.", 0),
        ("steps", {"answer": "11"}, "#### 11 or so", 0),
        ("pirate", {"about": "Ada"}, "Arr! Ada be a baker.", 1),
        ("pirate", {"about": "Ada"}, "Arr, matey! Ada's hobby be chess.", 1),
        ("pirate", {"about": "Ada"}, "Arr! Zoe be a baker.", 0),
        ("pirate", {"about": "Ada"}, "Ada is a baker.", 0),
        ("pirate", {}, "Ahoy, ahoy!", 0),
        ("pirate", {}, "Ahoy, matey!", 1),
        ("json", {"fields": {"name": "Ada", "job": "cook"}}, '{"name": "Ada", "job": "cook"}', 1),
        ("json", {"fields": {"name": "Ada", "job": "cook"}}, '{"name": "Ada", "job": "baker"}', 0.5),
        ("json", {"fields": {"name": "Ada"}}, '{"name": "Ada", "job": "baker"}', 0.5),
        ("json", {"fields": {"name": "Ada"}}, 'Here: {"name": "Ada"}', 0),
        ("json", {"fields": {"name": "Ada"}}, '["Ada"]', 0),
        ("slots", {"fields": {"name": "The Old Mill", "food": "soup"}}, "The Old Mill serves soup.", 1),
        ("slots", {"fields": {"name": "The Old Mill", "food": "soup"}}, "The Old Mill serves cake.", 0),
        ("slots", {"fields": {"name": "Ресторан А", "food": "рыба"}}, "В «Ресторане Б» есть суп.", 0),
        ("slots", {"fields": {"name": "Ресторан А", "food": "рыба"}}, "В меню Ресторан А: рыба.".replace(":", ","), 1),
        ("slots", {"fields": {"name": "The Old Mill", "food": "soup"}}, "name: The Old Mill | food: soup", 0),
        ("summary", {"fields": {"hero": "Ada", "thing": "kite"}}, "Ada lost a kite.", 1),
        ("summary", {"fields": {"hero": "Ada", "thing": "kite"}}, "Ada lost it. It was a kite.", 0),
        ("summary", {"fields": {"hero": "Ada", "thing": "kite"}}, "Ada lost a kite " + "and ran " * 12, 0),
        ("translation", {"answer": "ka miru vasit"}, "Ka miru vasit.", 1),
        ("translation", {"answer": "ka miru vasit"}, "ka vasit miru", 0),
        ("base-skills", {"metric": "exact", "answer": "1, 2"}, "1, 2", 1),
    ],
)
def test_metric_scores(metric, meta, answer, score):
    assert ev.METRICS[metric].score(answer, row(**meta)) == score


@pytest.mark.parametrize("name", sorted(ev.METRICS))
def test_an_empty_answer_scores_nothing(name):
    meta = {"answer": "7", "fields": {"name": "Ada"}, "metric": "exact"}
    assert ev.METRICS[name].score("", row(**meta)) == 0


def test_evaluate_shows_no_reference_and_keeps_order():
    rows = [
        {
            "messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"}],
            "meta": {"answer": f"a{i}"},
        }
        for i in range(7)
    ]
    asked = []

    def generate(chats):
        asked.append(len(chats))
        assert all(chat[-1]["role"] == "user" for chat in chats)
        return [chat[-1]["content"].replace("q", "a") if chat[-1]["content"] != "q3" else "?" for chat in chats]

    result = ev.evaluate(generate, rows, "exact", batch=3)
    assert asked == [3, 3, 1]
    assert result["n"] == 7 and result["score"] == pytest.approx(6 / 7)
    assert result["samples"][3] == {"prompt": "q3", "answer": "?", "expected": "a3", "score": 0.0}


def test_macro_f1_and_the_majority_stand_beside_accuracy():
    rows = [row(answer=label) for label in ("good", "good", "good", "bad")]
    found = ev.evaluate(lambda chats: ["Good."] * len(chats), rows, "label")
    assert found["score"] == found["majority"] == 0.75
    assert found["macro_f1"] == pytest.approx((2 * 3 / 7 + 0) / 2)
    assert "macro_f1" not in ev.evaluate(lambda chats: [""] * len(chats), rows, "exact")


def test_intervals():
    # Wilson's, as in Newcombe (Statistics in Medicine 17, 1998), table I: 81/263, 15/148, 0/20, 1/29.
    for right, count, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        assert ev.interval(right / count, count) == pytest.approx((low, high), abs=1e-4)
    low, high = ev.paired_interval([0.0] * 90 + [1.0] * 6, [1.0] * 96)
    assert 0.85 < low < 90 / 96 < high <= 1
    low, high = ev.paired_interval([0.0, 1.0] * 48, [1.0, 0.0] * 48)
    assert low == pytest.approx(-high) and low < -0.15
    low, high = ev.paired_interval([1.0] * 96, [1.0] * 96)
    assert low < 0 < high < 0.03


def test_errors_name_what_is_missing_and_allowed():
    with pytest.raises(DataError, match=r'no metric "exakt".*exact'):
        ev.evaluate(lambda chats: [""] * len(chats), [row()], "exakt")
    with pytest.raises(DataError, match=r'no meta "answer".*fields'):
        ev.METRICS["contains"].score("x", row(fields={}))
    with pytest.raises(DataError, match="0 answers to 1 chats"):
        ev.evaluate(lambda chats: [], [row(answer="x")], "exact")
    with pytest.raises(DataError, match="no rows"):
        ev.evaluate(lambda chats: [], [], "exact")


def test_it_is_imported_without_torch():
    code = "import sys, lora_playground.evaluation, tools.embedded_model.datasets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
