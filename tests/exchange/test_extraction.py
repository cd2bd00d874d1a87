"""What an import makes of every variant's saved adapter, against what the variant itself says its update is."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from trials import checkpoint, supports, trial

from lora_playground.analysis.adapter_config import CONFIG
from lora_playground.analysis.adapter_file import TENSORS, open_adapter
from lora_playground.analysis.adapter_methods import ALONE, METHODS, SHAPES, WEIGHTS
from lora_playground.analysis.spectra import analyse
from lora_playground.analysis.update import load_updates
from lora_playground.errors import AdapterError
from lora_playground.exchange import importing
from lora_playground.exchange.bases import _checked
from lora_playground.exchange.extraction import updates
from lora_playground.exchange.verification import TOLERANCE, compare
from lora_playground.runs import RunStore
from lora_playground.variants import VARIANTS

CASES = [(name, kind) for name in VARIANTS for kind in ("llama", "gpt2") if name != "full" and supports(name, kind)]
# What PEFT's file holds of each, from the methods' definitions: not listed are those whose file alone tells ΔW.
NEEDS = dict.fromkeys(("vera", "randlora", "fourierft", "shira", "miss"), SHAPES)
NEEDS |= dict.fromkeys(("ia3", "oft", "boft", "hra", "hira"), WEIGHTS)


def read(name: str, kind: str) -> list:
    """The updates as an import takes them, here with the base at hand where one is needed."""
    adapter = open_adapter(trial(name, kind).folder)
    if adapter.needs == ALONE and not adapter.config.dora:
        return list(adapter.updates())
    folder = checkpoint(kind)
    return list(updates(adapter, _checked(folder, adapter), folder if adapter.needs != SHAPES else None))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_an_imported_update_is_what_the_variant_itself_extracts(name, kind):
    case = trial(name, kind)
    own = {update.name: update for update in case.updates}
    found = {update.name: update for update in read(name, kind)}
    assert set(found) == set(own)
    for module, update in own.items():
        size = max(np.abs(update.matrix()).max(), 1e-12)
        np.testing.assert_allclose(found[module].matrix(), update.matrix(), atol=2e-5 * size, err_msg=module)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "full" and supports(name, "llama")])
def test_what_each_needs_is_known(name):
    assert open_adapter(trial(name, "llama").folder).needs == NEEDS.get(name, ALONE)


@pytest.fixture
def at_hand(monkeypatch):
    """What an import has done by a process of its own is done here: starting one takes most of such a test's time."""
    monkeypatch.setattr(importing, "extract", lambda adapter, shapes, base, links: updates(adapter, shapes, base))
    monkeypatch.setattr(importing, "check_import", compared)


def compared(base, adapter, kept):
    assert compare(base, adapter, load_updates(kept)) <= TOLERANCE
    return ""


@pytest.mark.parametrize("name", ["dora"])
def test_with_its_base_everything_works_through_a_process_of_its_own(name, tmp_path):
    case, seen = trial(name, "llama"), []
    store = RunStore(tmp_path)
    done = importing.import_adapter(
        store, case.folder, base=str(checkpoint("llama")), progress=lambda *step: seen.append(step)
    )
    result = done.run.result()
    assert done.notes == [] and result["imported"]["extracted"] and seen[-1] == (14, 14)
    assert done.run.config().variant.name == name
    own = {update.name: update for update in case.updates}
    kept = {update.name: update for update in load_updates(done.run.update_path)}
    assert set(kept) == set(own)
    for module, update in own.items():
        np.testing.assert_allclose(kept[module].matrix(), update.matrix(), atol=1e-5 * np.abs(update.matrix()).max())
    events, _ = done.run.events()
    truth = analyse(case.updates)
    for module, values in events[1]["spectra"].items():
        np.testing.assert_allclose(values, truth[module].values[: len(values)], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["vera", "oft"])  # one that needs shapes, one that needs weights
