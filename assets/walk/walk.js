// The walk of one request along a roofline: the marker of the step that runs, the KV that fills, the step by its parts.
// Python computes every number (ui/walk.py says the dictionary); this file draws them; it stands after shared/picture.js and shared/playing.js.
// Sections: 1 geometry (pure, tested with node) · 2 elements · 3 walk · 4 mount.

// ---------------------------------------------------------------- 1 geometry
/** A logarithmic scale from [low, high] to [from, to]. */
export function logScale(low, high, from, to) {
  const span = Math.log(high / low);
  return (value) => from + (Math.log(value / low) / span) * (to - from);
}

/** Powers of ten within [low, high]. */
export function decades(low, high) {
  const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, j) => 10 ** (first + j));
}

/** The least and the greatest of some numbers, spread by a factor. */
export function spread(values, factor) { return [Math.min(...values) / factor, Math.max(...values) * factor]; }
/** When each step ends, in ms. */
export function ends(ms) { let t = 0; return ms.map((d) => (t += d)); }

/** The step that runs at time t: the first that ends after it; the last one from its end on. */
export function stepAt(ended, t) {
  const i = ended.findIndex((end) => end > t);
  return i < 0 ? ended.length - 1 : i;
}

/** Simulated ms for each ms on the wall: as it is where that takes 6 to 14 s, else stretched or pressed into them. */
export function rate(total) { return total < 6000 ? total / 6000 : total > 14000 ? total / 14000 : 1; }

/** A point on a sampled curve, u from 0 to 1. */
export function along(curve, u) {
  const at = Math.max(0, Math.min(1, u)) * (curve.length - 1), i = Math.min(Math.floor(at), curve.length - 2), part = at - i;
  return [0, 1].map((axis) => curve[i][axis] + part * (curve[i + 1][axis] - curve[i][axis]));
}

/** Squares of KV from token `from` up to token `to` as an SVG path; a square in part is filled from below. */
export function squares(from, to, block, columns, pitch, gap) {
  const size = pitch - gap, parts = [];
  for (let b = Math.floor(from / block); b * block < to; b++) {
    const low = Math.max(0, from / block - b), high = Math.min(1, to / block - b);
    const x = (b % columns) * pitch, y = Math.floor(b / columns) * pitch + (1 - high) * size;
    parts.push(`M${x},${+y.toFixed(2)}h${size}v${+((high - low) * size).toFixed(2)}h${-size}z`);
  }
  return parts.join("");
}

/** A number as read: so many decimals, a true minus, thin spaces. */
export function fixed(value, digits = 0) {
  const text = Math.abs(value) < 0.5 * 10 ** -digits ? "0" : value.toFixed(digits);
  return text.replace("-", "\u2212").replace(/\B(?=(\d{3})+(?!\d))(?<!\.\d*)/g, "\u2009");
}

/** About three digits that count. */
export function brief(value) { return fixed(value, value >= 100 ? 0 : value >= 10 ? 1 : value >= 0.1 ? 2 : 3); }

// ---------------------------------------------------------------- 2 elements
const put = (node, attributes) => { for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value); };
const defs = (classes, colours) => g("defs", {}, classes.map(({ token, pattern: kind }) => pattern(token, kind, colours)));
const filled = (token) => (token === "outline" ? "fill:var(--outline)" : `fill:url(#fill-${token})`);

/** Decode a circle, prefill a triangle, both in one step an empty square: never told by colour alone. */
const MARKS = ["M-3.6,0a3.6,3.6 0 1,0 7.2,0a3.6,3.6 0 1,0 -7.2,0z", "M0,-4.6L4.4,3.4H-4.4z", "M-3,-3h6v6h-6z"];
// ---------------------------------------------------------------- 3 walk
const LEFT = 46, RIGHT = 14, EASE_MS = 130, STARTS_AFTER_MS = 800;

class Walk extends Playing {
  constructor(parent) { super(parent, "walk"); }

  update({ data }) {
    const fresh = data.id !== this.data?.id, first = !this.data;
    this.data = data;
    if (fresh) {
      this.ended = ends(data.steps.ms);
      this.total = this.ended.at(-1);
      this.rate = rate(this.total);
      Object.assign(this, { now: 0, playing: false, at: null, seen: false });
      this.open(first ? STARTS_AFTER_MS : 300);
    }
    this.draw();
  }

  get step() { return stepAt(this.ended, this.now); }
  get place() { return this.done ? this.ended.length : this.step; }
  /** The clock's words: the total stays untold until the end has been seen, since what takes longer is what is asked. */
  get ofTotal() { return this.seen ? fillIn(this.data.words.clock, { total: fixed(this.total) }) : "ms"; }
  get spokenStep() { return fillIn(this.data.words.at, { phase: this.phase(), clock: fixed(this.now), unit: this.ofTotal }); }

