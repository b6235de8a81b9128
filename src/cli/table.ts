export type Cell = string | number;

/** Rows under their titles; the columns named in `right` are aligned there. */
export function columns(
  titles: readonly string[],
  rows: readonly (readonly Cell[])[],
  right: readonly string[] = [],
): string[] {
  const lines = [titles, ...rows];
  const widths = titles.map((_, column) => Math.max(...lines.map((line) => String(line[column] ?? '').length)));
  return lines.map((line) =>
    titles
      .map((title, column) => {
        const text = String(line[column] ?? '');
        const width = widths[column] ?? 0;
        return right.includes(title) ? text.padStart(width) : text.padEnd(width);
      })
      .join('  ')
      .trimEnd(),
  );
}
