import { closeSync, constants, openSync } from 'node:fs';
import { errnoOf } from '../errno.ts';
import { UnpackError } from '../errors.ts';
import { libc, systemError } from './libc.ts';

const ioctlNumber = libc.func('ioctl', 'int', ['int', 'ulong', 'ulong']);
const ioctlBuffer = libc.func('ioctl', 'int', ['int', 'ulong', 'void *']);

/** Linux, include/uapi/linux/loop.h. */
const LOOP_CTL_GET_FREE = 0x4c82;
const LOOP_CONFIGURE = 0x4c0a;
/** struct loop_config: descriptor, block size, struct loop_info64, reserved. */
const CONFIG_BYTES = 304;
const FLAGS_AT = 8 + 52;
const READ_ONLY = 1;
/** The device detaches the file when nobody has it open or mounted any more. */
const AUTOCLEAR = 4;
/** Another process may take the free device first. */
const ATTEMPTS = 20;

/** A read-only loop device. It exists until it is closed and not mounted any more. */
export interface LoopDevice extends Disposable {
  readonly path: string;
}

/**
 * Attaches a file to a free loop device (Linux 5.8).
 * @throws UnpackError STORE_FAILED if there is no loop device here; system errors
 */
export function attachLoopDevice(file: string): LoopDevice {
  const backing = openSync(file, constants.O_RDONLY);
  try {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const path = `/dev/loop${freeNumber()}`;
      const device = openDevice(path);
      const config = Buffer.alloc(CONFIG_BYTES);
      config.writeUInt32LE(backing, 0);
      config.writeUInt32LE(READ_ONLY | AUTOCLEAR, FLAGS_AT);
      if (ioctlBuffer(device, LOOP_CONFIGURE, config) === 0) {
        return { path, [Symbol.dispose]: () => closeSync(device) };
      }
      const error = systemError('ioctl', path);
      closeSync(device);
      if (error.code !== 'EBUSY') throw error;
    }
  } finally {
    closeSync(backing);
  }
  throw missing(`all of ${ATTEMPTS} free devices were taken by others`);
}

function freeNumber(): number {
  const controller = openDevice('/dev/loop-control');
  try {
    const number = ioctlNumber(controller, LOOP_CTL_GET_FREE, 0);
    if (number < 0) throw systemError('ioctl', '/dev/loop-control');
    return number;
  } finally {
    closeSync(controller);
  }
}

function openDevice(path: string): number {
  try {
    return openSync(path, constants.O_RDWR);
  } catch (error) {
    const code = errnoOf(error);
    if (code !== 'ENOENT' && code !== 'EACCES' && code !== 'EPERM' && code !== 'ENXIO') throw error;
    throw missing(`${path} can't be opened (${code})`, error);
  }
}

function missing(why: string, cause?: unknown): UnpackError {
  return new UnpackError(
    'STORE_FAILED',
    `there is no loop device for it: ${why}; load the module (modprobe loop), and give the container its devices`,
    { cause },
  );
}