  get speed() { return this.rate; }
  /** Go to the start of a step. */
  skip(way) { const step = this.place + way; this.seek(step <= 0 ? 0 : this.ended[Math.min(this.ended.length, step) - 1]); }

  draw() {
    const { data } = this, { words } = data;
    this.dress();
    const width = Math.max(this.width, 280), wide = width >= 860;
    this.root.classList.toggle("wide", wide);
    this.root.setAttribute("aria-label", `${words.here}, ${data.title}. ${words.keys}`);
    this.parts = { live: h("p", { class: "hidden", "aria-live": "polite" }) };
    this.renew(this.root,
      h("div", { class: "panes" },
        h("div", {}, this.roofline(wide ? width - 424 : width), this.legend()),
        h("div", {}, this.side(wide ? 380 : width))),
      this.tools(), this.parts.live);
    this.shine(LIGHTS.what);
    this.frame();
    this.tell();
  }

  /** Light up what a word of the page names: a part of the step, the roofline, the KV, the clock. */
  shine(what) {
    const { kind, name } = what ?? {}, { parts, data } = this;
    const lit = data.parts.findIndex(({ id }) => kind === "part" && id === name);
    data.parts.forEach((_, j) => { // words stay readable: the bars alone step back
      parts.bars[j].style.opacity = lit >= 0 && lit !== j ? 0.2 : "";
      parts.rows[j].style.outline = lit === j ? "2px solid var(--ink)" : "";
    });
    for (const [row, node] of Object.entries({ roofline: parts.roofline, squares: parts.squares, clock: parts.clock })) Object.assign(node.style, { outline: kind === "row" && name === row ? "3px solid var(--ink)" : "", outlineOffset: "2px" });
    parts.prompt.style.opacity = kind === "row" && name === "answer" ? 0.2 : "";
    parts.answer.style.opacity = kind === "row" && name === "prompt" ? 0.2 : "";
  }

  roofline(width) {
    const { data, parts } = this, { words, roof, steps, curve, points } = data;
    const height = width < 560 ? 300 : 420, floor = height - 44, top = 16;
    const knee = roof && (roof.peak / roof.bandwidth) * 1000; // a profile of one's own may come without a datasheet
    const [xLow, xHigh] = spread([...points.map((p) => p[0]), ...steps.x, ...curve.x, ...(roof ? [knee] : [])], 1.5);
    const [yLow, yHigh] = spread([...points.map((p) => p[1]), ...steps.y, ...curve.y, ...(roof ? [roof.peak] : [])], 1.7);
    const x = (this.x = logScale(xLow, xHigh, LEFT, width - RIGHT)), y = (this.y = logScale(yLow, yHigh, floor, top));
    this.track = curve.x.map((value, j) => [x(value), y(curve.y[j])]);
    const per = data.cards > 1 ? `, ${fillIn(words.cards, { n: data.cards })}` : "";
    return (parts.roofline = g("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words.picture }, defs(data.palette.classes, this.colours),
      decades(xLow, xHigh).map((v) => [g("path", { class: "grid", d: `M${x(v)},${top}V${floor}` }), g("text", { x: x(v), y: floor + 18, "text-anchor": "middle" }, fixed(v, v < 1 ? 1 : 0))]),
      decades(yLow, yHigh).map((v) => [g("path", { class: "grid", d: `M${LEFT},${y(v)}H${width - RIGHT}` }), g("text", { x: LEFT - 8, y: y(v) + 4, "text-anchor": "end" }, fixed(v, v < 1 ? 1 : 0))]),
      g("text", { x: width - RIGHT, y: height - 6, "text-anchor": "end" }, words.x_axis),
      g("text", { x: 0, y: 6 }, words.y_axis + per),
      roof && this.sheet(roof, knee, Math.max(xLow, (yLow / roof.bandwidth) * 1000), xHigh, width < 560),
      points.map(([px, py, kind, tokens, ms]) => g("path", { class: `dot k${kind}`, d: MARKS[kind], transform: `translate(${x(px).toFixed(1)},${y(py).toFixed(1)})` },
        g("title", {}, fillIn(words.point, { kind: words.kinds[kind], tokens: fixed(tokens), ms: brief(ms) })))),
      g("path", { class: "curve", d: `M${this.track.map((p) => p.map((v) => v.toFixed(1)).join(",")).join("L")}` }),
      (parts.trail = g("path", { class: "trail" })),
      (parts.here = g("circle", { class: "here", r: 7.5 })),
      (parts.name = g("text", { class: "said strong", "text-anchor": "end" }, words.here))));
  }

