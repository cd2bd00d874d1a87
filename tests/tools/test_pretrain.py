"""Packing, Muon and pretraining on a model of some thousand parameters: no leaks, resumption, a loss that falls."""

import itertools
import json

import numpy as np
import pytest
import torch

from tools.embedded_model import pretrain
from tools.embedded_model.muon import Muon, orthogonalise
from tools.embedded_model.packing import pack
from tools.embedded_model.tokenizer import save_tokenizer, train_tokenizer

TEXTS = ["Ada is a baker.", "Who is Ada?", "Tom lives in Oakford.", "Where does Tom live?", "3 + 4 = 7"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer(TEXTS * 3, 400), folder)
    return AutoTokenizer.from_pretrained(folder)


def args(folder, tokenizer, *more):
    tokenizer.save_pretrained(folder / "tok")
    (folder / "tok" / "chat_template.jinja").write_text("{{ messages }}")
    common = "--width 64 --layers 2 --feed-forward 64 --row 64 --rows 4 --chunk-rows 24 --minutes 1000"
    paths = ["--tokenizer", str(folder / "tok"), "--work", str(folder / "work"), "--export", str(folder / "out")]
    return pretrain.parse([*common.split(), *paths, *more])


def test_packing_keeps_chats_whole_and_loses_none():
    rng = np.random.default_rng(0)
    chats = [[int(i)] * int(n) for i, n in enumerate(rng.integers(2, 60, 300), 1)]
    rows = list(pack([*chats, [7] * 65], 64, 0))
    assert all(len(tokens) == len(numbers) == 64 for tokens, numbers in rows)
    found = [list(group) for tokens, numbers in rows for _, group in itertools.groupby(zip(tokens, numbers)) if numbers]
    whole = [[token for token, _ in group] for group in found if group[0][1] > 0]
    assert all(chat in chats for chat in whole)
    assert len(whole) >= 300 - 32 * 3  # rows that are still open at the end of a finite stream are left
    filled = np.mean([np.mean(np.array(numbers) > 0) for _, numbers in rows])
    assert filled > 0.9


def test_marked_chats_get_odd_numbers():
    (tokens, numbers), *_ = pack([[-1, 5, 5], [6, 6], [-1, 7, 7], [8, 8]], 8, 0)
    assert tokens == [5, 5, 6, 6, 7, 7, 8, 8]
    assert [n % 2 for n in numbers[::2]] == [1, 0, 1, 0]
    assert len(set(numbers)) == 4


def test_orthogonalised_matrices_have_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((3, 32, 80), (2, 80, 32), (1, 40, 40)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.max() < 1.35 and values.median() > 0.6


def test_muon_steps_downhill():
    torch.manual_seed(0)
    w, target = torch.nn.Parameter(torch.zeros(8, 16)), torch.randn(8, 16)
    optimizer = Muon([w], lr=0.05)
    losses = []
    for _ in range(120):
        loss = ((w - target) ** 2).mean()
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        w.grad = None
    assert losses[-1] < 0.1 * losses[0]


def test_no_chat_sees_another_nor_the_padding(tokenizer):
    torch.manual_seed(0)
    model = pretrain.make_model(tokenizer, 64, 2, 64)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    a, b = [9, 10, 11, 12], [20, 21, 22, 23, 24]

    def loss(tokens, numbers):
        return pretrain.batch_loss(model, torch.tensor([[tokens, numbers]]))

    together = loss(a + b + [0, 0], [2] * 4 + [4] * 5 + [0, 0])
    apart = (loss(a, [2] * 4) * 3 + loss(b, [2] * 5) * 4) / 7
    assert together.item() == pytest.approx(apart.item(), rel=1e-5)


def test_only_the_assistants_words_count_in_even_chats(tokenizer):
    user, assistant, end = (tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("user", "assistant", "end"))
    tokens = torch.tensor([[1, user, 50, end, assistant, 60, 61, end, user, 51, end, assistant, 62, end]])
    kept = pretrain.spoken(tokens, assistant, end)[0].tolist()
    assert [i for i, k in enumerate(kept) if k] == [5, 6, 7, 12, 13]


def test_the_schedule_is_a_trapezoid():
    points = [pretrain.schedule(x) for x in (0, pretrain.WARM_UP / 2, 0.3, 1 - pretrain.DECAY / 2, 1, 1.2)]
    assert points == pytest.approx([0, 0.5, 1, 0.5, 0, 0])


def test_training_learns_resumes_exactly_and_exports(tokenizer, tmp_path):
    whole = pretrain.Pretraining(args(tmp_path / "a", tokenizer, "--steps", "8"))
    before = whole.held_out()[0]
    whole.run()
    assert whole.held_out()[0] < before

    first = pretrain.Pretraining(args(tmp_path / "b", tokenizer, "--steps", "5"))
    first.run()
    rest = pretrain.Pretraining(args(tmp_path / "b", tokenizer, "--steps", "8"))
    assert rest.step == 5
    moments = rest.optimizers[0].state_dict()["state"]
    saved = first.optimizers[0].state_dict()["state"]
    assert all(torch.equal(moments[k]["momentum"], saved[k]["momentum"]) for k in saved)
    next_rows = next(rest.batches())
    fresh = pretrain.Pretraining(args(tmp_path / "c", tokenizer))
    assert torch.equal(next_rows, list(itertools.islice(steps(fresh), 6))[5])

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "a" / "out")
    assert model.dtype == torch.bfloat16
    assert AutoTokenizer.from_pretrained(tmp_path / "a" / "out").eos_token == "<|end|>"
    curve = [json.loads(line) for line in (tmp_path / "a" / "work" / "curve.jsonl").read_text().splitlines()]
    assert {"held_out", "bits_per_character"} <= set(curve[-1])


def steps(run):
    """Batches as the loop takes them: the step counts up."""
    for rows in run.batches():
        yield rows
        run.step += 1


def test_what_is_exported_can_be_the_mean_with_another_model(tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM

    def weights(folder):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()

    first = args(tmp_path, tokenizer, "--steps", "2")
    pretrain.Pretraining(first).run()
    second = args(
        tmp_path / "second",
        tokenizer,
        "--steps",
        "4",
        "--start",
        str(first.export),
        "--average-with",
        str(first.export),
    )
    trained = pretrain.Pretraining(second)
    trained.run()
    begun, ended, mean = weights(first.export), trained.model.state_dict(), weights(second.export)
    assert not torch.equal(begun["model.norm.weight"], ended["model.norm.weight"])
    for name, value in mean.items():
        torch.testing.assert_close(value, (begun[name] + ended[name]) / 2, rtol=2**-8, atol=1e-6)
