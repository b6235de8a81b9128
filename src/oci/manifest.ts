import * as z from 'zod';
import { UnpackError } from '../errors.ts';
import type { Descriptor } from './descriptor.ts';
import { type BlobDigest, isDigest } from './digest.ts';
import { DOCKER_CONFIG, type DocumentKind, documentKind, isSchema1, OCI_CONFIG } from './media-type.ts';
import type { Platform } from './platform.ts';

/** Most bytes of a manifest or an index: what registries take (distribution spec, "Pushing Manifests"). */
export const DOCUMENT_LIMIT = 4 * 1024 * 1024;

/** OCI image spec, image-layout.md: the annotation by which an index names its images. */
export const REF_NAME = 'org.opencontainers.image.ref.name';

export interface ImageIndex {
  readonly manifests: readonly Descriptor[];
}

export interface ImageManifest {
  readonly config: Descriptor;
  /** Bottom-most first. */
  readonly layers: readonly Descriptor[];
}

export type ImageDocument = ({ readonly kind: 'index' } & ImageIndex) | ({ readonly kind: 'manifest' } & ImageManifest);

const platformSchema = z
  .object({ os: z.string().min(1), architecture: z.string().min(1), variant: z.string().nullish() })
  .transform(({ os, architecture, variant }): Platform => ({ os, architecture, ...(variant ? { variant } : {}) }));

const descriptorSchema = z
  .object({
    mediaType: z.string().min(1),
    digest: z.string().refine(isDigest, { error: 'not a sha256 or sha512 digest' }),
    size: z.number().int().nonnegative(),
    urls: z.array(z.string()).nullish(),
    annotations: z.record(z.string(), z.string()).nullish(),
    platform: platformSchema.nullish(),
    artifactType: z.string().nullish(),
  })
  .transform(
    ({ mediaType, digest, size, urls, annotations, platform, artifactType }): Descriptor => ({
      mediaType,
      digest: digest as string as BlobDigest, // checked above; a descriptor names stored bytes
      size,
      ...(urls ? { urls } : {}),
      ...(annotations ? { annotations } : {}),
      ...(platform ? { platform } : {}),
      ...(artifactType ? { artifactType } : {}),
    }),
  );

const indexSchema = z.object({ manifests: z.array(descriptorSchema) });
const manifestSchema = z.object({
  artifactType: z.string().nullish(),
  config: descriptorSchema,
  layers: z.array(descriptorSchema),
});
/** What tells the kinds of documents apart. */
const headSchema = z.looseObject({
  schemaVersion: z.unknown().optional(),
  mediaType: z.string().nullish(),
});

/**
 * A manifest or an index, OCI or Docker schema 2, from its bytes, which the caller has verified. Which of the two it is
 * is said by its own mediaType, by the descriptor that led to it and by its fields; these must agree, and a document
 * that has the fields of both is refused: two readers could take it for different images (OCI advisory
 * GHSA-mc8v-mgrf-8f4m).
 * @param what names the document in messages
 * @param promised media type in the descriptor that led here, where there was one
 * @throws UnpackError MANIFEST_INVALID; UNSUPPORTED_MEDIA_TYPE for schema 1 and what is neither manifest nor index
 */
export function parseDocument(bytes: Uint8Array, what: string, promised?: string): ImageDocument {
  const value = parseJson(bytes, what);
  const head = checked(headSchema, value, what);
  const own = head.mediaType ?? undefined;
  if (head.schemaVersion === 1 || 'fsLayers' in head || (own !== undefined && isSchema1(own))) {
    throw new UnpackError(
      'UNSUPPORTED_MEDIA_TYPE',
      `${what} is a Docker schema 1 manifest, which lacks the digests of its layers' contents; push the image again with a current tool`,
    );
  }
  const kinds = new Set<DocumentKind>();
  for (const mediaType of [own, promised]) if (mediaType !== undefined) kinds.add(kindOf(mediaType, what));
  if ('manifests' in head) kinds.add('index');
  if ('layers' in head || 'config' in head) kinds.add('manifest');
  const [kind] = kinds;
  if (kind === undefined) throw invalid(what, 'it has neither "manifests" nor "config" and "layers"');
  if (kinds.size > 1 || (own !== undefined && promised !== undefined && own !== promised)) {
    const says = [
      own ?? 'no mediaType of its own',
      ...(promised === undefined ? [] : [`${promised} in its descriptor`]),
    ];
    throw invalid(what, `its fields and media types (${says.join(', ')}) contradict each other`);
  }
  if (head.schemaVersion !== 2)
    throw invalid(what, `its schemaVersion is ${JSON.stringify(head.schemaVersion)}, not 2`);
  if (kind === 'index') return { kind, ...checked(indexSchema, value, what) };
  const { artifactType, config, layers } = checked(manifestSchema, value, what);
  refuseArtifact(artifactType ?? undefined, config, what);
  return { kind, config, layers };
}

