import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { startCli } from '../cli/run-cli.ts';
import { endChild } from '../support/child.ts';

/** A process that serves a store to containerd: `unpackd snapshotter`, or a worker. */
export class SnapshotterProcess {
  readonly #args: readonly string[];
  readonly #child: ChildProcess;
  #log = '';

  private constructor(args: readonly string[]) {
    this.#args = args;
    this.#child = startCli(args);
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream?.on('data', (piece: Buffer) => {
        this.#log += piece.toString();
      });
    }
  }

  /** Resolves when it serves. @throws Error with what it has printed */
  static async start(command: 'snapshotter' | 'worker', ...args: readonly string[]): Promise<SnapshotterProcess> {
    return SnapshotterProcess.#start([command, ...args]);
  }

  static async #start(args: readonly string[]): Promise<SnapshotterProcess> {
    const started = new SnapshotterProcess(args);
    await started.logged('serves');
    return started;
  }

  /** Waits until it has printed this. @throws Error with what it has printed, if it ends before */
  async logged(text: string): Promise<void> {
    while (!this.#log.includes(text)) {
      const child = this.#child;
      const [what] = await Promise.race([
        once(child, 'close').then(() => ['close']),
        once(child.stdout ?? child, 'data'),
      ]);
      if (what === 'close') throw new Error(`unpackd ${this.#args[0]} has ended: ${this.#log}`);
    }
  }

  /** What it has printed. */
  get log(): string {
    return this.#log;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Ends it by SIGTERM, and waits for its end and for all that it has printed. @returns its exit status */
  async stop(): Promise<number | null> {
    const close = once(this.#child, 'close');
    this.#child.kill('SIGTERM');
    await close;
    return this.#child.exitCode;
  }

  /** Ends it by SIGKILL. */
  async kill(): Promise<void> {
    await endChild(this.#child);
  }

  /** Starts another one with the same arguments. */
  again(): Promise<SnapshotterProcess> {
    return SnapshotterProcess.#start(this.#args);
  }
}
