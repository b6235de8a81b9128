import { type ChildProcess, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Layer } from '../../src/oci/descriptor.ts';
import { unmountSnapshot } from '../../src/system/mount.ts';
import { endChild, removeWithProcess, startChild } from '../support/child.ts';
import { skipFor } from '../support/present.ts';
import { GrpcConnection, GrpcError } from './grpc.ts';
import { decodeBytes, type Field, type Message, mapField } from './protobuf.ts';

export type SnapshotterName = 'overlayfs' | 'native';

/** A layer with its blob's bytes. */
export interface StoredLayer extends Layer {
  readonly bytes: Buffer | (() => Promise<Buffer>);
}

/** The result of an image: the directory of each layer, bottom-most first, or the layer that was refused and why. */
export type Outcome =
  | { readonly kind: 'applied'; readonly directories: readonly string[] }
  | { readonly kind: 'refused'; readonly layer: number; readonly reason: string };

/** A containerd of the suite, with its own socket and directories. It ends with the process. */
export interface Containerd {
  /** Such as `1.6.20` or `2.3.4`, with the suffix of a distribution or a pre-release. */
  readonly version: string;
  /** Applies the layers in order, as containerd's client does when it unpacks an image. */
  apply(layers: readonly StoredLayer[], snapshotter: SnapshotterName): Promise<Outcome>;
  stop(): Promise<void>;
}

/** CONFORMANCE_CONTAINERD=/path/to/containerd replaces the one on the PATH. */
const PROGRAM = process.env.CONFORMANCE_CONTAINERD ?? 'containerd';

/** The program, or why this machine has none. @throws Error with `CI=true` if there is none */
export async function startContainerd(): Promise<Containerd | { readonly missing: string }> {
  const missing = missingContainerd();
  return missing === false ? Daemon.start(versionOf(PROGRAM) ?? '') : { missing };
}

/** Why containerd can't be started on this machine. @throws Error with `CI=true` if it can't */
export function missingContainerd(): string | false {
  if (process.getuid?.() !== 0) return skipFor('containerd and its mounts need root');
  return versionOf(PROGRAM) === undefined && skipFor(`${PROGRAM} does not run: apt-get install containerd`);
}

/** `containerd github.com/containerd/containerd/v2 2.3.4 ID`, the version with or without a `v` before it. */
function versionOf(program: string): string | undefined {
  const { status, stdout } = spawnSync(program, ['--version'], { encoding: 'utf8' });
  return status === 0 ? stdout.split(' ')[2]?.trim().replace(/^v/, '') : undefined;
}

/** Whether a version is that release (`2.4`), one of its pre-releases or a later one. */
export function isSince(version: string, release: `${number}.${number}`): boolean {
  const [major = 0, minor = 0] = version.split('.').map((part) => Number.parseInt(part, 10));
  const [wantedMajor = 0, wantedMinor = 0] = release.split('.').map(Number);
  return major > wantedMajor || (major === wantedMajor && minor >= wantedMinor);
}

/** Milliseconds that containerd may take to start on a busy machine. */
const PATIENCE = 120_000;
/** Bytes of a blob per message; containerd accepts at most 16 MiB. */
const PIECE = 1 << 20;
/**
 * Plugins that are not needed to apply layers are disabled, including garbage collection, so that snapshots stay until the
 * end. Names that a version does not know are ignored.
 */
const DISABLED = [
  'io.containerd.grpc.v1.cri',
  'io.containerd.cri.v1.images',
  'io.containerd.cri.v1.runtime',
  'io.containerd.nri.v1.nri',
  'io.containerd.gc.v1.scheduler',
  'io.containerd.internal.v1.opt',
  'io.containerd.internal.v1.restart',
  ...['aufs', 'blockfile', 'btrfs', 'devmapper', 'erofs', 'zfs'].map((name) => `io.containerd.snapshotter.v1.${name}`),
];

class Daemon implements Containerd {
  readonly version: string;
  private readonly directory: string;
  private readonly child: ChildProcess;
  private readonly grpc: GrpcConnection;
  private readonly stored = new Set<string>();
  private keys = 0;

  private constructor(version: string, directory: string, child: ChildProcess, grpc: GrpcConnection) {
    this.version = version;
    this.directory = directory;
    this.child = child;
    this.grpc = grpc;
  }

