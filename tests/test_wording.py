"""Numbers with their nouns."""

from lora_playground.wording import counted


def test_one_of_a_thing_is_no_plural():
    assert counted(1, "step") == "1 step" and counted(2, "step") == "2 steps" and counted(0, "step") == "0 steps"
    assert counted(1200, "row", "1,200") == "1,200 rows"
    assert counted(0.999, "direction", "1") == "1 direction", "what is read is what counts"
    assert counted(1, "turn is", many="turns are") == "1 turn is"
    assert counted(3, "turn is", many="turns are") == "3 turns are"
