import * as z from 'zod';
import { failureSchema } from './failure.ts';

/**
 * A job's `progress`, version 1. It is written while the job runs and stays when it ends, with the failure if there was
 * one. Layers name only their chain ID: the object goes into Redis up to four times a second.
 */
export const progressSchema = z.object({
  version: z.literal(1),
  /** `resolving` until the layers are known. */
  phase: z.enum(['resolving', 'unpacking', 'completed', 'failed']),
  attempt: z.number(),
  attempts: z.number(),
  worker: z.string(),
  layersDone: z.number(),
  layersTotal: z.number(),
  /** Bytes of blobs that have arrived in this attempt, of all in layers that were not there. */
  bytesFetched: z.number(),
  bytesTotal: z.number(),
  /** Bytes of tar that have been unpacked in this attempt. */
  bytesUnpacked: z.number(),
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
          size: z.number(),
          fetched: z.number(),
          unpacked: z.number(),
        }),
      ),
    }),
  ),
  /** Why the last attempt failed; absent while the first one runs and after success. */
  failure: failureSchema.optional(),
  /** Every failed attempt, oldest first; the newest twenty. */
  failures: z.array(failureSchema),
  /** Stalls that an earlier STALLED failure has counted already; a retry by hand starts from here. */
  stallsBefore: z.number(),
});

export type Progress = z.infer<typeof progressSchema>;

/** The progress of a job as another process wrote it; `undefined` for none (BullMQ's default is the number 0). */
export function readProgress(progress: unknown): Progress | undefined {
  // most jobs that are taken have none, and a refusal costs as much as all else that is read of them
  return typeof progress === 'object' ? progressSchema.safeParse(progress).data : undefined;
}
