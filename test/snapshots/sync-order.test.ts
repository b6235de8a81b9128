import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { describe, test } from 'node:test';
import '../support/needs-root.ts';
import { chainIds } from '../../src/oci/digest.ts';
import { startChild } from '../support/child.ts';
import { imageOf, layerOf, writeLayout } from '../support/layout.ts';
import { skipWithout } from '../support/present.ts';
import { scratch } from '../support/scratch.ts';
import { directory, file, symlink, tar } from '../support/tar.ts';

/**
 * The order of a few system calls decides what is on disk after a power cut. strace(1) records them during a real unpacking,
 * so that a change of the order is noticed.
 */
const skip = skipWithout('strace') || (spawnSync('strace', ['-c', 'true']).status !== 0 && 'strace may not trace here');

/** Calls that write a file or change a directory. */
const WRITES =
  'write,pwrite64,writev,pwritev,pwritev2,copy_file_range,ftruncate,fallocate,mkdirat,mkdir,mknodat,symlinkat,linkat,' +
  'utimensat,fchown,fchownat,lchown,chmod,fchmod,fsetxattr,lsetxattr';
const SYNCS = 'fsync,fdatasync,syncfs';
const RENAMES = 'rename,renameat,renameat2';

/** A system call, and the lines of the recording at which it began and ended. */
interface Call {
  readonly name: string;
  readonly text: string;
  readonly from: number;
  to: number;
}

