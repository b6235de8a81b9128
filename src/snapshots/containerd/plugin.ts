import { UnpackError } from '../../errors.ts';
import type { ContainerdClient } from '../../grpc/client.ts';
import { converted } from './errors.ts';

/** What a containerd tells about its snapshotter. The opening of the store and `unpackd doctor` ask for it. */

/** Which snapshotter of which containerd. */
export interface ContainerdAddress {
  /** Path of containerd's socket. */
  readonly socket: string;
  readonly namespace: string;
  /** The name of the snapshotter in containerd. */
  readonly snapshotter: string;
}

export interface FoundSnapshotter {
  /** The directory in which it keeps its snapshots. */
  readonly root: string;
  /** Such as `rebase`: its commit can give a parent to a snapshot. */
  readonly capabilities: readonly string[];
}

const TYPE = 'io.containerd.snapshotter.v1';
/** Milliseconds for the first answer. containerd needs neither its database nor its disk for it. */
const PATIENCE = 20_000;

/**
 * @param patience milliseconds to wait for the first answer: another program's socket possibly accepts a connection and never
 *   answers
 * @throws UnpackError STORE_FAILED if containerd does not answer, or has no such snapshotter that runs
 */
export async function findSnapshotter(
  client: ContainerdClient,
  { socket, snapshotter }: Pick<ContainerdAddress, 'socket' | 'snapshotter'>,
  patience = PATIENCE,
): Promise<FoundSnapshotter> {
  const { plugins } = await converted(socket, () =>
    client.introspection.Plugins({ filters: [`type==${TYPE}`] }, { deadline: patience }),
  );
  const found = plugins.find(({ id }) => id === snapshotter);
  const refused = (why: string, advice: string) =>
    new UnpackError('STORE_FAILED', `containerd at ${socket} can't be used as the snapshot store: ${why}: ${advice}`);
  if (found === undefined || found.initErr !== null) {
    const others = plugins.filter(({ initErr }) => initErr === null).map(({ id }) => id);
    const running = others.length === 0 ? 'none runs' : `running are ${others.join(', ')}`;
    const why = found === undefined ? 'is none of its snapshotters' : `does not run (${found.initErr?.message})`;
    throw refused(`${snapshotter} ${why}`, `set UNPACK_CONTAINERD_SNAPSHOTTER (${running}), or enable it`);
  }
  const { root = '', address } = found.exports;
  if (address !== undefined || root === '') {
    const why = address === undefined ? 'does not tell its directory' : `is another program, at ${address}`;
    throw refused(`its snapshotter ${snapshotter} ${why}`, 'set UNPACK_CONTAINERD_SNAPSHOTTER=overlayfs');
  }
  return { root, capabilities: found.capabilities };
}
