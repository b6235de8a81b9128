import { createGzip, createZstdCompress, gzipSync, zstdCompressSync } from 'node:zlib';
import { decompress } from '../../src/archive/compression.ts';
import { TarReader } from '../../src/archive/tar-reader.ts';
import { LayerWriter } from '../../src/diff/layer-writer.ts';
import { toUnpackError } from '../../src/errors.ts';
import { headerBlock, member, paxHeader } from '../support/tar.ts';

/**
 * Applies an archive that is generated while it is read, and prints the peak memory of the process: `appetite.ts CASE ROOT
 * COUNT`, started by memory.test.ts. No archive is whole in memory, so the peak is that of the applier.
 */
type Source = Iterable<Buffer> | AsyncIterable<Buffer>;

const END = Buffer.alloc(1024);
const ZEROS = Buffer.alloc(1 << 20);

/** Pieces of about a megabyte, as from a decompressor. */
function* pieces(count: number, make: (i: number) => Buffer): Generator<Buffer> {
  let parts: Buffer[] = [];
  let length = 0;
  for (let i = 0; i < count; i++) {
    const part = make(i);
    parts.push(part);
    length += part.length;
    if (length < 1 << 20) continue;
    yield Buffer.concat(parts);
    parts = [];
    length = 0;
  }
  yield Buffer.concat([...parts, END]);
}

function* zeros(header: Buffer, megabytes: number): Generator<Buffer> {
  yield header;
  for (let i = 0; i < megabytes; i++) yield ZEROS;
}

const long = (i: number): string => `${i}${'n'.repeat(240)}`;
/** Directories with paths of the maximum length. The paths lead through symbolic links, so the tree is flat. */
const longPath = (i: number): Buffer => {
  const way = Array.from({ length: 15 }, () => 'l'.repeat(250)).join('/');
  return member({ name: 'x', type: '5', mode: 0o755, pax: [['path', `${way}/${i}`]] });
};

const CASES: Readonly<Record<string, (count: number) => Source>> = {
  nothing: () => [END],
  files: (count) => pieces(count, (i) => headerBlock({ name: `f${i % 1000}/${i}` })),
  'the same file': (count) => pieces(count, () => headerBlock({ name: 'f' })),
  directories: (count) => pieces(count, (i) => headerBlock({ name: `d${i % 1000}/${i}`, type: '5', mode: 0o755 })),
  'directories with long paths': (count) => {
    const name = 'l'.repeat(250);
    const link = member({ name: 'x', type: '2', linkName: '.', pax: [['path', name]] });
    return pieces(count, (i) => (i === 0 ? link : longPath(i)));
  },
  'implied directories': (count) => pieces(count, (i) => headerBlock({ name: `d${i}/.wh.x` })),
  deletions: (count) => pieces(count, (i) => member({ name: 'x', pax: [['path', `.wh.${long(i)}`]] })),
  'late deletions': (count) =>
    pieces(count, (i) => {
      const name = long(i >> 1).slice(0, 95);
      return headerBlock({ name: i % 2 === 0 ? name : `.wh.${name}` });
    }),
  warnings: (count) =>
    pieces(count, (i) => member({ name: 'p', type: '6', pax: [[`SCHILY.xattr.trusted.${long(i)}`, 'x']] })),
  'a PAX header of 100,000 records': (count) =>
    pieces(count, (i) =>
      Buffer.concat([
        paxHeader(Array.from({ length: 60_000 }, (_, k) => [`k${i}.${k}`, 'v'] as const)),
        headerBlock({ name: 'f' }),
      ]),
    ),
  'a gigabyte’s header': () => zeros(headerBlock({ name: 'f', size: 9 * 2 ** 30 }), 1024),
  'a sparse file of 20 GB': () => [
    member({
      name: 'f',
      content: Buffer.alloc(2, 'x'),
      pax: [
        ['GNU.sparse.size', String(20 * 2 ** 30)],
        ['GNU.sparse.numblocks', '2'],
        ['GNU.sparse.map', `0,1,${20 * 2 ** 30 - 1},1`],
      ],
    }),
    END,
  ],
  'a gzip bomb': (count) => bomb(createGzip({ level: 9 }), count),
  'a zstd bomb': (count) => bomb(createZstdCompress(), count),
  'gzip members without end': (count) => repeated(gzipSync(''), count),
  'zstd frames without end': (count) => repeated(zstdCompressSync(''), count),
};

/** A file of zeros in one stream. */
function bomb(stream: NodeJS.ReadWriteStream & AsyncIterable<Buffer>, megabytes: number): Source {
  stream.write(headerBlock({ name: 'f', size: megabytes << 20 }));
  let left = megabytes;
  const more = (): void => {
    while (left > 0) {
      left--;
      if (!stream.write(ZEROS)) {
        stream.once('drain', more);
        return;
      }
    }
    stream.end();
  };
  more();
  return decompress(stream);
}

function repeated(part: Buffer, count: number): Source {
  const piece = Buffer.concat(Array.from({ length: 1000 }, () => part));
  return decompress(
    (async function* () {
      for (let i = 0; i < count; i += 1000) yield piece;
    })(),
  );
}

const [name, root, count] = process.argv.slice(2);
const source = CASES[name ?? '']?.(Number(count));
if (source === undefined || root === undefined) throw new Error(`one of: ${Object.keys(CASES).join(', ')}`);

const limits = { entries: 10_000_000, entryMetadataBytes: 1 << 20, uncompressedBytes: 2 ** 36 };
using writer = new LayerWriter({
  root,
  lowers: [],
  below: name === 'deletions' || name === 'implied directories' ? 'parent' : 'later',
  opaqueXattr: 'trusted.overlay.opaque',
  ownership: 'keep',
  collectedBy: 'unpackd',
  copied: false,
});
const reader = new TarReader(writer, limits);
let outcome = 'ok';
try {
  for await (const piece of source) reader.write(piece);
  reader.finish();
  writer.finish();
  writer.copyParentAttributes();
} catch (error) {
  outcome = toUnpackError(error).message.slice(0, 200);
}
process.stdout.write(
  `${JSON.stringify({ outcome, entries: reader.entries, peak: process.resourceUsage().maxRSS * 1024 })}\n`,
);
