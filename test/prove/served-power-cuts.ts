import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import { type ContainerdProgram, PROGRAMS, skipWithoutContainers } from '../containerd/daemon.ts';
import { appImage, dataOf, LIST_DATA } from '../containerd/images.ts';
import { Random } from '../fuzz/random.ts';
import { ServedMachine, succeeded } from '../proxy/served-machine.ts';
import { removeWithProcess } from '../support/child.ts';
import type { TestImage } from '../support/layout.ts';
import { referenceTrees, type StoreTrees, treesOf, unpackAll } from '../support/store-trees.ts';
import { DISK_KINDS, Disk, disksMissing } from './disk.ts';
import { startFilling } from './filled-store.ts';
import { someImages } from './images.ts';
import type { Proof, Run } from './proof.ts';

/** Milliseconds after the begin in which the power cut comes. */
const MOMENTS = 3000;
const JOBS = ['job-0', 'job-1'];
const PULLS = ['pull-0', 'pull-1'];
/** Images whose layers are compared file by file. Jobs unpack them, and containerd does not know them. */
const COMPARED = someImages(1);
const IMAGES: Readonly<Record<string, TestImage>> = {
  ...Object.fromEntries(['first', ...JOBS, ...PULLS].map((tag) => [tag, appImage(tag)])),
  ...COMPARED,
};
/** Writes a file in a container, and waits until it is on disk. */
const WRITE = ['/bin/busybox', 'dd', 'if=/bin/busybox', 'of=/written', 'bs=64k', 'count=3', 'conv=fsync'];
const READ = ['/bin/busybox', 'sh', '-c', 'busybox head -c 196608 /bin/busybox | busybox cmp - /written'];
const SLEEP = ['/bin/busybox', 'sleep', 'infinity'];

/** A power cut while containerd uses a served store, and jobs unpack into it. */
export const proof: Proof = {
  name: 'served-power-cuts',
  describes:
    'after a power cut, what containerd was told is in the served store is there and whole, and what is left is removed',
  missing: () => disksMissing() || skipWithoutContainers(),
  async open(run) {
    const directory = await mkdtemp(join(tmpdir(), 'unpackd-served-'));
    removeWithProcess(directory);
    const trees = await referenceTrees(COMPARED);
    let disks = 0;
    return {
      async attempt(seed) {
        const random = new Random(seed);
        const kind = random.pick(DISK_KINDS);
        await using disk = await Disk.make(join(directory, `disk-${disks++}`), kind);
        await new Case(random, disk, directory, trees, run).attempt();
        run.count(kind);
      },
      [Symbol.asyncDispose]: () => rm(directory, { recursive: true, force: true }),
    };
  },
};

class Case {
  readonly #random: Random;
  readonly #disk: Disk;
  readonly #directory: string;
  readonly #trees: StoreTrees;
  readonly #run: Run;
  readonly #root: string;
  /** Tags of images of which a command has reported that containerd has them. */
  readonly #reported = new Set<string>();
  #over = false;

  constructor(random: Random, disk: Disk, directory: string, trees: StoreTrees, run: Run) {
    this.#random = random;
    this.#disk = disk;
    this.#directory = directory;
    this.#trees = trees;
    this.#run = run;
    this.#root = join(disk.path, 'store');
  }

