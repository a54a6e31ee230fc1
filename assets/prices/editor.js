// The instance editor of Shadow prices: requests in the time x memory plane, the price of each slot under them on the same
// axis, and what each start would cost the chosen request. Python solves; this file draws and sends what was moved.
// Geometry and elements are those of assets/shared/picture.js.

/** A request after a move, kept within what the page allows and what fits the memory. */
export function moved(request, change, memory, limits) {
  const within = (value, low, high) => Math.max(low, Math.min(high, value));
  const next = { a: request.a, s: request.s, o: request.o, ...change };
  next.a = within(next.a, 0, limits.arrival);
  next.s = within(next.s, 1, Math.max(1, memory - request.o));
  next.o = within(next.o, 1, Math.max(1, Math.min(limits.output, memory - next.s)));
  return next;
}

// ---------------------------------------------------------------- editor
const LEFT = 44, RIGHT = 16;
const HOOK = (globalThis.__shadowPriceEditor ??= { mounts: 0, solves: [], editor: null });

class Editor {
  constructor(parent) {
    this.parent = parent;
    this.root = h("div", { class: "editor picture" });
    parent.append(this.root);
    this.undo = [];
    this.seq = 0;
    this.hover = null;
    this.width = 0;
    this.resize = new ResizeObserver(() => {
      const width = this.root.clientWidth;
      if (this.data && width && Math.abs(width - this.width) > 0.5) this.draw();
    });
    this.resize.observe(this.root);
    this.live = h("p", { class: "hidden", "aria-live": "polite" });
    this.unlight = lights((what) => this.shine(what));
    HOOK.mounts += 1;
    HOOK.editor = this;
  }

  destroy() { this.unlight(); this.resize.disconnect(); this.root.remove(); HOOK.mounts -= 1; }

  update({ data, setStateValue }) {
    this.setStateValue = setStateValue;
    if (data.seq >= this.seq || !this.data) {
      if (this.sentAt) HOOK.solves.push(performance.now() - this.sentAt);
      this.sentAt = null;
      this.busy = false;
    }
    const fresh = data.id !== this.data?.id;
    if (data.preset !== this.data?.preset) this.undo = []; // what was moved belongs to the other preset
    this.data = data;
    this.seq = Math.max(this.seq, data.seq);
    if ((fresh || data.trouble) && !this.drag && !this.waiting) this.wish = null;
    this.draw();
    if (this.waiting && !this.busy) this.flush();
  }

  get alive() { return Boolean(this.data) && !this.busy && !this.waiting; }

  get instance() { return this.wish ?? { memory: this.data.memory, requests: this.data.requests.map(({ a, s, o }) => ({ a, s, o })) }; }

  // -------- what is sent
  /** Ask for another instance; one question is under way at a time, the last one wins. */
  ask(instance, remember = true) {
    if (remember) this.undo.push(JSON.stringify(this.instance));
    this.wish = instance;
    this.waiting = true;
    if (!this.busy) this.flush();
    this.draw();
  }

  flush() {
    this.waiting = false;
    this.busy = true;
    this.seq += 1;
    this.sentAt = performance.now();
    const { memory, requests } = this.wish;
    this.sentMoving = Boolean(this.drag); // while something moves, only starts and prices are asked for
    this.setStateValue("edit", { seq: this.seq, moving: this.sentMoving, memory, requests: requests.map(({ a, s, o }) => [a, s, o]) });
  }

  choose(what) {
    this.data.pick = { ...this.data.pick, ...what };
    this.setStateValue("pick", this.data.pick);
  }

  pick(what) {
    this.choose(what);
    this.draw();
  }

  change(i, change, remember = true) {
    const { memory, requests } = this.instance;
    const next = moved(requests[i], change, memory, this.data.limits);
    if (["a", "s", "o"].every((key) => next[key] === requests[i][key])) return;
    this.ask({ memory, requests: requests.map((r, j) => (j === i ? next : r)) }, remember);
  }

