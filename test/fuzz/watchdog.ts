import { writeFileSync } from 'node:fs';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';

/** Maximum milliseconds for one input. A longer time is a hang, also on a busy machine. */
const LIMIT = 300_000;
const LONGEST_INPUT = 1 << 20;

/**
 * Ends the process if an input hangs, and writes that input to a file. It runs on a thread, because a hanging process cannot
 * notice this itself. The thread gets the input through shared memory: a count, a length and the bytes.
 */
export class Watchdog implements Disposable {
  private readonly head: Int32Array;
  private readonly bytes: Uint8Array;
  private readonly worker: Worker;

  constructor(file: string) {
    const shared = new SharedArrayBuffer(8 + LONGEST_INPUT);
    this.head = new Int32Array(shared, 0, 2);
    this.bytes = new Uint8Array(shared, 8);
    this.worker = new Worker(new URL(import.meta.url), { workerData: { shared, file } });
    this.worker.unref();
  }

  /** The next input begins. */
  begin(input: Uint8Array): void {
    this.bytes.set(input.subarray(0, LONGEST_INPUT));
    Atomics.store(this.head, 1, Math.min(input.length, LONGEST_INPUT));
    Atomics.add(this.head, 0, 1);
  }

  [Symbol.dispose](): void {
    void this.worker.terminate();
  }
}

if (!isMainThread && parentPort !== null) {
  // only what the class above sends
  const { shared, file } = workerData as { shared: SharedArrayBuffer; file: string };
  const head = new Int32Array(shared, 0, 2);
  let last = -1;
  setInterval(() => {
    const now = Atomics.load(head, 0);
    if (now === last && now > 0) {
      const input = Buffer.from(new Uint8Array(shared, 8, Atomics.load(head, 1)));
      writeFileSync(file, input);
      process.stderr.write(`fuzz: an input takes longer than ${LIMIT} ms, it is in ${file}\n`);
      process.kill(process.pid, 'SIGKILL');
    }
    last = now;
  }, LIMIT);
}
