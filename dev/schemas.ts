import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import { failureSchema } from '../src/queue/failure.ts';
import { payloadSchema } from '../src/queue/payload-schema.ts';
import { appliedLayerSchema, progressSchema, waitingSchema } from '../src/queue/progress-schema.ts';
import { resultSchema } from '../src/queue/result-schema.ts';
import { schemaFiles } from '../src/queue/schemas.ts';
import { recordSchema } from '../src/queue/worker-record.ts';
import { formatTypes } from './format-types.ts';

/**
 * Writes what is generated from the schemas in `src/queue`: `schemas/*.schema.json`, and the types in `src/queue/formats.ts`. `npm
 * run schemas` runs it. With `--check` it writes nothing, and exits with 1 if a file is not current.
 */
const root = join(import.meta.dirname, '..');

const HEAD = `/**
 * The formats of the jobs, as types. \`npm run schemas\` makes this file from the schemas beside it, so change the schemas, not this
 * file. The JSON Schemas in \`schemas/\` are made from the same.
 */
`;

/** Path in the repository → what the file must contain. */
function generatedFiles(): Record<string, string> {
  const type = (name: string, about: string, schema: z.ZodType) => ({ name, about, schema: jsonSchema(schema) });
  const types = formatTypes([
    type(
      'Payload',
      'The payload of a job, version 1. `checkPayload` knows the rules between its fields.',
      payloadSchema,
    ),
    type('UnpackResult', 'The result of a completed job, version 1. It is the `returnvalue` of the job.', resultSchema),
    type('Failure', 'The failure of an attempt, version 1. The progress of the job contains it.', failureSchema),
    type('WaitingFor', 'What a parked job waits for.', waitingSchema),
    type('AppliedLayer', 'A layer that an attempt applied before its job was given back.', appliedLayerSchema),
    type('WorkerRecord', 'What a running worker tells about itself, version 1.', recordSchema),
    type(
      'Progress',
      'The progress of a job, version 1. Workers write it while the job runs, and when it ends.',
      progressSchema,
    ),
  ]);
  const schemas = Object.entries(schemaFiles()).map(([name, schema]) => [
    `schemas/${name}`,
    `${JSON.stringify(schema, null, 2)}\n`,
  ]);
  return { ...Object.fromEntries(schemas), 'src/queue/formats.ts': `${HEAD}\n${types}` };
}

function jsonSchema(schema: z.ZodType): object {
  return z.toJSONSchema(schema, { target: 'draft-2020-12', io: 'input' });
}

/** The paths of the files that differ from the schemas. */
export async function outdatedFiles(): Promise<string[]> {
  const outdated: string[] = [];
  for (const [path, text] of Object.entries(generatedFiles())) {
    const stored = await readFile(join(root, path), 'utf8').catch(() => '');
    if (stored !== text) outdated.push(path);
  }
  return outdated;
}

if (import.meta.main) {
  if (process.argv.includes('--check')) {
    const outdated = await outdatedFiles();
    for (const path of outdated) process.stderr.write(`${path} is not current: run npm run schemas\n`);
    process.exitCode = outdated.length === 0 ? 0 : 1;
  } else {
    for (const [path, text] of Object.entries(generatedFiles())) await writeFile(join(root, path), text);
  }
}
