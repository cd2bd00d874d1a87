// The pages of a class by themselves: where people join, and where a teacher sees all of them and leads. Made for a
// projector: names and results are hidden until the teacher shows them. It needs class-answers.js before it.
lp.classPage = (() => {
  "use strict";
  const { make, clip, classAnswers } = window.lp, POLL = 1500, base = window.location.pathname.replace(/\/(class|join)\/?$/, "");
  const box = document.getElementById("lp-class"), page = box.dataset.page, query = new URL(window.location.href).searchParams;
  const code = (query.get("code") || "").toUpperCase();
  let grid = null, step = 0, names = false, timer = 0, problem = "", drawn = "";
  const open = new Set();

  let theme = "";
  try { theme = localStorage.getItem("lp-theme") || ""; } catch { /* private window */ }
  theme = query.get("__theme") || theme;
  document.body.classList.toggle("dark", theme ? theme === "dark" : window.matchMedia("(prefers-color-scheme: dark)").matches);

  const button = (label, kind, click, title) => { const node = make("button", { class: kind, type: "button", title }, label); node.addEventListener("click", click); return node; };
  const head = (...more) => make("header", { class: "lp-class-head" }, make("a", { href: `${base}/` }, "LoRA Playground"), ...more);

  async function send(body) {
    const answer = await fetch(`${base}/class`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ code, ...body }) });
    const said = await answer.json().catch(() => ({ error: "The server does not answer. Try again." }));
    if (said.error) throw new Error(said.error);
    return said;
  }
  async function read(path) {
    const answer = await fetch(`${base}/class/${path}`, { cache: "no-store" }), said = await answer.json().catch(() => ({ error: "The server does not answer." }));
    if (said.error) throw new Error(said.error);
    return said;
  }

  // --- join -----------------------------------------------------------------------------------------------------------

  function join() {
    const typed = make("input", { id: "lp-join-code", autocomplete: "off", autocapitalize: "characters", maxlength: 10, value: code }), name = make("input", { id: "lp-join-name", autocomplete: "nickname", maxlength: 40 });
    const said = make("p", { class: "lp-error", role: "alert" }), go = make("button", { class: "main", type: "submit" }, "Join");
    const form = make("form", { class: "lp-class-join" }, make("h1", {}, "Join a class"),
      make("label", {}, "Code on the wall", typed), make("label", {}, "Your name, or any name", name),
      make("p", { class: "lp-note" }, "The teacher sees this name, your steps and your answers in the lesson. The others see answers without names."), said, go);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      go.disabled = true;
      try {
        const answer = await send({ do: "join", code: typed.value, name: name.value });
        window.location.href = `${base}/?class=${answer.code}&lesson=${encodeURIComponent(answer.lesson)}`;
      } catch (error) { said.textContent = error.message; go.disabled = false; }
    });
    box.replaceChildren(head(), form);
    (code ? name : typed).focus();
  }

  // --- a teacher's classes --------------------------------------------------------------------------------------------

  async function mine() {
    const told = await read("mine"), said = make("p", { class: "lp-error", role: "alert" });
    const choose = make("select", { id: "lp-class-lesson", "aria-label": "Lesson" }, ...told.lessons.map((one) => make("option", { value: one.name }, `${one.title} (${one.minutes} min)`)));
    const start = button("Open a class", "main", async () => {
      try { const made = await send({ do: "open", lesson: choose.value }); window.location.href = `${base}/class?code=${made.code}`; } catch (error) { said.textContent = error.message; }
    });
    box.replaceChildren(head(), make("section", { class: "lp-class-open" }, make("h1", {}, "Teach a class"),
      make("p", {}, "Open a class on a lesson and project the next page: people join with its code or by the picture, without an account. You see how far each is, hold the class at a step, and see what was predicted beside what came out. It is tied to this browser."),
      make("div", { class: "row" }, choose, start), said,
      told.classes.length ? make("h2", {}, "Your classes") : null,
      make("ul", { class: "lp-class-list" }, ...told.classes.map((one) => make("li", {}, make("a", { href: `${base}/class?code=${one.code}` }, one.code), ` ${one.lesson} · ${one.people === 1 ? "1 person" : `${one.people} people`} · ${new Date(1000 * one.opened).toLocaleString()}${one.ended ? " · ended" : ""}`)))));
  }

  // --- a class --------------------------------------------------------------------------------------------------------

  async function ask() {
    clearTimeout(timer);
    if (document.hidden) return;
    try { grid = await read(`grid?code=${code}`); problem = ""; } catch (error) { problem = error.message; }
    draw();
    timer = setTimeout(ask, grid && grid.ended ? 10 * POLL : POLL);
  }

  async function act(body, sure) {
    if (sure && !window.confirm(sure)) return;
    try { await send(body); problem = ""; } catch (error) { problem = error.message; }
    ask();
  }

  const called = (person) => (names ? person.name : `Person ${person.number}`);

  function draw() {
    if (!grid) { box.replaceChildren(head(), make("p", { class: "lp-error", role: "alert" }, problem)); return; }
    const key = JSON.stringify([grid, step, names, problem, [...open]]);
    if (key === drawn || (document.activeElement && document.activeElement.tagName === "SELECT")) return; // an open list would close
    drawn = key;
    const focused = document.activeElement && document.activeElement.id;
    document.title = `Class ${grid.code}: LoRA Playground`;
    box.replaceChildren(head(make("span", { class: "at" }, grid.title), toggle("Names", names, () => { names = !names; draw(); })),
      make("div", { class: "lp-class-cols" }, invitation(), make("div", { class: "lp-class-work" }, problem ? make("p", { class: "lp-error", role: "alert" }, problem) : null, lead(), people(), ...grid.questions.map(question), after())));
    if (focused) document.getElementById(focused)?.focus();
  }

  const toggle = (label, on, click) => { const node = button(`${on ? "Hide" : "Show"} ${label.toLowerCase()}`, "quiet", click); node.setAttribute("aria-pressed", String(on)); return node; };

  function invitation() {
    const picture = make("img", { src: `${base}/class/qr?code=${grid.code}`, alt: `QR code of the address to join class ${grid.code}`, width: 240, height: 240 });
    return make("aside", { class: "lp-class-invite" }, make("p", { class: "code" }, grid.code), grid.ended ? make("p", {}, "This class has ended.") : picture,
      grid.ended ? null : make("p", { class: "lp-note" }, `Scan, or open ${grid.link} and type the code.`), grid.alone && !grid.ended ? make("p", { class: "lp-error", role: "alert" }, "Only this machine reaches this server, so nobody else can join. Start it with make workshop, or lora-playground serve --workshop, and open this page again.") : null, make("p", { class: "count" }, `${grid.people.length} ${grid.people.length === 1 ? "person" : "people"}, ${grid.people.filter((one) => !one.away).length} here`));
  }

  function lead() {
    if (grid.ended) return null;
    const choose = make("select", { id: "lp-class-step", "aria-label": "Step" }, ...grid.steps.map((one, i) => make("option", { value: i }, `${i + 1}. ${one.title}`)));
    choose.value = String(Math.min(step, grid.steps.length - 1));
    choose.addEventListener("change", () => { step = Number(choose.value); choose.blur(); draw(); });
    const lesson = make("select", { id: "lp-class-take", "aria-label": "Lesson" }, ...grid.lessons.map((one) => make("option", { value: one.name }, one.title)));
    lesson.value = grid.lesson;
    lesson.addEventListener("change", () => { const to = lesson.value; lesson.blur(); step = 0; act({ do: "take", lesson: to }); });
    return make("section", { class: "lp-class-lead", "aria-label": "Lead" },
      make("div", { class: "row" }, lesson, choose, button("Hold here", "quiet", () => act({ do: "hold", step }), "Nobody gets beyond this step"), button("Bring everyone here", "quiet", () => act({ do: "gather", step }), "All pages go to this step and are held there"),
        grid.held !== null ? button("Hold one step later", "main", () => act({ do: "hold", step: Math.min(grid.held + 1, grid.steps.length - 1) })) : null,
        grid.held !== null ? button("Let them go", "quiet", () => act({ do: "release" })) : null, grid.shown ? button("Stop showing the run", "quiet", () => act({ do: "show", run: null })) : null),
      make("p", { class: "lp-note" }, grid.held === null ? "Everyone goes at their own pace." : `Nobody gets beyond step ${grid.held + 1}, ${grid.steps[grid.held].title}.`));
  }

  function people() {
    if (!grid.people.length) return make("p", { class: "lp-class-empty" }, "Nobody has joined yet.");
    const row = (person) => make("tr", { class: person.away ? "away" : "" }, make("th", { scope: "row" }, called(person)),
      ...person.steps.map((state, i) => make("td", { class: `${state}${person.at === i ? " here" : ""}${grid.held === i ? " held" : ""}`, title: `${grid.steps[i].title}: ${state || "not yet"}${person.at === i ? ", is here" : ""}` }, make("i", {}), make("span", { class: "lp-sr" }, state || "not yet"))),
      make("td", { class: "runs" }, ...Object.entries(person.runs).map(([key, run]) => grid.shown && grid.shown[1] === run ? make("b", {}, `${key} is shown`) : button(`show ${key}`, "link", () => act({ do: "show", run }), "Opens this run on all pages"))));
    return make("section", { class: "lp-class-grid" }, make("table", {}, make("caption", { class: "lp-sr" }, "People by steps"),
      make("thead", {}, make("tr", {}, make("th", {}, ""), ...grid.steps.map((one, i) => make("th", { scope: "col", class: grid.held === i ? "held" : "", title: `${one.title}: ${one.done} done` }, String(i + 1))), make("th", {}, ""))),
      make("tbody", {}, ...grid.people.map(row))),
      make("p", { class: "lp-note lp-class-key" }, make("i", { class: "done" }), "done ", make("i", { class: "skipped" }), "skipped ", make("i", { class: "seen" }), "begun ", make("i", { class: "here" }), "is here"));
  }

  function question(one) {
    const shown = open.has(one.name), first = one.first.map((given) => given.value), later = one.later.map((given) => given.value);
    return make("section", { class: "lp-class-question" }, make("h2", {}, `${one.step + 1}. ${one.title}`, make("small", {}, ` ${first.length} of ${grid.people.length} answered${later.length ? `, ${later.length} again` : ""}`)),
      first.length ? classAnswers.picture(one, first, later, shown ? one.came : null) : make("p", { class: "lp-note" }, "Nobody has answered yet."),
      shown && one.came ? make("p", { class: "lp-note" }, one.came.texts.length ? `Came out: ${one.came.texts.join(", ")}${one.came.own ? "" : " (when this lesson was written)"}.` : "") : null,
      names && first.length && one.form !== "curve" ? make("p", { class: "lp-note" }, one.first.map((given) => { const person = grid.people.find((other) => other.number === given.number); return `${person ? person.name : ""}: ${one.form === "choice" ? one.choices[given.value] : lp.pictures.said(given.value, one.axis.unit)}`; }).join(" · ")) : null,
      make("div", { class: "row" }, one.came ? toggle("What came out", shown, () => { if (shown) open.delete(one.name); else open.add(one.name); draw(); }) : make("span", { class: "lp-note" }, "Nothing has come out yet."),
        grid.ended || !first.length ? null : button(one.asked_again ? "Ask once more" : "Ask again", "quiet", () => act({ do: "ask again", ask: one.name }), "After the discussion; the first answers stay")));
  }

  function after() {
    const link = (label, more) => make("a", { href: `${base}/class/table.csv?code=${grid.code}${more}`, download: "" }, label);
    return make("section", { class: "lp-class-after" }, make("h2", {}, "Afterwards"), make("div", { class: "row" }, link("Predictions and times as CSV", ""), link("the same without names", "&names=0"),
      grid.ended ? null : button("End the class", "quiet", () => act({ do: "end" }, "End the class? People can go on alone; nothing is deleted.")),
      button("Delete everything of it", "quiet danger", async () => {
        if (!window.confirm("Delete the class with names, steps and answers? People's runs stay theirs. This cannot be undone.")) return;
        try { await send({ do: "delete" }); window.location.href = `${base}/class`; } catch (error) { problem = error.message; draw(); }
      })));
  }

  if (page === "join") join();
  else if (!code) mine().catch((error) => box.replaceChildren(head(), make("p", { class: "lp-error", role: "alert" }, error.message)));
  else { document.addEventListener("visibilitychange", ask); ask(); }
})();
