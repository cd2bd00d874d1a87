"""The closed world that the base is taught: who lives where, what each thing is for. Made from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tools.embedded_model import words as w

WORLD_SEED = 7
PERSON_FIELDS = ("job", "town", "pet", "food", "colour", "hobby")


@dataclass(frozen=True)
class Person:
    """One inhabitant; `she` picks the pronoun."""

    name: str
    she: bool
    job: str
    town: str
    pet: str
    food: str
    colour: str
    hobby: str


@dataclass(frozen=True)
class Town:
    """One town, and what people know about it."""

    name: str
    region: str
    river: str
    known: str
    weather: str


@dataclass(frozen=True)
class Animal:
    """One kind of animal."""

    name: str
    group: str
    home: str
    food: str
    legs: str
    sound: str
    cover: str


@dataclass(frozen=True)
class Thing:
    """One kind of thing; `use` completes "to ..."; `where` is a place phrase."""

    name: str
    material: str
    use: str
    where: str


@dataclass(frozen=True)
class World:
    """People, places, animals and things with their facts, and names that appear without facts."""

    people: tuple[Person, ...]
    towns: tuple[Town, ...]
    animals: tuple[Animal, ...]
    things: tuple[Thing, ...]
    newcomers: tuple[
        tuple[str, bool], ...
    ]  # (name, she) of people who appear in stories only; the datasets of new facts are about them
    strangers: tuple[tuple[str, bool], ...]  # names about whom nothing is ever said
    guests: tuple[
        tuple[str, bool], ...
    ]  # appear in stories; otherwise kept for the test rows of the fine-tuning datasets

    @property
    def cast(self) -> list[tuple[str, bool]]:
        """Every (name, she) that may act in a story, in a fixed order."""
        return [(p.name, p.she) for p in self.people] + list(self.newcomers) + list(self.guests)


def make_person(rng: random.Random, name: str, she: bool, towns: list[str]) -> Person:
    """A person whose attributes are drawn uniformly and independently."""
    return Person(
        name, she, rng.choice(w.JOBS), rng.choice(towns), rng.choice(w.PETS), rng.choice(w.FOODS),
        rng.choice(w.COLOURS), rng.choice(w.HOBBIES),
    )  # fmt: skip


def build_world(seed: int = WORLD_SEED) -> World:
    """The world of that seed, the same on every machine."""
    rng = random.Random(seed)
    town_names = [head + tail for head in w.TOWN_HEADS for tail in w.TOWN_TAILS]
    rng.shuffle(town_names)
    town_names = sorted(town_names[:48])
    towns = tuple(
        Town(name, rng.choice(w.REGIONS), rng.choice(w.RIVERS), rng.choice(w.KNOWN_FOR), rng.choice(w.WEATHER))
        for name in town_names
    )
    real = [(name, True) for name in w.GIRLS] + [(name, False) for name in w.BOYS]
    taken = {name for name, _ in real}
    made = [(h + t, True) for h in w.NAME_HEADS for t in w.NAME_TAILS_SHE]
    made += [(h + t, False) for h in w.NAME_HEADS for t in w.NAME_TAILS_HE]
    made = [pair for pair in made if pair[0] not in taken]
    rng.shuffle(made)
    natives = real + made[:60]
    people = tuple(make_person(rng, name, she, town_names) for name, she in natives)
    animals = tuple(Animal(*line.split("|")) for line in w.ANIMALS.splitlines())
    things = tuple(Thing(*line.split("|")) for line in w.THINGS.splitlines())
    return World(
        people, towns, animals, things, newcomers=tuple(made[60:200]), strangers=tuple(made[350:] + made[200:280]),
        guests=tuple(made[280:350]),
    )  # fmt: skip


def article(noun: str) -> str:
    """The noun with "a" or "an" before it."""
    return ("an " if noun[0].lower() in "aeiou" and not noun.startswith("uni") else "a ") + noun


def pronouns(she: bool) -> tuple[str, str, str]:
    """(subject, object, possessive), lower case."""
    return ("she", "her", "her") if she else ("he", "him", "his")


def join(items: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
