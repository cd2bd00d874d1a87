// The lesson beside the tools: shows a step, opens and marks what it speaks of, sees what is done, and asks the server for
// the rest. The address says where one is (lesson=, step= from 1). A mark goes with its step; ticks and tab are again what
// they were when one leaves the lesson.
// HTML comes from the server, where it is escaped. It needs live.js and lesson-pictures.js before it.
lp.lesson = (() => {
  "use strict";
  const { make, pictures } = window.lp, root = window.location.pathname.replace(/\/$/, ""), POLL = 1500, LOOKS = 8;
  let name = "", view = null, list = null, timer = 0, marking = 0, katex = null, script = "", asked = 0, before = null, marked = null, folded = false, problem = "", chosen;
  const turns = new Set(), listeners = [];

  const place = () => document.querySelector("#lp-lesson .lp-live");
  // Beside the tools it stands over the list of runs; on a phone that is a drawer, and the lesson is a sheet of its own.
  function seat() {
    const node = document.getElementById("lp-lesson"), side = document.getElementById("lp-side"), wide = window.innerWidth > 860;
    if (!node || !side || (node.parentElement === side) === wide) return;
    if (wide) side.prepend(node); else document.getElementById("lp-frame").parentElement.append(node);
  }
  window.addEventListener("resize", () => { seat(); if (place()) fit(place()); });
  const shelf = () => document.querySelector("#lp-lessons .lp-live");

  // --- talking to the server ------------------------------------------------------------------------------------------

  async function tell(body) {
    const number = ++asked;
    clearTimeout(timer);
    try {
      const answer = await fetch(`${root}/lesson`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ name, ...body }) });
      const said = await answer.json().catch(() => ({ error: "The server does not answer. Try again." }));
      if (number !== asked || !name) return;
      if (said.error) { problem = said.error; if (!view) leave(); else draw(); again(); return; }
      problem = "";
      const moved = !view || view.lesson.name !== said.lesson.name || view.step !== said.step;
      const same = !moved && JSON.stringify(said) === JSON.stringify(view);
      view = said;
      if (moved) { chosen = undefined; enter(); }
      if (!same) draw(moved);
      again();
      listeners.forEach((listener) => listener(view));
    } catch { if (number === asked) again(); }
  }

  // What may change by itself is asked for again: runs that train, cuts that are measured, a run of one's own.
  function again() {
    clearTimeout(timer);
    if (!view || document.hidden) return;
    const waits = view.kind === "run" ? view.states.some((one) => !["new", "done"].includes(one.state)) && !view.done
      : view.kind === "measure" ? Boolean(view.waiting) && !view.done : view.kind === "reveal" ? Boolean(view.waiting) && !view.own
      : view.kind === "modify" ? !view.done && view.did === "run" : false;
    if (waits || problem) timer = setTimeout(() => tell({ do: "view", step: view.step }), problem ? 2 * POLL : POLL);
  }
  document.addEventListener("visibilitychange", again);

  async function shelve() {
    try {
      const answer = await fetch(`${root}/lessons`, { cache: "no-store" });
      if (answer.ok) { list = (await answer.json()).lessons; drawShelf(); }
    } catch { /* asked again when the tab is opened */ }
  }

  // --- where one is ---------------------------------------------------------------------------------------------------

  function open(lesson, step) {
    if (!lesson) return;
    if (!name) before = { tab: lp.live.where().tab, runs: [...lp.live.where().runs] };
    name = lesson;
    folded = false;
    view = null;
    document.body.classList.add("lp-in-lesson");
    lp.empty.stop(); // a recording shows how such a run ends, before one has predicted it
    seat();
    tell({ do: "view", ...(step === undefined ? {} : { step }) });
  }

  function leave(push = true) {
    unmark();
    if (before && push) lp.live.go({ runs: before.runs, tab: "learn" }, "replace");
    [name, view, before, problem] = ["", null, null, ""];
    clearTimeout(timer);
    document.body.classList.remove("lp-in-lesson", "lp-lesson-folded");
    if (push) lp.url({ lesson: "", step: "" }, true);
    if (place()) place().replaceChildren();
    shelve();
  }

  const go = (step) => { unmark(); tell({ do: "view", step }); };

  function enter() {
    unmark();
    lp.url({ lesson: name, step: view.step + 1 }, true);
    folded = false;
    const wanted = { ...(view.tab ? { tab: view.tab } : {}), ...(view.runs && view.runs.length ? { runs: [...view.runs, "", "", "", ""].slice(0, 4) } : {}) };
    const there = lp.live.where().tab;
    if (Object.keys(wanted).length) lp.live.go(wanted, "replace");
    if (lp.live.where().tab !== there) window.scrollTo(0, 0);
    if (view.control) marking = setTimeout(() => view && mark(view.control), 400);
    if (view.kind === "show" && !view.use && !view.done) tell({ do: "did", step: view.step, act: "tab" });
  }

  window.addEventListener("popstate", () => {
    const query = new URL(window.location.href).searchParams, there = query.get("lesson") || "", step = (+query.get("step") || 1) - 1;
    if (!there) { if (name) leave(false); return; }
    if (there !== name) { name = there; view = null; document.body.classList.add("lp-in-lesson"); }
    if (!view || view.step !== step) tell({ do: "view", step });
  });

  // --- what a step marks, and what is seen done -----------------------------------------------------------------------

  // The element of a control can come late (its tab is being opened) and be made anew by Gradio: its mark is looked after.
  // At first its section is opened and it is brought into view, again if what stands over it has grown meanwhile and
  // nobody has scrolled.
  let scrolled = false, tall = 0;
  for (const type of ["wheel", "touchmove", "keydown"]) document.addEventListener(type, () => { scrolled = true; }, { passive: true, capture: true });
  function mark(id, looks = 0) {
    clearTimeout(marking);
    if (!view || view.control !== id) return;
    if (!looks) scrolled = false;
    const node = document.getElementById(id);
    if (node && looks < LOOKS) lp.unfold(node);
    const there = Boolean(node && node.offsetParent);
    if (there) {
      marked = node;
      node.classList.add("lp-marked");
      const narrow = window.innerWidth <= 860, room = window.innerHeight * (narrow ? 0.44 : 1), { top, bottom, height } = node.getBoundingClientRect();
      const hidden = Math.min(bottom, room) - Math.max(top, 0) < 0.6 * Math.min(height, room);
      if (!looks || (looks < LOOKS && !scrolled && hidden)) node.scrollIntoView({ behavior: "smooth", block: narrow ? "start" : "center" });
    }
    const still = tall === document.documentElement.scrollHeight; // a look at a page that still grows does not count
    tall = document.documentElement.scrollHeight;
    marking = setTimeout(() => mark(id, looks + (there && (!looks || still))), 600);
  }
  function unmark() { clearTimeout(marking); if (marked) marked.classList.remove("lp-marked"); marked = null; }

  for (const type of ["input", "change", "click"]) {
    document.addEventListener(type, (event) => {
      if (!view || view.done || !(event.target instanceof Element)) return;
      const wanted = (view.kind === "show" && view.use) || (view.kind === "modify" && view.did === "control") ? view.control : null;
      if (wanted && event.target.closest(`#${CSS.escape(wanted)}`)) tell({ do: "did", step: view.step, act: "control" });
    }, true);
  }

  // The chat tells of every answer that an adapted model has ended, with the directions that its pane was cut to.
  document.addEventListener("lp-answered", (event) => {
    const { turn, keep, cut } = event.detail;
    if (turns.has(turn)) return;
    turns.add(turn);
    if (view && !view.done && view.kind === "modify" && view.did === "chat") tell({ do: "did", step: view.step, act: "chat", keep: cut ? cut[1] - cut[0] : keep });
  });

  // --- drawing --------------------------------------------------------------------------------------------------------

  function html(text, kind = "lp-lesson-text") {
    const node = make("div", { class: kind });
    node.innerHTML = text || "";
    const formulas = node.querySelectorAll(".lp-tex");
    if (formulas.length) set(formulas);
    return node;
  }
  async function set(formulas) {
    if (!script) return;
    katex = katex || import(`${root}/${script}`);
    const { default: maths } = await katex;
    formulas.forEach((span) => maths.render(span.textContent, span, { displayMode: span.classList.contains("display"), throwOnError: false }));
  }
  const button = (label, kind, click) => { const node = make("button", { class: kind, type: "button" }, label); node.addEventListener("click", click); return node; };

  function draw(moved = false) {
    seat();
    const box = place();
    if (!box || !view) return;
    const last = view.step === view.lesson.steps.length - 1;
    const scroll = moved ? 0 : (box.querySelector(".lp-lesson-body") || {}).scrollTop || 0, hinted = !moved && box.querySelector("details[open]");
    const body = make("div", { class: "lp-lesson-body", tabindex: "-1" }, ...(view.kind === "reveal" ? [...parts(), html(view.text)] : [html(view.text), ...parts()]), problem ? make("p", { class: "lp-error", role: "alert" }, problem) : null);
    const foot = make("div", { class: "lp-lesson-foot" },
      button("Back", "quiet", () => go(view.step - 1)), make("span", { class: "at" }, `${view.step + 1} of ${view.lesson.steps.length}`),
      last ? button("Finish", "main", () => leave()) : button(view.done || view.kind === "say" ? "Next" : "Skip", view.done ? "main" : "quiet", () => go(view.step + 1)));
    foot.firstChild.disabled = view.step === 0;
    const head = make("div", { class: "lp-lesson-head" },
      make("div", { class: "of" }, make("span", {}, view.lesson.title), button("Start over", "link", over), button(folded ? "Show" : "Hide", "link fold", fold), button("Leave", "link", () => leave())),
      make("div", { class: "lp-lesson-way", role: "group", "aria-label": "Steps" }, ...view.lesson.steps.map((one, i) => {
        const dot = button("", `dot${one.done ? " done" : ""}${i === view.step ? " here" : ""}`, () => go(i));
        dot.setAttribute("aria-label", `Step ${i + 1}: ${one.title}${one.done ? ", done" : ""}`);
        dot.title = one.title;
        if (i === view.step) dot.setAttribute("aria-current", "step");
        return dot;
      })),
      make("h2", { tabindex: "-1" }, view.title, view.done && view.kind !== "say" ? make("span", { class: "tick", title: "done" }, " ✓") : null));
    box.replaceChildren(make("section", { class: "lp-lesson", "aria-label": `Lesson: ${view.lesson.title}` }, head, body, foot));
    document.body.classList.toggle("lp-lesson-folded", folded);
    if (hinted && body.querySelector("details")) body.querySelector("details").open = true;
    fit(body);
    body.scrollTop = scroll;
    if (moved && !document.activeElement.closest("input, textarea, [role=slider]")) head.querySelector("h2").focus({ preventScroll: true });
  }

  function over() { if (window.confirm("Start this lesson over? Your predictions in it are deleted; runs stay.")) { unmark(); view = null; tell({ do: "over" }); } }
  function fold() { folded = !folded; draw(); }

  const parts = () => ({ show: drawShow, ask: drawAsk, run: drawRun, measure: drawMeasure, reveal: drawReveal, modify: drawModify }[view.kind] || (() => []))();

  const toRuns = (words) => view.runs_at === null || view.runs_at === undefined ? make("p", { class: "lp-note" }, words) : make("p", { class: "lp-note" }, `${words} `, button("Go to that step", "link", () => go(view.runs_at)));

  function drawShow() {
    return [view.missing.length ? toRuns(`Not made yet: ${view.missing.join("; ")}.`) : null,
      view.use && !view.done && !view.missing.length ? make("p", { class: "lp-lesson-do" }, "The control is marked on the page. Use it.") : null].filter(Boolean);
  }

  function drawAsk() {
    if (view.too_late) return [make("p", { class: "lp-note" }, "The result has been shown, so this can no longer be predicted. Start over to predict anew.")];
    if (view.locked) return [make("p", { class: "lp-lesson-locked" }, answerWords(view), " Locked until the result is shown.")];
    const send = button("Lock in", "main", () => tell({ do: "answer", ask: view.name, value: chosen }));
    send.disabled = chosen === undefined;
    const told = (value) => { chosen = value; send.disabled = false; };
    const input = view.form === "number" ? pictures.number(view, told) : view.form === "curve" ? pictures.sketch(view, told)
      : make("div", { class: "lp-lesson-choices", role: "radiogroup", "aria-label": view.title }, ...view.choices.map((one, i) => {
        const radio = make("input", { type: "radio", name: "lp-choice" });
        radio.addEventListener("change", () => told(i));
        radio.checked = chosen === i;
        return make("label", {}, radio, make("span", {}, one.text));
      }));
    return [input, make("div", { class: "lp-lesson-act" }, send)];
  }

  function answerWords(one) {
    if (one.form === "choice") return `You chose: ${one.choices[one.answer].text}.`;
    if (one.form === "number") return `You said ${pictures.said(one.answer, one.axis.unit)}.`;
    return `You sketched ${one.answer.map((value, i) => `${one.x[i]}: ${pictures.said(value, one.axis.unit)}`).join(", ")}.`;
  }

  const STATES = { new: "not started", queued: "waiting", loading: "loading the model", training: "training", saving: "saving", evaluating: "asking the test questions", done: "done", failed: "failed", cancelled: "stopped", interrupted: "interrupted" };
  function drawRun() {
    const rows = view.states.map((one) => make("li", { class: one.state },
      one.run ? button(one.title.replace(/^Lesson: /, ""), "link", () => lp.live.go({ run: one.run, tab: "fine" })) : make("span", {}, one.title.replace(/^Lesson: /, "")),
      make("span", { class: "s" }, one.problem || (one.state === "done" && one.replayed ? "done, played back" : one.state === "training" ? `training, ${Math.round(100 * one.part)}%` : STATES[one.state] || one.state)),
      make("span", { class: "meter" }, make("i", { style: `width:${one.state === "done" ? 100 : Math.round(100 * one.part * 0.9)}%` }))));
    const idle = view.states.filter((one) => ["new", "failed", "cancelled", "interrupted"].includes(one.state));
    return [make("ul", { class: "lp-lesson-runs", "aria-live": "polite" }, ...rows),
      idle.length ? make("div", { class: "lp-lesson-act" }, button(idle.length === view.states.length ? `▶ Run ${view.states.length === 1 ? "it" : "them"}` : "▶ Run the rest", "main", () => tell({ do: "start", step: view.step }))) : null].filter(Boolean);
  }

  function drawMeasure() {
    // Runs are lines; two or three of them are columns, which is narrower.
    const turned = view.rows.length <= 3;
    const heads = turned ? view.rows.map((row) => row.title) : view.columns;
    const lines = turned ? view.columns.map((title, i) => ({ title, cells: view.rows.map((row) => row.cells[i]) })) : view.rows;
    const value = (kind, cell) => make(kind, { class: cell.unusual ? "odd" : "", title: cell.stored ? `${cell.stored} when this lesson was written${cell.unusual ? "; yours differs by more than seeds explain" : ""}` : "" }, cell.text === null ? make("span", { class: "stored" }, cell.stored ? `(${cell.stored})` : "–") : cell.text);
    const head = make("tr", {}, make("th", {}, ""), ...heads.map((one) => make("th", { scope: "col" }, one)));
    const rows = lines.map((row) => make("tr", {}, make("th", { scope: "row" }, row.title), ...row.cells.map((cell) => value("td", cell))));
    // A block is as wide as its longest name and number need, so that short ones stand beside each other.
    const room = (i) => 0.57 * Math.max(...view.rows.map((row) => row.title.length)) + 0.62 * Math.max(...view.rows.map((row) => (row.cells[i].text || `(${row.cells[i].stored || ""})`).length)) + 1;
    const blocks = view.columns.map((title, i) => make("div", { style: `flex-basis:${Math.ceil(room(i))}em` }, make("h3", {}, title), make("dl", {}, ...view.rows.flatMap((row) => [make("dt", {}, row.title), value("dd", row.cells[i])]))));
    const odd = view.rows.some((row) => row.cells.some((cell) => cell.unusual));
    return [view.waiting ? (view.rows.some((row) => row.cells.some((cell) => cell.text !== null)) ? make("p", { class: "lp-note", "aria-live": "polite" }, view.waiting) : toRuns(view.waiting)) : null,
      large(make("div", { class: "lp-lesson-table", tabindex: "0", role: "region", "aria-label": view.title },
        make("table", { class: lines.every((line) => line.title.length < 18) ? "short" : "" }, make("thead", {}, head), make("tbody", {}, ...rows)), make("div", { class: "values" }, ...blocks))),
      odd ? make("p", { class: "lp-note" }, "Underlined: further from what came out when this lesson was written than other seeds explain.") : null].filter(Boolean);
  }

  // A table that is wider than its place is told value by value instead.
  function fit(box) {
    for (const node of box.querySelectorAll(".lp-lesson-table")) {
      node.classList.remove("narrow");
      node.classList.toggle("narrow", node.scrollWidth > node.clientWidth + 1);
    }
  }

  // A picture or table, and a way to see it in the middle of the screen.
  function large(node) {
    const grow = button("Enlarge", "link", () => {
      const copy = node.cloneNode(true), close = make("button", { class: "main", type: "button" }, "Close"), dialog = make("dialog", { class: "lp-dialog lp-lesson-large" }, make("h2", {}, view.title), copy, make("div", { class: "row" }, close));
      close.addEventListener("click", () => dialog.close());
      dialog.addEventListener("close", () => dialog.remove());
      document.body.append(dialog);
      dialog.showModal();
      fit(dialog);
    });
    return make("div", { class: "lp-lesson-picture" }, node, grow);
  }

  function drawReveal() {
    if (!view.ready) return [view.waiting ? make("p", { class: "lp-note", "aria-live": "polite" }, view.waiting) : toRuns("There is no result yet: the runs have not been made.")];
    const source = view.own || !view.results || !view.results.length ? null : view.waiting ? make("p", { class: "lp-note" }, view.waiting) : toRuns("These are the numbers from when this lesson was written, since the runs have not been made here.");
    if (view.asked.length > 1) return [drawMany(), source].filter(Boolean);
    const one = view.asked[0], came = view.results.map((result) => result.value), given = one.answer ?? null;
    const key = one.form === "choice" ? null : make("p", { class: "lp-lesson-key" }, given === null ? null : make("span", { class: "given" }, "you"), make("span", { class: "came" }, "came out"));
    const picture = one.form === "curve" ? pictures.curves(one, given, came) : one.form === "number" ? pictures.marks(one, given, came[0]) : view.results.length ? pictures.bars(view.results) : null;
    return [picture ? large(picture) : null, key, one.form === "choice" ? choices(one) : null, verdict(one), source].filter(Boolean);
  }

  function choices(one) {
    return make("ul", { class: "lp-lesson-solved" }, ...one.choices.map((choice, i) => {
      const right = one.solutions.includes(i), because = make("small", {});
      because.innerHTML = choice.because;
      return make("li", { class: `${right ? "right" : "wrong"}${i === one.answer ? " mine" : ""}` }, make("span", { class: "m", "aria-hidden": "true" }, right ? "✓" : "✗"), make("div", {}, make("span", {}, choice.text), i === one.answer ? make("em", {}, " your choice") : null, because));
    }));
  }

  function verdict(one) {
    if (one.answer === null || one.answer === undefined) return make("p", { class: "lp-note" }, "You made no prediction here. The surprise is larger with one.");
    if (one.form === "choice") return make("p", { class: `lp-lesson-verdict ${one.right ? "right" : "wrong"}`, role: "status" }, view.results.length ? (one.right ? "You predicted it." : "It came out otherwise. Read why.") : one.right ? "Right." : "Not so. Read why.");
    const node = make("p", { class: `lp-lesson-verdict ${one.right ? "right" : "wrong"}`, role: "status" });
    node.innerHTML = one.because;
    return node;
  }

  function drawMany() {
    const right = view.asked.filter((one) => one.right).length, given = view.asked.filter((one) => one.answer !== null && one.answer !== undefined).length;
    return make("div", {}, make("p", { class: "lp-lesson-verdict right", role: "status" }, given ? `${right} of ${view.asked.length} right.` : "You made no guess."),
      make("ul", { class: "lp-lesson-solved" }, ...view.asked.map((one) => {
        const because = make("small", {}), solution = one.solutions[0];
        because.innerHTML = one.choices[solution].because;
        return make("li", { class: one.right ? "right" : "wrong" }, make("span", { class: "m", "aria-hidden": "true" }, one.right ? "✓" : "✗"), make("div", {}, make("b", {}, `${one.title}: `), make("span", {}, one.choices[solution].text), one.answer !== null && one.answer !== undefined && !one.right ? make("em", {}, ` you said: ${one.choices[one.answer].text}`) : null, because));
      })));
  }

  function drawModify() {
    const hint = view.hint && !view.done ? make("details", {}, make("summary", {}, "A hint"), html(view.hint)) : null;
    return [view.said ? html(view.said, view.done ? "lp-lesson-verdict right" : "lp-note") : make("p", { class: "lp-lesson-do" }, view.did === "chat" ? (view.keep ? `It is done when an answer has come from at most ${view.keep} directions.` : "It is done when an answer has come.") : view.did === "run" ? "It is done when a run of yours fits; this page sees it." : "Use the marked control."), hint].filter(Boolean);
  }

  // --- the shelf in Learn ---------------------------------------------------------------------------------------------

  function drawShelf() {
    const box = shelf();
    if (!box || !list) return;
    const key = JSON.stringify(list);
    if (box.lpKey === key) return;
    box.lpKey = key;
    box.replaceChildren(make("ol", { class: "lp-lesson-shelf" }, ...list.map((one, i) => {
      const go_ = button(one.state === "new" ? "Start" : one.state === "finished" ? "Again" : `Resume at ${one.step + 1}`, one.state === "finished" ? "secondary" : "primary", () => open(one.name));
      go_.dataset.lesson = one.name;
      return make("li", {}, make("span", { class: "no" }, String(i + 1)), make("div", {}, make("h3", {}, one.title), make("p", {}, one.after), make("p", { class: "lp-note" }, `${one.minutes} minutes · ${one.count} steps${one.state === "new" ? "" : ` · ${one.done} done`}`)), go_);
    })));
  }

  function start(katexScript) {
    script = katexScript;
    const query = new URL(window.location.href).searchParams;
    if (query.get("lesson")) open(query.get("lesson"), query.get("step") ? +query.get("step") - 1 : undefined);
    shelve();
    setInterval(() => { if (shelf() && shelf().offsetParent && !shelf().firstChild) { if (list) drawShelf(); else shelve(); } if (place() && view && !place().firstChild) draw(); }, 500);
  }

  return { start, open, leave, go, where: () => view, shelve, whenDrawn: (listener) => listeners.push(listener) };
})();
