import * as z from 'zod';
import { failureSchema } from './failure.ts';

/**
 * Progress bars and dates need numbers in these ranges. The ranges are checked, because other programs can also write the
 * progress.
 */
const count = z.number().min(0);
/** Milliseconds since 1970, up to the maximum of a JavaScript date. */
const moment = z.number().min(0).max(8.64e15);

/** What a parked job waits for. */
const waitingSchema = z.object({
  /** The layer that another process has locked. */
  chainId: z.string(),
  /** The process that holds the lock; absent if it is not known. */
  holder: z
    .object({
      pid: z.number(),
      host: z.string(),
      worker: z.string().optional(),
      job: z.string().optional(),
      since: z.string(),
    })
    .optional(),
  /** Start of the attempt in milliseconds since 1970. Time in which the job was due but no worker took it does not count. */
  started: moment,
  /** When the job was first parked, and the latest time of the next run; milliseconds since 1970. */
  since: moment,
  until: moment,
  /** How often the job was parked. */
  times: count,
  /** The place of the job among parked jobs. */
  place: z.number(),
});

export type WaitingFor = z.infer<typeof waitingSchema>;

/** A layer that an attempt applied before its job was given back, with the fields of the result. */
const appliedLayerSchema = z.object({
  chainId: z.string(),
  uncompressedBytes: z.number(),
  entries: z.number(),
  timings: z
    .object({ fetchMs: z.number(), decompressMs: z.number(), writeMs: z.number(), totalMs: z.number() })
    .optional(),
});

export type AppliedLayer = z.infer<typeof appliedLayerSchema>;

/**
 * The `progress` of a job, version 1. Workers write it while the job runs. It stays when the job completes or fails, and then
 * includes the last failure. Layers have few fields, because the object is written up to four times a second.
 */
export const progressSchema = z.object({
  version: z.literal(1),
  /** `resolving` until the layers are known. */
  phase: z.enum(['resolving', 'unpacking', 'completed', 'failed']),
  attempt: count,
  attempts: count,
  worker: z.string(),
  layersDone: count,
  layersTotal: count,
  /** Number of blob bytes that this attempt has fetched, and that it must fetch in total for the missing layers. */
  bytesFetched: count,
  bytesTotal: count,
  /** Number of tar bytes that this attempt has unpacked. */
  bytesUnpacked: count,
  images: z.array(
    z.object({
      platform: z.string().optional(),
      manifestDigest: z.string().optional(),
      /** Absent for an image without layers. */
      chainId: z.string().optional(),
      layers: z.array(
        z.object({
          chainId: z.string(),
          phase: z.enum(['queued', 'waiting', 'applying', 'committing', 'applied', 'existed']),
          size: count,
          fetched: count,
          unpacked: count,
        }),
      ),
    }),
  ),
  /** The failure of the last attempt; absent during the first attempt and after success. */
  failure: failureSchema.optional(),
  /** The last twenty failed attempts, oldest first. */
  failures: z.array(failureSchema),
  /** Number of stalls before the last STALLED failure. After a retry by hand only later stalls count. */
  stallsBefore: count,
  /** Present while the job is parked because another process has locked a layer. */
  waiting: waitingSchema.optional(),
  /** How often the job was given back, without counting an attempt, because the store of its worker could not be written. */
  storeFaults: count.optional(),
  /** Layers that this attempt applied before the job was given back. They count as applied in the result. */
  applied: z.array(appliedLayerSchema).optional(),
});

export type Progress = z.infer<typeof progressSchema>;

/** Reads the progress of a job from Redis; `undefined` if there is none (BullMQ's default is the number 0) or it is invalid. */
export function readProgress(progress: unknown): Progress | undefined {
  // most new jobs have no progress, and a failed check of the schema is slow
  return typeof progress === 'object' ? progressSchema.safeParse(progress).data : undefined;
}
