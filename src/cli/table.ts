import { cutText, printable, textWidth } from './terminal-text.ts';

/** Tables of the command line, which fit into the width of a terminal. */

export interface Column {
  readonly title: string;
  readonly align?: 'right';
  /**
   * Where a text is cut if the terminal is too narrow: at its end, or in its middle, because both ends matter. A column
   * without it is never cut.
   */
  readonly cut?: 'end' | 'middle';
  /** The width that a cut column keeps as long as another column can be cut; default 8. */
  readonly least?: number;
}

export type Cell = string | number;

/** Between two columns. */
const GAP = '  ';
const LEAST = 8;
/** One character, the mark of the cut, and one more. */
const NARROWEST = 3;

/** The lines of a table: rows under their titles. @param width of the terminal; `undefined`: nothing is cut */
export function table(
  columns: readonly (Column | string)[],
  rows: readonly (readonly Cell[])[],
  width?: number,
): string[] {
  const defined = columns.map((column) => (typeof column === 'string' ? { title: column } : column));
  const lines = [defined.map(({ title }) => title), ...rows.map((row) => row.map((cell) => printable(String(cell))))];
  const natural = defined.map((_, index) =>
    lines.reduce((widest, line) => Math.max(widest, textWidth(line[index] ?? '')), 0),
  );
  const widths = width === undefined ? natural : fitted(natural, defined, width - GAP.length * (defined.length - 1));
  return lines.map((line) => {
    const cells = defined.map(({ align, cut }: Column, index) => {
      const space = widths[index] ?? 0;
      const text = cutText(line[index] ?? '', space, cut);
      const padding = ' '.repeat(space - textWidth(text));
      return align === 'right' ? padding + text : text + padding;
    });
    const whole = cells.join(GAP).trimEnd();
    return width === undefined ? whole : cutText(whole, width);
  });
}

/** Makes the widest column that may be cut narrower by one, until all fit into `room` or none can be cut. */
function fitted(natural: readonly number[], columns: readonly Column[], room: number): number[] {
  const widths = [...natural];
  let over = widths.reduce((sum, width) => sum + width, 0) - room;
  for (const least of [(column: Column) => column.least ?? LEAST, () => NARROWEST]) {
    for (; over > 0; over -= 1) {
      const widest = widestOf(widths, (index) => {
        const column = columns[index];
        return column?.cut !== undefined && (widths[index] ?? 0) > least(column);
      });
      if (widest === undefined) break;
      widths[widest] = (widths[widest] ?? 0) - 1;
    }
  }
  return widths;
}

function widestOf(widths: readonly number[], may: (index: number) => boolean): number | undefined {
  let widest: number | undefined;
  widths.forEach((width, index) => {
    if (may(index) && (widest === undefined || width > (widths[widest] ?? 0))) widest = index;
  });
  return widest;
}
