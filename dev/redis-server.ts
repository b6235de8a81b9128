import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { mkdtemp } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { removeTree, removeTreeSync } from '../src/system/remove-tree.ts';
import { endProgram, findProgram, freePort, guardOf, unrefPipe } from './local-programs.ts';

/** A Redis or Valkey server that this process has started, for demo, tests and benchmark. */
export interface LocalRedis {
  readonly url: string;
  readonly port: number;
  /** The process ID. Tests use it to stop or freeze the server. */
  readonly pid: number;
  /** Kills the server, as a crash does, and starts it again on the same port and data. Resolves when it answers. */
  restart(): Promise<void>;
  /** Kills the server. `restart` can start it again on the same port and data. */
  kill(): Promise<void>;
  /** Stops the server and removes its temporary directory. A second call does nothing. */
  stop(): Promise<void>;
}

export interface LocalRedisOptions {
  /** The directory for the data. Default: a temporary directory that `stop` removes. */
  readonly directory?: string;
  /** Default: a free one. */
  readonly port?: number;
  /**
   * When changes are written to disk. `true`: at once, so a restart loses nothing. `every-second`: as docker-compose.yml
   * does it. Default: never.
   */
  readonly persistent?: boolean | 'every-second';
  /** More flags of the server. They replace the ones that are set here. */
  readonly flags?: readonly string[];
  /** A configuration file that exists. Flags replace its settings, and `CONFIG REWRITE` writes into it. */
  readonly configuration?: string;
  /** The path of the server's program. Default: the first one that is on the PATH. */
  readonly program?: string;
}

const SERVERS = ['redis-server', 'valkey-server'];
/** Packages of Debian and Ubuntu. The first one that exists is installed. */
const PACKAGES = ['redis-server', 'valkey-server'];
const START_TIMEOUT = 60_000;
/**
 * Time limit in milliseconds for the server to exit. A server that cannot save its data does not exit, and is killed
 * after this time.
 */
const STOP_TIMEOUT = 10_000;

/**
 * Starts a server on loopback. Its policy is `noeviction`, because BullMQ loses a job with an evicted key.
 * @throws Error with a sentence for the user if no server is on the PATH, or it does not answer within a minute
 */
