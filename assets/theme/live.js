// The live view: asks the server what is new, and draws the header, the list of runs, the run in view and its plots.
// The address bar says which tab (tab=), run (run=) and ticked runs (runs=) the page shows; Back and Forward go through
// them. Gradio's parts are told by `sync`. Texts in the server's HTML are escaped there.
lp.live = (() => {
  "use strict";
  const FAST = 1000, SLOW = 3000, SLOTS = 4, POINTS = 320, QUIET = "#7d8f96";
  let titles = {}, script = "", sync = null, number = 0, settled = false;
  let here = read();
  let have = {}, told = {}, boot = "", ended = null, module = "", carried = "", taken = null;
  let heard = 0; // when the card in view came
  let everyone = false; // whether the list shows everyone's runs
  try { everyone = localStorage.getItem("lp-everyone") === "1"; } catch { /* private window */ }
  const lines = new Map(), hidden = new Set(), listeners = [];
  let timer = 0, asking = false, again = false;

  const part = (id) => document.querySelector(`#${id} .lp-live`);
  const visible = (node) => !!node && node.offsetParent !== null;
  const root = window.location.pathname.replace(/\/$/, "");

  // --- what the page shows -------------------------------------------------------------------------------------------

  function read() {
    const query = new URL(window.location.href).searchParams;
    const runs = (query.get("runs") || "").split(",").slice(0, SLOTS);
    return { tab: query.get("tab") || "fine", run: query.get("run") || "", runs: [...runs, ...Array(SLOTS - runs.length).fill("")] };
  }

  // Shows another tab, run or choice of runs; `how`: push a step for Back, replace the address, or keep it.
  function go(changes, how = "push", tell = true) {
    const before = here;
    here = { ...here, ...changes };
    if (how !== "keep") lp.url({ tab: here.tab === "fine" ? "" : here.tab, run: here.run, runs: here.runs.join(",") }, how === "push" && (before.tab !== here.tab || before.run !== here.run));
    if (here.run !== before.run) {
      for (const name of ["card", "probes", "curve", "pictures"]) { delete have[name]; delete told[name]; }
      module = "";
    }
    if (tell && (here.run !== before.run || here.runs.join() !== before.runs.join())) {
      number += 1;
      if (sync) sync("act", { run: here.run, runs: here.runs, number });
    }
    if (here.tab !== before.tab) lp.open(titles[here.tab]);
    paint();
    // On a phone what is new stands above or below what is in view, and after Train nothing would seem to happen.
    if (how === "push" && window.innerWidth <= 860 && (here.tab !== before.tab || (here.run && here.run !== before.run))) window.scrollTo({ top: 0 });
    ask();
  }

  // A ticked run keeps its slot, and so its colour; a new one takes the first free slot, else the last.
  function withTick(id) {
    const runs = [...here.runs];
    if (!id || runs.includes(id)) return runs;
    runs[runs.includes("") ? runs.indexOf("") : SLOTS - 1] = id;
    return runs;
  }

  const acts = {
    whose: (which) => {
      everyone = which === "all";
      try { localStorage.setItem("lp-everyone", everyone ? "1" : ""); } catch { /* private window */ }
      ask();
    },
    person: () => lp.menu.person(told.you.name, ask),
    new: () => go({ run: "", tab: "fine" }),
    play: () => lp.empty.play(),
    unplay: () => lp.empty.stop(),
    "ask-base": () => lp.empty.ask(),
    tab: (name) => go({ tab: name }),
    open: (id) => go({ run: id, tab: "fine" }),
    tick: (id) => go({ runs: here.runs.includes(id) ? here.runs.map((one) => (one === id ? "" : one)) : withTick(id) }, "replace"),
    take: (id) => lp.menu.use(id),
    sweep: (id) => lp.sweep.open(id),
    theme: () => lp.flip(),
    link: () => {
      if (here.tab === "chat" && document.querySelector(".lp-turn")) lp.share();
      else lp.clip(here.tab === "fine" && !here.run && !here.runs.some(Boolean) ? lp.empty.link() : window.location.href);
      const button = document.querySelector(".lp-link-here");
      if (button) button.textContent = "Copied";
      setTimeout(() => { const late = document.querySelector(".lp-link-here"); if (late) late.textContent = "Copy link"; }, 1500);
    },
    menu: (id, button) => lp.menu.open(id, button),
    drawer: () => drawer(!document.body.classList.contains("lp-drawn")),
  };

  // On a phone the list of runs is a drawer.
  function drawer(open) {
    document.body.classList.toggle("lp-drawn", open);
    header();
    if (open) document.querySelector(".lp-new")?.focus();
  }
  document.addEventListener("click", (event) => {
    if (document.body.classList.contains("lp-drawn") && (event.target.closest(".lp-open, .lp-new") || !event.target.closest("#lp-side, .lp-drawer, .lp-menu, .lp-dialog, .lp-toast"))) drawer(false);
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") drawer(false); });
  document.addEventListener("click", (event) => {
    const target = event.target.closest(".lp-live [data-act]");
    if (target && acts[target.dataset.act]) acts[target.dataset.act](target.dataset.id || "", target);
  });
  window.addEventListener("popstate", () => { const there = read(); go({ ...there, tab: titles[there.tab] ? there.tab : "fine" }, "keep"); });

  const selected = () => { const tab = document.querySelector('#lp-tabs [role="tab"][aria-selected="true"]'); return tab ? tab.textContent.trim() : ""; };

  // A tab was opened. Its plots could not be drawn while it was hidden. Gradio tells of the first tab while the page is
  // built, at times after another one was opened by the address: that is passed over.
  function opened(tab) {
    if (settled && tab !== here.tab && selected() === titles[tab]) go({ tab });
    setTimeout(paint, 80);
  }
  const show = (tab) => { go({ runs: withTick(here.run), tab }); if (tab === "chat") askFirst(here.run, 0); };

  // "Chat with it" asks the first prompt on offer, once the run's pane is there and nothing has been asked yet.
  function askFirst(run, tries) {
    if (here.tab !== "chat" || tries > 200 || document.querySelector(".lp-turn")) return;
    const starter = document.querySelector(".lp-starters button");
    if (starter && document.querySelector(`.lp-pane[data-run="${CSS.escape(run)}"]`)) starter.click();
    else setTimeout(() => askFirst(run, tries + 1), 150);
  }

  // The server has chosen, after Train for instance. What it answers to an older choice of this page is passed over.
  function obey(props, watch) {
    const take = () => { const value = props.value; if (value && value.runs && value.number >= number) go({ run: value.run, runs: value.runs }, "push", false); };
    watch("value", take);
    take();
  }

  const nameOf = (id) => document.querySelector(`.lp-run[data-id="${CSS.escape(id)}"] .n`)?.textContent || "";

  // A run that is about to be deleted leaves the list and the page, and comes back when that is undone.
  function hide(id, gone) {
    if (gone) hidden.add(id); else hidden.delete(id);
    if (gone && (here.run === id || here.runs.includes(id))) go({ run: here.run === id ? "" : here.run, runs: here.runs.map((one) => (one === id ? "" : one)) }, "replace");
    paint();
  }

  function start(trigger, names, plotly) {
    [sync, titles, script] = [trigger, names, plotly];
    let tries = 0;
    const wanted = setInterval(() => {
      if (!document.getElementById("lp-tab-fine-button")) return;
      if (!titles[here.tab]) here.tab = "fine";
      if (selected() !== titles[here.tab] && tries++ < 100) { lp.open(titles[here.tab]); return; } // not all tabs hear clicks yet
      clearInterval(wanted);
      settled = true;
      paint();
    }, 100);
    setInterval(() => { if (!document.hidden) paint(); }, 500); // parts that Gradio makes late, and plots in tabs just shown
  }

  // --- asking --------------------------------------------------------------------------------------------------------

  async function ask() {
    clearTimeout(timer);
    if (document.hidden) return;
    if (asking) { again = true; return; }
    asking = true;
    const run = here.run, query = new URLSearchParams({ ...have, run, module });
    const also = [run, ...here.runs].filter((id) => id && have.list && !lines.has(id));
    if (everyone) query.set("all", "1");
    if (also.length) query.set("also", also.join(","));
    try {
      const answer = await fetch(`${root}/live?${query}`, { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.statusText);
      take(await answer.json(), run);
    } catch { told.queue = "no answer from the server, trying again"; }
    asking = false;
    paint();
    timer = setTimeout(ask, again ? 0 : (told.list && told.list.busy) || (here.run && told.card && !told.card.ended) ? FAST : SLOW);
    again = false;
  }
  document.addEventListener("visibilitychange", ask);

  function take(answer, run) {
    if (boot && answer.boot !== boot) window.location.reload(); // the server was started anew and knows nothing of this page
    boot = answer.boot;
    told.queue = answer.queue;
    told.you = answer.you;
    for (const [id, html] of [...((answer.list && answer.list.lines) || []), ...(answer.also || [])]) lines.set(id, html);
    if (answer.list) {
      [told.list, have.list] = [answer.list, answer.list.version];
      if (ended !== null && ended !== answer.list.ended) listeners.forEach((listener) => listener("act", {}));
      ended = answer.list.ended;
    }
    if (run !== here.run) return;
    for (const name of ["card", "probes", "curve", "pictures"]) {
      const fresh = answer[name];
      if (!fresh || (name === "pictures" && module && fresh.module !== module && fresh.modules.some((one) => one[1] === module))) continue;
      have[name] = fresh.version;
      if (name === "card") heard = performance.now();
      told[name] = name === "curve" ? joined(told.curve, fresh) : fresh;
    }
    if (told.card && told.card.state === "gone") go({ run: "" }, "replace");
  }

  function joined(known, fresh) {
    const [steps, checks] = fresh.kept, old = known || { steps: [], losses: [], validation: [] };
    return {
      ...fresh, figure: fresh.figure || old.figure,
      steps: [...old.steps.slice(0, steps), ...fresh.steps], losses: [...old.losses.slice(0, steps), ...fresh.losses],
      validation: [...old.validation.slice(0, checks), ...fresh.validation],
    };
  }

  // --- drawing -------------------------------------------------------------------------------------------------------

  function set(node, html) {
    if (!node || html === undefined || node.lpHtml === html) return;
    const bar = node.querySelector(".lp-meter i"), width = bar && bar.style.width;
    node.innerHTML = node.lpHtml = html;
    const now = node.querySelector(".lp-meter i");
    if (width && now) { // goes on from where it was
      const target = now.style.width;
      now.style.width = width;
      void now.offsetWidth;
      now.style.width = target;
    }
  }

  // A time that was foreseen and is long over while nothing new came is not left standing.
  function late() {
    const left = document.querySelector("#lp-status [data-eta]");
    const said = "longer than foreseen, still at work";
    if (left && left.textContent !== said && performance.now() - heard > 1000 * (1.5 * left.dataset.eta + 10)) left.textContent = said;
  }

  const colour = (id) => { const slot = here.runs.indexOf(id); return slot >= 0 && told.list ? told.list.colours[slot] : QUIET; };

  function paint() {
    if (!told.list) return;
    set(part("lp-header"), told.list.header);
    header();
    const queue = document.querySelector(".lp-queue");
    if (queue && queue.textContent !== told.queue) queue.textContent = told.queue;
    list();
    for (const tick of document.querySelectorAll("#lp-compare-table .lp-tick")) tick.closest("tr").hidden = hidden.has(tick.dataset.id); // about to be deleted
    const view = document.getElementById("lp-view"), card = told.card;
    if (!view || (here.run && !card)) return;
    const seen = here.run ? { html: card.html, probes: told.probes && told.probes.html, curve: told.curve, pictures: told.pictures } : lp.empty.shown(told.list.idle, told.list.total);
    // Until the run has told its plan, and what it says, the page goes on showing the form's, where that is the same.
    const same = here.run && !card.ended && lp.empty.of(nameOf(here.run)), before = same && (card.started ? null : same);
    if (same) seen.probes = seen.probes || same.probes;
    if (before) { seen.curve = before.curve; seen.pictures = before.pictures; }
    const state = before ? { ...card, started: !!before.pictures } : here.run ? { ...card, bare: !!(seen.pictures && seen.pictures.bare) } : { state: seen.playing ? "recording" : "idle", started: !!seen.pictures };
    for (const name of ["state", "stop", "stopping", "resume", "replayed", "started", "ended", "bare"]) {
      const value = String(state[name] || "");
      if (view.dataset[name] !== value) view.dataset[name] = value;
    }
    view.style.setProperty("--run", colour(here.run));
    const stop = document.getElementById("lp-stop");
    if (stop) stop.disabled = !!state.stopping;
    set(part("lp-status"), seen.html);
    late();
    set(part("lp-probes"), seen.probes || "");
    if (!state.started) return;
    words("lp-loss-words", seen.curve && seen.curve.words);
    words("lp-map-words", seen.pictures && seen.pictures.map_words);
    words("lp-scree-words", seen.pictures && seen.pictures.scree_words);
    modules(seen.pictures);
    plots(seen.curve, seen.pictures);
  }

  // The header's parts that depend on what this page shows: the base of the run in view, or of the form; the tabs.
  function header() {
    const base = document.querySelector(".lp-base");
    if (base) {
      const name = (here.run ? told.card && told.card.base : lp.empty.base()) || base.dataset.own;
      if (base.textContent !== name) base.textContent = name;
      base.parentElement.classList.toggle("other", name !== base.dataset.own);
      base.parentElement.title = here.run ? "base model of the run shown" : "base model of the next run";
    }
    document.querySelector(".lp-drawer")?.setAttribute("aria-expanded", String(document.body.classList.contains("lp-drawn")));
    const place = part("lp-strip");
    if (!place) return;
    if (!place.firstChild) place.append(lp.make("nav", { "aria-label": "Tabs" }));
    const nav = place.firstChild;
    if (!nav.firstChild) nav.append(...Object.entries(titles).map(([name, title]) => lp.make("button", { "data-act": "tab", "data-id": name }, title)));
    for (const button of nav.children) {
      const now = button.dataset.id === here.tab;
      if (now !== button.hasAttribute("aria-current")) { button.toggleAttribute("aria-current", now); if (now) nav.scrollTo({ left: button.offsetLeft - 40 }); }
    }
    const many = document.querySelector(".lp-drawer b"), total = told.list.total ? ` ${told.list.total}` : "";
    if (many && many.textContent !== total) many.textContent = total;
  }

  function words(id, sentence) {
    const node = part(id);
    if (node && node.textContent !== (sentence || "")) node.replaceChildren(lp.make("p", { class: "lp-note" }, sentence || ""));
  }

  function list() {
    const node = part("lp-runs");
    if (!node) return;
    if (!node.firstChild) {
      node.innerHTML = '<nav class="lp-side" aria-label="Runs"><button class="lp-new" data-act="new">+ New run</button><h2>Runs <span class="lp-sr">(tick up to four to compare them)</span></h2>' +
        '<p class="lp-whose" role="group" aria-label="Whose runs"><button data-act="whose" data-id="own">Yours</button><button data-act="whose" data-id="all">Everyone\u2019s</button></p><ul class="lp-runs"></ul><p class="lp-empty">No runs yet. Press Train.</p><p class="lp-runs-more"></p><p class="lp-you"><button data-act="person"></button></p></nav>';
    }
    const box = node.querySelector(".lp-runs"), ids = told.list.lines.map((one) => one[0]).filter((id) => !hidden.has(id));
    const shown = [...ids, ...[here.run, ...here.runs].filter((id, place, all) => id && !ids.includes(id) && !hidden.has(id) && lines.has(id) && all.indexOf(id) === place)];
    const old = new Map([...box.children].map((line) => [line.dataset.id, line]));
    shown.forEach((id, place) => {
      let line = old.get(id);
      if (!line) line = lp.make("li", { class: "lp-run", "data-id": id });
      old.delete(id);
      if (line.lpHtml !== lines.get(id)) line.innerHTML = line.lpHtml = lines.get(id);
      const at = id === here.run && told.card && line.querySelector(".at"); // the very step that its card says
      if (at && at.textContent !== told.card.at) at.textContent = told.card.at;
      if (box.children[place] !== line) box.insertBefore(line, box.children[place] || null);
      const ticked = here.runs.includes(id);
      line.classList.toggle("viewed", id === here.run);
      line.style.setProperty("--run", ticked ? colour(id) : "var(--lp-soft)");
      line.querySelector(".lp-tick")?.setAttribute("aria-checked", String(ticked));
      line.querySelector(".lp-open").toggleAttribute("aria-current", id === here.run);
    });
    old.forEach((line) => line.remove());
    const more = told.list.total - shown.length - hidden.size;
    node.querySelector(".lp-empty").hidden = shown.length > 0;
    const you = told.you || { name: "", others: false }, person = node.querySelector(".lp-you button");
    for (const name of [".lp-whose", ".lp-you"]) node.querySelector(name).hidden = !you.others;
    node.querySelectorAll(".lp-whose button").forEach((button) => button.setAttribute("aria-pressed", String((button.dataset.id === "all") === everyone)));
    const called = you.name ? `You are ${you.name}` : "Tell others your name";
    if (person.textContent !== called) person.textContent = called;
    node.querySelector(".lp-runs-more").textContent = more > 0 ? `and ${more} older run${more === 1 ? "" : "s"}` : "";
  }

  function modules(fresh) {
    const node = part("lp-module");
    if (!node || !fresh) return;
    const key = JSON.stringify(fresh.modules);
    if (node.lpKey !== key) {
      node.lpKey = key;
      const select = lp.make("select", { "aria-label": "Module in this picture" }, ...fresh.modules.map(([label, name]) => lp.make("option", { value: name }, label)));
      select.addEventListener("change", () => choose(select.value));
      node.replaceChildren(lp.make("label", {}, "Module in this picture", select, lp.make("small", {}, "or click a square of the map")));
    }
    const select = node.querySelector("select");
    if (document.activeElement !== select && select.value !== fresh.module) select.value = fresh.module;
  }

  function choose(name) {
    if (!here.run) return;
    module = carried = name;
    delete have.pictures;
    ask();
  }

  // Gives the ticks inside a part of ours the state and the colour of their runs.
  function mark(node) {
    for (const tick of node.querySelectorAll("[data-tick]")) {
      const ticked = here.runs.includes(tick.dataset.tick);
      tick.setAttribute("aria-checked", String(ticked));
      tick.style.setProperty("--run", ticked ? colour(tick.dataset.tick) : "var(--lp-soft)");
    }
  }

  // Calls `draw` with Plotly, which is fetched when it is first needed.
  function withPlotly(draw) {
    if (window.Plotly) draw(window.Plotly);
    else if (script) { loading = loading || import(`${root}/${script}`).then(paint); loading.then(() => draw(window.Plotly)); }
  }

  // --- plots ---------------------------------------------------------------------------------------------------------

  let loading = null;
  function plots(curve, fresh) {
    if (!["lp-loss", "lp-map", "lp-scree"].some((id) => visible(part(id)))) return; // drawn when they are shown
    if (!window.Plotly) {
      if (script) loading = loading || import(`${root}/${script}`).then(paint);
      return;
    }
    if (curve) drawOnce("lp-loss", [here.run, curve.version, colour(here.run)], (node) => drawLoss(node, curve));
    if (fresh) {
      const key = [here.run, fresh.version, fresh.module, colour(here.run)];
      drawOnce("lp-map", key, (node) => drawWhole(node, fresh.map));
      drawOnce("lp-scree", key, (node) => drawWhole(node, fresh.scree));
    }
  }

  function drawOnce(id, key, draw) {
    const node = part(id), name = key.join(" ");
    if (!visible(node) || node.lpKey === name) return;
    node.lpKey = name;
    draw(node);
  }

  // The server's figure with the colour that the run has on this page; Plotly changes what differs and keeps the zoom.
  function drawWhole(node, figure) {
    window.Plotly.react(node, coloured(figure.data), figure.layout, figure.config);
    if (node.lpClicks || !node.on) return;
    node.lpClicks = true;
    node.on("plotly_click", (event) => { const name = event.points[0] && event.points[0].customdata; if (told.pictures && told.pictures.modules.some((one) => one[1] === name)) choose(name); });
  }

  function coloured(data) {
    return data.map((trace) => (trace.line ? { ...trace, line: { ...trace.line, color: colour(here.run) }, ...(trace.marker ? { marker: { ...trace.marker, color: colour(here.run) } } : {}) } : trace));
  }

  // Exponential mean with a bias correction; gaps are passed over. The same as `smoothed` in plots/training.py.
  function smoothed(losses, window_) {
    const decay = Math.exp(-1 / window_);
    let mean = 0, weight = 0;
    return losses.map((loss) => {
      if (loss !== null) { mean = decay * mean + (1 - decay) * loss; weight = decay * weight + (1 - decay); }
      return weight ? mean / weight : null;
    });
  }

  function drawLoss(node, curve) {
    const stride = Math.max(1, Math.ceil(curve.steps.length / POINTS)), last = curve.steps.length - 1;
    const picked = curve.steps.map((_, i) => i).filter((i) => i % stride === 0 || i === last);
    const mean = smoothed(curve.losses, Math.max(3, curve.losses.length / 25)), steps = picked.map((i) => curve.steps[i]);
    const x = [steps, steps, curve.validation.map((pair) => pair[0])];
    const y = [picked.map((i) => curve.losses[i]), picked.map((i) => mean[i]), curve.validation.map((pair) => pair[1])];
    const begun = node.data && node.data.length === 3 && node.lpRun === here.run;
    if (!begun || curve.figure.data.length !== 3) {
      node.lpRun = here.run;
      node.lpPlanned = curve.planned;
      const data = coloured(curve.figure.data).map((trace, i) => ({ ...trace, x: x[i], y: y[i] }));
      window.Plotly.react(node, data, { ...curve.figure.layout, uirevision: here.run }, curve.figure.config);
      return;
    }
    const layout = {};
    node.layout.height = curve.figure.layout.height; // which Plotly forgets when it fits a plot to a new width
    const range = node.layout.xaxis.range;
    if (node.lpPlanned !== curve.planned && range && range[0] === 0 && range[1] === node.lpPlanned) layout["xaxis.range"] = [0, curve.planned];
    node.lpPlanned = curve.planned;
    window.Plotly.update(node, { x, y, "line.color": colour(here.run), mode: ["lines", picked.length > 2 ? "lines" : "lines+markers", "markers+lines"] }, layout);
  }

  if (!/\/programs\/?$/.test(window.location.pathname)) ask();  // the page for programs shows no run
  return {
    go, mark, plotly: withPlotly, where: () => here, start, obey, opened, show, ask, hide, paint, open: acts.open, name: nameOf,
    idle: () => !here.run && here.tab === "fine",
    carried: () => carried, settle: () => { carried = ""; },
    take: (id) => taken && taken("act", { id }),
    whenEnded: (trigger) => listeners.push(trigger),
    whenTaken: (trigger) => { taken = trigger; },
  };
})();
