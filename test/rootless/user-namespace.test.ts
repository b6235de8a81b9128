import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Finished, finished, MAIN } from '../cli/run-cli.ts';
import { startChild } from '../support/child.ts';
import { imageOf, layerOf, writeLayout } from '../support/layout.ts';
import { skipWithoutUserNamespaces } from '../support/present.ts';
import { scratch } from '../support/scratch.ts';
import { device, file, tar } from '../support/tar.ts';

const skip = process.getuid?.() === 0 ? skipWithoutUserNamespaces() : 'giving a user namespace its users needs root';

/** Runs `unpackd ARGS` as root of a user namespace with the users and groups 0 to 999. */
async function unpackdInNamespace(...args: readonly string[]): Promise<Finished> {
  const inside = ['--user', 'sh', '-c', 'read _ && exec "$0" "$@"'];
  const child = startChild('unshare', [...inside, process.execPath, MAIN, ...args], {
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  const end = finished(child);
  await once(child, 'spawn');
  // the parent's map is the default of a namespace that has not been made yet
  for (;;) {
    try {
      writeFileSync(`/proc/${child.pid}/uid_map`, '0 0 1000');
      writeFileSync(`/proc/${child.pid}/gid_map`, '0 0 1000');
      break;
    } catch (error) {
      assert.ok(existsSync(`/proc/${child.pid}`), String(error));
      await sleep(20);
    }
  }
  child.stdin?.end('\n');
  return end;
}

test('a device that root of a user namespace may not make is an error of the worker', { skip }, async () => {
  using dir = scratch();
  await writeLayout(join(dir.path, 'layout'), { app: imageOf([layerOf(tar(device('null', 'c', 1, 3)))]) });
  const { stderr } = await unpackdInNamespace('apply', `${dir.path}/layout:app`, '--root', `${dir.path}/store`);
  assert.match(
    stderr,
    /^unpackd: \[STORE_FAILED\] layer 1 of 1 [^\n]*: the entry "null" [^\n]*EPERM[^\n]*CAP_MKNOD[^\n]*UNPACK_OWNERSHIP=squash[^\n]*\n$/,
  );
});

test('an owner outside the user namespace is an error of the worker, not of the layer', { skip }, async () => {
  using dir = scratch();
  const image = imageOf([layerOf(tar(file('mine', 'x', { uid: 999 }), file('theirs', 'x', { uid: 5000, gid: 7 })))]);
  await writeLayout(join(dir.path, 'layout'), { app: image });
  const { status, stderr } = await unpackdInNamespace('apply', `${dir.path}/layout:app`, '--root', `${dir.path}/store`);
  assert.equal(status, 1);
  assert.match(
    stderr,
    /^unpackd: \[STORE_FAILED\] layer 1 of 1 [^\n]*: the entry "theirs" [^\n]*has no owner 5000:7; [^\n]*\/etc\/subuid[^\n]*\n$/,
  );
});
