import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import '../support/needs-root.ts';
import type { PassFindings } from '../../src/diff/second-pass.ts';
import { accessAcl, acl, defaultAcl } from '../support/acl.ts';
import { applyTar, folder } from '../support/apply.ts';
import { scratch } from '../support/scratch.ts';
import { directory, file, type Member, symlink, tar, whiteout } from '../support/tar.ts';
import { readTree } from '../support/tree.ts';

const DEFAULT = 'user::rwx,user:1000:rwx,group::r-x,mask::rwx,other::r-x';
const below = tar(directory('d', { mode: 0o775, uid: 5, mtime: 1, pax: [defaultAcl(DEFAULT)] }), directory('plain'));

/** The ACLs of a layer on `below`, by path, and the number of passes. */
function aclsOf(...members: Member[]): { acls: Record<string, object | undefined>; times: number } {
  using dir = scratch();
  const lower = folder(dir.path, 'lower');
  applyTar(below, { root: lower });
  let findings: PassFindings | undefined;
  for (let times = 1; ; times++) {
    const root = folder(dir.path, `root ${times}`);
    const { again } = applyTar(tar(...members), { root, lowers: [lower], below: 'parent' }, { findings });
    const tree = Object.entries(readTree(root));
    if (again === undefined)
      return { acls: Object.fromEntries(tree.map(([path, { xattrs }]) => [path, xattrs])), times };
    findings = again;
  }
}

const passedOn = (access: string) => ({
  'system.posix_acl_access': acl(access).toString('latin1'),
  'system.posix_acl_default': acl(DEFAULT).toString('latin1'),
});

describe('the default ACL that an implied directory gets from the layer below', () => {
  it('is inherited by what is made in the directory, with the mode of its entry', () => {
    const { acls, times } = aclsOf(
      file('d/f', '', { mode: 0o640 }),
      directory('d/n', { mode: 0o700 }),
      file('plain/f'),
    );
    assert.equal(times, 2);
    assert.deepEqual(acls, {
      d: { 'system.posix_acl_default': acl(DEFAULT).toString('latin1') },
      'd/f': {
        'system.posix_acl_access': acl('user::rw-,user:1000:rwx,group::r-x,mask::r--,other::---').toString('latin1'),
      },
      'd/n': passedOn('user::rwx,user:1000:rwx,group::r-x,mask::---,other::---'),
      plain: undefined,
      'plain/f': undefined,
    });
  });

  it('is not inherited if the layer deletes the directory, even after it has written there', () => {
    for (const members of [
      [file('d/f'), whiteout('d')],
      [whiteout('d'), file('d/f')],
      [symlink('l', '.'), file('d/f'), whiteout('l/d')],
      [file('d/f'), file('plain/g'), file('d', 'no directory'), whiteout('d')],
    ]) {
      const { acls } = aclsOf(...members);
      assert.deepEqual(acls['d/f'], undefined);
      assert.equal(acls.d?.['system.posix_acl_default' as never], undefined);
    }
  });

  it('is inherited, in the second pass, by a directory that the layer also deletes late', () => {
    const { acls, times } = aclsOf(file('d/e/f'), whiteout('d/e'));
    assert.equal(times, 2);
    const inherited = passedOn('user::rwx,user:1000:rwx,group::r-x,mask::r-x,other::r-x');
    assert.deepEqual(acls['d/e'], { ...inherited, 'trusted.overlay.opaque': 'y' });
  });

  it('needs no second pass if the layer does not write there, or names the directory first', () => {
    for (const members of [
      [file('plain/f')],
      [directory('d'), file('d/f')],
      [directory('d', { pax: [defaultAcl(DEFAULT)] }), file('d/f')],
      [whiteout('d')],
      [whiteout('d'), file('d/f')],
    ]) {
      assert.equal(aclsOf(...members).times, 1);
    }
  });

  it('is not copied to a directory whose own entry removes its ACLs', () => {
    using dir = scratch();
    const lower = folder(dir.path, 'lower');
    applyTar(tar(directory('d', { pax: [accessAcl(DEFAULT)] })), { root: lower });
    const root = folder(dir.path, 'root');
    const named = directory('d', { mode: 0o751, pax: [accessAcl('user::rwx,group::r-x,other::--x')] });
    applyTar(tar(file('d/f'), named), { root, lowers: [lower], below: 'parent' });
    assert.equal(readTree(root).d?.xattrs, undefined);
  });
});
