import assert from 'node:assert/strict';
import { lstatSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { UnpackError } from '../../src/errors.ts';
import { ApplyPool } from '../../src/rootfs/pool.ts';
import { openSource } from '../../src/source/open-sources.ts';
import { SETTINGS } from '../support/apply.ts';
import { imageOf, layerOf, writeLayout } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { file, tar } from '../support/tar.ts';

const FOLDERS = 60;
const FILES = 1000;

/** Starts a layer with one entry that replaces a tree of 60,000 files, and waits until the removal has begun. */
async function atWork(signal?: AbortSignal) {
  const dir = scratch();
  const target = scratch();
  const old = join(target.path, 'old');
  for (let i = 0; i < FOLDERS; i++) {
    const folder = join(old, `${i}`);
    mkdirSync(folder, { recursive: true });
    for (let j = 0; j < FILES; j++) writeFileSync(join(folder, `${j}`), '');
  }
  const layer = layerOf(tar(file('old')), 'none');
  await writeLayout(join(dir.path, 'layout'), { app: imageOf([layer]) });
  const pool = new ApplyPool(1, SETTINGS);
  const source = openSource({ kind: 'oci-layout', path: join(dir.path, 'layout') });
  const applier = pool.applier(source, {
    type: 'native',
    ownership: 'keep',
    overlayXattrs: 'trusted',
    marked: true,
    collectedBy: 'unpackd',
  });
  const mounts = [{ type: 'bind', source: target.path, options: ['rw'] }] as const;
  const applied = applier.apply(layer.blob, mounts, { below: 'parent', diffId: layer.diff.digest, signal });
  applied.catch(() => {});
  // every subdirectory adds one to the number of links
  while (lstatSync(old).nlink === FOLDERS + 2) await sleep(1);
  return {
    pool,
    applied,
    left: (): number => (lstatSync(old).isDirectory() ? readdirSync(old).length : 0),
    async [Symbol.asyncDispose]() {
      await pool.close();
      dir[Symbol.dispose]();
      target[Symbol.dispose]();
    },
  };
}

/** The thread may finish the removal before this one can abort it: then the attempt is repeated. */
async function inTheMiddle(once: () => Promise<boolean>): Promise<void> {
  for (let tries = 0; tries < 10; tries++) if (await once()) return;
  assert.fail('all was removed first');
}

/** The error of the work; `undefined` if it succeeded. */
async function failure(work: Promise<unknown>): Promise<UnpackError | undefined> {
  const error: unknown = await work.then(
    () => undefined,
    (thrown) => thrown,
  );
  assert.ok(error === undefined || error instanceof UnpackError, String(error));
  return error;
}

describe('an entry that takes long', () => {
  it('is aborted in the middle when its job is, with the same reason', async () => {
    await inTheMiddle(async () => {
      const abort = new AbortController();
      await using work = await atWork(abort.signal);
      abort.abort(new UnpackError('TIMED_OUT', 'it took too long'));
      const error = await failure(work.applied);
      if (error === undefined) return false;
      assert.deepEqual([error.code, error.message], ['TIMED_OUT', 'it took too long']);
      return work.left() > 0;
    });
  });

  it('does not keep a worker from stopping', async () => {
    await inTheMiddle(async () => {
      await using work = await atWork();
      await work.pool.close();
      return (await failure(work.applied)) !== undefined && work.left() > 0;
    });
  });
});
