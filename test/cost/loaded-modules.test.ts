import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { runChild } from '../support/child.ts';
import { imageOf, layerOf, writeLayout } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { file, tar } from '../support/tar.ts';

/**
 * The packages that a command loads before its work begins. Loading takes most of the time of a small image; counting
 * packages does not depend on the load of the machine.
 */
const root = join(import.meta.dirname, '../..');

/** The packages of these module URLs. A package in several parts (koffi and its binaries) counts as one. */
function packages(urls: readonly string[]): string[] {
  const names = urls.flatMap((url) => /.*\/node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(url)?.[1] ?? []);
  return [...new Set(names.map((name) => (name.startsWith('@koromix/') ? 'koffi' : name)))].sort();
}

test('apply from a local layout loads no queue, S3 client, logger or server', async () => {
  using place = scratch();
  const layout = join(place.path, 'layout');
  await writeLayout(layout, { app: imageOf([layerOf(tar(file('name', 'x')))]) });
  const list = join(place.path, 'loaded');
  const hook = `import { appendFileSync } from 'node:fs';
    import { registerHooks } from 'node:module';
    import { isMainThread } from 'node:worker_threads';
    registerHooks({ load(url, context, next) {
      appendFileSync(${JSON.stringify(list)}, \`\${isMainThread ? 'main' : 'thread'} \${url}\\n\`);
      return next(url, context);
    } });`;
  const args = ['apply', `${layout}:app`, '--root', join(place.path, 'store'), '--ownership', 'squash', '--json'];
  const node = ['--import', `data:text/javascript,${encodeURIComponent(hook)}`, join(root, 'src/cli/main.ts')];
  const { status, stderr } = runChild(process.execPath, [...node, ...args]);
  assert.equal(status, 0, stderr);
  const loaded = readFileSync(list, 'utf8').split('\n');
  const by = (thread: string) => packages(loaded.filter((line) => line.startsWith(thread)));
  assert.deepEqual(by('main'), ['commander', 'koffi', 'zod']);
  assert.deepEqual(by('thread'), ['koffi']);
});

test('an apply thread starts without Node’s fetch and without HTTP', () => {
  const script = `await import(${JSON.stringify(join(root, 'workers/apply.ts'))});
    console.log(process.moduleLoadList.filter((name) => /undici|_http_|NativeModule tls/.test(name)).join('\\n'));`;
  const { stdout, stderr } = runChild(process.execPath, ['--input-type=module', '-e', script]);
  assert.deepEqual([stdout.trim(), stderr], ['', '']);
});
