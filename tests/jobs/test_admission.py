"""What is refused before anything is loaded, and what a token of the hub never reaches."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from lora_playground.config import RunConfig
from lora_playground.errors import ConfigError, ModelError
from lora_playground.jobs.admission import check
from lora_playground.jobs.pipeline import execute
from lora_playground.runs import RunStore
from lora_playground.variants import VARIANTS
from tests.checkpoints import make_checkpoint

REFUSING = [name for name, variant in VARIANTS.items() if not getattr(variant, "conv1d", True)]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("gpt2"), "gpt2")


@pytest.mark.parametrize("name", REFUSING)
def test_variants_without_conv1d_refuse_gpt2_before_a_run(name: str, gpt2: Path, tmp_path: Path) -> None:
    for source in (str(gpt2), "openai-community/gpt2"):
        with pytest.raises(ConfigError, match=r"Conv1D.*choose one of.*LoRA"):
            check(RunConfig.parse({"model": {"source": source}, "variant": {"name": name}}), tmp_path)


def test_lora_takes_gpt2(gpt2: Path, tmp_path: Path) -> None:
    assert isinstance(check(RunConfig.parse({"model": {"source": str(gpt2)}}), tmp_path), list)


def test_a_gated_model_says_what_to_do_and_the_token_is_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    secret = "hf_ThisIsAVerySecretToken"

    answer = SimpleNamespace(headers={}, request=None, status_code=403)

    def refuse(*arguments: object, **options: object) -> None:
        raise GatedRepoError(f"403 for token {secret}", response=answer)  # type: ignore[arg-type]

    monkeypatch.setenv("HF_TOKEN", secret)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", refuse)
    run = RunStore(tmp_path / "home").create(RunConfig.parse({"model": {"source": "meta-llama/Llama-3.2-1B-Instruct"}}))
    with pytest.raises(ModelError, match=r"accept its licence.*HF_TOKEN"):
        execute(run, lambda: False)
    error = run.error()
    assert error is not None and error["code"] == "model" and "HF_TOKEN" in error["message"]
    for path in (tmp_path / "home").rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
    assert secret not in json.dumps(error)
    told = capfd.readouterr()
    assert secret not in told.out and secret not in told.err


def test_other_errors_of_the_hub_hide_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    from lora_playground.models.loading import download

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError("cannot connect with Bearer hf_secret")

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", refuse)
    with pytest.raises(ModelError) as caught:
        download("nobody/nothing")
    assert "hf_secret" not in str(caught.value) and "(token)" in str(caught.value)
