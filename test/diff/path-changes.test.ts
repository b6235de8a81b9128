import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import '../support/needs-root.ts';
import { applyTar } from '../support/apply.ts';
import { Sandbox } from '../support/sandbox.ts';
import { scratch } from '../support/scratch.ts';
import { directory, file, hardlink, type Member, symlink, tar, whiteout } from '../support/tar.ts';
import { paths, readTree } from '../support/tree.ts';

const both = (test: (useOpenat2: boolean) => void): void => {
  for (const useOpenat2 of [true, false]) test(useOpenat2);
};

describe('an entry that replaces another file', () => {
  it('may be a hard link, whose target stays valid', () => {
    for (const inTheWay of [symlink('h', 'x'), directory('h'), file('h/f')]) {
      both((useOpenat2) => {
        using dir = scratch();
        applyTar(tar(file('x/t', 'a'), inTheWay, hardlink('h', 'x/t')), { root: dir.path }, { useOpenat2 });
        assert.equal(readTree(dir.path)['x/t']?.linkedTo, 'h');
      });
    }
  });

  it('is refused if it is a hard link to a file inside the replaced directory', () => {
    both((useOpenat2) => {
      using dir = scratch();
      assert.throws(
        () => applyTar(tar(file('d/t'), hardlink('d', 'd/t')), { root: dir.path }, { useOpenat2 }),
        /"d".*this layer does not hold/,
      );
    });
  });

  it('may lie in a directory that the layer both writes and deletes; the next entry is written', () => {
    both((useOpenat2) => {
      using dir = scratch();
      mkdirSync(join(dir.path, 'p/d/old'), { recursive: true });
      writeFileSync(join(dir.path, 'p/d/old/f'), '');
      const archive = tar(file('p/d/new'), whiteout('p/d'), file('p/next'));
      applyTar(archive, { root: dir.path, below: 'parent' }, { useOpenat2 });
      assert.deepEqual(paths(dir.path), ['p', 'p/d', 'p/d/new', 'p/next']);
    });
  });

  it('costs time for what is removed, not for all implied directories', () => {
    using box = new Sandbox();
    const members: Member[] = [];
    for (let i = 0; i < 2000; i++) members.push(file(`needed${i}/f`));
    for (let i = 0; i < 2000; i++) members.push(directory(`d${i}`), file(`d${i}`));
    const before = process.cpuUsage();
    applyTar(tar(...members), { root: box.roots[0] });
    const { user } = process.cpuUsage(before);
    assert.ok(user < 4_000_000, `${user} µs`); // it was 10 s, and is one
  });
});

describe('symbolic links on a path', () => {
  const chain = (length: number): Member[] =>
    Array.from({ length }, (_, i) => symlink(`l${i}`, i + 1 === length ? 'end' : `l${i + 1}`));

  it('have the same limit as in containerd', () => {
    both((useOpenat2) => {
      using dir = scratch();
      applyTar(tar(directory('end'), ...chain(255), file('l0/f')), { root: dir.path }, { useOpenat2 });
      assert.ok(paths(dir.path).includes('end/f'));
      using other = scratch();
      const more = tar(directory('end'), ...chain(256), file('l0/f'));
      assert.throws(() => applyTar(more, { root: other.path }, { useOpenat2 }), /"l0\/f".*ELOOP/);
    });
  });
});
