import koffi from 'koffi';
import { errnoFacts } from '../errno.ts';

// An asynchronous call needs memory of its own, 768 KiB unless told otherwise, and only two are kept for the next call:
// with four layers inflating at once, getting and clearing it took longer than the calls.
koffi.config({ async_stack_size: 64 * 1024, async_heap_size: 32 * 1024, resident_async_pools: 16 });

/** The C library of this process, whichever it is (glibc, musl). */
export const libc = koffi.load(null);

/** A failed system call, shaped like the errors of node:fs (`code`, `errno`, `syscall`, `path`). */
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

/** A C function that another thread can run. */
export interface AsyncFunction {
  async(...parameters: unknown[]): void;
}

/** Runs a C function that returns a number on another thread. Buffers that it is given must stay referenced meanwhile. */
export function callAsync(call: AsyncFunction, ...parameters: unknown[]): Promise<number> {
  return new Promise((resolve, reject) => {
    call.async(...parameters, (error: unknown, result: number | bigint) => {
      if (error === null) resolve(Number(result));
      else reject(error);
    });
  });
}

const memcpy = libc.func('uint64 memcpy(const void *, const void *, uint64)');

/** Where the bytes of a buffer of more than 64 bytes are: a copy of nothing answers with the address of its target. */
export function addressOf(bytes: Uint8Array): bigint {
  return BigInt(memcpy(bytes, bytes, 0));
}
