"""Adapters as stock PEFT saves them: taken, asked and exported they give PEFT's logits, or they are refused by name."""

import functools
import json
import shutil
import tempfile
from pathlib import Path

import peft
import pytest
import torch
from checkpoints import make_checkpoint
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from lora_playground.analysis.update import load_updates
from lora_playground.config import ModelConfig, RunConfig
from lora_playground.errors import AdapterError, ModelError, RunError
from lora_playground.exchange import importing, verification
from lora_playground.exchange.exporting import export
from lora_playground.exchange.extraction import updates
from lora_playground.exchange.importing import import_adapter
from lora_playground.exchange.verification import TOLERANCE, check_import, difference, load, logits, prompts, with_peft
from lora_playground.models.catalogue import resolve
from lora_playground.models.decoding import Decoder, RowUpdate
from lora_playground.models.loading import load_base
from lora_playground.runs import RunStore

PLACE = Path(tempfile.mkdtemp(prefix="strangers-"))
TIED = {"llama": False, "llama-tied": True, "gemma3": True, "gpt2": True, "qwen2": True, "phi": False, "opt": True}


@functools.cache
def base(kind: str) -> Path:
    """A random checkpoint with weights that matter and biases that are not zero; tied as people's are."""
    folder = make_checkpoint(PLACE / kind, kind.removesuffix("-tied"), tie_word_embeddings=TIED[kind])
    model = load(folder)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(3.0) if parameter.dim() == 2 else parameter.add_(0.1 * torch.randn_like(parameter))
            assert torch.isfinite(parameter).all(), name
    model.save_pretrained(folder)
    return folder


def adapter(folder: Path, kind: str, config: peft.PeftConfig) -> Path:
    """An adapter made by stock PEFT whose trained weights are all far from their start."""
    torch.manual_seed(1)
    tuned = get_peft_model(load(base(kind)), config)
    with torch.no_grad():
        for weight in tuned.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))
    tuned.save_pretrained(str(folder))
    return folder


def lora(**fields: object) -> LoraConfig:
    given = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"]}
    return LoraConfig(**(given | fields))


def gpt2(**fields: object) -> LoraConfig:
    return lora(**({"target_modules": ["c_attn", "attn.c_proj", "mlp.c_proj"], "fan_in_fan_out": True} | fields))


ACCEPTED = {
    "plain": ("llama", lora()),
    "rslora": ("llama", lora(use_rslora=True)),
    "all-linear": ("llama", lora(target_modules="all-linear")),
    "regular expression": ("llama", lora(target_modules=r".*\.(q|down)_proj")),
    "layers_to_transform": ("llama", lora(layers_to_transform=[1])),
    "layers_pattern": ("llama", lora(layers_to_transform=1, layers_pattern="layers")),
    "exclude_modules": ("llama", lora(target_modules="all-linear", exclude_modules=["o_proj"])),
    "patterns": ("llama", lora(rank_pattern={"layers.0.self_attn.q_proj": 2}, alpha_pattern={"v_proj": 3})),
    "pattern that matches nothing": ("llama", lora(alpha_pattern={"^q_proj": 100})),
    "dora": ("llama", lora(use_dora=True)),
    "dora, rslora, patterns": ("llama", lora(use_dora=True, use_rslora=True, rank_pattern={"v_proj": 2})),
    "saved head": ("llama", lora(modules_to_save=["lm_head"])),
    "saved head, tied": ("llama-tied", lora(modules_to_save=["lm_head"])),
    "saved embedding": ("llama", lora(modules_to_save=["embed_tokens"])),
    "saved embedding, tied": ("llama-tied", lora(modules_to_save=["embed_tokens"])),
    "both saved, tied": ("llama-tied", lora(modules_to_save=["embed_tokens", "lm_head"])),
    "saved norms": ("llama", lora(modules_to_save=["input_layernorm", "model.norm"])),
    "saved linear modules": ("llama", lora(modules_to_save=["up_proj"])),
    "token rows": ("llama", lora(trainable_token_indices=[1, 2, 3, 42, 79])),
    "token rows, tied": ("llama-tied", lora(trainable_token_indices={"embed_tokens": [5, 300]})),
    "token rows, scaled": ("gemma3", lora(trainable_token_indices=[5, 300])),
    "embedding": ("llama", lora(target_modules=["embed_tokens", "q_proj"])),
    "embedding, tied": ("llama-tied", lora(target_modules=["embed_tokens", "q_proj"])),
    "embedding, scaled": ("gemma3", lora(target_modules=["embed_tokens", "q_proj"])),
    "head": ("llama", lora(target_modules=["lm_head", "q_proj"])),
    "head, tied": ("llama-tied", lora(target_modules=["lm_head", "q_proj"])),
    "head with dora, tied": ("llama-tied", lora(target_modules=["lm_head", "q_proj"], use_dora=True)),
    "biases of adapted modules": ("qwen2", lora(bias="lora_only")),
    "biases of a model without": ("llama", lora(bias="all")),
    "gpt2": ("gpt2", gpt2()),
    "gpt2, orientation not said": ("gpt2", gpt2(fan_in_fan_out=False)),
    "gpt2, dora": ("gpt2", gpt2(use_dora=True)),
    "gpt2, saved": ("gpt2", gpt2(target_modules=["c_attn"], modules_to_save=["ln_1", "wte", "mlp.c_fc"])),
    "gpt2, biases": ("gpt2", gpt2(bias="lora_only")),
    "gpt2, all biases": ("gpt2", gpt2(target_modules=["c_attn"], bias="all")),
    "phi, all biases": ("phi", lora(target_modules=["q_proj", "lm_head"], bias="all")),
    "gpt2, embedding": ("gpt2", gpt2(target_modules=["wte", "c_attn"])),
}

