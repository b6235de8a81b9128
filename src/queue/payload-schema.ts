import * as z from 'zod';
import { MAX_REPOSITORY, REPOSITORY, repositoryOf, TAG } from '../oci/reference.ts';
import { LABEL_DIFF_ID, LABEL_SNAPSHOT_REF, MAX_LABEL_BYTES } from '../snapshots/snapshotter.ts';
import { BUCKET, MAX_KEY_BYTES } from '../source/bucket-layout.ts';

/**
 * The payload of a job, version 1. `schemas/payload.schema.json` is generated from this file, for producers in any language, so
 * the descriptions here are documentation. An unknown field is an error.
 *
 * A job contains only the name of a bucket. Endpoint, region and credentials are settings of the worker, so no job can make the
 * worker send its signature to another server.
 */

const DIGEST = /^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/;
// a control character would make the deduplication text ambiguous
// biome-ignore lint/suspicious/noControlCharactersInRegex: the expression matches control characters
const PLAIN = /^[^\u0000-\u001f\u007f]*$/;
// HTTP clients and proxies resolve `.` and `..`, so a key with these segments could lead out of the bucket
const NO_DOTS = /^(?!.*(?:^|\/)\.{1,2}(?:\/|$))/;
/** A tag of a registry, or a name in an OCI layout (org.opencontainers.image.ref.name), whose grammar allows more. */
const TAG_OR_NAME = /^[A-Za-z0-9_][A-Za-z0-9_.:@/+-]{0,254}$/;
const PLATFORM = /^[a-z0-9]+\/[a-z0-9_]+(\/[a-z0-9.]+)?$/;
/** Twice the number of layers that overlayfs can stack. A longer list is a mistake. */
const MAX_LAYERS = 1000;

const digest = z
  .string()
  .regex(DIGEST, 'is not a digest: write sha256: and 64, or sha512: and 128, lower-case hexadecimal digits');
const keyPart = (what: string) =>
  z
    .string()
    .max(MAX_KEY_BYTES, `is longer than the ${MAX_KEY_BYTES} bytes of an S3 key`)
    .regex(PLAIN, `has control characters, which ${what} must not have`)
    .regex(NO_DOTS, `has a path segment "." or "..", which ${what} must not have`);

const sourceSchema = z
  .strictObject({
    bucket: z.string().regex(BUCKET, 'is not a bucket name').meta({
      description:
        'The name of the bucket. Endpoint, region and credentials are settings of the worker. UNPACK_BUCKETS of the worker can limit the allowed buckets.',
    }),
    prefix: keyPart('a prefix').optional().meta({
      description: 'The folder in the bucket. Slashes at its ends are ignored. Default: the root of the bucket.',
    }),
    layout: z.enum(['oci', 'distribution', 'keys']).meta({
      description:
        '`oci`: an OCI image layout under the prefix. `distribution`: the layout of the S3 driver of CNCF Distribution (also Harbor), `docker/registry/v2/…` under the prefix. `keys`: blobs under keys that are made from `template`.',
    }),
    repository: z
      .string()
      .max(MAX_REPOSITORY, `is longer than ${MAX_REPOSITORY} characters`)
      .regex(REPOSITORY, 'is not a repository name')
      .optional()
      .meta({
        description:
          'For `distribution`: the repository of the tag. Default: `image` without registry host, tag and digest (`docker.io/library/alpine:3` gives `library/alpine`).',
      }),
    template: keyPart('a template')
      .regex(
        /^(?=.*\{hex\})(?:[^{}]|\{hex\}|\{algorithm\})*$/,
        'must contain {hex}, can also contain {algorithm}, and must not contain other braces',
      )
      .optional()
      .meta({
        description:
          'For `keys`: the key of a blob under the prefix, with `{hex}` and optionally `{algorithm}`, for example `blobs/{algorithm}/{hex}`.',
      }),
  })
  .meta({ description: 'The location of the blobs.' });

const layerSchema = z.strictObject({
  diff: z
    .strictObject({
      digest: digest.meta({ description: 'The DiffID: the digest of the uncompressed tar.' }),
      mediaType: z.string().optional().meta({ description: 'Not used; allowed because descriptors have it.' }),
      size: z.number().int().min(0).optional().meta({ description: 'Not used; allowed because descriptors have it.' }),
    })
    .meta({ description: 'The uncompressed layer.' }),
  blob: z
    .strictObject({
      mediaType: z.string().min(1, 'is empty').meta({
        description:
          'The media type of a layer. The compression is detected from the bytes of the blob, not from this field.',
      }),
      digest: digest.meta({ description: 'The digest of the stored blob.' }),
      size: z.number().int().min(0).meta({ description: 'The size of the stored blob in bytes.' }),
      annotations: z.record(z.string(), z.string()).optional().meta({ description: 'Not used.' }),
      urls: z.array(z.string()).optional().meta({ description: 'Never fetched from.' }),
    })
    .meta({ description: 'The stored blob of the layer: an OCI descriptor.' }),
});

