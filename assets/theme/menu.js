// The menu of a run in the list: rename, note, copy link, use its settings, export, delete with undo; of a sweep: copy
// link, delete with undo.
lp.menu = (() => {
  "use strict";
  const GRACE = 8000; // milliseconds in which a deletion can be undone; a page that is left before then deletes at once
  let send = null, menu = null, anchor = null;
  const doomed = new Map();

  const edit = (id, what, text = "") => send && send("act", { id, what, text });

  const items = [
    ["Rename …", (id) => ask("Name of this run", lp.live.name(id), 80).then((text) => { if (text !== null) edit(id, "name", text); })],
    ["Note …", (id) => noteOf(id).then((note) => ask("Note, shown with its result", note, 1000)).then((text) => { if (text !== null) edit(id, "note", text); })],
    ["Copy link", (id) => { lp.clip(`${window.location.origin}${window.location.pathname}?run=${id}&runs=${id}`); toast("The link is copied."); }],
    ["Use these settings", (id) => use(id)],
    ["Export …", (id) => { lp.live.open(id); setTimeout(() => document.getElementById("lp-exports")?.scrollIntoView({ block: "center" }), 700); }],
    ["Delete", (id) => remove(id, "delete")],
  ];
  const ofSweeps = [
    ["Copy link", (id) => { lp.clip(`${window.location.origin}${window.location.pathname}?tab=lab&sweep=${id}`); toast("The link is copied."); }],
    ["Delete with all its runs", (id) => remove(id, "delete-sweep")],
  ];

  function use(id) {
    lp.live.take(id);
    lp.open("Fine-tune");
    toast("The form has the settings of this run.");
  }

  // What was noted about a run, which need not be the one in view.
  async function noteOf(id) {
    const answer = await fetch(`${window.location.pathname.replace(/\/$/, "")}/live?run=${encodeURIComponent(id)}`, { cache: "no-store" });
    const card = new DOMParser().parseFromString(answer.ok ? (await answer.json()).card?.html || "" : "", "text/html");
    return card.querySelector(".lp-said")?.textContent || "";
  }

  function open(id, button) {
    const again = anchor === button;
    close();
    if (again) return;
    anchor = button;
    menu = lp.make("div", { class: "lp-menu", role: "menu", "aria-label": `More about ${lp.live.name(id)}` });
    for (const [title, act] of button.dataset.sweep ? ofSweeps : items) {
      const item = lp.make("button", { role: "menuitem", type: "button" }, title);
      item.addEventListener("click", () => { close(); act(id); });
      menu.append(item);
    }
    document.body.append(menu);
    const box = button.getBoundingClientRect(), own = menu.getBoundingClientRect();
    menu.style.left = `${Math.min(box.left, window.innerWidth - own.width - 8)}px`;
    menu.style.top = `${box.bottom + own.height < window.innerHeight ? box.bottom + 2 : box.top - own.height - 2}px`;
    menu.firstChild.focus();
  }

  function close() {
    if (menu) menu.remove();
    menu = anchor = null;
  }
  document.addEventListener("click", (event) => { if (menu && !menu.contains(event.target) && !event.target.closest(".lp-more")) close(); });
  document.addEventListener("keydown", (event) => {
    if (!menu) return;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const all = [...menu.children], at = all.indexOf(document.activeElement);
    if (step) { event.preventDefault(); all[(at + step + all.length) % all.length].focus(); }
    if (event.key === "Escape" || event.key === "Tab") { event.stopImmediatePropagation(); const back = anchor; close(); if (back) back.focus(); }
  }, true);

  // A small form over the page; gives the text, or null where it was closed.
  function ask(title, value, most) {
    return new Promise((resolve) => {
      const field = lp.make(most > 100 ? "textarea" : "input", { "aria-label": title, maxlength: most, rows: 4 });
      field.value = value;
      const form = lp.make("form", { method: "dialog" }, lp.make("h2", {}, title), field,
        lp.make("div", { class: "row" }, lp.make("button", { type: "button", class: "secondary" }, "Cancel"), lp.make("button", { class: "primary", value: "ok" }, "Save")));
      const dialog = lp.make("dialog", { class: "lp-dialog" }, form);
      form.querySelector("button.secondary").addEventListener("click", () => dialog.close(""));
      dialog.addEventListener("close", () => { dialog.remove(); resolve(dialog.returnValue === "ok" ? field.value.trim() : null); });
      (document.querySelector(".gradio-container") || document.body).append(dialog);
      dialog.showModal();
      field.select();
    });
  }

  let shown = null;
  function toast(words, action, time = action ? GRACE : 2500) {
    if (shown) shown.remove();
    const node = shown = lp.make("div", { class: "lp-toast", role: "status" }, lp.make("span", {}, words));
    if (action) {
      const button = lp.make("button", { type: "button" }, action[0]);
      button.addEventListener("click", () => { node.remove(); action[1](); });
      node.append(button);
    }
    document.body.append(node);
    setTimeout(() => node.remove(), time);
  }

  function remove(id, what) {
    const name = lp.live.name(id);
    lp.live.hide(id, true);
    if (what === "delete-sweep") lp.sweep.leave(id);
    doomed.set(id, { what, timer: setTimeout(() => finish(id), GRACE) });
    toast(`“${name}” is deleted.`, ["Undo", () => { clearTimeout(doomed.get(id).timer); doomed.delete(id); lp.live.hide(id, false); }]);
  }
  function finish(id) {
    const { what } = doomed.get(id);
    doomed.delete(id);
    edit(id, what);
    setTimeout(() => lp.live.hide(id, false), 2500); // it stays in the list where the server refuses
  }
  window.addEventListener("pagehide", () => doomed.forEach((one, id) => { clearTimeout(one.timer); finish(id); }));

  // What the server refuses stands beside the run in Fine-tune; elsewhere it is said here.
  function told() {
    const said = document.querySelector("#lp-view-problem .lp-error");
    if (said && said.textContent.trim() && !said.offsetParent) toast(said.textContent.trim(), null, GRACE);
  }

  // What the person calls themselves; others see it beside their runs.
  function person(name, then) {
    ask("Your name, beside your runs", name, 40).then((text) => { if (text !== null) { edit("", "person", text); setTimeout(then, 400); } });
  }

  return { start: (trigger) => { send = trigger; }, open, use, person, told };
})();
