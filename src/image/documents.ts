import { UnpackError } from '../errors.ts';
import { type ChainLayer, chainLayers, type Descriptor, embeddedContent, type Layer } from '../oci/descriptor.ts';
import { type BlobDigest, shortDigest } from '../oci/digest.ts';
import { CONFIG_LIMIT, type ImageConfig, parseConfig } from '../oci/image-config.ts';
import { DOCUMENT_LIMIT, type ImageDocument, type ImageManifest, parseDocument } from '../oci/manifest.ts';
import { isConfigType, layerType, plainType } from '../oci/media-type.ts';
import type { BlobSource } from '../source/blob-source.ts';
import { type DocumentCache, readBlob } from '../source/read-blob.ts';
import type { ResolvedImage } from './request.ts';

/**
 * Maximum number of manifests and indexes that one job reads. A real image has one index and about ten manifests;
 * without a limit, nested indexes could cause any number of requests.
 */
const MAX_DOCUMENTS = 256;

/** A reference to a document, from a descriptor, a tag or a job. */
export type DocumentRef = { readonly digest: BlobDigest } & Partial<Pick<Descriptor, 'mediaType' | 'size' | 'data'>>;

/** A document with its bytes. */
export type ReadDocument = ImageDocument & { readonly bytes: Uint8Array };

export interface ReadOptions {
  readonly signal?: AbortSignal | undefined;
  /** The cache of verified manifests and configs. */
  readonly cache?: DocumentCache | undefined;
}

/** The manifests, indexes and configs of one request, read and verified. */
export class Documents {
  readonly source: BlobSource;
  readonly #options: ReadOptions;
  #count = 0;

  constructor(source: BlobSource, options: ReadOptions) {
    this.source = source;
    this.#options = options;
  }

  /**
   * Reads a manifest or an index.
   * @throws UnpackError IMAGE_NOT_FOUND if the document is missing; LIMIT_EXCEEDED after MAX_DOCUMENTS documents; and
   * as `parseDocument` and `readBlob`
   */
  async read(ref: DocumentRef): Promise<ReadDocument> {
    const { digest } = ref;
    this.#count += 1;
    if (this.#count > MAX_DOCUMENTS) {
      throw new UnpackError('LIMIT_EXCEEDED', `the image leads to more than ${MAX_DOCUMENTS} manifests and indexes`);
    }
    let bytes: Buffer;
    try {
      bytes = await this.#bytes(ref, DOCUMENT_LIMIT);
    } catch (error) {
      if (!(error instanceof UnpackError) || error.code !== 'BLOB_NOT_FOUND') throw error;
      throw new UnpackError('IMAGE_NOT_FOUND', error.message, { cause: error, details: error.details });
    }
    try {
      const what = `document ${shortDigest(digest)} of ${this.source.name}`;
      return { ...parseDocument(bytes, what, ref.mediaType), bytes };
    } catch (error) {
      throw error instanceof UnpackError ? error.with({ digest }) : error;
    }
  }

  /**
   * The image of a manifest. Its layers are not read, but a layer that cannot be unpacked fails here.
   * @throws UnpackError UNSUPPORTED_MEDIA_TYPE, MANIFEST_INVALID, BLOB_NOT_FOUND (config missing); and as `readBlob`
   */
  async image(digest: BlobDigest, manifest: ImageManifest & Pick<ReadDocument, 'bytes'>): Promise<ResolvedImage> {
    const { name } = this.source;
    const what = `manifest ${shortDigest(digest)} of ${name}`;
    const warnings = [...manifest.warnings];
    // before the config is read, to save its request if the layers cannot be unpacked
    const layers = new ManifestLayers(manifest, what, warnings);
    const configName = `config ${shortDigest(manifest.config.digest)} of ${name}`;
    const configBytes = await this.#bytes(manifest.config, CONFIG_LIMIT);
    const config = configOf(configBytes, manifest, configName);
    if (manifest.artifactType !== undefined && manifest.layers.length === 0) throw artifactError(what, manifest);
    const pairs = layers.with(config, digest);
    return {
      ...(config.platform === undefined ? {} : { platform: config.platform }),
      manifestDigest: digest,
      configDigest: manifest.config.digest,
      documents: new Map([
        [digest, manifest.bytes],
        [manifest.config.digest, configBytes],
      ]),
      config: config.runtime,
      layers: pairs,
      warnings: [...warnings, ...config.warnings],
    };
  }

