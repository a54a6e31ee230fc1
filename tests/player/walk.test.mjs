// Pure functions of the walk along the roofline, run by `node --test`.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import test from "node:test";

const files = ["shared/picture", "shared/playing", "walk/walk"].map((name) => readFile(new URL(`../../assets/${name}.js`, import.meta.url), "utf8"));
const source = (await Promise.all(files)).join("");
const { along, brief, decades, ends, fillIn, logScale, rate, fixed, spread, squares, stepAt } = await import(`data:text/javascript,${encodeURIComponent(source)}`);

test("a decade is as wide everywhere on a logarithmic scale", () => {
  const x = logScale(0.5, 2000, 40, 640);
  assert.ok(Math.abs(x(0.5) - 40) < 1e-9 && Math.abs(x(2000) - 640) < 1e-9);
  assert.ok(Math.abs(x(100) - x(10) - (x(10) - x(1))) < 1e-9);
  assert.deepEqual(decades(0.5, 2000), [1, 10, 100, 1000]);
  assert.deepEqual(decades(2, 9), []);
  assert.deepEqual(spread([2, 8], 2), [1, 16]);
});

test("the step that runs is the first that ends later, and the last one at the end", () => {
  const ended = ends([30, 5, 5]);
  assert.deepEqual(ended, [30, 35, 40]);
  assert.deepEqual([0, 29.9, 30, 34, 39.9, 40, 99].map((t) => stepAt(ended, t)), [0, 0, 1, 1, 2, 2, 2]);
});

test("a walk is watched for 6 to 14 seconds, whatever it takes", () => {
  for (const total of [100, 5999, 8000, 60000]) {
    const watched = total / rate(total);
    assert.ok(watched > 5999.9 && watched < 14000.1);
  }
  assert.equal(rate(8000), 1);
});

test("the marker walks along the curve", () => {
  const curve = [[0, 0], [10, 0], [10, 10]];
  assert.deepEqual([0, 0.25, 0.5, 1, 7].map((u) => along(curve, u)), [[0, 0], [5, 0], [10, 0], [10, 10], [10, 10]]);
});

test("squares fill one by one, the last one in part and from below", () => {
  const [full, part] = squares(0, 24, 16, 8, 10, 2).split("z");
  assert.equal(full, "M0,0h8v8h-8");
  assert.equal(part, "M10,4h8v4h-8");
  assert.equal(squares(0, 0, 16, 8, 10, 2), "");
  assert.match(squares(0, 16 * 9, 16, 8, 10, 2), /M0,10h8v8h-8z$/);
});

test("an answer goes on in the square that the prompt left open", () => {
  assert.equal(squares(24, 32, 16, 8, 10, 2), "M10,0h8v4h-8z");
});

test("numbers and words read well", () => {
  assert.equal(fixed(-0.4), "0");
  assert.equal(fixed(12345.678, 1), "12\u2009345.7");
  assert.deepEqual([0.123, 12.34, 123.4].map(brief), ["0.12", "12.3", "123"]);
  assert.equal(fillIn("{a} of {b}", { a: 1, b: "x" }), "1 of x");
});
