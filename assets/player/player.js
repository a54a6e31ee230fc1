// The race player: one canvas component fed one binary log (engine/log.py). Reruns of Python never draw frames.
// Sections: 1 log · 2 model (pure, tested with node) · 3 words · 4 marks · 5 page · 6 rows · 7 timeline · 8 player · 9 mount.

// ---------------------------------------------------------------- 1 log
const TYPES = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, float32: Float32Array };
const EMPTY = 0, RUNNING = 1, SHARED = 2, CACHED = 3, PROMISED = 4; // the last one is not in the log: see Lane.held
const ADMIT = 0, PREEMPT = 1, FINISH = 2;
const NEVER = 2 ** 32 - 1;

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Read one array of the body; differences are added up again, as u32 ("sum") or in their own type ("wrap"). */
function read(spec, body) {
  const count = spec.shape.reduce((a, b) => a * b, 1);
  let values = new TYPES[spec.dtype](body.buffer, body.byteOffset + spec.offset, count);
  if (spec.code === "sum") values = Uint32Array.from(values);
  if (spec.code) for (let i = 1; i < count; i++) values[i] += values[i - 1];
  return values;
}

/** Unpack a log: the twin of engine.log.decode. */
export async function decode(bytes) {
  const size = new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + size)));
  const body = await inflate(bytes.subarray(4 + size));
  const arrays = {};
  for (const [name, spec] of Object.entries(header.arrays)) arrays[name] = read(spec, body);
  header.lanes.forEach((lane, i) => {
    const pause = arrays[`${i}.pause_us`], duration = arrays[`${i}.duration_us`], starts = new Float64Array(pause.length);
    for (let k = 0, t = 0; k < pause.length; t += duration[k++]) starts[k] = t += pause[k];
    arrays[`${i}.start_us`] = starts;
    const index = arrays[`${i}.cell_index`], value = arrays[`${i}.cell_value`];
    const cells = new (value.constructor)(header.frames * lane.squares);
    for (let frame = 0, k = 0; frame < header.frames; frame++) {
      const start = frame * lane.squares;
      if (frame) cells.copyWithin(start, start - lane.squares, start);
      for (; k < index.length && index[k] < start + lane.squares; k++) cells[index[k]] = value[k];
    }
    arrays[`${i}.cells`] = cells;
  });
  return { ...header, arrays };
}

/** Split the component's bytes into the answer of Python (JSON, may be null) and the log. */
export function unwrap(bytes) {
  const size = new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true);
  const text = new TextDecoder().decode(bytes.subarray(4, 4 + size));
  return { answer: text.trim() ? JSON.parse(text) : null, log: bytes.subarray(4 + size) };
}

// ---------------------------------------------------------------- 2 model
/** How many of the sorted values are <= x. */
export function countUpTo(sorted, x) {
  let low = 0, high = sorted.length;
  while (low < high) {
    const mid = (low + high) >> 1;
    if (sorted[mid] <= x) low = mid + 1; else high = mid;
  }
  return low;
}

/** Percentile with linear interpolation; null of nothing. */
export function percentile(values, p) {
  if (!values.length) return null;
  const at = (values.length - 1) * p, low = Math.floor(at), high = Math.min(low + 1, values.length - 1);
  return values[low] + (values[high] - values[low]) * (at - low);
}

/** One lane: everything about it is a function of the clock t (microseconds). */
export class Lane {
  constructor(log, i) {
    const take = (name) => log.arrays[`${i}.${name}`];
    Object.assign(this, log.lanes[i], log.meta.lanes?.[i] ?? {}, { index: i, log });
    for (const name of ["cells", "running_blocks", "cached_blocks", "evicted_frame", "evicted_square", "stopped_frame",
      "stopped_square", "start_us", "duration_us", "scheduled_tokens", "decode_seqs", "arrival_us", "first_token_us",
      "finish_us", "status", "price_us", "price_memory", "price_gpu_time"]) this[name] = take(name);
    this.prompt = log.arrays.prompt_tokens;
    this.output = log.arrays.output_tokens;
    this.classes = log.arrays.class_id;
    this.steps = this.start_us.length;
    this.requests = this.prompt.length;
    this.finished = Float64Array.from(this.finish_us).filter((t) => t !== NEVER).sort();
    this.arrivals = Float64Array.from(this.arrival_us).filter((t) => t !== NEVER).sort();
    this.#stays(take("move_step"), take("move_request"), take("move_kind"), take("move_tokens"));
  }

  /** Stays of each request in the batch, with what it had generated before and after: a decode makes a token a step. */
  #stays(step, request, kind, tokens) {
    this.stays = Array.from({ length: this.requests }, () => []);
    this.stops = [];
    const done = new Float64Array(this.requests);
    for (let m = 0; m < step.length; m++) {
      const r = request[m], list = this.stays[r];
      if (kind[m] === ADMIT) {
        list.push({ from: step[m], to: Infinity, order: m, before: done[r], after: done[r], hit: tokens[m], finish: false });
        continue;
      }
      const stay = list[list.length - 1];
      stay.to = step[m];
      stay.finish = kind[m] === FINISH;
      const made = Math.min(this.output[r], tokens[m] - this.prompt[r] + 1);
      done[r] = stay.after = Math.max(stay.before, stay.finish && this.status[r] === 1 ? this.output[r] : made);
      if (kind[m] === PREEMPT) this.stops.push({ step: step[m], request: r });
    }
  }

  /** The step at t (-1: none yet) and whether it is still computing. */
  at(t) {
    const step = countUpTo(this.start_us, t) - 1;
    return { step, busy: step >= 0 && t < this.start_us[step] + this.duration_us[step] };
  }

  #stay(r, step, busy) {
    for (const stay of this.stays[r]) {
      if (stay.from <= step && (stay.finish ? (busy ? stay.to >= step : stay.to > step) : stay.to > step)) return stay;
    }
    return null;
  }

  /** Output tokens of a request by the start of a step; prefilling is true until it has made its first token of the stay. */
  progress(r, stay, step) {
    if (stay.to === Infinity) {
      const first = this.first_token_us[r];
      const since = first === NEVER ? 0 : Math.max(0, step - countUpTo(this.start_us, first - 1) + 1);
      return { done: Math.min(this.output[r], Math.max(stay.before, since)), prefill: since === 0 };
    }
    const last = stay.finish ? stay.to : stay.to - 1;
    const made = stay.after - (last - step) - 1;
    return { done: Math.max(stay.before, Math.min(made, stay.after)), prefill: made <= stay.before };
  }

  /** Who runs (in order of admission) and who waits (in the order in which the lane will take them) at t. */
  scene(t) {
    const { step, busy } = this.at(t);
    const running = [], waiting = [];
    for (let r = 0; r < this.requests; r++) {
      if (this.arrival_us[r] > t || this.finish_us[r] <= t) continue;
      const stay = step >= 0 ? this.#stay(r, step, busy) : null;
      if (stay) {
        running.push({ r, order: stay.order, ...this.progress(r, stay, step) });
      } else {
        const next = this.stays[r].find((s) => s.from > step);
        const past = this.stays[r].some((s) => s.from <= step && !s.finish && s.to <= step);
        waiting.push({ r, order: next ? next.order : Infinity, preempted: past });
      }
    }
    running.sort((a, b) => a.order - b.order);
    waiting.sort((a, b) => a.order - b.order || this.arrival_us[a.r] - this.arrival_us[b.r] || a.r - b.r);
    const decode = busy ? this.decode_seqs[step] : 0;
    const prefill = busy ? this.scheduled_tokens[step] - decode : 0;
    return { step, busy, running, waiting, decode, prefill, unused: this.token_budget - decode - prefill };
  }

  finishedBy(t) { return countUpTo(this.finished, t); }

  /** Ages of all requests that have arrived, sorted, in ms; the unfinished count at their present age. */
  ages(t) {
    const ages = [];
    for (let r = 0; r < this.requests; r++) {
      if (this.arrival_us[r] <= t) ages.push((Math.min(this.finish_us[r], t) - this.arrival_us[r]) / 1000);
    }
    return Float64Array.from(ages).sort();
  }

  /** The prices in force at t; null where the rule has none. */
  prices(t) {
    const k = countUpTo(this.price_us, t) - 1;
    if (!this.priced) return null;
    if (k < 0) return { memory: 0, gpu: 0, binds: "" };
    const memory = this.price_memory[k], gpu = this.price_gpu_time[k];
    // both in ms of waiting per second: of the whole memory, of the whole GPU
    const rent = [memory * this.blocks, gpu * 1000];
    return { memory, gpu, binds: Math.max(...rent) <= 0 ? "" : rent[0] >= rent[1] ? "memory" : "gpu" };
  }

  /**
   * How many squares of each running request hold KV, in a lane that reserves. How many is known from its tokens; which of its
   * own squares those are is not in the log, so they are drawn as its first ones.
   */
  held(scene) {
    const each = this.blocks_per_square * this.block_tokens;
    return new Map(scene.running.map(({ r, done, prefill }) => [r, Math.max(1, Math.round((this.prompt[r] + (prefill ? 0 : done)) / each))]));
  }

  frame(t) { return Math.max(0, Math.min(this.log.frames - 1, Math.floor(t / this.log.frame_us))); }

  cell(frame, square) {
    const cell = this.cells[frame * this.squares + square];
    return { state: cell & 3, request: (cell >> 2) - 1 };
  }

  /** The last eviction of a square within `within_us` before t, as a frame; -1 if none. */
  lastEviction(square, t, within_us) {
    const frame = this.frame(t), first = frame - Math.ceil(within_us / this.log.frame_us);
    for (let k = countUpTo(this.evicted_frame, frame) - 1; k >= 0 && this.evicted_frame[k] >= first; k--) {
      if (this.evicted_square[k] === square) return this.evicted_frame[k];
    }
    return -1;
  }
}

/** What a lane scores by a metric at t: the larger wins. */
export function score(lane, metric, t) {
  if (metric === "finished") return lane.finishedBy(t);
  const ages = lane.ages(t);
  if (metric === "mean") return -ages.reduce((a, b) => a + b, 0) / Math.max(1, ages.length);
  return -(percentile(ages, metric === "worst" ? 0.99 : 0.5) ?? 0);
}

/** The score as it is shown, times to 0.1 s: what looks equal on screen is a tie. */
export function shownScore(lane, metric, t) {
  const s = score(lane, metric, t);
  return metric === "finished" ? s : Math.round(s / 100) * 100;
}

/** The sentence under a waiting line; `behind`: how many wait behind the head, for the bracket. */
export function lineSentence(lane, waiting, names) {
  const n = waiting.length;
  if (!n) return { text: [["Nobody waits"]], behind: 0 };
  if (n === 1) return { text: [["1 request", true], [" waits"]], behind: 0 };
  const prompts = waiting.map((w) => lane.prompt[w.r]);
  const middle = percentile(Float64Array.from(prompts).sort(), 0.5);
  if (prompts[0] >= 2.5 * middle && prompts[0] >= 1000 && n > 3) {
    const name = names[lane.classes[waiting[0].r]] ?? "request";
    return { text: [[`${number(n - 1)} requests`, true], [` wait behind one ${number(prompts[0])}-token ${name}`]], behind: n - 1 };
  }
  let latest = -1; // a waiting request is set aside if one that arrived later has been taken before it
  for (let r = 0; r < lane.requests; r++) {
    if (lane.stays[r].length && lane.stays[r][0].from <= waiting.step && lane.arrival_us[r] > latest) latest = lane.arrival_us[r];
  }
  const aside = waiting.filter((w) => !w.preempted && lane.arrival_us[w.r] < latest);
  if (!aside.length) return { text: [[`${number(n)} requests`, true], [" wait in order of arrival"]], behind: 0 };
  const others = waiting.filter((w) => !aside.includes(w)).map((w) => lane.prompt[w.r]);
  if (aside.length === n) return { text: [[`${number(n)} requests`, true], [" wait, all passed by later ones"]], behind: 0 };
  const kinds = new Set(aside.map((w) => lane.classes[w.r]));
  const what = kinds.size === 1 ? plural(names[[...kinds][0]] ?? "request", aside.length) : plural("request", aside.length);
  const least = aside.reduce((a, w) => Math.min(a, lane.prompt[w.r]), Infinity);
  const shorter = others.length && Math.max(...others) < least ? "shorter one" : "other";
  const rest = others.length ? `; ${number(others.length)} ${plural(shorter, others.length)} ${others.length === 1 ? "waits" : "wait"}` : "";
  return { text: [[`${number(aside.length)} ${what}`, true], [` set aside${rest}`]], behind: 0 };
}

