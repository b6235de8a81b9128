import { SnapshotError } from '../snapshots/snapshotter.ts';

/**
 * containerd's filter language (its package `filters`), in which it asks for snapshots:
 *
 *     filter    = selector { "," selector }              all of them must match
 *     selector  = field { "." field } [ operator value ] without an operator: the field is there
 *     field     = [A-Za-z0-9_]+ | quoted
 *     operator  = "==" | "!=" | "~="                     ~= is a regular expression, which may match a part
 *     value     = a word without space or comma | quoted
 *     quoted    = "…", with the escapes of Go; after ~= also /…/ and |…|
 *
 * Of several filters, one must match. No filter, or an empty one, matches everything.
 */

/** The value of a field of what is filtered; `undefined` if it is not there. */
export type FieldReader = (path: readonly string[]) => string | undefined;

export interface Filter {
  readonly matches: (read: FieldReader) => boolean;
  /** The value that a field must have; `undefined` if several are possible, or it is not known. */
  readonly required: (field: string) => string | undefined;
}

/** @throws SnapshotError InvalidArgument for a filter that does not follow the language */
export function parseFilters(filters: readonly string[]): Filter {
  const alternatives = filters.map((filter) => (filter === '' ? [] : new Parser(filter).selectors()));
  const [first = [], second] = alternatives;
  return {
    matches: (read) =>
      alternatives.length === 0 || alternatives.some((selectors) => selectors.every(({ matches }) => matches(read))),
    required: (field) =>
      second === undefined ? first.find(({ path }) => path.length === 1 && path[0] === field)?.value : undefined,
  };
}

interface Selector {
  readonly path: readonly string[];
  readonly matches: (read: FieldReader) => boolean;
  /** The value that the field must have, if it is one. */
  readonly value?: string;
}

type Token =
  | {
      readonly type: 'quoted' | 'value' | 'field' | 'separator' | 'operator';
      readonly text: string;
      readonly at: number;
    }
  | { readonly type: 'end'; readonly text: ''; readonly at: number };

const QUOTES = new Set(['"', '/', '|']);
const OPERATOR = /[=!~]/;
const FIELD = /[A-Za-z0-9_]/;
const SPACE = /\s/u;
/** What Go calls graphic: letters, marks, numbers, punctuation and symbols. */
const VALUE = /[\p{L}\p{M}\p{N}\p{P}\p{S}]/u;

/** Reads one filter, from left to right. */
class Parser {
  readonly #filter: string;
  /** Its code points. */
  readonly #runes: readonly string[];
  #at = 0;
  /** Whether a value is next, which may have signs that a field may not have. */
  #isValue = false;

  constructor(filter: string) {
    this.#filter = filter;
    this.#runes = [...filter];
  }

