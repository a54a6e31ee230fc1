// Print length, sum and weighted sum of each array that the player reads from a log, for tests/parity/test_log.py.
import { readFile } from "node:fs/promises";
import { player } from "./load.mjs";

const log = await player.decode(new Uint8Array(await readFile(process.argv[2])));
const arrays = {};
for (const [name, values] of Object.entries(log.arrays)) {
  let sum = 0, mixed = 0;
  values.forEach((v, i) => { sum += v; mixed += v * ((i % 1009) + 1); });
  arrays[name] = [values.length, sum, mixed];
}
console.log(JSON.stringify({ words: log.meta.words, arrays }));
