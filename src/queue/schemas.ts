import * as z from 'zod';
import { TAG } from '../oci/reference.ts';
import { failureSchema } from './failure.ts';
import { payloadSchema } from './payload-schema.ts';
import { progressSchema } from './progress-schema.ts';
import { resultSchema } from './result-schema.ts';

/** The JSON Schemas of payload, result, failure and progress. `dev/schemas.ts` publishes them, and the board shows the first. */

const A = `sha256:${'a'.repeat(64)}`;
const B = `sha256:${'b'.repeat(64)}`;
const C = `sha256:${'c'.repeat(64)}`;

const payloadExamples = [
  {
    version: 1,
    image: 'registry.example/library/alpine:3.20',
    source: { bucket: 'mirror', prefix: 'harbor', layout: 'distribution' },
    tag: '3.20',
    platforms: ['linux/amd64', 'linux/arm64/v8'],
  },
  {
    version: 1,
    image: 'registry.example/team/app@sha256:…',
    source: { bucket: 'mirror', prefix: 'images/app', layout: 'oci' },
    manifest: A,
    labels: { 'example.com/team': 'payments' },
  },
  {
    version: 1,
    image: 'registry.example/team/app:7',
    source: { bucket: 'blobs', layout: 'keys', template: 'blobs/{algorithm}/{hex}' },
    layers: [
      {
        diff: { digest: B },
        blob: { mediaType: 'application/vnd.oci.image.layer.v1.tar+zstd', digest: C, size: 3_145_728 },
      },
    ],
  },
];

const resultExample = {
  version: 1,
  image: 'registry.example/library/alpine:3.20',
  images: [
    {
      platform: 'linux/amd64',
      manifestDigest: A,
      configDigest: B,
      chainId: C,
      config: { cmd: ['/bin/sh'], env: ['PATH=/usr/sbin:/usr/bin:/sbin:/bin'], workingDir: '/' },
      mounts: [{ type: 'bind', source: '/var/lib/unpackd/snapshots/7/fs', options: ['ro', 'rbind'] }],
      layers: [
        {
          diffId: C,
          chainId: C,
          blobDigest: A,
          state: 'applied',
          compressedBytes: 3_622_892,
          uncompressedBytes: 8_082_944,
          entries: 517,
          timings: { fetchMs: 61, decompressMs: 40, writeMs: 102, totalMs: 203 },
          timeline: {
            queuedMs: 14,
            startedMs: 15,
            unpackedMs: 218,
            committingMs: 218,
            committedMs: 224,
            samples: [
              [117, 1_811_446, 4_194_304, 40, 18],
              [218, 3_622_892, 8_082_944, 61, 40],
            ],
          },
        },
      ],
    },
  ],
  worker: { name: 'node-7:4711', host: 'node-7' },
  store: { root: '/var/lib/unpackd', snapshotter: 'overlay' },
  startedAt: '2026-01-31T12:00:00.000Z',
  durationMs: 231,
  attempts: 1,
  warnings: [],
};

const failureExample = {
  version: 1,
  code: 'DIFF_ID_MISMATCH',
  message: 'layer 3 of 7 (sha256:aaaaaaaaaaaa…): the digest of its tar is not the DiffID in the image',
  layerIndex: 2,
  layerCount: 7,
  digests: { subject: A, expected: B, actual: C },
  retryable: false,
  attempt: 1,
  attempts: 5,
  at: '2026-01-31T12:00:00.000Z',
};

const progressExample = {
  version: 1,
  phase: 'unpacking',
  attempt: 2,
  attempts: 5,
  worker: 'node-7:4711',
  layersDone: 1,
  layersTotal: 2,
  bytesFetched: 1_811_446,
  bytesTotal: 3_622_892,
  bytesUnpacked: 4_194_304,
  images: [
    {
      platform: 'linux/amd64',
      manifestDigest: A,
      chainId: C,
      layers: [
        { chainId: B, phase: 'existed', size: 3_145_728, fetched: 0, unpacked: 0 },
        { chainId: C, phase: 'applying', size: 3_622_892, fetched: 1_811_446, unpacked: 4_194_304 },
      ],
    },
  ],
  failures: [{ ...failureExample, code: 'SOURCE_UNAVAILABLE', retryable: true }],
  stallsBefore: 0,
};

const PAYLOAD_DESCRIPTION = [
  'The data of a job. The name of the job is `unpack`, the name of the queue `image-unpack`; both are settings.',
  'To prevent two jobs for the same work, add the job with the BullMQ option `deduplication: { id }`.',
  'The id is the lower-case hexadecimal SHA-256 of these six lines, joined by "\\n", without a newline at the end:',
  '(1) `unpackd/1`; (2) the bucket; (3) the prefix without slashes at its ends, or an empty line;',
  '(4) `oci`; or `keys TEMPLATE`; or with `tag` `distribution REPOSITORY` (`distribution IMAGE` if the payload has no repository); or without `tag` `distribution`;',
  '(5) `manifest DIGEST`, or `tag TAG`, or `layers DIFFID=BLOB DIFFID=BLOB …`;',
  '(6) `default` if the payload has no platforms, or `all`, or the platforms, sorted and joined by ",".',
].join(' ');

/** File name → JSON Schema 2020-12. */
export function schemaFiles(): Record<string, object> {
  const one = (name: string, schema: z.ZodType, extra: object) => {
    // puts $id directly after $schema, which zod puts first
    const { $schema, ...rest } = z.toJSONSchema(schema, { target: 'draft-2020-12', io: 'input' });
    return { $schema, $id: `urn:unpackd:${name.replace('.schema.json', '')}:1`, ...extra, ...rest };
  };
  const files = {
    'payload.schema.json': one('payload.schema.json', payloadSchema, {
      title: 'Payload of an unpack job',
      description: PAYLOAD_DESCRIPTION,
      examples: payloadExamples,
      // rules between fields, which zod does not export
      oneOf: ['manifest', 'tag', 'layers'].map((name) => ({ required: [name] })),
      allOf: [
        layoutRule(
          'keys',
          { required: ['template'], properties: { repository: false } },
          { not: { required: ['tag'] } },
        ),
        layoutRule('oci', { properties: { template: false, repository: false } }),
        layoutRule(
          'distribution',
          { properties: { template: false } },
          { properties: { tag: { pattern: TAG.source } } },
        ),
      ],
    }),
    'result.schema.json': one('result.schema.json', resultSchema, { examples: [resultExample] }),
    'failure.schema.json': one('failure.schema.json', failureSchema, { examples: [failureExample] }),
    'progress.schema.json': one('progress.schema.json', progressSchema, { examples: [progressExample] }),
  };
  return files;
}

function layoutRule(layout: string, source: object, payload: object = {}): object {
  return {
    if: { properties: { source: { properties: { layout: { const: layout } }, required: ['layout'] } } },
    // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema
    then: { allOf: [{ properties: { source } }, payload] },
  };
}
