"""The world and its chats: the same from the same seed, wordings held out, answers that are true."""

import itertools
import random
import re

from lora_playground.evaluation import METRICS
from tools.embedded_model import facts, lexicon, reading, skills, stories, vocabulary
from tools.embedded_model.corpus import MIXTURE, chats, probes
from tools.embedded_model.world import build_world

WORLD = build_world()


def test_same_seed_same_world_and_chats():
    assert build_world() == WORLD
    assert build_world(8) != WORLD
    first, again, other = (list(itertools.islice(chats(WORLD, seed), 50)) for seed in (3, 3, 4))
    assert first == again != other


def test_names_belong_to_one_pool():
    people = [p.name for p in WORLD.people]
    pools = [people, *([name for name, _ in pool] for pool in (WORLD.newcomers, WORLD.strangers, WORLD.guests))]
    everyone = [name for pool in pools for name in pool]
    assert len(everyone) == len(set(everyone))
    assert all(len(pool) >= 60 for pool in pools)


def test_chats_have_at_most_four_turns_or_are_long_ones():
    lengths = [sum(m["role"] == "user" for m in chat) for chat in itertools.islice(chats(WORLD, 1), 2000)]
    assert sum(n > 4 for n in lengths) < 0.08 * len(lengths)
    assert sum(n > 1 for n in lengths) > 0.3 * len(lengths)


def test_chats_alternate_and_end_with_the_assistant():
    for chat in itertools.islice(chats(WORLD, 2), 500):
        roles = [m["role"] for m in chat if m["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(m["content"].strip() for m in chat)


def test_held_out_wordings_are_never_trained_on():
    trained = {m["content"] for chat in itertools.islice(chats(WORLD, 5), 20_000) for m in chat if m["role"] == "user"}
    asked = {
        row["messages"][-2]["content"] for row in probes(WORLD, 1, 12) if row["meta"]["skill"] in ("facts", "sums")
    }
    assert len(asked) > 20
    assert not asked & trained


def test_every_wording_list_keeps_enough_to_train_on():
    tables = [
        facts.PERSON_QUESTIONS,
        *({k: v[0] for k, v in t.items()} for t in (facts.TOWN_FACTS, facts.ANIMAL_FACTS)),
    ]
    for table in tables:
        for options in table.values():
            assert len(set(options)) == len(options) >= facts.HELD + 5


def test_reference_answers_of_probes_score_full_marks():
    for row in probes(WORLD, 2, 10):
        answer = row["messages"][-1]["content"]
        assert METRICS[row["meta"]["metric"]].score(answer, row) == 1, row


def test_sums_are_right():
    rng = random.Random(0)
    for _ in range(300):
        sample = skills.arithmetic(rng, WORLD, False)
        for _, answer in sample.turns:
            left, right = answer.split(" = ")
            assert eval(left) == int(right)


def test_facts_are_told_alike_in_every_wording():
    rng = random.Random(1)
    ada = WORLD.people[0]
    assert all(facts.person_qa(rng, ada, "job", held)[2] == ada.job for held in (True, False))


def test_stories_have_real_variety():
    rng = random.Random(2)
    told = [stories.make_story(rng, WORLD) for _ in range(400)]
    assert len({s.text for s in told}) == 400
    assert {s.plot for s in told} == set(stories.PLOTS)
    for s in told:
        assert s.hero in s.text and s.helper in s.text and s.thing in s.text and s.hero != s.helper


def test_every_skill_makes_samples_of_both_kinds():
    rng = random.Random(3)
    for skill, share in MIXTURE:
        for held in (True, False):
            sample = skill(rng, WORLD, held)
            assert share > 0 and sample.turns and (not sample.metric or sample.answer)


def test_articles():
    assert stories.fix_articles("a old owl and a fox") == "an old owl and a fox"
    assert facts.with_article("oar") == "an oar" and facts.with_article("scissors") == "scissors"


def test_records_are_shown_as_cards_or_json():
    rng = random.Random(4)
    shown = [reading.show_record(rng, {"name": "Ada", "pet": "cat"}) for _ in range(50)]
    assert set(shown) == {'{"name": "Ada", "pet": "cat"}', "name: Ada | pet: cat"}


def test_the_corpus_has_a_few_thousand_words():
    stream = itertools.islice(chats(WORLD, 6), 15_000)
    used = {word for chat in stream for m in chat for word in re.findall(r"[a-z]+", m["content"].lower())}
    assert len(used) > 3000


def test_a_word_is_one_kind_of_thing_and_has_one_opposite():
    nouns = [noun for kinds in (lexicon.KINDS, lexicon.PLAIN_KINDS) for line in kinds.values() for noun in line.split()]
    assert len(nouns) == len(set(nouns)) > 700
    assert not set(nouns) & ({a.name for a in WORLD.animals} | {t.name for t in WORLD.things} - {"chest"})
    for lines in (lexicon.OPPOSITES, lexicon.SAME):
        words = [word for pair in lexicon.pairs(lines) for word in pair]
        assert len(words) == len(set(words)) and all(word.isalpha() for word in words)
    for lines in (lexicon.PAST, lexicon.PLURALS, lexicon.YOUNG, lexicon.TRADES):
        firsts = [first for first, _ in lexicon.pairs(lines)]
        assert len(firsts) == len(set(firsts))


def test_words_are_spoken_of_with_the_right_article():
    assert vocabulary.is_kind("elk") == "An elk is a mammal."
    assert vocabulary.is_kind("basil") == "Basil is a herb."
    assert vocabulary.is_kind("pliers") == "Pliers are a tool."
