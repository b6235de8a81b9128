/** Maximum names in one message. */
const SHOWN = 10;

/**
 * Lists names for a message: `a, b, c`, or the first ten and the number of the others.
 * @param meant an unknown name, for example a misspelt tag; the most similar names then come first
 */
export function listed(names: readonly string[], meant?: string): string {
  const ordered =
    meant === undefined || names.length <= SHOWN
      ? names
      : names
          .map((name) => ({ name, distance: editDistance(name, meant) }))
          .sort((one, other) => one.distance - other.distance)
          .map(({ name }) => name);
  const more = names.length - SHOWN;
  return ordered.slice(0, SHOWN).join(', ') + (more > 0 ? `, and ${more} more` : '');
}

/** Maximum characters that are compared, because the time grows with the square of the length. */
const COMPARED = 128;

/** The edit distance (Levenshtein): characters to add, remove or replace to make one name from the other. */
export function editDistance(one: string, other: string): number {
  const [from, to] = [one.slice(0, COMPARED), other.slice(0, COMPARED)];
  let above = Array.from({ length: to.length + 1 }, (_, column) => column);
  for (let row = 1; row <= from.length; row += 1) {
    const line = [row];
    for (let column = 1; column <= to.length; column += 1) {
      const replaced = (above[column - 1] ?? 0) + (from[row - 1] === to[column - 1] ? 0 : 1);
      line.push(Math.min(replaced, (above[column] ?? 0) + 1, (line[column - 1] ?? 0) + 1));
    }
    above = line;
  }
  return above[to.length] ?? 0;
}
