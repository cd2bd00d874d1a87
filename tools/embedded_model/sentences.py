"""Plain sentences about inns and small scenes, with questions on them, in the words that the datasets use."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tools.embedded_model import words as w
from tools.embedded_model.stories import fix_articles

NOUNS = (
    "cat", "dog", "bird", "fish", "horse", "child", "king", "farmer", "river", "house", "tree", "bread", "apple",
    "book", "ball")  # fmt: skip
ACTORS, OBJECTS = NOUNS[:8], NOUNS
VERBS = ("sees", "eats", "finds", "likes", "carries", "sells", "hides", "draws")
QUALITIES = ("big", "small", "red", "blue", "old", "happy", "quick")
STEMS = {
    "sees": "see",
    "eats": "eat",
    "finds": "find",
    "likes": "like",
    "carries": "carry",
    "sells": "sell",
    "hides": "hide",
    "draws": "draw",
}


@dataclass(frozen=True)
class Scene:
    """Who does what to whom. `who` and `what` are (article, adjective or "", noun); `when` is "", "today" or "now"."""

    who: tuple[str, str, str]
    verb: str
    what: tuple[str, str, str]
    when: str

    @property
    def english(self) -> str:
        """The sentence."""
        parts = [*self.who, self.verb, *self.what, self.when]
        text = fix_articles(" ".join(part for part in parts if part))
        return text[0].upper() + text[1:] + "."


def make_scene(rng: random.Random) -> Scene:
    """A random scene, each part drawn uniformly."""
    nouns = rng.choice(ACTORS), rng.choice(OBJECTS)
    sides = [(rng.choice(("the", "a")), rng.choice(QUALITIES) if rng.random() < 0.5 else "", noun) for noun in nouns]
    return Scene(sides[0], rng.choice(VERBS), sides[1], rng.choice(("", "", "today", "now")))


def scene_question(rng: random.Random, scene: Scene) -> tuple[str, str, str]:
    """(question, answer, expected word)."""
    who, what, stem = scene.who[2], scene.what[2], STEMS[scene.verb]
    return rng.choice([
        (f"Who {scene.verb} the {what}?", f"The {who} {scene.verb} the {what}.", who),
        (f"What does the {who} {stem}?", f"The {who} {scene.verb} the {what}.", what),
        (f"What does the {who} do?", f"The {who} {scene.verb} the {what}.", scene.verb),
    ])  # fmt: skip


INN_FIELDS = ("food", "price", "area", "rating", "near")


def make_inn(rng: random.Random, heads: list[str] | None = None) -> dict[str, str]:
    """An inn: its name and all its fields."""
    return {
        "name": f"The {rng.choice(heads or w.RESTAURANT_HEADS)} {rng.choice(w.RESTAURANT_TAILS)}",
        "food": rng.choice(w.CUISINES),
        "price": rng.choice(w.PRICES), "area": rng.choice(w.AREAS), "rating": rng.choice(w.RATINGS),
        "near": rng.choice(w.SIGHTS),
    }  # fmt: skip


def inn_sentence(rng: random.Random, inn: dict[str, str]) -> str:
    """A guide's description of an inn from the fields it has; the rating in stars."""
    price = {"cheap": "cheap", "moderate": "moderate", "expensive": "expensive"}.get(inn.get("price", ""), "")
    first = f"{inn['name']} is {fix_articles('a ' + (price + ' ' if price else '') + 'place')}"
    first += f" in {inn['area']}" if "area" in inn else ""
    first += f" near {inn['near']}" if "near" in inn else ""
    rest = []
    if "food" in inn:
        rest.append(rng.choice(("It serves {}.", "You can eat {} there.")).format(inn["food"]))
    if "rating" in inn:
        stars = "star" if inn["rating"] == "one" else "stars"
        rest.append(rng.choice(("It has {} {}.", "People give it {} {}.")).format(inn["rating"], stars))
    return " ".join([first + ".", *rest])


INN_QUESTIONS = {
    "food": ["What can I eat there?", "What does it serve?", "What food is there?", "What can you eat there?",
             "What do they serve?", "Which food does it have?", "Which food do they have?"],
    "price": ["Is it cheap or expensive?", "What is the price?", "How is the price?", "What are the prices?",
              "Are the prices high?", "What does it cost?", "How are the prices?"],
    "area": ["In which area is it?", "Where is it?", "Which area is it in?", "Tell me the area.", "What area is it in?",
             "What is the area?"],
    "rating": ["How many stars does it have?", "What is the rating?", "How many stars do people give it?",
               "Is it good?", "How is the rating?", "How good is the place?", "How good is it?"],
    "near": ["What is near it?", "What is it near to?", "Which place is it near?", "What is close to it?",
             "Which sight is near?", "What place is near it?", "Which place is near?"],
}  # fmt: skip
INN_ANSWERS = {
    "food": "It serves {}.",
    "price": "The price is {}.",
    "area": "It is in {}.",
    "rating": "The rating is {}.",
    "near": "It is near {}.",
}


def inn_question(rng: random.Random, inn: dict[str, str], held: bool) -> tuple[str, str, str]:
    """(question, answer, expected words); the last wording of each is held out."""
    field = rng.choice([key for key in INN_FIELDS if key in inn])
    options = INN_QUESTIONS[field]
    return (options[-1] if held else rng.choice(options[:-1])), INN_ANSWERS[field].format(inn[field]), inn[field]
