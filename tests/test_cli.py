"""The command line on a tiny local checkpoint: every command, JSON on standard output, errors in words, exit status."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from checkpoints import make_checkpoint

from lora_playground.analysis.plain_lora import write_plain_lora
from lora_playground.analysis.update import Update
from lora_playground.cli import main
from lora_playground.cli.progress import Progress
from lora_playground.variants import VARIANTS


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(home, folder of a tiny Llama checkpoint)."""
    folder = tmp_path_factory.mktemp("cli")
    make_checkpoint(folder / "model", "llama")
    return folder / "home", folder / "model"


def ask(capsys: pytest.CaptureFixture[str], home: Path, *words: str) -> object:
    """Runs a command with --json; returns its one value."""
    status = main([words[0], "--json", "--home", str(home), *words[1:]])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return json.loads(printed.out)


def refused(capsys: pytest.CaptureFixture[str], home: Path, *words: str) -> str:
    """Runs a command that must fail; returns what it says on standard error."""
    status = main([words[0], "--json", "--home", str(home), *words[1:]])
    printed = capsys.readouterr()
    assert status != 0
    assert printed.out == ""
    assert "Traceback" not in printed.err
    return printed.err


def test_lists(capsys: pytest.CaptureFixture[str], place: tuple[Path, Path]) -> None:
    home, _ = place
    variants = ask(capsys, home, "variants")
    assert {variant["name"] for variant in variants} == set(VARIANTS)
    assert all({"name", "label", "paper", "options"} <= set(variant) for variant in variants)
    datasets = ask(capsys, home, "datasets")
    assert {"pirate", "facts-large"} <= {dataset["name"] for dataset in datasets}
    assert all(min(dataset[part] for part in ("train", "validation", "test")) > 0 for dataset in datasets)
    assert ask(capsys, home, "models")[0]["source"] == "embedded"
    assert ask(capsys, home, "runs") == []


def test_a_run_from_training_to_export(
    capsys: pytest.CaptureFixture[str], place: tuple[Path, Path], tmp_path: Path
) -> None:
    home, model = place
    words = ["--model", str(model), "--dataset", "sentiment", "--variant", "lora", "--rank", "4", "--steps", "3"]
    trained = ask(capsys, home, "train", *words, "--batch-tokens", "256", "--train-rows", "40", "--seed", "1")
    assert trained["state"] == "done"
    assert len(trained["losses"]) == 3 and np.isfinite(trained["losses"]).all()
    assert trained["trainable_parameters"] > 0 and trained["tokens_per_second"] > 0
    run = trained["run"]
    assert [row["run"] for row in ask(capsys, home, "runs")] == [run]
    shown = ask(capsys, home, "show", run)
    assert shown["config"]["variant"]["rank"] == 4 and shown["state"] == "done"

    modules = ask(capsys, home, "spectra", run)["modules"]
    assert modules and all(len(module["singular_values"]) <= 4 for module in modules)
    assert all(1.0 <= module["effective_rank"] <= 4.0 + 1e-9 for module in modules)

    talk = ["--prompt", "Hello", "--temperature", "1", "--max-new-tokens", "8"]
    weak = ask(capsys, home, "chat", run, *talk, "--strength", "0")
    assert weak["base"] == weak["adapted"]
    cut = ask(capsys, home, "chat", run, *talk, "--keep", "0")
    assert cut["base"] == cut["adapted"] == weak["base"]
    whole = ask(capsys, home, "chat", run, *talk)
    assert ask(capsys, home, "chat", run, *talk, "--keep", "4") == whole

    assert main(["evaluate", "--json", "--home", str(home), run, "--rows", "4"]) == 0
    printed = capsys.readouterr()
    scored = json.loads(printed.out)
    assert "4 of 4 rows" in printed.err and scored["low"] <= scored["adapted"] <= scored["high"]
    assert scored["rows"] == 4 and 0.0 <= scored["base"] <= 1.0 and 0.0 <= scored["adapted"] <= 1.0

    ask(capsys, home, "export", run, "--format", "lora", "--out", str(tmp_path / "out"))
    assert (tmp_path / "out" / "adapter_config.json").is_file()
    for format, file in (("peft", "adapter_model.safetensors"), ("merged", "model.safetensors")):
        made = ask(capsys, home, "export", run, "--format", format, "--out", str(tmp_path / format))
        assert made["format"] == format and (tmp_path / format / file).is_file() and made["bytes"] > 1000
    assert "done" in refused(capsys, home, "resume", run)
    ask(capsys, home, "delete", run)
    assert ask(capsys, home, "runs") == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "--rank", "0"], "variant.rank"),
        (["train", "--rank", "-4"], "variant.rank: -4 is not allowed"),
        (["train", "--rank", "8.5"], "variant.rank"),
        (["train", "--rank", "400"], "the rank may be 1 to "),
        (["train", "--variant", "hra", "--rank", "3"], "HRA needs an even rank"),
        (["train", "--variant", "hra", "--quantisation", "4bit"], "HRA needs a base stored in 16 bit"),
        (["train", "--alpha", "0"], "variant.alpha: 0"),
        (["train", "--rank", "x"], "variant.rank"),
        (["train", "--variant", "full", "--rank", "8"], "full has no such option"),
        (["train", "--variant", "nonesuch"], "nonesuch"),
        (["train", "--steps", "-1"], "training.steps"),
        (["train", "--learning-rate", "nan"], "training.learning_rate"),
        (["train", "--dataset", "nonesuch"], "nonesuch"),
        (["train", "--dataset", "../../etc"], "etc"),
        (["train", "--model", "/nonesuch/folder"], "nonesuch"),
        (["train", "--target-modules", "q_prox"], "q_prox"),
        (["train", "--config", "/nonesuch.json"], "nonesuch.json"),
        (["show", "nonesuch"], "nonesuch"),
        (["show", "../.."], "not"),
        (["delete", "../.."], "not"),
        (["chat", "nonesuch", "--prompt", "Hello"], "nonesuch"),
    ],
)
def test_bad_input_is_refused_in_words(
    capsys: pytest.CaptureFixture[str], place: tuple[Path, Path], words: list[str], says: str
) -> None:
    said = refused(capsys, place[0], *words)
    assert says in said and said.count("\n") == 1, "one line"
    assert ask(capsys, place[0], "runs") == []


