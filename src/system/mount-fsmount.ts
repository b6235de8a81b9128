import { closeSync, openSync, readSync } from 'node:fs';
import { release } from 'node:os';
import { AT_FDCWD, O } from './files.ts';
import { libc, systemError } from './libc.ts';

/** One mount to make. */
export interface MountRequest {
  readonly type: 'bind' | 'overlay';
  /** The directory to bind; `overlay` for an overlay. */
  readonly source: string;
  /** Options in the form of `mount -o`, for example `rbind`, `ro`, `lowerdir=A:B`. */
  readonly options: readonly string[];
}

// These system calls are called by number, because musl has no functions for them. The numbers are the same on every
// architecture.
const SYS_OPEN_TREE = 428;
const SYS_MOVE_MOUNT = 429;
const SYS_FSOPEN = 430;
const SYS_FSCONFIG = 431;
const SYS_FSMOUNT = 432;
const SYS_MOUNT_SETATTR = 442;

const AT_EMPTY_PATH = 0x1000;
const AT_RECURSIVE = 0x8000;
const OPEN_TREE_CLONE = 1;
const FSOPEN_CLOEXEC = 1;
const FSMOUNT_CLOEXEC = 1;
const FSCONFIG_SET_FLAG = 0;
const FSCONFIG_SET_STRING = 1;
const FSCONFIG_CMD_CREATE = 6;
const MOVE_MOUNT_F_EMPTY_PATH = 4;
const MOUNT_ATTR_RDONLY = 1;
/** Maximum size of a value of fsconfig(2) in bytes, including its NUL. */
const VALUE_LIMIT = 256;

// All integers are declared as long, because syscall(2) reads whole registers.
const openTree = libc.func('syscall', 'long', ['long', 'long', 'str', 'long']);
const moveMount = libc.func('syscall', 'long', ['long', 'long', 'str', 'long', 'str', 'long']);
const fsopen = libc.func('syscall', 'long', ['long', 'str', 'long']);
const fsconfig = libc.func('syscall', 'long', ['long', 'long', 'long', 'str', 'str', 'long']);
const fsmount = libc.func('syscall', 'long', ['long', 'long', 'long', 'long']);
const mountSetattr = libc.func('syscall', 'long', ['long', 'long', 'str', 'long', 'void *', 'long']);

/**
 * Makes a mount with fsopen(2) and open_tree(2). The mount appears at `target` in one step, already read-only if `ro`
 * is set.
 * @returns false, and does nothing, if the kernel is older than 6.5 (no `lowerdir+`) or a seccomp filter forbids the calls
 * @throws system errors
 */
export function mountByDescriptor(mount: MountRequest, target: string): boolean {
  if (!atLeast(6, 5)) return false;
  const tree = mount.type === 'bind' ? cloneTree(mount) : createOverlay(mount);
  if (tree === undefined) return false;
  try {
    check(moveMount(SYS_MOVE_MOUNT, tree, '', AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH), 'move_mount', target);
  } finally {
    closeSync(tree);
  }
  return true;
}

function cloneTree({ source, options }: MountRequest): number | undefined {
  const recursive = options.includes('rbind') ? AT_RECURSIVE : 0;
  const tree = Number(openTree(SYS_OPEN_TREE, AT_FDCWD, source, OPEN_TREE_CLONE | O.CLOEXEC | recursive));
  if (tree < 0) return undefinedIfMissing('open_tree', source);
  try {
    if (options.includes('ro')) {
      // struct mount_attr: what to set, what to clear, propagation, user namespace; 8 bytes each
      const attributes = Buffer.alloc(32);
      attributes.writeBigUInt64LE(BigInt(MOUNT_ATTR_RDONLY));
      const flags = AT_EMPTY_PATH | recursive;
      check(mountSetattr(SYS_MOUNT_SETATTR, tree, '', flags, attributes, attributes.length), 'mount_setattr', source);
    }
    return tree;
  } catch (error) {
    closeSync(tree);
    throw error;
  }
}

function createOverlay({ type, source, options }: MountRequest): number | undefined {
  const context = Number(fsopen(SYS_FSOPEN, type, FSOPEN_CLOEXEC));
  if (context < 0) return undefinedIfMissing('fsopen', type);
  try {
    set(context, 'source', source);
    for (const option of options) {
      const [name = '', value] = splitOnce(option);
      if (name === 'ro' || name === 'rw') continue;
      if (value === undefined) set(context, name);
      else if (name === 'lowerdir') for (const layer of value.split(':')) setPath(context, 'lowerdir+', layer);
      else if (name === 'upperdir' || name === 'workdir') setPath(context, name, value);
      else set(context, name, value);
    }
    configure(context, FSCONFIG_CMD_CREATE, null, null, 'the mount');
    const flags = options.includes('ro') ? MOUNT_ATTR_RDONLY : 0;
    return check(fsmount(SYS_FSMOUNT, context, FSMOUNT_CLOEXEC, flags), 'fsmount');
  } finally {
    closeSync(context);
  }
}

function set(context: number, name: string, value?: string): void {
  const kind = value === undefined ? FSCONFIG_SET_FLAG : FSCONFIG_SET_STRING;
  configure(context, kind, name, value ?? null, value === undefined ? name : `${name}=${value}`);
}

/** Passes a path that is too long for a value as /proc/self/fd/N. */
function setPath(context: number, name: string, path: string): void {
  if (Buffer.byteLength(path) < VALUE_LIMIT) {
    set(context, name, path);
    return;
  }
  const descriptor = openSync(path, O.PATH | O.DIRECTORY);
  try {
    configure(context, FSCONFIG_SET_STRING, name, `/proc/self/fd/${descriptor}`, `${name}=${path}`);
  } finally {
    closeSync(descriptor);
  }
}

function configure(context: number, kind: number, name: string | null, value: string | null, what: string): void {
  if (fsconfig(SYS_FSCONFIG, context, kind, name, value, 0) >= 0) return;
  const error = systemError('fsconfig', what);
  error.message += kernelMessages(context);
  throw error;
}

/** The kernel's messages about the failure. Each read returns one (`e text`), until a read fails. */
function kernelMessages(context: number): string {
  const buffer = Buffer.alloc(1024);
  let text = '';
  try {
    for (;;) text += `, ${buffer.toString('utf8', 2, readSync(context, buffer)).trim()}`;
  } catch {
    return text;
  }
}

function splitOnce(option: string): [string, string?] {
  const at = option.indexOf('=');
  return at < 0 ? [option] : [option.slice(0, at), option.slice(at + 1)];
}

function check(result: unknown, syscall: string, path?: string): number {
  if (Number(result) < 0) throw systemError(syscall, path);
  return Number(result);
}

function undefinedIfMissing(syscall: string, path: string): undefined {
  const error = systemError(syscall, path);
  if (error.code !== 'ENOSYS') throw error;
}

function atLeast(major: number, minor: number): boolean {
  const [ours = 0, and = 0] = release().split('.').map(Number);
  return ours > major || (ours === major && and >= minor);
}
