import { AT_FDCWD, close, cString, O, openAt, syncFileSystem } from '../system/files.ts';

/**
 * Makes what was written to a store durable before it is committed, so that a power cut leaves no committed snapshot
 * with empty files. Requests that come while the disk is being written share the next round: one syncfs(2) serves them
 * all.
 */
export class StoreSync {
  private readonly root: string;
  private running: Promise<void> | undefined;
  private next: Promise<void> | undefined;

  constructor(root: string) {
    this.root = root;
  }

  /** Resolves once everything that was written before the call is on disk. */
  sync(): Promise<void> {
    if (this.running === undefined) return this.start();
    this.next ??= this.running.then(
      () => this.start(),
      () => this.start(),
    );
    return this.next;
  }

  private start(): Promise<void> {
    this.next = undefined;
    const round = this.round().finally(() => {
      if (this.running === round) this.running = undefined;
    });
    this.running = round;
    return round;
  }

  private async round(): Promise<void> {
    const fd = openAt(AT_FDCWD, cString(this.root), O.RDONLY | O.DIRECTORY);
    try {
      await syncFileSystem(fd);
    } finally {
      close(fd);
    }
  }
}
