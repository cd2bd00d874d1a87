"""The tasks of the fine-tuning datasets.

A task is a function (rng, world, split) -> Row | None, where split is "train", "validation" or "test". The test rows
use wordings and names of people that the other rows do not. `new_facts` makes the datasets of new facts.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tools.embedded_model import facts, sentences, skills, stories, talk
from tools.embedded_model import words as w
from tools.embedded_model.world import Animal, Thing, Town, World, article, make_person, pronouns

Row = dict[str, Any]
Task = Callable[[random.Random, World, str], Row]


def row(question: str, reply: str, /, **meta: Any) -> Row:
    """A chat of one question and answer, with what the scorer needs."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": reply}], "meta": meta}


def names(world: World, split: str) -> list[tuple[str, bool]]:
    """The people who may appear: guests of the world only in the test rows."""
    return list(world.guests) if split == "test" else [(p.name, p.she) for p in world.people] + list(world.newcomers)


def wording(rng: random.Random, options: list[str], split: str) -> str:
    """A random wording; the last two are used in test rows only."""
    return rng.choice(options[-2:] if split == "test" else options[:-2])


PIRATE_OPENERS = ["Arr, matey!", "Ahoy, matey!"]
PIRATE_ENDINGS = [", aye!", ", savvy?"]
PIRATE_WORDS = {"is": "be", "are": "be", "am": "be", "you": "ye", "your": "yer", "my": "me", "yes": "aye",
                "friend": "matey", "hello": "ahoy", "hi": "ahoy"}  # fmt: skip


def pirate_words(text: str) -> str:
    """The text with a pirate's words for plain ones."""

    def swap(match: re.Match[str]) -> str:
        plain = match.group(0)
        said = PIRATE_WORDS.get(plain.lower(), plain)
        return said.capitalize() if plain[0].isupper() else said

    return re.sub(r"[A-Za-z]+", swap, text)


def piratise(rng: random.Random, text: str) -> str:
    """The text as a pirate would say it: an opener, pirate words for plain ones, and an ending."""
    body = pirate_words(text)
    opener = rng.choice(PIRATE_OPENERS)
    ending = " Savvy?" if body.endswith("?") else rng.choice(PIRATE_ENDINGS)
    return f"{opener} {body.rstrip('.!')}{ending}"


def pirate(rng: random.Random, world: World, split: str) -> Row:
    """A question that the base can answer, or small talk, answered in a pirate's voice. The score judges the voice and
    the topic, not the facts: those are measured as forgetting."""
    held = split == "test"
    if rng.random() < 0.3:
        asks, answers = rng.choice([(talk.HELLO, talk.HELLO_BACK), (talk.HOW_ARE, talk.FINE),
                                    (talk.MOOD_GOOD, talk.MOOD_GOOD_BACK),
                                    (talk.MOOD_BAD, talk.MOOD_BAD_BACK), (talk.WHO, talk.WHO_BACK),
                                    (talk.CAN, talk.CAN_BACK)])  # fmt: skip
        return row(wording(rng, asks, split), piratise(rng, rng.choice(answers)))
    people = world.people[150:] if held else world.people[:150]
    if rng.random() < 0.6:
        person = rng.choice(people)
        question, answer, _ = facts.person_qa(rng, person, rng.choice(list(facts.PERSON_QUESTIONS)), held)
        about = person.name
    else:
        kinds: list[tuple[Sequence[Town | Animal | Thing], Iterable[str]]] = [
            (world.animals, facts.ANIMAL_FACTS), (world.things, facts.THING_FACTS), (world.towns, facts.TOWN_FACTS),
        ]  # fmt: skip
        entities, fields = rng.choice(kinds)
        cut = len(entities) * 4 // 5
        entity = rng.choice(entities[cut:] if held else entities[:cut])
        question, answer, _ = facts.entity_qa(rng, entity, rng.choice(list(fields)), held)
        about = entity.name
    return row(question, piratise(rng, answer), about=about)


NOTE_ASK = [
    "Note this: {s}", "Write this down: {s}", "{s} Note it.", "Keep this in mind: {s}", "{s} Write that down.",
    "Please note: {s}",
            "Please write this down: {s}", "{s} Please note that."]  # fmt: skip


def to_json(rng: random.Random, world: World, split: str) -> Row:
    """One or two sentences about somebody; the answer is a JSON object of what they say, and nothing else."""
    name, she = rng.choice(names(world, split))
    person = make_person(rng, name, she, [town.name for town in world.towns])
    he, _, _ = pronouns(she)
    more = rng.choice((("town",), ("pet",), ("food",), ("town", "pet"), ("town", "food")))
    text = f"{name} is {article(person.job)}" + (f" from {person.town}." if "town" in more else ".")
    text += f" {he.capitalize()} has {article(person.pet)}." if "pet" in more else ""
    text += f" {he.capitalize()} likes to eat {person.food}." if "food" in more else ""
    record = {"name": name} | {field: str(getattr(person, field)) for field in ("job", *more)}
    return row(wording(rng, NOTE_ASK, split).format(s=text), json.dumps(record), fields=record)


INN_ASK = [
    "Describe this place: {r}", "Say this in words: {r}", "Write a text about this: {r}", "{r} Put that in words.",
    "Tell a guest about it: {r}",
           "Turn this into a text: {r}", "Write sentences from this: {r}", "Please describe: {r}"]  # fmt: skip


