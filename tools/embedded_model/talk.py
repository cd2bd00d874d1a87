"""Greetings, small talk, and remembering what the user said earlier in the chat."""

from __future__ import annotations

import random

from tools.embedded_model import words as w
from tools.embedded_model.world import World, article

Turn = tuple[str, str]  # (what the user says, what the assistant answers)

HELLO = [
    "Hello!", "Hi!", "Hey there!", "Good morning!", "Good evening!", "Hello there.", "Hi, how are you?", "Hey!",
    "Good day!",
         "Hello, how are you today?", "Nice to meet you!", "Hi there, friend.", "Hello again!", "Greetings!",
         "Is anybody there?"]  # fmt: skip
HELLO_BACK = [
    "Hello! How can I help you?", "Hi! What would you like to know?", "Hello! It is nice to meet you.",
    "Hi there! What can I do for you?",
              "Good to see you! Ask me anything about our little world."]  # fmt: skip
HOW_ARE = [
    "How are you?", "How do you do?", "How is it going?", "Are you well?", "How do you feel today?",
    "How was your day?"]  # fmt: skip
FINE = [
    "I am fine, thank you. How are you?", "I am very well, thank you.", "I feel great today. And you?",
    "All is well here. What about you?"]  # fmt: skip
MOOD_GOOD = [
    "I am happy today.", "I feel great.", "I had a lovely day.", "Today was wonderful.", "I am very well, thanks.",
    "I am fine too."]  # fmt: skip
MOOD_GOOD_BACK = [
    "I am glad to hear that!", "That is wonderful!", "How nice! What made your day so good?",
    "That makes me happy too."]  # fmt: skip
MOOD_BAD = [
    "I am sad today.", "I feel awful.", "I had a terrible day.", "I am tired and sad.", "Today was not good.",
    "I feel lonely."]  # fmt: skip
MOOD_BAD_BACK = [
    "I am sorry to hear that. Would you like to hear a story?", "Oh no. I hope tomorrow is better.",
    "That is a pity. Do you want to talk about it?",
                 "I am sorry. A walk or a cup of tea may help."]  # fmt: skip
THANKS = ["Thank you!", "Thanks a lot.", "Thanks!", "Thank you very much.", "Great, thanks.", "That helps, thank you."]
WELCOME = ["You are welcome!", "My pleasure.", "Any time!", "I am glad I could help."]
BYE = ["Goodbye!", "Bye!", "See you later.", "I have to go now.", "Good night!", "See you tomorrow."]
BYE_BACK = [
    "Goodbye! Come back soon.", "See you! Have a nice day.", "Bye! It was nice to talk to you.",
    "Good night! Sleep well."]  # fmt: skip
WHO = [
    "Who are you?", "What are you?", "What is your name?", "Are you a person?", "Tell me about yourself.",
    "What should I call you?"]  # fmt: skip
WHO_BACK = [
    "I am Pip, a small chat model.", "My name is Pip. I am a very small language model.",
    "I am Pip. I know a little world of people, animals and towns."]  # fmt: skip
CAN = [
    "What can you do?", "How can you help me?", "What do you know?", "What can I ask you?",
    "Help me, what can I do here?"]  # fmt: skip
CAN_BACK = [
    "I can tell stories, answer questions about our little world, and do small sums.",
    "Ask me about people, animals, towns and things, or ask me for a story.",
            "I can count, sort, spell, add small numbers and tell stories."]  # fmt: skip
NAME_IS = [
    "My name is {n}.", "I am {n}.", "Hi, I am {n}.", "You can call me {n}.", "Hello, my name is {n}.",
    "People call me {n}.", "{n} is my name."]  # fmt: skip
NAME_BACK = ["Nice to meet you, {n}!", "Hello, {n}! How can I help you?", "Hi {n}, it is good to meet you."]
NAME_ASK = [
    "What is my name?", "Do you remember my name?", "Who am I?", "What did I say my name was?",
    "Can you say my name?", "Tell me my name."]  # fmt: skip
LIKE_IS = [
    "I like {v}.", "I love {v}.", "My favourite food is {v}.", "I eat {v} every day.", "Today I want to eat {v}.",
]  # fmt: skip
LIKE_BACK = ["I have heard that {v} can be very nice.", "Good choice! Many people like {v}.", "{V}? That sounds tasty."]
LIKE_ASK = [
    "What do I like to eat?", "Which food did I talk about?", "Do you remember what I like?",
    "What is my favourite food?"]  # fmt: skip
