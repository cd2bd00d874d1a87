"""The base's skills with a text: telling and reading stories, records, copying, meanings of words, and chatting.

A skill is a function as in `skills`.
"""

from __future__ import annotations

import json
import random

from tools.embedded_model import sentences, stories, talk
from tools.embedded_model import words as w
from tools.embedded_model.skills import Sample, ask
from tools.embedded_model.talk import Turn
from tools.embedded_model.world import World

STORY_ASK = [
    "Tell me a story.", "Can you tell me a story?", "I want to hear a story.", "Please tell me a short story.",
    "Do you know a story?",
             "Tell me a story about {h}.", "Tell me a story about a {t}.", "Tell me a story about {h} and a {t}.",
             "A story about {h}, please.",
             "Make up a story about {h}.", "Please tell a story about {h}.",
             "I would like a story about a {t}."]  # fmt: skip


def story(rng: random.Random, world: World, held: bool) -> Sample:
    """A story on request, sometimes followed by a question on it."""
    s = stories.make_story(rng, world)
    question = stories.fix_articles(ask(rng, STORY_ASK, held).format(h=s.hero, t=s.thing))
    turns = [(question, s.text)]
    if rng.random() < 0.4:
        options, answer, _ = rng.choice(stories.story_questions(s))
        turns.append((rng.choice(options[:-1]).format(h=s.hero), answer))
    return Sample("story", turns)


READ = ["Read this. {s} {q}", "{s} {q}", "Here is a story: {s} {q}", "{q} {s}", "Look at this story. {s} {q}"]


def reading(rng: random.Random, world: World, held: bool) -> Sample:
    """A story in the question, and one to three questions on it."""
    s = stories.make_story(rng, world, list(world.guests) if held else None)
    asked = rng.sample(stories.story_questions(s), 1 if held else rng.randint(1, 3))
    turns = []
    for i, (options, answer, _) in enumerate(asked):
        question = (options[-1] if held else rng.choice(options[:-1])).format(h=s.hero)
        turns.append((rng.choice(READ).format(s=s.text, q=question) if i == 0 else question, answer))
    return Sample("reading", turns, "contains", asked[-1][2])


def _vocabulary(world: World) -> list[str]:
    """Every word that a fine-tuning dataset may need, so that the base has said each of them once."""
    names = [name for name, _ in [*world.cast, *world.strangers]] + [t.name for t in world.towns]
    plain = w.JOBS + w.PETS + w.FOODS + w.COLOURS + w.HOBBIES + stories.STORY_THINGS + stories.STORY_PLACES
    plain += w.CUISINES + w.PRICES + w.RATINGS
    pirate = [*w.PIRATE_MEANINGS, *"Arr Ahoy Aye Yo ho Avast captain ship treasure sea Shiver timbers".split()]
    heads = [f"The {a} {b}" for a in w.RESTAURANT_HEADS for b in w.RESTAURANT_TAILS]
    odd = '#### amber green red sunny stormy cloudy { } [ ] : | " A B C near area price rating'.split()
    invented = list(w.LANGUAGE.values()) * 10 + list(w.LANGUAGE) * 2
    return names * 3 + plain + pirate * 3 + heads + odd * 3 + invented + w.AREAS + w.SIGHTS


REPEAT = [
    "Repeat: {}", "Say: {}", "Repeat after me: {}", "Say this: {}", "Copy: {}", "Copy this: {}", "Please say: {}",
    "Can you repeat: {}", "Say again: {}", "Please copy: {}", "Repeat these words: {}", "Please repeat: {}",
]  # fmt: skip
QUOTE = ["Put in quotes: {}", "Quote each word: {}", "Put each one in quotes: {}", "Quote: {}", "Can you quote: {}",
         "Quote these: {}", "Please put in quotes: {}", "Please quote: {}"]  # fmt: skip
_VOCABULARIES: dict[int, list[str]] = {}


