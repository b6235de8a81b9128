const PLAIN = /^[\x20-\x7e]*$/;

/**
 * The same text with escapes for control and format characters: they could move the cursor of a terminal, change colours or
 * reverse the direction of a line. The command line, the board and the charts show texts of others with it.
 */
export function printable(text: string): string {
  if (PLAIN.test(text)) return text;
  return text.replace(
    /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu,
    (character) => `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`,
  );
}
