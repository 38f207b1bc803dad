// What the page does by itself: hover, keys, filter. It asks the server nothing, and works on whatever is shown now, for
// Gradio puts new HTML in place of old after each answer.
() => {
  const sheet = (id) => document.head.appendChild(Object.assign(document.createElement("style"), { id }));
  const alone = sheet("cxr-alone"), filter = sheet("cxr-filter");
  const quoted = (name) => `[data-finding="${CSS.escape(name)}"]`;
  const film = "#cxr-film .over";

  // Hover or focus on a finding, wherever it stands, shows its boxes alone.
  const isolate = (event) => {
    const name = event.target.closest?.("[data-finding]")?.dataset.finding;
    if (!name) { alone.textContent = ""; return; }
    const mark = `tr${quoted(name)}, .cxr-tree .node${quoted(name)} { background: var(--cxr-hover); }`;
    const boxed = document.querySelector(`${film} ${quoted(name)}`);
    alone.textContent = mark + (boxed
      ? `${film} [data-finding]:not(${quoted(name)}) { opacity: .12; } ${film} ${quoted(name)} { opacity: 1; }` : "");
  };
  for (const kind of ["pointerover", "focusin"]) document.addEventListener(kind, isolate);
  document.addEventListener("focusout", () => { alone.textContent = ""; });

  // Findings to show: all of the page's places but the tree, which would lose its branches.
  window.cxrShow = (names) => {
    const others = names.map((name) => `:not(${quoted(name)})`).join("");
    filter.textContent = `${film} [data-finding]${others}, .cxr-findings tr[data-finding]${others} { display: none; }
      .cxr-findings:has(tr.flagged${others}) .filtered { display: block; }`;
  };

  // The curtain's slider.
  document.addEventListener("input", (event) => {
    const curtain = event.target.closest?.(".curtain");
    if (!curtain) return;
    curtain.style.setProperty("--cut", `${event.target.value}%`);
    event.target.setAttribute("aria-valuetext", `${event.target.value} % plain film`);
  });

  // Left and right step through the films of the strip.
  document.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: "back", ArrowRight: "on" }[event.key];
    const strip = step && event.target.closest?.(".cxr-strip");
    if (strip) strip.querySelector(`[data-key="${step}"]`)?.click();
  });

  // A button that is replaced while it has the focus hands it to the one in its place.
  let held = null;
  document.addEventListener("focusin", (event) => {
    const key = event.target.closest?.("[data-key]")?.dataset.key;
    held = key === undefined ? null : { key, place: event.target.closest("[id]")?.id };
  });
  document.addEventListener("pointerdown", () => { held = null; });
  new MutationObserver(() => {
    if (!held || document.activeElement !== document.body) return;
    document.querySelector(`#${held.place} [data-key="${CSS.escape(held.key)}"]`)?.focus({ preventScroll: true });
  }).observe(document.body, { childList: true, subtree: true });

  // On a phone the settings begin closed, so that the film comes first.
  if (window.innerWidth < 700) document.querySelector("#cxr-settings > button")?.click();
}
