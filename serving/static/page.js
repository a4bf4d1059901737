// Wires the page: what is typed, clicked and pressed goes to the agent; what comes back is shown.

import { card, explain, feedback, predict, Refusal, write } from "./agent.js";
import { cardOf, plain, purpose } from "./card.js";
import { correctable } from "./correction.js";
import { counted, element, numbers } from "./elements.js";
import { marksSelection } from "./entity_marks.js";
import { explained } from "./explanation.js";
import { Palette } from "./palette.js";
import { answered, itemsOf, refused, writing } from "./result.js";

const at = (id) => document.getElementById(id);
const palette = new Palette();
let key = ""; // in memory only
let info = null; // the agent's card
let running = null; // the AbortController of the request under way
let explaining = null; // that of the explanation under way

/** Loads the card; says whether it could. */
async function loadCard() {
  try {
    info = await card(key);
    palette.learn(info.labels);
    at("name").textContent = info.agent;
    document.title = `${info.agent} · bert-agent`;
    at("purpose").textContent = purpose(info);
    at("second").hidden = info.inputs.length < 2;
    const other = plain(info.inputs[answers() ? 0 : 1] ?? "");
    at("second-name").textContent = other.charAt(0).toUpperCase() + other.slice(1);
    if (info.mask && !at("text").value) at("text").value = `Anna Berg flew from Oslo to ${info.mask}.`;
    if (answers() && !at("text-pair").value) at("text-pair").value = "Who is mentioned?";
    at("marking").hidden = !relates();
    at("candidates").hidden = !info.parameters.includes("candidate_labels");
    at("strategies").hidden = !info.parameters.includes("aggregation_strategy");
    at("card").replaceChildren(...cardOf(info, palette));
    showCount();
    return true;
  } catch (error) {
    at("card").replaceChildren(element("div", { class: "refusal" }, refusedOrThrow(error)));
    return false;
  }
}

async function ask() {
  running?.abort(); // the latest one counts
  const text = at("text").value;
  const mine = begin();
  const asked = { inputs: inputs(text), parameters: parameters() };
  try {
    const told = (there) => running === mine && at("answer").replaceChildren(writing(there));
    const how = { parameters: asked.parameters, key, signal: mine.signal, told };
    const { answer, id, milliseconds } = await (info?.streams ? write : predict)(asked.inputs, how);
    const why = info?.explains ? (item) => tellWhy(asked, item) : null;
    const { summary, nodes } = answered(text, answer, { palette, picture: info?.picture, why });
    const shown = info?.correction && id ? [correctable(nodes, { ...about(asked, itemsOf(answer)), text, items: itemsOf(answer), id })] : nodes;
    if (running === mine) end(`${summary} · ${counted([...text].length, "character")} · ${milliseconds.toFixed(0)} ms there and back`, shown);
  } catch (error) {
    if (running !== mine) return;
    if (mine.signal.aborted) end("Cancelled.");
    else end("", [], refusedOrThrow(error));
  }
}

/** What it takes to correct an answer to what was asked; classes that the request brought itself are no labels of the agent, and triples are judged as a whole. */
function about({ parameters }, items) {
  const whole = parameters?.candidate_labels || (info.picture === "triples" && items[0]?.label === undefined);
  const kind = whole ? null : info.correction;
  return { kind, labels: info.labels, palette, send: (given) => feedback(given, key), refused: refusedOrThrow };
}

/** Asks why an item stands in an answer, and shows it below the answer. */
async function tellWhy(asked, item) {
  explaining?.abort();
  const mine = (explaining = new AbortController());
  const label = item.entity_group ?? item.entity ?? item.label;
  showWhy(label, item.word, [element("p", { class: "quiet" }, "Working ...")]);
  at("why").scrollIntoView({ block: "nearest" });
  const { top_k: _, ...rest } = asked.parameters ?? {};
  const chosen = { ...rest, labels: [label], ...(item.start === undefined ? {} : { start: item.start }) };
  try {
    const found = await explain(asked.inputs, { parameters: chosen, key, signal: mine.signal });
    const texts = typeof asked.inputs === "string" ? { "": asked.inputs } : asked.inputs;
    if (explaining === mine) showWhy(label, item.word, explained(texts, found));
  } catch (error) {
    if (explaining === mine && !mine.signal.aborted) showWhy(label, item.word, [element("div", { class: "refusal" }, refusedOrThrow(error))]);
  }
}

function showWhy(label, word, nodes) {
  at("why-title").textContent = word === undefined ? `Why ${label}?` : `Why ${label}: “${word}”?`;
  at("why-nodes").replaceChildren(...nodes);
  at("why").hidden = false;
}

/** The names that somebody typed, one a line. */
function candidates() {
  if (at("candidates").hidden) return [];
  return [...new Set(at("candidate-labels").value.split("\n").map((line) => line.trim()).filter(Boolean))];
}

/** Whether answers are words of the text, and the other text of an input is a question. */
const answers = () => info?.picture === "answers";

/** Whether the agent says how two marked entities are related. */
const relates = () => info?.task === "relation_extraction";

/** What is asked about: the text, or an object of the texts of one input. */
function inputs(text) {
  if (at("second").hidden || candidates().length) return text;
  const [first, second] = answers() ? [at("text-pair").value, text] : [text, at("text-pair").value];
  return { [info.inputs[0]]: first, [info.inputs[1]]: second };
}

/** How the agent is to answer. */
function parameters() {
  if (candidates().length) return { candidate_labels: candidates() };
  if (answers()) return { top_k: 3 };
  if (!at("strategies").hidden) return { aggregation_strategy: at("strategy").value };
  return info?.picture === "ranking" && info.labels.length ? { top_k: info.labels.length } : null;
}

function begin() {
  explaining?.abort();
  explaining = null;
  at("why").hidden = true;
  running = new AbortController();
  at("submit").textContent = "Working ...";
  at("submit").setAttribute("aria-disabled", "true"); // not `disabled`, which would take the focus away
  at("cancel").hidden = false;
  at("refusal").hidden = true;
  at("status").textContent = "Working ...";
  return running;
}

function end(status, answer = [], refusal = []) {
  running = null;
  at("submit").textContent = "Analyse";
  at("submit").removeAttribute("aria-disabled");
  if (document.activeElement === at("cancel")) at("submit").focus();
  at("cancel").hidden = true;
  at("status").textContent = status;
  at("answer").replaceChildren(...answer);
  at("refusal").replaceChildren(...refusal);
  at("refusal").hidden = !refusal.length;
}

function refusedOrThrow(error) {
  if (!(error instanceof Refusal)) {
    end("The page failed; see the browser's console.");
    throw error;
  }
  if (error.wantsKey) at("access").open = true;
  return refused(error);
}

function showCount() {
  const most = info ? ` (at most ${numbers.format(info.limits.max_characters)})` : "";
  at("count").textContent = counted([...at("text").value].length, "character") + most;
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running) ask();
});
at("cancel").addEventListener("click", () => running?.abort());
at("text").addEventListener("input", showCount);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") (running ?? explaining)?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target === at("text")) at("ask").requestSubmit();
});
for (const example of document.querySelectorAll(".examples button")) {
  example.addEventListener("click", () => {
    at("text").value = example.value;
    showCount();
    if (!relates() || info.picture === "triples") ask();
  });
}
for (const name of ["e1", "e2"]) marksSelection(at(`mark-${name}`), at("text"), name, showCount);
at("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  key = at("key").value;
  at("key-status").textContent = "Asking ...";
  at("key-status").textContent = (await loadCard()) ? "In use." : "The card cannot be loaded with it; the reason stands above.";
});

showCount();
loadCard();
