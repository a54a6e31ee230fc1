// Print who runs, waits and decodes at the start of each step by the player's model, for tests/parity/test_log.py.
import { readFile } from "node:fs/promises";
import { player } from "./load.mjs";

const log = await player.decode(new Uint8Array(await readFile(process.argv[2])));
console.log(JSON.stringify(log.lanes.map((_, i) => {
  const lane = new player.Lane(log, i), out = { running: [], waiting: [], decode_seqs: [] };
  for (const t of lane.start_us) {
    const scene = lane.scene(t);
    out.running.push(scene.running.length);
    out.waiting.push(scene.waiting.length);
    out.decode_seqs.push(scene.running.filter((q) => !q.prefill).length);
  }
  return out;
})));
