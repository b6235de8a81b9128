import assert from 'node:assert/strict';
import { type FailureCode, UnpackError } from '../../src/errors.ts';

/** Asserts that a call fails with an UnpackError of this code. @returns the error */
export async function fails(code: FailureCode, promise: Promise<unknown>): Promise<UnpackError> {
  const error = await promise.then(
    () => assert.fail(`expected ${code}`),
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof UnpackError, String(error));
  assert.equal(error.code, code, error.message);
  return error;
}