/** Whether a request is lit: `lit` is a request, or -2 - k for all of class k, or -1 for nobody. */
export const isLit = (lit, r, classes) => (lit < -1 ? classes[r] === -2 - lit : r === lit);

/** Whether an engine has no token budget: rulebooks write 2^20 for "as much as there is". */
export const unlimited = (lane) => lane.token_budget >= 2 ** 20;

export const budgetWords = (lane) => (unlimited(lane) ? "no token budget" : `budget: ${number(lane.token_budget)}${FIXED}tokens`);

/** Push labels apart to at least `gap`, keeping their order and staying within [low, high]. */
export function spread(wanted, gap, low, high) {
  const order = wanted.map((y, i) => [y, i]).sort((a, b) => a[0] - b[0]);
  const out = [];
  let last = -Infinity;
  for (const [y, i] of order) out[i] = last = Math.max(y, last + gap, low);
  for (let k = order.length - 1, top = high; k >= 0; k--, top -= gap) {
    const i = order[k][1];
    if (out[i] > top) out[i] = top; else top = out[i];
  }
  return out;
}

/** Round steps for an axis: at most `most` ticks. */
export function ticks(end, most) {
  const raw = end / most, power = 10 ** Math.floor(Math.log10(raw || 1));
  const step = [1, 2, 3, 5, 6, 10].map((k) => k * power).find((s) => s >= raw) ?? 10 * power;
  const out = [];
  for (let x = 0; x <= end + 1e-9; x += step) out.push(Math.round(x / step) * step);
  return out;
}

// ---------------------------------------------------------------- 3 words
const NARROW = "\u202f", FIXED = "\u00a0";

export function number(x, digits = 0) {
  const [whole, part] = Math.abs(x).toFixed(digits).split(".");
  return (x < 0 ? "−" : "") + whole.replace(/\B(?=(\d{3})+$)/g, NARROW) + (part ? "." + part : "");
}
const plural = (name, n) => (n === 1 ? name : name + "s");
const seconds = (ms) => (ms === null ? "–" : number(ms / 1000, ms < 99950 ? 1 : 0));
const shortPrice = (x) => (x >= 100 ? number(x) : x >= 1 ? number(x, 1) : x >= 0.1 ? number(x, 2) : number(x, 3));
const lowerFirst = (text) => (/^[A-Z][A-Z]/.test(text) ? text : text.charAt(0).toLowerCase() + text.slice(1));
const KNOWS = {
  online: ["knows no lengths (online)", "Decides from what a server knows: arrivals, prompts and the tokens so far."],
  predicted: ["knows predicted lengths", "Also uses a noisy guess of each answer's length."],
  clairvoyant: ["knows true lengths (clairvoyant)", "Sees the true length of each answer: a yardstick, not something to deploy."],
};

// ---------------------------------------------------------------- 4 marks
function luminance(colour) {
  const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  probe.fillStyle = colour;
  probe.fillRect(0, 0, 1, 1);
  const [r, g, b] = probe.getImageData(0, 0, 1, 1).data;
  return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
}

/** The app's colours for the theme in force, with pattern tiles and map sprites at one pixel ratio. */
class Look {
  constructor(palette, dark, surface, dpr) {
    this.dark = dark;
    this.dpr = dpr;
    this.colours = { ...palette[dark ? "dark" : "light"] };
    if (surface) this.colours.surface = surface;
    this.lines = palette.lines;
    this.kinds = palette.classes;
    this.tiles = new Map();
    this.sprites = new Map();
  }

  line(token) { return this.lines[token] ?? { dash: [], width: 2, marker: "circle" }; }
  kind(id) { return this.kinds[id % this.kinds.length]; }
  classColour(id) { return this.colours[this.kind(id).token]; }

  /** Fill style of a class: its colour, with its pattern in the surface colour. */
  fill(ctx, id) {
    const { token, pattern } = this.kind(id);
    if (pattern === "plain") return this.colours[token];
    if (!this.tiles.has(token)) {
      const pitch = { dots: 4.5, rules: 4, hatch: 6 }[pattern];
      const side = Math.max(3, Math.round(pitch * this.dpr));
      const tile = document.createElement("canvas");
      tile.width = tile.height = side;
      const c = tile.getContext("2d");
      c.fillStyle = this.colours[token];
      c.fillRect(0, 0, side, side);
      c.fillStyle = c.strokeStyle = this.colours.surface;
      if (pattern === "dots") {
        c.beginPath();
        c.arc(side / 2, side / 2, 0.95 * this.dpr, 0, 7);
        c.fill();
      } else if (pattern === "rules") {
        c.fillRect(0, side / 2 - 0.5 * this.dpr, side, Math.max(1, Math.round(1.1 * this.dpr)));
      } else {
        c.lineWidth = 1.2 * this.dpr;
        c.beginPath();
        for (const shift of [-side, 0, side]) { c.moveTo(shift - 1, side + 1); c.lineTo(shift + side + 1, -1); }
        c.stroke();
      }
      this.tiles.set(token, tile);
    }
    const style = ctx.createPattern(this.tiles.get(token), "repeat");
    style.setTransform(new DOMMatrix().scale(1 / this.dpr));
    return style;
  }

  /** A square of the map in device pixels. */
  sprite(state, id, side) {
    const key = `${state}/${state === EMPTY ? 0 : id % this.kinds.length}/${side}`;
    if (this.sprites.has(key)) return this.sprites.get(key);
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = side;
    const c = canvas.getContext("2d"), d = this.dpr, w = side / d;
    c.scale(d, d);
    const box = (inset, radius) => { c.beginPath(); c.roundRect(inset, inset, w - 2 * inset, w - 2 * inset, radius); };
    const centre = (share, style) => {
      const size = w * share;
      c.fillStyle = style;
      c.fillRect((w - size) / 2, (w - size) / 2, size, size);
    };
    if (state === EMPTY) {
      c.strokeStyle = this.colours.outline;
      c.lineWidth = 1;
      box(0.5, 1);
      c.stroke();
    } else if (state === PROMISED) {
      c.strokeStyle = this.classColour(id);
      c.lineWidth = 1.6;
      box(1.3, 1);
      c.stroke();
    } else if (state === CACHED) {
      const colour = this.classColour(id);
      c.globalAlpha = 0.14;
      c.fillStyle = colour;
      box(0, 1);
      c.fill();
      c.globalAlpha = 1;
      c.strokeStyle = colour;
      c.lineWidth = 1.3;
      box(0.65, 1);
      c.stroke();
      centre(0.3, colour);
    } else {
      c.fillStyle = this.fill(c, id);
      box(0, 1);
      c.fill();
      if (state === SHARED) centre(0.44, this.colours.surface);
    }
    this.sprites.set(key, canvas);
    return canvas;
  }
}

/** Ink corner of an evicted square and alarm ring of a preempted one, over a square at (x, y) of `side` css px. */
function evictedCorner(c, look, x, y, side, alpha) {
  c.globalAlpha = alpha;
  c.fillStyle = look.colours.ink;
  c.beginPath();
  c.moveTo(x, y);
  c.lineTo(x + side * 0.72, y);
  c.lineTo(x, y + side * 0.72);
  c.fill();
  c.globalAlpha = 1;
}
function preemptedRing(c, look, x, y, side, alpha) {
  c.globalAlpha = alpha;
  c.strokeStyle = look.colours.alarm;
  c.lineWidth = 2.4;
  c.strokeRect(x + 1.2, y + 1.2, side - 2.4, side - 2.4);
  c.globalAlpha = 1;
}

// ---------------------------------------------------------------- 5 page
/** Make an element; text is never parsed as HTML. */
function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && name !== "list" && typeof value !== "string") node[name] = value;
    else node.setAttribute(name === "className" ? "class" : name, value);
  }
  node.append(...children.flat().filter((c) => c !== null && c !== undefined));
  return node;
}

function put(node, text) { if (node.textContent !== text) node.textContent = text; }

/** Show [text, strong?, colour?] parts, touching the page only if something changed. */
function putParts(node, parts) {
  const key = JSON.stringify(parts);
  if (node.dataset.parts === key) return;
  node.dataset.parts = key;
  node.replaceChildren(...parts.map(([text, strong, colour]) => {
    if (!strong) return document.createTextNode(text);
    return h("strong", { style: colour ? `color: ${colour}` : undefined }, text);
  }));
}

