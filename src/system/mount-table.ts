import { readFileSync } from 'node:fs';
import { realpath } from 'node:fs/promises';

/** One mount: a line of /proc/self/mountinfo (proc(5)). */
export interface MountEntry {
  readonly id: number;
  readonly parent: number;
  /** `major:minor` of the file system. */
  readonly device: string;
  /** The mounted directory inside the file system: `/` for all of it. */
  readonly root: string;
  readonly point: string;
  readonly type: string;
  readonly source: string;
  /** Of the file system, with octal escapes, because a value may hold a comma. For an overlay: its layers. */
  readonly options: string;
}

/** All mounts in this process's mount namespace, in the kernel's order. */
export function mountTable(): MountEntry[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .flatMap((line) => mountEntry(line) ?? []);
}

/** One line of a mountinfo file; `undefined` for an empty line. */
export function mountEntry(line: string): MountEntry | undefined {
  const [before = '', after = ''] = line.split(' - ');
  const [id, parent, device = '', root = '', point = ''] = before.split(' ');
  const [type = '', source = '', options = ''] = after.split(' ');
  if (point === '') return undefined;
  const texts = { root: plainText(root), point: plainText(point), source: plainText(source) };
  return { id: Number(id), parent: Number(parent), device, type, options, ...texts };
}

/** Decodes the octal escapes of spaces, tabs, line breaks, backslashes and separators. */
export function plainText(text: string): string {
  if (!text.includes('\\')) return text;
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

/** The mount of an existing path. @throws system errors */
export async function mountOf(path: string, table = mountTable()): Promise<MountEntry | undefined> {
  return mountAbove(await realpath(path), table);
}

function mountAbove(real: string, table: readonly MountEntry[]): MountEntry | undefined {
  let best: MountEntry | undefined;
  for (const entry of table) {
    const { point } = entry;
    const holds = point === '/' || real === point || real.startsWith(`${point}/`);
    // the longest mount point; of several at one point, the last
    if (holds && point.length >= (best?.point.length ?? 0)) best = entry;
  }
  return best;
}

/** The mounts at exactly this path. Mounts at one path hide each other; the visible one comes first. */
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

/** Where a file is, regardless of where its file system is mounted. */
export interface FileSystemPlace {
  /** `major:minor`. */
  readonly device: string;
  /** The path inside the file system. */
  readonly path: string;
}

/** The place of an existing path. @throws system errors */
export async function placeInFileSystem(path: string, table = mountTable()): Promise<FileSystemPlace | undefined> {
  return placeByTable(await realpath(path), table);
}

/** The place of a path without symbolic links, for those who see these mounts. It need not exist. */
export function placeByTable(real: string, table: readonly MountEntry[]): FileSystemPlace | undefined {
  const mount = mountAbove(real, table);
  if (mount === undefined) return undefined;
  const rest = real.slice(mount.point === '/' ? 0 : mount.point.length);
  return { device: mount.device, path: `${mount.root === '/' ? '' : mount.root}${rest === '/' ? '' : rest}` || '/' };
}
