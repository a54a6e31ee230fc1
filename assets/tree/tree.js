// The prefix tree of a cache, lane beside lane: what is held, found and evicted, on one clock. Python replays the runs
// (ui/caching_picture.py says the dictionary); it stands after shared/picture.js and shared/playing.js. 1 geometry (pure, tested) · 2 tree · 3 mount.

// ---------------------------------------------------------------- 1 geometry
const PITCH = 18, BAR = 12, INDENT = 14, GAP = 3, NAME = 108, SCORE = 62;

/** Value at a frame of [frame, value, frame, value, ...], the frames rising; `none` before the first. */
export function valueAt(steps, frame, none = 0) {
  let low = 0, high = steps.length / 2;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[2 * middle] <= frame) low = middle + 1; else high = middle;
  }
  return low ? steps[2 * low - 1] : none;
}

export function sumTo(steps, frame) {
  let sum = 0;
  for (let i = 0; i < steps.length && steps[i] <= frame; i += 2) sum += steps[i + 1];
  return sum;
}

/** Where each node lies: a row a text, its text to the right, what goes on with it right behind or in rows below.
 * Areas are blocks: every bar has one height and one scale; what stands for many texts wraps into more lines. */
export function layout(nodes, width) {
  const below = nodes.map(() => []), top = [], room = Math.max(80, width - NAME - SCORE);
  nodes.forEach((node, n) => (node.parent >= 0 ? below[node.parent] : top).push(n));
  const alone = (n) => below[n].length === 1 && nodes[below[n][0]].kind === "rest";
  const length = (n, depth) => depth * INDENT / 2 + nodes[n].size + Math.max(0, ...below[n].map((c) => (alone(n) ? nodes[c].size : 0)));
  let longest = 1;
  nodes.forEach((node, n) => { if (node.kind !== "rest") longest = Math.max(longest, length(n, 0)); });
  if (nodes.every((node) => node.kind === "rest")) longest = Math.max(...nodes.map((node) => node.size)) / 8;
  const scale = (room - INDENT - GAP) / longest, places = [];
  let y = 0;
  const lay = (n, depth) => {
    const x = NAME + depth * INDENT, per = nodes[n].kind === "rest" ? Math.floor((width - SCORE - x) / scale) : nodes[n].size;
    const lines = Math.max(1, Math.ceil(nodes[n].size / Math.max(1, per)));
    places[n] = { n, x, y, depth, per: Math.max(1, per), lines, named: true };
    if (alone(n)) {
      const c = below[n][0], from = x + nodes[n].size * scale + GAP;
      places[c] = { n: c, x: from, y, depth: depth + 1, per: Math.max(1, nodes[c].size), lines: 1, named: false };
      y += PITCH;
    } else {
      y += lines * (BAR + 1) + (PITCH - BAR - 1);
      below[n].forEach((c) => lay(c, depth + 1));
    }
  };
  top.forEach((n) => lay(n, 0));
  return { places, scale, height: y };
}

/** Blocks `from` to `to` of a bar as an SVG path, line by line. */
export function strip(place, scale, from, to) {
  const parts = [];
  for (let line = Math.floor(from / place.per); line * place.per < to; line++) {
    const low = Math.max(from, line * place.per) - line * place.per, high = Math.min(to, (line + 1) * place.per) - line * place.per;
    if (high > low) parts.push(`M${(place.x + low * scale).toFixed(1)},${place.y + line * (BAR + 1)}h${((high - low) * scale).toFixed(1)}v${BAR}h${(-(high - low) * scale).toFixed(1)}z`);
  }
  return parts.join("");
}

/** Blocks evicted from `from` on, and those of them missed by `t`, as the texts count them. */
export function forgotten(events, from, t) {
  let evicted = 0, again = 0;
  for (const [at, , blocks, , after] of events) if (at >= from && at <= t) {
    evicted += blocks;
    if (after >= 0 && at + after <= t) again += blocks;
  }
  return { evicted, again };
}

/** Where it starts to play: shortly before the first eviction, since until then all lanes are alike. */
export function opening(lanes) { return Math.max(0, Math.min(...lanes.map((lane) => lane.events[0]?.[0] ?? 0)) - 5000); }

// ---------------------------------------------------------------- 2 tree
const LASTS_S = 24, STARTS_AFTER_MS = 500, WARM_MS = 6000, FLASH_MS = 900, SHORT = 760;
const set = (node, attributes) => { for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value); };

