// Terms of the field, explained where they stand: the first place of each in a sentence gets a dotted line, and its
// meaning on hovering, focus or touch. Only text inside elements that we make is touched.
lp.terms = (() => {
  "use strict";
  const MEANS = {
    "base skills kept": "Of what the base got right of questions of other kinds, the share that the adapted model still gets right. The rest is forgotten.",
    "modules?": "A module here is one matrix W of the network, such as the one that makes the queries of layer 3. An update ΔW is learned for each.",
    "training loss|validation loss|loss": "How surprised the model is by the right next token, on average, in nats: 0 is never surprised, ln 2 = 0.69 a coin toss. Validation loss is measured on rows that are not trained on.",
    "nats": "A unit of surprise: −ln of the probability that was given to what came. 0 nats is certainty, 0.69 a coin toss, 2.3 one in ten.",
    "epochs": "How often each training row is read.",
    "Pareto front": "The runs that no other run beats in both at once: more gain always costs something here.",
    "intruders?": "A strong direction of W + ΔW that is like none of W's own: the update has put something new there, which is often seen beside forgetting.",
    "effective rank": "How many directions the update really uses, as if all were equally strong: exp of the entropy of its singular values, as shares of their sum.",
    "stable rank": "The whole energy of ΔW divided by that of its strongest direction.",
    "singular values?": "How strong each direction of ΔW is, strongest first.",
    "energy": "The squared singular values: how much of ‖ΔW‖² a direction holds.",
    "frozen": "Not changed by training.",
    "forgetting": "How much worse the adapted model answers questions of other kinds, which the base could answer.",
    "directions?": "One direction is one pattern that an update adds: it reads one combination of the inputs and writes one combination of the outputs. Rank r allows r of them.",
    "KL": "Kullback–Leibler divergence: how surprised the base would be, on average, by a token drawn from the adapted model.",
    "ΔW": "The update: what is added to the frozen weights W.",
  };
  const PLACES = "#lp-main :is(.lp-note, .lp-warning, .lp-section small, .lp-idle li, .lp-method p, .lp-legend button, .lp-score .m, .lp-step-head small, .lp-sub small)";
  const any = new RegExp(`(?<![\\p{L}\\w])(${Object.keys(MEANS).join("|")})(?![\\p{L}\\w])`, "giu");
  const meaning = (word) => Object.entries(MEANS).find(([term]) => new RegExp(`^(${term})$`, "iu").test(word))[1];

  function mark(element) {
    const seen = new Set(), texts = [];
    const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) if (!walker.currentNode.parentElement.closest("button, a, code, input, select, textarea, .lp-term")) texts.push(walker.currentNode);
    for (const text of texts) {
      const found = [...text.data.matchAll(any)].filter((one) => { const key = meaning(one[0]); const fresh = !seen.has(key); seen.add(key); return fresh; });
      if (!found.length) continue;
      const pieces = [];
      let at = 0;
      for (const one of found) {
        pieces.push(text.data.slice(at, one.index), lp.make("span", { class: "lp-term", tabindex: "0", "data-means": meaning(one[0]) }, one[0]));
        at = one.index + one[0].length;
      }
      text.replaceWith(...pieces, text.data.slice(at));
    }
  }

  setInterval(() => {
    if (document.hidden) return;
    for (const element of document.querySelectorAll(PLACES)) {
      if (!element.offsetParent || element.lpMarked === element.textContent) continue;
      if (element.querySelectorAll(".lp-note").length) continue;
      mark(element);
      element.lpMarked = element.textContent;
    }
  }, 900);

  const show = (event) => { const term = event.target.closest && event.target.closest(".lp-term"); if (term) lp.tip(term, (bubble) => bubble.append(term.dataset.means)); };
  const hide = (event) => { if (event.target.closest && event.target.closest(".lp-term")) lp.tip(null); };
  for (const name of ["mouseover", "focusin", "click"]) document.addEventListener(name, show);
  for (const name of ["mouseout", "focusout"]) document.addEventListener(name, hide);
  return { mark };
})();
