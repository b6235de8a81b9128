import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { CliError } from '../../src/cli/failure.ts';
import { progressLines, resultLines } from '../../src/cli/job-view.ts';
import type { Cli } from '../../src/cli/output.ts';
import { columns, LiveRegion } from '../../src/cli/output.ts';
import { built, program } from '../../src/cli/package.ts';
import { type Config, loadConfig, s3Connection } from '../../src/config.ts';
import { UnpackError } from '../../src/errors.ts';
import { hexOf, shortDigest } from '../../src/oci/digest.ts';
import { UnpackQueue } from '../../src/queue/producer.ts';
import type { UnpackResult } from '../../src/queue/result.ts';
import { displayRedisUrl } from '../../src/redis-address.ts';
import type { Snapshotter } from '../../src/snapshots/snapshotter.ts';
import { removeTree } from '../../src/system/remove-tree.ts';
import { bytesText, durationText } from '../../src/units.ts';
import { ensureRedisInstalled, findRedis, startRedis } from '../redis-server.ts';
import { startS3Server } from '../s3/server.ts';
import { startWorker, type WorkerProcess } from '../worker-process.ts';
import { type BorrowedRedis, borrowRedis } from './borrowed-redis.ts';
import { flipBit } from './damage.ts';
import { DAMAGED_TAG, type ExampleImage, makeExampleImage, TAG } from './example-image.ts';
import { lookInside } from './look-inside.ts';
import { findPlace } from './place.ts';

const BUCKET = 'images';
const PREFIX = 'demo';

/** What other commands need, to work beside the demo. */
const EXPORTED = [
  'REDIS_URL',
  'UNPACK_REDIS_PREFIX',
  'S3_ENDPOINT',
  'UNPACK_ROOT',
  'UNPACK_SNAPSHOTTER',
  'UNPACK_OWNERSHIP',
] as const;

/**
 * Runs the demo to its end; with `keep`, until it is interrupted. `unpackd demo` calls this in a checkout.
 * @throws CliError DEMO_FAILED where a server cannot be started, or a step has another outcome than it must
 */
export async function runDemo(cli: Cli, packageRoot: string, { keep }: { readonly keep: boolean }): Promise<void> {
  const demo = new Demo(cli, packageRoot);
  try {
    await demo.tell();
    if (keep) await demo.stayUp();
  } catch (error) {
    // what could not be started says so in a plain sentence
    const plain = error instanceof Error && error.constructor === Error;
    throw plain ? new CliError('DEMO_FAILED', error.message, { cause: error }) : error;
  } finally {
    await demo.cleanUp();
  }
  if (!keep) cli.out.line('\nEverything is gone again. With --keep it stays up, with a web page to look at.');
}

/**
 * The demo, told step by step. Everything that is started leaves a way to end it on a stack, and `cleanUp` goes down
 * that stack whatever has happened.
 */
class Demo {
  readonly #cli: Cli;
  readonly #packageRoot: string;
  readonly #cleanups: (() => Promise<unknown>)[] = [];
  #step = 0;

  constructor(cli: Cli, packageRoot: string) {
    this.#cli = cli;
    this.#packageRoot = packageRoot;
  }

  async tell(): Promise<void> {
    const { out } = this.#cli;
    this.#heading('A queue, a bucket and a worker');
    const { config, folder, worker } = await this.#setUp();

    this.#heading('An image, out of what is on this machine');
    const image = await this.#makeImage(folder);
    await this.#push(image, config);

    const queue = this.#owned(new UnpackQueue(config), (queue) => queue.close());
    this.#heading('A job');
    const result = await this.#follow(queue, worker, await this.#add(queue, TAG));
    for (const line of resultLines(result)) out.line(`   ${line}`);

    this.#heading('A look inside');
    await this.#look(config, folder, result);

    this.#heading('The same job once more');
    const again = await this.#follow(queue, worker, await this.#add(queue, TAG));
    const existed = again.images.flatMap(({ layers }) => layers).filter(({ state }) => state === 'existed').length;
    out.line(
      `   done in ${durationText(again.durationMs)}: ${existed} of ${image.layers.length} layers were there, so nothing was fetched`,
    );

    this.#heading('A job that must fail');
    await this.#fail(queue, worker, image, config);
    this.#told = { config, folder };
  }

  #told: { readonly config: Config; readonly folder: string } | undefined;

