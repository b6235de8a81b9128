import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { constants, crc32, deflateRawSync, gzipSync, zstdCompressSync } from 'node:zlib';
import '../support/needs-root.ts';
import { decompress } from '../../src/archive/compression.ts';
import { TarReader } from '../../src/archive/tar-reader.ts';
import { UnpackError } from '../../src/errors.ts';
import type { Compression } from '../../src/oci/media-type.ts';
import { applyTar, LIMITS } from '../support/apply.ts';
import { lent, readAll } from '../support/lent.ts';
import { Sandbox } from '../support/sandbox.ts';
import { directory, file, member, opaque, symlink, tar, whiteout } from '../support/tar.ts';
import { paths } from '../support/tree.ts';

/** Blobs are decompressed with Node's streams, and with native code. */
const WAYS = [false, true];

async function inflate(bytes: Buffer, native: boolean, cut = bytes.length): Promise<Buffer> {
  return readAll(decompress(lent(bytes, cut), { native }));
}

/** Asserts that a blob gives this archive in every way and in pieces of any size. */
async function gives(archive: Buffer, blob: Buffer, cuts = [1, 7, 1000]): Promise<void> {
  for (const native of WAYS) {
    for (const cut of [blob.length, ...cuts]) {
      const result = await inflate(blob, native, cut);
      assert.ok(result.equals(archive), `native ${native}, in pieces of ${cut}: ${result.length} bytes`);
    }
  }
}

/** The result of reading a blob to its end, or the refusal. Other errors are thrown. */
async function refusal(bytes: Buffer, native: boolean): Promise<UnpackError | Buffer> {
  try {
    const archive = await inflate(bytes, native);
    const reader = new TarReader({ entry() {}, data() {}, end() {} }, LIMITS);
    reader.write(archive);
    reader.finish();
    return archive;
  } catch (error) {
    assert.ok(error instanceof UnpackError, String(error));
    assert.ok(
      ['LAYER_CORRUPT', 'LAYER_UNSAFE', 'LIMIT_EXCEEDED', 'UNSUPPORTED_MEDIA_TYPE'].includes(error.code),
      error.code,
    );
    return error;
  }
}

const contents = ['first', 'x'.repeat(70_000), '', 'last'];

describe('eStargz layers', () => {
  /** A gzip member with an extra field and no content: where the table of contents is (eStargz, "Footer"). */
  function footer(offset: number): Buffer {
    const subfield = Buffer.from(`SG\x16\x00${offset.toString(16).padStart(16, '0')}STARGZ`, 'latin1');
    const header = Buffer.from([0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, subfield.length, 0]);
    return Buffer.concat([header, subfield, Buffer.from([1, 0, 0, 0xff, 0xff]), Buffer.alloc(8)]);
  }

  it('are read completely: a member for each chunk of a file, one for the table of contents, and a footer', async () => {
    const entries = contents.map((content, i) => file(`f${i}`, content));
    const toc = member(file('stargz.index.json', JSON.stringify({ version: 1, entries: [] })));
    const plain: Buffer[] = [];
    const members: Buffer[] = [];
    for (const entry of entries) {
      const bytes = member(entry);
      // the header first, then the content in chunks, the last with its padding
      for (let at = 0; at < bytes.length; at += at === 0 ? 512 : 4096) {
        const chunk = bytes.subarray(at, at === 0 ? 512 : at + 4096);
        plain.push(chunk);
        members.push(gzipSync(chunk, { level: 9 }));
      }
    }
    const offset = members.reduce((sum, bytes) => sum + bytes.length, 0);
    const tail = Buffer.concat([toc, Buffer.alloc(1024)]);
    const blob = Buffer.concat([...members, gzipSync(tail), footer(offset)]);
    assert.equal(footer(offset).length, 51);
    const archive = Buffer.concat([...plain, tail]);
    await gives(archive, blob, [1, 51, 511, 4096]);
    using box = new Sandbox();
    applyTar(archive, { root: box.roots[0] });
    assert.deepEqual(paths(box.roots[0]), ['f0', 'f1', 'f2', 'f3', 'stargz.index.json']);
  });
});

