// Pure functions of the prefix tree, run by `node --test`.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import test from "node:test";

const files = ["shared/picture", "shared/playing", "tree/tree"].map((name) => readFile(new URL(`../../assets/${name}.js`, import.meta.url), "utf8"));
const source = (await Promise.all(files)).join("");
const { fillIn, forgotten, layout, opening, strip, sumTo, upTo, valueAt } = await import(`data:text/javascript,${encodeURIComponent(source)}`);

test("a value holds until the next change, and before the first there is none", () => {
  const steps = [2, 7, 5, 0, 9, 4];
  assert.deepEqual([0, 1, 2, 4, 5, 8, 9, 99].map((frame) => valueAt(steps, frame)), [0, 0, 7, 7, 0, 0, 4, 4]);
  assert.equal(valueAt([], 3, -1), -1);
  assert.deepEqual([0, 2, 5, 99].map((frame) => sumTo([2, 7, 5, 1], frame)), [0, 7, 8, 8]);
  assert.deepEqual([0, 1, 3, 9].map((value) => upTo([1, 3, 3, 4], value)), [0, 1, 3, 4]);
});

const NODES = [
  { size: 100, parent: -1, kind: "shared" }, { size: 60, parent: 0, kind: "rest" },
  { size: 50, parent: -1, kind: "shared" }, { size: 30, parent: 2, kind: "own" }, { size: 20, parent: 2, kind: "own" },
  { size: 900, parent: -1, kind: "rest" },
];

test("what goes on with a text stands behind it, or in rows of its own below it", () => {
  const { places, scale } = layout(NODES, 600);
  assert.equal(places[1].y, places[0].y);
  assert.ok(places[1].x >= places[0].x + 100 * scale);
  assert.ok(places[3].y > places[2].y && places[4].y > places[3].y && places[3].depth === 1);
});

test("nothing leaves its pane and no two rows overlap, whatever the width", () => {
  for (const width of [300, 390, 620, 1296]) {
    const { places, scale, height } = layout(NODES, width);
    const rows = places.filter((place) => place.named).sort((a, b) => a.y - b.y);
    rows.forEach((row, i) => assert.ok(row.y + row.lines * 13 <= (rows[i + 1]?.y ?? height) + 1e-9));
    places.forEach((place, n) => assert.ok(place.x + Math.min(place.per, NODES[n].size) * scale <= width - 62 + 1e-6, `${width} ${n}`));
  }
});

test("areas are blocks: a bar that wraps covers as much as one that does not", () => {
  const area = (path) => [...path.matchAll(/h([\d.]+)v12/g)].reduce((sum, found) => sum + Number(found[1]), 0);
  const whole = { x: 0, y: 0, per: 900 }, wrapped = { x: 0, y: 0, per: 100 };
  assert.ok(Math.abs(area(strip(whole, 2, 0, 450)) - 900) < 1);
  assert.ok(Math.abs(area(strip(wrapped, 2, 0, 450)) - 900) < 1);
  assert.ok(Math.abs(area(strip(wrapped, 2, 350, 450)) - 200) < 1);
  assert.equal(strip(wrapped, 2, 40, 40), "");
});

test("texts alone, without one of their own, still fit", () => {
  const { places, scale } = layout([{ size: 800, parent: -1, kind: "rest" }], 390);
  assert.ok(places[0].lines > 1 && places[0].per * scale <= 390 - 62);
  assert.equal(fillIn("{a} of {b}", { a: 1, b: 2 }), "1 of 2");
});

test("what is forgotten counts from the end of the warm-up, and is missed once it is asked for again", () => {
  const events = [[900, 0, 5, 0, 10], [1000, 0, 3, 0, 500], [2000, 1, 7, 0, -1]];
  assert.deepEqual(forgotten(events, 1000, 1499), { evicted: 3, again: 0 });
  assert.deepEqual(forgotten(events, 1000, 2000), { evicted: 10, again: 3 });
  assert.deepEqual(forgotten(events, 1000, 950), { evicted: 0, again: 0 });
});

test("it opens shortly before the first eviction of any lane, and at the start where nothing is evicted", () => {
  const lane = (...events) => ({ events: events.map((ms) => [ms, 0, 1, 0, -1]) });
  assert.equal(opening([lane(30_000, 31_000), lane(28_000)]), 23_000);
  assert.equal(opening([lane(2000)]), 0);
  assert.equal(opening([lane(), lane(30_000)]), 0);
});
