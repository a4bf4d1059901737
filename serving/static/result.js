// Shows what came back: marks in the text, ranked labels or triples, the same as a table, the same as JSON, or a refusal.

import { counted, descriptions, element } from "./elements.js";
import { cut } from "./marks.js";

const MOST_ROWS = 500; // of the table: beyond it a browser only gets slow

/** The items of the answer to one input. */
export const itemsOf = (answer) => (Array.isArray(answer[0]) ? answer[0] : answer);

/** What an answer holds, whatever the agent's task: {summary, nodes}. `why`, where it is given, is called with the item that was clicked. */
export function answered(text, answer, { palette, picture, why }) {
  const items = picture === "fillings" ? answer.flat() : itemsOf(answer);
  const shown = (PICTURES[picture] ?? marked)(items, palette, { text, why });
  return { summary: shown.summary, nodes: [...shown.nodes, json(answer)] };
}

/** A refusal in the server's words. */
export function refused({ told, status, retryAfter }) {
  const seconds = /^\d+$/.test(retryAfter ?? "") ? `in ${counted(Number(retryAfter), "second")}` : retryAfter;
  const said = [["Allowed", told.allowed], ["What to do", told.remedy], ["Come back", seconds]].filter(([, what]) => what);
  return [element("p", { class: "error" }, status ? element("span", { class: "status" }, `${status}`) : null, told.error), descriptions(said)];
}

const label = (item) => item.entity_group ?? item.entity;
const short = (score) => (Math.floor(score * 100) / 100).toFixed(2); // cut, so that only certainty is 1.00

/** What tells the name of a decision; a button where it can be explained. */
function named(why, item, attributes, ...children) {
  if (!why) return element("span", attributes, children);
  const button = element("button", { ...attributes, class: `${attributes.class} why`, type: "button", title: "Why?" }, children);
  button.addEventListener("click", () => why(item));
  return button;
}

function marked(items, palette, { text, why }) {
  const { pieces, unmarked } = cut(text, items);
  const nodes = pieces.map((piece) => (piece.item ? mark(piece, palette, why) : piece.text));
  const shown = [element("div", { class: "marked", dir: "auto" }, nodes)];
  if (unmarked.length) shown.push(element("p", { class: "notice" }, `Not marked, because of overlaps: ${unmarked.length}; see the table.`));
  if (items.length) shown.push(table(items, palette));
  return { summary: items.length === 1 ? "1 entity" : `${items.length || "no"} entities`, nodes: shown };
}

function mark({ text, item }, palette, why) {
  const tag = named(why, item, { class: "tag", dir: "ltr" }, ` ${label(item)} `, element("span", { class: "score" }, `${short(item.score)} `));
  return element("mark", { class: palette.hue(label(item)) }, element("span", { class: "word" }, text), tag);
}

function table(items, palette) {
  const rows = items.slice(0, MOST_ROWS).map((item) =>
    element("tr", {},
      element("td", {}, element("span", { class: `chip ${palette.hue(label(item))}` }, label(item))),
      element("td", { dir: "auto", class: "word" }, item.word),
      element("td", { class: "number" }, item.score.toFixed(4)),
      element("td", { class: "number" }, `${item.start} to ${item.end}`)));
  const head = ["Type", "Text", "Score", "Characters"].map((name) => element("th", { scope: "col" }, name));
  const note = items.length > MOST_ROWS ? `The first ${MOST_ROWS} of ${items.length}; the JSON has all.` : null;
  return folded("As a table", element("table", {}, element("thead", {}, element("tr", {}, head)), element("tbody", {}, rows)), note);
}

/** Whether an answer makes the claim that a label with a threshold is, or lets the agent abstain from it. */
export const reached = (item) => item.score >= (item.threshold ?? 0) && !item.abstains;