describe('gzip blobs', () => {
  const archive = tar(...contents.map((content, i) => file(`f${i}`, content)));

  it('of thousands of members are read completely', async () => {
    const parts = Array.from({ length: Math.ceil(archive.length / 40) }, (_, i) =>
      gzipSync(archive.subarray(i * 40, i * 40 + 40)),
    );
    await gives(archive, Buffer.concat(parts), [1000, 65_536]);
  });

  it('with empty members anywhere are read completely', async () => {
    const [a, b] = [archive.subarray(0, 999), archive.subarray(999)];
    const empty = gzipSync('');
    await gives(archive, Buffer.concat([empty, gzipSync(a), empty, empty, gzipSync(b), empty]));
  });

  it('with all optional fields of a header are read completely', async () => {
    const header = Buffer.from([0x1f, 0x8b, 8, 0x1e, 1, 2, 3, 4, 2, 3, 5, 0]);
    const fields = Buffer.from('extraname\0comment\0', 'latin1');
    const start = Buffer.concat([header, fields]);
    const check = Buffer.alloc(2);
    check.writeUInt16LE(crc32(start) & 0xffff);
    const trailer = Buffer.alloc(8);
    trailer.writeUInt32LE(crc32(archive), 0);
    trailer.writeUInt32LE(archive.length, 4);
    const one = Buffer.concat([start, check, deflateRawSync(archive), trailer]);
    await gives(archive, one);
    await gives(Buffer.concat([archive, archive, archive]), Buffer.concat([one, one, one]), [1, 11, 29, 100]);
  });

  it('with unknown flags in the header of any member are refused', async () => {
    const odd = gzipSync(archive);
    odd[3] = 0x40;
    for (const native of WAYS) {
      for (const blob of [odd, Buffer.concat([gzipSync(archive), odd])]) {
        await assert.rejects(inflate(blob, native, 1000), /unknown header flags/);
      }
    }
  });

  it('may be padded with zeros only', async () => {
    await gives(archive, Buffer.concat([gzipSync(archive), Buffer.alloc(5000)]), [100, 4096]);
    for (const rest of ['x', '\0\0x', '\x1f', '\x1f\x8b', '\x1f\x8b\x08\0\0\0\0\0\0\0']) {
      for (const native of WAYS) {
        const result = await refusal(Buffer.concat([gzipSync(archive), Buffer.from(rest, 'latin1')]), native);
        assert.ok(result instanceof UnpackError, `${JSON.stringify(rest)}, native ${native}`);
        assert.equal(result.code, 'LAYER_CORRUPT');
      }
    }
  });
});

describe('zstd blobs', () => {
  const archive = tar(...contents.map((content, i) => file(`f${i}`, content)));
  const skippable = (content: string | Buffer, magic = 0): Buffer => {
    const header = Buffer.alloc(8);
    header.writeUInt32LE(0x184d2a50 + magic, 0);
    header.writeUInt32LE(content.length, 4);
    return Buffer.concat([header, Buffer.from(content)]);
  };

  it('of thousands of frames, with all kinds of skippable frames between them, are read completely', async () => {
    const parts: Buffer[] = [];
    for (let at = 0, i = 0; at < archive.length; at += 40, i++) {
      if (i % 3 === 0) parts.push(skippable('s'.repeat(i % 50), i % 16));
      parts.push(zstdCompressSync(archive.subarray(at, at + 40)));
    }
    await gives(archive, Buffer.concat(parts), [13, 1000, 65_536]);
  });

  it('of zstd:chunked, with the table of contents and the footer in skippable frames, are read completely', async () => {
    const frames = contents.map((content, i) => zstdCompressSync(member(file(`f${i}`, content))));
    const toc = skippable(
      zstdCompressSync(JSON.stringify({ version: 1, entries: contents.map((_, i) => ({ name: `f${i}` })) })),
    );
    const footer = Buffer.alloc(64);
    footer.writeBigUInt64LE(BigInt(frames.reduce((sum, { length }) => sum + length, 0)));
    footer.write('GNUlInUx', 56, 'latin1');
    const end = zstdCompressSync(Buffer.alloc(1024));
    await gives(archive, Buffer.concat([...frames, end, toc, skippable(footer)]));
  });

  it('of skippable frames only are an empty layer', async () => {
    await gives(Buffer.alloc(0), skippable('nothing'));
  });

  it('with other bytes after the last frame are refused', async () => {
    for (const rest of ['x', '\0\0\0\0', '\x28\xb5\x2f', '\x50\x2a\x4d\x18', '\x50\x2a\x4d\x18\xff\xff\xff\xff']) {
      for (const native of WAYS) {
        const result = await refusal(Buffer.concat([zstdCompressSync(archive), Buffer.from(rest, 'latin1')]), native);
        assert.ok(result instanceof UnpackError, `${JSON.stringify(rest)}, native ${native}`);
        assert.equal(result.code, 'LAYER_CORRUPT');
      }
    }
  });
});

