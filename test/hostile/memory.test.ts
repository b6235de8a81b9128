import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { runChild } from '../support/child.ts';
import '../support/needs-root.ts';
import { TarReader } from '../../src/archive/tar-reader.ts';
import { LayerWriter } from '../../src/diff/layer-writer.ts';
import { UnpackError } from '../../src/errors.ts';
import { LIMITS } from '../support/apply.ts';
import { Sandbox } from '../support/sandbox.ts';
import { directory, file, type Member, tar } from '../support/tar.ts';

/** Peak memory, in bytes, of a process that applies an archive of appetite.ts. */
function peak(name: string, count: number): number {
  using box = new Sandbox();
  const script = new URL('appetite.ts', import.meta.url).pathname;
  const child = runChild(process.execPath, [script, name, box.roots[0], String(count)]);
  assert.equal(child.status, 0, child.stderr);
  // the script prints this type
  const { outcome, peak } = JSON.parse(child.stdout) as { outcome: string; peak: number };
  assert.equal(outcome, 'ok');
  return peak;
}

const MIB = 1 << 20;

describe('memory', () => {
  const nothing = peak('nothing', 0);

  it('does not grow with the uncompressed size of a small blob', () => {
    for (const name of ['a gzip bomb', 'a zstd bomb']) {
      const more = peak(name, 500) - nothing;
      assert.ok(more < 150 * MIB, `${name}: ${more / MIB} MiB`);
    }
  });

  it('does not grow with the number of members and frames', () => {
    for (const name of ['gzip members without end', 'zstd frames without end']) {
      const more = peak(name, 20_000) - nothing;
      assert.ok(more < 60 * MIB, `${name}: ${more / MIB} MiB`);
    }
  });

  it('does not grow with the size in an entry’s header', () => {
    assert.ok(peak('a sparse file of 20 GB', 0) - nothing < 40 * MIB);
  });

  it('grows little per directory', () => {
    const more = peak('directories', 20_000) - nothing;
    assert.ok(more < 100 * MIB, `${more / MIB} MiB`);
  });
});

describe('memory that is kept until the last entry', () => {
  const path = (i: number): string => `${'n'.repeat(200)}${i}`;
  const kinds: Record<string, (i: number) => Member> = {
    'times of directories': (i) => directory('x', { pax: [['path', path(i)]] }),
    'implied directories': (i) => file('x', '', { pax: [['path', `${path(i)}/f`]] }),
    deletions: (i) => file('x', '', { pax: [['path', `.wh.${path(i)}`]] }),
    'entries in a full copy': (i) => file('x', '', { pax: [['path', `${path(i)}`]] }),
  };

  for (const [name, make] of Object.entries(kinds)) {
    it(`has a limit: ${name}`, () => {
      using box = new Sandbox();
      using writer = new LayerWriter(
        {
          root: box.roots[0],
          lowers: [],
          below: 'parent',
          opaqueXattr: 'trusted.overlay.opaque',
          ownership: 'keep',
          collectedBy: 'unpackd',
          copied: false,
        },
        { memoryBytes: 100_000 },
      );
      const reader = new TarReader(writer, LIMITS);
      assert.throws(
        () => reader.write(tar(...Array.from({ length: 600 }, (_, i) => make(i)))),
        (error) =>
          error instanceof UnpackError &&
          error.code === 'LIMIT_EXCEEDED' &&
          /bytes of memory.*UNPACK_MAX_LAYER_MEMORY/.test(error.message),
      );
    });
  }

  it('is not used by files in an overlay, in any number', () => {
    using box = new Sandbox();
    using writer = new LayerWriter(
      {
        root: box.roots[0],
        lowers: [],
        below: 'later',
        opaqueXattr: 'trusted.overlay.opaque',
        ownership: 'keep',
        collectedBy: 'unpackd',
        copied: false,
      },
      { memoryBytes: 1000 },
    );
    const reader = new TarReader(writer, LIMITS);
    reader.write(tar(...Array.from({ length: 600 }, (_, i) => file(`f${i}`))));
  });
});
