"""The base's skills about words: what kind of thing a word names, its opposite, its forms, who does what."""

from __future__ import annotations

import random
from collections.abc import Callable

from tools.embedded_model import lexicon
from tools.embedded_model import words as w
from tools.embedded_model.skills import LIST_ASK, Sample, ask
from tools.embedded_model.talk import Turn
from tools.embedded_model.world import World, article, join

MEMBERS = lexicon.members()
KINDS = lexicon.KINDS | lexicon.PLAIN_KINDS
SAID_OF_ALL = {"kind of land": "kinds of land", "kind of water": "kinds of water", "part of the body": "body parts",
               "piece of furniture": "pieces of furniture", "illness": "illnesses", "dance": "dances",
               "science": "sciences"}  # fmt: skip
PLURAL_ONLY = frozenset("pliers pincers tongs trousers shorts pyjamas rapids".split())
Drawn = Callable[[random.Random, bool], Turn]

KIND_ASK = [
    "What is {n}?", "What kind of thing is {n}?", "Tell me what {n} is.", "Do you know what {n} is?",
    "Can you tell me what {n} is?", "Please tell me what {n} is.", "Explain what {n} is.", "So what is {n}?",
    "Could you tell me what {n} is?", "Say what {n} is."]  # fmt: skip
OPPOSITE_ASK = [
    "What is the opposite of {n}?", "Tell me the opposite of {n}.", "What is not {n}, but the opposite?",
    "Do you know the opposite of {n}?", "Name the opposite of {n}.", "Which word is the opposite of {n}?",
    "Give me the opposite of {n}.", "What is the opposite word of {n}?",
    "Please name the opposite of {n}.", "Can you tell me the opposite of {n}?"]  # fmt: skip
SAME_ASK = [
    "Which word means the same as {n}?", "What is another word for {n}?", "Tell me another word for {n}.",
    "Give me a word that means {n}.", "Is there another word for {n}?", "Name another word for {n}.",
    "Which other word means {n}?",
    "Please give me another word for {n}.", "What other word means the same as {n}?"]  # fmt: skip
PAST_ASK = [
    "What is the past of {n}?", "What is the past form of {n}?", "Tell me the past of {n}.", "Give me the past of {n}.",
    "How do you say {n} in the past?", "Name the past form of {n}.", "Do you know the past of {n}?",
    "Please tell me the past of {n}.", "Can you give me the past form of {n}?"]  # fmt: skip
PLURAL_ASK = [
    "What is the plural of {n}?", "Tell me the plural of {n}.", "Give me the plural of {n}.",
    "What is the plural form of {n}?", "How do you say {n} in the plural?", "Name the plural of {n}.",
    "Please tell me the plural of {n}.", "Can you give me the plural of {n}?"]  # fmt: skip
YOUNG_ASK = [
    "What is the young of {n} called?", "What do you call the young of {n}?", "Name the young of {n}.",
    "How do people call the young of {n}?", "Tell me the name for the young of {n}.",
    "What is the name for the young of {n}?", "Please name the young of {n}."]  # fmt: skip
TRADE_ASK = [
    "What does {n} do?", "What is the work of {n}?", "Tell me what {n} does.", "Do you know what {n} does?",
    "What does {n} do all day?", "Explain what {n} does.", "How does {n} earn money?", "What work does {n} do?",
    "Please tell me what {n} does.", "Can you tell me what {n} does?"]  # fmt: skip


def named(noun: str) -> str:
    """The noun with an article if it is countable."""
    return noun if not MEMBERS[noun][1] or noun in PLURAL_ONLY else article(noun)


def is_kind(noun: str) -> str:
    """What a noun's thing is, as a sentence: "A heron is a bird."."""
    said = named(noun)
    verb = "are" if noun in PLURAL_ONLY else "is"
    kind = MEMBERS[noun][0]
    said = f"{said} {verb} {article(kind)}."
    return said[0].upper() + said[1:]


def _kind(rng: random.Random, held: bool) -> Turn:
    noun = rng.choice(list(MEMBERS))
    return ask(rng, KIND_ASK, held).format(n=named(noun)), is_kind(noun)


def _opposite(rng: random.Random, held: bool) -> Turn:
    pair = list(rng.choice(lexicon.pairs(lexicon.OPPOSITES)))
    rng.shuffle(pair)
    return ask(rng, OPPOSITE_ASK, held).format(n=pair[0]), f"The opposite of {pair[0]} is {pair[1]}."


def _same(rng: random.Random, held: bool) -> Turn:
    pair = list(rng.choice(lexicon.pairs(lexicon.SAME)))
    rng.shuffle(pair)
    return ask(rng, SAME_ASK, held).format(n=pair[0]), f"Another word for {pair[0]} is {pair[1]}."


def _past(rng: random.Random, held: bool) -> Turn:
    verb, past = rng.choice(lexicon.pairs(lexicon.PAST))
    return ask(rng, PAST_ASK, held).format(n=verb), f"The past of {verb} is {past}."


def _plural(rng: random.Random, held: bool) -> Turn:
    one, many = rng.choice(lexicon.pairs(lexicon.PLURALS))
    return ask(rng, PLURAL_ASK, held).format(n=one), f"The plural of {one} is {many}."


def _young(rng: random.Random, held: bool) -> Turn:
    parent, young = rng.choice(lexicon.pairs(lexicon.YOUNG))
    said = f"The young of {article(parent)} is {article(young)}."
    return ask(rng, YOUNG_ASK, held).format(n=article(parent)), said


def _trade(rng: random.Random, held: bool) -> Turn:
    who, does = rng.choice(lexicon.pairs(lexicon.TRADES))
    said = f"{article(who)} {does}."
    return ask(rng, TRADE_ASK, held).format(n=article(who)), said[0].upper() + said[1:]


def _several(rng: random.Random, held: bool, skill: str, drawn: Drawn) -> Sample:
    """One question if held out, one to four in training. The last answer must match exactly."""
    turns = [drawn(rng, held) for _ in range(1 if held else rng.randint(1, 4))]
    return Sample(skill, turns, "exact", turns[-1][1])


def kinds(rng: random.Random, world: World, held: bool) -> Sample:
    """What kind of thing a word names."""
    return _several(rng, held, "kinds", _kind)


def opposites(rng: random.Random, world: World, held: bool) -> Sample:
    """A word's opposite, or a word of the same meaning."""
    return _several(rng, held, "opposites", _opposite if rng.random() < 0.55 else _same)


def forms(rng: random.Random, world: World, held: bool) -> Sample:
    """A verb's past, a noun's plural, an animal's young."""
    return _several(rng, held, "forms", rng.choices([_past, _plural, _young], [65, 25, 10])[0])


def trades(rng: random.Random, world: World, held: bool) -> Sample:
    """What somebody with a given trade does."""
    return _several(rng, held, "trades", _trade)


def members(rng: random.Random, world: World, held: bool) -> Sample:
    """Some members of a kind. Any will do, so it is not scored."""
    kind = rng.choice(list(KINDS))
    many = rng.randint(2, 4)
    answer = join(rng.sample(KINDS[kind].split(), many))
    asked = ask(rng, LIST_ASK, held).format(k=w.NUMBER_WORDS[many], c=SAID_OF_ALL.get(kind, kind + "s"))
    return Sample("listing", [(asked, answer[0].upper() + answer[1:] + ".")])
