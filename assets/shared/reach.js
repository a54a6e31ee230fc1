// What scrolls sideways on a phone must scroll by keyboard too: Streamlit's tables and KaTeX's formulas take no focus of their own.
const WIDE = { ".katex-display": "Formula, scrolls sideways", "[data-testid=stTable] > *": "Table, scrolls sideways" };

class Reach {
  constructor(parent) {
    this.root = document.createElement("span");
    this.root.hidden = true;
    parent.append(this.root);
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
    cancelAnimationFrame(this.asked);
    globalThis.removeEventListener("resize", this.soon);
    document.fonts.removeEventListener("loadingdone", this.soon);
    this.root.remove();
  }
}

export default (component) => mountIn(component, Reach);