const labelsSchema = z
  .record(z.string().min(1, 'has an empty key').regex(PLAIN, 'has control characters in its key'), z.string())
  .superRefine((labels, context) => {
    for (const [key, value] of Object.entries(labels)) {
      const problem = labelProblem(key, value);
      if (problem !== undefined) context.addIssue({ code: 'custom', path: [key], message: problem });
    }
  })
  .meta({
    description: `Labels of the snapshots that this job commits. A key and its value have at most ${MAX_LABEL_BYTES} bytes together (a rule of containerd).`,
  });

function labelProblem(key: string, value: string): string | undefined {
  const size = Buffer.byteLength(key) + Buffer.byteLength(value);
  if (size > MAX_LABEL_BYTES) return `has ${size} bytes of key and value; ${MAX_LABEL_BYTES} are allowed`;
  // protobuf, in which containerd gets them, has no other texts
  if (!key.isWellFormed() || !value.isWellFormed()) return 'has half of a surrogate pair, which is no Unicode text';
  if (key === LABEL_SNAPSHOT_REF || key === LABEL_DIFF_ID) return 'is set by the store and cannot be given';
  return undefined;
}

const TARGETS = ['manifest', 'tag', 'layers'] as const;

export const payloadSchema = z
  .strictObject({
    version: z.literal(1, 'must be 1').meta({ description: 'The version of this format.' }),
    image: z
      .string()
      .min(1, 'is empty')
      .max(4096, 'is longer than 4096 characters')
      .regex(PLAIN, 'has control characters')
      .meta({
        description:
          'The reference of the image at the mirror. It is recorded, and never fetched from. For a worker with UNPACK_SNAPSHOTTER=containerd it must be the name of an image: `[HOST/]REPOSITORY[:TAG][@DIGEST]`, which is the name of the image in containerd then.',
      }),
    source: sourceSchema,
    manifest: digest.optional().meta({ description: 'The digest of a manifest or an index.' }),
    tag: z.string().regex(TAG_OR_NAME, 'is not a tag').optional().meta({
      description:
        'A tag. The layout `keys` has none; in `oci` it is the annotation org.opencontainers.image.ref.name.',
    }),
    layers: z
      .array(layerSchema)
      .min(1, 'is empty')
      .max(MAX_LAYERS, `has more than ${MAX_LAYERS} layers`)
      .optional()
      .meta({
        description: 'The layers, bottom-most first. No manifest is read.',
      }),
    platforms: z
      .union(
        [
          z.literal('all'),
          z
            .array(z.string().regex(PLATFORM, 'is not a platform: write os/architecture or os/architecture/variant'))
            .min(1, 'is empty'),
        ],
        'must be "all" or a list of platforms such as ["linux/arm64/v8"]',
      )
      .optional()
      .meta({
        description:
          'The images to unpack, if an index has several or several images have the tag. If there is no exact match, an image for an older variant, or for a 32-bit architecture that the platform can run, is taken. `all`: every image; entries that are not images are left out. Default: the platform of the worker.',
      }),
    labels: labelsSchema.optional(),
  })
  .superRefine((payload, context) => {
    const given = TARGETS.filter((name) => payload[name] !== undefined);
    if (given.length !== 1) {
      const found = given.length === 0 ? 'none' : given.join(' and ');
      context.addIssue({
        code: 'custom',
        message: `exactly one of manifest, tag and layers is needed, but there is ${found}`,
      });
    }
    const { layout, template, repository } = payload.source;
    const wrong = (path: string[], message: string) => context.addIssue({ code: 'custom', path, message });
    if (layout === 'keys' && template === undefined) {
      wrong(['source', 'template'], 'is missing: layout "keys" needs it, for example "blobs/{algorithm}/{hex}"');
    }
    if (layout !== 'keys' && template !== undefined)
      wrong(['source', 'template'], 'is allowed only with layout "keys"');
    if (layout !== 'distribution' && repository !== undefined) {
      wrong(['source', 'repository'], 'is allowed only with layout "distribution"');
    }
    if (payload.tag === undefined) return;
    if (layout === 'keys')
      wrong(['tag'], 'cannot be used with layout "keys", which has no tags: give manifest or layers');
    if (layout === 'distribution' && !TAG.test(payload.tag)) wrong(['tag'], 'is not a tag');
    if (layout === 'distribution' && repository === undefined && repositoryOf(payload.image) === undefined) {
      wrong(['source', 'repository'], `is missing, and image ${JSON.stringify(payload.image)} has no repository`);
    }
  });
