import { UnpackError } from '../errors.ts';
import { type Descriptor, descriptorFields, readDescriptor } from './descriptor.ts';
import { type ImageIndex, readEntries } from './image-index.ts';
import { fieldNames, JsonFields, JsonReading, readJson, shown } from './json-fields.ts';
import {
  type DocumentKind,
  documentKind,
  isArtifactConfig,
  isConfigType,
  isSchema1,
  namesNothing,
  OCI_INDEX,
  OCI_MANIFEST,
  plainType,
} from './media-type.ts';

/**
 * Maximum size of a manifest or an index in bytes; the same limit as in registries (distribution spec, "Pushing
 * Manifests").
 */
export const DOCUMENT_LIMIT = 4 * 1024 * 1024;

export interface ImageManifest {
  readonly config: Descriptor;
  /** Bottom-most first. */
  readonly layers: readonly Descriptor[];
  /** Set if the manifest is declared as an artifact of this type. */
  readonly artifactType?: string;
  /** Deviations from the specification, and what each was treated as. */
  readonly warnings: readonly string[];
}

export type ImageDocument = {
  /** For a descriptor of the document: its own, else OCI's. */
  readonly mediaType: string;
} & (({ readonly kind: 'index' } & ImageIndex) | ({ readonly kind: 'manifest' } & ImageManifest));

const DOCUMENT = fieldNames('schemaVersion', 'mediaType', 'artifactType', 'manifests', 'config', 'layers', 'fsLayers');

/**
 * Parses a manifest or an index, OCI or Docker schema 2. Its own media type, the media type in its descriptor and its
 * fields must all be those of a manifest, or all those of an index. A document with the fields of both is refused,
 * because two readers could see different images (OCI advisory GHSA-mc8v-mgrf-8f4m). OCI and Docker types are
 * equivalent. Generic media types are ignored.
 * @param bytes verified by the caller
 * @param what the name of the document in messages
 * @param promised the media type in its descriptor, if there is one; possibly empty
 * @throws UnpackError MANIFEST_INVALID; UNSUPPORTED_MEDIA_TYPE for schema 1, for artifacts, and for other documents
 */
export function parseDocument(bytes: Uint8Array, what: string, promised?: string): ImageDocument {
  const reading = new JsonReading(what);
  const fields = new JsonFields(readJson(bytes, reading), DOCUMENT, reading);
  const kind = kindOf(fields, promised);
  const version = fields.get('schemaVersion');
  if (version !== 2) {
    reading.warn(`schemaVersion is ${version === undefined ? 'missing' : shown(version)}; treated as 2`);
  }
  const { warnings } = reading;
  const mediaType = typeOf(fields.label('mediaType'), kind);
  if (kind === 'index') return { kind, mediaType, manifests: readEntries(fields.list('manifests'), what), warnings };
  const config = descriptorOf(fields.get('config'), reading, 'config');
  const layers = fields.list('layers').map((layer, index) => descriptorOf(layer, reading, `layers[${index}]`));
  const artifactType = fields.label('artifactType') || undefined;
  checkConfigType(artifactType, config, reading);
  return { kind, mediaType, config, layers, ...(artifactType === undefined ? {} : { artifactType }), warnings };
}

/** As `parseDocument`, for an index. @throws UnpackError MANIFEST_INVALID for a manifest */
export function parseIndex(bytes: Uint8Array, what: string): ImageIndex {
  const document = parseDocument(bytes, what);
  if (document.kind === 'index') return document;
  throw new JsonReading(what).wrong('it is a manifest, and an index is expected');
}

function descriptorOf(value: unknown, reading: JsonReading, path: string): Descriptor {
  return readDescriptor(descriptorFields(value, reading, path));
}

