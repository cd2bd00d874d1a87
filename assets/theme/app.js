// What the page does by itself: address bar, theme, keys, clicks inside our own HTML, clicks on plots.
// Text that a model, a file or a person wrote is only ever set as text, never as HTML.
window.lp = (() => {
  "use strict";

  // The address bar carries the state that matters; empty values leave it. `push` makes it a step that Back undoes.
  function url(changes, push = false) {
    const there = new URL(window.location.href);
    for (const [key, value] of Object.entries(changes)) {
      if (value === undefined || value === null || /^,*$/.test(String(value))) there.searchParams.delete(key);
      else there.searchParams.set(key, value);
    }
    if (there.href === window.location.href) return;
    if (push) window.history.pushState(window.history.state, "", there);
    else window.history.replaceState(window.history.state, "", there);
  }

  // Gradio's list of endpoints opens by the button in its footer alone; the page for programs presses it. The page for
  // people has no endpoints, so a link to their list leads there.
  function endpoints() {
    const button = document.querySelector("footer .show-api");
    if (button) button.click();
    else setTimeout(endpoints, 200);
  }
  if (new URL(window.location.href).searchParams.get("view") === "api") {
    window.location.replace(`${window.location.pathname.replace(/(\/programs)?\/?$/, "")}/programs`);
  }

  // Elements with data-act="..." inside one of our HTML parts send {act, id, value} to the listener of 'act'.
  function acts(element, trigger) {
    element.addEventListener("click", (event) => {
      const target = event.target.closest("[data-act]");
      if (!target || !element.contains(target)) return;
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
      const button = ["lp-train", "lp-send", "lp-fed-start", "lp-sweep-start"].map(byId).find(visible);
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

  // A refusal speaks of the form as it was: it goes as soon as a person changes the form. Gradio's own events would tell
  // of what the server sets too, and late.
  const refusal = (gone) => { const said = document.getElementById("lp-problem"); if (said) said.hidden = gone; };
  for (const kind of ["input", "pointerdown", "click"]) {
    document.addEventListener(kind, (event) => {
      const within = (place) => event.target.closest && event.target.closest(place);
      if (kind === "click" && within("#lp-train")) refusal(false);
      else if (kind === "input" ? within("#lp-steps") : kind === "pointerdown" && within('#lp-steps [role="option"]')) refusal(true);
    }, true);
  }

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

  // The form of Fine-tune survives loading the page anew: its values are kept in this browser tab.
  const form = (() => {
    let before = null;
    try { before = JSON.parse(sessionStorage.getItem("lp-form")); } catch { /* private window */ }
    const keep = (values) => { try { sessionStorage.setItem("lp-form", JSON.stringify(values)); } catch { /* private window */ } };
    const kept = () => JSON.stringify({ values: before, query: Object.fromEntries(new URL(window.location.href).searchParams) });
    return { keep, kept };
  })();

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

  function clip(text) {
    if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
    const area = make("textarea", { class: "lp-sr" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
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

  // The sections of a long tab open and close by their headings, and a person finds them again as they were left. At first
  // those are closed that say so (data-fold; "pair": unless two runs are ticked), on a phone all.
  let opened = {};
  try { opened = JSON.parse(localStorage.getItem("lp-sections")) || {}; } catch { /* private window, or nothing kept */ }
  const closed = (heading) => heading.dataset.fold !== undefined && !(heading.dataset.fold === "pair" && window.lp.live.where().runs.filter(Boolean).length > 1);
  function folds() {
    const narrow = window.innerWidth <= 860;
    for (const heading of document.querySelectorAll("#lp-tab-spectrum .lp-section")) {
      const open = narrow ? heading.dataset.open === "yes" : (opened[nameOf(heading)] ?? !closed(heading));
      if (!heading.hasAttribute("role")) {
        heading.setAttribute("role", "button");
        heading.tabIndex = 0;
        const turn = () => fold(heading, heading.getAttribute("aria-expanded") !== "true");
        heading.addEventListener("click", turn);
        heading.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); turn(); } });
      }
      heading.setAttribute("aria-expanded", String(open));
      for (const part of below(heading)) part.toggleAttribute("data-folded", !open);
    }
  }
  const nameOf = (heading) => heading.firstChild.textContent.trim();
  function fold(heading, open) {
    heading.dataset.open = open ? "yes" : "no";
    if (window.innerWidth > 860) {
      opened[nameOf(heading)] = open;
      try { localStorage.setItem("lp-sections", JSON.stringify(opened)); } catch { /* private window */ }
    }
    folds();
  }
  // The parts of a section: what follows its heading, up to the next heading or a part that folds by itself.
  function below(heading) {
    const found = [], block = heading.closest(".block");
    for (let next = block && block.nextElementSibling; next && !next.querySelector(".lp-section") && !next.matches(".lp-fold"); next = next.nextElementSibling) found.push(next);
    return found;
  }
  // Opens the section in which a node is hidden.
  function unfold(node) {
    const part = node.closest("[data-folded]");
    const heading = part && [...document.querySelectorAll("#lp-tab-spectrum .lp-section")].find((one) => below(one).includes(part));
    if (heading) fold(heading, true);
  }
  setInterval(folds, 150);

  // A plot that was drawn while it was hidden has the wrong size: it is fitted when it is shown.
  const fitted = new ResizeObserver((entries) => {
    for (const { target, contentRect } of entries) {
      const plot = target.querySelector(".js-plotly-plot");
      if (plot && plot.layout && window.Plotly && contentRect.width > 0) window.Plotly.Plots.resize(plot);
    }
  });
  // On a projector the letters of plots are larger. It is Plotly that is told, since it makes the room that they need.
  const projector = window.matchMedia("(min-width: 1800px) and (min-height: 900px)"), SMALL = 13, LARGER = 1.25;
  function enlarge(plot) {
    const { layout, data } = plot;
    if (!projector.matches || !layout || !layout.font || layout.font.size !== SMALL) return;
    const changes = { "font.size": 16, "title.font.size": 19, "legend.font.size": 16, "hoverlabel.font.size": 16 };
    for (const name of Object.keys(layout)) if (/^[xy]axis\d*$/.test(name)) changes[`${name}.title.font.size`] = 16;
    (layout.annotations || []).forEach((one, i) => { if (one.font && one.font.size) changes[`annotations[${i}].font.size`] = Math.max(16, one.font.size * LARGER); });
    window.Plotly.relayout(plot, changes);
    const written = data.map((_, i) => i).filter((i) => data[i].textfont && data[i].textfont.size);
    const scales = data.map((_, i) => i).filter((i) => ((data[i].colorbar || {}).title || {}).text);
    if (written.length) window.Plotly.restyle(plot, { "textfont.size": written.map((i) => Math.max(16, data[i].textfont.size * LARGER)) }, written);
    if (scales.length) window.Plotly.restyle(plot, { "colorbar.title.font.size": 16 }, scales);
  }
  // Names beside marks are placed for a laptop's screen: where one is cut or covers another, the pointer tells it.
  function thin(plot) {
    const frame = plot.getBoundingClientRect(), kept = [];
    for (const name of plot.querySelectorAll(".textpoint text")) {
      const box = name.getBoundingClientRect();
      const room = box.left >= frame.left && box.right <= frame.right && !kept.some((one) => box.left < one.right && one.left < box.right && box.top < one.bottom - 3 && one.top < box.bottom - 3);
      name.style.visibility = room ? "" : "hidden";
      if (room) kept.push(box);
    }
  }
  setInterval(() => {
    for (const plot of document.querySelectorAll(".js-plotly-plot")) if (!plot.lpLetters && plot.on) { plot.lpLetters = true; plot.on("plotly_afterplot", () => { enlarge(plot); thin(plot); }); enlarge(plot); thin(plot); }
    for (const node of document.querySelectorAll(".lp-plot:not([data-fitted])")) { node.dataset.fitted = ""; fitted.observe(node); }
  }, 500);

  recall();
  return { make, clip, open, fetch: fetchFile, url, flip, form, acts, endpoints, copies, points, reveal, onceNonce, tip, recall, unfold };
})();