  resizeMemory(memory, remember = true) {
    const { requests } = this.instance, limits = this.data.limits;
    const least = Math.max(...requests.map((r) => r.s + r.o), 2);
    const next = Math.max(least, Math.min(limits.memory, memory));
    if (next !== this.instance.memory) this.ask({ memory: next, requests }, remember);
  }

  add(a) {
    const { memory, requests } = this.instance;
    if (requests.length >= this.data.limits.requests) return;
    const fresh = moved({ a: 0, s: 1, o: 1 }, { a, s: Math.max(1, Math.round(memory / 6)), o: 3 }, memory, this.data.limits);
    this.choose({ request: requests.length });
    this.ask({ memory, requests: [...requests, fresh] });
  }

  remove(i) {
    const { memory, requests } = this.instance;
    if (requests.length < 2) return;
    this.choose({ request: Math.min(i, requests.length - 2) });
    this.ask({ memory, requests: requests.filter((_, j) => j !== i) });
  }

  back() {
    const last = this.undo.pop();
    if (last) this.ask(JSON.parse(last), false);
  }

  // -------- dragging
  start(event, kind, i) {
    if (event.button) return;
    event.preventDefault();
    event.stopPropagation();
    const { memory, requests } = this.instance;
    this.drag = { kind, i, x: event.clientX, y: event.clientY, from: kind === "memory" ? memory : { ...requests[i] }, before: JSON.stringify(this.instance) };
    if (kind !== "memory" && this.data.pick.request !== i) this.pick({ request: i });
    this.root.classList.add("dragging");
    const move = (e) => this.move(e), stop = () => {
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", stop);
      removeEventListener("pointercancel", stop);
      const before = this.drag?.before;
      this.drag = null;
      this.root.classList.remove("dragging");
      if (before && before !== JSON.stringify(this.instance)) this.undo.push(before);
      if (this.sentMoving) this.ask(this.instance, false);
      else this.draw();
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", stop);
    addEventListener("pointercancel", stop);
  }

  move(event) {
    const { kind, i, from } = this.drag;
    const slots = Math.round((event.clientX - this.drag.x) / this.slot), blocks = Math.round((this.drag.y - event.clientY) / this.block);
    if (kind === "memory") this.resizeMemory(from + blocks, false);
    else if (kind === "a") this.change(i, { a: from.a + slots }, false);
    else if (kind === "o") this.change(i, { o: from.o + slots }, false);
    else this.change(i, { s: from.s + blocks }, false);
  }

  key(event, i) {
    const r = this.instance.requests[i];
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1 }[event.key];
    if (event.key === "Delete" || event.key === "Backspace") this.remove(i);
    else if (event.key === "Enter" || event.key === " ") this.pick({ request: i });
    else if (!step) return;
    else if (event.key === "ArrowUp" || event.key === "ArrowDown") this.change(i, { s: r.s + step });
    else if (event.shiftKey) this.change(i, { o: r.o + step });
    else this.change(i, { a: r.a + step });
    if (step && this.data.pick.request !== i) this.pick({ request: i });
    event.preventDefault();
  }

  // -------- drawing
  draw() {
    const { data } = this, dark = isDark(this.parent.host ?? this.root);
    const colours = data.palette[dark ? "dark" : "light"];
    for (const [token, value] of Object.entries(colours)) this.root.style.setProperty(`--${token}`, value);
    this.width = Math.max(this.root.clientWidth, 280); // while hidden it has none
    const focus = this.root.getRootNode().activeElement?.getAttribute("data-focus");
    const open = [...this.root.querySelectorAll("details")].map((d) => d.open);
    const scroll = this.root.querySelector(".program ol")?.scrollTop ?? 0;
    this.root.replaceChildren(
      h("h1", { class: "claim" }, data.words.claim),
      this.picture(colours),
      data.trouble ? h("p", { class: "note", role: "alert" }, data.trouble) : "",
      this.tools(), this.kinds(colours), this.program(), this.table(), this.live); // a line that comes and goes stands below what is pressed
    this.tell();
    this.root.querySelectorAll("details").forEach((d, j) => { d.open = open[j] ?? false; });
    const list = this.root.querySelector(".program ol");
    if (list) list.scrollTop = scroll;
    this.root.querySelector(".program").addEventListener?.("toggle", () => this.reveal());
    if (this.revealed !== JSON.stringify(data.pick)) this.reveal();
    this.revealed = JSON.stringify(data.pick);
    if (focus) this.root.querySelector(`[data-focus="${focus}"]`)?.focus({ preventScroll: true });
    this.shine(LIGHTS.what);
  }

