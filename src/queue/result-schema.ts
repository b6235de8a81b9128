import * as z from 'zod';
import type { UnpackResult } from './formats.ts';

const milliseconds = (description: string) =>
  z
    .number()
    .min(0)
    .meta({ description: `${description}, in milliseconds.` });
const bytes = (description: string) => z.number().int().min(0).meta({ description });

const layerResultSchema = z.object({
  diffId: z.string().meta({ description: 'The DiffID: the digest of the uncompressed tar.' }),
  chainId: z
    .string()
    .meta({ description: 'The digest of this layer and all layers below it: the name of the snapshot in the store.' }),
  blobDigest: z.string().meta({ description: 'The digest of the stored blob.' }),
  state: z
    .enum(['applied', 'existed'])
    .meta({ description: '`existed`: the layer was in the store already, and nothing was fetched or written for it.' }),
  compressedBytes: bytes('The size of the stored blob in bytes.'),
  uncompressedBytes: bytes('The size of the tar in bytes; absent for a layer that existed.').optional(),
  entries: bytes('The number of entries of the tar; absent for a layer that existed.').optional(),
  timings: z
    .object({
      fetchMs: milliseconds('Waiting for the network'),
      decompressMs: milliseconds('Waiting for the decompressor'),
      writeMs: milliseconds('Writing files'),
      totalMs: milliseconds('The whole work on the layer in the apply thread'),
    })
    .optional()
    .meta({ description: 'The time of each part of the work; absent for a layer that existed.' }),
  timeline: z
    .object({
      queuedMs: milliseconds('When the image was resolved'),
      startedMs: milliseconds('When a thread started the layer'),
      unpackedMs: milliseconds('When the last entry was written'),
      committingMs: milliseconds('When the lower layers were committed, and the sync and commit of this layer began'),
      committedMs: milliseconds('When the layer was committed'),
      samples: z
        .array(z.tuple([z.number(), z.number(), z.number(), z.number(), z.number()]).readonly())
        .readonly()
        .meta({
          description:
            'The progress from startedMs to unpackedMs. Each sample has five numbers: the time in milliseconds, bytes of the blob, bytes of the tar, milliseconds waited for the network, milliseconds waited for the decompressor. The last four are totals since startedMs.',
        }),
    })
    .optional()
    .meta({
      description:
        'The times of the steps of the layer, in milliseconds since the lookup of the image began; absent for a layer that existed. `unpackd status JOB --timeline FILE.svg` draws it.',
    }),
});

const texts = (description: string) => z.array(z.string()).readonly().optional().meta({ description });

const configSchema = z
  .object({
    entrypoint: texts('The beginning of the command.'),
    cmd: texts('The rest of the command, or the whole of it without `entrypoint`.'),
    env: texts('Environment variables, `NAME=VALUE`.'),
    user: z.string().optional().meta({ description: 'User and group, by name or number: `USER[:GROUP]`.' }),
    workingDir: z.string().optional().meta({ description: 'The working directory.' }),
    labels: z.record(z.string(), z.string()).readonly().optional().meta({ description: 'The labels of the image.' }),
    exposedPorts: texts('Ports, `PORT[/PROTOCOL]`.'),
    volumes: texts('Paths of volumes.'),
    stopSignal: z.string().optional().meta({ description: 'The signal that stops the container.' }),
  })
  .optional()
  .meta({
    description:
      'How a container of the image runs, from the config of the image. Fields that are missing, empty or of another type there are absent. Above 32 KiB the labels are absent, or all fields. Absent for explicit layers, and in results of earlier versions.',
  });

const mountSchema = z.object({
  type: z.enum(['bind', 'overlay']),
  source: z.string().meta({ description: 'The directory to bind; `overlay` for an overlay.' }),
  options: z.array(z.string()).readonly().meta({ description: 'Options as for `mount -o`.' }),
});

