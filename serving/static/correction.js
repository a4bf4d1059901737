// Lets a person say that an answer is right, or what would have been: where the server keeps decisions, as the agent's card tells.

import { button, element, labelField } from "./elements.js";
import { reached } from "./result.js";
import { answerEditor, spanEditor } from "./span_editors.js";

const OUTCOMES = { recorded: "Recorded.", repeated: "The same was recorded before." };
const REFUSALS = {
  404: "The server does not know this answer, or no longer.",
  409: "Something else was recorded for this answer before, and the first counts.",
  410: "This answer is too old to be corrected.",
  422: "The server does not take this correction.",
  429: "The server takes no more for a moment: send it again then.",
  503: "The server cannot record it now: send it again in a minute.",
};

/**
 * An answer with what it takes to correct it.
 *
 * `nodes` show the answer, `about` is {text, items, labels, palette} with `kind`, what a correction holds (null where only the answer as a
 * whole can be judged), `id` of the answer, `send`, which gives what became of it, and `refused`, which makes nodes of what it throws.
 */
export function correctable(nodes, about) {
  const makeEditor = EDITORS[about.kind];
  const given = element("div", {}, nodes);
  const place = element("div");
  const problem = element("div", { class: "refusal", role: "alert", hidden: "" });
  const outcome = element("p", { class: "notice", role: "status", tabindex: "-1" });
  const say = (...said) => {
    problem.replaceChildren(...said);
    problem.hidden = !said.length;
  };
  let editor = null;

  const correct = button("Correct", {}, () => {
    editor = makeEditor(about.items, { ...about, say });
    place.replaceChildren(...editor.nodes);
    turn(true);
    editor.focus();
  });
  const right = button("Answer is right", {}, () => give({ reward: 1 }, right));
  const sending = button("Send correction", { class: "primary" }, () => {
    const { correction, missing } = editor.read();
    if (missing) say(missing);
    else give({ correction }, sending);
  });
  const cancel = button("Cancel correction", {}, () => {
    place.replaceChildren();
    turn(false);
    correct.focus();
  });
  const controls = element("fieldset", { "aria-label": "Feedback on this answer" }, place,
    element("div", { class: "actions" }, makeEditor ? correct : null, right, sending, cancel));

  function turn(correcting) {
    for (const node of [given, correct, right]) node.hidden = correcting;
    for (const node of [sending, cancel]) node.hidden = !correcting;
    say();
  }

  async function give(what, pressed) {
    say();
    controls.disabled = true;
    outcome.textContent = "Sending ...";
    try {
      outcome.textContent = OUTCOMES[await about.send({ id: about.id, index: 0, ...what })];
      editor?.rest?.();
      outcome.focus(); // the button that was pressed rests
    } catch (error) {
      outcome.textContent = "";
      controls.disabled = false;
      pressed.focus();
      const kept = what.correction ? " What you corrected is still here." : "";
      say(element("p", {}, (REFUSALS[error.status] ?? "It could not be recorded.") + kept), ...about.refused(error));
    }
  }

  turn(false);
  return element("div", { class: "correctable" }, given, controls, problem, outcome);
}

/** One label for the whole. */
function labelEditor(items, { labels }) {
  const field = labelField("Right label", labels, items[0].label);
  const read = () => (field.value ? { correction: { label: field.value } } : { missing: "Type the label, or choose one." });
  return { nodes: [element("p", { class: "tools" }, element("span", { "aria-hidden": "true" }, "Right label"), field.node)], read, focus: () => field.node.firstChild.focus() };
}

/** Any number of labels for the whole. */
function labelsEditor(items, { labels, say }) {
  const chosen = new Set(items.filter(reached).map((item) => item.label));
  const ticks = element("div", { class: "ticks", role: "group", "aria-label": "Right labels" });
  const boxes = () => [...ticks.querySelectorAll("input")];
  const tick = (label) => {
    const box = element("input", { type: "checkbox", value: label });
    box.checked = chosen.has(label);
    ticks.append(element("label", {}, box, element("bdi", {}, label)));
  };
  labels.forEach(tick);
  const other = element("input", { "aria-label": "Another label", placeholder: "another label", autocomplete: "off", spellcheck: "false", dir: "auto" });
  const add = () => {
    const label = other.value.trim();
    if (!label) return say("Type the label that is to be added.");
    chosen.add(label);
    const known = boxes().find((box) => box.value === label);
    if (known) known.checked = true;
    else tick(label);
    other.value = "";
    say();
  };
  other.addEventListener("keydown", (event) => event.key === "Enter" && !event.isComposing && add());
  return {
    nodes: [ticks, element("p", { class: "tools" }, other, button("Add label", {}, add))],
    read: () => ({ correction: { labels: boxes().filter((box) => box.checked).map((box) => box.value) } }),
    focus: () => (boxes()[0] ?? other).focus(),
  };
}

const EDITORS = { spans: spanEditor, answers: answerEditor, label: labelEditor, labels: labelsEditor };
