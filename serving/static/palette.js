// Which colour a label has. Colour helps only: the label always stands beside it.

const HUES = 8; // as many as page.css knows

/** Colours in the order in which labels become known; with more labels than colours they repeat. */
export class Palette {
  #known = new Map();

  learn(labels) {
    this.#known = new Map(labels.map((label, index) => [label, index]));
  }

  /** The class of a label, or of a tag such as B-PER. */
  hue(label) {
    const name = this.#known.has(label) ? label : label.replace(/^[BI]-/, "");
    if (!this.#known.has(name)) this.#known.set(name, this.#known.size);
    return `hue-${this.#known.get(name) % HUES}`;
  }
}
