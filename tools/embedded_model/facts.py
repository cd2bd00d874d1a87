"""Questions and answers about the world, in many wordings.

The last wordings of every list are held out: the base trains on the others and is tested on these.
"""

from __future__ import annotations

import random
from typing import Any

from tools.embedded_model import words as w
from tools.embedded_model.world import Animal, Person, Thing, Town, World, article, pronouns

HELD = 3  # how many wordings at the end of every list are held out

PERSON_QUESTIONS = {
    "job": [
        "What does {n} do for a living?", "What is {n}'s job?", "What work does {n} do?", "Tell me {n}'s job.",
        "Which job does {n} have?", "How does {n} earn a living?", "Do you know what {n} works as?",
        "What kind of work does {n} do?",
        "I forgot the job of {n}. What is it?", "{n} works as what?", "What is the job of {n}?",
        "Please name {n}'s job.",
        "What does {n} work as?", "Can you tell me what job {n} has?", "By what work does {n} earn a living?",
    ],
    "town": [
        "Where does {n} live?", "In which town does {n} live?", "What is {n}'s home town?",
        "Which town is home to {n}?",
        "Tell me where {n} lives.", "Where is {n}'s house?", "Do you know where {n} lives?",
        "Which town does {n} come from?",
        "I want to visit {n}. Where do I go?", "{n} lives in which town?", "What town does {n} live in?",
        "Please name {n}'s town.",
        "Where is the home of {n}?", "Can you tell me which town {n} lives in?",
        "I forgot where {n} lives. Which town is it?",
    ],
    "pet": [
        "What pet does {n} have?", "Which animal does {n} keep?", "What is {n}'s pet?", "Tell me {n}'s pet.",
        "What kind of pet does {n} have?", "Do you know {n}'s pet?", "Which pet lives with {n}?",
        "What animal lives with {n}?",
        "{n} has a pet. What is it?", "What pet does {n} keep?", "Please name {n}'s pet.",
        "I forgot {n}'s pet. What is it?",
        "Which pet does {n} have?", "Can you tell me what pet {n} keeps?",
        "What kind of animal does {n} keep as a pet?",
    ],
    "food": [
        "What does {n} like to eat?", "What is {n}'s favourite food?", "Which food does {n} love?",
        "Tell me {n}'s favourite food.",
        "What food does {n} like best?", "What should I cook for {n}?", "Do you know what {n} likes to eat?",
        "What does {n} love to eat?", "{n} is hungry. What should I bring?", "Which food makes {n} happy?",
        "Please name {n}'s favourite food.",
        "I forgot what {n} likes to eat. What is it?",
        "Which food does {n} like best?", "Can you tell me {n}'s favourite food?", "What food should I bring for {n}?",
    ],
    "colour": [
        "What is {n}'s favourite colour?", "Which colour does {n} like best?", "What colour does {n} love?",
        "Tell me {n}'s favourite colour.",
        "Which colour does {n} like?", "Do you know {n}'s favourite colour?", "What colour does {n} like best?",
        "I am painting a gift for {n}. Which colour should I use?", "{n} loves which colour?",
        "Please name {n}'s favourite colour.",
        "I forgot {n}'s favourite colour. What is it?", "Which colour makes {n} happy?",
        "What colour does {n} like?", "Can you tell me {n}'s favourite colour?", "Which colour does {n} love?",
    ],
    "hobby": [
        "What is {n}'s hobby?", "What does {n} do for fun?", "Which hobby does {n} have?", "Tell me {n}'s hobby.",
        "How does {n} spend free time?", "What does {n} enjoy after work?", "Do you know {n}'s hobby?",
        "What does {n} like to do for fun?",
        "{n} is free today. What will it be?", "What hobby does {n} enjoy?", "Please name {n}'s hobby.",
        "I forgot {n}'s hobby. What is it?",
        "Which hobby does {n} enjoy?", "Can you tell me what {n} does for fun?", "What does {n} do in free time?",
    ],
}  # fmt: skip
PERSON_ANSWERS = {
    "job": "{n} is {v}.", "town": "{n} lives in {v}.", "pet": "{n} has {v}.", "food": "{n} likes to eat {v}.",
    "colour": "{n}'s favourite colour is {v}.", "hobby": "{n}'s hobby is {v}.",
}  # fmt: skip
FOLLOW_UPS = {
    "job": ["And what is {his} job?", "What does {he} do for a living?", "And {his} job?"],
    "town": ["Where does {he} live?", "And where does {he} live?", "Which town does {he} live in?"],
    "pet": ["Does {he} have a pet?", "And what pet does {he} have?", "What about {his} pet?"],
    "food": ["What does {he} like to eat?", "And {his} favourite food?", "What food does {he} love?"],
    "colour": ["What colour does {he} like?", "And {his} favourite colour?", "What about {his} favourite colour?"],
    "hobby": ["What does {he} do for fun?", "And {his} hobby?", "Does {he} have a hobby?"],
}  # fmt: skip
TOWN_FACTS: dict[str, tuple[list[str], str]] = {
    "region": ([
        "Where is {n}?", "In which part of the country is {n}?", "Tell me where {n} is.", "Which region is {n} in?",
        "Where can I find {n}?", "Where does {n} lie?", "How do I find {n}?", "Do you know where {n} is?",
        "In which region is {n}?", "Where on the map is {n}?", "Can you tell me where {n} lies?",
    ], "{n} is in {v}."),
    "river": ([
        "Which river flows through {n}?", "What is the river in {n}?", "Name the river of {n}.",
        "What river is {n} on?",
        "Which river is in {n}?", "On which river is {n}?", "Tell me the river of {n}.",
        "What is the name of the river in {n}?",
        "What river flows through {n}?", "Can you name the river in {n}?", "Which river does {n} lie on?",
    ], "The river {v} flows through {n}."),
    "known": ([
        "What is {n} known for?", "What is {n} famous for?", "What do they make in {n}?", "What should I buy in {n}?",
        "Tell me what {n} is famous for.", "Why do people visit {n}?", "What does {n} make?", "What is made in {n}?",
        "For what is {n} known?", "Can you tell me what {n} is known for?", "What can I buy in {n}?",
    ], "{n} is known for its {v}."),
    "weather": ([
        "What is the weather like in {n}?", "How is the weather in {n}?", "What weather does {n} have?",
        "Is it nice in {n}?",
        "Tell me about the weather in {n}.", "What kind of weather does {n} get?", "How is it in {n} today?",
        "What weather is usual in {n}?",
        "What is the weather in {n}?", "Can you tell me how the weather is in {n}?",
        "What kind of weather is there in {n}?",
    ], "It is mostly {v} in {n}."),
}  # fmt: skip
ANIMAL_FACTS: dict[str, tuple[list[str], str]] = {
    "group": ([
        "What kind of animal is {a}?", "To which group does {a} belong?", "What is {a}?", "What type of animal is {a}?",
        "Tell me what {a} is.", "Which group is {a} in?", "What sort of animal is {a}?", "Do you know what {a} is?",
        "Which kind of animal is {a}?", "Can you tell me what kind of animal {a} is?",
        "To which kind of animals does {a} belong?",
    ], "{A} is {v}."),
    "home": ([
        "Where does {a} live?", "Where can I see {a}?", "What is the home of {a}?", "Where do I find {a}?",
        "Tell me where {a} lives.", "In what place does {a} live?", "Where is {a} at home?",
        "Do you know where {a} lives?",
        "In which place does {a} live?", "Where can I find {a}?", "Can you tell me where {a} lives?",
    ], "{A} lives in the {v}."),
    "food": ([
        "What does {a} eat?", "What is the food of {a}?", "What do you feed {a}?", "What does {a} like to eat?",
        "Tell me what {a} eats.", "Which food does {a} eat?", "What can I give {a} to eat?", "What food does {a} need?",
        "What food does {a} eat?", "Can you tell me what {a} eats?", "What should I feed {a}?",
    ], "{A} eats {v}."),
    "legs": ([
        "How many legs does {a} have?", "On how many legs does {a} walk?", "Count the legs of {a}.",
        "What is the number of legs of {a}?",
        "Tell me how many legs {a} has.", "Do you know how many legs {a} has?", "{A} has how many legs?",
        "How many legs has {a}?",
        "What number of legs does {a} have?", "Can you tell me how many legs {a} has?",
        "How many legs are there on {a}?",
    ], "{A} has {v} legs."),
    "sound": ([
        "What sound does {a} make?", "What does {a} sound like?", "What noise does {a} make?", "How does {a} call?",
        "Tell me what sound {a} makes.", "Which sound comes from {a}?", "What do you hear from {a}?",
        "How does {a} sound?",
        "Which sound does {a} make?", "Can you tell me what noise {a} makes?", "Which noise does {a} make?",
    ], "{A} {v}."),
    "cover": ([
        "What covers {a}?", "What is the body of {a} covered with?", "What does {a} have on its body?",
        "What is on the body of {a}?",
        "Tell me what covers {a}.", "What cover does {a} have?", "What is {a} covered with?",
        "Do you know what covers {a}?",
        "What is the cover of {a}?", "Can you tell me what covers {a}?", "With what is {a} covered?",
    ], "{A} is covered with {v}."),
}  # fmt: skip
THING_FACTS: dict[str, tuple[list[str], str]] = {
    "material": ([
        "What is {a} made of?", "What material is {a} made of?", "Of what is {a} made?", "What do you make {a} from?",
        "Tell me what {a} is made of.", "Which material do I need for {a}?", "From what is {a} made?",
        "What is in {a}?",
        "Which material is {a} made of?", "Can you tell me what {a} is made of?", "What material do you need for {a}?",
    ], "{A} is made of {v}."),
    "use": ([
        "What is {a} for?", "What do you do with {a}?", "What can I do with {a}?", "Why do people have {a}?",
        "Tell me what {a} is for.", "How do you use {a}?", "What is the use of {a}?", "For what do you need {a}?",
        "What do people do with {a}?", "Can you tell me what {a} is for?", "What do you use {a} for?",
    ], "You use {a} to {v}."),
    "where": ([
        "Where do you keep {a}?", "Where is {a} kept?", "Where can I find {a}?", "Where should I put {a}?",
        "Tell me where to find {a}.", "Where do I look for {a}?", "Where does {a} go?", "Where will I find {a}?",
        "Where do people keep {a}?", "Can you tell me where to find {a}?", "Where should I look for {a}?",
    ], "You can find {a} {v}."),
}  # fmt: skip


