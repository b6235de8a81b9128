import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { runCli } from '../cli/run-cli.ts';
import { imageOf, layerOf } from '../support/layout.ts';
import { device, directory, fifo, file, hardlink, opaque, symlink, tar, whiteout } from '../support/tar.ts';
import { type Node, readTree } from '../support/tree.ts';
import { asUser, NODE, PROGRAM, skip, USER, unpackd, usersFolder } from './as-user.ts';

/** cap_net_raw+ep in the kernel's format. */
const CAPABILITY = Buffer.from('0100000200200000000000000000000000000000', 'hex');

const lower = layerOf(
  tar(
    directory('dev'),
    device('dev/null', 'c', 1, 3),
    device('dev/sda', 'b', 8, 0),
    hardlink('dev/zero', 'dev/null'),
    fifo('dev/pipe', { mode: 0o600 }),
    directory('ro', { mode: 0o555, mtime: 5 }),
    file('ro/file', 'x', { mode: 0o444, uid: 33, gid: 33 }),
    directory('closed', { mode: 0, pax: [['SCHILY.xattr.user.a', '1']] }),
    directory('closed/in', { mode: 0o100 }),
    file('closed/in/secret', 's', { mode: 0, pax: [['SCHILY.xattr.user.b', '2']] }),
    file('ping', 'p', { mode: 0o755, pax: [['SCHILY.xattr.security.capability', CAPABILITY]] }),
    file('su', 's', { mode: 0o6755 }),
    file('linked', 'l', { mode: 0o400 }),
    hardlink('link', 'linked', { mode: 0o444, pax: [['SCHILY.xattr.user.c', '3']] }),
    symlink('symlink', 'su', { uid: 5 }),
    directory('tmp', { mode: 0o1777, pax: [['SCHILY.xattr.user.overlay.opaque', 'y']] }),
    directory('replaced'),
    file('replaced/old', 'o'),
    file('gone', 'g'),
    file('becomes-device', 'g'),
  ),
);
const upper = layerOf(
  tar(
    whiteout('gone'),
    directory('replaced'),
    opaque('replaced'),
    file('replaced/new', 'n'),
    file('ro/second', '2'),
    file('closed/third', '3'),
    device('becomes-device', 'c', 1, 5),
    device('dev/null', 'c', 1, 3),
  ),
  'zstd',
);
const image = imageOf([lower, upper]);

type Type = 'overlay' | 'native';

/** Unpacks the image as a user without privileges. */
async function unpacked(type: Type) {
  const folder = await usersFolder(image);
  const store = ['--root', join(folder.path, 'store'), '--snapshotter', type];
  const squash = ['--ownership', 'squash'];
  const { status, stdout, stderr } = await unpackd('apply', `${folder.path}/layout:app`, ...store, ...squash, '--json');
  assert.equal(stderr, '');
  assert.equal(status, 0);
  const snapshots = join(folder.path, 'store/snapshots');
  return { folder, store, snapshots, result: JSON.parse(stdout), [Symbol.dispose]: () => folder[Symbol.dispose]() };
}

/** The snapshot tree that contains this file. */
function treeWith(snapshots: string, name: string): Record<string, Node> {
  for (const id of readdirSync(snapshots)) {
    const tree = readTree(join(snapshots, id, 'fs'));
    if (name in tree) return tree;
  }
  throw new Error(`no layer has ${name}`);
}

const told = (tree: Record<string, Node>, ...names: readonly string[]) =>
  Object.fromEntries(
    names.map((name) => {
      const node = tree[name];
      return [name, node === undefined ? 'missing' : `${node.type} ${node.mode} ${node.owner}`];
    }),
  );
const mine = `${USER}:${USER}`;

