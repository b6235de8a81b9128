import assert from 'node:assert/strict';
import { appendFileSync, mkdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import '../support/needs-root.ts';
import { errnoOf } from '../../src/errno.ts';
import { type ContainerdClient, connectContainerd } from '../../src/grpc/client.ts';
import { type GrpcCode, isGrpcError } from '../../src/grpc/errors.ts';
import type { WireSnapshot } from '../../src/grpc/services.ts';
import { serveSnapshotter, serveWhenFree } from '../../src/proxy/snapshotter.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import { LABEL_SNAPSHOT_REF } from '../../src/snapshots/snapshotter.ts';
import type { OwnStore } from '../../src/snapshots/store.ts';
import { eventually } from '../support/eventually.ts';
import { tmpfs, unavailable } from '../support/file-system.ts';
import { scratch } from '../support/scratch.ts';

const chain = (digit: string) => `sha256:${digit.repeat(64)}`;
const [BASE, TOP] = [chain('a'), chain('b')];

interface Served {
  readonly store: OwnStore;
  readonly root: string;
  readonly socket: string;
  readonly snapshots: ContainerdClient['snapshots'];
  /** What was logged. */
  readonly log: readonly string[];
  /** Ends the server and starts another one. */
  restart(): Promise<void>;
}

/** Serves a store with the layers BASE ← TOP, which a job has unpacked. */
async function serving(
  body: (context: Served) => Promise<void>,
  options: { readonly durable?: boolean; readonly type?: 'overlay' | 'native'; readonly root?: string } = {},
): Promise<void> {
  using place = scratch();
  const { type = 'overlay', durable = true } = options;
  const { root = join(place.path, 'store') } = options;
  const socket = join(place.path, 'run/s.sock');
  const store = await openSnapshotter({ root, type, durable, mayUseReserve: true });
  const log: string[] = [];
  const start = () => serveSnapshotter(store, socket, (_level, sentence) => log.push(sentence));
  for (const [name, parent] of [
    [BASE, ''],
    [TOP, BASE],
  ] as const) {
    await store.prepare(`extract-1-a ${name}`, parent);
    const labels = { [LABEL_SNAPSHOT_REF]: name };
    await store.commit(name, `extract-1-a ${name}`, { synced: true, labels, usage: { bytes: 4096, inodes: 1 } });
  }
  let server = await start();
  const client = connectContainerd({ socket, namespace: 'default' });
  try {
    const restart = async () => {
      await server.close();
      server = await start();
    };
    await body({ store, root, socket, snapshots: client.snapshots, log, restart });
  } finally {
    client.close();
    await server.close();
    await store.close();
  }
}

/** A store that nobody serves. @param body gets a folder for sockets too */
async function unserved(body: (store: OwnStore, place: string) => Promise<void>): Promise<void> {
  using place = scratch();
  const store = await openSnapshotter({ root: join(place.path, 'store'), type: 'overlay' });
  try {
    await body(store, place.path);
  } finally {
    await store.close();
  }
}

const small = () => tmpfs('size=8m');

/** Writes a file until the disk is full. */
function fill(path: string): void {
  try {
    for (;;) appendFileSync(path, Buffer.alloc(4096, 1));
  } catch (error) {
    assert.equal(errnoOf(error), 'ENOSPC');
  }
}

async function fails(call: Promise<unknown>, code: GrpcCode): Promise<void> {
  await assert.rejects(call, (error) => {
    assert.ok(isGrpcError(error, code), `expected ${code}, got ${String(error)}`);
    return true;
  });
}

const snapshotter = 'unpackd';

/** Asks for a layer as containerd does before it fetches it. */
async function ask({ snapshots }: Served, key: string, chainId: string, parent = ''): Promise<void> {
  await snapshots.Prepare({ snapshotter, key, parent, labels: { [LABEL_SNAPSHOT_REF]: chainId } });
}

async function list({ snapshots }: Served, ...filters: string[]): Promise<WireSnapshot[]> {
  const found: WireSnapshot[] = [];
  for await (const { info } of snapshots.List({ snapshotter, filters })) found.push(...info);
  return found;
}

const namesOf = (infos: readonly WireSnapshot[]) => infos.map(({ name }) => name);

/** containerd's filter after ALREADY_EXISTS. */
const refFilter = (chainId: string, parent: string) => `labels."${LABEL_SNAPSHOT_REF}"==${chainId},parent=="${parent}"`;

describe('the proxy snapshotter', () => {
  const behaviour = (sentence: string, body: (context: Served) => Promise<void>) => test(sentence, () => serving(body));

  behaviour('answers ALREADY_EXISTS for a layer that was unpacked ahead, and shows it from then on', async (served) => {
    assert.deepEqual(await list(served), []);
    await fails(ask(served, 'default/1/extract-1-a', BASE), 'ALREADY_EXISTS');
    assert.deepEqual(namesOf(await list(served, refFilter(BASE, ''))), [BASE]);
    await fails(ask(served, 'default/2/extract-1-a', TOP, BASE), 'ALREADY_EXISTS');
    assert.deepEqual(namesOf(await list(served, refFilter(TOP, BASE))), [TOP]);
    assert.deepEqual(namesOf(await list(served)), [BASE, TOP]);
  });

  behaviour('does not adopt a layer with another parent', async (served) => {
    await ask(served, 'default/1/extract-1-a', TOP);
    assert.deepEqual(namesOf(await list(served)), ['default/1/extract-1-a']);
    assert.equal((await served.store.stat(TOP)).claim, undefined);
  });

  behaviour(
    'an adopted layer has the label that containerd looks for, whatever it was committed with',
    async (served) => {
      await served.store.update({ name: BASE, labels: {} });
      await fails(ask(served, 'default/1/extract-1-a', BASE), 'ALREADY_EXISTS');
      const [found] = await list(served, refFilter(BASE, ''));
      assert.deepEqual(found?.labels, { [LABEL_SNAPSHOT_REF]: BASE });
    },
  );

  behaviour('Remove of an adopted layer ends the claim, children first, and leaves it to unpackd', async (served) => {
    await fails(ask(served, 'default/1/extract-1-a', BASE), 'ALREADY_EXISTS');
    await fails(ask(served, 'default/2/extract-1-a', TOP, BASE), 'ALREADY_EXISTS');
    await fails(served.snapshots.Remove({ snapshotter, key: BASE }), 'FAILED_PRECONDITION');
    await served.snapshots.Remove({ snapshotter, key: TOP });
    await served.snapshots.Remove({ snapshotter, key: BASE });
    assert.deepEqual(await list(served), []);
    assert.equal(await served.store.has(TOP), true);
    await served.store.remove(TOP);
  });

  behaviour('another namespace finds a layer that containerd has unpacked', async (served) => {
    await ask(served, 'default/1/extract-1-a', chain('c'));
    const labels = { [LABEL_SNAPSHOT_REF]: chain('c') };
    const name = `default/2/${chain('c')}`;
    await served.snapshots.Commit({ snapshotter, key: 'default/1/extract-1-a', name, labels });
    await fails(ask(served, 'k8s.io/1/extract-1-a', chain('c')), 'ALREADY_EXISTS');
    assert.deepEqual(namesOf(await list(served, refFilter(chain('c'), ''))), [name]);
  });

  behaviour('a writable layer has the mounts of the store, stands on adopted layers and is removed', async (served) => {
    const { mounts } = await served.snapshots.Prepare({ snapshotter, key: 'default/1/box', parent: TOP });
    assert.deepEqual(
      mounts,
      (await served.store.mounts('default/1/box')).map((mount) => ({ ...mount, target: '' })),
    );
    assert.deepEqual((await served.snapshots.Mounts({ snapshotter, key: 'default/1/box' })).mounts, mounts);
    assert.deepEqual(namesOf(await list(served)), ['default/1/box', BASE, TOP]);
    await served.snapshots.Remove({ snapshotter, key: 'default/1/box' });
    await fails(served.snapshots.Stat({ snapshotter, key: 'default/1/box' }), 'NOT_FOUND');
  });

  behaviour('Update changes labels, and keeps the claim', async (served) => {
    await fails(ask(served, 'default/1/extract-1-a', BASE), 'ALREADY_EXISTS');
    const before = (await served.snapshots.Stat({ snapshotter, key: BASE })).info;
    const info = { name: BASE, labels: { a: '1' } };
    const { info: updated } = await served.snapshots.Update({ snapshotter, info, updateMask: { paths: ['labels.a'] } });
    assert.deepEqual(updated?.labels, { ...before?.labels, a: '1' });
    assert.deepEqual(updated?.createdAt, before?.createdAt);
    assert.deepEqual((await served.snapshots.Update({ snapshotter, info, updateMask: null })).info?.labels, {
      [LABEL_SNAPSHOT_REF]: BASE,
      a: '1',
    });
    assert.deepEqual(namesOf(await list(served)), [BASE]);
    const wrong = served.snapshots.Update({ snapshotter, info, updateMask: { paths: ['parent'] } });
    await fails(wrong, 'INVALID_ARGUMENT');
  });

  behaviour('List sends all snapshots in batches, and refuses a wrong filter', async (served) => {
    const keys = Array.from({ length: 205 }, (_, index) => `default/${index}/box`).sort();
    for (const key of keys) await served.snapshots.Prepare({ snapshotter, key, parent: TOP });
    assert.deepEqual(namesOf(await list(served, 'kind==active')), keys);
    assert.deepEqual(namesOf(await list(served, 'name==default/7/box', 'kind==committed,parent!=""')), [
      'default/7/box',
      TOP,
    ]);
    await fails(list(served, 'name='), 'INVALID_ARGUMENT');
  });

  behaviour('a commit never gives a parent, because files that a layer deletes would come back', async (served) => {
    await served.snapshots.Prepare({ snapshotter, key: 'default/1/box' });
    const commit = { snapshotter, key: 'default/1/box', name: 'default/2/name' };
    await fails(served.snapshots.Commit({ ...commit, parent: BASE }), 'INVALID_ARGUMENT');
    await served.snapshots.Commit(commit);
  });

  behaviour('a snapshot of the wrong kind is FAILED_PRECONDITION, as in containerd', async (served) => {
    await served.snapshots.Prepare({ snapshotter, key: 'default/1/box', parent: TOP });
    await served.snapshots.View({ snapshotter, key: 'default/2/look', parent: TOP });
    await fails(served.snapshots.Mounts({ snapshotter, key: TOP }), 'FAILED_PRECONDITION');
    for (const key of [TOP, 'default/2/look']) {
      await fails(served.snapshots.Commit({ snapshotter, key, name: 'default/3/name' }), 'FAILED_PRECONDITION');
    }
    await fails(served.snapshots.Mounts({ snapshotter, key: 'nothing' }), 'NOT_FOUND');
    await fails(served.snapshots.Commit({ snapshotter, key: 'nothing', name: 'default/3/name' }), 'NOT_FOUND');
  });

  behaviour('Usage is exact for what containerd has made, and takes no time after the commit', async (served) => {
    const { mounts } = await served.snapshots.Prepare({ snapshotter, key: 'default/1/box' });
    writeFileSync(join(mounts[0]?.source ?? '', 'file'), Buffer.alloc(10_000));
    const before = await served.snapshots.Usage({ snapshotter, key: 'default/1/box' });
    assert.equal(before.inodes, 2);
    assert.ok(before.size >= 12_288 && before.size < 30_000, `${before.size}`);
    await served.snapshots.Commit({ snapshotter, key: 'default/1/box', name: 'default/2/name' });
    assert.deepEqual(await served.snapshots.Usage({ snapshotter, key: 'default/2/name' }), before);
    assert.equal((await served.store.stat('default/2/name')).size?.bytes, before.size);
  });

  behaviour('what containerd commits is on disk, as UNPACK_DURABLE demands', async (served) => {
    await served.snapshots.Prepare({ snapshotter, key: 'default/1/box' });
    await served.snapshots.Commit({ snapshotter, key: 'default/1/box', name: 'default/2/name' });
    assert.equal((await served.store.stat('default/2/name')).synced, true);
    assert.equal(await served.store.has('default/2/name'), true);
  });

  behaviour(
    'a restart of the server keeps snapshots and claims, also of a commit that was under way',
    async (served) => {
      await served.snapshots.Prepare({ snapshotter, key: 'default/1/box', parent: TOP });
      await served.snapshots.Prepare({ snapshotter, key: 'default/2/extract' });
      await served.restart();
      await served.snapshots.Commit({ snapshotter, key: 'default/2/extract', name: 'default/3/name' });
      assert.equal((await served.store.stat('default/3/name')).synced, true);
      assert.deepEqual(namesOf(await list(served)), ['default/1/box', 'default/3/name', BASE, TOP]);
    },
  );

  behaviour('a failure of the store is UNAVAILABLE, and is logged', async (served) => {
    rmSync(join(served.root, 'snapshots'), { recursive: true });
    await fails(served.snapshots.Prepare({ snapshotter, key: 'default/1/box' }), 'UNAVAILABLE');
    assert.match(served.log.at(-1) ?? '', /^Prepare of containerd failed: unpackd: .*snapshots/);
    await fails(served.snapshots.Stat({ snapshotter, key: 'nothing' }), 'UNAVAILABLE');
    await served.store.close();
    await fails(served.snapshots.Stat({ snapshotter, key: 'nothing' }), 'UNAVAILABLE');
  });

  test('without UNPACK_DURABLE, a commit is not synced, and is used', async () => {
    await serving(
      async (served) => {
        await served.snapshots.Prepare({ snapshotter, key: 'default/1/box' });
        await served.snapshots.Commit({ snapshotter, key: 'default/1/box', name: 'default/2/name' });
        assert.equal((await served.store.stat('default/2/name')).synced, false);
        await served.snapshots.Prepare({ snapshotter, key: 'default/3/box', parent: 'default/2/name' });
      },
      { durable: false },
    );
  });

  test('on a full disk, Prepare is RESOURCE_EXHAUSTED, and Remove makes room', {
    skip: unavailable(small),
  }, async () => {
    using disk = small();
    await serving(
      async (served) => {
        await fails(ask(served, 'default/1/extract-1-a', BASE), 'ALREADY_EXISTS');
        const { mounts } = await served.snapshots.Prepare({ snapshotter, key: 'default/2/box' });
        fill(join(mounts[0]?.source ?? '', 'file'));
        const prepareForEver = async () => {
          for (let number = 3; ; number++) {
            await served.snapshots.Prepare({ snapshotter, key: `default/${number}/box-${'x'.repeat(1000)}` });
          }
        };
        await fails(prepareForEver(), 'RESOURCE_EXHAUSTED');
        assert.match(served.log.at(-1) ?? '', /^Prepare of containerd failed: unpackd: .*(space|free)/);
        await served.snapshots.Remove({ snapshotter, key: BASE });
        await served.snapshots.Remove({ snapshotter, key: 'default/2/box' });
        await served.snapshots.Cleanup({ snapshotter });
        await served.snapshots.Prepare({ snapshotter, key: 'default/0/box' });
      },
      { root: join(disk.path, 'store') },
    );
  });

  test('a native store is served too', async () => {
    await serving(
      async (served) => {
        await fails(ask(served, 'default/1/extract-1-a', BASE), 'ALREADY_EXISTS');
        await served.snapshots.Prepare({ snapshotter, key: 'default/2/box', parent: BASE });
        await served.snapshots.Commit({ snapshotter, key: 'default/2/box', name: 'default/3/name' });
        assert.equal((await served.snapshots.Usage({ snapshotter, key: 'default/3/name' })).inodes, 1);
      },
      { type: 'native' },
    );
  });
});

describe('the socket of the proxy snapshotter', () => {
  const log = () => {};

  test('has mode 0600, is removed at the end, and a second server is refused', async () => {
    await serving(async ({ store, socket }) => {
      assert.equal(statSync(socket).mode & 0o777, 0o600);
      await assert.rejects(serveSnapshotter(store, socket, log), {
        name: 'SocketError',
        message: `process ${process.pid} listens on ${socket} already: stop it, or choose another path`,
      });
      assert.ok(statSync(socket).isSocket());
    });
  });

  test('of several workers with the same socket, another one serves when the first has ended', async () => {
    using place = scratch();
    const socket = join(place.path, 's.sock');
    const store = await openSnapshotter({ root: join(place.path, 'store'), type: 'overlay' });
    const client = connectContainerd({ socket, namespace: 'default' });
    const lines: string[] = [];
    const logTo = (_level: string, sentence: string) => lines.push(sentence);
    try {
      const first = await serveWhenFree(store, socket, log);
      const second = await serveWhenFree(store, socket, logTo);
      const third = await serveWhenFree(store, socket, log);
      assert.match(lines[0] ?? '', /^another process serves containerd on .*; this one does when that one has ended$/);
      await third.close();
      await first.close();
      await eventually('the second one serves', () => lines.some((line) => line.startsWith('serves ')));
      await client.snapshots.Prepare({ snapshotter, key: 'default/1/box' });
      await second.close();
      await assert.rejects(client.snapshots.Stat({ snapshotter, key: 'default/1/box' }));
    } finally {
      client.close();
      await store.close();
    }
  });

  test('replaces a socket that a dead process of unpackd has left, and nothing else', async () => {
    await unserved(async (store, place) => {
      const dead = join(place, 'dead.sock');
      const server = createServer();
      server.unref(); // a failure of this test must end the file
      await new Promise<void>((resolve) => server.listen(dead, resolve));
      const living = { isTaken: false, message: /^another program listens on .*dead\.sock already: stop it/ };
      await assert.rejects(serveSnapshotter(store, dead, log), living);
      // a killed process leaves the name of its socket
      const left = join(place, 'left.sock');
      renameSync(dead, left);
      await new Promise((resolve) => server.close(resolve));
      const foreign = /left\.sock is a socket of another program, which does not listen now: choose another path/;
      // also at the second attempt, which finds what the first one has made
      for (const _ of [1, 2]) await assert.rejects(serveSnapshotter(store, left, log), { message: foreign });
      assert.ok(statSync(left).isSocket());
      writeFileSync(`${left}.lock`, '1\n');
      const served = await serveSnapshotter(store, left, log);
      await served.close();

      const [file, folder] = [join(place, 'file'), join(place, 'folder')];
      writeFileSync(file, 'text');
      mkdirSync(folder);
      for (const path of [file, folder]) {
        await assert.rejects(serveSnapshotter(store, path, log), { message: /is there already and is no socket/ });
      }
      assert.ok(statSync(file).isFile() && statSync(folder).isDirectory());
    });
  });

  test('a path that is too long for a socket is refused', async () => {
    await unserved(async (store, place) => {
      const long = join(place, 'x'.repeat(100));
      await assert.rejects(serveSnapshotter(store, long, log), { message: /can't be so long: choose a shorter one/ });
    });
  });

  test('a store whose files have lost their owners is refused', async () => {
    using place = scratch();
    const store = await openSnapshotter({ root: join(place.path, 'store'), type: 'overlay', ownership: 'squash' });
    try {
      await assert.rejects(serveSnapshotter(store, join(place.path, 's.sock'), log), {
        code: 'STORE_FAILED',
        message: /containers need their owners/,
      });
    } finally {
      await store.close();
    }
  });
});
