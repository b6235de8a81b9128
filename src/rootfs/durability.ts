import { UnpackError } from '../errors.ts';
import { AT_FDCWD, close, cString, O, openAt, syncFileSystem } from '../system/files.ts';

/**
 * Syncs layers to disk before they are committed, so that a power cut leaves no committed snapshot with empty files.
 * Requests that arrive during a sync share the next one: one syncfs(2) serves them all.
 *
 * Writeback can fail long before syncfs is called. The kernel reports such a loss once to each descriptor that was open at
 * that time, and to no descriptor that is opened later. Therefore one descriptor stays open, and a loss that any sync
 * reports fails every layer that was being written at that time.
 */
export class StoreSync implements Disposable {
  /** A directory on the file system of the layers. */
  private readonly path: string;
  private fd = -1;
  private running: Promise<void> | undefined;
  private next: Promise<void> | undefined;
  private losses = 0;

  constructor(path: string) {
    this.path = path;
  }

  /**
   * Call `watch` before a layer is written, and the returned function after the layer is written. The returned function
   * resolves when all earlier writes are on disk.
   * @throws system errors; the returned function throws UnpackError STORE_FAILED if any write since `watch` was lost
   */
  watch(): () => Promise<void> {
    if (this.fd < 0) this.fd = openAt(AT_FDCWD, cString(this.path), O.RDONLY | O.DIRECTORY);
    const before = this.losses;
    return async () => {
      await this.sync();
      if (this.losses > before) throw this.lost();
    };
  }

  [Symbol.dispose](): void {
    if (this.fd >= 0) close(this.fd);
    this.fd = -1;
  }

  private sync(): Promise<void> {
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
    try {
      await syncFileSystem(this.fd);
    } catch (error) {
      this.losses++;
      throw this.lost(error);
    }
  }

  private lost(cause?: unknown): UnpackError {
    return new UnpackError(
      'STORE_FAILED',
      `${this.path}: not all writes have reached the disk (syncfs), so the layer is not committed; see the kernel log (dmesg), and check whether a thin volume below is full`,
      { cause },
    );
  }
}