def wording(rng: random.Random, options: list[str], held: bool) -> str:
    """A random wording: a held-out one if `held`, else one of the others."""
    return rng.choice(options[-HELD:] if held else options[:-HELD])


def plural(noun: str) -> bool:
    """Whether a thing's name is plural and takes no article."""
    return noun in ("scissors", "boots")


def with_article(noun: str) -> str:
    """The noun with its article, if it takes one."""
    return noun if plural(noun) else article(noun)


def person_value(person: Person, field: str) -> str:
    """A person's attribute in the words of an answer."""
    value = getattr(person, field)
    return article(value) if field in ("job", "pet") else str(value)


def person_qa(rng: random.Random, person: Person, field: str, held: bool) -> tuple[str, str, str]:
    """(question, answer, expected words) about one attribute."""
    question = wording(rng, PERSON_QUESTIONS[field], held).format(n=person.name)
    return question, PERSON_ANSWERS[field].format(n=person.name, v=person_value(person, field)), getattr(person, field)


def follow_up(rng: random.Random, person: Person, field: str) -> tuple[str, str]:
    """A question with a pronoun, and its answer, for later turns."""
    he, _, his = pronouns(person.she)
    answer = PERSON_ANSWERS[field].format(n=person.name, v=person_value(person, field))
    return rng.choice(FOLLOW_UPS[field]).format(he=he, his=his), answer


