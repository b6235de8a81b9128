import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { digestOf } from '../../src/oci/digest.ts';
import { startChild } from '../support/child.ts';
import { imageOf, layerOf, writeLayout } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { device, directory, file, hardlink, type Member, opaque, symlink, tar, whiteout } from '../support/tar.ts';
import { finished, MAIN, runCli } from './run-cli.ts';

const SU = file('bin/su', 'x', {
  mode: 0o4755,
  uid: 1,
  gid: 2,
  pax: [
    ['mtime', '1600000000.123456789'],
    ['atime', '1700000000.5'],
    ['SCHILY.xattr.security.capability', Buffer.from([1, 0, 255])],
  ],
});

/** `unpackd layer ls` of an archive of these entries. */
async function list(bytes: Buffer, ...flags: string[]) {
  using folder = scratch();
  const path = join(folder.path, 'layer');
  writeFileSync(path, bytes);
  return await runCli(['layer', 'ls', path, ...flags]);
}

async function diff(a: Buffer, b: Buffer, ...flags: string[]) {
  using folder = scratch();
  const paths = [join(folder.path, 'a'), join(folder.path, 'b')] as const;
  writeFileSync(paths[0], a);
  writeFileSync(paths[1], b);
  return await runCli(['layer', 'diff', ...paths, ...flags]);
}