DENSE = {"dora", "dora, rslora, patterns", "gpt2, dora", "head with dora, tied", "gpt2, saved"}
"""Those whose update of a linear module has no low rank: as a plain LoRA they are only near, and say so."""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    """A store. What an import extracts in a process of its own is extracted in this one, and what it compares there
    is compared here by the test: starting one takes most of such a test's time."""
    monkeypatch.setattr(importing, "extract", lambda adapter, shapes, base, links: updates(adapter, shapes, base))
    monkeypatch.setattr(importing, "check_import", lambda base, adapter, updates: "")
    return RunStore(tmp_path / "home")


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_accepted_gives_the_logits_of_stock_peft(name: str, store: RunStore, tmp_path: Path) -> None:
    kind, config = ACCEPTED[name]
    source = adapter(tmp_path / "adapter", kind, config)
    plain = load(base(kind))
    ids = prompts(plain)
    before = logits(plain, ids)
    wanted = logits(with_peft(plain, source), ids)
    assert difference(before, wanted) > 100 * TOLERANCE
    run = import_adapter(store, source, base=str(base(kind))).run
    host = load_base(ModelConfig(source=str(base(kind))), device="cpu", dtype="float32")
    decoder = Decoder(host.model, host.tokenizer)
    placed = RowUpdate(decoder.adapter(load_updates(run.update_path)))
    assert difference(decoder.logits(ids[0].tolist(), placed).float(), wanted) < TOLERANCE
    merged = export(run.folder, "merged", tmp_path / "merged")
    assert merged["exact"] and merged["note"] == ""
    assert difference(logits(load(tmp_path / "merged"), ids), wanted) < TOLERANCE
    made = export(run.folder, "lora", tmp_path / "lora")
    again = difference(logits(with_peft(load(base(kind)), tmp_path / "lora"), ids), wanted)
    assert made["exact"] == (again < TOLERANCE) == (name not in DENSE) and bool(made["note"]) == (name in DENSE)


@pytest.mark.parametrize(
    "config",
    [
        peft.AdaLoraConfig(init_r=4, target_r=2, total_step=10, target_modules=["q_proj"], task_type="CAUSAL_LM"),
        peft.LoHaConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", rank_pattern={"0.self_attn.q_proj": 3}),
        peft.LoKrConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", decompose_both=True),
        peft.VeraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"),
        peft.OFTConfig(oft_block_size=4, target_modules=["q_proj"], modules_to_save=["lm_head"]),
        peft.IA3Config(
            target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"
        ),
        peft.HiraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"),
        peft.MissConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", init_weights="bat"),
        peft.RoadConfig(target_modules=["q_proj"], task_type="CAUSAL_LM", group_size=8),
    ],
    ids=lambda config: config.peft_type.value,
)
def test_other_methods_give_the_logits_of_stock_peft(config: peft.PeftConfig, store: RunStore, tmp_path: Path) -> None:
    source = adapter(tmp_path / "adapter", "llama-tied", config)
    plain = load(base("llama-tied"))
    ids = prompts(plain)
    wanted = logits(with_peft(plain, source), ids)
    run = import_adapter(store, source, base=str(base("llama-tied"))).run
    assert export(run.folder, "merged", tmp_path / "merged")["exact"]
    assert difference(logits(load(tmp_path / "merged"), ids), wanted) < TOLERANCE


