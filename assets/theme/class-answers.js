// How a class answered: counts for a choice, marks for a number, lines for a sketch, with what came out where that is shown.
// Data in, nodes out; all text is set as text. It needs app.js and lesson-pictures.js before it.
lp.classAnswers = (() => {
  "use strict";
  const { make, pictures } = window.lp;
  const NS = "http://www.w3.org/2000/svg", W = 520;

  function svg(tag, attributes, ...children) {
    const node = document.createElementNS(NS, tag);
    for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
    for (const child of children) node.append(child);
    return node;
  }

  // `question`: form, choices, axis, x, x_label; first and later: values. `came`: null while it is hidden. `mine`: one's own.
  function picture(question, first, later, came = null, mine = null) {
    return { choice: bars, number: dots, curve: lines }[question.form](question, first, later, came, mine);
  }

  function bars(question, first, later, came, mine) {
    const most = Math.max(1, first.length, later.length), count = (values, i) => values.filter((value) => value === i).length;
    const bar = (values, i, kind, words) => make("span", { class: `b ${kind}` }, make("i", { style: `width:${100 * count(values, i) / most}%` }), make("b", {}, `${count(values, i)}${words}`));
    return make("ul", { class: "lp-class-bars" }, ...question.choices.map((text, i) => {
      const right = came && came.solutions.includes(i);
      return make("li", { class: `${came ? (right ? "right" : "wrong") : ""}${mine === i ? " mine" : ""}` },
        make("span", { class: "n" }, came ? `${right ? "✓ " : "✗ "}` : "", text, mine === i ? make("em", {}, " your answer") : null),
        bar(first, i, "first", later.length ? " at first" : ""), later.length ? bar(later, i, "later", " after the discussion") : null);
    }));
  }

  // A histogram over the axis in twenty bins.
  function dots(question, first, later, came, mine) {
    const { axis } = question, bins = 20, H = 150, base = 112, place = (value) => 30 + (Math.min(axis.high, Math.max(axis.low, value)) - axis.low) / (axis.high - axis.low) * (W - 60);
    const bin = (value) => Math.min(bins - 1, Math.floor((value - axis.low) / (axis.high - axis.low) * bins));
    const counted = (values) => { const made = Array(bins).fill(0); values.forEach((value) => { made[bin(value)] += 1; }); return made; };
    const sets = [["first", counted(first)], ...(later.length ? [["later", counted(later)]] : [])], most = Math.max(1, ...sets.flatMap(([, counts]) => counts));
    const width = (W - 60) / bins, root = svg("svg", { viewBox: `0 0 ${W} ${H}`, class: "lp-class-dots", role: "img", "aria-label": `${axis.label}: ${first.length} predictions from ${pictures.said(Math.min(...first), axis.unit)} to ${pictures.said(Math.max(...first), axis.unit)}` });
    sets.forEach(([kind, counts], k) => counts.forEach((count, i) => {
      if (!count) return;
      const height = count / most * 88, part = width / sets.length;
      root.append(svg("rect", { class: kind, x: 30 + i * width + k * part + 1, y: base - height, width: part - 2, height, rx: 2 }), svg("text", { class: "tick", x: 30 + i * width + (k + 0.5) * part, y: base - height - 4, "text-anchor": "middle" }, String(count)));
    }));
    root.append(svg("line", { class: "base", x1: 30, x2: W - 30, y1: base, y2: base }));
    for (let i = 0; i <= 4; i += 1) { const value = axis.low + (axis.high - axis.low) * i / 4; root.append(svg("text", { class: "tick", x: place(value), y: base + 18, "text-anchor": "middle" }, pictures.said(value, axis.unit))); }
    if (mine !== null && mine !== undefined) root.append(svg("path", { class: "mine", d: `M${place(mine)},${base + 2} l-7,11 h14 z` }));
    if (came) {
      const x = place(came.values[0]), anchor = x < 60 ? "start" : x > W - 60 ? "end" : "middle"; // near an edge its words stay inside
      root.append(svg("line", { class: "came", x1: x, x2: x, y1: 8, y2: base }), svg("text", { class: "came", x: anchor === "start" ? 2 : anchor === "end" ? W - 2 : x, y: H - 6, "text-anchor": anchor }, `came out: ${pictures.said(came.values[0], axis.unit)}`));
    }
    return root;
  }

  function lines(question, first, later, came, mine) {
    const { axis, x } = question, own = mine || (came ? came.values : null);
    if (!own) return make("p", { class: "lp-note" }, "Nobody has sketched yet.");
    const shown = pictures.curves(question, mine, came ? came.values : own, [...first, ...later]);
    if (!came) shown.querySelectorAll(".came, .value").forEach((node) => node.remove());
    shown.classList.add("lp-class-lines");
    return shown;
  }

  // What a person may answer with, as in the lesson; `told(value)` at each change.
  function input(question, told) {
    if (question.form === "number") return pictures.number(question, told);
    if (question.form === "curve") return pictures.sketch(question, told);
    return make("div", { class: "lp-lesson-choices", role: "radiogroup" }, ...question.choices.map((text, i) => {
      const radio = make("input", { type: "radio", name: "lp-class-choice" });
      radio.addEventListener("change", () => told(i));
      return make("label", {}, radio, make("span", {}, text));
    }));
  }

  return { picture, input };
})();
