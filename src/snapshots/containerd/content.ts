import { randomBytes } from 'node:crypto';
import { UnpackError } from '../../errors.ts';
import type { ContainerdClient } from '../../grpc/client.ts';
import { GrpcError, isGrpcError, undefinedIfNotFound } from '../../grpc/errors.ts';
import type { Labels } from '../../grpc/services.ts';
import { shortDigest } from '../../oci/digest.ts';
import { type ImageDocument, parseDocument } from '../../oci/manifest.ts';
import { MAX_LABEL_BYTES } from '../snapshotter.ts';

/**
 * The documents of images in containerd's content store, with the labels by which containerd's collection finds what an image
 * needs: the index leads to the manifests, a manifest to its config and its layers, the config to the top snapshot. The image
 * records of this folder are the only user.
 */

/** The repository that a document is from. */
export interface Origin {
  readonly host: string;
  readonly repository: string;
}

const REFERENCE = 'containerd.io/gc.ref.content';
const DISTRIBUTION = 'containerd.io/distribution.source.';
/** How often a document is written again, because a collection has removed it just before it got its labels. */
const ATTEMPTS = 5;

export class Documents {
  readonly #client: ContainerdClient;
  readonly #snapshotLabel: string;
  #kept: { readonly lease: string; readonly digests: Set<string> } = { lease: '', digests: new Set() };

  constructor(client: ContainerdClient, snapshotter: string) {
    this.#client = client;
    this.#snapshotLabel = `containerd.io/gc.ref.snapshot.${snapshotter}`;
  }

  /**
   * Writes a manifest or an index, unless it is there, and its labels.
   * @param lease keeps it until an image leads to it
   * @returns the document
   * @throws GrpcError; UnpackError LIMIT_EXCEEDED for a document that this containerd refuses: its digest, its size or its labels
   */
  async putDocument(digest: string, bytes: Uint8Array, origin: Origin, lease: string): Promise<ImageDocument> {
    const document = parseDocument(bytes, `document ${digest}`);
    await this.#put(digest, bytes, childLabels(document), origin, lease);
    return document;
  }

  /** As `putDocument`, for a config. @param chainId `undefined` for an image without layers @throws as `putDocument` */
  async putConfig(
    digest: string,
    bytes: Uint8Array,
    chainId: string | undefined,
    origin: Origin,
    lease: string,
  ): Promise<void> {
    await this.#put(digest, bytes, chainId === undefined ? {} : { [this.#snapshotLabel]: chainId }, origin, lease);
  }