/** The result of a completed job, version 1. It is the `returnvalue` of the job. */
export const resultSchema = z
  .object({
    version: z.literal(1),
    image: z.string().meta({ description: 'As in the payload.' }),
    images: z
      .array(
        z.object({
          platform: z
            .string()
            .optional()
            .meta({ description: 'os/architecture[/variant]; absent for explicit layers.' }),
          manifestDigest: z.string().optional().meta({ description: 'Absent for explicit layers.' }),
          configDigest: z.string().optional().meta({ description: 'Absent for explicit layers.' }),
          chainId: z.string().optional().meta({
            description:
              'The chain ID of the top layer: the name of the snapshot to run a container on. Absent for an image without layers, which has no snapshot.',
          }),
          durable: z.boolean().optional().meta({
            description:
              'Whether all layers were synced to disk before this result. `false`: the worker runs with UNPACK_DURABLE=false, and after a power cut, or on another mount of the store, a job unpacks the layers again. Absent in results of earlier versions.',
          }),
          names: z.array(z.string()).readonly().optional().meta({
            description:
              "The names of the image in containerd, the one from `image` first; the last is the digest of its config, by which the CRI service finds it. Absent for explicit layers, which have no image there, and for a store that is not containerd's.",
          }),
          config: configSchema,
          mounts: z.array(mountSchema).readonly().optional().meta({
            description:
              'What mounts the image read-only on that machine, in this order: `mount -t TYPE SOURCE FOLDER -o OPTIONS`. Empty for an image without layers; absent in results of earlier versions. The paths are valid until the snapshots are removed or unpacked again.',
          }),
          layers: z
            .array(layerResultSchema)
            .meta({ description: 'The layers, bottom-most first; empty for an image without layers.' }),
        }),
      )
      .meta({ description: 'One image for each platform.' }),
    worker: z.object({
      name: z.string().meta({ description: 'The name of the worker (UNPACK_WORKER_NAME), as in the board.' }),
      host: z.string().meta({ description: 'The host name of the machine that has the snapshots.' }),
    }),
    store: z.object({
      root: z.string().meta({ description: 'The folder of the store on that machine.' }),
      snapshotter: z.enum(['overlay', 'native']),
      containerd: z
        .object({
          namespace: z.string().meta({ description: 'The namespace with the images and snapshots.' }),
          snapshotter: z.string().meta({ description: 'The name of the snapshotter there, such as `overlayfs`.' }),
        })
        .optional()
        .meta({ description: "Where the image is in containerd. Absent if the store is not containerd's." }),
    }),
    startedAt: z.iso.datetime().meta({ description: 'The start of the attempt that completed.' }),
    durationMs: milliseconds('The duration of this attempt'),
    attempts: z.number().int().min(1).meta({ description: 'The number of attempts, including this one.' }),
    warnings: z.array(z.string()).meta({
      description:
        'One sentence for each thing that was left out, with the reason, and for each fault in the documents of the image, with what it was treated as. Every job for the image reports the same faults of its documents.',
    }),
  })
  .meta({ title: 'Result of an unpack job' });

/** Whether a completed job has returned a result of this version. */
export function isResult(returnvalue: unknown): returnvalue is UnpackResult {
  return resultSchema.safeParse(returnvalue).success;
}

/**
 * Reads the result of a completed job, which another process has written. Fields that a newer version has added stay.
 * @returns the result, or a sentence that says why it cannot be read
 */
export function readResult(jobId: string, returnvalue: unknown): UnpackResult | string {
  const parsed = resultSchema.safeParse(returnvalue);
  // the schema matches; parsed.data would lack unknown fields
  if (parsed.success) return returnvalue as UnpackResult;
  const version: unknown =
    typeof returnvalue === 'object' && returnvalue !== null ? Reflect.get(returnvalue, 'version') : undefined;
  if (typeof version === 'number' && version > 1) {
    return `job ${jobId} is completed, but its result has version ${version}, and this program supports only version 1: update this program`;
  }
  const [issue] = parsed.error.issues;
  const where =
    issue === undefined || issue.path.length === 0 ? '' : ` (${issue.path.join('.').slice(0, 200)} is wrong)`;
  return `job ${jobId} is completed, but its return value is not a result of unpackd${where}: check whether another program takes jobs from this queue, and look at the job in the board`;
}
