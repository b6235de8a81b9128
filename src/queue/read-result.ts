import { resultSchema, type UnpackResult } from './result-schema.ts';

/**
 * The result of a completed job as another process wrote it, with what a newer version has added.
 * @returns the result, or what is wrong, as a sentence
 */
export function readResult(jobId: string, returnvalue: unknown): UnpackResult | string {
  const parsed = resultSchema.safeParse(returnvalue);
  // the schema has just been matched; parsed.data is without the fields that it does not know
  if (parsed.success) return returnvalue as UnpackResult;
  const version: unknown =
    typeof returnvalue === 'object' && returnvalue !== null ? Reflect.get(returnvalue, 'version') : undefined;
  if (typeof version === 'number' && version > 1) {
    return `job ${jobId} is completed, and its result has version ${version}, where this program knows version 1: update it`;
  }
  const [issue] = parsed.error.issues;
  const where =
    issue === undefined || issue.path.length === 0 ? '' : ` (${issue.path.join('.').slice(0, 200)} is wrong)`;
  return `job ${jobId} is completed, but what it returned is no result${where}: was it another program that took it from this queue? Look at it in the board`;
}

/** What there is to say of a job whose fields are not JSON. They are not quoted: nobody knows what they hold. */
export function unreadableJob(jobId: string): string {
  return `what Redis holds of job ${jobId} is not what BullMQ writes: remove the job, and add it again if it is wanted`;
}
