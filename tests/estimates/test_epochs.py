"""Passes over the training rows, told before a run, against what the run then packs."""

import pytest

from lora_playground.config import RunConfig
from lora_playground.data.catalogue import get_dataset
from lora_playground.data.encoding import encode
from lora_playground.estimates.epochs import epochs
from lora_playground.models.catalogue import EMBEDDED
from lora_playground.models.plain_tokenizer import PlainTokenizer


def test_passes_over_the_rows_follow_their_tokens(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    given = RunConfig.parse({"data": {"dataset": "pirate", "rehearsal": 0.2}, "training": {"steps": 100}})
    rows = get_dataset("pirate", tmp_path).train
    whole = encode(PlainTokenizer(EMBEDDED), rows, given.data.max_length).examples
    exact = 100 * 256 * 0.8 / sum(len(example.ids) for example in whole)
    told = epochs(given, tmp_path)
    assert told == pytest.approx(exact, rel=0.05)
    assert epochs(given, tmp_path, steps=200) == pytest.approx(2 * told)
    few = given.model_copy(update={"data": given.data.model_copy(update={"train_rows": len(rows) // 4})})
    assert epochs(few, tmp_path) == pytest.approx(4 * told)
    elsewhere = RunConfig.parse({"model": {"source": "nobody/nothing"}})
    assert epochs(elsewhere, tmp_path) is None
