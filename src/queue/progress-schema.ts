import * as z from 'zod';
import { failureSchema } from './failure.ts';
import type { Progress } from './formats.ts';

/**
 * Progress bars and dates need numbers in these ranges. The ranges are checked, because other programs can also write the
 * progress.
 */
const count = z.number().min(0);
/** Milliseconds since 1970, up to the maximum of a JavaScript date. */
const moment = z.number().min(0).max(8.64e15);

/** What a parked job waits for. */
export const waitingSchema = z.object({
  chainId: z.string().meta({ description: 'The layer that another process has locked.' }),
  holder: z
    .object({
      pid: z.number(),
      host: z.string(),
      worker: z.string().optional(),
      job: z.string().optional(),
      since: z.string(),
    })
    .optional()
    .meta({ description: 'The process that holds the lock; absent if it is not known.' }),
  started: moment.meta({
    description:
      'The start of the attempt in milliseconds since 1970. Time in which the job was due but no worker took it does not count.',
  }),
  since: moment.meta({ description: 'When the job was first parked, in milliseconds since 1970.' }),
  until: moment.meta({ description: 'The latest time of the next run, in milliseconds since 1970.' }),
  times: count.meta({ description: 'How often the job was parked.' }),
  place: z.number().meta({ description: 'The place of the job among parked jobs.' }),
});

/** A layer that an attempt applied before its job was given back, with the fields of the result. */
export const appliedLayerSchema = z.object({
  chainId: z.string(),
  uncompressedBytes: z.number(),
  entries: z.number(),
  timings: z
    .object({ fetchMs: z.number(), decompressMs: z.number(), writeMs: z.number(), totalMs: z.number() })
    .optional(),
});

const layerProgressSchema = z.object({
  chainId: z.string().meta({ description: 'The name of the snapshot that the layer becomes.' }),
  phase: z.enum(['queued', 'waiting', 'applying', 'committing', 'applied', 'existed']),
  step: z.enum(['fetching', 'writing', 'below']).optional().meta({
    description:
      'What is done for a layer that is `queued` or `applying`. `fetching`: bytes of the blob arrive and are written. `writing`: all bytes have arrived. `below`: the layer waits for the layer below.',
  }),
  size: count.meta({ description: 'The size of the blob in bytes.' }),
  fetched: count.meta({ description: 'The number of bytes of the blob that were fetched.' }),
  unpacked: count.meta({ description: 'The number of bytes of the tar that were unpacked.' }),
});

/**
 * The `progress` of a job, version 1. Workers write it while the job runs. It stays when the job completes or fails, and then
 * includes the last failure. Layers have few fields, because the object is written up to four times a second.
 */
export const progressSchema = z
  .object({
    version: z.literal(1),
    phase: z
      .enum(['resolving', 'unpacking', 'completed', 'failed'])
      .meta({ description: '`resolving` until the layers are known.' }),
    attempt: count.meta({ description: 'The attempt that wrote this, counted from 1.' }),
    attempts: count.meta({ description: 'The attempts that the job has.' }),
    worker: z.string().meta({ description: 'The name of the worker (UNPACK_WORKER_NAME).' }),
    lock: count.optional().meta({
      description:
        'For how many milliseconds the worker locks the job (UNPACK_LOCK). It renews the lock after half this time.',
    }),
    layersDone: count.meta({ description: 'The number of layers that are in the store.' }),
    layersTotal: count,
    bytesFetched: count.meta({ description: 'The number of bytes of blobs that this attempt has fetched.' }),
    bytesTotal: count.meta({ description: 'The number of bytes that this attempt must fetch for the missing layers.' }),
    bytesUnpacked: count.meta({ description: 'The number of bytes of tars that this attempt has unpacked.' }),
    images: z
      .array(
        z.object({
          platform: z.string().optional(),
          manifestDigest: z.string().optional(),
          chainId: z.string().optional().meta({ description: 'Absent for an image without layers.' }),
          layers: z.array(layerProgressSchema).meta({ description: 'The layers, bottom-most first.' }),
        }),
      )
      .meta({ description: 'One image for each platform; empty until the layers are known.' }),
    failure: failureSchema
      .optional()
      .meta({ description: 'The failure of the last attempt; absent during the first attempt and after success.' }),
    failures: z.array(failureSchema).meta({ description: 'The last twenty failed attempts, oldest first.' }),
    stallsBefore: count.meta({
      description:
        'The number of stalls before the last STALLED failure. After a retry by hand only later stalls count.',
    }),
    waiting: waitingSchema
      .optional()
      .meta({ description: 'Present while the job is parked because another process has locked a layer.' }),
    storeFaults: count.optional().meta({
      description:
        'How often the job was given back, without counting an attempt, because the store of its worker could not be written.',
    }),
    applied: z.array(appliedLayerSchema).optional().meta({
      description:
        'The layers that this attempt applied before the job was given back. They count as applied in the result.',
    }),
  })
  .meta({ title: 'Progress of an unpack job' });

/** Reads the progress of a job from Redis; `undefined` if there is none (BullMQ's default is the number 0) or it is invalid. */
export function readProgress(progress: unknown): Progress | undefined {
  // most new jobs have no progress, and a failed check of the schema is slow
  return typeof progress === 'object' ? progressSchema.safeParse(progress).data : undefined;
}
