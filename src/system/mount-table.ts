import { readFileSync } from 'node:fs';
import { realpath } from 'node:fs/promises';

/** One line of proc(5) mountinfo. */
export interface MountEntry {
  readonly id: number;
  readonly parent: number;
  /** `major:minor` of the file system. */
  readonly device: string;
  /** Which of its directories is mounted: `/` for all of it. */
  readonly root: string;
  readonly point: string;
  readonly type: string;
  readonly source: string;
  /** Of the file system: what an overlay is made of. */
  readonly options: string;
}

/** Every mount that this process sees, in the kernel's order. */
export function mountTable(): MountEntry[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .flatMap((line) => {
      const [before = '', after = ''] = line.split(' - ');
      const [id, parent, device = '', root = '', point = ''] = before.split(' ');
      const [type = '', source = '', options = ''] = after.split(' ');
      if (point === '') return [];
      const texts = { root: plain(root), point: plain(point), source: plain(source), options: plain(options) };
      return [{ id: Number(id), parent: Number(parent), device, type, ...texts }];
    });
}

/** The kernel writes blanks, tabs, line breaks and backslashes in octal, and every name in bytes. */
function plain(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

/** The mount that a path which exists lies on. @throws system errors */
export async function mountOf(path: string, table = mountTable()): Promise<MountEntry | undefined> {
  const real = await realpath(path);
  let best: MountEntry | undefined;
  for (const entry of table) {
    const { point } = entry;
    const holds = point === '/' || real === point || real.startsWith(`${point}/`);
    // the last one that is nearest
    if (holds && point.length >= (best?.point.length ?? 0)) best = entry;
  }
  return best;
}

/** What is mounted at a path itself, topmost first: mounts at one point stand on one another. */
export function mountsAt(point: string, table = mountTable()): MountEntry[] {
  const found = table.filter((entry) => entry.point === point);
  const stack: MountEntry[] = [];
  let top = found.find(({ id }) => !found.some(({ parent }) => parent === id));
  while (top !== undefined && !stack.includes(top)) {
    stack.push(top);
    const below: number = top.parent;
    top = found.find(({ id }) => id === below);
  }
  return stack;
}

/** Where a path lies in its file system, whatever path leads there in this mount namespace. @throws system errors */
export async function placeInFileSystem(
  path: string,
  table = mountTable(),
): Promise<{ readonly device: string; readonly path: string } | undefined> {
  const mount = await mountOf(path, table);
  if (mount === undefined) return undefined;
  const rest = (await realpath(path)).slice(mount.point === '/' ? 0 : mount.point.length);
  return { device: mount.device, path: `${mount.root === '/' ? '' : mount.root}${rest === '/' ? '' : rest}` || '/' };
}
