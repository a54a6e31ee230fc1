// The challenge: eight requests whose starts the reader drags along time. Memory in use, what is over and the total latency are
// counted here, live; Python hears of a move when it ends. The same file draws the schedules that are revealed, not to be moved.
// Geometry and elements are those of assets/shared/picture.js. Sections: arithmetic (pure, tested with node) · board · mount.

// ---------------------------------------------------------------- arithmetic
/** Blocks in use in slots 1 .. slots, slot t at index t - 1: a request holds its prompt and one block more in each slot. */
export function held(requests, starts, slots) {
  const used = new Array(slots).fill(0);
  requests.forEach((r, i) => { for (let j = 0; j < r.o; j++) used[starts[i] + j] += r.s + j + 1; });
  return used;
}

/** Total latency in slots: from each arrival to the end of the answer. */
export function latency(requests, starts) { return requests.reduce((sum, r, i) => sum + starts[i] + r.o - r.a, 0); }

/** Slots, counted from 1, that ask for more than there is; shares of requests come rounded. */
export function over(used, memory) { return used.flatMap((blocks, j) => (blocks > memory + 1e-4 ? [j + 1] : [])); }

/** A start kept on the board: not before the arrival, and done by its end. */
export function within(start, request, slots) { return Math.max(request.a, Math.min(slots - request.o, start)); }