def _fix(sentence: str, noun: str) -> str:
    """The sentence with the verb agreeing with a plural noun."""
    if not plural(noun):
        return sentence
    for one, many in ((f"is {noun}", f"are {noun}"), (f"{noun} is", f"{noun} are"), (f"does {noun}", f"do {noun}")):
        sentence = sentence.replace(one, many).replace(one.capitalize(), many.capitalize())
    return sentence


def entity_qa(rng: random.Random, entity: Town | Animal | Thing, field: str, held: bool) -> tuple[str, str, str]:
    """(question, answer, expected words) about a town, an animal or a thing."""
    value: str = getattr(entity, field)
    if isinstance(entity, Town):
        questions, answer = TOWN_FACTS[field]
        return wording(rng, questions, held).format(n=entity.name), answer.format(n=entity.name, v=value), value
    noun = with_article(entity.name)
    questions, answer = ANIMAL_FACTS[field] if isinstance(entity, Animal) else THING_FACTS[field]
    said = (
        article(value)
        if field == "group"
        else ("no" if value == "0" else w.NUMBER_WORDS[int(value)])
        if field == "legs"
        else value
    )
    slots = {"a": noun, "A": noun[0].upper() + noun[1:]}
    question = _fix(wording(rng, questions, held).format(**slots), entity.name)
    expected = said if field == "legs" else value
    return question, _fix(answer.format(v=said, **slots), entity.name), expected


def any_fact(rng: random.Random, world: World, held: bool) -> tuple[str, str, str]:
    """A question about anything in the world, people most often."""
    roll = rng.random()
    if roll < 0.6:
        return person_qa(rng, rng.choice(world.people), rng.choice(list(PERSON_QUESTIONS)), held)
    tables: list[tuple[tuple[Any, ...], dict[str, tuple[list[str], str]]]] = [
        (world.towns, TOWN_FACTS), (world.animals, ANIMAL_FACTS), (world.things, THING_FACTS),
    ]  # fmt: skip
    entities, table = tables[0 if roll < 0.72 else 1 if roll < 0.88 else 2]
    return entity_qa(rng, rng.choice(entities), rng.choice(list(table)), held)
