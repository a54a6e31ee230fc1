// Pure functions of the instance editor, run by `node --test`.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import test from "node:test";

const files = ["shared/picture", "prices/editor"].map((name) => readFile(new URL(`../../assets/${name}.js`, import.meta.url), "utf8"));
const source = (await Promise.all(files)).join("");
const { arrange, letter, marks, moved, outline, say } = await import(`data:text/javascript,${encodeURIComponent(source)}`);
const LIMITS = { arrival: 90, output: 40 };

function overlaps(pieces) {
  const taken = new Map();
  for (const piece of pieces) for (const [j, [low, high]] of piece.columns.entries()) {
    const t = piece.k + j, others = taken.get(t) ?? [];
    if (others.some(([from, to]) => high > from + 1e-9 && low < to - 1e-9)) return true;
    taken.set(t, [...others, [low, high]]);
  }
  return false;
}

test("pieces keep in one piece where they fit, and never overlap", () => {
  const requests = [{ s: 1, o: 5, starts: [[0, 1]] }, { s: 2, o: 3, starts: [[0, 1]] }, { s: 1, o: 2, starts: [[3, 1]] }];
  const pieces = arrange(requests, 6, 12);
  assert.ok(!overlaps(pieces));
  for (const piece of pieces) {
    const floors = new Set(piece.columns.map(([low]) => low)), ceilings = new Set(piece.columns.map(([, high]) => high));
    assert.ok(floors.size === 1 || ceilings.size === 1);
    piece.columns.forEach(([low, high], j) => assert.equal(high - low, requests[piece.i].s + j + 1));
  }
});

test("a crowd that no short search places is stacked from the floor", () => {
  const requests = Array.from({ length: 40 }, (_, i) => ({ s: 1, o: 3, starts: [[i % 4, 0.5], [4 + (i % 3), 0.5]] }));
  const pieces = arrange(requests, 12, 70);
  assert.equal(pieces.length, 80);
  assert.ok(!overlaps(pieces));
});

test("an outline goes up the tops and back along the bottoms", () => {
  assert.equal(outline([[0, 2], [0, 3]], 1, (t) => t, (b) => -b), "M1,-2L2,-2L2,-3L3,-3L3,0L2,0L2,0L1,0Z".replaceAll(",0", ",0"));
});

test("a move stays within memory and limits", () => {
  const request = { a: 3, s: 2, o: 5 };
  assert.deepEqual(moved(request, { a: -4 }, 12, LIMITS), { a: 0, s: 2, o: 5 });
  assert.deepEqual(moved(request, { o: 99 }, 12, LIMITS), { a: 3, s: 2, o: 10 });
  assert.deepEqual(moved(request, { s: 99 }, 12, LIMITS), { a: 3, s: 7, o: 5 });
  assert.deepEqual(moved(request, { s: 0 }, 12, LIMITS), { a: 3, s: 1, o: 5 });
});

test("axis marks are round and few", () => {
  assert.deepEqual(marks(12, 6), [0, 2, 4, 6, 8, 10, 12]);
  assert.deepEqual(marks(3, 14), [0, 1, 2, 3]);
  assert.ok(marks(120, 14).length <= 15);
});

test("numbers and letters read well", () => {
  assert.equal(say(-0.5), "\u22120.5");
  assert.equal(say(12345.678), "12\u2009345.68");
  assert.equal(say(1e-9), "0");
  assert.deepEqual([0, 25, 26, 59].map(letter), ["A", "Z", "A1", "H2"]);
});
