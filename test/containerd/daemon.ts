import { type ChildProcess, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, globSync, mkdirSync, mkdtempSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { type ContainerdClient, connectContainerd } from '../../src/grpc/client.ts';
import { isGrpcError } from '../../src/grpc/errors.ts';
import { unmountSnapshot } from '../../src/system/mount.ts';
import { type Finished, finished } from '../cli/run-cli.ts';
import { endChild, removeWithProcess, startChild } from '../support/child.ts';
import { eventually } from '../support/eventually.ts';
import { skipFor } from '../support/present.ts';
import { collect } from './collect.ts';
import { type Machine, startMachine } from './machine.ts';

/** Real containerds for the tests, each with a root, a state and a socket of its own below a scratch directory. */

/** A program on this machine. */
export interface ContainerdProgram {
  /** Its folder has `ctr` and the shim too. */
  readonly path: string;
  /** Such as `1.6.20`, with the suffix of a distribution or a pre-release. */
  readonly version: string;
}

/** The path of a newer containerd; `none` if .ci/run could not reach the archive that has it. */
const NEWER = process.env.CONFORMANCE_CONTAINERD ?? '';
const UNREACHABLE = 'none';

/** The machine's containerd, and the newer one that CONFORMANCE_CONTAINERD names (.ci/later-suite). */
export const PROGRAMS: readonly ContainerdProgram[] = ['containerd', NEWER]
  .filter((path, index, all) => path !== '' && all.indexOf(path) === index)
  .flatMap((path) => {
    const { status, stdout } = spawnSync(path, ['--version'], { encoding: 'utf8' });
    // `containerd github.com/containerd/containerd/v2 2.3.4 ID`, the version with or without a `v` before it
    const version = status === 0 ? stdout.split(' ')[2]?.trim().replace(/^v/, '') : undefined;
    return version === undefined ? [] : [{ path, version }];
  });

/** On Debian, runc is in a folder that only the PATH of root has. */
const PATH = `${process.env.PATH ?? ''}:/usr/sbin:/sbin`;

/** The reason to skip a test of containerd. @throws Error with `CI=true` if there is one */
export function skipWithoutContainerd(): string | false {
  if (process.getuid?.() !== 0) return skipFor('containerd needs root');
  const runs = PROGRAMS.some(({ path }) => path === NEWER);
  if (NEWER !== '' && NEWER !== UNREACHABLE && !runs) return skipFor(`CONFORMANCE_CONTAINERD=${NEWER} does not run`);
  return skipFor(PROGRAMS.length === 0 && 'containerd is not installed: apt-get install containerd');
}

/**
 * The reason to skip a test that starts containers.
 * @throws Error with `CI=true` if there is one, or if there is no containerd 2.x although the archive was reached
 */
export function skipWithoutContainers(): string | false {
  const missing = skipWithoutContainerd();
  if (missing !== false) return missing;
  for (const [program, argument] of [
    ['runc', '--version'],
    ['busybox', 'true'],
  ] as const) {
    if (spawnSync(program, [argument], { env: { PATH } }).status !== 0) {
      return skipFor(`${program} does not run: apt-get install runc busybox-static`);
    }
  }
  const hasNewer = PROGRAMS.some(({ version }) => isSince(version, '2.0'));
  if (process.env.CI === 'true' && !hasNewer && NEWER !== UNREACHABLE)
    return skipFor('CONFORMANCE_CONTAINERD names no containerd 2.x');
  const { status } = spawnSync('unshare', ['--mount', '--pid', '--fork', '--mount-proc', 'true'], { stdio: 'ignore' });
  return skipFor(status !== 0 && 'PID and mount namespaces can not be made here');
}

/** Whether a version is that release (`2.4`), one of its pre-releases or a later one. */
export function isSince(version: string, release: `${number}.${number}`): boolean {
  const [major = 0, minor = 0] = version.split('.').map((part) => Number.parseInt(part, 10));
  const [wantedMajor = 0, wantedMinor = 0] = release.split('.').map(Number);
  return major > wantedMajor || (major === wantedMajor && minor >= wantedMinor);
}

export interface DaemonOptions {
  /** Serve CRI and run containers, in a `Machine`. */
  readonly containers?: { readonly pauseImage: string };
  /** What is added to the configuration, in TOML. */
  readonly configuration?: string;
  /** What is added to its table `grpc`. */
  readonly grpc?: string;
  /** Plugins that are not needed; names that a version does not know are ignored. */
  readonly disabled?: readonly string[];
  /** Where its directories are; a directory below the system's temporary one if it is absent. */
  readonly below?: string;
}

const NEEDLESS = ['aufs', 'blockfile', 'btrfs', 'devmapper', 'erofs', 'zfs'].map(
  (name) => `io.containerd.snapshotter.v1.${name}`,
);
/** Plugins that only containers and pods need, and snapshotters that need more than a directory. */
export const NO_CRI: readonly string[] = [
  'io.containerd.grpc.v1.cri',
  'io.containerd.cri.v1.images',
  'io.containerd.cri.v1.runtime',
  'io.containerd.nri.v1.nri',
  'io.containerd.internal.v1.opt',
  ...NEEDLESS,
];

/** A running containerd. It ends with the test's process, and its containers do too. */
export class Daemon {
  readonly version: string;
  readonly directory: string;
  readonly socket: string;
  readonly #program: string;
  #machine: Machine | undefined;
  readonly #clients = new Map<string, ContainerdClient>();
  #child: ChildProcess | undefined;
  #log = '';

  private constructor({ path, version }: ContainerdProgram, directory: string, machine: Machine | undefined) {
    this.#program = path;
    this.version = version;
    this.directory = directory;
    this.socket = join(directory, 'containerd.sock');
    this.#machine = machine;
  }

  /** @throws Error with the log if it does not start */
  static async start(program: ContainerdProgram, options: DaemonOptions = {}): Promise<Daemon> {
    const { containers, configuration = '', grpc = '', below = tmpdir() } = options;
    const disabled = options.disabled ?? (containers === undefined ? NO_CRI : NEEDLESS);
    const directory = mkdtempSync(join(below, 'unpackd-containerd-'));
    removeWithProcess(directory);
    mkdirSync(join(directory, 'tmp'));
    const daemon = new Daemon(program, directory, containers && (await startMachine()));
    const lines = [
      'version = 2', // 1.6 and 2.x read it
      `root = ${JSON.stringify(join(directory, 'root'))}`,
      `state = ${JSON.stringify(join(directory, 'state'))}`,
      `disabled_plugins = ${JSON.stringify(disabled)}`,
      `[grpc]\naddress = ${JSON.stringify(daemon.socket)}\n${grpc}`,
      `[ttrpc]\naddress = ${JSON.stringify(`${daemon.socket}.ttrpc`)}`,
      '[debug]\nlevel = "warn"',
      ...(containers === undefined ? [] : containerLines(directory, containers.pauseImage)),
      configuration,
    ];
    writeFileSync(join(directory, 'config.toml'), `${lines.join('\n')}\n`);
    try {
      await daemon.start();
    } catch (error) {
      await daemon[Symbol.asyncDispose]();
      throw error;
    }
    return daemon;
  }

  /** Starts it again after `kill`. It has the same directories. */
  async start(): Promise<void> {
    const child = this.#run([this.#program, '--config', join(this.directory, 'config.toml')], 'ignore');
    this.#child = child;
    child.stderr?.on('data', (piece: Buffer) => {
      this.#log = (this.#log + piece.toString()).slice(-8000);
    });
    const client = connectContainerd({ socket: this.socket, namespace: 'default' });
    try {
      await eventually('containerd answers', async () => {
        if (child.exitCode !== null) throw new Error(`containerd ${this.version} did not start: ${this.#log}`);
        try {
          return await client.version.Version({}, { deadline: 5000 });
        } catch (error) {
          if (!isGrpcError(error, 'UNAVAILABLE', 'DEADLINE_EXCEEDED')) throw error;
          return undefined;
        }
      });
    } finally {
      client.close();
    }
  }

  /** The process, to send it signals; of a daemon with containers the command that waits for it. */
  get pid(): number {
    const pid = this.#child?.pid;
    if (pid === undefined) throw new Error('containerd does not run');
    return pid;
  }

  /** The last lines that it has logged. */
  get log(): string {
    return this.#log;
  }

  /** The parent of the control groups of its containers. Removed with the daemon. */
  get cgroup(): string {
    return `/${basename(this.directory)}`;
  }

  /** Ends it by SIGKILL. Its containers go on. */
  async kill(): Promise<void> {
    if (this.#child !== undefined) await endChild(this.#child);
    this.#child = undefined;
  }

  /** It and its containers end at once, with all that is in /run, as in a power cut. */
  async powerOff(): Promise<void> {
    await this.kill();
    await this.#machine?.end();
  }

  /** Starts it again after `powerOff`, on a machine that has just started. */
  async boot(): Promise<void> {
    rmSync(join(this.directory, 'state'), { recursive: true, force: true });
    rmSync(this.socket, { force: true });
    if (this.#machine !== undefined) this.#machine = await startMachine();
    await this.start();
  }

  /** Ends it by SIGTERM, as systemd does, and starts it again. Its containers go on. */
  async restart(): Promise<void> {
    const child = this.#child;
    if (child !== undefined) {
      const exit = once(child, 'exit');
      process.kill(-this.pid, 'SIGTERM'); // the group, because the first process may be nsenter
      await exit;
      await endChild(child);
    }
    await this.start();
  }

  /** A client for one of containerd's namespaces. It connects again after a restart, and ends with the daemon. */
  client(namespace: string): ContainerdClient {
    const known = this.#clients.get(namespace);
    if (known !== undefined) return known;
    const client = connectContainerd({ socket: this.socket, namespace });
    this.#clients.set(namespace, client);
    return client;
  }

  /** Runs `ctr ARGS` in a namespace. The caller looks at its status. */
  tryCtr(namespace: string, ...args: readonly string[]): Promise<Finished> {
    const program = this.#program.includes('/') ? join(dirname(this.#program), 'ctr') : 'ctr';
    return finished(this.#run([program, '--address', this.socket, '--namespace', namespace, ...args], 'pipe'));
  }

  /** What `ctr ARGS` prints. @throws Error with what it complains about */
  async ctr(namespace: string, ...args: readonly string[]): Promise<string> {
    const { status, signal, stdout, stderr } = await this.tryCtr(namespace, ...args);
    if (status === 0) return stdout;
    throw new Error(`ctr ${args.join(' ')}: ${signal ?? status}: ${stderr || stdout}`);
  }

  /** Lets containerd collect garbage, and waits for the end of it. */
  collect(): Promise<void> {
    return collect(this.client('default'));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients.values()) client.close();
    await this.kill();
    await this.#machine?.end();
    for (const mountPoint of mountsBelow(this.directory)) await unmountSnapshot(mountPoint);
    rmSync(this.directory, { recursive: true, force: true });
    const groups = globSync([`/sys/fs/cgroup/*${this.cgroup}/**/`, `/sys/fs/cgroup${this.cgroup}/**/`]);
    for (const group of groups.sort().reverse()) {
      // the kernel takes a killed process out of its group a moment later
      await eventually(`${group} is empty`, () => isRemoved(group));
    }
  }

  /** In the machine, if there is one. */
  #run(command: readonly string[], stdout: 'pipe' | 'ignore'): ChildProcess {
    const [program = '', ...args] = [...(this.#machine?.command ?? []), ...command];
    // the folder of the program has its shim
    const path = this.#program.includes('/') ? `${dirname(this.#program)}:${PATH}` : PATH;
    const env = { ...process.env, PATH: path, TMPDIR: join(this.directory, 'tmp') };
    return startChild(program, args, { stdio: ['ignore', stdout, 'pipe'], env });
  }
}

/** Without CAP_SYS_RESOURCE, nobody may lower the OOM score of a pod. */
function containerLines(directory: string, pauseImage: string): string[] {
  const path = (name: string) => JSON.stringify(join(directory, name));
  return [
    '[plugins."io.containerd.grpc.v1.cri"]',
    'restrict_oom_score_adj = true',
    'stream_server_port = "0"',
    `sandbox_image = ${JSON.stringify(pauseImage)}`,
    `[plugins."io.containerd.grpc.v1.cri".cni]\nbin_dir = ${path('cni')}\nconf_dir = ${path('cni')}`,
    `[plugins."io.containerd.internal.v1.opt"]\npath = ${path('opt')}`,
    '[plugins."io.containerd.nri.v1.nri"]\ndisable = true',
  ];
}

function isRemoved(group: string): boolean {
  try {
    rmdirSync(group);
    return true;
  } catch {
    return !existsSync(group);
  }
}

/** Mount points below a directory, innermost first. */
export function mountsBelow(directory: string): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .flatMap((line) => line.split(' ')[4] ?? [])
    .filter((path) => path.startsWith(`${directory}/`))
    .reverse();
}
