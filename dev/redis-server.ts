import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { access, constants, mkdtemp } from 'node:fs/promises';
import { createConnection, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { removeTree, removeTreeSync } from '../src/system/remove-tree.ts';

/** A Redis (or Valkey) of one's own, for the demo and the tests. */
export interface LocalRedis {
  readonly url: string;
  readonly port: number;
  /** The server's process, for a test that wants to stop or freeze it. */
  readonly pid: number;
  /** Kills the server as a crash would and starts it again on the same port and data; resolves when it answers. */
  restart(): Promise<void>;
  /** Kills the server and leaves port and data for a later `restart`. */
  kill(): Promise<void>;
  /** Ends the server and removes its temporary directory; a second call does nothing. */
  stop(): Promise<void>;
}

export interface LocalRedisOptions {
  /** Where the data goes; default: a temporary directory that `stop` removes. */
  readonly directory?: string;
  /** Default: a free one. */
  readonly port?: number;
  /**
   * Write every change to disk: `true` at once, so that a restart loses nothing; `every-second` as an installation does
   * (docker-compose.yml). Default: not at all.
   */
  readonly persistent?: boolean | 'every-second';
  /** More of the server's own flags, for a state that a test wants; they come last, and so win. */
  readonly flags?: readonly string[];
}

const SERVERS = ['redis-server', 'valkey-server'];
/** Debian, Ubuntu: the first that the machine's lists know. */
const PACKAGES = ['redis-server', 'valkey-server'];
const START_TIMEOUT = 60_000;
/** Milliseconds that a server gets to save its data: one that cannot save it refuses to end. */
const STOP_TIMEOUT = 10_000;

/**
 * Starts a server on loopback. Its policy is `noeviction`, as BullMQ demands: an evicted key is a lost job.
 * @throws Error with a sentence when there is no server on the PATH, or it does not answer within a minute
 */
export async function startRedis(options: LocalRedisOptions = {}): Promise<LocalRedis> {
  const program = await findRedis();
  if (program === undefined) {
    throw new Error(`neither ${SERVERS.join(' nor ')} is on the PATH: install one (apt-get install redis-server)`);
  }
  const temporary = options.directory === undefined;
  const directory = options.directory ?? (await mkdtemp(join(tmpdir(), 'unpackd-redis-')));
  const port = options.port ?? (await freePort());
  const persistence = options.persistent
    ? ['--appendonly', 'yes', '--appendfsync', options.persistent === true ? 'always' : 'everysec']
    : ['--appendonly', 'no', '--save', ''];
  const flags = ['--port', String(port), '--bind', '127.0.0.1', '--dir', directory, '--daemonize', 'no'];

  let child: ChildProcess;
  let guard: ChildProcess | undefined;
  const start = async () => {
    child = spawn(program, [...flags, '--maxmemory-policy', 'noeviction', ...persistence, ...(options.flags ?? [])], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    guard?.kill('SIGKILL');
    guard = guardOf(child);
    await answering(child, port, program);
    // a server must not keep its owner's process alive
    child.unref();
    for (const stream of [child.stdout, child.stderr]) if (stream !== null) unref(stream);
  };
  const kill = (signal: NodeJS.Signals) => ended(child, signal);
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
        // there is nothing to save of what is removed
        await kill(temporary ? 'SIGKILL' : 'SIGTERM');
        guard?.kill('SIGKILL');
        if (temporary) await removeTree(directory);
      })();
      return stopped;
    },
  };
}

/**
 * Installs Redis (or Valkey) with apt-get where neither is there, as root or through sudo, and says so on stderr first.
 * @throws Error with a sentence that says what to do by hand
 */
export async function ensureRedisInstalled(): Promise<void> {
  if ((await findRedis()) !== undefined) return;
  const byHand = 'install Redis 6.2 or newer, or Valkey, so that redis-server or valkey-server is on the PATH';
  if ((await onPath('apt-get')) === undefined) {
    throw new Error(`there is no redis-server here and no apt-get to install it with: ${byHand}`);
  }
  const root = process.getuid?.() === 0;
  if (!root && (await onPath('sudo')) === undefined) {
    throw new Error(`installing redis-server needs root, and there is no sudo: ${byHand}`);
  }
  process.stderr.write('Redis is not installed; installing it now with apt-get.\n');
  const apt = (...args: string[]) => {
    const environment = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
    const [program, ...rest] = root ? ['apt-get', ...args] : ['sudo', 'apt-get', ...args];
    // stdin is passed on so that sudo can ask; the output of apt-get belongs on stderr, beside the notice
    return spawnSync(program ?? 'apt-get', rest, { stdio: ['inherit', 2, 2], env: environment }).status === 0;
  };
  const install = () =>
    PACKAGES.some((name) => apt('-qq', 'install', '-y', '--no-install-recommends', '-o', 'Dpkg::Use-Pty=0', name));
  // lists may be missing (containers) or old: refresh them only when the first try fails
  const installed = install() || (apt('-qq', 'update') && install());
  if (!installed || (await findRedis()) === undefined) {
    throw new Error(`apt-get could not install redis-server: ${byHand}`);
  }
}

/** Path of the server's program, or `undefined` where there is none. */
export async function findRedis(): Promise<string | undefined> {
  for (const name of SERVERS) {
    const path = await onPath(name);
    if (path !== undefined) return path;
  }
  return undefined;
}

async function onPath(name: string): Promise<string | undefined> {
  for (const folder of (process.env.PATH ?? '').split(delimiter)) {
    const path = join(folder, name);
    const executable = await access(path, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (folder !== '' && executable) return path;
  }
  return undefined;
}

/**
 * Kills the server when this process ends in a way that leaves it no time to (SIGTERM, SIGKILL): a pipe from here then
 * closes, and a shell that waits for that does the rest.
 */
function guardOf(server: ChildProcess): ChildProcess {
  const script = 'cat >/dev/null; kill -9 "$1" 2>/dev/null';
  const guard = spawn('/bin/sh', ['-c', script, 'guard', String(server.pid)], {
    stdio: ['pipe', 'ignore', 'ignore'],
    // a signal to the terminal's group must not end it first
    detached: true,
  });
  guard.on('error', () => {});
  guard.unref();
  if (guard.stdin !== null) unref(guard.stdin);
  return guard;
}

/** Resolves when the server says PONG (not while it loads its data); rejects with its output when it ends before. */
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
    if (child.exitCode !== null) throw new Error(`${program} ended with ${child.exitCode}: ${output.trim()}`);
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
    socket.once('data', (reply) => done(reply.toString().startsWith('+PONG')));
  });
}

function ended(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
  return new Promise((resolve) => {
    child.ref();
    const late = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT);
    child.once('exit', () => {
      clearTimeout(late);
      resolve();
    });
    child.kill(signal);
  });
}

/** Pipes of a child are sockets at run time, which the type of a stream does not tell. */
function unref(stream: object): void {
  if ('unref' in stream && typeof stream.unref === 'function') stream.unref();
}

/** A port of loopback that nobody listens on now. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => (typeof address === 'object' && address !== null ? resolve(address.port) : reject()));
    });
  });
}
