import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process';
import { existsSync, globSync } from 'node:fs';
import { mkdir, rmdir, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { connectContainerd } from '../../src/grpc/client.ts';
import { isGrpcError } from '../../src/grpc/errors.ts';
import { endProgram, findProgram, PATH_OF_ROOT, unrefPipe } from '../local-programs.ts';

/**
 * A containerd of its own for the demo's last step. It runs in a PID and a mount namespace: when the demo ends in any way, the
 * kernel kills its containers and unmounts what they had. The containerd of the machine is neither used nor changed.
 */
export interface LocalContainerd {
  /** Such as `1.6.20`. */
  readonly version: string;
  readonly socket: string;
  /** Runs a command of `ctr`. @returns what it prints @throws Error with what it complains about */
  ctr(...args: readonly string[]): Promise<string>;
  /** Runs a command in a container of an image. @returns what it prints @throws Error with what it complains about */
  run(image: string, command: readonly string[]): Promise<string>;
  stop(): Promise<void>;
}

/** The namespace of containerd that `ctr` uses by itself. */
export const NAMESPACE = 'default';

const PROGRAMS = ['containerd', 'ctr', 'containerd-shim-runc-v2', 'runc'];
const NAMESPACES = ['--mount', '--pid', '--fork', '--kill-child', '--mount-proc'];
/**
 * Sockets and states of containers are in /run/containerd, whatever the configuration is. A shell is the first process of the
 * PID namespace, because it takes the status of orphans, as the shims of containers are. It ends at the end of its input, which
 * is a pipe from the demo. The kernel ends it only after all other processes of the namespace, and `unshare` after it.
 */
const FIRST_PROCESS = `mkdir -p /run/containerd && mount -t tmpfs tmpfs /run/containerd || exit
exec 3<&0
containerd --config "$1" 3<&- &
daemon=$!
{ read -r _ <&3; kill -KILL $daemon; } &
wait $daemon`;
/** Milliseconds in which containerd must start, and a container must end. */
const PATIENCE = 30_000;
/** Plugins that serve Kubernetes, and snapshotters that need more than a directory. */
const DISABLED = [
  'io.containerd.grpc.v1.cri',
  'io.containerd.cri.v1.images',
  'io.containerd.cri.v1.runtime',
  'io.containerd.nri.v1.nri',
  ...['aufs', 'blockfile', 'btrfs', 'devmapper', 'erofs', 'zfs'].map((name) => `io.containerd.snapshotter.v1.${name}`),
];

/** A sentence about why no container can be started on this machine; `undefined` if one can. */
export function whyNoContainers(): string | undefined {
  if (process.geteuid?.() !== 0) return 'Starting a container needs root.';
  const isMissing = (name: string) => findProgram(name) === undefined && !existsSync(join('/usr/sbin', name));
  if (PROGRAMS.some(isMissing)) return 'To see it: apt-get install containerd runc';
  const { status, stderr } = spawnSync('unshare', [...NAMESPACES, 'true'], { encoding: 'utf8' });
  if (status !== 0) return `No container can be started here: ${stderr?.trim() || 'unshare is missing'}`;
  return undefined;
}

/** @param folder for its data; it must not exist @throws Error with its log if it does not start */
export async function startContainerd(folder: string): Promise<LocalContainerd> {
  const socket = join(folder, 'socket');
  const config = join(folder, 'config.toml');
  await mkdir(folder);
  await writeFile(config, configuration(folder, socket));
  const environment = { ...process.env, PATH: PATH_OF_ROOT, TMPDIR: folder };
  const child = spawn('unshare', [...NAMESPACES, 'sh', '-c', FIRST_PROCESS, 'containerd', config], {
    // Ctrl-C in the terminal must reach the demo only, which then stops it
    detached: true,
    stdio: ['pipe', 'ignore', 'pipe'],
    env: environment,
  });
  const group = basename(join(folder, '..'));
  const stop = async () => {
    await endProgram(child, 'input', PATIENCE); // the kernel kills everything in the namespaces before it
    await removeGroups(group);
  };
  const inside = ['nsenter', `--mount=/proc/${child.pid}/ns/mnt`, `--pid=/proc/${child.pid}/ns/pid_for_children`, '--'];
  const ctr = async (...args: readonly string[]) => {
    const [program = '', ...rest] = [...inside, 'ctr', '--address', socket, '--namespace', NAMESPACE, ...args];
    const { stdout } = await promisify(execFile)(program, rest, { env: environment, timeout: PATIENCE });
    return stdout.trim();
  };
  const places = ['--cgroup', `/${group}`, '--fifo-dir', join(folder, 'fifo'), '--runc-root', join(folder, 'runc')];
  try {
    return {
      version: await answering(child, socket),
      socket,
      ctr,
      run: (image, command) => ctr('run', '--rm', ...places, image, 'demo', ...command),
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** Version 2 of the configuration format, which 1.6 and 2.x read. */
function configuration(folder: string, socket: string): string {
  return `version = 2
root = ${JSON.stringify(join(folder, 'root'))}
state = ${JSON.stringify(join(folder, 'state'))}
disabled_plugins = ${JSON.stringify(DISABLED)}
[grpc]
  address = ${JSON.stringify(socket)}
[ttrpc]
  address = ${JSON.stringify(`${socket}.ttrpc`)}
[plugins."io.containerd.internal.v1.opt"]
  path = ${JSON.stringify(join(folder, 'opt'))}
[debug]
  level = "error"
`;
}

/** Resolves with its version when it answers. @throws Error with its log */
async function answering(child: ChildProcess, socket: string): Promise<string> {
  let log = '';
  child.stderr?.on('data', (piece: Buffer) => {
    log = (log + piece.toString()).slice(-2000);
  });
  child.unref();
  unrefPipe(child.stdin);
  unrefPipe(child.stderr);
  const client = connectContainerd({ socket, namespace: NAMESPACE });
  const deadline = performance.now() + PATIENCE;
  try {
    for (;;) {
      try {
        const { version } = await client.version.Version({}, { deadline: 1000 });
        return version.replace(/^v/, '');
      } catch (error) {
        if (!isGrpcError(error, 'UNAVAILABLE', 'DEADLINE_EXCEEDED')) throw error;
        const ended = child.exitCode !== null || child.signalCode !== null;
        if (ended || performance.now() > deadline) throw new Error(`containerd did not start: ${log.trim()}`);
        await sleep(50);
      }
    }
  } finally {
    client.close();
  }
}

/** Removes the control groups of a container that was killed. The kernel empties them a moment after its end. */
async function removeGroups(group: string): Promise<void> {
  for (const path of globSync([`/sys/fs/cgroup/*/${group}`, `/sys/fs/cgroup/${group}`])) {
    for (let attempt = 0; attempt < 50; attempt++) {
      const failure = await rmdir(path).catch((error: unknown) => error);
      if (failure === undefined) break;
      await sleep(20);
    }
  }
}
