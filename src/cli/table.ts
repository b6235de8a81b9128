import { printable } from '../printable.ts';
import { cutText, textWidth } from './terminal-text.ts';

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
  const defined: Column[] = columns.map((column) => (typeof column === 'string' ? { title: column } : column));
  const lines = [defined.map(({ title }) => title), ...rows].map((row) => row.map(shownCell));
  const natural = defined.map((_, index) => lines.reduce((most, line) => Math.max(most, line[index]?.width ?? 0), 0));
  const widths = width === undefined ? natural : fitted(natural, defined, width - GAP.length * (defined.length - 1));
  return lines.map((line) => {
    const cells = defined.map((column, index) => fill(line[index] ?? EMPTY, widths[index] ?? 0, column));
    const whole = cells.join(GAP).trimEnd();
    return width === undefined ? whole : cutText(whole, width);
  });
}

/** A text, and how many columns of a terminal it takes. It is computed once, because it takes most of the time of a long table. */
interface ShownCell {
  readonly text: string;
  readonly width: number;
}

const EMPTY: ShownCell = { text: '', width: 0 };

function shownCell(cell: Cell): ShownCell {
  const text = printable(String(cell));
  return { text, width: textWidth(text) };
}

/** The text of a cell, cut or padded to the width of its column. */
function fill(cell: ShownCell, space: number, { align, cut }: Column): string {
  const { text, width } = cell.width <= space ? cell : shownCell(cutText(cell.text, space, cut));
  const padding = ' '.repeat(space - width);
  return align === 'right' ? padding + text : text + padding;
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