  /** Whether a document is there. @throws GrpcError */
  async has(digest: string): Promise<boolean> {
    return (await this.#labelsOf(digest)) !== undefined;
  }

  /** Whether a config is there and leads to this top snapshot. @throws GrpcError */
  async hasConfig(digest: string, chainId: string | undefined): Promise<boolean> {
    const labels = await this.#labelsOf(digest);
    return labels !== undefined && (chainId === undefined || labels[this.#snapshotLabel] === chainId);
  }

  /** The bytes of a document, if it is there. @throws GrpcError */
  async read(digest: string): Promise<Uint8Array | undefined> {
    const pieces: Buffer[] = [];
    try {
      for await (const { data } of this.#client.content.Read({ digest })) pieces.push(data);
    } catch (error) {
      return undefinedIfNotFound(error);
    }
    return Buffer.concat(pieces);
  }

  async #put(digest: string, data: Uint8Array, references: Labels, origin: Origin, lease: string): Promise<void> {
    const kept = this.#keptBy(lease);
    for (let attempt = 1; ; attempt += 1) {
      try {
        if (attempt > 1 || !kept.has(digest)) {
          if (await this.#write(digest, data, { ...references, ...sourceLabel(origin, {}) }, lease)) break;
          // the failed write has put it under the lease already in the versions that were tried; this holds for all
          await this.#client.leases.AddResource({ id: lease, resource: { id: digest, type: 'content' } });
        }
        await this.#addLabels(digest, references, origin);
        break;
      } catch (error) {
        if (!isGrpcError(error, 'NOT_FOUND') || attempt === ATTEMPTS) throw refusal(error, digest, data);
      }
    }
    kept.add(digest);
  }

  /** The documents that this object has put under the lease. A job puts each before its layers, and again with its record. */
  #keptBy(lease: string): Set<string> {
    if (this.#kept.lease !== lease) this.#kept = { lease, digests: new Set() };
    return this.#kept.digests;
  }

  /** @returns `false` if the document is there already */
  async #write(expected: string, data: Uint8Array, labels: Labels, lease: string): Promise<boolean> {
    // two writers must not share the unfinished blob, and the lease removes it if this process dies
    const ref = `unpackd-${expected}-${randomBytes(8).toString('hex')}`;
    const request = { action: 'COMMIT', ref, total: data.length, expected, data, labels } as const;
    try {
      for await (const _ of this.#client.content.Write([request], { lease }));
      return true;
    } catch (error) {
      if (!isGrpcError(error, 'ALREADY_EXISTS')) throw error;
      return false;
    }
  }

  async #addLabels(digest: string, references: Labels, origin: Origin): Promise<void> {
    const { info } = await this.#client.content.Info({ digest });
    const there = info?.labels ?? {};
    const wanted = { ...references, ...sourceLabel(origin, there) };
    const labels = Object.fromEntries(Object.entries(wanted).filter(([key, value]) => there[key] !== value));
    const paths = Object.keys(labels).map((key) => `labels.${key}`);
    if (paths.length > 0) await this.#client.content.Update({ info: { digest, labels }, updateMask: { paths } });
  }

  async #labelsOf(digest: string): Promise<Labels | undefined> {
    return (await this.#client.content.Info({ digest }).catch(undefinedIfNotFound))?.info?.labels;
  }
}

/** The failure for a document that containerd refuses, and would refuse each time; any other error unchanged. */
function refusal(error: unknown, digest: string, { length }: Uint8Array): unknown {
  // before 2.3, each document is checked by its SHA-256, and the answer is FAILED_PRECONDITION
  if (isGrpcError(error, 'FAILED_PRECONDITION', 'INVALID_ARGUMENT') && !digest.startsWith('sha256:')) {
    return refused('push the image with SHA-256 digests');
  }
  if (isGrpcError(error, 'RESOURCE_EXHAUSTED', 'OUT_OF_RANGE')) {
    return refused('raise grpc.max_recv_message_size in its configuration, or make the image smaller');
  }
  return isGrpcError(error, 'INVALID_ARGUMENT') ? refused('look at its log') : error;

  function refused(advice: string): UnpackError {
    const why = error instanceof GrpcError ? error.details : String(error);
    return new UnpackError(
      'LIMIT_EXCEEDED',
      `containerd cannot keep document ${shortDigest(digest)} of the image, of ${length} bytes (${why}): ${advice}`,
      { cause: error },
    );
  }
}

/** The labels of a document for what it lists, numbered as containerd does it (core/images/handlers.go). */
function childLabels(document: ImageDocument): Labels {
  if (document.kind === 'index') {
    // a malformed entry keeps its number
    const children = document.manifests.flatMap(({ descriptor }, n) =>
      descriptor === undefined ? [] : [[`${REFERENCE}.m.${n}`, descriptor.digest] as const],
    );
    return Object.fromEntries(children);
  }
  const layers = document.layers.map(({ digest }, n) => [`${REFERENCE}.l.${n}`, digest] as const);
  return { [`${REFERENCE}.config`]: document.config.digest, ...Object.fromEntries(layers) };
}

/** The label with the repositories of a host from which a document can be fetched (containerd, core/remotes/docker/handler.go). */
function sourceLabel({ host, repository }: Origin, there: Labels): Labels {
  const key = `${DISTRIBUTION}${host}`;
  const repositories = new Set([...(there[key] ?? '').split(','), repository].filter((one) => one !== ''));
  const value = [...repositories].sort().join(',');
  return Buffer.byteLength(key) + Buffer.byteLength(value) <= MAX_LABEL_BYTES ? { [key]: value } : {};
}
