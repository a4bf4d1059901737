// Where entities lie in a text. Knows nothing of the page.

/** UTF-16 index of every code point, and of the end: the server counts code points, JavaScript's strings UTF-16 units. */
export function utf16Offsets(text) {
  const offsets = [0];
  let index = 0;
  for (const character of text) offsets.push((index += character.length));
  return offsets;
}

/** The code points that hold some UTF-16 units: half of a surrogate pair counts as all of it. */
export function codePoints(text, { start, end }) {
  const offsets = utf16Offsets(text);
  return { start: offsets.findLastIndex((offset) => offset <= start), end: offsets.findIndex((offset) => offset >= end) };
}

/** The characters of an item, which counts code points. */
export function wordOf(text, { start, end }) {
  const offsets = utf16Offsets(text);
  return text.slice(offsets[start], offsets[end]);
}

/**
 * Cuts a text at its entities into pieces {text, item}, in order; `item` is absent between entities.
 * Entities that overlap an earlier one, or that lie outside the text, cannot be marked: they come back as `unmarked`.
 */
export function cut(text, items) {
  const offsets = utf16Offsets(text);
  const pieces = [];
  const unmarked = [];
  let done = 0;
  for (const item of items.toSorted((one, other) => one.start - other.start || other.end - one.end)) {
    const [start, end] = [offsets[item.start], offsets[item.end]];
    if (!(done <= start && start < end)) {
      unmarked.push(item);
      continue;
    }
    if (done < start) pieces.push({ text: text.slice(done, start) });
    pieces.push({ text: text.slice(start, end), item });
    done = end;
  }
  if (done < text.length) pieces.push({ text: text.slice(done) });
  return { pieces, unmarked };
}
