import { type FailureCode, UnpackError } from '../../src/errors.ts';

/** What became of an input: `ok`, or the error's code and sentence. */
export type Outcome = 'ok' | { readonly code: FailureCode; readonly message: string };

/** What an archive may be refused with; anything else is a bug, the host's own failures included. */
const EXPECTED = new Set<FailureCode>(['LAYER_CORRUPT', 'LAYER_UNSAFE', 'LIMIT_EXCEEDED', 'UNSUPPORTED_MEDIA_TYPE']);
/** Longest message that a job's result is expected to carry. */
const LONGEST = 1500;

/** The error as an outcome. @throws whatever is no refusal of an archive */
export function refusal(error: unknown): Outcome {
  if (!(error instanceof UnpackError) || !EXPECTED.has(error.code)) throw error;
  if (error.message.length > LONGEST) throw new Error(`a message of ${error.message.length} characters`);
  // numbers of descriptors differ
  return { code: error.code, message: error.message.replace(/\/proc\/self\/fd\/\d+/g, '/proc/self/fd/N') };
}

/** The sentence without what differs from archive to archive: outcomes of the same kind take the same branch. */
export function kindOf(outcome: Outcome): string {
  if (outcome === 'ok') return 'ok';
  const text = outcome.message.replace(/"(?:[^"\\]|\\.)*("|$|…)/g, '"…"').replace(/-?\d+/g, 'N');
  return `${outcome.code} ${text.replace(/^.*of the tar:? /, '').slice(0, 160)}`;
}

/** The same refusal; which system call met it first may differ. */
export function sameOutcome(a: Outcome, b: Outcome): boolean {
  if (a === 'ok' || b === 'ok') return a === b;
  const sentence = (message: string): string => message.replace(/(cannot be created: E[A-Z]+).*/s, '$1');
  return a.code === b.code && sentence(a.message) === sentence(b.message);
}

export const show = (outcome: Outcome): string => (outcome === 'ok' ? 'ok' : `${outcome.code}: ${outcome.message}`);
