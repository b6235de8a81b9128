import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setFitting } from '../../src/diff/attributes.ts';
import { MemoryTree } from '../../src/erofs/memory-tree.ts';
import { UnpackError } from '../../src/errors.ts';
import { cString } from '../../src/system/files.ts';

const NOW = { seconds: 1_500_000_000, nanoseconds: 5 };

describe('a tree in memory', () => {
  it('uses no more memory than it may, whatever needs it', () => {
    const uses: Record<string, (tree: MemoryTree, file: number, i: number) => void> = {
      files: (tree, _, i) => tree.close(tree.createFile(tree.root, cString(`file ${i}`), 0o644)),
      'long targets': (tree, _, i) => tree.symlinkAt(cString('t'.repeat(4000)), tree.root, cString(`l${i}`)),
      attributes: (tree, _, i) => {
        const made = tree.createFile(tree.root, cString(`x${i}`), 0o644);
        tree.setXattrFd(made, cString('user.long'), Buffer.alloc(60_000));
      },
      extents: (tree, file, i) => tree.write(file, Buffer.alloc(1), i * 10, i),
      'a file that is replaced again and again': (tree, _, i) => {
        if (i > 0) tree.unlinkAt(tree.root, cString('same'));
        tree.close(tree.createFile(tree.root, cString('same'), 0o644));
      },
    };
    for (const [what, use] of Object.entries(uses)) {
      const tree = new MemoryTree(1 << 20);
      const file = tree.createFile(tree.root, cString('first'), 0o644);
      assert.throws(
        () => {
          for (let i = 0; i < 100_000; i++) use(tree, file, i);
        },
        (error) =>
          error instanceof UnpackError &&
          error.code === 'LIMIT_EXCEEDED' &&
          /more than 1048576 bytes of memory, the limit \(UNPACK_MAX_LAYER_MEMORY\)/.test(error.message),
        what,
      );
    }
  });

  it('gives back the memory of attributes and extents of removed files', () => {
    const tree = new MemoryTree(2 << 20);
    for (let i = 0; i < 1000; i++) {
      const file = tree.createFile(tree.root, cString('a'), 0o644);
      tree.setXattrFd(file, cString('user.long'), Buffer.alloc(60_000));
      for (let at = 0; at < 100; at++) tree.write(file, Buffer.alloc(1), at * 10, at);
      tree.unlinkAt(tree.root, cString('a'));
    }
  });

  it('refuses extended attributes that EROFS has no room for, as LIMIT_EXCEEDED', () => {
    const tree = new MemoryTree();
    const file = tree.createFile(tree.root, cString('f'), 0o644);
    const set = (name: string, length: number) =>
      setFitting(tree, name, Buffer.alloc(length), () => tree.setXattrFd(file, cString(name), Buffer.alloc(length)));
    const refused = (name: string, length: number) =>
      assert.throws(
        () => set(name, length),
        (error) => error instanceof UnpackError && error.code === 'LIMIT_EXCEEDED',
      );
    refused('user.a', 65_536);
    for (const name of ['a', 'b', 'c', 'd']) set(`user.${name}`, 65_500);
    refused('user.e', 200);
    set('user.d', 100);
    set('user.e', 200);
    assert.equal(tree.contents().xattrsOf(file).size, 5);
  });

  it('lists directories before their content, names sorted by bytes, and nothing that was removed', () => {
    const tree = new MemoryTree();
    const make = (parent: number, name: string): number => {
      tree.mkdirAt(parent, cString(name), 0o755);
      return tree.openDirectory(parent, cString(name));
    };
    const b = make(tree.root, 'b');
    const deep = make(make(b, 'x'), 'y');
    tree.close(tree.createFile(deep, cString('gone'), 0o644));
    make(make(tree.root, 'a'), 'z');
    for (const name of ['é', 'B', 'a!', 'a0']) tree.close(tree.createFile(tree.root, cString(name), 0o644));
    const gone: bigint[] = [];
    tree.removeDirectory(
      b,
      cString('x'),
      () => {},
      (inode) => gone.push(inode),
    );
    assert.equal(gone.length, 2);
    const contents = tree.contents();
    const listed = [...contents.directories()].map(({ entries }) =>
      [...entries].map((entry) => contents.nameOf(entry).toString()),
    );
    assert.deepEqual(listed, [['B', 'a', 'a!', 'a0', 'b', 'é'], ['z'], [], []]);
  });

  it('removes a tree of any depth', () => {
    const tree = new MemoryTree();
    let at = tree.root;
    for (let i = 0; i < 50_000; i++) {
      tree.mkdirAt(at, cString('d'), 0o755);
      at = tree.openDirectory(at, cString('d'));
    }
    let steps = 0;
    tree.removeDirectory(tree.root, cString('d'), () => steps++);
    assert.equal(steps, 50_000);
    assert.equal(tree.statFd(tree.root).links, 2);
  });

  it('has the times that were set, and 1970 for what was changed since, on every host', () => {
    const tree = new MemoryTree();
    tree.mkdirAt(tree.root, cString('d'), 0o755);
    tree.utimensAt(tree.root, cString('d'), NOW, NOW);
    assert.deepEqual(tree.statAt(tree.root, cString('d'))?.mtime, NOW);
    tree.close(tree.createFile(tree.openDirectory(tree.root, cString('d')), cString('f'), 0o644));
    assert.deepEqual(tree.statAt(tree.root, cString('d'))?.mtime, { seconds: 0, nanoseconds: 0 });
  });
});
