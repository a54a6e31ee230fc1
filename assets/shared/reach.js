// What scrolls sideways on a phone must scroll by keyboard too: Streamlit's tables and KaTeX's formulas take no focus of their own.
const WIDE = { ".katex-display": "Formula, scrolls sideways", "[data-testid=stTable] > *": "Table, scrolls sideways" };
/** Streamlit draws no ring around its scrolling page and its plain links. */
const RING = "[data-testid=stMain]:focus-visible, [data-testid=stMain] a:focus-visible { outline: 2px solid currentColor; outline-offset: -2px; }";

class Reach {
  constructor(parent) {
    this.root = document.createElement("span");
    this.root.hidden = true;
    parent.append(this.root);
    this.ring = new CSSStyleSheet();
    this.ring.replaceSync(RING);
    document.adoptedStyleSheets.push(this.ring);
    this.soon = () => { this.asked ??= requestAnimationFrame(() => this.look()); };
    this.changes = new MutationObserver(this.soon);
    this.changes.observe(document.querySelector("[data-testid=stMain]") ?? document.body, { childList: true, subtree: true });
    globalThis.addEventListener("resize", this.soon);
    document.fonts.addEventListener("loadingdone", this.soon); // words of another font are of another width
  }

  get alive() { return !this.asked; }

  update() { this.soon(); }

  look() {
    this.asked = null;
    for (const [selector, words] of Object.entries(WIDE)) {
      for (const node of document.querySelectorAll(selector)) {
        if (node.scrollWidth <= node.clientWidth + 1) { for (const name of ["tabindex", "role", "aria-label"]) node.removeAttribute(name); continue; }
        node.tabIndex = 0;
        node.setAttribute("role", "group");
        node.setAttribute("aria-label", words);
      }
    }
  }

  destroy() {
    this.changes.disconnect();
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((sheet) => sheet !== this.ring);
    cancelAnimationFrame(this.asked);
    globalThis.removeEventListener("resize", this.soon);
    document.fonts.removeEventListener("loadingdone", this.soon);
    this.root.remove();
  }
}

export default (component) => mountIn(component, Reach);
