import { openContainerdStore } from '../../src/snapshots/containerd/open.ts';

/**
 * `hold-lease.ts SOCKET NAMESPACE ROOT CHAIN-ID`: commits a layer and prepares one for the chain ID, under a lease, prints the
 * key, and waits.
 */
const [socket = '', namespace = '', stateRoot = '', chainId = ''] = process.argv.slice(2);
const store = await openContainerdStore({ socket, namespace, snapshotter: 'overlayfs', stateRoot });
const under = store.under(await store.lease([], {}));
await under.prepare('first', '');
await under.commit('committed', 'first');
const key = `${store.extraction}1-abcd ${chainId}`;
await under.prepare(key, 'committed');
process.stdout.write(`${key}\n`);
for await (const _ of process.stdin);
