import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdirSync, readdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { UnpackError } from '../../src/errors.ts';
import { applyTar } from '../support/apply.ts';
import { startChild } from '../support/child.ts';
import { Sandbox } from '../support/sandbox.ts';
import { directory, file, hardlink, type Member, opaque, symlink, tar, whiteout } from '../support/tar.ts';

/** Minimum number of times that each archive is applied, and that the two names are exchanged. */
const ROUNDS = 100;
const SWAPS = 1000;
/** Milliseconds after which the test fails if no entry went through the link. */
const PATIENCE = 120_000;

/**
 * Applies an archive repeatedly while another process exchanges a directory of the root, `d`, with a link to a directory
 * outside, `l` (CVE-2018-15664 of Docker, CVE-2025-47290 of containerd).
 */
async function race(archive: Buffer, target: (outside: string) => string, useOpenat2: boolean): Promise<void> {
  using box = new Sandbox();
  const [root] = box.roots;
  const [one, other] = [join(root, 'd'), join(root, 'l')];
  mkdirSync(join(one, 'sub'), { recursive: true });
  symlinkSync(target(box.outside), other);
  await using swapper = startChild(process.execPath, [new URL('swapper.ts', import.meta.url).pathname, one, other], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  assert.ok(swapper.stdout !== null);
  let swaps = 0;
  swapper.stdout.on('data', (text: Buffer) => {
    swaps = Math.max(swaps, ...text.toString().split('\n').map(Number).filter(Number.isFinite));
  });
  await once(swapper.stdout, 'data');
  // entries that went through the link are in a directory of the root with the name of the one outside
  const isDeceived = (): boolean =>
    readdirSync(root).some((name) => name === 'outside' || name === box.outside.split('/')[1]);
  const end = performance.now() + PATIENCE;
  for (let round = 0; round < ROUNDS || swaps < SWAPS || !isDeceived(); round++) {
    try {
      applyTar(archive, { root, below: round % 2 === 0 ? 'parent' : 'later' }, { useOpenat2 });
    } catch (error) {
      assert.ok(error instanceof UnpackError, String(error));
    }
    box.check();
    assert.ok(performance.now() < end, `${round} rounds, ${swaps} exchanges, and no entry went through the link`);
    await sleep(0);
  }
}

const members: Member[] = [];
for (let i = 0; i < 60; i++) {
  // an entry in another directory in between, so that the path of `d` is resolved again
  members.push(file(`d/f${i % 7}`, 'dead', { mode: 0o777 }), file(`e${i % 200}/f`, 'x'));
  if (i % 5 === 0) members.push(directory('d/sub', { mode: 0o777, mtime: 7 }), file('d/sub/canary', 'dead'));
  if (i % 7 === 0) members.push(whiteout('d/canary'), opaque('d/sub'), symlink('d/s', 'f0'));
  if (i % 11 === 0) members.push(hardlink('d/h', 'd/canary', { mode: 0o777 }), hardlink('h', 'd/canary', { uid: 5 }));
}
// a hard link without a target ends the archive; without hard links the times of directories are reached
const archives = [tar(...members), tar(...members.filter(({ type }) => type !== '1'))];

describe('another process that exchanges a directory with a link', { concurrency: false }, () => {
  for (const useOpenat2 of [true, false]) {
    const how = useOpenat2 ? 'with openat2' : 'by the walk';
    it(`can’t make a layer write outside, ${how}, through a relative link`, async () => {
      await race(Buffer.from(archives[1] ?? ''), () => '../outside', useOpenat2);
    });
    it(`can’t make a layer write outside, ${how}, through an absolute link`, async () => {
      await race(Buffer.from(archives[0] ?? ''), (outside) => outside, useOpenat2);
    });
  }
});
