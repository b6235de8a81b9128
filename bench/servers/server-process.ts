import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { startRegistry as start } from '../../dev/registry.ts';
import { atExit } from '../at-exit.ts';
import { onPath } from '../commands.ts';
import { Unavailable } from '../peers/contestant.ts';

/** A server on loopback that the benchmark has started. It ends when this process ends. */
export interface ServerProcess {
  /** `127.0.0.1:PORT`. */
  readonly address: string;
  readonly pid: number;
  stop(): void;
}

export interface Throttle {
  readonly firstByteMs: number;
  readonly bytesPerSecond: number;
  /** An additional wait before each range. Default: none. */
  readonly rangeMs?: number;
}

/** The requests that a bucket has answered. */
export interface BucketStatistics {
  readonly requests: number;
  readonly bytes: number;
  readonly mostAtOnce: number;
}

/** Serves `folder` as S3. Its folders are the buckets. */
export async function startBucket(folder: string, throttle?: Throttle): Promise<ServerProcess> {
  const limits =
    throttle === undefined ? [] : [throttle.firstByteMs, throttle.bytesPerSecond, throttle.rangeMs ?? 0].map(String);
  const program = join(import.meta.dirname, 'static-s3.ts');
  const child = spawn(process.execPath, [program, folder, ...limits], { stdio: ['pipe', 'pipe', 'inherit'] });
  const { value: port } = await createInterface({ input: child.stdout })[Symbol.asyncIterator]().next();
  if (port === undefined) throw new Error('the S3 server did not start');
  return asServer(child, `127.0.0.1:${port}`);
}

/** The statistics since the last call. */
export async function bucketStatistics(server: ServerProcess): Promise<BucketStatistics> {
  const response = await fetch(`http://${server.address}/-/statistics`);
  return (await response.json()) as BucketStatistics; // static-s3.ts writes it
}

/** The settings that `unpackd` needs to read from the server. */
export function bucketEnvironment(server: ServerProcess): Record<string, string> {
  return {
    S3_ENDPOINT: `http://${server.address}`,
    AWS_REGION: 'us-east-1',
    AWS_ACCESS_KEY_ID: 'bench',
    AWS_SECRET_ACCESS_KEY: 'bench',
  };
}

/** Starts the CNCF Distribution registry on a folder that already has its files. @throws Unavailable */
export async function startRegistry(folder: string, work: string): Promise<ServerProcess> {
  if (!onPath('docker-registry'))
    throw new Unavailable('docker-registry is not installed (Debian: apt-get install docker-registry)');
  const storage = { filesystem: { rootdirectory: folder }, cache: { blobdescriptor: 'inmemory' } };
  const registry = await start({ folder: work, storage, start: spawn });
  return asServer(registry.process, registry.address);
}

function asServer(child: ChildProcess, address: string): ServerProcess {
  const stop = () => void child.kill('SIGKILL');
  atExit(stop);
  return { address, pid: child.pid ?? -1, stop };
}
