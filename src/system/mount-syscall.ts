import { closeSync, openSync } from 'node:fs';
import { dirname } from 'node:path';
import { UnpackError } from '../errors.ts';
import { O } from './files.ts';
import { libc, systemError } from './libc.ts';
import type { MountRequest } from './mount-fsmount.ts';

const mount2 = libc.func('int mount(const char *, const char *, const char *, ulong, const char *)');
const umount2 = libc.func('int umount2(const char *, int)');

const MS_RDONLY = 1;
const MS_REMOUNT = 32;
const MS_BIND = 4096;
const MS_REC = 16384;
const MNT_DETACH = 2;
/** mount(2) takes one page of options, the NUL included, and silently cuts off the rest. */
const PAGE = 4096;

/**
 * Makes a mount with mount(2), for kernels before 6.5. A read-only bind mount needs two calls and is writable between them.
 * @throws system errors; UnpackError STORE_FAILED if the paths of the layers are too long together
 */
export function mountByString(mount: MountRequest, target: string): void {
  if (mount.type === 'bind') bind(mount, target);
  else overlay(mount, target);
}

function bind({ source, options }: MountRequest, target: string): void {
  const recursive = options.includes('rbind') ? MS_REC : 0;
  check(mount2(source, target, null, MS_BIND | recursive, null), source);
  if (!options.includes('ro')) return;
  if (mount2(null, target, null, MS_REMOUNT | MS_BIND | MS_RDONLY, null) === 0) return;
  const error = systemError('mount', target);
  umount2(target, MNT_DETACH);
  throw error;
}

/**
 * If the paths do not fit in a page, they are shortened to `/proc/self/fd/N/ID/fs`, where N is a descriptor of the common
 * parent directory. At 23 bytes per layer, about 150 layers fit. containerd uses paths relative to the working directory
 * instead, but all threads of this process share one working directory.
 */
function overlay({ source, options }: MountRequest, target: string): void {
  const flags = options.includes('ro') ? MS_RDONLY : 0;
  const rest = options.filter((option) => option !== 'ro' && option !== 'rw');
  if (fits(rest)) {
    check(mount2(source, target, 'overlay', flags, rest.join(',')), target);
    return;
  }
  const lower = rest.find((option) => option.startsWith('lowerdir=')) ?? '';
  const layers = lower.slice('lowerdir='.length).split(':');
  const shared = commonDirectory(layers);
  const descriptor = openSync(shared || '/', O.PATH | O.DIRECTORY);
  try {
    const short = layers.map((layer) => `/proc/self/fd/${descriptor}${layer.slice(shared.length)}`).join(':');
    const shorter = rest.map((option) => (option === lower ? `lowerdir=${short}` : option));
    if (!fits(shorter)) {
      const why = `the paths of ${layers.length} layers are too long for this kernel's mount call`;
      throw new UnpackError(
        'STORE_FAILED',
        `the overlay can't be mounted at ${target}: ${why}; Linux 6.5 has no such limit`,
      );
    }
    check(mount2(source, target, 'overlay', flags, shorter.join(',')), target);
  } finally {
    closeSync(descriptor);
  }
}

function fits(options: readonly string[]): boolean {
  return Buffer.byteLength(options.join(',')) < PAGE;
}

/** The deepest common parent directory, without a final slash. Empty for `/`. */
function commonDirectory(paths: readonly string[]): string {
  let shared = dirname(paths[0] ?? '/');
  while (shared !== '/' && !paths.every((path) => path.startsWith(`${shared}/`))) shared = dirname(shared);
  return shared === '/' ? '' : shared;
}

function check(result: unknown, path: string): void {
  if (Number(result) < 0) throw systemError('mount', path);
}
