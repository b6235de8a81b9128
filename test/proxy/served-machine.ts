import assert from 'node:assert/strict';
import { join } from 'node:path';
import type { WireSnapshot } from '../../src/grpc/services.ts';
import { formatPlatform, hostPlatform } from '../../src/oci/platform.ts';
import { type Finished, runCli } from '../cli/run-cli.ts';
import { type ContainerdProgram, Daemon, type DaemonOptions } from '../containerd/daemon.ts';
import { LayoutRegistry } from '../containerd/layout-registry.ts';
import { eventually } from '../support/eventually.ts';
import { type TestImage, writeLayout } from '../support/layout.ts';
import { SnapshotterProcess } from './served.ts';

/** What containerd's configuration needs for a store that is served on `socket`. It is read by 1.6 and 2.x. */
export function servedConfiguration(root: string, socket: string): string {
  return [
    `[proxy_plugins.unpackd]\ntype = "snapshot"\naddress = ${JSON.stringify(socket)}`,
    `[proxy_plugins.unpackd.exports]\nroot = ${JSON.stringify(root)}`,
    '[plugins."io.containerd.grpc.v1.cri".containerd]\nsnapshotter = "unpackd"',
    '[plugins."io.containerd.cri.v1.images"]\nsnapshotter = "unpackd"',
    `[[plugins."io.containerd.transfer.v1.local".unpack_config]]\nplatform = "${formatPlatform(hostPlatform())}"\nsnapshotter = "unpackd"`,
  ].join('\n');
}

export interface ServedMachineOptions extends Pick<DaemonOptions, 'below' | 'containers'> {
  /** Of the store. */
  readonly root: string;
  /** A folder for the layout of the images and the socket. */
  readonly place: string;
  /** By their tags. A registry has all of them. */
  readonly images: Readonly<Record<string, TestImage>>;
  /** More arguments of `unpackd snapshotter`. */
  readonly serving?: readonly string[];
}

const layoutIn = (place: string): string => join(place, 'layout');
const socketIn = (place: string): string => join(place, 's.sock');

/** The namespace of ctr. */
const NAMESPACE = 'default';
const REPOSITORY = 'served';

/** A machine whose containerd keeps its snapshots in a store of unpackd, and a registry. */
export class ServedMachine implements AsyncDisposable {
  readonly root: string;
  readonly layout: string;
  /** Of the snapshotter. */
  readonly socket: string;
  readonly daemon: Daemon;
  readonly registry: LayoutRegistry;
  server: SnapshotterProcess;

  private constructor(
    { root, place }: ServedMachineOptions,
    daemon: Daemon,
    registry: LayoutRegistry,
    server: SnapshotterProcess,
  ) {
    this.root = root;
    this.layout = layoutIn(place);
    this.socket = socketIn(place);
    this.daemon = daemon;
    this.registry = registry;
    this.server = server;
  }

  static async start(program: ContainerdProgram, options: ServedMachineOptions): Promise<ServedMachine> {
    const { root, place, images, serving = [], below, containers } = options;
    const [layout, socket] = [layoutIn(place), socketIn(place)];
    await writeLayout(layout, images);
    await using stack = new AsyncDisposableStack();
    const registry = stack.use(await LayoutRegistry.start({ [REPOSITORY]: layout }));
    const server = await SnapshotterProcess.start('snapshotter', '--root', root, '--address', socket, ...serving);
    stack.defer(() => server.kill());
    const daemon = stack.use(
      await Daemon.start(program, {
        configuration: servedConfiguration(root, socket),
        ...(below === undefined ? {} : { below }),
        ...(containers === undefined ? {} : { containers }),
      }),
    );
    stack.move();
    return new ServedMachine(options, daemon, registry, server);
  }

  nameOf(tag: string): string {
    return `${this.registry.address}/${REPOSITORY}:${tag}`;
  }

  ctr(...args: readonly string[]): Promise<string> {
    return this.daemon.ctr(NAMESPACE, ...args);
  }

  tryCtr(...args: readonly string[]): Promise<Finished> {
    return this.daemon.tryCtr(NAMESPACE, ...args);
  }

  /** `unpackd images register` of an image that a job has unpacked under its tag. */
  register(tag: string): Promise<Finished> {
    const where = ['--containerd-socket', this.daemon.socket, '--containerd-namespace', NAMESPACE];
    return runCli(['images', 'register', tag, '--name', this.nameOf(tag), '--root', this.root, ...where]);
  }

  pull(tag: string): Promise<Finished> {
    return this.tryCtr('images', 'pull', '--plain-http', '--snapshotter', 'unpackd', this.nameOf(tag));
  }

  /** Arguments of `ctr` that run a command in a new container with the ID `id`. */
  runArgs(id: string, tag: string, command: readonly string[], ...options: readonly string[]): string[] {
    const cgroup = `${this.daemon.cgroup}/${id}`;
    return ['run', ...options, '--snapshotter', 'unpackd', '--cgroup', cgroup, this.nameOf(tag), id, ...command];
  }

  /** The snapshots that containerd has in its own records, and that the store has too. */
  async snapshots(): Promise<WireSnapshot[]> {
    const found: WireSnapshot[] = [];
    for await (const { info } of this.daemon.client(NAMESPACE).snapshots.List({ snapshotter: 'unpackd' }))
      found.push(...info);
    return found;
  }

  /** Removes all images that containerd has, and the leases of clients that have died, and collects. */
  async removeImages(): Promise<void> {
    const client = this.daemon.client(NAMESPACE);
    for (const { name } of (await client.images.List({})).images) await client.images.Delete({ name });
    for (const { id } of (await client.leases.List({})).leases) await client.leases.Delete({ id });
    await this.daemon.collect();
  }

  /** Ends everything at once. The registry stays, because it is another machine. */
  async powerOff(): Promise<void> {
    await this.daemon.powerOff();
    await this.server.kill();
  }

  /** Starts the snapshotter and then containerd, as a machine does after `powerOff`. */
  async restart(): Promise<void> {
    this.server = await this.server.again();
    await this.daemon.boot();
    await this.connected();
  }

  /** Waits until containerd has connected to the snapshotter again, after its pause. */
  async connected(): Promise<void> {
    await eventually('containerd uses the snapshotter again', async () => {
      return (await this.tryCtr('snapshots', '--snapshotter', 'unpackd', 'ls')).status === 0;
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.daemon[Symbol.asyncDispose]();
    await this.server.kill();
    await this.registry[Symbol.asyncDispose]();
  }
}

/** @throws AssertionError with what it complains about, if a command has failed */
export function succeeded({ status, signal, stdout, stderr }: Finished): string {
  assert.equal(status, 0, `${signal ?? ''} ${stderr || stdout}`);
  return stdout;
}
