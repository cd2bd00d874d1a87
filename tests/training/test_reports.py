"""The time that reports may take: with a clock of its own, no model."""

from typing import Any

import pytest

from lora_playground.training import reports
from lora_playground.training.reports import Report


def test_answers_are_afforded_while_they_and_the_last_ones_stay_in_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, sent = [0.0], list[dict[str, Any]]()
    monkeypatch.setattr(reports.time, "perf_counter", lambda: clock[0])

    def slowly(step: int) -> dict[str, Any]:
        clock[0] += 3.0
        return {}

    report = Report(sent.append, "probe", slowly, 0.07, grace=2.0)
    assert report.affords(0.0), "what it costs is not known before the first"
    report.send(0, 0.0)
    # One more and the last one, 3 + 2 · 3 seconds, are 0.07 of 129 seconds.
    assert not report.affords(128.0) and report.affords(129.0)
    report.send(4, 0.0)
    assert not report.affords(171.0) and report.affords(172.0) and len(sent) == 2
    assert not report.affords(114.0, 1 / 3) and report.affords(115.0, 1 / 3), "6 + 2 · 1 seconds"