describe('a user without root rights and without UNPACK_OWNERSHIP=squash', { skip }, () => {
  for (const command of ['apply', 'worker'] as const) {
    test(`is refused by ${command} at the start, with the remedy`, async () => {
      using folder = await usersFolder(image);
      const argument = command === 'apply' ? [`${folder.path}/layout:app`] : [];
      const { status, stdout, stderr } = await unpackd(command, ...argument, '--root', `${folder.path}/store`);
      assert.equal(status, 1);
      assert.equal(stdout, '');
      assert.match(
        stderr,
        /^unpackd: \[STORE_FAILED\] user 65534 can't give files to the owners [^\n]+ run as root, or set UNPACK_OWNERSHIP=squash, [^\n]+\n$/,
      );
      assert.equal(existsSync(join(folder.path, 'store')), false);
    });
  }
});

describe('a user without root rights, with UNPACK_OWNERSHIP=squash: overlay', { skip }, () => {
  test('owns all files, with their modes', async () => {
    using run = await unpacked('overlay');
    const tree = treeWith(run.snapshots, 'su');
    assert.deepEqual(
      told(
        tree,
        'su',
        'ro',
        'ro/file',
        'closed',
        'closed/in',
        'closed/in/secret',
        'tmp',
        'link',
        'symlink',
        'dev/pipe',
      ),
      {
        su: `file 6755 ${mine}`,
        ro: `directory 0555 ${mine}`,
        'ro/file': `file 0444 ${mine}`,
        closed: `directory 0000 ${mine}`,
        'closed/in': `directory 0100 ${mine}`,
        'closed/in/secret': `file 0000 ${mine}`,
        tmp: `directory 1777 ${mine}`,
        link: `file 0444 ${mine}`,
        symlink: `symlink 0777 ${mine}`,
        'dev/pipe': `fifo 0600 ${mine}`,
      },
    );
    assert.equal(tree.ro?.mtime, 5_000_000_000n);
    assert.deepEqual(tree.closed?.xattrs, { 'user.a': '1' });
    assert.deepEqual(tree['closed/in/secret']?.xattrs, { 'user.b': '2' });
    assert.deepEqual(tree.link?.xattrs, { 'user.c': '3' });
  });

  test('gets no devices, no file capabilities, and no overlay marks from the archive', async () => {
    using run = await unpacked('overlay');
    const tree = treeWith(run.snapshots, 'su');
    assert.deepEqual(told(tree, 'dev/null', 'dev/sda', 'dev/zero'), {
      'dev/null': 'missing',
      'dev/sda': 'missing',
      'dev/zero': 'missing',
    });
    assert.equal(tree.ping?.xattrs, undefined);
    assert.equal(tree.tmp?.xattrs, undefined);
  });

  test('gets one warning per layer for each kind of entry that is left out', async () => {
    using run = await unpacked('overlay');
    const kinds = run.result.warnings.map((warning: string) => warning.slice(0, warning.indexOf('"') - 1)).sort();
    assert.deepEqual(kinds, [
      'layer 1 of 2: left out the device',
      'layer 1 of 2: left out the extended attribute security.capability of',
      'layer 1 of 2: left out the extended attribute user.overlay.opaque of',
      'layer 1 of 2: left out the owner of',
      'layer 2 of 2: left out the device',
    ]);
    assert.match(
      run.result.warnings.join('\n'),
      /"dev\/null" \(character 1:3\): [^\n]*UNPACK_OWNERSHIP=squash [^\n]*\(and 2 more like this\)/,
    );
  });

  test('gets whiteouts for userxattr, also in a layer that is written before its parents', async () => {
    using run = await unpacked('overlay');
    const tree = treeWith(run.snapshots, 'replaced/new');
    assert.deepEqual(told(tree, 'gone', 'becomes-device'), {
      gone: `character 0000 ${mine}`,
      'becomes-device': `character 0000 ${mine}`,
    });
    assert.equal(tree.gone?.device, '0:0');
    assert.deepEqual(tree.replaced?.xattrs, { 'user.overlay.opaque': 'y' });
    // no entry names these: they are as the layer below has them
    assert.deepEqual(told(tree, 'ro', 'closed'), { ro: `directory 0555 ${mine}`, closed: `directory 0000 ${mine}` });
    assert.equal(tree.ro?.mtime, 5_000_000_000n);
  });

  test('sees the merged layers in a user namespace', async (context) => {
    using run = await unpacked('overlay');
    const namespace = ['--user', '--map-root-user', '--mount'];
    const possible = await asUser('unshare', [...namespace, 'true']);
    if (possible.status !== 0) return context.skip(`no user namespaces here: ${possible.stderr.trim()}`);
    const at = join(run.folder.path, 'merged');
    const command = [NODE, PROGRAM, 'snapshots', 'mount', image.chainId, at, ...run.store]
      .map((part) => `'${part}'`)
      .join(' ');
    const script = `${command} >&2 && cd '${at}' && find . -mindepth 1 | sort && stat -c '%u:%g %a' su`;
    const { stdout, stderr } = await asUser('unshare', [...namespace, 'sh', '-c', script]);
    assert.deepEqual(
      stdout.trimEnd().split('\n'),
      [
        './closed',
        './closed/in',
        './closed/in/secret',
        './closed/third',
        './dev',
        './dev/pipe',
        './link',
        './linked',
        './ping',
        './replaced',
        './replaced/new',
        './ro',
        './ro/file',
        './ro/second',
        './su',
        './symlink',
        './tmp',
        '0:0 6755', // root's again, as in the image
      ],
      stderr,
    );
  });

  test('can unpack once, measure, remove and clean up', async () => {
    using run = await unpacked('overlay');
    const again = await unpackd(
      'apply',
      `${run.folder.path}/layout:app`,
      ...run.store,
      '--ownership',
      'squash',
      '--json',
    );
    const states = JSON.parse(again.stdout).images[0].layers.map(({ state }: { state: string }) => state);
    assert.deepEqual(states, ['existed', 'existed']);
    const usage = await unpackd('snapshots', 'usage', ...run.store);
    assert.equal(usage.status, 0, usage.stderr);
    const removed = await unpackd('snapshots', 'rm', image.chainId, lower.diff.digest, ...run.store);
    assert.equal(removed.status, 0, removed.stderr);
    assert.deepEqual(readdirSync(run.snapshots), ['store.json']);
  });

  test('cannot add layers with owners to the store, and root cannot either', async () => {
    using run = await unpacked('overlay');
    const { status, stderr } = await runCli(['apply', `${run.folder.path}/layout:app`, ...run.store]);
    assert.equal(status, 1);
    assert.match(
      stderr,
      /holds layers whose files all belong to one user [^\n]*set UNPACK_OWNERSHIP=squash, or choose another directory\n$/,
    );
  });

  test('leaves nothing of a failed layer, also with directories that shut out their owner', async () => {
    const broken = imageOf([
      layerOf(tar(directory('closed', { mode: 0 }), file('closed/in', 'x'), hardlink('y', 'nowhere'))),
    ]);
    using folder = await usersFolder(broken);
    const { status, stderr } = await unpackd(
      'apply',
      `${folder.path}/layout:app`,
      '--root',
      `${folder.path}/store`,
      '--ownership',
      'squash',
    );
    assert.equal(status, 1);
    assert.match(stderr, /\[LAYER_CORRUPT\]/);
    assert.deepEqual(readdirSync(join(folder.path, 'store/snapshots')), ['store.json']);
  });
});

describe('a user without root rights, with UNPACK_OWNERSHIP=squash: native', { skip }, () => {
  test('gets the whole tree, and can read all files that a copy needs', async () => {
    using run = await unpacked('native');
    const tree = treeWith(run.snapshots, 'replaced/new');
    assert.deepEqual(
      told(tree, 'su', 'ro', 'ro/second', 'closed', 'closed/in/secret', 'gone', 'replaced/old', 'becomes-device'),
      {
        su: `file 6755 ${mine}`,
        ro: `directory 0755 ${mine}`,
        'ro/second': `file 0644 ${mine}`,
        closed: `directory 0700 ${mine}`,
        'closed/in/secret': `file 0400 ${mine}`,
        gone: 'missing',
        'replaced/old': 'missing',
        'becomes-device': 'missing',
      },
    );
    assert.deepEqual(tree['closed/in/secret']?.xattrs, { 'user.b': '2' });
    assert.match(run.result.warnings.join('\n'), /added rights of the owner to "ro" \(mode 0555\): [^\n]+/);
  });
});
