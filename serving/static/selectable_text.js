// A text in which a person selects characters.

import { element } from "./elements.js";
import { codePoints, cut, utf16Offsets } from "./marks.js";

/**
 * A text with marked spans, of which nothing can be changed: a field for the caret's sake, so that characters are selected with the
 * keyboard as with the mouse. `hue` gives the class of a label, `entered` is called at the key Enter. Labels are generated content: the
 * field holds the text alone.
 */
export class SelectableText {
  #text;
  #hue;
  #spans = [];
  #selected = null;

  constructor(text, { name, hue, entered }) {
    this.#text = text;
    this.#hue = hue;
    this.node = element("div", {
      class: "marked selectable", dir: "auto", contenteditable: "true", inputmode: "none", spellcheck: "false", tabindex: "0",
      role: "textbox", "aria-multiline": "true", "aria-readonly": "true", "aria-label": name,
    });
    for (const change of ["beforeinput", "dragstart", "drop"]) this.node.addEventListener(change, (event) => event.preventDefault());
    this.node.addEventListener("input", () => this.show(this.#spans)); // an input method cannot be refused
    this.node.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.isComposing && this.node.isContentEditable) entered();
    });
    document.addEventListener("selectionchange", this.#follow);
  }

  /** Marks spans, [{start, end, label}] in code points. */
  show(spans) {
    this.#spans = spans;
    const nodes = cut(this.#text, spans).pieces.map(({ text, item }) =>
      item ? element("mark", { class: this.#hue(item.label), "data-label": item.label }, text) : text);
    this.node.replaceChildren(...nodes);
  }

  /** The characters that are selected, or were when the focus went elsewhere: {start, end} in code points without white space around, or null. */
  get selected() {
    this.#remember();
    return this.#selected;
  }

  /** Puts the caret behind a span and forgets what was selected. */
  leave({ end }) {
    this.#selected = null;
    if (document.activeElement !== this.node) return;
    let units = utf16Offsets(this.#text)[end];
    const walker = document.createTreeWalker(this.node, NodeFilter.SHOW_TEXT);
    while (walker.nextNode() && units > walker.currentNode.length) units -= walker.currentNode.length;
    document.getSelection().collapse(walker.currentNode, units);
  }

  rest() {
    this.node.contentEditable = "false";
  }

  #follow = () => {
    if (this.node.isConnected) this.#remember();
    else document.removeEventListener("selectionchange", this.#follow);
  };

  #remember() {
    const selection = document.getSelection();
    if (!selection.rangeCount) return;
    const range = selection.getRangeAt(0);
    if (!this.node.contains(range.commonAncestorContainer)) return;
    const before = document.createRange();
    before.setStart(this.node, 0);
    before.setEnd(range.startContainer, range.startOffset);
    const start = before.toString().length;
    const inside = range.toString();
    const trimmed = { start: start + inside.length - inside.trimStart().length, end: start + inside.trimEnd().length };
    this.#selected = inside.trim() ? codePoints(this.#text, trimmed) : null;
  }
}