REFUSED = {
    "lora_bias": (lora(lora_bias=True), "lora_bias"),
    "alora_invocation_tokens": (lora(alora_invocation_tokens=[42]), "alora_invocation_tokens"),
    "olora": (lora(init_lora_weights="olora"), "init_lora_weights is 'olora'"),
    "pissa": (lora(init_lora_weights="pissa"), "init_lora_weights is 'pissa'"),
    "layer_replication": (lora(layer_replication=[[0, 2], [1, 2]]), "layer_replication"),
    "target_parameters": (lora(target_parameters=["mlp.up_proj.weight"]), "target_parameters"),
    "dora on an embedding": (
        lora(target_modules=["embed_tokens", "q_proj"], use_dora=True),
        "use_dora. on an emb",
    ),
    "ensure_weight_tying": (lora(modules_to_save=["lm_head"], ensure_weight_tying=True), "ensure_weight_tying"),
    "another task": (lora(task_type="SEQ_CLS"), "task_type is 'SEQ_CLS'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_is_refused_by_its_field(name: str, store: RunStore, tmp_path: Path) -> None:
    config, words = REFUSED[name]
    given = {"task_type": "CAUSAL_LM"} if name == "another task" else {}
    source = adapter(tmp_path / "adapter", "llama", LoraConfig(**(config.to_dict() | given)) if given else config)
    if given:
        edit(source, lambda settings: settings | {"task_type": "SEQ_CLS"})
    with pytest.raises(AdapterError, match=words):
        import_adapter(store, source, base=str(base("llama")))
    assert list(store.list()) == []


@pytest.mark.parametrize("fields", [{"target_modules": ["embed_positions"]}, {"modules_to_save": ["embed_positions"]}])
def test_a_table_of_positions_is_refused(fields: dict, store: RunStore, tmp_path: Path) -> None:
    """OPT's is called with a mask: stock PEFT fails on a LoRA of it."""
    source = adapter(tmp_path / "adapter", "opt", lora(**fields))
    with pytest.raises(AdapterError, match=r"changes model.*embed_positions.*, a table of positions"):
        import_adapter(store, source, base=str(base("opt")))


def edit(folder: Path, change) -> None:
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(change(settings)))


def renamed(folder: Path, change) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({change(key): value for key, value in load_file(str(path)).items()}, str(path), metadata={"format": "pt"})


@pytest.mark.parametrize(
    "settings",
    [{"layers_pattern": "", "enable_lora": None, "merge_weights": False}, {"target_modules": None}],
    ids=["as PEFT once wrote them", "modules not named"],
)
def test_configs_of_other_versions(settings: dict, store: RunStore, tmp_path: Path) -> None:
    plain = load(base("llama"))
    source = adapter(tmp_path / "adapter", "llama", lora(lora_alpha=12))
    renamed(source, lambda key: key.replace(".weight", ".default.weight"))
    wanted = logits(
        with_peft(load(base("llama")), adapter(tmp_path / "same", "llama", lora(lora_alpha=12))), prompts(plain)
    )
    edit(source, lambda known: known | settings)
    run = import_adapter(store, source, base=str(base("llama"))).run
    host = load_base(ModelConfig(source=str(base("llama"))), device="cpu", dtype="float32")
    decoder = Decoder(host.model, host.tokenizer)
    placed = RowUpdate(decoder.adapter(load_updates(run.update_path)))
    assert difference(decoder.logits(prompts(plain)[0].tolist(), placed).float(), wanted) < TOLERANCE


def test_tensors_for_which_peft_finds_no_place_are_refused_by_name(store: RunStore, tmp_path: Path) -> None:
    source = adapter(tmp_path / "adapter", "llama", lora())
    cases = {
        "short": (lambda key: key.replace("model.model.", "model."), r"changes layers\.0.*does not have"),
        "compiled": (lambda key: key.replace("base_model.model.", "base_model.model._orig_mod."), "compiled model"),
        "not adapted": (lambda key: key.replace("q_proj", "o_proj"), r"o_proj, which the config does not adapt"),
    }
    for name, (change, words) in cases.items():
        shutil.copytree(source, tmp_path / name)
        renamed(tmp_path / name, change)
        for given in (str(base("llama")),):
            with pytest.raises(AdapterError, match=words):
                import_adapter(store, tmp_path / name, base=given)
    head = adapter(tmp_path / "head", "llama", lora(modules_to_save=["lm_head"]))
    edit(head, lambda settings: settings | {"modules_to_save": None})
    with pytest.raises(AdapterError, match=r"lm_head\.weight.*modules_to_save"):
        import_adapter(store, head, base=str(base("llama")))
    future = adapter(tmp_path / "future", "llama", lora())
    edit(future, lambda settings: settings | {"use_new_trick": True})
    with pytest.raises(AdapterError, match="'use_new_trick' is True"):
        import_adapter(store, future, base=str(base("llama")))


def test_a_vocabulary_that_was_resized_is_refused(store: RunStore, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = load(base("llama"))
    model.resize_token_embeddings(520, mean_resizing=False)
    get_peft_model(model, lora()).save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=True)
    with pytest.raises(AdapterError, match=r"lm_head|embed_tokens"):
        import_adapter(store, tmp_path / "adapter", base=str(base("llama")))


def test_without_its_base_what_the_file_does_not_tell_is_only_looked_at(store: RunStore, tmp_path: Path) -> None:
    source = adapter(tmp_path / "adapter", "llama", lora(modules_to_save=["lm_head"]))
    done = import_adapter(store, source)
    assert done.base == "" and not done.run.update_path.exists()
    assert "whole modules" in done.notes[0] and "cannot be cut or asked" in done.notes[0]


def test_a_named_base_that_does_not_fit_is_called_so(store: RunStore, tmp_path: Path, monkeypatch) -> None:
    source = adapter(tmp_path / "adapter", "llama", lora())
    edit(source, lambda settings: settings | {"base_model_name_or_path": "acme/other"})
    other = make_checkpoint(tmp_path / "other", "llama", hidden=48)
    monkeypatch.setattr("lora_playground.exchange.bases.cached_snapshot", lambda name: other)
    (note,) = import_adapter(store, source).notes
    assert "acme/other is on this disk, but it does not fit" in note and "(48, 48) in the base model" in note
    edit(source, lambda settings: settings | {"base_model_name_or_path": "llama"})
    assert "no id of the hub" in import_adapter(store, source).notes[0]


def test_an_import_is_compared_with_stock_peft_in_a_process_of_its_own(tmp_path: Path) -> None:
    source = adapter(tmp_path / "adapter", "llama", lora(rank_pattern={"v_proj": 2}))
    run = import_adapter(RunStore(tmp_path / "home"), source, base=str(base("llama"))).run
    edit(source, lambda settings: settings | {"lora_alpha": 9})
    with pytest.raises(AdapterError, match="stock PEFT gives other logits"):
        check_import(base("llama"), source, run.update_path)


def test_a_folder_that_an_adapter_names_is_opened_if_it_was_used_here(store: RunStore, tmp_path: Path) -> None:
    """As an adapter that other tools trained on the same folder names it; a stranger's path is never looked at."""
    source = adapter(tmp_path / "adapter", "llama", lora(use_dora=True))
    edit(source, lambda settings: settings | {"base_model_name_or_path": f"{base('llama')}/"})
    alone = import_adapter(store, source)
    assert alone.base == "" and "not opened" in " ".join(alone.notes)
    with pytest.raises(RunError, match="import it again and say which"):
        alone.run.require_update()
    with pytest.raises(ModelError, match="import it again and say which"):
        resolve(alone.run.config().model.source)
    store.create(RunConfig.parse({"model": {"source": str(base("llama"))}}))
    assert import_adapter(store, source).base == str(base("llama"))


def test_rounding_is_no_difference(store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deep model in float32 differs from itself; what is near the tolerance is decided in float64."""
    source = adapter(tmp_path / "adapter", "llama", lora(use_dora=True))
    taken = load_updates(import_adapter(store, source, base=str(base("llama"))).run.update_path)
    assert verification._compared(base("llama"), source, taken, double=True) < TOLERANCE / 100
    for single, double, found in (
        (1.1e-4, 1.5e-5, 1.5e-5),
        (1.1e-4, 1.1e-4, 1.1e-4),
        (0.2, 0.0, 0.2),
        (3e-6, 1.0, 3e-6),
    ):
        given = {False: single, True: double}
        monkeypatch.setattr(verification, "_compared", lambda *_, double, given=given: given[double])
        assert verification.compare(base("llama"), source, taken) == found