/** As parseDocument, where only an index will do. */
export function parseIndex(bytes: Uint8Array, what: string): ImageIndex {
  const document = parseDocument(bytes, what);
  if (document.kind === 'index') return document;
  throw invalid(what, 'it is a manifest where an index belongs');
}

const referencesSchema = z.object({
  manifests: z.array(descriptorSchema).nullish(),
  config: descriptorSchema.nullish(),
  layers: z.array(descriptorSchema).nullish(),
});

/**
 * Everything that a manifest or index of any kind names, artifacts included: what must be copied with it.
 * @throws UnpackError MANIFEST_INVALID
 */
export function references(bytes: Uint8Array, what: string): Descriptor[] {
  const { manifests, config, layers } = checked(referencesSchema, parseJson(bytes, what), what);
  return [...(manifests ?? []), ...(config ? [config] : []), ...(layers ?? [])];
}

/**
 * The image that an index of an image layout calls `tag`.
 * @throws UnpackError IMAGE_NOT_FOUND that lists the tags there are, MANIFEST_INVALID when several images have the tag
 */
export function findTag(index: ImageIndex, tag: string, where: string): Descriptor {
  const found = index.manifests.filter(({ annotations }) => annotations?.[REF_NAME] === tag);
  const [first] = found;
  if (first === undefined) {
    const tags = index.manifests.flatMap(({ annotations }) => annotations?.[REF_NAME] ?? []);
    const shown = tags.slice(0, 10).join(', ') + (tags.length > 10 ? ', …' : '');
    throw new UnpackError(
      'IMAGE_NOT_FOUND',
      `${where} has no image with the tag ${JSON.stringify(tag)}; ${tags.length === 0 ? 'it has no tags' : `its tags: ${shown}`}`,
    );
  }
  if (found.some(({ digest }) => digest !== first.digest)) {
    throw invalid(where, `${found.length} images have the tag ${JSON.stringify(tag)}; name one by its digest`);
  }
  return first;
}

/** A manifest's config says whether there is a root file system (image spec, manifest.md#guidelines-for-artifact-usage). */
function refuseArtifact(artifactType: string | undefined, config: Descriptor, what: string): void {
  const isImage = config.mediaType === OCI_CONFIG || config.mediaType === DOCKER_CONFIG;
  if (isImage && artifactType === undefined) return;
  throw new UnpackError(
    'UNSUPPORTED_MEDIA_TYPE',
    `${what} is an artifact (${artifactType ?? config.mediaType}), not an image: it has no root file system to unpack`,
    { details: { digest: config.digest } },
  );
}

function kindOf(mediaType: string, what: string): DocumentKind {
  const kind = documentKind(mediaType);
  if (kind !== undefined) return kind;
  throw new UnpackError(
    'UNSUPPORTED_MEDIA_TYPE',
    `${what} has the media type ${JSON.stringify(mediaType)}, which is neither an image manifest nor an index`,
  );
}

/**
 * JSON from bytes. Depth needs no bound of its own: V8 parses without recursion, and the schemas look no deeper than
 * they know. Of two equal keys the last one counts, as in Go.
 * @throws UnpackError MANIFEST_INVALID
 */
export function parseJson(bytes: Uint8Array, what: string): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (cause) {
    throw invalid(what, 'it is not JSON', cause);
  }
}

/** `value` as the schema has it. @throws UnpackError MANIFEST_INVALID that names the first wrong field */
function checked<T>(schema: z.ZodType<T>, value: unknown, what: string): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const field = issue === undefined || issue.path.length === 0 ? 'it' : issue.path.join('.');
  throw invalid(what, `${field}: ${issue?.message ?? 'wrong'}`, parsed.error);
}

function invalid(what: string, why: string, cause?: unknown): UnpackError {
  return new UnpackError('MANIFEST_INVALID', `${what} is not a valid manifest or index: ${why}`, { cause });
}