/** Labels with bars; where a label has a threshold, a line in its bar shows it, and labels below theirs are faint. */
function ranked(items, palette, { why }) {
  const rows = items.map((item) => {
    const bar = element("span", { class: "bar", "aria-hidden": "true" }, element("span"));
    bar.firstChild.style.inlineSize = `${100 * item.score}%`;
    if (item.threshold !== undefined) {
      bar.append(element("span", { class: "threshold" }));
      bar.lastChild.style.insetInlineStart = `${100 * item.threshold}%`;
    }
    const than = item.threshold === undefined ? "" : ` ${reached(item) ? "≥" : "<"} ${item.threshold.toFixed(2)}`;
    return element("li", { class: `${palette.hue(item.label)}${reached(item) ? "" : " below"}` },
      named(why, item, { class: "label", dir: "auto" }, item.label), bar, element("span", { class: "number" }, item.score.toFixed(4) + than));
  });
  const chosen = items[0]?.threshold === undefined ? items.slice(0, 1) : items.filter(reached);
  const summary = chosen.map((item) => `${item.label} (${short(item.score)})`).join(", ") || "no label";
  if (items[0]?.abstains) return { summary: `no answer: not sure enough of ${summary}`, nodes: [element("ol", { class: "ranked" }, rows)] };
  return { summary, nodes: [element("ol", { class: "ranked" }, rows)] };
}

/** The best answer in its place, and all of them with bars; an empty one is that there is none. */
function inContext(items, palette, { text }) {
  const best = { ...items[0], entity_group: "answer" };
  const { pieces } = cut(text, best.answer ? [best] : []);
  const nodes = pieces.map((piece) => (piece.item ? mark(piece, palette) : piece.text));
  const answers = items.map((item) => ({ label: item.answer || "no answer", score: item.score }));
  const summary = `${best.answer || "no answer"} (${short(best.score)})`;
  return { summary, nodes: [element("div", { class: "marked", dir: "auto" }, nodes), ...ranked(answers, palette, {}).nodes] };
}

/** For each mask the words that fill it, with bars, best first. */
function fillings(items, palette) {
  const masks = [...new Set(items.map((item) => item.start))].map((start) => items.filter((item) => item.start === start));
  const nodes = masks.map((mine) => ranked(mine.map((item) => ({ label: item.token_str.trim() || item.token_str, score: item.score })), palette, {}).nodes);
  const summary = masks.map(([best]) => `${best.token_str.trim()} (${short(best.score)})`).join(", ");
  return { summary, nodes: [element("p", { class: "marked", dir: "auto" }, masks.length === 1 ? items[0].sequence : ""), ...nodes.flat()] };
}

/** The entities of triples in their places, and what relates them, best first; labels where two entities were marked in the text. */
function triples(items, palette, { text }) {
  if (items[0]?.label !== undefined) return ranked(items, palette, {});
  const mentions = new Map(items.flatMap(({ head, tail }) => [head, tail]).map((one) => [one.start, one]));
  const { pieces } = cut(text, [...mentions.values()]);
  const nodes = pieces.map((piece) => (piece.item ? mark(piece, palette) : piece.text));
  const rows = items.map(({ head, relation, tail, score }) =>
    element("tr", {}, element("td", { dir: "auto", class: "word" }, head.word),
      element("td", {}, element("span", { class: `chip ${palette.hue(relation)}` }, relation)),
      element("td", { dir: "auto", class: "word" }, tail.word), element("td", { class: "number" }, score.toFixed(4))));
  const head = ["From", "Relation", "To", "Score"].map((name) => element("th", { scope: "col" }, name));
  const table = element("table", {}, element("thead", {}, element("tr", {}, head)), element("tbody", {}, rows));
  const shown = [element("div", { class: "marked", dir: "auto" }, nodes)];
  if (items.length) shown.push(element("div", { class: "scrolling", tabindex: "0", role: "region", "aria-label": "Relations" }, table));
  return { summary: items.length ? counted(items.length, "relation") : "no relation", nodes: shown };
}

function written(items) {
  const text = textOf(items[0]);
  return { summary: counted([...text].length, "character") + " written", nodes: [writing(text)] };
}

const textOf = (item) => item.generated_text ?? item.translation_text ?? item.summary_text ?? "";

/** A text that is written, or what there is of it. */
export function writing(text) {
  return element("div", { class: "marked", dir: "auto" }, text);
}

const PICTURES = { ranking: ranked, marks: marked, answers: inContext, fillings, triples, written };

function json(answer) {
  return folded("As JSON", element("pre", {}, JSON.stringify(answer, null, 2)));
}

function folded(title, ...children) {
  const inside = element("div", { class: "scrolling", tabindex: "0", role: "region", "aria-label": title }, children);
  return element("details", {}, element("summary", {}, title), inside);
}
