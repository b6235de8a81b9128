import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { GetObjectCommand, PutObjectCommand } from '@aws-sdk/client-s3';
import { CliError } from '../../src/cli/explain-error.ts';
import { progressLines, resultLines } from '../../src/cli/job-view.ts';
import type { Cli } from '../../src/cli/output.ts';
import { LiveRegion } from '../../src/cli/output.ts';
import { type Column, table } from '../../src/cli/table.ts';
import { type Config, storePlace } from '../../src/config.ts';
import { UnpackError } from '../../src/errors.ts';
import { hexOf, shortDigest } from '../../src/oci/digest.ts';
import type { UnpackResult } from '../../src/queue/formats.ts';
import { UnpackQueue } from '../../src/queue/producer.ts';
import { displayRedisUrl } from '../../src/redis-address.ts';
import { s3Connection } from '../../src/s3-settings.ts';
import type { Snapshotter } from '../../src/snapshots/snapshotter.ts';
import { s3Client } from '../../src/source/s3-client.ts';
import type { S3Connection } from '../../src/source/source-spec.ts';
import { bytesText, durationText } from '../../src/units.ts';
import type { WorkerProcess } from '../worker-process.ts';
import { type Environment, startEnvironment } from './environment.ts';
import { DAMAGED_TAG, type ExampleImage, makeExampleImage, TAG } from './example-image.ts';
import { type Finding, lookInside, runNode } from './look-inside.ts';

const BUCKET = 'images';
const PREFIX = 'demo';
const LAYER_COLUMNS: readonly Column[] = [
  { title: 'LAYER', align: 'right' },
  { title: 'WHAT' },
  { title: 'FORMAT' },
  { title: 'BLOB', align: 'right' },
  { title: 'TAR', align: 'right' },
];

/** The settings that another command needs to use the servers of the demo. */
const EXPORTED = [
  'REDIS_URL',
  'UNPACK_REDIS_PREFIX',
  'S3_ENDPOINT',
  'UNPACK_ROOT',
  'UNPACK_SNAPSHOTTER',
  'UNPACK_OWNERSHIP',
] as const;

/**
 * Runs the demo; with `keep`, until the interrupt. `unpackd demo` (src/cli/demo.ts) calls this in a checkout.
 * @throws CliError DEMO_FAILED if a server cannot be started or a step has the wrong result
 */
export async function runDemo(cli: Cli, packageRoot: string, { keep }: { readonly keep: boolean }): Promise<void> {
  const demo = new Demo(cli, packageRoot);
  try {
    const environment = await demo.run();
    if (keep) await demo.stayUp(environment);
  } catch (error) {
    // a server that could not be started: its message is a sentence for the user
    const plain = error instanceof Error && error.constructor === Error;
    throw plain ? new CliError('DEMO_FAILED', error.message, { cause: error }) : error;
  } finally {
    await demo.cleanUp();
  }
  if (!keep) cli.out.line('\nEverything was stopped and removed. With --keep it stays up, with a web page.');
}

