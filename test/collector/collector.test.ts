import assert from 'node:assert/strict';
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import '../support/needs-root.ts';
import { type CollectOptions, Collector } from '../../src/collector/collector.ts';
import type { Removal } from '../../src/collector/plan.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import type { Store } from '../../src/snapshots/store.ts';
import { changeDatabase } from '../snapshots/temporary-store.ts';
import { altered } from '../support/altered.ts';
import { scratch } from '../support/scratch.ts';

const REASON = { why: 'the test says so' };
const documents = new Map(['manifest', 'config'].map((digest) => [digest, Buffer.from(digest)]));

/** A store with images `image-NAME`, each of one layer NAME of 1000 bytes on `base`; the first one is the oldest. */
async function bench(...names: readonly string[]) {
  const directory = scratch();
  const root = join(directory.path, 'store');
  const store = await openSnapshotter({ root, type: 'overlay' });
  const layer = async (name: string, parent: string): Promise<void> => {
    await store.prepare(`prepare-${name}`, parent);
    await store.commit(name, `prepare-${name}`, { synced: true, usage: { bytes: 1000, inodes: 2 } });
  };
  await layer('base', '');
  for (const [index, name] of names.entries()) {
    await layer(name, 'base');
    const image = { reference: `image-${name}`, platform: '', chainId: name, source: 's3://b' };
    await store.recordImage({ ...image, manifestDigest: 'manifest', configDigest: 'config' }, documents);
    await changeDatabase(root, `UPDATE images SET used = ${1000 + index} WHERE reference = 'image-${name}'`);
  }
  return {
    store,
    root,
    /** Removes images until so many bytes are freed. */
    async collect(bytes: number, using: Store = store, options: Partial<CollectOptions> = {}): Promise<string[]> {
      let freed = 0;
      const onRemoved = (removal: Removal): void => {
        freed += removal.frees.bytes;
        options.onRemoved?.(removal);
      };
      const missing = () => ({ bytes: Math.max(0, bytes - freed), inodes: 0 });
      const { removals } = await new Collector(using, undefined).collect(missing, { ...REASON, ...options, onRemoved });
      return removals.map(({ top }) => top);
    },
    references: async () => (await store.images()).map(({ reference }) => reference),
    snapshots: async () => (await store.walk()).map(({ name }) => name),
    async [Symbol.asyncDispose]() {
      await store.close();
      directory[Symbol.dispose]();
    },
  };
}

describe('a collection', () => {
  test('removes records and snapshots of the oldest images, and their files, until enough is freed', async () => {
    await using b = await bench('a', 'b', 'c');
    const lines: string[] = [];
    const log = (_level: string, sentence: string) => void lines.push(sentence);
    assert.deepEqual(await b.collect(2000, b.store, { log }), ['a', 'b']);
    assert.deepEqual(await b.references(), ['image-c']);
    assert.deepEqual(await b.snapshots(), ['base', 'c']);
    assert.match(
      lines[0] ?? '',
      /^removed image-a, last used \d+ d ago, because the test says so: frees 1000 B and 2 inodes$/,
    );
    assert.match(lines.at(-1) ?? '', /^removed 2 images in .*; \S+ \w+ free now$/);
    assert.deepEqual(await b.collect(Number.POSITIVE_INFINITY), ['c']);
    assert.deepEqual(await b.snapshots(), []);
    assert.equal(await b.store.document('manifest'), undefined);
  });

  test('deletes what was left behind first, and no image if that is enough', async () => {
    await using b = await bench('a');
    const left = join(b.root, 'snapshots/rm-99-left');
    mkdirSync(left);
    const missing = () => ({ bytes: existsSync(left) ? 1 : 0, inodes: 0 });
    const { removals } = await new Collector(b.store, undefined).collect(missing, REASON);
    assert.deepEqual([removals, existsSync(left)], [[], false]);
    assert.deepEqual(await b.references(), ['image-a']);
  });

  test('leaves pinned images, leased layers and layers with views, and says who uses them', async () => {
    await using b = await bench('a', 'b', 'c', 'd');
    await b.store.pinImage('image-a', undefined, true);
    await using _lease = await b.store.lease(['b'], { worker: 'worker-1', job: 'job-7' });
    await b.store.view('my view', 'c');
    assert.deepEqual(await b.collect(Number.POSITIVE_INFINITY), ['d']);
    const { kept } = await new Collector(b.store, undefined).plan({ bytes: 1, inodes: 0 });
    assert.deepEqual(
      kept.map(({ top, reason, why }) => [top, reason, why.replace(/\d+ on \S+/, 'N on HOST')]),
      [
        ['a', 'pinned', 'pinned'],
        ['b', 'used', 'used by process N on HOST (worker worker-1, job job-7)'],
        ['c', 'used', 'used by the view my view'],
      ],
    );
  });

  test('keeps the record of an image that is leased after the plan was made', async () => {
    await using b = await bench('a', 'b');
    let lease: AsyncDisposable | undefined;
    const slow = altered(b.store, {
      async remove(name) {
        if (name === 'a') lease ??= await b.store.lease(['a'], {});
        await b.store.remove(name);
      },
    });
    assert.deepEqual(await b.collect(1000, slow), ['b']);
    await lease?.[Symbol.asyncDispose]();
    assert.deepEqual(await b.references(), ['image-a']);
    assert.deepEqual(Buffer.from((await b.store.document('config')) ?? []), Buffer.from('config'));
    assert.deepEqual(await b.snapshots(), ['a', 'base']);
  });

  test('keeps an image that is pinned after the plan was made', async () => {
    await using b = await bench('a', 'b');
    const slow = altered(b.store, {
      async removeImage(reference, platform) {
        if (reference === 'image-a') await b.store.pinImage('image-a', undefined, true);
        return b.store.removeImage(reference, platform);
      },
    });
    assert.deepEqual(await b.collect(1000, slow), ['b']);
    assert.deepEqual(await b.snapshots(), ['a', 'base']);
  });

  test('waits for a collection of another process, which may have freed enough', async () => {
    await using b = await bench('a', 'b');
    const waits = Promise.withResolvers<void>();
    let second: Promise<string[]> | undefined;
    const first = altered(b.store, {
      async remove(name) {
        second ??= b.collect(0, b.store, { onWait: () => waits.resolve() });
        await waits.promise;
        assert.equal(
          await new Collector(b.store, undefined).tryCollect(() => ({ bytes: 1, inodes: 0 }), REASON),
          undefined,
        );
        await b.store.remove(name);
      },
    });
    assert.deepEqual(await b.collect(1000, first), ['a']);
    assert.deepEqual(await second, []);
  });

  test('stops between two images when it is cancelled', async () => {
    await using b = await bench('a', 'b');
    const stop = new AbortController();
    const onRemoved = (): void => stop.abort(new Error('stop'));
    await assert.rejects(b.collect(2000, b.store, { signal: stop.signal, onRemoved }), /stop/);
    assert.deepEqual(await b.references(), ['image-b']);
  });
});
