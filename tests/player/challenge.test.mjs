// Pure functions of the challenge's board, and its moves without a page, run by `node --test`.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import test from "node:test";

const files = ["shared/picture", "challenge/challenge", "shared/mount"].map((name) => readFile(new URL(`../../assets/${name}.js`, import.meta.url), "utf8"));
const source = `${(await Promise.all(files)).join("")}\nexport { Challenge };`;
const { Challenge, filled, held, latency, over, spoken, verdict, within } = await import(`data:text/javascript,${encodeURIComponent(source)}`);
const TWO = [{ name: "A", a: 0, s: 1, o: 3 }, { name: "B", a: 1, s: 2, o: 2 }];
const WORDS = { fits: "fits {memory}", over_one: "slot {slots}: {most} of {memory}", over_many: "slots {slots}: {most} of {memory}" };

test("memory grows by one block a slot and is given back at the end", () => {
  assert.deepEqual(held(TWO, [0, 1], 5), [2, 6, 8, 0, 0]);
  assert.deepEqual(held(TWO, [0, 3], 5), [2, 3, 4, 3, 4]);
});

test("latency counts from the arrival", () => {
  assert.equal(latency(TWO, [0, 1]), 5);
  assert.equal(latency(TWO, [0, 3]), 7);
});

test("slots that ask for too much are named, and a rounded share is not too much", () => {
  assert.deepEqual(over([2, 6, 8], 5), [2, 3]);
  assert.deepEqual(over([5.00001], 5), []);
  assert.equal(verdict([2, 6, 8], 5, WORDS), "slots 2 and 3: 8 of 5");
  assert.equal(verdict([2, 6, 4], 5, WORDS), "slot 2: 6 of 5");
  assert.equal(verdict([2, 5], 5, WORDS), "fits 5");
});

test("a start keeps behind the arrival and ends on the board", () => {
  assert.deepEqual([-3, 0, 1, 2, 9].map((k) => within(k, TWO[1], 5)), [1, 1, 1, 2, 3]);
});

test("names are said as one says them", () => {
  assert.deepEqual([[], ["3"], ["3", "4"], ["3", "4", "5"]].map(spoken), ["", "3", "3 and 4", "3, 4 and 5"]);
  assert.equal(filled("{a} of {b}", { a: 1, b: 2 }), "1 of 2");
});

/** A board without a page: what it would draw is left out, what it sends is kept. */
function board() {
  const sent = [], one = Object.create(Challenge.prototype);
  Object.assign(one, { undo: [], seq: 0, picked: 0, draw() {}, said: () => "", live: {}, data: null });
  globalThis.matchMedia = () => ({ matches: true });
  const say = (starts, seq, id = "p") => one.update({ data: { id, seq, starts, requests: TWO, slots: 8, memory: 5 }, setStateValue: (_, edit) => sent.push(edit) });
  say([0, 1], 0);
  return { one, sent, say };
}

test("one move is under way at a time and the last one wins", () => {
  const { one, sent, say } = board();
  for (let k = 0; k < 3; k++) one.step(1, 1);
  assert.deepEqual(sent.map((edit) => edit.starts), [[0, 2]]);
  say([0, 2], 1);
  assert.deepEqual(sent.at(-1).starts, [0, 4]);
  assert.deepEqual(one.starts, [0, 4], "an answer to an older move takes nothing back");
  say([0, 4], 2);
  assert.equal(sent.length, 2);
  assert.ok(!one.busy);
});

test("undo goes back move by move, and another preset starts afresh", () => {
  const { one, sent, say } = board();
  one.step(1, 1);
  say([0, 2], 1);
  one.back();
  assert.deepEqual(sent.at(-1).starts, [0, 1]);
  assert.equal(one.undo.length, 0);
  one.step(0, 1);
  say([3, 3], one.seq, "q");
  assert.deepEqual([one.starts, one.undo], [[3, 3], []]);
});

test("a move against the edge sends nothing", () => {
  const { one, sent } = board();
  one.step(0, -1);
  assert.equal(sent.length, 0);
});

test("arrows, page keys and ends move the start; with a modifier they are the browser's", () => {
  const { one } = board(), key = (name, more = {}) => one.key({ key: name, preventDefault() {}, ...more }, 0);
  key("End");
  assert.equal(one.starts[0], 5);
  key("PageDown");
  key("ArrowRight");
  assert.equal(one.starts[0], 1);
  key("ArrowRight", { altKey: true });
  assert.equal(one.starts[0], 1);
});
