"""The interface's pure parts: words, pictures, forms from the schema, cards, ticks, identities, talks."""

import hmac
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import lora_playground.variants  # noqa: F401  (declares the variants' schemas)
from lora_playground.chat.protocol import ChatRequest
from lora_playground.config import RunConfig, options
from lora_playground.errors import ConfigError
from lora_playground.runs.history import RunProgress
from lora_playground.service.exporting import zipped
from lora_playground.ui import cards, costs, forms, method_card, pictures, sidebar, words
from lora_playground.ui.conversation import asked, new_conversation
from lora_playground.ui.identity import COOKIE, Identity, VisitorMiddleware
from lora_playground.ui.shell import toggled, with_ticked
from lora_playground.variants import VARIANTS

HOSTILE = "<script>alert(1)</script>\"'&\x00"


@pytest.mark.parametrize(
    ("value", "said"), [(0.00012345, "0.000123"), (12.345, "12.3"), (1234.5, "1234"), (0, "0"), (2e-7, "2.00e-07")]
)
def test_significant_digits(value, said):
    assert words.significant(value) == said


@pytest.mark.parametrize(("value", "said"), [(930, "930"), (1200, "1200"), (65_536, "65.5k"), (7_900_000, "7.90M")])
def test_counts(value, said):
    assert words.count(value) == said


@pytest.mark.parametrize(("value", "said"), [(0.84, "0.8 s"), (45, "45 s"), (125, "2 min 5 s"), (4320, "1 h 12 min")])
def test_durations(value, said):
    assert words.duration(value) == said


def test_matrices_are_drawn_to_one_scale():
    svg = pictures.factors(VARIANTS["lora"].parts((512, 256), VARIANTS["lora"].config(rank=16)))
    sizes = [(float(w), float(h)) for w, h in re.findall(r'<rect[^>]* width="([\d.]+)" height="([\d.]+)"', svg)]
    w, b, a = sizes
    scale = w[1] / 512
    assert w[0] / 256 == pytest.approx(scale, rel=0.02)
    assert b == (pytest.approx(16 * scale, rel=0.05), pytest.approx(w[1]))
    assert a == (pytest.approx(w[0]), pytest.approx(16 * scale, rel=0.05))
    assert 'aria-label="To scale: W is 512 by 256, frozen; B is 512 by 16, 8,192 trained numbers; A is 16' in svg


@pytest.mark.parametrize("name", sorted(VARIANTS))
@pytest.mark.parametrize("shape", [(64, 32), (32, 64), (48, 48)])
def test_a_picture_shows_as_many_trained_numbers_as_are_counted(name, shape):
    variant = VARIANTS[name]
    small = {"rank": 4} if "rank" in variant.config.model_fields else {}
    config = variant.config(**small)
    parts = variant.parts(shape, config)
    assert sum(part.count for part in parts) == variant.count([shape], config)
    assert [(part.rows, part.columns, part.trained) for part in parts if part.name == "W"] == [(*shape, False)]
    svg = pictures.factors(parts)
    places = re.findall(r'<rect[^>]* x="([-\d.]+)" y="([-\d.]+)" width="([\d.]+)" height="([\d.]+)"', svg)
    width, height = map(float, re.search(r'viewBox="-4 0 (\d+) (\d+)"', svg).groups())
    assert len(places) >= len(parts) and width < 360
    for x, y, w, h in (map(float, place) for place in places):
        assert x >= 0 and y >= 20 and x + w <= width - 3 and y + h <= height


def test_everything_from_outside_is_escaped():
    row = {"messages": [{"role": "user", "content": HOSTILE}, {"role": HOSTILE, "content": HOSTILE}]}
    progress = RunProgress()
    for event in (
        {"type": "probe", "step": 0, "answers": [{"prompt": HOSTILE, "answer": HOSTILE}]},
        {"type": "probe", "step": 5, "answers": [{"prompt": HOSTILE, "answer": HOSTILE}]},
        {"type": "message", "level": "warning", "text": HOSTILE},
        {"type": "plan", "steps": 5, "device": HOSTILE, "precision": HOSTILE},
    ):
        progress.take(event)
    result = {
        "score": {"metric": HOSTILE, "base": 0.1, "adapted": 0.2, "n": 3},
        "samples": [dict.fromkeys(("prompt", "expected", "base", "adapted"), HOSTILE)],
    }
    failure = {"message": HOSTILE, "log": [HOSTILE]}
    entry = sidebar.Entry(HOSTILE, HOSTILE, HOSTILE)
    made = [
        pictures.bubbles([row, {"text": HOSTILE}]),
        cards.probes(progress),
        cards.messages(progress),
        cards.error(HOSTILE),
        cards.last_result(HOSTILE, result, HOSTILE),
        cards.progress(HOSTILE, "training", progress),
        cards.done(HOSTILE, result),
        cards.stopped(HOSTILE, "failed", progress, failure),
        cards.waiting(HOSTILE, 3, HOSTILE),
        sidebar.line(entry),
    ]
    for text in made:
        assert "<script" not in text and "\x00" not in text
        assert "alert(1)" in text


