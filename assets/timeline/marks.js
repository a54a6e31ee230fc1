// What the iteration timeline is drawn with; ui/component.py puts it before timeline.js, after shared/playing.js.
// Sections: time (pure, tested with node) · marks.

// ---------------------------------------------------------------- time
/** When each step starts and ends, in ms, from the columns of a lane. */
export function clock(idle, took, perMs = 10) {
  let t = 0;
  const start = [], end = [];
  for (let i = 0; i < took.length; i++) { start.push((t += idle[i]) / perMs); end.push((t += took[i]) / perMs); }
  return { start, end };
}

/** Start of the window of `span` ms that keeps the playhead at four fifths. */
export function windowAt(now, span, total) { return Math.max(0, Math.min(now - 0.8 * span, total - span)); }

/** Labels [x, width, ...], most important first, that fit beside each other without touching. */
export function fitting(labels, gap = 12) {
  const kept = [];
  for (const label of labels) if (kept.every((other) => label[0] > other[0] + other[1] + gap || label[0] + label[1] + gap < other[0])) kept.push(label);
  return kept;
}

/** Largest value in each of `count` equal bins of [0, total]. */
export function bins(at, values, total, count) {
  const out = new Float64Array(count);
  at.forEach((t, i) => { const k = Math.min(count - 1, Math.floor((t / total) * count)); out[k] = Math.max(out[k], values[i]); });
  return out;
}

/** A number as read: thin spaces, so many decimals. */
export function said(value, digits = 0) { return value.toFixed(digits).replace(/\B(?=(\d{3})+(?!\d))(?<!\.\d*)/g, "\u202f"); }

// ---------------------------------------------------------------- marks
/** Slanted lines in one colour over another, for prompt tokens. */
function hatch(context, fill, line) {
  const tile = document.createElement("canvas"), pen = tile.getContext("2d");
  tile.width = tile.height = 6;
  pen.fillStyle = fill; pen.fillRect(0, 0, 6, 6);
  pen.strokeStyle = line; pen.lineWidth = 1.3; pen.beginPath();
  for (const k of [-6, 0, 6]) { pen.moveTo(k, 6); pen.lineTo(k + 6, 0); }
  pen.stroke();
  return context.createPattern(tile, "repeat");
}

/** How wide words come out, in px. */
function wide(pen, text) { pen.font = "13px 'Source Sans 3', 'Source Sans 3 Variable', system-ui, sans-serif"; return pen.measureText(text).width; }

/** Write words with a rim, so that they can be read over anything. */
function write(pen, text, x, y, colour, rim, align = "left") {
  wide(pen, text);
  Object.assign(pen, { textAlign: align, lineWidth: 4, strokeStyle: rim, lineJoin: "round", fillStyle: colour });
  pen.strokeText(text, x, y);
  pen.fillText(text, x, y);
}
