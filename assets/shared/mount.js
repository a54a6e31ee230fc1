
// ---------------------------------------------------------------- mounting, shared by every component (ui/component.py appends it)
const MOUNTED = (globalThis.__shadowPriceMounted ??= new Set());
const PLACES = new WeakMap();

/** Keep one `Kind` in a place of the page and hand it what Streamlit has; only the last returned function is called, when it leaves.
 *
 * A Kind has `root`, `update(component)`, `destroy()` and `alive`: it moves, or is finished where nothing moves by itself. */
function mountIn(component, Kind) {
  const { parentElement } = component;
  if (!PLACES.has(parentElement)) {
    const one = new Kind(parentElement);
    MOUNTED.add(one);
    PLACES.set(parentElement, { one, leave: () => { one.destroy(); MOUNTED.delete(one); PLACES.delete(parentElement); } });
  }
  const { one, leave } = PLACES.get(parentElement);
  (async () => one.update(component))().catch((error) => {
    const words = document.createElement("p");
    words.setAttribute("role", "alert");
    words.textContent = `This could not be drawn: ${error.message}`;
    one.root.replaceChildren(words);
    console.error(error);
  });
  return leave;
}
