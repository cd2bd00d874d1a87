// One of the people of a class, on the page itself: the bar that says what the teacher has set, and how all answered beneath
// one's own answer in the lesson. Where the address has class=CODE, the code is kept for this browser. It needs lesson.js.
lp.class = (() => {
  "use strict";
  const { make, classAnswers } = window.lp, root = window.location.pathname.replace(/\/$/, ""), POLL = 1500, KEY = "lp-class";
  let code = "", told = null, timer = 0, problem = "", drawn = "";
  const done = { gathered: 0, shown: 0 };

  const keep = (name, value) => { try { if (value === "") localStorage.removeItem(name); else localStorage.setItem(name, value); } catch { /* private window */ } };
  const kept = (name) => { try { return localStorage.getItem(name) || ""; } catch { return ""; } };
  const button = (label, kind, click) => { const node = make("button", { class: kind, type: "button" }, label); node.addEventListener("click", click); return node; };

  async function send(body) {
    const answer = await fetch(`${root}/class`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ code, ...body }) });
    const said = await answer.json().catch(() => ({ error: "The server does not answer. Try again." }));
    if (said.error) throw new Error(said.error);
  }

  async function ask() {
    clearTimeout(timer);
    if (!code || document.hidden) return;
    try {
      const answer = await fetch(`${root}/class/me?code=${code}`, { cache: "no-store" });
      if (answer.status === 404) { forget(); return; } // deleted, or never joined with this browser
      if (answer.ok) { take(await answer.json()); problem = ""; }
    } catch { problem = "no answer from the server, trying again"; }
    draw();
    timer = setTimeout(ask, told && told.ended ? 10 * POLL : POLL);
  }
  document.addEventListener("visibilitychange", ask);

  function take(fresh) {
    const first = told === null;
    told = fresh;
    if (told.ended) return;
    if (told.gathered && told.gathered[0] > done.gathered) {
      done.gathered = told.gathered[0];
      keep(`${KEY}-gathered-${code}`, String(done.gathered));
      lp.lesson.open(told.lesson, told.gathered[1]);
    } else if (first && !lp.lesson.where() && !new URL(window.location.href).searchParams.get("lesson")) lp.lesson.open(told.lesson);
    if (told.shown && told.shown[0] > done.shown) {
      done.shown = told.shown[0];
      keep(`${KEY}-shown-${code}`, String(done.shown));
      look();
    }
  }

  const look = () => lp.live.go({ run: told.shown[1], tab: "fine" });

  function forget() {
    clearTimeout(timer);
    [code, told, drawn] = ["", null, ""];
    keep(KEY, "");
    lp.url({ class: "" });
    document.querySelector("#lp-class-bar")?.remove();
    document.body.classList.remove("lp-in-class");
  }

  async function leave() {
    if (!window.confirm("Leave this class? What you did stays yours; it is no longer counted there.")) return;
    try { await send({ do: "leave" }); } catch { /* the class may be gone */ }
    forget();
  }

  // --- drawing --------------------------------------------------------------------------------------------------------

  function draw() {
    if (!told) return;
    const key = JSON.stringify([told.code, told.name, told.ended, told.held, told.shown, told.again, told.people, problem]);
    if (key !== drawn) {
      drawn = key;
      const bar = document.querySelector("#lp-class-bar") || document.body.appendChild(make("div", { id: "lp-class-bar", role: "status" }));
      const words = told.ended ? "has ended; go on alone as you like" : problem || (told.held !== null ? `held at step ${told.held + 1}` : "go on as you like");
      bar.replaceChildren(...[
        make("b", {}, `Class ${told.code}`), make("span", {}, make("i", {}, `${told.name} · ${told.people === 1 ? "1 person" : `${told.people} people`} · `), words),
        told.shown && !told.ended ? button("The run that is shown", "main", look) : null,
        ...told.again.map((name) => button("Answer again", "main", () => again(name))),
        button(told.ended ? "Close" : "Leave", "link", told.ended ? forget : leave)].filter(Boolean));
      document.body.classList.add("lp-in-class");
    }
    answers();
  }

  // Beneath one's own answer in the lesson: how all answered.
  function answers() {
    const view = lp.lesson.where(), body = document.querySelector(".lp-lesson-body");
    if (!view || !body || view.lesson.name !== told.lesson) return;
    const names = view.kind === "ask" && view.locked ? [view.name] : view.kind === "reveal" && view.ready ? view.asked.map((one) => one.name) : [];
    const questions = told.answers.filter((one) => names.includes(one.name) && one.first.length > 1);
    const key = JSON.stringify(questions), old = body.querySelector(".lp-class-all");
    if (old && old.lpKey === key) return;
    if (old) old.remove();
    if (!questions.length) return;
    const box = make("div", { class: "lp-class-all" }, ...questions.map((one) => {
      const mine = one.name === view.name ? view.answer : (view.asked.find((asked) => asked.name === one.name) || {}).answer;
      return make("figure", {}, make("figcaption", {}, `How the class answered (${one.first.length} of ${told.people})`), classAnswers.picture(one, one.first, one.later, null, mine));
    }));
    box.lpKey = key;
    body.append(box);
  }

  function again(name) {
    const question = told.answers.find((one) => one.name === name);
    if (!question) return;
    let value;
    const lock = button("Lock in", "main", async () => {
      lock.disabled = true;
      try { await send({ do: "answer", ask: name, value }); dialog.close(); ask(); } catch (error) { said.textContent = error.message; lock.disabled = false; }
    });
    lock.disabled = true;
    const said = make("p", { class: "lp-error", role: "alert" });
    const dialog = make("dialog", { class: "lp-dialog lp-class-again" }, make("h2", {}, "Once more, after the discussion"), make("p", {}, question.title || "Your first answer stays beside it."),
      classAnswers.input(question, (fresh) => { value = fresh; lock.disabled = false; }), said, make("div", { class: "row" }, button("Not now", "quiet", () => dialog.close()), lock));
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
  }

  function start() {
    const given = new URL(window.location.href).searchParams.get("class") || "";
    code = given || kept(KEY);
    if (!/^[A-Z0-9]{4,12}$/.test(code)) { code = ""; return; }
    keep(KEY, code);
    done.gathered = Number(kept(`${KEY}-gathered-${code}`));
    done.shown = Number(kept(`${KEY}-shown-${code}`));
    setInterval(() => { if (told) draw(); }, 500);
    ask();
  }

  return { start };
})();