def test_without_its_base_its_trained_tensors_are_shown_and_it_is_said(name, tmp_path, at_hand):
    case = trial(name, "llama")
    folder = tmp_path / "adapter"
    shutil.copytree(case.folder, folder)
    config = json.loads((folder / CONFIG).read_text()) | {"base_model_name_or_path": "acme/other"}
    (folder / CONFIG).write_text(json.dumps(config))
    done = importing.import_adapter(RunStore(tmp_path / "home"), folder)
    label = METHODS[config["peft_type"]].label
    words = next(note for note in done.notes if label in note and "not ΔW" in note)
    assert "acme/other" in words and "--base" in words and ("weights W" in words) == (NEEDS[name] == WEIGHTS)
    assert done.run.config().label.endswith("(trained tensors)") and not done.run.update_path.exists()
    adapter = importing.opened(done.run)
    stored = load_file(str(folder / TENSORS))
    for module in adapter.parts:
        keys = [key for part, key in adapter.parts[module].items() if part != "shira_indices"]
        trained = max((stored[key] for key in keys), key=lambda array: array.size)
        np.testing.assert_array_equal(np.sort(adapter.update(module).dense.ravel()), np.sort(trained.ravel()))
        expected = np.linalg.svd(adapter.update(module).matrix(), compute_uv=False)
        spectrum = analyse([adapter.update(module)])[module].values
        np.testing.assert_allclose(spectrum, expected[: spectrum.size], atol=1e-6 * expected[0])


@pytest.mark.parametrize("name", ["vera", "oft", "fourierft"])
def test_another_base_is_refused_and_nothing_is_left(name, tmp_path):
    case = trial(name, "llama")
    adapter = open_adapter(case.folder)
    shapes = _checked(checkpoint("llama"), adapter)
    store = RunStore(tmp_path)
    with pytest.raises(AdapterError, match="does not have"):
        importing.import_adapter(store, case.folder, base=str(checkpoint("gpt2")))
    assert store.list() == []
    if name != "fourierft":  # whose tensors are the same whatever the base's shapes
        with pytest.raises(AdapterError, match="does not fit the base model: size mismatch"):
            list(updates(adapter, {module: (out, 2 * into) for module, (out, into) in shapes.items()}, None))


def test_projections_that_are_not_saved_are_drawn_again(tmp_path, at_hand):
    case = trial("vera", "llama")
    folder = tmp_path / "adapter"
    shutil.copytree(case.folder, folder)
    config = json.loads((folder / CONFIG).read_text()) | {"save_projection": False}
    (folder / CONFIG).write_text(json.dumps(config))
    tensors = load_file(str(folder / TENSORS))
    save_file({key: value for key, value in tensors.items() if "lambda" in key}, str(folder / TENSORS))
    adapter = open_adapter(folder)
    found = {u.name: u for u in updates(adapter, _checked(checkpoint("llama"), adapter), None)}
    for update in case.updates:
        np.testing.assert_allclose(found[update.name].matrix(), update.matrix(), atol=1e-6)
    done = importing.import_adapter(RunStore(tmp_path / "home"), folder, base=str(checkpoint("llama")))
    assert any("drawn again from its key" in note for note in done.notes)


def test_places_of_single_weights_are_kept_drawn_again_or_refused(tmp_path):
    case = trial("shira", "llama")
    folder = tmp_path / "adapter"
    shutil.copytree(case.folder, folder)
    stored = json.loads((folder / CONFIG).read_text())
    tensors = load_file(str(folder / TENSORS))
    own = {update.name: update.matrix() for update in case.updates}

    def found(change: dict, keep: dict) -> dict:
        (folder / CONFIG).write_text(json.dumps(stored | change))
        save_file(keep, str(folder / TENSORS))
        adapter = open_adapter(folder)
        return {u.name: u.matrix() for u in updates(adapter, _checked(checkpoint("llama"), adapter), None)}

    weights = {key: value for key, value in tensors.items() if "indices" not in key}
    for change, keep in (({"random_seed": None, "mask_type": "mine"}, tensors), ({}, weights)):
        for name, matrix in found(change, keep).items():
            np.testing.assert_allclose(matrix, own[name], atol=1e-6)
    for change in ({"random_seed": None}, {"mask_type": "mine"}):
        with pytest.raises(AdapterError, match="neither their places nor the seed"):
            found(change, weights)
    for place in (-1, 10**6):
        outside = {key: np.array(value) for key, value in tensors.items()}
        next(value for key, value in outside.items() if "indices" in key)[0, 0] = place
        with pytest.raises(AdapterError, match="places outside of"):
            found({}, outside)


