import { setTimeout as sleep } from 'node:timers/promises';
import { UnpackError } from '../errors.ts';
import { libc, systemError } from './libc.ts';
import { type MountRequest, mountByDescriptor } from './mount-fsmount.ts';
import { mountByString } from './mount-syscall.ts';

/** The kernel's limit, OVL_MAX_STACK. */
const MOST_LAYERS = 500;
/** Time limit in milliseconds for an unmount while files are open. */
const BUSY_LIMIT = 2000;
const BUSY_PAUSE = 20;

const umount2 = libc.func('int umount2(const char *, int)');
const UMOUNT_NOFOLLOW = 8;

/**
 * Makes the mounts of a snapshot at the existing directory `target`: all of them, or none.
 *
 * From Linux 6.5 on, through fsopen(2): each layer is a call of its own, so 500 layers are possible, and the kernel explains
 * an error in words. On older kernels through mount(2), whose options must fit in one page. The calls are synchronous and
 * take about 2 ms for 128 layers.
 * @throws UnpackError STORE_FAILED
 */
export async function mountSnapshot(mounts: readonly MountRequest[], target: string): Promise<void> {
  let made = 0;
  try {
    for (const mount of mounts) {
      mountOne(mount, target);
      made += 1;
    }
  } catch (error) {
    for (; made > 0; made -= 1) umount2(target, UMOUNT_NOFOLLOW);
    throw error;
  }
}

/**
 * Removes all mounts at `target`. Does nothing if there is no mount, or no such directory. Waits up to 2 s while files are
 * open.
 * @throws UnpackError STORE_FAILED
 */
export async function unmountSnapshot(target: string): Promise<void> {
  while (await unmountTop(target)); // a mount can hide another mount
}

/** As `unmountSnapshot`, but removes only the visible mount. @returns whether there was one */
export async function unmountTop(target: string): Promise<boolean> {
  const deadline = performance.now() + BUSY_LIMIT;
  for (;;) {
    if (umount2(target, UMOUNT_NOFOLLOW) === 0) return true;
    const error = systemError('umount2', target);
    if (error.code === 'EINVAL' || error.code === 'ENOENT') return false;
    if (error.code !== 'EBUSY' || performance.now() >= deadline) {
      const advice = error.code === 'EBUSY' ? 'a process still uses it: fuser -vm shows which' : error.message;
      throw new UnpackError('STORE_FAILED', `${target} can't be unmounted: ${advice}`, { cause: error });
    }
    await sleep(BUSY_PAUSE);
  }
}

function mountOne(mount: MountRequest, target: string): void {
  const lower = mount.options.find((option) => option.startsWith('lowerdir='))?.split(':').length ?? 0;
  if (lower > MOST_LAYERS) {
    throw failed(mount, target, `overlayfs merges at most ${MOST_LAYERS} layers and there are ${lower}`);
  }
  try {
    if (!mountByDescriptor(mount, target)) mountByString(mount, target);
  } catch (error) {
    if (error instanceof UnpackError || !(error instanceof Error)) throw error;
    throw failed(mount, target, `${error.message}${advice(error)}`, error);
  }
}

function advice(error: NodeJS.ErrnoException): string {
  const known = error.code === undefined ? undefined : ADVICE[error.code];
  return known === undefined ? '' : ` (${known})`;
}

const ADVICE: Readonly<Record<string, string>> = {
  EPERM:
    'mounting needs root, or a user namespace (unshare --user --map-root-user --mount); in a container, the capability SYS_ADMIN and a seccomp profile that allows mounts',
  EACCES: 'mounting needs root; in a container, AppArmor or SELinux can also forbid it',
  ENODEV: 'this kernel has no overlayfs: modprobe overlay',
  ENOENT: 'the directory to mount on, or one of the layers, is not there',
  EBUSY: 'the writable directory belongs to another overlay mount',
  EINVAL: 'see also the kernel log (dmesg)',
};

function failed(mount: MountRequest, target: string, why: string, cause?: unknown): UnpackError {
  const what = mount.type === 'bind' ? mount.source : 'the overlay';
  return new UnpackError('STORE_FAILED', `${what} can't be mounted at ${target}: ${why}`, { cause });
}
