import assert from 'node:assert/strict';
import { linkSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { LayoutWriter } from '../../dev/layout-writer.ts';
import { scratch } from '../support/scratch.ts';

for (const { copyLinks, files } of [
  { copyLinks: false, files: 1 },
  { copyLinks: true, files: 2 },
]) {
  test(`two links to a file are ${files === 1 ? 'one file' : 'two files, if they must be copied,'} in a layer`, async () => {
    using place = scratch();
    const folder = join(place.path, 'folder');
    mkdirSync(folder);
    writeFileSync(join(folder, 'b'), 'linked');
    linkSync(join(folder, 'b'), join(folder, 'c'));
    const layout = new LayoutWriter(join(place.path, 'layout'));
    const contents = { title: 'links', folder, copyLinks, compression: 'gzip' } as const;
    const layer = await layout.writeLayer(contents, new AbortController().signal);
    // each entry and the folder have a header, each file its block, and the archive ends with two blocks
    assert.equal(layer.tarSize, 512 * (3 + files + 2));
  });
}
