"""The figures of federated runs, from events such as the simulation writes."""

import json

from lora_playground.plots import federated as pictures

PARTITION = {
    "clients": ["client 1", "client 2", "client 3"],
    "groups": ["sport", "world"],
    "counts": [[30, 0], [5, 20], [0, 0]],
}


def event(number: int, error: float | None, loss: float, score: float | None) -> dict:
    return {
        "type": "round",
        "round": number,
        "error": error,
        "loss": loss,
        "score": score,
        "bytes": {"up": 1, "down": 1, "up_total": 2_000_000 * number, "down_total": 3_000_000 * number},
        "rank": {"global": 4, "ideal": 8, "clients": {"client 1": 4, "client 2": 4}},
        "spectra": {
            "model.layers.0.self_attn.q_proj": {
                "global": [2.0, 1.0],
                "ideal": [2.1, 1.1, 0.5],
                "clients": {"client 1": [1.0, 0.5], "client 2": [0.0]},
            }
        },
    }


SERIES = [
    ("FedIT", "#0072B2", [event(1, 0.3, 2.0, 0.1), event(2, 0.25, 1.5, 0.4)]),
    ("FedEx", "#D55E00", [event(1, 1e-16, 2.0, None), event(2, 0.0, 1.4, 0.5)]),
]


START = {"type": "round", "round": 0, "step": 0, "loss": 3.0, "score": None}
"""What is emitted before the first round: the start, judged."""


def test_every_figure_is_plain_json() -> None:
    figures = [
        pictures.partition_figure(PARTITION),
        pictures.partition_figure(None),
        *(pictures.rounds_figure(SERIES, measure) for measure in pictures.MEASURES),
        *(pictures.rounds_figure([], measure) for measure in pictures.MEASURES),
        pictures.bytes_figure(SERIES),
        pictures.bytes_figure([("FedIT", "#000000", [])]),
        pictures.bytes_figure([("FedIT", "#000000", [START])]),
        pictures.rounds_figure([("FedIT", "#000000", [START])], "loss"),
        pictures.rounds_figure([("FedIT", "#000000", [START])], "error"),
        pictures.rank_figure(SERIES, [4, 4]),
        pictures.rank_figure(SERIES),
        pictures.rank_figure([("FedIT", "#000000", [START])], [4]),
        pictures.round_spectrum_figure(START),
        pictures.round_spectrum_figure(SERIES[0][2][-1]),
        pictures.round_spectrum_figure(None),
    ]
    for figure in figures:
        json.dumps(figure, allow_nan=False)
        assert figure["layout"]["title"]["text"]


def test_the_stacked_bar_holds_every_row_once() -> None:
    figure = pictures.partition_figure(PARTITION)
    assert sum(sum(trace["x"]) for trace in figure["data"]) == 55
    many = {
        "clients": ["a", "b"],
        "groups": [f"person {i}" for i in range(40)],
        "counts": [list(range(40)), [1] * 40],
    }
    figure = pictures.partition_figure(many)
    assert len(figure["data"]) == 12 and figure["data"][-1]["name"] == "29 others"
    assert sum(sum(trace["x"]) for trace in figure["data"]) == sum(range(40)) + 40


def test_lines_follow_the_rounds_and_an_exact_error_stays_on_the_page() -> None:
    figure = pictures.rounds_figure(SERIES, "error")
    assert [trace["x"] for trace in figure["data"]] == [[1, 2], [1, 2]]
    assert figure["data"][0]["y"] == [0.3, 0.25]
    assert all(value >= 1e-8 for value in figure["data"][1]["y"])
    assert [trace["x"] for trace in pictures.rounds_figure(SERIES, "score")["data"]] == [[1, 2], [2]]


def test_rank_is_shown_against_one_client_and_all_of_them() -> None:
    figure = pictures.rank_figure(SERIES, [2, 4, 8])
    assert [trace["y"] for trace in figure["data"]] == [[4, 4], [4, 4], [14, 14], [8, 8]]
    said = pictures.describe_rank(SERIES, [2, 4, 8])
    assert "4 directions" in said and "K·r = 14" in said
    assert "No round" in pictures.describe_rank([("FedIT", "#000000", [START])], [4])


def test_more_runs_than_colours_differ_by_their_dashes() -> None:
    series = [(name, colour, SERIES[0][2]) for colour in ("#000000", "#111111") for name in "abc"]
    looks = [
        (trace["line"]["color"], trace["line"]["dash"]) for trace in pictures.rounds_figure(series, "loss")["data"]
    ]
    assert len(set(looks)) == 6


def test_words_say_who_is_exact_and_who_leads() -> None:
    said = pictures.describe_rounds(SERIES, "error")
    assert "FedEx: exact" in said and "FedIT by 25%" in said
    assert pictures.describe_rounds(SERIES, "loss") == "The best loss is 1.4 by FedEx, the worst 1.5 by FedIT."
    assert pictures.describe_rounds(SERIES, "score").startswith("The best score is 50% by FedEx")
    assert "1 of them holds none and is left out" in pictures.describe_partition(PARTITION)
    assert "8" in pictures.describe_round_spectrum(SERIES[0][2][0])
    assert "10 MB" in pictures.describe_bytes(SERIES)
    for text in (pictures.describe_rounds([], "loss"), pictures.describe_bytes([]), pictures.describe_partition(None)):
        assert text


def test_a_label_cannot_bring_markup_into_a_figure() -> None:
    series = [("<img src=x>", "#000000", SERIES[0][2])]
    for figure in (pictures.rounds_figure(series, "loss"), pictures.bytes_figure(series)):
        assert "<img" not in json.dumps(figure)
