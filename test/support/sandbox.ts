import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A file system in memory, if there is one. */
const PLACE = existsSync('/dev/shm') ? '/dev/shm' : tmpdir();

/**
 * A directory with two roots to apply layers into and, beside them, files and directories that must not change. The length
 * of its path is the same in every run, so archives that contain the path have the same length too.
 */
export class Sandbox implements Disposable {
  readonly path = mkdtempSync(join(PLACE, 'unpackd-box-'));
  readonly outside = join(this.path, 'outside');
  readonly roots: readonly [string, string] = [join(this.path, 'root'), join(this.path, 'ruut')];
  private untouched = '';

  constructor() {
    mkdirSync(join(this.outside, 'sub/inner'), { recursive: true });
    writeFileSync(join(this.outside, 'canary'), 'alive', { mode: 0o640 });
    writeFileSync(join(this.outside, 'sub/canary'), 'alive too', { mode: 0o600 });
    for (const root of this.roots) mkdirSync(root);
    this.remember();
  }

  /** Remembers the present state outside the roots. */
  remember(): void {
    this.untouched = this.look();
  }

  /** @throws Error if anything outside the roots has changed */
  check(): void {
    const now = this.look();
    if (now !== this.untouched) throw new Error(`outside the root: was ${this.untouched}, is ${now}`);
  }

  /** Empties the roots. */
  clean(): void {
    for (const root of this.roots) {
      // the root too, because a layer may have changed its mode or attributes
      rmSync(root, { recursive: true, force: true });
      mkdirSync(root);
    }
  }

  private look(): string {
    const seen: string[] = [readdirSync(this.path).join()];
    const visit = (path: string): void => {
      const { mode, uid, gid, ino, nlink, size, mtimeMs, ctimeMs } = lstatSync(path);
      seen.push([path, mode, uid, gid, ino, nlink, size, mtimeMs, ctimeMs].join());
      if (path.endsWith('canary')) seen.push(readFileSync(path, 'latin1'));
      else for (const name of readdirSync(path)) visit(join(path, name));
    };
    visit(this.outside);
    return seen.join('\n');
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}
