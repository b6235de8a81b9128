import { gzipSync, zstdCompressSync } from 'node:zlib';
import { decompress } from '../../src/archive/compression.ts';
import { flipped } from './mutations.ts';
import { type Outcome, refusal, sameOutcome, show } from './outcome.ts';
import type { Random } from './random.ts';
import { LIMITS } from './read.ts';

/** Bytes of a blob, damaged or not, and what they are compressed with. */
export interface Blob {
  readonly bytes: Buffer;
  readonly compression: 'gzip' | 'zstd';
}

/** Compresses an archive in random members or frames, and damages some of what comes out. */
export function compressed(archive: Buffer, random: Random): Blob {
  const compression = random.pick(['gzip', 'zstd']);
  const parts: Buffer[] = [];
  const count = 1 + random.below(random.oneIn(4) ? 12 : 2);
  for (let i = 0; i < count; i++) {
    const part = archive.subarray((archive.length * i) / count, (archive.length * (i + 1)) / count);
    if (compression === 'gzip') parts.push(gzipSync(part, { level: random.pick([0, 1, 6]) }));
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
 * Decompresses a blob whole and in pieces.
 * @returns the archive, or the refusal
 * @throws where the two differ, or anything is no refusal
 */
export async function checkDecompressing(blob: Blob, cut: number): Promise<Buffer | Outcome> {
  const whole = await inflate(blob, Math.max(1, blob.bytes.length));
  const pieces = await inflate(blob, cut);
  const [a, b] = [whole.outcome, pieces.outcome];
  if ((a === 'ok') !== (b === 'ok') || (a !== 'ok' && b !== 'ok' && a.code !== b.code)) {
    throw new Error(`whole: ${show(a)}; in pieces of ${cut}: ${show(b)}`);
  }
  if (sameOutcome(a, 'ok') && !whole.bytes.equals(pieces.bytes)) throw new Error(`pieces of ${cut} give other bytes`);
  return a === 'ok' ? whole.bytes : a;
}

async function inflate({ bytes, compression }: Blob, cut: number): Promise<{ outcome: Outcome; bytes: Buffer }> {
  const parts: Buffer[] = [];
  let length = 0;
  try {
    for await (const piece of decompress(cutting(bytes, cut), compression)) {
      parts.push(Buffer.from(piece));
      length += piece.length;
      if (length > LIMITS.uncompressedBytes) break;
    }
  } catch (error) {
    return { outcome: refusal(error), bytes: Buffer.alloc(0) };
  }
  return { outcome: 'ok', bytes: Buffer.concat(parts) };
}

async function* cutting(bytes: Buffer, cut: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += cut) yield bytes.subarray(at, at + cut);
}