  /** Light up what a word of the page names: a request by its letter, a slot, or a row: plane, price, cost. */
  shine(what) {
    if (!this.data) return;
    const { kind, name } = what ?? {}, i = kind === "request" ? this.data.requests.findIndex((r) => r.name === name) : -1;
    for (const node of this.root.querySelectorAll("[data-request]")) node.style.opacity = i >= 0 && Number(node.dataset.request) !== i ? 0.25 : "";
    if (i >= 0) this.light({ request: i }); else this.light(kind === "slot" ? { slot: name } : null);
    const [left, top, wide, tall] = (kind === "slot" ? this.places.slot(Number(name)) : kind === "row" && this.places[name]) || [];
    for (const [attribute, value] of Object.entries({ x: left ?? 0, y: top ?? 0, width: wide ?? 0, height: tall ?? 0 })) this.frame.setAttribute(attribute, value);
  }

  picture(colours) {
    const { data } = this, small = this.width < 560;
    const T = data.slots, M = data.memory, pieces = arrange(data.requests, T, M);
    const plane = small ? 260 : 340, waits = this.waits(), strip = small ? 84 : 104;
    const top = 26, floor = top + plane, waitsTop = floor + 24, priceTop = waitsTop + waits.height + 32, priceFloor = priceTop + strip;
    const costTop = priceFloor + 68, costFloor = costTop + (small ? 84 : 104), height = costFloor + 36;
    const x = (t) => LEFT + (t / T) * (this.width - LEFT - RIGHT), tallest = Math.max(M, this.instance.memory);
    const y = (b) => floor - (b / tallest) * plane;
    this.slot = x(1) - x(0);
    this.block = y(0) - y(1);
    const [low, high] = data.interval ?? [0, 0]; // no upper end: null
    const spread = high === null || high - low > 1e-6 ? [low, high ?? Infinity] : null;
    const peak = Math.max(...data.prices, Number.isFinite(spread?.[1]) ? spread[1] : 0), py = (p) => priceFloor - (peak ? Math.min(p / peak, 1.06) : 0) * (strip - 24);
    const slots = Array.from({ length: T }, (_, j) => j + 1), priced = slots.filter((t) => data.prices[t - 1] > 1e-6);
    const chosen = data.pick.slot, marksX = marks(T, small ? 6 : 14);

    const svg = g("svg", { viewBox: `0 0 ${this.width} ${height}`, height, role: "group", "aria-label": data.words.picture },
      g("defs", {}, data.palette.classes.map(({ token, pattern: kind }) => pattern(token, kind, colours))));
    // priced slots tinted through both plots; the chosen one outlined
    svg.append(...priced.map((t) => g("rect", { x: x(t - 1), y: top, width: this.slot, height: priceFloor - top, fill: "var(--lp)", opacity: 0.09 })));
    svg.append(...marks(M, small ? 4 : 6).map((b) => g("g", {},
      g("line", { x1: x(0), x2: x(T), y1: y(b), y2: y(b), stroke: "var(--grid)" }),
      g("text", { x: LEFT - 8, y: y(b) + 4, "text-anchor": "end" }, say(b)))));
    svg.append(g("text", { x: 0, y: 12 }, data.words.memory_axis));
    // pieces of the schedule
    const labels = [], mine = (piece) => piece.i === data.pick.request;
    for (const piece of [...pieces].sort((p, q) => mine(p) - mine(q) || p.i - q.i)) svg.append(this.piece(piece, x, y, pieces.length > 24, labels));
    // capacity: a handle on the line of full memory
    svg.append(g("line", { x1: x(0), x2: x(T), y1: y(M), y2: y(M), stroke: "var(--ink)", "stroke-width": 2, "pointer-events": "none" }),
      g("text", { x: x(T) - 12, y: y(M) - 9, "text-anchor": "end", class: "strong" }, data.words.full.replace("{memory}", say(this.instance.memory))));
    // full slots are thick on that line: full is not yet priced
    const full = slots.filter((t) => (data.used[t - 1] ?? 0) > M - 1e-6);
    svg.append(...full.map((t) => g("line", { x1: x(t - 1), x2: x(t), y1: y(M), y2: y(M), stroke: "var(--ink)", "stroke-width": 5, "pointer-events": "none" })));
    if (this.instance.memory !== M) svg.append(g("line", { x1: x(0), x2: x(T), y1: y(this.instance.memory), y2: y(this.instance.memory), class: "ghost" }));
    svg.append(this.ghost(x, y), ...this.handles(pieces, x, y, T, M));
    // who waits
    if (waits.lines.length) svg.append(g("text", { x: LEFT - 8, y: waitsTop + 6, "text-anchor": "end" }, data.words.waits));
    svg.append(...waits.lines.map(({ row, from, to, i }) => g("line", { x1: x(from), x2: x(to), y1: waitsTop + row * 7, y2: waitsTop + row * 7,
      stroke: i === data.pick.request ? "var(--ink)" : `var(--${data.requests[i].token})`, "stroke-width": i === data.pick.request ? 3.5 : 2.5 })));
    // price
    svg.append(g("text", { x: x(0), y: priceTop - 10, class: "title price" }, data.words.price_title),
      g("line", { x1: x(0), x2: x(T), y1: priceFloor, y2: priceFloor, stroke: "var(--outline)" }));
    const steps = slots.flatMap((t) => [`${x(t - 1)},${py(data.prices[t - 1])}`, `${x(t)},${py(data.prices[t - 1])}`]);
    svg.append(g("path", { d: `M${x(0)},${priceFloor}L${steps.join("L")}L${x(T)},${priceFloor}Z`, fill: "var(--lp)", opacity: 0.22 }),
      g("path", { d: `M${steps.join("L")}`, fill: "none", stroke: "var(--lp)", "stroke-width": 2.5 }));
    let free = -Infinity;
    for (const t of priced) {
      const at = x(t - 0.5), change = Math.abs(data.prices[t - 1] - (data.prices[t - 2] ?? 0)) > 1e-6;
      if (!change || at - free < 34) continue;
      svg.append(g("text", { x: at, y: py(Math.max(data.prices[t - 1], t === chosen && spread ? spread[1] : 0)) - 6, "text-anchor": "middle", class: "price" }, say(data.prices[t - 1])));
      free = at;
    }
    // full, yet free: the slots that show that full is not sufficient, a run of them named once
    const idle = full.filter((t) => !priced.includes(t));
    for (const t of priced.length ? idle : []) {
      svg.append(g("line", { x1: x(t - 1) + 1, x2: x(t) - 1, y1: priceFloor - 1, y2: priceFloor - 1, stroke: "var(--ink)", "stroke-width": 4, "pointer-events": "none" }));
      if (!idle.includes(t - 1)) svg.append(g("text", { x: x(t - 1) + 2, y: priceFloor - 8, class: "strong" }, data.words.free));
    }
    if (!priced.length) svg.append(g("text", { x: x(0) + 8, y: priceFloor - 10 }, data.words.no_price));
    if (chosen && spread) svg.append(this.whisker(chosen, spread, x, py));
    svg.append(...marksX.map((t) => g("text", { x: x(t), y: priceFloor + 17, "text-anchor": "middle" }, say(t))),
      g("text", { x: x(T), y: priceFloor + 34, "text-anchor": "end" }, data.words.time_axis));
    if (chosen && chosen <= T) svg.append(g("rect", { x: x(chosen - 1), y: top - 6, width: this.slot, height: priceFloor - top + 6, fill: "none", stroke: "var(--ink)", "stroke-width": 1.5, "pointer-events": "none" }));
    this.cost(svg, x, costTop, costFloor, T);
    svg.append(this.cursor(x, priceTop, priceFloor, T, chosen));
    // where the frame goes that a word of the page calls for
    const row = (from, to) => [x(0) - 3, from, x(T) - x(0) + 6, to - from];
    this.places = { plane: row(top - 4, floor + 3), price: row(priceTop - 26, priceFloor + 4), cost: row(costTop - 26, costFloor + 4), slot: (t) => t >= 1 && t <= T && [x(t - 1), top - 6, this.slot, priceFloor - top + 6] };
    svg.append((this.frame = g("rect", { fill: "none", stroke: "var(--ink)", "stroke-width": 3, "pointer-events": "none" })));
    return svg;
  }

