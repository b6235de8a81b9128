import { constants } from 'node:os';
import { errnoFacts } from '../../src/errno.ts';
import { UnpackError } from '../../src/errors.ts';
import { applyTar } from '../support/apply.ts';
import {
  ALLOW,
  argument,
  CALL,
  EQUAL,
  ERROR,
  filterSystemCalls,
  GREATER,
  type Instruction,
  LOAD,
  OR,
  RETURN,
  RETURN_RESULT,
  SUBTRACT,
} from '../support/seccomp.ts';
import { file, symlink, tar } from '../support/tar.ts';

/**
 * Applies archives under a seccomp filter that makes calls fail with an error number from the archive: `refusing-kernel.ts
 * ROOT`, started by entry-error.test.ts. The owner of a symbolic link, minus this base, is the error of fchownat, which is
 * called directly. The length of a file, minus this base, is the error of pwrite64, which Node calls. Prints all results as
 * JSON.
 */
const BASE = 60_000;

const [root] = process.argv.slice(2);
if (root === undefined) throw new Error('a root is needed');

const [fchownat, pwrite64] = process.arch === 'arm64' ? [54, 68] : [260, 18];
const failingBy = (call: number, index: number): Instruction[] => [
  [LOAD, 0, 0, CALL],
  [EQUAL, 0, 6, call],
  [LOAD, 0, 0, argument(index)],
  [GREATER, 0, 4, BASE],
  [GREATER, 3, 0, BASE + 4000],
  [SUBTRACT, 0, 0, BASE],
  [OR, 0, 0, ERROR],
  [RETURN_RESULT, 0, 0, 0],
];
filterSystemCalls([...failingBy(fchownat, 2), ...failingBy(pwrite64, 2), [RETURN, 0, 0, ALLOW]]);

// without EINTR, because Node retries it forever
const numbers = [...new Set([...Object.values(constants.errno), 117, 126])].filter(
  (errno) => errno !== constants.errno.EINTR,
);
const seen = numbers.flatMap((errno) =>
  [
    ['chown', tar(symlink('x', 'y', { uid: BASE + errno }))] as const,
    ['write', tar(file('x', Buffer.alloc(BASE + errno)))] as const,
  ].map(([call, archive]) => ({ call, errno: errnoFacts(errno).name, ...outcome(archive, root) })),
);
process.stdout.write(JSON.stringify(seen));

function outcome(archive: Buffer, path: string): { code: string; message: string } {
  try {
    applyTar(archive, { root: path });
    return { code: 'applied', message: '' };
  } catch (error) {
    if (error instanceof UnpackError) return { code: error.code, message: error.message };
    return { code: 'untyped', message: String(error) };
  }
}
