"""The cards about a run as HTML: before it, waiting, in progress, its answers, its result, an error with its log.

Pure functions from plain values to text. Everything that people, files or models wrote is escaped. No Gradio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lora_playground.evaluation import METRICS
from lora_playground.models.catalogue import SMALL
from lora_playground.runs.history import RunProgress
from lora_playground.ui.words import PHASES, count, duration, escape, percent, rough, share, significant, size, span
from lora_playground.wording import counted

ORDER = ("loading", "training", "saving", "evaluating")
_LOADING = 8
"""Seconds that loading is said to take; a page that hears nothing for much longer says so (live.js)."""
_ROUNDED = (
    "These answers are computed in bfloat16, the number type it is trained in. Chat computes a small model in float32, "
    "so a word can come out differently there."
)


def error(text: str) -> str:
    """One sentence about what went wrong, announced to screen readers."""
    return f'<p class="lp-error" role="alert">{escape(text)}</p>' if text else ""


def warning(text: str) -> str:
    """One sentence about something unexpected that is no error."""
    return f'<p class="lp-warning">{escape(text)}</p>' if text else ""


def idle(last: str = "") -> str:
    """The card before a run is started: what will happen, in three lines, and the last result. The page's script adds
    the picture of the method and the button that plays a recording."""
    return (
        '<section class="lp-card lp-idle"><div class="lp-idle-words"><h2>Press Train, and this happens</h2><ol>'
        "<li>The base model reads your examples; its weights W stay as they are (frozen).</li>"
        "<li>A small update ΔW beside them learns to answer their way. Below you watch its answers, its loss, and how "
        "many directions it uses.</li>"
        "<li>Then both models, without and with ΔW, answer you side by side.</li></ol><!--play-->"
        f'{last}</div><div class="lp-idle-scale"><!--scale--></div></section>'
    )


def last_result(label: str, result: Mapping[str, Any], identity: str) -> str:
    """The newest finished run in one line, which opens it."""
    score = result.get("score")
    words = f"{percent(score['base'])} → {percent(score['adapted'])}" if score else "finished"
    return (
        f'<p class="lp-note" style="margin-top:14px">Last result: <b>{escape(label)}</b>, {words}. '
        f'<button class="lp-link" data-act="open" data-id="{escape(identity)}">Show it</button></p>'
    )


def waiting(label: str, position: int | None, detail: str = "") -> str:
    """A queued job: how many are before it."""
    before = "It is next." if not position or position <= 1 else f"{position - 1} before it."
    return (
        f'<section class="lp-card lp-progress"><div class="row"><span class="what"><i></i>'
        f'{escape(label)}</span><span>waiting for its turn</span></div><p class="lp-note">{escape(before)} '
        f"{escape(detail)} You may close this page; the run goes on.</p></section>"
    )


def progress(label: str, state: str, progress: RunProgress) -> str:
    """A running job: phase, progress bar, step, time left, speed."""
    plan = progress.plan
    steps = progress.planned
    reached = ORDER.index(state) if state in ORDER else 0
    items = "".join(
        f'<li class="{"past" if place < reached else "now" if place == reached else "next"}">{PHASES[name]}</li>'
        for place, name in enumerate(ORDER)
    )
    filled = progress.step / steps if steps and state == "training" else float(reached > 1)
    head = PHASES.get(state, state)
    if state == "training" and steps:
        head = f"step {progress.step} of {steps}"
    if state == "evaluating" and progress.scoring:
        head = f"{progress.scoring['done']} of {progress.scoring['of']} questions"
        filled = progress.scoring["done"] / max(1, progress.scoring["of"])
    here, whole = progress.download
    fetching = state == "loading" and here < whole
    if fetching:
        head, filled = f"fetching the model: {size(here)} of {size(whole)}", here / whole
    stats = []
    if state in ("training", "evaluating") and progress.eta is not None:
        stats.append(f'<span data-eta="{progress.eta:.0f}"><b>{rough(progress.eta)}</b> left</span>')
    if progress.tokens_per_second:
        stats.append(f"<span><b>{count(progress.tokens_per_second)}</b> tokens/s</span>")
    if progress.losses:
        stats.append(f"<span>loss <b>{significant(progress.losses[-1])}</b></span>")
    if plan:
        trained, total = plan.get("trainable_parameters", 0), plan.get("total_parameters", 0)
        stats.append(f"<span><b>{count(trained)}</b> trained numbers ({share(trained, total)})</span>")
        stats.append(f"<span><b>{escape(plan.get('device', ''))}</b> {escape(plan.get('precision', ''))}</span>")
    elif fetching:
        stats.append("<span>it goes on from there if it is stopped</span>")
    else:
        stats.append(f'<span data-eta="{_LOADING}">a few seconds</span>')
    return (
        f'<section class="lp-card lp-progress"><div class="row"><span class="what"><i></i>'
        f'{escape(label)}</span><span class="lp-num">{escape(head)}</span></div>'
        f'<div class="lp-meter" role="progressbar" aria-label="Training progress" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{100 * filled:.0f}"><i style="width:{100 * filled:.1f}%"></i></div>'
        f'<ul class="lp-phases">{items}</ul><div class="lp-stats">{"".join(stats)}</div></section>'
    )


def probes(progress: RunProgress) -> str:
    """ "Watch it learn": each probe prompt with the base's answer and the newest one."""
    if not progress.probes:
        return ""
    first, parts = progress.probes[0], []
    for number, answer in enumerate(first[1]):
        # Between start and end only the first prompts may have been asked, so each shows its own newest answer.
        step, newest = next(
            (step, answers[number]) for step, answers in reversed(progress.probes) if number < len(answers)
        )
        later = ""
        if step != first[0]:
            after = counted(step, "step")
            answer_text = escape(newest["answer"]) if newest["answer"].strip() else "<i>(no words: it ends at once)</i>"
            later = f'<div class="a new"><span class="w">after {after}</span>{answer_text}</div>'
        elif len(progress.probes) > 1:
            later = '<div class="a"><span class="w">asked again at the end only</span></div>'
        parts.append(
            f'<article class="lp-probe"><div class="q">{escape(answer["prompt"])}</div>'
            f'<div class="a"><span class="w">base model</span>{escape(answer["answer"])}</div>{later}</article>'
        )
    plan = progress.plan
    rounded = plan.get("precision") == "bfloat16" and plan.get("device") == "cpu"
    rounded &= plan.get("total_parameters", SMALL + 1) <= SMALL and len(progress.probes) > 1
    note = f'<p class="lp-note">{_ROUNDED}</p>' if rounded else ""
    return f'<div class="lp-probes" aria-label="Watch it learn">{"".join(parts)}</div>{note}'


