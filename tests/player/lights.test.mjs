// Words and pictures that light each other up, on a page that is only as much of one as the listeners need. Run by `node --test`.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import test from "node:test";

const source = await readFile(new URL("../../assets/shared/lights.js", import.meta.url), "utf8");
const { lightsOf } = await import(`data:text/javascript,${encodeURIComponent(source)}`);

function stage(...names) {
  const heard = {}, said = [];
  const words = names.map((name) => ({ dataset: { lights: name }, lit: false, pressed: null, visible: true,
    closest: (what) => (what === "[data-lights]" ? word(name) : null), matches: () => word(name).visible,
    toggleAttribute: (_, on) => { word(name).lit = on; }, setAttribute: (_, value) => { word(name).pressed = value; } }));
  const word = (name) => words.find((one) => one.dataset.lights === name);
  const page = { addEventListener: (kind, act) => { (heard[kind] ??= []).push(act); }, querySelectorAll: () => words };
  const lights = lightsOf(page);
  lights.pictures.add((what) => said.push(what && `${what.kind}=${what.name}`));
  const fire = (kind, name, more = {}) => heard[kind].forEach((act) => act({ target: name ? word(name) : { closest: () => null, matches: () => false }, preventDefault() {}, ...more }));
  return { lights, said, word, fire };
}

test("a word that is pointed at is told to the pictures, and that it is left", () => {
  const { said, fire, word } = stage("lane:LP prices", "row:map");
  fire("pointerover", "lane:LP prices");
  fire("pointerover", "lane:LP prices");
  assert.equal(word("lane:LP prices").lit, true);
  fire("pointerover", "row:map");
  fire("pointerover", null);
  assert.deepEqual(said, ["lane=LP prices", "row=map", null]);
  assert.equal(word("row:map").lit, false);
});

test("a name may hold a colon", () => {
  const { said, fire } = stage("node:prompt: system");
  fire("pointerover", "node:prompt: system");
  assert.deepEqual(said, ["node=prompt: system"]);
});

test("the keyboard reaches a word; a tap's focus does not light for good", () => {
  const { said, fire, word } = stage("request:7");
  word("request:7").visible = false;
  fire("focusin", "request:7");
  assert.deepEqual(said, []);
  word("request:7").visible = true;
  fire("focusin", "request:7");
  fire("focusout", "request:7");
  assert.deepEqual(said, ["request=7", null]);
});

test("a tap holds, a second one lets go, and so does Escape", () => {
  const { said, fire, word } = stage("request:7", "class:chat");
  fire("pointerover", "request:7", { pointerType: "touch" });
  assert.deepEqual(said, [], "a finger that passes is no tap");
  fire("click", "request:7");
  assert.equal(word("request:7").pressed, "true");
  fire("click", null);
  fire("click", "request:7");
  fire("keydown", "class:chat", { key: "Enter" });
  fire("keydown", null, { key: "Escape" });
  assert.deepEqual(said, ["request=7", null, "class=chat", null]);
});

test("what is held comes back when another word has been pointed at", () => {
  const { said, fire } = stage("request:7", "row:line");
  fire("click", "request:7");
  fire("pointerover", "row:line");
  fire("pointerout", null, { relatedTarget: null });
  assert.deepEqual(said, ["request=7", "row=line", "request=7"]);
});

test("a picture lights every word that names one of its things, and no other", () => {
  const { lights, said, word } = stage("request:7", "class:chat", "lane:A");
  lights.words(["request:7", "class:chat"]);
  assert.deepEqual(["request:7", "class:chat", "lane:A"].map((name) => word(name).lit), [true, true, false]);
  lights.words([]);
  assert.equal(word("request:7").lit, false);
  assert.deepEqual(said, []);
});
