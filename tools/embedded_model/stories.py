"""Short stories from a grammar, and the questions that each answers."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tools.embedded_model import words as w
from tools.embedded_model.world import World, article, pronouns

STORY_THINGS = (
    "kite ball key hat book lamp drum flute map ring coin bell doll boat basket umbrella blanket cup clock mirror "
    "torch "
    "compass sled violin pencil"
).split()  # fmt: skip
STORY_PLACES = (
    "park forest garden market harbour library school museum barn mill kitchen station beach field attic tower village "
    "meadow castle cave"
).split()  # fmt: skip
FEELINGS = "happy sad tired proud angry scared excited worried calm surprised".split()
ENDINGS = "happy proud calm surprised excited".split()
WEATHERS = (
    "It was a sunny day.", "It was a rainy morning.", "One windy day,", "It was a cold evening.", "One foggy morning,",
            "It was a warm afternoon.", "One quiet evening,", "It was a snowy day.")  # fmt: skip


@dataclass(frozen=True)
class Story:
    """A story and what happened in it: hero, helper, thing, place and the plot's verb phrase."""

    text: str
    plot: str
    hero: str
    helper: str
    thing: str
    place: str
    feeling: str


# Each plot: a list of beats, each beat a list of wordings. {h} hero, {f} helper, {t} thing, {p} place, {he} {him}
# {his}.
PLOTS: dict[str, list[list[str]]] = {
    "lost": [
        ["{h} went to the {p} with {his} {t}.", "{h} took {his} {t} to the {p}.",
        "{h} was walking at the {p} with a {adj} {t}."],
        ["Soon the {t} was gone.", "But then {he} lost the {t}.", "After a while {he} could not find the {t}."],
        ["{h} looked under the trees and behind the stones.", "{h} looked everywhere and felt {sad}.",
        "{He} sat down and was {sad}."],
        ["Then {f} came by and found it.", "{f} helped, and together they found it.",
        "{f} saw it in the grass and gave it back."],
        ["{h} said thank you and was {feel}.", "Now {h} was {feel} again.", "{h} smiled and felt {feel}."],
    ],
    "broke": [
        ["{h} had a {adj} {t}.", "{h} was proud of {his} {adj} {t}.", "{h} got a {t} as a gift."],
        ["At the {p} {he} dropped it and it broke.", "One day it broke at the {p}.",
        "{He} fell at the {p} and the {t} broke."],
        ["{h} was {sad}.", "{h} did not know what to do.", "{He} cried a little."],
        ["{f} had some glue and mended it.", "{f} came with tools and fixed the {t}.", "{f} knew how to mend it."],
        ["At the end {h} was {feel}.", "{h} hugged {f} and was {feel}.",
        "The {t} was as good as new, and {h} felt {feel}."],
    ],
    "gift": [
        ["{h} wanted to give {f} a gift.", "It was the birthday of {f}, and {h} wanted to bring a gift.",
        "{h} had a friend, and the friend was {f}."],
        ["{He} went to the {p} and bought a {t}.", "At the {p} {he} found a {adj} {t}.", "{He} made a {t} at the {p}."],
        ["{He} put it in a {colour} box.", "{He} wrapped it in {colour} paper.", "{He} hid it behind {his} back."],
        ["{f} opened the box and laughed.", "{f} loved the {t}.", "{f} had always wanted a {t}."],
        ["{h} was {feel}.", "They ate cake, and {h} felt {feel}.", "{h} went home and was {feel}."],
    ],
    "race": [
        ["{h} and {f} ran a race at the {p}.", "There was a big race at the {p}, and {h} ran against {f}."],
        ["The prize was a {adj} {t}.", "Whoever won would get a {t}.", "The winner would get a {colour} {t}."],
        ["{f} was fast, but {h} did not give up.", "At first {f} was ahead.", "{h} slipped, but got up again."],
        ["At last {h} won the {t}.", "{h} came in first and won the {t}.",
        "{h} ran past the tree first and got the {t}."],
        ["{h} shared the prize and was {feel}.", "{f} clapped, and {h} was {feel}.", "{h} held it up and felt {feel}."],
    ],
    "found": [
        ["{h} was looking around at the {p}.", "{h} went to the {p} alone.", "{h} was playing at the {p}."],
        ["{He} found a {adj} {t} on the ground.", "There {he} saw a {colour} {t}.", "Under a bench lay a {t}."],
        ["It belonged to {f}.", "On it was the name of {f}.", "{He} knew that it was the {t} of {f}."],
        ["{h} brought it back at once.", "So {h} took it to {f}.", "{h} knocked at the door of {f} and gave it back."],
        ["{f} was {feel}, and so was {h}.", "{h} felt {feel} that day.", "{f} said thank you, and {h} was {feel}."],
    ],
    "storm": [
        ["{h} was at the {p} when a storm came.", "A storm came while {h} was at the {p}.",
        "Dark clouds came over the {p}, and {h} was there."],
        ["The wind took {his} {t}.", "The rain was strong, and {he} held {his} {t} tight.",
        "{He} had only a {adj} {t} with {him}."],
        ["{h} was {sad} and called for help.", "{h} felt {sad}.", "It was dark and {h} was {sad}."],
        ["{f} heard {him} and opened the door.", "{f} came with a lamp and led {him} home.",
        "{f} let {him} in and made hot tea."],
        ["Soon {h} was {feel}.", "The storm ended and {h} was {feel}.", "By the fire {h} felt {feel}."],
    ],
    "pirate": [
        ["A pirate came to the {p}. \"Ahoy, matey!\" he said to {h}.",
        "\"Arr!\" said a pirate when he saw {h} at the {p}.",
         "{h} met a pirate at the {p}. \"Ahoy there, {kid}!\" said the pirate."],
        ["\"Where be me {t}?\" he asked.", "\"I lost me {t}, aye,\" he said.", "\"Be that yer {t}, matey?\" he asked."],
        ["{h} was {sad} at first.", "{h} called {f} for help.", "{h} asked {f} what to do."],
        ["{f} found the {t} in an old chest.", "{f} gave the pirate the {t}.", "{f} knew where the {t} was."],
        ["\"Thank ye, hearties!\" said the pirate, and {h} was {feel}.",
        "The pirate gave them a doubloon, and {h} was {feel}.",
         "\"Shiver me timbers!\" said the pirate, and {h} felt {feel}."],
    ],
}  # fmt: skip

