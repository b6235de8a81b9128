import * as z from 'zod';
import { MAX_REPOSITORY, REPOSITORY, repositoryOf, TAG } from '../oci/reference.ts';
import { LABEL_DIFF_ID, LABEL_SNAPSHOT_REF } from '../snapshots/snapshotter.ts';
import { BUCKET, MAX_KEY_BYTES } from '../source/bucket-layout.ts';

/**
 * What a producer sends, version 1. Producers are written in many languages: `schemas/payload.schema.json` is generated
 * from this file, so every description here is read by them. Strict: an unknown field is an error and never ignored.
 *
 * A job names a bucket and nothing else about where it is: endpoint, region and credentials are the worker's own, so
 * that no job can send the worker's signature elsewhere.
 */

const DIGEST = /^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/;
// a control character would make the deduplication text ambiguous, and has no place in a key
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is refused
const PLAIN = /^[^\u0000-\u001f\u007f]*$/;
// `.` and `..` are folded away by HTTP clients and proxies, which would lead out of the bucket
const NO_DOTS = /^(?!.*(?:^|\/)\.{1,2}(?:\/|$))/;
/** A tag of a registry, or a name in an OCI layout (org.opencontainers.image.ref.name), whose grammar allows more. */
const TAG_OR_NAME = /^[A-Za-z0-9_][A-Za-z0-9_.:@/+-]{0,254}$/;
const PLATFORM = /^[a-z0-9]+\/[a-z0-9_]+(\/[a-z0-9.]+)?$/;
/** containerd, pkg/labels: key and value together. */
const MAX_LABEL_BYTES = 4096;
/** Twice what overlayfs can stack; a longer list is a mistake. */
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
        'The bucket. Endpoint, region and credentials belong to the worker; it may be limited to named buckets.',
    }),
    prefix: keyPart('a prefix')
      .optional()
      .meta({ description: "Folder in the bucket; slashes at the ends do not matter. Default: the bucket's root." }),
    layout: z.enum(['oci', 'distribution', 'keys']).meta({
      description:
        '`oci`: an OCI image layout under the prefix. `distribution`: what the CNCF Distribution registry (Harbor too) writes with its S3 driver, `docker/registry/v2/…` under the prefix. `keys`: blobs under keys that `template` describes.',
    }),
    repository: z
      .string()
      .max(MAX_REPOSITORY, `is longer than ${MAX_REPOSITORY} characters`)
      .regex(REPOSITORY, 'is not a repository name')
      .optional()
      .meta({
        description:
          'For `distribution`: the repository that holds the tag. Default: `image` without its registry host, tag and digest (`docker.io/library/alpine:3` is `library/alpine`).',
      }),
    template: keyPart('a template')
      .regex(
        /^(?=.*\{hex\})(?:[^{}]|\{hex\}|\{algorithm\})*$/,
        'must contain {hex}, may contain {algorithm}, and no other braces',
      )
      .optional()
      .meta({
        description:
          'For `keys`: the key of a blob under the prefix, with `{algorithm}` and `{hex}`, as in `blobs/{algorithm}/{hex}`.',
      }),
  })
  .meta({ description: 'Where the blobs are.' });

const layerSchema = z.strictObject({
  diff: z
    .strictObject({
      digest: digest.meta({ description: 'DiffID: the digest of the uncompressed tar.' }),
      mediaType: z.string().optional().meta({ description: 'Not used; allowed because descriptors have it.' }),
      size: z.number().int().min(0).optional().meta({ description: 'Not used; allowed because descriptors have it.' }),
    })
    .meta({ description: 'The uncompressed layer.' }),
  blob: z
    .strictObject({
      mediaType: z
        .string()
        .min(1, 'is empty')
        .meta({ description: 'Layer media type. It has to name a layer; how the blob is compressed, its bytes say.' }),
      digest: digest.meta({ description: 'Digest of the blob as stored.' }),
      size: z.number().int().min(0).meta({ description: 'Bytes of the blob as stored.' }),
      annotations: z.record(z.string(), z.string()).optional().meta({ description: 'Not used.' }),
      urls: z.array(z.string()).optional().meta({ description: 'Never fetched from.' }),
    })
    .meta({ description: 'The blob that transports it: an OCI descriptor.' }),
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
    description: `Kept on the snapshots that this job commits. A key and its value have at most ${MAX_LABEL_BYTES} bytes together (containerd's rule).`,
  });

function labelProblem(key: string, value: string): string | undefined {
  const size = Buffer.byteLength(key) + Buffer.byteLength(value);
  if (size > MAX_LABEL_BYTES) return `has ${size} bytes of key and value; ${MAX_LABEL_BYTES} are allowed`;
  if (key === LABEL_SNAPSHOT_REF || key === LABEL_DIFF_ID) return 'is set by the store itself and cannot be given';
  return undefined;
}

const TARGETS = ['manifest', 'tag', 'layers'] as const;

export const payloadSchema = z
  .strictObject({
    version: z.literal(1, 'must be 1').meta({ description: 'Version of this format.' }),
    image: z
      .string()
      .min(1, 'is empty')
      .max(4096, 'is longer than 4096 characters')
      .regex(PLAIN, 'has control characters')
      .meta({
        description: 'The reference that the upstream mirror knows the image by; recorded, never fetched from.',
      }),
    source: sourceSchema,
    manifest: digest.optional().meta({ description: 'Digest of a manifest or an index.' }),
    tag: z.string().regex(TAG_OR_NAME, 'is not a tag').optional().meta({
      description: 'A tag, for the layouts that have tags (`oci`: the annotation org.opencontainers.image.ref.name).',
    }),
    layers: z
      .array(layerSchema)
      .min(1, 'is empty')
      .max(MAX_LAYERS, `has more than ${MAX_LAYERS} layers`)
      .optional()
      .meta({
        description: 'The layers themselves, bottom-most first; no manifest is read.',
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
          'For an index, or for a tag that several images have: which of them. An image that is made for an older variant, or for the 32-bit architecture that the platform runs, too, is taken where there is no better one. `all`: every image; what is no image is left out. Default: the platform of the worker.',
      }),
    labels: labelsSchema.optional(),
  })
  .superRefine((payload, context) => {
    const given = TARGETS.filter((name) => payload[name] !== undefined);
    if (given.length !== 1) {
      const found = given.length === 0 ? 'none is there' : `there are ${given.join(' and ')}`;
      context.addIssue({ code: 'custom', message: `exactly one of manifest, tag and layers is needed, but ${found}` });
    }
    const { layout, template, repository } = payload.source;
    const wrong = (path: string[], message: string) => context.addIssue({ code: 'custom', path, message });
    if (layout === 'keys' && template === undefined) {
      wrong(['source', 'template'], 'is missing: layout "keys" needs it, as in "blobs/{algorithm}/{hex}"');
    }
    if (layout !== 'keys' && template !== undefined) wrong(['source', 'template'], 'is only for layout "keys"');
    if (layout !== 'distribution' && repository !== undefined) {
      wrong(['source', 'repository'], 'is only for layout "distribution"');
    }
    if (payload.tag === undefined) return;
    if (layout === 'keys')
      wrong(['tag'], 'cannot be used with layout "keys", which has no tags: give manifest or layers');
    if (layout === 'distribution' && !TAG.test(payload.tag)) wrong(['tag'], 'is not a tag');
    if (layout === 'distribution' && repository === undefined && repositoryOf(payload.image) === undefined) {
      wrong(
        ['source', 'repository'],
        `is missing, and no repository can be read from image ${JSON.stringify(payload.image)}`,
      );
    }
  });

export type Payload = z.infer<typeof payloadSchema>;
