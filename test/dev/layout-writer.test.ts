import assert from 'node:assert/strict';
import { linkSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { LayoutWriter } from '../../dev/layout-writer.ts';
import { scratch } from '../support/scratch.ts';

test('each of several links to a file becomes a file of its own in a layer', async () => {
  using place = scratch();
  const folder = join(place.path, 'folder');
  mkdirSync(folder);
  writeFileSync(join(folder, 'b'), 'linked');
  linkSync(join(folder, 'b'), join(folder, 'c'));
  const layout = new LayoutWriter(join(place.path, 'layout'));
  const layer = await layout.writeLayer({ title: 'links', folder, compression: 'gzip' }, new AbortController().signal);
  // each entry and the folder have a header, each file its blocks, and the archive ends with two blocks
  assert.equal(layer.tarSize, 512 * (1 + 2 * 2 + 2));
});