  /** Waits for the interrupt, with the web page up. */
  async stayUp(): Promise<void> {
    if (this.#told === undefined) return;
    const { config } = this.#told;
    const { out, signal } = this.#cli;
    const { startBoard } = await import('../../src/board/board.ts');
    const { createLog } = await import('../../src/queue/log.ts');
    const board = this.#owned(
      await startBoard({ ...config, UNPACK_BOARD_PORT: 0 }, createLog({ ...config, UNPACK_LOG_LEVEL: 'silent' })),
      (board) => board.close(),
    );
    this.#heading(`Up until Ctrl-C: ${out.bold(board.url)}`);
    out.line('   For other commands in another terminal:');
    // a server that was there already is reached as before, and its URL may have a password in it
    const own = EXPORTED.filter((name) => name !== 'REDIS_URL' || config.REDIS_URL !== process.env.REDIS_URL);
    for (const name of own) out.line(`   export ${name}=${config[name] ?? ''}`);
    for (const [name, value] of Object.entries(this.#credentials)) out.line(`   export ${name}=${value}`);
    const unpackd = built ? 'unpackd' : 'npm run unpackd --';
    out.line(`   ${unpackd} enqueue s3://${BUCKET}/${PREFIX}:${TAG} --watch`);
    await sleep(2 ** 31 - 1, undefined, { signal }).catch(() => {});
  }

  async cleanUp(): Promise<void> {
    if (this.#cli.signal.aborted) this.#cli.out.note('ending what was started');
    for (let end = this.#cleanups.pop(); end !== undefined; end = this.#cleanups.pop()) {
      await end().catch((error: unknown) => this.#cli.out.note(`while cleaning up: ${String(error)}`));
    }
  }

  #credentials: Readonly<Record<string, string>> = {};

  async #setUp(): Promise<{ config: Config; folder: string; worker: WorkerProcess }> {
    const { out } = this.#cli;
    const place = await findPlace(this.#packageRoot);
    const { folder } = this.#owned(place, ({ folder }) => removeTree(folder));
    const directory = async (name: string) => {
      await mkdir(join(folder, name), { recursive: true });
      return join(folder, name);
    };
    const s3 = this.#owned(await startS3Server({ buckets: [BUCKET] }), (server) => server.close());
    const redis = this.#owned(await this.#redis(await directory('redis')), (redis) => redis.stop());
    const environment = {
      REDIS_URL: redis.url,
      REDIS_PASSWORD_FILE: redis.passwordFile ?? '',
      UNPACK_REDIS_PREFIX: redis.prefix,
      S3_ENDPOINT: s3.endpoint,
      AWS_REGION: s3.region,
      UNPACK_ROOT: join(folder, 'store'),
      UNPACK_SNAPSHOTTER: place.snapshotter,
      UNPACK_OWNERSHIP: process.geteuid?.() === 0 ? 'keep' : 'squash',
      UNPACK_BUCKETS: BUCKET,
      UNPACK_BACKOFF: '300ms', // nobody wants to watch the usual pauses between attempts
      UNPACK_GRACE: '2s',
      UNPACK_WORKER_NAME: 'demo-worker',
      UNPACK_LOG_FORMAT: 'json',
    };
    this.#credentials = { AWS_ACCESS_KEY_ID: s3.accessKeyId, AWS_SECRET_ACCESS_KEY: s3.secretAccessKey };
    Object.assign(process.env, this.#credentials); // where this process's own S3 client looks
    const worker = this.#owned(
      startWorker(program('workers/unpack'), { ...environment, ...this.#credentials }),
      (worker) => worker.stop(),
    );
    out.line(`   ${displayRedisUrl(redis.url)}, ${s3.endpoint}, worker process ${worker.pid}`);
    out.line(
      `   store ${environment.UNPACK_ROOT} (${place.snapshotter}${place.note === undefined ? '' : `, because ${place.note}`})`,
    );
    return { config: loadConfig(environment), folder, worker };
  }

  /** One of its own, unless that would have to be installed and the user has named another. */
  async #redis(directory: string): Promise<BorrowedRedis> {
    if (process.env.REDIS_URL && (await findRedis()) === undefined) return borrowRedis(loadConfig());
    await ensureRedisInstalled();
    return { prefix: 'bull', ...(await startRedis({ directory })) };
  }

  async #makeImage(folder: string): Promise<ExampleImage> {
    const { out, signal } = this.#cli;
    const started = performance.now();
    const image = await makeExampleImage(this.#packageRoot, join(folder, 'image'), signal);
    const rows = image.layers.map((layer, index) => [
      index + 1,
      layer.title,
      layer.mediaType.split('+')[1] ?? '',
      bytesText(layer.size),
      bytesText(layer.tarSize),
    ]);
    const table = columns(['LAYER', 'WHAT', 'FORMAT', 'BLOB', 'TAR'], rows, ['LAYER', 'BLOB', 'TAR']);
    for (const line of table) out.line(`   ${line}`);
    out.line(`   made in ${durationText(performance.now() - started)}`);
    return image;
  }

  async #push(image: ExampleImage, config: Config): Promise<void> {
    const { pushImage } = await import('../../src/source/push.ts');
    const started = performance.now();
    const { signal } = this.#cli;
    for (const tag of [TAG, DAMAGED_TAG]) {
      await pushImage({
        path: image.layout.folder,
        tag,
        bucket: BUCKET,
        prefix: PREFIX,
        connection: s3Connection(config),
        signal,
      });
    }
    const address = `s3://${BUCKET}/${PREFIX}:${TAG}`;
    this.#cli.out.line(`   pushed to ${address} in ${durationText(performance.now() - started)}`);
  }

  async #add(queue: UnpackQueue, tag: string): Promise<string> {
    const { out } = this.#cli;
    out.line(`   ${out.dim('$')} unpackd enqueue s3://${BUCKET}/${PREFIX}:${tag} --watch`);
    const { id } = await queue.add({
      version: 1,
      image: `demo.example/${PREFIX}:${tag}`,
      source: { bucket: BUCKET, prefix: PREFIX, layout: 'oci' },
      tag,
    });
    return id;
  }

  async #follow(queue: UnpackQueue, worker: WorkerProcess, id: string): Promise<UnpackResult> {
    const { out, signal } = this.#cli;
    const region = new LiveRegion(out.live);
    try {
      const onProgress = (progress: Parameters<typeof progressLines>[0]) => region.draw(progressLines(progress));
      return await Promise.race([queue.wait(id, { signal, onProgress }), worker.failed]);
    } finally {
      region.clear();
    }
  }

  async #look(config: Config, folder: string, result: UnpackResult): Promise<void> {
    const { out } = this.#cli;
    const chainId = result.images[0]?.chainId ?? '';
    const store = await this.#store(config);
    const mounts = await store.view('demo view', chainId);
    // without root nothing is mounted, and nothing need be where a snapshot is a whole tree by itself
    const whole = store.type === 'native' ? mounts[0]?.source : undefined;
    const root = process.geteuid?.() === 0;
    if (!root && whole === undefined) return out.line('   Mounting the tree needs root.');
    const tree = root || whole === undefined ? join(folder, 'tree') : whole;
    if (root) {
      const { mountSnapshot, unmountSnapshot } = await import('../../src/system/mount.ts');
      await mkdir(tree, { recursive: true });
      await mountSnapshot(mounts, tree);
      this.#owned(tree, unmountSnapshot);
      out.line(`   ${out.dim('$')} unpackd snapshots mount ${shortDigest(chainId)} ${tree}`);
    } else {
      out.line('   Mounting needs root; this is the snapshot’s own folder, and no program is run in it:');
      out.line(`   ${tree}`);
    }
    const findings = await lookInside(tree);
    for (const { ok, text } of findings) out.line(`   ${ok ? out.green('ok  ') : out.red('FAIL')}  ${text}`);
    if (findings.some(({ ok }) => !ok)) throw new CliError('DEMO_FAILED', 'the tree is not what the layers say');
  }

  async #fail(queue: UnpackQueue, worker: WorkerProcess, { damaged }: ExampleImage, config: Config): Promise<void> {
    const { out } = this.#cli;
    const key = `${PREFIX}/blobs/sha256/${hexOf(damaged.digest)}`;
    const offset = await flipBit(s3Connection(config), BUCKET, key);
    out.line(
      `   another image, with a fifth layer; one bit of its blob is wrong in the bucket (byte ${offset} of ${damaged.size})`,
    );
    const id = await this.#add(queue, DAMAGED_TAG);
    try {
      await this.#follow(queue, worker, id);
    } catch (error) {
      if (!(error instanceof UnpackError) || error.code === 'CANCELLED') throw error;
      out.line(`   ${out.red(`[${error.code}]`)} ${error.message}`);
      const { progress } = await queue.status(id);
      const failures = progress?.failures ?? [];
      for (const { attempt, attempts, code, retryable } of failures) {
        const then = retryable
          ? 'tried once more, from a fresh download'
          : 'the bucket has no better bytes, so given up';
        out.line(`   attempt ${attempt} of ${attempts}: ${code}: ${then}`);
      }
      const store = await this.#store(config);
      const committed = await store.walk({ kind: 'committed' });
      const unfinished = await store.walk({ kind: 'active' });
      out.line(`   in the store: ${committed.length} committed layers as before, ${unfinished.length} unfinished ones`);
      return;
    }
    throw new CliError('DEMO_FAILED', 'the damaged blob was unpacked without an error');
  }

  /** The worker's store, opened beside it. */
  async #store(config: Config): Promise<Snapshotter> {
    const { openSnapshotter } = await import('../../src/snapshots/open.ts');
    const store = await openSnapshotter({ root: config.UNPACK_ROOT, type: config.UNPACK_SNAPSHOTTER });
    return this.#owned(store, (store) => store.close());
  }

  #heading(text: string): void {
    this.#cli.signal.throwIfAborted();
    const { out } = this.#cli;
    this.#step++;
    out.line(`${this.#step === 1 ? '' : '\n'}${out.bold(`${this.#step}  ${text}`)}`);
  }

  /** Remembers how to end what has just been started. */
  #owned<T>(thing: T, end: (thing: T) => Promise<unknown>): T {
    this.#cleanups.push(() => end(thing));
    return thing;
  }
}