  selectors(): Selector[] {
    const selectors = [this.#selector()];
    for (let rune = this.#peek(); rune !== undefined; rune = this.#peek()) {
      if (rune !== ',') throw this.#refused(this.#at, `${JSON.stringify(rune)} where a comma belongs`);
      this.#next();
      selectors.push(this.#selector());
    }
    return selectors;
  }

  #selector(): Selector {
    const path = [this.#field()];
    while (this.#peek() === '.') {
      this.#next();
      path.push(this.#field());
    }
    if (this.#peek() === ',' || this.#peek() === undefined)
      return { path, matches: (read) => read(path) !== undefined };
    const { type, text, at } = this.#next();
    if (type !== 'operator') throw this.#refused(at, 'no operator (==, != or ~=)');
    if (text === '==') return equal(path, this.#value());
    if (text === '!=') return different(path, this.#value());
    if (text === '~=') return matching(path, this.#value(true));
    throw this.#refused(at, `the unknown operator ${text}`);
  }

  #field(): string {
    const { type, text, at } = this.#next();
    if (type === 'field') return text;
    if (type === 'quoted') return this.#unquoted(text, at);
    throw this.#refused(at, 'no name of a field');
  }

  #value(isExpression = false): string {
    const { type, text, at } = this.#next();
    if (type === 'value' || type === 'field') return text;
    if (type === 'quoted') return this.#unquoted(text, at, isExpression);
    throw this.#refused(at, 'no value');
  }

  #peek(): string | undefined {
    return this.#runes[this.#at];
  }

  #next(): Token {
    while (SPACE.test(this.#peek() ?? '')) this.#at += 1;
    const at = this.#at;
    const rune = this.#peek();
    if (rune === undefined) return { type: 'end', text: '', at };
    if (QUOTES.has(rune)) return { type: 'quoted', text: this.#quoted(rune), at };
    this.#at += 1;
    if (rune === ',' || rune === '.') {
      this.#isValue = false;
      return { type: 'separator', text: rune, at };
    }
    if (OPERATOR.test(rune)) {
      this.#isValue = true;
      return { type: 'operator', text: this.#while(at, (next) => OPERATOR.test(next)), at };
    }
    if (this.#isValue && VALUE.test(rune)) {
      this.#isValue = false;
      return { type: 'value', text: this.#while(at, (next) => next !== ',' && VALUE.test(next)), at };
    }
    if (FIELD.test(rune)) return { type: 'field', text: this.#while(at, (next) => FIELD.test(next)), at };
    throw this.#refused(at, `${JSON.stringify(rune)}, which needs quotes`);
  }

  /** The text from `from` to the first rune that does not fit. */
  #while(from: number, fits: (rune: string) => boolean): string {
    for (let next = this.#peek(); next !== undefined && fits(next); next = this.#peek()) this.#at += 1;
    return this.#runes.slice(from, this.#at).join('');
  }

  /** A text in quotes, with its quotes and escapes. */
  #quoted(quote: string): string {
    const from = this.#at;
    for (this.#at += 1; this.#peek() !== quote; this.#at += 1) {
      if (this.#peek() === '\\') this.#at += 1;
      if (this.#peek() === undefined || this.#peek() === '\n') throw this.#refused(from, 'a quote without its end');
    }
    this.#at += 1;
    return this.#runes.slice(from, this.#at).join('');
  }

  #unquoted(quoted: string, at: number, isExpression = false): string {
    const quote = quoted[0] ?? '';
    if (quote !== '"' && !isExpression) throw this.#refused(at, `the quote ${quote}, which only ~= may have`);
    const text = unescaped(quoted.slice(1, -1), quote);
    if (text === undefined) throw this.#refused(at, 'an escape that Go does not know');
    return text;
  }

  #refused(at: number, what: string): SnapshotError {
    const place = `character ${at + 1} of the filter ${JSON.stringify(this.#filter)}`;
    return new SnapshotError('InvalidArgument', `${place} is wrong: it has ${what}`);
  }
}

const equal = (path: readonly string[], value: string): Selector => ({
  path,
  matches: (read) => read(path) === value,
  value,
});

/** An absent field is different from every value but the empty one, as in containerd. */
const different = (path: readonly string[], value: string): Selector => ({
  path,
  matches: (read) => (read(path) ?? '') !== value,
});

/** An expression that cannot be compiled matches nothing, as in containerd. */
function matching(path: readonly string[], value: string): Selector {
  const expression = compile(value, 'u') ?? compile(value, '');
  return { path, matches: (read) => expression?.test(read(path) ?? '') === true };
}

/** Compiles an expression of Go, which has the flags `(?i)` at its beginning and names groups with `(?P<name>`. */
function compile(value: string, flags: 'u' | ''): RegExp | undefined {
  const [whole = '', own = ''] = /^\(\?([ims]+)\)/.exec(value) ?? [];
  try {
    return new RegExp(value.slice(whole.length).replaceAll('(?P<', '(?<'), `${flags}${own}`);
  } catch {
    return undefined;
  }
}

/** An escape of Go's strings: one sign, three octal digits, or two, four or eight hexadecimal ones. */
const ESCAPE =
  /\\(?:(?<octal>[0-7]{3})|x(?<byte>[0-9A-Fa-f]{2})|u(?<short>[0-9A-Fa-f]{4})|U(?<long>[0-9A-Fa-f]{8})|(?<sign>.))/suy;
const SIGNS: Readonly<Record<string, string>> = {
  a: '\x07',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
  v: '\v',
  '\\': '\\',
};
const MAX_BYTE = 0xff;
const MAX_RUNE = 0x10ffff;

/** @returns the text without escapes; `undefined` if one is not Go's */
function unescaped(text: string, quote: string): string | undefined {
  const parts: Buffer[] = [];
  for (let at = 0; at < text.length; ) {
    const end = text.indexOf('\\', at);
    if (end !== at) {
      parts.push(Buffer.from(text.slice(at, end === -1 ? text.length : end)));
      at = end === -1 ? text.length : end;
      continue;
    }
    ESCAPE.lastIndex = at;
    const match = ESCAPE.exec(text);
    const part = match === null ? undefined : partOf(match.groups ?? {}, quote);
    if (part === undefined) return undefined;
    parts.push(part);
    at = ESCAPE.lastIndex;
  }
  return Buffer.concat(parts).toString();
}

/** The bytes of one escape. Octal and \x escapes are bytes, which together can be a character. */
function partOf(groups: Readonly<Record<string, string | undefined>>, quote: string): Buffer | undefined {
  const { octal, byte, short, long, sign } = groups;
  if (octal !== undefined || byte !== undefined) {
    const value = octal === undefined ? Number.parseInt(byte ?? '', 16) : Number.parseInt(octal, 8);
    return value > MAX_BYTE ? undefined : Buffer.from([value]);
  }
  const rune = short ?? long;
  if (rune !== undefined) {
    const value = Number.parseInt(rune, 16);
    return value > MAX_RUNE ? undefined : Buffer.from(String.fromCodePoint(value));
  }
  const text = sign === quote ? quote : SIGNS[sign ?? ''];
  return text === undefined ? undefined : Buffer.from(text);
}
