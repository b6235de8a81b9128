import * as z from 'zod';

const milliseconds = (description: string) =>
  z
    .number()
    .min(0)
    .meta({ description: `${description}, in milliseconds.` });
const bytes = (description: string) => z.number().int().min(0).meta({ description });

const layerResultSchema = z.object({
  diffId: z.string().meta({ description: 'Digest of the uncompressed tar.' }),
  chainId: z
    .string()
    .meta({ description: "Digest of this layer and everything below it: the snapshot's name in the store." }),
  blobDigest: z.string().meta({ description: 'Digest of the blob as stored.' }),
  state: z.enum(['applied', 'existed']).meta({ description: '`existed`: nothing was fetched or written for it.' }),
  compressedBytes: bytes('Bytes of the blob as stored.'),
  uncompressedBytes: bytes('Bytes of the tar; absent for a layer that existed.').optional(),
  entries: bytes('Entries of the tar; absent for a layer that existed.').optional(),
  timings: z
    .object({
      fetchMs: milliseconds('Waiting for the network'),
      decompressMs: milliseconds('Waiting for the decompressor'),
      writeMs: milliseconds('Writing files'),
      totalMs: milliseconds("From the start of the layer's work to its end"),
    })
    .optional()
    .meta({ description: 'Where the time went; absent for a layer that existed.' }),
  timeline: z
    .object({
      queuedMs: milliseconds('The image was resolved'),
      startedMs: milliseconds('A thread began with the layer'),
      unpackedMs: milliseconds('Its last entry was written'),
      committingMs: milliseconds('The layers below were there; it is made durable and committed'),
      committedMs: milliseconds('It was committed'),
      samples: z
        .array(z.tuple([z.number(), z.number(), z.number(), z.number(), z.number()]).readonly())
        .readonly()
        .meta({
          description:
            'How it went from startedMs to unpackedMs: moment in milliseconds, bytes of the blob, bytes of the tar, milliseconds waited for the network, milliseconds for the decompressor; all since the start.',
        }),
    })
    .optional()
    .meta({
      description:
        'When the layer was where, in milliseconds since its image was asked for; absent for a layer that existed. `unpackd status JOB --timeline FILE.svg` draws it.',
    }),
});

/** What a completed job returns, version 1: its `returnvalue`. */
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
              "Chain ID of the top layer: the snapshot to run the image's container on. Absent for an image without layers, which has no snapshot.",
          }),
          layers: z
            .array(layerResultSchema)
            .meta({ description: 'Bottom-most first; empty for an image without layers.' }),
        }),
      )
      .meta({ description: 'One for each platform.' }),
    worker: z.object({
      name: z.string().meta({ description: 'As in the board; UNPACK_WORKER_NAME.' }),
      host: z.string().meta({ description: 'Host name of the machine that has the snapshots now.' }),
    }),
    store: z.object({
      root: z.string().meta({ description: 'The store on that machine.' }),
      snapshotter: z.enum(['overlay', 'native']),
    }),
    startedAt: z.iso.datetime().meta({ description: 'Start of the attempt that completed.' }),
    durationMs: milliseconds('Time that this attempt took'),
    attempts: z.number().int().min(1).meta({ description: 'Attempts that were made, this one included.' }),
    warnings: z.array(z.string()).meta({
      description:
        'What was left out and why, and what the documents of the image say otherwise than they should and what they were taken for: one sentence each. A second job for the image says the same of its documents.',
    }),
  })
  .meta({ title: 'Result of an unpack job' });

export type UnpackResult = z.infer<typeof resultSchema>;

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