function icon(path) {
  const ns = "http://www.w3.org/2000/svg", svg = document.createElementNS(ns, "svg"), p = document.createElementNS(ns, "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  p.setAttribute("d", path);
  svg.append(p);
  return svg;
}
const ICONS = {
  play: "M8 5 L19 12 L8 19 Z", pause: "M7 5 h4 v14 h-4 Z M13 5 h4 v14 h-4 Z",
  back: "M5 5 h2.4 v14 h-2.4 Z M19 5 L9 12 L19 19 Z", next: "M16.6 5 h2.4 v14 h-2.4 Z M5 5 L15 12 L5 19 Z",
};

/** Fit a canvas to its box at the device's pixel ratio; true if it changed and must be redrawn. */
function fit(canvas, width, height, dpr) {
  const w = Math.max(1, Math.round(width * dpr)), hh = Math.max(1, Math.round(height * dpr));
  if (canvas.width === w && canvas.height === hh) return false;
  canvas.width = w;
  canvas.height = hh;
  canvas.style.height = `${height}px`;
  return true;
}

// ---------------------------------------------------------------- 6 rows
const COLUMNS = 32;

/** One lane on screen: head, numbers, waiting line, running batch, memory map, prices. */
class LaneView {
  constructor(player, lane) {
    this.player = player;
    this.lane = lane;
    const name = (title, note) => h("div", { className: "name" }, h("b", {}, title), " ", h("span", {}, note));
    const canvas = (label, extra = {}) => h("canvas", { role: "img", "aria-label": label, ...extra });
    const knows = KNOWS[lane.knows] ?? KNOWS.online;
    this.count = h("span", { className: "count" }, "0");
    this.typical = h("b", {}, "–");
    this.worst = h("b", {}, "–");
    this.line = canvas("Waiting line");
    this.lineSays = h("p", { className: "say" });
    this.batch = canvas("Running batch");
    this.batchSays = h("p", { className: "say" });
    this.map = canvas("GPU memory", { tabindex: "0", role: "application", "aria-roledescription": "memory map" });
    this.prices = [canvas("Price of memory"), canvas("Price of GPU time")];
    this.priceSays = [h("p", { className: "say" }), h("p", { className: "say" })];
    const serve = lane.serve ? h("details", { className: "serve" },
      h("summary", {}, "how to run it"),
      h("div", { className: "panel" }, h("code", {}, lane.serve), lane.source ? h("p", {}, lane.source) : null)) : null;
    const squareTokens = lane.blocks_per_square * lane.block_tokens;
    this.root = h("section", { className: "lane", "aria-label": lane.name, style: `--lane: var(--${lane.color})` },
      h("header", { className: "head" },
        h("h2", {}, lane.name, " ", h("small", {}, lane.label ?? "")),
        h("p", {}, lane.claim ?? ""),
        h("div", { className: "tags" }, h("span", { className: "knows", role: "note", title: knows[1], "aria-label": `${knows[0]}: ${knows[1]}`, tabindex: "0" }, knows[0]), serve)),
      h("div", { className: "numbers" },
        h("span", { className: "finished" }, this.count, h("span", {}, "finished")),
        h("span", { className: "pair" }, "typical ", this.typical, FIXED + "s"),
        h("span", { className: "pair" }, "worst 1" + FIXED + "% ", this.worst, FIXED + "s")),
      h("div", { className: "row" }, name("Waiting line", "width = prompt length"), this.line, this.lineSays),
      h("div", { className: "row" },
        name("Running batch", budgetWords(lane)), this.batch, this.batchSays),
      h("div", { className: "row" }, name("GPU memory", `one square = ${number(squareTokens)}${FIXED}token${squareTokens === 1 ? "" : "s"}`), this.map),
      h("div", { className: "row prices", hidden: !player.charges }, name("Price of memory", ""), this.prices[0], this.priceSays[0],
        name("Price of GPU time", ""), this.prices[1], this.priceSays[1]));
    this.positions = new Map();
    this.bars = [];
    this.chips = [];
    this.keys = new Int32Array(lane.squares).fill(-1);
    this.columns = Math.max(12, Math.min(COLUMNS, lane.squares)); // a small memory gets large squares
    this.selected = -1;
    this.root.addEventListener("pointerenter", () => lightWords(`lane:${lane.name}`, `lane:${lane.short}`));
    this.root.addEventListener("pointerleave", () => lightWords());
    this.#listen();
  }

  #listen() {
    const at = (event) => {
      const box = event.currentTarget.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    const hit = (list) => (event) => {
      const [x] = at(event);
      const found = list().find((b) => x >= b.x - 1 && x <= b.x + b.w + 1);
      this.player.hover(found ? found.r : -1, event);
    };
    const leave = () => this.player.hover(-1);
    for (const [canvas, list] of [[this.line, () => this.bars], [this.batch, () => this.chips]]) {
      canvas.addEventListener("pointermove", hit(list));
      canvas.addEventListener("pointerleave", leave);
      canvas.addEventListener("click", () => this.player.follow(this.player.hovered));
    }
    this.map.addEventListener("pointermove", (event) => {
      const square = this.squareAt(...at(event));
      const { state, request } = square < 0 ? { state: 0 } : this.lane.cell(this.player.frame, square);
      this.player.hover(state ? request : -1, event);
    });
    this.map.addEventListener("pointerleave", leave);
    this.map.addEventListener("click", (event) => this.player.explain(this, this.squareAt(...at(event))));
    this.map.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns }[event.key];
      if (step && !event.shiftKey) {
        const next = this.selected < 0 ? 0 : this.selected + step;
        if (next >= 0 && next < this.lane.squares) this.select(next);
      } else if (event.key === "Enter") {
        this.player.explain(this, Math.max(0, this.selected));
      } else return;
      event.preventDefault();
      event.stopPropagation();
    });
    this.map.addEventListener("blur", () => { if (!this.player.asking) { this.selected = -1; this.player.redraw(); } });
  }

  /** Frame this lane, or one of its rows, while a word of the page names it. */
  shine(lane, row) {
    const edge = (node, on, colour) => Object.assign(node.style, { outline: on ? `3px solid ${colour}` : "", outlineOffset: on ? "3px" : "" });
    edge(this.root, lane, "var(--lane)");
    const rows = { line: this.line, batch: this.batch, map: this.map, price: this.prices[0], gpu: this.prices[1] };
    for (const [name, node] of Object.entries(rows)) edge(node, name === row, "var(--ink)");
  }

  select(square) {
    this.selected = square;
    const { state, request } = this.lane.cell(this.player.frame, square);
    const what = ["free", "running", "cached, in use", "cached, idle"][state];
    this.player.say(`Square ${square + 1}: ${what}${request >= 0 && state ? `, ${this.player.requestName(request)}` : ""}`);
    this.player.hovered = state ? request : -1;
    this.player.redraw();
  }

  squareAt(x, y) {
    const { pitch } = this;
    const column = Math.min(this.columns - 1, Math.max(0, Math.floor(x / pitch))), row = Math.floor(y / pitch);
    const square = row * this.columns + column;
    return square >= 0 && square < this.lane.squares ? square : -1;
  }

  /** Sizes depend on the width and the pixel ratio alone. */
  layout(width, look, scale) {
    this.width = width;
    this.look = look;
    this.scale = scale;
    this.pitch = (width + 1) / this.columns;
    this.gap = scale > 1.2 ? 2 : 1.5;
    fit(this.line, width, 34 * scale, look.dpr);
    fit(this.batch, width, 38 * scale, look.dpr);
    fit(this.map, width, Math.ceil(this.lane.squares / this.columns) * this.pitch, look.dpr);
    for (const canvas of this.prices) fit(canvas, width, 26 * scale, look.dpr);
    this.keys.fill(-1);
    const all = this.map.getContext("2d");
    all.clearRect(0, 0, this.map.width, this.map.height);
    this.sceneKey = "";
    this.priceKey = "";
  }

  context(canvas) {
    const c = canvas.getContext("2d");
    c.setTransform(this.look.dpr, 0, 0, this.look.dpr, 0, 0);
    return c;
  }

  /** Draw what changed since the last frame, and the words if they are due. */
  draw(t, dt, due) {
    const lit = this.player.lit;
    const { step, busy } = this.lane.at(t);
    const arrived = countUpTo(this.lane.arrivals, t);
    const key = `${step}/${busy}/${arrived}/${lit}`;
    if (key !== this.sceneKey) {
      this.sceneKey = key;
      this.scene = this.lane.scene(t);
      this.scene.waiting.step = step;
      this.behind = lineSentence(this.lane, this.scene.waiting, this.player.names).behind;
      this.drawBatch(lit);
      this.moving = true;
    }
    if (this.moving) this.drawLine(dt, lit);
    this.drawMap(t, lit);
    const x = Math.round((t / this.player.end) * this.width * this.look.dpr);
    if (x !== this.priceKey) { this.priceKey = x; this.drawPrices(t); }
    if (due) this.words(t);
  }

  words(t) {
    const { lane, scene } = this;
    const ages = lane.ages(t);
    put(this.typical, seconds(percentile(ages, 0.5)));
    put(this.worst, seconds(percentile(ages, 0.99)));
    putParts(this.lineSays, lineSentence(lane, scene.waiting, this.player.names).text);
    put(this.batchSays, scene.busy
      ? `${number(scene.decode)} decode + ${number(scene.prefill)} prefill · ${unlimited(lane) ? "no budget" : `${number(scene.unused)} unused`}`
      : "idle: nothing to compute");
    this.drawBudget(); // the bar and its words are of one step
    const prices = lane.prices(t);
    if (!prices) {
      put(this.priceSays[0], lane.price_note ?? "always zero: the rule never asks");
      put(this.priceSays[1], lane.gpu_note ?? "always zero too");
    } else {
      const colour = this.look.colours[lane.color];
      const says = (value, unit, binds, what) => (value > 0
        ? [[binds ? "binds" : "now", binds, colour], [binds ? ": now " : " "], [`${shortPrice(value)}${FIXED}ms`, true, colour], [` of waiting ${unit}`]]
        : [[`zero: ${what} is not scarce now`]]);
      putParts(this.priceSays[0], says(prices.memory, "per block and second", prices.binds === "memory", "memory"));
      putParts(this.priceSays[1], says(prices.gpu, "per ms of GPU time", prices.binds === "gpu", "GPU time"));
    }
  }

  /** Bars of the waiting line close up in about 120 ms. */
  drawLine(dt, lit) {
    const { look, lane, scale, width } = this, c = this.context(this.line);
    const tall = 24 * scale, gap = 2, room = width - 44 * scale, unit = (width * 0.56) / this.player.longest;
    c.clearRect(0, 0, width, 34 * scale);
    this.bars = [];
    let x = 0, shown = 0, moving = false;
    const ease = this.player.still ? 1 : 1 - Math.exp(-dt / 40);
    const seen = new Map();
    for (const w of this.scene.waiting) {
      const wide = Math.max(3.5, lane.prompt[w.r] * unit);
      if (x + wide > room && shown) break;
      let from = this.positions.get(w.r) ?? x;
      from += (x - from) * ease;
      if (Math.abs(from - x) < 0.3) from = x; else moving = true;
      seen.set(w.r, from);
      const own = isLit(lit, w.r, lane.classes);
      c.globalAlpha = lit !== -1 && !own ? 0.3 : 1;
      c.fillStyle = look.fill(c, lane.classes[w.r]);
      c.beginPath();
      c.roundRect(from, 0, wide, tall, 1);
      c.fill();
      if (w.preempted) {
        c.fillStyle = look.colours.alarm;
        c.fillRect(from, tall - 2.5, wide, 2.5);
      }
      c.globalAlpha = 1;
      if (own) this.ring(c, from, 0.5, wide, tall - 1);
      this.bars.push({ r: w.r, x: from, w: wide });
      x += wide + gap;
      shown++;
    }
    this.positions = seen;
    this.moving = moving;
    const rest = this.scene.waiting.length - shown;
    if (rest > 0) {
      c.fillStyle = look.colours.muted;
      c.font = `${13 * scale}px ${SANS}`;
      c.textBaseline = "middle";
      c.clearRect(x + 2, 0, width - x, tall + 1); // bars that still slide in
      c.fillText(`+ ${number(rest)}`, x + 4, tall / 2 + 1);
    }
    if (this.behind && this.bars.length > 1) {
      const from = this.bars[1].x, to = Math.min(width - 1, x + (rest > 0 ? 34 * scale : 0));
      c.strokeStyle = look.colours.ink;
      c.lineWidth = 1;
      c.beginPath();
      c.moveTo(from + 0.5, tall + 3);
      c.lineTo(from + 0.5, tall + 7.5);
      c.lineTo(to - 0.5, tall + 7.5);
      c.lineTo(to - 0.5, tall + 3);
      c.stroke();
    }
  }

  ring(c, x, y, w, hh) {
    c.strokeStyle = this.look.colours.ink;
    c.lineWidth = 2;
    c.strokeRect(x, y, w, hh);
  }

  drawBatch(lit) {
    const { look, lane, scale, width } = this, c = this.context(this.batch);
    const { running } = this.scene, tall = 18 * scale;
    c.clearRect(0, 0, width, tall + 1);
    this.chips = [];
    const pitch = Math.max(5, Math.min(11.4 * scale, width / Math.max(1, running.length)));
    const most = Math.floor((width - (running.length * pitch > width + 1 ? 40 * scale : 0)) / pitch + 1e-6);
    const gap = pitch > 8 ? 2 : 1;
    running.slice(0, most).forEach((q, k) => {
      const x = k * pitch, w = pitch - gap, colour = look.classColour(lane.classes[q.r]);
      const own = isLit(lit, q.r, lane.classes);
      c.globalAlpha = lit !== -1 && !own ? 0.3 : 1;
      const full = Math.min(1, q.done / lane.output[q.r]) * (tall - 1);
      if (q.prefill) {
        c.save();
        c.globalAlpha *= 0.35;
        c.fillStyle = colour;
        c.fillRect(x, 0, w, tall);
        c.restore();
      } else {
        c.fillStyle = look.fill(c, lane.classes[q.r]);
        c.fillRect(x, tall - full, w, full);
      }
      c.strokeStyle = colour;
      c.lineWidth = 1;
      c.strokeRect(x + 0.5, 0.5, w - 1, tall - 1);
      c.globalAlpha = 1;
      if (own) this.ring(c, x, 1, w, tall - 2);
      this.chips.push({ r: q.r, x, w });
    });
    c.font = `${13 * scale}px ${SANS}`;
    c.textBaseline = "middle";
    if (running.length > most) {
      c.fillStyle = look.colours.muted;
      c.fillText(`+ ${number(running.length - most)}`, most * pitch + 4, tall / 2 + 1);
    }
  }

  /** What this iteration carries of its token budget. */
  drawBudget() {
    const { look, lane, scale, width } = this, { running } = this.scene, tall = 18 * scale;
    if (unlimited(lane)) return; // nothing to fill
    const c = this.context(this.batch);
    c.clearRect(0, tall + 3 * scale, width, 38 * scale);
    const y = tall + 6 * scale, high = 14 * scale, { decode, prefill } = this.scene;
    const unit = (width - 1) / lane.token_budget;
    const split = decode ? Math.max(2, decode * unit) : 0;
    c.fillStyle = look.colours.ink;
    c.fillRect(0.5, y, split, high);
    if (prefill) {
      const kinds = new Set(running.filter((q) => q.prefill).map((q) => lane.classes[q.r]));
      c.fillStyle = kinds.size === 1 ? look.fill(c, [...kinds][0]) : look.colours.muted;
      c.fillRect(0.5 + split + (split ? 1 : 0), y, Math.max(1.5, Math.min(prefill * unit, width - 2 - split)), high);
    }
    c.strokeStyle = look.colours.outline;
    c.lineWidth = 1;
    c.beginPath();
    c.roundRect(0.5, y + 0.5, width - 1, high - 1, 2);
    c.stroke();
  }

  /** Redraw only the squares whose look changed. */
  drawMap(t, lit) {
    const { lane, look, pitch, gap } = this, log = lane.log, frame = lane.frame(t);
    const flash = this.player.flash_us, span = Math.max(1, Math.ceil(flash / log.frame_us));
    if (frame === this.mapFrame && lit === this.mapLit && this.selected === this.mapSelected && span === this.mapSpan
      && this.keys[0] >= 0) return;
    Object.assign(this, { mapFrame: frame, mapLit: lit, mapSelected: this.selected, mapSpan: span });
    const marks = (this.marks ??= new Uint8Array(lane.squares)).fill(0);
    const mark = (frames, squares, shift) => {
      for (let k = countUpTo(frames, frame) - 1; k >= 0 && frames[k] > frame - span; k--) {
        const level = 3 - Math.floor((3 * (frame - frames[k])) / span);
        const old = (marks[squares[k]] >> shift) & 3;
        if (level > old) marks[squares[k]] = (marks[squares[k]] & ~(3 << shift)) | (level << shift);
      }
    };
    mark(lane.evicted_frame, lane.evicted_square, 0);
    mark(lane.stopped_frame, lane.stopped_square, 2);
    const side = Math.max(1, Math.floor((pitch - gap) * look.dpr)), css = side / look.dpr;
    const c = this.context(this.map), base = frame * lane.squares, held = lane.reserves ? lane.held(this.scene) : null;
    for (let s = 0; s < lane.squares; s++) {
      const cell = lane.cells[base + s], request = (cell >> 2) - 1;
      let state = cell & 3;
      if (held?.has(request)) {
        const left = held.get(request);
        if (left) held.set(request, left - 1); else state = PROMISED;
      }
      const kind = request >= 0 ? lane.classes[request] & 15 : 0;
      const tone = lit === -1 ? 0 : state && isLit(lit, request, lane.classes) ? 2 : 1;
      const key = state | (kind << 3) | (marks[s] << 7) | (tone << 11) | ((s === this.selected ? 1 : 0) << 13);
      if (key === this.keys[s]) continue;
      this.keys[s] = key;
      const snap = (v) => Math.round(v * look.dpr) / look.dpr; // squares on whole pixels stay crisp
      const x = snap((s % this.columns) * pitch), y = snap(Math.floor(s / this.columns) * pitch);
      c.clearRect(x, y, css + 0.5, css + 0.5);
      c.globalAlpha = tone === 1 ? 0.25 : 1;
      c.drawImage(look.sprite(state, kind, side), x, y, css, css);
      c.globalAlpha = 1;
      const evicted = marks[s] & 3, stopped = marks[s] >> 2;
      if (evicted) evictedCorner(c, look, x, y, css, tone === 1 ? 0.25 : 0.4 + 0.2 * evicted);
      if (stopped) preemptedRing(c, look, x, y, css, 0.4 + 0.2 * stopped);
      if (s === this.selected) {
        c.strokeStyle = look.colours.ink;
        c.lineWidth = 2;
        c.strokeRect(x + 0.5, y + 0.5, css - 1, css - 1);
      }
    }
  }

  drawPrices(t) {
    const { lane, look, scale, width } = this, end = this.player.end;
    const colour = look.colours[lane.color], line = look.line(lane.color);
    const now = (t / end) * width;
    [[lane.price_memory, this.player.top.memory], [lane.price_gpu_time, this.player.top.gpu]].forEach(([values, top], k) => {
      const c = this.context(this.prices[k]), tall = 26 * scale, floor = tall - 5;
      c.clearRect(0, 0, width, tall);
      c.fillStyle = look.colours.grid;
      c.fillRect(0, floor, width, 1);
      const y = (v) => floor - (top > 0 ? (v / top) * (floor - 4) : 0);
      const count = countUpTo(lane.price_us, t);
      c.beginPath();
      c.moveTo(0, floor);
      let level = floor;
      for (let i = 0; i < count; i++) {
        const x = (lane.price_us[i] / end) * width;
        c.lineTo(x, level);
        level = y(values[i]);
        c.lineTo(x, level);
      }
      c.lineTo(now, level);
      c.strokeStyle = colour;
      c.lineWidth = 2;
      c.setLineDash(line.dash);
      c.stroke();
      c.setLineDash([]);
      c.lineTo(now, floor);
      c.globalAlpha = 0.16;
      c.fillStyle = colour;
      c.fill();
      c.globalAlpha = 1;
      c.beginPath();
      c.arc(Math.min(width - 4, Math.max(4, now)), level, 4, 0, 7);
      c.fill();
    });
  }

  /** Names for those who listen, on pause and at rest. */
  names(t) {
    const { lane, scene } = this, frame = lane.frame(t);
    const used = lane.running_blocks[frame], cached = lane.cached_blocks[frame], free = lane.blocks - used - cached;
    const clock = `${number(t / 1e6, 1)}${FIXED}s`;
    const longest = scene.waiting.reduce((a, w) => Math.max(a, lane.prompt[w.r]), 0);
    this.map.setAttribute("aria-label", `GPU memory, ${lane.name}, ${clock}: ${number(lane.blocks)} blocks, ` +
      `${number(used)} running, ${number(cached)} cached, ${number(free)} free`);
    this.line.setAttribute("aria-label", `Waiting line, ${number(scene.waiting.length)} requests` +
      (longest ? `, longest ${number(longest)} tokens` : ""));
    this.batch.setAttribute("aria-label", `Running batch, ${number(scene.running.length)} requests; ${this.batchSays.textContent}`);
    const prices = lane.prices(t), before = lane.prices(t - 2e6);
    const trend = (a, b) => (a > b * 1.02 ? "rising" : a < b * 0.98 ? "falling" : "steady");
    [["memory", "memory", "per block and second"], ["gpu", "GPU time", "per ms of GPU time"]].forEach(([key, what, unit], k) => {
      this.prices[k].setAttribute("aria-label", prices
        ? `Price of ${what}, ${shortPrice(prices[key])} ms of waiting ${unit}, ${trend(prices[key], before?.[key] ?? 0)}`
        : `Price of ${what}: ${this.priceSays[k].textContent}`);
    });
    return { finished: number(lane.finishedBy(t)), typical: this.typical.textContent, worst: this.worst.textContent,
      waiting: number(scene.waiting.length), longest: number(longest), running: number(scene.running.length),
      decode: number(scene.decode), prefill: number(scene.prefill), used: number(used), cached: number(cached), free: number(free),
      memory: prices ? shortPrice(prices.memory) : "0", gpu: prices ? shortPrice(prices.gpu) : "0" };
  }
}
const SANS = '"Source Sans 3", "Source Sans 3 Variable", system-ui, sans-serif';
const TWIN = [["finished", "Finished requests"], ["typical", "Typical time to answer, s"], ["worst", "Worst 1 %, s"],
  ["waiting", "Waiting requests"], ["longest", "Longest waiting prompt, tokens"], ["running", "Running requests"],
  ["decode", "Decode tokens of this iteration"], ["prefill", "Prefill tokens of this iteration"],
  ["used", "Blocks of running requests"], ["cached", "Blocks cached and idle"], ["free", "Free blocks"],
  ["memory", "Price of memory, ms of waiting per block and second"], ["gpu", "Price of GPU time, ms of waiting per ms"]];

