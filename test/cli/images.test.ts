import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import '../support/needs-root.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import type { Store } from '../../src/snapshots/store.ts';
import { NODE, PROGRAM, startAsUser } from '../rootless/as-user.ts';
import { skipWithout } from '../support/present.ts';
import { scratch } from '../support/scratch.ts';
import { finished, MAIN, runCli } from './run-cli.ts';

/** A store with two images that share a layer: `base` ← `left`, `base` ← `right`. */
const folder = scratch();
const root = join(folder.path, 'store');
const name = (digit: string) => `sha256:${digit.repeat(64)}`;
const [BASE, LEFT, RIGHT] = [name('a'), name('b'), name('c')];
const [MANIFEST, CONFIG] = [name('d'), name('e')];
const REFERENCE = 'registry.example.com/team/left:1.0';

async function changing(body: (store: Store) => Promise<unknown>): Promise<void> {
  const store = await openSnapshotter({ root, type: 'overlay' });
  try {
    await body(store);
  } finally {
    await store.close();
  }
}

before(() =>
  changing(async (store) => {
    const layer = async (key: string, parent: string, bytes: number) => {
      await store.prepare(`of ${key}`, parent);
      await store.commit(key, `of ${key}`, { usage: { bytes, inodes: 3 }, synced: key !== RIGHT });
    };
    await layer(BASE, '', 5 << 20);
    await layer(LEFT, BASE, 2 << 20);
    await layer(RIGHT, BASE, 1 << 20);
    const platform = 'linux/amd64';
    const config = JSON.stringify({
      created: '2026-01-02T03:04:05Z',
      config: {
        Entrypoint: ['/bin/app'],
        Cmd: ['run', 'it'],
        Env: ['A=1', 'B=two\u001b[2J'],
        User: '7',
        Labels: { l: 'v' },
      },
      rootfs: { type: 'layers', diff_ids: [BASE] },
    });
    await store.recordImage(
      {
        reference: REFERENCE,
        platform,
        chainId: LEFT,
        manifestDigest: MANIFEST,
        configDigest: CONFIG,
        source: 's3://b',
      },
      new Map([
        [CONFIG, Buffer.from(config)],
        [MANIFEST, Buffer.from(JSON.stringify({ layers: [{ mediaType: 'a/b', size: 4096 }] }))],
      ]),
    );
    await store.recordImage({ reference: 'right', platform, chainId: RIGHT, source: 's3://b' }, new Map());
  }),
);
after(() => folder[Symbol.dispose]());

describe('snapshots ls', () => {
  const ls = (...args: string[]) => runCli(['snapshots', 'ls', ...args, '--root', root]);

  test('shows sizes and the images of each snapshot, in a pipe with whole names', async () => {
    const { stdout } = await ls();
    const lines = stdout.trimEnd().split('\n');
    assert.match(lines[0] ?? '', /^KIND +AGE +SIZE +KEY +PARENT +IMAGES$/);
    assert.match(lines[1] ?? '', new RegExp(`^committed +\\d+ s +5.0 MiB +${BASE} +${REFERENCE}, right$`));
    assert.match(lines[2] ?? '', new RegExp(`^committed +\\d+ s +2.0 MiB +${LEFT} +${BASE} +${REFERENCE}$`));
  });

  test('shows what is not on disk', async () => {
    assert.match((await ls('--parent', BASE)).stdout, new RegExp(`^unsynced .*${RIGHT}`, 'm'));
    assert.match(
      (await runCli(['snapshots', 'stat', RIGHT, '--root', root])).stdout,
      /^unsynced its files are possibly/m,
    );
  });

  test('--json has sizes and images', async () => {
    const { snapshots } = JSON.parse((await ls('--json')).stdout);
    assert.deepEqual(snapshots[0].images, [REFERENCE, 'right']);
    assert.deepEqual(snapshots[1].size, { bytes: 2 << 20, inodes: 3 });
  });

  test('stat shows both too', async () => {
    const { stdout } = await runCli(['snapshots', 'stat', LEFT, '--root', root]);
    assert.match(stdout, /^size +2.0 MiB, 3 inodes/m);
    assert.match(stdout, new RegExp(`^image +${REFERENCE}$`, 'm'));
  });
});

