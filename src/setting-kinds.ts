import { resolve } from 'node:path';
import * as z from 'zod';
import { FREE_SPACE_SENTENCE, parseFreeSpace } from './collector/free-space.ts';
import { readRedisUrl } from './redis-address.ts';
import { parseBytes, parseDuration } from './units.ts';

/**
 * The kinds of values of settings, each with a sentence about what to write. `src/config.ts` uses them. Every number
 * has bounds, so that a value that a timer or a counter cannot hold is refused.
 */

/** A size in bytes between two limits, which are written as in a setting. */
export function bytes(least: string, most: string) {
  const sentence = `write a size from ${least} to ${most}, in bytes or with a unit, for example 512MiB`;
  return number(parseBytes, parseBytes(least), parseBytes(most), sentence);
}

/** An amount of free space: a share of the disk, or bytes. */
export const freeSpace = z.string().transform((text, context) => {
  const amount = parseFreeSpace(text);
  if (amount !== undefined) return amount;
  context.addIssue({ code: 'custom', message: FREE_SPACE_SENTENCE });
  return z.NEVER;
});

/**
 * A time in milliseconds between two limits, which are written as in a setting.
 * @param most at most 24 days, because the maximum of a timer is 24.8 days
 */
export function duration(least: string, most: string) {
  const sentence = `write a time from ${least} to ${most} with its unit (ms, s, m, h, d), for example 30s or 5m`;
  return number(parseDuration, parseDuration(least), parseDuration(most), sentence);
}

/** A whole number. */
export function count(least: number, most: number) {
  const parse = (text: string) => (/^\d+$/.test(text) ? Number(text) : Number.NaN);
  return number(parse, least, most, `write a whole number from ${least} to ${most}`);
}

export function oneOf<const T extends readonly [string, string, ...string[]]>(words: T) {
  const list = `${words.slice(0, -1).join(', ')} or ${words.at(-1)}`;
  return z.enum(words, { error: `write ${list}` });
}

export const flag = z
  .enum(['1', '0', 'true', 'false', 'yes', 'no', 'on', 'off'], { error: 'write true or false' })
  .transform((text) => ['1', 'true', 'yes', 'on'].includes(text));

/** Parts separated by commas. Empty parts are ignored. */
export const list = z.string().transform((text) =>
  text
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== ''),
);

// biome-ignore lint/suspicious/noControlCharactersInRegex: the expression matches control characters
const CONTROL = /[\u0000-\u001f\u007f]/;

/** Text of one line. */
export const line = checked((text) =>
  text === '' || CONTROL.test(text) ? 'write a text of one line that is not empty' : undefined,
);

/** A part of the names of Redis keys. A colon separates the parts. */
export const queueName = checked((text) =>
  text === '' || CONTROL.test(text) || text.includes(':') ? 'write a name without a colon' : undefined,
);

/** A name of containerd (pkg/identifiers). */
export const containerdName = checked((text) =>
  text.length <= 76 && /^[A-Za-z0-9]+([._-][A-Za-z0-9]+)*$/.test(text)
    ? undefined
    : 'write at most 76 letters and digits, with single dots, hyphens and underscores between them',
);

/** A path, which becomes absolute. */
export const path = checked((text) =>
  text === '' || text.includes('\0') ? 'write the path of a file or folder' : undefined,
).transform((text) => resolve(text));

export const redisUrl = checked((text) => {
  const address = readRedisUrl(text);
  return typeof address === 'string' ? address : undefined;
});

/** The URL of a server, without credentials and without a query. */
export const httpUrl = checked((text) => {
  const url = /^https?:\/\//i.test(text) ? URL.parse(text) : null;
  if (url === null) return 'write http://host:port or https://host';
  if (url.username !== '' || url.password !== '' || text.includes('@')) {
    return 'write http://host:port or https://host, without user and password: set S3 credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY';
  }
  return text.includes('?') || text.includes('#')
    ? 'write http://host:port or https://host, without ? and #'
    : undefined;
});

function checked(problemOf: (text: string) => string | undefined) {
  return z.string().superRefine((text, context) => {
    const problem = problemOf(text);
    if (problem !== undefined) context.addIssue({ code: 'custom', message: problem });
  });
}

function number(parse: (text: string) => number, least: number, most: number, sentence: string) {
  return z.string().transform((text, context) => {
    const value = parse(text);
    if (value >= least && value <= most) return value;
    context.addIssue({ code: 'custom', message: sentence });
    return z.NEVER;
  });
}
