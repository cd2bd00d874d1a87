// Pictures of predictions and results, as SVG on one pair of axes: what is sketched before is what the result is drawn over.
// Data in, nodes out; all text is set as text. It needs app.js before it.
lp.pictures = (() => {
  "use strict";
  const { make } = window.lp;
  const NS = "http://www.w3.org/2000/svg", W = 340, H = 220, BOX = { l: 44, r: 14, t: 26, b: 40 };

  function svg(tag, attributes, ...children) {
    const node = document.createElementNS(NS, tag);
    for (const [key, value] of Object.entries(attributes || {})) if (value !== null && value !== undefined) node.setAttribute(key, value);
    for (const child of children) if (child !== null && child !== undefined) node.append(child);
    return node;
  }

  // A number as the axis writes it: shares in per cent.
  function said(value, unit) {
    if (unit === "%") return `${Math.round(100 * value)}%`;
    return `${+value.toPrecision(3)}${unit ? ` ${unit}` : ""}`;
  }

  function scales(axis, x) {
    const low = axis.log ? Math.log10(axis.low) : axis.low, high = axis.log ? Math.log10(axis.high) : axis.high;
    const y = (value) => H - BOX.b - ((axis.log ? Math.log10(value) : value) - low) / (high - low) * (H - BOX.t - BOX.b);
    const back = (pixel) => { const at = low + (H - BOX.b - pixel) / (H - BOX.t - BOX.b) * (high - low); return Math.min(axis.high, Math.max(axis.low, axis.log ? 10 ** at : at)); };
    const place = (i) => BOX.l + 12 + (x.length > 1 ? i / (x.length - 1) : 0.5) * (W - BOX.l - BOX.r - 24);
    return { y, back, place };
  }

  function frame(axis, x, xLabel, { y, place }, label) {
    const root = svg("svg", { viewBox: `0 0 ${W} ${H}`, class: "lp-sketch", role: "group", "aria-label": label });
    for (let i = 0; i <= 4; i += 1) {
      const value = axis.low + (axis.high - axis.low) * i / 4;
      root.append(svg("line", { class: "grid", x1: BOX.l, x2: W - BOX.r, y1: y(value), y2: y(value) }));
      root.append(svg("text", { class: "tick", x: BOX.l - 6, y: y(value) + 4, "text-anchor": "end" }, said(value, axis.unit)));
    }
    x.forEach((value, i) => root.append(svg("text", { class: "tick", x: place(i), y: H - BOX.b + 18, "text-anchor": "middle" }, String(value))));
    root.append(svg("text", { class: "name", x: 4, y: 12 }, axis.label));
    if (xLabel) root.append(svg("text", { class: "name", x: (BOX.l + W - BOX.r) / 2, y: H - 4, "text-anchor": "middle" }, xLabel));
    return root;
  }

  const line = (points, kind) => svg("polyline", { class: kind, points: points.map((point) => point.join(",")).join(" ") });

  // A sketch to drag. `told(values)` is called at each change; the points move by arrow keys too.
  function sketch(question, told) {
    const { axis, x } = question, scale = scales(axis, x), step = (axis.high - axis.low) / 50;
    const values = x.map(() => axis.low + (axis.high - axis.low) / 2);
    const root = frame(axis, x, question.x_label, scale, `Sketch of ${axis.label} over ${question.x_label}`);
    root.classList.add("open");
    const path = line([], "given"), dots = [];
    root.append(path);
    const draw = () => {
      path.setAttribute("points", values.map((value, i) => `${scale.place(i)},${scale.y(value)}`).join(" "));
      dots.forEach((dot, i) => {
        dot.setAttribute("cx", scale.place(i));
        dot.setAttribute("cy", scale.y(values[i]));
        dot.setAttribute("aria-valuenow", values[i].toFixed(3));
        dot.setAttribute("aria-valuetext", said(values[i], axis.unit));
      });
    };
    const set = (i, value) => { values[i] = Math.min(axis.high, Math.max(axis.low, value)); draw(); told([...values]); };
    x.forEach((value, i) => {
      const dot = svg("circle", { class: "dot", r: 9, tabindex: 0, role: "slider", "aria-label": `${question.x_label} ${value}`, "aria-valuemin": axis.low, "aria-valuemax": axis.high });
      dot.addEventListener("keydown", (event) => {
        const by = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 5, PageDown: -5 }[event.key];
        if (by) { event.preventDefault(); set(i, values[i] + by * step); }
      });
      dots.push(dot);
      root.append(dot);
    });
    // Pressing anywhere moves the nearest point, so that a curve can be drawn in one stroke.
    const at = (event) => {
      const box = root.getBoundingClientRect(), px = (event.clientX - box.left) * W / box.width, py = (event.clientY - box.top) * H / box.height;
      const near = x.map((_, i) => Math.abs(scale.place(i) - px)), i = near.indexOf(Math.min(...near));
      set(i, scale.back(py));
    };
    let down = false;
    root.addEventListener("pointerdown", (event) => { down = true; root.setPointerCapture(event.pointerId); at(event); event.preventDefault(); });
    root.addEventListener("pointermove", (event) => { if (down) at(event); });
    for (const end of ["pointerup", "pointercancel"]) root.addEventListener(end, () => { down = false; });
    draw();
    return root;
  }

  // A mark on an axis to drag, and the number beside it.
  function number(question, told) {
    const { axis } = question, shares = axis.unit === "%", by = shares ? 100 : 1;
    const middle = (axis.low + axis.high) / 2, step = shares ? 1 : (axis.high - axis.low) / 100;
    const bounds = { min: axis.low * by, max: axis.high * by, step };
    const range = make("input", { type: "range", ...bounds, "aria-label": axis.label }), field = make("input", { type: "number", ...bounds, "aria-label": axis.label, class: "lp-lesson-number" });
    range.value = middle * by;
    const tell = (source, other) => () => { if (source.value === "") return; other.value = source.value; told(Math.min(axis.high, Math.max(axis.low, +source.value / by))); };
    range.addEventListener("input", tell(range, field));
    field.addEventListener("input", tell(field, range));
    return make("div", { class: "lp-lesson-dial" }, make("div", { class: "row" }, make("span", {}, said(axis.low, axis.unit)), range, make("span", {}, said(axis.high, axis.unit))), make("label", { class: "row" }, "Your number", field, make("span", {}, axis.unit)));
  }

  // Prediction and result over each other. `others`: further curves, such as those of a class.
  function curves(question, given, came, others = []) {
    const { axis, x } = question, scale = scales(axis, x), points = (values) => values.map((value, i) => [scale.place(i), scale.y(Math.min(axis.high, Math.max(axis.low, value)))]);
    const root = frame(axis, x, question.x_label, scale, `${axis.label} over ${question.x_label}: ${x.map((value, i) => `${value}: ${given ? `predicted ${said(given[i], axis.unit)}, ` : ""}came ${said(came[i], axis.unit)}`).join("; ")}`);
    others.forEach((one) => root.append(line(points(one), "other")));
    if (given) points(given).reduce((root_, [cx, cy]) => { root_.append(svg("circle", { class: "dot given", r: 5, cx, cy })); return root_; }, root).insertBefore(line(points(given), "given"), root.querySelector(".dot"));
    root.append(line(points(came), "came"));
    points(came).forEach(([cx, cy], i) => root.append(svg("circle", { class: "dot came", r: 5.5, cx, cy }), svg("text", { class: "value", x: cx, y: cy - 10 < BOX.t ? cy + 20 : cy - 10, "text-anchor": "middle" }, said(came[i], axis.unit))));
    return root;
  }

  // One number on its axis: the band that counts as near, the prediction, the result. `others`: further predictions.
  function marks(question, given, came, others = []) {
    const { axis } = question, height = 92, place = (value) => 24 + (Math.min(axis.high, Math.max(axis.low, value)) - axis.low) / (axis.high - axis.low) * (W - 48);
    const root = svg("svg", { viewBox: `0 0 ${W} ${height}`, class: "lp-sketch", role: "img", "aria-label": `${axis.label}: ${given === null ? "" : `predicted ${said(given, axis.unit)}, `}came ${said(came, axis.unit)}` });
    root.append(svg("line", { class: "base", x1: 24, x2: W - 24, y1: 52, y2: 52 }));
    [axis.low, (axis.low + axis.high) / 2, axis.high].forEach((value) => root.append(svg("line", { class: "base", x1: place(value), x2: place(value), y1: 48, y2: 56 }), svg("text", { class: "tick", x: place(value), y: 72, "text-anchor": "middle" }, said(value, axis.unit))));
    others.forEach((value) => root.append(svg("circle", { class: "dot other", r: 4, cx: place(value), cy: 52 })));
    if (given !== null) root.append(svg("line", { class: "between", x1: place(given), x2: place(came), y1: 52, y2: 52 }), svg("circle", { class: "dot given", r: 8, cx: place(given), cy: 52 }), svg("text", { class: "given", x: place(given), y: 88, "text-anchor": "middle" }, `you: ${said(given, axis.unit)}`));
    root.append(svg("circle", { class: "dot came", r: 8, cx: place(came), cy: 52 }), svg("text", { class: "value", x: place(came), y: 34, "text-anchor": "middle" }, said(came, axis.unit)));
    return root;
  }

  // Bars of what was measured, for a choice.
  function bars(results) {
    const most = Math.max(...results.map((one) => Math.abs(one.value)), 1e-9), whole = results.every((one) => one.unit === "%") ? 1 : most;
    return make("ul", { class: "lp-lesson-bars" }, ...results.map((one) => make("li", {}, make("span", { class: "n" }, one.label), make("span", { class: "b" }, make("i", { style: `width:${Math.max(0.5, 100 * Math.abs(one.value) / whole).toFixed(1)}%` })), make("b", {}, one.text))));
  }

  return { sketch, number, curves, marks, bars, said };
})();
