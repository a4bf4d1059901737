// Shows the agent's card, as /info tells it.

import { counted, descriptions, element, numbers } from "./elements.js";

const MOST_LABELS = 8; // in the sentence; the card has all
export const plain = (name) => name.replaceAll("_", " ");

/** One sentence: what the agent does, its labels in the place of {and} or {or}. */
export function purpose({ purpose, labels }) {
  const more = labels.length > MOST_LABELS ? [counted(labels.length - MOST_LABELS, "more label")] : [];
  const shown = [...labels.slice(0, MOST_LABELS), ...more];
  const listed = (type) => new Intl.ListFormat("en-GB", { type }).format(shown);
  return purpose.replace("{and}", () => listed("conjunction")).replace("{or}", () => listed("disjunction"));
}

/** The card's elements. */
export function cardOf(info, palette) {
  const labels = info.labels.map((label) => element("span", { class: `chip ${palette.hue(label)}` }, label));
  return [
    descriptions([
      ["Agent", info.agent],
      ["Task", plain(info.task)],
      ["Labels", element("span", { class: "chips" }, labels)],
      ["Base model", info.base_model],
      ["Precision", info.precision],
      ["Computed by", info.provider],
      ["Window", counted(info.max_tokens, "token")],
      ["Digest", element("code", {}, info.bundle)],
    ]),
    folded("Limits of a request", limits(info.limits)),
    folded("Versions", Object.entries(info.versions)),
  ];
}

/** Names and values; those of a group bear its name. */
function limits(group, name = "") {
  return Object.entries(group).flatMap(([key, value]) =>
    typeof value === "number" ? [[plain(name + key), numbers.format(value)]] : limits(value, `${key} `));
}

function folded(title, pairs) {
  return element("details", {}, element("summary", {}, title), descriptions(pairs));
}