  async attempt(): Promise<void> {
    const program: ContainerdProgram = this.#random.pick(PROGRAMS);
    const together = this.#random.oneIn(2);
    const durable = !this.#random.oneIn(4);
    const place = await mkdtemp(join(this.#directory, 'case-'));
    const below = together ? join(this.#disk.path, 'containerd') : place;
    await mkdir(below, { recursive: true });
    await using machine = await ServedMachine.start(program, {
      root: this.#root,
      place,
      below,
      images: IMAGES,
      containers: { pauseImage: 'none' },
      serving: ['--durable', String(durable)],
    });
    await this.#unpack(machine, ['first'], durable);
    succeeded(await machine.register('first'));
    this.#reported.add('first');
    await machine.ctr(...machine.runArgs('kept', 'first', SLEEP, '--detach'));
    await machine.ctr('tasks', 'exec', '--exec-id', 'write', 'kept', ...WRITE);

    const reported = await this.#cutPower(machine, durable);
    await this.#disk.comeBack();
    await machine.restart();

    // what was not synced can be lost
    if (durable) {
      for (const tag of reported) await this.#starts(machine, tag, 'whole after the cut');
      await machine.ctr('tasks', 'start', '--detach', 'kept');
      await machine.ctr('tasks', 'exec', '--exec-id', 'read', 'kept', ...READ);
      await machine.ctr('tasks', 'kill', '--signal', 'KILL', 'kept');
      this.#run.count('containers with what they had synced');
    }
    await this.#allGoes(machine);
    await this.#compare();
    await this.#allComesBack(machine);
    this.#run.count(`${program.version}, ${together ? 'one disk' : 'two disks'}, ${durable ? 'synced' : 'not synced'}`);
  }

  /** Starts everything, and cuts the power at a random moment. @returns the tags that were reported before it */
  async #cutPower(machine: ServedMachine, durable: boolean): Promise<ReadonlySet<string>> {
    const tags = this.#random.shuffled([...JOBS, ...Object.keys(COMPARED)]);
    await using job = await startFilling(this.#root, 'overlay', machine.layout, { durable }, tags);
    const doing = Promise.all([
      this.#registerAll(machine, job.reported),
      this.#pullAll(machine),
      this.#startContainers(machine),
      this.#makeSnapshots(machine),
    ]);
    await Promise.race([sleep(this.#random.below(MOMENTS)), doing.then(() => new Promise(() => {}))]);
    const reported = new Set(this.#reported);
    this.#over = true;
    this.#disk.cutPower();
    await machine.powerOff();
    job.kill();
    await job.ended;
    await doing;
    return reported;
  }

  async #registerAll(machine: ServedMachine, unpacked: ReadonlyMap<string, boolean>): Promise<void> {
    const left = new Set(JOBS);
    while (!this.#over && left.size > 0) {
      await sleep(10);
      for (const tag of left) {
        if (!unpacked.has(tag) || this.#over) continue;
        left.delete(tag);
        this.#report(tag, (await machine.register(tag)).status);
      }
    }
  }

  async #pullAll(machine: ServedMachine): Promise<void> {
    for (const tag of PULLS) if (!this.#over) this.#report(tag, (await machine.pull(tag)).status);
  }

  async #startContainers(machine: ServedMachine): Promise<void> {
    for (let id = 0; !this.#over && id < 20; id++) {
      const tag = this.#random.pick([...this.#reported]);
      await machine.tryCtr(...machine.runArgs(`short-${id}`, tag, LIST_DATA, ...(id % 2 === 0 ? ['--rm'] : [])));
    }
  }

  async #makeSnapshots(machine: ServedMachine): Promise<void> {
    const snapshots = (...args: readonly string[]) => machine.tryCtr('snapshots', '--snapshotter', 'unpackd', ...args);
    let parent = IMAGES.first?.chainId ?? '';
    for (let number = 0; !this.#over && number < 30; number++) {
      await snapshots('prepare', `key-${number}`, parent);
      if (number % 3 === 0) continue;
      if ((await snapshots('commit', `name-${number}`, `key-${number}`)).status === 0) parent = `name-${number}`;
    }
  }

  #report(tag: string, status: number | null): void {
    if (status === 0) this.#reported.add(tag);
  }

  async #starts(machine: ServedMachine, tag: string, what: string): Promise<void> {
    const args = machine.runArgs(`check-${tag}`, tag, LIST_DATA, '--rm');
    assert.equal(await machine.ctr(...args), dataOf(tag), tag);
    this.#run.count(`images that start, ${what}`);
  }

  /** Removes all that containerd has. Then the store has what jobs have unpacked, and nothing else. */
  async #allGoes(machine: ServedMachine): Promise<void> {
    const containers = (await machine.ctr('containers', 'ls', '--quiet')).split('\n').filter((id) => id !== '');
    for (const id of containers) {
      await machine.tryCtr('tasks', 'delete', '--force', id);
      await machine.ctr('containers', 'rm', id);
    }
    const snapshots = (await machine.ctr('snapshots', '--snapshotter', 'unpackd', 'ls')).split('\n').slice(1);
    const own = snapshots.map((line) => line.split(' ')[0] ?? '').filter((name) => /^(key|name)-/.test(name));
    const number = (name: string) => Number(name.split('-')[1]);
    for (const name of own.sort((a, b) => number(b) - number(a))) {
      await machine.ctr('snapshots', '--snapshotter', 'unpackd', 'rm', name);
    }
    await machine.removeImages();
    assert.deepEqual(await machine.snapshots(), []);
  }

  async #compare(): Promise<void> {
    const store = await openSnapshotter({ root: this.#root, type: 'overlay', durable: false });
    try {
      const all = await store.walk();
      assert.deepEqual(
        all.filter(({ claim }) => claim !== undefined).map(({ name }) => name),
        [],
        'what containerd does not know',
      );
      const trees = await treesOf(store);
      for (const [name, tree] of Object.entries(trees)) {
        if (!(name in this.#trees)) continue;
        assert.deepEqual(tree, this.#trees[name], name);
        this.#run.count('layers of jobs found whole');
      }
      for (const { name, kind } of await store.walk()) if (kind !== 'committed') await store.remove(name);
      await store.cleanup();
      const left = readdirSync(join(this.#root, 'snapshots')).filter((name) => name !== 'store.json');
      assert.equal(left.length, (await store.walk()).length, left.join());
    } finally {
      await store.close();
    }
  }

  async #allComesBack(machine: ServedMachine): Promise<void> {
    const jobs = ['first', ...JOBS];
    await this.#unpack(machine, jobs, true);
    for (const tag of jobs) succeeded(await machine.register(tag));
    for (const tag of PULLS) succeeded(await machine.pull(tag));
    for (const tag of [...jobs, ...PULLS]) await this.#starts(machine, tag, 'made again');
  }

  #unpack(machine: ServedMachine, tags: readonly string[], durable: boolean): Promise<void> {
    return unpackAll(this.#root, 'overlay', machine.layout, tags, { durable });
  }
}
