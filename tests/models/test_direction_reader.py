"""What a direction reads and says, against hooks on the model and on constructed directions whose answer is known."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora_playground.analysis.directions import alone, random_direction, without
from lora_playground.analysis.merging import METHODS, Mixture, Recipe
from lora_playground.analysis.update import Update
from lora_playground.errors import AdapterError
from lora_playground.models.decoding import Decoder, RowUpdate
from lora_playground.models.direction_reader import NEUTRAL, DirectionReader
from lora_playground.models.placed_mixture import PlacedMixture
from lora_playground.models.placed_update import PlacedUpdate, named_modules
from tests.checkpoints import make_checkpoint
from tests.models.test_decoding import low_rank, targets

PROMPT = "What is the name of your dog?"


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder = make_checkpoint(tmp_path_factory.mktemp(request.param), request.param, seed=3)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 4.0 if parameter.dim() == 2 else 1.0
        for name, module in model.named_modules():  # scales that a reader must not overlook
            if "norm" in name or "ln_" in name:
                module.weight.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(1))
    return Decoder(model, AutoTokenizer.from_pretrained(folder))


def writer(decoder: Decoder) -> str:
    """The last module that writes to the residual stream."""
    return [name for name in targets(decoder.model) if name.endswith(("down_proj", "mlp.c_proj"))][-1]


def final_norm(decoder: Decoder) -> Any:
    modules = named_modules(decoder.model)
    return modules.get("model.norm") or modules["transformer.ln_f"]


def test_what_it_says_is_what_the_head_says_of_the_direction(decoder: Decoder) -> None:
    """A hook puts uᵢ in the place of the residual stream before the last norm: the head's logits are the reader's, up
    to the norm's division (and LayerNorm's bias)."""
    reader, norm = DirectionReader(decoder), final_norm(decoder)
    width = decoder.model.get_output_embeddings().weight.shape[1]
    u = torch.randn(width, generator=torch.Generator().manual_seed(2)) * 50
    hook = norm.register_forward_pre_hook(lambda _, given: (u.expand_as(given[0]),))
    try:
        logits = decoder.logits([1, 2, 3])[-1]
        if getattr(norm, "bias", None) is not None:
            logits = logits - decoder.model.get_output_embeddings()(norm.bias).detach()
    finally:
        hook.remove()
    divided = (u - u.mean() if isinstance(norm, torch.nn.LayerNorm) else u).square().mean().sqrt()
    assert torch.allclose(reader.shifts(u[:, None])[:, 0] / divided, logits, atol=1e-3)


def test_it_names_the_token_that_a_direction_raises_and_the_one_it_reads(decoder: Decoder) -> None:
    """ΔW = σ·u·vᵀ with u the head's row of one token and v what the module reads at one place of the prompt."""
    name, inn = writer(decoder), targets(decoder.model)[writer(decoder)][1]
    head = decoder.model.get_output_embeddings().weight.detach()
    wanted = decoder.tokenizer.encode("dog", add_special_tokens=False)[-1]
    ids = decoder.encode([{"role": "user", "content": PROMPT}])
    seen: list[torch.Tensor] = []
    hook = named_modules(decoder.model)[name].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    decoder.logits(ids)
    hook.remove()
    inputs = seen[0].reshape(-1, inn).double().numpy()
    place = len(ids) // 2
    v = np.linalg.pinv(inputs)[:, place]  # reads this place and no other
    u = (head[wanted] / final_norm(decoder).weight.detach()).double().numpy()
    update = Update(name, (u / np.linalg.norm(u))[:, None] * 1e-4, (v / np.linalg.norm(v))[None])
    found = DirectionReader(decoder).read(PlacedUpdate(decoder.model, [update]), name, 1, PROMPT)
    says = found["says"]
    assert says["raised"][0]["token"] == decoder.tokenizer.decode([wanted])
    assert says["strongest"] > says["chance"] and not found["nothing"]
    assert int(np.argmax(np.abs(found["reads"]))) == place and found["reads"][place] > 0
    assert (
        "".join(found["tokens"]) == decoder.tokenizer.decode(ids)
        and len(found["tokens"]) == len(ids)
        and "“" in found["sentence"]
    )
    direct = inputs @ (v / np.linalg.norm(v))
    assert np.allclose(np.abs(found["reads"]), np.abs(direct), atol=1e-3 * np.abs(direct).max())