/**
 * The steps of the demo. For everything that a step starts, a function that stops it is put on a stack. `cleanUp` calls
 * these functions, the last one first, also after an error.
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

  /** Runs the steps. @returns the servers and the worker, which are still running */
  async run(): Promise<Environment> {
    const { out } = this.#cli;
    this.#heading('A queue, a bucket and a worker');
    const environment = await this.#start();
    const { config, folder, worker } = environment;

    this.#heading('An image from files of this machine');
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
      `   done in ${durationText(again.durationMs)}: ${existed} of ${image.layers.length} layers existed, so nothing was fetched`,
    );

    this.#heading('A job that must fail');
    await this.#fail(queue, worker, image, config);

    this.#heading('A container in containerd');
    await this.#startContainer(environment, image);
    return environment;
  }

  /** Serves the web page until the interrupt. */
  async stayUp({ config, credentials }: Environment): Promise<void> {
    const { out, signal } = this.#cli;
    const { startBoard } = await import('../../src/board/board.ts');
    const { createLog } = await import('../../src/queue/log.ts');
    const board = this.#owned(
      await startBoard({ ...config, UNPACK_BOARD_PORT: 0 }, createLog({ ...config, UNPACK_LOG_LEVEL: 'silent' })),
      (board) => board.close(),
    );
    this.#heading(`Up until Ctrl-C: ${out.bold(board.url)}`);
    out.line('   For other commands in another terminal:');
    // the user's own REDIS_URL is already set in that terminal, and can contain a password
    const own = EXPORTED.filter((name) => name !== 'REDIS_URL' || config.REDIS_URL !== process.env.REDIS_URL);
    for (const name of own) out.line(`   export ${name}=${config[name] ?? ''}`);
    for (const [name, value] of Object.entries(credentials)) out.line(`   export ${name}=${value}`);
    out.line(`   npm run unpackd -- enqueue s3://${BUCKET}/${PREFIX}:${TAG} --watch`);
    await sleep(2 ** 31 - 1, undefined, { signal }).catch(() => {});
  }

  async cleanUp(): Promise<void> {
    if (this.#cli.signal.aborted) this.#cli.out.note('stopping what was started');
    for (let end = this.#cleanups.pop(); end !== undefined; end = this.#cleanups.pop()) {
      await end().catch((error: unknown) => this.#cli.out.note(`while cleaning up: ${String(error)}`));
    }
  }

  async #start(): Promise<Environment> {
    const { out } = this.#cli;
    const environment = await startEnvironment(this.#packageRoot, BUCKET, (thing, end) => this.#owned(thing, end));
    const { config, worker, whyNative } = environment;
    out.line(`   ${displayRedisUrl(config.REDIS_URL)}, ${config.S3_ENDPOINT}, worker process ${worker.pid}`);
    const because = whyNative === undefined ? '' : `, because ${whyNative}`;
    out.line(`   store ${config.UNPACK_ROOT} (${config.UNPACK_SNAPSHOTTER}${because})`);
    return environment;
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
    for (const line of table(LAYER_COLUMNS, rows)) out.line(`   ${line}`);
    out.line(`   made in ${durationText(performance.now() - started)}`);
    return image;
  }

  async #push(image: ExampleImage, config: Config): Promise<void> {
    const { pushImage } = await import('../../src/push/push.ts');
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
    // a snapshot of the native store is a whole tree, so its checks need no mount
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
      out.line('   Mounting needs root. This is the folder of the snapshot; no program is run in it:');
      out.line(`   ${tree}`);
    }
    this.#report(await lookInside(tree), 'the unpacked tree differs from the layers');
  }

  /** @throws CliError DEMO_FAILED with `what` if a finding is not in order */
  #report(findings: readonly Finding[], what: string): void {
    const { out } = this.#cli;
    for (const { ok, text } of findings) out.line(`   ${ok ? out.green('ok  ') : out.red('FAIL')}  ${text}`);
    if (findings.some(({ ok }) => !ok)) throw new CliError('DEMO_FAILED', what);
  }

  async #fail(queue: UnpackQueue, worker: WorkerProcess, { damaged }: ExampleImage, config: Config): Promise<void> {
    const { out } = this.#cli;
    const key = `${PREFIX}/blobs/sha256/${hexOf(damaged.digest)}`;
    const offset = await flipBit(s3Connection(config), BUCKET, key);
    out.line(
      `   a second image with a fifth layer; one bit of its blob was changed in the bucket (byte ${offset} of ${damaged.size})`,
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
        const then = retryable ? 'retry with a new download' : 'the bucket still has the wrong bytes, so the job fails';
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

  /** A second worker unpacks the image into a containerd, which starts a container from it. */
  async #startContainer({ folder, whyNative, startWorker }: Environment, image: ExampleImage): Promise<void> {
    const { out } = this.#cli;
    const { NAMESPACE, startContainerd, whyNoContainers } = await import('./containerd.ts');
    const why = whyNative === undefined ? whyNoContainers() : `No container can be started here, because ${whyNative}.`;
    if (why !== undefined) return out.line(`   ${why}`);
    const containerd = this.#owned(await startContainerd(join(folder, 'containerd')), (daemon) => daemon.stop());
    const { config, worker } = startWorker({
      UNPACK_QUEUE: 'demo-containerd', // in the first queue the job has a result already
      UNPACK_SNAPSHOTTER: 'containerd',
      UNPACK_CONTAINERD_SOCKET: containerd.socket,
      UNPACK_CONTAINERD_NAMESPACE: NAMESPACE,
      UNPACK_WORKER_NAME: 'demo-containerd-worker',
    });
    out.line(`   containerd ${containerd.version} of its own, worker process ${worker.pid}`);
    const queue = this.#owned(new UnpackQueue(config), (queue) => queue.close());
    const { durationMs } = await this.#follow(queue, worker, await this.#add(queue, TAG));
    const name = `demo.example/${PREFIX}:${TAG}`;
    const blobs = (await containerd.ctr('content', 'ls', '--quiet')).split('\n');
    const layers = blobs.filter((digest) => image.layers.some((layer) => layer.digest === digest)).length;
    out.line(
      `   done in ${durationText(durationMs)}: containerd has ${name}, with ${blobs.length - layers} documents and ${layers} blobs of layers`,
    );
    const findings = await runNode(`ctr run --rm ${name} demo`, (command) => containerd.run(name, command));
    this.#report(findings, 'the container printed something else');
  }

  /** The store of the worker, opened by this process too. */
  async #store(config: Config): Promise<Snapshotter> {
    const { openStore } = await import('../../src/snapshots/open-store.ts');
    const store = await openStore(storePlace(config));
    return this.#owned(store, (store) => store.close());
  }

  #heading(text: string): void {
    this.#cli.signal.throwIfAborted();
    const { out } = this.#cli;
    this.#step++;
    out.line(`${this.#step === 1 ? '' : '\n'}${out.bold(`${this.#step}  ${text}`)}`);
  }

  /** Puts the function that stops or removes `thing` on the stack. */
  #owned<T>(thing: T, end: (thing: T) => Promise<unknown>): T {
    this.#cleanups.push(() => end(thing));
    return thing;
  }
}

/** Changes one bit in the middle of an object. @returns the offset of its byte */
async function flipBit(connection: S3Connection, bucket: string, key: string): Promise<number> {
  const client = s3Client(connection);
  try {
    const object = await client.send(new GetObjectCommand({ Bucket: bucket, Key: key }));
    const bytes = await object.Body?.transformToByteArray();
    if (bytes === undefined || bytes.length === 0) throw new Error(`s3://${bucket}/${key} is empty`);
    const offset = Math.floor(bytes.length / 2);
    bytes[offset] = (bytes[offset] ?? 0) ^ 1;
    await client.send(new PutObjectCommand({ Bucket: bucket, Key: key, Body: bytes }));
    return offset;
  } finally {
    client.destroy();
  }
}
