import { mkdtemp } from 'node:fs/promises';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { removeTree } from '../src/system/remove-tree.ts';
import { answerMissingCall, listInOrder, type S3rverStore, writeWholeObjects } from './s3-calls.ts';

export interface S3ServerOptions {
  /** Where the objects are kept. Default: a temporary folder that `close` removes. */
  readonly directory?: string;
  /** Default: any free port. */
  readonly port?: number;
  /** Created at the start; existing ones stay as they are. */
  readonly buckets: readonly string[];
}

export interface S3Server {
  /** `http://127.0.0.1:PORT`; buckets are in the path. */
  readonly endpoint: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly region: string;
  /** Ends open connections too. */
  close(): Promise<void>;
}

/** The part of s3rver, which has no types of its own, that is used here. */
interface S3rver {
  callback(): RequestListener;
  configureBuckets(): Promise<unknown>;
  readonly store: S3rverStore;
}
type S3rverConstructor = new (options: Readonly<Record<string, unknown>>) => S3rver;

/**
 * An S3 server inside this process, for demos, tests and benches: no container, no account. It listens on loopback
 * only.
 * @throws Error that says what to install where s3rver, a development dependency, is missing
 */
export async function startS3Server(options: S3ServerOptions): Promise<S3Server> {
  const S3rver = await loadS3rver();
  const temporary = options.directory === undefined ? await mkdtemp(join(tmpdir(), 'unpackd-s3-')) : undefined;
  const app = (settings: Readonly<Record<string, unknown>> = {}) =>
    new S3rver({
      directory: options.directory ?? temporary,
      silent: true,
      vhostBuckets: false,
      configureBuckets: options.buckets.map((name) => ({ name })),
      ...settings,
    });
  const forObjects = app();
  // s3rver drops the slash of "/bucket/" before it computes the signature, and so believes no SDK there
  const forBuckets = app({ allowMismatchedSignatures: true });
  await forObjects.configureBuckets();
  writeWholeObjects(forObjects.store);
  listInOrder(forBuckets.store);
  const objects = forObjects.callback();
  const buckets = forBuckets.callback();
  const server = createServer((request, response) => {
    answerMissingCall(forObjects.store, request, response).then(
      (answered) => answered || (isBucket(request.url) ? buckets : objects)(request, response),
      () => response.writeHead(500).end(),
    );
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(options.port ?? 0, '127.0.0.1', resolve);
  });
  return {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, // a TCP server's address is never a string
    accessKeyId: 'S3RVER',
    secretAccessKey: 'S3RVER',
    region: 'us-east-1',
    async close() {
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      });
      if (temporary !== undefined) await removeTree(temporary);
    },
  };
}

const isBucket = (url = ''): boolean => /^\/[^/?]*\/?(\?|$)/.test(url);

async function loadS3rver(): Promise<S3rverConstructor> {
  const name: string = '@20minutes/s3rver'; // in a variable, so that the compiler does not look for types that do not exist
  try {
    const module: { readonly default: S3rverConstructor } = await import(name);
    return module.default;
  } catch (cause) {
    throw new Error(
      'the embedded S3 server needs the package @20minutes/s3rver: install it with "npm install --save-dev @20minutes/s3rver"',
      { cause },
    );
  }
}
