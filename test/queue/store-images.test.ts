import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { patientConnection } from '../../src/queue/connection.ts';
import { ImagePublisher, type ImagePublisherOptions } from '../../src/queue/image-publisher.ts';
import { LIST_LIFE, type ListedStore, StoreLists, storeKeys } from '../../src/queue/store-images.ts';
import type { ImageListing } from '../../src/snapshots/images.ts';
import { eventually, payload, queueFixture } from './queue-fixture.ts';
import { digest, image, listing, presenceOf } from './scripted-unpacker.ts';

const fixture = queueFixture();
const ID = 'a'.repeat(32);

/** A store that several publishers share, and a reader. */
async function stage(more: { readonly prefix?: string } = {}) {
  const settings = fixture.settings(more.prefix === undefined ? {} : { UNPACK_REDIS_PREFIX: more.prefix });
  const queue = { toKey: (name: string) => `${settings.UNPACK_REDIS_PREFIX}:${settings.UNPACK_QUEUE}:${name}` };
  const connect = async (): Promise<Redis> => {
    const redis = patientConnection(settings);
    redis.on('error', () => {});
    fixture.onEnd(() => redis.disconnect());
    await eventually('it is connected', () => redis.status === 'ready');
    return redis;
  };
  const store = { images: [listing(1)] as readonly ImageListing[], reads: 0, beforeAnswer: async () => {} };
  const redis = await connect();
  const lists = new StoreLists(redis, queue);
  const publisher = async (
    most = 100,
    options: Partial<Pick<ImagePublisherOptions, 'share' | 'onError'>> = {},
  ): Promise<ImagePublisher> => {
    const made = new ImagePublisher({
      redis: await connect(),
      queue,
      store: ID,
      record: { host: 'here', root: '/store', snapshotter: 'overlay' },
      images: async () => {
        store.reads += 1;
        await store.beforeAnswer();
        return store.images;
      },
      most,
      share: 1,
      onError: assert.ifError,
      ...options,
    });
    fixture.onEnd(() => made.stop());
    return made;
  };
  const read = async (): Promise<ListedStore | undefined> => (await lists.read())[0];
  const names = async () => (await read())?.listed.map(({ reference }) => reference).sort();
  return { settings, queue, redis, store, publisher, read, names };
}

/** How often Redis has executed a command, in scripts, too. */
async function calls(redis: Redis, command: string): Promise<number> {
  const text = await redis.info('commandstats');
  return Number(new RegExp(`cmdstat_${command}:calls=(\\d+)`).exec(text)?.[1] ?? 0);
}

test('a list that Redis refuses is not made again at once', async () => {
  const { store, publisher, redis, queue } = await stage();
  await redis.set(storeKeys(queue, ID).images, 'not a hash');
  store.beforeAnswer = () => sleep(20);
  const errors: unknown[] = [];
  // a pause of a thousand times the twenty milliseconds
  const made = await publisher(100, { share: 1 / 1000, onError: (error) => errors.push(error) });
  await made.look();
  await made.look();
  assert.equal(errors.length, 1);
  assert.equal(store.reads, 1);
});

test('a list has the facts of each image, and expires a day after it was written last', async () => {
  const { store, publisher, read, redis, queue } = await stage();
  const users = { usedBy: ['container-1', 'container-2'], pinned: true, unmeasured: 1, broken: 'gone' as const };
  store.images = [
    listing(1),
    listing(2, { ...users, manifestDigest: undefined, configDigest: undefined, job: undefined, platform: '' }),
    listing(3, { chainId: undefined, reference: 'odd\n"\u0000{x} \u202e', shared: { bytes: 7, inodes: 1 } }),
  ];
  await (await publisher()).look();
  const found = await read();
  assert.equal(found?.images, 3);
  assert.deepEqual([found?.host, found?.root, found?.snapshotter], ['here', '/store', 'overlay']);
  const byName = new Map(found?.listed.map((image) => [image.reference, image]));
  assert.deepEqual(byName.get('registry.example/app:1'), {
    reference: 'registry.example/app:1',
    platform: 'linux/amd64',
    manifest: digest(10_001),
    chainId: digest(30_001),
    config: digest(20_001),
    source: 's3://images',
    job: 'job-1',
    own: 1001,
    shared: 0,
    unmeasured: 0,
    unpacked: 1_700_000_000_001,
    used: 1_700_000_100_001,
    pinned: false,
    users: 0,
  });
  const second = byName.get('registry.example/app:2');
  assert.deepEqual([second?.manifest, second?.users, second?.pinned, second?.broken], [undefined, 2, true, 'gone']);
  assert.deepEqual(byName.get('odd\n"\u0000{x} \u202e')?.shared, 7);
  const { stores, store: key, images } = storeKeys(queue, ID);
  for (const one of [stores, key, images]) {
    const left = await redis.pttl(one);
    assert.ok(left > LIST_LIFE - 60_000 && left <= LIST_LIFE, `${one}: ${left}`);
  }
});

test('only what has changed is written, and what was removed goes', async () => {
  const { store, publisher, names, read, redis } = await stage();
  store.images = Array.from({ length: 1200 }, (_, number) => listing(number));
  const one = await publisher(5000);
  await one.look();
  assert.equal((await read())?.listed.length, 1200);
  const before = { hset: await calls(redis, 'hset'), hdel: await calls(redis, 'hdel') };
  store.images = [...store.images.slice(0, 1199).filter(({ reference }) => !/:[78]$/.test(reference)), listing(5000)];
  await one.look();
  // the third is the record of the store
  assert.equal((await calls(redis, 'hset')) - before.hset, 2);
  assert.equal((await calls(redis, 'hdel')) - before.hdel, 3);
  assert.deepEqual((await names())?.includes('registry.example/app:7'), false);
  assert.deepEqual((await names())?.length, 1198);
  const reads = await calls(redis, 'hgetall');
  await one.look();
  await read();
  assert.equal(await calls(redis, 'hgetall'), reads, 'nobody reads a list again that has not changed');
});

