// What the page does by itself: address bar, theme, keys, clicks inside our own HTML, clicks on plots.
// Text that a model, a file or a person wrote is only ever set as text, never as HTML.
window.lp = (() => {
  "use strict";

  // The address bar carries the state that matters; empty values leave it. Until the server has read what the address
  // asked for, nothing is taken out of it: on a slow machine parts that are still empty report before that.
  let settled = false;
  function settle() { settled = true; }
  function url(changes) {
    if (!settled) return;
    const here = new URL(window.location.href);
    for (const [key, value] of Object.entries(changes)) {
      if (value === undefined || value === null || value === "" || /^,*$/.test(String(value))) here.searchParams.delete(key);
      else here.searchParams.set(key, value);
    }
    if (here.href !== window.location.href) window.history.replaceState(window.history.state, "", here);
  }

  // The server tells what belongs into the address bar as the value of an invisible part.
  function address(props, watch) {
    const show = () => { if (props.value && typeof props.value === "object") url(props.value); };
    watch("value", show);
    show();
  }

  // Elements with data-act="..." inside one of our HTML parts send {act, id, value} to the listener of 'act'.
  function acts(element, trigger) {
    element.addEventListener("click", (event) => {
      const target = event.target.closest("[data-act]");
      if (!target || !element.contains(target)) return;
      if (target.dataset.act === "theme") return flip();
      trigger("act", { act: target.dataset.act, id: target.dataset.id || "", value: target.dataset.value || "" });
    });
  }

  function dark() { return document.body.classList.contains("dark"); }
  function flip() {
    document.body.classList.toggle("dark");
    try { localStorage.setItem("lp-theme", dark() ? "dark" : "light"); } catch { /* private window */ }
  }
  function recall() {
    // With a <base>, Plotly refers to its clip paths by the whole address, which breaks when the address bar changes.
    document.querySelector("base")?.remove();
    let kept = null;
    try { kept = localStorage.getItem("lp-theme"); } catch { /* private window */ }
    const asked = new URL(window.location.href).searchParams.get("__theme");
    if (asked) return;
    if (kept) document.body.classList.toggle("dark", kept === "dark");
  }

  const visible = (node) => !!node && node.offsetParent !== null && !node.disabled;
  const byId = (id) => {
    const node = document.getElementById(id);
    return node && (node.tagName === "BUTTON" ? node : node.querySelector("button"));
  };

  // Ctrl+Enter does the one obvious thing of the tab in front; Esc stops what runs there.
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      const button = ["lp-train", "lp-send", "lp-fed-start"].map(byId).find(visible);
      if (button) {
        event.preventDefault();
        // Leaving a field makes Gradio send what was typed in it before the click is handled.
        if (document.activeElement instanceof HTMLElement) document.activeElement.blur();
        setTimeout(() => button.click(), 60);
      }
    } else if (event.key === "Escape") {
      tip(null);
      const open = document.querySelector('[role="listbox"]');
      const button = ["lp-chat-stop", "lp-stop", "lp-fed-stop"].map(byId).find(visible);
      if (button && !open) button.click();
    }
  });

  // Two clicks within two seconds carry the same nonce, so that they are one job.
  let nonce = "", nonceAt = -1e9;
  function onceNonce() {
    const now = performance.now();
    if (now - nonceAt > 2000) {
      nonce = Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");
    }
    nonceAt = now;
    return nonce;
  }

  // A click on a point of the plot inside #plotId goes to the listener of 'point' as {x, y, z, custom}.
  function points(trigger, plotId) {
    const attach = () => {
      const plot = document.querySelector(`#${plotId} .js-plotly-plot`);
      if (!plot || plot.lpClicks || !plot.on) return;
      plot.lpClicks = true;
      plot.on("plotly_click", (event) => {
        const point = event.points && event.points[0];
        if (point) trigger("point", { x: point.x, y: point.y, z: point.z ?? null, custom: point.customdata ?? point.text ?? null });
      });
    };
    setInterval(attach, 700);
  }

  // On a narrow screen what just started is below the form: bring it into view.
  function reveal(id) {
    const node = document.getElementById(id);
    if (node && window.innerWidth <= 860) node.scrollIntoView({ behavior: "smooth", block: "start" });
  }

  let bubble = null;
  function tip(anchor, build) {
    if (bubble) { bubble.remove(); bubble = null; }
    if (!anchor) return;
    bubble = document.createElement("div");
    bubble.className = "lp-tip";
    bubble.setAttribute("role", "tooltip");
    build(bubble);
    document.body.appendChild(bubble);
    const box = anchor.getBoundingClientRect(), own = bubble.getBoundingClientRect();
    bubble.style.left = `${Math.max(12, Math.min(box.left, window.innerWidth - own.width - 12))}px`;
    bubble.style.top = `${box.bottom + own.height + 10 < window.innerHeight ? box.bottom + 6 : Math.max(6, box.top - own.height - 6)}px`;
  }

  // --- chat: panes of equal width, drawn from data; every text is set as text ----------------------------------------

  function make(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (key === "class") node.className = value;
      else if (key === "style") node.style.cssText = value;
      else if (value !== null && value !== undefined) node.setAttribute(key, value);
    }
    for (const child of children) if (child !== null && child !== undefined) node.append(child);
    return node;
  }

  let talk = null; // the conversation in front, for saving

  function chat(element, props, watch, trigger, server) {
    const root = element.querySelector(".lp-talk") || element;
    let drawn = { key: "", panes: "", turns: [] }, bodies = [];

    function paneHead(pane, number) {
      const name = make("h3", {}, pane.label);
      if (!pane.run) return make("div", { class: "lp-pane-head" }, name, make("small", { class: "mark" }));
      const strength = make("input", { type: "range", min: 0, max: 2, step: 0.1, "aria-label": `Strength of ${pane.label}`, title: "strength of the update" });
      strength.value = pane.strength;
      const keep = make("input", { type: "number", min: 0, placeholder: "all", "aria-label": `Directions kept of ${pane.label}`, title: "keep only so many of the strongest directions" });
      if (pane.keep !== null && pane.keep !== undefined) keep.value = pane.keep;
      const shown = make("output", {}, `×${(+pane.strength).toFixed(1)}`);
      const tell = () => trigger("act", { act: "tune", id: pane.run, value: { strength: +strength.value, keep: keep.value === "" ? null : Math.round(+keep.value) } });
      strength.addEventListener("input", () => { shown.textContent = `×${(+strength.value).toFixed(1)}`; });
      strength.addEventListener("change", tell);
      keep.addEventListener("change", tell);
      return make("div", { class: "lp-pane-head" }, name,
        make("span", { class: "knobs" }, make("label", {}, "strength ", strength, shown), make("label", {}, "keeps ", keep)));
    }

    function rebuild(value) {
      root.replaceChildren();
      if (!value.panes) return;
      const grid = make("div", { class: "lp-panes", style: `--panes:${value.panes.length}`, role: "group", "aria-label": "Answers side by side" });
      bodies = value.panes.map((pane, number) => {
        const body = make("div", { class: "lp-turns" });
        if (!value.turns.length) body.append(make("p", { class: "lp-note" }, number ? "with the update ΔW" : "frozen weights W, no update"));
        grid.append(make("section", { class: "lp-pane", style: pane.colour ? `--run:${pane.colour}` : "", "aria-label": pane.label }, paneHead(pane, number), body));
        return body;
      });
      root.append(grid, make("div", { class: "lp-talk-foot" }));
      drawn = { key: value.key, panes: paneKey(value), turns: [] };
    }

    const paneKey = (value) => JSON.stringify(value.panes.map((pane) => [pane.run, pane.label, pane.colour]));

    function colour(kl) {
      if (kl === null || kl === undefined || kl < 0.02) return "";
      return `background: rgb(230 159 0 / ${Math.min(72, 16 + 24 * Math.sqrt(kl)).toFixed(0)}%)`;
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
        const span = make("span", { "data-i": i, style: colour(kl) });
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
      else if (waiting && !part.end) part.foot.textContent = "";
    }

    function footer(value, index, pane, part, given) {
      const words = [];
      if (pane) {
        if (given.first === null || given.first === undefined) words.push("the same words as the base");
        else {
          const base = value.turns[index].a[0].t[given.first], mine = given.t[given.first];
          words.push(`parts from the base at token ${given.first + 1}${mine && base ? `: “${mine[0].trim()}” instead of “${base[0].trim()}”` : ""}`);
        }
        if (given.mean !== null && given.mean !== undefined) words.push(`mean KL ${given.mean.toPrecision(2)} nats a token`);
      }
      if (given.end === "length") words.push("cut at the length you set");
      if (given.end === "cancelled") words.push("stopped");
      if (given.end === "deadline") words.push("stopped: it took too long");
      if (!pane && value.turns[index].speed) words.push(`${Math.round(value.turns[index].speed)} tokens/s`);
      if (!pane && value.turns[index].dropped) words.push(`${value.turns[index].dropped} oldest messages did not fit`);
      part.foot.replaceChildren(make("span", {}, words.join(" · ")));
      const copy = make("button", { class: "mini" }, "copy");
      copy.addEventListener("click", () => { clip(part.answer.textContent); copy.textContent = "copied"; setTimeout(() => { copy.textContent = "copy"; }, 1200); });
      const vote = make("button", { class: "mini" }, "better");
      vote.setAttribute("aria-label", `${value.panes[pane].label} answered better`);
      vote.addEventListener("click", () => trigger("act", { act: "vote", id: value.panes[pane].run, value: "" }));
      part.foot.append(" ", copy, value.panes.length > 1 ? vote : "");
      if (!pane && value.turns[index].raw) {
        part.foot.append(make("details", {}, make("summary", {}, "what the model reads"), make("pre", { class: "lp-log" }, value.turns[index].raw)));
      }
    }

    function show() {
      const value = props.value;
      if (!value || !value.panes) return;
      talk = value;
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
    root.addEventListener("mouseover", hover);
    root.addEventListener("click", hover);
    root.addEventListener("mouseleave", () => { wanted = null; tip(null); });

    watch("value", show);
    show();
  }

  function tops(box, detail, pane) {
    const rows = (list) => (list || []).map(([text, value]) => [JSON.stringify(text).slice(1, -1), `${(100 * Math.exp(value)).toPrecision(2)}%`]);
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
    if (pane && detail.kl !== null && detail.kl !== undefined) box.append(make("div", {}, `KL(adapted ‖ base) ${detail.kl.toPrecision(2)} nats`));
  }

  function clip(text) {
    if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
    const area = make("textarea", { class: "lp-sr" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }

  function save(kind) {
    if (!talk || !talk.turns.length) return;
    const said = (turn, pane) => turn.a[pane].text ?? turn.a[pane].t.map((token) => token[0]).join("");
    const turns = talk.turns.map((turn) => ({ prompt: turn.q, answers: talk.panes.map((pane, i) => ({ model: pane.label, run: pane.run || null, strength: pane.strength, keep: pane.keep, text: said(turn, i), first_difference: turn.a[i].first, mean_kl: turn.a[i].mean ?? null })) }));
    const text = kind === "json"
      ? JSON.stringify({ panes: talk.panes, turns }, null, 1)
      : turns.map((turn) => `**You:** ${turn.prompt}\n\n${turn.answers.map((answer) => `**${answer.model}:** ${answer.text}`).join("\n\n")}`).join("\n\n---\n\n") + "\n";
    const link = make("a", { download: `chat.${kind === "json" ? "json" : "md"}`, href: URL.createObjectURL(new Blob([text], { type: kind === "json" ? "application/json" : "text/markdown" })) });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 5000);
  }

  // Buttons with data-copy copy the text of the <pre> beside them.
  function copies(element) {
    element.addEventListener("click", (event) => {
      const button = event.target.closest("[data-copy]"), text = button?.closest(".lp-copied")?.querySelector("pre");
      if (!text) return;
      clip(text.textContent);
      button.textContent = "copied";
      setTimeout(() => { button.textContent = "copy"; }, 1200);
    });
  }

  // Opens a tab by its title, also one that a narrow screen keeps in its menu.
  function open(title) {
    const all = document.querySelectorAll('#lp-tabs button[role="tab"], #lp-tabs .overflow-dropdown button');
    const tab = [...all].find((one) => one.textContent.trim() === title && one.offsetParent) || [...all].find((one) => one.textContent.trim() === title);
    if (tab) tab.click();
  }

  // Saves a file that the server has just made; `file` is the value of a download button.
  function fetchFile(file) {
    if (!file || !(file.url || file.path)) return;
    const link = make("a", { download: file.orig_name || "", href: file.url || `${window.location.pathname.replace(/\/$/, "")}/gradio_api/file=${file.path}` });
    document.body.append(link);
    link.click();
    link.remove();
  }

  recall();
  return { chat, save, open, fetch: fetchFile, settle, url, address, acts, copies, points, reveal, onceNonce, tip, recall };
})();
