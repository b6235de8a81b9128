import { isUtf8 } from 'node:buffer';
import { plain, UnpackError } from '../errors.ts';

/**
 * Reads the JSON documents of registries as containerd does, with the rules of Go's `encoding/json`:
 *
 * - The case of letters in the names of fields does not matter. Two spellings with different values are refused.
 * - `null` is the same as a missing field.
 * - Bytes that are not UTF-8 become U+FFFD.
 *
 * A field that only describes the content is read more leniently than in Go: if a media type is a number, it is ignored.
 * Each deviation in a field that is used becomes one sentence in `warnings`, for the author of the document. Other fields
 * are not checked.
 */

/** Maximum number of characters of a quotation in a message. */
const MAX_QUOTE = 60;

/** A document that is being read: its name for messages, and the warnings so far. */
export class JsonReading {
  /** Names the document in messages: `document sha256:… of s3://mirror`. */
  readonly what: string;
  readonly warnings: string[] = [];

  constructor(what: string) {
    this.what = what;
  }

  /** @param sentence for example `os is missing; treated as linux` */
  warn(sentence: string): void {
    this.warnings.push(plain(`${this.what}: ${sentence}`));
  }

  wrong(sentence: string, cause?: unknown): UnpackError {
    return new UnpackError('MANIFEST_INVALID', `${this.what} is wrong: ${sentence}`, { cause });
  }

  /** The error for a field with another value than expected. */
  unexpected(path: string, expected: string, value: unknown): UnpackError {
    const field = path === '' ? 'it' : path;
    return this.wrong(
      value === undefined ? `${field} is missing` : `${field} must be ${expected}, and is ${shown(value)}`,
    );
  }
}

/**
 * Parses JSON. The depth needs no limit, because V8 parses without recursion and the callers read only known fields. If a
 * name occurs twice, the last one counts, as in Go.
 * @throws UnpackError MANIFEST_INVALID
 */
export function readJson(bytes: Uint8Array, reading: JsonReading): unknown {
  const text = new TextDecoder().decode(bytes); // removes a byte order mark
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw reading.wrong(text === '' ? 'it is empty' : `it is not JSON, and begins with ${shown(text)}`, cause);
  }
  if (bytes[0] === 0xef) reading.warn('it begins with a byte order mark, which was ignored');
  if (!isUtf8(bytes)) reading.warn('it has bytes that are not UTF-8; treated as U+FFFD');
  return value;
}

/** Parses JSON, without warnings. @throws UnpackError MANIFEST_INVALID */
export function parseJson(bytes: Uint8Array, what: string): unknown {
  return readJson(bytes, new JsonReading(what));
}

/** The fields of one JSON object. */
export class JsonFields {
  readonly reading: JsonReading;
  readonly #path: string;
  readonly #values = new Map<string, unknown>();

  /**
   * @param value should be an object
   * @param names the fields that are read, as their specification spells them
   * @param path of the object in its document; empty for the document itself
   * @throws UnpackError MANIFEST_INVALID if `value` is no object, or has one field twice with different values
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
        throw reading.wrong(`${this.path(name)} occurs in two spellings with different values`);
      }
      this.#values.set(name, one);
      if (key !== name) reading.warn(`${this.path(key)} is treated as ${JSON.stringify(name)}`);
    }
  }

  path(name: string): string {
    if (!/^\w+$/.test(name)) return `${this.#path}[${JSON.stringify(name)}]`;
    return this.#path === '' ? name : `${this.#path}.${name}`;
  }

  /** Whether the field exists. Also true for `null`. */
  has(name: string): boolean {
    return this.#values.has(name);
  }

  /** The value; `undefined` if the field is missing or `null`. */
  get(name: string): unknown {
    return this.#values.get(name) ?? undefined;
  }

  unexpected(name: string, expected: string): UnpackError {
    return this.reading.unexpected(this.path(name), expected, this.#values.get(name));
  }

  /** A text that only describes the content. Another type is ignored with a warning. */
  label(name: string): string | undefined {
    const value = this.get(name);
    if (value === undefined || typeof value === 'string') return value;
    this.reading.warn(`${this.path(name)} is ${shown(value)}, which was ignored`);
    return undefined;
  }

  /** A list; empty, with a warning, if it is missing. @throws UnpackError MANIFEST_INVALID if it is no list */
  list(name: string): readonly unknown[] {
    const value = this.get(name);
    if (Array.isArray(value)) return value;
    if (value !== undefined) throw this.unexpected(name, 'a list');
    const found = this.has(name) ? 'null' : 'missing';
    this.reading.warn(`${this.path(name)} is ${found}; treated as an empty list`);
    return [];
  }
}

/** The names of fields, by their lower-case form. */
export type FieldNames = ReadonlyMap<string, string>;

export function fieldNames(...names: readonly string[]): FieldNames {
  return new Map(names.map((name) => [folded(name), name]));
}

/** The form in which Go compares names: lower case, U+017F is an s and U+212A a k. */
function folded(name: string): string {
  return name.toLowerCase().replaceAll('\u017f', 's');
}

/** A value for a message. */
export function shown(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object') return 'an object';
  const text = JSON.stringify(value) ?? String(value);
  return text.length > MAX_QUOTE ? `${text.slice(0, MAX_QUOTE - 1)}…` : text;
}