// ---------------------------------------------------------------- 7 timeline
/** Difference strip, track and completion curves under one playhead. */
class Timeline {
  constructor(player) {
    this.player = player;
    this.canvas = h("canvas", { "aria-hidden": "true" });
    this.slider = h("div", { className: "slider", role: "slider", tabindex: "0", "aria-label": "Time", "aria-valuemin": "0" });
    this.sentence = h("p", { className: "difference" });
    this.root = h("div", { className: "timeline" }, this.canvas, this.sentence, this.slider);
    this.layers = [document.createElement("canvas"), document.createElement("canvas")];
    this.root.addEventListener("pointerdown", (event) => {
      this.root.setPointerCapture(event.pointerId);
      this.slider.focus({ preventScroll: true });
      player.scrubbing = true;
      this.#scrub(event);
    });
    this.root.addEventListener("pointermove", (event) => { if (player.scrubbing) this.#scrub(event); });
    const end = () => { if (player.scrubbing) { player.scrubbing = false; player.settled(); } };
    this.root.addEventListener("pointerup", end);
    this.root.addEventListener("pointercancel", end);
  }

  #scrub(event) {
    const box = this.root.getBoundingClientRect();
    this.player.seek(((event.clientX - box.left) / this.width) * this.player.end);
  }

  x(t) { return (t / this.player.end) * this.width; }

  layout(width, look, scale, compact) {
    Object.assign(this, { width, look, scale, compact });
    this.diff = { top: 4, floor: 0, tall: 54 * scale };
    this.track = this.diff.tall + 22;
    this.curves = { top: this.track + 34 * scale, tall: scale > 1.2 ? 96 : 112 }; // shorten curves, not type
    this.height = this.curves.top + this.curves.tall + 24 * scale;
    this.pad = compact ? 0 : 44; // room for the axis' numbers, left of the shared time axis
    this.root.style.setProperty("--pad", `${this.pad}px`);
    fit(this.canvas, width + this.pad, this.height, look.dpr);
    this.slider.style.top = `${this.track - 15}px`;
    for (const layer of this.layers) { layer.width = this.canvas.width; layer.height = this.canvas.height; }
    this.#base();
    this.#future();
  }

  context(canvas) {
    const c = canvas.getContext("2d"), { dpr } = this.look;
    c.setTransform(dpr, 0, 0, dpr, this.pad * dpr, 0);
    c.clearRect(-this.pad, 0, this.width + this.pad + 1, this.height + 1);
    return c;
  }

  /** What does not depend on the clock: axes, arrivals, bound, marks on the track. */
  #base() {
    const { player, look, width, scale } = this, c = this.context(this.layers[0]), ink = look.colours;
    const { lanes } = player, font = `${13 * scale}px ${SANS}`;
    // difference: rows of finished requests of the named lane less those of another
    const deltas = player.deltas;
    const most = Math.max(1, ...deltas.map((d) => d.most)), least = Math.min(0, ...deltas.map((d) => d.least));
    const room = this.diff.tall - this.diff.top;
    this.dy = (v) => this.diff.top + (room * (most - v)) / (most - least);
    c.fillStyle = ink.outline;
    if (deltas.length) {
      c.fillRect(0, Math.round(this.dy(0)), width, 1);
      // only what some lane reaches has a tick: a strip below zero all the time is not labelled above it
      const ticks = [0, Math.max(0, ...deltas.map((d) => d.most)), least].filter((v, k, all) => all.indexOf(v) === k);
      const tall = (v) => Math.min(Math.max(this.dy(v), this.diff.top + 6), this.diff.tall - 6);
      this.leads = ticks.filter((v) => !v || Math.abs(tall(v) - tall(0)) >= 13 * scale).map((v) => [v > 0 ? `+${number(v)}` : number(v), tall(v)]);
    }
    // track: documents above, preemptions below
    c.fillStyle = ink.outline;
    c.fillRect(0, this.track - 1.5, width, 3);
    const mark = player.meta.mark_class ?? player.names.length - 1;
    let last = -9;
    for (let r = 0; r < lanes[0].requests; r++) {
      if (lanes[0].classes[r] !== mark) continue;
      const x = this.x(lanes[0].arrival_us[r]);
      if (x - last < 7) continue;
      last = x;
      c.fillStyle = look.fill(c, mark);
      c.fillRect(x - 2.5, this.track - 13, 5, 8);
    }
    const stops = lanes.flatMap((lane) => lane.stops.map((s) => lane.start_us[s.step])).sort((a, b) => a - b);
    c.strokeStyle = ink.alarm;
    c.lineWidth = 1.5;
    last = -9;
    for (const t of stops) {
      const x = this.x(t), y = this.track + 8;
      if (x - last < 5) continue;
      last = x;
      c.beginPath();
      c.moveTo(x - 2.5, y - 2.5); c.lineTo(x + 2.5, y + 2.5);
      c.moveTo(x + 2.5, y - 2.5); c.lineTo(x - 2.5, y + 2.5);
      c.stroke();
    }
    // curves
    const { top, tall } = this.curves, requests = lanes[0].requests;
    this.cy = (v) => top + tall - (v / requests) * (tall - 6);
    c.font = font;
    c.textBaseline = "middle";
    for (const v of ticks(requests, 3)) {
      if (v > requests) continue;
      c.fillStyle = ink.grid;
      c.fillRect(0, Math.round(this.cy(v)), width, 1);
      c.fillStyle = ink.muted;
      c.textAlign = this.compact ? "left" : "right";
      if (v) c.fillText(number(v), this.compact ? 2 : -8, this.cy(v) - (this.compact ? 9 : 0));
    }
    const marks = ticks(player.end / 1e6, Math.max(2, Math.floor(width / 120)));
    c.fillStyle = ink.muted;
    marks.forEach((s) => {
      const x = this.x(s * 1e6);
      c.textAlign = s === 0 ? "left" : x > width - 20 ? "right" : "center";
      c.fillText(s === marks[marks.length - 1] ? `${s}${FIXED}s` : `${s}`, x, top + tall + 14 * scale);
    });
    this.#curve(c, lanes[0].arrivals, ink.muted, { dash: [], width: 1 });
    const bound = player.log.arrays.bound_us;
    if (bound.length) this.#curve(c, bound, ink.ink, look.line("bound"));
  }

