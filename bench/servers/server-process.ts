import { type ChildProcess, spawn } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { atExit } from '../at-exit.ts';
import { onPath } from '../commands.ts';
import { Unavailable } from '../peers/contestant.ts';

/** A server of the bench's own, on loopback, that ends with this process. */
export interface ServerProcess {
  /** `127.0.0.1:PORT`. */
  readonly address: string;
  readonly pid: number;
  stop(): void;
}

export interface Throttle {
  readonly firstByteMs: number;
  readonly bytesPerSecond: number;
  /** Besides, before each range; default: none. */
  readonly rangeMs?: number;
}

/** What has been asked of a bucket. */
export interface BucketStatistics {
  readonly requests: number;
  readonly bytes: number;
  readonly mostAtOnce: number;
}

/** Serves `folder` as S3: its folders are the buckets. */
export async function startBucket(folder: string, throttle?: Throttle): Promise<ServerProcess> {
  const limits =
    throttle === undefined ? [] : [throttle.firstByteMs, throttle.bytesPerSecond, throttle.rangeMs ?? 0].map(String);
  const program = join(import.meta.dirname, 'static-s3.ts');
  const child = spawn(process.execPath, [program, folder, ...limits], { stdio: ['pipe', 'pipe', 'inherit'] });
  const { value: port } = await createInterface({ input: child.stdout })[Symbol.asyncIterator]().next();
  if (port === undefined) throw new Error('the S3 server did not start');
  return asServer(child, `127.0.0.1:${port}`);
}

/** What has been asked since the last call. */
export async function bucketStatistics(server: ServerProcess): Promise<BucketStatistics> {
  const response = await fetch(`http://${server.address}/-/statistics`);
  return (await response.json()) as BucketStatistics; // static-s3.ts writes it
}

/** What `unpackd` must know of the server to read from it. */
export function bucketEnvironment(server: ServerProcess): Record<string, string> {
  return {
    S3_ENDPOINT: `http://${server.address}`,
    AWS_REGION: 'us-east-1',
    AWS_ACCESS_KEY_ID: 'bench',
    AWS_SECRET_ACCESS_KEY: 'bench',
  };
}

/** The CNCF Distribution registry on a folder that has its files already. @throws Unavailable */
export async function startRegistry(folder: string, work: string): Promise<ServerProcess> {
  if (!onPath('docker-registry'))
    throw new Unavailable('docker-registry is not installed (Debian: apt-get install docker-registry)');
  const address = `127.0.0.1:${await freePort()}`;
  const config = join(work, 'registry.yml');
  const storage = { filesystem: { rootdirectory: folder }, cache: { blobdescriptor: 'inmemory' } };
  // JSON is YAML
  await writeFile(config, JSON.stringify({ version: 0.1, log: { level: 'error' }, storage, http: { addr: address } }));
  const child = spawn('docker-registry', ['serve', config], { stdio: 'ignore' });
  const server = asServer(child, address);
  for (let tries = 0; tries < 100; tries++) {
    const answer = await fetch(`http://${address}/v2/`).catch(() => undefined);
    if (answer?.status === 200) return server;
    await sleep(100);
  }
  server.stop();
  throw new Error('docker-registry did not start');
}

function asServer(child: ChildProcess, address: string): ServerProcess {
  const stop = () => void child.kill('SIGKILL');
  atExit(stop);
  return { address, pid: child.pid ?? -1, stop };
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (typeof address !== 'object' || address === null) throw new Error('there is no free port');
  return address.port;
}