def test_token_frequency_is_the_mean_over_texts_read_one_by_one(decoder: Decoder) -> None:
    tokenizer, total, count = decoder.tokenizer, 0.0, 0
    for text in NEUTRAL:
        p = decoder.logits(list(tokenizer(text)["input_ids"]) or [0]).softmax(-1)
        total, count = total + p.sum(0), count + len(p)
    found = DirectionReader(decoder)._frequency()
    assert torch.allclose(found.exp(), total / count, rtol=1e-3, atol=1e-9)


def test_a_random_direction_shows_nothing(decoder: Decoder) -> None:
    """Random updates of the same module: most of them raise no token more than chance, and the sentence says so."""
    name, (out, inn) = writer(decoder), targets(decoder.model)[writer(decoder)]
    reader, quiet = DirectionReader(decoder), 0
    for seed in range(8):
        noise = np.random.default_rng(seed)
        update = Update(name, noise.normal(0, 1e-4, (out, 1)), noise.normal(0, 1, (1, inn)))
        found = reader.read(PlacedUpdate(decoder.model, [update]), name, 1, PROMPT, seed)
        quiet += found["says"]["strongest"] <= found["says"]["chance"]
        assert ("say nothing" in found["sentence"]) == (found["says"]["strongest"] <= found["says"]["chance"])
    assert quiet >= 6  # each exceeds the largest of 16 with probability 1/17


def test_modules_that_write_elsewhere_say_why(decoder: Decoder) -> None:
    updates = low_rank(decoder.model, 3, 0, 0.01)
    placed = PlacedUpdate(decoder.model, updates)
    name = next(name for name in targets(decoder.model) if name.endswith(("q_proj", "c_attn")))
    found = DirectionReader(decoder).read(placed, name, 3, PROMPT)
    assert found["says"] is None and "residual stream" in found["says_not"] and found["of"] == 3
    with pytest.raises(AdapterError, match="Give 1 to 3"):
        DirectionReader(decoder).read(placed, name, 4, PROMPT)
    with pytest.raises(AdapterError, match="there is no update of"):
        DirectionReader(decoder).read(placed, "model.nothing", 1, PROMPT)


def test_alone_and_without_add_up(decoder: Decoder) -> None:
    updates = low_rank(decoder.model, 3, 4)
    name = writer(decoder)
    whole = {u.name: u.matrix() for u in updates}
    rest = {u.name: u.matrix() for u in without(updates, name, 2)}
    one = alone(updates, name, 2)[0].matrix()
    values = np.linalg.svd(whole[name], compute_uv=False)
    assert np.allclose(rest[name] + one, whole[name], atol=1e-5) and np.linalg.norm(one) == pytest.approx(values[1])
    assert all(np.array_equal(rest[other], whole[other]) for other in whole if other != name)
    control = random_direction(updates, name, 2, seed=1)[0].matrix()
    assert np.linalg.norm(control) == pytest.approx(values[1], rel=1e-5)
    assert abs(np.sum(control * one)) < 0.5 * values[1] ** 2


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("mean", "dare_ties", "linear")])
def test_a_placed_mixture_answers_as_its_dense_sum_would(decoder: Decoder, method: str) -> None:
    """Logits with the small core between the factors against ΔW of the mixture added to W densely, other weights on the
    same placed factors."""
    adapters = [low_rank(decoder.model, 3, seed, 0.2) for seed in range(3)]
    mixture = Mixture(adapters, Recipe(method, density=0.7, seed=3))
    placed, ids = PlacedMixture(decoder.model, mixture), [3, 1, 4, 1, 5]
    for weights in ([0.6, -1.2, 0.3], [2.0, 0.0, 1.0]):
        modules, saved = named_modules(decoder.model), {}
        for update in mixture.updates(weights):
            weight = modules[update.name].weight
            saved[update.name] = weight.detach().clone()
            dense = torch.tensor(update.matrix(), dtype=torch.float32)
            with torch.no_grad():
                weight += dense if weight.shape == dense.shape and "c_" not in update.name else dense.T
        expected = decoder.logits(ids)
        with torch.no_grad():
            for name, value in saved.items():
                modules[name].weight.copy_(value)
        found = decoder.logits(ids, RowUpdate(placed.at(weights)))
        assert torch.allclose(found, expected, atol=2e-3 * float(expected.abs().max()))
        assert not torch.allclose(found, decoder.logits(ids), atol=1e-2)