  #curve(c, times, colour, line) {
    c.beginPath();
    c.moveTo(0, this.cy(0));
    let last = 0;
    for (let i = 0; i < times.length; i++) {
      const x = this.x(times[i]);
      if (x - last < 0.7 && i < times.length - 1) continue;
      last = x;
      c.lineTo(x, this.cy(i + 1));
    }
    c.lineTo(this.width, this.cy(times.length));
    c.strokeStyle = colour;
    c.lineWidth = line.width;
    c.setLineDash(line.dash);
    c.stroke();
    c.setLineDash([]);
  }

  /** What the playhead uncovers: drawn once, shown up to now. */
  #future() {
    const { player, look } = this, c = this.context(this.layers[1]);
    for (const { lane, times, values } of player.deltas) {
      const colour = look.colours[lane.color];
      c.beginPath();
      c.moveTo(0, this.dy(0));
      let last = -1;
      for (let i = 0; i < times.length; i++) {
        const x = this.x(times[i]);
        if (x - last < 0.7) continue;
        last = x;
        c.lineTo(x, this.dy(values[i]));
      }
      c.lineTo(this.width, this.dy(values[values.length - 1] ?? 0));
      c.strokeStyle = colour;
      c.lineWidth = 2;
      const { dash } = look.line(lane.color);
      c.setLineDash(dash);
      c.stroke();
      c.setLineDash([]);
      if (lane === player.deltas[0].lane) {
        c.lineTo(this.width, this.dy(0));
        c.globalAlpha = 0.14;
        c.fillStyle = colour;
        c.fill();
        c.globalAlpha = 1;
      }
    }
    for (const lane of player.lanes) this.#curve(c, lane.finished, look.colours[lane.color], look.line(lane.color));
  }

  draw(t) {
    const { player, look, width, scale } = this, c = this.context(this.canvas), ink = look.colours, dpr = look.dpr;
    const x = Math.min(width, this.x(t)), wide = Math.round((x + this.pad) * dpr);
    c.drawImage(this.layers[0], -this.pad, 0, width + this.pad, this.height);
    if (wide > 0) c.drawImage(this.layers[1], 0, 0, wide, this.canvas.height, -this.pad, 0, wide / dpr, this.height);
    if (player.deltas.length && !this.compact && player.disclosed) { // how far anyone gets ahead is an answer
      Object.assign(c, { font: `${13 * scale}px ${SANS}`, fillStyle: ink.muted, textBaseline: "middle", textAlign: "right" });
      for (const [words, y] of this.leads) c.fillText(words, -8, y);
    }
    c.fillStyle = ink.ink;
    c.fillRect(0, this.track - 2, x, 4);
    this.#flag(c);
    const named = player.lanes[0].arrival_us[player.shone]; // a request that a word names, though it may not be here now
    if (named < NEVER) c.fillRect(this.x(named) - 2, this.track - 20, 4, 30);
    c.fillRect(Math.round(x) - 0.5, this.diff.top, 1, this.curves.top + this.curves.tall - this.diff.top);
    c.beginPath();
    c.arc(x, this.track, 8, 0, 7);
    c.fillStyle = ink.surface;
    c.fill();
    c.strokeStyle = ink.ink;
    c.lineWidth = 2.4;
    c.stroke();
    // names at the playhead, kept apart
    const side = x > width - 190 * scale ? -1 : 1;
    const ends = player.lanes.map((lane) => ({ y: this.cy(lane.finishedBy(t)), lane }));
    c.font = `600 ${14 * scale}px ${SANS}`;
    c.textBaseline = "middle";
    c.textAlign = side > 0 ? "left" : "right";
    const low = this.curves.top + 4, high = this.curves.top + this.curves.tall - 6;
    const places = spread(ends.map((e) => e.y), 17 * scale, low, high);
    ends.forEach(({ y, lane }, i) => {
      c.beginPath();
      c.arc(x, y, 4, 0, 7);
      c.fillStyle = ink[lane.color];
      c.fill();
      c.strokeStyle = ink.surface;
      c.lineWidth = 1;
      c.stroke();
      const words = `${player.shortName(lane)} ${number(player.counted[i])}`;
      c.lineWidth = 4;
      c.strokeStyle = ink.surface;
      c.strokeText(words, x + 10 * side, places[i]);
      c.fillStyle = ink[lane.color];
      c.fillText(words, x + 10 * side, places[i]);
    });
    this.#labels(c, x);
  }

  #flag(c) {
    const { player, look, scale } = this, q = player.question;
    if (!q) return;
    const x = Math.round(this.x(q.at_us)), y = this.track;
    c.fillStyle = look.colours.ink;
    c.fillRect(x - 0.5, y - 16, 1.5, 22);
    c.beginPath();
    c.moveTo(x, y - 16);
    c.lineTo(x + 10, y - 11.5);
    c.lineTo(x, y - 7);
    c.fill();
    c.font = `${13 * scale}px ${SANS}`;
    c.textBaseline = "middle";
    c.textAlign = x > this.width - 190 ? "right" : "left";
    const words = player.revealed ? "your answer was checked here" : "your answer is checked here";
    c.strokeStyle = look.colours.surface;
    c.lineWidth = 4;
    c.strokeText(words, x, y + 19);
    c.fillText(words, x, y + 19);
  }

  /** "arrived" and "bound" stand at their curves while there is room ahead of the playhead, else in the free corner. */
  #labels(c, x) {
    const { player, look, width, scale } = this, bound = player.log.arrays.bound_us;
    c.font = `${13 * scale}px ${SANS}`;
    c.lineWidth = 4;
    c.strokeStyle = look.colours.surface;
    const write = (words, at, y, align, colour) => {
      c.textAlign = align;
      c.strokeText(words, at, y);
      c.fillStyle = colour;
      c.fillText(words, at, y);
    };
    const rows = [[player.lanes[0].arrivals, "arrived", look.colours.muted, { dash: [], width: 1 }]];
    if (bound.length) rows.push([bound, "bound: no rule can pass it", look.colours.ink, look.line("bound")]);
    if (x < width * 0.5 && !this.compact) {
      rows.forEach(([times, words, colour], i) => {
        const at = width * (i ? 0.78 : 0.7), y = this.cy(countUpTo(times, (at / width) * player.end));
        // the curves rise: free room is up on the left of them and down on the right; at the top there is none above
        const below = i || y - 14 * scale < this.curves.top;
        write(words, i ? at + 8 : at - 2, y + (below ? 13 : -10) * scale, i ? "left" : "right", colour);
      });
      return;
    }
    rows.forEach(([, words, colour, line], i) => {
      const y = this.curves.top + (6 + 18 * i) * scale, left = this.compact ? 38 : 4; // past the axis' numbers
      write(words, left + 32, y, "left", colour);
      c.strokeStyle = colour;
      c.lineWidth = line.width;
      c.setLineDash(line.dash);
      c.beginPath();
      c.moveTo(left, y);
      c.lineTo(left + 24, y);
      c.stroke();
      c.setLineDash([]);
      c.lineWidth = 4;
      c.strokeStyle = look.colours.surface;
    });
  }
}

// ---------------------------------------------------------------- 8 player
const SPEEDS = [0.25, 0.5, 1, 2, 4, 8, 16];
const HOOK = (globalThis.__shadowPrice ??= { mounts: 0, unmounts: 0, frameTimes: [], drawTimes: [], player: null });

class Player {
  constructor(parent) {
    this.parent = parent;
    this.t = 0;
    this.playing = false;
    this.hovered = -1;
    this.pinned = -1;
    this.shone = -1;
    this.guess = null;
    this.revealed = false;
    this.asked = false;
    this.touched = false;
    this.shown = [];
    this.presenter = false;
    this.still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.root = h("div", { className: "race", role: "group", "aria-label": "The race", tabindex: "-1" },
      h("p", { className: "loading", role: "status" }, "Reading the run…"));
    parent.append(this.root);
    this.root.addEventListener("keydown", (event) => this.key(event));
    this.root.addEventListener("pointerdown", (event) => {
      for (const open of this.root.querySelectorAll("details[open]")) if (!event.composedPath().includes(open)) open.open = false;
    });
    this.resize = new ResizeObserver(() => this.layout());
    this.resize.observe(this.root);
    this.loop = this.loop.bind(this);
    this.unlight = lights((what) => this.shine(what));
    this.wake();
    HOOK.mounts++;
    HOOK.player = this;
  }