def test_a_forecast_that_runs_late_corrects_itself_on_screen():
    """The loop tells the time left anew from its last steps (tests/training/test_schedule.py); the card shows it."""
    progress = RunProgress()
    for step, eta, said in ((1, 30.0, "about half a minute"), (2, 200.0, "about 3 minutes"), (3, 5.0, "a few seconds")):
        progress.take({"type": "loss", "steps": [step], "losses": [2.0], "eta": eta})
        assert f"<b>{said}</b> left" in cards.progress("x", "training", progress)
    progress.take({"type": "scoring", "done": 1, "of": 9, "eta": 80.0})
    assert "<b>about a minute</b> left" in cards.progress("x", "evaluating", progress)


def test_answers_in_another_number_type_than_chats_say_so():
    said = {}
    for precision, size in (("bfloat16", 6_000_000), ("float32", 6_000_000), ("bfloat16", 600_000_000)):
        progress = RunProgress()
        plan = {"type": "plan", "steps": 5, "device": "cpu", "precision": precision, "total_parameters": size}
        answers = [{"prompt": "Who?", "answer": "I."}]
        for event in (plan, *({"type": "probe", "step": step, "answers": answers} for step in (0, 5))):
            progress.take(event)
        said[precision, size] = "bfloat16" in cards.probes(progress)
    assert list(said.values()) == [True, False, False]


def test_a_prompt_that_is_asked_only_at_the_end_says_so():
    progress = RunProgress()
    both = [{"prompt": "Who?", "answer": "I."}, {"prompt": "Where?", "answer": "Here."}]
    progress.take({"type": "probe", "step": 0, "answers": both})
    assert "at the end only" not in cards.probes(progress)
    progress.take({"type": "probe", "step": 2, "answers": both[:1]})
    assert cards.probes(progress).count("at the end only") == 1
    progress.take({"type": "probe", "step": 9, "answers": both})
    assert "at the end only" not in cards.probes(progress)


def test_every_option_becomes_an_input_that_gives_the_default_back():
    for option in options(RunConfig):
        component = forms.field(option)
        value = forms.plain(option, component.value)
        wanted = option.default
        assert value == wanted, option.path
        if option.kind in ("int", "float") and option.low is not None:
            assert forms.limits(option) in component.info


def test_defaults_of_all_inputs_make_the_default_config():
    fields = forms.Fields(option for option in options(RunConfig))
    given = {component: component.value for component in fields.inputs.values()}
    data = forms.nest(fields.read(given)) | {"variant": {"name": "lora"}}
    assert RunConfig.parse(data) == RunConfig.parse({})


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_inputs_of_a_variant_make_its_config(name):
    fields = forms.VariantFields(placed=("rank",))
    shown = dict(zip(fields.components(), fields.show(name)))
    given = {}
    for component, update in shown.items():
        if update["visible"]:
            given[component] = update["value"]
    config = RunConfig.parse({"variant": {"name": name, **fields.read(name, given)}})
    assert config == RunConfig.parse({"variant": {"name": name}})


def test_values_that_do_not_fit_reach_the_schema_as_they_are():
    option = next(option for option in options(RunConfig) if option.path == "training.steps")
    assert forms.plain(option, 8.0) == 8 and isinstance(forms.plain(option, 8.0), int)
    with pytest.raises(ConfigError, match=r"training.steps: 8.5 is not allowed"):
        RunConfig.parse({"training": {"steps": forms.plain(option, 8.5)}})
    option = next(option for option in options(RunConfig) if option.path == "data.train_rows")
    assert forms.plain(option, "") is None and forms.plain(option, " 12 ") == 12
    for given in ("twelve", "1.5", "inf", "0"):
        with pytest.raises(ConfigError, match=r"data.train_rows"):
            RunConfig.parse({"data": {"train_rows": forms.plain(option, given)}})


def test_a_tick_keeps_slots_and_so_colours():
    slots = with_ticked(["", "", "", ""], ["a", "b"])
    assert slots == ["a", "b", "", ""]
    assert toggled(slots, "a") == ["", "b", "", ""]
    assert toggled(["", "b", "", ""], "c") == ["c", "b", "", ""]
    full = ["a", "b", "c", "d"]
    assert toggled(full, "e") == ["a", "b", "c", "e"]
    assert with_ticked(full, ["b"]) == full
    assert len(with_ticked(full, list("uvwxyz"))) == 4