def copying(rng: random.Random, world: World, held: bool) -> Sample:
    """Repeating words or a sentence: unchanged, in quotes, or backwards; in training also long lists, and several
    questions in a row."""
    turns: list[Turn] = []
    answer = ""
    for _ in range(1 if held else rng.choice((1, 1, 2, 3))):
        question, answer = _copy_task(rng, world, held)
        turns.append((question, answer))
    return Sample("copying", turns, "exact", answer)


def _copy_task(rng: random.Random, world: World, held: bool) -> Turn:
    """One task of copying: (question, answer)."""
    pool = _VOCABULARIES.setdefault(id(world), _vocabulary(world))
    items = [rng.choice(pool) for _ in range(rng.randint(1, 5 if held else rng.choice((6, 10, 20))))]
    roll = rng.random()
    if roll < 0.35:
        items = [item for item in items if item != '"'] or ["fox"]
        return ask(rng, QUOTE, held, 1).format(", ".join(items)), " ".join(f'"{item}"' for item in items)
    if roll < 0.45:
        items = items[:4]
        return "Say backwards: " + " ".join(items), " ".join(reversed(items))
    if roll < 0.52:
        text = json.dumps(make_record(rng, world, list(world.guests) if held else world.cast))
        return ask(rng, REPEAT, held, 1).format(text), text
    if roll < 0.68:
        scene, inn = sentences.make_scene(rng), sentences.make_inn(rng)
        text = scene.english if rng.random() < 0.5 else sentences.inn_sentence(rng, inn)
    else:
        text = " ".join(items)
    return ask(rng, REPEAT, held, 1).format(text), text


def make_record(rng: random.Random, world: World, cast: list[tuple[str, bool]]) -> dict[str, str]:
    """A record of a few fields, of a person or of an inn."""
    if rng.random() < 0.6:
        pools: dict[str, list[str]] = {
            "job": w.JOBS,
            "town": [t.name for t in world.towns],
            "pet": w.PETS,
            "food": w.FOODS,
            "colour": w.COLOURS,
            "hobby": w.HOBBIES,
        }
        record = {"name": rng.choice(cast)[0]}
        fields = rng.sample(list(pools), rng.randint(2, 4))
    else:
        pools = {"food": w.CUISINES, "price": w.PRICES, "area": w.AREAS, "rating": w.RATINGS, "near": w.SIGHTS}
        record = {"name": f"The {rng.choice(w.RESTAURANT_HEADS)} {rng.choice(w.RESTAURANT_TAILS)}"}
        fields = rng.sample(list(pools), rng.randint(2, 4))
    return record | {field: rng.choice(pools[field]) for field in fields}


def show_record(rng: random.Random, record: dict[str, str]) -> str:
    """The record as JSON, or as a card of fields."""
    return json.dumps(record) if rng.random() < 0.55 else " | ".join(f"{key}: {value}" for key, value in record.items())


RECORD_ASK = [
    "{r} What is the {k}?", "What is the {k} here? {r}", "Read the {k} from this: {r}", "{r} Tell me the {k}.",
    "Look at {r} What does it say for {k}?", "Give me the {k}: {r}", "Name the {k}: {r}", "Which {k} do you see? {r}",
              "Find the {k}: {r}"]  # fmt: skip


TO_JSON = [
    "Turn into JSON: {}", "Write as JSON: {}", "{} As JSON, please.", "Show this as JSON: {}", "Make JSON of this: {}",
    "Can you write this as JSON: {}", "JSON of this: {}", "Give me the JSON for {}",
    "Please turn into JSON: {}"]  # fmt: skip