  /** Take new data: a new log keeps the playhead, of another preset it starts; an old one refreshes colours and answer. */
  async update({ data, setStateValue, setTriggerValue }) {
    this.send = { setStateValue, setTriggerValue };
    if (!data) return;
    const bytes = data instanceof Uint8Array ? data : new Uint8Array(data);
    const { answer, log } = unwrap(bytes);
    const size = new DataView(log.buffer, log.byteOffset, 4).getUint32(0, true);
    const id = JSON.parse(new TextDecoder().decode(log.subarray(4, 4 + size))).id;
    if (id !== this.wanted) {
      this.wanted = id;
      const decoded = await decode(log);
      if (this.wanted !== id || this.gone) return;
      this.load(decoded);
    } else if (this.log) this.layout(true);
    if (answer && this.log) this.answer(answer);
  }

  load(log) {
    const first = !this.log || (log.meta.preset ?? null) !== (this.meta.preset ?? null);
    this.log = log;
    this.meta = log.meta;
    this.end = log.end_us;
    this.names = this.meta.classes;
    this.lanes = log.lanes.map((_, i) => new Lane(log, i));
    this.counted = null;
    this.longest = log.arrays.prompt_tokens.reduce((a, b) => Math.max(a, b), 1);
    this.top = { memory: 0, gpu: 0 };
    for (const lane of this.lanes) {
      this.top.memory = lane.price_memory.reduce((a, b) => Math.max(a, b), this.top.memory);
      this.top.gpu = lane.price_gpu_time.reduce((a, b) => Math.max(a, b), this.top.gpu);
    }
    this.hero = this.lanes.find((l) => l.id === this.meta.hero) ?? this.lanes.find((l) => l.color === "lp") ?? this.lanes.at(-1);
    this.deltas = this.lanes.filter((l) => l !== this.hero).map((lane) => this.delta(lane));
    const question = this.meta.question ?? null;
    if (first || JSON.stringify(question) !== JSON.stringify(this.question)) {
      Object.assign(this, { question, guess: null, revealed: false, asked: false, farthest: 0 });
    }
    if (first) {
      this.speed = this.meta.speed ?? SPEEDS.find((s) => this.end / 1e6 / s <= 45) ?? 16;
      clearTimeout(this.opening);
      Object.assign(this, { t: this.meta.start_us ?? 0, playing: false, halted: false, touched: false });
    }
    this.t = Math.min(this.t, this.end);
    this.shown = [this.lanes.indexOf(this.hero), ...this.lanes.keys()].filter((v, i, all) => all.indexOf(v) === i);
    this.popover?.remove();
    this.popover = this.asking = null;
    this.hovered = this.pinned = -1;
    this.build();
    this.shine(LIGHTS.what);
    this.layout(true);
    this.painted();
    this.views.forEach((_, k) => this.tell(k));
    if (first && !this.still && this.meta.autoplay !== false) {
      this.opening = setTimeout(() => { if (!this.touched && !this.gone) this.play(); }, 800);
    }
    this.wake();
  }

  /** Finished requests of the hero less those of another lane, at each finish of either. */
  delta(lane) {
    const times = Float64Array.from([...this.hero.finished, ...lane.finished]).sort();
    const values = times.map((t) => this.hero.finishedBy(t) - lane.finishedBy(t));
    return { lane, times, values, most: values.reduce((a, b) => Math.max(a, b), 0), least: values.reduce((a, b) => Math.min(a, b), 0) };
  }

  /** Whether any lane has prices: rows of zeros would say nothing. */
  get charges() { return this.lanes.some((lane) => lane.priced); }
  /** Whether what is asked has been answered or seen. */
  get disclosed() { return !this.question || this.revealed || this.farthest >= this.question.at_us; }
  shortName(lane) { return lane.short ?? lane.name; }
  requestName(r) { return `${this.names[this.lanes[0].classes[r]] ?? "request"} #${r}`; }
  get lit() { return this.hovered >= 0 ? this.hovered : this.shone !== -1 ? this.shone : this.pinned; }
  get frame() { return this.lanes ? this.lanes[0].frame(this.t) : 0; }
  /** Evicted and preempted marks stay 0.5 s at rest, 0.25 s of wall time while playing. */
  get flash_us() { return this.playing ? 250000 * Math.min(4, this.speed) : 500000; }