  /** Waiting times as lines from arrival to start, packed into few rows. */
  waits() {
    const ends = [], lines = [];
    this.data.requests.forEach((r, i) => {
      const from = r.a, to = Math.max(...r.starts.map(([k]) => k));
      if (to <= from) return;
      let row = ends.findIndex((end) => end <= from - 0.2);
      if (row < 0) row = ends.length;
      if (row > 11) return;
      ends[row] = to;
      lines.push({ i, row, from, to });
    });
    return { lines, height: Math.max(1, ends.length) * 7 };
  }

  piece({ i, k, share, columns }, x, y, crowded, labels) {
    const { data } = this, r = data.requests[i], picked = data.pick.request === i;
    const d = outline(columns, k, x, y), first = r.starts[0][0] === k;
    const middle = columns[Math.floor((columns.length - 1) / 2)], at = x(k + Math.floor((columns.length - 1) / 2) + 0.5);
    const room = Math.min(y(middle[0]) - y(middle[1]), 99), wide = x(columns.length) - x(0);
    const node = g("g", { class: "piece", "data-request": i, tabindex: first ? 0 : null, role: first ? "button" : null, "data-focus": first ? `r${i}` : null, "aria-pressed": first ? String(picked) : null,
      "aria-label": first ? this.described(r) : null,
      onpointerdown: (e) => this.start(e, "a", i), onkeydown: (e) => this.key(e, i),
      onpointerenter: () => { this.light({ request: i }); lightWords(`request:${r.name}`); }, onpointerleave: () => { this.light(null); lightWords(); } },
      g("path", { d, fill: `url(#fill-${r.token})` }),
      g("path", { class: "edge", d, fill: "none", stroke: picked ? "var(--ink)" : "var(--surface)", "stroke-width": picked ? 2.5 : 1.5, "stroke-linejoin": "round" }));
    if (room >= 17 && wide >= 18) {
      const label = share > 0.999 || crowded ? r.name : `${r.name} ${Math.round(100 * share)}\u2009%`, box = 10 + 8 * label.length;
      const middleY = (y(middle[0]) + y(middle[1])) / 2, meets = labels.some(([lx, ly, w]) => Math.abs(lx - at) < (w + box) / 2 && Math.abs(ly - middleY) < 20);
      if (wide >= box - 4 && !meets) labels.push([at, middleY, box]);
      if (wide >= box - 4 && !meets) node.append(g("rect", { x: at - box / 2, y: (y(middle[0]) + y(middle[1])) / 2 - 9, width: box, height: 18, rx: 3, fill: "var(--surface)" }),
        g("text", { x: at, y: (y(middle[0]) + y(middle[1])) / 2 + 5, "text-anchor": "middle", class: "name" }, label));
    }
    node.append(g("title", {}, this.described(r)));
    return node;
  }

