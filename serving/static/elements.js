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
