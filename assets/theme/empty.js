// The empty page of Fine-tune: the plan of a run as the form has it, a recording that is played, and the base's answers.
lp.empty = (() => {
  "use strict";
  const PAUSE = 480, WAIT = 2500; // milliseconds a frame is shown, and before a first visit plays by itself
  let plan = null, tape = null, at = -1, timer = 0, said = "", ask = null, offered = false;

  function obey(props, watch) {
    const take = () => {
      if (!props.value || !props.value.curve) return;
      const version = JSON.stringify(props.value);
      if (plan && plan.version === version) return;
      if (plan && plan.recording !== props.value.recording) stop();
      if (plan && plan.probes !== props.value.probes) said = "";
      plan = { ...props.value, version };
      lp.live.paint();
    };
    watch("value", take);
    take();
  }

  // What the page shows where no run is in view; `idle` is the card's text.
  function shown(idle, runs) {
    if (!plan) return { html: idle, probes: "" };
    if (at >= 0) return { ...tape[at], html: tape[at].card, playing: true };
    if (!runs) offer();
    return { html: invited() + idle.replace("<!--scale-->", plan.scale).replace("<!--play-->", plan.play), ...parts() };
  }
  const parts = () => ({
    probes: said || plan.probes, curve: { ...plan.curve, version: `plan ${plan.version}` },
    pictures: plan.pictures && { ...plan.pictures, version: `plan ${plan.version}` },
  });
  // The plan of a run by its name, '' where the form has another one.
  const of = (name) => (plan && name.replace(/ #\d+$/, "") === plan.label ? parts() : null);

  // The address fills the form where it names one of these: a teacher's link.
  const PRESETS = ["dataset", "model", "variant", "rank", "steps", "seconds"];
  function invited() {
    const query = new URL(window.location.href).searchParams;
    if (!PRESETS.some((name) => query.get(name))) return "";
    const wrong = document.querySelector("#lp-forecast .lp-error, #lp-model-note .lp-error");
    const said = wrong ? "What it asks for cannot be trained here: the form says why." : `The form is filled: ${plan.label}. Press Train.`;
    return lp.make("p", { class: "lp-ribbon" }, lp.make("b", {}, "From a link"), said).outerHTML;
  }
  // A link that fills the form as it is now.
  function link() {
    const there = new URL(window.location.origin + window.location.pathname);
    for (const [name, value] of Object.entries((plan && plan.link) || {})) there.searchParams.set(name, value);
    return there.href;
  }

  async function play() {
    if (!plan || !plan.recording) return;
    clearTimeout(timer);
    offered = true;
    const name = plan.recording;
    const answer = await fetch(`${window.location.pathname.replace(/\/$/, "")}/live?recording=${encodeURIComponent(name)}`);
    const frames = answer.ok ? (await answer.json()).recording : [];
    if (!frames.length || plan.recording !== name) return;
    tape = frames.map((frame, place) => ({ ...frame, curve: { ...frame.curve, version: `tape ${name} ${place}` }, pictures: { ...frame.pictures, version: `tape ${name} ${place}` } }));
    step(0);
  }

  function step(place) {
    at = place;
    lp.live.paint();
    if (place + 1 < tape.length) timer = setTimeout(() => step(place + 1), PAUSE);
  }

  function stop() {
    clearTimeout(timer);
    at = -1;
    lp.live.paint();
  }

  // Where nobody has run anything yet the recording plays by itself, once; not beside a lesson, which asks to predict such a run.
  function offer() {
    if (offered || document.body.classList.contains("lp-in-lesson") || !plan.recording || window.matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    offered = true;
    try { if (localStorage.getItem("lp-played")) return; localStorage.setItem("lp-played", "1"); } catch { /* private window */ }
    timer = setTimeout(() => { if (lp.live.idle() && !document.body.classList.contains("lp-in-lesson")) play(); }, WAIT);
  }

  function answered(props, watch) {
    watch("value", () => { if (props.value && props.value.html) { said = props.value.html; lp.live.paint(); } });
  }

  const base = () => (plan ? plan.base : "");
  return { obey, shown, of, link, play, stop, base, answered, asks: (trigger) => { ask = trigger; }, ask: () => ask && ask("act", {}) };
})();
