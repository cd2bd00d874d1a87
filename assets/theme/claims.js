// Claims in Learn: what papers say, what came out here, and a trial of one's own laid over it. Text is set as text.
lp.claims = (() => {
  "use strict";
  const { make } = window.lp, root = window.location.pathname.replace(/\/$/, ""), POLL = 2000, W = 420;
  const SHORT = { "shows": "shows", "does not show at this scale": "not", "cannot be shown here": "off", "not measured yet": "open" };
  const NS = "http://www.w3.org/2000/svg";
  let told = null, model = "", timer = 0, drawn = "";
  const problems = {}, open = new Set();

  const place = () => document.querySelector("#lp-claims .lp-live");
  const visible = () => { const box = place(); return box && box.offsetParent !== null; };
  const button = (label, kind, click) => { const node = make("button", { class: kind, type: "button" }, label); node.addEventListener("click", click); return node; };
  const svg = (tag, attributes, ...children) => { const node = document.createElementNS(NS, tag); for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value); node.append(...children); return node; };

  async function ask() {
    clearTimeout(timer);
    if (!visible() || document.hidden) { timer = setTimeout(ask, POLL); return; }
    try {
      const answer = await fetch(`${root}/claims?model=${encodeURIComponent(model)}`, { cache: "no-store" });
      const said = await answer.json();
      if (said.claims) { told = said; draw(); }
    } catch { /* asked again */ }
    const busy = told && told.claims.some((one) => Object.values(one.sides).some((side) => side.run && !["done", "failed", "cancelled", "interrupted"].includes(side.state)));
    timer = setTimeout(ask, busy || !told ? POLL : 5 * POLL);
  }

  async function begin(name) {
    try {
      const answer = await fetch(`${root}/claims`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ name, model }) });
      const said = await answer.json();
      problems[name] = said.error || "";
    } catch { problems[name] = "The server does not answer. Try again."; }
    drawn = "";
    ask();
  }

  const number = (one, value) => (one.percent ? `${Math.round(100 * value)}%` : value.toPrecision(3));

  function draw() {
    const box = place();
    if (!box || !told) return;
    const key = JSON.stringify([told, [...open], problems]);
    if (key === drawn && box.firstChild) return;
    drawn = key;
    const bases = told.models.length > 1 ? [make("label", { class: "lp-claim-base" }, "Try them on ", select())] : [];
    box.replaceChildren(...bases, make("div", { class: "lp-claim-list" }, ...told.claims.map(card)));
  }

  function select() {
    const node = make("select", {}, ...told.models.map((one) => make("option", { value: one.source }, one.label)));
    node.value = model || told.models[0].source;
    node.addEventListener("change", () => { model = node.value; drawn = ""; ask(); });
    return node;
  }

  function card(one) {
    const details = make("details", { class: "lp-claim" }, make("summary", {}, make("span", { class: `v ${SHORT[one.verdict]}` }, one.verdict), make("b", {}, one.title)));
    details.open = open.has(one.name);
    details.dataset.claim = one.name;
    details.addEventListener("toggle", () => { if (details.open) open.add(one.name); else open.delete(one.name); });
    const link = make("a", { href: one.url, target: "_blank", rel: "noopener" }, one.paper);
    const body = make("div", { class: "body" }, make("p", { class: "said" }, one.claim), make("p", { class: "lp-note" }, link),
      make("p", {}, make("b", {}, "Here: "), one.here), make("p", { class: "why" }, one.why));
    if (Object.keys(one.stored).length || Object.values(one.sides).some((side) => side.value !== undefined)) body.append(picture(one));
    if (one.lines) body.append(logarithmic(one));
    if (one.note) body.append(make("p", { class: "lp-note" }, one.note));
    if (Object.keys(one.titles).length) body.append(trial(one));
    if (one.command) body.append(make("p", { class: "lp-note" }, "Measured again by ", make("code", {}, one.command)));
    details.append(body);
    return details;
  }

  // Each side: the range and mean of the stored seeds, and one's own run with its interval over it.
  function picture(one) {
    const sides = Object.entries(one.titles), own = Object.values(one.sides).map((side) => side.value).filter((value) => value !== undefined);
    const all = [...Object.values(one.stored).flat(), ...own], low = one.percent ? 0 : Math.min(...all) * 0.95, high = one.percent ? 1 : Math.max(...all) * 1.05;
    const left = 8, right = W - 8, x = (value) => left + (value - low) / (high - low || 1) * (right - left), H = 42 * sides.length + 30;
    const image = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": sides.map(([key, title]) => `${title}: ${one.stored[key] ? `stored mean ${number(one, one.stored[key][1])}` : "not stored"}${one.sides[key].value !== undefined ? `, yours ${number(one, one.sides[key].value)}` : ""}`).join("; ") });
    sides.forEach(([key, title], i) => {
      const y = 42 * i + 28, stored = one.stored[key], side = one.sides[key];
      image.append(svg("text", { x: left, y: y - 12, class: "n" }, title), svg("line", { x1: left, x2: right, y1: y, y2: y, class: "base" }));
      if (stored) image.append(svg("line", { x1: x(stored[0]), x2: x(stored[2]), y1: y, y2: y, class: "range" }), svg("circle", { cx: x(stored[1]), cy: y, r: 6, class: "stored" }));
      if (stored) image.append(svg("text", { x: right, y: y - 12, class: "t", "text-anchor": "end" }, number(one, stored[1])));
      if (side.value !== undefined) {
        if (side.interval) image.append(svg("line", { x1: x(side.interval[0]), x2: x(side.interval[1]), y1: y + 9, y2: y + 9, class: "mine" }));
        image.append(svg("circle", { cx: x(side.value), cy: y + 9, r: 5, class: "mine" }));
      }
    });
    image.append(svg("text", { x: left, y: H - 4, class: "t" }, number(one, low)), svg("text", { x: right, y: H - 4, class: "t", "text-anchor": "end" }, number(one, high)), svg("text", { x: W / 2, y: H - 4, class: "t", "text-anchor": "middle" }, one.measure));
    return make("figure", { class: "lp-claim-picture" }, image, make("figcaption", { class: "lp-note" }, one.seeds ? make("i", { class: "stored" }) : null, one.seeds ? `stored, mean and range of ${one.seeds} seeds` : null, own.length ? make("i", { class: "mine" }) : null, own.length ? "yours, one seed, with the interval of its rows" : null));
  }

  // Figures over x, both axes logarithmic, with a straight line of the slope that the claim speaks of.
  function logarithmic(one) {
    const { lines, slope } = one.lines, all = lines.flatMap((line) => line.points), H = 250, left = 46, right = W - 10, top = 10, bottom = H - 40;
    const xs = [...new Set(all.map(([x]) => x))].sort((a, b) => a - b), ys = all.map(([, y]) => y), middle = (values) => values.reduce((sum, v) => sum + Math.log(v), 0) / values.length;
    const base = middle(ys) - slope * middle(all.map(([x]) => x)), guide = (x) => Math.exp(base + slope * Math.log(x));
    const [low, high] = [Math.min(...ys, guide(xs.at(-1))) / 1.15, Math.max(...ys, guide(xs[0])) * 1.15], x = scale(xs[0], xs.at(-1), left, right), y = scale(low, high, bottom, top);
    const ticks = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100].filter((v) => v >= low && v <= high);
    const image = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${one.lines.y} over ${one.lines.x}. ${lines.map((line) => `${line.label}: ${line.points.map(([a, b]) => `${a}: ${b.toPrecision(3)}`).join(", ")}`).join(". ")}` },
      ...ticks.flatMap((v) => [svg("line", { x1: left, x2: right, y1: y(v), y2: y(v), class: "base" }), svg("text", { x: left - 6, y: y(v) + 4, class: "t", "text-anchor": "end" }, v)]),
      ...xs.map((v) => svg("text", { x: x(v), y: bottom + 16, class: "t", "text-anchor": "middle" }, v)),
      svg("text", { x: (left + right) / 2, y: H - 4, class: "t", "text-anchor": "middle" }, one.lines.x),
      svg("line", { x1: x(xs[0]), y1: y(guide(xs[0])), x2: x(xs.at(-1)), y2: y(guide(xs.at(-1))), class: "guide" }),
      ...lines.map((line, i) => svg("polyline", { points: line.points.map(([a, b]) => `${x(a)},${y(b)}`).join(" "), class: `line l${i}` })),
      ...lines.flatMap((line, i) => line.points.map(([a, b]) => svg("circle", { cx: x(a), cy: y(b), r: 4, class: `l${i}` }))));
    return make("figure", { class: "lp-claim-picture" }, make("figcaption", { class: "lp-note" }, `${one.lines.y}, mean of ${one.seeds} seeds`), image,
      make("figcaption", { class: "lp-note keys" }, ...lines.map((line, i) => make("span", {}, make("i", { class: `l${i}` }), line.label)), make("span", {}, make("i", { class: "guide" }), one.lines.guide)));
  }
  const scale = (low, high, from, to) => (value) => from + Math.log(value / low) / Math.log(high / low) * (to - from);

  function trial(one) {
    const sides = Object.entries(one.sides), idle = sides.some(([, side]) => ["new", "failed", "cancelled", "interrupted"].includes(side.state));
    const states = sides.filter(([, side]) => side.run).map(([key, side]) => make("li", {}, button(one.titles[key], "link", () => lp.live.go({ run: side.run, tab: "fine" })), ` ${side.problem || (side.state === "training" ? `training, ${Math.round(100 * side.part)}%` : side.state === "done" ? `done${side.value === undefined ? ", not scored" : `: ${number(one, side.value)}`}` : side.state === "queued" ? "waiting" : side.state)}`));
    return make("div", { class: "lp-claim-trial" },
      idle ? button(one.begun ? "Try the rest" : `▶ Try it (${one.time})`, "primary", () => begin(one.name)) : null,
      problems[one.name] ? make("p", { class: "lp-error", role: "alert" }, problems[one.name]) : null,
      states.length ? make("ul", { "aria-live": "polite" }, ...states) : null,
      one.said ? make("p", { class: "why mine", role: "status" }, one.said) : null);
  }

  function start() { ask(); setInterval(() => { if (visible() && !place().firstChild) { drawn = ""; if (told) draw(); else ask(); } }, 500); }

  return { start };
})();