  described(r) {
    const starts = r.starts.map(([k, share]) => (share > 0.999 ? `${k}` : `${k} (${Math.round(100 * share)} %)`)).join(", ");
    return `Request ${r.name}: arrives at ${r.a}, prompt ${r.s}, answer ${r.o}; starts at ${starts}`;
  }

  /** The wanted shape of the request being moved, standing on the floor at its arrival. */
  ghost(x, y) {
    const i = this.data.pick.request, r = this.instance.requests[i];
    if (r === undefined || !(this.drag || this.busy)) return g("g");
    const columns = Array.from({ length: r.o }, (_, j) => [0, r.s + j + 1]);
    return g("path", { class: "ghost", d: outline(columns, r.a, x, y) });
  }

  handles(pieces, x, y, T, M) {
    const i = this.data.pick.request, r = this.data.requests[i];
    const grip = (kind, cx, cy, label, axis) => g("g", { "aria-hidden": "true" }, // the keys of the request itself do the same
     
      axis === "a" ? g("path", { class: "handle", d: `M${cx},${cy - 1}l7,11h-14Z` }) : g("circle", { class: "handle", cx, cy, r: 5.5 }),
      g("rect", { class: `grip ${axis === "y" ? "y" : "x"}`, x: cx - 15, y: cy - 15, width: 30, height: 30, onpointerdown: (e) => this.start(e, kind, i) },
        g("title", {}, label)));
    const out = [];
    if (r) {
      const mine = pieces.filter((p) => p.i === i).sort((p, q) => q.share - p.share)[0], last = mine.columns.at(-1), mid = mine.columns[0];
      out.push(grip("a", x(r.a), y(0) + 2, this.data.words.grip_arrival, "a"));
      out.push(grip("o", x(mine.k + r.o), (y(last[0]) + y(last[1])) / 2, this.data.words.grip_output, "x"));
      out.push(grip("s", x(mine.k + 0.5), y(mid[1]), this.data.words.grip_prompt, "y"));
    }
    out.push(g("g", { role: "slider", tabindex: 0, "data-focus": "memory", "aria-label": this.data.words.memory_axis, "aria-valuenow": this.instance.memory, "aria-valuemin": 2, "aria-valuemax": this.data.limits.memory,
      onkeydown: (e) => {
        const step = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1 }[e.key];
        if (step) { this.resizeMemory(this.instance.memory + step); e.preventDefault(); }
      } },
      g("circle", { class: "handle", cx: x(T), cy: y(this.instance.memory), r: 5.5 }),
      g("rect", { class: "grip y", x: x(T) - 15, y: y(this.instance.memory) - 15, width: 30, height: 30, onpointerdown: (e) => this.start(e, "memory", null) }, g("title", {}, this.data.words.grip_memory))));
    return out;
  }

  whisker(t, [low, high], x, py) {
    const at = x(t - 0.5);
    return g("g", { stroke: "var(--ink)", "stroke-width": 1.5, fill: "none" },
      g("path", { d: `M${at},${py(low)}V${py(high)}M${at - 5},${py(low)}h10M${at - 5},${py(high)}h10` }));
  }

  /** Own latency and memory bill of the chosen request at each start; the starts in use stand where the sum is least. */
  cost(svg, x, top, floor, T) {
    const { data } = this, r = data.requests[data.pick.request];
    if (!r) return;
    const title = data.words.cost_title.replace("{name}", r.name);
    svg.append(g("text", { x: x(0), y: top - 10, class: "title" }, title), g("line", { x1: x(0), x2: x(T), y1: floor, y2: floor, stroke: "var(--outline)" }));
    const starts = r.cost.map((above, j) => ({ k: r.a + j, own: r.a + j + r.o - r.a, all: r.bill + above })).filter(({ k }) => k < T);
    const most = Math.max(...starts.map(({ all }) => all), 1), y = (v) => floor - (v / most) * (floor - top - 4);
    for (const { k, own, all } of starts) {
      const used = r.starts.some(([at]) => at === k), least = all - r.bill < 1e-6 * Math.max(1, r.bill);
      const w = Math.max(1, this.slot - (this.slot > 8 ? 3 : 1)), left = x(k) + (this.slot - w) / 2;
      svg.append(g("g", { opacity: least ? 1 : 0.45 },
        g("rect", { x: left, y: y(own), width: w, height: floor - y(own), fill: "var(--muted)" }),
        g("rect", { x: left, y: y(all), width: w, height: Math.max(0, y(own) - y(all)), fill: "var(--lp)" }),
        g("title", {}, data.words.cost_at.replace("{start}", k).replace("{own}", say(own)).replace("{bill}", say(all - own)).replace("{all}", say(all)))));
      if (used) svg.append(g("path", { d: `M${left + w / 2 - 5},${floor + 11}h10l-5,-8Z`, fill: "var(--ink)" }));
    }
    svg.append(g("line", { x1: x(0), x2: x(T), y1: y(r.bill), y2: y(r.bill), stroke: "var(--ink)", "stroke-dasharray": "2 4" }),
      g("text", { x: LEFT - 8, y: y(r.bill) + 4, "text-anchor": "end", class: "strong" }, say(r.bill)),
      g("text", { x: x(T), y: floor + 17, "text-anchor": "end" }, data.words.cost_axis.replace("{name}", r.name)));
    const key = (at, token, text) => [g("rect", { x: at, y: top - 20, width: 11, height: 11, fill: `var(--${token})` }), g("text", { x: at + 16, y: top - 10 }, text)];
    if (this.width >= 640) svg.append(...key(x(T) - 236, "muted", data.words.own), ...key(x(T) - 112, "lp", data.words.rent));
  }

  /** The chosen slot: click a column, or move with the arrow keys. */
  cursor(x, top, floor, T, chosen) {
    const { data } = this;
    const pick = (t) => this.pick({ slot: Math.max(1, Math.min(T, t)) });
    const columns = Array.from({ length: T }, (_, j) => g("rect", { class: "column", x: x(j), y: top - 4, width: this.slot, height: floor - top + 8,
      onclick: () => pick(j + 1), onpointerenter: () => { this.light({ slot: j + 1 }); lightWords(`slot:${j + 1}`); }, onpointerleave: () => { this.light(null); lightWords(); } },
      g("title", {}, this.slotWords(j + 1))));
    return g("g", { role: "slider", tabindex: 0, "data-focus": "slot", "aria-label": data.words.slot_cursor, "aria-valuemin": 1, "aria-valuemax": T, "aria-valuenow": chosen ?? 1, "aria-valuetext": this.slotWords(chosen ?? 1),
      onkeydown: (e) => {
        const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[e.key];
        if (step) { pick((chosen ?? 1) + step); e.preventDefault(); }
      } }, columns);
  }

  /** Say the chosen request and slot to those who cannot see them, once nothing moves. */
  tell() {
    const { data, live } = this, { request, slot } = data.pick, r = data.requests[request];
    if (this.drag || this.busy || this.waiting) return;
    const words = `${r ? `${this.described(r)}. ` : ""}${slot ? this.slotWords(slot) : ""}`;
    if (words !== live.textContent) live.textContent = words;
  }

  slotWords(t) {
    const { data } = this;
    return data.words.slot.replace("{slot}", t).replace("{used}", say(data.used[t - 1] ?? 0)).replace("{memory}", say(data.memory)).replace("{price}", say(data.prices[t - 1] ?? 0, 3));
  }

  /** Bring the first marked row of the program into its window. */
  reveal() {
    const list = this.root.querySelector(".program ol"), row = list?.querySelector(".lit");
    if (row) list.scrollTop = row.offsetTop - list.offsetTop - 40;
  }

  light(what) {
    for (const row of this.root.querySelectorAll(".program li")) {
      const lit = what === null ? this.rowIsChosen(row.dataset.row) : row.dataset.row === (what.slot ? `memory_${what.slot}` : `start_${what.request}`);
      row.classList.toggle("lit", lit);
    }
  }

  rowIsChosen(name) { return name === `memory_${this.data.pick.slot}` || name === `start_${this.data.pick.request}`; }

  /** What the fills mean, of those that are drawn, and what a share is once one is drawn. */
  kinds(colours) {
    const { requests, kinds, words, palette } = this.data, tokens = [...new Set(requests.map((r) => r.token))], split = requests.find((r) => r.starts.length > 1);
    const share = split && words.shares.replaceAll("{name}", split.name).replace("{share}", Math.round(100 * split.starts[0][1]));
    return h("p", { class: "kinds hint" }, tokens.length > 1 && tokens.map((token) => h("span", {},
      g("svg", { viewBox: "0 0 22 12", height: 12, "aria-hidden": "true" }, g("defs", {}, palette.classes.filter((c) => c.token === token).map((c) => pattern(token, c.pattern, colours))),
        g("rect", { width: 22, height: 12, fill: `url(#fill-${token})` })), kinds[token])), share ? h("span", {}, share) : "");
  }

  tools() {
    const { data } = this, i = data.pick.request, r = this.instance.requests[i], { memory, requests } = this.instance;
    const step = (label, value, less, more, focus) => h("span", { class: "step", role: "group", "aria-label": label },
      h("span", {}, label),
      h("button", { ...press(less), "aria-label": `${label}: one less`, "data-focus": `${focus}-` }, "\u2212"), h("output", {}, say(value)),
      h("button", { ...press(more), "aria-label": `${label}: one more`, "data-focus": `${focus}+` }, "+"));
    return h("div", { class: "tools" },
      step(data.words.blocks, memory, () => this.resizeMemory(memory - 1), () => this.resizeMemory(memory + 1), "m"),
      r && h("span", { class: "chosen" }, data.words.chosen.replace("{name}", data.requests[i]?.name ?? letter(i))),
      r && step(data.words.arrives, r.a, () => this.change(i, { a: r.a - 1 }), () => this.change(i, { a: r.a + 1 }), "a"),
      r && step(data.words.prompt, r.s, () => this.change(i, { s: r.s - 1 }), () => this.change(i, { s: r.s + 1 }), "s"),
      r && step(data.words.answer, r.o, () => this.change(i, { o: r.o - 1 }), () => this.change(i, { o: r.o + 1 }), "o"),
      h("span", { class: "step" },
        h("button", { class: "word", onclick: () => this.add(r ? r.a : 0), disabled: requests.length >= data.limits.requests, "data-focus": "add" }, data.words.add),
        r && h("button", { class: "word", onclick: () => this.remove(i), disabled: requests.length < 2, "data-focus": "remove" }, data.words.remove.replace("{name}", data.requests[i]?.name ?? letter(i))),
        h("button", { class: "word", onclick: () => this.back(), disabled: !this.undo.length, "data-focus": "undo" }, data.words.undo)),
      h("p", { class: "hint" }, data.words.limits));
  }

  /** The program as PuLP prints it; the rows of the chosen slot and request are lit. */
  program() {
    const { data } = this;
    if (!data.program.length) return h("p", { class: "program hint" }, data.words.program_too_long);
    return h("details", { class: "program" }, h("summary", {}, data.words.program),
      h("ol", { tabindex: 0, "aria-label": data.words.program }, data.program.map(([name, text]) =>
        h("li", { "data-row": name, class: this.rowIsChosen(name) ? "lit" : null }, name ? h("b", {}, `${name}: `) : "", text))));
  }

  table() {
    const { data } = this;
    return h("details", { class: "table" }, h("summary", {}, data.words.table),
      h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, data.words.columns.map((c) => h("th", { scope: "col" }, c)))),
        h("tbody", {}, data.requests.map((r) => h("tr", {}, h("th", { scope: "row" }, r.name),
          [r.a, r.s, r.o, r.starts.map(([k]) => k).join(", "), r.latency, r.bill].map((v) => h("td", {}, typeof v === "number" ? say(v) : v)))))),
      h("table", {}, h("thead", {}, h("tr", {}, data.words.slot_columns.map((c) => h("th", { scope: "col" }, c)))),
        h("tbody", {}, data.prices.map((p, j) => h("tr", {}, h("th", { scope: "row" }, j + 1), [data.used[j] ?? 0, data.memory - (data.used[j] ?? 0), p].map((v) => h("td", {}, say(v, 3)))))))));
  }
}

// ---------------------------------------------------------------- mount
export default (component) => mountIn(component, Editor);
