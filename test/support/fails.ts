import assert from 'node:assert/strict';
import { type FailureCode, UnpackError } from '../../src/errors.ts';

/** What a call fails with: an UnpackError of that code, or the test fails. */
export async function fails(code: FailureCode, promise: Promise<unknown>): Promise<UnpackError> {
  const error = await promise.then(
    () => assert.fail(`expected ${code}`),
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof UnpackError, String(error));
  assert.equal(error.code, code, error.message);
  return error;
}
