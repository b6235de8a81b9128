/** Texts of others (references, keys, labels) on a terminal: how wide they are, and how they are cut. `printable` makes them harmless first. */

/** Characters that take two columns: East Asian wide and full-width ones, and emoji (Unicode, UAX #11). */
const WIDE =
  /^(?:\p{Emoji_Presentation}|[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1f300}-\u{1faff}\u{20000}-\u{3fffd}])/u;
/** Marks that are drawn over the character before them. */
const MARKS = /^\p{M}+$/u;
const PLAIN = /^[\x20-\x7e]*$/;

let segmenter: Intl.Segmenter | undefined;

/** How many columns of a terminal a printable text takes. */
export function textWidth(text: string): number {
  if (PLAIN.test(text)) return text.length;
  return characters(text).reduce((sum, character) => sum + widthOf(character), 0);
}

/** The text, or as much of it as takes at most `width` columns, with `…` for what was cut out at its end or in its middle. */
export function cutText(text: string, width: number, where: 'end' | 'middle' = 'end'): string {
  if (textWidth(text) <= width) return text;
  const all = characters(text);
  const room = Math.max(0, width - 1);
  const start = fitting(all, where === 'end' ? room : Math.ceil(room / 2));
  if (where === 'end') return `${start.join('')}…`;
  const end = fitting(all.reverse(), Math.floor(room / 2)).reverse();
  return `${start.join('')}…${end.join('')}`;
}

/** The first characters that fit into `room`. */
function fitting(all: readonly string[], room: number): string[] {
  const found: string[] = [];
  let width = 0;
  for (const character of all) {
    width += widthOf(character);
    if (width > room) break;
    found.push(character);
  }
  return found;
}

function widthOf(character: string): number {
  return MARKS.test(character) ? 0 : WIDE.test(character) ? 2 : 1;
}

/** What people take for one character can be several code points. */
function characters(text: string): string[] {
  if (PLAIN.test(text)) return [...text];
  segmenter ??= new Intl.Segmenter('en', { granularity: 'grapheme' });
  return [...segmenter.segment(text)].map(({ segment }) => segment);
}
