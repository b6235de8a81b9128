import koffi from 'koffi';
import { libc, systemError } from '../../src/system/libc.ts';

const program = koffi.struct({ length: 'uint16', filter: 'void *' });
const prctl = libc.func('prctl', 'int', ['int', 'ulong', 'ulong', 'ulong', 'ulong']);
const prctlProgram = libc.func('prctl', 'int', ['int', 'ulong', koffi.pointer(program), 'ulong', 'ulong']);
const PR_SET_NO_NEW_PRIVS = 38;
const PR_SET_SECCOMP = 22;
const SECCOMP_MODE_FILTER = 2;

/** One instruction of a filter: code, two jumps for a comparison, and a number (bpf(2), seccomp(2)). */
export type Instruction = readonly [code: number, yes: number, no: number, value: number];

export const LOAD = 0x20;
export const EQUAL = 0x15;
export const GREATER = 0x25;
export const SUBTRACT = 0x14;
export const OR = 0x44;
export const RETURN = 0x06;
export const RETURN_RESULT = 0x16;

/** Offsets in struct seccomp_data. The lower half of an argument comes first. */
export const CALL = 0;
export const argument = (index: number): number => 16 + 8 * index;

/** Return values of a filter. An errno is added to `ERROR`. */
export const ALLOW = 0x7fff0000;
export const ERROR = 0x00050000;

/** Installs a filter for all later system calls of this thread. It cannot be removed. */
export function filterSystemCalls(instructions: readonly Instruction[]): void {
  const filter = Buffer.alloc(8 * instructions.length);
  for (const [index, [code, yes, no, value]] of instructions.entries()) {
    filter.writeUInt16LE(code, 8 * index);
    filter[8 * index + 2] = yes;
    filter[8 * index + 3] = no;
    filter.writeUInt32LE(value >>> 0, 8 * index + 4);
  }
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) !== 0) throw systemError('prctl');
  const { length } = instructions;
  if (prctlProgram(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, { length, filter }, 0, 0) !== 0) throw systemError('prctl');
}
