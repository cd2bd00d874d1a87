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

  // On a phone the sections of a long tab are folded but for the first: a touch on a heading opens or closes its own.
  function folds() {
    const narrow = window.innerWidth <= 860;
    for (const heading of document.querySelectorAll("#lp-tab-spectrum .lp-section")) {
      const block = heading.closest(".block");
      if (!block || !block.parentElement) continue;
      if (heading.dataset.open === undefined) {
        heading.dataset.open = "no";
        const turn = () => { if (window.innerWidth <= 860) { heading.dataset.open = heading.dataset.open === "no" ? "yes" : "no"; folds(); } };
        heading.addEventListener("click", turn);
        heading.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); turn(); } });
      }
      if (narrow) { heading.setAttribute("role", "button"); heading.tabIndex = 0; heading.setAttribute("aria-expanded", String(heading.dataset.open === "yes")); }
      else { heading.removeAttribute("role"); heading.removeAttribute("tabindex"); heading.removeAttribute("aria-expanded"); }
      for (let next = block.nextElementSibling; next && !next.querySelector(".lp-section"); next = next.nextElementSibling) {
        next.toggleAttribute("data-folded", narrow && heading.dataset.open === "no");
      }
    }
  }
  setInterval(folds, 700);

  // A plot that was drawn while it was hidden has the wrong size: it is fitted when it is shown.
  const fitted = new ResizeObserver((entries) => {
    for (const { target, contentRect } of entries) {
      const plot = target.querySelector(".js-plotly-plot");
      if (plot && plot.layout && window.Plotly && contentRect.width > 0) window.Plotly.Plots.resize(plot);
    }
  });
  setInterval(() => {
    for (const node of document.querySelectorAll(".lp-plot:not([data-fitted])")) { node.dataset.fitted = ""; fitted.observe(node); }
  }, 500);

  recall();
  return { make, clip, open, fetch: fetchFile, url, flip, form, acts, endpoints, copies, points, reveal, onceNonce, tip, recall };
})();
