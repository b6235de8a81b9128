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

/** Attributes as GNU tar and bsdtar write them. */
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

/** Appends until there is no room for a single byte more. */
function fill(path: string): void {
  for (const size of [1 << 20, 1 << 12, 1]) {
    try {
      for (;;) appendFileSync(path, Buffer.alloc(size, 1));
    } catch (error) {
      assert.equal((error as NodeJS.ErrnoException).code, 'ENOSPC');
    }
  }
}

describe('an attribute that ext4 has no room for in the one block that it has for them', { skip }, () => {
  const words = (name: string, bytes: number) =>
    new RegExp(
      `^the entry "e" at byte \\d+ of the tar: its extended attribute "${name}" of ${bytes} bytes .*ext4.*XFS`,
    );

  it('is LIMIT_EXCEEDED, which no attempt changes, and not a full disk', () => {
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

  it('is so with the others that the file has, those of its other names too', () => {
    using disk = ext4();
    const root = folder(disk.path, 'root');
    const three = attributes({ 'user.a': 1500, 'user.b': 1500, 'user.c': 1500 });
    refused(root, 'LIMIT_EXCEEDED', words('user.[abc]', 1500), file('e', '', { pax: three }));
    const first = file('f', '', { pax: attributes({ 'user.a': 3000 }) });
    const second = hardlink('e', 'f', { pax: attributes({ 'user.b': 3000 }) });
    refused(root, 'LIMIT_EXCEEDED', words('user.b', 3000), first, second);
  });

  it('is so for the mark of an opaque directory', () => {
    using disk = ext4();
    const full = directory('d', { pax: attributes({ 'user.a': 4032, 'user.b': 50 }) });
    const root = folder(disk.path, 'root');
    assert.throws(() => applyTar(tar(full, opaque('d')), { root, below: 'later' }), {
      code: 'LIMIT_EXCEEDED',
      message: /"d\/\.wh\.\.wh\.\.opq" .*"trusted\.overlay\.opaque"/,
    });
  });

  it('is taken where ext4 is told to give large ones an inode of their own', () => {
    using disk = ext4(['-O', 'ea_inode']);
    const root = folder(disk.path, 'root');
    applyTar(tar(file('e', '', { pax: attributes({ 'user.big': 5000 }) })), { root });
    assert.equal(readTree(root).e?.xattrs?.['user.big']?.length, 5000);
  });

  it('is left out with a warning where containerd would not read it', () => {
    using disk = ext4();
    const root = folder(disk.path, 'root');
    const pax = attributes({ 'user.big': 5000, 'user.note': 3 }, 'LIBARCHIVE');
    const { warnings } = applyTar(tar(file('e', '', { pax })), { root });
    assert.match(
      warnings.join('\n'),
      /^left out the extended attribute user\.big of "e": the kernel takes no such name or value$/,
    );
    assert.deepEqual(readTree(root).e?.xattrs, { 'user.note': '\0\0\0' });
  });

  it('is STORE_FULL where the disk is full indeed', () => {
    using disk = ext4();
    const root = folder(disk.path, 'root');
    applyTar(tar(file('e')), { root });
    fill(join(disk.path, 'ballast'));
    const link = hardlink('h', 'e', { pax: attributes({ 'user.note': 500 }) });
    refused(root, 'STORE_FULL', /^the entry "h" .*ENOSPC.*free space or inodes/, file('e'), link);
  });
});

describe('an attribute longer than Linux has them', () => {
  it('is LIMIT_EXCEEDED', { skip: unavailable(() => tmpfs('size=4m')) }, () => {
    using disk = tmpfs('size=4m');
    const pax = attributes({ 'user.big': 65_537 });
    refused(disk.path, 'LIMIT_EXCEEDED', /"e".*"user\.big" of 65537 bytes .*64 KiB on Linux/, file('e', '', { pax }));
  });
});

describe('what else ext4 has a limit for', { skip }, () => {
  it('is LIMIT_EXCEEDED for one name of a file too many', () => {
    using disk = ext4();
    const root = folder(disk.path, 'root');
    const links = Array.from({ length: 65_000 }, (_, index) => tar(hardlink(`l${index}`, 'f')).subarray(0, 512));
    refused(root, 'LIMIT_EXCEEDED', /^the entry "l64999" .*65,000.*EMLINK/, file('f', 'x'), Buffer.concat(links));
    assert.equal(statSync(join(root, 'f')).nlink, 65_000);
  });

  it('is LIMIT_EXCEEDED for a file that is too long', () => {
    using disk = ext4();
    const pax = [
      ['GNU.sparse.size', String(2 ** 45)],
      ['GNU.sparse.numblocks', '0'],
      ['GNU.sparse.major', '0'],
      ['GNU.sparse.minor', '1'],
    ] as const;
    refused(folder(disk.path, 'root'), 'LIMIT_EXCEEDED', /^the entry "e" .*EFBIG/, file('e', '', { pax }));
  });

  it('is STORE_FULL for inodes, of which there may be more another time', () => {
    using disk = ext4(['-N', '64']);
    const root = folder(disk.path, 'root');
    const many = (make: (name: string) => Member) => Array.from({ length: 64 }, (_, index) => make(`e${index}`));
    for (const make of [directory, file, (name: string) => symlink(name, 'x')] as const) {
      refused(root, 'STORE_FULL', /^the entry "e\d+" .*ENOSPC.*free space or inodes/, ...many((name) => make(name)));
    }
  });
});
