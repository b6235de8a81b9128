import type { ContainerdClient } from '../../src/grpc/client.ts';
import type { WireSnapshot } from '../../src/grpc/services.ts';

/** Runs a collection of containerd, and waits for its end. */
export async function collect({ leases }: ContainerdClient): Promise<void> {
  const id = `collect-${process.hrtime.bigint()}`;
  await leases.Create({ id });
  await leases.Delete({ id, sync: true });
}

/** All snapshots of the client's namespace, also those that our store hides parts of. */
export async function wireSnapshots({ snapshots }: ContainerdClient): Promise<WireSnapshot[]> {
  const found: WireSnapshot[] = [];
  for await (const { info } of snapshots.List({ snapshotter: 'overlayfs' })) found.push(...info);
  return found;
}

export async function snapshotNames(client: ContainerdClient): Promise<string[]> {
  return (await wireSnapshots(client)).map(({ name }) => name).sort();
}
