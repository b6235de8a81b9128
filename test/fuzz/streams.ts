import { gzipSync, zstdCompressSync } from 'node:zlib';
import { decompress } from '../../src/archive/compression.ts';
import { memberWithFields } from '../support/gzip.ts';
import { lent } from '../support/lent.ts';
import { inTurn } from '../support/stream.ts';
import { flipped } from './mutations.ts';
import { type Outcome, refusal, show } from './outcome.ts';
import type { Random } from './random.ts';
import { LIMITS } from './read.ts';

/** A blob, perhaps damaged, and its compression. */
export interface Blob {
  readonly bytes: Buffer;
  readonly compression: 'gzip' | 'zstd';
}

/** Compresses an archive into random members or frames, and damages some of the blobs. */
export function compressed(archive: Buffer, random: Random): Blob {
  const compression = random.pick(['gzip', 'zstd']);
  const parts: Buffer[] = [];
  const count = 1 + random.below(random.oneIn(4) ? 12 : 2);
  for (let i = 0; i < count; i++) {
    const part = archive.subarray((archive.length * i) / count, (archive.length * (i + 1)) / count);
    if (compression === 'gzip')
      parts.push(
        random.oneIn(5) ? memberWithFields(part, random.below(32)) : gzipSync(part, { level: random.pick([0, 1, 6]) }),
      );
    else parts.push(zstdCompressSync(part));
    if (compression === 'zstd' && random.oneIn(4)) parts.push(skippable(random));
  }
  if (random.oneIn(6)) parts.splice(random.below(parts.length), 1);
  if (random.oneIn(10)) parts.push(random.oneIn(2) ? Buffer.alloc(random.below(40)) : random.bytes(random.below(9)));
  let bytes: Buffer = Buffer.concat(parts);
  if (random.oneIn(3)) bytes = flipped(bytes, random);
  if (random.oneIn(5)) bytes = bytes.subarray(0, random.below(bytes.length + 1));
  return { bytes, compression };
}

function skippable(random: Random): Buffer {
  const header = Buffer.alloc(8);
  const length = random.below(30);
  header.writeUInt32LE(0x184d2a50 + random.below(16), 0);
  header.writeUInt32LE(random.oneIn(12) ? 0xfffffff0 : length, 4);
  return Buffer.concat([header, random.bytes(length)]);
}

/**
 * Decompresses a blob with Node's streams, and with native decompressors in one piece and in several.
 * @returns the archive, or the refusal
 * @throws if the results differ, or for an error that is no refusal
 */
export async function checkDecompressing(blob: Blob, cut: number): Promise<Buffer | Outcome> {
  const node = await inflate(blob, cut, false);
  for (const size of [Math.max(1, blob.bytes.length), cut]) {
    const native = await inflate(blob, size, true);
    if (codeOf(node.outcome) !== codeOf(native.outcome)) {
      throw new Error(`with Node: ${show(node.outcome)}; natively, in pieces of ${size}: ${show(native.outcome)}`);
    }
    if (node.outcome === 'ok' && !node.bytes.equals(native.bytes))
      throw new Error(`pieces of ${size} give other bytes`);
  }
  return node.outcome === 'ok' ? node.bytes : node.outcome;
}

const codeOf = (outcome: Outcome): string => (outcome === 'ok' ? outcome : outcome.code);

async function inflate({ bytes }: Blob, cut: number, native: boolean): Promise<{ outcome: Outcome; bytes: Buffer }> {
  const parts: Buffer[] = [];
  let length = 0;
  try {
    for await (const piece of decompress(lent(bytes, cut), { native, busy: inTurn() })) {
      parts.push(Buffer.from(piece));
      length += piece.length;
      if (length > LIMITS.uncompressedBytes) break;
    }
  } catch (error) {
    return { outcome: refusal(error), bytes: Buffer.alloc(0) };
  }
  return { outcome: 'ok', bytes: Buffer.concat(parts) };
}
