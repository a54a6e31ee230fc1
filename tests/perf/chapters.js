// What tests/perf/chapters.py measures inside a page, as __clock; times in ms since the page was asked for.
globalThis.__clock = (() => {
  const marks = { bytes: 0 }, mark = (name) => { marks[name] ??= performance.now(); };
  const Plain = globalThis.WebSocket;
  globalThis.WebSocket = class extends Plain {
    constructor(...way) {
      super(...way);
      mark("asked");
      this.addEventListener("open", () => mark("open"));
      this.addEventListener("message", ({ data }) => { mark("told"); if (!marks.moving) marks.bytes += data.byteLength ?? data.size ?? 0; });
    }
  };
  const ours = () => [...globalThis.__shadowPriceMounted ?? []].filter((one) => !one.root.hidden);
  const drawn = () => [...document.querySelectorAll("[data-testid=stVegaLiteChart]")].filter((chart) => chart.querySelector("svg, canvas"));
  let before = new Set();

  /** Mark when a picture that was not there before moves, or is finished where none moves. */
  function look() {
    if (ours().some((one) => !before.has(one))) mark("mounted");
    if ([...ours().filter((one) => one.alive), ...drawn()].some((one) => !before.has(one))) mark("moving");
    else requestAnimationFrame(look);
  }
  requestAnimationFrame(look);

  /** Start again at the next click, on a link to another page. */
  function leave() {
    addEventListener("click", () => {
      for (const name of Object.keys(marks)) delete marks[name];
      marks.bytes = 0;
      marks.left = performance.now();
      before = new Set([...ours(), ...drawn()]);
      requestAnimationFrame(look);
    }, { capture: true, once: true });
  }

  let moved, seen;
  const after = () => requestAnimationFrame(() => setTimeout(() => { seen ??= performance.now(); }));
  const charts = new MutationObserver((changes) => {
    if (changes.some(({ target }) => target.parentElement?.closest("[data-testid=stVegaLiteChart]"))) after();
  });

  /** Take the time from the next press of a key to the next picture: of a component if there is one, else of a chart. */
  function move() {
    moved = seen = undefined;
    charts.disconnect();
    addEventListener("keydown", () => { moved = performance.now(); }, { capture: true, once: true });
    for (const one of ours()) {
      const own = one.__update ??= one.update, log = one.log;
      one.update = async function (...what) { await own.apply(this, what); if (log === undefined || this.log !== log) after(); };
    }
    if (!ours().length) charts.observe(document.querySelector("[data-testid=stMain]"), { subtree: true, childList: true, attributes: true });
  }
  return { marks, leave, move, took: () => seen - moved };
})();
