// The iteration timeline: a strip a lane on one clock. Up from the line: who gets a token in a step; down: prompt tokens it reads;
// below: the time since the last token of whoever waited longest. Python computes every number (ui/timeline.py says the
// dictionary); this file draws what lies before the playhead. It stands after shared/picture.js, shared/playing.js and marks.js.

// ---------------------------------------------------------------- marks
const UP = 34, DOWN = 34, GAPS = 46, AIR = 20, FLAGS = 22, HEIGHT = UP + DOWN + AIR + GAPS + 4, BASE = UP + 2, FLOOR = HEIGHT - 2;
const ROW = 13, OPENS_MS = 800, PX_PER_MS = 0.12, CLOSER = 4;

// ---------------------------------------------------------------- timeline
class Timeline extends Playing {
  constructor(parent) { super(parent, "timeline"); }

  update({ data }) {
    const fresh = data.id !== this.data?.id, first = !this.data;
    this.data = data;
    if (fresh) {
      this.lanes = data.lanes.map((lane) => {
        const times = clock(lane.idle, lane.ms), gap = lane.over.map((v, i) => (lane.ms[i] + v) / 10);
        let worst = 0;
        return { ...lane, ...times, gap, worst: gap.map((v) => (worst = Math.max(worst, v))) };
      });
      this.total = Math.max(1, ...this.lanes.map((lane) => lane.end.at(-1) ?? 0));
      const most = (name) => Math.max(1, ...this.lanes.map((lane) => lane[name].reduce((a, b) => Math.max(a, b), 0)));
      this.most = { write: Math.max(1, ...this.lanes.map((lane) => lane.write.reduce((a, v, i) => Math.max(a, v + lane.still[i]), 0))), prompt: most("prompt"), gap: most("gap") };
      const last = Math.max(0, ...data.lanes.map((lane) => lane.end_ms));
      this.more = last > this.total + 5000 ? fillIn(data.words.goes_on, { end: said(last / 1000) }) : "";
      this.from = data.question?.from_ms ?? 0;
      // a control moved after the answer: the picture stays where it was, so that the eye can compare
      if (first || !this.chosen && !this.passed || this.data.question?.text !== this.text) Object.assign(this, { now: this.from, chosen: null, passed: false, seen: this.from });
      this.now = Math.min(this.now, this.total);
      Object.assign(this, { text: data.question?.text, playing: false });
      this.open(first ? OPENS_MS : 300);
    }
    this.draw();
  }

  get span() { return this.plot / (PX_PER_MS * (this.close ? CLOSER : 1)); }
  get halts() { const { question } = this.data; return question && !this.chosen && !this.passed ? question.at_ms : Infinity; }

  get until() { return Math.min(this.total, this.halts); }
  get speed() { return this.close ? 1 / CLOSER : 1; }

  play() {
    if (!this.done && this.now >= this.halts) this.passed = true;
    super.play();
  }

  seek(ms) {
    if (Math.min(this.total, ms) > this.halts) this.passed = true;
    super.seek(ms);
  }

  /** The next end of a step in any lane, forwards or back; far: a second. */
  skip(way, far) {
    if (far) { this.seek(this.now + 1000 * way); return; }
    const near = this.lanes.map(({ end }) => end[way > 0 ? upTo(end, this.now + 0.01) : upTo(end, this.now - 0.01) - 1]).filter((v) => v !== undefined);
    this.seek(near.length ? (way > 0 ? Math.min(...near) : Math.max(...near)) : way > 0 ? this.total : 0);
  }

  choose(option) {
    this.chosen = option;
    this.ask();
    if (this.now >= this.data.question.reveal_ms) this.tell(); else this.play();
    this.frame();
  }

  shine() { this.frame(); }

