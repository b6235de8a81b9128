import type { Redis } from 'ioredis';
import * as z from 'zod';
import type { Keys } from './connection.ts';

/**
 * The images of the stores as their workers list them in Redis (`image-publisher.ts`), for the board. One worker of each store
 * writes the list.
 *
 *     PREFIX:QUEUE:stores               sorted set of the IDs of the stores, by the time of their last list
 *     PREFIX:QUEUE:store:ID             hash: `record` is the store as JSON, `rev` changes with each change of the list
 *     PREFIX:QUEUE:store:ID:images      hash: image → its facts, both JSON
 *     PREFIX:QUEUE:store:ID:publisher   the ID of the process that writes the list
 *
 * ID is the identity of the store, which its workers have in common. All expire a day after the last list.
 */

/** Lifetime of a list after it was written last, in milliseconds: a day. */
export const LIST_LIFE = 86_400_000;
/** A list that was not confirmed for this number of milliseconds is old: probably no worker of that store runs. */
export const LIST_OLD = 600_000;

const count = z.number().min(0);
const time = z.number().min(0).max(8.64e15);

/** A store, version 1. Within a version fields are only added. Times are in milliseconds since 1970. */
const storeSchema = z.object({
  version: z.literal(1),
  host: z.string(),
  root: z.string(),
  snapshotter: z.string(),
  containerd: z.object({ namespace: z.string(), snapshotter: z.string() }).optional(),
  /** The number of images in the store. Only those that were used last are listed (UNPACK_LISTED_IMAGES). */
  images: count,
});
export type StoreRecord = z.output<typeof storeSchema>;

/** What tells an image from others: reference, platform, digest of the manifest, chain ID. `""` where there is none. */
const nameSchema = z.tuple([z.string(), z.string(), z.string(), z.string()]);
export type ImageName = z.output<typeof nameSchema>;

/** Facts of an image. Those that most images have in common are left out: 0, false, none. */
const factsSchema = z.object({
  config: z.string().optional(),
  index: z.string().optional(),
  source: z.string(),
  job: z.string().optional(),
  /** Bytes on disk of the layers that no other image of the store has, and of the others. */
  own: count,
  shared: count.default(0),
  /** The number of layers whose size is not known. `own` and `shared` do not have them. */
  unmeasured: count.default(0),
  unpacked: time,
  used: time,
  pinned: z.boolean().default(false),
  /** The number of views and active snapshots on it, such as containers. */
  users: count.default(0),
  /** Why it cannot be used, as `unpackd images ls` says. */
  broken: z.string().optional(),
});
export type ImageFacts = z.output<typeof factsSchema>;
/** What is written. */
export type WrittenFacts = z.input<typeof factsSchema>;

export interface ListedImage extends ImageFacts {
  readonly reference: string;
  readonly platform: string;
  readonly manifest: string | undefined;
  readonly chainId: string | undefined;
}

export interface ListedStore extends StoreRecord {
  readonly id: string;
  /** When a worker confirmed the list, by the clock of the reader. */
  readonly seen: Date;
  readonly listed: readonly ListedImage[];
}

export interface StoreKeys {
  readonly stores: string;
  readonly store: string;
  readonly images: string;
  readonly publisher: string;
}

export function storeKeys(queue: Keys, id: string): StoreKeys {
  const store = queue.toKey(`store:${id}`);
  return { stores: queue.toKey('stores'), store, images: `${store}:images`, publisher: `${store}:publisher` };
}

/**
 * KEYS: the store, its images. ARGV: the revision that the reader has. Returns the revision, the record, the milliseconds until
 * it expires and, unless the reader has this revision, the images: names and facts in turn.
 */
export const READ_LIST = `
  local rev = redis.call('HGET', KEYS[1], 'rev')
  if not rev then return {} end
  local images = {}
  if rev ~= ARGV[1] then images = redis.call('HGETALL', KEYS[2]) end
  return {rev, redis.call('HGET', KEYS[1], 'record') or '', redis.call('PTTL', KEYS[1]), images}
`;

/** What READ_LIST returns. */
export type ListAnswer = [rev?: string, record?: string, left?: number, images?: string[]];

/** The number of images in each of these stores, of those that have a list. @throws errors of Redis */
export async function imageCounts(redis: Redis, queue: Keys, ids: Iterable<string>): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  const read = async (id: string): Promise<void> => {
    const text = await redis.hget(storeKeys(queue, id).store, 'record');
    const record = storeSchema.safeParse(parsed(text ?? '')).data;
    if (record !== undefined) counts.set(id, record.images);
  };
  await Promise.all(Array.from(ids, read));
  return counts;
}

interface KeptList {
  readonly rev: string;
  readonly listed: readonly ListedImage[];
}

/**
 * Reads the lists. It keeps them, and reads only those again that have changed, because a list of 2,000 images takes 30 ms to
 * read. The board has one for all its pages.
 */
export class StoreLists {
  readonly #redis: Redis;
  readonly #queue: Keys;
  #kept: ReadonlyMap<string, KeptList> = new Map();
  #reading: Promise<ListedStore[]> | undefined;

  constructor(redis: Redis, queue: Keys) {
    this.#redis = redis;
    this.#queue = queue;
  }

  /** All stores, by host and folder. Stores that a newer version lists are left out. @throws errors of Redis */
  read(): Promise<ListedStore[]> {
    // pages that are opened at the same time read once
    this.#reading ??= this.#read().finally(() => {
      this.#reading = undefined;
    });
    return this.#reading;
  }

  async #read(): Promise<ListedStore[]> {
    const stores: ListedStore[] = [];
    const kept = new Map<string, KeptList>();
    // one after the other, so that Redis does other work between two large lists
    for (const id of await this.#redis.zrange(this.#queue.toKey('stores'), 0, '-1')) {
      const known = this.#kept.get(id);
      const { store, images } = storeKeys(this.#queue, id);
      const answer = await this.#redis.eval(READ_LIST, 2, store, images, known?.rev ?? '');
      const [rev, text, left = 0, found = []] = answer as ListAnswer; // `as`: the script returns this
      if (rev === undefined) continue;
      const record = storeSchema.safeParse(parsed(text)).data;
      if (record === undefined) continue;
      const listed = known?.rev === rev ? known.listed : imagesOf(found);
      kept.set(id, { rev, listed });
      const age = Math.max(0, LIST_LIFE - left);
      stores.push({ ...record, id, seen: new Date(Date.now() - age), listed });
    }
    this.#kept = kept;
    return stores.sort((a, b) => compare(a.host, b.host) || compare(a.root, b.root) || compare(a.id, b.id));
  }
}

function imagesOf(found: readonly string[]): ListedImage[] {
  const images: ListedImage[] = [];
  for (let place = 0; place + 1 < found.length; place += 2) {
    const [name, facts] = [nameSchema.safeParse(parsed(found[place])), factsSchema.safeParse(parsed(found[place + 1]))];
    if (!name.success || !facts.success) continue;
    const [reference, platform, manifest, chainId] = name.data;
    images.push({
      reference,
      platform,
      manifest: manifest === '' ? undefined : manifest,
      chainId: chainId === '' ? undefined : chainId,
      ...facts.data,
    });
  }
  return images;
}

function parsed(json = ''): unknown {
  try {
    return JSON.parse(json);
  } catch {
    return undefined;
  }
}

function compare(one: string, other: string): number {
  return one < other ? -1 : one > other ? 1 : 0;
}
