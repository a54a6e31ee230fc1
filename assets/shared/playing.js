// What small pictures that play by themselves share: their clock, their keys, their buttons. ui/component.py puts it before a
// component's own file, after shared/picture.js. Sections: words and places in time (pure, tested with node) · the picture.

// ---------------------------------------------------------------- words and places in time
/** How many entries of an ascending list, `of` each, are at most a value. */
export function upTo(list, value, of = (x) => x) {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (of(list[middle]) <= value) low = middle + 1; else high = middle;
  }
  return low;
}

/** Words with {names} filled in. */
export function fillIn(words, values) { return words.replace(/\{(\w+)\}/g, (_, name) => values[name]); }

// ---------------------------------------------------------------- the picture
const ICONS = { play: "M3 1l11 7-11 7z", pause: "M2 1h4v14H2zM10 1h4v14h-4z", back: "M11 1L4 8l7 7zM2 1h2v14H2z", on: "M5 1l7 7-7 7zM12 1h2v14h-2z" };
const icon = (name) => g("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, g("path", { d: ICONS[name] }));

/** A picture of `data` that moves from 0 to `total` ms; `now` is where it stands, and `from` where it starts.
 *
 * What extends it has update(component), draw(), frame(passed), shine(what), tell() and skip(way, far): draw anew; draw this moment
 * (`passed` ms after the last one, none after a jump) and return whether something is still on its way; light up what a word of the
 * page names; say this moment to who cannot see it; go one place back or on, or far. */
class Playing {
  constructor(parent, name) {
    this.parent = parent;
    this.root = h("div", { class: `${name} picture`, tabindex: 0, role: "group", onkeydown: (event) => this.key(event) });
    parent.append(this.root);
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    this.resize = new ResizeObserver(() => { if (this.data && Math.abs(this.root.clientWidth - this.width) > 0.5) this.draw(); });
    this.resize.observe(this.root);
    this.unlight = lights((what) => { if (this.data) this.shine(what); });
    Object.assign(this, { now: 0, from: 0, playing: false });
  }

  destroy() {
    this.unlight();
    this.resize.disconnect();
    clearTimeout(this.opening);
    cancelAnimationFrame(this.asked);
    this.root.remove();
  }

  /** How far it has played since it opened: what the page's tests watch. */
  get t() { return this.data ? Math.max(0, this.now - this.from) : 0; }
  get alive() { return Boolean(this.data) && (this.t > 0 || this.still.matches); }
  get done() { return this.now >= this.total; }
  /** Where it stops by itself. */
  get until() { return this.total; }
  /** Its ms for each ms on the wall. */
  get speed() { return 1; }

  /** Start by itself in so many ms, unless a visitor wants nothing to move or has paused. */
  open(ms) {
    clearTimeout(this.opening);
    if (!this.still.matches && !this.held && !this.done) this.opening = setTimeout(() => this.play(), ms);
  }

  play() {
    if (this.done) this.now = 0;
    Object.assign(this, { playing: true, last: null });
    this.wake();
    this.button();
  }

  pause() {
    clearTimeout(this.opening);
    this.playing = false;
    this.button();
    this.tell();
  }

  /** Who paused does not want it to start by itself. */
  toggle() {
    this.held = this.playing;
    if (this.playing) this.pause(); else this.play();
  }

  seek(ms) {
    this.now = Math.max(0, Math.min(this.total, ms));
    this.held = true;
    this.pause();
    this.frame();
  }

  key(event) {
    const tag = event.target.tagName;
    if (event.ctrlKey || event.metaKey || event.altKey || (event.key === " " ? tag === "BUTTON" : tag === "INPUT" && !event.shiftKey)) return;
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key], to = { Home: 0, End: this.total }[event.key];
    if (event.key === " ") this.toggle(); else if (to !== undefined) this.seek(to); else if (way) this.skip(way, event.shiftKey); else return;
    event.preventDefault();
  }

  wake() { this.asked ??= requestAnimationFrame((time) => this.tick(time)); }

  tick(time) {
    this.asked = null;
    const passed = Math.min(time - (this.last ?? time), 100);
    this.last = time;
    if (this.playing) {
      this.now = Math.min(this.until, this.now + passed * this.speed);
      if (this.now >= this.until) this.pause();
    }
    const moving = this.frame(passed);
    if (this.playing || moving) this.wake(); else this.last = null;
  }

  /** Take the colours of the page's theme, and the width there is. */
  dress() {
    this.colours = this.data.palette[isDark(this.parent.host ?? this.root) ? "dark" : "light"];
    for (const [token, value] of Object.entries(this.colours)) this.root.style.setProperty(`--${token}`, value);
    this.width = this.root.clientWidth;
  }

  /** Put these in a place instead of what it held; the focus stays where it was. */
  renew(place, ...nodes) {
    const focus = this.root.getRootNode().activeElement?.getAttribute("data-focus");
    place.replaceChildren(...nodes);
    if (focus) place.querySelector(`[data-focus="${focus}"]`)?.focus({ preventScroll: true });
  }

  /** Back, play or pause, and on. */
  buttons() {
    const { words } = this.data;
    const by = (name, way) => h("button", { "aria-label": words[name], title: words[name], "data-focus": name, ...press(() => this.skip(way)) }, icon(name));
    this.main = h("button", { class: "main", "data-focus": "play", ...press(() => this.toggle()) });
    this.button();
    return [by("back", -1), this.main, by("on", 1)];
  }

  button() {
    const name = this.playing ? "pause" : "play";
    for (const attribute of ["aria-label", "title"]) this.main?.setAttribute(attribute, this.data.words[name]);
    this.main?.replaceChildren(icon(name));
  }
}

