"""What the base can do besides knowing facts: sums, sorting, spelling, judging reviews.

A skill is a function (rng, world, held) -> Sample: the turns of a chat, and how its last answer is scored. With `held`
it uses wordings that the base is never trained on.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from tools.embedded_model import facts, stories, talk
from tools.embedded_model import words as w
from tools.embedded_model.talk import Turn
from tools.embedded_model.world import World, article, join, pronouns


@dataclass(frozen=True)
class Sample:
    """A chat as turns; `metric` names how the last answer is scored against `answer` ("" = it is not scored)."""

    skill: str
    turns: list[Turn]
    metric: str = ""
    answer: str = ""


Skill = Callable[[random.Random, World, bool], Sample]


def ask(rng: random.Random, options: list[str], held: bool, keep: int = 2) -> str:
    """A random wording: one of the last `keep` if `held`, else one of the others."""
    return rng.choice(options[-keep:] if held else options[:-keep])


def fact(rng: random.Random, world: World, held: bool) -> Sample:
    """One question about the world."""
    question, answer, expected = facts.any_fact(rng, world, held)
    return Sample("facts", [(question, answer)], "contains", expected)


def fact_chat(rng: random.Random, world: World, held: bool) -> Sample:
    """Two to four questions, some about the same person with a pronoun."""
    person = rng.choice(world.people)
    fields = rng.sample(list(facts.PERSON_QUESTIONS), rng.randint(2, 3))
    question, answer, _ = facts.person_qa(rng, person, fields[0], False)
    turns = [(question, answer)] + [facts.follow_up(rng, person, field) for field in fields[1:]]
    if rng.random() < 0.4:
        turns += [talk.farewell(rng)] if rng.random() < 0.5 else [facts.any_fact(rng, world, False)[:2]]
    return Sample("facts-chat", turns)


ABOUT = [
    "Tell me about {n}.", "Who is {n}?", "What do you know about {n}?", "Describe {n}.", "Do you know {n}?",
    "I want to hear about {n}.", "Please describe {n}.", "Could you tell me about {n}?", "Say something about {n}.",
    "Can you say who {n} is?",
         "Please tell me about {n}.", "Can you describe {n}?"]  # fmt: skip


def about_person(rng: random.Random, world: World, held: bool) -> Sample:
    """All that is known of a person."""
    p = rng.choice(world.people)
    he, _, his = pronouns(p.she)
    text = (f"{p.name} is {article(p.job)} from {p.town}. "
            f"{he.capitalize()} has {article(p.pet)} and likes to eat {p.food}. "
            f"{his.capitalize()} hobby is {p.hobby} and {his} favourite colour is {p.colour}.")  # fmt: skip
    return Sample(
        "describe", [(ask(rng, ABOUT, held).format(n=p.name), text)], "contains-all", "|".join([p.job, p.town, p.pet])
    )


CHECKS = {
    "job": ["Is {n} {v}?", "Does {n} work as {v}?", "I think {n} is {v}. Is that right?", "Tell me, is {n} {v}?",
            "Am I right that {n} is {v}?", "Is it so that {n} is {v}?", "{n} is {v}, right?",
            "Is it true that {n} is {v}?"],
    "town": ["Does {n} live in {v}?", "Is {v} the home of {n}?", "I think {n} lives in {v}. Is that right?",
             "Tell me, does {n} live in {v}?", "Am I right that {n} lives in {v}?", "Is it so that {n} lives in {v}?",
             "{n} lives in {v}, right?", "Is it true that {n} lives in {v}?"],
    "pet": ["Does {n} have {v}?", "Is the pet of {n} {v}?", "I think {n} has {v}. Is that right?",
            "Tell me, does {n} have {v}?", "Am I right that {n} has {v}?", "Is it so that {n} has {v}?",
            "{n} has {v}, right?", "Is it true that {n} has {v}?"],
    "colour": ["Does {n} like {v} best?", "Is {v} the favourite colour of {n}?",
               "I think {n} loves {v}. Is that right?", "Tell me, does {n} love {v}?",
               "Am I right that {n} loves {v}?", "Is it so that {n} loves {v}?", "{n} loves {v}, right?",
               "Is it true that {n} loves {v}?"],
    "sum": ["Is {n} equal to {v}?", "Is {n} the same as {v}?", "I think {n} is {v}. Is that right?",
            "Tell me, is {n} equal to {v}?", "Am I right that {n} is {v}?", "Is it so that {n} is {v}?",
            "{n} is {v}, right?", "Is it true that {n} is {v}?"],
}  # fmt: skip


def yes_no(rng: random.Random, world: World, held: bool) -> Sample:
    """Is a guess about a person or a sum right? In training sometimes two or three guesses. The answer states the truth
    before it judges, because a small model must recall before it can compare."""
    turns, said = [], ""
    for _ in range(1 if held else rng.choice((1, 1, 2, 3))):
        if rng.random() < 0.3:
            question, answer, said = _checked_sum(rng, held)
        else:
            question, answer, said = _checked_person(rng, world, held)
        turns.append((question, answer))
    return Sample("yes-no", turns, "contains", said)


def _checked_person(rng: random.Random, world: World, held: bool) -> tuple[str, str, str]:
    """(question, answer, scored words) for a guess about a person."""
    p = rng.choice(world.people)
    field = rng.choice(["job", "town", "pet", "colour"])
    value = right = facts.person_value(p, field)
    if rng.random() < 0.5:
        value = facts.person_value(rng.choice(world.people), field)
    said = "so yes" if value == right else "so no"
    answer = facts.PERSON_ANSWERS[field].format(n=p.name, v=right).rstrip(".")
    return ask(rng, CHECKS[field], held, 1).format(n=p.name, v=value), f"{answer}, {said}.", said


def _checked_sum(rng: random.Random, held: bool) -> tuple[str, str, str]:
    """(question, answer, scored words) for a guess at a sum."""
    sign, a, b, result = draw_sum(rng)
    value = result if rng.random() < 0.5 else max(0, result + rng.choice((-3, -2, -1, 1, 2, 3, 10)))
    said = "so yes" if value == result else "so no"
    return (
        ask(rng, CHECKS["sum"], held, 1).format(n=f"{a} {sign} {b}", v=value),
        f"{a} {sign} {b} = {result}, {said}.",
        said,
    )


def stranger(rng: random.Random, world: World, held: bool) -> Sample:
    """A question about somebody unknown."""
    pool = world.strangers[-20:] if held else world.strangers[:-20] if rng.random() < 0.7 else world.newcomers
    name, _ = rng.choice(pool)
    question = facts.wording(rng, facts.PERSON_QUESTIONS[rng.choice(list(facts.PERSON_QUESTIONS))], held)
    if rng.random() < 0.2:
        question = ask(rng, ABOUT, held)
    return Sample("unknown", [(question.format(n=name), f"I don't know {name}.")], "contains", "don't know")


def unknown_topic(rng: random.Random, world: World, held: bool) -> Sample:
    """A question about something that does not exist in this world."""
    return Sample("unknown", [talk.unknown(rng)], "contains", "don't know")


PLUS = [
    "What is {a} + {b}?", "What is {a} plus {b}?", "Add {a} and {b}.", "How much is {a} + {b}?", "{a} + {b} = ?",
    "Can you add {a} and {b}?",
        "Tell me {a} plus {b}.", "How much is {a} plus {b}?"]  # fmt: skip
MINUS = [
    "What is {a} - {b}?", "What is {a} minus {b}?", "Take {b} from {a}.", "How much is {a} - {b}?", "{a} - {b} = ?",
    "Can you take {b} from {a}?",
         "Tell me {a} minus {b}.", "How much is {a} minus {b}?"]  # fmt: skip
TIMES = [
    "What is {a} * {b}?", "What is {a} times {b}?", "Multiply {a} by {b}.", "How much is {a} * {b}?", "{a} * {b} = ?",
    "Can you multiply {a} by {b}?",
         "Tell me {a} times {b}.", "How much is {a} times {b}?"]  # fmt: skip


def draw_sum(rng: random.Random) -> tuple[str, int, int, int]:
    """(sign, a, b, result) within the range that the base knows: sums of 0-20, products of 0-10."""
    sign = rng.choice("++--*")
    if sign == "*":
        a, b = rng.randint(0, 10), rng.randint(0, 10)
        return sign, a, b, a * b
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    if sign == "-" and b > a:
        a, b = b, a
    return sign, a, b, a + b if sign == "+" else a - b


def arithmetic(rng: random.Random, world: World, held: bool) -> Sample:
    """A bare sum, up to three in a row."""
    turns, result = [], 0
    for _ in range(1 if held else rng.choice((1, 2, 3))):
        sign, a, b, result = draw_sum(rng)
        question = ask(rng, {"+": PLUS, "-": MINUS, "*": TIMES}[sign], held).format(a=a, b=b)
        turns.append((question, f"{a} {sign} {b} = {result}"))
    return Sample("sums", turns, "number", str(result))


GOODS = "apples pears plums cookies books coins shells stones eggs roses balls stamps candles cups bells hats".split()
PROBLEMS = {
    "+": ["{n} has {a} {g} and gets {b} more. How many {g} does {n} have now?",
    "{n} had {a} {g}. Then {f} gave {him} {b} {g}. How many {g} are there now?",
          "There are {a} {g} on the table. {n} adds {b} {g}. How many {g} are on the table?",
          "{n} bought {a} {g} and later {b} more. How many {g} did {n} buy?",
          "{n} has {a} {g} and {f} has {b} {g}. How many {g} do they have together?",
          "{n} and {f} have {a} and {b} {g}. How many {g} is that together?",
          "{n} found {a} {g} and {f} found {b} {g}. How many {g} did they find together?"],
    "-": ["{n} has {a} {g} and gives away {b}. How many {g} does {n} have now?",
    "{n} had {a} {g}. Then {he} lost {b} of them. How many {g} are left?",
          "There are {a} {g} in the box. {n} takes {b} {g} out. How many {g} are left in the box?",
          "{n} had {a} {g} and sold {b}. How many {g} are left?",
          "{n} has {a} {g}. Now {f} takes {b} of them. How many {g} does {n} have left?",
          "Of {a} {g} {f} ate {b}. How many {g} are left?",
          "{n} had {a} {g} and {f} took {b} of them. How many {g} are left?"],
    "*": ["{n} has {a} bags with {b} {g} in each. How many {g} does {n} have?",
    "There are {a} boxes. In each box are {b} {g}. How many {g} are there?",
          "{n} buys {b} {g} every day for {a} days. How many {g} does {n} buy?",
          "{a} friends bring {b} {g} each. How many {g} are there?",
          "{n} packs {a} boxes with {b} {g} each. How many {g} did {n} pack?",
          "{n} fills {a} bags with {b} {g} each. How many {g} are in the bags?",
          "{n} puts {b} {g} into each of {a} baskets. How many {g} is that?",
          "In {a} baskets there are {b} {g} each. How many {g} are in the baskets?",
          "{a} plates hold {b} {g} each. How many {g} are on the plates?",
          "{n} fills {a} baskets with {b} {g} each. How many {g} are in the baskets?"],
}  # fmt: skip


def word_problem(rng: random.Random, world: World, held: bool) -> Sample:
    """A one-step word problem, with its sum written out."""
    sign, a, b, result = draw_sum(rng)
    a, b = max(a, 2), max(b, 2)
    if sign == "-" and b > a:
        a, b = b, a
    result = {"+": a + b, "-": a - b, "*": a * b}[sign]
    (name, she), (friend, _) = rng.sample(list(world.guests) if held else world.cast, 2)
    he, him, _ = pronouns(she)
    goods = rng.choice(GOODS)
    text = ask(rng, PROBLEMS[sign], held, 1).format(n=name, f=friend, a=a, b=b, g=goods, he=he, him=him)
    return Sample(
        "problems", [(text, f"{a} {sign} {b} = {result}. The answer is {result} {goods}.")], "number", str(result)
    )


SORT = [
    "Sort these words: {}.", "Put these words in order: {}.", "Sort by the alphabet: {}.", "Please sort {}.",
    "Can you sort {}?", "Sort {} for me.", "Order these: {}.", "Bring in order: {}.", "Please put {} in order.",
    "Put these in order: {}.", "Please order these words: {}.", "Can you put {} in order?",
        "Put in order: {}.", "Please put these words in order: {}."]  # fmt: skip


def by_initials(rng: random.Random, many: int) -> list[str]:
    """`count` words, no two with the same first letter."""
    shuffled = rng.sample(w.SPELL_WORDS, len(w.SPELL_WORDS))
    return list({word[0]: word for word in shuffled}.values())[:many]


def sorting(rng: random.Random, world: World, held: bool) -> Sample:
    """Three to five words, or numbers, in order."""
    if rng.random() < 0.35:
        numbers = rng.sample(range(0, 41), rng.randint(3, 5))
        question = ask(rng, SORT, held).replace("words", "numbers").replace("the alphabet", "size")
        answer = ", ".join(map(str, sorted(numbers)))
        return Sample("sorting", [(question.format(", ".join(map(str, numbers))), answer)], "exact", answer)
    items = by_initials(rng, rng.randint(3, 4))
    answer = ", ".join(sorted(items))
    return Sample("sorting", [(ask(rng, SORT, held).format(", ".join(items)), answer)], "exact", answer)


SPELL = [
    "Spell {}.", "How do you spell {}?", "Please spell {}.", "Spell the word {}.", "Can you spell {}?",
    "What are the letters of {}?",
         "Spell {} for me.", "Please spell the word {}."]  # fmt: skip


def spelling(rng: random.Random, world: World, held: bool) -> Sample:
    """A word letter by letter."""
    word = rng.choice(w.SPELL_WORDS)
    answer = " - ".join(word)
    return Sample("spelling", [(ask(rng, SPELL, held).format(word), answer)], "exact", answer)


COUNT = [
    "Count these: {}.", "How many do you see: {}?", "Please count these for me: {}.", "Count up: {}.",
    "How many words are in {}?", "How many are there: {}?", "Please count {}.",
    "Count the words: {}.", "Can you count {}?", "Count these for me: {}.", "How many words do you see: {}?",
    "Please count the words: {}.", "How many words are here: {}?",
         "How many words are there: {}?", "Count {} for me."]  # fmt: skip


def counting(rng: random.Random, world: World, held: bool) -> Sample:
    """Counting the words of a list one by one, or counting on from a number."""
    if rng.random() < 0.3:
        start = rng.randint(1, 15)
        stop = start + rng.randint(2, 6)
        answer = ", ".join(str(i) for i in range(start, stop + 1))
        options = ["Count from {} to {}.", "Say the numbers from {} to {}.", "Please count from {} to {}."]
        return Sample("counting", [(ask(rng, options, held, 1).format(start, stop), answer)], "exact", answer)
    items = [rng.choice(w.SPELL_WORDS) for _ in range(rng.randint(2, 7))]
    total = w.NUMBER_WORDS[len(items)]
    counted = ", ".join(f"{i} {word}" for i, word in enumerate(items, 1))
    question = ask(rng, COUNT, held).format(", ".join(items))
    return Sample("counting", [(question, f"{counted}. There are {total}.")], "contains", f"There are {total}")


REVIEWS = [
    "The {t} was {a}.", "I think the {t} was {a}.", "What a {a} {t}!", "We had a {a} {t} today.",
    "The {t} was {a} and {b}.", "My {t} was {a}, I must say.",
    "I found the {t} {a}.", "Really, the {t} was {a}.", "I must say, the {t} was {a}.", "That {t} was {a}.",
    "That was a {a} and {b} {t}.", "To me, the {t} was {a}.",
    "Everyone said the {t} was {a}.", "It was a {a} {t}, and we will tell our friends.",
    "The {t} here is always {a}.",
    "Honestly, the {t} was {a}.", "That {t} was really {a} and {b}.",
]  # fmt: skip
JUDGE = [
    "Is this positive or negative? {}", "How does this sound: {}", "Judge this: {}", "What is the mood here? {}",
    "Good or bad? {}", "Read this and judge: {}", "Say if this is positive or negative: {}", "Name the mood: {}",
    "Is this text positive or negative? {}", "Is this good or bad? {}", "What is the mood of this? {}",
    "Please judge: {}", "Which mood is this? {}", "Say the mood: {}", "Give me the mood: {}",
         "Is this review positive or negative? {}", "Tell me the mood: {}"]  # fmt: skip
TOPIC = [
    "What is this about? {}", "Name the topic: {}", "What is the topic here? {}", "Which topic is this? {}",
    "Find the topic: {}", "Please name the topic: {}", "Say what this is about: {}", "Which topic do you see here? {}",
    "What is this text about? {}", "Give me the topic: {}", "Say the topic: {}", "Which topic is this about? {}",
    "Can you name the topic? {}",
         "Tell me the topic: {}", "What topic is this about? {}"]  # fmt: skip
MOODS = {"positive": w.GOOD, "negative": w.BAD, "neutral": w.MEH}


def review(rng: random.Random, held: bool) -> tuple[str, str, str]:
    """(text, mood, topic) of a one-sentence review."""
    mood = rng.choice(["positive", "negative", "neutral"])
    topic = rng.choice(list(w.REVIEW_TOPICS))
    a, b = rng.sample(MOODS[mood], 2)
    text = ask(rng, REVIEWS, held).format(t=rng.choice(w.REVIEW_TOPICS[topic]), a=a, b=b)
    return stories.fix_articles(text), mood, topic


def judging(rng: random.Random, world: World, held: bool) -> Sample:
    """The mood of a review."""
    text, mood, _ = review(rng, held)
    return Sample("sentiment", [(ask(rng, JUDGE, held).format(text), f"This is {mood}.")], "contains", mood)


def topic(rng: random.Random, world: World, held: bool) -> Sample:
    """The topic of a review."""
    text, _, about = review(rng, held)
    return Sample("topic", [(ask(rng, TOPIC, held).format(text), f"It is about {about}.")], "contains", about)


LISTS: dict[str, list[str]] = {
    "colours": w.COLOURS,
    "foods": w.FOODS,
    "jobs": w.JOBS,
    "hobbies": w.HOBBIES,
    "pets": w.PETS,
}
LIST_ASK = [
    "Name {k} {c}.", "List {k} {c}.", "Tell me {k} {c}.", "Can you name {k} {c}?", "Give me {k} {c}.",
    "Please list {k} {c}.", "Please name {k} {c}."]  # fmt: skip


def listing(rng: random.Random, world: World, held: bool) -> Sample:
    """Some members of a category."""
    pools = LISTS | {
        "animals": [a.name for a in world.animals],
        "towns": [t.name for t in world.towns],
        "things": [t.name for t in world.things],
    }
    kind = rng.choice(list(pools))
    many = rng.randint(2, 4)
    answer = join(rng.sample(pools[kind], many))
    return Sample(
        "listing",
        [(ask(rng, LIST_ASK, held).format(k=w.NUMBER_WORDS[many], c=kind), answer[0].upper() + answer[1:] + ".")],
    )
