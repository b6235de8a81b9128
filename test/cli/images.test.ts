import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import '../support/needs-root.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import type { Store } from '../../src/snapshots/store.ts';
import { scratch } from '../support/scratch.ts';
import { runCli } from './run-cli.ts';

/** A store with two images that share a layer: `base` ← `left`, `base` ← `right`. */
const folder = scratch();
const root = join(folder.path, 'store');
const name = (digit: string) => `sha256:${digit.repeat(64)}`;
const [BASE, LEFT, RIGHT] = [name('a'), name('b'), name('c')];
const REFERENCE = 'registry.example.com/team/left:1.0';

async function changing(body: (store: Store) => Promise<unknown>): Promise<void> {
  const store = await openSnapshotter({ root, type: 'overlay' });
  try {
    await body(store);
  } finally {
    await store.close();
  }
}

before(() =>
  changing(async (store) => {
    const layer = async (key: string, parent: string, bytes: number) => {
      await store.prepare(`of ${key}`, parent);
      await store.commit(key, `of ${key}`, { usage: { bytes, inodes: 3 }, synced: key !== RIGHT });
    };
    await layer(BASE, '', 5 << 20);
    await layer(LEFT, BASE, 2 << 20);
    await layer(RIGHT, BASE, 1 << 20);
    const platform = 'linux/amd64';
    await store.recordImage({ reference: REFERENCE, platform, chainId: LEFT, source: 's3://b' }, new Map());
    await store.recordImage({ reference: 'right', platform, chainId: RIGHT, source: 's3://b' }, new Map());
  }),
);
after(() => folder[Symbol.dispose]());

describe('snapshots ls', () => {
  const ls = (...args: string[]) => runCli(['snapshots', 'ls', ...args, '--root', root]);

  test('shows sizes and the images of each snapshot, in a pipe with whole names', async () => {
    const { stdout } = await ls();
    const lines = stdout.trimEnd().split('\n');
    assert.match(lines[0] ?? '', /^KIND +AGE +SIZE +KEY +PARENT +IMAGES$/);
    assert.match(lines[1] ?? '', new RegExp(`^committed +\\d+ s +5.0 MiB +${BASE} +${REFERENCE}, right$`));
    assert.match(lines[2] ?? '', new RegExp(`^committed +\\d+ s +2.0 MiB +${LEFT} +${BASE} +${REFERENCE}$`));
  });

  test('shows what is not on disk', async () => {
    assert.match((await ls('--parent', BASE)).stdout, new RegExp(`^unsynced .*${RIGHT}`, 'm'));
    assert.match(
      (await runCli(['snapshots', 'stat', RIGHT, '--root', root])).stdout,
      /^unsynced its files are possibly/m,
    );
  });

  test('--json has sizes and images', async () => {
    const { snapshots } = JSON.parse((await ls('--json')).stdout);
    assert.deepEqual(snapshots[0].images, [REFERENCE, 'right']);
    assert.deepEqual(snapshots[1].size, { bytes: 2 << 20, inodes: 3 });
  });

  test('stat shows both too', async () => {
    const { stdout } = await runCli(['snapshots', 'stat', LEFT, '--root', root]);
    assert.match(stdout, /^size +2.0 MiB, 3 inodes/m);
    assert.match(stdout, new RegExp(`^image +${REFERENCE}$`, 'm'));
  });
});