describe('layer ls', () => {
  const cases: readonly (readonly [string, Member, readonly string[]])[] = [
    [
      'a file with mode, owner, size, nanoseconds, access time and attributes',
      SU,
      [
        '- 4755 1:2                    1 2020-09-13T12:26:40.123456789Z bin/su',
        '    atime 2023-11-14T22:13:20.500000000Z',
        '    xattr security.capability="\\x01\\x00\\xff"',
      ],
    ],
    [
      'a directory',
      directory('etc/', { mode: 0o1777 }),
      ['d 1777 0:0                    - 2020-09-13T12:26:40.000000000Z etc/'],
    ],
    [
      'an extended attribute with an empty value',
      file('f', '', { pax: [['SCHILY.xattr.user.empty', '']] }),
      ['- 0644 0:0                    0 2020-09-13T12:26:40.000000000Z f', '    xattr user.empty=""'],
    ],
    [
      'a symbolic link',
      symlink('l', '../x y'),
      ['l 0777 0:0                    - 2020-09-13T12:26:40.000000000Z l -> ../x y'],
    ],
    [
      'a hard link',
      hardlink('h', 'bin/su'),
      ['h 0644 0:0                    - 2020-09-13T12:26:40.000000000Z h is a link to bin/su'],
    ],
    ['a device', device('null', 'c', 1, 3), ['c 0644 0:0                  1:3 2020-09-13T12:26:40.000000000Z null']],
    [
      'bytes of a name',
      file(Buffer.from('a\xff\\\n', 'latin1')),
      ['- 0644 0:0                    0 2020-09-13T12:26:40.000000000Z a\\xff\\\\\\x0a'],
    ],
    [
      'a deletion',
      whiteout('etc/x'),
      ['w 0644 0:0                    0 2020-09-13T12:26:40.000000000Z etc/.wh.x  (whiteout: deletes x)'],
    ],
    [
      'an opaque directory',
      opaque('etc'),
      [
        'w 0644 0:0                    0 2020-09-13T12:26:40.000000000Z etc/.wh..wh..opq  (opaque: hides what the lower layers have in this directory)',
      ],
    ],
    [
      'a sparse file',
      file('s', 'x', {
        pax: [
          ['GNU.sparse.map', '10,1'],
          ['GNU.sparse.size', '20'],
          ['GNU.sparse.numblocks', '1'],
        ],
      }),
      ['- 0644 0:0                   20 2020-09-13T12:26:40.000000000Z s  (sparse)'],
    ],
  ];
  for (const [what, member, expected] of cases) {
    test(`shows ${what}`, async () => {
      const { status, stdout, stderr } = await list(tar(member));
      assert.equal(stderr, '');
      assert.equal(status, 0);
      assert.deepEqual(stdout.split('\n').slice(0, expected.length), expected);
    });
  }

  for (const [name, compress] of [
    ['gzip', gzipSync],
    ['zstd', zstdCompressSync],
    ['not compressed', Buffer.from],
  ] as const) {
    test(`ends with totals and both digests: ${name}`, async () => {
      const archive = tar(directory('d'), file('d/a', 'abc'), file('d/b', 'd'), whiteout('x'));
      const blob = compress(archive);
      const { stdout } = await list(blob);
      assert.deepEqual(stdout.trimEnd().split('\n').slice(-3), [
        '4 entries: 1 directory, 2 files, 1 whiteout; 4 B of content',
        `tar   ${digestOf(archive)}  ${archive.length} bytes  (the DiffID)`,
        `blob  ${digestOf(blob)}  ${blob.length} bytes  ${name}`,
      ]);
    });
  }

  test('--json prints one document with exact fields', async () => {
    const { stdout } = await list(tar(SU, whiteout('x')), '--json', '--contents');
    const { entries, totals } = JSON.parse(stdout);
    assert.deepEqual(entries, [
      {
        name: 'bin/su',
        type: 'file',
        mode: '4755',
        owner: '1:2',
        size: 1,
        mtime: '2020-09-13T12:26:40.123456789Z',
        atime: '2023-11-14T22:13:20.500000000Z',
        content: digestOf(Buffer.from('x')),
        xattrs: { 'security.capability': '\\x01\\x00\\xff' },
      },
      {
        name: '.wh.x',
        type: 'file',
        whiteout: { kind: 'deleted', name: 'x' },
        mode: '0644',
        owner: '0:0',
        size: 0,
        mtime: '2020-09-13T12:26:40.000000000Z',
      },
    ]);
    assert.equal(totals.entries, 2);
  });

  test('--json prints one document for an empty layer and for a damaged one', async () => {
    assert.deepEqual(JSON.parse((await list(tar(), '--json')).stdout).entries, []);
    const damaged = await list(gzipSync(tar(SU)).subarray(0, 100), '--json');
    assert.equal(damaged.status, 1);
    assert.equal(JSON.parse(damaged.stdout).error.code, 'LAYER_CORRUPT');
    const late = await list(Buffer.concat([tar(SU).subarray(0, -1024), Buffer.alloc(512, 'x')]), '--json');
    const { entries, error } = JSON.parse(late.stdout);
    assert.deepEqual([entries.length, error.code], [1, 'LAYER_CORRUPT']);
  });

  test('reads a blob of an OCI layout, and reports a blob with another digest', async () => {
    using folder = scratch();
    const layer = layerOf(tar(file('a', 'b')));
    await writeLayout(folder.path, { app: imageOf([layer]) });
    const argument = `${folder.path}@${layer.blob.digest}`;
    assert.match((await runCli(['layer', 'ls', argument])).stdout, new RegExp(`blob {2}${layer.blob.digest}`));
    writeFileSync(join(folder.path, 'blobs', layer.blob.digest.replace(':', '/')), tar(file('other')));
    const { status, stderr } = await runCli(['layer', 'ls', argument]);
    assert.equal(status, 1);
    assert.match(stderr, /^unpackd: \[BLOB_DIGEST_MISMATCH\] [^\n]+\n$/);
  });

  test('a folder is wrong use, and a missing file is reported in one sentence', async () => {
    const folder = await runCli(['layer', 'ls', '/']);
    assert.equal(folder.status, 2);
    assert.match(folder.stderr, /^unpackd: \[USAGE\] \/ is a folder: write LAYOUT@sha256:…/);
    const nothing = await runCli(['layer', 'ls', '/nowhere/layer']);
    assert.equal(nothing.status, 1);
    assert.match(nothing.stderr, /^unpackd: \[BLOB_NOT_FOUND\] [^\n]+\n$/);
  });

  test('a named pipe is wrong use, because it may block without end', async () => {
    using folder = scratch();
    execFileSync('mkfifo', [join(folder.path, 'pipe')]);
    const { status, stderr } = await runCli(['layer', 'ls', join(folder.path, 'pipe')]);
    assert.match(stderr, /^unpackd: \[USAGE\] \S+ is a named pipe: give a file, or \/dev\/stdin\n$/);
    assert.equal(status, 2);
  });

  test('a slow reader gets the whole output', async () => {
    using folder = scratch();
    const path = join(folder.path, 'layer.tar');
    const layer = (count: number) => tar(...Array.from({ length: count }, (_, at) => file(`f${10_000 + at}`)));
    writeFileSync(path, layer(1));
    const { stdout } = await runCli(['layer', 'ls', path]);
    // as many lines as a pipe holds: then there is no room for the totals
    const count = Math.floor(65_536 / (stdout.indexOf('\n') + 1));
    writeFileSync(path, layer(count));
    const slowly = ['-c', '"$@" | (sleep 1; cat)', 'sh', process.execPath, MAIN, 'layer', 'ls', path];
    await using child = startChild('sh', slowly, { stdio: ['ignore', 'pipe', 'pipe'] });
    const { stdout: all } = await finished(child);
    assert.equal(all.split('\n').indexOf(''), count);
    assert.match(all.slice(-400), new RegExp(`${count} entries: ${count} files`));
  });

  test('a long layer needs no more memory than a short one', async () => {
    using folder = scratch();
    const path = join(folder.path, 'layer.gz');
    const piece = Buffer.concat(Array.from({ length: 1000 }, (_, at) => tar(file(`f${at}`)).subarray(0, 512)));
    const member = gzipSync(piece);
    writeFileSync(path, Buffer.concat([...Array.from({ length: 150 }, () => member), gzipSync(Buffer.alloc(1024))]));
    // a heap that does not hold so many entries
    const { status, stderr, stdout } = await runCli(['layer', 'ls', path], {
      env: { NODE_OPTIONS: '--max-old-space-size=40' },
    });
    assert.equal(status, 0, stderr);
    assert.match(stdout.slice(-400), /150,000 entries: 150,000 files/);
  });
});