  /** The datasheet's two lines from x `start` to `end`, each with its name. */
  sheet(roof, knee, start, end, short) {
    const { x, y } = this, { words } = this.data, middle = Math.sqrt(start * knee), by = short ? "" : ` \u00b7 ${words.labels.datasheet}`;
    const at = (v) => y((v * roof.bandwidth) / 1000), slope = (Math.atan2(at(knee) - at(start), x(knee) - x(start)) * 180) / Math.PI;
    return [
      g("path", { class: "sheet", d: `M${x(start)},${at(start)}L${x(knee)},${y(roof.peak)}H${x(end)}` }),
      g("text", { class: "said", "text-anchor": "middle", transform: `translate(${x(middle)},${at(middle) - 9}) rotate(${slope})` }, fillIn(words.bandwidth, { value: fixed(roof.bandwidth) }) + by),
      g("text", { class: "said", x: x(end), y: y(roof.peak) - 8, "text-anchor": "end" }, fillIn(words.compute, { value: brief(roof.peak) }) + by)];
  }

  legend() {
    const { words, points, label, roof } = this.data;
    const mark = (kind) => g("svg", { viewBox: "-8 -6 16 12", "aria-hidden": "true" }, g("path", { class: `dot k${kind}`, d: MARKS[kind] }));
    const line = (name) => g("svg", { class: "long", viewBox: "0 -6 26 12", "aria-hidden": "true" }, g("path", { class: name, d: "M0,0H26" }));
    return h("p", { class: "keys" },
      points.length ? words.kinds.map((kind, j) => h("span", {}, mark(j), kind)) : null,
      h("span", {}, h("span", { class: "tag" }, points.length ? words.labels.measured : words.no_points)),
      h("span", {}, line("curve"), h("span", { class: "tag" }, words.labels[label])),
      roof && h("span", {}, line("sheet"), h("span", { class: "tag" }, words.labels.datasheet)));
  }