  draw() {
    const { data } = this, { words } = data;
    this.dress();
    const wide = this.width >= 860;
    this.rail = wide ? 128 : 0;
    this.plot = Math.max(240, this.width - this.rail);
    this.root.classList.toggle("wide", wide);
    this.root.setAttribute("aria-label", `${words.name}. ${words.keys}`);
    const canvas = (height, props) => {
      const node = h("canvas", { style: `height:${height}px`, ...props }), ratio = devicePixelRatio || 1;
      Object.assign(node, { width: Math.round(this.plot * ratio), height: Math.round(height * ratio) });
      const pen = node.getContext("2d");
      pen.scale(ratio, ratio);
      return { node, pen };
    };
    const rail = (...rows) => wide && h("div", { class: "rail", "aria-hidden": "true" }, rows.map(([top, text, small]) => h("span", { style: `top:${top}px` }, text, typeof small === "string" ? h("small", {}, small) : small)));
    const key = (kind, text) => h("span", {}, h("i", { class: kind }), text);
    this.parts = { live: h("p", { class: "hidden", "aria-live": "polite" }), ask: data.question && h("div", { class: "ask" }), flags: canvas(FLAGS, { "aria-hidden": "true" }), axis: canvas(20, { "aria-hidden": "true" }), whole: canvas(ROW * this.lanes.length + 2, { "aria-hidden": "true" }) };
    const { parts, most } = this;
    parts.lanes = this.lanes.map((lane) => ({ ...canvas(HEIGHT, { role: "img", onpointermove: (event) => this.point(lane, event), onpointerleave: () => lightWords() }), now: h("span"), far: h("span", { class: "far" }), scale: h("small") }));
    parts.close = h("button", { class: "wordy", "data-focus": "closer", "aria-pressed": String(Boolean(this.close)), onclick: () => { this.close = !this.close; parts.close.setAttribute("aria-pressed", String(this.close)); this.frame(); } }, words.closer);
    parts.scrub = h("input", { type: "range", min: 0, max: Math.ceil(this.total), step: 10, "aria-label": words.scrub, "data-focus": "scrub", oninput: (event) => this.seek(+event.target.value) });
    Object.assign(parts, { clock: h("span", { class: "clock" }), table: h("tbody") });
    const row = (left, right) => h("div", { class: "row" }, left, right);
    this.ask();
    this.renew(this.root,
      parts.ask || "",
      h("div", { class: "tools" }, this.buttons(), parts.clock, parts.close),
      h("p", { class: "keys" }, key("write", words.key_write), key("still", words.key_still), key("prompt", words.key_prompt), key("gap", words.key_gap)),
      row(rail(), parts.flags.node),
      ...this.lanes.flatMap((lane, k) => [
        h("p", { class: "head" }, h("b", { style: `--lane: var(--${lane.color})` }, lane.name), " ", h("small", {}, lane.label), parts.lanes[k].now, parts.lanes[k].far),
        row(rail([2, words.writing, fillIn(words.requests, { most: most.write })], [UP + 6, words.reading, fillIn(words.tokens, { most: said(most.prompt) })], [UP + DOWN + AIR + 2, words.gaps, parts.lanes[k].scale]), parts.lanes[k].node)]),
      row(rail(), parts.axis.node),
      row(rail(), h("div", { class: "whole" }, parts.whole.node, parts.scrub)),
      parts.live,
      h("div", { class: "hidden" }, h("table", {}, (parts.caption = h("caption")), h("thead", {}, h("tr", {}, words.columns.split("|").map((name) => h("th", { scope: "col" }, name)))), parts.table)));
    this.hatch = hatch(parts.axis.pen, this.colours.document, this.colours.surface);
    this.frame(); this.tell();
  }

  /** The question with its options, and its answer once that has been seen. */
  ask() {
    const { question, words } = this.data;
    if (!question) return;
    const told = this.now >= question.reveal_ms && (this.chosen || this.passed);
    const answer = told ? (this.chosen ? question.answers[question.options.indexOf(this.chosen)] ?? question.answer : question.answer) : !this.playing && this.now >= this.halts ? words.stops : "";
    const state = `${this.chosen}|${answer}`;
    if (state === this.askedAs && this.parts.ask.childElementCount) return;
    if (answer) this.parts.live.textContent = answer;
    this.askedAs = state;
    this.renew(this.parts.ask, h("p", { class: "question" }, question.text),
      h("div", { class: "options" }, question.options.map((option) => h("button", { class: "wordy", "data-focus": `option ${option}`, "aria-pressed": String(option === this.chosen), onclick: () => this.choose(option) }, option))),
      h("p", { class: "answer" }, answer));
  }

