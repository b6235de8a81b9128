import { type ChildProcess, spawn } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { atExit } from '../at-exit.ts';
import type { Build } from '../build.ts';
import type { Contestant, Entrant, Task } from './contestant.ts';
import type { LateRemoval } from './removal.ts';

/** unpackd in a process that runs during the whole race, to be compared with a daemon. */
export function residentUnpackd(
  build: Build,
  task: Task,
  options: {
    readonly durable?: boolean;
    readonly threads?: number;
    /** Keeps the files of measured snapshots until the end. Default: they are removed after each round. */
    readonly removal?: LateRemoval | undefined;
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
          await options.removal?.takeSnapshots(join(store, 'snapshots'));
          await process.ask('');
        },
        close: () => process.end(),
      };
    },
  };
}

/** The child process. One line asks, one line answers. */
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
    child.stdin.on('error', () => {}); // `answer` throws then
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

  /** @throws Error with the end of its stderr if it has ended */
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
