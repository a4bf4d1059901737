// Makes elements. Text comes in as text alone, never as markup.

/** An element with attributes and children; children that are strings become text. Absent ones (null, undefined) are left out. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

/** Rows of a description list from [term, description] pairs. */
export function descriptions(pairs) {
  const rows = pairs.map(([term, told]) => element("div", {}, element("dt", {}, term), element("dd", {}, told)));
  return element("dl", {}, rows);
}

/** Numbers with their thousands apart. */
export const numbers = new Intl.NumberFormat("en");

/** A number and its noun. */
export function counted(number, noun) {
  return `${numbers.format(number)} ${number === 1 ? noun : `${noun}s`}`;
}

/** A button. */
export function button(name, attributes, pressed) {
  const made = element("button", { type: "button", ...attributes }, name);
  made.addEventListener("click", pressed);
  return made;
}

/** A select of labels, with a field for one that is not among them: its `node` and its `value`. `name` is what assistive technology calls it. */
export function labelField(name, labels, chosen, changed = () => {}) {
  const options = [...labels.map((label) => element("option", { value: label }, label)), element("option", { value: "" }, "another label ...")];
  const select = element("select", { "aria-label": name }, options);
  const other = element("input", { "aria-label": `${name}: another label`, placeholder: "another label", autocomplete: "off", spellcheck: "false", dir: "auto" });
  select.value = labels.includes(chosen) ? chosen : "";
  other.value = select.value ? "" : chosen;
  other.hidden = Boolean(select.value);
  const value = () => select.value || other.value.trim();
  select.addEventListener("change", () => {
    other.hidden = Boolean(select.value);
    changed(value());
  });
  other.addEventListener("input", () => changed(value())); // at "change" what is shown would move under the mouse that presses a button
  return { node: element("span", { class: "label-field" }, select, other), get value() { return value(); } };
}
