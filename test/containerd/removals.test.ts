import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import '../support/needs-root.ts';
import { toUnpackError, type UnpackError } from '../../src/errors.ts';
import type { ContainerdClient } from '../../src/grpc/client.ts';
import { isGrpcError } from '../../src/grpc/errors.ts';
import { chainIds } from '../../src/oci/digest.ts';
import { imageOf, layerOf, writeLayout } from '../support/layout.ts';
import { file, tar } from '../support/tar.ts';
import { Adopter } from './adopter.ts';
import { CallRelay } from './call-relay.ts';
import { collect, snapshotNames, wireSnapshots } from './collect.ts';
import { Daemon, PROGRAMS, skipWithoutContainerd } from './daemon.ts';

const REMOVALS = {
  'the lease': async ({ leases }: ContainerdClient): Promise<void> => {
    for (const { id } of (await leases.List({})).leases) await leases.Delete({ id, sync: true });
  },
  'the unfinished snapshots': (client: ContainerdClient) => removeSnapshots(client, 'ACTIVE'),
  'the finished layers': (client: ContainerdClient) => removeSnapshots(client, 'COMMITTED'),
  'the documents': async ({ content }: ContainerdClient): Promise<void> => {
    const digests: string[] = [];
    for await (const { info } of content.List({})) digests.push(...info.map(({ digest }) => digest));
    for (const digest of digests) await content.Delete({ digest });
  },
};

const LEASE = /the lease of this job in containerd at \S+ was removed: look for a program that removes leases/;
const UNFINISHED = /^layer \d of 3 .* its unfinished snapshot unpackd-.* was removed: find the process that removes/;
const LOST = /lost layers of example\.org\/app:1 while it was unpacked: look for a program that removes snapshots/;

/** What is removed before the first of these calls of a job, and how the job fails; `undefined`: it does not. */
const CASES = [
  ['the lease', 'Content/Write', LEASE],
  ['the lease', 'Snapshots/Prepare', LEASE],
  ['the lease', 'Leases/AddResource', LEASE],
  ['the unfinished snapshots', 'Snapshots/Commit', UNFINISHED],
  ['the finished layers', 'Leases/AddResource', LOST],
  ['the documents', 'Snapshots/Prepare', undefined],
  ['the documents', 'Content/Info', undefined],
] as const;

for (const program of PROGRAMS) {
  describe(`removals by others with containerd ${program.version}`, { skip: skipWithoutContainerd() }, () => {
    let daemon: Daemon;
    let relay: CallRelay;
    before(async () => {
      daemon = await Daemon.start(program);
      relay = await CallRelay.start(join(daemon.directory, 'relay.sock'), daemon.socket);
    });
    after(async () => {
      await relay[Symbol.asyncDispose]();
      await daemon[Symbol.asyncDispose]();
    });

    for (const [what, method, failure] of CASES) {
      const end =
        failure === undefined ? 'completes all the same' : 'fails with what was removed, and the retry completes';
      test(`a job during which somebody removes ${what} before ${method} ${end}`, async () => {
        const namespace = `test-${randomBytes(4).toString('hex')}`;
        const layers = ['one', 'two', 'three'].map((name) => layerOf(tar(file(name, namespace))));
        const layout = join(daemon.directory, namespace);
        await writeLayout(layout, { app: imageOf(layers) });
        const place = { socket: relay.socket, namespace, snapshotter: 'overlayfs' };
        await using adopter = await Adopter.open({ ...place, stateRoot: join(daemon.directory, 'u'), durable: false });
        const client = daemon.client(namespace);
        let removed: Promise<void> | undefined;
        relay.watch({
          before: async (call) => {
            if (call.method === method) removed ??= REMOVALS[what](client);
            await removed;
          },
        });
        const adopt = () => adopter.adopt(layout, 'app', 'example.org/app:1');
        const error = await adopt().then<undefined, UnpackError>(() => undefined, toUnpackError);
        relay.watch();
        assert.ok(removed !== undefined, 'the job makes this call');
        assert.equal(error?.code, failure === undefined ? undefined : 'STORE_FAILED', `${error?.message}`);
        if (failure !== undefined) {
          assert.match(error?.message ?? '', failure);
          await adopt();
        }
        await collect(client);
        const chain = chainIds(layers.map(({ diff }) => diff.digest));
        assert.deepEqual(await snapshotNames(client), [...chain].sort());
        assert.equal((await client.images.List({})).images.length, 3);
        assert.deepEqual((await client.leases.List({})).leases, []);
      });
    }
  });
}

/** Removes the children first. Another one can stand on the last one until it is gone. */
async function removeSnapshots(client: ContainerdClient, kind: 'ACTIVE' | 'COMMITTED'): Promise<void> {
  for (let found = await wireSnapshots(client); ; found = await wireSnapshots(client)) {
    const left = found.filter((each) => each.kind === kind);
    if (left.length === 0) return;
    for (const { name } of left) {
      await client.snapshots.Remove({ snapshotter: 'overlayfs', key: name }).catch((error: unknown) => {
        if (!isGrpcError(error, 'FAILED_PRECONDITION', 'NOT_FOUND')) throw error;
      });
    }
  }
}
