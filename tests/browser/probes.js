// What the browser tests ask of a page, as __probe.name(); tests/browser/serve.py loads it.
// Lists are of short descriptions; an empty one is what a test wants.
globalThis.__probe = (() => {
  const BIDI = "[data-testid=stBidiComponentIsolated]";
  const main = () => document.querySelector("[data-testid=stMain]");
  const roots = () => [document, ...[...document.querySelectorAll(BIDI)].map((host) => host.shadowRoot).filter(Boolean)];
  const all = (selector) => roots().flatMap((root) => [...root.querySelectorAll(selector)]);
  const brief = (node) => node.outerHTML.slice(0, 160);
  const name = (node) => `${node.tagName.toLowerCase()} ${node.getAttribute("aria-label") ?? String(node.textContent || node.id).slice(0, 60)}`;

  /** What a page still lacks until it has run, what moves by itself moves and every chart is drawn. The shell mounts a component last. */
  function lacks() {
    if (document.querySelector("[data-testid=stApp]")?.dataset.testScriptState !== "notRunning") return ["a finished run"];
    const ours = [...globalThis.__shadowPriceMounted ?? []];
    const undrawn = [...main().querySelectorAll("[data-testid=stVegaLiteChart]")].filter((chart) => !chart.querySelector("svg, canvas"));
    const empty = [...main().querySelectorAll(BIDI)].filter((host) => !host.shadowRoot?.querySelector(":not(style)"));
    return [
      ...[...main().querySelectorAll("[data-testid=stSkeleton], [data-stale=true]")].map((node) => `fresh: ${brief(node)}`),
      ...[...undrawn, ...empty].map((node) => `drawn: ${brief(node)}`),
      ...(ours.length ? ours : [{}]).filter((one) => !one.alive).map((one) => `alive: ${one.constructor.name}`),
    ];
  }

  /** Let what has moved stand still: it has shown that it moves, and drawing costs time. */
  const rest = () => { for (const one of globalThis.__shadowPriceMounted) if (one.playing) one.pause(); };

  /** Go to a link within the tab, as Back and Forward do; resolves when the page has begun to run. */
  function go(link) {
    return new Promise((resolve, reject) => {
      setTimeout(() => reject(new Error(`${link} did not begin to run within 30 s`)), 30000);
      const begun = new MutationObserver(() => { begun.disconnect(); resolve(); });
      begun.observe(document.querySelector("[data-testid=stApp]"), { attributeFilter: ["data-test-script-state"] });
      // a quick run may begin and end within one frame: then only what it draws is seen
      begun.observe(main(), { childList: true, characterData: true, subtree: true });
      history.pushState({}, "", link);
      dispatchEvent(new PopStateEvent("popstate"));
    });
  }

  /** What makes the page scroll sideways. */
  function wider() {
    const page = main(), edge = page.getBoundingClientRect().left + page.clientWidth + 1;
    if (page.scrollWidth <= page.clientWidth + 1 && document.documentElement.scrollWidth <= innerWidth) return [];
    const clipped = (node) => {
      for (let up = node.parentElement; up && up !== page; up = up.parentElement) {
        if (getComputedStyle(up).overflowX !== "visible" && up.getBoundingClientRect().right <= edge) return true;
      }
      return false;
    };
    return ["the page", ...all("*").filter((node) => node.getBoundingClientRect().right > edge && !clipped(node)).slice(0, 3).map(brief)];
  }

  /** Figures without words: without a name, or a component of pictures without a live summary and a table in figures. */
  function silent() {
    const named = (node) => node.getAttribute("aria-label") || node.getAttribute("aria-labelledby") || node.querySelector("title, desc");
    const PICTURE = "canvas:not([aria-hidden=true]), svg[role=img], svg[role=group], [role=graphics-document]";
    const bare = all(PICTURE).filter((node) => !node.closest("[aria-hidden=true]") && node.checkVisibility() && !named(node));
    const cells = (root) => [...root.querySelectorAll("table td")];
    const mute = roots().slice(1).filter((root) => root.querySelector("canvas, svg[role=img], svg[role=group]"))
      .filter((root) => !root.querySelector("[aria-live], [role=status]") || !cells(root).length || cells(root).every((cell) => !cell.textContent));
    return [...bare.map(brief), ...mute.map((root) => `no table or no live words: ${brief(root.querySelector(":not(style)"))}`)];
  }

  // ---- the way of the Tab key
  const LOOK = ["outlineStyle", "outlineWidth", "outlineColor", "boxShadow", "borderColor", "backgroundColor", "color", "textDecorationLine",
    "stroke", "strokeWidth", "opacity"];
  const look = (node) => { const style = getComputedStyle(node); return LOOK.map((key) => style[key]).join(); };
  /** How a control and what stands around it look: many a ring is drawn by a neighbour. */
  function around(node) {
    const list = [node, ...[...node.querySelectorAll("*")].slice(0, 10)];
    for (let up = node.parentElement, k = 0; up && k < 3; up = up.parentElement, k++) list.push(up, ...[...up.children].slice(0, 6));
    return list.map(look).join("|");
  }
  /** What stays the same when a component draws itself anew. */
  const key = (node) => node.dataset.focus ?? name(node);
  let due, atRest, seen, unseen;
  const reached = new Set();
  const group = (node) => node.closest("[role=radiogroup], [role=tablist], [role=toolbar]");

  /** Note every control that takes focus and how it looks at rest; return how many. */
  function controls() {
    document.activeElement?.blur(); // a page that opens may focus its scrolling part
    const found = all("a[href], button, input, select, textarea, summary, [tabindex]").filter((node) => node.tabIndex >= 0 && !node.disabled &&
      !node.closest("[inert]") && node.checkVisibility({ visibilityProperty: true }));
    due = new Set(found);
    atRest = new Map(found.map((node) => [node, around(node)]));
    seen = new Set();
    reached.clear();
    unseen = [];
    return found.length;
  }

  /** Note where focus is; return whether there is any. */
  function step() {
    let at = document.activeElement;
    while (at?.shadowRoot?.activeElement) at = at.shadowRoot.activeElement;
    if (!at || at === document.body) return false;
    reached.add(key(at));
    // a page that draws itself again replaces what was counted: reached is what stood in its place, before or after
    for (const one of due) if (one === at || !one.isConnected && reached.has(key(one))) due.delete(one);
    if (at.type === "radio" || group(at)) for (const one of due) if (group(one) && group(one) === group(at)) due.delete(one); // arrows go on
    if (!seen.has(at) && atRest.has(at) && around(at) === atRest.get(at)) unseen.push(name(at));
    seen.add(at);
    return true;
  }

  /** What the Tab key never reached, and where it was without showing it. */
  const lost = () => [...[...due].map((node) => `never reached: ${name(node)}`), ...unseen.map((words) => `no visible focus: ${words}`)];

  return { lacks, rest, go, wider, silent, controls, step, lost, left: () => due.size };
})();
