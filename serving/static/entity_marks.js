// Marks an entity in the text of a textarea: <e1>...</e1> around what is selected.

/** The text with what stands between `start` and `end` marked as an entity, the marks that it had before removed. */
export function marked(text, start, end, name) {
  const marks = new RegExp(`</?${name}>`, "g");
  const [before, inside, after] = [text.slice(0, start), text.slice(start, end), text.slice(end)].map((part) => part.replace(marks, ""));
  return `${before}<${name}>${inside}</${name}>${after}`;
}

/** Makes a button mark what is selected in a textarea; `changed` is told. */
export function marksSelection(button, area, name, changed) {
  button.addEventListener("click", () => {
    if (area.selectionStart === area.selectionEnd) return area.focus();
    area.value = marked(area.value, area.selectionStart, area.selectionEnd, name);
    area.focus();
    changed();
  });
}
