// Pure functions of the player, run by `node --test` (from tests/parity/test_log.py).
import assert from "node:assert/strict";
import test from "node:test";
import { player } from "./load.mjs";

const { Lane, budgetWords, countUpTo, lineSentence, number, percentile, score, shownScore, spread, ticks, unlimited, unwrap } = player;
const NEVER = 2 ** 32 - 1;

/** Two requests, 10 ms steps: 0 prefills in step 0 and makes 3 tokens; 1 arrives at 5 ms and is preempted once. */
function lane() {
  const u32 = (...x) => Uint32Array.from(x);
  const per = {
    cells: u32(0, 5, 6, 8), evicted_frame: u32(1), evicted_square: u32(0), stopped_frame: u32(), stopped_square: u32(),
    running_blocks: u32(0, 1), cached_blocks: u32(0, 1), start_us: u32(0, 10000, 20000, 30000, 40000),
    duration_us: u32(10000, 10000, 10000, 10000, 10000), scheduled_tokens: u32(32, 33, 1, 33, 1),
    decode_seqs: u32(0, 1, 1, 0, 1), arrival_us: u32(0, 5000), first_token_us: u32(10000, 20000),
    finish_us: u32(30000, 50000), status: u32(1, 1), price_us: u32(0, 20000), price_memory: Float32Array.of(0, 2),
    price_gpu_time: Float32Array.of(0, 0.001), move_step: u32(0, 1, 2, 2, 3, 4), move_request: u32(0, 1, 1, 0, 1, 1),
    move_kind: u32(0, 0, 1, 2, 0, 2), move_tokens: u32(0, 0, 32, 34, 0, 33),
  };
  const arrays = { prompt_tokens: u32(32, 32), output_tokens: u32(3, 2), class_id: u32(0, 3) };
  for (const [name, value] of Object.entries(per)) arrays[`0.${name}`] = value;
  const shape = { blocks: 4, block_tokens: 16, blocks_per_square: 2, squares: 2, token_budget: 64, max_num_seqs: 8, priced: true };
  return new Lane({ arrays, lanes: [shape], meta: {}, requests: 2, frames: 2, frame_us: 20000 }, 0);
}

test("the batch and the line follow the moves at each iteration", () => {
  const l = lane();
  const at = (t) => { const s = l.scene(t); return [s.running.map((q) => q.r), s.waiting.map((w) => w.r)]; };
  assert.deepEqual(at(0), [[0], []]);
  assert.deepEqual(at(6000), [[0], [1]]);
  assert.deepEqual(at(10000), [[0, 1], []]);
  assert.deepEqual(at(25000), [[0], [1]]);
  assert.equal(l.scene(25000).waiting[0].preempted, true);
  assert.deepEqual(at(30000), [[1], []]);
  assert.deepEqual(at(50000), [[], []]);
});

test("progress counts a token a decode step and keeps what a preempted request had made", () => {
  const l = lane();
  const of = (t, r) => { const q = l.scene(t).running.find((x) => x.r === r); return [q.done, q.prefill]; };
  assert.deepEqual(of(0, 0), [0, true]);
  assert.deepEqual(of(10000, 0), [1, false]);
  assert.deepEqual(of(20000, 0), [2, false]);
  assert.deepEqual(of(10000, 1), [0, true]);
  assert.deepEqual(of(40000, 1), [1, true]);
});

test("an engine without a token budget is not told to have unused tokens", () => {
  assert.equal(unlimited({ token_budget: 2048 }), false);
  assert.equal(budgetWords({ token_budget: 2048 }), "budget: 2\u202f048\u00a0tokens");
  assert.equal(unlimited({ token_budget: 1048576 }), true);
  assert.equal(budgetWords({ token_budget: 1048576 }), "no token budget");
});

test("decode, prefill and unused add up to the budget", () => {
  const s = lane().scene(10000);
  assert.deepEqual([s.decode, s.prefill, s.unused], [1, 32, 31]);
  const idle = lane().scene(60000);
  assert.deepEqual([idle.busy, idle.unused], [false, 64]);
});

test("unfinished requests count at their present age", () => {
  const l = lane();
  assert.deepEqual([...l.ages(25000)], [20, 25]);
  assert.deepEqual([...l.ages(1e9)], [30, 45]);
  assert.equal(l.finishedBy(30000), 1);
  assert.equal(score(l, "finished", 30000), 1);
  assert.equal(score(l, "mean", 1e9), -37.5);
  assert.equal(shownScore(l, "mean", 1e9), -0, "37.5 ms is shown as 0.0 s");
});

