import type { ChildProcess, SpawnOptions } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePort } from './local-programs.ts';

/** The CNCF Distribution registry, Debian's `docker-registry`, for tests and benchmark. */
export interface Registry {
  /** `127.0.0.1:PORT`. */
  readonly address: string;
  readonly process: ChildProcess;
}

export interface RegistryOptions {
  /** The folder for the configuration file. */
  readonly folder: string;
  /** The section `storage` of the configuration. */
  readonly storage: Readonly<Record<string, unknown>>;
  /** Starts the program as a child that is killed when this process exits. */
  readonly start: (program: string, args: readonly string[], options: SpawnOptions) => ChildProcess;
}

/** Time limit in milliseconds for the start. */
const START_TIMEOUT = 120_000;

/**
 * @throws Error if the registry exits before it answers, or does not answer within two minutes; in the second case it
 * is killed
 */
export async function startRegistry({ folder, storage, start }: RegistryOptions): Promise<Registry> {
  const address = `127.0.0.1:${await freePort()}`;
  const config = join(folder, 'registry.yml');
  // JSON is YAML
  await writeFile(config, JSON.stringify({ version: 0.1, log: { level: 'error' }, storage, http: { addr: address } }));
  // the registry's S3 client refuses to start if a CA bundle is set
  const { AWS_CA_BUNDLE: _, ...env } = process.env;
  const child = start('docker-registry', ['serve', config], { env, stdio: 'ignore' });
  const deadline = performance.now() + START_TIMEOUT;
  while ((await fetch(`http://${address}/v2/`).catch(() => undefined))?.status !== 200) {
    if (child.exitCode !== null || performance.now() > deadline) {
      child.kill('SIGKILL');
      throw new Error(`docker-registry did not start on ${address}`);
    }
    await sleep(100);
  }
  return { address, process: child };
}
