"""Figures of federated runs, made of their `partition` and `round` events: the split, measures over rounds, bytes sent,
and the global update's spectrum beside the clients'. It knows events only."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from lora_playground.plots.spectrum import short_name
from lora_playground.plots.style import INK, RUN_COLOURS, axis, empty, figure, log_ticks, percent, significant
from lora_playground.wording import counted

Event = Mapping[str, Any]
Series = Sequence[tuple[str, str, Sequence[Event]]]
"""(label, colour, `round` events) of each run."""

MEASURES: dict[str, tuple[str, str]] = {
    "score": ("Score of the global model, round by round", "score"),
    "loss": ("Loss of the global model on validation rows", "loss (nats a token)"),
    "error": (
        "Aggregation error of the round",
        "share of the mean update",
    ),
}
"""{field of a `round` event: (title, axis)}."""

_GROUPS = 11
_FLOOR = 1e-8
_DASHES = (("solid", "circle"), ("dash", "square"), ("dot", "diamond"))
"""(line, marker) of the first, second and third run of one colour: there are more strategies than colours."""


_IDEAL = "#c98a00"
"""Colour of the ideal mean. It is visible on light and dark pages, since a page that turns dark keeps it."""


def partition_figure(event: Event | None) -> dict[str, Any]:
    """A stacked bar for each client: its rows by label or topic. Beyond eleven groups the smallest are put together."""
    title = "Which rows each client will hold"
    if not event or not event.get("clients"):
        return empty("Choose a dataset and the number of clients to see who holds what.", title)
    clients, groups, counts = list(event["clients"]), list(event["groups"]), event["counts"]
    order = sorted(range(len(groups)), key=lambda g: -sum(row[g] for row in counts))
    shown, rest = order[:_GROUPS], order[_GROUPS:]
    bars = [(groups[g], [row[g] for row in counts]) for g in shown]
    if rest:
        bars.append((f"{len(rest)} others", [sum(row[g] for g in rest) for row in counts]))
    palette = [*RUN_COLOURS, "#999999", "#882255", "#44AA99", "#DDCC77", "#AA4499", "#BBBBBB"]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": html.escape(str(name)),
            "y": clients,
            "x": values,
            "marker": {"color": palette[i % len(palette)]},
            "hovertemplate": "%{y}: %{x} rows<extra>%{fullData.name}</extra>",
        }
        for i, (name, values) in enumerate(bars)
    ]
    made = figure(
        data,
        title,
        height=min(640, 150 + 26 * len(clients)),
        barmode="stack",
        showlegend=len(bars) > 1,
        xaxis=axis("training rows", rangemode="tozero"),
        yaxis=axis("", autorange="reversed", showgrid=False, ticksuffix="  "),
    )
    made["layout"]["legend"] |= {"traceorder": "normal"}  # as the parts of a bar stand, not the other way round
    return made


def describe_partition(event: Event | None) -> str:
    """The split in a sentence: how uneven the sizes are, and how many groups a client sees."""
    if not event or not event.get("clients"):
        return "No split yet."
    sizes = [sum(row) for row in event["counts"]]
    seen = [sum(1 for value in row if value) for row in event["counts"]]
    text = (
        f"{counted(len(sizes), 'client holds', many='clients hold')} {min(sizes)} to {max(sizes)} of {sum(sizes)} rows"
    )
    if len(event["groups"]) > 1:
        text += f"; a client sees {min(seen)} to {max(seen)} of {len(event['groups'])} groups"
    without = sum(1 for size in sizes if not size)
    return text + (
        f"; {counted(without, 'of them holds none and is', many='of them hold none and are')} left out."
        if without
        else "."
    )


def rounds_figure(series: Series, measure: str = "loss") -> dict[str, Any]:
    """One of `MEASURES` over the rounds, a line for each run; errors on a logarithmic axis."""
    title, unit = MEASURES[measure]
    lines = [
        (label, colour, [(e["round"], float(e[measure])) for e in events if e.get(measure) is not None])
        for label, colour, events in series
    ]
    if measure == "error":
        lines = [(label, colour, [(r, max(v, _FLOOR)) for r, v in points]) for label, colour, points in lines]
    data = _lines(lines)
    if not data:
        return empty("The first round has not ended yet.", title)
    y = axis(unit)
    if measure == "error":
        ticks = {"tickvals": [1e-8, 1e-6, 1e-4, 1e-2, 1], "ticktext": ["exact", "10⁻⁶", "10⁻⁴", "1%", "100%"]}
        y |= {"type": "log", "range": [-8.4, 0.4], **ticks}
    elif measure == "score":
        y |= {"range": [-0.02, 1.04], "tickformat": ".0%"}
    return figure(data, title, xaxis=_rounds(data), yaxis=y, showlegend=True, hovermode="x")


def _lines(series: Sequence[tuple[str, str, Sequence[tuple[int, float]]]]) -> list[dict[str, Any]]:
    """A line for each (label, colour, points) that has points; a second one of the same colour is dashed."""
    data: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for label, colour, points in series:
        dash, symbol = _DASHES[min(seen.get(colour, 0), len(_DASHES) - 1)]
        seen[colour] = seen.get(colour, 0) + 1
        if points:
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": html.escape(label),
                    "x": [r for r, _ in points],
                    "y": [float(f"{v:.4g}") for _, v in points],
                    "line": {"color": colour, "width": 2.5, "dash": dash},
                    "marker": {"size": 8, "symbol": symbol},
                    "hovertemplate": "round %{x}: %{y:.3g}<extra>%{fullData.name}</extra>",
                }
            )
    return data


def _rounds(data: Sequence[Event]) -> dict[str, Any]:
    """The axis of rounds for these traces."""
    first, last = min(trace["x"][0] for trace in data), max(trace["x"][-1] for trace in data)
    return axis("round", tickformat="d", dtick=max(1, last // 10), range=[first - 0.2, last + 0.2])


def rank_figure(series: Series, ranks: Sequence[int] = ()) -> dict[str, Any]:
    """How many directions the global update uses after each round, a line for each run, beside what one client and all
    clients together bring to a round.

    Args:
        ranks: of the clients, for the two bounds.
    """
    title = "Directions of the global update"
    lines = [
        (label, colour, [(e["round"], float(e["rank"]["global"])) for e in events if "rank" in e])
        for label, colour, events in series
    ]
    data = _lines(lines)
    if not data:
        return empty("The first round has not ended yet.", title)
    x = _rounds(data)
    bounds = {"K·r, all clients together": sum(ranks), "r, one client": max(ranks)} if ranks else {}
    for (name, value), dash in zip(bounds.items(), ("dash", "dot")):
        line = {"color": INK["quiet"], "width": 1.2, "dash": dash}
        data.append(
            {"type": "scatter", "mode": "lines", "name": f"{name} = {value}", "x": x["range"], "y": [value, value],
             "line": line, "hoverinfo": "name"}
        )  # fmt: skip
    y = axis("directions a module", rangemode="tozero")
    return figure(data, title, xaxis=x, yaxis=y, showlegend=True, hovermode="closest")


def describe_rank(series: Series, ranks: Sequence[int] = ()) -> str:
    """Sentences on whose update has the most and the fewest directions after the last round."""
    known = sorted(
        ((events[-1]["rank"]["global"], label) for label, _, events in series if _played(events)), reverse=True
    )
    if not known:
        return "No round has ended yet."
    most, fewest = known[0], known[-1]
    if fewest[0] < most[0]:
        text = f"{most[1]} uses the most: {counted(most[0], 'direction', significant(most[0]))} a module; "
        text += f"{fewest[1]} the fewest: {significant(fewest[0])}."
    else:
        text = (
            f"{_list([label for _, label in known])}: {counted(most[0], 'direction', significant(most[0]))} a module."
        )
    if ranks:
        text += (
            f" All clients together bring K·r = {sum(ranks)} to a round; a mean of factors keeps {max(ranks)} of them."
        )
    return text


def describe_rounds(series: Series, measure: str = "loss") -> str:
    """Sentences on who is ahead after the last round; for the error, on who is exact."""
    last = [(label, events[-1].get(measure)) for label, _, events in series if events]
    known = [(label, float(value)) for label, value in last if value is not None]
    if not known:
        return "No round has ended yet."
    if measure == "error":
        exact = [label for label, value in known if value < 1e-5]
        wrong = sorted(((value, label) for label, value in known if value >= 1e-5))
        parts = []
        if exact:
            parts.append(f"{_list(exact)}: exact, the server's update is the mean of the clients' updates.")
        if wrong:
            parts.append(
                "Off the mean of the updates: " + ", ".join(f"{label} by {percent(v)}" for v, label in wrong) + "."
            )
        return " ".join(parts)
    ranked = sorted(known, key=lambda item: item[1], reverse=measure == "score")
    word = "score" if measure == "score" else "loss"
    written = percent if measure == "score" else significant
    if len(ranked) == 1:
        text = f"The {word} of {ranked[0][0]} is {written(ranked[0][1])}."
    else:
        text = f"The best {word} is {written(ranked[0][1])} by {ranked[0][0]}"
        text += f", the worst {written(ranked[-1][1])} by {ranked[-1][0]}."
    few = " A few test rows are asked after each round; the score in the table and the list is of all, at the end."
    return text + few * (measure == "score")


def bytes_figure(series: Series) -> dict[str, Any]:
    """Megabytes that all clients have sent (up) and received (down), a pair of bars for each run."""
    title = "What has travelled"
    runs = [(label, colour, events[-1]["bytes"]) for label, colour, events in series if _played(events)]
    if not runs:
        return empty("Nothing has travelled yet.", title)
    labels = [html.escape(label) for label, _, _ in runs]
    colours = [colour for _, colour, _ in runs]
    data = [
        {
            "type": "bar",
            "name": name,
            "orientation": "h",
            "y": labels,
            "x": [round(sent[key] / 1e6, 3) for _, _, sent in runs],
            "marker": {"color": colours, "opacity": opacity, "pattern": {"shape": shape}},
            "hovertemplate": "%{y}: %{x:.3g} MB " + word + "<extra></extra>",
        }
        for name, key, opacity, shape, word in (
            ("up (clients to server)", "up_total", 1.0, "", "up"),
            ("down (server to clients)", "down_total", 0.55, "/", "down"),
        )
    ]
    x = axis("megabytes", rangemode="tozero")
    y = axis("", autorange="reversed", showgrid=False, ticksuffix="  ")  # with horizontal bars, long names fit
    return figure(data, title, xaxis=x, yaxis=y, barmode="group", showlegend=True)


def describe_bytes(series: Series) -> str:
    """Sentences on the fewest and the most bytes sent."""
    totals = sorted(
        ((events[-1]["bytes"]["up_total"] + events[-1]["bytes"]["down_total"]) / 1e6, label)
        for label, _, events in series
        if _played(events)
    )
    if not totals:
        return "Nothing has travelled yet."
    if len(totals) == 1:
        return f"{totals[0][1]} sent {significant(totals[0][0])} MB, up and down together."
    text = f"{totals[0][1]} sent least: {significant(totals[0][0])} MB"
    return f"{text}; {totals[-1][1]} most: {significant(totals[-1][0])} MB."


def round_spectrum_figure(
    event: Event | None, module: str | None = None, colour: str = RUN_COLOURS[0]
) -> dict[str, Any]:
    """Singular values of one module's update after a round: the server's, the ideal mean's, and each client's."""
    title = "The global update against the clients'"
    spectra = (event or {}).get("spectra") or {}
    if not spectra:
        return empty("The first round has not ended yet.", title)
    name: str = module if module is not None and module in spectra else next(iter(spectra))
    # Short, as it stands over half a column: which module and round.
    title = f"Server and clients · {html.escape(short_name(name))} · round {event['round']}" if event else title
    quiet = INK["quiet"]
    found = spectra[name]
    data = [
        _scree(html.escape(client), values, {"color": quiet, "width": 1.2}, 4, legend=i == 0, group="clients")
        for i, (client, values) in enumerate(found["clients"].items())
    ]
    if data:
        data[0]["name"] = "each client"
    if found.get("ideal"):
        data.append(
            _scree("mean of the updates (ideal)", found["ideal"], {"color": _IDEAL, "dash": "dot", "width": 2.5}, 5)
        )
    data.append(_scree("server", found["global"], {"color": colour, "width": 3}, 8))
    length = max(len(trace["x"]) for trace in data)
    values = [value for trace in data for value in trace["y"]]
    y = axis("singular value σ (log)", type="log") | log_ticks(min(values), max(values))
    x = axis("direction, strongest first", tickformat="d", range=[0.4, length + 0.6])
    return figure(data, title, xaxis=x, yaxis=y, showlegend=True, hovermode="closest")


def describe_round_spectrum(event: Event | None) -> str:
    """How many directions the server, the ideal and a client use, averaged over modules."""
    if not event or "rank" not in event:
        return "No round has ended yet."
    rank = event["rank"]
    clients = list(rank["clients"].values())
    if not clients:
        return f"After round {event['round']} nobody delivered; the global update stays as it was."
    mean = sum(clients) / len(clients)
    return (
        f"In round {event['round']} a client's update has {counted(mean, 'direction', significant(mean))}, the mean of "
        f"all clients' {significant(rank['ideal'])}, and the server's update so far {significant(rank['global'])}."
    )


def _scree(
    name: str, values: Sequence[float], line: dict[str, Any], size: int, legend: bool = True, group: str = ""
) -> dict[str, Any]:
    shown = [value for value in values if value > 0] or [_FLOOR]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": list(range(1, len(shown) + 1)),
        "y": shown,
        "line": line,
        "marker": {"size": size},
        "showlegend": legend,
        "legendgroup": group or name,
        "hovertemplate": "direction %{x}: σ = %{y:.3g}<extra>" + name + "</extra>",
    }


def _played(events: Sequence[Event]) -> bool:
    """Whether a round has ended; the event of round 0 only has the loss and score before it."""
    return bool(events) and "bytes" in events[-1]


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
