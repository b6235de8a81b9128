import * as z from 'zod';
import { failureSchema } from './failure.ts';

/** What another process wrote is drawn as bars and dates, which take no other numbers. */
const count = z.number().min(0);
/** Milliseconds since 1970, up to the last day that a date can be. */
const moment = z.number().min(0).max(8.64e15);

/** What a job waits for that has given its slot back. */
const waitingSchema = z.object({
  /** The layer that another process has locked. */
  chainId: z.string(),
  /** Who has it; absent where the lock does not tell. */
  holder: z
    .object({
      pid: z.number(),
      host: z.string(),
      worker: z.string().optional(),
      job: z.string().optional(),
      since: z.string(),
    })
    .optional(),
  /** When the attempt began, less the time in which it was due and no worker took it; milliseconds, as the next. */
  started: moment,
  /** When it first gave its slot back, and when it is looked at again at the latest. */
  since: moment,
  until: moment,
  /** How often it has given its slot back. */
  times: count,
  /** Its place among the jobs that come back. */
  place: z.number(),
});

export type WaitingFor = z.infer<typeof waitingSchema>;

/** A layer that an attempt has applied before it gave its job back; what a result says of it. */
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
 * A job's `progress`, version 1. It is written while the job runs and stays when it ends, with the failure if there was
 * one. Layers name only their chain ID: the object goes into Redis up to four times a second.
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
  /** Bytes of blobs that have arrived in this attempt, of all in layers that were not there. */
  bytesFetched: count,
  bytesTotal: count,
  /** Bytes of tar that have been unpacked in this attempt. */
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
  /** Why the last attempt failed; absent while the first one runs and after success. */
  failure: failureSchema.optional(),
  /** Every failed attempt, oldest first; the newest twenty. */
  failures: z.array(failureSchema),
  /** Stalls that an earlier STALLED failure has counted already; a retry by hand starts from here. */
  stallsBefore: count,
  /** While the job waits, delayed, for a layer that another process has locked. */
  waiting: waitingSchema.optional(),
  /** How often the job went back without an attempt being counted, because its worker's store could not be written. */
  storeFaults: count.optional(),
  /** Layers that this attempt has applied before it gave the job back: they count as applied in its result. */
  applied: z.array(appliedLayerSchema).optional(),
});

export type Progress = z.infer<typeof progressSchema>;

/** The progress of a job as another process wrote it; `undefined` for none (BullMQ's default is the number 0). */
export function readProgress(progress: unknown): Progress | undefined {
  // most jobs that are taken have none, and a refusal costs as much as all else that is read of them
  return typeof progress === 'object' ? progressSchema.safeParse(progress).data : undefined;
}
