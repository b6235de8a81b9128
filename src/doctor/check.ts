import { errnoOf } from '../errno.ts';

/** The outcome of one check of `unpackd doctor`. Every file of this folder has checks. */
export interface Check {
  readonly name: string;
  readonly status: 'ok' | 'warn' | 'fail';
  /** What the check found, in a few words. */
  readonly finding: string;
  /** What to do; absent if the status is `ok`. */
  readonly advice?: string;
  /** Lines of a file, to copy; the advice says where to. */
  readonly lines?: readonly string[];
}

export const ok = (name: string, finding: string): Check => ({ name, status: 'ok', finding });
export const warn = (name: string, finding: string, advice: string): Check => ({
  name,
  status: 'warn',
  finding,
  advice,
});
export const fail = (name: string, finding: string, advice: string): Check => ({
  name,
  status: 'fail',
  finding,
  advice,
});

/** The message of a thrown value, in one line. */
export function reason(thrown: unknown): string {
  if (!(thrown instanceof Error)) return String(thrown);
  const code = errnoOf(thrown) ?? thrown.name;
  return (thrown.message === '' ? code : thrown.message).split('\n')[0] ?? code;
}
