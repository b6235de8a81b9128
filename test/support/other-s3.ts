import { spawnSync } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { CreateBucketCommand } from '@aws-sdk/client-s3';
import { s3Client } from '../../src/source/s3-client.ts';
import { BUCKET, connectionTo } from './bucket.ts';
import { endChild, startChild } from './child.ts';
import { skipFor } from './present.ts';
import { scratch } from './scratch.ts';

/** S3 servers that other people wrote, with the bucket of tests. */
export interface OtherS3 extends AsyncDisposable {
  /** `http://127.0.0.1:PORT`. */
  readonly endpoint: string;
  readonly credentials: { readonly accessKeyId: string; readonly secretAccessKey: string };
}

/** The name below which Swift takes a bucket from the host. It does not resolve, so a test needs a proxy to reach it. */
export const S3_DOMAIN = 's3.test';

/** The system's own Python, because Debian's packages are only there. */
const PYTHON = '/usr/bin/python3';

/** The S3 interface of OpenStack Swift, in Python: the servers of a cluster with one disk, in one process. */
export const swift = {
  name: 'OpenStack Swift',
  bucketInHost: true,
  checksRegion: true,
  skip: skipFor(
    spawnSync(PYTHON, ['-c', 'import swift.common.middleware.s3api'], { stdio: 'ignore' }).status !== 0 &&
      'python3-swift is not installed',
  ),
  async start(): Promise<OtherS3> {
    const script = fileURLToPath(new URL('swift-server.py', import.meta.url));
    const credentials = { accessKeyId: 'test:tester', secretAccessKey: 'testing' };
    const server = await start(credentials, (folder) => [PYTHON, script, folder]);
    const client = s3Client(connectionTo(server.endpoint, { credentials }));
    try {
      await client.send(new CreateBucketCommand({ Bucket: BUCKET }));
    } catch (error) {
      await server[Symbol.asyncDispose]();
      throw error;
    } finally {
      client.destroy();
    }
    return server;
  },
};

/** A server of npm. It writes objects to files. The user and the password are fixed. */
export const s3rver = {
  name: 's3rver',
  skip: false as const,
  /** It checks the signature of a path with the bucket, which is right only in version 2. */
  bucketInHost: false,
  checksRegion: false,
  start: () =>
    start({ accessKeyId: 'S3RVER', secretAccessKey: 'S3RVER' }, (folder) => [
      process.execPath,
      '-e',
      // its package has no file for its command
      'require(require.resolve("@20minutes/s3rver/lib/cli.js")).parseAsync(["", "", ...process.argv.slice(1)])',
      '--',
      ...['--directory', folder, '--address', '127.0.0.1', '--port', '0'],
      ...['--configure-bucket', BUCKET],
    ]),
};

async function start(
  credentials: OtherS3['credentials'],
  command: (folder: string) => readonly string[],
): Promise<OtherS3> {
  await using opened = new AsyncDisposableStack();
  const folder = scratch();
  opened.defer(() => folder[Symbol.dispose]());
  const [program = '', ...args] = command(folder.path);
  const child = startChild(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  opened.defer(() => endChild(child));
  const port = await portIn(child);
  const keep = opened.move();
  return { endpoint: `http://127.0.0.1:${port}`, credentials, [Symbol.asyncDispose]: () => keep.disposeAsync() };
}

/** The number at the end of the first line that has one. @throws Error if the server ends before, with what it wrote */
async function portIn(child: ReturnType<typeof startChild>): Promise<number> {
  if (child.stdout === null || child.stderr === null) throw new TypeError('the output of the server is not read');
  let errors = '';
  // all of it is read, because a full pipe would stop the server
  child.stderr.on('data', (text) => {
    errors = `${errors}${text}`.slice(-2000);
  });
  const lines = createInterface({ input: child.stdout });
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  lines.on('line', (line) => {
    const port = /(?:^|:)(\d+)$/.exec(line)?.[1];
    if (port !== undefined) resolve(Number(port));
  });
  child.once('close', (code) => reject(new Error(`the server ended with ${code}: ${errors}`)));
  return promise;
}