  // ---- the page
  build() {
    const { meta } = this;
    this.views = this.lanes.map((lane) => new LaneView(this, lane));
    this.timeline = new Timeline(this);
    const button = (label, path, run, cls = "") => h("button", { type: "button", className: `round ${cls}`, "aria-label": label, title: label, onclick: run }, icon(path));
    this.playButton = button("Play", ICONS.play, () => this.toggle(), "main");
    this.speedButton = h("button", { type: "button", className: "speed", title: "Speed ([ slower, ] faster)", onclick: () => this.faster(1, true) });
    this.clock = h("span", { className: "clock" });
    this.miniSlider = h("input", { type: "range", className: "mini", min: "0", max: "1000", value: "0", "aria-label": "Time" });
    this.miniSlider.addEventListener("input", () => { this.seek((Number(this.miniSlider.value) / 1000) * this.end); });
    this.miniSlider.addEventListener("change", () => this.settled());
    this.transport = h("div", { className: "transport", role: "group", "aria-label": "Playback" },
      button("One iteration back", ICONS.back, () => this.iterate(-1)), this.playButton,
      button("One iteration on", ICONS.next, () => this.iterate(1)));
    this.dockSays = h("p", { className: "dock-says" });
    this.dock = h("div", { className: "dock" }, this.transport, this.miniSlider, h("div", { className: "time" }, this.clock, this.speedButton), this.dockSays);
    this.ask = h("div", { className: "ask" });
    this.tabs = h("div", { className: "tabs", role: "group", "aria-label": "Rules" }, this.views.map((view, i) =>
      h("button", { type: "button", style: `--lane: var(--${view.lane.color})`, onclick: () => this.show(i) },
        h("span", {}, this.shortName(view.lane)), h("b", {}), " ", h("small", {}, "finished"))));
    const rail = (title, note, cls) => h("div", { className: `cell ${cls}` }, h("b", {}, title), h("span", {}, note));
    const same = new Set(this.lanes.map((l) => `${l.token_budget}/${l.blocks_per_square * l.block_tokens}`)).size === 1;
    const each = this.lanes[0].blocks_per_square * this.lanes[0].block_tokens;
    this.rail = h("div", { className: "rail", "aria-hidden": "true" },
      rail("", "", "r-head"), rail("Time to answer", "unfinished count too", "r-numbers"),
      rail("Waiting line", "width = prompt length", "r-row"),
      rail("Running batch", same ? `${unlimited(this.lanes[0]) ? "" : "this iteration’s "}${budgetWords(this.lanes[0])}` : "this iteration’s budget", "r-row"),
      rail("GPU memory", same ? `one square = ${number(each)}${FIXED}token${each === 1 ? "" : "s"} of KV cache` : "KV cache", "r-row"),
      h("div", { className: "cell r-prices", hidden: !this.charges }, h("b", {}, "Price of memory"), h("span", {}, "what the rule charges"),
        h("b", { className: "second" }, "Price of GPU time"), h("span", {}, "the other scarce thing")));
    this.legend = h("ul", { className: "legend", "aria-label": "Legend" });
    this.live = h("p", { className: "hidden", "aria-live": "polite" });
    this.twin = h("table", {}, h("caption", {}, "The race now, as a table"),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "figure"), this.lanes.map((l) => h("th", { scope: "col" }, l.name)))),
      h("tbody", {}, TWIN.map(([, words]) => h("tr", {}, h("th", { scope: "row" }, words), this.lanes.map(() => h("td", {}))))));
    this.tip = h("div", { className: "tip", role: "tooltip", hidden: true });
    const claim = meta.claim ? h("h1", { className: "claim" }, meta.claim.split("*").map((part, i) => (i % 2 ? h("em", {}, part) : part))) : null;
    this.root.replaceChildren(
      h("div", { className: claim ? "top" : "top bare" }, claim, this.ask), this.tabs,
      h("div", { className: "lanes" }, this.rail, this.views.map((v) => v.root)),
      h("div", { className: "under" },
        h("div", { className: "left" }),
        this.legend,
        h("div", { className: "left words" }, this.deltas.length
          ? h("div", { className: "ahead" }, h("b", {}, `${this.shortName(this.hero)} ahead by`), " ", h("span", {}, "requests finished")) : null,
          h("div", { className: "dock-place" }),
          h("b", { className: "curve-name" }, "Finished requests"), h("span", {}, meta.note ?? "")),
        this.timeline.root),
      this.dock, this.live, h("div", { className: "hidden" }, this.twin), this.tip); // a table itself would not clip
    this.paintAsk();
  }

  layout(force = false) {
    if (!this.log || this.gone) return;
    const width = this.root.clientWidth;
    if (!width) return;
    const style = getComputedStyle(this.parent.host ?? this.root);
    const background = style.getPropertyValue("--st-background-color").trim();
    const dark = background ? luminance(background) < 0.5 : matchMedia("(prefers-color-scheme: dark)").matches;
    const dpr = Math.min(3, globalThis.devicePixelRatio || 1);
    const key = `${width}/${dpr}/${dark}/${background}/${this.presenter}/${this.shown.slice(0, 2)}`;
    if (key === this.layoutKey && !force) return;
    this.layoutKey = key;
    const lookKey = `${dark}/${background}/${dpr}/${JSON.stringify(this.meta.palette)}`;
    if (lookKey !== this.lookKey) { // drawn sprites outlive a change of run or width
      this.lookKey = lookKey;
      this.look = new Look(this.meta.palette, dark, background, dpr);
    }
    for (const [token, value] of Object.entries(this.look.colours)) this.root.style.setProperty(`--${token}`, value);
    this.root.style.colorScheme = dark ? "dark" : "light";
    const big = this.presenter || width >= 1700;
    const mode = big && width >= 1200 ? "presenter" : width >= 1160 ? "wide" : width >= 900 ? "middle" : width >= 592 ? "two" : "one";
    this.mode = mode;
    this.root.dataset.layout = mode;
    const scale = mode === "presenter" ? Math.max(1, Math.min(1.25, width / 1400)) : 1;
    this.root.style.setProperty("--k", scale);
    const across = mode === "one" ? 1 : mode === "two" ? Math.min(2, this.lanes.length) : this.lanes.length;
    this.root.style.setProperty("--n", across);
    const visible = this.shown.slice(0, across).sort((a, b) => a - b);
    this.views.forEach((view, i) => { view.root.hidden = across < this.lanes.length && !visible.includes(i); });
    this.tabs.hidden = across >= this.lanes.length;
    [...this.tabs.children].forEach((tab, i) => tab.setAttribute("aria-pressed", String(visible.includes(i))));
    const place = mode === "wide" || mode === "presenter" ? this.root.querySelector(".dock-place") : null;
    if (place) { if (this.dock.parentNode !== place) place.append(this.dock); }
    else if (this.dock.parentNode !== this.root) this.root.insertBefore(this.dock, this.live);
    this.paintLegend();
    for (const view of this.views) {
      if (!view.root.hidden) view.layout(view.root.clientWidth, this.look, scale);
    }
    this.timeline.layout(this.timeline.root.clientWidth, this.look, scale, mode !== "wide" && mode !== "presenter");
    if (place) {
      const { track } = this.timeline;
      this.root.style.setProperty("--track", `${track}px`);
      this.root.style.setProperty("--curves", `${this.timeline.curves.top}px`);
    }
    this.redraw();
  }

  paintLegend() {
    const side = 13, { look } = this, item = (words, draw) => {
      const canvas = h("canvas", { "aria-hidden": "true" });
      canvas.width = canvas.height = Math.round(side * look.dpr);
      canvas.style.width = canvas.style.height = `${side}px`;
      const c = canvas.getContext("2d");
      c.scale(look.dpr, look.dpr);
      draw(c);
      return h("li", {}, canvas, words);
    };
    const sprite = (state, kind) => (c) => c.drawImage(look.sprite(state, kind, Math.round(side * look.dpr)), 0, 0, side, side);
    const present = [...new Set(this.lanes[0].classes)].sort((a, b) => a - b);
    const some = present.includes(1) ? 1 : present[0] ?? 0;
    const any = (what) => this.lanes.some(what), caches = any((l) => l.cached_blocks.some((n) => n > 0));
    const bar = (colour) => (c) => { c.fillStyle = colour; c.fillRect(0, 2, side, side - 4); };
    // only what a lane here can show; a prefill of several classes has a colour of its own in the budget bar
    this.legend.replaceChildren(...[
      ...present.map((k) => item(this.names[k] ?? `class ${k}`, sprite(RUNNING, k))),
      any((l) => l.reserves) && item("promised, empty", sprite(PROMISED, some)),
      caches && item("cached, idle", sprite(CACHED, some)), caches && item("cached, in use", sprite(SHARED, some)),
      item("free", sprite(EMPTY, 0)),
      any((l) => l.evicted_frame.length) && item("evicted, reused", (c) => { sprite(RUNNING, present[0] ?? 0)(c); evictedCorner(c, look, 0, 0, side, 1); }),
      any((l) => l.stops.length) && item("preempted", (c) => preemptedRing(c, look, 0, 0, side, 1)),
      any((l) => !unlimited(l)) && item("decode", bar(look.colours.ink)),
      present.length > 1 && any((l) => !unlimited(l)) && item("prefill of several", bar(look.colours.muted)),
    ].filter(Boolean));
  }

  // ---- predict, then reveal
  paintAsk() {
    const q = this.question;
    this.ask.hidden = !q;
    if (!q) return;
    const options = (q.options ?? this.lanes.map((l) => l.id)).map((id) => this.lanes.find((l) => l.id === id)).filter(Boolean);
    const words = this.revealed ? this.verdict(options) : h("p", {}, h("b", {}, this.halted ? "Before it goes on: " : "Before it plays: "), q.text);
    const best = this.revealed ? this.winners(options) : [];
    this.ask.replaceChildren(words, h("div", { className: "pills", role: "radiogroup", "aria-label": "Your answer" },
      options.map((lane) => h("button", { type: "button", role: "radio", "aria-checked": String(this.guess === lane.id),
        style: `--lane: var(--${lane.color})`, className: best.includes(lane) ? "best" : "", disabled: this.revealed && this.guess !== lane.id && !best.includes(lane),
        onclick: () => this.choose(lane.id) }, this.shortName(lane))),
      // it holds its place from the start: the race must not move when it stops
      !this.revealed && !this.guess ? h("button", { type: "button", className: "skip", style: this.halted ? "" : "visibility: hidden", onclick: () => { this.guess = ""; this.play(); } }, "go on without") : null,
      this.guess && !this.revealed && !this.playing ? h("button", { type: "button", className: "skip", onclick: () => this.play() }, "play") : null));
    this.ask.classList.toggle("waiting", Boolean(this.halted));
  }

  winners(options) {
    const scores = options.map((l) => shownScore(l, this.question.metric ?? "finished", this.question.at_us));
    const best = Math.max(...scores);
    return options.filter((_, i) => scores[i] === best);
  }

  verdict(options) {
    const q = this.question, best = this.winners(options), right = best.some((l) => l.id === this.guess);
    const metric = q.metric ?? "finished";
    const words = (lane) => {
      const s = shownScore(lane, metric, q.at_us);
      return metric === "finished" ? number(s) : `${number(-s / 1000, 1)}${FIXED}s`;
    };
    const what = { finished: "requests finished", mean: "mean time to answer", typical: "typical time to answer", worst: "worst 1 % of times to answer" }[metric];
    const tie = best.length > 1;
    const head = !this.guess ? (tie ? "A tie: " : "Answer: ") : right ? (tie ? "Right, in a tie: " : "Right: ") : "Not so: ";
    const said = this.guess && !right ? ` You said ${this.shortName(options.find((l) => l.id === this.guess))}.` : "";
    const rows = [...options].sort((a, b) => score(b, metric, q.at_us) - score(a, metric, q.at_us));
    return h("p", {}, h("b", {}, head), `${what} at ${number(q.at_us / 1e6)}${FIXED}s: `,
      rows.flatMap((lane, i) => [i ? ", " : "", h("strong", { style: `color: var(--${lane.color})` }, `${this.shortName(lane)} ${words(lane)}`)]), ".", said);
  }

  choose(id) {
    if (this.revealed) return;
    this.touched = true;
    this.guess = id;
    const halted = this.halted;
    this.halted = false;
    if (this.t >= this.question.at_us) this.reveal();
    else if (halted || !this.playing) this.play();
    this.paintAsk();
    // the pills are rebuilt: give the focus back
    this.ask.querySelector('[aria-checked="true"]')?.focus({ preventScroll: true });
  }

  reveal() {
    this.revealed = true;
    this.halted = false;
    this.paintAsk();
    this.say(this.ask.querySelector("p").textContent);
  }

  // ---- the clock
  play() {
    if (!this.log) return;
    if (this.t >= this.end) { this.t = 0; }
    if (this.still) { this.seek(this.t + 500000); this.settled(); return; }
    this.halted = false;
    this.playing = true;
    this.last = 0;
    this.painted();
    this.wake();
  }

  pause() {
    this.playing = false;
    this.painted();
    this.settled();
  }

  painted() {
    const label = this.still ? "Half a second on" : this.playing ? "Pause" : "Play";
    this.playButton.setAttribute("aria-label", label);
    this.playButton.title = `${label} (space)`;
    this.playButton.replaceChildren(icon(this.playing ? ICONS.pause : ICONS.play));
    if (this.question) this.paintAsk();
    this.redraw();
  }

  toggle() {
    this.touched = true;
    if (this.halted && this.guess === null) { this.ask.querySelector("button")?.focus(); this.say("Choose an answer, or press R to see it."); return; }
    if (this.playing) this.pause(); else this.play();
  }

  seek(t) {
    this.touched = true;
    this.t = Math.max(0, Math.min(this.end, t));
    if (this.halted && this.t > this.stopAt) { this.halted = false; this.asked = true; this.paintAsk(); }
    if (this.question && !this.revealed && this.guess && this.t >= this.question.at_us) this.reveal();
    this.redraw();
  }

  iterate(by) {
    this.touched = true;
    if (this.playing) this.pause();
    const lane = this.lanes[this.shown[0]] ?? this.lanes[0];
    const { step } = lane.at(this.t);
    this.seek(lane.start_us[Math.max(0, Math.min(lane.steps - 1, step + by))] ?? 0);
    this.settled();
  }

  faster(by, wrap = false) {
    let k = SPEEDS.indexOf(this.speed) + by;
    if (wrap && k >= SPEEDS.length) k = 0;
    this.speed = SPEEDS[Math.max(0, Math.min(SPEEDS.length - 1, k))];
    this.redraw();
  }

  /** Whether it moves, or is drawn where nothing moves by itself. */
  get alive() { return Boolean(this.lanes) && (this.t > 0 || this.still || this.meta.autoplay === false); }

  get stopAt() {
    const q = this.question;
    return q ? q.ask_us ?? Math.min(q.at_us * 0.3, this.end * 0.15) : Infinity;
  }

  /** At rest: words for screen readers, and nothing to Python unless someone waits for an answer. */
  settled() {
    if (!this.log || this.gone) return;
    this.draw(0, -1);
    const rows = this.views.filter((v) => !v.root.hidden).length ? this.views.map((_, k) => this.tell(k)) : [];
    this.say(`${number(this.t / 1e6, 1)} seconds. ${this.lanes.map((l, k) => `${l.name}: ${rows[k]?.finished ?? 0} finished, ${rows[k]?.waiting ?? 0} waiting`).join(". ")}.`);
  }

  /** Bring a lane's column of the table, and the names of its canvases, up to date; return the figures. */
  tell(k) {
    const view = this.views[k];
    if (!view.scene || view.root.hidden) {
      view.scene = view.lane.scene(this.t);
      view.scene.waiting.step = view.scene.step;
      if (view.look) view.words(this.t);
    }
    const said = view.names(this.t);
    [...this.twin.tBodies[0].rows].forEach((row, i) => put(row.cells[k + 1], String(said[TWIN[i][0]])));
    put(this.twin.caption, `The race at ${number(this.t / 1e6, 1)}${FIXED}s, as a table`);
    return said;
  }

  say(words) { put(this.live, words); }

  show(i) {
    this.shown = [i, ...this.shown.filter((k) => k !== i)];
    this.layout();
  }

  key(event) {
    if (!this.log || event.ctrlKey || event.metaKey || event.altKey) return;
    const path = event.composedPath()[0];
    const onButton = path instanceof HTMLButtonElement || path instanceof HTMLElement && path.tagName === "SUMMARY";
    const keys = {
      " ": () => (onButton ? false : this.toggle()),
      ArrowLeft: () => (event.shiftKey ? (this.seek(this.t - 1e6), this.settled()) : this.iterate(-1)),
      ArrowRight: () => (event.shiftKey ? (this.seek(this.t + 1e6), this.settled()) : this.iterate(1)),
      Home: () => { this.seek(0); this.settled(); },
      End: () => { this.seek(this.end); this.settled(); },
      "[": () => this.faster(-1), "]": () => this.faster(1),
      p: () => this.present(), P: () => this.present(),
      r: () => this.askReveal(), R: () => this.askReveal(),
      Escape: () => this.escape(),
      Enter: () => (onButton ? false : this.follow(Math.max(-1, this.lit))),
    };
    let run = keys[event.key];
    if (/^[1-9]$/.test(event.key) && this.views[event.key - 1]) {
      run = () => { const i = Number(event.key) - 1; this.show(i); this.views[i].map.focus({ preventScroll: true }); };
    }
    if (path === this.miniSlider && event.key !== " ") return;
    if (!run || run() === false) return;
    event.preventDefault();
    event.stopPropagation();
  }

  askReveal() {
    if (!this.question || this.revealed) return;
    this.touched = true;
    if (this.playing) this.pause();
    if (this.t < this.question.at_us) this.seek(this.question.at_us);
    this.reveal();
    this.settled();
  }

  present() {
    this.presenter = !this.presenter;
    if (this.presenter) this.root.requestFullscreen?.().catch(() => {});
    else if (document.fullscreenElement) document.exitFullscreen().catch(() => {});
    this.root.classList.toggle("presenting", this.presenter);
    this.layout(true);
  }

  escape() {
    for (const open of this.root.querySelectorAll("details[open]")) open.open = false;
    const view = this.asking?.view;
    this.closePopover();
    this.pinned = this.hovered = -1;
    this.tip.hidden = true;
    if (view) view.map.focus({ preventScroll: true });
    this.redraw();
  }

  // ---- hover, follow, explain
  hover(r, event) {
    if (this.asking) return;
    if (r !== this.hovered) {
      this.hovered = r;
      lightWords(...(r < 0 ? [] : [`request:${r}`, `class:${this.names[this.lanes[0].classes[r]]}`]));
      this.redraw();
    }
    if (r < 0 || !event) { this.tip.hidden = true; return; }
    if (this.tipFor !== `${r}/${Math.round(this.t / 1e5)}`) {
      this.tipFor = `${r}/${Math.round(this.t / 1e5)}`;
      this.tip.replaceChildren(...this.describe(r));
    }
    this.tip.hidden = false;
    const box = this.root.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    this.tip.style.transform = `translate(${Math.max(0, Math.min(x + 14, box.width - this.tip.offsetWidth - 4))}px, ${y + 18}px)`;
  }

  describe(r) {
    const lane0 = this.lanes[0];
    const rows = this.lanes.map((lane, k) => {
      const view = this.views[k];
      const scene = view.root.hidden || !view.scene ? lane.scene(this.t) : view.scene;
      const run = scene.running.find((q) => q.r === r), wait = scene.waiting.findIndex((w) => w.r === r);
      let where = "not here yet";
      if (lane.finish_us[r] <= this.t) where = `finished at ${number(lane.finish_us[r] / 1e6, 1)}${FIXED}s`;
      else if (run) where = run.prefill ? "running: prefill" : `running: ${number(run.done)} of ${number(lane.output[r])} tokens`;
      else if (wait >= 0) where = `waiting, ${number(wait)} ahead${scene.waiting[wait].preempted ? ", preempted before" : ""}`;
      return h("div", {}, h("b", { style: `color: var(--${lane.color})` }, this.shortName(lane)), ` ${where}`);
    });
    return [h("div", {}, h("b", {}, this.requestName(r)), ` · prompt ${number(lane0.prompt[r])}${FIXED}tokens · answer ${number(lane0.output[r])}`), ...rows];
  }

  /** Light up what a word of the page names: a class, a request, a lane, a row of each lane. */
  shine(what) {
    if (!this.lanes) return;
    const { kind, name } = what ?? {}, row = kind === "row" ? name : "", request = kind === "request" && /^\d+$/.test(name);
    this.shone = request ? Number(name) : kind === "class" ? -2 - this.names.indexOf(name) : -1; // -1: a class that is not here
    for (const view of this.views) view.shine(kind === "lane" && [view.lane.name, view.lane.short].includes(name), row);
    this.timeline.root.style.outline = row === "curves" ? "3px solid var(--ink)" : "";
    this.redraw();
  }

  follow(r) {
    this.pinned = this.pinned === r ? -1 : r;
    if (r >= 0) this.say(this.describe(r).map((d) => d.textContent).join(". "));
    this.redraw();
  }

  /** Ask Python why a block was evicted (or stays); other squares are followed. */
  explain(view, square) {
    if (square < 0) return;
    this.touched = true;
    const { lane } = view, { state, request } = lane.cell(this.frame, square);
    const evicted = lane.lastEviction(square, this.t, Math.max(2e6, this.flash_us));
    view.selected = square;
    if (!this.meta.explain || (evicted < 0 && state !== CACHED && state !== SHARED)) { this.follow(state ? request : -1); return; }
    if (this.playing) this.pause();
    this.hover(-1);
    this.pinned = -1;
    const t = evicted >= 0 ? (evicted + 0.5) * lane.log.frame_us : this.t;
    const step = Math.max(0, evicted >= 0 ? countUpTo(lane.start_us, evicted * lane.log.frame_us) - 1 : lane.at(this.t).step);
    const first = square * lane.blocks_per_square + 1;
    this.asking = { view, square, lane: lane.id, step, t_us: Math.round(lane.start_us[step] ?? t), evicted: evicted >= 0,
      blocks: [first, Math.min(lane.blocks, first + lane.blocks_per_square - 1)] };
    const title = evicted >= 0 ? `Why was a block evicted at ${number(this.asking.t_us / 1e6, 1)}${FIXED}s?` : "What is this cached block worth?";
    const wait = h("p", { role: "status" }, "asking…");
    this.openPopover(title, wait);
    setTimeout(() => put(wait, "No answer came in time. Close this and click again."), 10000);
    this.send?.setTriggerValue("why", { lane: lane.id, step, square, t_us: this.asking.t_us, evicted: evicted >= 0, blocks: this.asking.blocks });
  }

  openPopover(title, ...content) {
    this.closePopover(false);
    const close = h("button", { type: "button", className: "close", "aria-label": "Close", onclick: () => this.escape() }, "×");
    this.popover = h("div", { className: "popover", role: "dialog", "aria-label": title, tabindex: "-1" }, close, h("h2", {}, title), ...content);
    this.root.append(this.popover);
    this.placePopover();
    this.popover.focus({ preventScroll: true });
    this.redraw();
  }

  placePopover() {
    if (!this.popover || this.mode === "one" || this.mode === "two" || !this.asking) return;
    const box = this.root.getBoundingClientRect(), map = this.asking.view.map.getBoundingClientRect();
    const { pitch } = this.asking.view, square = this.asking.square;
    const x = map.left - box.left + ((square % this.asking.view.columns) + 0.5) * pitch, y = map.top - box.top + (Math.floor(square / this.asking.view.columns) + 0.5) * pitch;
    const wide = this.popover.offsetWidth, left = x > box.width / 2 ? x - wide - 34 : x + 34;
    this.popover.style.left = `${Math.max(0, Math.min(box.width - wide, left))}px`;
    this.popover.style.top = `${Math.max(0, y - this.popover.offsetHeight * 0.55)}px`;
  }

  closePopover(forget = true) {
    this.popover?.remove();
    this.popover = null;
    if (forget) { if (this.asking) this.asking.view.selected = -1; this.asking = null; }
    this.dirty = true;
  }

  /** Show Python's answer: text, the rule's own scores, a number line and a note. */
  answer(a) {
    const key = JSON.stringify(a);
    if (!this.asking || key === this.answered) { this.answered = key; return; }
    if (a.for && (a.for.lane !== this.asking.lane || a.for.step !== this.asking.step || a.for.square !== this.asking.square)) return;
    this.answered = key;
    const { victim = -1 } = a, rows = a.rows ?? [], columns = a.columns ?? [];
    const table = rows.length ? h("table", {},
      h("thead", {}, h("tr", {}, columns.map((c) => h("th", { scope: "col" }, c)))),
      h("tbody", {}, rows.map((row, i) => h("tr", { className: i === victim ? "victim" : "" }, row.map((cell, k) => h(k ? "td" : "th", k ? {} : { scope: "row" }, String(cell))))))) : null;
    const scores = (a.scores ?? rows.map((row) => Number.parseFloat(String(row.at(-1)).replace(/[^\d.eE+-]/g, "")))).filter(Number.isFinite);
    this.openPopover(a.title, a.text ? h("p", {}, a.text) : null, table,
      scores.length > 1 && scores.length === rows.length ? this.numberLine(scores, victim, a.score_label) : null,
      a.note ? h("p", { className: "note" }, a.note) : null);
  }

  numberLine(scores, victim, label) {
    const low = Math.min(...scores), high = Math.max(...scores), span = high - low || 1;
    const line = h("div", { className: "scores", "aria-hidden": "true" });
    if (victim >= 0) {
      const at = ((scores[victim] - low) / span) * 100;
      line.append(h("span", { className: at > 60 ? "end" : "", style: `left: ${at}%` }, label ?? "lowest score: evicted"));
    }
    const order = [...scores.keys()].sort((a, b) => (a === victim) - (b === victim)); // the victim on top
    order.forEach((i) => line.append(h("i", { className: i === victim ? "victim" : "", style: `left: ${((scores[i] - low) / span) * 100}%` })));
    return line;
  }

  // ---- frames
  redraw() { this.dirty = true; this.wake(); }

  wake() { if (!this.raf && !this.gone) this.raf = requestAnimationFrame(this.loop); }

  loop(now) {
    this.raf = 0;
    if (this.gone) return;
    const gap = this.last ? now - this.last : 16.7, dt = Math.min(100, gap);
    this.last = now;
    if (this.playing) {
      if (HOOK.frameTimes.push(gap) > 3000) HOOK.frameTimes.shift();
      let t = this.t + dt * 1000 * this.speed;
      if (this.question && !this.asked && this.guess === null && this.t <= this.stopAt && t >= this.stopAt) {
        this.t = this.stopAt;
        this.asked = this.halted = true;
        this.pause();
        return;
      }
      if (this.question && !this.revealed && this.guess && t >= this.question.at_us) this.reveal();
      if (t >= this.end) { this.t = this.end; this.pause(); return; }
      this.t = t;
      this.dirty = true;
    }
    if (this.dirty && this.log) {
      const begun = performance.now();
      // while playing one part of the words is refreshed every third of 100 ms: no frame pays for all of them
      const due = now - (this.slowAt ?? 0) > 33;
      if (due) { this.slowAt = now; this.turn = ((this.turn ?? 0) + 1) % (this.views.length + 1); }
      const slow = !this.playing ? -1 : due ? this.turn : -2;
      this.dirty = false;
      this.draw(dt, slow);
      if (HOOK.drawTimes.push(performance.now() - begun) > 3000) HOOK.drawTimes.shift();
      if (now - (this.toldAt ?? 0) > 700) { // the table keeps up while it plays, a lane at a time and unannounced
        this.toldAt = now;
        this.tell(this.told = ((this.told ?? -1) + 1) % this.views.length);
      }
    }
    if (this.playing || this.dirty) this.wake(); else this.last = 0;
  }

  /** Draw now. `words`: which lane's words to refresh (lanes.length: those of the clock), -1 all, -2 none. */
  draw(dt, words) {
    this.views.forEach((view, i) => {
      if (view.root.hidden) return;
      view.draw(this.t, dt, words === -1 || words === i);
      if (view.moving) this.dirty = true;
    });
    // one instant for every count of finished requests: lanes, tabs, names at the curves, the sentence
    const counts = words === -1 || words === this.views.length || !this.counted;
    if (counts) this.counted = this.lanes.map((lane) => lane.finishedBy(this.t));
    this.farthest = Math.max(this.farthest, this.t);
    this.timeline.draw(this.t);
    if (!counts) return;
    this.views.forEach((view, i) => put(view.count, number(this.counted[i])));
    const clock = `${number(this.t / 1e6, 1)}${FIXED}s`;
    put(this.clock, clock);
    put(this.speedButton, `${this.speed}×`);
    this.speedButton.setAttribute("aria-label", `Speed ${this.speed} times`);
    this.miniSlider.value = String((this.t / this.end) * 1000);
    this.miniSlider.setAttribute("aria-valuetext", `${number(this.t / 1e6, 1)} of ${number(this.end / 1e6)} seconds`);
    const { slider } = this.timeline;
    slider.setAttribute("aria-valuemax", String(Math.round(this.end / 1e6)));
    slider.setAttribute("aria-valuenow", String(Math.round(this.t / 1e5) / 10));
    slider.setAttribute("aria-valuetext", `${number(this.t / 1e6, 1)} of ${number(this.end / 1e6)} seconds`);
    [...this.tabs.children].forEach((tab, i) => put(tab.querySelector("b"), number(this.counted[i])));
    this.difference();
  }

  difference() {
    const of = (lane) => this.counted[this.lanes.indexOf(lane)], mine = of(this.hero);
    const parts = [];
    this.deltas.forEach(({ lane }, i) => {
      const d = mine - of(lane);
      const amount = d > 0 ? `${number(d)}${FIXED}more` : d < 0 ? `${number(-d)}${FIXED}fewer` : `as${FIXED}many`;
      const link = d === 0 ? "as" : "than";
      const lead = i === 0 ? `${this.shortName(this.hero)} finished ` : i === this.deltas.length - 1 ? ", and " : ", ";
      parts.push([lead], [amount, true, this.look.colours[lane.color]], [`${i === 0 && d !== 0 ? " requests" : ""} ${link} ${lowerFirst(this.shortName(lane))}`]);
    });
    if (parts.length) parts.push(["."]);
    putParts(this.timeline.sentence, parts);
    putParts(this.dockSays, parts);
    const x = this.timeline.x(this.t), right = x > this.timeline.width - 340;
    // near the right end it would cover the very strip it speaks of: it stands where the race began
    this.timeline.sentence.style.left = right ? "8px" : `${Math.min(x + 12, this.timeline.width - 60)}px`;
    this.timeline.sentence.classList.toggle("over", right);
  }

  destroy() {
    this.gone = true;
    clearTimeout(this.opening);
    cancelAnimationFrame(this.raf);
    this.resize.disconnect();
    this.unlight();
    this.root.remove();
    HOOK.unmounts++;
    if (HOOK.player === this) HOOK.player = null;
  }
}

// ---------------------------------------------------------------- 9 mount
export default (component) => mountIn(component, Player);