  async #bytes(ref: DocumentRef, limit: number): Promise<Buffer> {
    const { digest, size } = ref;
    const wanted = size === undefined ? digest : { digest, size };
    return embeddedContent(ref) ?? readBlob(this.source, wanted, { ...this.#options, limit });
  }
}

/** The config of an image. If its media type is not that of an image config, the config must contain a rootfs. */
function configOf(bytes: Uint8Array, manifest: ImageManifest, what: string): ImageConfig {
  const { digest, mediaType } = manifest.config;
  const typed = isConfigType(mediaType);
  try {
    const config = parseConfig(bytes, what);
    if (config.hasRootfs || typed) return config;
  } catch (error) {
    if (!(error instanceof UnpackError)) throw error;
    if (typed || Buffer.from(bytes).includes('"diff_ids"')) throw error.with({ digest });
  }
  throw artifactError(what, manifest);
}

function artifactError(what: string, { artifactType, config: { digest, mediaType } }: ImageManifest): UnpackError {
  const type = artifactType ?? (mediaType === '' ? 'without a media type' : mediaType);
  return new UnpackError(
    'UNSUPPORTED_MEDIA_TYPE',
    `${what} is that of an artifact (${type}), not of an image: it has no root file system to unpack`,
    { details: { digest } },
  );
}

/** The layers of a manifest. A manifest can also list blobs that are not layers. */
class ManifestLayers {
  readonly #manifest: ImageManifest;
  readonly #what: string;
  readonly #warnings: string[];
  /** The blobs that are layers, and an error for each blob that is not. */
  readonly #layers: Descriptor[] = [];
  readonly #others: UnpackError[] = [];

  /** @throws UnpackError UNSUPPORTED_MEDIA_TYPE if no blob is a layer */
  constructor(manifest: ImageManifest, what: string, warnings: string[]) {
    this.#manifest = manifest;
    this.#what = what;
    this.#warnings = warnings;
    const { layers } = manifest;
    layers.forEach((blob, index) => {
      try {
        checkLayer(blob, index, layers.length, what, warnings);
        this.#layers.push(blob);
      } catch (error) {
        if (!(error instanceof UnpackError)) throw error;
        this.#others.push(error);
        // a layer in a format for another runtime: it has a DiffID, so it cannot be left out
        if (plainType(blob.mediaType).startsWith('application/vnd.oci.image.layer.')) throw error;
      }
    });
    if (this.#layers.length > 0 || this.#others[0] === undefined) return;
    throw isConfigType(manifest.config.mediaType) ? this.#others[0] : artifactError(what, manifest);
  }

  /**
   * The layers with their DiffIDs. Blobs that are not layers are left out if the config has DiffIDs for the layers only, as
   * in containerd (client/image.go, `getLayers`).
   * @throws UnpackError MANIFEST_INVALID if there are more or fewer DiffIDs than layers; UNSUPPORTED_MEDIA_TYPE
   */
  with({ diffIds, hasRootfs }: ImageConfig, digest: BlobDigest): ChainLayer[] {
    const { layers } = this.#manifest;
    const counted = diffIds.length === this.#layers.length ? this.#layers : layers;
    if (counted === layers && this.#others[0] !== undefined) throw this.#others[0];
    if (counted.length !== diffIds.length) {
      const counts = `${layers.length} layers and its config ${diffIds.length} diff_ids${hasRootfs ? '' : ' (it has no rootfs; possibly the config of an artifact)'}`;
      throw new UnpackError('MANIFEST_INVALID', `${this.#what} has ${counts}; there must be one for each`, {
        details: { digest, layerCount: layers.length },
      });
    }
    for (const { message } of this.#others) {
      this.#warnings.push(`${message}; it was left out, because the config has DiffIDs for the others only`);
    }
    const pairs = counted.flatMap((blob, index) => {
      const diff = diffIds[index];
      return diff === undefined ? [] : [{ blob: needed(blob), diff: { digest: diff } }];
    });
    return chainLayers(pairs);
  }
}

/**
 * The fields of a layer's descriptor that the apply thread needs. Other fields, such as embedded data, must not be sent
 * to the thread.
 */
function needed({ mediaType, digest, size }: Descriptor): Descriptor {
  return { mediaType, digest, size };
}

/** The image of a job with explicit layers. @throws UnpackError INVALID_JOB, UNSUPPORTED_MEDIA_TYPE */
export function imageOfLayers(layers: readonly Layer[]): ResolvedImage {
  if (layers.length === 0) throw new UnpackError('INVALID_JOB', 'the job has no layers');
  const warnings: string[] = [];
  layers.forEach(({ blob }, index) => {
    checkLayer(blob, index, layers.length, 'the job', warnings);
  });
  return { layers: chainLayers(layers), documents: new Map(), warnings };
}

function checkLayer(blob: Descriptor, layerIndex: number, layerCount: number, what: string, warnings: string[]): void {
  const which = `${what}, layer ${layerIndex + 1} of ${layerCount}`;
  const { mediaType, digest } = blob;
  try {
    if (layerType(mediaType).exact) return;
    const taken = 'treated as a layer; its compression is detected from its bytes';
    warnings.push(`${which} (${shortDigest(digest)}): its media type is ${JSON.stringify(mediaType)}, ${taken}`);
  } catch (error) {
    if (!(error instanceof UnpackError)) throw error;
    throw error.with({ layerIndex, layerCount, digest }, `${which}: `);
  }
}