  /** Whether what was asked has been seen: played past it with an answer or without one. */
  get told() { const { question } = this.data; return !question || (this.seen >= question.reveal_ms && Boolean(this.chosen || this.passed)); }

  /** What a lane does at this moment. */
  state(lane) {
    const i = upTo(lane.start, this.now) - 1, runs = i >= 0 && lane.end[i] > this.now, done = upTo(lane.end, this.now) - 1;
    const at = (name) => (runs ? lane[name][i] : 0);
    return { write: at("write"), still: at("still"), prompt: at("prompt"), line: i >= 0 ? lane.line[i] : 0, gap: done >= 0 ? lane.worst[done] : 0 };
  }

  frame() {
    const { data, parts } = this, { words } = data, span = this.span, left = windowAt(this.now, span, this.total);
    this.seen = Math.max(this.seen ?? 0, this.now);
    const x = (t) => ((t - left) / span) * this.plot;
    this.what = LIGHTS.what ?? {};
    this.lanes.forEach((lane, k) => {
      const own = this.state(lane), part = parts.lanes[k];
      part.node.style.outline = this.what.kind === "lane" && this.what.name === lane.name ? `3px solid ${this.colours[lane.color]}` : "";
      this.strip(part.pen, lane, x, left, left + span);
      part.now.textContent = fillIn(words.now, own);
      part.far.textContent = fillIn(words.so_far, { gap: said(own.gap) });
      part.scale.textContent = this.told ? fillIn(words.ms, { most: said(this.most.gap) }) : words.ms_untold; // its top is the answer
      part.node.setAttribute("aria-label", fillIn(words.picture, { ...own, name: lane.name, now: said(this.now / 1000, 1), prompt: said(own.prompt), gap: said(own.gap) }));
    });
    this.flags(x);
    this.axis(x, left, span);
    this.whole(left, span);
    parts.scrub.value = this.now;
    const clockWords = fillIn(this.close ? words.clock_slow : words.clock, { now: said(this.now / 1000, 1), total: said(this.total / 1000, 1) }) + this.more;
    parts.clock.textContent = clockWords;
    parts.scrub.setAttribute("aria-valuetext", clockWords);
    this.ask();
  }

