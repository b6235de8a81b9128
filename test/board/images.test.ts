import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import { Redis } from 'ioredis';
import { type Board, startBoard } from '../../src/board/board.ts';
import type { Config } from '../../src/config.ts';
import { ImagePublisher } from '../../src/queue/image-publisher.ts';
import { createLog } from '../../src/queue/log.ts';
import type { ImageListing } from '../../src/snapshots/images.ts';
import { eventually, queueFixture } from '../queue/queue-fixture.ts';
import { digest, listing } from '../queue/scripted-unpacker.ts';

/** The pages of the images, with two stores. */
const fixture = queueFixture();
const HOSTILE = 'registry.example/<script>alert(1)</script>"\'&\u202eevil:1';
let settings: Config;
let board: Board;

/** Lists images as a worker does. */
async function list(store: string, host: string, images: readonly ImageListing[]): Promise<void> {
  const redis = new Redis(settings.REDIS_URL);
  const publisher = new ImagePublisher({
    redis,
    queue: fixture.bull(settings),
    store,
    record: { host, root: '/var/lib/unpackd', snapshotter: 'overlay' },
    images: async () => images,
    most: images.length,
    onError: assert.ifError,
  });
  await eventually('it is connected', () => redis.status === 'ready');
  await publisher.look();
  await publisher.stop();
  redis.disconnect();
}

async function page(path: string): Promise<{ status: number; text: string; rows: string[] }> {
  const answer = await fetch(`${board.url}${path}`);
  const text = await answer.text();
  const [part = ''] = text.split('id="stores"');
  const rows = [...part.matchAll(/<td role="cell" class="" data-label="Image"><a [^>]*><bdi>(.*?)<\/bdi>/g)];
  return { status: answer.status, text, rows: rows.map(([, name = '']) => name) };
}

describe('the pages of the images', () => {
  before(async () => {
    settings = fixture.settings({ UNPACK_BOARD_PORT: '0' });
    await list('a'.repeat(32), 'node-1', [
      ...Array.from({ length: 2000 }, (_, number) => listing(number)),
      listing(5000, { reference: HOSTILE, pinned: true }),
      listing(5001, { reference: 'registry.example/broken:1', broken: 'gone', unmeasured: 1 }),
    ]);
    await list('b'.repeat(32), 'node-2', [listing(7), listing(8, { pinned: true, usedBy: ['container'] })]);
    board = await startBoard(settings, createLog({ ...settings, UNPACK_LOG_LEVEL: 'silent' }));
    fixture.onEnd(() => board.close());
    await eventually('Redis is connected', async () => (await fetch(`${board.url}/readyz`)).status === 200);
  });

  test('a page has a hundred images, the ones that were used last first, and the next page has the next ones', async () => {
    const { text, rows } = await page('/images');
    assert.match(text, /<h1>Images <small>2,002 in 2 stores<\/small>/);
    assert.equal(rows.length, 100);
    assert.equal(rows[2], 'registry.example/app:1999');
    assert.match(text, />1 to 100 of 2,002</);
    const last = await page('/images?from=2000');
    assert.deepEqual(last.rows, ['registry.example/app:1', 'registry.example/app:0']);
    assert.doesNotMatch(last.text, />Next</);
    const beyond = await page('/images?from=99999');
    assert.match(beyond.text, /There are no images on this page any more/);
  });

  test('images are found by a part of their name, and by the beginning of each digest, as people copy them', async () => {
    const found = async (text: string) => (await page(`/images?q=${encodeURIComponent(text)}`)).rows;
    assert.deepEqual(
      await found('APP:199'),
      [1999, 1998, 1997, 1996, 1995, 1994, 1993, 1992, 1991, 1990, 199].map(
        (number) => `registry.example/app:${number}`,
      ),
    );
    const [manifest, config, chain] = [digest(10_007), digest(20_007), digest(30_007)];
    for (const text of [
      manifest,
      config,
      chain,
      manifest.slice(7),
      `  ${manifest.toUpperCase().replace('SHA', 'sha')} `,
    ]) {
      assert.deepEqual(await found(text), ['registry.example/app:7'], text);
    }
    assert.deepEqual(await found(`registry.example/app@${manifest}`), ['registry.example/app:7']);
    assert.deepEqual(await found(`registry.example/app:old@${manifest}`), ['registry.example/app:7']);
    assert.deepEqual(await found(`registry.example/other@${manifest}`), []);
    assert.match((await page('/images?q=nothing')).text, /No listed image is like that/);
  });

  test('an image that two stores have is one row, and its page has a row for each store', async () => {
    const { text } = await page('/images?q=app:7&order=name');
    assert.match(text, /2 of 2 stores/);
    const link =
      /href="(\/image\?[^"]+)"><bdi>registry\.example\/app:7</.exec(text)?.[1]?.replaceAll('&amp;', '&') ?? '';
    const own = await page(link);
    assert.equal(own.status, 200);
    for (const part of ['node-1', 'node-2', digest(10_007), digest(20_007), digest(30_007), 'href="/jobs/job-7"']) {
      assert.ok(own.text.includes(part), part);
    }
    assert.match(own.text, new RegExp(`unpackd images pin ${digest(10_007).slice(7, 19)}`));
    const gone = await page('/image?reference=registry.example/app:7');
    assert.equal(gone.status, 404);
    assert.match(gone.text, /No store lists this image/);
  });

  test('the images of one store are shown alone, and each store has its number of images', async () => {
    const { text, rows } = await page(`/images?store=${'b'.repeat(32)}&order=name`);
    assert.deepEqual(rows, ['registry.example/app:7', 'registry.example/app:8']);
    assert.match(text, /2 in <bdi>\/var\/lib\/unpackd<\/bdi> on <bdi>node-2<\/bdi>/);
    assert.match(text, />2,002<\/a>/);
    assert.match((await page('/images?store=gone')).text, /in a store that is not listed any more/);
  });

  test('a page says which images are pinned, in use or broken, and hostile names stay text', async () => {
    const pinned = await page('/images?q=app:8&order=name');
    assert.match(pinned.text, /pinned in 1/);
    assert.match(pinned.text, /in use in 1/);
    const broken = await page('/images?q=broken');
    assert.match(broken.text, /<span class="badge bad">broken<\/span>/);
    assert.match(broken.text, /more than <span/);
    const hostile = await page('/images?q=script');
    assert.equal(hostile.rows.length, 1);
    assert.doesNotMatch(hostile.text, /<script>alert|\u202e/);
    const link = /href="(\/image\?[^"]+)"/.exec(hostile.text)?.[1]?.replaceAll('&amp;', '&') ?? '';
    const own = await page(link);
    assert.equal(own.status, 200);
    assert.doesNotMatch(own.text, /<script>alert|\u202e/);
  });
});
