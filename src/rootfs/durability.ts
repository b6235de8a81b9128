import { UnpackError } from '../errors.ts';
import { AT_FDCWD, close, cString, O, openAt, syncFileSystem } from '../system/files.ts';

/**
 * Makes what was written to a store durable before it is committed, so that a power cut leaves no committed snapshot
 * with empty files. Requests that come while the disk is being written share the next round: one syncfs(2) serves them
 * all.
 *
 * The kernel may have tried to write, and failed, long before it is asked to. It tells a loss to everybody once who had
 * the file system open by then, and not to who opens it later, when another has been told. So one descriptor stays open,
 * and a loss that any round tells of counts for every layer that was being written at that time.
 */
export class StoreSync implements Disposable {
  /** A directory on the file system that holds the layers. */
  private readonly path: string;
  private fd = -1;
  private running: Promise<void> | undefined;
  private next: Promise<void> | undefined;
  private losses = 0;

  constructor(path: string) {
    this.path = path;
  }

  /**
   * Call it before a layer is written. What it returns resolves once everything that was written before that call is on disk.
   * @throws UnpackError STORE_FAILED; the function that it returns too, when anything was lost since
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
      `${this.path}: not all that was written has reached the disk (syncfs), so nothing of it is committed; see what the kernel logs (dmesg), and whether a thin volume below is full`,
      { cause },
    );
  }
}