/** Index or manifest, from the fields and the two media types. */
function kindOf(fields: JsonFields, promised: string | undefined): DocumentKind {
  const { reading } = fields;
  const own = fields.label('mediaType');
  const isIndex = fields.has('manifests');
  const isManifest = fields.has('layers') || fields.has('config');
  if (isIndex && isManifest) {
    throw reading.wrong(
      'it has the fields of an index and those of a manifest: two readers could see different images',
    );
  }
  if (fields.has('fsLayers') || [own, promised].some((mediaType) => mediaType !== undefined && isSchema1(mediaType))) {
    throw unsupported(
      reading,
      "is a Docker schema 1 manifest, which lacks the digests of its layers' contents; push the image again with a current tool",
    );
  }
  const kinds = new Set<DocumentKind>([
    ...(isIndex ? (['index'] as const) : []),
    ...(isManifest ? (['manifest'] as const) : []),
    ...typesOf([own, promised], reading, isIndex || isManifest),
  ]);
  const [kind] = kinds;
  if (kind === undefined) throw reading.wrong('it has neither "manifests" nor "config" and "layers"');
  const says = [
    own ? `its mediaType is ${own}` : 'it has no mediaType of its own',
    ...(promised ? [`its descriptor says ${promised}`] : []),
  ].join(', ');
  if (kinds.size > 1) throw reading.wrong(`its fields and media types contradict each other: ${says}`);
  const named = own && promised && documentKind(own) && documentKind(promised);
  if (named && plainType(own) !== plainType(promised)) reading.warn(`${says}; treated as an ${NAME[kind]}`);
  return kind;
}

/** The media type for a descriptor of a document. Only a type of its kind is taken from the document. */
function typeOf(own: string | undefined, kind: DocumentKind): string {
  if (own !== undefined && documentKind(own) === kind) return plainType(own);
  return kind === 'index' ? OCI_INDEX : OCI_MANIFEST;
}

/** The kinds of the media types. An unknown type gives a warning, or an error if the fields do not show the kind. */
function typesOf(
  [own, promised]: readonly [string | undefined, string | undefined],
  reading: JsonReading,
  toldByFields: boolean,
): DocumentKind[] {
  const kinds: DocumentKind[] = [];
  for (const [mediaType, where] of [
    [own, 'its mediaType'],
    [promised, 'the media type in its descriptor'],
  ] as const) {
    if (mediaType === undefined) continue;
    const kind = documentKind(mediaType);
    if (kind !== undefined) {
      kinds.push(kind);
      if (mediaType !== plainType(mediaType))
        reading.warn(`${where} is ${shown(mediaType)}; treated as ${plainType(mediaType)}`);
    } else if (namesNothing(mediaType) || (mediaType === own && toldByFields)) {
      reading.warn(`${where} is ${shown(mediaType)}; its fields decide what it is`);
    } else {
      throw unsupported(
        reading,
        `has the media type ${shown(mediaType)}, which is neither an image manifest nor an index`,
      );
    }
  }
  return kinds;
}

const NAME: Readonly<Record<DocumentKind, string>> = { index: 'image index', manifest: 'image manifest' };

/**
 * Refuses known artifacts that are not images. Other media types of a config cause only a warning, because some
 * registries and tools write generic types, and containerd ignores the type. The config itself shows whether it has
 * layers.
 */
function checkConfigType(artifactType: string | undefined, config: Descriptor, reading: JsonReading): void {
  const { mediaType } = config;
  if (isArtifactConfig(mediaType)) {
    throw unsupported(
      reading,
      `is an artifact (${artifactType ?? mediaType}), not an image: it has no root file system to unpack`,
      config,
    );
  }
  if (!isConfigType(mediaType)) {
    const found = mediaType === '' ? 'missing or empty' : shown(mediaType);
    reading.warn(`config.mediaType is ${found}; treated as the config of an image`);
  } else if (mediaType !== plainType(mediaType)) {
    reading.warn(`config.mediaType is ${shown(mediaType)}; treated as ${plainType(mediaType)}`);
  }
  if (artifactType !== undefined && !isConfigType(artifactType)) {
    reading.warn(`artifactType is ${shown(artifactType)}; treated as an image, because its config lists layers`);
  }
}

function unsupported({ what }: JsonReading, sentence: string, { digest }: Partial<Descriptor> = {}): UnpackError {
  const details = digest === undefined ? {} : { digest };
  return new UnpackError('UNSUPPORTED_MEDIA_TYPE', `${what} ${sentence}`, { details });
}