  static async start(version: string): Promise<Daemon> {
    const directory = await mkdtemp(join(tmpdir(), 'unpackd-containerd-'));
    const temporary = join(directory, 'tmp');
    await mkdir(temporary);
    const config = join(directory, 'config.toml');
    const socket = join(directory, 'containerd.sock');
    await writeFile(config, configuration(directory, socket));
    removeWithProcess(directory);
    const child = startChild(PROGRAM, ['--config', config], {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, TMPDIR: temporary },
    });
    let log = '';
    child.stderr?.on('data', (piece: Buffer) => {
      log = (log + piece.toString()).slice(-4000);
    });
    const deadline = performance.now() + PATIENCE;
    for (;;) {
      const grpc = new GrpcConnection(socket, { 'containerd-namespace': 'conformance' });
      try {
        await grpc.call('containerd.services.version.v1.Version/Version', []);
        return new Daemon(version, directory, child, grpc);
      } catch (error) {
        grpc.close();
        if (child.exitCode !== null || performance.now() > deadline) {
          await endChild(child);
          throw new Error(`containerd did not start: ${log}`, { cause: error });
        }
        await sleep(50);
      }
    }
  }

  async apply(layers: readonly StoredLayer[], snapshotter: SnapshotterName): Promise<Outcome> {
    const directories: string[] = [];
    let parent = '';
    for (const [layer, each] of layers.entries()) {
      await this.store(each);
      const key = `layer-${this.keys++}`;
      const prepared = await this.snapshots('Prepare', [
        [1, snapshotter],
        [2, key],
        ...(parent === '' ? [] : [[3, parent] as const]),
      ]);
      const mounts = decodeBytes(prepared, 1);
      try {
        const { digest, mediaType, size } = each.blob;
        const descriptor: Message = [
          [1, mediaType],
          [2, digest],
          [3, size],
        ];
        await this.grpc.call('containerd.services.diff.v1.Diff/Apply', [
          [1, descriptor],
          ...mounts.map((mount): Field => [2, mount]),
        ]);
      } catch (error) {
        if (!(error instanceof GrpcError)) throw error;
        await this.snapshots('Remove', [
          [1, snapshotter],
          [2, key],
        ]);
        return { kind: 'refused', layer, reason: error.message };
      }
      parent = `committed-${key}`;
      await this.snapshots('Commit', [
        [1, snapshotter],
        [2, parent],
        [3, key],
      ]);
      directories.push(directoryOf(mounts));
    }
    return { kind: 'applied', directories };
  }

  async stop(): Promise<void> {
    this.grpc.close();
    await endChild(this.child);
    for (const mountPoint of mountsBelow(this.directory)) await unmountSnapshot(mountPoint);
    await rm(this.directory, { recursive: true, force: true });
  }

  private snapshots(method: string, message: Message): Promise<Buffer> {
    return this.grpc.call(`containerd.services.snapshots.v1.Snapshots/${method}`, message);
  }

  private async store({ blob, bytes }: StoredLayer): Promise<void> {
    if (this.stored.has(blob.digest)) return;
    const content = Buffer.isBuffer(bytes) ? bytes : await bytes();
    const [STAT, WRITE, COMMIT] = [0, 1, 2];
    const ref: Field = [2, `blob-${this.keys++}`];
    const pieces: Message[] = [];
    for (let at = 0; at < content.length; at += PIECE) {
      pieces.push([[1, WRITE], ref, [5, at], [6, content.subarray(at, at + PIECE)]]);
    }
    const labels = mapField(7, { 'containerd.io/gc.root': 'conformance' });
    await this.grpc.call(
      'containerd.services.content.v1.Content/Write',
      [[1, STAT], ref, [3, content.length], [4, blob.digest]],
      ...pieces,
      [[1, COMMIT], ref, [3, content.length], [4, blob.digest], [5, content.length], ...labels],
    );
    this.stored.add(blob.digest);
  }
}

/** Version 2 of the configuration format, which 1.6 and 2.x read. */
function configuration(directory: string, socket: string): string {
  return `version = 2
root = ${JSON.stringify(join(directory, 'root'))}
state = ${JSON.stringify(join(directory, 'state'))}
disabled_plugins = ${JSON.stringify(DISABLED)}
[grpc]
  address = ${JSON.stringify(socket)}
[ttrpc]
  address = ${JSON.stringify(`${socket}.ttrpc`)}
[debug]
  level = "error"
`;
}

/** The directory of an active snapshot's files: the upper directory of an overlay, or the source of a bind mount. */
function directoryOf(mounts: readonly Buffer[]): string {
  const [mount] = mounts;
  if (mount === undefined || mounts.length !== 1) throw new Error(`a snapshot of ${mounts.length} mounts`);
  const options = decodeBytes(mount, 4).map((option) => option.toString());
  const upper = options.find((option) => option.startsWith('upperdir='))?.slice('upperdir='.length);
  const source = decodeBytes(mount, 2)[0]?.toString();
  const directory = upper ?? source;
  if (directory === undefined) throw new Error(`a mount without a directory: ${options.join()}`);
  return directory;
}

/** Mount points below a directory, innermost first. */
export function mountsBelow(directory: string): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .flatMap((line) => line.split(' ')[4] ?? [])
    .filter((path) => path.startsWith(`${directory}/`))
    .reverse();
}
