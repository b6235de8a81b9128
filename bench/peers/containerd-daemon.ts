import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { atExit } from '../at-exit.ts';
import { onPath, run, versionOf } from '../commands.ts';
import { removeTree } from '../work-folder.ts';
import { Unavailable } from './contestant.ts';

/** The programs of one containerd, on the PATH or in a folder. */
export interface ContainerdPrograms {
  readonly containerd: string;
  readonly ctr: string;
  /** `1.6.20`, `2.2.0`. */
  readonly version: string;
  readonly major: number;
  readonly minor: number;
}

/** @param folder with `containerd` and `ctr`; default: the PATH @throws Unavailable */
export function findContainerd(folder?: string): ContainerdPrograms {
  const containerd = folder === undefined ? 'containerd' : join(folder, 'containerd');
  const line = versionOf(containerd);
  if (line === undefined) throw new Unavailable(`${containerd} is not installed (Debian: apt-get install containerd)`);
  if (process.getuid?.() !== 0) throw new Unavailable('containerd and its mounts need root');
  const [, major = '0', minor = '0', patch = '0'] = /\bv?(\d+)\.(\d+)\.(\d+)/.exec(line) ?? [];
  return {
    containerd,
    ctr: folder === undefined ? 'ctr' : join(folder, 'ctr'),
    version: `${major}.${minor}.${patch}`,
    major: Number(major),
    minor: Number(minor),
  };
}

export interface DaemonOptions {
  /** Layers that one pull unpacks at once: containerd 2.2 and later. */
  readonly parallelUnpacks?: number;
  /** Sockets of proxy snapshotters, by their names. */
  readonly proxies?: Readonly<Record<string, string>>;
}

const PATIENCE = 15_000;
const NAMESPACE = 'bench';
/** Plugins for Kubernetes, and snapshotters that need a file system of their own. */
const DISABLED = [
  'io.containerd.grpc.v1.cri',
  'io.containerd.cri.v1.images',
  'io.containerd.cri.v1.runtime',
  'io.containerd.internal.v1.opt',
  'io.containerd.internal.v1.restart',
  'io.containerd.nri.v1.nri',
  ...['aufs', 'btrfs', 'devmapper', 'zfs', 'blockfile', 'erofs'].map((name) => `io.containerd.snapshotter.v1.${name}`),
];

/** A containerd with its own socket and folders. It ends when this process ends. */
export class ContainerdDaemon {
  readonly programs: ContainerdPrograms;
  readonly #folder: string;
  readonly #child: ChildProcess;
  readonly socket: string;
  readonly namespace = NAMESPACE;

  private constructor(programs: ContainerdPrograms, folder: string, child: ChildProcess, socket: string) {
    this.programs = programs;
    this.#folder = folder;
    this.#child = child;
    this.socket = socket;
  }

  static async start(
    programs: ContainerdPrograms,
    folder: string,
    options: DaemonOptions = {},
  ): Promise<ContainerdDaemon> {
    const temporary = join(folder, 'tmp');
    await mkdir(temporary, { recursive: true });
    const socket = join(folder, 'containerd.sock');
    const config = join(folder, 'config.toml');
    await writeFile(config, configuration(folder, socket, options));
    const child = spawn(programs.containerd, ['--config', config], {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, TMPDIR: temporary, PATH: searchPath(programs) },
    });
    let log = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      log = (log + text).slice(-2000);
    });
    atExit(() => child.kill('SIGKILL'));
    const daemon = new ContainerdDaemon(programs, folder, child, socket);
    const deadline = performance.now() + PATIENCE;
    for (;;) {
      const answers = await daemon.ctr('version').then(
        () => true,
        () => false,
      );
      if (answers) return daemon;
      if (child.exitCode !== null || performance.now() > deadline) {
        child.kill('SIGKILL');
        throw new Error(`containerd ${programs.version} did not start: ${log.trim()}`);
      }
      await sleep(100);
    }
  }

  get pid(): number {
    return this.#child.pid ?? -1;
  }

  /** The folder of the snapshots of its overlayfs snapshotter. */
  get overlaySnapshots(): string {
    return join(this.#folder, 'root/io.containerd.snapshotter.v1.overlayfs/snapshots');
  }

  /** The command line of a ctr call, with the program. */
  command(...args: string[]): string[] {
    return [this.programs.ctr, '--address', this.socket, '--namespace', NAMESPACE, ...args];
  }

  ctr(...args: string[]): Promise<string> {
    const [program = '', ...rest] = this.command(...args);
    return run(program, rest);
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode === null) {
      const ended = new Promise((resolve) => this.#child.once('exit', resolve));
      this.#child.kill('SIGTERM');
      await Promise.race([ended, sleep(5000, undefined, { ref: false })]);
      this.#child.kill('SIGKILL');
    }
    removeTree(this.#folder);
  }
}

/** The shim is beside containerd, and runc on Debian where only the PATH of root has it. */
function searchPath({ containerd }: ContainerdPrograms): string {
  const own = containerd.includes('/') ? [dirname(containerd)] : [];
  return [...own, process.env.PATH ?? '', '/usr/sbin', '/sbin'].join(':');
}

function configuration(folder: string, socket: string, { parallelUnpacks, proxies = {} }: DaemonOptions): string {
  const parallel =
    parallelUnpacks === undefined
      ? ''
      : `[plugins."io.containerd.transfer.v1.local"]\n  max_concurrent_unpacks = ${parallelUnpacks}\n`;
  const plugins = Object.entries(proxies).map(
    ([name, address]) => `[proxy_plugins.${name}]\n  type = "snapshot"\n  address = ${JSON.stringify(address)}\n`,
  );
  return `version = 2
root = ${JSON.stringify(join(folder, 'root'))}
state = ${JSON.stringify(join(folder, 'state'))}
disabled_plugins = ${JSON.stringify(DISABLED)}
[grpc]
  address = ${JSON.stringify(socket)}
[ttrpc]
  address = ${JSON.stringify(`${socket}.ttrpc`)}
[debug]
  level = "error"
${parallel}${plugins.join('')}`;
}

/** The program that containerd uses for gzip: the first of its list on the PATH, or its own Go code. 1.x does not use igzip. */
export function gzipOf({ major }: ContainerdPrograms): string {
  return [...(major >= 2 ? ['igzip'] : []), 'unpigz'].find(onPath) ?? 'Go';
}