export async function startRedis(options: LocalRedisOptions = {}): Promise<LocalRedis> {
  const program = options.program ?? findRedis();
  if (program === undefined) {
    throw new Error(`neither ${SERVERS.join(' nor ')} is on the PATH: install one (apt-get install redis-server)`);
  }
  const temporary = options.directory === undefined;
  const directory = options.directory ?? (await mkdtemp(join(tmpdir(), 'unpackd-redis-')));
  const port = options.port ?? (await freePort());
  const persistence = options.persistent
    ? ['--appendonly', 'yes', '--appendfsync', options.persistent === true ? 'always' : 'everysec']
    : ['--appendonly', 'no', '--save', ''];
  const file = options.configuration === undefined ? [] : [options.configuration];
  // the bus of a cluster has a port of its own: by default the server's plus 10000, which can be in use
  const bus = options.flags?.includes('--cluster-enabled') ? ['--cluster-port', String(await freePort())] : [];
  const address = ['--port', String(port), ...bus, '--bind', '127.0.0.1'];
  const flags = [...file, ...address, '--dir', directory, '--daemonize', 'no'];

  let child: ChildProcess;
  let guard: ChildProcess | undefined;
  const start = async () => {
    await endGuard();
    child = spawn(program, [...flags, '--maxmemory-policy', 'noeviction', ...persistence, ...(options.flags ?? [])], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    guard = guardOf(child);
    await answering(child, port, program);
    // the server must not keep this process alive
    child.unref();
    unrefPipe(child.stdout);
    unrefPipe(child.stderr);
  };
  const kill = (signal: NodeJS.Signals) => endProgram(child, signal, STOP_TIMEOUT);
  const endGuard = async () => guard && endProgram(guard, 'SIGKILL', STOP_TIMEOUT);
  const onExit = () => {
    guard?.kill('SIGKILL');
    child.kill('SIGKILL');
    if (temporary) removeTreeSync(directory);
  };

  await start();
  process.on('exit', onExit);
  let stopped: Promise<void> | undefined;
  return {
    url: `redis://127.0.0.1:${port}`,
    port,
    get pid() {
      return child.pid ?? -1;
    },
    async restart() {
      await kill('SIGKILL');
      await start();
    },
    kill: () => kill('SIGKILL'),
    stop() {
      stopped ??= (async () => {
        process.off('exit', onExit);
        // the data is removed, so it does not need to be saved
        await kill(temporary ? 'SIGKILL' : 'SIGTERM');
        await endGuard();
        if (temporary) await removeTree(directory);
      })();
      return stopped;
    },
  };
}

/**
 * Installs Redis or Valkey with apt-get if neither is on the PATH, as root or through sudo. A line on stderr comes first.
 * @throws Error with a sentence about how to install it by hand
 */
export async function ensureRedisInstalled(): Promise<void> {
  if (findRedis() !== undefined) return;
  const byHand = 'install Redis 6.2 or newer, or Valkey, so that redis-server or valkey-server is on the PATH';
  if (findProgram('apt-get') === undefined) {
    throw new Error(`there is no redis-server here and no apt-get to install it with: ${byHand}`);
  }
  const root = process.getuid?.() === 0;
  if (!root && findProgram('sudo') === undefined) {
    throw new Error(`installing redis-server needs root, and there is no sudo: ${byHand}`);
  }
  process.stderr.write('Redis is not installed; installing it now with apt-get.\n');
  const apt = (...args: string[]) => {
    const environment = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
    const [program, ...rest] = root ? ['apt-get', ...args] : ['sudo', 'apt-get', ...args];
    // stdin is passed on, because sudo can ask for a password; apt-get writes to stderr, as the line before does
    return spawnSync(program ?? 'apt-get', rest, { stdio: ['inherit', 2, 2], env: environment }).status === 0;
  };
  const install = () =>
    PACKAGES.some((name) => apt('-qq', 'install', '-y', '--no-install-recommends', '-o', 'Dpkg::Use-Pty=0', name));
  // the package lists are possibly old, or missing in a container; they are updated only if the first attempt fails
  const installed = install() || (apt('-qq', 'update') && install());
  if (!installed || findRedis() === undefined) {
    throw new Error(`apt-get could not install redis-server: ${byHand}`);
  }
}

/** The path of the server's program, or `undefined` if none is installed. */
export function findRedis(): string | undefined {
  return findProgram(...SERVERS);
}

/** Resolves when the server answers PONG, which it does after it has loaded its data. @throws Error with its output */
async function answering(child: ChildProcess, port: number, program: string): Promise<void> {
  let output = '';
  const collect = (chunk: Buffer) => {
    output = (output + chunk.toString()).slice(-2000);
  };
  child.stdout?.on('data', collect);
  child.stderr?.on('data', collect);
  let failure: Error | undefined;
  child.once('error', (error) => {
    failure = error;
  });
  const deadline = Date.now() + START_TIMEOUT;
  while (true) {
    if (failure !== undefined) throw new Error(`${program} could not be started: ${failure.message}`);
    if (child.exitCode !== null) throw new Error(`${program} exited with status ${child.exitCode}: ${output.trim()}`);
    if (await pings(port)) return;
    if (Date.now() > deadline) {
      child.kill('SIGKILL');
      throw new Error(`${program} did not answer on port ${port} within ${START_TIMEOUT / 1000} s: ${output.trim()}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

function pings(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection(port, '127.0.0.1', () => socket.write('PING\r\n'));
    const done = (answer: boolean) => {
      socket.destroy();
      resolve(answer);
    };
    socket.setTimeout(1000, () => done(false));
    socket.once('error', () => done(false));
    // a server with a password answers, too
    socket.once('data', (reply) => done(/^(\+PONG|-NOAUTH)/.test(reply.toString())));
  });
}
