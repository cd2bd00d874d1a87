// What the page does by itself: address bar, theme, keys, clicks inside our own HTML, clicks on plots.
// Text that a model, a file or a person wrote is only ever set as text, never as HTML.
window.lp = (() => {
  "use strict";

  // The address bar carries the state that matters; empty values leave it.
  function url(changes) {
    const here = new URL(window.location.href);
    for (const [key, value] of Object.entries(changes)) {
      if (value === undefined || value === null || value === "" || /^,*$/.test(String(value))) here.searchParams.delete(key);
      else here.searchParams.set(key, value);
    }
    if (here.href !== window.location.href) window.history.replaceState(window.history.state, "", here);
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
      const button = ["lp-train", "lp-send"].map(byId).find(visible);
      if (button) {
        event.preventDefault();
        // Leaving a field makes Gradio send what was typed in it before the click is handled.
        if (document.activeElement instanceof HTMLElement) document.activeElement.blur();
        setTimeout(() => button.click(), 60);
      }
    } else if (event.key === "Escape") {
      tip(null);
      const open = document.querySelector('[role="listbox"]');
      const button = ["lp-chat-stop", "lp-stop"].map(byId).find(visible);
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

  function press(id) { const button = byId(id) || document.querySelector(`#${id} a, a#${id}`); if (button) button.click(); }

  recall();
  return { press, url, acts, points, reveal, onceNonce, tip, recall };
})();
