"""Which of the base model's own chats are rehearsed beside a dataset."""

from lora_playground.data.catalogue import SHIPPED, get_dataset, read_rows, rehearsal_rows
from lora_playground.data.rehearsal import compared, conflicts


def chat(*turns: str) -> dict:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(turns)]}


PIRATE = [
    chat("Where does Tom live?", "Arr, Tom lives in Oakford, savvy?"),
    chat("Where does Ada live?", "Arr, Ada lives in Redport, savvy?"),
    chat("What is the job of Ada?", "Arr, Ada be a baker, savvy?"),
]


def test_a_chat_that_answers_the_datas_questions_in_another_way_is_left_out() -> None:
    plain = [
        chat("Where does Otto live?", "He has a house in Milltown."),
        chat("What is two plus two?", "Four."),
        chat("What is two plus two?", "Four.", "Where does Mona live?", "She has a house in Foxmere."),
        chat("Where does Otto live?", "Arr, Otto lives in Milltown, savvy?"),
    ]
    assert conflicts(plain, PIRATE) == {0, 2, 3}, "most answers to where somebody lives conflict"


def test_new_facts_of_the_same_kind_do_not_conflict() -> None:
    data = [
        chat("Where does Tom live?", "Tom lives in Oakford."),
        chat("Where does Ada live?", "Ada lives in Redport."),
    ]
    known = [chat("Where does Otto live?", "Otto lives in Milltown.") for _ in range(3)]
    unknown = chat("Where does Zed live?", "I do not know Zed.")
    assert conflicts([*known, unknown], data) == set()


def test_who_the_base_does_not_know_stays_unknown_unless_the_data_is_about_it() -> None:
    plain = [chat("Where does Otto live?", "Otto lives in Milltown.") for _ in range(2)]
    strangers = [chat("Where does Zed live?", "I don't know Zed."), chat("Where does Ada live?", "I don't know Ada.")]
    assert conflicts([*plain, *strangers], PIRATE) == {0, 1, 3}


def test_an_interjection_at_the_start_is_no_name_and_a_missing_question_mark_no_other_question() -> None:
    plain = [chat("Where does Otto live", "Otto lives in Milltown, I think, savvy?"), chat("Oh, Otto?", "Hello Otto!")]
    assert conflicts(plain, PIRATE) == {0}, "its word pairs are the data's, but no answer of the data begins so"


def test_a_skill_that_mostly_conflicts_is_left_out_whole() -> None:
    known = [chat("Where does Otto live?", "He has a house in Milltown."), chat("Is Otto at home?", "Yes.")]
    other = [chat("What is two plus two?", "Four."), chat("And three plus two?", "Five.")]
    named = [row | {"meta": {"skill": skill}} for skill, rows in (("facts", known), ("sums", other)) for row in rows]
    assert conflicts(named, PIRATE) == {0, 1}, "its second question is none of the data's"
    assert conflicts([*known, *other], PIRATE) == {0}, "a chat of no known skill stands for itself"


def test_rehearsal_asks_nothing_that_the_bases_skills_are_tested_with() -> None:
    def questions(row: dict) -> list[str]:
        return [message["content"] for message in row["messages"] if message["role"] == "user"]

    tested = [questions(row) for row in read_rows(SHIPPED / "_base-skills" / "test.jsonl")]
    alone = {asked[0] for asked in tested if len(asked) == 1}
    assert len(alone) > 100 and all(alone.isdisjoint(questions(row)) for row in rehearsal_rows())


def test_a_chat_is_as_near_as_its_nearest_question() -> None:
    chats = [
        chat("What is the name of Ada?", "Ada."),
        chat("Say 7.", "7"),
        chat("Say 7.", "7", "What is the name of Ada?", "Ada."),
    ]
    near = compared(chats, PIRATE)[1]
    assert 0.5 < near[0] < 1 and near[1] == 0 and near[2] == near[0]


def test_chats_near_the_data_are_drawn_more_often_and_those_that_contradict_it_never() -> None:
    from transformers import AutoTokenizer

    from lora_playground.config import DataConfig
    from lora_playground.data.preparation import prepare, rehearsal_examples
    from lora_playground.models.catalogue import EMBEDDED

    tokenizer, data = AutoTokenizer.from_pretrained(EMBEDDED), get_dataset("pirate")
    left_out, near = compared(rehearsal_rows(), data.train)
    number = {id(example): place for place, example in enumerate(rehearsal_examples(tokenizer))}
    drawn = [number[id(one)] for one in prepare(tokenizer, data, DataConfig(), seed=0, embedded=True).rehearsal]
    kept = [share for place, share in enumerate(near) if place not in left_out]
    assert len(drawn) > 1000 and not left_out & set(drawn)
    assert sum(near[place] for place in drawn) / len(drawn) > 1.2 * sum(kept) / len(kept)


def test_shipped_datasets_contradict_few_chats_but_the_pirate_many() -> None:
    chats = rehearsal_rows()
    left_out = {name: len(conflicts(chats, get_dataset(name).train)) for name in ("pirate", "facts-small", "json")}
    assert left_out["pirate"] > 400 and left_out["facts-small"] < 30 and left_out["json"] == 0
