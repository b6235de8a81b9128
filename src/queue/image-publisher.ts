import { randomBytes } from 'node:crypto';
import type { Redis, Result } from 'ioredis';
import type { ImageListing } from '../snapshots/images.ts';
import type { Keys } from './connection.ts';
import {
  type ImageName,
  LIST_LIFE,
  LIST_OLD,
  type ListAnswer,
  READ_LIST,
  type StoreKeys,
  type StoreRecord,
  storeKeys,
  type WrittenFacts,
} from './store-images.ts';

/**
 * Lists the images of a worker's store in Redis, for the board; `store-images.ts` has the format, and reads it. The worker starts
 * one for its store.
 */

declare module 'ioredis' {
  interface RedisCommander<Context> {
    unpackdLeadList(key: string, id: string, milliseconds: number): Result<number, Context>;
    unpackdPublish(...args: (string | number)[]): Result<PublishAnswer, Context>;
  }
}

/** `lost`: another process writes the list. `changed`: the list is not the one that this process has written. */
type PublishAnswer = 'written' | 'lost' | 'changed';

/** Milliseconds between two looks whether this process is to list, or has to list again. */
export const LOOK = 10_000;
/**
 * Milliseconds after which another process lists, if the one that lists does not renew its right, for example because it was
 * killed.
 */
const RIGHT = 60_000;
/** Maximum share of the time that listing takes. It counts the whole time, also that of waiting for the disk and for Redis. */
const SHARE = 1 / 200;
/** Longest pause between two looks at the store, in milliseconds, so that the list of a slow store does not look old. */
const LONGEST_PAUSE = LIST_OLD / 3;
/** Milliseconds after which a listing counts as hanging: the process gives up its right, so that another process tries. */
const HANGS = 600_000;
/** Maximum number of images that one call of Redis writes or removes: it takes Redis about a millisecond. */
const CHUNK = 500;
/** Number of old IDs of stores that a list checks for an expired record. */
const CHECKED = 4;

/** KEYS: the publisher. ARGV: the ID of this process, milliseconds. Returns 1 if this process has the right to list. */
const LEAD = `
  local holder = redis.call('GET', KEYS[1])
  if holder and holder ~= ARGV[1] then return 0 end
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 1
`;

/**
 * KEYS: the publisher, the store, its images, the stores. ARGV: the ID of this process, the revision before and after, the ID of
 * the store, its record, the lifetime, the time, the prefix of the stores' keys, the number of images to write; their names and
 * facts in turn; the names of the images to remove.
 */
const PUBLISH = `
  if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'lost' end
  if (redis.call('HGET', KEYS[2], 'rev') or '') ~= ARGV[2] then return 'changed' end
  redis.call('HSET', KEYS[2], 'rev', ARGV[3], 'record', ARGV[5])
  local last = 9 + 2 * tonumber(ARGV[9])
  for place = 10, last, 2 do redis.call('HSET', KEYS[3], ARGV[place], ARGV[place + 1]) end
  for place = last + 1, #ARGV do redis.call('HDEL', KEYS[3], ARGV[place]) end
  redis.call('ZADD', KEYS[4], ARGV[7], ARGV[4])
  for _, key in ipairs({KEYS[2], KEYS[3], KEYS[4]}) do redis.call('PEXPIRE', key, ARGV[6]) end
  for _, id in ipairs(redis.call('ZRANGE', KEYS[4], 0, ${CHECKED - 1})) do
    if redis.call('EXISTS', ARGV[8] .. id) == 0 then redis.call('ZREM', KEYS[4], id) end
  end
  return 'written'
`;

export interface ImagePublisherOptions {
  readonly redis: Redis;
  readonly queue: Keys;
  /** The identity of the store. */
  readonly store: string;
  readonly record: Omit<StoreRecord, 'version' | 'images'>;
  /** All images of the store. */
  readonly images: () => Promise<readonly ImageListing[]>;
  /** Maximum number of images in the list: those that were used last. */
  readonly most: number;
  /** Maximum share of the time that listing takes; default: a two-hundredth. */
  readonly share?: number;
  /** Errors of Redis. */
  readonly onError: (error: unknown) => void;
}

/**
 * Of all processes with one store, one writes the list. It reads the store every ten seconds, or less often if that takes more
 * than a two-hundredth of the time. It writes what has changed since. If the list is not what it has written, because Redis was
 * emptied or a failover took writes back, it reads the list and mends it.
 *
 * If the store cannot be read, the list stays as it is, and readers see how old it is. No job waits for any of this.
 */
export class ImagePublisher {
  readonly #options: ImagePublisherOptions;
  readonly #keys: StoreKeys;
  readonly #id = randomBytes(8).toString('hex');
  #timer: NodeJS.Timeout | undefined;
  #listing: { readonly began: number; readonly done: Promise<void> } | undefined;
  /** When to list again; performance.now(). */
  #due = 0;
  /** The list as this process has written it; `undefined` if that is not known. */
  #written: { rev: string; readonly images: Map<string, string> } | undefined;
  #stopped = false;

  constructor(options: ImagePublisherOptions) {
    this.#options = options;
    this.#keys = storeKeys(options.queue, options.store);
    options.redis.defineCommand('unpackdLeadList', { numberOfKeys: 1, lua: LEAD });
    options.redis.defineCommand('unpackdPublish', { numberOfKeys: 4, lua: PUBLISH });
  }

