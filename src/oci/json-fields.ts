import { isUtf8 } from 'node:buffer';
import { plain, UnpackError } from '../errors.ts';

/**
 * JSON documents of registries, read as Go's `encoding/json` reads them, because that is what containerd makes of them:
 *
 * - a name counts in any case, unless the document has two spellings with different values
 * - `null` is the same as nothing
 * - bytes that are no UTF-8 become U+FFFD
 *
 * And more leniently than Go in what only labels: a media type that is a number, say, is as good as none. Every deviation
 * that mattered is one sentence in `warnings`, so that who made the document learns of it. Fields that nobody reads are
 * not looked at.
 */

/** Longest piece of a document that is quoted. */
const MAX_QUOTE = 60;

/** What is read, and what it says otherwise than it should. */
export class JsonReading {
  /** Names the document in sentences: `document sha256:… of s3://mirror`. */
  readonly what: string;
  readonly warnings: string[] = [];

  constructor(what: string) {
    this.what = what;
  }

  /** `the field is so; it was taken for this` */
  warn(sentence: string): void {
    this.warnings.push(plain(`${this.what}: ${sentence}`));
  }

  wrong(sentence: string, cause?: unknown): UnpackError {
    return new UnpackError('MANIFEST_INVALID', `${this.what} is wrong: ${sentence}`, { cause });
  }

  /** `path` is not what is expected there. */
  unexpected(path: string, expected: string, value: unknown): UnpackError {
    const field = path === '' ? 'it' : path;
    return this.wrong(
      value === undefined ? `${field} is missing` : `${field} must be ${expected}, and is ${shown(value)}`,
    );
  }
}

/**
 * JSON from bytes. Depth needs no bound of its own: V8 parses without recursion, and readers look no deeper than they
 * know. Of two equal names the last one counts, as in Go.
 * @throws UnpackError MANIFEST_INVALID
 */
export function readJson(bytes: Uint8Array, reading: JsonReading): unknown {
  const text = new TextDecoder().decode(bytes); // leaves out a byte order mark
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw reading.wrong(text === '' ? 'it is empty' : `it is not JSON, and begins with ${shown(text)}`, cause);
  }
  if (bytes[0] === 0xef) reading.warn('it begins with a byte order mark, which was left out');
  if (!isUtf8(bytes)) reading.warn('it has bytes that are no UTF-8, which were taken for U+FFFD');
  return value;
}

/** JSON from bytes, where deviations are of no interest. @throws UnpackError MANIFEST_INVALID */
export function parseJson(bytes: Uint8Array, what: string): unknown {
  return readJson(bytes, new JsonReading(what));
}

/** The fields of one JSON object. */
export class JsonFields {
  readonly reading: JsonReading;
  readonly #path: string;
  readonly #values = new Map<string, unknown>();

  /**
   * @param value what should be an object
   * @param names the fields that are read, as their specification writes them
   * @param path where the object is in its document; empty: it is the document
   * @throws UnpackError MANIFEST_INVALID when it is none, or has one field twice with different values
   */
  constructor(value: unknown, names: FieldNames, reading: JsonReading, path = '') {
    this.reading = reading;
    this.#path = path;
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw reading.unexpected(path, 'an object', value);
    }
    for (const [key, one] of Object.entries(value)) {
      const name = names.get(folded(key));
      if (name === undefined) continue;
      const earlier = this.#values.get(name);
      if (this.#values.has(name) && JSON.stringify(earlier) !== JSON.stringify(one)) {
        throw reading.wrong(`${this.path(name)} is there in two spellings with different values`);
      }
      this.#values.set(name, one);
      if (key !== name) reading.warn(`${this.path(key)} was taken for ${JSON.stringify(name)}`);
    }
  }

  path(name: string): string {
    if (!/^\w+$/.test(name)) return `${this.#path}[${JSON.stringify(name)}]`;
    return this.#path === '' ? name : `${this.#path}.${name}`;
  }

  /** Whether the field is there, if only as `null`. */
  has(name: string): boolean {
    return this.#values.has(name);
  }

  /** `undefined` for `null`, too. */
  get(name: string): unknown {
    return this.#values.get(name) ?? undefined;
  }

  unexpected(name: string, expected: string): UnpackError {
    return this.reading.unexpected(this.path(name), expected, this.#values.get(name));
  }

  /** Text that only labels: what is no text is as good as nothing, with a warning. */
  label(name: string): string | undefined {
    const value = this.get(name);
    if (value === undefined || typeof value === 'string') return value;
    this.reading.warn(`${this.path(name)} is ${shown(value)}, which was taken for nothing`);
    return undefined;
  }

  /** @throws UnpackError MANIFEST_INVALID when it is there and no list */
  list(name: string): readonly unknown[] {
    const value = this.get(name);
    if (Array.isArray(value)) return value;
    if (value !== undefined) throw this.unexpected(name, 'a list');
    const found = this.has(name) ? 'null' : 'missing';
    this.reading.warn(`${this.path(name)} is ${found}, which was taken for an empty list`);
    return [];
  }
}

/** By what they are in any case: the names of the fields that are read of an object. */
export type FieldNames = ReadonlyMap<string, string>;

export function fieldNames(...names: readonly string[]): FieldNames {
  return new Map(names.map((name) => [folded(name), name]));
}

/** As Go compares names: besides upper and lower case, U+017F is an s and U+212A a k. */
function folded(name: string): string {
  return name.toLowerCase().replaceAll('\u017f', 's');
}

/** A value in a sentence. */
export function shown(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object') return 'an object';
  const text = JSON.stringify(value) ?? String(value);
  return text.length > MAX_QUOTE ? `${text.slice(0, MAX_QUOTE - 1)}…` : text;
}
