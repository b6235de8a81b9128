import { createReadStream, readFileSync, statSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { listen } from '../../dev/local-programs.ts';
import { REF_NAME } from '../../src/oci/image-index.ts';

/** What is read of a manifest or an index. */
interface Document {
  readonly mediaType: string;
  readonly layers?: readonly { readonly digest: string }[];
  readonly manifests?: readonly {
    readonly digest: string;
    readonly annotations?: Readonly<Record<string, string>>;
  }[];
}

/** A registry that only reads. Each repository is an OCI image layout, and it counts the bytes of layers that it sends. */
export class LayoutRegistry implements AsyncDisposable {
  /** `127.0.0.1:PORT`. containerd takes plain HTTP for such an address. */
  readonly address: string;
  readonly #server: Server;
  readonly #layouts: Readonly<Record<string, string>>;
  readonly #sent = new Map<string, number>();

  private constructor(server: Server, port: number, layouts: Readonly<Record<string, string>>) {
    this.#server = server;
    this.address = `127.0.0.1:${port}`;
    this.#layouts = layouts;
  }

  /** @param layouts directories by the name of the repository */
  static async start(layouts: Readonly<Record<string, string>>): Promise<LayoutRegistry> {
    const server = createServer();
    const registry = new LayoutRegistry(server, await listen(server), layouts);
    server.on('request', (request, response) => {
      registry.#answer(request, response).catch(() => response.destroy());
    });
    return registry;
  }

  /** Bytes of layers that were sent since the last call, of one repository. */
  takeLayerBytes(repository: string): number {
    const sent = this.#sent.get(repository) ?? 0;
    this.#sent.delete(repository);
    return sent;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #answer({ url = '', method, headers }: IncomingMessage, response: ServerResponse): Promise<void> {
    const [, repository = '', kind, reference = ''] = /^\/v2\/([^?]+)\/(manifests|blobs)\/([^?/]+)/.exec(url) ?? [];
    if (kind === undefined) return void response.writeHead(url.startsWith('/v2/') ? 200 : 404).end();
    const layout = this.#layouts[repository];
    const digest = kind === 'manifests' && layout !== undefined ? digestIn(layout, reference) : reference;
    const path = layout === undefined || digest === undefined ? undefined : blobIn(layout, digest);
    const size = path === undefined ? undefined : statSync(path, { throwIfNoEntry: false })?.size;
    if (layout === undefined || digest === undefined || path === undefined || size === undefined) {
      return void response.writeHead(404).end();
    }
    const start = Number(/^bytes=(\d+)-/.exec(headers.range ?? '')?.[1] ?? 0);
    response.writeHead(start === 0 ? 200 : 206, {
      'content-type': kind === 'manifests' ? read(path).mediaType : 'application/octet-stream',
      'content-length': size - start,
      'docker-content-digest': digest,
      ...(start === 0 ? {} : { 'content-range': `bytes ${start}-${size - 1}/${size}` }),
    });
    if (method === 'HEAD') return void response.end();
    const isLayer = kind === 'blobs' && layersIn(layout).has(digest);
    const content = createReadStream(path, { start });
    content.on('data', (piece) => {
      if (isLayer) this.#sent.set(repository, (this.#sent.get(repository) ?? 0) + piece.length);
    });
    await pipeline(content, response);
  }
}

/** The digest of a tag, or the digest itself. */
function digestIn(layout: string, reference: string): string | undefined {
  if (reference.includes(':')) return reference;
  const { manifests = [] } = read(join(layout, 'index.json'));
  return manifests.find(({ annotations }) => annotations?.[REF_NAME] === reference)?.digest;
}

function layersIn(layout: string): Set<string> {
  const visit = ({ layers = [], manifests = [] }: Document): string[] => [
    ...layers.map(({ digest }) => digest),
    ...manifests.flatMap(({ digest }) => visit(read(blobIn(layout, digest)))),
  ];
  return new Set(visit(read(join(layout, 'index.json'))));
}

const blobIn = (layout: string, digest: string): string => join(layout, 'blobs', ...digest.split(':'));

const read = (path: string): Document => JSON.parse(readFileSync(path, 'utf8'));