SUMMARIES = {
    "lost": "{h} lost a {t} at the {p}.", "broke": "{h} broke a {t} at the {p}.",
    "gift": "{h} gave a {t} from the {p} as a gift.",
    "race": "{h} won a {t} at the {p}.", "found": "{h} found a {t} at the {p}.",
    "storm": "{h} was at the {p} with a {t} in a storm.",
}  # fmt: skip
ASIDES = ("{h} was {adj2} and {adj3}.", "{h} had a {pet} at home.", "{h} was with {his} {pet}.")
STORY_ADJECTIVES = "small big old new shiny wooden pretty lovely round strange".split()


def make_story(
    rng: random.Random, world: World, cast: list[tuple[str, bool]] | None = None, plots: tuple[str, ...] = tuple(PLOTS),
    plain: bool = False,
) -> Story:  # fmt: skip
    """A story of five sentences, with an opening and one aside unless `plain`."""
    cast = cast or world.cast
    hero = rng.choice(cast)
    helper = rng.choice([pair for pair in rng.sample(cast, 3) if pair[0] != hero[0]])
    he, him, his = pronouns(hero[1])
    plot = rng.choice(plots)
    slots = {
        "h": hero[0], "f": helper[0], "t": rng.choice(STORY_THINGS), "p": rng.choice(STORY_PLACES),
        "he": he,
        "him": him, "his": his, "He": he.capitalize(), "adj": rng.choice(STORY_ADJECTIVES),
        "sad": rng.choice(FEELINGS[1:]),
        "feel": rng.choice(ENDINGS), "colour": rng.choice(w.COLOURS), "kid": "lass" if hero[1] else "lad",
    }  # fmt: skip
    beats = [rng.choice(beat).format(**slots) for beat in PLOTS[plot]]
    if rng.random() >= 0.6 and not plain:
        aside = rng.choice(ASIDES)
        adj2, adj3, pet = rng.choice(w.ADJECTIVES), rng.choice(w.ADJECTIVES), rng.choice(w.PETS)
        beats.insert(1, aside.format(adj2=adj2, adj3=adj3, pet=pet, **slots))
    opening = "" if rng.random() < 0.5 or plain else rng.choice([line for line in WEATHERS if line.endswith(".")]) + " "
    text = opening + " ".join(beats)
    text = fix_articles(text)
    return Story(text, plot, hero[0], helper[0], slots["t"], slots["p"], slots["feel"])


def fix_articles(text: str) -> str:
    """ "a old" -> "an old"."""
    parts = text.split(" ")
    for i in range(len(parts) - 1):
        if parts[i] in ("a", "A") and parts[i + 1][:1].lower() in "aeiou":
            parts[i] += "n"
    return " ".join(parts)


def story_questions(story: Story) -> list[tuple[list[str], str, str]]:
    """(wordings, answer, expected) for each thing that can be asked; the last wording of each is held out."""
    return [
        (["Where did it happen?", "In which place was it?", "Where was {h}?", "Tell me where it happened.",
          "At which place did it happen?", "What is the place?", "In which place did it happen?",
          "What place is the story about?",
          "In what place did it happen?"],
         f"It happened at the {story.place}.", story.place),
        (["What thing was it about?", "Which thing is in the story?", "What was the thing?", "Which thing was it?",
          "Tell me the thing in the story.", "What thing is in it?", "Which thing is the story about?",
          "What thing is in the story?",
          "What thing is the story about?"],
         f"It was about {article(story.thing)}.", story.thing),
        (["Who is the story about?", "Who is the hero?", "Who is the main person?", "Tell me who the hero is.",
          "Who is the story's hero?", "Name the hero of the story.", "Who is the hero here?",
          "Who is the hero of the story?"],
         f"It is about {story.hero}.", story.hero),
        (["Who else is in the story?", "Who is the other person?", "Who was with {h}?", "Name the other person.",
          "Which person is there too?", "Who is the second person in the story?", "What other person is in it?",
          "Which other person is there?", "Who is the other person in the story?",
          "Which other person is in the story?"],
         f"The other person is {story.helper}.", story.helper),
        (["How did {h} feel at the end?", "How was {h} at the end?", "What did {h} feel at the end?",
        "Tell me how {h} felt at the end.", "What was {h}'s mood at the end?", "In the end, how was {h}?",
          "At the end, what did {h} feel?", "At the end, how was {h}?",
          "At the end, how did {h} feel?"],
         f"At the end {story.hero} was {story.feeling}.", story.feeling),
    ]  # fmt: skip