def test_identity_takes_only_cookies_that_it_signed(tmp_path):
    identity = Identity(tmp_path)
    value = identity.new()
    name = identity.read(value)
    assert name and Identity(tmp_path).read(value) == name, "the secret outlives the server"
    changed = ("0" if value[0] != "0" else "1") + value[1:]
    assert identity.read(changed) == "" and identity.read(value[:-6]) == ""
    assert identity.read(None) == identity.read("") == identity.read("a" * 16 + "." + "b" * 32) == ""
    assert identity.of(SimpleNamespace(cookies={COOKIE: value}, username=None)) == name
    secret = (tmp_path / "visitors.secret").read_bytes()
    older = hmac.new(secret, b"5eed5eed5eed5eed", "sha256").hexdigest()[:32]
    assert identity.read(f"5eed5eed5eed5eed.{older}") == "5eed5eed5eed5eed", "who was here before stays who they are"
    assert identity.of(SimpleNamespace(cookies={COOKIE: value}, username="ann")) == "user:ann"
    assert (tmp_path / "visitors.secret").stat().st_mode & 0o077 == 0


def test_middleware_gives_a_cookie_once(tmp_path):
    import asyncio

    identity = Identity(tmp_path)

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    def cookies(headers):
        sent = []

        async def send(message):
            sent.extend(value for key, value in message["headers"] if key == b"set-cookie")

        scope = {"type": "http", "path": "/", "headers": headers}
        asyncio.run(VisitorMiddleware(app, identity)(scope, None, send))
        return sent

    (given,) = cookies([])
    assert b"HttpOnly" in given and b"SameSite" in given
    value = given.split(b";")[0]
    assert cookies([(b"cookie", value)]) == []
    assert len(cookies([(b"cookie", value[:-6])])) == 1


def test_conversation_asks_each_pane_from_its_own_words():
    panes = [
        {"run": "", "label": "Base", "colour": "", "strength": 1.0, "keep": None, "cut": None},
        {"run": "r1", "label": "r1", "colour": "#000", "strength": 0.5, "keep": 3, "cut": None},
    ]
    conversation = new_conversation(panes)
    conversation["turns"].append({"q": "one", "a": [{"t": [["ba", 0.0], ["se", 0.0]]}, {"t": [], "text": "adapted"}]})
    request = ChatRequest.parse(asked(conversation, "two"))
    assert [[m.content for m in messages] for messages in request.messages] == [
        ["one", "base", "two"],
        ["one", "adapted", "two"],
    ]
    assert request.panes[1].cut == (0, 3) and request.panes[1].strength == 0.5 and request.panes[0].run is None
    with pytest.raises(ConfigError, match=r"^Write a message first"):
        ChatRequest.parse(asked(conversation, "  "))


def test_web_process_builds_the_page_without_torch(tmp_path):
    code = (
        "import sys, json; from lora_playground.ui.serve import Server; server = Server(sys.argv[1]); "
        "kept = [n for n in ('torch', 'transformers', 'peft', 'plotly', 'datasets') if n in sys.modules]; "
        "size = len(json.dumps(server.page.get_config_file(), default=str)); "
        "server.close(); print(json.dumps([kept, size]))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=280,
        cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert out.returncode == 0, out.stderr[-3000:]
    kept, size = json.loads(out.stdout.splitlines()[-1])
    assert kept == []
    assert size < 900_000, "the page's description stays small enough to open at once"


def test_adapter_is_packed_whole_or_refused(tmp_path):
    import zipfile

    adapter, place = tmp_path / "adapter", tmp_path / "place"
    place.mkdir()
    with pytest.raises(FileNotFoundError, match="saved no adapter"):
        zipped(adapter, "run", place)
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    packed = zipped(adapter, "run", place)
    with zipfile.ZipFile(packed) as archive:
        assert sorted(archive.namelist()) == ["run/adapter_config.json", "run/adapter_model.safetensors"]
        assert archive.read("run/adapter_model.safetensors") == b"weights"
    assert [path.name for path in place.iterdir()] == ["run.zip"]


@pytest.mark.parametrize("rank", [999, "many"])
def test_a_rank_that_cannot_be_is_refused_once_with_no_name_of_the_programs(rank):
    with pytest.raises(ConfigError) as failure:
        costs.check(RunConfig.parse({"variant": {"name": "lora", "rank": rank}}))
    said = costs.refused(failure.value)
    assert f"Rank: {rank} is not possible" in said and "variant.rank" not in said
    picture = method_card.picture({"name": "lora", "rank": rank}, "embedded")
    assert "under Budget stands why" in picture and str(rank) not in picture
