import { errnoOf } from '../errno.ts';
import { UnpackError } from '../errors.ts';
import { libc, systemError } from './libc.ts';
import { attachLoopDevice } from './loop-device.ts';

const mount = libc.func('int mount(const char *, const char *, const char *, ulong, const char *)');
const MS_RDONLY = 1;
/** The kernel cannot mount this file without a block device: it is older than 6.12, or the file lies on tmpfs or overlayfs. */
const NEEDS_DEVICE = new Set(['ENOTBLK', 'EINVAL', 'EOPNOTSUPP']);

/** An EROFS image. */
export interface ImageFile {
  readonly path: string;
  /** Files that have content of the image, in the order of its device table. */
  readonly devices: readonly string[];
}

/**
 * Mounts an EROFS image read-only: the file itself where the kernel can (Linux 6.12), else through loop devices.
 * @returns how it is mounted
 * @throws UnpackError STORE_FAILED
 */
export function mountImage(image: ImageFile, target: string): 'file' | 'loop' {
  const error = tryMount(image.path, image.devices, target);
  if (error === undefined) return 'file';
  if (!NEEDS_DEVICE.has(errnoOf(error) ?? '')) throw failed(image, target, error);
  using stack = new DisposableStack();
  try {
    const attach = (path: string): string => stack.use(attachLoopDevice(path)).path;
    const failure = tryMount(attach(image.path), image.devices.map(attach), target);
    if (failure !== undefined) throw failure;
    return 'loop';
  } catch (second) {
    throw failed(image, target, second);
  }
}

function tryMount(source: string, devices: readonly string[], target: string): NodeJS.ErrnoException | undefined {
  const options = devices.map((device) => `device=${device}`).join(',');
  if (mount(source, target, 'erofs', MS_RDONLY, options) === 0) return undefined;
  return systemError('mount', target);
}

function failed({ path }: ImageFile, target: string, error: unknown): UnpackError {
  const why = error instanceof Error ? error.message : String(error);
  const advice = errnoOf(error) === undefined ? undefined : ADVICE[errnoOf(error) ?? ''];
  const shown = advice === undefined ? '' : ` (${advice})`;
  return new UnpackError('STORE_FAILED', `${path} can't be mounted at ${target}: ${why}${shown}`, { cause: error });
}

const ADVICE: Readonly<Record<string, string>> = {
  EPERM: 'mounting needs root; in a container, the capability SYS_ADMIN and a seccomp profile that allows mounts',
  EACCES: 'mounting needs root; in a container, AppArmor or SELinux can also forbid it',
  ENODEV: 'this kernel has no EROFS: modprobe erofs',
  ENOENT: 'the directory to mount on, or the file, is not there',
  EBADMSG: 'its superblock is damaged; run unpackd verify',
  EUCLEAN: 'it is damaged; run unpackd verify',
};