def test_values_that_are_not_finite_are_refused_in_the_process_too(tmp_path):
    folder = tmp_path / "adapter"
    shutil.copytree(trial("hra", "llama").folder, folder)
    tensors = {key: np.array(value) for key, value in load_file(str(folder / TENSORS)).items()}
    next(iter(tensors.values()))[0, 0] = np.nan
    save_file(tensors, str(folder / TENSORS))
    store = RunStore(tmp_path / "home")
    with pytest.raises(AdapterError, match="NaN or Inf"):
        importing.import_adapter(store, folder, base=str(checkpoint("llama")))
    assert store.list() == []


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("vera", {"projection_prng_key": -1}, "projection_prng_key is -1"),
        ("vera", {"save_projection": "no"}, "save_projection is 'no'"),
        ("shira", {"mask_type": 7}, "mask_type is 7"),
        ("miss", {"init_weights": "bag"}, "init_weights is 'bag'"),
        ("oft", {"oft_block_size": 10**9}, "oft_block_size is 1000000000"),
        ("oft", {"oft_block_size": 0, "r": 0}, "does not fit the base model"),
        ("c3a", {"bias": "lora"}, "bias is 'lora'"),
        ("fourierft", {"scaling": "150"}, "scaling is '150'"),
    ],
)
def test_configs_that_lie_are_refused(name, change, match, tmp_path):
    folder = tmp_path / "adapter"
    shutil.copytree(trial(name, "llama").folder, folder)
    config = json.loads((folder / CONFIG).read_text()) | change
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(AdapterError, match=match):
        adapter = open_adapter(folder)
        list(updates(adapter, _checked(checkpoint("llama"), adapter), checkpoint("llama")))


class Net(torch.nn.Module):
    """Two linear layers, one with a bias, named as a model's."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = torch.nn.Linear(12, 24, bias=False)
        self.o_proj = torch.nn.Linear(24, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.o_proj(self.q_proj(x))


def other_configs() -> dict:
    """Options and methods that the registry's own runs never have."""
    import peft

    both: dict = {"target_modules": ["q_proj", "o_proj"]}
    return {
        "hira": peft.HiraConfig(r=4, init_weights=True, **both),
        "c3a": peft.C3AConfig(block_size=6, block_size_pattern={"o_proj": 4}, init_weights=False, **both),
        "road_1": peft.RoadConfig(variant="road_1", group_size=4, **both),
        "road_2": peft.RoadConfig(variant="road_2", group_size=4, **both),
        "road_4": peft.RoadConfig(variant="road_4", group_size=4, **both),
        "miss_mini": peft.MissConfig(r=4, mini_r=2, init_weights="mini", **both),
        "miss_bat": peft.MissConfig(r=4, init_weights="bat", **both),
        "gralora_hybrid": peft.GraloraConfig(r=4, gralora_k=2, hybrid_r=3, alpha=5, **both),
        "oft_by_r": peft.OFTConfig(r=4, oft_block_size=0, use_cayley_neumann=False, **both),
        "coft_shared": peft.OFTConfig(oft_block_size=4, coft=True, eps=0.1, block_share=True, **both),
        "ia3_inputs": peft.IA3Config(feedforward_modules=["o_proj"], **both),
        "boft_two": peft.BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=1, **both),
        "hra_gs": peft.HRAConfig(r=4, apply_GS=True, **both),
        "randlora_sparse": peft.RandLoraConfig(r=4, randlora_alpha=8, sparse=True, **both),
        "dora_patterns": peft.LoraConfig(r=4, use_dora=True, rank_pattern={"o_proj": 2}, use_rslora=True, **both),
        "fourier_pattern": peft.FourierFTConfig(n_frequency=9, n_frequency_pattern={"o_proj": 30}, **both),
        "vera_narrow": peft.VeraConfig(r=3, target_modules=["o_proj"]),
    }


@pytest.mark.parametrize("which", list(other_configs()))
def test_other_options_and_methods_are_what_peft_merges(which, tmp_path):
    from peft import get_peft_model

    torch.manual_seed(0)
    net = Net()
    pristine = {key: value.clone() for key, value in net.state_dict().items()}
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text('{"model_type": "llama"}')
    save_file({key: value.numpy() for key, value in pristine.items()}, str(tmp_path / "base" / "model.safetensors"))
    model = get_peft_model(net, other_configs()[which])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(str(tmp_path / "adapter"))
    adapter = open_adapter(tmp_path / "adapter")
    shapes = {module: tuple(pristine[f"{module}.weight"].shape) for module in adapter.parts}
    own = adapter.needs == ALONE and not adapter.config.dora
    found = {u.name: u.matrix() for u in (adapter.updates() if own else updates(adapter, shapes, tmp_path / "base"))}
    merged = model.merge_and_unload().state_dict()
    for key, before in pristine.items():
        delta = (merged[key] - before).numpy()
        name = key.removesuffix(".weight")
        if np.abs(delta).max() > 0 or name in found:
            np.testing.assert_allclose(found[name], delta, atol=2e-6, err_msg=key)
    assert set(found) & set(shapes) == set(shapes)