def test_an_options_file_with_an_unknown_field_is_refused_in_one_line(capsys, place, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    for data, field in (({"variant": {"name": "lora", "rnak": 3}}, "variant.rnak"), ({"stepz": 3}, "stepz")):
        path.write_text(json.dumps(data))
        said = refused(capsys, place[0], "train", "--config", str(path))
        assert field in said and "no such option; known here are" in said and said.count("\n") == 1


def test_flags_override_a_configuration_file(
    capsys: pytest.CaptureFixture[str], place: tuple[Path, Path], tmp_path: Path
) -> None:
    from lora_playground.cli import _parser, build_config

    path = tmp_path / "run.json"
    path.write_text(json.dumps({"variant": {"name": "lora", "rank": 3}, "training": {"steps": 7, "seed": 5}}))
    config = build_config(_parser().parse_args(["train", "--config", str(path), "--rank", "6"]))
    assert (config.variant.rank, config.training.steps, config.training.seed) == (6, 7, 5)


def test_a_damaged_run_hides_no_other(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from lora_playground.config import RunConfig
    from lora_playground.runs import RunStore

    whole = RunStore(tmp_path).create(RunConfig.parse({}))
    (tmp_path / "runs" / "torn").mkdir()
    (tmp_path / "runs" / "torn" / "config.json").write_text("{")
    assert main(["runs", "--json", "--home", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert [run["run"] for run in json.loads(printed.out)] == [whole.id] and "torn" in printed.err


def test_a_number_or_a_place_that_cannot_be_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words in (["evaluate", "x", "--rows", "-5"], ["chat", "x", "--prompt", "p", "--seed", "-1"]):
        said = refused(capsys, tmp_path, *words)
        assert f"{words[-2].strip('-')}: {words[-1]} is not allowed; it must be at least" in said
    (tmp_path / "file").write_text("")
    assert "file" in refused(capsys, tmp_path / "file", "train", "--steps", "1")


def test_an_adapter_from_elsewhere_becomes_a_run(
    capsys: pytest.CaptureFixture[str], place: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, model = place
    update = Update(
        "model.layers.0.self_attn.q_proj",
        np.random.default_rng(0).standard_normal((32, 3)).astype(np.float32),
        np.random.default_rng(1).standard_normal((3, 32)).astype(np.float32),
    )
    write_plain_lora([update], tmp_path / "mine")
    made = ask(capsys, home, "import", str(tmp_path / "mine"), "--base", str(model), "--title", "from elsewhere")
    assert made["base"] == str(model)
    values = ask(capsys, home, "spectra", made["run"])["modules"][0]["singular_values"]
    assert values == pytest.approx(np.linalg.svd(update.matrix(), compute_uv=False)[:3], rel=1e-5)
    monkeypatch.setattr("lora_playground.exchange.importing.CHAT_BYTES", 1)
    large = ask(capsys, home, "import", str(tmp_path / "mine"))
    assert not (Path(large["folder"]) / "update.safetensors").exists() and large["base"] is None
    assert ask(capsys, home, "spectra", large["run"])["modules"][0]["singular_values"] == pytest.approx(values)
    for source in (str(tmp_path / "nothing"), "../somewhere", "word"):
        assert "hub id" in refused(capsys, home, "import", source)
    (tmp_path / "adapter.bin").write_bytes(b"\x80\x02}q\x00.")
    assert "pickle" in refused(capsys, home, "import", str(tmp_path / "adapter.bin"))


def test_a_file_is_trained_on_as_a_dataset_is(capsys, place: tuple[Path, Path], tmp_path: Path, monkeypatch) -> None:
    home, model = place
    rows = "".join(f"Voyage {number} went,{('well', 'badly')[number % 2]}\n" for number in range(40))
    (tmp_path / "voyages.csv").write_text("text,label\n" + rows)
    monkeypatch.chdir(model.parent)
    words = ["--model", model.name, "--batch-tokens", "256", "--steps", "2", "--variant", "lora"]
    words += ["--dataset", str(tmp_path / "voyages.csv")]
    assert main(["train", "--json", "--home", str(home), *words]) == 0
    printed = capsys.readouterr()
    trained = json.loads(printed.out)
    assert "40 rows read" in printed.err and "badly (20), well (20)" in printed.err
    shown = printed.err.split("training ...")[1].split("saving ...")[0]
    assert "2 of 2 steps, loss" in shown and "\r" not in shown
    score = trained["score"]
    assert score["metric"] == "label" and score["low"] <= score["adapted"] <= score["high"] and score["majority"] == 0.5
    config = ask(capsys, home, "show", trained["run"])["config"]
    assert config["model"]["source"] == str(model.resolve()) and config["data"]["dataset"].startswith("up-")
    again = ask(capsys, home, "upload", str(tmp_path / "voyages.csv"))
    assert again["dataset"] == config["data"]["dataset"] and again["metric"] == "label"
    other = ask(capsys, home, "upload", str(tmp_path / "voyages.csv"), "--metric", "exact")
    assert other["dataset"] != again["dataset"] and other["metric"] == "exact"
    assert "choose one of" in refused(capsys, home, "upload", str(tmp_path / "voyages.csv"), "--metric", "steps")
    assert "belong to a file" in refused(capsys, home, "train", *words[:-1], "pirate", "--metric", "label")
    assert "choose one of" in refused(capsys, home, "train", *words[:-1], str(tmp_path / "none.csv"))


class Terminal(io.StringIO):
    """Standard error as a terminal has it."""

    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    with Progress() as progress:
        progress.event({"type": "phase", "phase": "training"})
        progress.event({"type": "plan", "steps": 40})
        for step in range(1, 41):
            progress.event({"type": "loss", "steps": [step], "losses": [1 / step], "eta": 80 - 2.0 * step})
        progress.event({"type": "validation", "step": 40, "loss": 0.5})
        progress.event({"type": "scoring", "done": 24, "of": 96, "eta": 3.0})
    said = screen.getvalue()
    assert "training ..." in said and "validation loss 0.500" in said
    assert "\r" in said and "20/40" in said and "loss 0.050" in said and "40 s left" in said
    assert "rows:  25%" in said and "3 s left" in said


def test_progress_is_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        progress.event({"type": "plan", "steps": 400})
        for step in range(1, 401):
            progress.event({"type": "loss", "steps": [step], "losses": [2.0], "eta": None})
        progress.count(3, 3, "modules")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11 and lines[0] == "  40 of 400 steps, loss 2.000"
    assert lines[-2:] == ["  400 of 400 steps, loss 2.000", "  3 of 3 modules"]


def test_a_list_that_begins_below_zero_is_a_value(tmp_path, capsys):
    assert main(["dial", "nosuch", "--home", str(tmp_path), "--of", "strength", "--values", "-1,-.5,0"]) == 1
    assert "no run nosuch" in capsys.readouterr().err
