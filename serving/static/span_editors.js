// Corrects what lies in a text: its entities, or the answer to a question.

import { button, element, labelField } from "./elements.js";
import { wordOf } from "./marks.js";
import { SelectableText } from "./selectable_text.js";

const HOW = "Select characters with the mouse, or with Shift and the arrow keys";

/** Entities: others can be added, those that are there labelled otherwise or removed. */
export function spanEditor(items, { text, labels, palette, say }) {
  let spans = spansOf(items);
  const hue = (label) => (labels.includes(label) ? palette.hue(label) : "new"); // no colour for each letter of a new label
  const quoted = (span) => `“${wordOf(text, span)}”`;
  const area = new SelectableText(text, { name: "Text with its entities", hue, entered: add });
  const label = labelField("Label of the entity to add", labels, labels[0] ?? "");
  const list = element("ul", { class: "spans", "aria-label": "Entities" });

  function show() {
    spans.sort((one, other) => one.start - other.start);
    area.show(spans);
    list.replaceChildren(...spans.map(row));
  }

  function row(span) {
    const place = `${quoted(span)}, characters ${span.start} to ${span.end}`;
    const field = labelField(`Label of ${place}`, labels, span.label, (chosen) => {
      span.label = chosen;
      area.show(spans);
    });
    const remove = button("Remove", { "aria-label": `Remove ${place}` }, () => {
      spans = spans.filter((other) => other !== span);
      show();
      area.node.focus();
      say();
    });
    return element("li", {}, element("bdi", { class: "word" }, wordOf(text, span)), field.node, remove);
  }

  function add() {
    const span = area.selected;
    if (!span) return say(`Nothing is selected. ${HOW} in the text, then add them.`);
    const other = spans.find((known) => known.start < span.end && span.start < known.end);
    if (other) return say(`${quoted(span)} overlaps the entity ${quoted(other)} (${other.label}). Remove that one first, or select other characters.`);
    if (!label.value) return say("Type the label of the entity that is to be added, or choose one.");
    spans.push({ ...span, label: label.value });
    show();
    area.leave(span);
    say();
  }

  show();
  return {
    nodes: [
      area.node,
      element("p", { class: "quiet" }, `${HOW}; Enter adds them as an entity.`),
      element("p", { class: "tools" }, label.node, button("Add entity", {}, add)),
      list,
    ],
    read() {
      const nameless = spans.find((span) => !span.label);
      return nameless ? { missing: `Type the label of ${quoted(nameless)}, or choose one.` } : { correction: { spans } };
    },
    focus: () => area.node.focus(),
    rest: () => area.rest(),
  };
}

/** The spans of entities; of tags of sub-words (B-PER, I-PER) those that belong together. */
function spansOf(items) {
  const spans = [];
  let before = null;
  for (const item of items) {
    const label = item.entity_group ?? item.entity.slice(2);
    const goesOn = item.entity?.startsWith("I-") && item.index === before?.index + 1 && label === spans.at(-1).label;
    if (goesOn) spans.at(-1).end = item.end;
    else spans.push({ start: item.start, end: item.end, label });
    before = item;
  }
  return spans;
}

/** The answer to a question: characters of the context, or none. */
export function answerEditor([best], { text, palette, say }) {
  let span = best.answer ? { start: best.start, end: best.end, label: "answer" } : null;
  const area = new SelectableText(text, { name: "Text with the answer", hue: (label) => palette.hue(label), entered: take });
  const none = element("input", { type: "checkbox" });
  none.checked = !span;
  const show = () => area.show(span && !none.checked ? [span] : []);
  none.addEventListener("change", show);

  function take() {
    const selected = area.selected;
    if (!selected) return say(`Nothing is selected. ${HOW} in the text, then take them as the answer.`);
    span = { ...selected, label: "answer" };
    none.checked = false;
    show();
    area.leave(span);
    say();
  }

  function read() {
    if (none.checked) return { correction: { answers: { text: [], answer_start: [] } } };
    if (!span) return { missing: "Select the answer in the text and take it, or tick “No answer in the text”." };
    return { correction: { answers: { text: [wordOf(text, span)], answer_start: [span.start] } } };
  }

  show();
  return {
    nodes: [
      area.node,
      element("p", { class: "quiet" }, `${HOW}; Enter takes them as the answer.`),
      element("p", { class: "tools" }, button("Take as the answer", {}, take), element("label", {}, none, "No answer in the text")),
    ],
    read,
    focus: () => area.node.focus(),
    rest: () => area.rest(),
  };
}
