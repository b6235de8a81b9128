import { type FailureCode, UnpackError } from '../../src/errors.ts';

/** The result of one input: `ok`, or the code and the message of the error. */
export type Outcome = 'ok' | { readonly code: FailureCode; readonly message: string };

/** The codes with which an archive may be refused. Any other error is a bug. */
const EXPECTED = new Set<FailureCode>(['LAYER_CORRUPT', 'LAYER_UNSAFE', 'LIMIT_EXCEEDED', 'UNSUPPORTED_MEDIA_TYPE']);
/** Maximum length of a message in a job's result. */
const LONGEST = 1500;

/** The error as an outcome. @throws the error, if it is no refusal of an archive */
export function refusal(error: unknown): Outcome {
  if (!(error instanceof UnpackError) || !EXPECTED.has(error.code)) throw error;
  if (error.message.length > LONGEST) throw new Error(`a message of ${error.message.length} characters`);
  // numbers of descriptors differ
  return { code: error.code, message: error.message.replace(/\/proc\/self\/fd\/\d+/g, '/proc/self/fd/N') };
}

/** The message without parts that differ between archives, so that equal outcomes have equal messages. */
export function kindOf(outcome: Outcome): string {
  if (outcome === 'ok') return 'ok';
  const text = outcome.message.replace(/"(?:[^"\\]|\\.)*("|$|…)/g, '"…"').replace(/-?\d+/g, 'N');
  return `${outcome.code} ${text.replace(/^.*of the tar:? /, '').slice(0, 160)}`;
}

/** Whether two refusals are equal, apart from the system call that failed first. */
export function sameOutcome(a: Outcome, b: Outcome): boolean {
  if (a === 'ok' || b === 'ok') return a === b;
  const sentence = (message: string): string => message.replace(/(: E[A-Z]+): .*/s, '$1');
  return a.code === b.code && sentence(a.message) === sentence(b.message);
}

export const show = (outcome: Outcome): string => (outcome === 'ok' ? 'ok' : `${outcome.code}: ${outcome.message}`);