def _how_sure(score: Mapping[str, Any]) -> str:
    """The interval of a score and, for labels, macro F1 and the majority; '' for results that do not have them."""
    if "low" not in score:
        return ""
    text = f"; with 95% confidence {percent(score['low'])} to {percent(score['high'])}"
    if "macro_f1" in score:
        f1 = score["macro_f1"]
        text += f". Macro F1 {f1['base']:.2f} → {f1['adapted']:.2f}; the most frequent label alone would be right in "
        text += percent(score["majority"])
    if "reference" in score:
        text += f". The file's own answers get {percent(score['reference'])} by this measure"
    return text


def done(label: str, result: Mapping[str, Any]) -> str:
    """The result card: score, forgetting, and what it cost."""
    head = '<section class="lp-card lp-done"><h2><span class="lp-swatch"></span>'
    head += f'{escape(label)}<span class="lp-sr" role="status">: training is done</span></h2>'
    score, forgetting = result.get("score"), result.get("forgetting")
    if score:
        gain = score["adapted"] - score["base"]
        better = "new" if gain > 0 else "worse" if gain < 0 else "base"
        metric = METRICS.get(str(score["metric"]))
        named = f"{metric.label}. {metric.description}" if metric else f"Score: {score['metric']}."
        named = named[:1].upper() + named[1:]
        head += (
            f'<div class="lp-score"><span class="v base">{percent(score["base"])}</span><span class="arrow" '
            f'aria-label="became">→</span><span class="v {better}">{percent(score["adapted"])}</span>'
            f'<span class="m">{escape(named)} Base → adapted, on {counted(score["n"], "test row")} it never saw'
            f"{escape(_how_sure(score))}.{_changed(result.get('changed'))}</span></div>"
        )
    validation = result.get("validation_loss") or {}
    seconds = result.get("seconds") or {}
    trained, total = result.get("trainable_parameters", 0), result.get("total_parameters", 0)
    facts = []
    if validation.get("base") is not None and validation.get("adapted") is not None:
        facts.append(("validation loss", f"{significant(validation['base'])} → {significant(validation['adapted'])}"))
    head += _skills(forgetting) if forgetting else ""
    facts += [
        ("training time", duration(float(seconds.get("training", 0.0)))),
        *_whole_time(result),
        ("trained numbers", f"{count(trained)} · {share(trained, total)}"),
        ("adapter on disk", size(result.get("adapter_bytes") or 0)),
        *_memory(result),
    ]
    table = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return f'{head}<dl class="lp-table">{table}</dl>{_samples(result.get("samples") or [])}</section>'


def _changed(changed: Mapping[str, int] | None) -> str:
    """A sentence on how many test rows are answered differently from the base."""
    return f" <b>{changed['n']} of {changed['of']} answers are different now.</b>" if changed else ""


def skills_kept(forgetting: Mapping[str, Any]) -> float:
    """The share of the base's own skills that the adapted model has kept, from 0 to 1."""
    return min(1.0, forgetting["adapted"] / forgetting["base"]) if forgetting["base"] else 1.0


