// Load the player's source as a module: it is one plain file without a package.json of its own.
import { readFile } from "node:fs/promises";

const source = await readFile(new URL("../../assets/player/player.js", import.meta.url), "utf8");
export const player = await import(`data:text/javascript;base64,${Buffer.from(source).toString("base64")}`);
