import { algorithmOf, type BlobDigest, type ChainId, childChainId, type DiffId, digestOf, isDigest } from './digest.ts';
import { fieldNames, JsonFields, type JsonReading, shown } from './json-fields.ts';
import type { Platform } from './platform.ts';

/** The fields of a descriptor that only describe the content. */
export interface DescriptorLabels {
  /** Empty if the descriptor has none. */
  readonly mediaType: string;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly platform?: Platform;
  readonly artifactType?: string;
}

/** OCI image spec, descriptor.md. */
export interface Descriptor extends DescriptorLabels {
  readonly digest: BlobDigest;
  /** Size of the stored content in bytes. */
  readonly size: number;
  /** The content itself in base64, not verified yet: see `embeddedContent`. */
  readonly data?: string;
}

/** One layer: its blob, and the DiffID, which is the digest of the tar inside the blob. */
export interface Layer {
  readonly diff: { readonly digest: DiffId };
  readonly blob: Descriptor;
}

/**
 * A layer of an image with its chain ID. The chain ID identifies the layer and all layers below it, and is the name of
 * the snapshot.
 */
export type ChainLayer = Layer & { readonly chainId: ChainId };

/** Adds its chain ID to each layer of an image, bottom-most first. */
export function chainLayers<L extends Pick<Layer, 'diff'>>(
  layers: readonly L[],
): (L & { readonly chainId: ChainId })[] {
  let parent: ChainId | undefined;
  return layers.map((layer) => {
    parent = childChainId(parent, layer.diff.digest);
    return { ...layer, chainId: parent };
  });
}

const DESCRIPTOR = fieldNames('mediaType', 'digest', 'size', 'annotations', 'platform', 'artifactType', 'data');
const PLATFORM = fieldNames('os', 'architecture', 'variant', 'os.features');

/** The fields of a descriptor. @throws UnpackError MANIFEST_INVALID if `value` is no object */
export function descriptorFields(value: unknown, reading: JsonReading, path: string): JsonFields {
  return new JsonFields(value, DESCRIPTOR, reading, path);
}

/**
 * Reads a descriptor that is used. Strict about digest and size, lenient about all other fields.
 * @throws UnpackError MANIFEST_INVALID
 */
export function readDescriptor(fields: JsonFields, labels = readLabels(fields)): Descriptor {
  const digest = fields.get('digest');
  if (typeof digest !== 'string' || !isDigest(digest)) {
    throw fields.unexpected('digest', 'a digest (sha256 or sha512, in lower-case hexadecimal)');
  }
  const size = fields.get('size');
  if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0) {
    throw fields.unexpected('size', 'a number of bytes');
  }
  const data = fields.get('data');
  return {
    ...labels,
    digest: digest as string as BlobDigest, // `as`: the digest is checked above, and a descriptor refers to stored bytes
    size,
    ...(typeof data === 'string' ? { data } : {}),
  };
}

export function readLabels(fields: JsonFields): DescriptorLabels {
  const mediaType = fields.label('mediaType') ?? '';
  const annotations = readAnnotations(fields.get('annotations'));
  const platform = readPlatform(fields.get('platform'), fields.reading, fields.path('platform'));
  const artifactType = fields.label('artifactType');
  return {
    mediaType,
    ...(annotations ? { annotations } : {}),
    ...(platform ? { platform } : {}),
    ...(artifactType ? { artifactType } : {}),
  };
}

/** The annotations that are texts. Annotations of other types are ignored, because only texts are used. */
function readAnnotations(value: unknown): Record<string, string> | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  return Object.fromEntries(Object.entries(value).filter(([, one]) => typeof one === 'string'));
}

/**
 * The platform of a descriptor or of a config, which has the same fields. A missing operating system is treated as Linux, as in
 * containerd on Linux.
 * @returns `undefined` without an architecture, or if a field is malformed
 */
export function readPlatform(value: unknown, reading: JsonReading, path: string): Platform | undefined {
  if (value === undefined) return undefined;
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    reading.warn(`${path} is ${shown(value)}, which was ignored`);
    return undefined;
  }
  const fields = new JsonFields(value, PLATFORM, reading, path);
  const [os, architecture, variant] = [fields.get('os'), fields.get('architecture'), fields.get('variant')];
  const features = fields.get('os.features') ?? [];
  for (const [name, one, right] of [
    ['os', os, isText(os ?? '')],
    ['architecture', architecture, isText(architecture ?? '')],
    ['variant', variant, isText(variant ?? '')],
    ['os.features', features, Array.isArray(features) && features.every(isText)],
  ] as const) {
    if (right) continue;
    reading.warn(`${fields.path(name)} is ${shown(one)}, so its platform was ignored`);
    return undefined;
  }
  if (!isText(architecture) || architecture === '') return undefined;
  if (!os) reading.warn(`${fields.path('os')} is ${os === '' ? 'empty' : 'missing'}; treated as linux`);
  const osFeatures = Array.isArray(features) ? features.filter(isText) : [];
  return {
    os: isText(os) && os !== '' ? os : 'linux',
    architecture,
    ...(isText(variant) && variant !== '' ? { variant } : {}),
    ...(osFeatures.length === 0 ? {} : { osFeatures }),
  };
}

const isText = (value: unknown): value is string => typeof value === 'string';

/** The JSON of a descriptor, for an index. */
export function descriptorJson({ platform, ...rest }: Descriptor): object {
  if (platform === undefined) return rest;
  const { osFeatures, ...named } = platform;
  return { ...rest, platform: osFeatures === undefined ? named : { ...named, 'os.features': osFeatures } };
}

/** The content that a descriptor carries. `undefined` if there is none, or if its size or digest is wrong. */
export function embeddedContent({ data, size, digest }: Partial<Descriptor> & Pick<Descriptor, 'digest'>) {
  if (data === undefined) return undefined;
  const bytes = Buffer.from(data, 'base64');
  return bytes.length === size && digestOf(bytes, algorithmOf(digest)) === digest ? bytes : undefined;
}
