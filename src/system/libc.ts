import koffi from 'koffi';
import { errnoFacts } from '../errno.ts';

// By default, koffi allocates 768 KiB for each asynchronous call and keeps only two such blocks. With four layers
// inflating at once, allocating took longer than the calls.
koffi.config({ async_stack_size: 64 * 1024, async_heap_size: 32 * 1024, resident_async_pools: 16 });

/** The symbols of this process: its C library (glibc or musl), and the libraries inside Node. */
export const libc = koffi.load(null);

/** The error of a system call that has just failed, with the fields of node:fs errors (`code`, `errno`, `syscall`, `path`). */
export function systemError(syscall: string, path?: string | Uint8Array): NodeJS.ErrnoException {
  const errno = koffi.errno();
  const { name, text } = errnoFacts(errno);
  const where = path === undefined ? '' : ` ${JSON.stringify(Buffer.from(path).toString())}`;
  return Object.assign(new Error(`${name}: ${text}, ${syscall}${where}`), {
    errno: -errno,
    code: name,
    syscall,
    ...(path === undefined ? {} : { path: Buffer.from(path).toString() }),
  });
}

/** A C function that koffi can run on another thread. */
export interface AsyncFunction {
  async(...parameters: unknown[]): void;
}

/**
 * Runs a C function on another thread. The caller must keep a reference to each buffer argument until the promise settles.
 * @returns the number that the function returns
 */
export function callAsync(call: AsyncFunction, ...parameters: unknown[]): Promise<number> {
  return new Promise((resolve, reject) => {
    call.async(...parameters, (error: unknown, result: number | bigint) => {
      if (error === null) resolve(Number(result));
      else reject(error);
    });
  });
}

const memcpy = libc.func('uint64 memcpy(const void *, const void *, uint64)');

/** The address of a buffer of more than 64 bytes. memcpy(3) of zero bytes returns the address of its target. */
export function addressOf(bytes: Uint8Array): bigint {
  return BigInt(memcpy(bytes, bytes, 0));
}
