// The sweep in view, in the tab Lab: asks the server how it stands and draws it. Its id stands in the address (sweep=).
// Texts in the server's HTML are escaped there.
lp.sweep = (() => {
  "use strict";
  const FAST = 1000, SLOW = 4000, ORDER = ["score", "fan", "heat", "capacity", "utilisation"];
  const root = window.location.pathname.replace(/\/$/, "");
  let id = new URL(window.location.href).searchParams.get("sweep") || "";
  let told = null, version = "", trigger = null, timer = 0, asking = false;

  const place = () => document.querySelector("#lp-sweep .lp-live");
  const shown = () => { const node = place(); return !!node && node.offsetParent !== null && !document.hidden; };

  function open(wanted) {
    if (wanted && wanted !== id) { id = wanted; told = null; version = ""; } // without one the last stays
    lp.url({ sweep: id });
    lp.live.go({ tab: "lab" });
    const section = [...document.querySelectorAll('#lp-lab-tabs [role="tab"]')].find((tab) => tab.textContent.trim() === "Sweep");
    if (section && section.getAttribute("aria-selected") !== "true") section.click();
    setTimeout(() => { ask(); lp.reveal("lp-sweep-view"); }, 150);
  }

  // A sweep that is about to be deleted leaves the page.
  function leave(gone) {
    if (gone !== id) return;
    id = version = "";
    told = null;
    lp.url({ sweep: "" });
    const node = place();
    if (node) { node.lpId = ""; node.replaceChildren(); }
    paint();
  }

  async function ask() {
    clearTimeout(timer);
    if (asking) return;
    if (id && shown()) {
      asking = true;
      const wanted = id;
      try {
        const answer = await fetch(`${root}/sweep?${new URLSearchParams({ id: wanted, version })}`, { cache: "no-store" });
        if (answer.ok) {
          const fresh = await answer.json();
          if (wanted === id && fresh.html !== undefined) { told = fresh; version = fresh.version; }
        }
      } catch { /* the live view says that the server does not answer */ }
      asking = false;
    }
    paint();
    timer = setTimeout(ask, told && told.busy ? FAST : SLOW);
  }

  function empty(node) {
    const card = lp.make("div", { class: "lp-card lp-idle" }, lp.make("h2", {}, "No sweep is shown"),
      lp.make("p", {}, "Choose ranks and press Start: the runs are one entry in the list, and what they find is drawn here as it comes. An earlier sweep opens with a click in the list."));
    node.replaceChildren(card);
  }

  function paint() {
    const node = place();
    if (!node) return;
    if (!id || !told) {
      if (!id && !node.firstChild) empty(node);
      return;
    }
    if (node.lpId !== id) {
      node.lpId = id;
      node.replaceChildren(lp.make("div", { class: "lp-sweep-card" }), lp.make("div", { class: "lp-sweep-plots" }), lp.make("div", { class: "lp-sweep-table" }));
    }
    const [card, plots, table] = node.children;
    if (card.lpHtml !== told.html + told.mine) {
      card.innerHTML = told.html;
      card.lpHtml = told.html + told.mine;
      if (!told.mine) card.querySelectorAll("[data-ask]").forEach((button) => button.remove());
    }
    if (table.lpHtml !== told.table) {
      const down = table.querySelector(".lp-scroll")?.scrollTop || 0;
      table.innerHTML = table.lpHtml = told.table;
      if (down) table.querySelector(".lp-scroll").scrollTop = down;
    }
    lp.live.mark(table);
    for (const name of ORDER) picture(plots, name, told.pictures[name]);
  }

  function picture(plots, name, made) {
    let box = plots.querySelector(`[data-name="${name}"]`);
    if (!made) { if (box) box.remove(); return; }
    if (!box) {
      box = lp.make("figure", { "data-name": name }, lp.make("div", { class: "lp-plot", id: `lp-sweep-${name}` }, lp.make("div", {})), lp.make("figcaption", { class: "lp-note" }));
      const later = ORDER.slice(ORDER.indexOf(name) + 1).map((one) => plots.querySelector(`[data-name="${one}"]`)).find(Boolean);
      plots.insertBefore(box, later || null);
    }
    const [plot, words] = box.children;
    if (words.textContent !== made.words) words.textContent = made.words;
    const key = `${version}`;
    if (box.lpKey === key || !shown()) return;
    lp.live.plotly((Plotly) => { if (box.lpKey !== key) { box.lpKey = key; Plotly.react(plot.firstChild, made.figure.data, made.figure.layout, made.figure.config); } });
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("#lp-sweep [data-ask]");
    if (!button || !trigger) return;
    button.disabled = true;
    trigger("act", { id: button.dataset.id, what: button.dataset.ask });
  });
  window.addEventListener("popstate", () => { const there = new URL(window.location.href).searchParams.get("sweep") || ""; if (there !== id) { id = there; told = null; version = ""; ask(); } });

  function start(fire) { trigger = fire; ask(); }
  setInterval(() => { if (shown() && id && (!told || place().lpId !== id)) ask(); }, 700); // the tab was just opened
  return { start, open, ask, leave };
})();
