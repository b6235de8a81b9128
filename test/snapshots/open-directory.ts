import { closeSync, constants, openSync } from 'node:fs';

/** A directory's descriptor, closed at the end of the scope. */
export function openDirectory(path: string): Disposable & { readonly fd: number } {
  const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  return { fd, [Symbol.dispose]: () => closeSync(fd) };
}