describe('layers with little or no content', () => {
  it('are applied: no bytes, only end blocks, only whiteouts, no end block, one end block, bytes after the end', () => {
    const one = file('f', 'x');
    const cases: [Buffer, string[]][] = [
      [Buffer.alloc(0), []],
      [tar(), []],
      [Buffer.alloc(512), []],
      [Buffer.alloc(100_000), []],
      [tar(whiteout('a'), whiteout('d/b'), opaque('e')), ['a', 'd', 'd/b', 'e']],
      [member(one), ['f']],
      [member(one).subarray(0, 513), ['f']], // cut in the padding: Go takes it
      [Buffer.concat([member(one), Buffer.alloc(512)]), ['f']],
      [Buffer.concat([tar(one), Buffer.from('trailing bytes'), member(file('never'))]), ['f']],
    ];
    for (const [archive, expected] of cases) {
      using box = new Sandbox();
      applyTar(archive, { root: box.roots[0], below: 'later' });
      assert.deepEqual(paths(box.roots[0]), expected);
    }
  });
});

describe('a small blob', () => {
  const archive = tar(
    directory('d', { mode: 0o700 }),
    file('d/f', 'content', { pax: [['mtime', '1700000000.5']] }),
    symlink('d/l', 'f'),
    whiteout('d/w'),
  );
  const blobs: Record<Compression, Buffer> = {
    gzip: gzipSync(archive),
    zstd: zstdCompressSync(archive, { params: { [constants.ZSTD_c_checksumFlag]: 1 } }),
    none: archive,
  };

  for (const [name, blob] of Object.entries(blobs)) {
    const compression = name as Compression; // a key of the record above
    const what = name === 'none' ? 'a plain tar' : name;
    it(`of ${what} is refused if it is truncated${name === 'none' ? ', except between entries' : ''}`, async () => {
      for (let end = 1; end < blob.length; end++) {
        for (const native of compression === 'none' ? [false] : WAYS) {
          const result = await refusal(blob.subarray(0, end), native);
          if (result instanceof UnpackError) continue;
          // a plain tar may end after any entry: there its size and digest tell
          assert.equal(compression, 'none', `cut at ${end}`);
        }
      }
    });

    it(`of ${what} is refused, or ${name === 'none' ? 'has another digest' : 'gives the original content'}, if any bit is flipped`, async () => {
      for (let at = 0; at < blob.length; at++) {
        const bytes = Buffer.from(blob);
        bytes[at] = (bytes[at] ?? 0) ^ (1 << (at % 8));
        for (const native of compression === 'none' ? [false] : WAYS) {
          const result = await refusal(bytes, native);
          if (result instanceof UnpackError || compression === 'none') continue;
          assert.ok(result.equals(archive), `a flip in byte ${at} gives another archive, native ${native}`);
        }
      }
    });
  }
});
