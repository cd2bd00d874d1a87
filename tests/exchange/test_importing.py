"""An adapter from elsewhere becomes a run, or nothing at all is left of it."""

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lora_playground.analysis.adapter_config import CONFIG
from lora_playground.analysis.adapter_file import TENSORS, open_adapter
from lora_playground.analysis.spectra import spectra
from lora_playground.analysis.truncation import Decomposition, Truncation
from lora_playground.analysis.update import load_updates
from lora_playground.errors import AdapterError
from lora_playground.exchange import extraction, importing
from lora_playground.runs import RunStore
from lora_playground.ui.spectrum_cache import SpectrumCache

MODULE = "model.layers.0.self_attn.q_proj"


@pytest.fixture(autouse=True)
def _not_compared(monkeypatch):
    """The bases here are headers with weights of no model, which PEFT cannot load; test_strangers compares."""
    monkeypatch.setattr(importing, "check_import", lambda base, adapter, updates: "")


@pytest.fixture
def base(tmp_path) -> str:
    """A model folder with one module."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    save_file({f"{MODULE}.weight": np.ones((12, 10), np.float32)}, str(folder / "model.safetensors"))
    return str(folder)


def adapter(folder: Path, shape=(12, 10), value: float = 1.0, **config) -> Path:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    tensors = {
        f"base_model.model.{MODULE}.lora_A.weight": rng.standard_normal((4, shape[1])).astype(np.float32),
        f"base_model.model.{MODULE}.lora_B.weight": value * rng.standard_normal((shape[0], 4)).astype(np.float32),
    }
    save_file(tensors, str(folder / TENSORS))
    data = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "acme/other"} | config
    (folder / CONFIG).write_text(json.dumps(data))
    return folder


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as made:
        for name in (CONFIG, TENSORS):
            made.write(folder / name, f"{folder.name}/{name}")
    return path


@pytest.mark.parametrize("kind", ["folder", "zip", "files"])
def test_an_adapter_becomes_a_run(tmp_path, base, kind):
    store = RunStore(tmp_path / "home")
    folder = adapter(tmp_path / "mine")
    if kind == "files":
        done = importing.import_files(store, [folder / TENSORS, folder / CONFIG], "mine", base)
    else:
        done = importing.import_adapter(store, folder if kind == "folder" else zipped(folder), base=base)
    run = store.get(done.run.id)
    config = run.config()
    assert run.state() == "done" and config.label == "mine"
    assert (config.model.source, config.variant.rank, config.variant.alpha) == (base, 4, 8.0)
    expected = spectra(open_adapter(folder).updates())[MODULE]
    np.testing.assert_allclose(spectra(load_updates(run.update_path))[MODULE], expected, rtol=1e-6)
    events, _ = run.events()
    assert [e["type"] for e in events] == ["plan", "spectra"]
    np.testing.assert_allclose(events[1]["spectra"][MODULE], expected, rtol=1e-3)
    assert sorted(p.name for p in run.adapter.iterdir()) == [CONFIG, TENSORS]


def test_without_its_base_it_can_be_looked_at(tmp_path):
    done = importing.import_adapter(RunStore(tmp_path / "home"), adapter(tmp_path / "mine"))
    assert done.base == "" and "acme/other" in done.notes[0] and "not asked" in done.notes[0]
    assert done.run.result()["imported"]["notes"] == done.notes
    assert done.run.config().model.source == "acme/other"


def test_a_stranger_cannot_name_a_path_as_its_base(tmp_path, base, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (base, "base", "./base", "../base", "../../etc"):
        done = importing.import_adapter(
            RunStore(tmp_path / "home"), adapter(tmp_path / "mine", base_model_name_or_path=name)
        )
        assert done.base == ""


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda p, b: adapter(p / "x", shape=(12, 99)), r"\(12, 10\) in the base model but \(12, 99\)"),
        (lambda p, b: adapter(p / "x", value=np.nan), "NaN or Inf"),
        (lambda p, b: adapter(p / "x") / TENSORS, "together, as a folder or a zip"),
        (lambda p, b: p / "nothing", "there is no nothing"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(tmp_path, base, make, match):
    store = RunStore(tmp_path / "home")
    source = make(tmp_path, base)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(AdapterError, match=match):
        importing.import_adapter(store, source, base=base)
    assert store.list() == []
    assert {p for p in tmp_path.rglob("*") if p.is_file()} <= before


def test_uploads_of_other_files_are_refused(tmp_path):
    store = RunStore(tmp_path / "home")
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x02}q\x00.")
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(AdapterError, match="a pickle"):
        importing.import_files(store, [tmp_path / "adapter_model.bin"])
    with pytest.raises(AdapterError, match="a pickle"):
        importing.import_files(store, [tmp_path / "adapter_model.bin", tmp_path / "a.txt"])
    with pytest.raises(AdapterError, match="neither a folder nor a zip"):
        importing.import_files(store, [tmp_path / "a.txt"])
    with pytest.raises(AdapterError, match="upload one zip"):
        importing.import_files(store, [])
    assert store.list() == []


def test_hub_ids_are_checked_before_anything_is_fetched(tmp_path):
    for name in ("", "adapter", "../x/y", "a/b/c", "https://x/y", "/etc/passwd"):
        with pytest.raises(AdapterError, match="no hub id"):
            importing.import_from_hub(RunStore(tmp_path), name)


def test_a_hub_that_cannot_be_reached_is_said(tmp_path, monkeypatch):
    import huggingface_hub

    def fail(*_, **__):
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(AdapterError, match=r"some/adapter cannot be fetched \(no route to host\)"):
        importing.import_from_hub(RunStore(tmp_path), "some/adapter")


def test_a_hub_adapter_is_taken_through_its_links(tmp_path, monkeypatch):
    import huggingface_hub

    blobs = adapter(tmp_path / "blobs")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for name in (CONFIG, TENSORS):
        (snapshot / name).symlink_to(blobs / name)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda _, name, **__: str(snapshot / name))
    run = importing.import_from_hub(RunStore(tmp_path / "home"), "some/adapter").run
    assert run.config().label == "some/adapter" and not (run.adapter / TENSORS).is_symlink()


def test_spectra_are_kept_with_the_run_and_progress_is_told(tmp_path):
    store, seen = RunStore(tmp_path / "home"), []
    files = [adapter(tmp_path / "mine") / name for name in (CONFIG, TENSORS)]
    (tmp_path / "mine" / "README.md").write_text("about it")
    done = importing.import_files(
        store, [*files, tmp_path / "mine" / "README.md"], progress=lambda *step: seen.append(step)
    )
    assert seen and seen[-1][0] == seen[-1][1]
    (done.run.adapter / TENSORS).write_bytes(b"gone")
    done.run.update_path.unlink(missing_ok=True)
    frames = SpectrumCache().frames(done.run)
    assert frames.exact, "they come from the kept file; the adapter's own is not read again"
    expected = spectra(open_adapter(tmp_path / "mine").updates())[MODULE]
    np.testing.assert_array_equal(frames.values[-1][MODULE], expected)
    (done.run.folder / "spectra.safetensors").write_bytes(b"damaged")
    assert not SpectrumCache().frames(done.run).exact, "then the 4 digits of the events are shown"


def test_an_adapter_too_large_for_chat_is_only_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "CHAT_BYTES", 100)
    done = importing.import_adapter(RunStore(tmp_path / "home"), adapter(tmp_path / "mine"))
    assert not done.run.update_path.exists() and any("too large" in note for note in done.notes)


def test_a_cut_adapter_becomes_a_plain_lora_of_its_own(tmp_path, base):
    store = RunStore(tmp_path / "home")
    parent = importing.import_adapter(store, adapter(tmp_path / "mine"), base=base).run
    updates = load_updates(parent.update_path)
    cut = Truncation("top", k=2, strength=0.5)
    left = Decomposition(updates).truncate(cut)
    run = importing.derive(store, parent, left, "mine, two directions", {"cut": vars(cut)})
    whole = spectra(updates)[MODULE]
    again = {u.name: u for u in open_adapter(run.adapter).updates()}
    np.testing.assert_allclose(spectra(again.values())[MODULE], 0.5 * whole[:2], rtol=1e-5)
    assert run.config().label == "mine, two directions" and run.result()["derived"]["from"] == parent.id
    assert run.state() == "done"
    with pytest.raises(AdapterError, match="nothing is left"):
        importing.derive(store, parent, Decomposition(updates).truncate(Truncation("top", k=0)), "empty", {})


def test_the_process_that_reads_a_strangers_adapter_has_no_secrets(tmp_path, monkeypatch):
    code = "import json, os; print(json.dumps({'error': ' '.join(os.environ)}), flush=True)"
    monkeypatch.setattr(extraction.processes, "python", lambda *_: [sys.executable, "-c", code])
    for name in ("HF_TOKEN", "DB_PASSWORD", "HARMLESS"):
        monkeypatch.setenv(name, "x")
    opened = open_adapter(adapter(tmp_path / "a"))
    with pytest.raises(AdapterError) as told:
        list(extraction.extract(opened, dict.fromkeys(opened.parts, (12, 10)), None))
    names = str(told.value).split()
    assert "HARMLESS" in names and "HF_HUB_OFFLINE" in names
    assert not {"HF_TOKEN", "DB_PASSWORD"} & set(names)
