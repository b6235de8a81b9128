import assert from 'node:assert/strict';
import { appendFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { UnpackError } from '../../src/errors.ts';
import { applyTar, folder } from '../support/apply.ts';
import { ext4, tmpfs, unavailable } from '../support/file-system.ts';
import { directory, file, hardlink, type Member, opaque, symlink, tar } from '../support/tar.ts';
import { readTree } from '../support/tree.ts';

const skip = unavailable(() => ext4());

/** Extended attributes as GNU tar and bsdtar write them. */
const attributes = (values: Readonly<Record<string, number>>, family = 'SCHILY') =>
  Object.entries(values).map(
    ([name, length]) =>
      [
        `${family}.xattr.${name}`,
        family === 'SCHILY' ? 'v'.repeat(length) : Buffer.alloc(length).toString('base64'),
      ] as const,
  );

function refused(root: string, code: string, text: RegExp, ...members: readonly (Member | Buffer)[]): void {
  assert.throws(
    () => applyTar(tar(...members), { root }),
    (error) => {
      assert.ok(error instanceof UnpackError, String(error));
      assert.equal(error.code, code, error.message);
      assert.match(error.message, text);
      return true;
    },
  );
}

/** Appends until the disk has no free byte. */
function fill(path: string): void {
  for (const size of [1 << 20, 1 << 12, 1]) {
    try {
      for (;;) appendFileSync(path, Buffer.alloc(size, 1));
    } catch (error) {
      assert.equal((error as NodeJS.ErrnoException).code, 'ENOSPC');
    }
  }
}

describe('an extended attribute that does not fit into the one block that ext4 has for them', { skip }, () => {
  const words = (name: string, bytes: number) =>
    new RegExp(
      `^the entry "e" at byte \\d+ of the tar: its extended attribute "${name}" of ${bytes} bytes .*ext4.*XFS`,
    );

  it('is LIMIT_EXCEEDED without a retry, not a full disk', () => {
    using disk = ext4();
    const pax = attributes({ 'user.note': 10, 'user.big': 5000 });
    for (const [index, member] of [file('e', 'x', { pax }), directory('e', { pax })].entries()) {
      refused(folder(disk.path, `${index}`), 'LIMIT_EXCEEDED', words('user.big', 5000), member);
    }
    const trusted = attributes({ 'security.big': 5000 });
    refused(
      folder(disk.path, 'link'),
      'LIMIT_EXCEEDED',
      words('security.big', 5000),
      symlink('e', 'x', { pax: trusted }),
    );
  });

  it('is counted together with the other attributes of the file, including those of its other names', () => {
    using disk = ext4();
    const root = folder(disk.path, 'root');
    const three = attributes({ 'user.a': 1500, 'user.b': 1500, 'user.c': 1500 });
    refused(root, 'LIMIT_EXCEEDED', words('user.[abc]', 1500), file('e', '', { pax: three }));
    const first = file('f', '', { pax: attributes({ 'user.a': 3000 }) });
    const second = hardlink('e', 'f', { pax: attributes({ 'user.b': 3000 }) });
    refused(root, 'LIMIT_EXCEEDED', words('user.b', 3000), first, second);
  });

  it('may also be the one that makes a directory opaque', () => {
    using disk = ext4();
    const full = directory('d', { pax: attributes({ 'user.a': 4032, 'user.b': 50 }) });
    const root = folder(disk.path, 'root');
    assert.throws(() => applyTar(tar(full, opaque('d')), { root, below: 'later' }), {
      code: 'LIMIT_EXCEEDED',
      message: /"d\/\.wh\.\.wh\.\.opq" .*"trusted\.overlay\.opaque"/,
    });
  });

  it('is stored if ext4 has the feature ea_inode', () => {
    using disk = ext4(['-O', 'ea_inode']);
    const root = folder(disk.path, 'root');
    applyTar(tar(file('e', '', { pax: attributes({ 'user.big': 5000 }) })), { root });
    assert.equal(readTree(root).e?.xattrs?.['user.big']?.length, 5000);
  });

  it('is left out with a warning if containerd does not read it', () => {
    using disk = ext4();
    const root = folder(disk.path, 'root');
    const pax = attributes({ 'user.big': 5000, 'user.note': 3 }, 'LIBARCHIVE');
    const { warnings } = applyTar(tar(file('e', '', { pax })), { root });
    assert.match(
      warnings.join('\n'),
      /^left out the extended attribute user\.big of "e": the kernel does not accept this name or value$/,
    );
    assert.deepEqual(readTree(root).e?.xattrs, { 'user.note': '\0\0\0' });
  });

  it('is STORE_FULL if the disk is full', () => {
    using disk = ext4();
    const root = folder(disk.path, 'root');
    applyTar(tar(file('e')), { root });
    fill(join(disk.path, 'ballast'));
    const link = hardlink('h', 'e', { pax: attributes({ 'user.note': 500 }) });
    refused(root, 'STORE_FULL', /^the entry "h" .*ENOSPC.*free space or inodes/, file('e'), link);
  });
});

describe('an extended attribute above the limit of Linux', () => {
  it('is LIMIT_EXCEEDED', { skip: unavailable(() => tmpfs('size=4m')) }, () => {
    using disk = tmpfs('size=4m');
    const pax = attributes({ 'user.big': 65_537 });
    refused(disk.path, 'LIMIT_EXCEEDED', /"e".*"user\.big" of 65537 bytes .*64 KiB on Linux/, file('e', '', { pax }));
  });
});

describe('other limits of ext4', { skip }, () => {
  it('are LIMIT_EXCEEDED for the number of hard links', () => {
    using disk = ext4();
    const root = folder(disk.path, 'root');
    const links = Array.from({ length: 65_000 }, (_, index) => tar(hardlink(`l${index}`, 'f')).subarray(0, 512));
    refused(root, 'LIMIT_EXCEEDED', /^the entry "l64999" .*65,000.*EMLINK/, file('f', 'x'), Buffer.concat(links));
    assert.equal(statSync(join(root, 'f')).nlink, 65_000);
  });

  it('are LIMIT_EXCEEDED for the length of a file', () => {
    using disk = ext4();
    const pax = [
      ['GNU.sparse.size', String(2 ** 45)],
      ['GNU.sparse.numblocks', '0'],
      ['GNU.sparse.major', '0'],
      ['GNU.sparse.minor', '1'],
    ] as const;
    refused(folder(disk.path, 'root'), 'LIMIT_EXCEEDED', /^the entry "e" .*EFBIG/, file('e', '', { pax }));
  });

  it('are STORE_FULL for the number of inodes, because files may be deleted', () => {
    using disk = ext4(['-N', '64']);
    const root = folder(disk.path, 'root');
    const many = (make: (name: string) => Member) => Array.from({ length: 64 }, (_, index) => make(`e${index}`));
    for (const make of [directory, file, (name: string) => symlink(name, 'x')] as const) {
      refused(root, 'STORE_FULL', /^the entry "e\d+" .*ENOSPC.*free space or inodes/, ...many((name) => make(name)));
    }
  });
});