def _skills(forgetting: Mapping[str, Any]) -> str:
    """How many of the base's own skills are kept, in amber if few, with an example of one that was lost."""
    kept = skills_kept(forgetting)
    sentence = f"Base skills kept: {percent(kept)}."
    if lost := forgetting.get("lost"):
        sentence += f" Lost, for instance: asked “{_cut(lost['prompt'], 90)}”, the base says “{_cut(lost['base'], 90)}”"
        sentence += f", and after training it says “{_cut(lost['adapted'], 90)}”"
        sentence += "" if lost["adapted"].endswith((".", "!", "?")) and len(lost["adapted"]) <= 90 else "."
    return warning(sentence) if kept < 0.9 else f'<p class="lp-note">{escape(sentence)}</p>'


def note(words: str) -> str:
    """The note that a person wrote about a run."""
    return f'<p class="lp-note lp-said">{escape(words)}</p>' if words else ""


def _whole_time(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The time from start to result, with the forecast made before it."""
    expected = result.get("forecast_seconds")
    if not expected:
        return []
    return [(f"start to result (forecast: {span(*expected)})", duration(sum(result["seconds"].values())))]


def _memory(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The peak memory of all tensors, with the estimate made before the run, and of the whole process."""
    whole = ("whole process, at most", size(result.get("peak_memory_bytes") or 0))
    took, expected = result.get("tensor_memory_bytes"), result.get("estimated_memory_bytes")
    if not took:
        return [whole]
    foreseen = f" (estimated: {size(expected)})" if expected else ""
    return [("memory of all tensors" + foreseen, size(took)), whole]


def _samples(samples: Sequence[Mapping[str, Any]]) -> str:
    if not samples:
        return ""
    rows = "".join(
        f"<tr><td>{escape(_cut(sample.get('prompt', '')))}</td><td>{escape(_cut(sample.get('expected', '')))}</td>"
        f"<td>{escape(_cut(sample.get('base', '')))}</td><td>{escape(_cut(sample.get('adapted', '')))}</td></tr>"
        for sample in samples[:6]
    )
    return (
        '<details class="lp-samples"><summary>Some test questions with both answers</summary><div class="lp-scroll">'
        "<table><thead><tr><th>question</th><th>expected</th><th>base</th><th>adapted</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def _cut(text: Any, characters: int = 160) -> str:
    words = str(text)
    return words if len(words) <= characters else words[: characters - 1] + "…"


def stopped(label: str, state: str, progress: RunProgress, failure: Mapping[str, Any] | None, mine: bool = True) -> str:
    """A run that failed, was stopped or interrupted: the reason in one sentence, and the last lines of its log."""
    text = {
        "cancelled": f"Stopped{' by you' if mine else ''} after {counted(progress.step, 'step')}.",
        "interrupted": "The server was stopped while it ran.",
    }
    message = (failure or {}).get("message") or text.get(state, "It failed without saying why.")
    if state == "cancelled" and (failure or {}).get("code") != "held":
        message = text[state]
    if state == "interrupted" and progress.checkpoint:
        message = f"{message} Resume goes on from step {progress.checkpoint}."
    if state != "cancelled" and not mine:
        message = f"{message} It was started in another browser, and only there can it be resumed."
    log = (failure or {}).get("log") or []
    lines = "\n".join(map(str, log)) if isinstance(log, Sequence) and not isinstance(log, str) else str(log)
    folded = ""
    if lines and state == "failed":
        folded = f"<details><summary>Last lines of its log</summary><pre class='lp-log'>{escape(lines)}</pre></details>"
    tone = error(message) if state == "failed" else warning(message)
    return (
        f'<section class="lp-card lp-progress"><div class="row"><span class="what"><i></i>'
        f"{escape(label)}</span><span>{PHASES.get(state, state)}</span></div>{tone}{folded}</section>"
    )


def again(identity: str) -> str:
    """A button under a run that failed: its settings into the form, to change what was wrong."""
    return (
        f'<p class="lp-note"><button class="lp-link" data-act="take" data-id="{escape(identity)}">Put its settings '
        "into the form</button>, change what was wrong, and train again.</p>"
    )


def replayed(result: Mapping[str, Any]) -> str:
    """A note that a run was taken over from an equal one; '' if it was trained."""
    before = result.get("replayed")
    return f'<p class="lp-note">Trained before, in {duration(before["seconds"])}: replayed.</p>' if before else ""


def unscored(result: Mapping[str, Any], progress: RunProgress) -> str:
    """Why a finished run has no scores or only some, unless its messages say so."""
    note = (result.get("scoring") or {}).get("note", "")
    return "" if note in [text for _, text in progress.messages] else warning(note)


def messages(progress: RunProgress) -> str:
    """The last three warnings of a run, newest last."""
    kept = [text for level, text in progress.messages if level == "warning"][-3:]
    return "".join(warning(text) for text in kept)
