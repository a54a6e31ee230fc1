// Words and pictures light each other up. A word of the page that ui/text.py has marked (`data-lights="kind:name"`) tells every
// picture of the page while it is pointed at, focused, or held by a tap; what is pointed at in a picture lights the words that name
// it. A glossary term says its meaning on focus and on a tap, too, where a title stays silent. ui/component.py puts it before all others.
const LIGHTS = (globalThis.__shadowPriceLights ??= globalThis.document && lightsOf(globalThis.document));

/** Call show({ kind, name }), or show(null), whenever what is lit changes, until the returned function is called. */
function lights(show) {
  LIGHTS.pictures.add(show);
  return () => { LIGHTS.pictures.delete(show); lightWords(); };
}

/** Light the words that name one of these things, such as "request:12"; without any, those that are pointed at alone. */
function lightWords(...names) { LIGHTS.words(names); }

/** The listeners of a page, once; `pictures` is who hears of changes. */
export function lightsOf(page) {
  const pictures = new Set(), at = { pointed: null, focused: null, held: null };
  const marked = (event) => event.target?.closest?.("[data-lights]") ?? null, named = (event) => marked(event)?.dataset.lights ?? null;
  let now = null, tip = null;

  const words = (names) => {
    for (const node of page.querySelectorAll("[data-lights]")) {
      node.toggleAttribute("data-lit", names.includes(node.dataset.lights) || node.dataset.lights === now);
      node.setAttribute("aria-pressed", String(node.dataset.lights === at.held));
    }
  };
  /** What is lit now, as pictures take it; a picture that draws anew asks again. */
  const what = () => now && { kind: now.slice(0, now.indexOf(":")), name: now.slice(now.indexOf(":") + 1) };
  const change = (how, name) => {
    if (at[how] === name) return;
    at[how] = name;
    now = at.pointed ?? at.focused ?? at.held;
    words([]);
    for (const show of [...pictures]) show(what());
  };
  const silence = () => { tip?.remove(); tip = null; };
  /** Write a term's meaning under it, within the window. */
  const mean = (event) => {
    silence();
    const term = event.target?.closest?.("abbr[title]");
    if (!term) return;
    const box = term.getBoundingClientRect(), wide = Math.min(340, innerWidth - 24);
    const ground = getComputedStyle(page.querySelector("[data-testid=stApp]") ?? page.body).backgroundColor;
    tip = page.createElement("div");
    tip.setAttribute("role", "tooltip");
    tip.textContent = term.title;
    Object.assign(tip.style, { position: "fixed", zIndex: 1000000, width: `${wide}px`, left: `${Math.max(12, Math.min(box.left, innerWidth - wide - 12))}px`,
      top: `${box.bottom + 6}px`, padding: "8px 12px", border: "1px solid currentColor", borderRadius: "4px", background: ground, color: getComputedStyle(term).color,
      font: getComputedStyle(page.body).font, fontSize: "0.95rem", lineHeight: "1.4", pointerEvents: "none" });
    page.body.append(tip);
    if (box.bottom + 6 + tip.offsetHeight > innerHeight) tip.style.top = `${box.top - 6 - tip.offsetHeight}px`;
  };

  const hold = (event) => { const name = named(event); if (name !== null) change("held", at.held === name ? null : name); };
  const seen = (event) => event.target?.matches?.(":focus-visible"); // a tap gives focus, too, and must not light for good
  page.addEventListener("pointerover", (event) => { if (event.pointerType !== "touch") change("pointed", named(event)); });
  page.addEventListener("pointerout", (event) => { if (!event.relatedTarget) change("pointed", null); });
  page.addEventListener("focusin", (event) => { change("focused", seen(event) ? named(event) : null); if (seen(event)) mean(event); });
  page.addEventListener("focusout", () => { change("focused", null); silence(); });
  page.addEventListener("click", (event) => { hold(event); mean(event); });
  page.addEventListener("scroll", silence, { capture: true, passive: true });
  page.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { silence(); change("held", null); }
    if ((event.key !== "Enter" && event.key !== " ") || !marked(event)) return;
    event.preventDefault();
    hold(event);
  });
  if (globalThis.CSSStyleSheet) {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync("[data-lights][data-lit] { background: color-mix(in srgb, currentColor 16%, transparent); border-radius: 2px; }");
    page.adoptedStyleSheets.push(sheet);
  }
  return { pictures, words, get what() { return what(); } };
}