  /** One lane between two times, as far as the playhead. */
  strip(pen, lane, x, low, high) {
    const { colours, most, data, now } = this, { words } = data, edge = Math.min(high, now);
    const up = (n) => (n / most.write) * UP, down = (n) => Math.sqrt(n / most.prompt) * DOWN, rise = (ms) => (ms / most.gap) * GAPS;
    pen.clearRect(0, 0, this.plot, HEIGHT);
    pen.fillStyle = colours.grid; pen.fillRect(0, BASE - 0.5, this.plot, 1); pen.fillRect(0, FLOOR - 0.5, this.plot, 1);
    // what a word of the page names: the gaps that a request or a class causes, or a row
    pen.globalAlpha = 0.3; pen.fillStyle = colours[lane.color];
    for (const [step, ms, , , kind, request] of lane.stalls) if (lane.end[step] <= edge && this.names(kind, request)) pen.fillRect(x(lane.end[step] - ms / 10), 0, x(lane.end[step]) - x(lane.end[step] - ms / 10), HEIGHT);
    pen.globalAlpha = 1; pen.strokeStyle = colours.ink; pen.lineWidth = 2;
    const row = this.what.kind === "row" && { writing: [1, BASE - 2], reading: [BASE + 1, DOWN + 2], gaps: [FLOOR - GAPS - 2, GAPS + 3] }[this.what.name];
    if (row) pen.strokeRect(1, row[0], this.plot - 2, row[1]);
    for (let i = upTo(lane.end, low); i < lane.start.length && lane.start[i] < edge; i++) {
      const a = x(lane.start[i]), width = Math.max(0.4, x(Math.min(lane.end[i], edge)) - a), bar = Math.max(0.4, width - Math.min(1, width * 0.25));
      pen.fillStyle = colours.ink;
      pen.fillRect(a, BASE - up(lane.write[i]), bar, up(lane.write[i]));
      if (lane.still[i]) { pen.fillStyle = colours.outline; pen.fillRect(a, BASE - up(lane.write[i] + lane.still[i]), bar, up(lane.still[i])); }
      if (lane.prompt[i]) { pen.fillStyle = this.hatch; pen.fillRect(a, BASE + 1, bar, down(lane.prompt[i])); }
    }
    pen.fillStyle = colours[lane.color];
    // from the last token the wait grows until the next one comes: a ramp, cut off at the playhead
    for (let i = upTo(lane.end, low); i < lane.end.length && lane.end[i] - lane.gap[i] < edge; i++) {
      const gap = lane.gap[i];
      if (!gap) continue;
      const seen = Math.min(lane.end[i], edge), from = lane.end[i] - gap;
      pen.beginPath();
      pen.moveTo(x(from), FLOOR); pen.lineTo(x(seen), FLOOR - rise(seen - from)); pen.lineTo(x(seen) + 0.6, FLOOR); pen.fill();
    }
    if (lane.cut && down(lane.cut) < DOWN + 1) {
      const y = BASE + 1 + down(lane.cut);
      pen.strokeStyle = colours.muted; pen.lineWidth = 1; pen.setLineDash([3, 3]);
      pen.beginPath(); pen.moveTo(0, y); pen.lineTo(this.plot, y); pen.stroke(); pen.setLineDash([]);
      this.word(pen, fillIn(words.cut, { tokens: said(lane.cut) }), this.plot - 2, y + 14, colours.muted, "right");
    }
    const shown = lane.stalls.filter(([step]) => lane.end[step] <= now && lane.end[step] >= low).map(([step, ms, count, tokens, kind]) => {
      const text = fillIn(tokens ? words.stall : words.stall_many, { ms: said(ms / 10), count, tokens: said(tokens), kind }), width = wide(pen, text);
      return [Math.max(2, Math.min((now <= high ? x(now) : this.plot) - width - 6, x(lane.end[step]) + 5)), width, text, FLOOR - rise(ms / 10) - 5];
    });
    for (const [at, , text, y] of fitting(shown)) this.word(pen, text, at, y, colours.ink);
    pen.fillStyle = colours.ink;
    if (now >= low && now <= high) pen.fillRect(x(now) - 0.75, 0, 1.5, HEIGHT);
  }

  /** Light the words that name this lane, or whose prompt caused the gap under the pointer. */
  point(lane, event) {
    const at = windowAt(this.now, this.span, this.total) + (event.offsetX / this.plot) * this.span;
    const [, , , , kind, request] = lane.stalls.find(([step, ms]) => lane.end[step] <= this.now && at <= lane.end[step] && at >= lane.end[step] - ms / 10) ?? [];
    lightWords(`lane:${lane.name}`, ...(kind ? [`class:${kind}`, `request:${request}`] : []));
  }

  /** Whether a word that is pointed at names this class or request. */
  names(kind, request) { return this.what.kind === "class" ? this.what.name === kind : this.what.kind === "request" && this.what.name === String(request); }

  word(pen, text, x, y, colour, align) { write(pen, text, x, y, colour, this.colours.surface, align); }