  side(width) {
    const { data, parts } = this, { words } = data, count = Math.ceil((data.prompt + data.output - 1) / data.block);
    const pitch = (this.pitch = Math.max(4, Math.min(14, Math.floor(Math.sqrt((width * 130) / count)))));
    const columns = (this.columns = Math.floor(width / pitch)), height = Math.ceil(count / columns) * pitch;
    const speed = this.rate < 0.95 ? fillIn(words.rate_slow, { rate: fixed(1 / this.rate, 1) }) : this.rate > 1.05 ? fillIn(words.rate_fast, { rate: fixed(this.rate, 1) }) : words.rate_real;
    this.barWidth = width;
    const named = (id) => ({ onpointerenter: () => lightWords(`part:${id}`), onpointerleave: () => lightWords() });
    parts.bars = data.parts.map(({ token, id }) => g("rect", { y: 0, height: 22, style: filled(token), ...named(id) }));
    const swatch = (token) => g("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" }, g("rect", { width: 12, height: 12, style: filled(token) }));
    parts.rows = data.parts.map(({ name, token, id }) => h("tr", named(id), h("th", { scope: "row" }, swatch(token), name), h("td"), h("td")));
    return [
      h("p", { class: "clock" }, (parts.clock = h("span")), " ", (parts.total = h("small"))),
      h("p", { class: "from" }, `${data.title} `, h("span", { class: "tag" }, words.labels[data.label]), ` ${speed}`),
      (parts.phase = h("p", { class: "phase" })),
      g("svg", { class: "bar", viewBox: `0 0 ${width} 22`, "aria-hidden": "true" }, defs(data.palette.classes, this.colours), parts.bars),
      h("table", { class: "parts" }, (parts.caption = h("caption", { class: "small", style: "text-align:left" })), h("tbody", {}, parts.rows)),
      (parts.kv = h("p")),
      (parts.squares = g("svg", { viewBox: `0 -1 ${width} ${height + 2}`, role: "img", "aria-label": fillIn(words.kv_legend, { block: data.block }) },
        g("path", { class: "room", d: squares(0, count * data.block, data.block, columns, pitch, 1.5) }),
        (parts.prompt = g("path", { style: filled("document") })), (parts.answer = g("path", { style: filled("chat") })))),
      h("p", { class: "small" }, fillIn(words.kv_legend, { block: data.block })),
    ];
  }

  tools() {
    const { words } = this.data, { parts } = this;
    parts.scrub = h("input", { type: "range", min: 0, max: 1000, step: 1, "aria-label": words.scrub, "data-focus": "scrub", oninput: (event) => this.seek((+event.target.value / 1000) * this.total) });
    return h("div", { class: "tools" }, this.buttons(), parts.scrub);
  }

  /** Tokens in KV: a chunk's in proportion to its time, an answer's one at each step's end. */
  get kv() {
    const { steps } = this.data, i = this.step, part = this.done ? 1 : 1 - (this.ended[i] - this.now) / steps.ms[i];
    return steps.kv[i] - steps.new[i] + Math.floor(steps.new[i] * part + 1e-9);
  }

  phase() {
    const { words, steps, chunks, output } = this.data, i = this.step;
    if (this.done) return fillIn(words.done, { all: fixed(output), total: fixed(this.total) });
    if (i < chunks) return fillIn(words.prefill, { n: i + 1, all: chunks, tokens: fixed(steps.new[i]) });
    return fillIn(words.decode, { n: fixed(steps.out[i]), all: fixed(output) });
  }
  kvWords() { return fillIn(this.data.words.kv, { tokens: fixed(this.kv), mb: brief((this.kv * this.data.kv_bytes) / 1e6) }); }

  /** Draw this moment; return whether the marker is still on its way. */
  frame(passed) {
    const { data, parts } = this, { steps } = data, i = this.step, jump = passed === undefined;
    this.seen ||= this.done;
    const u = Math.log(steps.new[i]) / Math.log(data.curve.most), on = along(this.track, u);
    const goal = [u, this.x(steps.x[i]) - on[0], this.y(steps.y[i]) - on[1]];
    const pull = jump || this.still.matches || !this.at ? 1 : 1 - Math.exp(-passed / EASE_MS);
    this.at = goal.map((v, j) => (this.at ? this.at[j] + pull * (v - this.at[j]) : v));
    const [cx, cy] = along(this.track, this.at[0]).map((v, axis) => v + this.at[axis + 1]);
    put(parts.here, { cx, cy });
    put(parts.name, cx < 130 ? { x: cx + 14, y: cy + 22, "text-anchor": "start" } : { x: cx - 4, y: cy + 26, "text-anchor": "end" });
    parts.clock.textContent = fixed(this.now, this.total < 1000 ? 1 : 0);
    if (parts.total.textContent !== this.ofTotal) parts.total.textContent = this.ofTotal;
    parts.scrub.value = (this.now / this.total) * 1000;
    parts.scrub.setAttribute("aria-valuetext", this.spokenStep);
    if (this.drawn !== this.place || jump) this.drawStep(i);
    this.drawn = this.place;
    const tokens = this.kv, fillTo = (from, to) => (to > from ? squares(from, to, data.block, this.columns, this.pitch, 1.5) : "");
    parts.kv.textContent = this.kvWords();
    put(parts.prompt, { d: fillTo(0, Math.min(tokens, data.prompt)) });
    put(parts.answer, { d: fillTo(data.prompt, tokens) });
    return goal.some((v, j) => Math.abs(v - this.at[j]) > (j ? 0.05 : 1e-4));
  }

  drawStep(i) {
    const { data, parts } = this, { steps } = data, ms = steps.ms[i];
    parts.phase.textContent = this.phase();
    parts.caption.textContent = fillIn(data.words.step, { ms: brief(ms) });
    let x = 0;
    data.parts.forEach((part, j) => {
      const width = (part.ms[i] / ms) * this.barWidth, [, time, share] = parts.rows[j].cells;
      put(parts.bars[j], { x, width: Math.max(0, width - 1) });
      x += width;
      time.textContent = `${brief(part.ms[i])}\u00a0ms`;
      share.textContent = `${fixed((100 * part.ms[i]) / ms, 1)}\u00a0%`;
      parts.rows[j].classList.toggle("none", part.ms[i] === 0);
    });
    const seen = steps.x.slice(0, i + 1).map((v, j) => `${this.x(v).toFixed(1)},${this.y(steps.y[j]).toFixed(1)}`);
    const halves = [seen.slice(0, data.chunks), seen.slice(data.chunks)];
    put(parts.trail, { d: halves.map((half) => (half.length ? `M${half.join("L")}h0.01` : "")).join("") });
  }

  /** Say this moment to who cannot see it: only when it stands still. */
  tell() {
    if (this.playing) return;
    this.seen ||= this.done;
    const { data } = this, { steps } = data, i = this.step;
    const most = data.parts.reduce((a, b) => (b.ms[i] > a.ms[i] ? b : a));
    this.parts.live.textContent = fillIn(data.words.twin, { phase: this.phase(), clock: fixed(this.now), unit: this.ofTotal, ms: brief(steps.ms[i]),
      part: most.name, share: fixed((100 * most.ms[i]) / steps.ms[i]), kv: this.kvWords(), intensity: brief(steps.x[i]), achieved: brief(steps.y[i]) });
  }
}

// ---------------------------------------------------------------- 4 mount
export default (component) => mountIn(component, Walk);