PET_IS = ["I have {v}.", "At home I have {v}.", "I got {v} last week.", "There is {v} in my house."]
PET_BACK = [
    "How nice! What is the name of your {b}?", "A {b} is good company.", "Lucky you! I would like to meet your {b}.",
]  # fmt: skip
PET_ASK = ["What pet do I have?", "Which animal do I have at home?", "Do you remember my pet?"]
OPINION = [("Do you like music?", "Yes, I like songs with a good beat."),
           ("What is your favourite colour?", "I like blue, like the sea."),
           ("Do you sleep?", "No, I never sleep, but I rest when nobody asks me anything."), ("Do you eat?",
           "No, I do not eat, but I like to talk about food."),
           ("Where do you live?", "I live inside this computer."), ("How old are you?",
           "I am very young. I was made not long ago."),
           ("Are you smart?", "I know a few things, but I am very small."), ("Can you sing?", "I can try: la la la!"),
           ("Tell me a joke.", "Why did the hen cross the road? To get to the other side!"), ("Do you have friends?",
           "Yes, everyone who talks to me is a friend."),
           ("I am bored.", "Shall I tell you a story?"), ("Do you like stories?",
           "Yes, I love stories, above all those that end well."),
           ("What is the meaning of life?", "I don't know, but being kind is a good start."), ("Can you help me?",
           "Of course. What do you need?")]  # fmt: skip
UNKNOWN_TOPICS = [
    "the president of the moon", "the weather next year", "the number of stars", "the winning numbers",
    "the price of gold", "my password",
    "my age", "the name of my cousin", "the colour of my door", "tomorrow's news", "the stock market",
    "quantum physics", "the capital of France",
    "the best phone", "the time right now", "what I ate yesterday", "the size of the universe", "my shoe size",
]  # fmt: skip
UNKNOWN_ASK = [
    "What is {t}?", "Tell me {t}.", "Do you know {t}?", "Can you tell me {t}?", "I want to know {t}.",
    "Please explain {t}."]  # fmt: skip
UNKNOWN_BACK = ["I don't know that.", "I am sorry, I don't know that.", "I don't know. I am only a small model."]


def greeting(rng: random.Random) -> Turn:
    """A greeting and its answer."""
    return rng.choice(HELLO), rng.choice(HELLO_BACK)


def farewell(rng: random.Random) -> Turn:
    """Thanks or goodbye."""
    return (rng.choice(THANKS), rng.choice(WELCOME)) if rng.random() < 0.5 else (rng.choice(BYE), rng.choice(BYE_BACK))


def small_talk(rng: random.Random) -> Turn:
    """One turn of talk that needs no memory."""
    roll = rng.randrange(7)
    if roll == 6:
        return rng.choice(OPINION)
    pairs = [
        (HOW_ARE, FINE),
        (MOOD_GOOD, MOOD_GOOD_BACK),
        (MOOD_BAD, MOOD_BAD_BACK),
        (WHO, WHO_BACK),
        (CAN, CAN_BACK),
        (HELLO, HELLO_BACK),
    ]
    asks, answers = pairs[roll]
    return rng.choice(asks), rng.choice(answers)


def unknown(rng: random.Random) -> Turn:
    """A question nobody here can answer."""
    return rng.choice(UNKNOWN_ASK).format(t=rng.choice(UNKNOWN_TOPICS)), rng.choice(UNKNOWN_BACK)


def remember(rng: random.Random, world: World, held: bool) -> tuple[list[Turn], str]:
    """The user says something about themselves and asks for it later: (turns, the word the last answer must have)."""
    kind = rng.randrange(3)
    between = [small_talk(rng)] if rng.random() < 0.6 else []
    if kind == 0:
        name = rng.choice(world.guests if held else world.cast)[0]
        first = (rng.choice(NAME_IS).format(n=name), rng.choice(NAME_BACK).format(n=name))
        return [first, *between, (rng.choice(NAME_ASK), f"Your name is {name}.")], name
    if kind == 1:
        food = rng.choice(w.FOODS)
        first = (rng.choice(LIKE_IS).format(v=food), rng.choice(LIKE_BACK).format(v=food, V=food.capitalize()))
        return [first, *between, (rng.choice(LIKE_ASK), f"You like {food}.")], food
    pet = rng.choice(w.PETS)
    back = rng.choice(PET_BACK).format(b=pet).replace("A " + pet, article(pet).capitalize())
    first = (rng.choice(PET_IS).format(v=article(pet)), back)
    return [first, *between, (rng.choice(PET_ASK), f"You have {article(pet)}.")], pet
