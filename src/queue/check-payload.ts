import type * as z from 'zod';
import { UnpackError } from '../errors.ts';
import { editDistance } from '../oci/similar-names.ts';
import type { Payload } from './formats.ts';
import { payloadSchema } from './payload-schema.ts';

/** Maximum number of problems in a message. */
const SHOWN = 3;
/** Maximum number of characters that a message quotes from a payload. */
const MAX_QUOTE = 60;

/**
 * Checks the format of a payload. Producers call it before they add a job.
 * @throws UnpackError INVALID_JOB with one sentence: the paths of the first faults, and what is wrong there
 */
export function checkPayload(data: unknown): Payload {
  if (typeof data !== 'object' || data === null || Array.isArray(data)) {
    const kind = data === null ? 'null' : Array.isArray(data) ? 'a list' : `a ${typeof data}`;
    throw new UnpackError('INVALID_JOB', `the payload is ${kind}, not an object`);
  }
  const version: unknown = Reflect.get(data, 'version');
  if (typeof version === 'number' && version > 1) {
    // report only the version, not the many faults that follow from it
    throw new UnpackError(
      'INVALID_JOB',
      `the payload has version ${version}, but this worker supports only version 1: update the worker`,
    );
  }
  const parsed = payloadSchema.safeParse(data);
  if (!parsed.success)
    throw new UnpackError('INVALID_JOB', `the payload is wrong: ${problemSentence(parsed.error, data)}`);
  return parsed.data;
}

/**
 * What is wrong with a payload, in one sentence: the first three problems with their paths, and the number of the others.
 */
function problemSentence(error: z.ZodError, data: unknown): string {
  const problems = error.issues.flatMap((issue) => describe(issue, data));
  const shown = problems.slice(0, SHOWN).join('; ');
  const rest = problems.length - SHOWN;
  return rest > 0 ? `${shown}; and ${rest} more` : shown;
}

function describe(issue: z.core.$ZodIssue, data: unknown): string[] {
  const path = pathText(issue.path);
  const value = valueAt(data, issue.path);
  switch (issue.code) {
    case 'unrecognized_keys':
      return issue.keys.map((key) => unknownField(pathText([...issue.path, key]), key, issue.path));
    case 'invalid_type':
      return [
        value === undefined
          ? `${path} is missing`
          : `${path} must be ${typeName(issue.expected)}, not ${typeOf(value)}`,
      ];
    case 'invalid_value':
      // zod reports a missing literal or enum like this, too
      if (value === undefined) return [`${path} is missing`];
      return [`${path} must be ${issue.values.map((one) => JSON.stringify(one)).join(' or ')}, not ${quote(value)}`];
    case 'too_small':
    case 'too_big':
      return [`${path} ${typeof value === 'number' ? `(${value}) is out of range` : issue.message}`];
    case 'invalid_format':
      return [`${path} ${quote(value)} ${issue.message}`];
    case 'invalid_key':
      return [`${path} ${issue.issues[0]?.message ?? 'is not a valid key'}`];
    case 'invalid_union': {
      // report the branch with the same type as the value; if there is none, the message of the union
      const inner = issue.errors.find((branch) =>
        branch.every((one) => one.path.length > 0 || one.code === 'too_small'),
      );
      if (inner === undefined || inner.length === 0) return [`${path} ${issue.message}`];
      return inner.flatMap((one) => describe({ ...one, path: [...issue.path, ...one.path] }, data));
    }
    default:
      return [path === 'the payload' ? issue.message : `${path} ${issue.message}`];
  }
}

function unknownField(text: string, key: string, parent: readonly PropertyKey[]): string {
  if (CONNECTION_FIELD.test(key)) {
    return `${text} cannot be set by a job: endpoint, region and credentials are settings of the worker`;
  }
  const known = knownKeys(parent);
  const near =
    known.find((name) => name.toLowerCase() === key.toLowerCase()) ?? known.find((name) => closeTo(name, key));
  return `${text} is not a known field${near === undefined ? '' : `; did you mean ${near}?`}`;
}

const CONNECTION_FIELD =
  /^(endpoint|region|connection|credentials?|access_?key(_?id)?|secret(_?access_?key)?|(session_?)?token)$/i;

/** The fields that the schema has at a path through objects and lists. */
function knownKeys(path: readonly PropertyKey[]): string[] {
  let schema: unknown = payloadSchema;
  for (const step of path) {
    schema = unwrap(schema);
    const shape = field(schema, 'shape');
    schema =
      typeof step === 'number'
        ? field(schema, 'element')
        : shape === undefined
          ? undefined
          : field(shape, String(step));
  }
  const shape = field(unwrap(schema), 'shape');
  return typeof shape === 'object' && shape !== null ? Object.keys(shape) : [];
}

function unwrap(schema: unknown): unknown {
  const inner = field(schema, 'unwrap');
  // an array also has unwrap, which returns the schema of its elements
  if (typeof inner !== 'function' || field(schema, 'element') !== undefined) return schema;
  return unwrap(inner.call(schema));
}

function field(of: unknown, name: string): unknown {
  return typeof of === 'object' && of !== null ? Reflect.get(of, name) : undefined;
}

/** Whether two names differ by a typing error: one edit in a short name, two in a longer one. */
function closeTo(a: string, b: string): boolean {
  return editDistance(a, b) <= (Math.min(a.length, b.length) <= 4 ? 1 : 2);
}

function pathText(path: readonly PropertyKey[]): string {
  if (path.length === 0) return 'the payload';
  return path.reduce<string>((text, step) => {
    if (typeof step === 'number') return `${text}[${step}]`;
    const name = String(step);
    if (!/^\w+$/.test(name)) return `${text}[${quote(name)}]`;
    return text === '' ? name : `${text}.${name}`;
  }, '');
}

function valueAt(data: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>(
    (value, step) => (typeof value === 'object' && value !== null ? Reflect.get(value, step) : undefined),
    data,
  );
}

function typeOf(value: unknown): string {
  if (value === null) return 'null';
  return Array.isArray(value) ? 'a list' : typeName(typeof value);
}

function typeName(type: string): string {
  const names: Readonly<Record<string, string>> = {
    array: 'a list',
    record: 'an object',
    object: 'an object',
    int: 'a whole number',
  };
  return names[type] ?? `a ${type}`;
}

function quote(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > MAX_QUOTE ? `${text.slice(0, MAX_QUOTE - 1)}…` : text;
}
