import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { abortError, toUnpackError, UnpackError } from '../src/errors.ts';
import { applyTar } from './support/apply.ts';
import { scratch } from './support/scratch.ts';
import { file, tar } from './support/tar.ts';

describe('the message of a failure', () => {
  it('escapes control characters in quoted text', () => {
    // ESC and CSI in one character, a bell, a change of direction
    const { message } = new UnpackError('MANIFEST_INVALID', 'quotes "\u001b[31m\u009b31m\u0007\u202eabc"');
    assert.equal(message, String.raw`quotes "\u001b[31m\u009b31m\u0007\u202eabc"`);
    assert.equal(toUnpackError(new Error('a\nb\u0085')).message, String.raw`unexpected error: a b\u0085`);
  });

  it('escapes the name of an entry that the kernel refuses', () => {
    using dir = scratch();
    const name = Buffer.concat([Buffer.from('\u009b31m\u202e'), Buffer.alloc(300, 'n')]);
    assert.throws(
      () => applyTar(tar(file('x', '', { pax: [['path', name]] })), { root: dir.path }),
      (error: Error) => /^[\x20-\x7e…\ufffdn]*$/.test(error.message) && error.message.includes('ENAMETOOLONG'),
    );
  });

  it('is limited in length', () => {
    const { message } = new UnpackError('MANIFEST_INVALID', 'x'.repeat(1_000_000)).with({}, 'layer 1: ');
    assert.match(message, /^layer 1: x+…$/);
    assert.ok(message.length < 2010, `${message.length} characters`);
  });

  it('survives serialization', () => {
    const error = new UnpackError('STORE_FULL', 'a\u001bb').with({}, 'layer\n');
    assert.equal(UnpackError.deserialize(error.serialize()).message, error.message);
  });
});

describe('the error of an aborted signal', () => {
  const aborted = (reason?: unknown) => abortError(AbortSignal.abort(reason));

  it('is the reason', () => {
    const reason = new UnpackError('CANCELLED', 'the job was cancelled on request');
    assert.equal(aborted(reason), reason);
    assert.equal(aborted(new DOMException('late', 'TimeoutError')).code, 'TIMED_OUT');
    assert.equal(aborted(Object.assign(new Error('no space'), { code: 'ENOSPC' })).code, 'STORE_FULL');
  });

  it('is retried unless the reason is CANCELLED', () => {
    for (const reason of [undefined, null, 'enough', 5, new Error('enough'), {}]) {
      assert.equal(aborted(reason).retry, 'always');
    }
    assert.match(aborted(new Error('the lock is lost')).message, /the lock is lost/);
  });
});