test("the price that binds is the one with the larger rent of the whole resource", () => {
  const l = lane();
  assert.equal(l.prices(0).binds, "");
  assert.equal(l.prices(25000).binds, "memory");
});

test("cells, frames and evictions", () => {
  const l = lane();
  assert.deepEqual(l.cell(0, 1), { state: 1, request: 0 });
  assert.equal(l.frame(39999), 1);
  assert.equal(l.lastEviction(0, 39000, 20000), 1);
  assert.equal(l.lastEviction(1, 39000, 20000), -1);
});

test("a bound of times is searched from both ends", () => {
  assert.equal(countUpTo([], 3), 0);
  assert.equal(countUpTo([1, 3, 3, 9], 3), 3);
  assert.equal(percentile([], 0.5), null);
  assert.equal(percentile([1, 2, 4], 0.75), 3);
});

test("labels keep their distance inside the frame", () => {
  const out = spread([50, 51, 52, 99], 17, 0, 100);
  const sorted = [...out].sort((a, b) => a - b);
  for (let i = 1; i < sorted.length; i++) assert.ok(sorted[i] - sorted[i - 1] >= 17 - 1e-9);
  assert.ok(sorted[0] >= 0 && sorted.at(-1) <= 100);
  assert.ok(out[0] < out[1] && out[1] < out[2] && out[2] < out[3]);
});

test("ticks are round and few", () => {
  assert.deepEqual(ticks(36, 6), [0, 6, 12, 18, 24, 30, 36]);
  assert.ok(ticks(205, 8).length <= 9);
  assert.deepEqual(ticks(651, 3), [0, 300, 600]);
});

test("numbers have thin spaces and a true minus", () => {
  assert.equal(number(10706), "10\u202f706");
  assert.equal(number(-1234.56, 1), "−1\u202f234.6");
  assert.equal(number(0.5, 2), "0.50");
});

const words = (l, waiting, step = 9) => { waiting.step = step; return lineSentence(l, waiting, ["chat", "agent turn", "long report", "document"]); };
function crowd(prompts, classes, arrivals, admitted) {
  return { prompt: prompts, classes, arrival_us: arrivals, requests: prompts.length, stays: admitted.map((a) => (a ? [{ from: 0 }] : [])) };
}
const text = (s) => s.text.map((p) => p[0]).join("");
const list = (...rows) => rows.map((r) => ({ r, preempted: false }));

test("a long head of the line is named with those behind it", () => {
  const l = crowd([10706, 100, 120, 90, 80], [3, 0, 0, 0, 0], [0, 1, 2, 3, 4], []);
  l.stays = l.prompt.map(() => []);
  const s = words(l, list(0, 1, 2, 3, 4));
  assert.equal(text(s), "4 requests wait behind one 10\u202f706-token document");
  assert.equal(s.behind, 4);
});

test("documents that later requests passed are set aside", () => {
  const l = crowd([9000, 8000, 100, 90, 50], [3, 3, 0, 0, 0], [0, 1, 5, 6, 4], [0, 0, 0, 0, 1]);
  assert.equal(text(words(l, list(2, 3, 0, 1))), "2 documents set aside; 2 shorter ones wait");
  assert.equal(text(words(l, list(2, 0))), "1 document set aside; 1 shorter one waits");
  assert.equal(text(words(l, list(0, 1))), "2 requests wait, all passed by later ones");
});

test("an empty line and a line of one are said plainly", () => {
  const l = crowd([10], [0], [0], [0]);
  assert.equal(text(words(l, [])), "Nobody waits");
  assert.equal(text(words(l, list(0))), "1 request waits");
});

test("the envelope holds an answer or none", () => {
  const bytes = (s) => { const t = new TextEncoder().encode(s); const out = new Uint8Array(4 + t.length + 3); new DataView(out.buffer).setUint32(0, t.length, true); out.set(t, 4); out.set([7, 8, 9], 4 + t.length); return out; };
  assert.deepEqual(unwrap(bytes("    ")).answer, null);
  const { answer, log } = unwrap(bytes('{"title":"why"} '));
  assert.equal(answer.title, "why");
  assert.deepEqual([...log], [7, 8, 9]);
});
