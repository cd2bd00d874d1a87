// What a machine can see of a screen's faults: text too small or too faint, cut words, labels over each other, axes
// without a title. Gives a list of sentences.
(least) => {
  const found = new Map(), note = (fault, words) => { const key = `${fault}: ${words}`; found.set(key, (found.get(key) || 0) + 1); };
  const pen = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => { pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); return [...pen.getImageData(0, 0, 1, 1).data].map((v, n) => (n < 3 ? v : v / 255)); };
  const over = (top, under) => top.slice(0, 3).map((v, n) => v * top[3] + under[n] * (1 - top[3]));
  const light = (colour) => colour.slice(0, 3).map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)).reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  const ground = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      const style = getComputedStyle(at);
      if (style.backgroundImage.includes("url") || style.backgroundImage.includes("gradient")) return null;
      const colour = rgba(style.backgroundColor);
      if (colour[3] > 0) layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
  };
  const seen = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const style = getComputedStyle(at);
      if (style.visibility === "hidden" || Number(style.opacity) < 0.1 || at.hidden) return false;
    }
    return true;
  };
  const where = (element) => (element.closest("[id]:not(g):not(svg)") || {}).id || "";
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    const element = text.parentElement, words = text.textContent.trim();
    if (!words || !element || ["SCRIPT", "STYLE", "NOSCRIPT", "TITLE"].includes(element.tagName)) continue;
    const range = document.createRange(); range.selectNodeContents(text);
    const box = range.getBoundingClientRect();
    if (box.width < 2 || box.height < 2 || box.right < 0 || box.bottom < 0 || !seen(element)) continue;
    const style = getComputedStyle(element), drawn = element.closest("svg"), size = parseFloat(style.fontSize) * (drawn && element.getScreenCTM ? Math.hypot(element.getScreenCTM().b, element.getScreenCTM().d) : 1);
    const said = `"${words.slice(0, 40)}" in ${where(element)} .${(element.getAttribute("class") || element.tagName).slice(0, 40)}`;
    if (size < least && !element.closest(".katex")) note(`${size.toFixed(1)} px`, `${where(element)} .${(element.getAttribute("class") || element.tagName).slice(0, 40)} e.g. "${words.slice(0, 20)}"`);
    const under = ground(drawn ? drawn.parentElement : element);
    if (under && !element.closest(":disabled, .cursor-not-allowed") && !(drawn && style.stroke !== "none")) {
      const colour = rgba(drawn ? style.fill : style.color), shade = contrast(over(colour, under), under);
      if (!drawn && shade < 4.5) note(`contrast ${shade.toFixed(1)}`, said);
    }
    for (let at = element; at && at !== document.body; at = at.parentElement) {
      const its = getComputedStyle(at);
      if (its.overflowX === "hidden" && its.textOverflow !== "ellipsis" && at.clientWidth > 2 && box.right > at.getBoundingClientRect().right + 2 && !at.closest("#lp-strip")) { note("cut", said); break; }
      if (its.overflowX === "auto" || its.overflowX === "scroll") break;
    }
  }
  for (const plot of document.querySelectorAll(".js-plotly-plot")) {
    if (plot.getBoundingClientRect().height < 2 || !seen(plot)) continue;
    const name = where(plot), layout = plot._fullLayout || {};
    if (!((layout.title || {}).text)) note("no title", name);
    for (const key of Object.keys(layout).filter((one) => /^[xy]axis\d*$/.test(one))) {
      const axis = layout[key];
      if (axis.visible && axis.showticklabels && !(axis.title || {}).text && axis.type !== "category") note("axis without a title", `${name} ${key}`);
    }
    const texts = [...plot.querySelectorAll("svg text")].filter((one) => one.textContent.trim() && seen(one)).map((one) => [one.textContent.trim(), one.getBoundingClientRect()]).filter(([, box]) => box.width > 1);
    const frame = plot.getBoundingClientRect();
    texts.forEach(([words, box], n) => {
      if (box.right > frame.right + 2 || box.left < frame.left - 2 || box.bottom > frame.bottom + 2) note("over the plot's edge", `"${words.slice(0, 40)}" in ${name}`);
      for (const [others, other] of texts.slice(n + 1)) {
        const wide = Math.min(box.right, other.right) - Math.max(box.left, other.left), high = Math.min(box.bottom, other.bottom) - Math.max(box.top, other.top);
        if (wide > 3 && high > 3) note("labels overlap", `"${words.slice(0, 30)}" and "${others.slice(0, 30)}" in ${name}`);
      }
    });
  }
  return [...found].map(([words, times]) => (times > 1 ? `${words} (${times} times)` : words));
}