/** Names as one says them: a, b and c. */
export function spoken(names) { return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`; }

/** A sentence with its {places} filled. */
export function filled(words, places) { return words.replace(/\{(\w+)\}/g, (_, name) => places[name]); }

/** What memory says about a schedule: that it fits, or which slots ask for how much. */
export function verdict(used, memory, words) {
  const slots = over(used, memory);
  if (!slots.length) return filled(words.fits, { memory });
  return filled(slots.length > 1 ? words.over_many : words.over_one, { slots: spoken(slots), most: Math.max(...used), memory });
}

// ---------------------------------------------------------------- board
const LEFT = 44, RIGHT = 14, ROW = 17;
const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

class Challenge {
  constructor(parent) {
    this.parent = parent;
    this.root = h("div", { class: "challenge picture" });
    this.live = h("p", { class: "hidden", role: "status" });
    parent.append(this.root, this.live);
    this.undo = [];
    this.seq = 0;
    this.width = 0;
    this.picked = 0;
    this.resize = new ResizeObserver(() => {
      if (this.data && this.root.clientWidth && Math.abs(this.root.clientWidth - this.width) > 0.5) this.draw();
    });
    this.resize.observe(this.root);
    this.unlight = lights((what) => this.shine(what));
  }

  get alive() { return Boolean(this.drawn) && !this.busy; }

  destroy() { this.unlight(); this.resize.disconnect(); this.drag?.stop(); this.root.remove(); this.live.remove(); }

  update({ data, setStateValue }) {
    this.setStateValue = setStateValue;
    const fresh = data.id !== this.data?.id;
    if (fresh) { this.undo = []; this.drag?.stop(); this.fill = !calm(); }
    if (data.seq >= this.seq) this.busy = false;
    if (fresh) this.waiting = false;
    if (fresh || (!this.busy && !this.waiting && !this.drag)) this.starts = [...data.starts];
    this.seq = Math.max(this.seq, data.seq);
    this.data = data;
    this.draw();
    this.fill = false;
    if (this.waiting && !this.busy) this.flush();
  }

  // -------- what is moved
  move(i, start) {
    const next = within(start, this.data.requests[i], this.data.slots);
    if (next === this.starts[i]) return;
    this.starts[i] = next;
    this.draw();
  }

  /** Keep what was before for Undo, then tell Python and whoever listens. */
  settle(before) {
    if (JSON.stringify(before) === JSON.stringify(this.starts)) return;
    this.undo.push(before);
    this.send();
  }

  /** One move is under way at a time and the last one wins: a run that is cut short would take the board away. */
  send() {
    this.waiting = true;
    if (!this.busy) this.flush();
    this.draw();
    this.live.textContent = this.said();
  }

  flush() {
    this.waiting = false;
    this.busy = true;
    this.seq += 1;
    this.setStateValue("edit", { seq: this.seq, id: this.data.id, starts: [...this.starts] });
  }

  put(starts) {
    const before = [...this.starts];
    this.starts = [...starts];
    this.settle(before);
  }

  back() {
    if (!this.undo.length) return;
    this.starts = this.undo.pop();
    this.send();
  }

  step(i, by) {
    const before = [...this.starts];
    this.picked = i;
    this.move(i, this.starts[i] + by);
    this.settle(before);
  }

  key(event, i) {
    const far = this.data.slots, by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageUp: 5, PageDown: -5, Home: -far, End: far }[event.key];
    if (!by || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.step(i, by);
  }

  grab(event, i) {
    if (event.button) return;
    event.preventDefault();
    this.drag?.stop();
    const from = event.clientX, start = this.starts[i], before = [...this.starts];
    const go = (e) => { if (e.pointerId === event.pointerId) this.move(i, start + Math.round((e.clientX - from) / this.slot)); };
    const stop = (e) => {
      if (e && e.pointerId !== event.pointerId) return;
      removeEventListener("pointermove", go);
      for (const end of ["pointerup", "pointercancel"]) removeEventListener(end, stop);
      this.drag = null;
      this.root.classList.remove("dragging");
      if (e) { this.settle(before); this.draw(); }
    };
    this.drag = { i, stop };
    this.picked = i;
    this.root.classList.add("dragging");
    this.root.setPointerCapture?.(event.pointerId); // the piece is drawn anew while it moves
    addEventListener("pointermove", go);
    for (const end of ["pointerup", "pointercancel"]) addEventListener(end, stop);
    this.draw();
    this.root.querySelector(`[data-focus="r${i}"]`)?.focus({ preventScroll: true });
  }

  // -------- words
  said() {
    const { data } = this, total = latency(data.requests, this.starts);
    return `${filled(data.words.total, { total })}. ${verdict(held(data.requests, this.starts, data.slots), data.memory, data.words)}`;
  }

  described(i) {
    const { a, s, o, name } = this.data.requests[i], start = this.starts[i];
    return filled(this.data.words.request, { name, a, s, o, start, waits: start - a });
  }

  // -------- drawing
  draw() {
    const { data } = this, colours = data.palette[isDark(this.parent.host ?? this.root) ? "dark" : "light"];
    for (const [token, value] of Object.entries(colours)) this.root.style.setProperty(`--${token}`, value);
    this.width = Math.max(this.root.clientWidth, 280); // while hidden it has none
    const focus = this.root.getRootNode().activeElement?.getAttribute("data-focus"), open = this.root.querySelector("details")?.open;
    this.root.replaceChildren(...(data.others ? [this.gallery(colours)] : [this.score(), this.board(colours), this.kinds(colours), this.tools(), this.table()]));
    if (open) this.root.querySelector("details").open = true;
    if (focus) this.root.querySelector(`[data-focus="${focus}"]`)?.focus({ preventScroll: true });
    this.drawn = true;
    this.shine(LIGHTS.what);
  }

  /** Light up what a word of the page names: a request by its letter, a slot, or a row: plane, rows, price. */
  shine(what) {
    if (!this.data) return;
    const { kind, name } = what ?? {}, i = kind === "request" ? this.data.requests.findIndex((r) => r.name === name) : -1;
    this.light(i < 0 ? null : i);
    if (!this.frame) return;
    const [left, top, wide, tall] = (kind === "slot" ? this.places.slot(Number(name)) : kind === "row" && this.places[name]) || [];
    for (const [attribute, value] of Object.entries({ x: left ?? 0, y: top ?? 0, width: wide ?? 0, height: tall ?? 0 })) this.frame.setAttribute(attribute, value);
  }

  score() {
    const { data } = this, used = held(data.requests, this.starts, data.slots), bad = over(used, data.memory).length > 0;
    const total = latency(data.requests, this.starts), less = total - data.first;
    return h("div", { class: "score" },
      h("p", { class: "total" }, h("b", {}, say(total)), ` ${data.words.unit}`),
      h("p", { class: "against" }, ...(less ? [filled(data.words.against, { first: say(data.first) }), h("b", {}, ` ${less > 0 ? "+" : ""}${say(less)}`)] : [data.words.same])),
      h("p", { class: bad ? "bad" : "good" }, bad ? "\u2715 " : "\u2713 ", verdict(used, data.memory, data.words)));
  }

  defs(colours) {
    return g("defs", {}, this.data.palette.classes.map(({ token, pattern: kind }) => pattern(token, kind, colours)),
      g("pattern", { id: "over", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
        g("rect", { width: 2.2, height: 6, fill: "var(--alarm)" })));
  }

  /** Axes, capacity, pieces and what is over it; `edge` draws a piece, so that a board's can be moved and a figure's cannot. */
  plane(svg, pieces, used, { x, y, slots, top, small, names, edge }) {
    const { data } = this, floor = y(0), M = data.memory;
    svg.append(...data.prices?.flatMap((p, j) => (p > 1e-6 ? [g("rect", { x: x(j), y: top, width: x(1) - x(0), height: floor - top, fill: "var(--lp)", opacity: 0.1 })] : [])) ?? []);
    svg.append(...marks(M, small ? 3 : 5).map((b) => g("g", {},
      g("line", { x1: x(0), x2: x(slots), y1: y(b), y2: y(b), stroke: "var(--grid)" }), g("text", { x: x(0) - 7, y: y(b) + 4, "text-anchor": "end" }, say(b)))));
    svg.append(...pieces.map(edge));
    over(used, M).forEach((t) => svg.append(g("g", { class: "over", "pointer-events": "none" },
      g("rect", { x: x(t - 1), y: y(used[t - 1]), width: x(1) - x(0), height: y(M) - y(used[t - 1]), fill: "url(#over)" }),
      g("rect", { x: x(t - 1), y: y(used[t - 1]), width: x(1) - x(0), height: y(M) - y(used[t - 1]), fill: "none", stroke: "var(--alarm)", "stroke-width": 2 }),
      g("text", { x: x(t - 0.5), y: y(used[t - 1]) - 5, "text-anchor": "middle", class: "bad" }, `+${say(used[t - 1] - M)}`))));
    svg.append(...names.map(([at, middle, box, label]) => g("g", { class: "piece", "pointer-events": "none" },
      g("rect", { x: at - box / 2, y: middle - 9, width: box, height: 18, rx: 3, fill: "var(--surface)" }), g("text", { x: at, y: middle + 5, "text-anchor": "middle", class: "name" }, label))));
    svg.append(g("line", { x1: x(0), x2: x(slots), y1: y(M), y2: y(M), stroke: "var(--ink)", "stroke-width": 2, "pointer-events": "none" }));
    svg.append(...marks(slots, small ? 5 : 14).map((t) => g("text", { x: x(t), y: floor + 16, "text-anchor": "middle" }, say(t))));
  }

  /** A piece; its name goes to `names`, drawn above all pieces, unless it would cover another one's. */
  shape({ i, k, columns, share }, x, y, names, props = {}) {
    const r = this.data.requests[i], d = outline(columns, k, x, y), mid = Math.floor((columns.length - 1) / 2), [low, high] = columns[mid];
    const at = x(k + mid + 0.5), middle = (y(low) + y(high)) / 2, label = share > 0.999 ? r.name : `${r.name} ${Math.round(100 * share)}\u2009%`, box = 9 + 8 * label.length;
    const covers = names.some(([left, up, width]) => Math.abs(left - at) < (width + box) / 2 && Math.abs(up - middle) < 18);
    const fits = y(low) - y(high) >= 15 && x(columns.length) - x(0) >= box - 4 && !covers;
    if (fits) names.push([at, middle, box, label]);
    return g("g", { class: "piece", ...props }, g("path", { d, fill: `url(#fill-${r.token})` }), g("path", { class: "edge", d, fill: "none" }),
      g("title", {}, props["aria-label"] ?? label));
  }

  pieces(requests, starts, slots, memory) {
    return arrange(requests.map((r, i) => ({ ...r, starts: [].concat(starts[i]).map((k) => (Array.isArray(k) ? k : [k, 1])) })), slots, memory);
  }

  board(colours) {
    const { data, starts } = this, { requests, slots, memory, words } = data, small = this.width < 560;
    const used = held(requests, starts, slots), tallest = Math.max(Math.ceil(memory * 1.2), ...used) + 1;
    const top = 24, floor = top + (small ? 250 : 300), rowsTop = floor + 44, rowsEnd = rowsTop + requests.length * ROW, priceTop = rowsEnd + 40;
    const height = data.prices ? priceTop + 92 : rowsEnd + 8;
    const x = (t) => LEFT + (t / slots) * (this.width - LEFT - RIGHT), y = (b) => floor - (b / tallest) * (floor - top);
    this.slot = x(1) - x(0);
    const svg = g("svg", { viewBox: `0 0 ${this.width} ${height}`, height, role: "group", "aria-label": words.picture, class: this.fill ? "filling" : "" }, this.defs(colours));
    const pieces = this.pieces(requests, starts, slots, memory).sort((p, q) => p.i - q.i);
    const names = [], handle = (i) => ({ onpointerdown: (e) => this.grab(e, i), ...this.linked(i), class: `piece${i === this.picked ? " picked" : ""}` });
    this.plane(svg, pieces, used, { x, y, slots, top, small, names, edge: (p) => this.shape(p, x, y, names, {
      ...handle(p.i), style: `animation-delay:${90 * p.k}ms`, role: "slider", tabindex: 0, "data-focus": `r${p.i}`, "aria-label": this.described(p.i),
      "aria-valuemin": requests[p.i].a, "aria-valuemax": slots - requests[p.i].o, "aria-valuenow": p.k,
      "aria-valuetext": filled(words.value, { start: p.k, waits: p.k - requests[p.i].a, verdict: verdict(used, memory, words) }), onkeydown: (e) => this.key(e, p.i),
      onfocus: () => { if (this.picked !== p.i) { this.picked = p.i; this.draw(); } } }) });
    const { columns, k } = pieces[this.picked]; // its edge above those that lie over it
    svg.append(g("path", { class: "chosen", d: outline(columns, k, x, y) }), g("text", { x: 0, y: 12 }, words.memory_axis), g("text", { x: x(slots), y: y(memory) - 7, "text-anchor": "end", class: "strong" }, filled(words.full, { memory })),
      g("text", { x: x(slots), y: floor + 32, "text-anchor": "end" }, words.time_axis), g("text", { x: x(0), y: floor + 32, class: "strong" }, words.rows));
    requests.forEach((r, i) => {
      const mid = rowsTop + i * ROW + ROW / 2;
      svg.append(g("g", { ...handle(i), style: `animation-delay:${90 * starts[i]}ms` },
        g("rect", { x: 0, y: mid - ROW / 2, width: this.width, height: ROW, fill: "transparent" }),
        g("text", { x: LEFT - 10, y: mid + 4, "text-anchor": "end", class: i === this.picked ? "name" : "" }, r.name),
        g("path", { d: `M${x(r.a)},${mid - 5}v10M${x(r.a)},${mid}H${x(starts[i])}`, stroke: "var(--muted)", "stroke-width": 1.5, "stroke-dasharray": "2 2", fill: "none" }),
        g("rect", { x: x(starts[i]), y: mid - 5, width: x(r.o) - x(0), height: 10, fill: `url(#fill-${r.token})` }),
        i === this.picked && g("rect", { x: x(starts[i]), y: mid - 5, width: x(r.o) - x(0), height: 10, fill: "none", stroke: "var(--ink)", "stroke-width": 2 })));
    });
    if (data.prices) this.prices(svg, x, priceTop, priceTop + 68);
    // where the frame goes that a word of the page calls for
    const row = (from, to) => [x(0) - 3, from, x(slots) - x(0) + 6, to - from];
    this.places = { plane: row(top, floor + 3), rows: row(rowsTop - 2, rowsEnd + 2), price: data.prices && row(priceTop - 24, priceTop + 72), slot: (t) => t >= 1 && t <= slots && [x(t - 1), top, this.slot, (data.prices ? priceTop + 68 : floor) - top] };
    svg.append((this.frame = g("rect", { fill: "none", stroke: "var(--ink)", "stroke-width": 3, "pointer-events": "none" })));
    return svg;
  }

  /** The program's price of a block in each slot, on the board's own axis. */
  prices(svg, x, top, floor) {
    const { prices, words } = this.data, peak = Math.max(...prices), y = (p) => floor - (peak ? p / peak : 0) * (floor - top - 22);
    svg.append(g("text", { x: x(0), y: top - 8, class: "price" }, peak ? words.price : words.no_price), g("line", { x1: x(0), x2: x(prices.length), y1: floor, y2: floor, stroke: "var(--outline)" }));
    let free = -Infinity;
    prices.forEach((p, j) => {
      if (p < 1e-6) return;
      svg.append(g("rect", { x: x(j) + 1, y: y(p), width: x(1) - x(0) - 2, height: floor - y(p), fill: "var(--lp)" }, g("title", {}, filled(words.price_at, { slot: j + 1, price: say(p) }))));
      if (x(j) - free < 30) return;
      svg.append(g("text", { x: x(j + 0.5), y: y(p) - 4, "text-anchor": "middle", class: "price" }, say(p)));
      free = x(j);
    });
  }

  /** What the fills mean, of those that are on the board. */
  kinds(colours) {
    const { requests, kinds } = this.data, tokens = [...new Set(requests.map((r) => r.token))];
    return h("p", { class: "kinds" }, tokens.length > 1 && tokens.map((token) => h("span", {},
      g("svg", { viewBox: "0 0 22 12", height: 12, "aria-hidden": "true" }, this.defs(colours), g("rect", { width: 22, height: 12, fill: `url(#fill-${token})` })), kinds[token])));
  }

  tools() {
    const { data } = this, i = this.picked, { name } = data.requests[i], by = (d, label, sign) => h("button", { ...press(() => this.step(i, d)), "aria-label": filled(label, { name }), "data-focus": label }, sign);
    return h("div", { class: "tools" },
      h("span", { class: "step" }, h("span", {}, filled(data.words.starts, { name })), by(-1, data.words.earlier, "\u2190"), h("output", {}, say(this.starts[i])), by(1, data.words.later, "\u2192")),
      h("button", { ...press(() => this.back()), disabled: !this.undo.length, "data-focus": "undo" }, data.words.undo),
      h("button", { ...press(() => this.put(data.start)), disabled: String(this.starts) === String(data.start), "data-focus": "again" }, data.words.again),
      h("p", { class: "hint" }, data.words.keys));
  }

  table() {
    const { data, starts } = this, used = held(data.requests, starts, data.slots), row = (head, cells) => h("tr", {}, h("th", { scope: "row" }, head), cells.map((c) => h("td", {}, say(c))));
    const heads = (names) => h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, name))));
    return h("details", { class: "table" }, h("summary", {}, data.words.table), h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": data.words.table },
      h("table", {}, heads(data.words.columns), h("tbody", {}, data.requests.map((r, i) => row(r.name, [r.a, r.s, r.o, starts[i], starts[i] - r.a, starts[i] + r.o - r.a])))),
      h("table", {}, heads(data.words.slot_columns), h("tbody", {}, used.map((u, j) => row(j + 1, [u, data.memory - u, ...(data.prices ? [data.prices[j]] : [])]))))));
  }

  /** Schedules side by side on the same axes: the reader's own first. */
  gallery(colours) {
    const { data } = this, { requests, slots, memory } = data, count = Math.max(1, Math.min(3, Math.floor(this.width / 250)));
    const wide = this.width / count - 18 * (1 - 1 / count), floor = 178, top = 12;
    return h("div", { class: "gallery", style: `--n:${count}` }, data.others.map((other) => {
      const pieces = this.pieces(requests, other.starts, slots, memory), used = new Array(slots).fill(0);
      for (const { k, heights } of pieces) heights.forEach((height, j) => { used[k + j] += height; });
      const names = [], tallest = Math.max(data.tallest, memory * 1.12), x = (t) => 28 + (t / slots) * (wide - 36), y = (b) => floor - (b / tallest) * (floor - top);
      const svg = g("svg", { viewBox: `0 0 ${wide} ${floor + 20}`, height: floor + 20, role: "img", "aria-label": other.alt }, this.defs(colours));
      this.plane(svg, pieces, used.map((u) => Math.round(u * 1e6) / 1e6), { x, y, slots, top, small: true, names, edge: (p) => this.shape(p, x, y, names, {
        ...this.linked(p.i, (request) => this.light(request)) }) });
      return h("figure", { style: `--own:var(--${other.token})` }, h("figcaption", {}, h("h3", {}, other.name), h("p", {}, h("b", {}, other.total), ` ${other.note}`)), svg);
    }));
  }

  /** A piece that a word can light up and that lights the words that name it; `tell` hears of it, too. */
  linked(i, tell = () => {}) {
    return { "data-request": i, onpointerenter: () => { tell(i); lightWords(`request:${this.data.requests[i].name}`); }, onpointerleave: () => { tell(null); lightWords(); } };
  }

  /** Light one request up in all figures. */
  light(request) {
    for (const node of this.root.querySelectorAll("[data-request]")) node.classList.toggle("dim", request !== null && Number(node.dataset.request) !== request);
  }
}

// ---------------------------------------------------------------- mount
export default (component) => mountIn(component, Challenge);
