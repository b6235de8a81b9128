import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startRegistry as start } from '../../dev/registry.ts';
import type { S3Server } from '../../dev/s3/server.ts';
import { endChild, startChild } from './child.ts';

/** The CNCF Distribution registry with its S3 driver. */
export interface Registry {
  /** `http://HOST:PORT`. */
  readonly origin: string;
  close(): Promise<void>;
}

/** Starts a registry that keeps its blobs in `bucket` of an S3 server, under `prefix`. */
export async function startRegistry(server: S3Server, bucket: string, prefix: string): Promise<Registry> {
  const folder = await mkdtemp(join(tmpdir(), 'unpackd-registry-'));
  const s3 = {
    region: server.region,
    regionendpoint: server.endpoint,
    bucket,
    accesskey: server.accessKeyId,
    secretkey: server.secretAccessKey,
    secure: false,
    rootdirectory: `/${prefix}`,
  };
  try {
    const storage = { s3, redirect: { disable: true } };
    const registry = await start({ folder, storage, start: startChild });
    return {
      origin: `http://${registry.address}`,
      async close() {
        await endChild(registry.process);
        await rm(folder, { recursive: true, force: true });
      },
    };
  } catch (error) {
    await rm(folder, { recursive: true, force: true });
    throw error;
  }
}