  start(): void {
    if (this.#stopped) return;
    void this.look();
    this.#timer = setInterval(() => void this.look(), LOOK).unref();
  }

  /** Stops, so that another process of the store goes on. The list stays until it expires. */
  async stop(): Promise<void> {
    this.#stopped = true;
    clearInterval(this.#timer);
    const { redis, onError } = this.#options;
    if (redis.status !== 'ready') return;
    // expires at once if it is ours
    await redis.unpackdLeadList(this.#keys.publisher, this.#id, 1).catch(onError);
  }

  /** Lists if this process is to do it, and if it is time. It resolves when that has ended; errors are reported. */
  async look(): Promise<void> {
    const { redis, onError } = this.#options;
    if (this.#stopped || redis.status !== 'ready') return;
    if (this.#listing !== undefined && performance.now() - this.#listing.began > HANGS) return;
    try {
      if ((await redis.unpackdLeadList(this.#keys.publisher, this.#id, RIGHT)) !== 1) {
        this.#written = undefined;
        return;
      }
      if (this.#listing === undefined && performance.now() >= this.#due) {
        const done = this.#list().finally(() => {
          this.#listing = undefined;
        });
        this.#listing = { began: performance.now(), done };
      }
      await this.#listing?.done;
    } catch (error) {
      onError(error);
    }
  }

  async #list(): Promise<void> {
    const { share = SHARE } = this.#options;
    const began = performance.now();
    // a store that cannot be read is reported by those who need it
    const images = await this.#options.images().catch(() => undefined);
    // before Redis is asked, which can fail, or be away for long
    const end = performance.now();
    this.#due = end + Math.min((end - began) * (1 / share - 1), LONGEST_PAUSE);
    if (images !== undefined && !this.#stopped) await this.#publish(images);
  }

  /** @throws errors of Redis */
  async #publish(images: readonly ImageListing[]): Promise<void> {
    const wanted = fieldsOf(images, this.#options.most);
    this.#written ??= await this.#read();
    if ((await this.#write(images.length, wanted)) !== 'changed') return;
    this.#written = await this.#read();
    await this.#write(images.length, wanted);
  }

  async #read(): Promise<{ rev: string; images: Map<string, string> }> {
    const { store, images } = this.#keys;
    // the result is what the script returns
    const [rev = '', , , found = []] = (await this.#options.redis.eval(READ_LIST, 2, store, images, '')) as ListAnswer;
    const known = new Map<string, string>();
    for (let place = 0; place + 1 < found.length; place += 2) known.set(found[place] ?? '', found[place + 1] ?? '');
    return { rev, images: known };
  }

  /** Writes what differs, in chunks, each of which makes the list more alike. @throws errors of Redis */
  async #write(total: number, wanted: ReadonlyMap<string, string>): Promise<PublishAnswer> {
    const written = this.#written;
    if (written === undefined) return 'changed';
    const sets = [...wanted].filter(([name, facts]) => written.images.get(name) !== facts);
    const removals = [...written.images.keys()].filter((name) => !wanted.has(name));
    do {
      // removals first, so that the list never has more images than it may
      const gone = removals.splice(0, CHUNK);
      const changed = sets.splice(0, CHUNK - gone.length);
      const answer = await this.#send(written.rev, total, changed, gone);
      if (answer.outcome !== 'written') {
        this.#written = undefined;
        return answer.outcome;
      }
      written.rev = answer.rev;
      for (const name of gone) written.images.delete(name);
      for (const [name, facts] of changed) written.images.set(name, facts);
    } while (sets.length + removals.length > 0);
    return 'written';
  }

  async #send(
    before: string,
    total: number,
    changed: readonly (readonly [string, string])[],
    gone: readonly string[],
  ): Promise<{ outcome: PublishAnswer; rev: string }> {
    const { redis, queue, store, record } = this.#options;
    const { publisher, store: key, images, stores } = this.#keys;
    const isSame = before !== '' && changed.length + gone.length === 0;
    const rev = isSame ? before : randomBytes(6).toString('base64url');
    const full: StoreRecord = { version: 1, ...record, images: total };
    const outcome = await redis.unpackdPublish(
      ...[publisher, key, images, stores],
      ...[this.#id, before, rev, store, JSON.stringify(full), LIST_LIFE, Date.now(), queue.toKey('store:')],
      changed.length,
      ...changed.flat(),
      ...gone,
    );
    return { outcome, rev };
  }
}

/** The images of the list, as the hash in Redis has them. */
function fieldsOf(images: readonly ImageListing[], most: number): Map<string, string> {
  const listed =
    images.length <= most ? images : images.toSorted((a, b) => b.used.getTime() - a.used.getTime()).slice(0, most);
  return new Map(listed.map((image) => [nameOf(image), JSON.stringify(factsOf(image))]));
}

function nameOf({ reference, platform, manifestDigest = '', chainId = '' }: ImageListing): string {
  return JSON.stringify([reference, platform, manifestDigest, chainId] satisfies ImageName);
}

/** JSON leaves out what is `undefined`. */
function factsOf(image: ImageListing): { [K in keyof WrittenFacts]: WrittenFacts[K] | undefined } {
  const { own, shared, unmeasured, usedBy, pinned, unpacked, used, broken } = image;
  return {
    config: image.configDigest,
    index: image.indexDigest,
    source: image.source,
    job: image.job,
    own: own.bytes,
    shared: shared.bytes || undefined,
    unmeasured: unmeasured || undefined,
    unpacked: unpacked.getTime(),
    used: used.getTime(),
    pinned: pinned || undefined,
    users: usedBy.length || undefined,
    broken,
  };
}
