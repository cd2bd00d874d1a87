"""The base's training chats, as messages, and the held-out questions (probes) that test it. No tokens here."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from tools.embedded_model import facts, reading, skills, talk, vocabulary
from tools.embedded_model.skills import Sample, fact
from tools.embedded_model.talk import Turn
from tools.embedded_model.world import World

LONG_SHARE = 0.04  # several skills in one chat, so that the position in a chat says nothing about the skill
Messages = list[dict[str, str]]
SYSTEMS = [
    "You are Pip, a friendly helper.",
    "You are a helpful assistant.",
    "Answer briefly.",
    "Be kind and clear.",
    "You know a small world well.",
]


STARTERS = frozenset(
    "What Where Which Who How Why Tell Can Do Does Is Hello Hi Hey Good My I You Please Name List Add Take Multiply "
    "Sort Put Spell Count "
    "Repeat Say Copy Explain Find Pick Give Could Thank Thanks Bye Goodbye See Describe And Great That".split()
)  # fmt: skip


def casual(rng: random.Random, text: str) -> str:
    """The text as people type it: sometimes without the first capital or the last punctuation mark."""
    if rng.random() < 0.1 and text.split(" ")[0].strip(",.!?") in STARTERS:
        text = text if text.startswith(("I ", "I'")) else text[0].lower() + text[1:]
    return text.rstrip("?.!") if rng.random() < 0.08 and "{" not in text else text


# skill -> share of chats; long chats (stories, reading) have a larger share of the tokens
MIXTURE: list[tuple[skills.Skill, float]] = [
    (skills.fact, 13), (skills.fact_chat, 4), (skills.about_person, 2.5), (skills.yes_no, 13), (skills.stranger, 5),
    (skills.unknown_topic, 1.5), (skills.arithmetic, 6), (skills.word_problem, 11), (skills.sorting, 10),
    (skills.spelling, 3), (skills.counting, 9), (skills.judging, 3), (skills.topic, 2), (skills.listing, 1),
    (reading.story, 3), (reading.reading, 8), (reading.copying, 11), (reading.record, 7), (reading.meaning, 2),
    (reading.scene, 4), (reading.inn, 6), (reading.chatter, 4),
    (vocabulary.kinds, 16), (vocabulary.opposites, 8), (vocabulary.forms, 8), (vocabulary.trades, 5),
    (vocabulary.members, 2),
]  # fmt: skip


def to_messages(turns: list[Turn], system: str | None = None) -> Messages:
    """Turns as chat messages."""
    messages = [{"role": "system", "content": system}] if system else []
    for user, assistant in turns:
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return messages


EMPHASIS = 6.0  # an emphasised skill is drawn this many times as often


def draw_sample(rng: random.Random, world: World, emphasis: frozenset[str] = frozenset()) -> Sample:
    """One sample of the mixture; in one of eight, talk or another question comes before it, at most four turns in
    all. The skills named in `emphasis` come more often."""
    kinds = [kind for kind, _ in MIXTURE]
    shares = [share * (EMPHASIS if kind.__name__ in emphasis else 1.0) for kind, share in MIXTURE]
    sample = rng.choices(kinds, shares)[0](rng, world, False)
    if len(sample.turns) < 3 and rng.random() < 0.15:
        first = talk.greeting(rng) if rng.random() < 0.6 else fact(rng, world, False).turns[0]
        sample = Sample(sample.skill, [first, *sample.turns], sample.metric, sample.answer)
    if len(sample.turns) == 1 and rng.random() < 0.12:
        sample = Sample(sample.skill, [*sample.turns, facts.any_fact(rng, world, False)[:2]])
    return sample


def chats(world: World, seed: int, emphasis: frozenset[str] = frozenset()) -> Iterator[Messages]:
    """An endless, seeded stream of training chats. Raises ValueError for a name in `emphasis` that is no skill."""
    known = {kind.__name__ for kind, _ in MIXTURE}
    if emphasis - known:
        raise ValueError(f"no such skills: {', '.join(sorted(emphasis - known))}; there are {', '.join(sorted(known))}")
    rng = random.Random(seed)
    while True:
        sample = draw_sample(rng, world, emphasis)
        if rng.random() < LONG_SHARE:
            more = [draw_sample(rng, world, emphasis).turns for _ in range(rng.randint(2, 5))]
            sample = Sample("long", [turn for turns in [sample.turns, *more] for turn in turns])
        turns = [(casual(rng, user), answer) for user, answer in sample.turns]
        yield to_messages(turns, rng.choice(SYSTEMS) if rng.random() < 0.08 else None)


def probes(world: World, seed: int, each: int) -> list[dict[str, Any]]:
    """`each` held-out questions of every skill that can be scored, as dataset rows."""
    rng = random.Random(f"probes-{seed}")
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for skill, _ in MIXTURE:
        made = tries = 0
        while made < each and tries < 20 * each:
            tries += 1
            sample = skill(rng, world, True)
            if not sample.metric:
                break
            key = str(sample.turns)
            if key in seen:
                continue
            seen.add(key)
            made += 1
            meta = {"skill": sample.skill, "metric": sample.metric, "answer": sample.answer}
            rows.append({"messages": to_messages(sample.turns), "meta": meta})
    return rows
