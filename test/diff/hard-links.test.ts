import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import '../support/needs-root.ts';
import { applyTar } from '../support/apply.ts';
import { scratch } from '../support/scratch.ts';
import { directory, file, hardlink, symlink, tar } from '../support/tar.ts';
import { readTree } from '../support/tree.ts';

describe('a hard link whose target ends with a slash or a dot', () => {
  for (const useOpenat2 of [true, false]) {
    it(`follows a symbolic link, and without them links to the link itself, ${useOpenat2 ? 'with' : 'without'} openat2`, () => {
      using dir = scratch();
      const links = [hardlink('link', 'l'), hardlink('slash', 'l/'), hardlink('dot', 'l/.'), hardlink('file', 'd/f/.')];
      const archive = tar(directory('d'), file('d/f', 'x'), symlink('l', 'd/f'), ...links);
      applyTar(archive, { root: dir.path }, { useOpenat2 });
      const tree = readTree(dir.path);
      assert.equal(tree.link?.linkedTo, 'l');
      for (const name of ['slash', 'dot', 'file']) assert.equal(tree[name]?.linkedTo, 'd/f', name);
    });
  }

  it('is refused if the target is a directory or missing', () => {
    for (const [target, text] of [
      ['d/', /a directory, "d\/"/],
      ['nowhere/.', /nothing that this layer holds, "nowhere\/\."/],
      ['', /a directory, ""/],
    ] as const) {
      using dir = scratch();
      const archive = tar(directory('d'), symlink('nowhere', 'x'), hardlink('h', target));
      assert.throws(() => applyTar(archive, { root: dir.path }), { code: 'LAYER_CORRUPT', message: text });
    }
  });
});