const images = (...args: string[]) => runCli(['images', ...args, '--root', root]);
const referencesLeft = async (): Promise<string[]> => {
  const { images: left }: { images: { reference: string }[] } = JSON.parse((await images('ls', '--json')).stdout);
  return left.map(({ reference }) => reference);
};

describe('images ls', () => {
  test('shows sizes, ages and the digest of each image, in a pipe with whole names', async () => {
    const lines = (await images('ls')).stdout.trimEnd().split('\n');
    assert.match(lines[0] ?? '', /^REFERENCE +PLATFORM +DIGEST +OWN +SHARED +AGE +USED +STATE$/);
    assert.match(
      lines[1] ?? '',
      new RegExp(`^${REFERENCE} +linux/amd64 +${MANIFEST} +2.0 MiB +5.0 MiB +\\d+ s +\\d+ s$`),
    );
    assert.match(lines[2] ?? '', new RegExp(`^right +linux/amd64 +${RIGHT} +1.0 MiB +5.0 MiB`));
  });

  test('fits the width of a terminal', { skip: skipWithout('script') }, () => {
    const command = [process.execPath, MAIN, 'images', 'ls', '--root', root].map((word) => `'${word}'`).join(' ');
    for (const width of [40, 60, 80]) {
      const text = execFileSync('script', ['-qec', `stty cols ${width}; ${command}`, '/dev/null'], {
        encoding: 'utf8',
      });
      const lines = text.trimEnd().split(/\r?\n/);
      assert.equal(lines.length, 3, text);
      for (const line of lines) assert.ok(line.length <= width, `${width}: ${line}`);
    }
  });

  test('of a folder without a store fails and makes none', async () => {
    const nowhere = join(folder.path, 'nowhere');
    for (const args of [['ls'], ['inspect', 'a:1'], ['rm', 'a:1'], ['pin', 'a:1']]) {
      const { status, stderr } = await runCli(['images', ...args, '--root', nowhere]);
      assert.match(stderr, /^unpackd: \[STORE_FAILED\] [^\n]+ has no snapshot store[^\n]+\n$/);
      assert.equal(status, 1);
      assert.equal(existsSync(nowhere), false);
    }
  });
});

test('the store of another user is refused with a sentence', async () => {
  chmodSync(folder.path, 0o755);
  for (const args of [
    ['images', 'ls'],
    ['snapshots', 'ls'],
    ['images', 'rm', 'a:1'],
  ]) {
    const child = startAsUser(NODE, [PROGRAM, ...args, '--root', root]);
    const { status, stderr } = await finished(child);
    assert.match(
      stderr,
      /^unpackd: \[STORE_FAILED\] [^\n]+: this user may not read it; run the command as its owner or as root\n$/,
    );
    assert.equal(status, 1);
  }
});

