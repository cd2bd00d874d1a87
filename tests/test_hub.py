"""Hub ids by the very path that they take, against a hub on 127.0.0.1: models, datasets, tokens, what breaks off."""

import json
from pathlib import Path

import pytest
from hub_server import TOKEN, Hub, serving

from lora_playground.config import ModelConfig, RunConfig
from lora_playground.data import from_hub
from lora_playground.errors import DataError, ModelError
from lora_playground.models.catalogue import folder_of, list_models
from lora_playground.models.loading import download, load_base
from tests.checkpoints import make_checkpoint

MODEL = "Qwen/Qwen3-0.6B"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A model repository with a file of some megabytes and things that nobody wants, and some of datasets."""
    shelf = tmp_path_factory.mktemp("shelf")
    make_checkpoint(shelf / "model", "qwen3", hidden=128, layers=3, vocabulary=2048)
    (shelf / "model" / "pytorch_model.bin").write_bytes(b"pickled")
    (shelf / "model" / "modeling_own.py").write_text("raise SystemExit")
    (shelf / "model" / "onnx").mkdir()
    (shelf / "model" / "onnx" / "model.safetensors").write_bytes(b"x")
    (shelf / "pickled").mkdir()
    (shelf / "pickled" / "config.json").write_text("{}")
    (shelf / "pickled" / "pytorch_model.bin").write_bytes(b"x")
    return shelf


@pytest.fixture
def hub(shelf, tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    served = Hub({f"models/{MODEL}": shelf / "model", "models/some/pickled": shelf / "pickled"})
    with serving(served):
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


def test_a_model_is_fetched_with_progress_and_then_found_offline(hub, shelf):
    assert folder_of(MODEL) is None
    told = []
    base = load_base(ModelConfig(source=MODEL), "cpu", "float32", lambda here, whole: told.append((here, whole)))
    assert base.folder == folder_of(MODEL)
    assert next(card for card in list_models() if card.source == MODEL).on_disk
    wanted = ["model.safetensors", "config.json", "tokenizer.json"]
    assert all((base.folder / name).read_bytes() == (shelf / "model" / name).read_bytes() for name in wanted)
    assert not list(base.folder.glob("*.bin")) + list(base.folder.glob("*.py")) + list(base.folder.glob("onnx"))
    heres = [here for here, _ in told]
    assert len({whole for _, whole in told}) == 1 and heres == sorted(heres) and heres[-1] == told[-1][1] > 2**20
    before = len(hub.asked)
    assert download(MODEL) == base.folder and len(hub.asked) == before, "what is here needs no network"


def test_a_connection_that_breaks_is_taken_up_where_it_broke(hub, shelf):
    whole = (shelf / "model" / "model.safetensors").stat().st_size
    hub.breaks["model.safetensors"] = [1_000_000, 500_000]
    folder = download(MODEL)
    assert (folder / "model.safetensors").read_bytes() == (shelf / "model" / "model.safetensors").read_bytes()
    ranges = [asked for method, path, asked, _ in hub.asked if method == "GET" and path.endswith("model.safetensors")]
    assert ranges == ["bytes=0-", "bytes=1000000-", "bytes=1500000-"] and whole > 1_500_000


def test_a_download_that_was_stopped_goes_on_later(hub, shelf):
    class Stop(Exception):
        pass

    def stop(here, whole):
        if here >= 2**20:
            raise Stop

    with pytest.raises(ModelError):  # anything raised is put in words; a PlaygroundError would pass as it is
        download(MODEL, stop)
    assert folder_of(MODEL) is None
    hub.asked.clear()
    folder = download(MODEL)
    ranges = [asked for method, path, asked, _ in hub.asked if method == "GET" and path.endswith("model.safetensors")]
    assert len(ranges) == 1 and int(ranges[0].removeprefix("bytes=").rstrip("-")) >= 2**20
    assert (folder / "model.safetensors").read_bytes() == (shelf / "model" / "model.safetensors").read_bytes()


def test_a_damaged_download_is_thrown_away(hub, tmp_path):
    import hashlib

    weights = hub.repos[f"models/{MODEL}"] / "model.safetensors"
    name = hashlib.sha256(weights.read_bytes()).hexdigest()
    blobs = tmp_path / "cache" / "models--Qwen--Qwen3-0.6B" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{name}.part").write_bytes(b"\0" * 1_200_000)
    with pytest.raises(ModelError, match="came damaged"):
        download(MODEL)
    assert (download(MODEL) / "model.safetensors").read_bytes() == weights.read_bytes()


def test_the_token_comes_from_the_environment_and_a_gated_model_says_what_to_do(hub, monkeypatch, tmp_path):
    hub.gated.add(MODEL)
    login = tmp_path / "login"
    login.mkdir()
    (login / "token").write_text(TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(login / "token"))
    for given in (None, "hf_wrong"):
        if given:
            monkeypatch.setenv("HF_TOKEN", given)
        with pytest.raises(ModelError, match=r"is gated: accept its licence .*HF_TOKEN set") as caught:
            download(MODEL)
        assert "hf_wrong" not in str(caught.value)
    assert {token for *_, token in hub.asked} <= {"", "hf_wrong"}, "a login file is no way in"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert (download(MODEL) / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("source", "said"), [("nobody/nothing", "no model nobody/nothing on the hub"), ("some/pickled", "can run code")]
)
def test_what_cannot_be_fetched_says_why(hub, source, said):
    with pytest.raises(ModelError, match=said):
        download(source)


def test_a_run_fetches_its_model_and_tells_how_far_it_is(hub, tmp_path):
    from lora_playground.jobs.pipeline import execute
    from lora_playground.runs import RunStore
    from lora_playground.runs.history import RunProgress
    from lora_playground.ui import cards

    run = RunStore(tmp_path / "home").create(
        RunConfig.parse(
            {
                "model": {"source": MODEL},
                "data": {"dataset": "pirate", "train_rows": 20, "max_length": 128},
                "training": {"steps": 1, "batch_tokens": 128, "precision": "float32"},
            }
        )
    )
    events = []

    def stop():
        return any(event["type"] == "plan" for event in events)

    with pytest.raises(Exception, match="stopped"):
        execute(run, stop, emit=events.append)
    fetched = [event for event in events if event["type"] == "download"]
    assert fetched and fetched[-1]["done"] == fetched[-1]["total"] > 2**20
    progress = RunProgress.of([{"type": "download", "done": 300_000_000, "total": 1_200_000_000}])
    assert "fetching the model: 300 MB of 1.20 GB" in cards.progress("a", "loading", progress)


# ------------------------------------------------------------------------------------------------------------ datasets

ROWS = [{"question": f"What is {n} + {n}?", "answer": f"It is {2 * n}.\n#### {2 * n}"} for n in range(40)]


def add_dataset(hub, tmp_path, repo, files, revision=""):
    folder = tmp_path / "repos" / (repo.replace("/", "-") + revision.replace("/", "-"))
    for name, rows in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            arrow = pytest.importorskip("pyarrow")
            from pyarrow import parquet

            parquet.write_table(arrow.Table.from_pylist(rows), path)
        elif isinstance(rows, str):
            path.write_text(rows)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    hub.repos[f"datasets/{repo}" + (f"@{revision}" if revision else "")] = folder


def test_a_dataset_by_id_and_split(hub, tmp_path):
    files = {
        "README.md": "about", "dataset_infos.json": "{}",
        "main/train-00000-of-00002.parquet": ROWS[:20], "main/train-00001-of-00002.parquet": ROWS[20:],
        "main/test-00000-of-00001.parquet": ROWS[:3], "socratic/train-00000-of-00001.parquet": ROWS[:5],
    }  # fmt: skip
    add_dataset(hub, tmp_path, "openai/gsm8k", files)
    told = []
    card = from_hub.import_from_hub("openai/gsm8k", tmp_path, "main/train", progress=lambda *at: told.append(at))
    assert (
        card.train + card.validation + card.test == 40
        and card.metric == "steps"
        and card.label == ("openai/gsm8k main/train")
    )
    assert told and told[-1][0] == told[-1][1]
    assert len(from_hub.read_hub("openai/gsm8k", "test").rows) == 3
    with pytest.raises(DataError, match=r"several parts 'train'; give one of: main/train, socratic/train"):
        from_hub.read_hub("openai/gsm8k", "train")
    with pytest.raises(DataError, match=r"no part 'dev'.*main/test, main/train"):
        from_hub.read_hub("openai/gsm8k", "dev")


def test_a_dataset_of_jsonl_with_other_columns(hub, tmp_path):
    rows = [{"Frage": row["question"], "Antwort": row["answer"]} for row in ROWS]
    add_dataset(hub, tmp_path, "some/rows", {"data.jsonl": [*rows, {"Frage": "", "Antwort": "x"}]})
    with pytest.raises(DataError, match="the columns found are 'Frage', 'Antwort'"):
        from_hub.read_hub("some/rows")
    reading = from_hub.read_hub("some/rows", mapping={"prompt": "Frage", "completion": "Antwort"})
    assert len(reading.rows) == 40 and "line 41" in reading.problems[0].text


def test_a_dataset_that_comes_as_code_is_read_from_the_hubs_own_copy(hub, tmp_path):
    add_dataset(hub, tmp_path, "some/script", {"script.py": "raise SystemExit"})
    with pytest.raises(DataError, match="Code that comes with a dataset is never run"):
        from_hub.read_hub("some/script")
    add_dataset(hub, tmp_path, "some/script", {"default/train/0000.parquet": ROWS}, "refs/convert/parquet")
    assert len(from_hub.read_hub("some/script").rows) == 40


def test_only_so_much_of_a_dataset_is_fetched(hub, tmp_path, monkeypatch):
    add_dataset(hub, tmp_path, "some/large", {f"train-{n}.jsonl": ROWS for n in range(3)})
    size = (tmp_path / "repos" / "some-large" / "train-0.jsonl").stat().st_size
    monkeypatch.setattr(from_hub, "MAX_BYTES", 2 * size)
    reading = from_hub.read_hub("some/large")
    assert len(reading.rows) == 80 and "Only 2 of 3 files" in reading.notes[-1]
    monkeypatch.setattr(from_hub, "MAX_BYTES", size - 1)
    with pytest.raises(DataError, match=r"at most .* MB can be read.*smaller part"):
        from_hub.read_hub("some/large")


def test_a_gated_dataset_is_not_fetched_with_the_owners_token_for_a_stranger(hub, tmp_path, monkeypatch):
    add_dataset(hub, tmp_path, "some/secret", {"train.jsonl": ROWS})
    hub.gated.add("some/secret")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(DataError, match=r"is gated, and this page fetches without a login.*upload some/secret"):
        from_hub.read_hub("some/secret", anonymous=True)
    assert len(from_hub.read_hub("some/secret").rows) == 40


@pytest.mark.parametrize("repo", ["gsm8k", "../../etc", "a/b/c", "https://x/y", "", "a/..", "-a/b", "a b/c"])
def test_what_is_no_id(repo):
    with pytest.raises(DataError, match="is no id of a hub dataset"):
        from_hub.read_hub(repo)


def test_without_a_network_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set"):
        from_hub.read_hub("openai/gsm8k")


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"], ["test", "train"]),
        (["train.jsonl", "valid.jsonl"], ["train", "validation"]),
        (["en_train.csv", "de_train.csv"], ["de/train", "en/train"]),
        (["main/train/0000.parquet"], ["main/train"]),
        (["alpaca_data.json"], ["alpaca_data/train"]),
        (["train.parquet", "train.csv"], ["train"]),
        ([".cache/train.json", "README.md", "dataset_infos.json"], []),
    ],
)
def test_parts_of_a_repository(names, parts):
    found = from_hub.parts_of(names)
    assert sorted(found) == parts and all(len(files) == 1 for files in found.values())


def test_the_command_line_takes_files_and_hub_datasets(hub, tmp_path, capsys):
    from lora_playground.cli import main

    add_dataset(hub, tmp_path, "some/rows", {"train.jsonl": ROWS})
    file: Path = tmp_path / "mine.csv"
    file.write_text("Frage,Antwort\n" + "".join(f"was {n},das {n}\n" for n in range(10)))
    home = ["--home", str(tmp_path / "home"), "--json"]
    assert main(["upload", "some/rows", "--split", "train", *home]) == 0
    assert json.loads(capsys.readouterr().out)["metric"] == "steps"
    assert main(["upload", str(file), "--column", "prompt=Frage", "--column", "completion=Antwort", *home]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["train"] + told["validation"] + told["test"] == 10
    assert main(["upload", "no/such", *home]) == 1
    assert "no dataset no/such on the hub" in capsys.readouterr().err
