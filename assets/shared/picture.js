// What pictures of requests in time and memory share: where pieces lie, outlines, marks, words, elements. ui/component.py puts it
// before a component's own file. Sections: geometry (pure, tested with node) · elements.

// ---------------------------------------------------------------- geometry
/** One piece a (request, start) with what it holds slot by slot, lowest and highest block: places that keep a request in one
 * piece where a short search finds them, else everything stacked from the floor. KV memory is paged: only heights are facts. */
export function arrange(requests, slots, memory) {
  const pieces = requests.flatMap((r, i) => r.starts.map(([k, share]) => ({ i, k, share,
    heights: Array.from({ length: r.o }, (_, j) => share * (r.s + j + 1)) }))).sort((x, y) => x.k - y.k || x.i - y.i);
  if (pieces.length > 24 || !place(pieces, slots, memory)) stack(pieces, slots);
  return pieces;
}

function stack(pieces, slots) {
  const floor = new Float64Array(slots + 1);
  for (const piece of pieces) {
    piece.columns = piece.heights.map((height, j) => {
      const t = piece.k + 1 + j, low = floor[t];
      floor[t] = low + height;
      return [low, floor[t]];
    });
  }
}

/** Depth-first: each piece stands on the floor or on another one, or hangs from the ceiling or from another one. */
function place(pieces, slots, memory, tries = 4000) {
  const taken = Array.from({ length: slots + 1 }, () => []);
  const free = (piece, columns) => columns.every(([low, high], j) => low > -1e-6 && high < memory + 1e-6
    && taken[piece.k + 1 + j].every(([from, to]) => high < from + 1e-6 || low > to - 1e-6));
  const put = (n) => {
    if (n === pieces.length) return true;
    const piece = pieces[n], edges = piece.heights.flatMap((_, j) => taken[piece.k + 1 + j]);
    const floors = [0, ...edges.map(([, to]) => to)], ceilings = [memory, ...edges.map(([from]) => from)];
    const ways = [...new Set(floors)].sort((a, b) => a - b).map((at) => piece.heights.map((height) => [at, at + height]))
      .concat([...new Set(ceilings)].sort((a, b) => b - a).map((at) => piece.heights.map((height) => [at - height, at])));
    for (const columns of ways) {
      if (tries-- < 0) return false;
      if (!free(piece, columns)) continue;
      columns.forEach((column, j) => taken[piece.k + 1 + j].push(column));
      piece.columns = columns;
      if (put(n + 1)) return true;
      columns.forEach((_, j) => taken[piece.k + 1 + j].pop());
    }
    return false;
  };
  return put(0);
}

/** Outline of columns [bottom, top] that start at time k, as an SVG path in the scales x(time), y(blocks). */
export function outline(columns, k, x, y) {
  const up = [], down = [];
  columns.forEach(([bottom, top], j) => {
    up.push(`${x(k + j)},${y(top)}`, `${x(k + j + 1)},${y(top)}`);
    down.unshift(`${x(k + j + 1)},${y(bottom)}`, `${x(k + j)},${y(bottom)}`);
  });
  return `M${up.concat(down).join("L")}Z`;
}

/** Round steps of an axis with about `count` marks over [0, most], never below 1 apart. */
export function marks(most, count) {
  const rough = Math.max(1, most / count), size = 10 ** Math.floor(Math.log10(rough));
  const step = size * [1, 2, 5, 10].find((m) => m * size >= rough - 1e-9);
  return Array.from({ length: Math.floor(most / step + 1e-9) + 1 }, (_, j) => j * step);
}

/** A number as read: at most two decimals, a true minus, thin spaces. */
export function say(value, digits = 2) {
  const text = Math.abs(value) < 0.5 * 10 ** -digits ? "0" : value.toFixed(digits).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
  return text.replace("-", "\u2212").replace(/\B(?=(\d{3})+(?!\d))(?<!\.\d*)/g, "\u2009");
}

/** Letters as names: A..Z, then A1..Z1 and so on. */
export function letter(i) { return String.fromCharCode(65 + (i % 26)) + (i < 26 ? "" : Math.floor(i / 26)); }

// ---------------------------------------------------------------- elements
const SVG = "http://www.w3.org/2000/svg";
function fill(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(2).filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}
const h = (tag, props = {}, ...children) => fill(document.createElement(tag), props, children);
const g = (tag, props = {}, ...children) => fill(document.createElementNS(SVG, tag), props, children);

function pattern(token, kind, colours) {
  const tile = { dots: 4.5, rules: 4, hatch: 5 }[kind] ?? 4;
  const mark = { fill: colours.surface, stroke: "none" };
  return g("pattern", { id: `fill-${token}`, width: tile, height: tile, patternUnits: "userSpaceOnUse", patternTransform: kind === "hatch" ? "rotate(45)" : null },
    g("rect", { width: tile, height: tile, fill: colours[token] }),
    kind === "dots" && g("circle", { cx: tile / 2, cy: tile / 2, r: 0.9, ...mark }),
    kind === "rules" && g("rect", { y: tile / 2, width: tile, height: 1.1, ...mark }),
    kind === "hatch" && g("rect", { width: 1.2, height: tile, ...mark }));
}

/** Act when pressed, not when released: a redraw in between would take the button away. The keyboard clicks. */
function press(act) {
  return {
    onpointerdown: (event) => { if (!event.button) { event.preventDefault(); act(); } },
    onclick: (event) => { if (!event.detail) act(); },
  };
}

function isDark(host) {
  const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  probe.fillStyle = getComputedStyle(host).getPropertyValue("--st-background-color").trim() || "#fff";
  probe.fillRect(0, 0, 1, 1);
  const [r, gr, b] = probe.getImageData(0, 0, 1, 1).data;
  return 0.2126 * r + 0.7152 * gr + 0.0722 * b < 128;
}