describe('images inspect', () => {
  test('shows how the image runs, and its layers', async () => {
    const { stdout } = await images('inspect', REFERENCE);
    for (const line of [
      /^entrypoint +\["\/bin\/app"\]$/m,
      /^cmd +\["run","it"\]$/m,
      /^env +A=1$/m,
      /^env +B=two\\u\{1b\}\[2J$/m,
      /^user +7$/m,
      /^label +l=v$/m,
      /^size +2.0 MiB of its own, 5.0 MiB shared$/m,
      new RegExp(`^ +1 +5.0 MiB +4.0 KiB +${BASE} +${BASE} +a/b$`, 'm'),
    ])
      assert.match(stdout, line);
  });

  test('reads the config by the rules of a job: the case of letters in the names of fields does not matter', async () => {
    const [reference, configDigest] = ['lower/case:1', name('f')];
    const config = {
      config: { entrypoint: ['/sbin/init'], labels: { long: 'x'.repeat(40_000) } },
      RootFS: { type: 'layers', Diff_IDs: [BASE] },
    };
    await changing((store) =>
      store.recordImage(
        { reference, platform: '', chainId: BASE, configDigest, source: 's3://b' },
        new Map([[configDigest, Buffer.from(JSON.stringify(config))]]),
      ),
    );
    const { stdout } = await images('inspect', reference);
    await changing((store) => store.removeImage(reference));
    assert.match(stdout, /^entrypoint +\["\/sbin\/init"\]$/m);
    assert.match(stdout, /^label +long=x{40000}$/m);
    assert.match(stdout, new RegExp(`^ +1 +5.0 MiB +${BASE} +${BASE}`, 'm'));
  });

  test('takes the beginning of a digest or of a reference', async () => {
    for (const wanted of [MANIFEST.slice(0, 12), 'dddd', CONFIG.slice(7, 12), LEFT, 'registry.example']) {
      const { images: found } = JSON.parse((await images('inspect', wanted, '--json')).stdout);
      assert.equal(found.length, 1);
      assert.equal(found[0].reference, REFERENCE, wanted);
      assert.deepEqual(found[0].config.config.Cmd, ['run', 'it']);
    }
  });

  test('takes the short form of a full name', async () => {
    await changing((store) =>
      store.recordImage(
        { reference: 'docker.io/library/short:latest', platform: 'linux/amd64', source: '' },
        new Map(),
      ),
    );
    const { images: found } = JSON.parse((await images('inspect', 'short', '--json')).stdout);
    assert.equal(found[0].reference, 'docker.io/library/short:latest');
    await changing((store) => store.removeImage('docker.io/library/short:latest'));
  });

  test('takes a name with a digest, as Docker prints it', async () => {
    const index = name('9');
    const record = (reference: string, manifestDigest: string) => {
      const documents = [manifestDigest, index].map((digest) => [digest, Buffer.from('{}')] as const);
      const image = { reference, platform: 'linux/amd64', manifestDigest, indexDigest: index, source: '' };
      return changing((store) => store.recordImage(image, new Map(documents)));
    };
    await record('docker.io/library/named:1', name('8'));
    await record('docker.io/library/named:2', name('8'));
    const found = async (wanted: string) => {
      const { images: all, error } = JSON.parse((await images('inspect', wanted, '--json')).stdout);
      return error === undefined ? all[0].reference : `[${error.code}] ${error.message}`;
    };
    const repository = 'registry.example.com/team/left';
    for (const wanted of [
      `${repository}@${MANIFEST}`,
      `${repository}:1.0@${MANIFEST}`,
      `${repository}:old@${MANIFEST}`,
    ]) {
      assert.equal(await found(wanted), REFERENCE, wanted);
    }
    for (const digest of [name('8'), index]) {
      assert.equal(await found(`named:2@${digest}`), 'docker.io/library/named:2');
      assert.match(await found(`named@${digest}`), /\[USAGE\] 2 images fit .*"docker.io\/library\/named:1"/);
    }
    for (const wanted of [`registry.example.com/other@${MANIFEST}`, `${repository}@${name('8')}`]) {
      assert.match(await found(wanted), /^\[IMAGE_NOT_FOUND\] /, wanted);
    }
    await changing(async (store) => {
      for (const tag of ['1', '2']) await store.removeImage(`docker.io/library/named:${tag}`);
    });
  });

  test('--document prints the bytes of one document', async () => {
    assert.match((await images('inspect', REFERENCE, '--document', 'config')).stdout, /^\{"created":.*\}$/);
    const { stderr, status } = await images('inspect', REFERENCE, '--document', 'index');
    assert.match(stderr, /^unpackd: \[BLOB_NOT_FOUND\] [^\n]+ has no index of image "registry/);
    assert.equal(status, 1);
  });

  test('of an unknown image is IMAGE_NOT_FOUND', async () => {
    for (const args of [['nothing'], [REFERENCE, '--platform', 'linux/s390x']]) {
      const { status, stderr } = await images('inspect', ...args);
      assert.match(stderr, /^unpackd: \[IMAGE_NOT_FOUND\] [^\n]+\n$/);
      assert.equal(status, 1);
    }
  });

  test('refuses what is too short or fits several images', async () => {
    assert.match((await images('inspect', 'dd')).stderr, /\[USAGE\] "dd" is too short/);
    await changing((store) =>
      store.recordImage({ reference: 'right2', platform: '', chainId: RIGHT, source: '' }, new Map()),
    );
    const { status, stderr } = await images('inspect', 'righ');
    assert.match(stderr, /\[USAGE\] 2 images fit "righ": write the reference of one, such as "right", "right2"/);
    assert.equal(status, 2);
    assert.equal((await images('inspect', 'right')).status, 0, 'a whole reference is never ambiguous');
  });
});

describe('a mounted image', () => {
  const at = join(folder.path, 'mounted');

  test('is mounted by the commands of snapshots mounts, and shown as mounted', async () => {
    mkdirSync(at);
    const { stdout, stderr } = await runCli(['snapshots', 'mounts', LEFT, at, '--root', root]);
    assert.match(stdout, new RegExp(`^mount -t overlay -o lowerdir=\\S+ overlay ${at}\\n$`), stderr);
    const snapshots = (await runCli(['snapshots', 'ls', '--root', root, '--json'])).stdout;
    // in a namespace of its own, because every namespace that is made meanwhile keeps a copy of the mount
    const inside = (...args: string[]) =>
      execFileSync(
        'unshare',
        ['--mount', 'sh', '-ec', `${stdout}exec "$0" "$@"`, process.execPath, MAIN, ...args, '--root', root],
        {
          encoding: 'utf8',
        },
      );
    assert.match(inside('images', 'ls'), new RegExp(`^${REFERENCE} .*mounted$`, 'm'));
    const { images: found } = JSON.parse(inside('images', 'inspect', REFERENCE, '--json'));
    assert.equal(found[0].mounted.point, at);
    assert.doesNotMatch((await images('ls')).stdout, /mounted$/m);
    assert.equal((await runCli(['snapshots', 'ls', '--root', root, '--json'])).stdout, snapshots, 'no view was made');
  });

  test('has its mounts as JSON: as mounts of a view', async () => {
    const { mounts } = JSON.parse((await runCli(['snapshots', 'mounts', BASE, '--root', root, '--json'])).stdout);
    assert.deepEqual(mounts, [{ type: 'bind', source: join(root, 'snapshots/1/fs'), options: ['ro', 'rbind'] }]);
  });
});

describe('images pin and rm', () => {
  test('a pinned image is not removed, and nor are the others of the command', async () => {
    assert.match((await images('pin', REFERENCE)).stdout, /^pinned image registry.*\(linux\/amd64\)\n$/);
    assert.match((await images('ls')).stdout, /pinned$/m);
    const { status, stderr } = await images('rm', 'right', REFERENCE);
    assert.match(stderr, /^unpackd: \[IMAGE_PINNED\] [^\n]+ is pinned: run unpackd images unpin first\n$/);
    assert.equal(status, 1);
    assert.equal((await referencesLeft()).length, 3);
    assert.equal((await images('unpin', REFERENCE)).status, 0);
  });

  test('rm keeps the snapshots that another image has', async () => {
    const { stdout } = await images('rm', 'right2');
    assert.match(
      stdout,
      /^removed image right2\n {2}snapshot sha256:c{12} stays: image right \(linux\/amd64\) is the same\n$/,
    );
    assert.deepEqual(await referencesLeft(), [REFERENCE, 'right']);
  });

  test('rm keeps the snapshots with children and those that are used', async () => {
    const { removed, snapshots, kept } = JSON.parse((await images('rm', 'right', '--json')).stdout);
    assert.deepEqual(removed, [{ reference: 'right', platform: 'linux/amd64' }]);
    assert.deepEqual(snapshots, [RIGHT]);
    assert.equal(kept[0].name, BASE);
    await changing((store) => store.view('look', LEFT));
    assert.match(
      (await images('rm', REFERENCE)).stdout,
      /^removed image registry[^\n]+\)\n {2}snapshot [^\n]+ stands on it\n$/,
    );
    assert.deepEqual(await referencesLeft(), []);
  });

  test('an empty list is a sentence', async () => {
    assert.equal((await images('ls')).stdout, `no images in ${root}\n`);
  });
});