class Tree extends Playing {
  constructor(parent) { super(parent, "tree"); }

  update({ data }) {
    const fresh = data.id !== this.data?.id, other = data.preset !== this.data?.preset;
    this.data = data;
    if (fresh) {
      this.total = data.frames * data.frame_ms;
      this.chosen = Math.min(other ? 1 : this.chosen, data.lanes.length - 1);
      if (other) Object.assign(this, { now: this.still.matches ? 0 : opening(data.lanes), playing: false, held: false });
      this.now = Math.min(this.now, this.total);
      if (other) this.open(STARTS_AFTER_MS); else clearTimeout(this.opening);
    }
    this.draw();
  }

  get frameNow() { return Math.min(this.data.frames - 1, Math.floor(this.now / this.data.frame_ms)); }
  get speed() { return this.total / (LASTS_S * 1000); }
  skip(way) { this.seek(this.now + 1000 * way); }

  draw() {
    const { data } = this, { words } = data;
    this.dress();
    const width = Math.max(this.width, 300), wide = width >= SHORT, all = data.lanes.map((_, n) => n);
    const shown = !wide ? [this.chosen] : data.lanes.length > 1 ? [0, Math.max(1, this.chosen)] : [0];
    const each = shown.length > 1 ? (width - 48) / 2 : width;
    this.root.setAttribute("aria-label", fillIn(words.aria, { names: shown.map((n) => data.lanes[n].name).join(", "), keys: words.keys }));
    this.live = h("p", { class: "hidden", "aria-live": "polite" });
    this.table = h("div", { class: "hidden" });
    this.panes = shown.map((n) => this.pane(n, each));
    this.counts = [];
    const choice = wide ? all.slice(1) : all;
    this.renew(this.root,
      choice.length > 1 ? this.switch(choice, wide ? words.compare : words.show) : "",
      h("div", { class: shown.length > 1 ? "panes two" : "panes" }, this.panes.map((pane) => pane.node)),
      this.tools(), this.legend(), this.live, this.table);
    this.shine(LIGHTS.what);
    this.frame();
    this.tell();
  }

  /** Light up what a word of the page names: texts of a class, a lane, or the column that decides. */
  shine(what) {
    const { kind, name } = what ?? {}, { nodes, classes, lanes } = this.data ?? {};
    for (const { n, node, bars, found, lost } of this.panes ?? []) {
      node.style.outline = kind === "lane" && name === lanes[n].name ? `3px solid ${this.colours[lanes[n].color]}` : "";
      for (const [row, part] of [["found", found], ["lost", lost]]) part.style.outline = kind === "row" && name === row ? "2px solid" : "";
      const all = bars.every((bar) => classes[nodes[bar.place.n].cls] !== name);
      for (const { place, node: bar, score } of bars) {
        const dim = kind === "class" && !all && classes[nodes[place.n].cls] !== name ? 0.2 : ""; // names stay readable
        for (const part of bar.querySelectorAll("path")) part.style.opacity = dim;
        if (score) score.style.outline = kind === "row" && name === "score" ? "2px solid" : "";
      }
    }
  }

  switch(choice, label) {
    return h("div", { class: "choice", role: "group", "aria-label": label }, h("span", {}, label),
      choice.map((n) => h("button", { "aria-pressed": n === this.chosen ? "true" : "false", "data-focus": `lane${n}`, ...press(() => { this.chosen = n; this.draw(); }) },
        `${this.data.lanes[n].name} `, (this.counts[n] = h("b")))));
  }

