// The chat's panes of equal width, drawn from data: tokens with their colours, the first difference, what is likeliest
// at a token, saving and sharing. Every text is set as text, never as HTML. It needs app.js before it.
(() => {
  "use strict";
  const { make, clip, tip, url } = window.lp;

  let talk = null; // the conversation in front, for saving and sharing
  let colouring = "kl"; // or "change": what a token's colour shows
  const LONGEST = 8000; // characters of a link that every server and messenger takes

  function chat(element, props, watch, trigger, server) {
    const root = element.querySelector(".lp-talk") || element;
    let drawn = { key: "", panes: "", turns: [] }, bodies = [];

    function paneHead(pane) {
      const name = make("h3", {}, pane.label);
      if (!pane.run) return make("div", { class: "lp-pane-head" }, name, make("small", { class: "mark" }));
      const strength = make("input", { type: "range", min: -2, max: 2, step: 0.1, "aria-label": `Strength of ${pane.label}`, title: "how much of the update is added: 1 as trained, 0 is the base, below 0 it is taken away" });
      strength.value = pane.strength;
      const keep = make("input", { type: "number", min: 0, placeholder: "all", "aria-label": `Directions kept of ${pane.label}`, title: "keep only so many of the strongest directions of every module; empty keeps all" });
      if (pane.keep !== null && pane.keep !== undefined) keep.value = pane.keep;
      const shown = make("output", {}, `×${(+pane.strength).toFixed(1)}`);
      const tell = () => trigger("act", { act: "tune", id: pane.run, value: { strength: +strength.value, keep: keep.value === "" ? null : Math.round(+keep.value) } });
      strength.addEventListener("input", () => { shown.textContent = `×${(+strength.value).toFixed(1)}`; });
      strength.addEventListener("change", tell);
      keep.addEventListener("change", tell);
      return make("div", { class: "lp-pane-head" }, name,
        make("span", { class: "knobs" }, make("label", {}, "strength ", strength, shown), make("label", {}, "keeps ", keep, " of its directions")));
    }

    function rebuild(value) {
      root.replaceChildren();
      drawn = { key: value.key, panes: paneKey(value), turns: [] };
      const grid = make("div", { class: "lp-panes", style: `--panes:${value.panes.length}`, role: "group", "aria-label": "Answers side by side" });
      bodies = value.panes.map((pane, number) => {
        const body = make("div", { class: "lp-turns" });
        if (!value.turns.length) body.append(make("p", { class: "lp-note" }, number ? "with the update ΔW" : "frozen weights W, no update"));
        grid.append(make("section", { class: "lp-pane", "data-run": pane.run || "", style: pane.colour ? `--run:${pane.colour}` : "", "aria-label": pane.label }, paneHead(pane), body));
        return body;
      });
      root.append(grid, value.panes.length > 1 ? legend() : "", make("div", { class: "lp-talk-foot", role: "status" }));
    }

    const paneKey = (value) => JSON.stringify(value.panes.map((pane) => [pane.run, pane.label, pane.colour]));

    // Orange: KL, or a token that the update made less likely; blue: one that it made likelier.
    function colour([, kl, change]) {
      const by = colouring === "kl" ? kl : change;
      if (by === null || by === undefined || Math.abs(by) < 0.02) return "";
      const hue = colouring === "change" && by > 0 ? "86 180 233" : "230 159 0";
      return `rgb(${hue} / ${Math.min(72, 16 + 24 * Math.sqrt(Math.abs(by))).toFixed(0)}%)`;
    }

    function legend() {
      const scale = make("span", { class: "scale", "aria-hidden": "true" }), ends = make("span", {});
      const choices = [["kl", "how surprised the base would be (KL)", "not at all to much, in nats"], ["change", "likelier or less likely than in the base (change of log-probability)", "less likely to likelier"]];
      const buttons = choices.map(([kind, words]) => make("button", { class: "lp-choice", "data-colour": kind }, words));
      const choose = (kind) => {
        colouring = kind;
        buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.colour === kind)));
        scale.classList.toggle("both", kind === "change");
        ends.textContent = choices.find((choice) => choice[0] === kind)[2];
        const turns = props.value && props.value.turns || [];
        drawn.turns.forEach((parts, index) => parts.forEach((part, pane) => {
          part.answer.querySelectorAll("span[data-i]").forEach((span) => { span.style.background = colour(turns[index].a[pane].t[+span.dataset.i]); });
        }));
      };
      buttons.forEach((button) => button.addEventListener("click", () => choose(button.dataset.colour)));
      const made = make("div", { class: "lp-legend", role: "group", "aria-label": "What a word's colour shows" }, make("span", {}, "A word’s colour:"), ...buttons, make("span", { class: "key" }, scale, ends));
      choose(colouring);
      return made;
    }

    function newTurn(value, index) {
      const turn = value.turns[index];
      if (!index) bodies.forEach((body) => body.replaceChildren());
      return bodies.map((body, pane) => {
        const question = make("div", { class: "q" }, turn.q);
        const edit = make("button", { class: "mini", "aria-label": "Edit this question and ask again" }, "edit");
        edit.addEventListener("click", () => trigger("act", { act: "edit", id: "", value: String(index) }));
        const answer = make("div", { class: "a", tabindex: "0", role: "region", "aria-label": `Answer of ${value.panes[pane].label}` });
        const kl = make("div", { class: "lp-kl", "aria-hidden": "true" });
        const foot = make("div", { class: "f" });
        body.append(make("div", { class: "lp-turn" }, make("div", { class: "ask" }, pane ? null : edit, question), answer, kl, foot));
        return { answer, kl, foot, count: 0, end: null, first: undefined };
      });
    }

    function wipe(part) {
      for (const node of [part.answer, part.kl, part.foot]) node.replaceChildren();
      part.count = 0;
      part.end = null;
      part.first = undefined;
    }

    function drawAnswer(value, index, pane, part) {
      const given = value.turns[index].a[pane];
      if (given.t.length < part.count) wipe(part);
      for (let i = part.count; i < given.t.length; i += 1) {
        const [text, kl] = given.t[i];
        const span = make("span", { "data-i": i });
        span.style.background = colour(given.t[i]);
        span.textContent = text;
        part.answer.append(span);
        if (pane && kl !== null) part.kl.append(make("i", { style: `height:${Math.min(100, 6 + 40 * Math.sqrt(kl)).toFixed(0)}%` }));
      }
      part.count = given.t.length;
      if (given.first !== null && given.first !== undefined && part.first !== given.first) {
        part.answer.querySelectorAll(".part").forEach((old) => old.classList.remove("part"));
        const span = part.answer.querySelector(`span[data-i="${given.first}"]`);
        if (span) { span.classList.add("part"); part.first = given.first; }
      }
      const waiting = value.busy && index === value.turns.length - 1 && !given.end;
      const caret = part.answer.querySelector(".lp-caret");
      if (caret) caret.remove();
      if (waiting) part.answer.append(make("span", { class: "lp-caret", "aria-hidden": "true" }));
      if (given.end && part.end !== given.end) { part.end = given.end; footer(value, index, pane, part, given); }
      else if (waiting && value.status && !given.t.length) part.foot.textContent = value.status;
      else if (waiting && !part.end) part.foot.textContent = running(given);
    }

    // What the line of KL says in a number, while it grows.
    function running(given) {
      const known = given.t.map((token) => token[1]).filter((kl) => kl !== null && kl !== undefined);
      return known.length ? `surprise of the base so far ${(known.reduce((sum, kl) => sum + kl, 0) / known.length).toPrecision(2)} nats a token (mean KL)` : "";
    }

    function footer(value, index, pane, part, given) {
      const words = [];
      if (pane) {
        if (given.first === null || given.first === undefined) words.push("the same words as the base");
        else {
          const base = value.turns[index].a[0].t[given.first], mine = given.t[given.first];
          words.push(`parts from the base at token ${given.first + 1}${mine && base ? `: “${mine[0].trim()}” instead of “${base[0].trim()}”` : ""}`);
        }
        if (given.mean !== null && given.mean !== undefined) words.push(`the base would be surprised by ${given.mean.toPrecision(2)} nats a token (mean KL)`);
      }
      if (!given.t.length && given.end !== "cancelled" && given.end !== "deadline") words.push("no words: it ends at once");
      if (given.end === "length") words.push("cut at the length you set");
      if (given.end === "cancelled") words.push("stopped");
      if (given.end === "deadline") words.push("stopped: it took too long");
      if (value.turns[index].note) words.push(value.turns[index].note);
      if (!pane && value.turns[index].speed) words.push(`${Math.round(value.turns[index].speed)} tokens/s`);
      if (!pane && value.turns[index].dropped) words.push(value.turns[index].dropped === 1 ? "the oldest message did not fit" : `the ${value.turns[index].dropped} oldest messages did not fit`);
      part.foot.replaceChildren(make("span", {}, words.join(" · ")));
      const copy = make("button", { class: "mini" }, "copy");
      copy.addEventListener("click", () => { clip(part.answer.textContent); copy.textContent = "copied"; setTimeout(() => { copy.textContent = "copy"; }, 1200); });
      const vote = make("button", { class: "mini" }, "better");
      vote.setAttribute("aria-label", `${value.panes[pane].label} answered better`);
      vote.addEventListener("click", () => trigger("act", { act: "vote", id: value.panes[pane].run, value: String(index) }));
      part.foot.append(" ", copy, value.panes.length > 1 ? vote : "");
      if (pane && given.end !== "cancelled") {
        const tune = ((value.turns[index].ask || {}).tune || {})[value.panes[pane].run] || {}; // as it was when asked
        document.dispatchEvent(new CustomEvent("lp-answered", { detail: { turn: `${value.turns[index].id} ${pane}`, run: value.panes[pane].run, keep: tune.keep ?? null, cut: tune.cut ?? null } }));
      }
      if (given.raw) {
        part.foot.append(make("details", {}, make("summary", {}, "what the model reads"), make("pre", { class: "lp-log" }, given.raw)));
      }
    }

    function show() {
      const value = props.value;
      if (!value || !value.panes) return;
      talk = value;
      if (value.busy && !value.linked) url({ chat: "" }); // what is asked now is not what the link asked
      if (drawn.key !== value.key || drawn.panes !== paneKey(value) || value.turns.length < drawn.turns.length) rebuild(value);
      const mark = root.querySelector(".mark");
      if (mark && value.verified !== null && value.verified !== undefined) {
        mark.textContent = value.verified ? "✓ base verified" : "✗ base not verified";
        mark.className = `mark ${value.verified ? "good" : "bad"}`;
        mark.title = value.verified ? "It computes what it computed before any adapter was near it." : "Its logits differ from those before any adapter was attached: do not trust this comparison.";
      }
      value.panes.forEach((pane, number) => {
        const strength = root.querySelectorAll(".lp-pane")[number].querySelector('input[type="range"]');
        if (!strength || strength === document.activeElement) return;
        strength.value = pane.strength;
        strength.parentElement.querySelector("output").textContent = `×${(+pane.strength).toFixed(1)}`;
        const keep = strength.closest(".knobs").querySelector('input[type="number"]');
        if (keep !== document.activeElement) { keep.value = pane.keep ?? ""; keep.placeholder = pane.cut_words || "all"; }
      });
      const grid = root.querySelector(".lp-panes");
      const low = grid && grid.scrollHeight - grid.scrollTop - grid.clientHeight < 60;
      value.turns.forEach((turn, index) => {
        if (!drawn.turns[index]) drawn.turns[index] = newTurn(value, index);
        // Asked again: the same place, another answer. Its first tokens may come before the page has seen it empty.
        else if (drawn.turns[index].id !== turn.id) drawn.turns[index].forEach(wipe);
        drawn.turns[index].id = turn.id;
        drawn.turns[index].forEach((part, pane) => drawAnswer(value, index, pane, part));
      });
      if (grid && low) grid.scrollTop = grid.scrollHeight;
    }

    function findToken(target) {
      const span = target.closest && target.closest("span[data-i]");
      if (!span) return null;
      for (let turn = 0; turn < drawn.turns.length; turn += 1) {
        for (let pane = 0; pane < drawn.turns[turn].length; pane += 1) {
          if (drawn.turns[turn][pane].answer === span.parentElement) return { span, turn, pane, index: +span.dataset.i };
        }
      }
      return null;
    }

    let wanted = null;
    async function hover(event) {
      const found = findToken(event.target);
      if (!found) { wanted = null; return tip(null); }
      if (wanted === found.span) return;
      wanted = found.span;
      await new Promise((resolve) => setTimeout(resolve, 120));
      if (wanted !== found.span) return;
      const detail = await server.detail([drawn.key, found.turn, found.pane, found.index]);
      if (wanted === found.span && detail && detail.top) tip(found.span, (box) => tops(box, detail, found.pane));
    }
    // By keyboard: an answer that has the focus is walked through with the arrow keys.
    function walk(event) {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step || !event.target.matches || !event.target.matches(".a")) return;
      event.preventDefault();
      const spans = [...event.target.querySelectorAll("span[data-i]")], now = spans.findIndex((span) => span.classList.contains("here"));
      const next = spans[now < 0 ? (step > 0 ? 0 : spans.length - 1) : Math.max(0, Math.min(spans.length - 1, now + step))];
      if (!next) return;
      if (now >= 0) spans[now].classList.remove("here");
      next.classList.add("here");
      hover({ target: next });
    }
    root.addEventListener("keydown", walk);
    root.addEventListener("focusout", (event) => {
      root.querySelectorAll("span.here").forEach((span) => span.classList.remove("here"));
      if (event.target.matches && event.target.matches(".a")) { wanted = null; tip(null); }
    });
    root.addEventListener("mouseover", hover);
    root.addEventListener("click", hover);
    root.addEventListener("mouseleave", () => { wanted = null; tip(null); });

    watch("value", show);
    show();
  }

  const percent = (p) => (p >= 0.995 ? "100%" : `${(100 * p).toPrecision(2)}%`);

  function tops(box, detail, pane) {
    const rows = (list) => (list || []).map(([text, value]) => [JSON.stringify(text).slice(1, -1), percent(Math.exp(value))]);
    const mine = rows(detail.top), base = pane ? rows(detail.base_top) : [];
    const table = make("table", {});
    table.append(make("tr", {}, make("th", { colspan: 2 }, pane ? "adapted: likeliest words" : "likeliest words"), base.length ? make("th", { colspan: 2 }, "base") : null));
    for (let i = 0; i < Math.max(mine.length, base.length); i += 1) {
      const line = make("tr", {});
      for (const list of base.length ? [mine, base] : [mine]) {
        line.append(make("td", {}, list[i] ? list[i][0] : ""), make("td", {}, list[i] ? list[i][1] : ""));
      }
      table.append(line);
    }
    box.append(table);
    if (pane && detail.kl !== null && detail.kl !== undefined) {
      const change = detail.logprob - detail.base_logprob;
      box.append(make("div", {}, `how surprised the base would be here: ${detail.kl.toPrecision(2)} nats, KL(adapted ‖ base); this word's log-probability ${change < 0 ? "−" : "+"}${Math.abs(change).toPrecision(2)}`));
    }
  }

  function save(kind) {
    if (!talk || !talk.turns.length) return;
    const said = (turn, pane) => turn.a[pane].text ?? turn.a[pane].t.map((token) => token[0]).join("");
    const turns = talk.turns.map((turn) => ({ prompt: turn.q, settings: turn.ask ?? null, answers: talk.panes.map((pane, i) => ({ model: pane.label, run: pane.run || null, strength: pane.strength, keep: pane.keep, text: said(turn, i), first_difference: turn.a[i].first, mean_kl: turn.a[i].mean ?? null })) }));
    const text = kind === "json"
      ? JSON.stringify({ panes: talk.panes, turns }, null, 1)
      : turns.map((turn) => `**You:** ${turn.prompt}\n\n${turn.answers.map((answer) => `**${answer.model}:** ${answer.text}`).join("\n\n")}`).join("\n\n---\n\n") + "\n";
    const link = make("a", { download: `chat.${kind === "json" ? "json" : "md"}`, href: URL.createObjectURL(new Blob([text], { type: kind === "json" ? "application/json" : "text/markdown" })) });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 5000);
  }

  // The link to this conversation: the panes are in the address already; `chat` holds the questions in order, each with
  // what differs from the one before it. The server checks it all again.
  function share() {
    const foot = document.querySelector("#lp-chat .lp-talk-foot");
    const tell = (...parts) => { if (foot) foot.replaceChildren(...parts); };
    if (!talk || !talk.turns.length) return tell("Ask something first; the link then holds the questions, the seed and the panes.");
    let before = {};
    const asked = talk.turns.map((turn) => {
      const now = turn.ask || {}, entry = { q: turn.q };
      for (const key of Object.keys(now)) if (JSON.stringify(now[key]) !== JSON.stringify(before[key])) entry[key] = now[key];
      before = now;
      return entry;
    });
    const here = new URL(window.location.href);
    here.searchParams.set("tab", "chat");
    here.searchParams.set("chat", JSON.stringify(asked));
    if (here.href.length > LONGEST) return tell("This conversation is too long for a link; save it as JSON instead.");
    url({ tab: "chat", chat: JSON.stringify(asked) });
    clip(here.href);
    tell("The link is copied, and stands in the address bar. Whoever opens it on this server sees the same questions answered by the same panes, with the same seed.");
  }

  Object.assign(window.lp, { chat, save, share });
})();
