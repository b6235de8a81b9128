import { readFileSync } from 'node:fs';
import * as z from 'zod';
import { errnoOf } from './errno.ts';
import { ConfigError } from './errors.ts';
import { httpUrl, line } from './setting-kinds.ts';
import { matchesBucket } from './source/bucket-endpoints.ts';

/** The file of UNPACK_S3_ENDPOINTS: which endpoint, region and credentials are for which buckets. */

const NO_SECRETS =
  'secrets do not belong into this file: write them into a profile of ~/.aws/credentials, and name it in "profile"';

const entry = z.strictObject({
  bucket: z
    .string({ error: 'write the name of a bucket, or a pattern such as mirror-*' })
    .regex(/^[A-Za-z0-9._*-]+$/, 'write the name of a bucket, or a pattern such as mirror-*'),
  endpoint: httpUrl.optional(),
  region: line.optional(),
  profile: line.optional(),
  pathStyle: z.boolean({ error: 'write true or false' }).optional(),
  requesterPays: z.boolean({ error: 'write true or false' }).optional(),
});
const format = z.strictObject({
  endpoints: z.array(entry, { error: 'write a list of entries' }).superRefine((entries, context) => {
    for (const [index, { bucket }] of entries.entries()) {
      const before = entries.slice(0, index).findIndex((earlier) => matchesBucket(earlier.bucket, bucket));
      const first = entries[before]?.bucket;
      if (first === undefined) continue;
      const message =
        first === bucket
          ? `${bucket} has entry ${before + 1} already: remove one of the two`
          : `this entry is never used, because entry ${before + 1} (${first}) matches the same buckets: put this entry before it`;
      context.addIssue({ code: 'custom', path: [index, 'bucket'], message });
    }
  }),
});

/** An entry: the settings of the buckets whose names match. */
export type EndpointEntry = z.output<typeof entry>;

/**
 * Reads the file. It is read once, when a program starts.
 * @throws ConfigError with a sentence for each fault: the file, the line or the entry and its field, and what to write
 */
export function readEndpoints(path: string): readonly EndpointEntry[] {
  const parsed = format.safeParse(documentOf(path));
  if (parsed.success) return parsed.data.endpoints;
  throw new ConfigError(parsed.error.issues.flatMap((issue) => sentencesOf(issue, path)).join('\n'));
}

function documentOf(path: string): unknown {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new ConfigError(
      `UNPACK_S3_ENDPOINTS=${path} can't be read (${errnoOf(error) ?? String(error)}): correct the path`,
    );
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    const message = error instanceof Error ? error.message : '';
    // the message of Node quotes the text, which can be a secret in the wrong place
    const at = /position (\d+)/.exec(message)?.[1];
    const number = text.slice(0, at === undefined ? text.length : Number(at)).split('\n').length;
    throw new ConfigError(`UNPACK_S3_ENDPOINTS=${path}, line ${number}: this is not JSON; correct the file`);
  }
}

function sentencesOf(issue: z.core.$ZodIssue, path: string): string[] {
  const [, index, field] = issue.path;
  const place = typeof index === 'number' ? `, entry ${index + 1}` : '';
  const where = (name: unknown) =>
    `UNPACK_S3_ENDPOINTS=${path}${place}${name === undefined ? '' : `, field ${JSON.stringify(name)}`}`;
  if (issue.code !== 'unrecognized_keys') {
    const sentence =
      place === '' ? 'write {"endpoints": [{"bucket": "mirror-*", "endpoint": "https://…"}]}' : issue.message;
    return [`${where(field)}: ${sentence}`];
  }
  return issue.keys.map((key) => {
    const known = Object.keys(place === '' ? format.shape : entry.shape).join(', ');
    return `${where(key)}: ${/key|secret|token|passw/i.test(key) ? NO_SECRETS : `there is no such field; the fields are ${known}`}`;
  });
}