test('a store with more images than a list may have lists those that were used last', async () => {
  const { store, publisher, names, read } = await stage();
  store.images = [1, 9, 2, 8, 3].map((number) => listing(number));
  const one = await publisher(2);
  await one.look();
  assert.deepEqual(await names(), ['registry.example/app:8', 'registry.example/app:9']);
  assert.equal((await read())?.images, 5);
  store.images = [...store.images, listing(10)];
  await one.look();
  assert.deepEqual(await names(), ['registry.example/app:10', 'registry.example/app:9']);
});

test('of several processes with one store one lists, and another one goes on when it stops or was killed', async () => {
  const { store, publisher, names, redis, queue } = await stage();
  const [first, second, third] = [await publisher(), await publisher(), await publisher()];
  for (const one of [first, second, third, first, second]) await one.look();
  assert.equal(store.reads, 2);
  await first.stop();
  await eventually('the right has expired', async () => (await redis.exists(storeKeys(queue, ID).publisher)) === 0);
  store.images = [listing(2)];
  await second.look();
  assert.deepEqual(await names(), ['registry.example/app:2']);
  // as if it was killed a minute ago
  await redis.del(storeKeys(queue, ID).publisher);
  store.images = [listing(3)];
  await third.look();
  assert.deepEqual(await names(), ['registry.example/app:3']);
});

test('a process that was frozen while it read the store writes nothing when another one lists by then', async () => {
  const { store, publisher, names, redis, queue } = await stage();
  const [frozen, other] = [await publisher(), await publisher()];
  store.beforeAnswer = async () => {
    store.beforeAnswer = async () => {};
    await redis.del(storeKeys(queue, ID).publisher);
    const old = store.images;
    store.images = [listing(2)];
    await other.look();
    store.images = old;
  };
  await frozen.look();
  assert.deepEqual(await names(), ['registry.example/app:2']);
});

test('a list that somebody removed or changed is mended', async () => {
  const { store, publisher, names, redis, queue } = await stage();
  const one = await publisher();
  store.images = [listing(1), listing(2)];
  await one.look();
  await redis.flushall();
  await one.look();
  assert.deepEqual(await names(), ['registry.example/app:1', 'registry.example/app:2']);
  // an older state, as after a failover
  const { store: key, images } = storeKeys(queue, ID);
  await redis.hset(images, '["gone","","",""]', '{}');
  await redis.hdel(images, (await redis.hkeys(images)).find((name) => name.includes('app:1')) ?? '');
  await redis.hset(key, 'rev', 'older');
  await one.look();
  assert.deepEqual(await names(), ['registry.example/app:1', 'registry.example/app:2']);
});

test('a store that cannot be read keeps its list, and does not end its worker', async () => {
  const { store, publisher, names } = await stage();
  const one = await publisher();
  await one.look();
  store.beforeAnswer = () => Promise.reject(new Error('EIO'));
  await one.look();
  assert.deepEqual(await names(), ['registry.example/app:1']);
});

test('all keys begin with the prefix, so that they are in the slot of its hash tag', async () => {
  const { publisher, redis, settings } = await stage({ prefix: '{tag}' });
  await redis.flushall();
  await (await publisher()).look();
  const keys = await redis.keys('*');
  assert.equal(keys.length, 4);
  for (const key of keys) assert.ok(key.startsWith(`{tag}:${settings.UNPACK_QUEUE}:`), key);
});

test('what a newer version or another program wrote is left out', async () => {
  const { publisher, names, read, redis, queue } = await stage();
  await (await publisher()).look();
  const { store, images } = storeKeys(queue, ID);
  await redis.hset(images, 'no JSON', '{}', '["a","b","c","d"]', '{"own":"x"}', '[1]', '{}');
  await redis.hset(store, 'rev', 'other');
  assert.deepEqual(await names(), ['registry.example/app:1']);
  await redis.hset(store, 'record', '{"version":2}', 'rev', 'newer');
  assert.equal(await read(), undefined);
});

test('a worker lists the images of its store, and those who read the workers get their number', async () => {
  const settings = fixture.settings();
  const worker = await fixture.worker(settings, () => [image('applied')], {
    presence: presenceOf(ID, async () => [listing(1), listing(2)]),
  });
  const producer = fixture.producer(settings);
  await eventually('the number', async () => (await producer.overview()).workers[0]?.images === 2);
  await worker.close();
  const redis = new Redis(settings.REDIS_URL);
  fixture.onEnd(() => redis.disconnect());
  const [store] = await new StoreLists(redis, fixture.bull(settings)).read();
  assert.equal(store?.listed.length, 2, 'the list stays without its workers');
});

test('a worker with UNPACK_LISTED_IMAGES=0, or whose store has no identity, lists none', async () => {
  let reads = 0;
  const images = async () => {
    reads += 1;
    return [listing(1)];
  };
  for (const [flags, storeIdentity] of [
    [{ UNPACK_LISTED_IMAGES: '0' }, ID],
    [{}, undefined],
  ] as const) {
    const settings = fixture.settings(flags);
    const presence = presenceOf(storeIdentity, images);
    const worker = await fixture.worker(settings, () => [image('applied')], { presence });
    const queue = fixture.producer(settings);
    await queue.wait(await queue.add(payload('one')));
    await worker.close();
  }
  assert.equal(reads, 0);
});
