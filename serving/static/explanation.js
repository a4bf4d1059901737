// Shows why the agent decided so: its words marked by what they do to the decision, and the same as a table.

import { counted, descriptions, element } from "./elements.js";
import { cut } from "./marks.js";

const FAINTEST = 0.005; // effects that would read 0.00 are not marked
const MOST_ROWS = 50;
const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;

/** The nodes of an explanation of one decision about `texts`, an object of the texts of the input by their names ("" for the only one). */
export function explained(texts, { decisions, replacement, interventions, exact }) {
  const [decision] = decisions;
  if (!decision) return [element("p", { class: "notice" }, "There is nothing to explain.")];
  const strongest = Math.max(FAINTEST, ...decision.causes.map((cause) => Math.abs(cause.effect)));
  const marked = Object.entries(texts).map(([field, text]) => {
    const causes = decision.causes.filter((cause) => (cause.field ?? "") === field && Math.abs(cause.effect) >= FAINTEST);
    const nodes = cut(text, causes).pieces.map((piece) => (piece.item ? mark(piece, strongest) : piece.text));
    return element("div", { class: "marked causes", dir: "auto" }, nodes);
  });
  const hidden = replacement ? `replaced by ${replacement}` : "removed";
  const how = exact ? "from all sets of words" : "from a sample of sets of words, with 95% intervals";
  return [
    ...marked,
    element("p", { class: "flip" }, flip(decision)),
    descriptions([
      ["Probability", `${decision.probability.toFixed(4)}; ${decision.baseline.toFixed(4)} with every word hidden`],
      ["Faithfulness", `comprehensiveness ${decision.comprehensiveness.toFixed(4)}, sufficiency ${decision.sufficiency.toFixed(4)}`],
      ["Computed", `${counted(interventions, "intervention")}: words ${hidden}, effects ${how}`],
    ]),
    table(decision.causes),
  ];
}

/** A word, the more coloured the more it does; what it does also stands beside it. */
function mark({ text, item }, strongest) {
  const tag = element("span", { class: "tag", dir: "ltr" }, ` ${signed(item.effect)} `);
  const node = element("mark", { class: item.effect < 0 ? "against" : "for" }, element("span", { class: "word" }, text), tag);
  node.style.setProperty("--strength", `${Math.round((100 * Math.abs(item.effect)) / strongest)}%`);
  return node;
}

function flip({ flip: found, holds }) {
  if (!found) return "No set of words was found without which the agent decides otherwise.";
  const words = found.words.map(({ word }) => `“${word}”`).join(", ");
  return `Without ${words} the agent ${holds ? "no longer decides so" : "decides so"} (probability ${found.probability.toFixed(4)}): the smallest set found.`;
}

function table(causes) {
  const rows = causes.slice(0, MOST_ROWS).map((cause) =>
    element("tr", {},
      element("td", { dir: "auto", class: "word" }, cause.word),
      element("td", { class: "number" }, signed(cause.effect)),
      element("td", { class: "number" }, `${signed(cause.low)} to ${signed(cause.high)}`),
      element("td", { class: "number" }, signed(cause.alone))));
  const head = ["Word", "Effect", "Interval", "Hidden alone"].map((name) => element("th", { scope: "col" }, name));
  const whole = element("table", {}, element("thead", {}, element("tr", {}, head)), element("tbody", {}, rows));
  const note = causes.length > MOST_ROWS ? element("p", {}, `The ${MOST_ROWS} largest of ${causes.length}.`) : null;
  const inside = element("div", { class: "scrolling", tabindex: "0", role: "region", "aria-label": "Causes" }, whole, note);
  return element("details", {}, element("summary", {}, "Causes as a table"), inside);
}
