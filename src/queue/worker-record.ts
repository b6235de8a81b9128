import * as z from 'zod';

const count = z.number().min(0);

/** The record of a running worker in Redis (`worker-presence.ts`), version 1. Within a version fields are only added. */
export const recordSchema = z.object({
  version: z.literal(1),
  name: z.string().meta({ description: 'UNPACK_WORKER_NAME.' }),
  host: z.string(),
  pid: z.number(),
  program: z.string().optional().meta({ description: 'The version of unpackd.' }),
  started: z.number().min(0).max(8.64e15).meta({ description: 'When the worker started, in milliseconds since 1970.' }),
  state: z.enum(['ready', 'faulty', 'closing']).meta({
    description: '`faulty`: the store cannot be written, so the worker takes no jobs. `closing`: it shuts down.',
  }),
  problem: z.string().optional().meta({ description: 'Why the store cannot be written, in one sentence.' }),
  store: z.object({
    identity: z
      .string()
      .optional()
      .meta({ description: 'Workers with the same identity share one store. Absent if it is not known.' }),
    root: z.string().meta({ description: 'The folder of the store.' }),
    snapshotter: z.string().meta({ description: 'How its snapshots are kept: `overlay` or `native`.' }),
    containerd: z.object({ namespace: z.string(), snapshotter: z.string() }).optional(),
  }),
  disk: z
    .object({ bytes: count, totalBytes: count, inodes: count.optional(), totalInodes: count.optional() })
    .optional()
    .meta({
      description:
        'Space of the disk with the store. Inodes are absent on file systems without a fixed number of them.',
    }),
  slots: count.meta({ description: 'UNPACK_JOBS.' }),
  lock: count.meta({ description: 'UNPACK_LOCK in milliseconds.' }),
  running: count.meta({ description: 'The number of running jobs.' }),
  jobs: z
    .array(
      z.object({
        id: z.string(),
        image: z.string().optional(),
        phase: z.enum(['resolving', 'unpacking']),
        since: z
          .number()
          .min(0)
          .max(8.64e15)
          .meta({ description: 'When this worker took the job, in milliseconds since 1970.' }),
      }),
    )
    .meta({ description: 'The running jobs that started first, at most 32.' }),
});