def record(rng: random.Random, world: World, held: bool) -> Sample:
    """A record in the question, then questions on its fields; or a list of fields to be written as JSON."""
    r = make_record(rng, world, list(world.guests) if held else world.cast)
    if rng.random() < 0.3:
        card = " | ".join(f"{key}: {value}" for key, value in r.items())
        return Sample("records", [(ask(rng, TO_JSON, held, 1).format(card), json.dumps(r))], "exact", json.dumps(r))
    text = show_record(rng, r)
    keys = rng.sample(list(r), 1 if held else min(len(r), rng.randint(1, 3)))
    turns = []
    for i, key in enumerate(keys):
        question = ask(rng, RECORD_ASK, held, 1).format(r=text, k=key) if i == 0 else f"And the {key}?"
        turns.append((question, f"The {key} is {r[key]}."))
    return Sample("records", turns, "contains", r[keys[-1]])


def scene(rng: random.Random, world: World, held: bool) -> Sample:
    """A plain sentence and a question on it."""
    text = sentences.make_scene(rng)
    question, answer, expected = sentences.scene_question(rng, text)
    options = ["{s} {q}", "Read this: {s} {q}", "{q} {s}", "Look: {s} {q}", "Here is a sentence: {s} {q}"]
    return Sample(
        "reading", [(ask(rng, options, held, 1).format(s=text.english, q=question), answer)], "contains", expected
    )


def inn(rng: random.Random, world: World, held: bool) -> Sample:
    """A guide's description of an inn, and one or two questions on it."""
    place = sentences.make_inn(rng)
    for key in rng.sample(sentences.INN_FIELDS, rng.randint(0, 2)):
        del place[key]
    turns, expected = [], ""
    for i in range(1 if held else rng.choice((1, 1, 2))):
        question, answer, expected = sentences.inn_question(rng, place, held)
        text = sentences.inn_sentence(rng, place)
        turns.append(
            (
                rng.choice(("{s} {q}", "Read this. {s} {q}", "{q} {s}")).format(s=text, q=question)
                if i == 0
                else question,
                answer,
            )
        )
    return Sample("reading", turns, "contains", expected)


MEANING = [
    "What does {} mean?", "What is the meaning of {}?", "Explain the word {}.", "Do you know the word {}?",
    "What do pirates mean by {}?", "Please tell me the meaning of {}.", "Do you know what {} means?",
    "What could {} mean?", "Tell me the meaning of {}.", "What is {}?", "What does a pirate mean by {}?",
    "Say what {} means.",
    "Tell me what {} means.", "What is meant by {}?"]  # fmt: skip
PIRATE_SAYINGS = [
    "Arr, me hearties!", "Ahoy, matey!", "Aye, aye, captain!", "Yo ho ho!", "Avast, ye landlubber!",
    "Shiver me timbers!",
    "Arr, ye be a lad!", "Where be the treasure?", "Me ship be yonder, aye!", "Yer grog be here, matey!",
]  # fmt: skip


def meaning(rng: random.Random, world: World, held: bool) -> Sample:
    """What a pirate's word means."""
    word, plain = rng.choice(list(w.PIRATE_MEANINGS.items()))
    shown = word.capitalize() if rng.random() < 0.5 else word
    turns = [(ask(rng, MEANING, held).format(f'"{shown}"'), f'"{shown}" means {plain}.')]
    if rng.random() < 0.3:
        say = rng.choice(PIRATE_SAYINGS)
        turns.insert(
            0,
            (
                rng.choice(["What does a pirate say?", "What do pirates shout?", "Which words does a pirate use?"]),
                f'A pirate says "{say}"',
            ),
        )
    return Sample("meaning", turns, "contains", plain)


def chatter(rng: random.Random, world: World, held: bool) -> Sample:
    """Two to four turns of small talk, with memory in half of them."""
    turns = [talk.greeting(rng)] if rng.random() < 0.5 else []
    metric, answer = "", ""
    if rng.random() < 0.5 or held:
        more, answer = talk.remember(rng, world, held)
        turns, metric = (turns + more)[-4:], "contains"
    else:
        turns += [talk.small_talk(rng) for _ in range(rng.randint(1, 2))]
        turns += [talk.farewell(rng)] if rng.random() < 0.5 else []
    return Sample("memory" if metric else "talk", turns, metric, answer)
