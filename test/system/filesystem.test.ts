import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { runChild } from '../support/child.ts';
import '../support/needs-root.ts';
import { fileSystemFacts, overlayFacts, overlayKnowsIndex } from '../../src/system/filesystem.ts';
import { skipWithoutUserNamespaces } from '../support/present.ts';

describe('facts about a file system', () => {
  test('agree with stat(1) and df(1)', () =>
    inDirectory(async (directory) => {
      await writeFile(join(directory, 'file'), 'x'.repeat(100_000));
      const facts = await fileSystemFacts(directory);
      const [type, total, inodes] =
        run('df', '--output=fstype,size,itotal', '-B1', directory).split('\n')[1]?.split(/\s+/) ?? [];
      assert.equal(facts.type, type);
      assert.equal(String(facts.totalBytes), total);
      assert.equal(String(facts.totalInodes ?? 0), inodes);
      assert.ok(facts.freeBytes > 0 && facts.freeBytes <= facts.totalBytes - 100_000);
    }));

  test('tell whether listings have types and which attributes can be set', () =>
    inDirectory(async (directory) => {
      const { directoryTypes, trustedXattrs, userXattrs } = await fileSystemFacts(directory);
      assert.deepEqual(
        { directoryTypes, trustedXattrs, userXattrs },
        { directoryTypes: true, trustedXattrs: true, userXattrs: true },
      );
    }));

  test('leave nothing in the directory', () =>
    inDirectory(async (directory) => {
      await fileSystemFacts(directory);
      await overlayFacts(directory);
      assert.deepEqual(await readdir(directory), []);
    }));

  test('are those of the directory’s own file system', async () => {
    assert.equal((await fileSystemFacts('/dev/shm')).type, 'tmpfs');
  });

  test('of a missing directory are a system error', () =>
    inDirectory(async (directory) => {
      await assert.rejects(fileSystemFacts(join(directory, 'nothing')), { code: 'ENOENT' });
    }));
});

describe('facts about overlayfs', () => {
  test('root of the machine can mount it, without userxattr', () =>
    inDirectory(async (directory) => {
      assert.deepEqual(await overlayFacts(directory), { mountable: true, userXattrs: false });
      assert.equal(await overlayKnowsIndex(), true);
    }));

  test('root of a user namespace needs userxattr', { skip: skipWithoutUserNamespaces() }, () =>
    inDirectory(async (directory) => {
      assert.deepEqual(JSON.parse(run('unshare', '--user', '--map-root-user', '--mount', ...askingIn(directory))), {
        mountable: true,
        userXattrs: true,
      });
    }),
  );

  test('a user who may not mount gets the reason', () =>
    inDirectory(async (directory) => {
      const facts: unknown = JSON.parse(run('setpriv', '--bounding-set=-sys_admin', ...askingIn(directory)));
      assert.ok(facts !== null && typeof facts === 'object' && 'reason' in facts && 'mountable' in facts);
      assert.equal(facts.mountable, false);
      assert.match(String(facts.reason), /SYS_ADMIN/);
    }));
});

/** A command that prints overlayFacts of a directory. */
function askingIn(directory: string): string[] {
  const module = new URL('../../src/system/filesystem.ts', import.meta.url).href;
  const script = `const { overlayFacts } = await import(${JSON.stringify(module)});
    console.log(JSON.stringify(await overlayFacts(${JSON.stringify(directory)})));`;
  return [process.execPath, '--input-type=module', '--eval', script];
}

function run(command: string, ...args: string[]): string {
  const { status, stdout, stderr } = runChild(command, args);
  assert.equal(status, 0, stderr);
  return stdout;
}

async function inDirectory(body: (directory: string) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'unpackd-facts-'));
  try {
    await body(directory);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
