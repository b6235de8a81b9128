import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { S3Server } from '../../dev/s3/server.ts';
import { endChild, startChild } from './child.ts';

/** The CNCF Distribution registry itself, with its S3 driver. */
export interface Registry {
  /** `http://HOST:PORT`. */
  readonly origin: string;
  close(): Promise<void>;
}

/** Starts a registry that keeps its blobs in `bucket` of an S3 server, under `prefix`. */
export async function startRegistry(server: S3Server, bucket: string, prefix: string): Promise<Registry> {
  const folder = await mkdtemp(join(tmpdir(), 'unpackd-registry-'));
  const address = `127.0.0.1:${await freePort()}`;
  const origin = `http://${address}`;
  const s3 = {
    region: server.region,
    regionendpoint: server.endpoint,
    bucket,
    accesskey: server.accessKeyId,
    secretkey: server.secretAccessKey,
    secure: false,
    rootdirectory: `/${prefix}`,
  };
  const config = {
    version: 0.1,
    log: { level: 'error' },
    storage: { s3, redirect: { disable: true } },
    http: { addr: address },
  };
  await writeFile(join(folder, 'config.yml'), JSON.stringify(config)); // JSON is YAML
  // its S3 client refuses to start where a CA bundle is set
  const { AWS_CA_BUNDLE: _, ...env } = process.env;
  const registry = startChild('docker-registry', ['serve', join(folder, 'config.yml')], { env, stdio: 'ignore' });
  const close = async (): Promise<void> => {
    await endChild(registry);
    await rm(folder, { recursive: true, force: true });
  };
  try {
    for (let tries = 0; (await fetch(`${origin}/v2/`).catch(() => undefined))?.status !== 200; tries += 1) {
      assert.ok(tries < 1200 && registry.exitCode === null, 'the registry did not start');
      await sleep(100);
    }
  } catch (error) {
    await close();
    throw error;
  }
  return { origin, close };
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return typeof address === 'object' && address !== null ? address.port : assert.fail('no port');
}
