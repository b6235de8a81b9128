/**
 * Parses the numbers of tar headers and PAX records, as Go's archive/tar does, because container engines read images
 * with archive/tar. `undefined` means malformed.
 */

const MAX_INT64 = 2n ** 63n - 1n;
const MIN_INT64 = -(2n ** 63n);
const MAX_DIGITS = 19;

/**
 * The octal number in `block`, at the offsets `from` (included) to `to` (excluded). If the first bit is set, the
 * number is in base 256 (GNU; two's complement, so negative numbers are possible). Takes offsets, because making a view
 * of each field would cost more than parsing it.
 */
export function parseNumeric(block: Buffer, from: number, to: number): bigint | number | undefined {
  const first = block[from] ?? 0;
  return (first & 0x80) === 0 ? parseOctal(block, from, to) : parseBase256(block.subarray(from, to), first);
}

function parseBase256(field: Buffer, first: number): bigint | undefined {
  const invert = (first & 0x40) === 0 ? 0 : 0xff;
  let value = 0n;
  for (let i = 0; i < field.length; i++) {
    let byte = (field[i] ?? 0) ^ invert;
    if (i === 0) byte &= 0x7f;
    value = (value << 8n) | BigInt(byte);
  }
  if (value > MAX_INT64) return undefined;
  return invert === 0 ? value : -value - 1n;
}

const isPadding = (byte: number | undefined): boolean => byte === 0x20 || byte === 0;

/** Octal digits in `block` from `from` up to `to`, with spaces and NULs around them. An empty field is 0. */
export function parseOctal(block: Buffer, from: number, to: number): number | undefined {
  let start = from;
  let end = to;
  while (start < end && isPadding(block[start])) start++;
  while (end > start && isPadding(block[end - 1])) end--;
  let value = 0;
  for (let i = start; i < end; i++) {
    const byte = block[i] ?? 0;
    if (byte === 0) return i === start ? undefined : value; // a C string ends at its first NUL
    if (byte < 0x30 || byte > 0x37) return undefined;
    value = value * 8 + (byte - 0x30);
  }
  // at most 12 digits: 36 bits, exact
  return value;
}

/** A decimal integer of 64 bits, with an optional sign and leading zeros. For PAX records. */
export function parseDecimal(text: string): bigint | undefined {
  const [, sign = '', digits] = /^([+-]?)0*([0-9]+)$/.exec(text) ?? [];
  if (digits === undefined || digits.length > MAX_DIGITS) return undefined;
  const value = sign === '-' ? -BigInt(digits) : BigInt(digits);
  return value > MAX_INT64 || value < MIN_INT64 ? undefined : value;
}

/** Seconds with an optional fraction (PAX time). Digits after the nanoseconds are ignored. */
export function parsePaxTime(text: string): { seconds: bigint; nanoseconds: number } | undefined {
  const dot = text.indexOf('.');
  const seconds = parseDecimal(dot < 0 ? text : text.slice(0, dot));
  if (seconds === undefined) return undefined;
  const fraction = dot < 0 ? '' : text.slice(dot + 1);
  if (fraction === '') return { seconds, nanoseconds: 0 };
  if (!/^[0-9]+$/.test(fraction)) return undefined;
  const nanoseconds = Number(fraction.slice(0, 9).padEnd(9, '0'));
  if (!text.startsWith('-') || nanoseconds === 0) return { seconds, nanoseconds };
  return { seconds: seconds - 1n, nanoseconds: 1_000_000_000 - nanoseconds };
}
