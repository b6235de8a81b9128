import { type ChildProcess, spawn } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { atExit } from '../at-exit.ts';
import type { Build } from '../build.ts';
import type { Contestant, Entrant, Task } from './contestant.ts';
import type { Shelf } from './shelf.ts';

/** A process that unpacks as a worker does, started before the first round: what a daemon is to be compared with. */
export function residentUnpackd(
  build: Build,
  task: Task,
  options: {
    readonly durable?: boolean;
    readonly threads?: number;
    /** Where snapshots' files go that have been measured; default: they are removed. */
    readonly shelf?: Shelf | undefined;
  } = {},
  name = 'unpackd, resident',
): Entrant {
  const { durable = false, threads = Math.max(2, availableParallelism()) } = options;
  return {
    name,
    how: `a process that has unpacked before${durable ? '' : ', not durable'}`,
    async enter(): Promise<Contestant> {
      const store = join(task.folder, 'store');
      const process = new Resident(build, store, durable, threads);
      await process.answer();
      return {
        standing: { workers: [process.pid], servers: [] },
        run: async () => Number(await process.ask(task.image.folder)) / 1000,
        async reset() {
          await options.shelf?.takeSnapshots(join(store, 'snapshots'));
          await process.ask('');
        },
        close: () => process.end(),
      };
    },
  };
}

/** Asks by a line, answers by a line. */
class Resident {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  #error = '';

  constructor(build: Build, store: string, durable: boolean, threads: number) {
    const program = join(import.meta.dirname, 'resident-process.ts');
    const child = spawn(build.node, [program, build.folder, store, String(durable), String(threads)], {
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.#error = (this.#error + text).slice(-1000);
    });
    child.stdin.on('error', () => {}); // told by the missing answer
    const lines: Interface = createInterface({ input: child.stdout });
    this.#child = child;
    this.#lines = lines[Symbol.asyncIterator]();
    atExit(() => child.kill('SIGKILL'));
  }

  get pid(): number {
    return this.#child.pid ?? -1;
  }

  ask(line: string): Promise<string> {
    this.#child.stdin?.write(`${line}\n`);
    return this.answer();
  }

  /** @throws Error with its last words when it has ended */
  async answer(): Promise<string> {
    const { value, done } = await this.#lines.next();
    if (done === true) throw new Error(`the resident process ended: ${this.#error.trim()}`);
    return value;
  }

  async end(): Promise<void> {
    const ended = new Promise((resolve) => this.#child.once('exit', resolve));
    if (this.#child.exitCode !== null) return;
    this.#child.stdin?.end();
    await ended;
  }
}
