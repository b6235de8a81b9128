import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, globSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { hexOf } from '../../src/oci/digest.ts';
import { imageOf, layerOf, writeLayout } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { directory, file, tar } from '../support/tar.ts';
import { type Finished, finished, runCli, startCli } from './run-cli.ts';

const lower = layerOf(tar(directory('etc'), file('etc/motd', 'hello\n'), file('etc/secret', 'x')), 'gzip');
const upper = layerOf(tar(file('etc/.wh.secret'), file('etc/extra', 'more\n')), 'zstd');
const image = imageOf([lower, upper]);
const chain = (index: number) => (index === 0 ? lower.diff.digest : image.chainId);

const root = process.getuid?.() === 0 ? {} : { skip: 'unpacking needs root' };

describe('apply', root, () => {
  test('unpacks an image of a local layout and prints its result', async () => {
    using folder = scratch();
    await writeLayout(join(folder.path, 'layout'), { app: image });
    const store = join(folder.path, 'store');
    const { status, stdout, stderr } = await runCli(['apply', `${folder.path}/layout:app`, '--root', store]);
    assert.equal(stderr, '');
    assert.equal(status, 0);
    assert.match(stdout, /1 {2}applied .*\n +2 {2}applied /);
    assert.match(stdout, new RegExp(`chain ID ${image.chainId}\n`));
    const motd = globSync(`${store}/snapshots/*/fs/etc/motd`)[0] ?? '';
    assert.equal(readFileSync(motd, 'utf8'), 'hello\n');
  });

  test('--json prints a result in the format of a job, also by digest', async () => {
    using folder = scratch();
    await writeLayout(join(folder.path, 'layout'), { app: image });
    const reference = `${folder.path}/layout@${image.manifestDigest}`;
    const { stdout } = await runCli(['apply', reference, '--root', join(folder.path, 'store'), '--json']);
    const result = JSON.parse(stdout);
    assert.equal(result.version, 1);
    assert.equal(result.images[0].chainId, image.chainId);
    assert.deepEqual(
      result.images[0].layers.map((layer: { state: string }) => layer.state),
      ['applied', 'applied'],
    );
  });

  test('an image without layers completes without a chain ID', async () => {
    using folder = scratch();
    await writeLayout(join(folder.path, 'layout'), { app: imageOf([], undefined, { layers: null }) });
    const place = ['--root', join(folder.path, 'store'), '--timeline', join(folder.path, 'timeline.svg')];
    const shown = await runCli(['apply', `${folder.path}/layout:app`, ...place]);
    assert.deepEqual([shown.status, shown.stderr], [0, '']);
    assert.match(shown.stdout, /no layers: nothing to unpack, no chain ID\n/);
    assert.match(shown.stdout, /warning: document sha256:\S+ of \S+: layers is null; treated as an empty list\n/);
    const { stdout } = await runCli(['apply', `${folder.path}/layout:app`, ...place, '--json']);
    const { images, warnings } = JSON.parse(stdout);
    assert.deepEqual([images[0].layers, 'chainId' in images[0], warnings.length], [[], false, 1]);
  });

  test('--timeline draws a picture, and a name without .svg is refused before any work', async () => {
    using folder = scratch();
    await writeLayout(join(folder.path, 'layout'), { app: image });
    const args = ['apply', `${folder.path}/layout:app`, '--root', join(folder.path, 'store'), '--timeline'];
    const refused = await runCli([...args, join(folder.path, 'timeline.txt')]);
    assert.match(refused.stderr, /^unpackd: \[USAGE\] .*\.svg\n$/);
    assert.equal(refused.status, 2);
    assert.equal(existsSync(join(folder.path, 'store')), false);
    const { status } = await runCli([...args, join(folder.path, 'timeline.svg')]);
    assert.equal(status, 0);
    assert.match(readFileSync(join(folder.path, 'timeline.svg'), 'utf8'), /<svg .*2 entries/s);
  });

  test('the second time every layer existed', async () => {
    using folder = scratch();
    await writeLayout(join(folder.path, 'layout'), { app: image });
    const args = ['apply', `${folder.path}/layout:app`, '--root', join(folder.path, 'store'), '--json'];
    await runCli(args);
    const { stdout } = await runCli(args);
    const states = JSON.parse(stdout).images[0].layers.map((layer: { state: string }) => layer.state);
    assert.deepEqual(states, ['existed', 'existed']);
  });

  test('applies the limits of a layer', async () => {
    using folder = scratch();
    const wide = layerOf(tar(...Array.from({ length: 20 }, (_, i) => directory(`d${i}`))), 'gzip');
    await writeLayout(join(folder.path, 'layout'), { app: imageOf([wide]) });
    const args = ['apply', `${folder.path}/layout:app`, '--root', join(folder.path, 'store')];
    for (const [flag, value, setting] of [
      ['--max-layer-bytes', '1KiB', 'UNPACK_MAX_LAYER_BYTES'],
      ['--max-layer-entries', '5', 'UNPACK_MAX_LAYER_ENTRIES'],
      ['--max-layer-memory', '1KiB', 'UNPACK_MAX_LAYER_MEMORY'],
    ] as const) {
      const { status, stderr } = await runCli([...args, flag, value]);
      assert.equal(status, 1);
      assert.match(stderr, new RegExp(`LIMIT_EXCEEDED.*${setting}`));
    }
    assert.equal((await runCli([...args, '--max-layer-memory', '10KiB'])).status, 0);
  });

  test('a damaged blob exits with 1 and one sentence that has the code and the layer', async () => {
    using folder = scratch();
    await writeLayout(join(folder.path, 'layout'), { app: image });
    const blob = join(folder.path, 'layout/blobs/sha256', hexOf(upper.blob.digest));
    const bytes = readFileSync(blob);
    bytes[bytes.length - 3] = (bytes[bytes.length - 3] ?? 0) ^ 1;
    writeFileSync(blob, bytes);
    const { status, stderr } = await runCli(['apply', `${folder.path}/layout:app`, '--root', `${folder.path}/store`]);
    assert.match(stderr, /^unpackd: \[(BLOB_DIGEST_MISMATCH|LAYER_CORRUPT)\] layer 2 of 2 [^\n]+\n$/);
    assert.equal(status, 1);
  });

  test('a missing tag is IMAGE_NOT_FOUND', async () => {
    using folder = scratch();
    await writeLayout(join(folder.path, 'layout'), { app: image });
    const { status, stderr } = await runCli(['apply', `${folder.path}/layout:other`, '--root', `${folder.path}/store`]);
    assert.match(stderr, /^unpackd: \[IMAGE_NOT_FOUND\] [^\n]*other[^\n]*\n$/);
    assert.equal(status, 1);
  });

  test('a name may be a whole reference, and a layout with one image needs no name', async () => {
    using folder = scratch();
    const layout = join(folder.path, 'layout');
    await writeLayout(layout, { 'registry.example.com/team/app:v1': image });
    const store = join(folder.path, 'store');
    for (const argument of [`${layout}:registry.example.com/team/app:v1`, `${layout}:v1`, layout]) {
      const { status, stderr, stdout } = await runCli(['apply', argument, '--root', store, '--json']);
      assert.equal(status, 0, stderr);
      assert.equal(JSON.parse(stdout).images[0].chainId, image.chainId);
    }
    const other = imageOf([lower]);
    await writeLayout(layout, { 'app:v1': image, 'app:v2': other });
    const { stderr } = await runCli(['apply', layout, '--root', store]);
    assert.match(stderr, /^unpackd: \[IMAGE_NOT_FOUND\] [^\n]*2 images; say which one: app:v1, app:v2\n$/);
  });

  describe('says what the argument is if it is no image:', () => {
    const folder = scratch();
    process.once('exit', () => folder[Symbol.dispose]());
    const at = (name: string) => join(folder.path, name);
    before(async () => {
      await writeLayout(at('nested/layout'), { app: image });
      for (const name of ['empty', 'saved', 'other']) mkdirSync(at(name));
      writeFileSync(at('saved/manifest.json'), '[]');
      writeFileSync(at('other/file'), '');
      writeFileSync(at('image.tar'), tar(file('manifest.json', '[]')));
    });
    const cases: readonly (readonly [argument: string, status: number, sentence: RegExp])[] = [
      ['docker.io/library/alpine:3.20', 2, /is an image in a registry.*skopeo copy.*docker:\/\/docker\.io/],
      ['alpine:3.20', 2, /is an image in a registry/],
      ['localhost:5000/app', 2, /is an image in a registry/],
      ['ghcr.io/org/app@sha256:12', 2, /not a digest/],
      ['./alpine:3.20', 1, /\/alpine:3\.20 does not exist|\/alpine does not exist/],
      [at('image.tar'), 2, /is a file, .*unpackd push/],
      [`${at('image.tar')}:latest`, 2, /image\.tar is a file, .*unpackd push/],
      [at('nothing'), 1, /\/nothing does not exist:/],
      [`${at('nothing')}:v1`, 1, /\/nothing does not exist:/],
      ['/dev/null', 2, /neither a folder nor a file/],
      [at('empty'), 1, /empty is an empty folder/],
      [`${at('empty')}:v1`, 1, /empty is an empty folder/],
      [at('saved'), 1, /unpacked archive of docker save.*unpackd push/],
      [at('nested'), 1, /its folder layout is one/],
      [at('other'), 1, /has no index\.json/],
    ];
    for (const [argument, status, sentence] of cases) {
      test(argument.replace(folder.path, 'PATH'), async () => {
        const result = await runCli(['apply', argument, '--root', at('store')]);
        assert.match(result.stderr, /^unpackd: \[(USAGE|IMAGE_NOT_FOUND)\] [^\n]+\n$/);
        assert.match(result.stderr, sentence);
        assert.equal(result.status, status);
        assert.equal(existsSync(at('store')), false, 'a store was made for it');
      });
    }
  });

  test('SIGINT ends it with 130 and leaves no unfinished snapshot', async () => {
    using folder = scratch();
    const big = imageOf([layerOf(tar(...Array.from({ length: 60_000 }, (_, at) => file(`f${at}`, 'x'))), 'none')]);
    await writeLayout(join(folder.path, 'layout'), { app: big });
    let store = '';
    let end: Finished | undefined;
    // one that is done before this process sees that it has begun is no answer
    for (let tries = 0; end === undefined || (end.status === 0 && tries < 10); tries++) {
      store = join(folder.path, `store-${tries}`);
      const child = startCli(['apply', `${folder.path}/layout:app`, '--root', store]);
      const ending = finished(child);
      while (globSync(`${store}/snapshots/*/fs/f1`).length === 0 && child.exitCode === null) await sleep(5);
      child.kill('SIGINT');
      end = await ending;
    }
    const { status, stderr } = end;
    assert.equal(status, 130, stderr);
    assert.match(stderr, /^unpackd: \[CANCELLED\] [^\n]+\n$/);
    const { stdout } = await runCli(['snapshots', 'ls', '--root', store, '--json']);
    assert.deepEqual(JSON.parse(stdout).snapshots, []);
  });
});

