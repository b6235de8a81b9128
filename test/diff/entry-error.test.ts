import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';
import { errnoOf, systemMessage } from '../../src/errno.ts';
import { toUnpackError } from '../../src/errors.ts';
import { runChild } from '../support/child.ts';
import { scratch } from '../support/scratch.ts';

interface Refusal {
  /** `chown`: called directly; `write`: called by Node. */
  readonly call: 'chown' | 'write';
  readonly errno: string;
  readonly code: string;
  readonly message: string;
}

/** Errors that no archive can cause, and how their messages begin. */
const HOST: Readonly<Record<string, readonly [code: string, advice: RegExp]>> = {
  ENOSPC: ['STORE_FULL', /free space or inodes/],
  EDQUOT: ['STORE_FULL', /raise the quota/],
  EIO: ['STORE_FAILED', /dmesg/],
  EROFS: ['STORE_FAILED', /mount it read-write/],
  EUCLEAN: ['STORE_FAILED', /fsck/],
  EBADMSG: ['STORE_FAILED', /fsck/],
  ENODEV: ['STORE_FAILED', /mount it again/],
  ENXIO: ['STORE_FAILED', /mount it again/],
  ESTALE: ['STORE_FAILED', /mount it again/],
  EMFILE: ['STORE_FAILED', /ulimit -n/],
  ENFILE: ['STORE_FAILED', /fs\.file-max/],
  ENOMEM: ['STORE_FAILED', /UNPACK_THREADS/],
  EACCES: ['STORE_FAILED', /unpackd doctor/],
  EPERM: ['STORE_FAILED', /unpackd doctor.*lsattr/],
};
const ARCHIVE = 'EEXIST EILSEQ EINVAL EISDIR ELOOP ENOENT ENOTDIR'.split(' ');
const LIMITS = 'E2BIG EFBIG EMLINK ENAMETOOLONG ERANGE'.split(' ');

describe('a system call that fails while an entry is written', () => {
  let refusals: readonly Refusal[] = [];
  const of = (errno: string) => refusals.filter((refusal) => refusal.errno === errno);

  before(() => {
    using dir = scratch();
    const script = new URL('refusing-kernel.ts', import.meta.url).pathname;
    const { status, stdout, stderr } = runChild(process.execPath, [script, dir.path]);
    assert.equal(status, 0, stderr);
    refusals = JSON.parse(stdout) as Refusal[]; // the script is our own
  });

  it('is a typed failure that names the entry and the error, whichever error it is', () => {
    assert.ok(refusals.length > 150);
    const known = ['STORE_FULL', 'STORE_FAILED', 'LAYER_CORRUPT', 'LIMIT_EXCEEDED'];
    for (const { call, errno, code, message } of refusals) {
      assert.ok(known.includes(code), `${call} ${errno}: ${code} ${message}`);
      assert.match(message, /^the entry "x" at byte 0 of the tar/);
      assert.ok(message.includes(`${errno}: `) || message.includes('has no owner'), `${call} ${errno}: ${message}`);
    }
  });

  it('is a failure of the host, with advice, if no archive can cause it', () => {
    for (const [errno, [code, advice]] of Object.entries(HOST)) {
      assert.equal(of(errno).length, 2, errno);
      for (const refusal of of(errno)) {
        assert.equal(refusal.code, code, refusal.message);
        assert.match(refusal.message, new RegExp(`${errno}: [^;]*; .*${advice.source}`));
      }
    }
  });

  it('is a failure of the archive if an archive can cause it', () => {
    for (const errno of ARCHIVE) {
      for (const { call, code, message } of of(errno)) {
        if (call === 'chown' && errno === 'EINVAL') continue; // below
        assert.equal(code, 'LAYER_CORRUPT', message);
      }
    }
  });

  it('is LIMIT_EXCEEDED, without a retry, if something is too large but not damaged', () => {
    for (const errno of LIMITS)
      for (const { code, message } of of(errno)) assert.equal(code, 'LIMIT_EXCEEDED', message);
  });

  it('is a failure of the host in all other cases, so that an unknown error does not condemn a layer', () => {
    const others = refusals.filter(({ errno }) => !(errno in HOST) && ![...ARCHIVE, ...LIMITS].includes(errno));
    assert.ok(others.length > 50);
    for (const { code, message } of others) {
      assert.equal(code, 'STORE_FAILED', message);
      assert.match(message, /dmesg/);
    }
  });

  it('names the owner that the user namespace does not have', () => {
    const refusal = of('EINVAL').find(({ call }) => call === 'chown');
    assert.equal(refusal?.code, 'STORE_FAILED');
    assert.match(refusal?.message ?? '', /has no owner 60022:0; .*UNPACK_OWNERSHIP=squash/);
  });
});

describe('an error that has no name in Node', () => {
  const asNodeSays = (message: string, code: string) => Object.assign(new Error(message), { code, errno: -122 });

  it('gets its name', () => {
    const sync = asNodeSays('UNKNOWN: unknown error, write', 'UNKNOWN');
    const other = asNodeSays(
      "Unknown system error -122: Unknown system error -122, mkdtemp '/x/new-XXXXXX'",
      'Unknown system error -122',
    );
    assert.equal(errnoOf(sync), 'EDQUOT');
    assert.equal(systemMessage(sync), 'EDQUOT: disk quota exceeded, write');
    assert.equal(systemMessage(other), "EDQUOT: disk quota exceeded, mkdtemp '/x/new-XXXXXX'");
    assert.equal(toUnpackError(other).code, 'STORE_FULL');
  });
});
