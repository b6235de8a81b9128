import * as z from 'zod';
import { FAILURE_CODES, type FailureCode, type FailureDetails, UnpackError } from '../errors.ts';
import type { Failure } from './formats.ts';

/** The failure of an attempt, version 1. The job's progress contains it, as `failure` and in `failures`. */
export const failureSchema = z
  .object({
    version: z.literal(1),
    code: z.enum(Object.keys(FAILURE_CODES) as [FailureCode, ...FailureCode[]]).meta({
      description: 'For programs. Within a version codes are only added.',
    }),
    message: z.string().meta({ description: 'For people, one sentence: what failed, where, and what to do.' }),
    layerIndex: z
      .number()
      .int()
      .min(0)
      .optional()
      .meta({ description: 'The layer that failed, counted from 0, bottom-most first.' }),
    layerCount: z.number().int().min(0).optional().meta({ description: 'The number of layers of its image.' }),
    digests: z
      .object({
        subject: z.string().optional().meta({ description: 'The blob, manifest or layer that failed.' }),
        expected: z.string().optional(),
        actual: z.string().optional(),
        chainId: z.string().optional(),
      })
      .meta({ description: 'The digests that are known. Each can be absent.' }),
    retryable: z.boolean().meta({
      description: 'Whether another attempt can succeed. The queue makes one while attempt < attempts.',
    }),
    attempt: z.number().int().min(1).meta({ description: 'The attempt that failed, counted from 1.' }),
    attempts: z.number().int().min(1).meta({ description: 'The attempts that the job has.' }),
    at: z.iso.datetime().meta({ description: 'The time of the failure.' }),
  })
  .meta({ title: 'Failure of an unpack job' });

/** Which attempt failed. */
export interface AttemptContext {
  readonly attempt: number;
  readonly attempts: number;
}

export function failureOf(error: UnpackError, context: AttemptContext, retryable: boolean): Failure {
  const { layerIndex, layerCount, digest, expected, actual, chainId } = error.details;
  return {
    version: 1,
    code: error.code,
    message: error.message,
    ...defined({ layerIndex, layerCount }),
    digests: defined({ subject: digest, expected, actual, chainId }),
    retryable,
    attempt: context.attempt,
    attempts: context.attempts,
    at: new Date().toISOString(),
  };
}

/** The error of a failure, for a process that reads it from Redis. */
export function errorOf(failure: Failure): UnpackError {
  const { layerIndex, layerCount } = failure;
  const { subject: digest, expected, actual, chainId } = failure.digests;
  const details: FailureDetails = defined({ layerIndex, layerCount, digest, expected, actual, chainId });
  return new UnpackError(failure.code, failure.message, { details });
}

/** `[CODE] sentence`: a job's `failedReason`. */
export function failedReason({ code, message }: { readonly code: FailureCode; readonly message: string }): string {
  return `[${code}] ${message}`;
}

/** The error of a `failedReason`, for a job without progress, or one that BullMQ itself has failed. */
export function errorFromReason(reason: string | undefined): UnpackError {
  const [, code, message] = /^\[([A-Z_]+)\] (.*)$/s.exec(reason ?? '') ?? [];
  if (code !== undefined && message !== undefined && isCode(code)) return new UnpackError(code, message);
  return new UnpackError(
    'INTERNAL',
    reason === undefined || reason === '' ? 'the job failed without a reason' : reason,
  );
}

function isCode(text: string): text is FailureCode {
  return Object.hasOwn(FAILURE_CODES, text);
}

/** Leaves out fields that are `undefined`. */
function defined<T extends object>(fields: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  // the type of fromEntries has no keys
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}
