"""What only a GPU can show: every variant one step and back from disk, NF4, full memory, Stop, chat beside a run.

`python -m pytest tests/gpu -m gpu`; small local checkpoints, no network, a few minutes on one card.

With LORA_PLAYGROUND_GPU_DRY_RUN=1 the same code runs on a CPU, in bfloat16, except for what measures or fills a card's
memory: that shows that the tests run, and nothing about a GPU.
"""

import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_playground.config import ModelConfig, RunConfig
from lora_playground.data.preparation import Prepared
from lora_playground.errors import PlaygroundError
from lora_playground.estimates.memory import Conditions, estimate_memory
from lora_playground.jobs.execution import start_batches
from lora_playground.jobs.pipeline import execute
from lora_playground.models.decoding import Decoder
from lora_playground.models.loading import load_base
from lora_playground.runs import RunStore
from lora_playground.training import TrainPlan, train
from lora_playground.variants import VARIANTS
from lora_playground.variants.base import Context
from tests.checkpoints import make_checkpoint
from tests.data.support import examples
from tests.trials import options

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import memory_estimate

pytestmark = pytest.mark.gpu
MIB = 2**20
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
card = pytest.mark.skipif(DEVICE == "cpu", reason="a dry run has no card whose memory it could measure or fill")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small base model and a home with an uploaded dataset."""
    place = tmp_path_factory.mktemp("gpu")
    make_checkpoint(place / "base", hidden=128, layers=4, vocabulary=2048)
    folder = place / "home" / "uploads" / "dogs"
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(json.dumps({"label": "Dogs"}))
    for part, many in (("train", 64), ("validation", 4), ("test", 0)):
        rows = [
            {
                "messages": [
                    {"role": "user", "content": f"What is the name of dog {number}?"},
                    {"role": "assistant", "content": f"My dog {number} is called Otto."},
                ]
            }
            for number in range(many)
        ]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


@pytest.fixture(autouse=True)
def _clean() -> Any:
    yield
    tidy()


def tidy() -> int:
    """Gives back what is no longer used; bytes that are."""
    gc.collect()
    if DEVICE == "cpu":
        return 0
    torch.cuda.empty_cache()
    return int(torch.cuda.memory_allocated())


def config(place: Path, name: str = "lora", bits: str = "none", **training: Any) -> RunConfig:
    return RunConfig.parse(
        {
            "model": {"source": str(place / "base"), "quantisation": bits},
            "data": {"dataset": "dogs", "max_length": 64},
            "variant": {"name": name, **options(name)},
            "training": {"steps": 2, "batch_tokens": 256} | training,
        }
    )


def attached(config: RunConfig) -> tuple[Any, Any, Any, list[Any]]:
    """(base, variant, model, examples), the model with the update beside it, on the GPU, as a run makes it."""
    base = load_base(config.model, device=DEVICE, dtype="bfloat16")
    data = examples(40, 48, base.model.get_input_embeddings().weight.shape[0])
    batches = start_batches(Prepared(data, [], [], 0.0, 0, 0, {}), 0, count=1, rows=4)
    variant = VARIANTS[config.variant.name]
    return base, variant, variant.attach(base.model, config.variant, Context(2, 0, batches, base.bits)), data


def _bits() -> list[tuple[str, str]]:
    kinds = {16: "none", 8: "8bit", 4: "4bit"}
    return [(name, kinds[bits]) for name, variant in VARIANTS.items() for bits in variant.bits if bits in (16, 4)]


@pytest.mark.parametrize(("name", "bits"), _bits())
def test_every_variant_takes_a_step_and_comes_back_from_disk(name: str, bits: str, place: Path, tmp_path: Path) -> None:
    given = config(place, name, bits)
    _, variant, model, data = attached(given)
    plan = TrainPlan(given.training, variant, data, pad=0, on_spectra=False)
    outcome = train(model, plan, lambda event: None, lambda: False)
    assert outcome.steps == 2 and all(loss == loss for loss in outcome.losses)
    assert outcome.peak_memory_bytes > 0
    variant.save(model, tmp_path / "adapter")
    if name == "full":
        assert (tmp_path / "adapter" / "delta.safetensors").is_file()
        return
    from peft import PeftModel

    ids = torch.arange(20, 36)[None].to(DEVICE)
    with torch.no_grad(), torch.autocast(DEVICE, torch.bfloat16):  # as a run computes; some methods need it in 4 bit
        model.eval()
        expected = model(input_ids=ids).logits.float()
        fresh = load_base(given.model, device=DEVICE, dtype="bfloat16")
        again = PeftModel.from_pretrained(fresh.model, str(tmp_path / "adapter")).eval()
        found = again(input_ids=ids).logits.float()
    # bfloat16 has eight bits: starts that are subtracted beside W round differently from one plain LoRA.
    assert (found - expected).abs().max() <= 0.06 * expected.abs().max()


@card
def test_nf4_takes_less_memory_than_16_bit(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, hidden=512, layers=6, vocabulary=512)
    held = {}
    for bits in ("none", "4bit"):
        before = memory_estimate.libraries()
        base = load_base(ModelConfig(source=str(tmp_path), quantisation=bits), device=DEVICE, dtype="bfloat16")
        held[bits] = tidy() - before
        del base
    assert held["4bit"] < 0.5 * held["none"]


SIZES = {"kind": "llama", "hidden": 512, "layers": 8, "vocabulary": 8192, "intermediate_size": 1408}


@card
@pytest.mark.parametrize(("batch", "length", "bits"), [(2048, 64, 16), (8192, 512, 16), (4096, 256, 4)])
def test_memory_estimate(batch: int, length: int, bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(memory_estimate.MODELS, "card", SIZES)
    point = {"model": "card", "variant": "lora", "rank": 16, "batch": batch, "length": length, "bits": bits}
    found = memory_estimate.compare(point, tmp_path)
    assert 0.85 <= found["ratio"] <= 1.15, found


@card
def test_full_memory_says_need_have_and_remedies_and_frees_it(place: Path) -> None:
    before = memory_estimate.libraries()
    free, _ = torch.cuda.mem_get_info()
    ballast = torch.empty(max(0, free - 600 * MIB), dtype=torch.uint8, device="cuda")
    given = config(place, batch_tokens=1 << 20, accumulation=1)
    run = RunStore(place / "home").create(given)
    from lora_playground.estimates import run_estimate

    original = run_estimate.micro_batches
    run_estimate.micro_batches = lambda config, *_: config.training.accumulation  # as if nothing were known
    try:
        with pytest.raises(PlaygroundError, match=r"memory is full") as caught:
            execute(run, lambda: False)
    finally:
        run_estimate.micro_batches = original
    text = str(caught.value)
    assert "GiB" in text and "Try one of these" in text
    assert "training." in text
    error = run.error()
    assert error is not None and error["code"] == "oom"
    del ballast, caught
    assert tidy() - before < 100 * MIB


def test_micro_batches_are_found(place: Path) -> None:
    from lora_playground.estimates.memory import micro_batches

    given = config(place, batch_tokens=1 << 16)
    whole = estimate_memory(given, Conditions("cuda", "bfloat16", longest=64))
    assert whole is not None
    micro = micro_batches(given, whole.tensors // 3, Conditions("cuda", "bfloat16", longest=64))
    assert micro >= 4


def test_stop_frees_the_memory(place: Path) -> None:
    before = memory_estimate.libraries()
    run = RunStore(place / "home").create(config(place, steps=10_000))
    begun = time.monotonic()

    with pytest.raises(PlaygroundError, match="stopped"):
        execute(run, lambda: time.monotonic() - begun > 3.0)
    assert run.state() == "cancelled"
    assert tidy() - before < 50 * MIB


def test_chat_beside_training(place: Path) -> None:
    """A second process trains while this one answers: the answers are those of a quiet machine."""
    import subprocess

    base = load_base(ModelConfig(source=str(place / "base")), device=DEVICE, dtype="float32")
    decoder = Decoder(base.model, base.tokenizer)
    prompts = [[{"role": "user", "content": "What is the name of dog 3?"}]]
    quiet = decoder.generate(prompts, max_new_tokens=24)
    run = RunStore(place / "home").create(config(place, steps=300))
    code = (
        "import sys; from lora_playground.runs import RunStore; from lora_playground.jobs.pipeline import execute; "
        "execute(RunStore(sys.argv[1]).get(sys.argv[2]), lambda: False)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(place / "home"), run.id])
    answers = 0
    while child.poll() is None:
        assert decoder.generate(prompts, max_new_tokens=24) == quiet
        answers += 1
    assert child.returncode == 0 and answers > 0
    assert run.state() == "done"