describe('snapshots', root, () => {
  const folder = scratch();
  const store = join(folder.path, 'store');
  const run = (...args: string[]) => runCli(['snapshots', ...args, '--root', store]);
  before(async () => {
    await writeLayout(join(folder.path, 'layout'), { app: image });
    await runCli(['apply', `${folder.path}/layout:app`, '--root', store]);
    process.once('exit', () => folder[Symbol.dispose]());
  });

  test('ls lists snapshots with their parents', async () => {
    const { stdout } = await run('ls', '--json');
    const { snapshots } = JSON.parse(stdout);
    const parents = Object.fromEntries(
      snapshots.map((one: { name: string; parent: string }) => [one.name, one.parent]),
    );
    assert.deepEqual(parents, { [chain(0)]: '', [chain(1)]: chain(0) });
  });

  test('stat accepts the beginning of a key', async () => {
    const { stdout } = await run('stat', hexOf(chain(1)).slice(0, 8), '--json');
    assert.equal(JSON.parse(stdout).name, chain(1));
  });

  test('stat of a missing snapshot is SNAPSHOT_NOT_FOUND', async () => {
    const { status, stderr } = await run('stat', 'sha256:0000');
    assert.match(stderr, /^unpackd: \[SNAPSHOT_NOT_FOUND\] [^\n]+\n$/);
    assert.equal(status, 1);
  });

  test('a beginning that several keys share is refused', async () => {
    const { status, stderr } = await run('stat', 'sha256:');
    assert.match(stderr, /^unpackd: \[USAGE\] 2 keys begin with "sha256:"/);
    assert.equal(status, 2);
  });

  test('usage adds up', async () => {
    const { stdout } = await run('usage', '--json');
    const { snapshots, total } = JSON.parse(stdout);
    assert.equal(snapshots.length, 2);
    assert.equal(
      total.bytes,
      snapshots.reduce((sum: number, one: { bytes: number }) => sum + one.bytes, 0),
    );
  });

  test('mount shows the whole image, and umount removes the mount and its view', async () => {
    const at = join(folder.path, 'mounted');
    const mounted = await run('mount', chain(1), at);
    assert.equal(mounted.status, 0, mounted.stderr);
    try {
      assert.equal(readFileSync(join(at, 'etc/motd'), 'utf8'), 'hello\n');
      assert.equal(existsSync(join(at, 'etc/secret')), false);
      assert.throws(() => writeFileSync(join(at, 'etc/new'), ''), { code: 'EROFS' });
      assert.match((await run('mount', chain(1), at)).stderr, /\[SNAPSHOT_EXISTS\]/);
    } finally {
      await run('umount', at);
    }
    assert.equal(existsSync(join(at, 'etc')), false);
    assert.equal(JSON.parse((await run('ls', '--json')).stdout).snapshots.length, 2);
  });

  test('mount --writable allows changes, which umount discards', async () => {
    const at = join(folder.path, 'writable');
    await run('mount', chain(1), at, '--writable');
    try {
      writeFileSync(join(at, 'etc/new'), 'mine');
    } finally {
      await run('umount', at);
    }
    await run('mount', chain(1), at);
    try {
      assert.equal(existsSync(join(at, 'etc/new')), false);
    } finally {
      await run('umount', at);
    }
  });

  test('ls counts what its filter left out', async () => {
    const { stdout } = await run('ls', '--kind', 'active');
    assert.equal(stdout, `no active snapshots in ${store}; the store has 2 committed\n`);
    const onTop = await run('ls', '--parent', chain(1));
    assert.match(onTop.stdout, /^no snapshots on sha256:[0-9a-f]{12} in \S+; the store has 2 committed\n$/);
    assert.deepEqual(JSON.parse((await run('ls', '--kind', 'view', '--json')).stdout).snapshots, []);
  });

  describe('umount', () => {
    const mount = (...args: string[]) => execFileSync('mount', args);
    const at = join(folder.path, 'at');
    const overlayOf = (lowers: string) => ['-t', 'overlay', 'overlay', '-o', `lowerdir=${lowers}`];
    const refused = async (sentence: RegExp) => {
      const { status, stderr } = await run('umount', at);
      assert.match(stderr, /^unpackd: \[USAGE\] [^\n]+\n$/);
      assert.match(stderr, sentence);
      assert.equal(status, 2);
    };
    const isMounted = () => readFileSync('/proc/self/mountinfo', 'utf8').includes(` ${at} `);
    const trees = () => globSync(`${store}/snapshots/*/fs`);
    before(() => mkdirSync(at));

    test('refuses a folder where nothing is mounted', async () => {
      await refused(/has no mount of the store/);
      const { stderr } = await run('umount', join(folder.path, 'nowhere'));
      assert.match(stderr, /^unpackd: \[USAGE\] [^\n]*has no mount of the store/);
    });

    test('refuses mounts of others and keeps them', async () => {
      for (const name of ['low1', 'low2', 'fake/7/fs', 'fake/8/fs']) {
        mkdirSync(join(folder.path, name), { recursive: true });
      }
      const others = [
        { args: ['-t', 'tmpfs', 'tmpfs'], sentence: /a tmpfs mounted, not a snapshot/ },
        { args: ['--bind', join(folder.path, 'low1')], sentence: /mounted, not a snapshot/ },
        { args: ['--bind', store], sentence: /mounted, not a snapshot/ },
        { args: overlayOf(`${folder.path}/low1:${folder.path}/low2`), sentence: /an overlay mounted, not a snapshot/ },
        // named as a store's are, in another folder
        { args: overlayOf(`${folder.path}/fake/7/fs:${folder.path}/fake/8/fs`), sentence: /an overlay mounted/ },
      ];
      for (const { args, sentence } of others) {
        mount(...args, at);
        try {
          await refused(sentence);
          assert.ok(isMounted());
        } finally {
          execFileSync('umount', [at]);
        }
      }
    });

    test('unmounts its own mount, also if the store has another path, and keeps the mount below', async () => {
      const alias = join(folder.path, 'alias');
      mkdirSync(alias);
      mount('--bind', store, alias);
      mount('-t', 'tmpfs', 'tmpfs', at);
      try {
        const [one = '', two = ''] = trees().map((path) => path.replace(store, alias));
        for (const args of [overlayOf(`${one}:${two}`), ['--bind', one], ['--bind', trees()[0] ?? '']]) {
          mount(...args, at);
          const { status, stdout, stderr } = await run('umount', at);
          assert.equal(status, 0, stderr);
          assert.match(stdout, /a tmpfs, which is not the store's, stays at/);
          assert.ok(isMounted());
        }
      } finally {
        execFileSync('umount', [at]);
        execFileSync('umount', [alias]);
      }
    });

    test('unmounts a snapshot whose directory was removed', async () => {
      const tree = join(store, 'snapshots/4712/fs');
      mkdirSync(tree, { recursive: true });
      mount('--bind', tree, at);
      rmSync(join(store, 'snapshots/4712'), { recursive: true });
      const { status, stderr } = await run('umount', at);
      assert.equal(status, 0, stderr);
      assert.equal(isMounted(), false);
    });

    test('finds a mount through a symbolic link, and forgets a mount that a restart removed', async () => {
      const link = join(folder.path, 'link');
      symlinkSync(at, link);
      await run('mount', chain(1), at);
      assert.equal((await run('umount', link)).status, 0);
      assert.equal(isMounted(), false);
      await run('mount', chain(1), at);
      execFileSync('umount', [at]);
      assert.equal((await run('umount', at)).status, 0);
      assert.equal(JSON.parse((await run('ls', '--json')).stdout).snapshots.length, 2);
    });
  });

  test('rm refuses a snapshot with children', async () => {
    const { status, stderr } = await run('rm', chain(0));
    assert.match(stderr, /^unpackd: \[SNAPSHOT_IN_USE\] [^\n]+\n$/);
    assert.equal(status, 1);
  });

  test('cleanup removes only what it knows to be left behind', async () => {
    for (const name of ['new-dead/fs', '4711/fs']) mkdirSync(join(store, 'snapshots', name), { recursive: true });
    const { stdout } = await run('cleanup', '--json');
    assert.deepEqual(JSON.parse(stdout), { removed: 1 });
    assert.equal(existsSync(join(store, 'snapshots/new-dead')), false);
    assert.ok(existsSync(join(store, 'snapshots/4711')), 'the store has not made it');
    assert.equal(JSON.parse((await run('ls', '--json')).stdout).snapshots.length, 2);
  });

  test('rm --with-parents removes an image except for parents with other children', async () => {
    const at = join(folder.path, 'tree');
    await run('mount', chain(0), at);
    const first = await run('rm', chain(1), '--with-parents', '--json');
    assert.deepEqual(JSON.parse(first.stdout), { removed: [chain(1)] });
    await run('umount', at);
    await runCli(['apply', `${folder.path}/layout:app`, '--root', store]);
    const { stdout } = await run('rm', chain(1), '--with-parents');
    assert.equal(stdout, `removed ${chain(1)}\nremoved ${chain(0)}\n`);
    assert.deepEqual(JSON.parse((await run('ls', '--json')).stdout).snapshots, []);
  });
});
