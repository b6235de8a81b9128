import { randomBytes } from 'node:crypto';
import { UnpackError } from '../../errors.ts';
import type { ContainerdClient } from '../../grpc/client.ts';
import { isGrpcError, undefinedIfNotFound } from '../../grpc/errors.ts';
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

  constructor(client: ContainerdClient, snapshotter: string) {
    this.#client = client;
    this.#snapshotLabel = `containerd.io/gc.ref.snapshot.${snapshotter}`;
  }

  /**
   * Writes a manifest or an index, unless it is there, and its labels.
   * @param lease keeps it until an image leads to it
   * @returns the document
   * @throws GrpcError; UnpackError LIMIT_EXCEEDED for a digest that this containerd does not know
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
    for (let attempt = 1; ; attempt += 1) {
      try {
        await this.#write(digest, data, { ...references, ...sourceLabel(origin, {}) }, lease);
        return;
      } catch (error) {
        if (!isGrpcError(error, 'ALREADY_EXISTS')) throw error;
      }
      // the failed write has put it under the lease already in the versions that were tried; this holds for all
      await this.#client.leases.AddResource({ id: lease, resource: { id: digest, type: 'content' } });
      try {
        await this.#addLabels(digest, references, origin);
        return;
      } catch (error) {
        if (!isGrpcError(error, 'NOT_FOUND') || attempt === ATTEMPTS) throw error;
      }
    }
  }

  async #write(expected: string, data: Uint8Array, labels: Labels, lease: string): Promise<void> {
    // two writers must not share the unfinished blob, and the lease removes it if this process dies
    const ref = `unpackd-${expected}-${randomBytes(8).toString('hex')}`;
    const request = { action: 'COMMIT', ref, total: data.length, expected, data, labels } as const;
    try {
      for await (const _ of this.#client.content.Write([request], { lease }));
    } catch (error) {
      if (!isGrpcError(error, 'FAILED_PRECONDITION') || expected.startsWith('sha256:')) throw error;
      // containerd 1.6 and 2.1 check each document by its SHA-256
      throw new UnpackError(
        'LIMIT_EXCEEDED',
        `containerd cannot keep document ${shortDigest(expected)} of the image (${error.details}): push the image with SHA-256 digests`,
        { cause: error },
      );
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
