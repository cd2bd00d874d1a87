"""A base that does not fit is refused before it is loaded, with what is needed and what there is."""

from pathlib import Path

import pytest
import torch

from lora_playground.chat import memory_check
from lora_playground.config import ModelConfig
from lora_playground.errors import ChatError
from lora_playground.machine import memory
from lora_playground.models.catalogue import parameter_count
from tests.checkpoints import make_checkpoint


def test_refused_when_the_memory_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_checkpoint(tmp_path, "llama")
    config = ModelConfig(source=str(folder), quantisation="none")
    memory_check.check_memory(config, "cpu")
    monkeypatch.setattr(memory, "free", lambda device: 100_000_000)
    with pytest.raises(ChatError, match=r"needs about 0\.4 GB .* 0\.1 GB free.*training run"):
        memory_check.check_memory(config, "cpu")


def test_need_follows_what_is_held(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "llama")
    size = 2 * parameter_count(folder)
    plain, four = ModelConfig(source=str(folder), quantisation="none"), ModelConfig(source="x", quantisation="4bit")
    assert memory_check.need(folder, plain, torch.float32) - memory_check.RESERVE == 2 * size
    assert memory_check.need(folder, plain, torch.bfloat16) - memory_check.RESERVE == size
    assert memory_check.need(folder, four, torch.bfloat16) - memory_check.RESERVE < size / 2


def test_a_small_model_answers_in_float32_on_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(source=str(make_checkpoint(tmp_path, "llama")), quantisation="none")
    monkeypatch.setattr(memory_check, "torch_dtype", lambda name, device: torch.bfloat16)
    monkeypatch.setattr(memory_check, "cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert memory_check.decoding_dtype(config, "cpu") == torch.float32
    assert memory_check.decoding_threads(config, "cpu") == 1
    monkeypatch.setattr(memory_check, "SMALL", 1000)
    assert memory_check.decoding_dtype(config, "cpu") == torch.bfloat16
    assert memory_check.decoding_threads(config, "cpu") == 4
