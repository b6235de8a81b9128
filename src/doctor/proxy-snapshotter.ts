import { realpath } from 'node:fs/promises';
import type { Address } from '../grpc/client.ts';
import { GrpcError } from '../grpc/errors.ts';
import type { Plugin } from '../grpc/services.ts';
import { formatPlatform, hostPlatform } from '../oci/platform.ts';
import { type Check, fail, ok, reason, warn } from './check.ts';
import {
  configurationOf,
  type KnownSocket,
  type RunningContainerd,
  type Trial,
  tryOut,
  withContainerd,
} from './containerd-daemon.ts';

/** Checks of the store as a proxy snapshotter of containerd (UNPACK_SNAPSHOTTER_SOCKET), for `unpackd doctor`. */

/** The name of the plugin in the configuration that the checks print. */
const PLUGIN = 'unpackd';
const NAME = 'Proxy snapshotter';

/**
 * Checks that containerd knows the snapshotter that unpackd serves on `served`, and reaches it. Through containerd it makes
 * an empty snapshot in the store and removes it.
 * @param root of the store
 */
export function checkProxySnapshotter(
  address: Address,
  served: string,
  root: string,
  known?: readonly KnownSocket[],
): Promise<readonly Check[]> {
  return withContainerd(
    address,
    async (daemon) => [ok('containerd', `${daemon.version} at ${address.socket}`), await proxy(daemon, served, root)],
    known,
  );
}

async function proxy(daemon: RunningContainerd, served: string, root: string): Promise<Check> {
  const { version, snapshotters } = daemon;
  const plugin = snapshotters.find(({ exports }) => exports.address?.replace(/^unix:\/\//, '') === served);
  if (plugin === undefined) {
    return {
      ...fail(
        NAME,
        `containerd ${version} has no snapshotter at ${served}`,
        `add these lines to its configuration (${configurationOf(daemon.address.socket)}) and restart it; running containers go on:`,
      ),
      lines: proxyConfiguration(version, served, root),
    };
  }
  const wrong = wrongConfiguration(plugin, version, root);
  if (wrong !== undefined) return wrong;
  const found = `containerd knows ${served} as ${plugin.id}`;
  try {
    const directory = await tryOut(daemon, (trial) => directoryOfNew(trial, plugin.id));
    if (directory === undefined) return ok(NAME, `${found}; not tried, because there is no namespace yet`);
    const real = await realpath(root).catch(() => root);
    if (directory.startsWith(`${real}/`) || directory.startsWith(`${root}/`))
      return ok(NAME, `${found}, and reaches it`);
    return fail(
      NAME,
      `${found}, but the store behind it is not ${root}: it made a snapshot in ${directory}`,
      'start unpackd snapshotter with the same UNPACK_ROOT',
    );
  } catch (error) {
    const why = error instanceof GrpcError ? error.details : reason(error);
    return fail(
      NAME,
      `${found}, but cannot use it: ${why}`,
      `start unpackd snapshotter, or a worker with UNPACK_SNAPSHOTTER_SOCKET=${served}; in a container, share the directory of the socket and the store with the host at the same paths`,
    );
  }
}

/** Makes a snapshot and removes it. @returns the directory that it had @throws GrpcError */
async function directoryOfNew({ client, lease: key, options }: Trial, snapshotter: string): Promise<string> {
  const { mounts } = await client.snapshots.Prepare({ snapshotter, key }, options);
  await client.snapshots.Remove({ snapshotter, key }, options);
  return mounts[0]?.source ?? '';
}

function wrongConfiguration(plugin: Plugin, version: string, root: string): Check | undefined {
  if (plugin.initErr !== null) {
    return fail(
      NAME,
      `${plugin.id} does not run in containerd: ${plugin.initErr.message}`,
      'see the log of containerd',
    );
  }
  if (plugin.capabilities.includes('rebase')) {
    return fail(
      NAME,
      `the configuration of containerd gives ${plugin.id} the capability rebase, so deleted files can come back`,
      `remove capabilities from [proxy_plugins.${plugin.id}] and restart containerd`,
    );
  }
  if (major(version) >= 2 && plugin.exports.root !== root) {
    return warn(
      NAME,
      `the configuration of containerd has ${plugin.exports.root ?? 'no root'} as root of ${plugin.id}, so the kubelet measures the wrong disk`,
      `set exports = { root = ${JSON.stringify(root)} } in [proxy_plugins.${plugin.id}] and restart containerd`,
    );
  }
  return undefined;
}

/**
 * The part of containerd's configuration that makes a socket its snapshotter, in TOML. From 2.0 on the plugins have other
 * names, and an image is only unpacked into a snapshotter that the transfer service lists (containerd, docs/PLUGINS.md,
 * docs/cri/config.md, plugins/transfer).
 */
export function proxyConfiguration(version: string, served: string, root: string): readonly string[] {
  const plugin = [`[proxy_plugins.${PLUGIN}]`, '  type = "snapshot"', `  address = ${JSON.stringify(served)}`];
  if (major(version) < 2) {
    return [
      'version = 2 # once, at the top',
      ...plugin,
      '# for Kubernetes:',
      '[plugins."io.containerd.grpc.v1.cri".containerd]',
      `  snapshotter = "${PLUGIN}"`,
    ];
  }
  const platform = formatPlatform(hostPlatform());
  return [
    'version = 3 # once, at the top',
    ...plugin,
    `  exports = { root = ${JSON.stringify(root)} }`,
    '# for Kubernetes:',
    '[plugins."io.containerd.cri.v1.images"]',
    `  snapshotter = "${PLUGIN}"`,
    '# for pulls; what is listed here replaces the default, which is overlayfs:',
    ...['overlayfs', PLUGIN].flatMap((snapshotter) => [
      '[[plugins."io.containerd.transfer.v1.local".unpack_config]]',
      `  platform = "${platform}"`,
      `  snapshotter = "${snapshotter}"`,
      '  differ = "walking"',
    ]),
  ];
}

function major(version: string): number {
  return Number.parseInt(version, 10);
}
