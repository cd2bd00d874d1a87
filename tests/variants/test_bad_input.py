"""Options that cannot work are refused in one line that says what was given and what is allowed."""

import math

import pytest

from lora_playground.config import RunConfig
from lora_playground.errors import ConfigError
from lora_playground.variants import VARIANTS, get_variant
from lora_playground.variants.targets import select, short_names

SHAPES = {
    f"model.layers.{layer}.{name}": shape
    for layer in range(2)
    for name, shape in {
        "self_attn.q_proj": (32, 32),
        "self_attn.k_proj": (16, 32),
        "self_attn.v_proj": (16, 32),
        "mlp.up_proj": (66, 32),
    }.items()
}
RANKED = [name for name, variant in VARIANTS.items() if "rank" in variant.config.model_fields]
SCALED = [name for name, variant in VARIANTS.items() if "alpha" in variant.config.model_fields]


def refused(data, *words):
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse({"variant": data})
    told(caught.value, *words)


def told(error, *words):
    text = str(error)
    assert "\n" not in text and len(text) < 400
    for word in words:
        assert word in text, text


@pytest.mark.parametrize("name", RANKED)
@pytest.mark.parametrize("rank", [0, -4, 8.5, "8", True, 10**9, math.nan, math.inf, None])
def test_ranks_that_are_no_whole_number_in_bounds(name, rank):
    refused({"name": name, "rank": rank}, "variant.rank", "not allowed")


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("alpha", [0, 0.0, -1.0, math.nan, math.inf, "16", None])
def test_alphas_that_scale_to_nothing_or_are_no_number(name, alpha):
    refused({"name": name, "alpha": alpha}, "variant.alpha", "not allowed")


@pytest.mark.parametrize("name", VARIANTS)
def test_unknown_fields_are_named_with_those_there_are(name):
    refused({"name": name, "rnak": 8}, "rnak", "no such option", *list(VARIANTS[name].config.model_fields)[:3])


@pytest.mark.parametrize("given", ["loar", "", None, 7])
def test_unknown_variants_are_answered_with_the_list(given):
    refused({"name": given}, "variant.name", "celora", "lora")
    with pytest.raises(ConfigError, match="choose one of"):
        get_variant("loar")


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 1.5, math.nan])
def test_dropout_out_of_bounds(dropout):
    refused({"name": "lora", "dropout": dropout}, "variant.dropout")


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_hra_wants_an_even_rank(rank):
    refused({"name": "hra", "rank": rank}, "variant.rank", str(rank), "even", str(rank + 1))


@pytest.mark.parametrize("name", [name for name in RANKED if VARIANTS[name].low_rank or name in ("randlora", "hira")])
def test_a_rank_above_the_smallest_side_names_the_module_and_the_most_there_can_be(name):
    variant = VARIANTS[name]
    config = variant.config(rank=18)
    with pytest.raises(ConfigError) as caught:
        variant.check(config, SHAPES, variant.bits[0])
    told(caught.value, "variant.rank: 18", "k_proj", "1 to 11" if name == "adalora" else "1 to 16")
    variant.check(variant.config(rank=10), SHAPES, variant.bits[0])


def test_adalora_counts_its_larger_start_rank():
    variant = VARIANTS["adalora"]
    assert variant.config(rank=8).start_rank == 12
    with pytest.raises(ConfigError, match="1 to 11"):
        variant.check(variant.config(rank=12), SHAPES)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (["q_porj"], ("q_porj", "k_proj, q_proj, up_proj, v_proj", "did you mean q_proj?")),
        (["q_proj", "lm_head"], ("lm_head", "q_proj")),
        ([".*_proj"], (".*_proj", "q_proj")),
        ([""], ("''", "q_proj")),
        ([], ("[]", "q_proj")),
    ],
)
def test_unknown_target_modules_are_answered_with_those_there_are(targets, words):
    variant = VARIANTS["lora"]
    with pytest.raises(ConfigError) as caught:
        variant.check(variant.config(rank=2, target_modules=targets), SHAPES)
    told(caught.value, "variant.target_modules", *words)


def test_targets_may_be_last_names_or_full_names():
    chosen = select(SHAPES, ["q_proj", "layers.1.mlp.up_proj"])
    assert list(chosen) == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.mlp.up_proj",
    ]
    assert short_names(chosen, SHAPES) == sorted(chosen)
    assert short_names(select(SHAPES, ["q_proj"]), SHAPES) == ["q_proj"]
    # A rank is checked against the modules it is for.
    VARIANTS["lora"].check(VARIANTS["lora"].config(rank=20, target_modules=["q_proj"]), SHAPES)


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if 4 not in variant.bits])
def test_variants_that_need_plain_weights_say_so(name):
    variant = VARIANTS[name]
    with pytest.raises(ConfigError) as caught:
        variant.check(variant.config(), SHAPES, 4)
    told(caught.value, "model.quantisation", "4bit", variant.label, "16 bit")


def test_loftq_says_that_it_needs_4_bit():
    variant = VARIANTS["loftq"]
    with pytest.raises(ConfigError, match="LoftQ needs a base stored in 4 bit"):
        variant.check(variant.config(rank=2), SHAPES, 16)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("gralora", {"rank": 9}, ("variant.rank", "multiple of blocks = 2")),
        ("gralora", {"rank": 9, "blocks": 3}, ("variant.blocks", "must divide")),
        ("oft", {"block_size": 7}, ("variant.block_size", "32 inputs")),
        ("c3a", {"block_size": 4}, ("variant.block_size", "66 × 32", "must divide 2")),
        ("boft", {"block_size": 3}, ("variant.block_size", "even")),
        ("fourierft", {"frequencies": 600}, ("variant.frequencies", "512 entries")),
    ],
)
def test_sizes_that_do_not_fit_the_modules(name, given, words):
    variant = VARIANTS[name]
    with pytest.raises(ConfigError) as caught:
        variant.check(variant.config(**given), SHAPES)
    told(caught.value, *words)