  flags(x) {
    const { pen } = this.parts.flags, { arrivals, words } = this.data;
    pen.clearRect(0, 0, this.plot, FLAGS);
    const shown = arrivals.filter(([ms]) => ms <= this.now && x(ms) > -1).sort((a, b) => b[1] - a[1]).map(([ms, tokens, kind, request]) => {
      const text = fillIn(words.arrives, { tokens: said(tokens), kind }), width = wide(pen, text);
      return [Math.max(2, Math.min(this.plot - width - 2, x(ms) + 6)), width, text, x(ms), this.names(kind, request)];
    });
    for (const [at, width, text, mark, named] of fitting(shown)) {
      this.word(pen, text, at, 14, this.colours.ink);
      if (named) { pen.fillStyle = this.colours.ink; pen.fillRect(at, 18, width, 2); }
      pen.fillStyle = this.colours.document; pen.fillRect(mark - 1, 2, 2, FLAGS);
    }
  }

  axis(x, left, span) {
    const { pen } = this.parts.axis, every = [250, 500, 1000, 2000, 5000].find((ms) => x(left + ms) > 56) ?? 10000;
    pen.clearRect(0, 0, this.plot, 20);
    for (let t = Math.ceil(left / every) * every; t < left + span; t += every) {
      pen.fillStyle = this.colours.grid; pen.fillRect(x(t), 0, 1, 5);
      if (x(t) < this.plot - 44) this.word(pen, `${said(t / 1000, every < 500 ? 2 : every < 1000 ? 1 : 0)}\u00a0s`, x(t) + 3, 16, this.colours.muted);
    }
  }

  /** The longest gaps of the whole run, a row a lane, as far as it has been seen, and the window over them. */
  whole(left, span) {
    const { pen } = this.parts.whole, count = Math.floor(this.plot / 2), at = (t) => (t / this.total) * this.plot;
    pen.clearRect(0, 0, this.plot, ROW * this.lanes.length + 2);
    this.lanes.forEach((lane, k) => {
      lane.bins ??= {};
      const high = (lane.bins[count] ??= bins(lane.end, lane.gap, this.total, count));
      const floor = (k + 1) * ROW;
      pen.fillStyle = this.colours.grid; pen.fillRect(0, floor - 0.5, this.plot, 1);
      pen.fillStyle = this.colours[lane.color];
      for (let j = 0; j < count && ((j + 1) / count) * this.total <= this.seen; j++) if (high[j]) pen.fillRect(j * 2, floor - Math.max(1, (high[j] / this.most.gap) * (ROW - 2)), 1.6, Math.max(1, (high[j] / this.most.gap) * (ROW - 2)));
    });
    pen.fillStyle = this.colours.ink; // arrivals that a word names, wherever the window is
    for (const [ms, , kind, request] of this.data.arrivals) if (ms <= this.seen && this.names(kind, request)) pen.fillRect(at(ms) - 1, 0, 2.5, ROW * this.lanes.length + 2);
    pen.strokeStyle = this.colours.muted; pen.lineWidth = 1;
    pen.strokeRect(at(left) + 0.5, 0.5, Math.max(4, at(left + span) - at(left)) - 1, ROW * this.lanes.length + 1);
    pen.fillStyle = this.colours.ink; pen.fillRect(at(this.now) - 0.75, 0, 1.5, ROW * this.lanes.length + 2);
  }

  /** Say this moment to who cannot see it: only when it stands still. */
  tell() {
    if (!this.parts || this.playing) return;
    const { parts, data } = this, rows = this.lanes.map((lane) => [lane, this.state(lane)]);
    parts.caption.textContent = fillIn(data.words.caption, { now: said(this.now / 1000, 1) });
    parts.table.replaceChildren(...rows.map(([lane, own]) => h("tr", {}, h("th", { scope: "row" }, lane.name), [own.write, own.still, own.prompt, own.line, Math.round(own.gap)].map((v) => h("td", {}, said(v))))));
    parts.live.textContent = rows.map(([lane, own]) => fillIn(data.words.picture, { ...own, name: lane.name, now: said(this.now / 1000, 1), prompt: said(own.prompt), gap: said(own.gap) })).join(". ");
    this.ask();
  }
}

// ---------------------------------------------------------------- mount
export default (component) => mountIn(component, Timeline);