describe('layer diff', () => {
  test('of the same entries exits with 0, whatever the compression', async () => {
    const archive = tar(SU, directory('d'));
    const { status, stdout } = await diff(gzipSync(archive), zstdCompressSync(archive));
    assert.equal(status, 0);
    assert.equal(stdout, `the same tar, ${digestOf(archive)}\n`);
  });

  test('says if only the order differs', async () => {
    const [a, b, c] = [file('a', 'a'), file('b', 'b'), file('c', 'c')];
    const { status, stdout } = await diff(tar(a, b, c), tar(c, a, b));
    assert.equal(status, 0);
    assert.equal(stdout, 'the same 3 entries, in another order; the tars are written in different ways\n');
  });

  test('lists the differences, entry by entry, and exits with 1', async () => {
    const a = tar(SU, file('same', 's'), symlink('l', 'x'), file('old'), file('text', 'one'));
    const b = tar(
      file('bin/su', 'x', { mode: 0o755 }),
      file('same', 's'),
      symlink('l', 'y'),
      file('new'),
      file('text', 'two'),
    );
    const { status, stdout } = await diff(a, b);
    assert.equal(status, 1);
    assert.deepEqual(stdout.trimEnd().split('\n'), [
      '~ bin/su: mode 4755 → 0755, owner 1:2 → 0:0, mtime 2020-09-13T12:26:40.123456789Z → 2020-09-13T12:26:40.000000000Z, ' +
        'atime 2023-11-14T22:13:20.500000000Z → (none), xattr security.capability \\x01\\x00\\xff → (none)',
      '~ l: target x → y',
      `~ text: content ${digestOf(Buffer.from('one'))} → ${digestOf(Buffer.from('two'))}`,
      '- old',
      '+ new',
      '5 entries differ',
    ]);
  });

  test('distinguishes an attribute with an empty value from no attribute', async () => {
    const empty = tar(file('a', '', { pax: [['SCHILY.xattr.user.e', '']] }));
    const { stdout } = await diff(empty, tar(file('a')));
    assert.equal(stdout, '~ a: xattr user.e "" → (none)\n1 entry differs\n');
    assert.equal((await diff(empty, empty)).status, 0);
  });

  test('pairs several entries of one name in their order', async () => {
    const { stdout } = await diff(tar(file('a', '1'), file('a', '2')), tar(file('a', '1'), file('a', '3')));
    assert.match(stdout, /^~ a: content .*\n1 entry differs\n$/);
  });

  test('--json prints one document', async () => {
    const { status, stdout } = await diff(tar(file('a', '', { mode: 0o600 }), file('b')), tar(file('a')), '--json');
    assert.equal(status, 1);
    const { same, differences } = JSON.parse(stdout);
    assert.equal(same, false);
    assert.deepEqual(differences, [
      { name: 'a', changed: { mode: { a: '0600', b: '0644' } } },
      { name: 'b', only: 'a' },
    ]);
  });

  test('exits with 2, not 1, if a layer cannot be read', async () => {
    const { status, stderr } = await diff(tar(SU), Buffer.alloc(600, 'x'));
    assert.equal(status, 2);
    assert.match(stderr, /^unpackd: \[LAYER_CORRUPT\] [^\n]+\n$/);
    assert.equal((await runCli(['layer', 'diff', '/nowhere', '/nowhere'])).status, 2);
    assert.equal((await runCli(['layer', 'diff', '/nowhere'])).status, 2);
  });
});