  pane(n, width) {
    const { data, colours } = this, { words, nodes } = data, lane = data.lanes[n], line = data.palette.lines[lane.color] ?? {};
    const plan = layout(nodes, width), priced = lane.shows === "price", { scale } = plan, head = 20;
    const at = (place) => ({ ...place, y: place.y + head });
    const bars = plan.places.map((raw) => {
      const place = at(raw), node = nodes[place.n], { token } = data.palette.classes[node.cls % data.palette.classes.length];
      const bar = { place, held: g("path", { fill: `url(#fill-${token})` }), gone: g("path", { class: "gone" }), score: null };
      const name = place.named && g("text", { x: 8 + place.depth * 8, y: place.y + 11 }, node.name, g("title", {}, `${node.name}, ${say(node.size)} blocks`));
      if (place.named) bar.score = g("text", { x: width, y: place.y + 11, "text-anchor": "end", class: priced ? "price" : "" });
      const named = () => lightWords(`class:${data.classes[node.cls]}`, `lane:${lane.name}`);
      bar.node = g("g", { onpointerenter: named, onpointerleave: () => lightWords() }, name, g("path", { class: "room", d: strip(place, scale, 0, node.size) }), bar.held, bar.gone, bar.score);
      return bar;
    });
    const height = plan.height + head + 2, rows = plan.places.filter((place) => place.named && place.depth === 0);
    const trunk = `M2,${head + 4}V${Math.max(head + 4, ...rows.map((place) => place.y + head + 6))}` + rows.map((place) => `M2,${place.y + head + 6}h4`).join("");
    const pane = { n, bars, scale, share: h("span", { class: "count" }), found: h("p", { class: "found" }), lost: h("p", { class: "lost" }), victim: h("p", { class: "victim" }) };
    pane.found.append(pane.share, ` ${words.found}`);
    pane.node = h("section", {},
      h("h3", {}, g("svg", { class: "mark", viewBox: "0 -6 30 12", "aria-hidden": "true" }, g("path", { d: "M0,0H30", stroke: colours[lane.color], "stroke-width": line.width ?? 2, "stroke-dasharray": (line.dash ?? []).join(" ") || null })), lane.name),
      pane.found, pane.lost,
      g("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": `${lane.name}. ${words.key_long[lane.shows]}` },
        g("defs", {}, data.palette.classes.map(({ token, pattern: kind }) => pattern(token, kind, colours))),
        g("text", { x: width, y: 11, "text-anchor": "end", class: "strong" }, words.key[lane.shows]),
        g("path", { class: "trunk", d: trunk }), bars.map((bar) => bar.node)),
      pane.victim);
    return pane;
  }

  legend() {
    const { words } = this.data, box = (kind) => g("svg", { viewBox: "0 0 22 12", "aria-hidden": "true" }, g("rect", { width: 22, height: 12, class: kind }));
    const shown = [...new Set(this.panes.map((pane) => this.data.lanes[pane.n].shows))];
    return h("p", { class: "keys" }, h("span", {}, box("room"), words.whole), h("span", {}, box("cold"), words.held), h("span", {}, box("warm"), words.hit), h("span", {}, box("gone"), words.gone),
      shown.map((name) => h("span", {}, words.key_long[name])));
  }

  tools() {
    const { words } = this.data;
    this.scrub = h("input", { type: "range", min: 0, max: this.total, step: this.data.frame_ms, "aria-label": words.scrub, "data-focus": "scrub", oninput: (event) => this.seek(+event.target.value) });
    this.clock = h("span", { class: "clock" });
    return h("div", { class: "tools" }, this.buttons(), this.scrub, this.clock);
  }

  /** Evictions up to now: how many blocks since the warm-up, how many of them have been missed since, and the last one. */
  lost(lane) {
    const count = upTo(lane.events, this.now, (event) => event[0]), past = lane.events.slice(0, count);
    const { evicted, again } = forgotten(past, this.data.from_ms, this.now);
    return { evicted, again, last: past.at(-1), recent: past.filter((event) => event[0] > this.now - FLASH_MS) };
  }

  share(lane) { return this.soFar(lane.share) ?? 0; }
  soFar([when, value]) { const count = upTo(when, this.now); return count ? value[count - 1] : null; }
  percent(lane) { return this.soFar(lane.share) === null ? "\u2013" : `${say(this.share(lane), 1)}\u00a0%`; }

  /** What stands under a lane's share: blocks forgotten and missed, or that nothing is counted yet, and a wait. */
  counted(lane, lost) {
    const { words, from_ms: from } = this.data, wait = lane.wait && this.soFar(lane.wait);
    const gone = this.now < from ? fillIn(words.warm, { from: say(from / 1000) }) : fillIn(words.lost, { evicted: say(lost.evicted), again: say(lost.again) });
    return wait === null ? gone : `${gone}. ${fillIn(words.wait, { ms: say(wait) })}`;
  }

  /** What decides which text goes first under a rule: a price, the last use, or a mark and then the last use. */
  score(shows, key, idle) {
    const used = idle < 1 ? "now" : `${say(Math.round(idle))}\u00a0s`;
    if (shows === "idle") return used;
    if (key < 0) return "in use";
    return shows === "price" ? say(key) : shows === "other" ? say(key / 1000, 1) : `${this.data.words.marks[key]}\u00a0${used}`;
  }

  victim(lost) {
    const { words, nodes, classes, takers } = this.data, event = lost.last;
    if (!event) return words.no_victim;
    const taker = event[3] < 0 ? "" : `${classes[takers[event[3]] ?? 0]} ${event[3]}`;
    const after = event[4] < 0 ? words.never : fillIn(words.again, { again: say(event[4] / 1000, 1) });
    return `${say(event[0] / 1000, 1)}\u00a0s: ${fillIn(words.victim, { taker, blocks: `${say(event[2])} ${words.blocks[+(event[2] > 1)]}`, node: nodes[event[1]].name })}, ${after}.`;
  }

  frame() {
    const { data } = this, frame = this.frameNow;
    for (const pane of this.panes) {
      const lane = data.lanes[pane.n], lost = this.lost(lane);
      pane.share.textContent = this.percent(lane);
      pane.lost.textContent = this.counted(lane, lost);
      // read, not watched: it stays for a second or so, but never says "nothing" beside a count
      const none = pane.victim.textContent === data.words.no_victim;
      if (!this.playing || none || this.now - (pane.told ?? -1e9) > 1200 || this.now < pane.told) { pane.victim.textContent = this.victim(lost); pane.told = this.now; }
      const fell = new Map();
      for (const [, node, blocks] of lost.recent) fell.set(node, (fell.get(node) ?? 0) + blocks);
      for (const { place, held, gone, score } of pane.bars) {
        const { n } = place, now = valueAt(lane.held[n], frame), found = lane.hits[n], last = upTo(lane.used[n], frame);
        let hit = -1e9;
        for (let i = found.length - 2; i >= 0; i -= 2) if (found[i] <= frame) { hit = found[i]; break; }
        const warmth = Math.max(0, 1 - ((frame - hit) * data.frame_ms) / WARM_MS);
        set(held, { d: strip(place, pane.scale, 0, now), opacity: (0.36 + 0.64 * warmth).toFixed(2) });
        set(gone, { d: fell.has(n) ? strip(place, pane.scale, now, Math.min(data.nodes[n].size, now + fell.get(n))) : "" });
        if (!score) continue;
        const key = lane.key ? valueAt(lane.key[n], frame, -1) : null, idle = last ? ((frame - lane.used[n][last - 1]) * data.frame_ms) / 1000 : 0;
        score.textContent = now ? this.score(lane.shows, key, idle) : "";
      }
    }
    this.counts.forEach((count, n) => { count.textContent = this.percent(data.lanes[n]); });
    this.scrub.value = this.now;
    this.scrub.setAttribute("aria-valuetext", `${say(this.now / 1000, 1)} s`);
    this.clock.textContent = `${(this.now / 1000).toFixed(1)} / ${say(Math.round(this.total / 1000))}\u00a0s`;
  }

  /** Say this moment to who cannot see it, and write it as a table: only when it stands still. */
  tell() {
    if (this.playing) return;
    const { data } = this, { words } = data, frame = this.frameNow;
    const said = data.lanes.map((lane) => {
      const lost = this.lost(lane);
      return `${lane.name}: ${say(this.share(lane), 1)} % ${words.found}. ${this.counted(lane, lost)}. ${this.victim(lost)}`;
    });
    this.live.textContent = `${say(this.now / 1000, 1)} s. ${said.join(" ")}`;
    const [text, ...columns] = words.columns;
    this.table.replaceChildren(h("table", {}, h("caption", {}, words.table),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, text), data.lanes.map((lane) => columns.map((column) => h("th", { scope: "col" }, `${lane.name}, ${column}`))).flat())),
      h("tbody", {}, data.nodes.map((node, n) => h("tr", {}, h("th", { scope: "row" }, node.name), data.lanes.map((lane) => [h("td", {}, say(valueAt(lane.held[n], frame))), h("td", {}, say(sumTo(lane.hits[n], frame)))]).flat())))));
  }
}

// ---------------------------------------------------------------- 3 mount
export default (component) => mountIn(component, Tree);