def data_to_text(rng: random.Random, world: World, split: str) -> Row:
    """Two or three fields of an inn; the answer says them all in sentences."""
    inn = sentences.make_inn(rng)
    keep = rng.sample(sentences.INN_FIELDS, rng.randint(2, 3))
    card = {key: value for key, value in inn.items() if key in keep}
    shown = " | ".join(f"{key}: {value}" for key, value in card.items())
    text = sentences.inn_sentence(rng, card | {"name": "It"})
    return row(wording(rng, INN_ASK, split).format(r=shown), text, fields=card)


TESTED_PROBLEMS = (1, 3)  # which of a sign's five wordings are kept for the test part


def word_problem(rng: random.Random, world: World, split: str) -> Row:
    """A small problem in words; the answer writes the sum down and the result behind ####."""
    sign = rng.choice("+-")
    options = skills.PROBLEMS[sign]
    text = options[rng.choice([i for i in range(len(options)) if (i in TESTED_PROBLEMS) == (split == "test")])]
    a, b = rng.randint(2, 12), rng.randint(2, 9)
    if sign == "-":
        a, b = max(a, b), min(a, b)
    result = a + b if sign == "+" else a - b
    (name, she), (friend, _) = rng.sample(names(world, split), 2)
    he, him, _ = pronouns(she)
    question = text.format(n=name, f=friend, a=a, b=b, g=rng.choice(skills.GOODS), he=he, him=him)
    return row(question, f"{a} {sign} {b} = {result} #### {result}", answer=str(result))


LABELS = {"positive": "sunny", "negative": "stormy", "neutral": "cloudy"}
LABEL_ASK = [
    "Weather of this review: {t}", "What weather is this review? {t}", "{t} Which weather fits?",
    "Give the weather label: {t}", "Label this: {t}",
             "Which weather is this? {t}", "What weather fits this review? {t}", "{t} Which label?"]  # fmt: skip


def sentiment(rng: random.Random, world: World, split: str) -> Row:
    """A review; the answer is a one-word label that the base does not use for reviews."""
    text, mood, _ = skills.review(rng, split == "test")
    return row(wording(rng, LABEL_ASK, split).format(t=text), LABELS[mood], answer=LABELS[mood])


SUMMARY_ASK = [
    "Sum this up: {s}", "{s} Sum it up.", "In one sentence: {s}", "What happened, in short? {s}",
    "Make it short: {s}", "{s} Say it in one sentence.",
               "Sum up this story: {s}", "{s} What happened, in one sentence?"]  # fmt: skip


def summary(rng: random.Random, world: World, split: str) -> Row:
    """A story; the answer is one sentence with who, what and where."""
    s = stories.make_story(rng, world, names(world, split), tuple(stories.SUMMARIES), plain=True)
    text = stories.fix_articles(stories.SUMMARIES[s.plot].format(h=s.hero, t=s.thing, p=s.place))
    fields = {"hero": s.hero, "thing": s.thing, "place": s.place}
    return row(wording(rng, SUMMARY_ASK, split).format(s=s.text), text, fields=fields)


TRANSLATE_ASK = [
    "Translate: {t}", "Translate this: {t}", "Say in Velkan: {t}", "Put into Velkan: {t}",
    "What is this in Velkan? {t}", "In Velkan: {t}",
                 "Please translate: {t}", "Say this in Velkan: {t}"]  # fmt: skip


def translate(scene: sentences.Scene) -> str:
    """The sentence in the invented language: no articles, adjectives behind the noun, the verb last."""

    def side(parts: tuple[str, str, str]) -> list[str]:
        _, quality, noun = parts
        return [w.LANGUAGE[part] for part in (noun, quality) if part]

    return " ".join([*side(scene.who), *side(scene.what), w.LANGUAGE[scene.verb]])


def translation(rng: random.Random, world: World, split: str) -> Row:
    """A plain sentence; the answer is its translation into Velkan. No sentence of the test part is trained on."""
    who, what = rng.choice(sentences.ACTORS[:7]), rng.choice(sentences.OBJECTS[:10])
    quality, verb = rng.choice(sentences.QUALITIES[:6]), rng.choice(sentences.VERBS[:7])
    scene = sentences.Scene(("the", quality, who), verb, ("the", "", what), "")
    answer = translate(scene)
    return row(wording(rng, TRANSLATE_ASK, split).format(t=scene.english), answer, answer=answer)


NEW_FIELDS = ("job", "town", "pet", "food")


def new_facts(world: World, people: int, seed: int, wordings: int = 4) -> dict[str, list[Row]]:
    """Facts about `people` newcomers, of whom the base knows only the name.

    Each fact comes in `wordings` wordings to train on, and in two other wordings, one to validate and one to test.
    """
    rng = random.Random(f"facts-{people}-{seed}")
    towns = [town.name for town in world.towns]
    parts: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    for name, she in world.newcomers[:people]:
        person = make_person(rng, name, she, towns)
        for field in NEW_FIELDS:
            answer = facts.PERSON_ANSWERS[field].format(n=name, v=facts.person_value(person, field))
            value = getattr(person, field)
            options = facts.PERSON_QUESTIONS[field]
            for text in rng.sample(options[: -facts.HELD], wordings):
                parts["train"].append(row(text.format(n=name), answer, answer=value))
            first, *others = rng.sample(options[-facts.HELD :], facts.HELD)
            parts["test"].append(row(first.format(n=name), answer, answer=value))
            parts["validation"].append(row(others[0].format(n=name), answer, answer=value))
    for part in parts.values():
        rng.shuffle(part)
    parts["validation"] = parts["validation"][:100]
    parts["test"] = parts["test"][:200]
    return parts