/** Calls in the order in which they began; those of several threads may overlap. */
function callsOf(recording: string): Call[] {
  const calls: Call[] = [];
  const unfinished = new Map<string, Call>();
  for (const [line, content] of recording.split('\n').entries()) {
    const [, pid = '', text = ''] = /^(\d+) +(.*)$/.exec(content) ?? [];
    if (/^<\.\.\. \w+ resumed>/.test(text)) {
      const call = unfinished.get(pid);
      if (call !== undefined) call.to = line;
      unfinished.delete(pid);
      continue;
    }
    const [, name] = /^(\w+)\(/.exec(text) ?? [];
    if (name === undefined) continue;
    const call: Call = { name, text, from: line, to: line };
    calls.push(call);
    if (text.includes('<unfinished ...>')) {
      call.to = Number.POSITIVE_INFINITY;
      unfinished.set(pid, call);
    }
  }
  return calls;
}

const layers = [
  layerOf(tar(directory('etc', { mode: 0o750 }), file('etc/one', 'x'.repeat(5000)), symlink('link', 'etc'))),
  // it needs a directory that only the layer below names, and takes its attributes when that is there
  layerOf(tar(file('etc/two', 'y'.repeat(5000)))),
  layerOf(tar(file('srv/three', 'z'.repeat(5000)))),
];
const image = imageOf(layers);
const chain = chainIds(layers.map(({ diff }) => diff.digest));

async function recorded(place: string, type: 'overlay' | 'native', durable: boolean): Promise<Call[]> {
  const layout = join(place, 'layout');
  await writeLayout(layout, { app: image });
  const output = join(place, 'recording');
  const program = join(import.meta.dirname, 'sync-order.ts');
  // the strings of a whole page of SQLite, and what each descriptor stands for
  const strace = ['-f', '-qq', '-y', '-s', '4200', '-o', output, '-e', `trace=${WRITES},${SYNCS},${RENAMES}`];
  const unpack = [process.execPath, program, layout, join(place, 'root'), type, String(durable)];
  await using child = startChild('strace', [...strace, ...unpack], { stdio: ['ignore', 'ignore', 'inherit'] });
  const [status] = await once(child, 'exit');
  assert.equal(status, 0);
  return callsOf(readFileSync(output, 'latin1'));
}

/** The numbers of the snapshots, which are the names of their directories. */
function idsIn(root: string): Map<string, number> {
  const file = new DatabaseSync(join(root, 'metadata.db'), { readOnly: true });
  try {
    return new Map(
      file
        .prepare('SELECT id, key FROM snapshots')
        .all()
        .map(({ id, key }) => [String(key), Number(id)]),
    );
  } finally {
    file.close();
  }
}

/** The file that a call writes; for a copy, the second of two files. */
function target(name: string, text: string): string {
  return name === 'copy_file_range' ? (text.split(' NULL, ')[1] ?? '') : text;
}

function lastOf(calls: readonly Call[], what: string): Call {
  const last = calls.at(-1);
  assert.ok(last, what);
  return last;
}

describe('before a layer is reported, the disk has', { skip }, () => {
  for (const type of ['overlay', 'native'] as const) {
    for (const durable of [true, false]) {
      const contents = durable ? 'its synced files, then ' : '';
      test(`${type}, durable=${durable}: ${contents}its name, then its row`, async () => {
        using place = scratch();
        const root = join(place.path, 'root');
        const calls = await recorded(place.path, type, durable);
        const ids = idsIn(root);
        const log = `<${join(root, 'metadata.db-wal')}>`;
        for (const chainId of chain) {
          const id = ids.get(chainId);
          assert.ok(id, chainId);
          const placed = calls.find(
            ({ name, text }) => name.startsWith('rename') && /\/new-\w+"/.test(text) && text.includes(`/${id}"`),
          );
          assert.ok(placed, 'it got its place');
          const [, staged = ''] = /\/(new-\w+)"/.exec(placed.text) ?? [];
          const inIt = new RegExp(`/snapshots/(${staged}|${id})/(fs|work)\\b`);
          const writes = calls.filter(({ name, text }) => !SYNCS.includes(name) && inIt.test(target(name, text)));
          // in its row the key stands before the kind
          const isRecord = ({ name, text }: Call) =>
            name === 'pwrite64' && text.includes(log) && text.includes(`${chainId}committed`);
          const record = calls.find(isRecord);
          assert.ok(record, 'its record is written to the log');
          const before = (end: number) => calls.filter(({ to }) => to < end);

          const name = lastOf(
            before(record.from).filter(({ name, text }) => name === 'fsync' && text.includes(`<${root}/snapshots>`)),
            'the names of the snapshots are synced before the record is written',
          );
          assert.ok(name.from > placed.to, 'the sync of the names began once it had its own');

          for (const part of ['/committed.json', '']) {
            const inRecord: RegExp = new RegExp(`<${root}/snapshots/${id}${part}(\\.next)?>`);
            const written: Call | undefined = calls.find(
              ({ name, text }) => name === 'write' && part !== '' && inRecord.test(text),
            );
            const synced = lastOf(
              before(record.from).filter(({ name, text }) => name === 'fsync' && inRecord.test(text)),
              'the record beside its files is synced before its row is written',
            );
            if (written !== undefined) assert.ok(synced.from > written.to, 'its sync began once it was written');
          }

          const syncs = before(name.from).filter(({ name, text }) => name === 'syncfs' && text.includes(root));
          if (durable) {
            const sync = lastOf(syncs, 'the file system is synced before the names are');
            const until = writes.filter(({ from }) => from < record.from);
            assert.ok(until.length >= 3, `its files are seen being written: ${until.length} calls`);
            const late = until.filter(({ to }) => to > sync.from);
            assert.deepEqual(late, [], 'nothing is written to it once that sync has begun');
          } else {
            assert.deepEqual(syncs, [], 'nobody waits for its files');
          }

          const kept = calls.find(
            ({ name, text, from }) => /^f(data)?sync$/.test(name) && text.includes(log) && from > record.to,
          );
          assert.ok(kept, 'the log is synced after the record was written');
          const reported = calls.find(({ name, text }) => name === 'write' && text.includes(`reported ${chainId}`));
          assert.ok(reported, 'it is reported');
          assert.ok(reported.from > kept.to, 'it is reported once its record is on the disk');
          const after = writes.filter(({ from, text }) => from > record.from && text.includes('/fs'));
          assert.deepEqual(after, [], 'nothing is written to it any more');
        }
      });
    }
  }
});
