"""Adapters from elsewhere: what PEFT says ΔW is, and everything a hostile or broken file might try."""

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from lora_playground.analysis.adapter_config import CONFIG, read_config
from lora_playground.analysis.adapter_file import TENSORS, open_adapter
from lora_playground.analysis.spectra import spectra
from lora_playground.analysis.tensors import TensorFile
from lora_playground.analysis.weights import Weights
from lora_playground.errors import AdapterError


class Net(torch.nn.Module):
    """Two linear layers and an embedding, named as a model's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(30, 12)
        self.q_proj = torch.nn.Linear(12, 20, bias=False)
        self.o_proj = torch.nn.Linear(20, 16, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.o_proj(self.q_proj(self.embed_tokens(x)))


def configs() -> dict:
    from peft import AdaLoraConfig, LoHaConfig, LoKrConfig, LoraConfig

    both = ["q_proj", "o_proj"]
    return {
        "lora": LoraConfig(r=4, lora_alpha=10, target_modules=both),
        "rslora": LoraConfig(r=4, lora_alpha=10, use_rslora=True, target_modules=both),
        "patterns": LoraConfig(
            r=4, lora_alpha=8, target_modules=both, rank_pattern={"o_proj": 2}, alpha_pattern={"^o_proj$": 6}
        ),
        "embedding": LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "embed_tokens"]),
        "adalora": AdaLoraConfig(init_r=4, target_r=2, lora_alpha=6, total_step=100, target_modules=both),
        "loha": LoHaConfig(r=2, alpha=6, target_modules=both),
        "lokr": LoKrConfig(r=2, alpha=6, target_modules=both),
        "lokr_whole": LoKrConfig(r=64, alpha=6, target_modules=both),
    }


@pytest.mark.parametrize("method", ["lora", "rslora", "patterns", "embedding", "adalora", "loha", "lokr", "lokr_whole"])
def test_updates_are_what_peft_adds_to_the_weights(method, tmp_path):
    from peft import get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(Net(), configs()[method])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "ranknum" not in name:
                parameter.normal_()
    model.save_pretrained(str(tmp_path))
    expected = {}
    for name, module in model.base_model.model.named_modules():
        if hasattr(module, "get_delta_weight"):
            expected[name] = module.get_delta_weight("default").detach().double().numpy()
    adapter = open_adapter(tmp_path)
    found = {update.name: update for update in adapter.updates()}
    assert set(found) == set(expected) and len(expected) == 2
    for name, matrix in expected.items():
        assert adapter.shapes[name] == matrix.shape == found[name].shape
        np.testing.assert_allclose(found[name].matrix(), matrix, atol=2e-5 * np.abs(matrix).max())
    for name, values in spectra(adapter.updates()).items():
        truth = np.linalg.svd(expected[name], compute_uv=False)
        np.testing.assert_allclose(values, truth[: len(values)], atol=1e-5 * truth[0])


def arrays(rank: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    made = {}
    for layer in range(2):
        stem = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        made[f"{stem}.lora_A.weight"] = rng.standard_normal((rank, 10)).astype(np.float32)
        made[f"{stem}.lora_B.weight"] = rng.standard_normal((12, rank)).astype(np.float32)
    return made


CONFIG_DATA = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}


def write(folder: Path, tensors: dict[str, np.ndarray] | None = None, **config) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(arrays() if tensors is None else tensors, str(folder / TENSORS))
    (folder / CONFIG).write_text(json.dumps(CONFIG_DATA | config))
    return folder


def refused(folder: Path, match: str) -> None:
    with pytest.raises(AdapterError, match=match):
        list(open_adapter(folder).updates())


def test_a_plain_adapter_opens_without_its_base(tmp_path):
    adapter = open_adapter(write(tmp_path / "a", base_model_name_or_path="../../etc/passwd"))
    assert list(adapter.shapes.values()) == [(12, 10)] * 2 and set(adapter.ranks.values()) == {4}
    assert adapter.config.base == "../../etc/passwd" and adapter.complete


@pytest.mark.parametrize("shape", [(2, 3), (0, 2, 4), (1, 1, 2**15)])
def test_a_circulant_update_is_not_written_out_at_any_size(shape, tmp_path):
    tensors = {"base_model.model.model.layers.0.mlp.up_proj.c3a_kernel": np.zeros(shape, np.float32)}
    config = {"peft_type": "C3A", "target_modules": ["up_proj"]}
    refused(write(tmp_path / "a", tensors, **config), "it must be .out/b, in/b, b., with at most 268,435,456 entries")


def test_bfloat16_is_read_exactly(tmp_path):
    from safetensors.torch import save_file as save_torch

    tensors = {name: torch.from_numpy(array).bfloat16() for name, array in arrays().items()}
    write(tmp_path / "a")
    save_torch(tensors, str(tmp_path / "a" / TENSORS))
    file = TensorFile(tmp_path / "a" / TENSORS)
    for name, tensor in tensors.items():
        assert np.array_equal(file.read(name), tensor.float().numpy())


def test_a_tensor_file_reads_what_safetensors_reads(tmp_path):
    rng = np.random.default_rng(0)
    made = {f"t{i}": rng.standard_normal((3, i + 1)).astype(t) for i, t in enumerate(["<f8", "<f4", "<f2"])}
    made["empty"] = np.zeros((0, 4), np.float32)
    save_file(made, str(tmp_path / "x.safetensors"), metadata={"k": "v"})
    file = TensorFile(tmp_path / "x.safetensors")
    assert file.metadata == {"k": "v"}
    for name, array in load_file(str(tmp_path / "x.safetensors")).items():
        assert np.array_equal(file.read(name), array) and file.read(name).dtype == array.dtype


# ---------------------------------------------------------------------------------------- contents that disagree


def test_missing_and_extra_tensors_are_named(tmp_path):
    some = arrays()
    some.pop("base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight")
    refused(write(tmp_path / "a", some), r"layers\.1\.self_attn\.q_proj has lora_A but not the other factor")
    extra = arrays() | {"base_model.model.q.vera_lambda_b.weight": np.zeros(3, np.float32)}
    refused(write(tmp_path / "b", extra), "does not belong to a LORA adapter")
    refused(write(tmp_path / "c", {"model.embed.weight": np.zeros((3, 3), np.float32)}), "Is this a whole model")
    refused(write(tmp_path / "d", {}), "holds no tensor of a LORA adapter")


def test_what_the_file_alone_does_not_tell_is_known(tmp_path):
    head = arrays() | {"base_model.model.lm_head.weight": np.zeros((3, 3), np.float32)}
    refused(write(tmp_path / "a", head), r"lm_head\.weight.*modules_to_save does not name it")
    adapter = open_adapter(write(tmp_path / "b", head, modules_to_save=["lm_head"]))
    assert list(adapter.saved) == ["lm_head.weight"] and not adapter.complete and len(adapter.shapes) == 2
    norms = arrays()
    norms["base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"] = np.ones(12, np.float32)
    assert not open_adapter(write(tmp_path / "c", norms, use_dora=True)).complete
    refused(write(tmp_path / "d", norms), "lora_ma.* does not belong")


def test_shapes_that_disagree_are_refused(tmp_path):
    wrong = arrays()
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    wrong[name] = np.zeros((5, 10), np.float32)
    refused(write(tmp_path / "a", wrong), "B must be")
    refused(write(tmp_path / "b", r=8), "rank 4 by its tensors but 8")
    wrong[name] = np.zeros((4, 10, 1, 1), np.float32)
    refused(write(tmp_path / "c", wrong), "no linear layer")
    wrong[name] = np.zeros((4, 10), np.int32)
    refused(write(tmp_path / "d", wrong), "floating point")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, bad):
    wrong = arrays()
    wrong["base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"][3, 2] = bad
    refused(write(tmp_path / "a", wrong), r"layers\.1.*NaN or Inf")


def test_an_adapter_of_another_architecture_is_refused(tmp_path):
    adapter = open_adapter(write(tmp_path / "a", base_model_name_or_path="acme/gpt-5b"))
    fitting = dict.fromkeys(adapter.shapes, (12, 10))
    adapter.check_fits(fitting)
    with pytest.raises(AdapterError, match=r"is \(12, 99\) in the base model but \(12, 10\).*acme/gpt-5b"):
        adapter.check_fits(fitting | {"model.layers.1.self_attn.q_proj": (12, 99)})
    with pytest.raises(AdapterError, match=r"changes model\.layers\.0.*does not have"):
        adapter.check_fits({})


@pytest.mark.parametrize(
    "change, match",
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"peft_type": None}, "known here are LORA"),
        ({"peft_type": "lora"}, "peft_type .?lora"),
        ({"r": 0}, "r is 0"),
        ({"r": 5e6}, "r is 5000000"),
        ({"r": True}, "r is True"),
        ({"lora_alpha": "16"}, "lora_alpha is '16'"),
        ({"use_rslora": "yes"}, "use_rslora"),
        ({"rank_pattern": [1]}, "rank_pattern must map"),
        ({"rank_pattern": {"(a+)+$": 4}}, "regular expression"),
        ({"alpha_pattern": {"q_proj": float("inf")}}, "alpha_pattern"),
        ({"lora_alpha": float("nan")}, "finite"),
    ],
)
def test_configs_that_lie_or_would_harm_are_refused(tmp_path, change, match):
    refused(write(tmp_path / "a", **change), match)


def test_nothing_beyond_the_allowlist_is_taken_over():
    hostile = CONFIG_DATA | {"auto_mapping": {"parent_library": "os"}, "megatron_core": "os", "eva_config": {"rho": 2}}
    assert read_config(hostile) == read_config(CONFIG_DATA)
    assert read_config(CONFIG_DATA | {"target_modules": "(a+)+$"}).adapts("a" * 200), "a stranger's pattern is not run"
    for pattern in ("(a+)+", ["(a+)+"]):
        with pytest.raises(AdapterError, match="layers_pattern"):
            read_config(CONFIG_DATA | {"layers_pattern": pattern})


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"peft_type": "LORA"', "\xff"])
def test_configs_that_are_no_json_object_are_refused(tmp_path, text):
    folder = write(tmp_path / "a")
    (folder / CONFIG).write_bytes(text.encode("latin-1"))
    refused(folder, "JSON")


# ------------------------------------------------------------------------------------------------ hostile files


class Payload:
    """What a malicious pickle does: it runs code when opened."""

    def __reduce__(self):
        return (open, ("/tmp/lora-playground-owned", "w"))


def test_pickles_are_refused_by_name_and_by_content(tmp_path):
    folder = write(tmp_path / "a")
    (folder / TENSORS).rename(folder / "adapter_model.bin")
    refused(folder, r"adapter_model\.bin, a pickle")
    for protocol in range(2, 6):
        (folder / TENSORS).write_bytes(pickle.dumps(Payload(), protocol=protocol))
        refused(folder, "is a pickle")
    torch.save({"w": torch.zeros(2)}, folder / TENSORS)
    refused(folder, "is a pickle")
    torch.save({"w": torch.zeros(2)}, folder / TENSORS, _use_new_zipfile_serialization=False)
    refused(folder, "is a pickle")
    assert not Path("/tmp/lora-playground-owned").exists()


def test_a_header_whose_length_looks_like_a_pickle_is_still_read(tmp_path):
    # A header of 0x0280 bytes begins with the bytes of a protocol 2 pickle.
    tensors = {"t": np.zeros(4, np.float32)}
    text = json.dumps({"t": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode().ljust(0x0280)
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + tensors["t"].tobytes())
    from lora_playground.analysis.tensors import refuse_pickle

    refuse_pickle(path)
    assert np.array_equal(TensorFile(path).read("t"), tensors["t"])


def raw(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def tensor(shape=(4,), offsets=(0, 16), dtype="F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "header, data, length, match",
    [
        ({"a": tensor()}, b"\0" * 16, 2**62, "header too large"),
        ({"a": tensor()}, b"\0" * 8, None, "not fully covered"),
        ({"a": tensor()}, b"\0" * 17, None, "not fully covered"),
        ({"a": tensor(shape=(2**40, 2**40))}, b"\0" * 16, None, "overflow"),
        ({"a": tensor(shape=(5,))}, b"\0" * 16, None, "invalid shape"),
        ({"a": tensor(shape=(-4,))}, b"\0" * 16, None, "invalid value"),
        ({"a": tensor(shape=("4",))}, b"\0" * 16, None, "invalid type"),
        ({"a": tensor(offsets=(0, 16, 32))}, b"\0" * 16, None, "damaged"),
        ({"a": tensor(), "b": tensor(offsets=(8, 24))}, b"\0" * 24, None, "invalid offset"),
        ({"a": tensor(), "b": tensor(offsets=(24, 40))}, b"\0" * 40, None, "invalid offset"),
        ({"a": tensor(dtype="F7")}, b"\0" * 16, None, "unknown variant"),
        ({"a": tensor(dtype=["F32"])}, b"\0" * 16, None, "invalid JSON"),
        ({"a": 7}, b"", None, "invalid JSON"),
        ([1], b"", None, "invalid JSON"),
        (b'{"a":1,"a":2}', b"", None, "invalid JSON"),
        (b"[" * 100_000, b"", None, "invalid JSON"),
        (b"\xff\xfe", b"", None, "invalid UTF-8"),
        (b"", b"", None, "invalid JSON"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path, header, data, length, match):
    with pytest.raises(AdapterError, match=match):
        TensorFile(raw(tmp_path / "x.safetensors", header, data, length))


def test_headers_that_are_too_large_are_refused_before_they_are_read(tmp_path):
    with pytest.raises(AdapterError, match="at most 2 MiB"):
        TensorFile(raw(tmp_path / "x.safetensors", b"{" + b" " * (3 * 2**20) + b"}"))
    many = {f"t{i}": tensor((0,), (0, 0)) for i in range(6000)}
    with pytest.raises(AdapterError, match="6000 tensors; at most 5000"):
        TensorFile(raw(tmp_path / "y.safetensors", many))
    (tmp_path / "z.safetensors").write_bytes(b"\x01\x02")
    with pytest.raises(AdapterError, match="no safetensors file"):
        TensorFile(tmp_path / "z.safetensors")


def test_links_are_not_followed(tmp_path):
    folder = write(tmp_path / "a")
    secret = tmp_path / "secret.json"
    (folder / CONFIG).rename(secret)
    (folder / CONFIG).symlink_to(secret)
    refused(folder, "symbolic link")
    assert open_adapter(folder, links=True).shapes, "a hub cache consists of links"


# --------------------------------------------------------------------------------------------------- base weights


def test_base_weights_are_found_whatever_their_prefix_and_layout(tmp_path):
    rng = np.random.default_rng(0)
    made = {
        "model.layers.0.self_attn.q_proj.weight": rng.standard_normal((6, 4)).astype(np.float32),
        "h.0.attn.c_attn.weight": rng.standard_normal((4, 12)).astype(np.float16),
        "h.0.attn.c_proj.weight": rng.standard_normal((4, 4)).astype(np.float32),
        "model.embed_tokens.weight": rng.standard_normal((9, 4)).astype(np.float32),
    }
    save_file(made, str(tmp_path / "model.safetensors"))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    weights = Weights(tmp_path)
    q, c, square, e = made.values()
    assert np.array_equal(weights.weight("transformer.h.0.attn.c_proj", (4, 4)), square.T), "square ones turn too"
    assert np.array_equal(weights.weight("transformer.h.0.attn.c_proj.weight", (4, 4)), square)
    assert np.array_equal(weights.weight("model.layers.0.self_attn.q_proj", (6, 4)), q)
    assert np.array_equal(weights.weight("transformer.h.0.attn.c_attn", (12, 4)), c.T.astype(np.float32))
    assert np.array_equal(weights.weight("lm_head", (9, 4)), e)
    assert weights.shape("nothing") is None
    with pytest.raises(AdapterError, match="no module"):
        weights.weight("model.layers.7.self_attn.q_proj", (6, 4))
    with pytest.raises(AdapterError, match="another base model"):
        weights.weight("model.layers.0.self_attn.q_proj", (6, 5))
    with pytest.raises(AdapterError, match="holds no safetensors"):
        Weights(tmp_path / "none")
