import { type ChildProcess, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { connectContainerd } from '../../src/grpc/client.ts';
import { isGrpcError } from '../../src/grpc/errors.ts';
import { unmountSnapshot } from '../../src/system/mount.ts';
import { mountsBelow } from '../conformance/containerd.ts';
import { endChild, removeWithProcess, startChild } from '../support/child.ts';
import { skipFor } from '../support/present.ts';

/** Real containerds for the tests, each with a root, a state and a socket of its own below a scratch directory. */

/** A program on this machine. */
export interface ContainerdProgram {
  readonly path: string;
  /** Such as `1.6.20`. */
  readonly version: string;
}

/** The machine's containerd, and the newer one that CONFORMANCE_CONTAINERD names. */
export const PROGRAMS: readonly ContainerdProgram[] = ['containerd', process.env.CONFORMANCE_CONTAINERD ?? '']
  .filter((path, index, all) => path !== '' && all.indexOf(path) === index)
  .flatMap((path) => {
    const { status, stdout } = spawnSync(path, ['--version'], { encoding: 'utf8' });
    const version = status === 0 ? stdout.split(' ')[2]?.trim().replace(/^v/, '') : undefined;
    return version === undefined ? [] : [{ path, version }];
  });

/** The reason to skip a test of containerd. @throws Error with `CI=true` if there is one */
export function skipWithoutContainerd(): string | false {
  if (process.getuid?.() !== 0) return skipFor('containerd needs root');
  return skipFor(PROGRAMS.length === 0 && 'containerd is not installed: apt-get install containerd');
}

/** Milliseconds that containerd may take to start on a busy machine. */
const PATIENCE = 120_000;

export interface DaemonOptions {
  /** What is added to the configuration, in TOML. */
  readonly configuration?: string;
  /** Plugins that are not needed; names that a version does not know are ignored. */
  readonly disabled?: readonly string[];
  /** Where its directories are; a directory below the system's temporary one if it is absent. */
  readonly below?: string;
}

/** Plugins that only containers and pods need, and snapshotters that need more than a directory. */
export const NO_CRI: readonly string[] = [
  'io.containerd.grpc.v1.cri',
  'io.containerd.cri.v1.images',
  'io.containerd.cri.v1.runtime',
  'io.containerd.nri.v1.nri',
  'io.containerd.internal.v1.opt',
  ...['aufs', 'blockfile', 'btrfs', 'devmapper', 'erofs', 'zfs'].map((name) => `io.containerd.snapshotter.v1.${name}`),
];

/** A running containerd. It ends with the test's process. */
export class Daemon {
  readonly version: string;
  readonly directory: string;
  readonly socket: string;
  readonly #program: string;
  #child: ChildProcess | undefined;
  #log = '';

  private constructor({ path, version }: ContainerdProgram, directory: string) {
    this.#program = path;
    this.version = version;
    this.directory = directory;
    this.socket = join(directory, 'containerd.sock');
  }

  /** @throws Error with the log if it does not start */
  static async start(program: ContainerdProgram, options: DaemonOptions = {}): Promise<Daemon> {
    const { configuration = '', disabled = NO_CRI, below = tmpdir() } = options;
    const directory = mkdtempSync(join(below, 'unpackd-containerd-'));
    removeWithProcess(directory);
    mkdirSync(join(directory, 'tmp'));
    const daemon = new Daemon(program, directory);
    const lines = [
      'version = 2', // 1.6 and 2.x read it
      `root = ${JSON.stringify(join(directory, 'root'))}`,
      `state = ${JSON.stringify(join(directory, 'state'))}`,
      `disabled_plugins = ${JSON.stringify(disabled)}`,
      `[grpc]\naddress = ${JSON.stringify(daemon.socket)}`,
      `[ttrpc]\naddress = ${JSON.stringify(`${daemon.socket}.ttrpc`)}`,
      '[debug]\nlevel = "warn"',
      configuration,
    ];
    writeFileSync(join(directory, 'config.toml'), `${lines.join('\n')}\n`);
    await daemon.start();
    return daemon;
  }

  /** Starts it again after `kill`. It has the same directories. */
  async start(): Promise<void> {
    const child = startChild(this.#program, ['--config', join(this.directory, 'config.toml')], {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, TMPDIR: join(this.directory, 'tmp') },
    });
    this.#child = child;
    child.stderr?.on('data', (piece: Buffer) => {
      this.#log = (this.#log + piece.toString()).slice(-8000);
    });
    const client = connectContainerd({ socket: this.socket, namespace: 'default' });
    const end = performance.now() + PATIENCE;
    try {
      for (;;) {
        try {
          await client.version.Version({}, { deadline: 5000 });
          return;
        } catch (error) {
          if (!isGrpcError(error, 'UNAVAILABLE', 'DEADLINE_EXCEEDED')) throw error;
          if (child.exitCode !== null || performance.now() > end) {
            await endChild(child);
            throw new Error(`containerd did not start: ${this.#log}`, { cause: error });
          }
          await sleep(50);
        }
      }
    } finally {
      client.close();
    }
  }

  /** The process, to send it signals. */
  get pid(): number {
    const pid = this.#child?.pid;
    if (pid === undefined) throw new Error('containerd does not run');
    return pid;
  }

  /** The last lines that it has logged. */
  get log(): string {
    return this.#log;
  }

  /** Ends it by SIGKILL. */
  async kill(): Promise<void> {
    if (this.#child !== undefined) await endChild(this.#child);
    this.#child = undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    for (const mountPoint of mountsBelow(this.directory)) await unmountSnapshot(mountPoint);
    rmSync(this.directory, { recursive: true, force: true });
  }
}
