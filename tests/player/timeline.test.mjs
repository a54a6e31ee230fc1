// Times and labels of the iteration timeline, run by `node --test`.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import test from "node:test";

const files = ["shared/playing", "timeline/marks"].map((name) => readFile(new URL(`../../assets/${name}.js`, import.meta.url), "utf8"));
const source = (await Promise.all(files)).join("");
const { bins, clock, fillIn, fitting, said, upTo, windowAt } = await import(`data:text/javascript,${encodeURIComponent(source)}`);

test("a step starts when the one before has ended and the idle time has passed", () => {
  assert.deepEqual(clock([50, 0, 20], [100, 30, 10]), { start: [5, 15, 20], end: [15, 18, 21] });
});

test("the number of ends that have passed, at and between them", () => {
  assert.deepEqual([-1, 15, 17, 18, 99].map((t) => upTo([15, 18, 21], t)), [0, 1, 1, 2, 3]);
  assert.equal(upTo([], 5), 0);
});

test("the window keeps the playhead at four fifths and stays within the run", () => {
  assert.equal(windowAt(0, 1000, 9000), 0);
  assert.equal(windowAt(5000, 1000, 9000), 4200);
  assert.equal(windowAt(9000, 1000, 9000), 8000);
  assert.equal(windowAt(300, 1000, 500), 0);
});

test("of labels that would touch the more important one stays", () => {
  const kept = fitting([[100, 50, "largest"], [120, 50, "over it"], [140, 10, "too near"], [163, 20, "free"], [0, 80, "left"]]);
  assert.deepEqual(kept.map((label) => label[2]), ["largest", "free", "left"]);
});

test("every gap is in the bin of its end, the last one too", () => {
  assert.deepEqual([...bins([0, 4, 5, 10], [1, 7, 3, 2], 10, 2)], [7, 3]);
});

test("numbers and words read well", () => {
  assert.equal(said(12345.6, 1), "12\u202f345.6");
  assert.equal(fillIn("{a} of {b}", { a: 1, b: "x" }), "1 of x");
});
